//! Starts, restarts, stops, abandons and recovers executions.

mod builder;
mod handle;
mod heartbeat;
mod pool;
mod progressive;
mod queue;
mod reading;
mod retention;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use heartbeat::Heartbeat;
use jiff::Timestamp;
use pool::Pool;

pub use crate::host::CommitPoint;
pub use crate::refusal::{OperatorError, Refusal};
pub use builder::OperatorBuilder;
pub use handle::{JobHandle, RunError};
pub use reading::JobName;
pub use retention::Retention;

use crate::clock::{Clock, StopToken, SystemClock, later};
use crate::engine::{JobRun, run_job};
use crate::event::Events;
use crate::execution::{BatchStatus, ExecutionId, JobExecution};
use crate::host::{Active, ActiveExecution, Host, RunMode, lock};
use crate::job::Job;
use crate::launch::{LaunchOptions, RecoverMode, RequestKey};
use crate::lifecycle;
use crate::lifecycle::{Claimant, StartRequest};
use crate::parameters::JobParameters;
use crate::progressive::{OpenOptions, ProgressiveWork};
use crate::query::{ExecutionFilter, Queries};
use crate::registry::{JobRegistry, JobSource};
use crate::store::{JobRepository, Lease};

/// Starts, restarts, stops, abandons and recovers executions.
///
/// Clones share all state. Executions that run when the last clone is dropped continue to their end on their
/// threads; stop them first to end sooner.
#[derive(Clone)]
pub struct JobOperator {
    inner: Arc<Inner>,
}

struct Inner {
    repository: Arc<dyn JobRepository>,
    registry: JobRegistry,
    /// Where jobs come from: the registry, or the registry and another source.
    jobs: Arc<dyn JobSource>,
    clock: Arc<dyn Clock>,
    events: Events,
    pool: Pool,
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
        Arc::clone(&self.inner.clock)
    }

    /// How long a lease of this operator lasts after its last renewal.
    pub fn lease_timeout(&self) -> Duration {
        self.inner.host.lease_timeout
    }

    /// Returns the job `name` of the registry or of the other source of jobs.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`], or [`Refusal::InvalidDefinition`] when it cannot be built.
    pub fn job(&self, name: &str) -> Result<Arc<Job>, Refusal> {
        self.inner.jobs.job(name, None)
    }

    /// Returns the job of `execution`, preferably from the place that it was read from.
    ///
    /// # Errors
    ///
    /// As [`job`](Self::job).
    pub fn job_of(&self, execution: &JobExecution) -> Result<Arc<Job>, Refusal> {
        self.inner.jobs.job(&execution.job, execution.source.as_deref())
    }

    /// Returns the names of the jobs that can be started here, sorted.
    ///
    /// # Errors
    ///
    /// [`Refusal::JobsUnreadable`] when the place of the jobs cannot be read.
    pub fn runnable_names(&self) -> Result<Vec<String>, Refusal> {
        self.inner.jobs.names()
    }

    /// Returns the read-only queries of the store.
    pub fn queries(&self) -> &dyn Queries {
        &*self.inner.repository
    }

    /// Returns the events of the executions of this process.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Returns the time of the operator's clock.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
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
        self.start_with(name, parameters, &LaunchOptions::default())
    }

    /// Starts job `name` as [`start`](Self::start) does, with `options`.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(
        &self,
        name: &str,
        parameters: JobParameters,
        options: &LaunchOptions,
    ) -> Result<JobHandle, OperatorError> {
        let job = self.job(name)?;
        let parameters = job.accept(parameters)?;
        if let Some(work) = job.progressive() {
            let open = OpenOptions::server_driven();
            let execution = self.open_job(&job, &work, parameters, options, &open)?;
            return Ok(self.submit_drive(&execution, RunMode::Driven));
        }
        let request = self.request(&job, options, Some(self.claimant()));
        let execution = lifecycle::start(&*self.inner.repository, &request, parameters)?;
        Ok(self.submit(job, &execution, options))
    }

    /// Starts the next instance of job `name`. Its parameters are those of the newest instance, changed by
    /// the job's incrementer and then by `overrides`.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); [`Refusal::NoSequence`] when the job has no incrementer.
    pub fn next(
        &self,
        name: &str,
        overrides: JobParameters,
        options: &LaunchOptions,
    ) -> Result<JobHandle, OperatorError> {
        let job = self.job(name)?;
        let following = self.following(&job, &overrides)?;
        if let Some(work) = job.progressive() {
            let execution = self.open_next(&job, &work, following, options)?;
            return Ok(self.submit_drive(&execution, RunMode::Driven));
        }
        let request = self.request(&job, options, Some(self.claimant()));
        let execution = lifecycle::start_next(&*self.inner.repository, &request, following)?;
        Ok(self.submit(Arc::clone(&job), &execution, options))
    }

    /// Returns a function from the newest parameters of `job` to those of its next instance.
    fn following<'a>(
        &self,
        job: &'a Job,
        overrides: &'a JobParameters,
    ) -> Result<impl Fn(Option<JobParameters>) -> Result<JobParameters, Refusal> + 'a, Refusal>
    {
        let incrementer = job.incrementer();
        let incrementer =
            incrementer.ok_or_else(|| Refusal::NoSequence { job: job.name().to_owned() })?;
        Ok(move |newest: Option<JobParameters>| {
            let next = incrementer(newest.as_ref())
                .map_err(|problem| Refusal::InvalidParameters { problems: vec![problem] })?;
            job.accept(next.overridden_by(overrides))
        })
    }

    /// Opens the next instance of a progressive job; any server of the store continues it when this process
    /// dies.
    fn open_next(
        &self,
        job: &Job,
        work: &Arc<dyn ProgressiveWork>,
        following: impl Fn(Option<JobParameters>) -> Result<JobParameters, Refusal>,
        options: &LaunchOptions,
    ) -> Result<JobExecution, OperatorError> {
        let newest = self.queries().executions(&ExecutionFilter::of_job(job.name()).limit(1))?;
        let parameters = following(newest.into_iter().next().map(|newest| newest.parameters))?;
        self.open_job(job, work, parameters, options, &OpenOptions::server_driven())
    }

    /// Restarts execution `id`, which must be the newest of its instance, as a new execution with the same
    /// parameters; `overrides` may change those that are not identifying.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn restart(
        &self,
        id: ExecutionId,
        overrides: &JobParameters,
        options: &LaunchOptions,
    ) -> Result<JobHandle, OperatorError> {
        let job = self.job_of(&self.execution(id)?)?;
        if let Some(work) = job.progressive() {
            let open = OpenOptions::server_driven();
            let execution = self.reopen(id, &job, &work, overrides, options, &open)?;
            return Ok(self.submit_drive(&execution, RunMode::Driven));
        }
        let execution = self.restarted(id, &job, overrides, options, Some(self.claimant()))?;
        Ok(self.submit(job, &execution, options))
    }

    fn restarted(
        &self,
        id: ExecutionId,
        job: &Job,
        overrides: &JobParameters,
        options: &LaunchOptions,
        claimant: Option<Claimant>,
    ) -> Result<JobExecution, OperatorError> {
        let request = self.request(job, options, claimant);
        let change = |parameters: JobParameters| job.accept(parameters.overridden_by(overrides));
        lifecycle::restart(&*self.inner.repository, id, &request, change)
    }

    /// Returns the execution that `request` started; `None` when it started none. See
    /// [`LaunchOptions::request`].
    ///
    /// # Errors
    ///
    /// [`Refusal::KeyReused`] when another request with the same key started an execution.
    pub fn requested(&self, request: &RequestKey) -> Result<Option<ExecutionId>, OperatorError> {
        lifecycle::started_by(&mut *self.inner.repository.begin()?, request)
    }

    /// Restarts the newest execution of job `name`.
    ///
    /// # Errors
    ///
    /// As [`restart`](Self::restart).
    pub fn restart_job(
        &self,
        name: &str,
        options: &LaunchOptions,
    ) -> Result<JobHandle, OperatorError> {
        self.restart(self.newest(name)?.id, &JobParameters::new(), options)
    }

    /// Requests execution `id` to stop at its next chunk boundary, in whichever process it runs; an execution
    /// that waits is stopped at once. A repeated request changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotRunning`] when the execution has ended. When the store fails, an execution of this
    /// process stops nevertheless.
    pub fn stop(&self, id: ExecutionId) -> Result<JobExecution, OperatorError> {
        let now = self.inner.clock.now();
        let held = lock(&self.inner.host.active).get(&id).cloned();
        // The token comes first, as in `stop_all`: a statement of the step may hold the connection that
        // stores the request.
        let asked = held.filter(|held| held.carried != RunMode::Driven);
        if let Some(held) = &asked {
            held.stop.request();
        }
        let execution = match lifecycle::request_stop(&*self.inner.repository, id, now) {
            // The token has already stopped the execution.
            Err(OperatorError::Refused(Refusal::NotRunning { status, .. }))
                if asked.is_some() && status == BatchStatus::Stopped =>
            {
                return self.execution(id);
            }
            stored => stored?,
        };
        if let Some(held) = lock(&self.inner.host.active).get(&id) {
            held.stop.request();
        }
        Ok(execution)
    }

    /// Requests the newest execution of job `name` to stop.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop).
    pub fn stop_job(&self, name: &str) -> Result<JobExecution, OperatorError> {
        self.stop(self.newest(name)?.id)
    }

    /// Requests every execution of this process to stop and returns their number.
    pub fn stop_all(&self) -> usize {
        let held: Vec<_> = lock(&self.inner.host.active).values().cloned().collect();
        for one in &held {
            // The token comes first: it reaches the work even when the store does not answer. A driver for a
            // waiting caller ends with its token, so its stop must be stored before.
            if one.carried != RunMode::Driven {
                one.stop.request();
            }
            // Another server continues a server-driven execution.
            if one.carried == RunMode::ServerDriven {
                continue;
            }
            if let Err(error) = self.stop(one.lease.execution) {
                tracing::warn!(
                    execution = %one.lease.execution,
                    %error,
                    "the stop request was not stored"
                );
            }
            one.stop.request();
        }
        held.len()
    }

    /// Returns whether one more execution can begin at once.
    pub fn has_room(&self) -> bool {
        lock(&self.inner.host.active).len() < self.inner.running_jobs_max
    }

    /// Waits until this process runs and drives no execution.
    pub fn wait_until_idle(&self) {
        /// Time between two checks. Ends are rare and not urgent, so that polling is enough.
        const POLL_INTERVAL: Duration = Duration::from_millis(10);
        while !lock(&self.inner.host.active).is_empty() {
            StopToken::default().wait(POLL_INTERVAL);
        }
    }

    /// Abandons execution `id`: it can never be restarted. A repeated call changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAbandonable`] unless the execution failed or was stopped.
    pub fn abandon(&self, id: ExecutionId) -> Result<JobExecution, OperatorError> {
        lifecycle::abandon(&*self.inner.repository, id, self.inner.clock.now())
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
        lifecycle::recover(&*self.inner.repository, id, mode, self.inner.clock.now())
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

    fn claimant(&self) -> Claimant {
        let host = &self.inner.host;
        let lease_until = later(self.inner.clock.now(), host.lease_timeout);
        Claimant { owner: host.owner.to_string(), lease_until }
    }

    fn request<'a>(
        &self,
        job: &'a Job,
        options: &'a LaunchOptions,
        claimant: Option<Claimant>,
    ) -> StartRequest<'a> {
        StartRequest {
            job: job.name(),
            rules: job.launch_rules(),
            options,
            claimant,
            parent: None,
            now: self.inner.clock.now(),
        }
    }

    /// Submits a stored execution to the pool of threads.
    fn submit(
        &self,
        job: Arc<Job>,
        execution: &JobExecution,
        options: &LaunchOptions,
    ) -> JobHandle {
        let lease = Lease { execution: execution.id, fence: execution.fence };
        let stop = StopToken::default();
        let held = ActiveExecution {
            lease,
            job: job.name().to_owned(),
            stop: stop.clone(),
            carried: RunMode::Owned,
        };
        lock(&self.inner.host.active).insert(execution.id, held);
        let (handle, ending) = JobHandle::new(execution.id, Arc::clone(&self.inner.repository));
        let accept_changed_definition = options.accept_changed_definition;
        let host = Host { accept_changed_definition, ..self.inner.host.clone() };
        // The guard is also dropped when no thread could be started: the lease of an execution without a
        // worker must not be renewed.
        let let_go = ActiveGuard { active: Arc::clone(&host.active), execution: lease.execution };
        self.inner.pool.submit(Box::new(move || {
            let run = JobRun { job, lease, stop };
            // A panic outside user code must not keep the lease alive; dropping `ending` reports it to the
            // handle.
            let result = catch_unwind(AssertUnwindSafe(|| run_job(&host, &run)));
            drop(let_go);
            if let Ok(result) = result {
                ending.end(result.map(drop));
            }
        }));
        handle
    }
}
