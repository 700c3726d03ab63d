//! Questions about jobs, instances and executions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{JobOperator, OperatorError, Refusal};
use crate::clock::Clock;
use crate::execution::{
    ExecutionId, ExecutionSummary, InstanceId, JobExecution, JobInstance, StepExecution,
    StepSummary,
};
use crate::job::Job;
use crate::launch::RequestKey;
use crate::lifecycle::{self, ObservedStore};
use crate::parameters::JobParameters;
use crate::query::{ExecutionFilter, InstancePage, Queries};
use crate::registry::JobSource;

impl JobOperator {
    /// Returns the answers to questions about jobs, instances and executions.
    pub fn explorer(&self) -> JobExplorer<'_> {
        let host = &self.inner.host;
        JobExplorer {
            queries: &**host.store.repository(),
            store: &host.store,
            jobs: &*self.inner.jobs,
            clock: &*host.clock,
        }
    }
}

/// Questions about jobs, instances and executions. A question about a job that does not exist is refused; the
/// [`Queries`] of the store return an empty result.
pub struct JobExplorer<'a> {
    queries: &'a dyn Queries,
    store: &'a ObservedStore,
    jobs: &'a dyn JobSource,
    clock: &'a dyn Clock,
}

impl JobExplorer<'_> {
    /// Returns the job `name` of the registry or of the other source of jobs.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`], or [`Refusal::InvalidDefinition`] when it cannot be built.
    pub fn job(&self, name: &str) -> Result<Arc<Job>, Refusal> {
        self.jobs.job(name, None)
    }

    /// Returns the job of `execution`, from the source recorded in the execution if possible.
    ///
    /// # Errors
    ///
    /// As [`job`](Self::job).
    pub fn job_of(&self, execution: &JobExecution) -> Result<Arc<Job>, Refusal> {
        self.jobs.job(&execution.job, execution.source.as_deref())
    }

    /// Returns the names of the jobs that can be started here, sorted.
    ///
    /// # Errors
    ///
    /// [`Refusal::JobsUnreadable`] when the place of the jobs cannot be read.
    pub fn runnable_names(&self) -> Result<Vec<String>, Refusal> {
        self.jobs.names()
    }

    /// Returns the names of all jobs that are registered, in the history, or both; sorted.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn job_names(&self) -> Result<Vec<JobName>, OperatorError> {
        let mut names: BTreeMap<String, bool> =
            self.queries.job_names()?.into_iter().map(|name| (name, false)).collect();
        names.extend(self.jobs.names()?.into_iter().map(|name| (name, true)));
        Ok(names.into_iter().map(|(name, registered)| JobName { name, registered }).collect())
    }

    /// Returns the number of instances of job `name`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`] when the job is neither registered nor in the history.
    pub fn instance_count(&self, name: &str) -> Result<u64, OperatorError> {
        self.known(name)?;
        Ok(self.queries.instance_count(name)?)
    }

    /// Returns the number of executions of job `name`.
    ///
    /// # Errors
    ///
    /// As [`instance_count`](Self::instance_count).
    pub fn execution_count(&self, name: &str) -> Result<u64, OperatorError> {
        self.known(name)?;
        Ok(self.queries.execution_count(&ExecutionFilter::of_job(name))?)
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
        Ok(self.queries.instances(name, page)?)
    }

    /// Returns the running executions of job `name`.
    ///
    /// # Errors
    ///
    /// As [`instance_count`](Self::instance_count).
    pub fn running(&self, name: &str) -> Result<Vec<JobExecution>, OperatorError> {
        self.known(name)?;
        Ok(self.queries.running(name)?)
    }

    /// Returns the executions of an instance, newest first.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchInstance`].
    pub fn executions(&self, instance: InstanceId) -> Result<Vec<JobExecution>, OperatorError> {
        let found = self.queries.instance(instance)?;
        found.ok_or(Refusal::NoSuchInstance { instance })?;
        Ok(self.queries.executions(&ExecutionFilter::of_instance(instance))?)
    }

    /// Returns the newest execution of the instance that job `name` has with `parameters`; `None` when it was
    /// never started with them. Defaults are filled in as at a start, if the job can be started here.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidParameters`] when the job does not accept them; [`Refusal::NoSuchJob`] when it is
    /// neither registered nor in the history.
    pub fn newest_with(
        &self,
        name: &str,
        parameters: JobParameters,
    ) -> Result<Option<JobExecution>, OperatorError> {
        let parameters = match self.job(name) {
            Ok(job) => job.accept(parameters)?,
            Err(Refusal::NoSuchJob { .. }) => {
                self.known(name)?;
                parameters
            }
            Err(refusal) => return Err(refusal.into()),
        };
        let instance = self.store.begin()?.find_instance(name, &parameters.key())?;
        let Some(instance) = instance else { return Ok(None) };
        let newest = ExecutionFilter::of_instance(instance.id).limit(1);
        Ok(self.queries.executions(&newest)?.into_iter().next())
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
        let steps = self.queries.steps(id)?;
        Ok(ExecutionSummary::new(&execution, &steps, self.clock.now()))
    }

    /// Returns `executions` with their steps, as data that prints as one line each. Reads the steps of all at once.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn summaries(
        &self,
        executions: &[JobExecution],
    ) -> Result<Vec<ExecutionSummary>, OperatorError> {
        let ids: Vec<_> = executions.iter().map(|one| one.id).collect();
        let mut steps: BTreeMap<ExecutionId, Vec<StepExecution>> = BTreeMap::new();
        for step in self.queries.steps_of(&ids)? {
            steps.entry(step.execution_id).or_default().push(step);
        }
        let now = self.clock.now();
        let summaries = executions.iter().map(|one| {
            let steps = steps.get(&one.id).map_or(&[][..], Vec::as_slice);
            ExecutionSummary::new(one, steps, now)
        });
        Ok(summaries.collect())
    }

    /// Returns the newest step execution with the name `step` of execution `id`, as data that prints as one line;
    /// `None` when the step did not run in this execution.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchExecution`].
    pub fn step_summary(
        &self,
        id: ExecutionId,
        step: &str,
    ) -> Result<Option<StepSummary>, OperatorError> {
        Ok(self.step_summaries(id)?.into_iter().rfind(|one| one.name == step))
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
        let found = self.queries.execution(id)?;
        Ok(found.ok_or(Refusal::NoSuchExecution { execution: id })?)
    }

    /// Returns the execution that `request` started; `None` when it started none. See
    /// [`LaunchOptions::request`](crate::launch::LaunchOptions::request).
    ///
    /// # Errors
    ///
    /// [`Refusal::KeyReused`] when another request with the same key started an execution.
    pub fn requested(&self, request: &RequestKey) -> Result<Option<ExecutionId>, OperatorError> {
        lifecycle::started_by(&mut self.store.begin()?, request)
    }

    /// Returns the newest execution of job `name`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`]; [`Refusal::NeverStarted`] when the job has no execution.
    pub fn newest(&self, name: &str) -> Result<JobExecution, OperatorError> {
        self.known(name)?;
        let newest = self.queries.executions(&ExecutionFilter::of_job(name).limit(1))?;
        let newest = newest.into_iter().next();
        Ok(newest.ok_or_else(|| Refusal::NeverStarted { job: name.to_owned() })?)
    }

    fn known(&self, name: &str) -> Result<(), OperatorError> {
        let has_name = |names: Vec<String>| names.iter().any(|one| one == name);
        if self.queries.instance_count(name)? > 0 || has_name(self.jobs.names()?) {
            return Ok(());
        }
        let known = self.job_names()?.into_iter().map(|one| one.name).collect();
        Err(Refusal::NoSuchJob { name: name.to_owned(), known, broken: Vec::new() }.into())
    }
}

impl std::fmt::Debug for JobExplorer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobExplorer").finish_non_exhaustive()
    }
}

/// The name of a job that is registered, in the history, or both.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct JobName {
    /// The name.
    pub name: String,
    /// Whether the job is registered here and can be started.
    pub registered: bool,
}
