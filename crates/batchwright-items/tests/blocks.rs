//! Several threads that decode, process and encode change nothing but the time: outputs, dead letters, skip records and
//! counters are those of one thread, whatever the input contains and wherever the process dies.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use batchwright::execution::{JobExecution, StepExecution};
use batchwright::item::{
    ChunkTransaction, Encoder, Ending, ItemReader, ItemWriter, PreparedCommit,
};
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::scope::StepScope;
use batchwright::testing::{CommitPoint, TestBench, conformance_of_reader};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, MemoryRepository,
};
use batchwright_items::format::csv::{CsvFormat, CsvReader, CsvWriter};
use batchwright_items::format::json_lines::{JsonLinesReader, JsonLinesWriter};
use batchwright_items::format::lines::{DecodedLines, LineInput};
use batchwright_items::transport::MemorySource;
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
        .skip(SkipPolicy::limit(limit).on(Classifier::all()))
        .dead_letters(&dead);
    let mut bench = match json {
        true => TestBench::of_step(step.writer(JsonLinesWriter::new(&output)).build()),
        false => TestBench::of_step(step.writer(CsvWriter::new(&output)).build()),
    };
    if let Some((point, commit)) = shape.crash {
        bench.crash_at(point, commit);
    }
    let mut executions = Vec::new();
    let mut ended = bench.run();
    loop {
        let skips = bench.repository().skips(ended.id).unwrap();
        let counters = format!("{:?} {skips:?}", bench.step("copy").counters);
        let failure = ended.failure.map(|failure| failure.message).unwrap_or_default();
        executions.push((ended.status, counters, failure.replace(path(folder.path()), "")));
        if ended.status == BatchStatus::Completed || executions.len() == 2 {
            break;
        }
        ended = bench.restart();
    }
    let read = |file: &Path| std::fs::read(file).unwrap_or_default();
    let partial = std::fs::read_dir(folder.path()).unwrap().count();
    assert!(partial <= 4, "no file remains but the output and the dead letters");
    Outcome { executions, output: read(&output), dead_letters: read(&dead) }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
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
    let text = "id,name\n1,a\n\"2\",\"b\nc\"\r\nx,d\n\n3,e\n4\n5,f";
    conformance_of_reader(|| csv(text.as_bytes().to_vec()));
    let cut = text.find("\"2\"").unwrap() as u64;
    conformance_of_reader(|| csv(text.as_bytes().to_vec()).bytes(cut, text.len() as u64));
    let latin = CsvFormat::new().encoding("windows-1252").unwrap();
    let bytes = b"id,name\n1,\xe4\n2,\"\xf6,\"\n".to_vec();
    conformance_of_reader(|| csv(bytes.clone()).format(latin.clone()));
    let text = "{\"id\":1,\"name\":\"a\"}\n\n{}\n{\"id\":2,\"name\":\"b\"}";
    conformance_of_reader(|| json(text.as_bytes().to_vec()));
    let numbers = |text: &str| Ok(text.parse::<u32>()?);
    let source = Arc::new(MemorySource::new("numbers", *b"1\nx\n3\n\n5"));
    conformance_of_reader(|| DecodedLines::of(LineInput::of(source.clone()), numbers));
}

/// A writer whose commits wait until the chunks after them are processed, so that these are ready when it takes the next.
struct Late<W> {
    writer: W,
    /// Number of items that were processed.
    processed: Arc<AtomicU64>,
    /// Number of items that were written, and of commits.
    written: u64,
    commits: Arc<AtomicU64>,
    /// Whether it waits: other threads process.
    waits: bool,
}

impl<W: ItemWriter<u64>> ItemWriter<u64> for Late<W> {
    type Position = W::Position;

    fn open(
        &mut self,
        position: Option<W::Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.writer.open(position, scope)
    }

    fn write(&mut self, items: &[u64], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.written += items.len() as u64;
        self.writer.write(items, chunk)
    }

    fn encoder(&self) -> Option<Encoder<u64>> {
        self.writer.encoder()
    }

    fn write_encoded(
        &mut self,
        items: &[u64],
        bytes: &[u8],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        self.written += items.len() as u64;
        self.writer.write_encoded(items, bytes, chunk)
    }

    fn position(&mut self) -> Result<W::Position, ItemError> {
        let two_chunks_more = (self.written * 3 / 2 + 20).min(2_980);
        while self.waits && self.processed.load(Ordering::SeqCst) < two_chunks_more {
            std::thread::yield_now();
        }
        self.writer.position()
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.writer.committed()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        self.writer.close(ending)
    }
}

/// Chunks of ten of 3,000 numbers, of which every third is filtered out, and `bad` is not a number.
fn commits_of(threads: usize, bad: Option<u64>) -> (u64, JobExecution, StepExecution, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    let lines =
        (1..=3_000u64).map(|n| if Some(n) == bad { "x\n".into() } else { format!("{n}\n") });
    let source = MemorySource::new("numbers", lines.collect::<String>().into_bytes());
    let (processed, commits) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count, made, path) = (Arc::clone(&processed), Arc::clone(&commits), output.clone());
    let decode = |text: &str| Ok(text.parse::<u64>()?);
    let step = ChunkStepBuilder::new("copy")
        .reader(DecodedLines::of(LineInput::of(Arc::new(source)), decode))
        .process(move |n: &u64| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok((!n.is_multiple_of(3)).then_some(*n))
        })
        .writer_with(move |_| {
            let (processed, commits) = (Arc::clone(&processed), Arc::clone(&made));
            let (writer, waits) = (JsonLinesWriter::new(&path), threads > 1);
            Ok(Late { writer, processed, written: 0, commits, waits })
        })
        .chunk_size(10)
        .parallelism(threads)
        .read_ahead(4)
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    let ended = operator.run("job", JobParameters::new()).unwrap();
    let step = operator.queries().steps(ended.id).unwrap().pop().unwrap();
    (commits.load(Ordering::SeqCst), ended, step, std::fs::read(&output).unwrap_or_default())
}

#[test]
fn chunks_that_are_ready_are_committed_together_and_counted_one_by_one() {
    let (commits, _, one, output) = commits_of(1, None);
    assert_eq!((commits, one.counters.commit), (300, 300));
    let (commits, _, step, same) = commits_of(2, None);
    assert!(commits < 300, "some of {commits} commits have several chunks");
    assert_eq!((step.counters, step.status), (one.counters, BatchStatus::Completed));
    assert!(output == same && output.len() > 8_000);

    // A record that fails the step fails it after all chunks before its own.
    let (_, ended, step, _) = commits_of(2, Some(2_995));
    assert_eq!(ended.status, BatchStatus::Failed);
    assert_eq!((step.counters.commit, step.counters.write), (299, 2_990 - 2_990 / 3));
    let failure = ended.failure.unwrap().message;
    assert!(failure.contains("line 2995"), "{failure}");
}
