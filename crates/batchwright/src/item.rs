//! The three parts of a chunk step as traits: reader, processor and writer.
//!
//! ```
//! use batchwright::item::{AsyncItemReader, AsyncReader, ItemProcessor, ItemReader, ListReader, Total};
//! use batchwright::item::{Choice, CompositeWriter, Deliver, DeliveryWriter, FlatWriter, NoWriter};
//! use batchwright::{ChunkStepBuilder, ItemError};
//!
//! /// Splits a line into words.
//! #[derive(Clone)]
//! struct Words;
//!
//! impl ItemProcessor<String> for Words {
//!     type Output = Vec<String>;
//!
//!     fn process(&self, line: &String) -> Result<Option<Vec<String>>, ItemError> {
//!         Ok((!line.is_empty()).then(|| line.split(' ').map(str::to_owned).collect()))
//!     }
//! }
//!
//! /// Sends words.
//! #[derive(Clone)]
//! struct Send;
//!
//! impl Deliver<String> for Send {
//!     fn deliver(&mut self, words: &[String], key: &str) -> Result<(), ItemError> {
//!         println!("{key}: {words:?}");
//!         Ok(())
//!     }
//! }
//!
//! let lines = ListReader::new(vec!["one two".to_owned(), "three".to_owned()]);
//! let step = ChunkStepBuilder::new("words")
//!     .reader(lines.clone())
//!     .processor(Words)
//!     .writer(FlatWriter::new(DeliveryWriter::new(Send)))
//!     .build();
//!
//! // The long lines to one writer, all others to none.
//! let step = ChunkStepBuilder::new("long")
//!     .reader(lines.clone())
//!     .writer(CompositeWriter::choosing(
//!         |line: &String| if line.len() > 5 { Choice::First } else { Choice::Neither },
//!         NoWriter::new(),
//!         NoWriter::new(),
//!     ))
//!     .build();
//!
//! /// An asynchronous reader as one that blocks, for a unit test.
//! fn blocking<R: AsyncItemReader<Item: 'static, Position: 'static>>(reader: R) -> AsyncReader<R> {
//!     AsyncReader::new(reader)
//! }
//! assert!(!matches!(lines.total(), Some(Total::Bytes(_))));
//! ```

mod adapt;
#[cfg(feature = "async")]
mod asynchronous;
mod block;
mod channel;
mod composite;
mod dead_letter;
mod deliver;
mod factory;
mod file_output;
mod forward;
mod keyed;
mod list;
mod open_paths;
mod peek;
mod sequence;
mod series;
mod transaction;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use adapt::{FlatWriter, FunctionReader, IteratorReader, ProcessorChain};
#[cfg(feature = "async")]
pub use asynchronous::{
    AsyncItemReader, AsyncItemWriter, AsyncProcessor, AsyncReader, AsyncWriter, Page, PagePosition,
    SinkWriter, StreamReader,
};
pub use block::{Block, Encoder};
pub use channel::ChannelReader;
pub use composite::{Choice, Choose, CompositePosition, CompositeWriter, Everything};
pub(crate) use dead_letter::DeadLetterFile;
pub use deliver::{Deliver, DeliveryWriter};
pub(crate) use factory::{Factory, cloning, guarded};
pub(crate) use file_output::is_growing;
pub use file_output::{FileOutput, FilePosition, stable_hash, stable_hash_after};
pub(crate) use forward::forward_writer;
pub use keyed::KeyedReader;
pub use list::{ListReader, ListWriter, NoWriter};
pub use open_paths::{OpenPath, PathUse};
pub use peek::PeekableReader;
pub use sequence::Sequence;
pub use series::{FromInput, SeriesPosition, SeriesReader};
pub use transaction::ChunkTransaction;

use crate::error::ItemError;
use crate::policy::Completion;
use crate::scope::StepScope;

/// The size of an input, for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// Number of items.
    Items(u64),
    /// Number of bytes.
    Bytes(u64),
}

/// Acknowledges to a queue what was read from it and committed. `P` is the position of the reader.
///
/// A queue cannot be read from a position: it delivers again what was not acknowledged, perhaps in another order. When the
/// process dies between a commit and its acknowledgement, the queue delivers again what was committed; the reader recognizes
/// it by what its position says. So a position identifies the records before it that are not acknowledged yet.
///
/// ```
/// use std::collections::VecDeque;
/// use std::sync::{Arc, Mutex};
///
/// use batchwright::item::{Acknowledge, ItemReader};
/// use batchwright::scope::StepScope;
/// use batchwright::ItemError;
/// use serde::{Deserialize, Serialize};
///
/// /// Jobs that wait, and those that were fetched.
/// #[derive(Default)]
/// struct Jobs {
///     waiting: VecDeque<u64>,
///     fetched: Vec<u64>,
/// }
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// struct Position {
///     /// The jobs that were read and may come again.
///     unacknowledged: Vec<u64>,
/// }
///
/// struct JobReader {
///     jobs: Arc<Mutex<Jobs>>,
///     position: Position,
/// }
///
/// impl ItemReader for JobReader {
///     type Item = u64;
///     type Position = Position;
///
///     fn open(&mut self, position: Option<Position>, _: &StepScope) -> Result<(), ItemError> {
///         self.position = position.unwrap_or_default();
///         Ok(())
///     }
///
///     fn read(&mut self) -> Result<Option<u64>, ItemError> {
///         let mut jobs = self.jobs.lock().unwrap();
///         while let Some(job) = jobs.waiting.pop_front() {
///             if self.position.unacknowledged.contains(&job) {
///                 continue; // It was committed before the restart.
///             }
///             jobs.fetched.push(job);
///             self.position.unacknowledged.push(job);
///             return Ok(Some(job));
///         }
///         Ok(None)
///     }
///
///     fn position(&self) -> Position {
///         self.position.clone()
///     }
///
///     fn acknowledger(&self) -> Option<Box<dyn Acknowledge<Position>>> {
///         Some(Box::new(Acknowledger(Arc::clone(&self.jobs))))
///     }
/// }
///
/// struct Acknowledger(Arc<Mutex<Jobs>>);
///
/// impl Acknowledge<Position> for Acknowledger {
///     fn acknowledge(&mut self, position: Position) -> Result<(), ItemError> {
///         let mut jobs = self.0.lock().unwrap();
///         jobs.fetched.retain(|job| !position.unacknowledged.contains(job));
///         Ok(())
///     }
///
///     fn position_after(&self, position: Option<Position>, records: u64) -> Position {
///         let mut position = position.unwrap_or_default();
///         let jobs = self.0.lock().unwrap();
///         let next = jobs.fetched.iter().filter(|job| !position.unacknowledged.contains(job));
///         let next: Vec<u64> = next.take(records as usize).copied().collect();
///         position.unacknowledged.extend(next);
///         position
///     }
/// }
/// ```
pub trait Acknowledge<P>: Send {
    /// Removes from the queue what was read before `position`, which was committed.
    ///
    /// # Errors
    ///
    /// The step fails and stays restartable.
    fn acknowledge(&mut self, position: P) -> Result<(), ItemError>;

    /// Returns the position `records` records after `position`; `None` is the beginning. All of them were read, and those before
    /// `position` may be acknowledged.
    fn position_after(&self, position: Option<P>, records: u64) -> P;
}

/// The source of the items of a chunk step.
///
/// Every step execution builds (or clones) a reader, opens it at the last committed position, reads it to its
/// end and closes it. Only one thread at a time uses a reader.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an item reader",
    note = "a chunk step needs a reader: call `.reader(..)` before `.build()`",
    note = "a list is read by `ListReader::new(list)`, an iterator by `IteratorReader::new(|read| ..)`, a function by \
            `FunctionReader::new(|position| ..)`, a stream by `StreamReader::new(|read| ..)`",
    note = "an `AsyncItemReader` is set by `.async_reader(..)`"
)]
pub trait ItemReader: Send {
    /// The type of an item.
    type Item: Send + Sync;
    /// A position in the input, stored with every commit and passed to `open` on a restart.
    type Position: Serialize + DeserializeOwned + Send + 'static;

    /// Moves to just after the last item of `position`, or to the beginning of the input.
    ///
    /// # Errors
    ///
    /// The step fails and stays restartable; nothing was read.
    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<(), ItemError>;

    /// Returns the next item, or `None` when the input is exhausted.
    ///
    /// # Errors
    ///
    /// A failed read also consumes its record: the next call yields the record after it. A reader whose
    /// failed read does *not* advance returns `true` from [`rereads`](Self::rereads).
    fn read(&mut self) -> Result<Option<Self::Item>, ItemError>;

    /// Returns the position just after the last record that was consumed.
    fn position(&self) -> Self::Position;

    /// Whether a failed read leaves the position unchanged, so that a retry can read the record again.
    /// Default: `false`.
    fn rereads(&self) -> bool {
        false
    }

    /// Skips the record whose read failed. Called when such a record is skipped, and only for readers that
    /// [reread](Self::rereads).
    ///
    /// # Errors
    ///
    /// The step fails.
    fn pass_over(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    /// Whether reading is slow enough to be worth a thread of its own. Default: `false`.
    ///
    /// Readers of files and databases return `true`; for a counter, passing a chunk to another thread costs
    /// more than filling it.
    fn reads_ahead(&self) -> bool {
        false
    }

    /// Whether the reader has [`read_block`](Self::read_block). Its step decodes, processes and encodes several chunks at
    /// once, unless it must not; see [`parallelism`](crate::ChunkStepBuilder::parallelism). Default: `false`.
    fn reads_blocks(&self) -> bool {
        false
    }

    /// Reads the next `records` records, or those up to the end of the input, without decoding them. The position is
    /// then after them. Other threads decode blocks, several at once. A record that cannot be read is one of the block, whose
    /// decoding fails. After a block with fewer records that is not the last one, the step calls [`read`](Self::read) alone.
    ///
    /// # Errors
    ///
    /// Counts as a failed [`read`](Self::read), which the step calls from then on.
    fn read_block(&mut self, records: usize) -> Result<Box<dyn Block<Self::Item>>, ItemError> {
        let _ = records;
        Err(ItemError::fatal("the reader has no blocks"))
    }

    /// Returns the size of the whole input, if known. Called after `open`.
    fn total(&self) -> Option<Total> {
        None
    }

    /// Returns how much of [`total`](Self::total) the reader has consumed, in the same unit.
    fn done(&self) -> u64 {
        0
    }

    /// Returns what acknowledges commits, for the reader of a queue. Called once, after `open`; it is used by another thread than
    /// the one that reads. Default: `None`.
    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<Self::Position>>> {
        None
    }

    /// Releases files and connections. Called once for every `open`, also after a failure.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn close(&mut self) -> Result<(), ItemError> {
        Ok(())
    }
}

/// The processor of a chunk step: turns an input into an output, or filters it out.
///
/// `process` takes `&self`, possibly from several threads at once (`parallelism`). Inputs are passed by
/// reference because skip records, dead letters and listeners still use them afterwards.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an item processor for `{I}`",
    note = "give the step a function `|item: &{I}| Ok(Some(output))`, or implement `ItemProcessor<{I}>`",
    note = "its result is `Result<Option<Output>, ItemError>`: `?` converts other errors",
    note = "an asynchronous function is set by `.process_async(calls_at_once, async |item: &{I}| ..)`"
)]
pub trait ItemProcessor<I>: Send + Sync {
    /// The type of an output, which the writer receives.
    type Output: Send + Sync;

    /// Returns the output for `item`, or `None` to filter it out.
    ///
    /// # Errors
    ///
    /// The error is retried and skipped according to the step's policies; a panic is an error of kind
    /// `panic`.
    fn process(&self, item: &I) -> Result<Option<Self::Output>, ItemError>;

    /// Whether [`process_all`](Self::process_all) does more than to process one item after another.
    #[doc(hidden)]
    fn processes_all(&self) -> bool {
        false
    }

    /// Processes `items` and returns their results in order, the last one at the latest after an error that
    /// `is_last`.
    #[doc(hidden)]
    fn process_all(
        &self,
        items: &[I],
        is_last: &dyn Fn(&ItemError) -> bool,
    ) -> Vec<Result<Option<Self::Output>, ItemError>> {
        let mut done = Vec::with_capacity(items.len());
        for item in items {
            let result = guarded(|| self.process(item));
            let ended = matches!(&result, Err(error) if is_last(error));
            done.push(result);
            if ended {
                break;
            }
        }
        done
    }

    /// Returns the whole chunk unchanged if this processor never looks at items; otherwise gives it back as
    /// the error.
    #[doc(hidden)]
    fn pass_through(&self, items: Vec<I>) -> Result<Vec<Self::Output>, Vec<I>> {
        Err(items)
    }

    /// Returns what [`pass_through`](Self::pass_through) took, so that the reader can reuse the memory.
    #[doc(hidden)]
    fn pass_back(&self, outputs: Vec<Self::Output>) -> Result<Vec<I>, Vec<Self::Output>> {
        Err(outputs)
    }
}

impl<I, O, F> ItemProcessor<I> for F
where
    O: Send + Sync,
    F: Fn(&I) -> Result<Option<O>, ItemError> + Send + Sync,
{
    type Output = O;

    #[inline]
    fn process(&self, item: &I) -> Result<Option<O>, ItemError> {
        self(item)
    }
}

/// The processor of a step that sets none: every input is its own output.
#[derive(Debug, Clone, Copy, Default)]
#[doc(hidden)]
pub struct PassThrough;

impl<I: Send + Sync> ItemProcessor<I> for PassThrough {
    type Output = I;

    fn process(&self, _: &I) -> Result<Option<I>, ItemError> {
        Err(ItemError::fatal(
            "cannot pass one item through: `PassThrough` accepts only whole chunks",
        ))
    }

    fn pass_through(&self, items: Vec<I>) -> Result<Vec<I>, Vec<I>> {
        Ok(items)
    }

    fn pass_back(&self, outputs: Vec<I>) -> Result<Vec<I>, Vec<I>> {
        Ok(outputs)
    }
}

/// The end of a step, as its writer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All items are committed: the writer finishes the output.
    Complete,
    /// The step stopped or failed: the writer keeps what a restart needs.
    Incomplete,
    /// As [`Complete`](Self::Complete) for one of several outputs of a step that goes on: others can take it, and a restart does
    /// not miss it. Only a writer that has other writers closes them so.
    Full,
    /// The output was begun and holds nothing that is committed, and no checkpoint refers to it: the writer removes it. Only a
    /// writer that has other writers closes them so.
    Unused,
}

/// The sink of the outputs of a chunk step.
///
/// `write` and `position` belong to one chunk. Either both succeed and [`committed`] follows, or
/// [`rolled_back`] follows and restores the sink to its state after the last commit.
///
/// [`committed`]: Self::committed
/// [`rolled_back`]: Self::rolled_back
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an item writer for `{O}`",
    note = "a chunk step needs a writer for the processor's output: call `.writer(..)` before `.build()`",
    note = "a function is called by `DeliveryWriter::call(|items, key| ..)`; the elements of lists are written by \
            `FlatWriter::new(writer)`; an `AsyncItemWriter` is set by `.async_writer(..)`"
)]
pub trait ItemWriter<O>: Send {
    /// A position in the output, stored with every commit and passed to `open` on a restart.
    type Position: Serialize + DeserializeOwned + Send;

    /// Restores the sink to its state at `position`, or creates it.
    ///
    /// A sink that stores the engine's checkpoint itself returns the last commit that it contains. When the
    /// repository lacks that commit (the process died between the two commits), the engine completes it.
    ///
    /// # Errors
    ///
    /// The step fails and stays restartable; nothing was written.
    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError>;

    /// Writes the outputs of a chunk; `items` is never empty.
    ///
    /// # Errors
    ///
    /// The error is retried, scanned for the failing item, and skipped according to the step's policies.
    fn write(&mut self, items: &[O], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError>;

    /// Returns the number of items in a chunk if the step sets none: what suits one commit of this output. Default 1000.
    fn chunk_items(&self) -> usize {
        Completion::ITEMS_DEFAULT
    }

    /// Whether the writer has an [`encoder`](Self::encoder) once its output has begun: the step's own thread then has little to do
    /// and needs no core. Default: `false`.
    fn encodes(&self) -> bool {
        false
    }

    /// Returns a function that encodes outputs on another thread, for [`write_encoded`](Self::write_encoded). Asked after
    /// each commit until there is one: the encoding of an output must not depend on those before it any more. Several chunks may
    /// then have one commit, and one [`idempotency_key`](ChunkTransaction::idempotency_key): only for a sink that does not use it.
    /// Default: none.
    fn encoder(&self) -> Option<Encoder<O>> {
        None
    }

    /// Writes `items`, which an [`encoder`](Self::encoder) has encoded into `bytes`.
    ///
    /// # Errors
    ///
    /// See [`write`](Self::write).
    fn write_encoded(
        &mut self,
        items: &[O],
        bytes: &[u8],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        let _ = bytes;
        self.write(items, chunk)
    }

    /// Returns the current position. Everything written must have been passed to the system, and synced when
    /// the repository is durable against power loss.
    ///
    /// # Errors
    ///
    /// See [`write`](Self::write).
    fn position(&mut self) -> Result<Self::Position, ItemError>;

    /// Makes the chunk, together with `commit`, durable in a sink that has transactions of its own.
    ///
    /// # Errors
    ///
    /// See [`write`](Self::write): an error means that nothing was committed. When that is not certain,
    /// return [`ItemError::commit_unknown`]: the step ends, and the restart reads the sink's last commit.
    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        let _ = commit;
        Ok(())
    }

    /// Records that the chunk is committed.
    ///
    /// # Errors
    ///
    /// The step fails; the commit remains, and the restart opens the sink after it.
    fn committed(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    /// Restores the state of the last commit after a failed attempt.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn rolled_back(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    /// Whether the sink takes part in [`prepare`](Self::prepare).
    fn prepares(&self) -> bool {
        false
    }

    /// Whether the output that ends at `position`, which was closed as [`Ending::Full`] or is to be, is complete and has its
    /// name, or had it and was taken. Default: `false`.
    #[doc(hidden)]
    fn is_named(&self, position: &Self::Position, scope: &StepScope) -> Result<bool, ItemError> {
        let _ = (position, scope);
        Ok(false)
    }

    /// Removes what [`is_named`](Self::is_named) knows an output by that was taken. Default: nothing.
    #[doc(hidden)]
    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        let _ = scope;
        Ok(())
    }

    /// Whether the output depends on the position, so that two writers cannot write concurrently. Default:
    /// `true` unless the position is a zero-sized type.
    fn keeps_position(&self) -> bool {
        std::mem::size_of::<Self::Position>() > 0
    }

    /// Releases files and connections. Called once for every `open`, also after a failure.
    ///
    /// # Errors
    ///
    /// The step fails. With [`Ending::Complete`] this call gives an output its final name.
    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        let _ = ending;
        Ok(())
    }
}

/// Everything that a commit stores, for a sink that stores it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct PreparedCommit {
    /// Number of the commit among all commits of the step in this instance, from 1.
    pub sequence: u64,
    /// The engine's checkpoint, as JSON text.
    pub checkpoint: String,
    /// Counters that this commit adds.
    pub counters: crate::execution::Counters,
    /// Skips that this commit makes durable.
    pub skips: Vec<crate::execution::SkipRecord>,
    /// JSON of the step's context, when it changed.
    #[serde(default)]
    pub step_context: Option<String>,
    /// JSON of the job's context, when it changed.
    #[serde(default)]
    pub job_context: Option<String>,
}
