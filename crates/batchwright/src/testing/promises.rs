//! The promises of readers and writers, as suites for parts of one's own.

use std::fmt::Debug;
use std::sync::Arc;

use super::{StepBench, TestBench};
use crate::error::ItemError;
use crate::execution::BatchStatus;
use crate::item::{ChunkTransaction, ItemReader, ItemWriter, ListReader, Total, forward_writer};
use crate::retry::RetryPolicy;
use crate::step::ChunkStepBuilder;
use crate::testing::CommitPoint;

/// Reads more items than any reader under test may have.
const READS_MAX: usize = 10_000;

/// How often a failed read of a reader that can read its record again is repeated.
const RETRIES_MAX: u32 = 3;

/// One result of a read, with the position after it as JSON.
#[derive(Debug, Clone, PartialEq)]
struct Read<T> {
    result: Result<Option<T>, String>,
    position: String,
}

/// Checks that a reader keeps the promises of [`ItemReader`]. `make` creates a reader of the same input at each call: of
/// some ten items, and, if the reader can fail, with a record that it cannot read.
///
/// The suite reads the input to its end, resumes it at every position, also after a failed read, and compares.
///
/// # Panics
///
/// Names the promise that the reader does not keep.
#[track_caller]
pub fn conformance_of_reader<R>(mut make: impl FnMut() -> R)
where
    R: ItemReader<Item: Debug + PartialEq + Clone>,
{
    let whole = reads_from(&mut make, None);
    let count = whole.len();
    assert!(count > 1, "the suite needs a reader with an input that is not empty");
    assert_eq!(
        whole,
        reads_from(&mut make, None),
        "two readers of the same input read different items or have different positions"
    );
    assert_eq!(
        whole[count - 1].position,
        whole[count - 2].position,
        "the read that finds the end of the input moves the position"
    );
    for (number, read) in whole.iter().enumerate().take(count - 1) {
        let rest = reads_from(&mut make, Some(&read.position));
        let expected = &whole[number + 1..];
        let after = match &read.result {
            Ok(_) => format!("item {}", number + 1),
            Err(error) => format!("record {}, whose read failed ({error})", number + 1),
        };
        assert!(
            rest == expected,
            "a reader that is opened at the position after {after} does not continue there:\n     it reads \
             {:?}\ninstead of {:?}",
            results(&rest),
            results(expected)
        );
    }
    check_start(&mut make);
    check_blocks(&mut make, &whole);
}

/// Blocks have the records that single reads have, and the position after a block is that after its last record.
#[track_caller]
fn check_blocks<R: ItemReader<Item: Debug + PartialEq + Clone>>(
    make: &mut impl FnMut() -> R,
    whole: &[Read<R::Item>],
) {
    for size in [1, 2, whole.len()] {
        let (bench, mut reader) = (StepBench::new(), make());
        if !reader.reads_blocks() {
            return;
        }
        reader.open(None, bench.scope()).expect("opened before");
        let (mut at, mut is_last) = (0, false);
        while !is_last {
            let mut block = reader.read_block(size).unwrap_or_else(|error| {
                panic!("a block cannot be read, but its records can: {error}")
            });
            is_last = block.is_last();
            let count = block.records();
            assert!(count == size || is_last, "a block of {size} records has {count}");
            let (mut items, mut results) = (Vec::new(), Vec::new());
            loop {
                let decoded = block.decode(&mut |item| items.push(item));
                results.extend(items.drain(..).map(|item| Ok(Some(item))));
                match decoded {
                    Ok(()) => break,
                    Err(error) => results.push(Err(error.to_string())),
                }
                assert!(results.len() <= count, "a failed record of a block is not consumed");
            }
            let expected = whole.get(at..at + count).unwrap_or_default();
            assert_eq!(
                results,
                self::results(expected),
                "a block has other records than single reads from record {} on",
                at + 1
            );
            at += count;
            let position = at.checked_sub(1).map(|last| whole[last].position.as_str());
            if let Some(position) = position.filter(|_| count > 0) {
                assert_eq!(json_of(&reader), position, "the position after a block of {count}");
            }
        }
        assert_eq!(at, whole.len() - 1, "the last block does not end the input");
        reader.close().expect("closed before");
    }
}

fn results<T: Clone>(reads: &[Read<T>]) -> Vec<Result<Option<T>, String>> {
    reads.iter().map(|read| read.result.clone()).collect()
}

/// Reads from `position` to the end, and passes over the records that cannot be read.
#[track_caller]
fn reads_from<R: ItemReader<Item: Debug + PartialEq>>(
    make: &mut impl FnMut() -> R,
    position: Option<&str>,
) -> Vec<Read<R::Item>> {
    let (bench, mut reader) = (StepBench::new(), make());
    let parsed = position.map(|json| {
        serde_json::from_str(json).unwrap_or_else(|error| {
            panic!("a position cannot be read from its own JSON `{json}`: {error}")
        })
    });
    reader
        .open(parsed, bench.scope())
        .unwrap_or_else(|error| panic!("the reader cannot be opened at {position:?}: {error}"));
    let opened_at = json_of(&reader);
    if let Some(position) = position {
        assert_eq!(opened_at, position, "a reader that is opened at a position has another one");
    }
    let (mut reads, mut before, mut done) = (Vec::new(), opened_at, reader.done());
    let mut retries = 0;
    loop {
        let result = reader.read().map_err(|error| error.to_string());
        let now = json_of(&reader);
        if let Err(error) = &result {
            let advanced = now != before;
            assert!(
                advanced != reader.rereads(),
                "after a failed read ({error}) the position has {}moved, but `rereads` is {}",
                if advanced { "" } else { "not " },
                reader.rereads()
            );
            if !advanced {
                retries += 1;
                if retries <= RETRIES_MAX {
                    continue;
                }
                reader.pass_over().unwrap_or_else(|error| {
                    panic!("the reader cannot pass over a record that it cannot read: {error}")
                });
                assert_ne!(json_of(&reader), before, "`pass_over` does not move the position");
            }
        }
        retries = 0;
        let position = json_of(&reader);
        assert_eq!(position, json_of(&reader), "`position` changes without a read");
        check_progress(&reader, done);
        done = reader.done();
        before.clone_from(&position);
        let ended = result == Ok(None);
        reads.push(Read { result, position });
        if ended {
            break;
        }
        assert!(reads.len() < READS_MAX, "the input does not end after {READS_MAX} reads");
    }
    reader.close().unwrap_or_else(|error| panic!("the reader cannot be closed: {error}"));
    reads
}

#[track_caller]
fn check_progress<R: ItemReader>(reader: &R, before: u64) {
    assert!(reader.done() >= before, "`done` decreases from {before} to {}", reader.done());
    if let Some(Total::Items(total) | Total::Bytes(total)) = reader.total() {
        assert!(reader.done() <= total, "`done` is {}, more than the total {total}", reader.done());
    }
}

/// A reader that has not been read is at the beginning, and an end without a read is none.
#[track_caller]
fn check_start<R: ItemReader<Item: Debug + PartialEq + Clone>>(make: &mut impl FnMut() -> R) {
    let bench = StepBench::new();
    let mut reader = make();
    reader.open(None, bench.scope()).expect("opened before");
    let position = json_of(&reader);
    reader.close().expect("closed before");
    let from_start = reads_from(make, Some(&position));
    let whole = reads_from(make, None);
    assert!(
        results(&from_start) == results(&whole),
        "a reader that is opened at the position of the beginning reads other items than one without a position"
    );
}

#[track_caller]
fn json_of<R: ItemReader>(reader: &R) -> String {
    serde_json::to_string(&reader.position())
        .unwrap_or_else(|error| panic!("a position cannot be written as JSON: {error}"))
}

/// Checks that a writer is exact: after every crash and restart, and after a write that is rolled back and done again, its
/// sink has each item once, in order.
///
/// `sink` creates an empty sink, `writer` a writer to it, and `written` returns the items that the sink has. The suite
/// writes `items` in chunks of two, with a crash before and after each commit, and with a failed attempt at each chunk.
///
/// # Panics
///
/// Names the crash or failure after which the sink has other items.
#[track_caller]
pub fn conformance_of_writer<T, S, W>(
    items: &[T],
    mut sink: impl FnMut() -> S,
    writer: impl Fn(&S) -> Result<W, ItemError> + Send + Sync + 'static,
    written: impl Fn(&S) -> Vec<T>,
) where
    T: Clone + Debug + PartialEq + Send + Sync + 'static,
    S: Send + Sync + 'static,
    W: ItemWriter<T> + 'static,
{
    let writer = Arc::new(writer);
    let chunks = items.len().div_ceil(2) as u64;
    let mut faults = vec![Fault::None];
    for chunk in 1..=chunks {
        faults.push(Fault::Crash(CommitPoint::Before, chunk));
        faults.push(Fault::Crash(CommitPoint::After, chunk));
        faults.push(Fault::FailedWrite(chunk));
    }
    for fault in faults {
        let place = Arc::new(sink());
        let (make, target) = (Arc::clone(&writer), Arc::clone(&place));
        let step = ChunkStepBuilder::new("write")
            .reader(ListReader::new(items.to_vec()))
            .writer_with(move |_| {
                Ok(FailsOnce { writer: make(&target)?, at: fault.failed_write() })
            })
            .chunk_size(2)
            .retry(RetryPolicy::attempts(2))
            .build();
        let mut bench = TestBench::of_step(step);
        if let Fault::Crash(point, commit) = fault {
            bench.crash_at(point, commit);
        }
        let mut ended = bench.run();
        if let Fault::Crash(..) = fault {
            ended = bench.restart();
        }
        assert_eq!(ended.status, BatchStatus::Completed, "after {fault}: {:?}", ended.failure);
        assert_eq!(written(&place), items, "after {fault} the sink has other items");
    }
}

/// What happens to an execution.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The process dies at a commit.
    Crash(CommitPoint, u64),
    /// The first attempt to write a chunk fails, after the chunk was written.
    FailedWrite(u64),
}

impl Fault {
    /// Returns the number of the write that fails.
    fn failed_write(self) -> Option<u64> {
        match self {
            Self::FailedWrite(chunk) => Some(chunk),
            _ => None,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("an execution without a failure"),
            Self::Crash(point, commit) => {
                write!(f, "a crash at commit {commit} ({point:?}) and a restart")
            }
            Self::FailedWrite(chunk) => write!(f, "a failed attempt at chunk {chunk} and a retry"),
        }
    }
}

/// A writer whose write number `at` fails once, after its work.
struct FailsOnce<W> {
    writer: W,
    at: Option<u64>,
}

impl<T, W: ItemWriter<T>> ItemWriter<T> for FailsOnce<W> {
    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.writer.write(items, chunk)?;
        match self.at {
            Some(1) => {
                self.at = None;
                Err("the suite fails this write".into())
            }
            at => {
                self.at = at.map(|left| left - 1);
                Ok(())
            }
        }
    }

    forward_writer!(writer);
}
