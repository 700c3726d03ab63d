//! A unit of work: one `BEGIN IMMEDIATE … COMMIT` on the writing connection.

use std::any::Any;
use std::sync::MutexGuard;

use batchwright::{
    CheckpointUpdate, EventRecord, ExecutionId, InstanceId, JobExecution, JobInstance, Lease,
    RepositoryError, SkipRecord, StepExecution, StepExecutionId, UnitOfWork,
};
use jiff::Timestamp;
use rusqlite::{Connection, Params, Row, params};

use super::rows::{self, count, micros, some_micros};
use super::statements::Statements;
use super::store_error;

pub(super) struct SqliteUnit<'a> {
    connection: MutexGuard<'a, Connection>,
    statements: &'a Statements,
    open: bool,
}

impl<'a> SqliteUnit<'a> {
    pub(super) fn begin(
        connection: MutexGuard<'a, Connection>,
        statements: &'a Statements,
    ) -> Result<Self, RepositoryError> {
        run(&connection, "BEGIN IMMEDIATE", "begin")?;
        Ok(Self { connection, statements, open: true })
    }

    fn one<T, P: Params>(
        &self,
        sql: &str,
        params: P,
        map: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, RepositoryError> {
        rows::one(&self.connection, sql, params, map)
    }

    fn many<T, P: Params>(
        &self,
        sql: &str,
        params: P,
        map: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, RepositoryError> {
        rows::many(&self.connection, sql, params, map)
    }

    fn change<P: Params>(&self, sql: &str, params: P) -> Result<usize, RepositoryError> {
        let change = || self.connection.prepare_cached(sql)?.execute(params);
        change().map_err(|error| store_error("write a row", error))
    }

    fn insert<P: Params>(&self, sql: &str, params: P) -> Result<i64, RepositoryError> {
        let id = self.one(sql, params, |row| row.get(0))?;
        id.ok_or_else(|| RepositoryError::Corrupt { what: "an insert gave no id".to_owned() })
    }
}

fn run(connection: &Connection, sql: &str, action: &str) -> Result<(), RepositoryError> {
    let ran = connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    ran.map(drop).map_err(|error| store_error(action, error))
}

impl Drop for SqliteUnit<'_> {
    fn drop(&mut self) {
        // SQLite itself rolls back after some errors; then there is nothing left to end.
        if self.open
            && !self.connection.is_autocommit()
            && let Err(error) = run(&self.connection, "ROLLBACK", "roll back")
        {
            tracing::error!(error = %batchwright::report(&error), "roll back failed");
        }
    }
}

impl UnitOfWork for SqliteUnit<'_> {
    fn find_instance(
        &mut self,
        job: &str,
        key: &str,
    ) -> Result<Option<JobInstance>, RepositoryError> {
        self.one(&self.statements.find_instance, [job, key], rows::instance)
    }

    fn newest_instance(&mut self, job: &str) -> Result<Option<JobInstance>, RepositoryError> {
        self.one(&self.statements.newest_instance, [job], rows::instance)
    }

    fn insert_instance(
        &mut self,
        job: &str,
        key: &str,
        at: Timestamp,
    ) -> Result<JobInstance, RepositoryError> {
        let id = self.insert(&self.statements.insert_instance, (job, key, micros(at)))?;
        let (job, key) = (job.to_owned(), key.to_owned());
        Ok(JobInstance { id: InstanceId(id), job, key, created_at: at })
    }

    fn executions_of(&mut self, id: InstanceId) -> Result<Vec<JobExecution>, RepositoryError> {
        self.many(&self.statements.executions_of, [id.0], rows::execution)
    }

    fn execution(&mut self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError> {
        self.one(&self.statements.execution, [id.0], rows::execution)
    }

    fn insert_execution(&mut self, one: &JobExecution) -> Result<ExecutionId, RepositoryError> {
        let id = self.insert(
            &self.statements.insert_execution,
            params![
                one.instance_id.0,
                one.job,
                one.status.name(),
                one.exit.code,
                one.exit.message,
                json(&one.parameters)?,
                one.restart_of.map(|id| id.0),
                micros(one.created_at),
                some_micros(one.started_at),
                some_micros(one.ended_at),
                one.owner,
                one.fence,
                some_micros(one.lease_until),
                one.stop_requested,
                one.failure.as_ref().map(|failure| &failure.code),
                one.failure.as_ref().map(|failure| &failure.message),
                json(&one.warnings)?,
                one.context.to_json(),
                one.fingerprint,
                one.source,
            ],
        )?;
        Ok(ExecutionId(id))
    }

    fn update_execution(&mut self, one: &JobExecution) -> Result<(), RepositoryError> {
        let changed = self.change(
            &self.statements.update_execution,
            params![
                one.id.0,
                one.status.name(),
                one.exit.code,
                one.exit.message,
                some_micros(one.started_at),
                some_micros(one.ended_at),
                one.owner,
                one.fence,
                some_micros(one.lease_until),
                one.stop_requested,
                one.failure.as_ref().map(|failure| &failure.code),
                one.failure.as_ref().map(|failure| &failure.message),
                json(&one.warnings)?,
                one.context.to_json(),
                one.version,
            ],
        )?;
        match changed {
            1 => Ok(()),
            _ => Err(RepositoryError::Conflict { what: format!("execution {}", one.id) }),
        }
    }

    fn renew_lease(
        &mut self,
        lease: &Lease,
        until: Timestamp,
    ) -> Result<Option<bool>, RepositoryError> {
        let params = (lease.execution.0, lease.fence, micros(until));
        self.one(&self.statements.renew_lease, params, |row| row.get(0))
    }

    fn steps_of(&mut self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError> {
        self.many(&self.statements.steps_of, [id.0], rows::step)
    }

    fn history_of(
        &mut self,
        id: InstanceId,
        step: &str,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        self.many(&self.statements.history_of, (id.0, step), rows::step)
    }

    fn insert_step(&mut self, one: &StepExecution) -> Result<StepExecutionId, RepositoryError> {
        let counters = &one.counters;
        let id = self.insert(
            &self.statements.insert_step,
            params![
                one.execution_id.0,
                one.name,
                one.partition,
                one.status.name(),
                one.exit.code,
                one.exit.message,
                count(counters.read),
                count(counters.write),
                count(counters.filter),
                count(counters.read_skip),
                count(counters.process_skip),
                count(counters.write_skip),
                count(counters.commit),
                count(counters.rollback),
                one.checkpoint,
                one.context.to_json(),
                micros(one.started_at),
                micros(one.updated_at),
                some_micros(one.ended_at),
                one.failure.as_ref().map(|failure| &failure.code),
                one.failure.as_ref().map(|failure| &failure.message),
            ],
        )?;
        Ok(StepExecutionId(id))
    }

    fn update_step(&mut self, one: &StepExecution) -> Result<(), RepositoryError> {
        let counters = &one.counters;
        let changed = self.change(
            &self.statements.update_step,
            params![
                one.id.0,
                one.status.name(),
                one.exit.code,
                one.exit.message,
                count(counters.read),
                count(counters.write),
                count(counters.filter),
                count(counters.read_skip),
                count(counters.process_skip),
                count(counters.write_skip),
                count(counters.commit),
                count(counters.rollback),
                one.checkpoint,
                one.context.to_json(),
                micros(one.updated_at),
                some_micros(one.ended_at),
                one.failure.as_ref().map(|failure| &failure.code),
                one.failure.as_ref().map(|failure| &failure.message),
            ],
        )?;
        match changed {
            1 => Ok(()),
            _ => Err(RepositoryError::Corrupt {
                what: format!("step execution {} does not exist", one.id),
            }),
        }
    }

    fn save_checkpoint(&mut self, update: &CheckpointUpdate<'_>) -> Result<bool, RepositoryError> {
        let (counters, Lease { execution, fence }) = (update.counters, update.lease);
        let lease = (execution.0, fence);
        let stop = self.one(&self.statements.check_lease, lease, |row| row.get(0))?;
        let stop = stop.ok_or(RepositoryError::LeaseLost { execution })?;
        let saved = self.change(
            &self.statements.save_checkpoint,
            params![
                update.step.0,
                count(counters.read),
                count(counters.write),
                count(counters.filter),
                count(counters.read_skip),
                count(counters.process_skip),
                count(counters.write_skip),
                count(counters.commit),
                count(counters.rollback),
                update.checkpoint,
                micros(update.at),
            ],
        )?;
        if saved == 0 {
            return Err(RepositoryError::Corrupt {
                what: format!("step execution {} does not exist", update.step),
            });
        }
        if let Some(context) = update.step_context {
            self.change(&self.statements.save_step_context, (update.step.0, context))?;
        }
        if let Some(context) = update.job_context {
            self.change(&self.statements.save_job_context, (execution.0, context))?;
        }
        Ok(stop)
    }

    fn insert_skips(
        &mut self,
        step: StepExecutionId,
        skips: &[SkipRecord],
    ) -> Result<(), RepositoryError> {
        for skip in skips {
            let SkipRecord { phase, item, location, kind, message, content, .. } = skip;
            let params =
                params![step.0, phase.name(), count(*item), location, kind, message, content];
            self.change(&self.statements.insert_skip, params)?;
        }
        Ok(())
    }

    fn insert_event(&mut self, event: &EventRecord) -> Result<(), RepositoryError> {
        let EventRecord { at, execution, step, status, note } = event;
        let params = params![execution.0, step, status.name(), note, micros(*at)];
        self.change(&self.statements.insert_event, params).map(drop)
    }

    fn delete_execution(&mut self, id: ExecutionId) -> Result<(), RepositoryError> {
        let Statements { delete_skips, delete_steps, delete_events, .. } = self.statements;
        for sql in [delete_skips, delete_steps, delete_events] {
            self.change(sql, [id.0])?;
        }
        let instance: Option<i64> =
            self.one(&self.statements.delete_execution, [id.0], |row| row.get(0))?;
        if let Some(instance) = instance {
            self.change(&self.statements.delete_empty_instance, [instance])?;
        }
        Ok(())
    }

    fn resource(&mut self) -> &mut dyn Any {
        &mut *self.connection
    }

    fn commit(mut self: Box<Self>) -> Result<(), RepositoryError> {
        run(&self.connection, "COMMIT", "commit")?;
        self.open = false;
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, RepositoryError> {
    serde_json::to_string(value)
        .map_err(|error| RepositoryError::unavailable("store a value as JSON", error))
}
