//! Questions, on the connection that cannot write.

use batchwright::{
    BatchStatus, EventRecord, ExecutionFilter, ExecutionId, InstanceId, InstancePage, JobExecution,
    JobInstance, Queries, RepositoryError, SkipRecord, StepExecution, StepExecutionId,
};
use rusqlite::{Params, Row, ToSql};

use super::SqliteRepository;
use super::rows::{self, count, micros};

impl SqliteRepository {
    fn ask_one<T, P: Params>(
        &self,
        sql: &str,
        params: P,
        map: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, RepositoryError> {
        rows::one(&self.reader(), sql, params, map)
    }

    fn ask<T, P: Params>(
        &self,
        sql: &str,
        params: P,
        map: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, RepositoryError> {
        rows::many(&self.reader(), sql, params, map)
    }

    fn count(&self, sql: &str, params: impl Params) -> Result<u64, RepositoryError> {
        let counted: Option<i64> = self.ask_one(sql, params, |row| row.get(0))?;
        Ok(counted.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }
}

/// Parameters of a statement that is put together.
type NamedParams<'a> = Vec<(&'static str, Box<dyn ToSql + 'a>)>;

/// The conditions of `filter` behind `sql`, and their parameters.
fn filtered<'a>(
    sql: &str,
    filter: &'a ExecutionFilter,
    before: &'a i64,
) -> (String, NamedParams<'a>) {
    let mut sql = sql.to_owned();
    let mut params: NamedParams<'a> = vec![(":before", Box::new(before))];
    if let Some(job) = &filter.job {
        sql.push_str("AND job = :job ");
        params.push((":job", Box::new(job)));
    }
    if let Some(instance) = filter.instance {
        sql.push_str("AND instance_id = :instance ");
        params.push((":instance", Box::new(instance.0)));
    }
    if let Some(at) = filter.ended_before {
        sql.push_str("AND ended_at < :ended_before ");
        params.push((":ended_before", Box::new(micros(at))));
    }
    if !filter.statuses.is_empty() {
        // Names of statuses are words of ours, not of a user.
        let names: Vec<_> =
            filter.statuses.iter().map(|status: &BatchStatus| format!("'{status}'")).collect();
        sql.push_str(&format!("AND status IN ({}) ", names.join(", ")));
    }
    (sql, params)
}

fn by_name<'p>(
    params: &'p [(&'static str, Box<dyn ToSql + '_>)],
) -> Vec<(&'static str, &'p dyn ToSql)> {
    params.iter().map(|(name, value)| (*name, &**value as &dyn ToSql)).collect()
}

impl Queries for SqliteRepository {
    fn job_names(&self) -> Result<Vec<String>, RepositoryError> {
        self.ask(&self.statements.job_names, [], |row| row.get(0))
    }

    fn instance(&self, id: InstanceId) -> Result<Option<JobInstance>, RepositoryError> {
        self.ask_one(&self.statements.instance, [id.0], rows::instance)
    }

    fn instances(
        &self,
        job: &str,
        page: InstancePage,
    ) -> Result<Vec<JobInstance>, RepositoryError> {
        let before = page.before.map_or(i64::MAX, |id| id.0);
        let params = (job, before, count(page.limit as u64));
        self.ask(&self.statements.instances, params, rows::instance)
    }

    fn instance_count(&self, job: &str) -> Result<u64, RepositoryError> {
        self.count(&self.statements.instance_count, [job])
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError> {
        self.ask_one(&self.statements.execution, [id.0], rows::execution)
    }

    fn executions(&self, filter: &ExecutionFilter) -> Result<Vec<JobExecution>, RepositoryError> {
        let before = filter.before.map_or(i64::MAX, |id| id.0);
        let (mut sql, params) = filtered(&self.statements.executions, filter, &before);
        let limit = filter.limit.map_or(-1, |limit| count(limit as u64));
        sql.push_str(&format!("ORDER BY id DESC LIMIT {limit}"));
        self.ask(&sql, &*by_name(&params), rows::execution)
    }

    fn execution_count(&self, filter: &ExecutionFilter) -> Result<u64, RepositoryError> {
        let (sql, params) = filtered(&self.statements.execution_count, filter, &i64::MAX);
        self.count(&sql, &*by_name(&params))
    }

    fn steps(&self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError> {
        self.ask(&self.statements.steps_of, [id.0], rows::step)
    }

    fn step(&self, id: StepExecutionId) -> Result<Option<StepExecution>, RepositoryError> {
        self.ask_one(&self.statements.step, [id.0], rows::step)
    }

    fn skips(&self, id: ExecutionId) -> Result<Vec<SkipRecord>, RepositoryError> {
        self.ask(&self.statements.skips, [id.0], rows::skip)
    }

    fn events(&self, id: ExecutionId) -> Result<Vec<EventRecord>, RepositoryError> {
        self.ask(&self.statements.events, [id.0], rows::event)
    }
}
