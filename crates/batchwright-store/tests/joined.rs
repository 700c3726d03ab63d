//! Chunks that are ready share one commit, and with it the syncs of the store and of the output.
#![cfg(feature = "sqlite")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use batchwright::execution::{JobExecution, StepExecution};
use batchwright::item::{ChunkTransaction, Encoder, Ending, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;
use batchwright::{BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters};
use batchwright_items::format::json_lines::JsonLinesWriter;
use batchwright_items::format::lines::{DecodedLines, LineInput};
use batchwright_items::transport::MemorySource;
use batchwright_store::SqlRepository;

/// Number of chunks without items that were encoded: their bytes would be written with those of the chunk before.
static EMPTY: AtomicU64 = AtomicU64::new(0);

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
        let mut encode = self.writer.encoder()?;
        Some(Box::new(move |items, bytes| {
            if items.is_empty() {
                EMPTY.fetch_add(1, Ordering::SeqCst);
            }
            encode(items, bytes)
        }))
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
    // A store that survives power loss, whose commits cost syncs.
    let store = SqlRepository::sqlite(folder.path().join("store.db")).unwrap();
    let operator = JobOperator::new(Arc::new(store));
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
    assert_eq!(EMPTY.load(Ordering::SeqCst), 0, "a chunk without items is not encoded");

    // A record that fails the step fails it after all chunks before its own.
    let (_, ended, step, _) = commits_of(2, Some(2_995));
    assert_eq!(ended.status, BatchStatus::Failed);
    assert_eq!((step.counters.commit, step.counters.write), (299, 2_990 - 2_990 / 3));
    let failure = ended.failure.unwrap().message;
    assert!(failure.contains("line 2995"), "{failure}");
}
