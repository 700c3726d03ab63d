//! CSV and fixed widths as other programs want them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job};
use batchwright_jobfile::{JobFileError, JobFolder};

fn job(folder: &Path, writer: &str) -> Result<Arc<Job>, JobFileError> {
    let file = folder.join("job.toml");
    let text = format!(
        "name = \"job\"\n[[steps]]\nname = \"copy\"\nchunk = 1\n[steps.reader]\ntype = \"list\"\n\
         items = [{{ id = 1, name = \"Ada, \\\"L\\\"\" }}, {{ id = 2, name = \"\" }}]\n[steps.writer]\npath = \"out\"\n{writer}"
    );
    fs::write(&file, text).unwrap();
    JobFolder::new(folder).load(&file)
}

/// Returns what is written, with a crash after the first commit.
fn written(writer: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let job = Arc::into_inner(job(folder.path(), writer).unwrap()).unwrap();
    let mut bench = TestBench::of(job);
    bench.crash_at(CommitPoint::After, 1);
    bench.run();
    let done = bench.restart();
    assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
    fs::read_to_string(folder.path().join("out")).unwrap()
}

#[test]
fn csv_has_the_line_ends_the_quotes_and_the_mark_that_it_is_asked_for() {
    let csv = |keys: &str| written(&format!("type = \"csv\"\n{keys}"));
    assert_eq!(csv(""), "id,name\n1,\"Ada, \"\"L\"\"\"\n2,\n");
    assert_eq!(csv("line_end = \"crlf\""), "id,name\r\n1,\"Ada, \"\"L\"\"\"\r\n2,\r\n");
    assert_eq!(csv("quote_all = true"), "\"id\",\"name\"\n\"1\",\"Ada, \"\"L\"\"\"\n\"2\",\"\"\n");
    assert_eq!(csv("byte_order_mark = true"), "\u{feff}id,name\n1,\"Ada, \"\"L\"\"\"\n2,\n");
    let plain = csv("quote = \"\"\ndelimiter = \";\"\nline_end = \"crlf\"\nbyte_order_mark = true");
    assert_eq!(plain, "\u{feff}id;name\r\n1;Ada, \"L\"\r\n2;\r\n");
}

#[test]
fn fixed_widths_have_the_line_ends_that_they_are_asked_for() {
    let columns = "columns = [{ name = \"id\", width = 2 }, { name = \"name\", width = 9 }]";
    let text = written(&format!("type = \"fixed_width\"\nline_end = \"crlf\"\n{columns}"));
    assert_eq!(text, "1 Ada, \"L\" \r\n2          \r\n");
}

#[test]
fn a_first_and_a_last_line_are_there_once_wherever_the_process_dies() {
    let around = "first_line = \"H;${job.name}\"\nlast_line = \"T;${file.records|%04d}\"";
    let csv = written(&format!("type = \"csv\"\n{around}"));
    assert_eq!(csv, "H;job\nid,name\n1,\"Ada, \"\"L\"\"\"\n2,\nT;0002\n");
    let columns = "columns = [{ name = \"id\", width = 2 }, { name = \"name\", width = 9 }]";
    let keys = format!("type = \"fixed_width\"\nline_end = \"crlf\"\n{columns}\n{around}");
    assert_eq!(written(&keys), "H;job\r\n1 Ada, \"L\" \r\n2          \r\nT;0002\r\n");
    let lines = written(&format!("type = \"lines\"\nfield = \"id\"\n{around}"));
    assert_eq!(lines, "H;job\n1\n2\nT;0002\n");

    // Compressed and rotated: each file has its own.
    let folder = tempfile::tempdir().unwrap();
    let steps = |count: u32, writer: &str| {
        format!(
            "name = \"job\"\n[[steps]]\nname = \"copy\"\nchunk = 1\nreader = {{ type = \"sequence\", count = {count} }}\n\
             writer = {writer}\n[[steps]]\nname = \"read\"\nwriter = {{ type = \"lines\", path = \"out\", field = \"line\" }}\n\
             reader = {{ type = \"lines\", path = \"*.gz\" }}"
        )
    };
    let one = "{ type = \"csv\", path = \"${file.number}.csv.gz\", first_line = \"ä\", last_line = \"${file.records} of ${file.number|%d}\" }";
    for crash in 0..=4 {
        let file = folder.path().join("job.toml");
        fs::write(&file, steps(3, &format!("{{ type = \"rotate\", items = 2, writer = {one} }}")))
            .unwrap();
        let job = JobFolder::new(folder.path()).load(&file).unwrap();
        let job = Arc::into_inner(job).unwrap();
        let mut bench = TestBench::of(job);
        bench.crash_at(CommitPoint::After, crash);
        let mut done = bench.run();
        if done.status != BatchStatus::Completed {
            done = bench.restart();
        }
        assert_eq!(done.status, BatchStatus::Completed, "{crash} {:?}", done.failure);
        let text = fs::read_to_string(folder.path().join("out")).unwrap();
        assert_eq!(text, "ä\nn\n1\n2\n2 of 1\nä\nn\n3\n1 of 2\n", "{crash}");
    }
}

#[test]
fn a_first_line_that_cannot_be_written_is_no_fault_of_the_records() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.toml");
    let job = "name = \"job\"\n[[steps]]\nname = \"copy\"\nreader = { type = \"sequence\", count = 3 }\nskip = { limit = 9 }\n\
               writer = { type = \"csv\", path = \"out\", encoding = \"windows-1252\", first_line = \"H 中\" }";
    fs::write(&file, job).unwrap();
    let job = JobFolder::new(folder.path()).load(&file).unwrap();
    let done = TestBench::of(Arc::into_inner(job).unwrap()).run();
    assert_eq!(done.status, BatchStatus::Failed);
    assert!(done.failure.unwrap().message.contains("has no code for a character"));
}

#[test]
fn a_file_without_records_has_its_first_and_last_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.toml");
    let steps = "[[steps]]\nname = \"copy\"\nreader = { type = \"sequence\", count = 0 }\n\
                 writer = { type = \"csv\", path = \"out\", columns = [\"n\"], first_line = \"H\", last_line = \"T${file.records}\" }";
    fs::write(&file, format!("name = \"job\"\n{steps}")).unwrap();
    let job = JobFolder::new(folder.path()).load(&file).unwrap();
    let job = Arc::into_inner(job).unwrap();
    assert_eq!(TestBench::of(job).run().status, BatchStatus::Completed);
    assert_eq!(fs::read_to_string(folder.path().join("out")).unwrap(), "H\nn\nT0\n");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (keys, what) in [
        ("quote = \"\"\nquote_all = true", "`quote_all` requires `quote`"),
        ("encoding = \"windows-1252\"\nbyte_order_mark = true", "`byte_order_mark` is for UTF-8"),
        ("first_line = \"H\"\nbyte_order_mark = true", "has no `byte_order_mark`"),
        ("first_line = \"${file.records}\"", "there is no `file.records`"),
        ("last_line = \"${file.records|%s}\"", "is no integer format"),
        ("line_end = \"cr\"", "there is no value `cr`; there are: lf, crlf"),
    ] {
        let error = job(folder.path(), &format!("type = \"csv\"\n{keys}")).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}
