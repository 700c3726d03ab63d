//! Stores the executions of all launches, and runs those of this process on its threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{ActiveGuard, JobHandle, JobOperator, OperatorError, Refusal};
use crate::clock::{StopToken, later};
use crate::engine::{JobRun, run_job};
use crate::execution::{ExecutionId, JobExecution};
use crate::host::{ActiveExecution, Host, RunMode, lock};
use crate::job::Job;
use crate::launch::{Launch, LaunchOptions, LaunchTarget};
use crate::lifecycle::{self, Claimant, StartRequest, parameters_of_restart, transact};
use crate::parameters::JobParameters;
use crate::progressive::{OpenOptions, ProgressiveWork};
use crate::query::ExecutionFilter;
use crate::store::Lease;

impl JobOperator {
    /// Starts the execution that `launch` describes, on a thread of the operator.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); [`Refusal::NoIncrementer`] for the next instance of a job without an
    /// incrementer.
    pub fn launch(&self, launch: &Launch) -> Result<JobHandle, OperatorError> {
        self.launch_job(self.job_of_launch(launch)?, launch)
    }

    /// Starts the execution that `launch` describes as [`launch`](Self::launch) does, with `job` in place of the job of that name:
    /// for jobs that are made for one execution and are not registered. Other processes cannot continue it. A progressive job
    /// must be registered, because its lanes find it by its name.
    ///
    /// # Errors
    ///
    /// As [`launch`](Self::launch).
    pub fn launch_job(&self, job: Arc<Job>, launch: &Launch) -> Result<JobHandle, OperatorError> {
        let execution = self.store_launch(&job, launch, Some(self.claimant()))?;
        Ok(match job.progressive() {
            Some(_) => self.submit_drive(&execution, RunMode::Driven),
            None => self.submit(job, &execution, &launch.options),
        })
    }

    /// Stores the execution that `launch` describes, for any process of this store: see
    /// [`queue`](Self::queue).
    ///
    /// # Errors
    ///
    /// As [`launch`](Self::launch).
    pub fn enqueue(&self, launch: &Launch) -> Result<JobExecution, OperatorError> {
        self.store_launch(&*self.job_of_launch(launch)?, launch, None)
    }

    fn job_of_launch(&self, launch: &Launch) -> Result<Arc<Job>, OperatorError> {
        Ok(match &launch.target {
            LaunchTarget::Start(name) | LaunchTarget::Next(name) => self.explorer().job(name)?,
            LaunchTarget::Restart(id) => self.explorer().job_of(&self.execution(*id)?)?,
        })
    }

    /// Stores the execution of `launch`. A progressive execution has no owner: its lanes have one each.
    fn store_launch(
        &self,
        job: &Job,
        launch: &Launch,
        claimant: Option<Claimant>,
    ) -> Result<JobExecution, OperatorError> {
        if let Some(work) = job.progressive() {
            return self.store_progressive(job, &work, launch);
        }
        let request = self.request(job, &launch.options, claimant);
        let given = &launch.parameters;
        let store = self.store();
        match &launch.target {
            LaunchTarget::Start(_) => lifecycle::start(store, &request, job.accept(given.clone())?),
            LaunchTarget::Next(_) => lifecycle::start_next(store, &request, following(job, given)?),
            LaunchTarget::Restart(id) => {
                lifecycle::restart(store, *id, &request, changed(job, given))
            }
        }
    }

    /// Opens the execution of `launch`. Any server of the store continues it when this process dies.
    fn store_progressive(
        &self,
        job: &Job,
        work: &Arc<dyn ProgressiveWork>,
        launch: &Launch,
    ) -> Result<JobExecution, OperatorError> {
        let given = &launch.parameters;
        let parameters = match &launch.target {
            LaunchTarget::Start(_) => job.accept(given.clone())?,
            LaunchTarget::Next(name) => {
                let newest = self.queries().executions(&ExecutionFilter::of_job(name).limit(1))?;
                following(job, given)?(newest.into_iter().next().map(|newest| newest.parameters))?
            }
            LaunchTarget::Restart(id) => transact(self.store(), |tx| {
                parameters_of_restart(tx, *id, &launch.options, changed(job, given))
            })?,
        };
        let open = OpenOptions::server_driven();
        self.open_as(job, work, parameters, &launch.options, &open, false)
    }

    fn claimant(&self) -> Claimant {
        let host = &self.inner.host;
        let lease_until = later(self.now(), host.lease_timeout);
        Claimant { owner: host.owner.to_string(), lease_until }
    }

    pub(super) fn request<'a>(
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
            now: self.now(),
        }
    }

    /// Claims the queued execution `id` for this process; `owner_suffix` marks its owner.
    pub(super) fn adopt(
        &self,
        id: ExecutionId,
        owner_suffix: &str,
    ) -> Result<Option<JobExecution>, OperatorError> {
        let mut claimant = self.claimant();
        claimant.owner.push_str(owner_suffix);
        Ok(lifecycle::adopt(self.store(), id, &claimant, self.now())?)
    }

    /// Submits a stored execution to the pool of threads.
    pub(super) fn submit(
        &self,
        job: Arc<Job>,
        execution: &JobExecution,
        options: &LaunchOptions,
    ) -> JobHandle {
        let accept_changed_definition = options.accept_changed_definition;
        let host = Host { accept_changed_definition, ..self.inner.host.clone() };
        let (activity, stop) = self.activate(execution, RunMode::Owned);
        let lease = Lease { execution: execution.id, fence: execution.fence };
        let (handle, ending) = JobHandle::new(execution.id, Arc::clone(host.store.repository()));
        self.inner.pool.submit(Box::new(move || {
            let run = JobRun { job, lease, stop };
            // A panic outside user code must not cause further renewals of the lease; dropping `ending` reports it to the
            // handle.
            let result = catch_unwind(AssertUnwindSafe(|| run_job(&host, &run)));
            drop(activity);
            if let Ok(result) = result {
                ending.end(result);
            }
        }));
        handle
    }

    /// Adds an execution to the active ones, until the guard is dropped: also when no thread could be started,
    /// because the lease of an execution without a worker must not be renewed.
    pub(super) fn activate(
        &self,
        execution: &JobExecution,
        mode: RunMode,
    ) -> (ActiveGuard, StopToken) {
        let lease = Lease { execution: execution.id, fence: execution.fence };
        let stop = StopToken::default();
        let held = ActiveExecution { lease, job: execution.job.clone(), stop: stop.clone(), mode };
        let active = Arc::clone(&self.inner.host.active);
        lock(&active).insert(execution.id, held);
        (ActiveGuard { active, execution: execution.id }, stop)
    }
}

/// Returns a function from the newest parameters of `job` to those of its next instance.
fn following<'a>(
    job: &'a Job,
    overrides: &'a JobParameters,
) -> Result<impl Fn(Option<JobParameters>) -> Result<JobParameters, Refusal> + 'a, Refusal> {
    let incrementer = job.incrementer();
    let incrementer =
        incrementer.ok_or_else(|| Refusal::NoIncrementer { job: job.name().to_owned() })?;
    Ok(move |newest: Option<JobParameters>| {
        let next = incrementer(newest.as_ref())
            .map_err(|problem| Refusal::InvalidParameters { problems: vec![problem] })?;
        job.accept(next.overridden_by(overrides))
    })
}

/// Returns a function from the parameters of an execution of `job` to those of its restart.
fn changed<'a>(
    job: &'a Job,
    overrides: &'a JobParameters,
) -> impl Fn(JobParameters) -> Result<JobParameters, Refusal> + 'a {
    |parameters| job.accept(parameters.overridden_by(overrides))
}
