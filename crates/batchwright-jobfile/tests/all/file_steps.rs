//! Steps that handle whole files do their work once, wherever the process dies.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use batchwright::clock::{Clock as _, SystemClock};
use batchwright::execution::JobExecution;
use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, Job, JobOperator, JobParameters, MemoryRepository};
use batchwright_jobfile::JobFolder;
use batchwright_testkit::{Service, needs};
use tempfile::TempDir;

/// Returns a folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// Returns the job of one step with `keys`.
fn job(folder: &Path, keys: &str) -> Job {
    let file = folder.join("job.toml");
    fs::write(&file, format!("name = \"job\"\n[[steps]]\nname = \"step\"\n{keys}")).unwrap();
    let job = JobFolder::new(folder).load(&file).unwrap();
    fs::remove_file(file).unwrap();
    Arc::into_inner(job).expect("the folder of jobs is closed")
}

fn run(folder: &Path, keys: &str) -> JobExecution {
    TestBench::of(job(folder, keys)).run()
}

fn completes(folder: &Path, keys: &str) {
    let done = run(folder, keys);
    assert_eq!(done.status, BatchStatus::Completed, "{keys} {:?}", done.failure);
}

fn fails(folder: &Path, keys: &str) -> String {
    run(folder, keys).failure.expect("the step fails").message
}

/// Returns the files of the folder with their contents, sorted.
fn left(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn files(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// Every commit of a step of at most three calls.
fn crashes() -> impl Iterator<Item = (CommitPoint, u64)> {
    (1..=3).flat_map(|commit| [(CommitPoint::Before, commit), (CommitPoint::After, commit)])
}

/// Runs the step with a crash at each of its commits, restarts it, and compares what is left.
fn is_exact(before: &[(&str, &str)], keys: &str, expected: &[(&str, &str)]) {
    for (point, commit) in crashes() {
        let folder = folder(before);
        let mut bench = TestBench::of(job(folder.path(), keys));
        bench.crash_at(point, commit);
        let first = bench.run();
        if first.status != BatchStatus::Completed {
            let done = bench.restart();
            assert_eq!(
                done.status,
                BatchStatus::Completed,
                "{point:?} {commit} {:?}",
                done.failure
            );
        }
        assert_eq!(left(folder.path()), files(expected), "{point:?} {commit}");
    }
}

#[test]
fn files_are_copied_and_keep_their_times() {
    is_exact(
        &[("in/a.csv", "a"), ("in/b.csv", "b"), ("in/.hidden.csv", "h"), ("in/c.txt", "c")],
        "type = \"copy\"\nfrom = \"in/*.csv\"\nto = \"out/\"\n",
        &[
            ("in/.hidden.csv", "h"),
            ("in/a.csv", "a"),
            ("in/b.csv", "b"),
            ("in/c.txt", "c"),
            ("out/a.csv", "a"),
            ("out/b.csv", "b"),
        ],
    );
    let folder = folder(&[("a", "one")]);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options()
        .write(true)
        .open(folder.path().join("a"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    completes(folder.path(), "type = \"copy\"\nfrom = \"a\"\nto = \"b\"\n");
    assert_eq!(fs::metadata(folder.path().join("b")).unwrap().modified().unwrap(), time);
}

#[test]
fn files_are_moved_once() {
    is_exact(
        &[("in/a.csv", "a"), ("in/b.csv", "b"), ("out/b.csv", "old")],
        "type = \"move\"\nfrom = \"in/?.csv\"\nto = \"out\"\n",
        &[("out/a.csv", "a"), ("out/b.csv", "b")],
    );
}

#[test]
fn a_file_that_arrives_between_a_crash_and_the_restart_is_not_moved() {
    let folder = folder(&[("in/a.csv", "first")]);
    let keys = "type = \"move\"\nfrom = \"in/a.csv\"\nto = \"out/\"\n";
    let mut bench = TestBench::of(job(folder.path(), keys));
    // The file is moved, and the store does not know it.
    bench.crash_at(CommitPoint::Before, 2);
    bench.run();
    fs::write(folder.path().join("in/a.csv"), "the second file").unwrap();
    let done = bench.restart();
    assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
    let expected = [("in/a.csv", "the second file"), ("out/a.csv", "first")];
    assert_eq!(left(folder.path()), files(&expected));
}

#[test]
fn what_arrives_after_the_plan_is_neither_deleted_nor_removed_unmerged() {
    let folder = folder(&[("log/a", "old"), ("in/1", "x"), ("in/2", "y")]);
    let path = folder.path();
    let mut bench = TestBench::of(job(path, "type = \"delete\"\npath = \"log/*\"\n"));
    bench.crash_at(CommitPoint::After, 1);
    bench.run();
    fs::write(path.join("log/a"), "a new log").unwrap();
    assert_eq!(bench.restart().status, BatchStatus::Completed);
    let keys = "type = \"merge\"\nfrom = \"in/*\"\nto = \"all\"\n";
    let mut bench = TestBench::of(job(path, keys));
    // Merged, and nothing removed.
    bench.crash_at(CommitPoint::After, 2);
    bench.run();
    fs::write(path.join("in/2"), "a new delivery").unwrap();
    assert_eq!(bench.restart().status, BatchStatus::Completed);
    let expected = [("all", "xy"), ("in/2", "a new delivery"), ("log/a", "a new log")];
    assert_eq!(left(path), files(&expected));
}

#[test]
fn a_file_that_is_moved_to_itself_by_another_way_stays() {
    let folder = folder(&[("in/a", "the only one"), ("in/b", "linked")]);
    let path = folder.path();
    std::os::unix::fs::symlink("in", path.join("current")).unwrap();
    for kind in ["move", "copy"] {
        let keys = format!("type = \"{kind}\"\nfrom = \"in/a\"\nto = \"current/\"\n");
        let itself = fails(path, &keys);
        assert!(itself.contains("current/a`: it is the file itself"), "{itself}");
    }
    fs::remove_file(path.join("current")).unwrap();
    // Two links of one file: the old name goes.
    fs::hard_link(path.join("in/b"), path.join("b")).unwrap();
    completes(path, "type = \"move\"\nfrom = \"in/b\"\nto = \"b\"\n");
    assert_eq!(left(path), files(&[("b", "linked"), ("in/a", "the only one")]));
}

#[test]
fn a_merge_never_takes_its_own_result_for_a_part() {
    let folder = folder(&[("in/all.csv", "merged before")]);
    let path = folder.path();
    let merge = |to: &str| format!("type = \"merge\"\nfrom = \"in/*.csv\"\nto = \"{to}\"\n");
    let alone = fails(path, &merge("in/all.csv"));
    assert!(alone.contains("only the merged file matches"), "{alone}");
    std::os::unix::fs::symlink("in", path.join("current")).unwrap();
    fs::write(path.join("in/new.csv"), "part").unwrap();
    completes(path, &merge("current/all.csv"));
    fs::remove_file(path.join("current")).unwrap();
    assert_eq!(left(path), files(&[("in/all.csv", "part")]));
    fs::write(path.join("in/b.csv.gz"), "").unwrap();
    let mixed = fails(path, "type = \"merge\"\nfrom = \"in/*\"\nto = \"all.csv\"\n");
    assert!(mixed.contains("the same compression"), "{mixed}");
}

#[test]
fn an_existing_file_that_is_to_be_kept_is_kept_also_after_the_plan() {
    for kind in ["copy", "move"] {
        let folder = folder(&[("in/a", "new")]);
        let path = folder.path();
        let keys = format!("type = \"{kind}\"\nfrom = \"in/a\"\nto = \"out/a\"\nreplace = false\n");
        let mut bench = TestBench::of(job(path, &keys));
        bench.crash_at(CommitPoint::After, 1);
        bench.run();
        fs::create_dir_all(path.join("out")).unwrap();
        fs::write(path.join("out/a"), "another's").unwrap();
        let failure = bench.restart().failure.expect("the step fails");
        assert!(failure.message.contains("out/a`: it exists"), "{failure:?}");
        assert_eq!(left(path), files(&[("in/a", "new"), ("out/a", "another's")]));
        fs::remove_file(path.join("out/a")).unwrap();
        assert_eq!(bench.restart().status, BatchStatus::Completed);
        is_exact(
            &[("in/a", "new")],
            &keys,
            if kind == "copy" { &[("in/a", "new"), ("out/a", "new")] } else { &[("out/a", "new")] },
        );
    }
}

#[test]
fn many_files_are_handled_in_several_calls_and_outputs_in_work_in_none() {
    let folder = folder(&[("in/x.csv.0123456789abcdef-7.part", "growing")]);
    let path = folder.path();
    for number in 0..250 {
        fs::write(path.join(format!("in/{number}")), "").unwrap();
    }
    for commit in 1..=4 {
        let mut bench =
            TestBench::of(job(path, "type = \"move\"\nfrom = \"in/*\"\nto = \"out/\"\n"));
        bench.crash_at(CommitPoint::Before, commit);
        bench.run();
        assert_eq!(bench.restart().status, BatchStatus::Completed);
        assert_eq!(left(&path.join("out")).len(), 250);
        fs::rename(path.join("in/x.csv.0123456789abcdef-7.part"), path.join("growing")).unwrap();
        assert_eq!(left(&path.join("in")).len(), 0);
        fs::remove_dir(path.join("in")).unwrap();
        fs::rename(path.join("out"), path.join("in")).unwrap();
        fs::rename(path.join("growing"), path.join("in/x.csv.0123456789abcdef-7.part")).unwrap();
    }
}

#[test]
fn what_cannot_be_copied_or_moved_is_said() {
    let folder = folder(&[("in/a.csv", "a"), ("out/a.csv", "old")]);
    let path = folder.path();
    let none = fails(path, "type = \"move\"\nfrom = \"in/*.txt\"\nto = \"out/\"\n");
    assert!(none.contains("no file matches `"), "{none}");
    completes(path, "type = \"move\"\nfrom = \"in/*.txt\"\nto = \"out/\"\noptional = true\n");
    let missing = fails(path, "type = \"copy\"\nfrom = \"in/b.csv\"\nto = \"out/\"\n");
    assert!(missing.contains("in/b.csv` does not exist"), "{missing}");
    let one = fails(path, "type = \"copy\"\nfrom = \"in\"\nto = \"out/\"\n");
    assert!(one.contains("is a folder; add a pattern"), "{one}");
    let many = fails(path, "type = \"copy\"\nfrom = \"in/*\"\nto = \"new\"\n");
    assert!(many.contains("a pattern needs a folder"), "{many}");
    std::os::unix::fs::symlink("a.csv", path.join("in/link")).unwrap();
    let link = fails(path, "type = \"move\"\nfrom = \"in/link\"\nto = \"out/\"\n");
    assert!(link.contains("it is a link"), "{link}");
    fs::remove_file(path.join("in/link")).unwrap();
    let itself = fails(path, "type = \"copy\"\nfrom = \"in/a.csv\"\nto = \"in/a.csv\"\n");
    assert!(itself.contains("it is the file itself"), "{itself}");
    let exists =
        fails(path, "type = \"copy\"\nfrom = \"in/a.csv\"\nto = \"out/\"\nreplace = false\n");
    assert!(exists.contains("out/a.csv`: it exists"), "{exists}");
    assert_eq!(left(path), files(&[("in/a.csv", "a"), ("out/a.csv", "old")]));
}

#[test]
fn old_files_are_deleted_and_the_newest_are_kept() {
    is_exact(
        &[("log/a", ""), ("log/b", ""), ("other", "")],
        "type = \"delete\"\npath = \"log/*\"\n",
        &[("other", "")],
    );
    let folder = folder(&[("1", ""), ("2", ""), ("3", ""), ("4", "")]);
    let now = || SystemTime::from(SystemClock::default().now());
    for (name, days) in [("1", 40), ("2", 30), ("3", 20), ("4", 1)] {
        let file = fs::File::options().write(true).open(folder.path().join(name)).unwrap();
        file.set_modified(now() - Duration::from_secs(days * 86_400)).unwrap();
    }
    let path = folder.path();
    completes(path, "type = \"delete\"\npath = \"*\"\nolder_than = \"10d\"\nkeep = 2\n");
    assert_eq!(left(path), files(&[("3", ""), ("4", "")]));
    completes(path, "type = \"delete\"\npath = \"*\"\nolder_than = \"10d\"\n");
    assert_eq!(left(path), files(&[("4", "")]));
    completes(path, "type = \"delete\"\npath = \"nothing/*\"\n");
}

#[test]
fn parts_are_merged_in_order_with_one_header_and_removed() {
    is_exact(
        &[("p-1.csv", "id\n1\n2"), ("p-2.csv", ""), ("p-3.csv", "id\n3\n"), ("p-4.csv", "id\n")],
        "type = \"merge\"\nfrom = \"p-*.csv\"\nto = \"whole.csv\"\nheader = true\n",
        &[("whole.csv", "id\n1\n2\n3\n")],
    );
    is_exact(
        &[("a.bin", "1"), ("b.bin", "2")],
        "type = \"merge\"\nfrom = \"?.bin\"\nto = \"all.bin\"\nkeep = true\n",
        &[("a.bin", "1"), ("all.bin", "12"), ("b.bin", "2")],
    );
    let folder = folder(&[("p-1.csv", "id\n1\n"), ("p-2.csv", "name\nA\n")]);
    let keys = "type = \"merge\"\nfrom = \"p-*.csv\"\nto = \"whole.csv\"\nheader = true\n";
    let other = fails(folder.path(), keys);
    assert!(other.contains("p-2.csv`: its header is `name`"), "{other}");
    assert_eq!(left(folder.path()).len(), 2, "nothing is merged, and nothing removed");
}

#[test]
fn checksums_are_verified_in_every_form() {
    // RFC 1321 and FIPS 180: the digests of `abc`.
    let md5 = "900150983cd24fb0d6963f7d28e17f72";
    let sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d";
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let folder = folder(&[("abc", "abc"), ("abc.md5", &md5.to_uppercase()), ("abc.ok", "")]);
    let path = folder.path();
    fs::write(path.join("abc.sha1"), format!("{sha1} *./abc\n")).unwrap();
    fs::write(path.join("SUMS"), format!("00  other\n{sha256}  folder/abc\n")).unwrap();
    let verify = |keys: &str| format!("type = \"checksum\"\npath = \"abc\"\n{keys}\n");
    completes(path, &verify("algorithm = \"md5\""));
    completes(path, &verify("algorithm = \"sha1\""));
    completes(path, &verify("algorithm = \"ok\""));
    completes(path, &verify("file = \"SUMS\""));
    completes(path, &verify(&format!("digest = \"{sha256}\"")));
    let wrong = fails(path, &verify(&format!("digest = \"{sha1}\"")));
    assert!(wrong.contains(&format!("its sha256 is {sha256}, and {sha1} is expected")), "{wrong}");
    let missing = fails(path, &verify("algorithm = \"sha512\""));
    assert!(missing.contains("abc.sha512"), "{missing}");
    fs::write(path.join("SUMS"), format!("{sha256}  other\n")).unwrap();
    let nameless = fails(path, &verify("file = \"SUMS\""));
    assert!(nameless.contains("no line for a file of that name"), "{nameless}");
}

#[test]
fn a_written_checksum_is_verified_here_and_by_the_tools_of_the_system() {
    if needs(Service::Python).is_none() {
        return;
    }
    let folder = folder(&[("in/a b.csv", "abc"), ("in/c.csv", "")]);
    let path = folder.path();
    for algorithm in ["md5", "sha1", "sha256", "sha512"] {
        let keys =
            format!("type = \"checksum\"\npath = \"in/*.csv\"\nalgorithm = \"{algorithm}\"\n");
        completes(path, &format!("{keys}action = \"write\"\n"));
        completes(path, &keys);
        let checked = std::process::Command::new("python3")
            .args(["-c", PYTHON, algorithm])
            .current_dir(path.join("in"))
            .status()
            .unwrap();
        assert!(checked.success(), "{algorithm}");
    }
}

/// Checks the checksum of `a b.csv`.
const PYTHON: &str = "import hashlib, sys; name = sys.argv[1]\n\
    digest, file = open('a b.csv.' + name).read().strip().split('  ')\n\
    assert file == 'a b.csv' and digest == hashlib.new(name, open(file, 'rb').read()).hexdigest()";

#[test]
fn a_file_is_awaited_and_not_for_ever() {
    let folder = folder(&[("there", "")]);
    let path = folder.path();
    completes(path, "type = \"wait_for\"\npath = \"there\"\ntimeout = \"1h\"\nstable = \"0s\"\n");
    let late = fails(
        path,
        "type = \"wait_for\"\npath = \"not*\"\ntimeout = \"30ms\"\nstable = \"20ms\"\nevery = \"10ms\"\n",
    );
    assert!(late.contains("does not exist after 30ms"), "{late}");
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let keys = "type = \"wait_for\"\npath = \"late\"\ntimeout = \"1h\"\nstable = \"20ms\"\nevery = \"10ms\"\n";
    operator.registry().register(job(path, keys)).unwrap();
    let waiting = operator.start("job", JobParameters::new()).unwrap();
    operator.stop(waiting.id()).unwrap();
    let stopped = waiting.wait().unwrap();
    assert_eq!(stopped.status, BatchStatus::Stopped, "{:?}", stopped.failure);
    let waiting = operator.restart(stopped.id).unwrap();
    fs::write(path.join("late"), "now").unwrap();
    assert_eq!(waiting.wait().unwrap().status, BatchStatus::Completed);
}

/// Divides `text` by `keys` with a crash at each commit; returns the parts.
fn divided(text: &str, keys: &str) -> Vec<String> {
    let keys = format!("type = \"divide\"\nfrom = \"in.csv\"\nto = \"parts/p-*.csv\"\n{keys}\n");
    let mut first = None;
    for commit in 0..=4 {
        for point in [CommitPoint::Before, CommitPoint::After] {
            let folder = folder(&[("in.csv", text)]);
            let mut bench = TestBench::of(job(folder.path(), &keys));
            if commit > 0 {
                bench.crash_at(point, commit);
            }
            let mut done = bench.run();
            if done.status != BatchStatus::Completed {
                done = bench.restart();
            }
            assert_eq!(done.status, BatchStatus::Completed, "{commit} {:?}", done.failure);
            let found = left(folder.path());
            assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "{commit}");
        }
    }
    first.unwrap().into_iter().map(|(name, content)| format!("{name}={content}")).collect()
}

#[test]
fn a_file_is_divided_at_the_ends_of_its_lines_wherever_the_process_dies() {
    let text = "id,note\n1,a\n2,\"b\nb\"\n3,\"c\"\"c\"\n4,d";
    assert_eq!(
        divided(text, "lines = 2\nheader = true\nquoted = true\nkeep = false"),
        [
            "parts/p-00001.csv=id,note\n1,a\n2,\"b\nb\"\n",
            "parts/p-00002.csv=id,note\n3,\"c\"\"c\"\n4,d"
        ]
    );
    assert_eq!(
        divided("a\nbb\n\nccc\n", "bytes = 4"),
        ["in.csv=a\nbb\n\nccc\n", "parts/p-00001.csv=a\nbb\n", "parts/p-00002.csv=\nccc\n"]
    );
    assert_eq!(
        divided(
            "\"net\namount\",id\n1,2\n3,4\n",
            "lines = 1\nheader = true\nquoted = true\nkeep = false"
        ),
        [
            "parts/p-00001.csv=\"net\namount\",id\n1,2\n",
            "parts/p-00002.csv=\"net\namount\",id\n3,4\n"
        ]
    );
    assert_eq!(divided("", "lines = 9"), ["in.csv=", "parts/p-00001.csv="]);
    assert_eq!(divided("a\n", "lines = 9\nheader = true")[1], "parts/p-00001.csv=a\n");
    // Larger than what is read at once, and put together again.
    let long = "x".repeat(300_000);
    let text = format!("{long}\n{long}\n{long}\n");
    let parts = divided(&text, "lines = 1\nkeep = false");
    assert_eq!(parts.len(), 3);
    assert!(parts.iter().all(|part| part.len() == 300_001 + "parts/p-00001.csv=".len()));
}

#[test]
fn what_cannot_be_divided_is_refused_and_left() {
    let folder =
        folder(&[("in.csv", "a\nb\n"), ("old/p-0007.csv", "of another run"), ("in.csv.gz", "")]);
    let path = folder.path();
    let before = left(path);
    for (keys, what) in [
        (
            "from = \"in.csv\"\nto = \"old/p-*.csv\"\nlines = 1",
            "there is a file with the name of a part",
        ),
        ("from = \"in.csv\"\nto = \"*.csv\"\nlines = 1", "there is a file with the name of a part"),
        ("from = \"in.csv\"\nto = \"p.csv\"\nlines = 1", "has one `*`"),
        ("from = \"in.csv\"\nto = \"p-*-*.csv\"\nlines = 1", "has one `*`"),
        ("from = \"in.csv.gz\"\nto = \"p-*.csv\"\nlines = 1", "not compressed"),
        ("from = \"in.csv\"\nto = \"p-*.csv.gz\"\nlines = 1", "not compressed"),
        ("from = \"missing.csv\"\nto = \"p-*.csv\"\nlines = 1", "missing.csv"),
        ("from = \"*.csv\"\nto = \"p-*.csv\"\nlines = 1", "*.csv"),
    ] {
        let failed = fails(path, &format!("type = \"divide\"\n{keys}\n"));
        assert!(failed.contains(what), "{keys}: {failed}");
        assert_eq!(left(path), before, "{keys}");
    }
}

#[test]
fn a_part_that_another_run_wrote_meanwhile_is_not_replaced() {
    for (other, what) in [
        ("a\n", None),
        ("b\n", Some("another file")),
        ("a\nb\n", Some("another file")),
        ("", Some("another file")),
    ] {
        let folder = folder(&[("in.csv", "a\nb\n")]);
        let keys = "type = \"divide\"\nfrom = \"in.csv\"\nto = \"p-*.csv\"\nlines = 1\n";
        let mut bench = TestBench::of(job(folder.path(), keys));
        bench.crash_at(CommitPoint::After, 1);
        bench.run();
        fs::write(folder.path().join("p-00001.csv"), other).unwrap();
        let ended = bench.restart();
        let failure = ended.failure.map(|failure| failure.message);
        match what {
            None => assert_eq!(failure, None),
            Some(what) => {
                assert!(
                    failure.as_ref().is_some_and(|failure| failure.contains(what)),
                    "{failure:?}"
                );
                let kept = fs::read_to_string(folder.path().join("p-00001.csv")).unwrap();
                assert_eq!(kept, other);
            }
        }
    }
}
