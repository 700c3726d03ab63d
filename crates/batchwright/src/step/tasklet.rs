//! Tasklets: steps that are one action, called until it reports that it is finished.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Commit, Step, StepEnd, StepOptions, StepRun};
use crate::error::{ItemError, ItemErrorText, RepositoryError, StepError};
use crate::execution::{Counters, ExitStatus};
use crate::item::{ChunkTransaction, guarded};
use crate::retry::RetryPolicy;
use crate::scope::StepScope;

/// The result of a tasklet call: continue or finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// Call the tasklet again, in a new transaction, unless a stop is requested.
    Continue,
    /// The work is done.
    Finished,
    /// The work is done, with this exit status.
    FinishedWith(ExitStatus),
}

/// An action of user code. Each call has a transaction of its own.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tasklet",
    note = "implement `Tasklet`; a function is called by `TaskletStep::new(name, |call| Ok(Flow::Finished))`, once by \
            `TaskletStep::call(name, function)`, an asynchronous one by `TaskletStep::asynchronous(name, async |call| ..)`"
)]
pub trait Tasklet: Send + Sync {
    /// Does the work, or a part of it.
    ///
    /// # Errors
    ///
    /// Fails the step; the call's changes to the transaction, the contexts and the counters are rolled back.
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError>;
}

impl<F> Tasklet for F
where
    F: Fn(&mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> + Send + Sync,
{
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        self(call)
    }
}

impl Tasklet for Box<dyn Tasklet> {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        (**self).call(call)
    }
}

/// What a function of [`TaskletStep::call`] returns: nothing, or a result.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the result of a function that is called once",
    note = "return nothing or `Result<(), ItemError>`; an asynchronous function is called by `TaskletStep::asynchronous(name, async |call| ..)`"
)]
#[doc(hidden)]
pub trait CallResult {
    /// Returns the result.
    ///
    /// # Errors
    ///
    /// The error of the function.
    fn into_result(self) -> Result<(), ItemError>;
}

impl CallResult for () {
    fn into_result(self) -> Result<(), ItemError> {
        Ok(self)
    }
}

impl CallResult for Result<(), ItemError> {
    fn into_result(self) -> Self {
        self
    }
}

/// One call of a [`Tasklet`].
#[derive(Debug)]
pub struct TaskletCall<'c, 'a> {
    scope: &'c StepScope,
    transaction: &'c mut ChunkTransaction<'a>,
    contribution: Counters,
}

impl<'c, 'a> TaskletCall<'c, 'a> {
    pub(crate) fn new(scope: &'c StepScope, transaction: &'c mut ChunkTransaction<'a>) -> Self {
        Self { scope, transaction, contribution: Counters::default() }
    }

    /// Returns the step execution.
    pub fn scope(&self) -> &StepScope {
        self.scope
    }

    /// Returns the transaction of this call.
    pub fn transaction(&mut self) -> &mut ChunkTransaction<'a> {
        self.transaction
    }

    /// Adds to the step's read and write counters when this call commits.
    pub fn contribute(&mut self, read: u64, write: u64) {
        self.contribution.read += read;
        self.contribution.write += write;
    }
}

/// A step that calls a [`Tasklet`].
pub struct TaskletStep {
    name: String,
    options: StepOptions,
    tasklet: Arc<dyn Tasklet>,
}

impl TaskletStep {
    /// Creates a step that calls the function `tasklet` until it is finished. The type of its argument is inferred.
    ///
    /// ```
    /// use batchwright::step::Flow;
    /// use batchwright::TaskletStep;
    ///
    /// let step = TaskletStep::new("greet", |call| {
    ///     println!("hello from {}", call.scope().job().job());
    ///     Ok(Flow::Finished)
    /// });
    /// ```
    pub fn new<F>(name: impl Into<String>, tasklet: F) -> Self
    where
        F: Fn(&mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> + Send + Sync + 'static,
    {
        Self::of(name, tasklet)
    }

    /// Creates a step that calls `tasklet`, a type of your own, until it is finished.
    pub fn of(name: impl Into<String>, tasklet: impl Tasklet + 'static) -> Self {
        Self { name: name.into(), options: StepOptions::default(), tasklet: Arc::new(tasklet) }
    }

    /// Creates a step that calls `function` once.
    ///
    /// ```
    /// use batchwright::TaskletStep;
    ///
    /// fn clean_up() {}
    ///
    /// let step = TaskletStep::call("clean up", clean_up);
    /// let step = TaskletStep::call("remove", || Ok(std::fs::remove_file("orders.tmp")?));
    /// ```
    pub fn call<R: CallResult>(
        name: impl Into<String>,
        function: impl Fn() -> R + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, move |_| function().into_result().map(|()| Flow::Finished))
    }

    /// Creates a step that calls the asynchronous function `tasklet` until it is finished. After a stop request the
    /// function gets five seconds; then the call is rolled back.
    ///
    /// ```
    /// use batchwright::TaskletStep;
    /// use batchwright::step::{Flow, TaskletCall};
    ///
    /// let step = TaskletStep::asynchronous("greet", async |call: &mut TaskletCall<'_, '_>| {
    ///     println!("hello from {}", call.scope().job().job());
    ///     Ok(Flow::Finished)
    /// });
    /// ```
    #[cfg(feature = "async")]
    pub fn asynchronous<F>(name: impl Into<String>, tasklet: F) -> Self
    where
        F: AsyncFn(&mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> + Send + Sync + 'static,
    {
        Self::new(name, move |call| {
            let stop = call.scope().stop().clone();
            crate::runtime::wait(&stop, crate::runtime::STOP_GRACE, tasklet(call))?
        })
    }

    /// Sets the failures after which the step runs again; see [`StepOptions::retry`]. Default: none.
    ///
    /// ```
    /// use std::time::Duration;
    /// use batchwright::TaskletStep;
    /// use batchwright::retry::{Backoff, RetryPolicy};
    ///
    /// let step = TaskletStep::call("notify", || Ok(std::fs::write("/tmp/done", "")?))
    ///     .retry(RetryPolicy::attempts(3).backoff(Backoff::Fixed(Duration::from_secs(1))));
    /// ```
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = Some(policy);
        self
    }

    /// Sets the time after which the step fails; see [`StepOptions::timeout`]. Default: none.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Sets start limit, rerun of a completed step, retry, timeout and listeners.
    #[must_use]
    pub fn options(mut self, options: StepOptions) -> Self {
        self.options = options.or(self.options);
        self
    }
}

impl Step for TaskletStep {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> &StepOptions {
        &self.options
    }

    fn run(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
        let Stored { mut sequence, exit } = Stored::of(run.step.checkpoint.as_deref());
        if let Some(exit) = exit {
            // The last call was committed, but the end of the step was not stored.
            return Ok(StepEnd::Completed(exit));
        }
        loop {
            let scope = run.scope.clone();
            sequence += 1;
            let mut transaction = ChunkTransaction::new(run.store(), &scope, sequence);
            let mut call = TaskletCall::new(&scope, &mut transaction);
            let flow = match guarded(|| self.tasklet.call(&mut call)) {
                Ok(flow) => flow,
                Err(error) => {
                    if let Some(source) = transaction.broken() {
                        return Err(run.commit_failed(source));
                    }
                    run.roll_back(&error);
                    if error.is_stop() {
                        return Ok(StepEnd::Stopped);
                    }
                    let (step, source) = (self.name.clone(), ItemErrorText(error));
                    return Err(StepError::Tasklet { step, source });
                }
            };
            let mut counters = run.step.counters;
            counters += call.contribution;
            counters.commit += 1;
            let exit = match &flow {
                Flow::Continue => None,
                Flow::Finished => Some(ExitStatus::completed()),
                Flow::FinishedWith(exit) => Some(exit.clone()),
            };
            let checkpoint = Stored { sequence, exit: exit.clone() }.to_json();
            let (progress, times) = (None, None);
            let checkpoint = &checkpoint;
            let commit = Commit { counters, checkpoint, skips: &[], progress, times };
            match run.commit(transaction, commit) {
                Ok(()) => {}
                Err(RepositoryError::Refused { kind, source }) => {
                    let (step, error) =
                        (self.name.clone(), ItemError::wrap(kind, "cannot commit", source));
                    run.roll_back(&error);
                    return Err(StepError::Tasklet { step, source: ItemErrorText(error) });
                }
                Err(source) => return Err(run.commit_failed(source)),
            }
            match exit {
                Some(exit) => return Ok(StepEnd::Completed(exit)),
                None if run.stop_requested() => return Ok(StepEnd::Stopped),
                None => {}
            }
        }
    }
}

/// The checkpoint of a tasklet, stored with every call.
#[derive(Default, Serialize, Deserialize)]
struct Stored {
    /// Number of committed calls of the step in this instance; makes the idempotency keys differ.
    sequence: u64,
    /// Exit status, once the tasklet is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<ExitStatus>,
}

impl Stored {
    fn of(checkpoint: Option<&str>) -> Self {
        checkpoint.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a number and two texts are JSON")
    }
}
