//! Compressed files are read and written like plain ones: exact after any crash, and the same for other people's tools.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use batchwright::execution::JobExecution;
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::testing::{CommitPoint, TestBench, conformance_of_reader};
use batchwright::{BatchStatus, ChunkStepBuilder, ItemError, Job, Sequence};
use batchwright_items::format::csv::{CsvReader, CsvWriter};
use batchwright_items::format::lines::{LineReader, LineWriter};
use batchwright_items::transport::{Encode, FileWriter};
use batchwright_testkit::{Service, needs};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: u32,
    name: String,
}

/// Number of records, and of records in a chunk.
const RECORDS: u32 = 50;
const CHUNK: usize = 7;

/// Returns the extensions of the compressions of this build.
fn extensions() -> impl Iterator<Item = &'static str> {
    let all = [
        ("gz", cfg!(feature = "gzip")),
        ("zst", cfg!(feature = "zstd")),
        ("bz2", cfg!(feature = "bzip2")),
        ("xz", cfg!(feature = "xz")),
        ("lz4", cfg!(feature = "lz4")),
    ];
    all.into_iter().filter(|(_, is_there)| *is_there).map(|(extension, _)| extension)
}

fn plain(folder: &Path) -> PathBuf {
    let path = folder.join("plain.csv");
    let rows = (0..RECORDS).map(|id| format!("{id},\"a name, {}\n\"\n", id * 7919));
    std::fs::write(&path, format!("id,name\n{}", rows.collect::<String>())).unwrap();
    path
}

fn job(from: &Path, to: &Path, threads: usize) -> Job {
    let step = ChunkStepBuilder::new("copy")
        .reader(CsvReader::<Row>::new(from))
        .writer(CsvWriter::new(to))
        .chunk_size(CHUNK)
        .parallelism(threads);
    Job::builder("copy").step(step.build()).build().unwrap()
}

fn copy(from: &Path, to: &Path, threads: usize) -> JobExecution {
    TestBench::of(job(from, to, threads)).run()
}

/// Copies and expects success.
fn copied(from: &Path, to: &Path) -> Vec<u8> {
    let done = copy(from, to, 1);
    assert_eq!(done.status, BatchStatus::Completed, "{}: {:?}", to.display(), done.failure);
    std::fs::read(to).unwrap()
}

#[test]
fn a_compressed_file_has_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let plain = plain(folder.path());
    let expected = copied(&plain, &folder.path().join("expected.csv"));
    for extension in extensions() {
        let compressed = folder.path().join(format!("rows.csv.{extension}"));
        let bytes = copied(&plain, &compressed);
        assert_ne!(bytes, expected, "{extension} compresses");
        let back = copied(&compressed, &folder.path().join(format!("{extension}.csv")));
        assert!(back == expected, "{extension}");
    }
}

#[test]
fn a_compressed_file_without_rows_is_a_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    for extension in extensions() {
        let (empty, back) =
            (folder.path().join(format!("empty.{extension}")), folder.path().join("back"));
        for (from, to) in [(None, &empty), (Some(&empty), &back)] {
            let reader = from.map_or_else(|| LineReader::new("/dev/null"), LineReader::new);
            let step = ChunkStepBuilder::new("copy").reader(reader).writer(LineWriter::new(to));
            let done =
                TestBench::of(Job::builder("copy").step(step.build()).build().unwrap()).run();
            assert_eq!(done.status, BatchStatus::Completed, "{extension} {:?}", done.failure);
        }
        assert!(std::fs::metadata(&empty).unwrap().len() > 0);
        assert_eq!(std::fs::read(&back).unwrap(), b"");
    }
}

#[test]
fn a_damaged_member_is_no_end_of_the_input_even_when_failed_reads_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let plain = plain(folder.path());
    for extension in extensions() {
        let compressed = folder.path().join(format!("rows.csv.{extension}"));
        let mut bytes = copied(&plain, &compressed);
        let middle = bytes.len() / 2;
        bytes[middle..middle + 8].fill(0x55);
        std::fs::write(&compressed, bytes).unwrap();
        for threads in [1, 2] {
            let step = ChunkStepBuilder::new("copy")
                .reader(CsvReader::<Row>::new(&compressed))
                .writer(CsvWriter::new(folder.path().join("out.csv")))
                .parallelism(threads)
                .skip(SkipPolicy::limit(1_000).on(Classifier::all()));
            let done =
                TestBench::of(Job::builder("copy").step(step.build()).build().unwrap()).run();
            assert_eq!(done.status, BatchStatus::Failed, "{extension} on {threads}");
        }
    }
}

#[test]
fn a_crash_at_any_commit_leaves_the_bytes_of_a_run_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let plain = plain(folder.path());
    for extension in extensions() {
        let input = folder.path().join(format!("input.csv.{extension}"));
        copied(&plain, &input);
        let expected = copied(&input, &folder.path().join(format!("expected.csv.{extension}")));
        for (point, commit, threads) in (1..=u64::from(RECORDS).div_ceil(CHUNK as u64))
            .flat_map(|commit| [(CommitPoint::Before, commit), (CommitPoint::After, commit)])
            .flat_map(|(point, commit)| [(point, commit, 1), (point, commit, 2)])
        {
            let output =
                folder.path().join(format!("{commit}-{point:?}-{threads}.csv.{extension}"));
            let mut bench = TestBench::of(job(&input, &output, threads));
            bench.crash_at(point, commit);
            bench.run();
            let done = bench.restart();
            assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
            assert!(std::fs::read(&output).unwrap() == expected, "{}", output.display());
        }
    }
}

#[test]
fn readers_of_compressed_files_keep_the_promises_of_readers() {
    let folder = tempfile::tempdir().unwrap();
    let plain = plain(folder.path());
    for extension in extensions() {
        let compressed = folder.path().join(format!("rows.csv.{extension}"));
        copied(&plain, &compressed);
        conformance_of_reader(|| CsvReader::<Row>::new(&compressed));
        conformance_of_reader(|| LineReader::new(&compressed));
    }
}

#[test]
fn a_part_of_a_compressed_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plain = plain(folder.path());
    for extension in extensions() {
        let compressed = folder.path().join(format!("rows.csv.{extension}"));
        copied(&plain, &compressed);
        let step = ChunkStepBuilder::new("copy")
            .reader(CsvReader::<Row>::new(&compressed).bytes(8, 100))
            .writer(CsvWriter::new(folder.path().join("part.csv")))
            .build();
        let job = Job::builder("copy").step(step).build().unwrap();
        let failure = TestBench::of(job).run().failure.unwrap();
        assert!(failure.message.contains("a compressed file is read as a whole"), "{failure:?}");
    }
}

#[test]
fn a_file_that_is_cut_or_damaged_fails_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let plain = plain(folder.path());
    for extension in extensions() {
        let compressed = folder.path().join(format!("rows.csv.{extension}"));
        let bytes = copied(&plain, &compressed);
        for (number, wrong) in
            [&bytes[..bytes.len() - 5], &bytes[..40], &bytes[..5], b"not compressed\n"]
                .into_iter()
                .enumerate()
        {
            let (input, output) = (
                folder.path().join(format!("wrong.csv.{extension}")),
                folder.path().join(format!("{extension}-{number}.csv")),
            );
            std::fs::write(&input, wrong).unwrap();
            let failed = copy(&input, &output, 2);
            assert_eq!(failed.status, BatchStatus::Failed, "{extension} {number}");
            let message = failed.failure.unwrap().message;
            assert!(message.contains(&format!("wrong.csv.{extension}")), "{message}");
            assert!(!output.exists());
        }
    }
}

/// Writes half a mebibyte of zeros for each number, and no line end.
#[derive(Debug, Clone)]
struct Zeros;

impl Encode<u64> for Zeros {
    fn encode(&mut self, items: &[u64], _: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        bytes.resize(bytes.len() + items.len() * 512 * 1024, b'0');
        Ok(())
    }
}

#[test]
fn a_small_file_that_becomes_large_is_refused_before_it_is_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    for extension in extensions() {
        let compressed = folder.path().join(format!("zeros.{extension}"));
        let step = ChunkStepBuilder::new("zeros")
            .reader(Sequence::to(100))
            .writer(FileWriter::encoding(&compressed, Zeros))
            .chunk_size(50);
        let done = TestBench::of(Job::builder("zeros").step(step.build()).build().unwrap()).run();
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        let step = ChunkStepBuilder::new("lines")
            .reader(LineReader::new(&compressed))
            .writer(LineWriter::new(folder.path().join("lines")));
        let failed = TestBench::of(Job::builder("lines").step(step.build()).build().unwrap()).run();
        let failure = failed.failure.unwrap();
        assert!(failure.message.contains("longer than"), "{extension} {failure:?}");
    }
}

/// Runs `program` with the file at `from` as its input and the file at `to` as its output.
fn pipe(program: &[&str], from: &Path, to: &Path) {
    let (input, output) = (std::fs::File::open(from).unwrap(), std::fs::File::create(to).unwrap());
    let status = Command::new(program[0])
        .args(&program[1..])
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .status()
        .unwrap();
    assert!(status.success(), "{program:?}");
}

/// Exchanges files with the programs that compress and decompress.
fn exchange(extension: &str, compress: &[&str], decompress: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let plain = plain(folder.path());
    let expected = copied(&plain, &folder.path().join("expected.csv"));
    let (ours, theirs) = (
        folder.path().join(format!("ours.csv.{extension}")),
        folder.path().join(format!("theirs.csv.{extension}")),
    );
    copied(&plain, &ours);
    let opened = folder.path().join("opened.csv");
    pipe(decompress, &ours, &opened);
    assert!(std::fs::read(&opened).unwrap() == expected, "{decompress:?} reads ours");
    pipe(compress, &plain, &theirs);
    let back = copied(&theirs, &folder.path().join("back.csv"));
    assert!(back == expected, "{compress:?} is read here");
}

/// A program that passes its input through the function of a module of Python.
fn python(module: &str, function: &str) -> Vec<String> {
    let text = format!(
        "import sys, {module}; sys.stdout.buffer.write({module}.{function}(sys.stdin.buffer.read()))"
    );
    vec!["python3".to_owned(), "-c".to_owned(), text]
}

#[test]
fn python_reads_our_files_and_we_read_those_of_python() {
    if needs(Service::Python).is_none() {
        return;
    }
    for (extension, module) in [("gz", "gzip"), ("bz2", "bz2"), ("xz", "lzma")] {
        if extensions().any(|one| one == extension) {
            let (compress, decompress) = (python(module, "compress"), python(module, "decompress"));
            exchange(
                extension,
                &compress.iter().map(String::as_str).collect::<Vec<_>>(),
                &decompress.iter().map(String::as_str).collect::<Vec<_>>(),
            );
        }
    }
}

#[test]
fn zstd_and_lz4_read_our_files_and_we_read_theirs() {
    if needs(Service::Compressors).is_none() {
        return;
    }
    for (extension, program) in [("zst", "zstd"), ("lz4", "lz4")] {
        if extensions().any(|one| one == extension) {
            exchange(extension, &[program, "-c"], &[program, "-d", "-c"]);
        }
    }
}
