//! Starts, restarts, stops, abandons and recovers executions.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use batchwright::execution::{ExecutionSummary, Failure, StepSummary};
//! use batchwright::launch::{Launch, LaunchOptions, RequestKey};
//! use batchwright::operator::{AsyncOperator, JobExplorer, JobHandle, JobName, JobQueue};
//! use batchwright::operator::{OperatorBuilder, Retention, RunError};
//! use batchwright::{Job, JobOperator, JobParameters, MemoryRepository, TaskletStep};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let builder: OperatorBuilder = JobOperator::builder(Arc::new(MemoryRepository::new()));
//! let operator = builder.lease_timeout(Duration::from_secs(30)).running_jobs_max(4).build();
//! operator.registry().register(Job::builder("job").step(TaskletStep::call("step", || ())).build()?)?;
//!
//! // A request that may be sent twice starts one execution.
//! let request = Some(RequestKey { key: "order-17".into(), fingerprint: "v1".into() });
//! let options = LaunchOptions { request, ..LaunchOptions::default() };
//! let handle: JobHandle = operator.launch(&Launch::start("job", JobParameters::new()).options(options))?;
//! let ended = match handle.wait() {
//!     Ok(ended) => ended,
//!     // Another process has taken the execution over, or the store cannot be reached.
//!     Err(lost @ (RunError::LeaseLost { .. } | RunError::Repository { .. })) => return Err(lost.into()),
//!     Err(other) => return Err(other.into()),
//! };
//! if let Some(Failure { code, message }) = &ended.failure {
//!     eprintln!("{code}: {message}");
//! }
//!
//! let explorer: JobExplorer<'_> = operator.explorer();
//! let names: Vec<JobName> = explorer.job_names()?;
//! assert!(names[0].registered);
//! let summary: ExecutionSummary = explorer.summary(ended.id)?;
//! let steps: &[StepSummary] = &summary.steps;
//! assert_eq!(steps.len(), 1);
//!
//! // What a worker asks; what asynchronous code uses; and what is deleted one day.
//! let queue: JobQueue<'_> = operator.queue();
//! assert!(queue.has_room() && queue.queued()?.is_empty());
//! let _: AsyncOperator = operator.asynchronous();
//! let retention = Retention { keep: Some(100), ..Retention::default() };
//! assert_eq!(operator.purge(&retention, true, |one| println!("{}", one.id))?, 0);
//! # Ok(())
//! # }
//! ```

mod asynchronous;
mod audit;
mod builder;
mod explorer;
#[cfg(feature = "async")]
mod follow;
mod handle;
mod heartbeat;
mod launching;
mod pool;
mod progressive;
mod queue;
mod retention;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use asynchronous::AsyncOperator;
pub use builder::OperatorBuilder;
pub use explorer::{JobExplorer, JobName};
pub use handle::JobHandle;
pub use progressive::ProgressiveOperator;
pub use queue::JobQueue;
pub use retention::Retention;

pub use crate::refusal::{OperatorError, Refusal, RunError};

use crate::clock::{Clock, SystemClock};
use crate::context::ExecutionContext;
use crate::event::Events;
use crate::execution::{BatchStatus, ExecutionId, JobExecution};
use crate::host::{Active, Host, RunMode, lock};
use crate::launch::{Launch, RecoverMode};
use crate::lifecycle::{self, ObservedStore};
use crate::parameters::JobParameters;
use crate::query::{ExecutionFilter, Queries};
use crate::registry::{JobRegistry, JobSource};
use crate::store::JobRepository;
use heartbeat::Heartbeat;
use pool::Pool;

/// Starts, restarts, stops, abandons and recovers executions.
///
/// Questions about jobs and executions are answered by the [`explorer`](Self::explorer); the
/// [`queue`](Self::queue) holds executions for other processes; requests for slices go to
/// [`progressive`](Self::progressive).
///
/// Clones share all state. Executions that run when the last clone is dropped continue to their end on their
/// threads; stop them first to end sooner.
#[derive(Clone)]
pub struct JobOperator {
    inner: Arc<Inner>,
}

struct Inner {
    registry: JobRegistry,
    /// Where jobs come from: the registry, or the registry and another source.
    jobs: Arc<dyn JobSource>,
    pool: Pool,
    /// Runs the calls of asynchronous code.
    calls: Pool,
    /// Runs the stops of asynchronous code: they do not wait for calls, which may wait for what they stop.
    stops: Pool,
    running_jobs_max: usize,
    host: Host,
    /// Renews leases until the operator is dropped and its last execution has ended.
    _heartbeat: Heartbeat,
}

/// Removes an execution from the active ones when dropped.
struct ActiveGuard {
    active: Active,
    execution: ExecutionId,
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        lock(&self.active).remove(&self.execution);
    }
}

impl JobOperator {
    /// Returns an operator on `repository` with default settings and no jobs.
    pub fn new(repository: Arc<dyn JobRepository>) -> Self {
        Self::builder(repository).build()
    }

    /// Returns a builder of an operator on `repository`.
    pub fn builder(repository: Arc<dyn JobRepository>) -> OperatorBuilder {
        OperatorBuilder {
            repository,
            registry: JobRegistry::default(),
            more_jobs: None,
            clock: Arc::new(SystemClock::default()),
            events: Events::default(),
            lease_timeout: Duration::from_secs(30),
            running_jobs_max: 8,
            running_steps_max: usize::MAX,
            commit_hook: None,
        }
    }

    /// Returns the jobs that can be started by name.
    pub fn registry(&self) -> &JobRegistry {
        &self.inner.registry
    }

    /// The operator's clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.host.clock)
    }

    /// How long a lease of this operator lasts after its last renewal.
    pub fn lease_timeout(&self) -> Duration {
        self.inner.host.lease_timeout
    }

    /// Returns the read-only queries of the store.
    pub fn queries(&self) -> &dyn Queries {
        &**self.inner.host.store.repository()
    }

    /// Returns the events of the executions of this process.
    pub fn events(&self) -> &Events {
        self.inner.host.store.events()
    }

    fn store(&self) -> &ObservedStore {
        &self.inner.host.store
    }

    /// Returns the globally unique name of the store.
    pub fn store_id(&self) -> &str {
        self.store().store_id()
    }

    fn now(&self) -> Timestamp {
        self.inner.host.clock.now()
    }

    fn execution(&self, id: ExecutionId) -> Result<JobExecution, OperatorError> {
        self.explorer().execution(id)
    }

    /// Starts the registered job `name`, or restarts its failed or stopped instance.
    ///
    /// Returns as soon as the execution is stored; the execution runs on a thread of the operator. Await the
    /// handle for its end, or keep its id.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: nothing was stored. [`OperatorError::Repository`]: whether the execution was stored is
    /// not known; query the history before trying again.
    pub fn start(&self, name: &str, parameters: JobParameters) -> Result<JobHandle, OperatorError> {
        self.launch(&Launch::start(name, parameters))
    }

    /// Starts job `name` as [`start`](Self::start) does, with parameters from `json`, an object; see
    /// [`Job::parameters_from_json`](crate::Job::parameters_from_json).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_json(&self, name: &str, json: &str) -> Result<JobHandle, OperatorError> {
        let parameters = self.explorer().job(name)?.parameters_from_json(json)?;
        self.start(name, parameters)
    }

    /// Starts job `name` as [`start`](Self::start) does, waits for its end, and returns the execution as it ended:
    /// completed, failed or stopped. Blocks the thread; asynchronous code calls
    /// [`AsyncOperator::run`].
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); [`OperatorError::Run`] when the end was not stored by this process.
    pub fn run(
        &self,
        name: &str,
        parameters: JobParameters,
    ) -> Result<JobExecution, OperatorError> {
        Ok(self.start(name, parameters)?.wait()?)
    }

    /// Starts the next instance of job `name`. Its parameters are those of the newest instance, changed by
    /// the job's incrementer.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); [`Refusal::NoIncrementer`] when the job has no incrementer.
    pub fn next(&self, name: &str) -> Result<JobHandle, OperatorError> {
        self.launch(&Launch::next(name))
    }

    /// Restarts execution `id`, which must be the newest of its instance, as a new execution with the same
    /// parameters.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn restart(&self, id: ExecutionId) -> Result<JobHandle, OperatorError> {
        self.launch(&Launch::restart(id))
    }

    /// Requests execution `id` to stop at its next chunk boundary, in whichever process it runs; an execution
    /// that waits is stopped at once. A repeated request changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotRunning`] when the execution has ended. When the store fails, an execution of this
    /// process stops nevertheless.
    pub fn stop(&self, id: ExecutionId) -> Result<JobExecution, OperatorError> {
        let active = || lock(&self.inner.host.active).get(&id).cloned();
        // The token comes first, as in `stop_all`: a statement of the step may hold the connection that
        // stores the request.
        let asked = active().filter(|held| held.mode != RunMode::Driven);
        if let Some(held) = &asked {
            held.stop.request();
        }
        let execution = match lifecycle::request_stop(self.store(), id, self.now()) {
            // The token has already stopped the execution.
            Err(OperatorError::Refused(Refusal::NotRunning { status, .. }))
                if asked.is_some() && status == BatchStatus::Stopped =>
            {
                return self.execution(id);
            }
            stored => stored?,
        };
        if let Some(held) = active() {
            held.stop.request();
        }
        Ok(execution)
    }

    /// Requests every execution of this process to stop and returns their number.
    pub fn stop_all(&self) -> usize {
        let held: Vec<_> = lock(&self.inner.host.active).values().cloned().collect();
        for one in &held {
            // The token is requested first, because it works while the store is unavailable. A `Driven`
            // execution ends when its token is requested, so its stop request is stored first.
            if one.mode != RunMode::Driven {
                one.stop.request();
            }
            // Another server continues a server-driven execution.
            if one.mode == RunMode::ServerDriven {
                continue;
            }
            if let Err(error) = self.stop(one.lease.execution) {
                tracing::warn!(
                    execution = %one.lease.execution,
                    error = %crate::error::report(&error),
                    "the stop request was not stored"
                );
            }
            one.stop.request();
        }
        held.len()
    }

    /// Abandons execution `id`: it can never be restarted. A repeated call changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAbandonable`] unless the execution failed or was stopped.
    pub fn abandon(&self, id: ExecutionId) -> Result<JobExecution, OperatorError> {
        lifecycle::abandon(self.store(), id, self.now())
    }

    /// Replaces the context of the job of execution `id` by `context`, if it still is `before`: the execution that restarts it
    /// inherits it.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotRestartable`] unless the execution failed or was stopped, and when its context is another one now;
    /// [`Refusal::NotMostRecent`] when a newer one of the instance exists. Nothing was changed.
    pub fn replace_context(
        &self,
        id: ExecutionId,
        before: &ExecutionContext,
        context: &ExecutionContext,
    ) -> Result<JobExecution, OperatorError> {
        lifecycle::replace_context(self.store(), id, before, context)
    }

    /// Closes execution `id` if its owner is dead, so that it can be restarted. A finished execution stays as
    /// it is.
    ///
    /// # Errors
    ///
    /// [`Refusal::LeaseAlive`] when the owner may be alive.
    pub fn recover(
        &self,
        id: ExecutionId,
        mode: RecoverMode,
    ) -> Result<JobExecution, OperatorError> {
        lifecycle::recover(self.store(), id, mode, self.now())
    }

    /// Closes every running execution whose owner is dead and returns the closed ones.
    ///
    /// # Errors
    ///
    /// When the store fails. An execution whose owner may be alive stays as it is.
    pub fn recover_all(&self) -> Result<Vec<JobExecution>, OperatorError> {
        let mut recovered = Vec::new();
        for running in self.queries().executions(&ExecutionFilter::default().running())? {
            match self.recover(running.id, RecoverMode::Detect) {
                Ok(closed) if !closed.status.is_running() => recovered.push(closed),
                Ok(_) | Err(OperatorError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(recovered)
    }
}
