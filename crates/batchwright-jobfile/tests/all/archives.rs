//! Archives are made and extracted whole or not at all, wherever the process dies.
#![cfg(feature = "archive")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use batchwright::BatchStatus;
use batchwright::testing::{CommitPoint, TestBench};
use batchwright_jobfile::JobFolder;
use batchwright_testkit::{Service, needs};
use tempfile::TempDir;

fn bench(folder: &Path, keys: &str) -> TestBench {
    let file = folder.join("job.toml");
    fs::write(&file, format!("name = \"job\"\n[[steps]]\nname = \"step\"\n{keys}")).unwrap();
    let job = JobFolder::new(folder).load(&file).unwrap();
    fs::remove_file(file).unwrap();
    TestBench::of(Arc::into_inner(job).unwrap())
}

fn completes(folder: &Path, keys: &str) {
    let mut bench = bench(folder, keys);
    bench.crash_at(CommitPoint::Before, 1);
    let mut done = bench.run();
    if done.status != BatchStatus::Completed {
        done = bench.restart();
    }
    assert_eq!(done.status, BatchStatus::Completed, "{keys} {:?}", done.failure);
}

fn fails(folder: &Path, keys: &str) -> String {
    bench(folder, keys).run().failure.expect("the step fails").message
}

fn python(folder: &Path, program: &str) -> String {
    let output =
        Command::new("python3").args(["-c", program]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const FORMS: [&str; 7] = ["zip", "tar", "tgz", "tar.gz", "tar.zst", "tar.xz", "tar.bz2"];

fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    fs::write(folder.path().join("in/a.csv"), "a".repeat(5_000_000)).unwrap();
    fs::write(folder.path().join("in/b ä.csv"), "").unwrap();
    fs::write(folder.path().join("in/c.txt"), "c").unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_archived_is_what_is_extracted() {
    for form in FORMS {
        let folder = filled();
        completes(
            folder.path(),
            &format!("type = \"archive\"\nfrom = \"in/*.csv\"\nto = \"all.{form}\"\n"),
        );
        completes(
            folder.path(),
            &format!("type = \"extract\"\nfrom = \"all.{form}\"\nto = \"out/deep\"\n"),
        );
        assert_eq!(names(&folder.path().join("out/deep")), ["a.csv", "b ä.csv"], "{form}");
        let a = fs::read_to_string(folder.path().join("out/deep/a.csv")).unwrap();
        assert!(a == "a".repeat(5_000_000), "{form}");
    }
}

#[test]
fn python_reads_and_makes_the_same_archives() {
    if needs(Service::Python).is_none() {
        return;
    }
    let folder = filled();
    for form in ["zip", "tar", "tgz"] {
        completes(
            folder.path(),
            &format!("type = \"archive\"\nfrom = \"in/*\"\nto = \"all.{form}\"\n"),
        );
    }
    let found = python(
        folder.path(),
        r#"
import tarfile, zipfile
with zipfile.ZipFile("all.zip") as book:
    assert book.testzip() is None
    print(sorted((one.filename, one.file_size) for one in book.infolist()))
for name in ["all.tar", "all.tgz"]:
    with tarfile.open(name) as book:
        print(sorted((one.name, one.size) for one in book), book.extractfile("c.txt").read())
import io
with zipfile.ZipFile("theirs.zip", "w", zipfile.ZIP_DEFLATED) as book:
    book.writestr("deep/x.csv", "x" * 100); book.writestr("y.txt", "y")
with tarfile.open("theirs.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as book:
    for name in ["./deep/" + "long" * 50 + ".csv", "y.txt"]:
        one = tarfile.TarInfo(name); one.size = 3; book.addfile(one, io.BytesIO(b"abc"))
"#,
    );
    let all = "[('a.csv', 5000000), ('b ä.csv', 0), ('c.txt', 1)]";
    assert_eq!(found, format!("{all}\n{all} b'c'\n{all} b'c'\n"));
    for archive in ["theirs.zip", "theirs.tar.gz"] {
        completes(
            folder.path(),
            &format!(
                "type = \"extract\"\nfrom = \"{archive}\"\nto = \"{archive}-out\"\nonly = \"*.csv\"\n"
            ),
        );
        assert_eq!(names(&folder.path().join(format!("{archive}-out"))), ["deep"]);
        assert_eq!(names(&folder.path().join(format!("{archive}-out/deep"))).len(), 1);
    }
}

#[test]
fn an_archive_that_is_hostile_or_damaged_leaves_nothing() {
    if needs(Service::Python).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    python(
        folder.path(),
        r#"
import io, tarfile, zipfile
for number, name in enumerate(["../out.txt", "/tmp/out.txt", "a/../../out.txt", "a\\b.txt"]):
    with zipfile.ZipFile(f"path{number}.zip", "w") as book:
        book.writestr("good.txt", "good"); book.writestr(name, "bad")
    with tarfile.open(f"path{number}.tar", "w") as book:
        for one in ["good.txt", name]:
            info = tarfile.TarInfo(one); info.size = 3; book.addfile(info, io.BytesIO(b"bad"))
with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as book:
    book.writestr("good.txt", "good"); book.writestr("large.txt", b"0" * 30_000_000)
with tarfile.open("link.tar", "w") as book:
    info = tarfile.TarInfo("link"); info.type = tarfile.SYMTYPE; info.linkname = "/etc/passwd"; book.addfile(info)
with zipfile.ZipFile("twice.zip", "w") as book:
    book.writestr("a.txt", "1"); book.writestr("./a.txt", "2")
whole = open("bomb.zip", "rb").read()
open("cut.zip", "wb").write(whole[:len(whole) // 2])
damaged = bytearray(whole); damaged[len(whole) // 2] ^= 255
open("damaged.zip", "wb").write(damaged)
with tarfile.open("whole.tar.gz", "w:gz") as book:
    info = tarfile.TarInfo("a"); info.size = 100_000; book.addfile(info, io.BytesIO(b"abcdefghij" * 10_000))
whole = open("whole.tar.gz", "rb").read()
open("cut.tar.gz", "wb").write(whole[:len(whole) // 2])
open("text.zip", "w").write("no archive")
"#,
    );
    let mut cases = vec![
        ("bomb.zip".to_owned(), "more than 20000000 bytes together"),
        ("link.tar".to_owned(), "it is a link"),
        ("twice.zip".to_owned(), "it is there twice"),
        ("cut.zip".to_owned(), "cut.zip"),
        ("damaged.zip".to_owned(), "damaged.zip"),
        ("cut.tar.gz".to_owned(), "cut.tar.gz"),
        ("text.zip".to_owned(), "text.zip"),
        ("none.zip".to_owned(), "none.zip"),
        ("none.rar".to_owned(), "ends neither with"),
    ];
    for number in 0..4 {
        cases.push((format!("path{number}.zip"), "its path leaves the folder"));
        cases.push((format!("path{number}.tar"), "its path leaves the folder"));
    }
    for (archive, what) in cases {
        let keys = format!(
            "type = \"extract\"\nfrom = \"{archive}\"\nto = \"out\"\nbytes_max = 20_000_000\n"
        );
        let message = fails(folder.path(), &keys);
        assert!(message.contains(what), "{archive}: {message}");
        assert_eq!(names(&folder.path().join("out")), Vec::<String>::new(), "{archive}");
    }
}

#[test]
fn existing_files_are_kept_if_asked_to() {
    let folder = filled();
    completes(folder.path(), "type = \"archive\"\nfrom = \"in/c.txt\"\nto = \"all.zip\"\n");
    fs::create_dir(folder.path().join("out")).unwrap();
    fs::write(folder.path().join("out/c.txt"), "old").unwrap();
    let keys = "type = \"extract\"\nfrom = \"all.zip\"\nto = \"out\"\n";
    let kept = fails(folder.path(), &format!("{keys}replace = false\n"));
    assert!(kept.contains("it exists"), "{kept}");
    completes(folder.path(), keys);
    assert_eq!(fs::read_to_string(folder.path().join("out/c.txt")).unwrap(), "c");
}
