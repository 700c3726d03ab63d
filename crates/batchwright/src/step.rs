//! Steps: the trait of every kind of step, the scope of a running step, and the transaction of a chunk.

mod chunk;
mod command;
mod progressive;
mod run;
mod tasklet;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use chunk::records_read;
pub use chunk::{
    ChunkStep, ChunkStepBuilder, Hooks, ItemHooks, Missing, NoListeners, Processors, WithListeners,
};
pub use command::{CommandStep, ExitCodeMeaning};
pub(crate) use run::{Commit, StepRun};
pub use tasklet::{CallResult, Flow, Tasklet, TaskletCall, TaskletStep};

use crate::error::{ErrorKind, ItemError, RepositoryError, StepError};
use crate::execution::ExitStatus;
use crate::listener::StepListener;
use crate::progressive::ProgressiveBody;
use crate::retry::RetryPolicy;

/// A step as its job sees it: the only dynamic boundary, crossed once per step execution and never for an
/// item.
///
/// [`ChunkStepBuilder`], [`TaskletStep`] and [`CommandStep`] create steps; implement [`Tasklet`] for work of
/// your own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a step",
    note = "call `.build()` at the end of a `ChunkStepBuilder`; a function becomes a step by `TaskletStep::call(name, function)` \
            or `TaskletStep::new(name, |call| ..)`, a `Tasklet` by `TaskletStep::of(name, tasklet)`"
)]
pub trait Step: Send + Sync {
    /// Returns the name, unique within the job.
    fn name(&self) -> &str;

    /// Returns the options that the job evaluates.
    fn options(&self) -> &StepOptions;

    /// Returns the kind of the step's work.
    #[doc(hidden)]
    fn kind(&self) -> StepKind {
        StepKind::Work
    }

    /// Returns the progressive work of the step, if the step is progressive.
    #[doc(hidden)]
    fn progressive(&self) -> Option<ProgressiveBody> {
        None
    }

    /// Runs until the work is done, a stop is requested, or a failure is not tolerated.
    #[doc(hidden)]
    fn run(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError>;
}

/// The kind of a step's work.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// The step does its own work.
    Work,
    /// The step waits for its partitions.
    Partitions,
    /// The step waits for another job.
    Job,
    /// The step runs in slices.
    Progressive,
}

/// The end of a step that did not fail.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// All work is done.
    Completed(ExitStatus),
    /// The step ended at a checkpoint, on request.
    Stopped,
}

/// Options common to all kinds of steps.
#[derive(Clone, Default)]
pub struct StepOptions {
    /// Number of executions of the step that an instance may have; `None` is no limit.
    pub start_limit: Option<u32>,
    /// Whether the step runs again although it is complete.
    pub allow_start_if_complete: bool,
    /// The failures after which the same job execution runs the step again, from its checkpoint, as a step execution of
    /// its own. Attempts count the runs of the step in the execution. A stop request ends the wait, and the job stops. A
    /// partition runs again alone. `None` is no retry.
    pub retry: Option<RetryPolicy>,
    /// Time after which a step execution ends at its next chunk or call and fails with the code `timeout`; long-running
    /// code of your own polls [`StepScope::stop`](crate::scope::StepScope::stop). `None` is no limit.
    pub timeout: Option<Duration>,
    /// Listeners of the step's executions.
    pub listeners: Vec<Arc<dyn StepListener>>,
}

impl StepOptions {
    /// Returns these options, with retry and timeout of `earlier` where these have none.
    pub(crate) fn or(self, earlier: Self) -> Self {
        let retry = self.retry.or(earlier.retry);
        Self { retry, timeout: self.timeout.or(earlier.timeout), ..self }
    }
}

impl std::fmt::Debug for StepOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepOptions")
            .field("start_limit", &self.start_limit)
            .field("allow_start_if_complete", &self.allow_start_if_complete)
            .field("retry", &self.retry)
            .field("timeout", &self.timeout)
            .field("listeners", &self.listeners.len())
            .finish()
    }
}

/// Returns a step error when `error` means that the lease is lost; otherwise returns `error`.
pub(crate) fn split_lease_lost(
    error: ItemError,
    step: &str,
    execution: crate::execution::ExecutionId,
) -> Result<ItemError, StepError> {
    if *error.kind() == ErrorKind::LEASE_LOST {
        let source = RepositoryError::LeaseLost { execution };
        return Err(StepError::Commit { step: step.to_owned(), source });
    }
    Ok(error)
}
