//! Asynchronous writers.

use std::future::Future;

use crate::clock::StopToken;
use crate::error::ItemError;
use crate::item::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use crate::runtime::{STOP_GRACE, wait};
use crate::scope::StepScope;

/// A sink that is written asynchronously. It has no position: for a sink that must be cut back to one at a restart,
/// implement [`ItemWriter`].
///
/// A sink with transactions of its own is exact when it [prepares](Self::prepares): it commits the chunk
/// together with the [`PreparedCommit`], and returns its last one from [`open`](Self::open). Every other sink
/// receives each chunk at least once, with the same
/// [`idempotency_key`](ChunkTransaction::idempotency_key).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an asynchronous item writer for `{O}`",
    note = "implement `AsyncItemWriter<{O}>`, or give a function `async |items: &[{O}], key: &str| Ok(())`"
)]
pub trait AsyncItemWriter<O>: Send {
    /// Prepares for writing, and returns the last commit that the sink contains, if it stores commits.
    /// Default: nothing.
    ///
    /// # Errors
    ///
    /// The step fails and stays restartable; nothing was written.
    fn open(
        &mut self,
        scope: &StepScope,
    ) -> impl Future<Output = Result<Option<PreparedCommit>, ItemError>> {
        let _ = scope;
        async { Ok(None) }
    }

    /// Writes the outputs of a chunk; `items` is never empty.
    ///
    /// # Errors
    ///
    /// The error is retried, scanned for the failing item, and skipped according to the step's policies.
    fn write(
        &mut self,
        items: &[O],
        chunk: &mut ChunkTransaction<'_>,
    ) -> impl Future<Output = Result<(), ItemError>>;

    /// Commits the chunk together with `commit`, in a sink that [prepares](Self::prepares). Default: nothing.
    ///
    /// The store commits after this call; in a [`CompositeWriter`](crate::item::CompositeWriter) it has committed before, and
    /// `commit` has only a number. Either way the sink stores `commit` as it is.
    ///
    /// # Errors
    ///
    /// Nothing was committed. When that is not certain, return [`ItemError::commit_unknown`].
    fn prepare(&mut self, commit: &PreparedCommit) -> impl Future<Output = Result<(), ItemError>> {
        let _ = commit;
        async { Ok(()) }
    }

    /// Restores the state of the last commit after a failed attempt. Default: nothing.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn rolled_back(&mut self) -> impl Future<Output = Result<(), ItemError>> {
        async { Ok(()) }
    }

    /// Whether the sink takes part in [`prepare`](Self::prepare). Default: `false`.
    fn prepares(&self) -> bool {
        false
    }

    /// Releases connections. Called once for every `open`, also after a failure. Default: nothing.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn close(&mut self, ending: Ending) -> impl Future<Output = Result<(), ItemError>> {
        let _ = ending;
        async { Ok(()) }
    }
}

/// A function gets the items and the key of the chunk; see [`Deliver`](crate::item::Deliver).
impl<O, F> AsyncItemWriter<O> for F
where
    F: AsyncFnMut(&[O], &str) -> Result<(), ItemError> + Send,
{
    async fn write(
        &mut self,
        items: &[O],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        self(items, &chunk.idempotency_key()).await
    }
}

/// A writer that drives an [`AsyncItemWriter`].
#[derive(Debug, Clone)]
pub struct AsyncWriter<W> {
    writer: W,
    stop: StopToken,
}

impl<W> AsyncWriter<W> {
    /// Creates a writer to `writer`.
    pub fn new(writer: W) -> Self {
        Self { writer, stop: StopToken::default() }
    }
}

impl<O, W: AsyncItemWriter<O>> ItemWriter<O> for AsyncWriter<W> {
    type Position = ();

    fn open(
        &mut self,
        _: Option<()>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.stop = scope.stop().clone();
        wait(&self.stop, STOP_GRACE, self.writer.open(scope))?
    }

    fn write(&mut self, items: &[O], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        wait(&self.stop, STOP_GRACE, self.writer.write(items, chunk))?
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        // A commit that was dropped may have reached the sink.
        wait(&self.stop, STOP_GRACE, self.writer.prepare(commit))
            .unwrap_or_else(|dropped| Err(ItemError::commit_unknown(dropped.to_string())))
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        wait(&self.stop, STOP_GRACE, self.writer.rolled_back())?
    }

    fn prepares(&self) -> bool {
        self.writer.prepares()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        wait(&self.stop, STOP_GRACE, self.writer.close(ending))?
    }
}
