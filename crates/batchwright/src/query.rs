//! Looking at what is remembered: read-only, without an operator or a job.

#[cfg(feature = "cache")]
mod cache;

#[cfg(feature = "cache")]
pub use cache::CachedQueries;

use jiff::Timestamp;

use crate::error::RepositoryError;
use crate::event::EventRecord;
use crate::execution::{
    BatchStatus, ExecutionId, InstanceId, JobExecution, JobInstance, SkipRecord, StepExecution,
    StepExecutionId,
};

/// Read-only questions to a repository. Lists are newest first.
#[expect(clippy::missing_errors_doc, reason = "each fails with what the store reports, no more")]
pub trait Queries: Send + Sync {
    /// Names of all jobs in the history, sorted.
    fn job_names(&self) -> Result<Vec<String>, RepositoryError>;

    /// One instance.
    fn instance(&self, id: InstanceId) -> Result<Option<JobInstance>, RepositoryError>;

    /// A page of the instances of `job`; stable while instances are added.
    fn instances(&self, job: &str, page: InstancePage)
    -> Result<Vec<JobInstance>, RepositoryError>;

    /// Number of instances of `job`.
    fn instance_count(&self, job: &str) -> Result<u64, RepositoryError>;

    /// One execution.
    fn execution(&self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError>;

    /// The executions that `filter` lets through.
    fn executions(&self, filter: &ExecutionFilter) -> Result<Vec<JobExecution>, RepositoryError>;

    /// Number of executions that `filter` lets through; its `limit` and `before` do not count.
    fn execution_count(&self, filter: &ExecutionFilter) -> Result<u64, RepositoryError>;

    /// Step executions of an execution, in the order in which they began.
    fn steps(&self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError>;

    /// One step execution.
    fn step(&self, id: StepExecutionId) -> Result<Option<StepExecution>, RepositoryError>;

    /// Skips of an execution, in the order in which they were committed.
    fn skips(&self, id: ExecutionId) -> Result<Vec<SkipRecord>, RepositoryError>;

    /// At most `limit` of them, those from number `begin` on, counted from 0.
    fn skips_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<SkipRecord>, RepositoryError> {
        Ok(self.skips(id)?.into_iter().skip(begin).take(limit).collect())
    }

    /// Changes of state of an execution and its steps, oldest first.
    fn events(&self, id: ExecutionId) -> Result<Vec<EventRecord>, RepositoryError>;

    /// Executions of `job` that somebody may still be working on.
    fn running(&self, job: &str) -> Result<Vec<JobExecution>, RepositoryError> {
        self.executions(&ExecutionFilter::of_job(job).running())
    }
}

/// Part of a list of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstancePage {
    /// Only instances older than this one: the last of the page before.
    pub before: Option<InstanceId>,
    /// At most so many.
    pub limit: usize,
}

impl InstancePage {
    /// The newest `limit` instances.
    pub fn first(limit: usize) -> Self {
        Self { before: None, limit }
    }

    /// The `limit` instances behind `last`.
    pub fn after(last: InstanceId, limit: usize) -> Self {
        Self { before: Some(last), limit }
    }
}

/// Which executions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecutionFilter {
    /// Only of this job.
    pub job: Option<String>,
    /// Only of this instance.
    pub instance: Option<InstanceId>,
    /// Only with one of these statuses; none means any.
    pub statuses: Vec<BatchStatus>,
    /// Only accepted at this moment or later.
    pub since: Option<Timestamp>,
    /// Only accepted before this moment.
    pub until: Option<Timestamp>,
    /// Only ended before this moment.
    pub ended_before: Option<Timestamp>,
    /// Only older than this one: the last of the page before.
    pub before: Option<ExecutionId>,
    /// At most so many.
    pub limit: Option<usize>,
}

impl ExecutionFilter {
    /// All of a job.
    pub fn of_job(job: impl Into<String>) -> Self {
        Self { job: Some(job.into()), ..Self::default() }
    }

    /// All of an instance.
    pub fn of_instance(id: InstanceId) -> Self {
        Self { instance: Some(id), ..Self::default() }
    }

    /// Only with `status`, besides those already named.
    #[must_use]
    pub fn status(mut self, status: BatchStatus) -> Self {
        self.statuses.push(status);
        self
    }

    /// Only those that somebody may still be working on.
    #[must_use]
    pub fn running(self) -> Self {
        self.status(BatchStatus::Starting)
            .status(BatchStatus::Started)
            .status(BatchStatus::Stopping)
    }

    /// At most `limit`.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Whether `execution` passes.
    pub fn matches(&self, execution: &JobExecution) -> bool {
        self.job.as_ref().is_none_or(|job| *job == execution.job)
            && self.instance.is_none_or(|id| id == execution.instance_id)
            && (self.statuses.is_empty() || self.statuses.contains(&execution.status))
            && self.since.is_none_or(|at| execution.created_at >= at)
            && self.until.is_none_or(|at| execution.created_at < at)
            && self.ended_before.is_none_or(|at| execution.ended_at.is_some_and(|end| end < at))
            && self.before.is_none_or(|id| execution.id < id)
    }
}
