//! One file after another: each is complete and there once, wherever the process dies.
#![cfg(all(feature = "arrow", feature = "avro", feature = "excel", feature = "parquet"))]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job};
use batchwright_jobfile::JobFolder;

fn job(folder: &Path, items: u64, writer: &str, more: &str) -> Result<Job, String> {
    let file = folder.join("job.toml");
    let text = format!(
        "name = \"job\"\n[[steps]]\nname = \"write\"\nchunk = 2\n{more}\
         reader = {{ type = \"sequence\", count = {items} }}\n[steps.writer]\ntype = \"rotate\"\n{writer}\n"
    );
    fs::write(&file, text).unwrap();
    let job = JobFolder::new(folder).load(&file).map_err(|error| error.to_string())?;
    Ok(Arc::into_inner(job).expect("the folder of jobs is closed"))
}

/// The files of the folder, but the job's.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| !path.ends_with("job.toml"));
    files
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect()
}

/// Runs the job with a crash at `crash` and the restart; `meanwhile` happens before it.
fn run(bench: &mut TestBench, crash: Option<(CommitPoint, u64)>, meanwhile: impl FnOnce()) {
    let Some((point, commit)) = crash else {
        let ended = bench.run();
        return assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    };
    bench.crash_at(point, commit);
    let ended = bench.run();
    assert_ne!(ended.status, BatchStatus::Completed, "{point:?} {commit}");
    meanwhile();
    let ended = bench.restart();
    assert_eq!(ended.status, BatchStatus::Completed, "{point:?} {commit}: {:?}", ended.failure);
}

fn left(
    items: u64,
    writer: &str,
    more: &str,
    crash: Option<(CommitPoint, u64)>,
) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = TestBench::of(job(folder.path(), items, writer, more).unwrap());
    run(&mut bench, crash, || ());
    files(folder.path())
}

#[test]
fn the_files_of_each_format_are_the_same_wherever_the_process_dies() {
    let columns = "columns = [{ name = \"n\", type = \"integer\" }]";
    for (extension, keys) in [
        ("csv", "columns = [\"n\"]".to_owned()),
        ("csv.gz", "columns = [\"n\"]".to_owned()),
        ("json", String::new()),
        ("jsonl", String::new()),
        ("xml", String::new()),
        ("arrow", columns.to_owned()),
        ("avro", columns.to_owned()),
        ("parquet", columns.to_owned()),
    ] {
        let kind = extension.split('.').next().unwrap();
        let comma = if keys.is_empty() { "" } else { ", " };
        let writer = format!(
            "items = 3\nwriter = {{ type = \"{kind}\", path = \"out-${{file.number}}.{extension}\"{comma}{keys} }}"
        );
        for more in ["", "parallelism = 2\n"] {
            let whole = left(11, &writer, more, None);
            let names: Vec<&String> = whole.keys().collect();
            let expected = [1, 2, 3].map(|number| format!("out-00000{number}.{extension}"));
            assert_eq!(names, expected.iter().collect::<Vec<_>>());
            for commit in 1..=6 {
                for point in [CommitPoint::Before, CommitPoint::After] {
                    let found = left(11, &writer, more, Some((point, commit)));
                    assert_eq!(found, whole, "{extension} {more:?} {point:?} {commit}");
                }
            }
        }
    }
}

#[test]
fn a_file_has_whole_chunks_a_header_and_its_number() {
    let writer = "items = 3\nwriter = { type = \"csv\", path = \"${file.number|%02d}.csv\", columns = [\"n\"] }";
    let files = left(10, writer, "", None);
    let texts: Vec<_> =
        files.iter().map(|(name, text)| (&**name, str::from_utf8(text).unwrap())).collect();
    assert_eq!(
        texts,
        [("01.csv", "n\n1\n2\n3\n4\n"), ("02.csv", "n\n5\n6\n7\n8\n"), ("03.csv", "n\n9\n10\n")]
    );
    // The last file is full, and there is no empty one after it.
    assert_eq!(left(8, writer, "", None).len(), 2);
    // Without items there is one file, as from the writer alone.
    let none = left(0, writer, "", None);
    assert_eq!(none.into_iter().collect::<Vec<_>>(), [("01.csv".to_owned(), b"n\n".to_vec())]);
}

#[test]
fn bytes_and_time_are_limits_too() {
    let of = |limit: &str| {
        format!(
            "{limit}\nwriter = {{ type = \"lines\", path = \"${{file.number}}.txt\", field = \"n\" }}"
        )
    };
    // A chunk has four bytes, that of 9 and 10 five, and the last one six.
    let files = left(12, &of("bytes = 6"), "", None);
    assert_eq!(files.values().map(Vec::len).collect::<Vec<_>>(), [8, 8, 11]);
    assert_eq!(left(12, &of("time = \"1h\""), "", None).len(), 1);
    assert_eq!(left(12, &of("time = \"0s\""), "", None).len(), 6);
    assert_eq!(left(12, &of("bytes = 1000\nitems = 4"), "", None).len(), 3);
}

#[test]
fn a_chunk_that_fails_begins_no_file() {
    // Records 5 and 6 are those of the chunk that begins the second file.
    let more = "processors = [{ type = \"map\", set = { m = \"if item.n == 5 { 'x' } else { item.n }\" } }]\n\
                skip = { limit = 9, on = [\"data\"] }\n";
    let writer = "items = 3\nwriter = { type = \"parquet\", path = \"${file.number}.parquet\", columns = [{ name = \"n\", type = \"integer\" }, { name = \"m\", type = \"integer\" }] }";
    let whole = left(8, writer, more, None);
    assert_eq!(whole.len(), 2);
    for commit in 1..=4 {
        for point in [CommitPoint::Before, CommitPoint::After] {
            let found = left(8, writer, more, Some((point, commit)));
            assert_eq!(found, whole, "{point:?} {commit}");
        }
    }
    // All that is left of the second file is bad, so there is none.
    let more = more.replace("item.n == 5", "item.n > 4");
    assert_eq!(left(6, writer, &more, None).into_keys().collect::<Vec<_>>(), ["000001.parquet"]);
}

#[test]
fn files_of_a_chunk_each_are_there_once_and_nothing_else() {
    let writer =
        "items = 2\nwriter = { type = \"csv\", path = \"${file.number}.csv\", columns = [\"n\"] }";
    let whole = left(9, writer, "", None);
    assert_eq!(whole.len(), 5);
    for commit in 1..=5 {
        for point in [CommitPoint::Before, CommitPoint::After] {
            assert_eq!(left(9, writer, "", Some((point, commit))), whole, "{point:?} {commit}");
        }
    }
}

/// A full file can be taken while the step goes on. The third commit is the first of the second file.
#[test]
fn a_file_that_was_taken_before_the_restart_is_not_missed_and_one_that_was_lost_is() {
    let writer = "items = 4\nwriter = { type = \"json\", path = \"${file.number}.json\" }";
    let whole = left(12, writer, "", None);
    // Before the fourth commit, the stored position still asks for the first file.
    let points = [CommitPoint::Before, CommitPoint::After];
    for (point, commit) in points.into_iter().flat_map(|point| (3..=5).map(move |at| (point, at))) {
        for takes in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path();
            let mut bench = TestBench::of(job(path, 12, writer, "").unwrap());
            let first = path.join("000001.json");
            let mut before = None;
            run(&mut bench, Some((point, commit)), || {
                if commit > 3 {
                    let named = fs::metadata(&first).unwrap();
                    before = Some((named.ino(), named.modified().unwrap()));
                    if takes {
                        fs::remove_file(&first).unwrap();
                    }
                }
            });
            let mut expected = whole.clone();
            if takes && commit > 3 {
                expected.remove("000001.json");
            } else if let Some(before) = before {
                // It was not touched again.
                let named = fs::metadata(&first).unwrap();
                assert_eq!((named.ino(), named.modified().unwrap()), before);
            }
            assert_eq!(files(path), expected, "{point:?} {commit} {takes}");
        }
    }
    // The file of the first chunks was never complete.
    let folder = tempfile::tempdir().unwrap();
    let mut bench = TestBench::of(job(folder.path(), 12, writer, "").unwrap());
    bench.crash_at(CommitPoint::After, 3);
    bench.run();
    for name in files(folder.path()).into_keys().filter(|name| name.starts_with("000001.json.")) {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let failure = bench.restart().failure.unwrap();
    assert!(failure.message.contains("it is missing"), "{failure:?}");
}

#[test]
fn a_writer_that_cannot_be_rotated_is_refused_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let inner = "writer = { type = \"jsonl\", path = \"${file.number}.jsonl\" }";
    for (writer, expected) in [
        (inner.to_owned(), "needs `items`, `bytes` or `time`"),
        (format!("items = 0\n{inner}"), "at least 1"),
        (
            "items = 3\nwriter = { type = \"jsonl\", path = \"out.jsonl\" }".to_owned(),
            "has `${file.number}`",
        ),
        (
            format!(
                "items = 3\nwriter = {{ type = \"many\", writers = [{}] }}",
                inner.replace("writer = ", "")
            ),
            "is one of files",
        ),
        (
            format!("items = 3\nwriter = {{ type = \"rotate\", items = 2, {inner} }}"),
            "is one of files",
        ),
        (format!("items = 3\n{}", inner.replace("file.number", "file.number:-7")), "no default"),
        (
            format!("items = 3\n{}", inner.replace("file.number", "file.count")),
            "there is no `file.count`",
        ),
        (
            format!("items = 3\n{}", inner.replace("file.number", "file.number|%x")),
            "`%x` is no integer format",
        ),
        (format!("items = 3\n{inner}\nsize = 7"), "size"),
    ] {
        let refused = job(folder.path(), 1, &writer, "").unwrap_err();
        assert!(refused.contains(expected), "{writer}: {refused}");
    }
    let file = folder.path().join("job.toml");
    let text = fs::read_to_string(&file).unwrap();
    let (head, _) = text.split_once("[steps.writer]").unwrap();
    fs::write(
        &file,
        format!("{head}writer = {{ type = \"jsonl\", path = \"${{file.number}}\" }}\n"),
    )
    .unwrap();
    let refused = JobFolder::new(folder.path()).load(&file).unwrap_err().to_string();
    assert!(refused.contains("within one of the type `rotate`"), "{refused}");
}
