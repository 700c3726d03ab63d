//! Several threads that decode, process and encode change nothing but the time: outputs, dead letters, skip records and
//! counters are those of one thread, whatever the input contains and wherever the process dies.

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use batchwright::execution::{JobExecution, StepExecution};
use batchwright::item::ItemReader;
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::testing::{CommitPoint, TestBench, conformance_of_reader};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository,
};
use batchwright_items::format::csv::{CsvFormat, CsvReader, CsvWriter};
use batchwright_items::format::json::JsonReader;
use batchwright_items::format::json_lines::{JsonLinesReader, JsonLinesWriter};
use batchwright_items::format::lines::{DecodedLines, LineInput, LineWriter};
use batchwright_items::transport::{ByteSource, MemorySource, OpenSource};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// Maximum length of a record of the tests, in bytes.
const RECORD_BYTES_MAX: u64 = 60;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: u32,
    name: String,
}

/// How the step runs.
#[derive(Debug, Clone, Copy)]
struct Shape {
    chunk: usize,
    threads: usize,
    /// The commit before or after which the process dies, once.
    crash: Option<(CommitPoint, u64)>,
}

/// What must not depend on the number of threads.
#[derive(Debug, PartialEq)]
struct Outcome {
    executions: Vec<(BatchStatus, String, String)>,
    output: Vec<u8>,
    dead_letters: Vec<u8>,
}

fn run<R>(reader: R, json: bool, limit: u64, shape: Shape) -> Outcome
where
    R: ItemReader<Item = Row> + Clone + 'static,
{
    let folder = tempfile::tempdir().unwrap();
    let (output, dead) = (folder.path().join("output"), folder.path().join("dead.jsonl"));
    let step = ChunkStepBuilder::new("copy")
        .reader(reader)
        .process(|row: &Row| match row.id % 7 {
            0 => Ok(None),
            1 => Err(ItemError::data("an id of which 1 is left")),
            2 => panic!("an id of which 2 is left"),
            _ => Ok(Some(row.clone())),
        })
        .chunk_size(shape.chunk)
        .parallelism(shape.threads)
        .skip(SkipPolicy::limit(limit).on(Classifier::none().including("data").including("panic")))
        .dead_letters(&dead);
    let job = Job::builder("job");
    let job = match json {
        true => job.step(step.writer(JsonLinesWriter::new(&output)).build()),
        false => job.step(step.writer(CsvWriter::new(&output)).build()),
    };
    let executions = executions(job.build().unwrap(), shape.crash, folder.path().to_str().unwrap());
    let read = |file: &Path| std::fs::read(file).unwrap_or_default();
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert!(files <= 4, "no file remains but the output and the dead letters");
    Outcome { executions, output: read(&output), dead_letters: read(&dead) }
}

/// Runs the job, and once more if it does not complete.
fn executions(
    job: Job,
    crash: Option<(CommitPoint, u64)>,
    folder: &str,
) -> Vec<(BatchStatus, String, String)> {
    let shown = |ended: &JobExecution, step: &StepExecution, skips: String| {
        let failure = ended.failure.as_ref().map(|failure| failure.message.replace(folder, ""));
        let counters = format!("{:?} {skips}", step.counters);
        (ended.status, counters, failure.unwrap_or_default())
    };
    let mut executions = Vec::new();
    if let Some((point, commit)) = crash {
        let mut bench = TestBench::of(job);
        bench.crash_at(point, commit);
        for execution in 0..2 {
            let ended = if execution == 0 { bench.run() } else { bench.restart() };
            let skips = bench.repository().skips(ended.id).unwrap();
            executions.push(shown(&ended, &bench.step("copy"), format!("{skips:?}")));
            if ended.status == BatchStatus::Completed {
                break;
            }
        }
        return executions;
    }
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job).unwrap();
    for _ in 0..2 {
        let ended = operator.run("job", JobParameters::new()).unwrap();
        let step = operator.queries().steps(ended.id).unwrap().pop().unwrap();
        let skips = operator.queries().skips(ended.id).unwrap();
        executions.push(shown(&ended, &step, format!("{skips:?}")));
        if ended.status == BatchStatus::Completed {
            break;
        }
    }
    executions
}

/// Lines of a CSV file, valid ones and others.
fn csv_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => (0..50u32, "[a-z]{0,6}").prop_map(|(id, name)| format!("{id},{name}\n").into_bytes()),
        3 => (0..50u32).prop_map(|id| format!("{id},\"a, \"\"b\"\"\nc\"\r\n").into_bytes()),
        1 => (0..50u32).prop_map(|id| format!("{id},ends with a return\r").into_bytes()),
        1 => Just(b"3,\xff\n".to_vec()),
        1 => Just(b"one,two\n".to_vec()),
        1 => Just(b"4\n".to_vec()),
        1 => Just(b"5,\"x\"y\n".to_vec()),
        1 => Just(b"6,\"never closed\n".to_vec()),
        1 => Just([b"8,".as_slice(), &[b'x'; 70], b"\n"].concat()),
        1 => Just(b"\n\r\n".to_vec()),
    ]
}

fn json_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => (0..50u32, "[a-z]{0,6}").prop_map(|(id, name)| {
            format!("{{\"id\":{id},\"name\":\"{name}\"}}\n").into_bytes()
        }),
        1 => Just(b"{\"id\":1}\r\n".to_vec()),
        1 => Just(b"\xff\n".to_vec()),
        1 => Just([b"{\"id\":8,\"name\":\"".as_slice(), &[b'x'; 70], b"\"}\n"].concat()),
        2 => Just(b" \n\n".to_vec()),
    ]
}

fn crash() -> impl Strategy<Value = Option<(CommitPoint, u64)>> {
    let point = prop_oneof![Just(CommitPoint::Before), Just(CommitPoint::After)];
    proptest::option::of((point, 1..6u64))
}

fn csv(bytes: Vec<u8>) -> CsvReader<Row> {
    CsvReader::new("unused")
        .from_source(Arc::new(MemorySource::new("rows.csv", bytes)))
        .record_bytes_max(RECORD_BYTES_MAX)
}

fn json(bytes: Vec<u8>) -> JsonLinesReader<Row> {
    let source = Arc::new(MemorySource::new("rows.jsonl", bytes));
    let max = usize::try_from(RECORD_BYTES_MAX).unwrap();
    JsonLinesReader::of(LineInput::of(source).line_bytes_max(max), Default::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn several_threads_change_nothing_in_a_csv_file(
        lines in proptest::collection::vec(csv_line(), 0..40),
        limit in prop_oneof![Just(1000u64), 0..4u64],
        chunk in 1..9usize,
        crash in crash(),
    ) {
        let mut bytes = b"id,name\n".to_vec();
        bytes.extend(lines.concat());
        let shape = Shape { chunk, threads: 1, crash };
        let one = run(csv(bytes.clone()), false, limit, shape);
        for threads in [2, 4] {
            prop_assert_eq!(&run(csv(bytes.clone()), false, limit, Shape { threads, ..shape }), &one);
        }
    }

    #[test]
    fn several_threads_change_nothing_in_json_lines(
        lines in proptest::collection::vec(json_line(), 0..40),
        limit in prop_oneof![Just(1000u64), 0..4u64],
        chunk in 1..9usize,
        crash in crash(),
    ) {
        let bytes = lines.concat();
        let shape = Shape { chunk, threads: 1, crash };
        let one = run(json(bytes.clone()), true, limit, shape);
        for threads in [2, 4] {
            prop_assert_eq!(&run(json(bytes.clone()), true, limit, Shape { threads, ..shape }), &one);
        }
    }
}

#[test]
fn readers_of_files_keep_their_promises_also_in_blocks() {
    let text = "id,name\n1,a\n\"2\",\"b\nc\"\r\nx,d\n\n3,e\n4\n6,\"x\"y\n5,f";
    conformance_of_reader(|| csv(text.as_bytes().to_vec()));
    let cut = text.find("\"2\"").unwrap() as u64;
    conformance_of_reader(|| csv(text.as_bytes().to_vec()).bytes(cut, text.len() as u64));
    let latin = CsvFormat::new().encoding("windows-1252").unwrap();
    let bytes = b"id,name\n1,\xe4\n2,\"\xf6,\"\n".to_vec();
    conformance_of_reader(|| csv(bytes.clone()).format(latin.clone()));
    let text = "{\"id\":1,\"name\":\"a\"}\n\n{}\n{\"id\":2,\"name\":\"b\"}";
    conformance_of_reader(|| json(text.as_bytes().to_vec()));
    let text = "[{\"id\":1,\"name\":\"a\"}, {}, {\"id\":2,\"name\":\"]\"},\n{\"id\":3}]";
    conformance_of_reader(|| JsonReader::<Row>::new("").from_source(memory(text)));
    #[cfg(feature = "xml")]
    {
        let text = "<all><row><id>1</id><name>a</name></row><row/>\n<row><id>2</id><name>b</name></row></all>";
        conformance_of_reader(|| {
            batchwright_items::format::xml::XmlReader::<Row>::new("", "row")
                .from_source(memory(text))
        });
        /// Whether a name is null depends on a prefix that an element around it binds.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        struct Named {
            name: Option<String>,
        }
        let text = "<all><row><name>a</name></row><g xmlns:i='http://www.w3.org/2001/XMLSchema-instance'>\
                    <row><name i:nil='true'/></row></g><row><name>b</name></row></all>";
        conformance_of_reader(|| {
            batchwright_items::format::xml::XmlReader::<Named>::new("", "row")
                .from_source(memory(text))
        });
    }
    let numbers = |text: &str| Ok(text.parse::<u32>()?);
    let source = Arc::new(MemorySource::new("numbers", *b"1\nx\n3\n\n5"));
    conformance_of_reader(|| DecodedLines::of(LineInput::of(source.clone()), numbers));
}

fn memory(text: &str) -> Arc<dyn ByteSource> {
    Arc::new(MemorySource::new("the document", text.as_bytes()))
}

/// Returns `count` records of 44 bytes; each thousandth cannot be read, and others are filtered out or fail.
fn many(count: u32) -> Vec<u8> {
    let mut bytes = b"id,name\n".to_vec();
    for number in 0..count {
        let id = match number % 1_000 {
            // The processor fails, or panics.
            500 => 1,
            700 => 2,
            other => 10 + other % 4,
        };
        let id = if number % 1_000 == 900 { "none".to_owned() } else { id.to_string() };
        bytes.extend(format!("{id:0>10},{number:0>32}\n").bytes());
    }
    bytes
}

#[test]
fn blocks_of_one_record_of_64_kib_and_of_1_mib_give_the_same_rows() {
    for (count, chunk) in [(3_000, 1), (50_000, 64 * 1024 / 44), (50_000, 1024 * 1024 / 44)] {
        let bytes = many(count);
        let shape = Shape { chunk, threads: 1, crash: None };
        let one = run(csv(bytes.clone()), false, 1_000, shape);
        assert_eq!(one.executions[0].0, BatchStatus::Completed, "{:?}", one.executions[0]);
        // Dead letters name the execution.
        let crash = Some((CommitPoint::After, 2));
        let resumed = run(csv(bytes.clone()), false, 1_000, Shape { crash, ..shape });
        assert!(resumed.output == one.output);
        for threads in [2, 4] {
            let of = |shape| run(csv(bytes.clone()), false, 1_000, shape);
            assert!(of(Shape { threads, ..shape }) == one, "{chunk} on {threads}");
            assert!(of(Shape { threads, crash, ..shape }) == resumed, "{chunk} on {threads}");
        }
    }
}

/// Lets calls go on in pairs.
#[derive(Default)]
struct Pairs {
    begun: Mutex<u32>,
    changed: Condvar,
}

impl Pairs {
    /// Waits until another call is there. Whether there was one within a minute.
    fn meet(&self) -> bool {
        let mut begun = self.begun.lock().unwrap();
        *begun += 1;
        let wanted = begun.next_multiple_of(2);
        self.changed.notify_all();
        let minute = Duration::from_secs(60);
        let waited =
            self.changed.wait_timeout_while(begun, minute, |begun| *begun < wanted).unwrap();
        !waited.1.timed_out()
    }
}

#[test]
fn slow_processors_work_at_the_same_time_and_the_order_stays() {
    let bytes: Vec<u8> = (0..100).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    let source = Arc::new(MemorySource::new("numbers", bytes.clone()));
    let pairs = Arc::new(Pairs::default());
    let step = ChunkStepBuilder::new("copy")
        .reader(DecodedLines::of(LineInput::of(source), |line: &str| Ok(line.to_owned())))
        .process(move |line: &String| match pairs.meet() {
            true => Ok(Some(line.clone())),
            false => Err(ItemError::fatal("no other call came")),
        })
        .writer(LineWriter::new(&output))
        .chunk_size(1)
        .parallelism(2);
    let job = Job::builder("job").step(step.build()).build().unwrap();
    let executions = executions(job, None, "");
    assert_eq!(executions[0].0, BatchStatus::Completed, "{:?}", executions[0]);
    assert_eq!(std::fs::read(output).unwrap(), bytes);
}

/// A source that fails once at a byte, and then ends or goes on.
struct Breaks {
    bytes: Vec<u8>,
    at: usize,
    goes_on: bool,
}

impl ByteSource for Breaks {
    fn shown(&self) -> String {
        "a source that breaks".to_owned()
    }

    fn open_at(&self, _: u64) -> Result<OpenSource, ItemError> {
        let (before, after) = self.bytes.split_at(self.at);
        let after = if self.goes_on { after.to_vec() } else { Vec::new() };
        let bytes = Cursor::new(before.to_vec()).chain(FailsOnce(false)).chain(Cursor::new(after));
        Ok(OpenSource { bytes: Box::new(bytes), identity: None, length: None, held: None })
    }
}

struct FailsOnce(bool);

impl Read for FailsOnce {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        match std::mem::replace(&mut self.0, true) {
            true => Ok(0),
            false => Err(std::io::Error::other("the line is cut")),
        }
    }
}

#[test]
fn an_input_that_breaks_fails_the_step_wherever_it_breaks() {
    let text = (0..30).map(|n| format!("{{\"id\":{n},\"name\":\"a\"}}\n")).collect::<String>();
    let bytes = text.into_bytes();
    for at in (0..bytes.len()).step_by(7) {
        for goes_on in [false, true] {
            let run = |threads| {
                let source = Arc::new(Breaks { bytes: bytes.clone(), at, goes_on });
                let reader = JsonLinesReader::of(LineInput::of(source), Default::default());
                run(reader, true, 1_000, Shape { chunk: 5, threads, crash: None })
            };
            let one = run(1);
            assert_eq!(one.executions[0].0, BatchStatus::Failed);
            assert!(one.executions[0].2.contains("the line is cut"), "{:?}", one.executions[0]);
            assert_eq!(run(2), one, "broken at byte {at}");
        }
    }
}
