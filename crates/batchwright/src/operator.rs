//! Starts, restarts, stops, abandons and recovers executions.

mod handle;
mod heartbeat;
mod pool;
mod progressive;
mod refusal;
mod retention;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

pub use handle::{JobHandle, RunError};
pub(crate) use pool::Permits;
pub use refusal::{OperatorError, Refusal};
pub use retention::Retention;

use crate::clock::{Clock, StopToken, SystemClock};
use crate::error::Failure;
use crate::event::Events;
use crate::execution::{
    BatchStatus, ExecutionId, ExecutionSummary, InstanceId, JobExecution, JobInstance, StepSummary,
};
use crate::execution::{ExitStatus, StatusEvent};
use crate::job::{Job, JobScope};
use crate::launch::{LaunchOptions, RecoverMode, RequestKey};
use crate::owner::ProcessIdentity;
use crate::parameters::JobParameters;
use crate::progressive::{OpenOptions, ProgressiveWork};
use crate::query::{ExecutionFilter, InstancePage, Queries};
use crate::registry::{JobRegistry, JobSource};
use crate::repository::lifecycle::{self, Claimant, StartRequest};
use crate::repository::{JobRepository, Lease};
use crate::runner::{JobRun, Runner};
use heartbeat::Heartbeat;
use pool::Pool;

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
    runner: Runner,
    /// Renews leases until the operator is dropped and its last execution has ended.
    _heartbeat: Heartbeat,
}

/// Suffix of the owner's name of an execution that a process claimed from the queue.
const SERVED: &str = "/served";

/// The executions that this process runs or drives, by id.
pub(crate) type Active = Arc<Mutex<BTreeMap<ExecutionId, Held>>>;

/// An execution that this process runs or drives.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) job: String,
    pub(crate) stop: StopToken,
    pub(crate) carried: Carried,
}

/// How this process runs an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// The process owns the execution and renews its lease.
    Owned,
    /// The process drives the execution slice by slice for a caller that waits.
    Driven,
    /// The process drives the execution slice by slice, as any server of the store may.
    ServerDriven,
}

/// Removes an execution from the active ones when dropped.
struct LetGo {
    active: Active,
    execution: ExecutionId,
}

impl Drop for LetGo {
    fn drop(&mut self) {
        lock(&self.active).remove(&self.execution);
    }
}

pub(crate) fn lock(active: &Active) -> MutexGuard<'_, BTreeMap<ExecutionId, Held>> {
    active.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds a [`JobOperator`].
pub struct OperatorBuilder {
    repository: Arc<dyn JobRepository>,
    registry: JobRegistry,
    more_jobs: Option<Arc<dyn JobSource>>,
    clock: Arc<dyn Clock>,
    events: Events,
    lease_timeout: Duration,
    running_jobs_max: usize,
    running_steps_max: usize,
    commit_hook: Option<CommitHook>,
}

/// A moment of a step's commit at which the commit hook is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitPoint {
    /// Everything is written, and nothing is durable.
    Before,
    /// The commit is durable.
    After,
}

/// A function that is called at each [`CommitPoint`] with the execution and the step's name. Rehearsals kill
/// the process in it.
pub(crate) type CommitHook = Arc<dyn Fn(&JobScope, &str, CommitPoint) + Send + Sync>;

impl OperatorBuilder {
    /// Calls `hook` with the execution and the step's name before and after each commit of a step. Rehearsals
    /// and tests stop the execution, or kill the process, in it.
    #[must_use]
    pub fn commit_hook(
        mut self,
        hook: impl Fn(&JobScope, &str, CommitPoint) + Send + Sync + 'static,
    ) -> Self {
        self.commit_hook = Some(Arc::new(hook));
        self
    }

    /// Sets the jobs that can be started by name. Default: none.
    #[must_use]
    pub fn registry(mut self, registry: JobRegistry) -> Self {
        self.registry = registry;
        self
    }

    /// Another source of jobs beside the registry, such as a folder of job files.
    #[must_use]
    pub fn jobs(mut self, jobs: impl JobSource + 'static) -> Self {
        self.more_jobs = Some(Arc::new(jobs));
        self
    }

    /// Sets the clock. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the time without a renewal after which another process may take an execution over. Default 30 s.
    /// The heartbeat renews a lease three times within it, so that one lost renewal does no harm.
    #[must_use]
    pub fn lease_timeout(mut self, timeout: Duration) -> Self {
        self.lease_timeout = timeout;
        self
    }

    /// Sets the maximum number of executions that run at once; others wait as `STARTING`. Default 8.
    #[must_use]
    pub fn running_jobs_max(mut self, jobs: usize) -> Self {
        self.running_jobs_max = jobs.max(1);
        self
    }

    /// Sets the maximum number of steps that run at once, over all executions; others wait as `STARTING`.
    /// Default: no limit.
    #[must_use]
    pub fn running_steps_max(mut self, steps: usize) -> Self {
        self.running_steps_max = steps.max(1);
        self
    }

    /// Builds the operator and starts its heartbeat.
    pub fn build(self) -> JobOperator {
        let active = Active::default();
        let runner = Runner {
            repository: Arc::clone(&self.repository),
            clock: Arc::clone(&self.clock),
            events: self.events.clone(),
            step_permits: Arc::new(Permits::new(self.running_steps_max)),
            commit_hook: self.commit_hook,
            owner: ProcessIdentity::current().to_string().into(),
            lease_timeout: self.lease_timeout,
            active: Arc::clone(&active),
            accept_changed_definition: false,
        };
        let heartbeat = Heartbeat::start(
            Arc::clone(&self.repository),
            Arc::clone(&self.clock),
            Arc::clone(&active),
            self.lease_timeout,
        );
        let registry = self.registry;
        let jobs: Arc<dyn JobSource> = match self.more_jobs {
            None => Arc::new(registry.clone()),
            Some(more) => Arc::new((registry.clone(), more)),
        };
        JobOperator {
            inner: Arc::new(Inner {
                repository: self.repository,
                registry,
                jobs,
                clock: self.clock,
                events: self.events,
                pool: Pool::new(self.running_jobs_max),
                running_jobs_max: self.running_jobs_max,
                runner,
                _heartbeat: heartbeat,
            }),
        }
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
        self.inner.runner.lease_timeout
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
            return Ok(self.submit_drive(&execution, Carried::Driven));
        }
        let request = self.request(&job, options, Some(self.claimant()));
        let execution = lifecycle::start(&*self.inner.repository, &request, parameters)?;
        Ok(self.submit(job, &execution, options))
    }

    /// Queues an execution of job `name` for any process of this store that claims it.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn hand_over(
        &self,
        name: &str,
        parameters: JobParameters,
        options: &LaunchOptions,
    ) -> Result<JobExecution, OperatorError> {
        let job = self.job(name)?;
        let parameters = job.accept(parameters)?;
        if let Some(work) = job.progressive() {
            let open = OpenOptions::server_driven();
            return self.open_job(&job, &work, parameters, options, &open);
        }
        let request = self.request(&job, options, None);
        lifecycle::start(&*self.inner.repository, &request, parameters)
    }

    /// Returns the queued executions that no process has claimed, oldest first.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn handed_over(&self) -> Result<Vec<JobExecution>, OperatorError> {
        let starting = ExecutionFilter::default().status(BatchStatus::Starting);
        let mut waiting = self.queries().executions(&starting)?;
        waiting.retain(|execution| execution.owner.is_none());
        waiting.reverse();
        Ok(waiting)
    }

    /// Claims the queued execution `id` and runs it. `None`: another process claimed it first, it was
    /// stopped, or the definition of its job changed since it was queued, in which case the execution ends as
    /// failed.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`] when the job is not registered here; the execution stays queued.
    pub fn take(&self, id: ExecutionId) -> Result<Option<JobHandle>, OperatorError> {
        let job = self.job_of(&self.execution(id)?)?;
        let mut claimant = self.claimant();
        claimant.owner.push_str(SERVED);
        let now = self.inner.clock.now();
        let taken = lifecycle::adopt(&*self.inner.repository, id, &claimant, now)?;
        let Some(execution) = taken else { return Ok(None) };
        let handed_over = execution.fingerprint.as_deref();
        if job.fingerprint().zip(handed_over).is_some_and(|(now, then)| now != then) {
            self.refuse_changed(&execution)?;
            return Ok(None);
        }
        Ok(Some(self.submit(job, &execution, &LaunchOptions::default())))
    }

    /// Fails a claimed execution because the definition of its job changed after it was queued.
    fn refuse_changed(&self, execution: &JobExecution) -> Result<(), OperatorError> {
        let message = "the definition of the job changed after the execution was queued";
        let failure = Failure::new("changed_definition", message);
        let ended = lifecycle::Ended {
            event: StatusEvent::Fail,
            exit: ExitStatus::failed().with_message(message),
            failure: Some(failure),
            warnings: Vec::new(),
            context: None,
            flow: execution.flow.clone(),
        };
        let lease = Lease { execution: execution.id, fence: execution.fence };
        lifecycle::finish(&*self.inner.repository, lease, ended, self.inner.clock.now())?;
        Ok(())
    }

    /// Returns the running executions whose owners are dead. The flag is true for an execution that was
    /// claimed from the queue: any process may continue it. The others are continued by the callers that
    /// started them.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn lost(&self) -> Result<Vec<(JobExecution, bool)>, OperatorError> {
        let now = self.inner.clock.now();
        let mut running = self.queries().executions(&ExecutionFilter::default().running())?;
        running.retain(|one| crate::launch::may_recover(one, RecoverMode::Detect, now).is_ok());
        let with_flag = |one: JobExecution| {
            let served = is_served(&one);
            (one, served)
        };
        Ok(running.into_iter().map(with_flag).collect())
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
            return Ok(self.submit_drive(&execution, Carried::Driven));
        }
        let request = self.request(&job, options, Some(self.claimant()));
        let execution = lifecycle::start_next(&*self.inner.repository, &request, following)?;
        Ok(self.submit(Arc::clone(&job), &execution, options))
    }

    /// Queues the next instance of job `name`, as [`next`](Self::next) makes it, for any process of this
    /// store.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn hand_over_next(
        &self,
        name: &str,
        overrides: &JobParameters,
        options: &LaunchOptions,
    ) -> Result<JobExecution, OperatorError> {
        let job = self.job(name)?;
        let following = self.following(&job, overrides)?;
        if let Some(work) = job.progressive() {
            return self.open_next(&job, &work, following, options);
        }
        let request = self.request(&job, options, None);
        lifecycle::start_next(&*self.inner.repository, &request, following)
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
            return Ok(self.submit_drive(&execution, Carried::Driven));
        }
        let execution = self.restarted(id, &job, overrides, options, Some(self.claimant()))?;
        Ok(self.submit(job, &execution, options))
    }

    /// Queues a restart of execution `id`, as [`restart`](Self::restart) makes it, for any process of this
    /// store.
    ///
    /// # Errors
    ///
    /// As [`restart`](Self::restart).
    pub fn hand_over_restart(
        &self,
        id: ExecutionId,
        overrides: &JobParameters,
        options: &LaunchOptions,
    ) -> Result<JobExecution, OperatorError> {
        let job = self.job_of(&self.execution(id)?)?;
        if let Some(work) = job.progressive() {
            let open = OpenOptions::server_driven();
            return self.reopen(id, &job, &work, overrides, options, &open);
        }
        self.restarted(id, &job, overrides, options, None)
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
        let held = lock(&self.inner.runner.active).get(&id).cloned();
        // The token comes first, as in `stop_all`: a statement of the step may hold the connection that
        // stores the request.
        let asked = held.filter(|held| held.carried != Carried::Driven);
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
        if let Some(held) = lock(&self.inner.runner.active).get(&id) {
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
        let held: Vec<_> = lock(&self.inner.runner.active).values().cloned().collect();
        for one in &held {
            // The token comes first: it reaches the work even when the store does not answer. A driver for a
            // waiting caller ends with its token, so its stop must be stored before.
            if one.carried != Carried::Driven {
                one.stop.request();
            }
            // Another server continues a server-driven execution.
            if one.carried == Carried::ServerDriven {
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
        lock(&self.inner.runner.active).len() < self.inner.running_jobs_max
    }

    /// Returns the executions that this process claimed from the queue and still runs.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn served(&self) -> Result<Vec<ExecutionId>, OperatorError> {
        let held: Vec<_> = lock(&self.inner.runner.active).keys().copied().collect();
        let mut served = Vec::new();
        for id in held {
            if is_served(&self.execution(id)?) {
                served.push(id);
            }
        }
        Ok(served)
    }

    /// Waits until this process runs and drives no execution.
    pub fn wait_all(&self) {
        /// Time between two checks. Ends are rare and not urgent, so that polling is enough.
        const LOOK_INTERVAL: Duration = Duration::from_millis(10);
        while !lock(&self.inner.runner.active).is_empty() {
            StopToken::default().wait(LOOK_INTERVAL);
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

    /// Returns the names of all jobs that are registered, in the history, or both; sorted.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn job_names(&self) -> Result<Vec<JobName>, OperatorError> {
        let mut names: BTreeMap<String, bool> =
            self.queries().job_names()?.into_iter().map(|name| (name, false)).collect();
        names.extend(self.inner.jobs.names()?.into_iter().map(|name| (name, true)));
        Ok(names.into_iter().map(|(name, registered)| JobName { name, registered }).collect())
    }

    /// Returns the number of instances of job `name`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`] when the job is neither registered nor in the history.
    pub fn instance_count(&self, name: &str) -> Result<u64, OperatorError> {
        self.known(name)?;
        Ok(self.queries().instance_count(name)?)
    }

    /// Returns the number of executions of job `name`.
    ///
    /// # Errors
    ///
    /// As [`instance_count`](Self::instance_count).
    pub fn execution_count(&self, name: &str) -> Result<u64, OperatorError> {
        self.known(name)?;
        Ok(self.queries().execution_count(&ExecutionFilter::of_job(name))?)
    }

    /// Returns a page of the instances of job `name`, newest first.
    ///
    /// # Errors
    ///
    /// As [`instance_count`](Self::instance_count).
    pub fn instances(
        &self,
        name: &str,
        page: InstancePage,
    ) -> Result<Vec<JobInstance>, OperatorError> {
        self.known(name)?;
        Ok(self.queries().instances(name, page)?)
    }

    /// Returns the running executions of job `name`.
    ///
    /// # Errors
    ///
    /// As [`instance_count`](Self::instance_count).
    pub fn running(&self, name: &str) -> Result<Vec<JobExecution>, OperatorError> {
        self.known(name)?;
        Ok(self.queries().running(name)?)
    }

    /// Returns the executions of an instance, newest first.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn executions(&self, instance: InstanceId) -> Result<Vec<JobExecution>, OperatorError> {
        Ok(self.queries().executions(&ExecutionFilter::of_instance(instance))?)
    }

    /// Returns the parameters of execution `id` with their types and flags.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchExecution`].
    pub fn parameters(&self, id: ExecutionId) -> Result<JobParameters, OperatorError> {
        Ok(self.execution(id)?.parameters)
    }

    /// Returns execution `id` with its steps, as data that prints as one line.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchExecution`].
    pub fn summary(&self, id: ExecutionId) -> Result<ExecutionSummary, OperatorError> {
        let execution = self.execution(id)?;
        let steps = self.queries().steps(id)?;
        Ok(ExecutionSummary::new(&execution, &steps, self.inner.clock.now()))
    }

    /// Returns each step of execution `id`, as data that prints as one line.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchExecution`].
    pub fn step_summaries(&self, id: ExecutionId) -> Result<Vec<StepSummary>, OperatorError> {
        Ok(self.summary(id)?.steps)
    }

    /// Returns execution `id`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchExecution`].
    pub fn execution(&self, id: ExecutionId) -> Result<JobExecution, OperatorError> {
        let found = self.queries().execution(id)?;
        Ok(found.ok_or(Refusal::NoSuchExecution { execution: id })?)
    }

    fn newest(&self, name: &str) -> Result<JobExecution, OperatorError> {
        self.known(name)?;
        let newest = self.queries().executions(&ExecutionFilter::of_job(name).limit(1))?;
        let newest = newest.into_iter().next();
        Ok(newest.ok_or_else(|| Refusal::NeverStarted { job: name.to_owned() })?)
    }

    fn known(&self, name: &str) -> Result<(), OperatorError> {
        let is_there = |names: Vec<String>| names.iter().any(|one| one == name);
        if self.queries().instance_count(name)? > 0 || is_there(self.inner.jobs.names()?) {
            return Ok(());
        }
        let known = self.job_names()?.into_iter().map(|one| one.name).collect();
        Err(Refusal::NoSuchJob { name: name.to_owned(), known }.into())
    }

    fn claimant(&self) -> Claimant {
        let runner = &self.inner.runner;
        let lease_until = later(self.inner.clock.now(), runner.lease_timeout);
        Claimant { owner: runner.owner.to_string(), lease_until }
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
        let held =
            Held { lease, job: job.name().to_owned(), stop: stop.clone(), carried: Carried::Owned };
        lock(&self.inner.runner.active).insert(execution.id, held);
        let (handle, ending) = JobHandle::new(execution.id, Arc::clone(&self.inner.repository));
        let accept_changed_definition = options.accept_changed_definition;
        let runner = Runner { accept_changed_definition, ..self.inner.runner.clone() };
        // The guard is also dropped when no thread could be started: the lease of an execution without a
        // worker must not be renewed.
        let let_go = LetGo { active: Arc::clone(&runner.active), execution: lease.execution };
        self.inner.pool.submit(Box::new(move || {
            let run = JobRun { job, lease, stop };
            // A panic outside user code must not keep the lease alive; dropping `ending` reports it to the
            // handle.
            let result = catch_unwind(AssertUnwindSafe(|| runner.run(&run)));
            drop(let_go);
            if let Ok(result) = result {
                ending.end(result.map(drop));
            }
        }));
        handle
    }
}

fn is_served(execution: &JobExecution) -> bool {
    execution.owner.as_deref().is_some_and(|owner| owner.ends_with(SERVED))
}

/// Returns the time `timeout` after `now`, at most the latest timestamp.
pub(crate) fn later(now: Timestamp, timeout: Duration) -> Timestamp {
    now.saturating_add(timeout).unwrap_or(Timestamp::MAX)
}

/// The name of a job that is registered, in the history, or both.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct JobName {
    /// The name.
    pub name: String,
    /// Whether the job is registered here and can be started.
    pub registered: bool,
}
