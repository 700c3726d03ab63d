//! Listeners: user code called at the boundaries of job, step, chunk, item, skip and retry.
//!
//! Every `before_*` runs in the order of registration, every `after_*` and `on_*_error` in reverse order. A
//! listener that fails also fails the step (a job's `after_job` only adds a warning); its failure never
//! counts as a failure of an item.
//!
//! Every call gets the scope: job, instance, step, partition, parameters, contexts, and the counters of the
//! last commit. [`ChunkStepBuilder::listener`](crate::ChunkStepBuilder::listener) adds one value with all
//! these traits.

mod promotion;

pub use promotion::Promotion;

use crate::error::ItemError;
use crate::execution::{ExitStatus, JobExecution, Phase, StepExecution};
use crate::item::ChunkTransaction;
use crate::scope::{JobScope, StepScope};

/// The result of a listener.
pub type ListenerResult<T = ()> = Result<T, ItemError>;

/// A listener of job executions.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job listener",
    note = "implement `JobListener` for a type of your own; each of its methods has a default"
)]
pub trait JobListener: Send + Sync {
    /// Runs before the first step. A failure fails the job; no step runs, all `after_job` still do.
    ///
    /// # Errors
    ///
    /// Fails the job.
    fn before_job(&self, scope: &JobScope) -> ListenerResult {
        let _ = scope;
        Ok(())
    }

    /// Runs after the last step, with the outcome.
    ///
    /// # Errors
    ///
    /// Recorded as a warning of the execution; the outcome and the other listeners are unaffected.
    fn after_job(&self, scope: &JobScope, execution: &JobExecution) -> ListenerResult {
        let _ = (scope, execution);
        Ok(())
    }
}

/// A listener of step executions.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a step listener",
    note = "implement `StepListener` for a type of your own; each of its methods has a default"
)]
pub trait StepListener: Send + Sync {
    /// Runs before the step's work. A failure fails the step without starting it; `after_step` still runs.
    ///
    /// # Errors
    ///
    /// Fails the step.
    fn before_step(&self, scope: &StepScope) -> ListenerResult {
        let _ = scope;
        Ok(())
    }

    /// Runs after the step's work. A returned exit status is combined with the step's own by
    /// [`ExitStatus::and`]: it can raise severity, not lower it.
    ///
    /// # Errors
    ///
    /// Fails the step; what the other listeners returned is kept.
    fn after_step(
        &self,
        scope: &StepScope,
        execution: &StepExecution,
    ) -> ListenerResult<Option<ExitStatus>> {
        let _ = (scope, execution);
        Ok(None)
    }
}

/// A listener of chunks. Read-ahead, parallel processing and a scan make the same calls.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a chunk listener of items `{I}` and outputs `{O}`",
    note = "implement `ChunkListener<{I}, {O}>` for a type of your own; each of its methods has a default"
)]
pub trait ChunkListener<I, O>: Send + Sync {
    /// Runs before processing, with the inputs.
    ///
    /// # Errors
    ///
    /// Fails the step.
    fn before_chunk(&self, scope: &StepScope, items: &[I]) -> ListenerResult {
        let _ = (scope, items);
        Ok(())
    }

    /// Runs after the commit, with the committed outputs (in a scan: one call for each committed output).
    ///
    /// # Errors
    ///
    /// Fails the step; the commit remains.
    fn after_chunk(&self, scope: &StepScope, items: &[O]) -> ListenerResult {
        let _ = (scope, items);
        Ok(())
    }

    /// Runs after a rolled-back write attempt, with the outputs of that attempt.
    ///
    /// # Errors
    ///
    /// Fails the step.
    fn on_chunk_error(&self, scope: &StepScope, items: &[O], error: &ItemError) -> ListenerResult {
        let _ = (scope, items, error);
        Ok(())
    }
}

/// A listener of each read, process and write; it adds a small cost to every item.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an item listener of items `{I}` and outputs `{O}`",
    note = "implement `ItemListener<{I}, {O}>` for a type of your own; each of its methods has a default"
)]
pub trait ItemListener<I, O>: Send + Sync {
    /// Runs before each read, including the read that finds the end of the input.
    ///
    /// # Errors
    ///
    /// An error of any method of this listener fails the step.
    fn before_read(&self, scope: &StepScope) -> ListenerResult {
        let _ = scope;
        Ok(())
    }

    /// Runs after an item was read.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `before_read`")]
    fn after_read(&self, scope: &StepScope, item: &I) -> ListenerResult {
        let _ = (scope, item);
        Ok(())
    }

    /// Runs after a record could not be read.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `before_read`")]
    fn on_read_error(&self, scope: &StepScope, error: &ItemError) -> ListenerResult {
        let _ = (scope, error);
        Ok(())
    }

    /// Runs before each attempt to process an item.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `before_read`")]
    fn before_process(&self, scope: &StepScope, item: &I) -> ListenerResult {
        let _ = (scope, item);
        Ok(())
    }

    /// Runs after an item was processed, or filtered (`None`).
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `before_read`")]
    fn after_process(&self, scope: &StepScope, item: &I, output: Option<&O>) -> ListenerResult {
        let _ = (scope, item, output);
        Ok(())
    }

    /// Runs after an attempt to process an item failed.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `before_read`")]
    fn on_process_error(&self, scope: &StepScope, item: &I, error: &ItemError) -> ListenerResult {
        let _ = (scope, item, error);
        Ok(())
    }

    /// Runs before each attempt to write, in the transaction of the chunk.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `before_read`")]
    fn before_write(
        &self,
        scope: &StepScope,
        items: &[O],
        chunk: &mut ChunkTransaction<'_>,
    ) -> ListenerResult {
        let _ = (scope, items, chunk);
        Ok(())
    }

    /// Runs after the writer returned, before the commit, in the transaction of the chunk.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `before_read`")]
    fn after_write(
        &self,
        scope: &StepScope,
        items: &[O],
        chunk: &mut ChunkTransaction<'_>,
    ) -> ListenerResult {
        let _ = (scope, items, chunk);
        Ok(())
    }

    /// Runs after an attempt to write failed.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `before_read`")]
    fn on_write_error(&self, scope: &StepScope, items: &[O], error: &ItemError) -> ListenerResult {
        let _ = (scope, items, error);
        Ok(())
    }
}

/// A listener of skips, called once for each, after the commit that made the skip durable.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a skip listener of items `{I}` and outputs `{O}`",
    note = "implement `SkipListener<{I}, {O}>` for a type of your own; each of its methods has a default"
)]
pub trait SkipListener<I, O>: Send + Sync {
    /// Runs after a record could not be read.
    ///
    /// # Errors
    ///
    /// An error of any method of this listener fails the step; the skip remains.
    fn on_skip_in_read(&self, scope: &StepScope, error: &ItemError) -> ListenerResult {
        let _ = (scope, error);
        Ok(())
    }

    /// Runs after an item could not be processed.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `on_skip_in_read`")]
    fn on_skip_in_process(&self, scope: &StepScope, item: &I, error: &ItemError) -> ListenerResult {
        let _ = (scope, item, error);
        Ok(())
    }

    /// Runs after an item could not be written.
    #[expect(clippy::missing_errors_doc, reason = "documented once, at `on_skip_in_read`")]
    fn on_skip_in_write(&self, scope: &StepScope, item: &O, error: &ItemError) -> ListenerResult {
        let _ = (scope, item, error);
        Ok(())
    }
}

/// A listener of retries, called before each further attempt.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a retry listener",
    note = "implement `RetryListener` for a type of your own; each of its methods has a default"
)]
pub trait RetryListener: Send + Sync {
    /// Runs when `attempts` attempts have failed, the last with `error`, and another one follows.
    ///
    /// # Errors
    ///
    /// Fails the step.
    fn on_retry(
        &self,
        scope: &StepScope,
        phase: Phase,
        attempts: u32,
        error: &ItemError,
    ) -> ListenerResult {
        let _ = (scope, phase, attempts, error);
        Ok(())
    }
}
