//! The three parts of a chunk step, as users implement them.

#[cfg(feature = "csv")]
mod csv;
mod dead_letter;
mod file_output;
mod input;
mod json_lines;
mod lines;
mod list;
mod open_paths;
mod sequence;

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "csv")]
pub use self::csv::{CsvFormat, CsvPosition, CsvReader, CsvRecord, CsvRecords, CsvWriter};
pub(crate) use dead_letter::DeadLetterFile;
pub use file_output::{Encode, FileOutput, FilePosition, FileWriter};
pub use input::InputIdentity;
pub use json_lines::{JsonLines, JsonLinesReader, JsonLinesWriter};
pub use lines::{LineInput, LinePosition, LineReader, LineWriter, Lines, RawLine};
pub use list::{ListReader, ListWriter, NoWriter};
pub use sequence::Sequence;

use crate::error::ItemError;
use crate::step::{ChunkTransaction, StepScope};

/// How much there is to read, for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// So many items.
    Items(u64),
    /// So many bytes.
    Bytes(u64),
}

/// Where items come from.
///
/// A reader is made (or cloned) for every step execution, opened at its last committed position,
/// read to its end and closed. It lives on one thread at a time.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an item reader",
    note = "a chunk step needs a reader: call `.reader(..)` before `.build()`"
)]
pub trait ItemReader: Send {
    /// What one read yields.
    type Item: Send + Sync;
    /// Where the reader stands: stored with every commit, handed to `open` on a restart.
    type Position: Serialize + DeserializeOwned + Send;

    /// Goes to just behind the last item of `position`, or to the beginning.
    ///
    /// # Errors
    ///
    /// The step fails and stays restartable; nothing was read.
    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<(), ItemError>;

    /// The next item, or `None` when the input is exhausted.
    ///
    /// # Errors
    ///
    /// The record is consumed all the same: the next call yields the one behind it. A reader whose
    /// failed read did *not* advance says so by [`rereads`](Self::rereads).
    fn read(&mut self) -> Result<Option<Self::Item>, ItemError>;

    /// Where the reader stands, just behind the last record that it consumed.
    fn position(&self) -> Self::Position;

    /// Whether a failed read did not advance, so that it may be tried again. Default: it did.
    fn rereads(&self) -> bool {
        false
    }

    /// Goes past the record whose read failed; only asked of readers that [reread](Self::rereads),
    /// when the record is skipped.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn pass_over(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    /// Whether reading is slow enough to be worth a thread of its own. Default: it is not.
    ///
    /// Files and databases say yes; a counter says no, because handing a chunk to another thread
    /// costs more than filling it.
    fn reads_ahead(&self) -> bool {
        false
    }

    /// How much there is in all, if the reader knows; asked after `open`.
    fn total(&self) -> Option<Total> {
        None
    }

    /// How much of [`total`](Self::total) lies behind the reader, in the same unit.
    fn done(&self) -> u64 {
        0
    }

    /// Lets go of files and connections. Called once for every `open`, after a failure too.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn close(&mut self) -> Result<(), ItemError> {
        Ok(())
    }
}

/// Turns an input into an output, or into nothing.
///
/// Called with `&self`, possibly from several threads at once (`parallelism`). It sees each input by
/// reference, because skip records, dead letters and listeners still need it afterwards.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an item processor for `{I}`",
    note = "give the step a function `|item: &{I}| Ok(Some(output))`, or implement `ItemProcessor<{I}>`"
)]
pub trait ItemProcessor<I>: Send + Sync {
    /// What the writer receives.
    type Output: Send + Sync;

    /// The output for `item`, or `None` to filter it out.
    ///
    /// # Errors
    ///
    /// Retried and skipped as the step's policies say; a panic is an error of kind `panic`.
    fn process(&self, item: &I) -> Result<Option<Self::Output>, ItemError>;

    /// The whole chunk unchanged, from a processor that never looks at items; else gives it back.
    #[doc(hidden)]
    fn pass_through(&self, items: Vec<I>) -> Result<Vec<Self::Output>, Vec<I>> {
        Err(items)
    }

    /// What [`pass_through`](Self::pass_through) took, back to the reader, whose memory it is.
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

/// The processor of a step that has none: inputs are outputs.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassThrough;

impl<I: Send + Sync> ItemProcessor<I> for PassThrough {
    type Output = I;

    fn process(&self, _: &I) -> Result<Option<I>, ItemError> {
        Err(ItemError::fatal("pass one item through: only whole chunks are"))
    }

    fn pass_through(&self, items: Vec<I>) -> Result<Vec<I>, Vec<I>> {
        Ok(items)
    }

    fn pass_back(&self, outputs: Vec<I>) -> Result<Vec<I>, Vec<I>> {
        Ok(outputs)
    }
}

/// How a step ended, as its writer should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All items are committed: finish the output.
    Complete,
    /// Stopped or failed: keep what a restart needs.
    Incomplete,
}

/// Where items go.
///
/// `write` and `position` belong to one chunk. Either both succeed and [`committed`] follows, or
/// [`rolled_back`] follows and the sink must look as it did after the last commit.
///
/// [`committed`]: Self::committed
/// [`rolled_back`]: Self::rolled_back
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an item writer for `{O}`",
    note = "a chunk step needs a writer for the processor's output: call `.writer(..)` before `.build()`"
)]
pub trait ItemWriter<O>: Send {
    /// Where the writer stands: stored with every commit, handed to `open` on a restart.
    type Position: Serialize + DeserializeOwned + Send;

    /// Brings the sink to where it was at `position`, or makes it new.
    ///
    /// A sink that keeps our checkpoint itself returns the last commit that it holds. When the
    /// repository lacks it (the process died between the two), the engine finishes it.
    ///
    /// # Errors
    ///
    /// The step fails and stays restartable; nothing was written.
    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError>;

    /// Writes the outputs of a chunk, never none.
    ///
    /// # Errors
    ///
    /// Retried, scanned and skipped as the step's policies say.
    fn write(&mut self, items: &[O], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError>;

    /// Where the writer stands now, with everything written handed to the system (and synced, when
    /// the repository is durable against power loss).
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn position(&mut self) -> Result<Self::Position, ItemError>;

    /// Makes the chunk durable in a sink with transactions of its own, `commit` with it.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write): nothing was committed. When that is not certain, return
    /// [`ItemError::commit_unknown`]: the step ends, and the restart looks at what the sink holds.
    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        let _ = commit;
        Ok(())
    }

    /// The chunk is committed.
    fn committed(&mut self) {}

    /// The attempt failed: back to the last commit.
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

    /// Whether what it writes belongs to its position: then two of it cannot write side by side. Default: its
    /// position is not empty.
    fn keeps_position(&self) -> bool {
        std::mem::size_of::<Self::Position>() > 0
    }

    /// Lets go of files and connections. Called once for every `open`, after a failure too.
    ///
    /// # Errors
    ///
    /// The step fails: with [`Ending::Complete`] this is where an output gets its final name.
    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        let _ = ending;
        Ok(())
    }
}

/// Everything that a commit stores, for a sink that must hold it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct PreparedCommit {
    /// Number of the commit in the life of the instance's step, from 1.
    pub sequence: u64,
    /// The engine's checkpoint, as JSON text.
    pub checkpoint: String,
    /// What this commit adds to the counters.
    pub counters: crate::execution::Counters,
    /// The skips that it makes durable.
    pub skips: Vec<crate::execution::SkipRecord>,
    /// The step's context as JSON, when it changed.
    #[serde(default)]
    pub step_context: Option<String>,
    /// The job's context as JSON, when it changed.
    #[serde(default)]
    pub job_context: Option<String>,
}
