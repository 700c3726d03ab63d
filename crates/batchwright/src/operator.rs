//! The one door: starts, restarts, stops, abandons, recovers.

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

/// Starts and steers executions.
///
/// Cloning shares everything. Executions that run when the last clone goes are carried to their end by
/// their threads; stop them first to end sooner.
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
    /// Beats until the operator is gone.
    _heartbeat: Heartbeat,
}

/// Behind the name of an owner that took an execution which was handed over.
const SERVED: &str = "/served";

/// Executions that this process holds.
pub(crate) type Active = Arc<Mutex<BTreeMap<ExecutionId, Held>>>;

/// An execution that this process holds.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) job: String,
    pub(crate) stop: StopToken,
    pub(crate) carried: Carried,
}

/// How this process carries an execution forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// It is its owner: its lease is renewed.
    Owned,
    /// It drives it slice by slice for somebody who waits.
    Driven,
    /// It drives it slice by slice, as any server would.
    ServerDriven,
}

/// Lets go of an execution when it is dropped.
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

/// Describes a [`JobOperator`].
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

/// One of the two sides of a commit of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitPoint {
    /// Everything is written, nothing is durable.
    Before,
    /// It is durable.
    After,
}

/// Called with the step's name at each [`CommitPoint`] of each commit: where rehearsals kill the process.
pub(crate) type CommitHook = Arc<dyn Fn(&JobScope, &str, CommitPoint) + Send + Sync>;

impl OperatorBuilder {
    /// Calls `hook` with the execution and the step's name around each commit of a step. For rehearsals
    /// and tests: this is where they stop, or kill, what runs.
    #[must_use]
    pub fn commit_hook(
        mut self,
        hook: impl Fn(&JobScope, &str, CommitPoint) + Send + Sync + 'static,
    ) -> Self {
        self.commit_hook = Some(Arc::new(hook));
        self
    }

    /// The jobs that can be started by name.
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

    /// Where time comes from. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Silence after which another process may take an execution over. Default 30 s; renewed three
    /// times within it, so that one lost renewal is survivable.
    #[must_use]
    pub fn lease_timeout(mut self, timeout: Duration) -> Self {
        self.lease_timeout = timeout;
        self
    }

    /// Executions that run at once; others wait as `STARTING`. Default 8.
    #[must_use]
    pub fn running_jobs_max(mut self, jobs: usize) -> Self {
        self.running_jobs_max = jobs.max(1);
        self
    }

    /// Steps that run at once, over all executions; others wait as `STARTING`. Default: no limit of
    /// its own.
    #[must_use]
    pub fn running_steps_max(mut self, steps: usize) -> Self {
        self.running_steps_max = steps.max(1);
        self
    }

    /// The operator, with its heartbeat running.
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
    /// An operator on `repository` with everything at its default and no jobs.
    pub fn new(repository: Arc<dyn JobRepository>) -> Self {
        Self::builder(repository).build()
    }

    /// Describes an operator on `repository`.
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

    /// The jobs that can be started by name.
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

    /// Read-only questions.
    pub fn queries(&self) -> &dyn Queries {
        &*self.inner.repository
    }

    /// What happens to the executions of this process.
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// What time it is, by the operator's clock.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Starts the registered job `name`, or restarts its failed or stopped instance.
    ///
    /// Returns as soon as the execution is stored; it runs on a thread of the operator. Await the
    /// handle for its end, or keep its id.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: nothing was stored. [`OperatorError::Repository`]: look before trying again.
    pub fn start(&self, name: &str, parameters: JobParameters) -> Result<JobHandle, OperatorError> {
        self.start_with(name, parameters, &LaunchOptions::default())
    }

    /// As [`start`](Self::start), with more to say.
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

    /// Stores an execution of `name` for whichever process of this store takes it.
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

    /// Executions that were handed over and that nobody took yet, oldest first.
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

    /// Carries forward execution `id`, which was handed over. `None`: another process was quicker, or it was
    /// stopped.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`] when its job is not registered here; it waits on.
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

    /// Ends an execution that was taken: its job is not the one any more that was handed over.
    fn refuse_changed(&self, execution: &JobExecution) -> Result<(), OperatorError> {
        let told = "the definition of the job was changed after the execution was handed over";
        let failure = Failure::new("changed_definition", told);
        let ended = lifecycle::Ended {
            event: StatusEvent::Fail,
            exit: ExitStatus::failed().with_message(told),
            failure: Some(failure),
            warnings: Vec::new(),
            context: None,
            flow: execution.flow.clone(),
        };
        let lease = Lease { execution: execution.id, fence: execution.fence };
        lifecycle::finish(&*self.inner.repository, lease, ended, self.inner.clock.now())?;
        Ok(())
    }

    /// Running executions whose owners are dead, and whether each had been handed over: such a one is anybody's
    /// to continue, the others are for those who started them.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn lost(&self) -> Result<Vec<(JobExecution, bool)>, OperatorError> {
        let now = self.inner.clock.now();
        let mut running = self.queries().executions(&ExecutionFilter::default().running())?;
        running.retain(|one| crate::launch::may_recover(one, RecoverMode::Detect, now).is_ok());
        let told = |one: JobExecution| {
            let served = is_served(&one);
            (one, served)
        };
        Ok(running.into_iter().map(told).collect())
    }

    /// Starts the next instance of `name`: the parameters of its newest one, changed by the job's
    /// incrementer and then by `overrides`.
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

    /// As [`next`](Self::next), for whichever process of this store takes it.
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

    /// Makes the parameters of the next instance of `job` from those of the newest one.
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

    /// Opens the next instance; whichever server finds it goes on when this process dies.
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

    /// Continues execution `id`, which must be the newest of its instance, in a new one with the same
    /// parameters; `overrides` may change those that do not identify.
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

    /// As [`restart`](Self::restart), for whichever process of this store takes it.
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

    /// The execution that `request` started, if it came before; see [`LaunchOptions::request`].
    ///
    /// # Errors
    ///
    /// [`Refusal::KeyReused`] when another request with its key did.
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

    /// Asks execution `id` to stop at its next chunk boundary, wherever it runs; one that waits is
    /// stopped at once. Asking again changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotRunning`] when it has ended. When the store fails, an execution of this process stops all the same.
    pub fn stop(&self, id: ExecutionId) -> Result<JobExecution, OperatorError> {
        let now = self.inner.clock.now();
        let held = lock(&self.inner.runner.active).get(&id).cloned();
        // First the token, as in `stop_all`: a statement of the step may hold the connection that stores the stop.
        let asked = held.filter(|held| held.carried != Carried::Driven);
        if let Some(held) = &asked {
            held.stop.request();
        }
        let execution = match lifecycle::request_stop(&*self.inner.repository, id, now) {
            // It has stopped meanwhile, as it was asked to.
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

    /// Asks the newest execution of job `name` to stop.
    ///
    /// # Errors
    ///
    /// As [`stop`](Self::stop).
    pub fn stop_job(&self, name: &str) -> Result<JobExecution, OperatorError> {
        self.stop(self.newest(name)?.id)
    }

    /// Asks every execution of this process to stop; returns how many there were.
    pub fn stop_all(&self) -> usize {
        let held: Vec<_> = lock(&self.inner.runner.active).values().cloned().collect();
        for one in &held {
            // First the token: it reaches the work even when the store does not answer. But whoever drives ends with
            // its token, and the stop must be stored by then.
            if one.carried != Carried::Driven {
                one.stop.request();
            }
            // Another server drives on what servers drive.
            if one.carried == Carried::ServerDriven {
                continue;
            }
            if let Err(error) = self.stop(one.lease.execution) {
                tracing::warn!(execution = %one.lease.execution, %error, "stop was not stored");
            }
            one.stop.request();
        }
        held.len()
    }

    /// Whether one more execution could begin at once.
    pub fn has_room(&self) -> bool {
        lock(&self.inner.runner.active).len() < self.inner.running_jobs_max
    }

    /// Executions that this process carries forward and that had been handed over.
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

    /// Waits until this process carries no execution forward any more.
    pub fn wait_all(&self) {
        /// Ends are rare and not urgent: nobody needs to be woken for them.
        const LOOK_INTERVAL: Duration = Duration::from_millis(10);
        while !lock(&self.inner.runner.active).is_empty() {
            StopToken::default().wait(LOOK_INTERVAL);
        }
    }

    /// Gives execution `id` up: it is never restarted. A repeated call changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAbandonable`] unless it failed or was stopped.
    pub fn abandon(&self, id: ExecutionId) -> Result<JobExecution, OperatorError> {
        lifecycle::abandon(&*self.inner.repository, id, self.inner.clock.now())
    }

    /// Closes execution `id` if its owner is dead, so that it can be restarted. Finished ones stay as
    /// they are.
    ///
    /// # Errors
    ///
    /// [`Refusal::LeaseAlive`] when the owner may live.
    pub fn recover(
        &self,
        id: ExecutionId,
        mode: RecoverMode,
    ) -> Result<JobExecution, OperatorError> {
        lifecycle::recover(&*self.inner.repository, id, mode, self.inner.clock.now())
    }

    /// Closes every running execution whose owner is dead; returns those that were closed.
    ///
    /// # Errors
    ///
    /// When the store fails. An owner that may live is passed over.
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

    /// Names of all jobs: registered, in the history, or both; sorted.
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

    /// Number of instances of job `name`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`] when it is neither registered nor in the history.
    pub fn instance_count(&self, name: &str) -> Result<u64, OperatorError> {
        self.known(name)?;
        Ok(self.queries().instance_count(name)?)
    }

    /// Number of executions of job `name`.
    ///
    /// # Errors
    ///
    /// As [`instance_count`](Self::instance_count).
    pub fn execution_count(&self, name: &str) -> Result<u64, OperatorError> {
        self.known(name)?;
        Ok(self.queries().execution_count(&ExecutionFilter::of_job(name))?)
    }

    /// A page of the instances of job `name`, newest first.
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

    /// Running executions of job `name`.
    ///
    /// # Errors
    ///
    /// As [`instance_count`](Self::instance_count).
    pub fn running(&self, name: &str) -> Result<Vec<JobExecution>, OperatorError> {
        self.known(name)?;
        Ok(self.queries().running(name)?)
    }

    /// Executions of an instance, newest first.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn executions(&self, instance: InstanceId) -> Result<Vec<JobExecution>, OperatorError> {
        Ok(self.queries().executions(&ExecutionFilter::of_instance(instance))?)
    }

    /// The parameters of execution `id`, typed and flagged.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchExecution`].
    pub fn parameters(&self, id: ExecutionId) -> Result<JobParameters, OperatorError> {
        Ok(self.execution(id)?.parameters)
    }

    /// Execution `id` with its steps, as data that prints as one line.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchExecution`].
    pub fn summary(&self, id: ExecutionId) -> Result<ExecutionSummary, OperatorError> {
        let execution = self.execution(id)?;
        let steps = self.queries().steps(id)?;
        Ok(ExecutionSummary::new(&execution, &steps, self.inner.clock.now()))
    }

    /// Each step of execution `id`, as data that prints as one line.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchExecution`].
    pub fn step_summaries(&self, id: ExecutionId) -> Result<Vec<StepSummary>, OperatorError> {
        Ok(self.summary(id)?.steps)
    }

    /// Execution `id`.
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

    /// Puts a stored execution into the pool.
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
        // Also when no thread could be had for it: a lease that nobody works for must not be renewed.
        let let_go = LetGo { active: Arc::clone(&runner.active), execution: lease.execution };
        self.inner.pool.submit(Box::new(move || {
            let run = JobRun { job, lease, stop };
            // A panic outside user code must not keep the lease alive: its handle hears of it.
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

/// `timeout` after `now`, as far as timestamps reach.
pub(crate) fn later(now: Timestamp, timeout: Duration) -> Timestamp {
    now.saturating_add(timeout).unwrap_or(Timestamp::MAX)
}

/// A job that is registered, or remembered, or both.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct JobName {
    /// Its name.
    pub name: String,
    /// Whether it can be started here.
    pub registered: bool,
}
