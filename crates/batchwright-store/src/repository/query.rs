//! Queries of the repository; on SQLite they use a read-only connection.

use batchwright::BatchStatus;
use batchwright::audit::AuditEntry;
use batchwright::error::RepositoryError;
use batchwright::event::Event;
use batchwright::execution::{
    ExecutionId, InstanceId, JobExecution, JobInstance, SkipRecord, StepExecution, StepExecutionId,
};
use batchwright::query::{ExecutionFilter, InstancePage, OutcomeCount, Queries};
use jiff::Timestamp;

use super::SqlRepository;
use super::rows::{self, count, micros};
use crate::database::{Sql, SqlError, SqlRow, SqlValue};

/// Most numbers of one statement.
const IDS_MAX: usize = 500;

impl SqlRepository {
    pub(super) fn ask_one<T>(
        &self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        map: fn(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Option<T>, RepositoryError> {
        Ok(self.ask(sql, values, map)?.into_iter().next())
    }

    pub(super) fn ask<T>(
        &self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        map: fn(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, RepositoryError> {
        loop {
            let mut session = self.readers.take()?;
            match session.many(sql, values, map) {
                Ok(found) => return Ok(found),
                // An idle connection may have been lost in the meantime; the next one is tried.
                Err(_) if session.is_broken() && !session.is_fresh() => {}
                Err(error) => return Err(error.in_store("read rows")),
            }
        }
    }

    fn count(&self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<u64, RepositoryError> {
        Ok(self.ask_one(sql, values, |row| row.at(0)?.count())?.unwrap_or(0))
    }

    /// Appends the conditions of `filter` and then `end` to the text of `sql`.
    fn filtered<'a>(
        &self,
        sql: &str,
        filter: &'a ExecutionFilter,
        before: i64,
        end: &str,
    ) -> (Sql, Vec<SqlValue<'a>>) {
        let mut sql = sql.to_owned();
        let mut values = vec![SqlValue::from(before)];
        let mut and = |condition: &str, value: SqlValue<'a>| {
            values.push(value);
            let condition = condition.replace("?#", &format!("?{}", values.len()));
            sql.push_str(&format!("AND {condition} "));
        };
        if let Some(job) = &filter.job {
            and("job = ?#", job.into());
        }
        if let Some(instance) = filter.instance {
            and("instance_id = ?#", instance.0.into());
        }
        if let Some(at) = filter.since {
            and("created_at >= ?#", micros(at).into());
            and(&self.first_since, micros(at).into());
        }
        if let Some(at) = filter.until {
            and("created_at < ?#", micros(at).into());
        }
        if let Some(at) = filter.ended_before {
            and("ended_at < ?#", micros(at).into());
        }
        if filter.newest_of_instance {
            sql.push_str(&self.newest_of_instance);
        }
        if !filter.statuses.is_empty() {
            // The names of statuses are constants and contain no user input.
            let names: Vec<_> =
                filter.statuses.iter().map(|status: &BatchStatus| format!("'{status}'")).collect();
            sql.push_str(&format!("AND status IN ({}) ", names.join(", ")));
        }
        sql.push_str(end);
        (Sql::new(self.dialect, &sql), values)
    }
}

/// The values of a page of what belongs to an execution.
fn page_of(id: ExecutionId, begin: usize, limit: usize) -> [SqlValue<'static>; 3] {
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    [id.0.into(), number(limit).into(), number(begin).into()]
}

impl Queries for SqlRepository {
    fn job_names(&self) -> Result<Vec<String>, RepositoryError> {
        self.ask(&self.statements.job_names, &[], |row| row.read("job"))
    }

    fn instance(&self, id: InstanceId) -> Result<Option<JobInstance>, RepositoryError> {
        self.ask_one(&self.statements.instance, &[id.0.into()], rows::instance)
    }

    fn instances(
        &self,
        job: &str,
        page: InstancePage,
    ) -> Result<Vec<JobInstance>, RepositoryError> {
        let before = page.before.map_or(i64::MAX, |id| id.0);
        let (limit, offset) = (count(page.limit as u64), count(page.offset as u64));
        let values = [job.into(), before.into(), limit.into(), offset.into()];
        self.ask(&self.statements.instances, &values, rows::instance)
    }

    fn instance_count(&self, job: &str) -> Result<u64, RepositoryError> {
        self.count(&self.statements.instance_count, &[job.into()])
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError> {
        self.ask_one(&self.statements.execution, &[id.0.into()], rows::execution)
    }

    fn executions(&self, filter: &ExecutionFilter) -> Result<Vec<JobExecution>, RepositoryError> {
        let before = filter.before.map_or(i64::MAX, |id| id.0);
        let limit = filter.limit.map_or(i64::MAX, |limit| count(limit as u64));
        let offset = count(filter.offset as u64);
        let end = format!("ORDER BY id DESC LIMIT {limit} OFFSET {offset}");
        let (sql, values) = self.filtered(&self.executions, filter, before, &end);
        self.ask(&sql, &values, rows::execution)
    }

    fn execution_count(&self, filter: &ExecutionFilter) -> Result<u64, RepositoryError> {
        let (sql, values) = self.filtered(&self.execution_count, filter, i64::MAX, "");
        self.count(&sql, &values)
    }

    fn steps(&self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError> {
        self.ask(&self.statements.steps_of, &[id.0.into()], rows::step)
    }

    fn step(&self, id: StepExecutionId) -> Result<Option<StepExecution>, RepositoryError> {
        self.ask_one(&self.statements.step, &[id.0.into()], rows::step)
    }

    fn skips(&self, id: ExecutionId) -> Result<Vec<SkipRecord>, RepositoryError> {
        self.ask(&self.statements.skips, &[id.0.into()], rows::skip)
    }

    fn skips_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<SkipRecord>, RepositoryError> {
        self.ask(&self.statements.skips_page, &page_of(id, begin, limit), rows::skip)
    }

    fn steps_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        self.ask(&self.statements.steps_page, &page_of(id, begin, limit), rows::step)
    }

    fn steps_not_completed(
        &self,
        id: ExecutionId,
        limit: usize,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [id.0.into(), limit.into()];
        self.ask(&self.statements.steps_not_completed, &values, rows::step)
    }

    fn events_page(
        &self,
        id: ExecutionId,
        begin: usize,
        limit: usize,
    ) -> Result<Vec<Event>, RepositoryError> {
        self.ask(&self.statements.events_page, &page_of(id, begin, limit), rows::event)
    }

    fn events(&self, id: ExecutionId) -> Result<Vec<Event>, RepositoryError> {
        self.ask(&self.statements.events, &[id.0.into()], rows::event)
    }

    fn events_after(&self, after: i64, limit: usize) -> Result<Vec<(i64, Event)>, RepositoryError> {
        let values = [after.into(), count(limit as u64).into()];
        self.ask(&self.statements.events_after, &values, rows::numbered_event)
    }

    fn last_event(&self) -> Result<i64, RepositoryError> {
        let last = self.ask_one(&self.statements.last_event, &[], |row| row.read("id"))?;
        Ok(last.unwrap_or(0))
    }

    fn steps_of(&self, ids: &[ExecutionId]) -> Result<Vec<StepExecution>, RepositoryError> {
        let mut found = Vec::new();
        // The numbers are integers and need no placeholders, of which databases allow only so many.
        for ids in ids.chunks(IDS_MAX) {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            let text = format!("{} IN ({}) ORDER BY id", self.steps, ids.join(", "));
            found.extend(self.ask(&Sql::new(self.dialect, &text), &[], rows::step)?);
        }
        Ok(found)
    }

    fn newest_of_jobs(&self) -> Result<Vec<JobExecution>, RepositoryError> {
        self.ask(&self.statements.newest_of_jobs, &[], rows::execution)
    }

    fn outcomes(
        &self,
        since: Timestamp,
        seconds: u32,
    ) -> Result<Vec<OutcomeCount>, RepositoryError> {
        let period = i64::from(seconds.max(1)) * 1_000_000;
        self.ask(&self.statements.outcomes, &[micros(since).into(), period.into()], rows::outcome)
    }

    fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>, RepositoryError> {
        let values = [before.unwrap_or(i64::MAX).into(), count(limit as u64).into()];
        self.ask(&self.statements.audit, &values, rows::audit)
    }
}
