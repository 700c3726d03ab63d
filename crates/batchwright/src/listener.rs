//! Calls into user code at the boundaries of job, step, chunk, item, skip and retry.
//!
//! Every `before_*` runs in the order of registration, every `after_*` and `on_*_error` in reverse.
//! A listener that fails fails the step (a job's `after_job` only warns) and is never taken for a
//! failure of an item.

mod promotion;

pub use promotion::Promotion;

use crate::error::{ItemError, Phase};
use crate::execution::{ExitStatus, JobExecution, StepExecution};
use crate::job::JobScope;
use crate::step::StepScope;

/// What a listener answers.
pub type ListenerResult<T = ()> = Result<T, ItemError>;

/// Called around a job execution.
pub trait JobListener: Send + Sync {
    /// Before the first step. A failure fails the job; no step runs, all `after_job` still do.
    ///
    /// # Errors
    ///
    /// Fails the job.
    fn before_job(&self, scope: &JobScope) -> ListenerResult {
        let _ = scope;
        Ok(())
    }

    /// After the last step, with the outcome.
    ///
    /// # Errors
    ///
    /// Recorded as a warning of the execution; the outcome and the other listeners are untouched.
    fn after_job(&self, scope: &JobScope, execution: &JobExecution) -> ListenerResult {
        let _ = (scope, execution);
        Ok(())
    }
}

/// Called around a step execution.
pub trait StepListener: Send + Sync {
    /// Before the step's work. A failure fails the step without starting it; `after_step` runs.
    ///
    /// # Errors
    ///
    /// Fails the step.
    fn before_step(&self, scope: &StepScope) -> ListenerResult {
        let _ = scope;
        Ok(())
    }

    /// After the step's work. An exit status that it returns is combined with the step's own by
    /// [`ExitStatus::and`]: it can raise severity, not lower it.
    ///
    /// # Errors
    ///
    /// Fails the step; what the other listeners returned survives.
    fn after_step(
        &self,
        scope: &StepScope,
        execution: &StepExecution,
    ) -> ListenerResult<Option<ExitStatus>> {
        let _ = (scope, execution);
        Ok(None)
    }
}

/// Called around each chunk. The same calls happen with read-ahead, in parallel and in a scan.
pub trait ChunkListener<I, O>: Send + Sync {
    /// Before processing, with the inputs.
    ///
    /// # Errors
    ///
    /// Fails the step.
    fn before_chunk(&self, items: &[I]) -> ListenerResult {
        let _ = items;
        Ok(())
    }

    /// After the commit, with what was committed (in a scan: one call a committed item).
    ///
    /// # Errors
    ///
    /// Fails the step; the commit stands.
    fn after_chunk(&self, items: &[O]) -> ListenerResult {
        let _ = items;
        Ok(())
    }

    /// After an abandoned write attempt, with what it tried to write.
    ///
    /// # Errors
    ///
    /// Fails the step.
    fn on_chunk_error(&self, items: &[O], error: &ItemError) -> ListenerResult {
        let _ = (items, error);
        Ok(())
    }
}

/// Called around each read, process and write. Costs a little for every item.
pub trait ItemListener<I, O>: Send + Sync {
    /// Before each read, the one that finds the end included.
    ///
    /// # Errors
    ///
    /// Every method of this listener fails the step when it fails.
    fn before_read(&self) -> ListenerResult {
        Ok(())
    }

    /// After an item was read.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `before_read`")]
    fn after_read(&self, item: &I) -> ListenerResult {
        let _ = item;
        Ok(())
    }

    /// After a record could not be read.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `before_read`")]
    fn on_read_error(&self, error: &ItemError) -> ListenerResult {
        let _ = error;
        Ok(())
    }

    /// Before each attempt to process an item.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `before_read`")]
    fn before_process(&self, item: &I) -> ListenerResult {
        let _ = item;
        Ok(())
    }

    /// After an item was processed, or filtered out (`None`).
    #[expect(clippy::missing_errors_doc, reason = "said once, at `before_read`")]
    fn after_process(&self, item: &I, output: Option<&O>) -> ListenerResult {
        let _ = (item, output);
        Ok(())
    }

    /// After an attempt to process an item failed.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `before_read`")]
    fn on_process_error(&self, item: &I, error: &ItemError) -> ListenerResult {
        let _ = (item, error);
        Ok(())
    }

    /// Before each attempt to write.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `before_read`")]
    fn before_write(&self, items: &[O]) -> ListenerResult {
        let _ = items;
        Ok(())
    }

    /// After the writer returned, before the commit.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `before_read`")]
    fn after_write(&self, items: &[O]) -> ListenerResult {
        let _ = items;
        Ok(())
    }

    /// After an attempt to write failed.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `before_read`")]
    fn on_write_error(&self, items: &[O], error: &ItemError) -> ListenerResult {
        let _ = (items, error);
        Ok(())
    }
}

/// Called once for every skip, after the commit that made it durable.
pub trait SkipListener<I, O>: Send + Sync {
    /// A record could not be read.
    ///
    /// # Errors
    ///
    /// Every method of this listener fails the step when it fails; the skip stands.
    fn on_skip_in_read(&self, error: &ItemError) -> ListenerResult {
        let _ = error;
        Ok(())
    }

    /// An item could not be processed.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `on_skip_in_read`")]
    fn on_skip_in_process(&self, item: &I, error: &ItemError) -> ListenerResult {
        let _ = (item, error);
        Ok(())
    }

    /// An item could not be written.
    #[expect(clippy::missing_errors_doc, reason = "said once, at `on_skip_in_read`")]
    fn on_skip_in_write(&self, item: &O, error: &ItemError) -> ListenerResult {
        let _ = (item, error);
        Ok(())
    }
}

/// Called before each further attempt.
pub trait RetryListener: Send + Sync {
    /// `attempts` attempts have failed, the last with `error`; there will be another.
    ///
    /// # Errors
    ///
    /// Fails the step.
    fn on_retry(&self, phase: Phase, attempts: u32, error: &ItemError) -> ListenerResult {
        let _ = (phase, attempts, error);
        Ok(())
    }
}
