//! Job files that are odd, and kinds that misbehave: each is an error of the file, never of the process.

use std::fs;
use std::sync::Arc;

use batchwright::execution::BatchStatus;
use batchwright::registry::JobSource;
use batchwright::testing::fault::FaultPlan;
use batchwright::{JobOperator, JobParameters, MemoryRepository};
use batchwright_items::{BuildContext, ItemKind, Keys, KindSchema, MakeReader, Problem};
use batchwright_jobfile::JobFolder;
use tempfile::TempDir;

fn folder(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("job.toml"), text).unwrap();
    folder
}

fn error_of(text: &str) -> String {
    let folder = folder(text);
    let jobs = JobFolder::new(folder.path());
    jobs.load(&folder.path().join("job.toml"))
        .map(|job| job.name().to_owned())
        .unwrap_err()
        .to_string()
}

const READER: &str = r#"reader = { type = "sequence", count = 3 }"#;
const WRITER: &str = r#"writer = { type = "none" }"#;

#[test]
fn a_part_that_is_no_table_is_refused_with_its_place() {
    let step = |body: &str| format!("name = \"job\"\nsteps = [{{ name = \"s\", {body} }}]\n");
    for (text, wanted) in [
        (step(&format!(r#"reader = ["sequence", "0"], {WRITER}"#)), "a reader is a table"),
        (step(&format!(r#"reader = "csv", {WRITER}"#)), "a reader is a table"),
        (step(&format!(r#"{READER}, writer = ["none", "0"]"#)), "a writer is a table"),
        (
            step(&format!(r#"{READER}, {WRITER}, processors = [["filter", "0"]]"#)),
            "a processor is a table",
        ),
        (step(r#"type = "split", branches = [["b", []]]"#), "a branch is a table"),
        ("name = \"job\"\nsteps = [[\"s\", \"sql\"]]\n".to_owned(), "a step is a table"),
        (
            step(&format!(r#"{READER}, {WRITER}, "\u0000keys" = "5""#)),
            "cannot begin with the character U+0000",
        ),
    ] {
        let error = error_of(&text);
        assert!(error.contains(wanted) && error.contains("line 2"), "{text}: {error}");
    }
}

#[test]
fn a_pipe_in_the_folder_is_refused_and_not_waited_for() {
    let folder =
        folder(&format!("name = \"job\"\nsteps = [{{ name = \"s\", {READER}, {WRITER} }}]\n"));
    let pipe = folder.path().join("pipe.toml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let jobs = JobFolder::new(folder.path());
    assert_eq!(jobs.names().unwrap(), ["job"]);
    assert!(jobs.load(&pipe).map(drop).unwrap_err().to_string().contains("no regular file"));
}

struct Panics;

impl ItemKind for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().reader::<std::collections::BTreeMap<String, String>>()
    }

    fn reader(&self, _: Keys<'_>, _: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        panic!("not today");
    }
}

#[test]
fn a_kind_that_panics_is_an_error_of_the_file_each_time() {
    let text = format!(
        "name = \"job\"\nsteps = [{{ name = \"s\", reader = {{ type = \"panics\" }}, {WRITER} }}]\n"
    );
    let folder = folder(&text);
    let jobs = JobFolder::new(folder.path()).kind(Panics);
    for _ in 0..2 {
        let error = jobs.find("job", None).map(drop).unwrap_err().to_string();
        assert!(error.contains("a kind panicked: not today"), "{error}");
    }
}

struct Named(&'static str);

impl ItemKind for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn schema(&self) -> KindSchema {
        let schema = KindSchema::default().tasklet::<std::collections::BTreeMap<String, String>>();
        schema.processor::<std::collections::BTreeMap<String, String>>()
    }
}

#[test]
fn a_kind_that_no_file_could_name_is_refused() {
    let folder =
        folder(&format!("name = \"job\"\nsteps = [{{ name = \"s\", {READER}, {WRITER} }}]\n"));
    for name in ["command", "map"] {
        let jobs = JobFolder::new(folder.path()).kind(Named(name));
        let error = jobs.find("job", None).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("kind `{name}` has the name of a")), "{error}");
    }
}

#[test]
fn partitions_that_would_all_read_the_same_are_refused() {
    let partitioned = |reader: &str| {
        error_of(&format!(
            "name = \"job\"\n[[steps]]\nname = \"s\"\npartition = {{ by = {{ range = {{ min = 1, max = 4 }} }} }}\n{reader}\n{WRITER}\n"
        ))
    };
    for reader in [
        r#"reader = { type = "list", items = [{ a = "${partition.key}" }] }"#,
        r#"reader = { type = "csv", path = "x.csv", null = "${partition.key}" }"#,
        r#"reader = { type = "sequence", count = 4 }"#,
    ] {
        let error = partitioned(reader);
        assert!(error.contains("every partition would read the same"), "{reader}: {error}");
    }
}

#[test]
fn a_width_beyond_every_line_is_refused() {
    for width in ["0", "9223372036854775807"] {
        let reader = format!(
            r#"reader = {{ type = "fixed_width", path = "x", columns = [{{ name = "a", width = {width} }}] }}"#
        );
        let error = error_of(&format!(
            "name = \"job\"\nsteps = [{{ name = \"s\", {reader}, {WRITER} }}]\n"
        ));
        assert!(error.contains("the width of `a` is between 1 and 65536"), "{error}");
    }
}

#[test]
fn a_restart_numbers_records_as_the_first_run_did_with_or_without_a_plan() {
    let text = "name = \"job\"\n[[steps]]\nname = \"s\"\nchunk = 1\nreader = { type = \"sequence\", count = 5 }\n\
                writer = { type = \"none\" }\n[[steps.processors]]\ntype = \"reject\"\nwhen = \"item.n == 4\"\n";
    let folder = folder(text);
    let repository = Arc::new(MemoryRepository::new());
    let operator = |plan: Option<&str>| {
        let mut jobs = JobFolder::new(folder.path());
        if let Some(plan) = plan {
            jobs = jobs.faults(serde_json::from_str::<FaultPlan>(plan).unwrap());
        }
        JobOperator::builder(Arc::clone(&repository) as _).jobs(jobs).build()
    };
    let failed = operator(None).start("job", JobParameters::new()).unwrap().wait().unwrap();
    assert_eq!(failed.status, BatchStatus::Failed);
    // The fourth record of all is filtered out before it is rejected.
    let planned = operator(Some(r#"{"filter":[4]}"#));
    let ended = planned.restart(failed.id).unwrap().wait().unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
}

#[test]
fn of_two_sources_with_one_name_the_origin_decides() {
    let text = format!("name = \"job\"\nsteps = [{{ name = \"s\", {READER}, {WRITER} }}]\n");
    let (one, other) = (folder(&text), folder(&text));
    let pair = (JobFolder::new(one.path()), JobFolder::new(other.path()));
    assert!(pair.job("job", None).is_err());
    for origin in [one.path(), other.path()] {
        let origin = origin.join("job.toml");
        let job = pair.job("job", origin.to_str()).unwrap();
        assert_eq!(job.source(), origin.to_str());
    }
}

#[test]
fn settings_of_a_clone_do_not_use_what_was_compiled_without_them() {
    let folder =
        folder(&format!("name = \"job\"\nsteps = [{{ name = \"s\", {READER}, {WRITER} }}]\n"));
    let jobs = JobFolder::new(folder.path());
    let first = jobs.find("job", None).unwrap().unwrap();
    let other = jobs.clone().inside_only(true).find("job", None).unwrap().unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
}
