//! A cache in front of the queries that never serves what may still change.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::{ExecutionFilter, InstancePage, OutcomeCount, Queries};
use crate::audit::AuditEntry;
use jiff::Timestamp;

use crate::error::RepositoryError;
use crate::event::Event;
use crate::execution::{
    ExecutionId, InstanceId, JobExecution, JobInstance, SkipRecord, StepExecution, StepExecutionId,
};

/// Keeps single instances, finished executions and their steps for a while.
///
/// Lists and counts always ask the store. An execution that is running, stopped or failed may still
/// change (it may be abandoned), so only `COMPLETED` and `ABANDONED` ones are kept.
pub struct CachedQueries {
    queries: Arc<dyn Queries>,
    instances: Cache<InstanceId, JobInstance>,
    executions: Cache<ExecutionId, JobExecution>,
    steps: Cache<ExecutionId, Arc<[StepExecution]>>,
}

impl CachedQueries {
    /// In front of `queries`; an entry lives for `time_to_live`, and each of the three kinds (instances,
    /// executions, steps) has at most `entries_max`.
    pub fn new(queries: Arc<dyn Queries>, time_to_live: Duration, entries_max: u64) -> Self {
        Self {
            queries,
            instances: cache(time_to_live, entries_max),
            executions: cache(time_to_live, entries_max),
            steps: cache(time_to_live, entries_max),
        }
    }
}

fn cache<K, V>(time_to_live: Duration, entries_max: u64) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(entries_max).time_to_live(time_to_live).build()
}

fn is_final(execution: &JobExecution) -> bool {
    !execution.status.is_running() && !execution.status.is_restartable()
}

impl Queries for CachedQueries {
    fn job_names(&self) -> Result<Vec<String>, RepositoryError> {
        self.queries.job_names()
    }

    fn instance(&self, id: InstanceId) -> Result<Option<JobInstance>, RepositoryError> {
        if let Some(kept) = self.instances.get(&id) {
            return Ok(Some(kept));
        }
        let found = self.queries.instance(id)?;
        if let Some(instance) = &found {
            self.instances.insert(id, instance.clone());
        }
        Ok(found)
    }

    fn instances(
        &self,
        job: &str,
        page: InstancePage,
    ) -> Result<Vec<JobInstance>, RepositoryError> {
        self.queries.instances(job, page)
    }

    fn instance_count(&self, job: &str) -> Result<u64, RepositoryError> {
        self.queries.instance_count(job)
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError> {
        if let Some(kept) = self.executions.get(&id) {
            return Ok(Some(kept));
        }
        let found = self.queries.execution(id)?;
        if let Some(execution) = found.as_ref().filter(|one| is_final(one)) {
            self.executions.insert(id, execution.clone());
        }
        Ok(found)
    }

    fn executions(&self, filter: &ExecutionFilter) -> Result<Vec<JobExecution>, RepositoryError> {
        self.queries.executions(filter)
    }

    fn execution_count(&self, filter: &ExecutionFilter) -> Result<u64, RepositoryError> {
        self.queries.execution_count(filter)
    }

    fn steps(&self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError> {
        if let Some(kept) = self.steps.get(&id) {
            return Ok(kept.to_vec());
        }
        // Asked first: had it ended in between, steps read before would be kept unfinished.
        let ended = self.execution(id)?.as_ref().is_some_and(is_final);
        let found = self.queries.steps(id)?;
        if ended {
            self.steps.insert(id, found.clone().into());
        }
        Ok(found)
    }

    fn step(&self, id: StepExecutionId) -> Result<Option<StepExecution>, RepositoryError> {
        self.queries.step(id)
    }

    fn skips(&self, id: ExecutionId) -> Result<Vec<SkipRecord>, RepositoryError> {
        self.queries.skips(id)
    }

    fn skips_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<SkipRecord>, RepositoryError> {
        self.queries.skips_page(id, begin, limit)
    }

    fn events(&self, id: ExecutionId) -> Result<Vec<Event>, RepositoryError> {
        self.queries.events(id)
    }

    fn events_after(&self, after: i64, limit: usize) -> Result<Vec<(i64, Event)>, RepositoryError> {
        self.queries.events_after(after, limit)
    }

    fn events_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<Event>, RepositoryError> {
        self.queries.events_page(id, begin, limit)
    }

    fn steps_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        self.queries.steps_page(id, begin, limit)
    }

    fn steps_not_completed(
        &self,
        id: ExecutionId,
        limit: usize,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        self.queries.steps_not_completed(id, limit)
    }

    fn last_event(&self) -> Result<i64, RepositoryError> {
        self.queries.last_event()
    }

    fn steps_of(&self, ids: &[ExecutionId]) -> Result<Vec<StepExecution>, RepositoryError> {
        self.queries.steps_of(ids)
    }

    fn newest_of_jobs(&self) -> Result<Vec<JobExecution>, RepositoryError> {
        self.queries.newest_of_jobs()
    }

    fn outcomes(
        &self,
        since: Timestamp,
        seconds: u32,
    ) -> Result<Vec<OutcomeCount>, RepositoryError> {
        self.queries.outcomes(since, seconds)
    }

    fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>, RepositoryError> {
        self.queries.audit(before, limit)
    }
}
