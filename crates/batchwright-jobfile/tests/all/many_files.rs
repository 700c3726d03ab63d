//! Many files as one input: every record once, with its file, wherever the process dies.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job};
use batchwright_jobfile::JobFolder;
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    for (name, content) in files {
        fs::write(folder.path().join("in").join(name), content).unwrap();
    }
    folder
}

fn job(folder: &Path, reader: &str, more: &str) -> Job {
    let file = folder.join("job.toml");
    let text = format!(
        "name = \"job\"\n[[steps]]\nname = \"copy\"\nchunk = 2\n{more}[steps.reader]\n{reader}\n\
         [steps.writer]\ntype = \"jsonl\"\npath = \"out.jsonl\"\n"
    );
    fs::write(&file, text).unwrap();
    let job = JobFolder::new(folder).load(&file).unwrap();
    Arc::into_inner(job).expect("the folder of jobs is closed")
}

fn output(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
    text.replace(&format!("{}/", folder.display()), "")
}

fn fails(folder: &Path, reader: &str, more: &str) -> String {
    let done = TestBench::of(job(folder, reader, more)).run();
    done.failure.expect("the step fails").message
}

const CSV: &str =
    "type = \"csv\"\npath = \"in/*.csv\"\nfile_field = \"file\"\ncolumns = { id = \"integer\" }";

#[test]
fn the_files_of_a_pattern_are_read_in_the_order_of_their_names_wherever_the_process_dies() {
    let files = [
        ("a.csv", "id,name\n1,A\n2,B\n3,C\n"),
        ("b.csv", "id,name\n"),
        ("c.csv", "name,id\nD,4\n"),
        (".hidden.csv", "id\n9\n"),
        ("other.txt", "id\n9\n"),
        ("d.csv", "id,name\n5,E\n6,F"),
    ];
    let expected = "{\"id\":1,\"name\":\"A\",\"file\":\"in/a.csv\"}\n\
                    {\"id\":2,\"name\":\"B\",\"file\":\"in/a.csv\"}\n\
                    {\"id\":3,\"name\":\"C\",\"file\":\"in/a.csv\"}\n\
                    {\"name\":\"D\",\"id\":4,\"file\":\"in/c.csv\"}\n\
                    {\"id\":5,\"name\":\"E\",\"file\":\"in/d.csv\"}\n\
                    {\"id\":6,\"name\":\"F\",\"file\":\"in/d.csv\"}\n";
    for (point, commit) in
        (0..4).flat_map(|commit| [(CommitPoint::Before, commit), (CommitPoint::After, commit)])
    {
        let folder = folder(&files);
        let mut bench = TestBench::of(job(folder.path(), CSV, ""));
        if commit > 0 {
            bench.crash_at(point, commit);
        }
        let mut done = bench.run();
        if commit > 0 {
            assert_ne!(done.status, BatchStatus::Completed, "{point:?} {commit}");
            done = bench.restart();
        }
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        assert_eq!(output(folder.path()), expected, "{point:?} {commit}");
    }
}

#[test]
fn lines_and_json_lines_have_their_file_also_when_it_is_one() {
    let files = folder(&[("a.jsonl", "{\"n\":1}\n"), ("b.txt", "x\n")]);
    let run = |reader: &str| {
        let done = TestBench::of(job(files.path(), reader, "")).run();
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        output(files.path())
    };
    let json = run("type = \"jsonl\"\npath = \"in/a.jsonl\"\nfile_field = \"from\"");
    assert_eq!(json, "{\"n\":1,\"from\":\"in/a.jsonl\"}\n");
    let lines = run("type = \"lines\"\npath = \"in/?.txt\"\nfile_field = \"from\"");
    assert_eq!(lines, "{\"line\":\"x\",\"from\":\"in/b.txt\"}\n");
}

#[test]
fn what_is_wrong_with_one_file_names_it() {
    let files = folder(&[("a.csv", "id,name\n1,A\n"), ("b.csv", "name\nB\n")]);
    let column = fails(files.path(), CSV, "");
    assert!(column.contains("in/b.csv") && column.contains("`id`"), "{column}");
    let files = folder(&[("a.csv", "id,name\n1,A\n"), ("b.csv", "id,name\n2,B\nx,C\n")]);
    let value = fails(files.path(), CSV, "");
    assert!(value.contains("in/b.csv") && value.contains("item 3"), "{value}");
    let files = folder(&[("a.csv", "id,file\n1,A\n")]);
    let taken = fails(files.path(), CSV, "");
    assert!(taken.contains("has a field of that name"), "{taken}");
    let none = fails(folder(&[]).path(), CSV, "");
    assert!(none.contains("no file matches `"), "{none}");
}

#[test]
fn a_file_that_arrives_before_those_that_were_read_is_not_lost_in_silence() {
    let files = folder(&[("b.csv", "id\n1\n2\n3\n4\n")]);
    let mut bench = TestBench::of(job(files.path(), CSV, ""));
    bench.crash_at(CommitPoint::After, 1);
    bench.run();
    fs::write(files.path().join("in/a.csv"), "id\n9\n").unwrap();
    let failure = bench.restart().failure.expect("the restart fails");
    assert!(failure.message.contains("inputs before it appeared or vanished"), "{failure:?}");
    // A file after those is read.
    fs::rename(files.path().join("in/a.csv"), files.path().join("in/c.csv")).unwrap();
    let done = bench.restart();
    assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
    assert_eq!(output(files.path()).lines().count(), 5);
}
