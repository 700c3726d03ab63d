//! Folders of job files as a source of jobs.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use batchwright::operator::Refusal;
use batchwright::registry::JobSource;
use batchwright::{BatchStatus, JobOperator, JobParameters, MemoryRepository};
use batchwright_jobfile::JobFolder;
use tempfile::TempDir;

fn count_to(name: &str, count: u32) -> String {
    format!(
        "name = \"{name}\"\nparameters = {{ run = {{ type = \"integer\" }} }}\n\
         steps = [{{ name = \"count\", reader = {{ type = \"sequence\", count = {count} }}, \
         writer = {{ type = \"none\" }} }}]\n"
    )
}

fn folder(files: &[(&str, String)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(folder.path(), name, text);
    }
    folder
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

fn operator(jobs: &JobFolder) -> JobOperator {
    JobOperator::builder(Arc::new(MemoryRepository::new())).jobs(jobs.clone()).build()
}

fn read_by(operator: &JobOperator, name: &str, run: i64) -> u64 {
    let handle = operator.start(name, JobParameters::new().with("run", run)).unwrap();
    let execution = handle.wait().unwrap();
    assert_eq!(execution.status, BatchStatus::Completed);
    operator.explorer().summary(execution.id).unwrap().steps[0].counters.read
}

#[test]
fn a_file_is_compiled_once_and_again_when_it_changes() {
    let folder = folder(&[("count.toml", count_to("count", 3))]);
    let jobs = JobFolder::new(folder.path());
    let operator = operator(&jobs);
    for run in 0..50 {
        assert_eq!(read_by(&operator, "count", run), 3);
    }
    assert_eq!(jobs.compiled(), 1);
    write(folder.path(), "count.toml", &count_to("count", 4));
    assert_eq!(read_by(&operator, "count", 50), 4);
    assert_eq!(jobs.compiled(), 2);
}

#[test]
fn a_file_is_compiled_again_when_a_file_that_it_uses_changes() {
    let outer = "name = \"outer\"\nopen_parameters = true\n\
                 steps = [{ name = \"inner\", type = \"job\", job = \"inner.toml\" }]\n";
    let folder = folder(&[("outer.toml", outer.to_owned()), ("inner.toml", count_to("inner", 2))]);
    let jobs = JobFolder::new(folder.path());
    let first = jobs.find("outer", None).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &jobs.find("outer", None).unwrap().unwrap()));
    write(folder.path(), "inner.toml", &count_to("inner", 5));
    assert!(!Arc::ptr_eq(&first, &jobs.find("outer", None).unwrap().unwrap()));
}

#[test]
fn two_files_with_one_job_name_are_refused_by_name() {
    let (one, other) =
        (folder(&[("a.toml", count_to("same", 1))]), folder(&[("b.toml", count_to("same", 2))]));
    let jobs = JobFolder::new(one.path()).and(other.path());
    let error = jobs.find("same", None).unwrap_err().to_string();
    for part in ["a.toml", "b.toml", "`same`", "rename one"] {
        assert!(error.contains(part), "{error}");
    }
    // An execution names the file that it was read from: there is no doubt.
    let origin = other.path().join("b.toml");
    assert!(jobs.find("same", Some(&origin)).unwrap().is_some());
    assert!(matches!(jobs.job("same", None), Err(Refusal::InvalidDefinition { .. })));
}

#[test]
fn a_broken_file_hides_no_other_job_and_works_once_it_is_corrected() {
    let folder =
        folder(&[("broken.toml", "name = 7".to_owned()), ("count.toml", count_to("count", 1))]);
    let jobs = JobFolder::new(folder.path());
    assert_eq!(jobs.names().unwrap(), ["count"]);
    assert!(jobs.find("count", None).unwrap().is_some());
    write(folder.path(), "broken.toml", &count_to("mended", 1));
    assert_eq!(jobs.names().unwrap(), ["count", "mended"]);
}

#[test]
fn a_job_that_is_not_found_may_be_that_of_a_broken_file() {
    let folder = folder(&[
        ("broken.toml", "name = \"lost\"\nsteps = 7".to_owned()),
        ("count.toml", count_to("count", 1)),
    ]);
    let jobs = JobFolder::new(folder.path());
    let refusal = jobs.job("lost", None).unwrap_err();
    assert_eq!(refusal.code(), "invalid_definition");
    assert!(refusal.to_string().contains("broken.toml`, line 2"), "{refusal}");
    let refusal = jobs.job("other", None).unwrap_err();
    assert_eq!(refusal.code(), "no_such_job");
    let text = refusal.to_string();
    assert!(
        text.starts_with("there is no job `other`; the jobs are: `count`; job file `"),
        "{text}"
    );
    assert!(text.contains("broken.toml`, line 2"), "{text}");
}

#[test]
fn a_folder_that_is_missing_is_named() {
    let jobs = JobFolder::new("no/such/folder");
    let error = jobs.names().unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
    assert!(matches!(jobs.job("any", None), Err(Refusal::JobsUnreadable { .. })));
    assert!(matches!(JobSource::names(&jobs), Err(Refusal::JobsUnreadable { .. })));
}
