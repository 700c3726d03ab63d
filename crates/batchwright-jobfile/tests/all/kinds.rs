//! Every kind of the registry keeps the promises of readers and writers, by the example that it gives of itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use batchwright::error::ErrorKind;
use batchwright::item::ItemReader;
use batchwright::scope::StepScope;
use batchwright::testing::fault::FaultPlan;
use batchwright::{BatchStatus, ItemError, JobOperator, JobParameters, MemoryRepository};
use batchwright_items::{
    BuildContext, Example, ItemKind, Keys, KindRegistry, KindSchema, MakeReader, Names, Problem,
    Reads, Record, Value,
};
use batchwright_jobfile::JobFolder;
use batchwright_store::SqlRepository;

/// The items that writers write.
const ITEMS: &str =
    r#"[{ id = 1, name = "Ada" }, { id = 2, name = "Grace" }, { id = 3, name = "Edsger" }]"#;
/// More items than any example has.
const ITEMS_MAX: u64 = 5;

/// What a run left: the files of the folder, and the rows of the table `copy`.
type Outputs = BTreeMap<String, String>;

/// Kinds with an example, with the parts that the example shows.
fn examples() -> Vec<(&'static str, Example)> {
    let folder = JobFolder::default();
    let kinds: &KindRegistry = folder.known_kinds();
    let kinds = kinds.kinds().filter(|kind| {
        let schema = kind.schema();
        // Those that are no text or need a server have their promises in tests of their own.
        let is_text =
            !["amqp", "arrow", "avro", "excel", "http", "kafka", "nats", "parquet", "redis"]
                .contains(&kind.name());
        is_text && (schema.of("reader").is_some() || schema.of("writer").is_some())
    });
    kinds
        .map(|kind| {
            let (name, schema) = (kind.name(), kind.schema());
            let example = schema.shown_example().unwrap_or_default();
            assert_eq!(schema.of("reader").is_some(), !example.reader.is_empty(), "{name}: reader");
            let has_keys = name != "none";
            assert_eq!(
                schema.of("writer").is_some() && has_keys,
                !example.writer.is_empty(),
                "{name}: writer"
            );
            (name, example)
        })
        .collect()
}

fn job(example: &Example, reader: &str, writer: &str) -> String {
    let mut text = "name = \"example\"\n".to_owned();
    if !example.sql.is_empty() {
        let _ = write!(
            text,
            "[[steps]]\nname = \"tables\"\ntype = \"sql\"\nsql = \"{}\"\n",
            example.sql
        );
    }
    let _ = write!(
        text,
        "[[steps]]\nname = \"copy\"\nchunk = 1\n[steps.reader]\n{reader}\n[steps.writer]\n{writer}\n\
         [steps.skip]\nlimit = 100\ndead_letter = \"rejected.jsonl\"\n"
    );
    text
}

/// Runs the job of `text` with `plan`, restarts it without one until it completes, and returns what it left.
fn outputs(example: &Example, text: &str, plan: Option<FaultPlan>) -> Outputs {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
    write("job.toml", text);
    if let Some((name, content)) = example.input {
        write(name, content);
    }
    let open = |plan: Option<FaultPlan>| {
        let repository = SqlRepository::sqlite(folder.path().join("store.db")).unwrap();
        let mut jobs = JobFolder::new(folder.path()).database(repository.database().clone());
        if let Some(plan) = plan {
            jobs = jobs.faults(plan);
        }
        JobOperator::builder(Arc::new(repository)).jobs(jobs).build()
    };
    let operator = open(plan);
    let first = operator.start("example", JobParameters::new()).unwrap().wait().unwrap();
    let mut ended = first;
    for _ in 0..3 {
        if ended.status == BatchStatus::Completed {
            break;
        }
        ended = open(None).restart(ended.id).unwrap().wait().unwrap();
    }
    assert_eq!(ended.status, BatchStatus::Completed, "{text}\n{:?}", ended.failure);
    left_in(folder.path())
}

fn left_in(folder: &Path) -> Outputs {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_none_or(|ending| ending != "toml"));
    let mut left: Outputs = files
        .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with("store.db"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap();
            // Which execution gave a record up differs, and nothing else may.
            let text = match name.as_str() {
                "rejected.jsonl" => without_execution(&text),
                _ => text,
            };
            (name, text)
        })
        .collect();
    let database = rusqlite::Connection::open(folder.join("store.db")).unwrap();
    if let Ok(mut rows) = database.prepare("SELECT id, name FROM copy ORDER BY id") {
        let row = |row: &rusqlite::Row<'_>| {
            Ok(format!("{}:{}", row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        };
        let rows: Vec<String> = rows.query_map([], row).unwrap().map(Result::unwrap).collect();
        left.insert("table copy".to_owned(), rows.join(" "));
    }
    left
}

fn without_execution(text: &str) -> String {
    let letters = text.lines().map(|line| {
        let mut letter: serde_json::Value = serde_json::from_str(line).unwrap();
        letter.as_object_mut().unwrap().remove("execution");
        letter.to_string()
    });
    letters.collect::<Vec<_>>().join("\n")
}

fn plan(json: &str) -> FaultPlan {
    serde_json::from_str(json).unwrap()
}

/// The job's outputs are the same whichever item it fails at, and fewer by one record whichever record cannot be read.
fn is_exact(name: &str, example: &Example, text: &str) {
    let expected = outputs(example, text, None);
    for item in 1..=ITEMS_MAX {
        for phase in ["fatal_process", "fatal_write"] {
            let plan = plan(&format!(r#"{{"step":"copy","{phase}":[{item}]}}"#));
            assert_eq!(outputs(example, text, Some(plan)), expected, "{name}: {phase} {item}");
        }
        // A record that cannot be read is skipped; the restart begins after it.
        let skipped = plan(&format!(r#"{{"step":"copy","read":[{item}]}}"#));
        let once = outputs(example, text, Some(skipped));
        for later in item + 1..=ITEMS_MAX {
            let both =
                plan(&format!(r#"{{"step":"copy","read":[{item}],"fatal_write":[{later}]}}"#));
            assert_eq!(
                outputs(example, text, Some(both)),
                once,
                "{name}: {item} skipped, {later} failed"
            );
        }
    }
}

#[test]
fn every_reader_resumes_at_every_position_and_after_every_fault() {
    for (name, example) in examples().iter().filter(|(_, example)| !example.reader.is_empty()) {
        let reader = format!("type = \"{name}\"\n{}", example.reader);
        is_exact(
            name,
            example,
            &job(example, &reader, "type = \"jsonl\"\npath = \"copied.jsonl\""),
        );
    }
}

#[test]
fn every_writer_is_exact_wherever_it_is_interrupted() {
    for (name, example) in examples() {
        let writer = format!("type = \"{name}\"\n{}", example.writer);
        if name == "none" || example.writer.is_empty() {
            continue;
        }
        let reader = format!("type = \"list\"\nitems = {ITEMS}");
        is_exact(name, &example, &job(&example, &reader, &writer));
    }
}

#[test]
fn what_a_writer_wrote_is_in_its_output() {
    for (name, example) in examples() {
        let Some(output) = example.output else { continue };
        let writer = format!("type = \"{name}\"\n{}", example.writer);
        let reader = format!("type = \"list\"\nitems = {ITEMS}");
        let left = outputs(&example, &job(&example, &reader, &writer), None);
        for word in ["Ada", "Grace", "Edsger"] {
            assert!(left[output].contains(word), "{name}: {}", left[output]);
        }
    }
}

#[test]
fn a_column_of_fixed_width_takes_what_fits_and_refuses_the_rest() {
    let example = Example {
        input: Some((
            "in.txt",
            "   1Ada     \n   2Grace  \nxxxxWrong   \n   4Much too long\n   5\n",
        )),
        ..Example::default()
    };
    let reader = "type = \"fixed_width\"\npath = \"in.txt\"\n\
                  columns = [{ name = \"id\", width = 4, type = \"integer\" }, { name = \"name\", width = 8 }]";
    let writer = "type = \"fixed_width\"\npath = \"out.txt\"\n\
                  columns = [{ name = \"name\", width = 4 }, { name = \"id\", width = 3, align = \"right\" }]";
    let left = outputs(&example, &job(&example, reader, writer), None);
    assert_eq!(left["out.txt"], "Ada   1\n      5\n");
    let letters = &left["rejected.jsonl"];
    for part in [
        "`xxxx` is not an integer",
        "line 3",
        "more than the 12 characters",
        "line 4",
        "`Grace` does not fit",
    ] {
        assert!(letters.contains(part), "{part}: {letters}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_keys_of_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    for (name, _) in examples() {
        for part in ["reader", "writer"] {
            let kinds = JobFolder::default();
            if kinds.known_kinds().find(part, name).is_err() {
                continue;
            }
            let other = match part {
                "reader" => "writer = { type = \"none\" }",
                _ => "reader = { type = \"sequence\", count = 1 }",
            };
            let text = format!(
                "name = \"unknown\"\n[[steps]]\nname = \"only\"\n{other}\n[steps.{part}]\ntype = \"{name}\"\nno_such_key = 1\n"
            );
            fs::write(folder.path().join("job.toml"), text).unwrap();
            let error =
                JobFolder::new(folder.path()).find("unknown", None).unwrap_err().to_string();
            let wanted =
                format!("there is no key `no_such_key`; a {part} of type `{name}` has: type");
            assert!(error.contains("line 7") && error.contains(&wanted), "{name}: {error}");
        }
    }
}

/// Numbers from 1 to 5; the first two reads of each number fail, and a failed read does not advance.
#[derive(Default)]
struct Flaky {
    next: u64,
    failures: u64,
}

impl ItemReader for Flaky {
    type Item = Record;
    type Position = u64;

    fn open(&mut self, position: Option<u64>, _: &StepScope) -> Result<(), ItemError> {
        self.next = position.unwrap_or(1);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        if self.next > 5 {
            return Ok(None);
        }
        if self.failures < 2 {
            self.failures += 1;
            return Err(ItemError::new(ErrorKind::IO, "the line is busy"));
        }
        (self.failures, self.next) = (0, self.next + 1);
        let number = i64::try_from(self.next - 1).unwrap();
        let names: Names = Arc::new([Arc::from("n")]);
        Ok(Some(Record::single(&names, Value::Integer(number))))
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn rereads(&self) -> bool {
        true
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        (self.failures, self.next) = (0, self.next + 1);
        Ok(())
    }
}

struct FlakyKind;

impl ItemKind for FlakyKind {
    fn name(&self) -> &'static str {
        "flaky"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().reader::<NoKeys>()
    }

    fn reader(&self, keys: Keys<'_>, _: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let NoKeys {} = keys.parse()?;
        Ok(MakeReader::new(|_| Ok(Reads::records(Flaky::default()))))
    }
}

/// Has no keys.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoKeys {}

#[test]
fn a_read_of_a_job_file_is_retried_when_the_reader_reads_a_record_again() {
    let folder = tempfile::tempdir().unwrap();
    let run = |attempts: u32| {
        let text = format!(
            "name = \"calls\"\n[[steps]]\nname = \"copy\"\nreader = {{ type = \"flaky\" }}\n\
             writer = {{ type = \"jsonl\", path = \"out{attempts}.jsonl\" }}\n\
             retry = {{ max_attempts = {attempts}, on = [\"io\"] }}\n"
        );
        fs::write(folder.path().join("job.toml"), text).unwrap();
        let jobs = JobFolder::new(folder.path()).kind(FlakyKind);
        let operator = JobOperator::builder(Arc::new(MemoryRepository::new())).jobs(jobs).build();
        operator.start("calls", JobParameters::new()).unwrap().wait().unwrap()
    };
    assert_eq!(run(3).exit.code, "COMPLETED");
    let copied = fs::read_to_string(folder.path().join("out3.jsonl")).unwrap();
    assert_eq!(copied.lines().count(), 5);
    let failed = run(2);
    assert_eq!(failed.status, BatchStatus::Failed, "two attempts are too few");
    assert!(failed.failure.unwrap().message.contains("the line is busy"));
}
