//! Read-only queries of a store, without an operator or a job.
//!
//! ```
//! use batchwright::MemoryRepository;
//! use batchwright::execution::{Counters, InstanceId, JobInstance, SkipRecord, StepExecutionId};
//! use batchwright::query::{ExecutionFilter, InstancePage, OutcomeCount, Queries};
//!
//! /// Returns what each step of the newest execution of `job` did.
//! fn newest(store: &dyn Queries, job: &str) -> Result<Vec<(String, Counters)>, Box<dyn std::error::Error>> {
//!     let filter = ExecutionFilter::of_job(job).limit(1);
//!     let Some(execution) = store.executions(&filter)?.into_iter().next() else { return Ok(Vec::new()) };
//!     let skips: Vec<SkipRecord> = store.skips(execution.id)?;
//!     for skip in skips.iter().filter(|skip| skip.kind == "data.parse") {
//!         println!("{}: record {}: {}", skip.step, skip.item, skip.message);
//!     }
//!     Ok(store.steps(execution.id)?.into_iter().map(|step| (step.name, step.counters)).collect())
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryRepository::new();
//! assert!(newest(&store, "import")?.is_empty());
//! let page: Vec<JobInstance> = store.instances("import", InstancePage::first(20))?;
//! assert!(page.is_empty() && store.instance(InstanceId(1))?.is_none());
//! assert!(store.step(StepExecutionId(1))?.is_none());
//! let by_hour: Vec<OutcomeCount> = store.outcomes(jiff::Timestamp::UNIX_EPOCH, 3_600)?;
//! assert!(by_hour.is_empty());
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "cache")]
mod cache;
mod search;

#[cfg(feature = "cache")]
pub use cache::CachedQueries;
pub use search::{ExecutionSearch, Found};

use jiff::Timestamp;

use crate::audit::AuditEntry;
use crate::error::RepositoryError;
use crate::event::Event;
use crate::execution::{
    BatchStatus, ExecutionId, InstanceId, JobExecution, JobInstance, SkipRecord, StepExecution,
    StepExecutionId,
};

/// Read-only queries of a repository. Lists are newest first unless a method states another order.
#[expect(clippy::missing_errors_doc, reason = "each fails with what the store reports, no more")]
pub trait Queries: Send + Sync {
    /// Returns the names of all jobs in the history, sorted.
    fn job_names(&self) -> Result<Vec<String>, RepositoryError>;

    /// Returns one instance.
    fn instance(&self, id: InstanceId) -> Result<Option<JobInstance>, RepositoryError>;

    /// Returns a page of the instances of `job`; new instances do not shift pages.
    fn instances(&self, job: &str, page: InstancePage)
    -> Result<Vec<JobInstance>, RepositoryError>;

    /// Returns the number of instances of `job`.
    fn instance_count(&self, job: &str) -> Result<u64, RepositoryError>;

    /// Returns one execution.
    fn execution(&self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError>;

    /// Returns the executions that match `filter`.
    fn executions(&self, filter: &ExecutionFilter) -> Result<Vec<JobExecution>, RepositoryError>;

    /// Returns the number of executions that match `filter`; its `offset`, `limit` and `before` are ignored.
    fn execution_count(&self, filter: &ExecutionFilter) -> Result<u64, RepositoryError>;

    /// Returns the step executions of an execution in the order in which they began.
    fn steps(&self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError>;

    /// Returns at most `limit` step executions of an execution, from index `begin` on, counted from 0.
    fn steps_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        Ok(self.steps(id)?.into_iter().skip(begin).take(limit).collect())
    }

    /// Returns `limit` step executions of an execution that are not `COMPLETED`: first those that failed, then what was stopped or
    /// runs, each in the order in which they began.
    fn steps_not_completed(
        &self,
        id: ExecutionId,
        limit: usize,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        let mut steps = self.steps(id)?;
        steps.retain(|step| step.status != BatchStatus::Completed);
        steps.sort_by_key(|step| (step.status != BatchStatus::Failed, step.id));
        steps.truncate(limit);
        Ok(steps)
    }

    /// Returns one step execution.
    fn step(&self, id: StepExecutionId) -> Result<Option<StepExecution>, RepositoryError>;

    /// Returns the skips of an execution in the order in which they were committed.
    fn skips(&self, id: ExecutionId) -> Result<Vec<SkipRecord>, RepositoryError>;

    /// Returns at most `limit` skips of an execution, from index `begin` on, counted from 0.
    fn skips_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<SkipRecord>, RepositoryError> {
        Ok(self.skips(id)?.into_iter().skip(begin).take(limit).collect())
    }

    /// Returns the status changes of an execution and its steps, oldest first.
    fn events(&self, id: ExecutionId) -> Result<Vec<Event>, RepositoryError>;

    /// Returns at most `limit` status changes of an execution and its steps, from index `begin` on, counted from 0.
    fn events_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<Event>, RepositoryError> {
        Ok(self.events(id)?.into_iter().skip(begin).take(limit).collect())
    }

    /// Returns at most `limit` stored events of all executions with their numbers, from the first one with a number above `after`
    /// on. Transactions may commit in another order than that of their numbers: a number below one that was already returned may
    /// appear later.
    fn events_after(&self, after: i64, limit: usize) -> Result<Vec<(i64, Event)>, RepositoryError>;

    /// Returns the number of the newest stored event; 0 when there is none.
    fn last_event(&self) -> Result<i64, RepositoryError>;

    /// Returns the step executions of all executions `ids`, in the order in which they began.
    fn steps_of(&self, ids: &[ExecutionId]) -> Result<Vec<StepExecution>, RepositoryError>;

    /// Returns the newest execution of each job, sorted by the name of the job.
    fn newest_of_jobs(&self) -> Result<Vec<JobExecution>, RepositoryError>;

    /// Counts the executions created at `since` or later by status and by periods of `seconds`, which begin with `since`.
    fn outcomes(
        &self,
        since: Timestamp,
        seconds: u32,
    ) -> Result<Vec<OutcomeCount>, RepositoryError>;

    /// Returns at most `limit` entries of the audit, newest first: those before the entry `before`.
    fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>, RepositoryError>;

    /// Returns the running executions of `job`: those that are starting, started or stopping.
    fn running(&self, job: &str) -> Result<Vec<JobExecution>, RepositoryError> {
        self.executions(&ExecutionFilter::of_job(job).running())
    }
}

/// The number of executions with one status that were created in one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutcomeCount {
    /// The period, counted from 0.
    pub period: u32,
    /// The status of the executions.
    pub status: BatchStatus,
    /// Their number.
    pub count: u64,
}

/// A page of a list of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstancePage {
    /// Only instances older than this one, the last one of the previous page.
    pub before: Option<InstanceId>,
    /// Number of instances to leave out before the page.
    pub offset: usize,
    /// Maximum number of instances.
    pub limit: usize,
}

impl InstancePage {
    /// Returns the page of the newest `limit` instances.
    pub fn first(limit: usize) -> Self {
        Self { before: None, offset: 0, limit }
    }

    /// Returns the page of the next `limit` instances after `last`, which are older.
    pub fn after(last: InstanceId, limit: usize) -> Self {
        Self { before: Some(last), offset: 0, limit }
    }

    /// Returns the page of `limit` instances that begins at index `offset`, from 0. New instances shift it, and reading it
    /// takes longer the larger `offset` is; [`after`](Self::after) does neither.
    pub fn at(offset: usize, limit: usize) -> Self {
        Self { before: None, offset, limit }
    }
}

/// Selects executions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecutionFilter {
    /// Only executions of this job.
    pub job: Option<String>,
    /// Only executions of this instance.
    pub instance: Option<InstanceId>,
    /// Only executions with one of these statuses; an empty list means any.
    pub statuses: Vec<BatchStatus>,
    /// Only executions created at this time or later.
    pub since: Option<Timestamp>,
    /// Only executions created before this time.
    pub until: Option<Timestamp>,
    /// Only executions that ended before this time.
    pub ended_before: Option<Timestamp>,
    /// Only the newest execution of each instance.
    pub newest_of_instance: bool,
    /// Only executions older than this one, the last one of the previous page.
    pub before: Option<ExecutionId>,
    /// Number of executions to leave out before the first one; new executions shift what follows, unless `before` is set.
    pub offset: usize,
    /// Maximum number of executions.
    pub limit: Option<usize>,
}

impl ExecutionFilter {
    /// Returns a filter for all executions of a job.
    pub fn of_job(job: impl Into<String>) -> Self {
        Self { job: Some(job.into()), ..Self::default() }
    }

    /// Returns a filter for all executions of an instance.
    pub fn of_instance(id: InstanceId) -> Self {
        Self { instance: Some(id), ..Self::default() }
    }

    /// Adds `status` to the accepted statuses.
    #[must_use]
    pub fn status(mut self, status: BatchStatus) -> Self {
        self.statuses.push(status);
        self
    }

    /// Adds the statuses of running executions: starting, started and stopping.
    #[must_use]
    pub fn running(self) -> Self {
        self.status(BatchStatus::Starting)
            .status(BatchStatus::Started)
            .status(BatchStatus::Stopping)
    }

    /// Sets the maximum number of executions.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the number of executions to leave out before the first one.
    #[must_use]
    pub fn offset(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }

    /// Returns whether `execution` matches the filter. Offset, limit and `newest_of_instance` are ignored.
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
