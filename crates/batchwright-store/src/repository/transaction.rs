//! A transaction of the repository on one connection.

use std::any::{Any, TypeId};

use batchwright::audit::AuditEntry;
use batchwright::error::RepositoryError;
use batchwright::event::Event;
use batchwright::execution::{
    ExecutionId, InstanceId, JobExecution, JobInstance, SkipRecord, StepExecution, StepExecutionId,
};
use batchwright::launch::RequestKey;
use batchwright::store::{CheckpointUpdate, Held, Lease, ProgressiveRows, Transaction};
use jiff::Timestamp;

use super::pool::Pooled;
use super::rows::{self, count, micros, some_micros, values};
use super::statements::Statements;
use crate::database::{Sql, SqlError, SqlRow, SqlSession, SqlValue};

pub(super) struct SqlTransaction<'a> {
    session: Pooled<'a>,
    pub(super) statements: &'a Statements,
    open: bool,
}

impl<'a> SqlTransaction<'a> {
    /// Begins a transaction; returns `None` if an idle connection was lost in the meantime, so that the
    /// caller tries another one.
    pub(super) fn begin(
        mut session: Pooled<'a>,
        statements: &'a Statements,
    ) -> Result<Option<Self>, RepositoryError> {
        match session.begin() {
            Ok(()) => Ok(Some(Self { session, statements, open: true })),
            Err(_) if session.is_broken() && !session.is_fresh() => Ok(None),
            Err(error) => Err(error.in_store("begin a transaction")),
        }
    }

    pub(super) fn one<T>(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        map: fn(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Option<T>, RepositoryError> {
        self.session.one(sql, values, map).map_err(|error| error.in_store("read a row"))
    }

    pub(super) fn many<T>(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        map: fn(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, RepositoryError> {
        self.session.many(sql, values, map).map_err(|error| error.in_store("read rows"))
    }

    pub(super) fn change(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
    ) -> Result<u64, RepositoryError> {
        self.session.execute(sql, values).map_err(|error| error.in_store("write a row"))
    }

    pub(super) fn insert(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
    ) -> Result<i64, RepositoryError> {
        self.session.insert(sql, values).map_err(|error| error.in_store("write a row"))
    }
}

impl Drop for SqlTransaction<'_> {
    fn drop(&mut self) {
        if self.open
            && let Err(error) = self.session.roll_back()
        {
            self.session.discard();
            tracing::debug!(%error, "roll back failed; the connection is closed");
        }
    }
}

impl Transaction for SqlTransaction<'_> {
    fn find_instance(
        &mut self,
        job: &str,
        key: &str,
    ) -> Result<Option<JobInstance>, RepositoryError> {
        self.one(&self.statements.find_instance, values![job, key], rows::instance)
    }

    fn newest_instance(&mut self, job: &str) -> Result<Option<JobInstance>, RepositoryError> {
        self.one(&self.statements.newest_instance, values![job], rows::instance)
    }

    fn insert_instance(
        &mut self,
        job: &str,
        key: &str,
        at: Timestamp,
    ) -> Result<JobInstance, RepositoryError> {
        let id = self.insert(&self.statements.insert_instance, values![job, key, micros(at)])?;
        let (job, key) = (job.to_owned(), key.to_owned());
        Ok(JobInstance { id: InstanceId(id), job, key, created_at: at })
    }

    fn executions_of(&mut self, id: InstanceId) -> Result<Vec<JobExecution>, RepositoryError> {
        self.many(&self.statements.executions_of, values![id.0], rows::execution)
    }

    fn execution(&mut self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError> {
        self.one(&self.statements.lock_execution, values![id.0], rows::execution)
    }

    fn insert_execution(&mut self, one: &JobExecution) -> Result<ExecutionId, RepositoryError> {
        let id = self.insert(
            &self.statements.insert_execution,
            values![
                one.instance_id.0,
                &one.job,
                one.status.name(),
                &one.exit.code,
                &one.exit.message,
                json(&one.parameters)?,
                one.restart_of.map(|id| id.0),
                micros(one.created_at),
                some_micros(one.started_at),
                some_micros(one.ended_at),
                one.owner.as_deref(),
                one.fence,
                some_micros(one.lease_until),
                one.stop_requested,
                one.failure.as_ref().map(|failure| &failure.code),
                one.failure.as_ref().map(|failure| &failure.message),
                json(&one.warnings)?,
                one.context.to_json(),
                one.fingerprint.as_deref(),
                one.source.as_deref(),
                json(&one.flow)?,
                one.parent.map(|id| id.0),
                one.triggered_by.as_deref(),
                one.trace_parent.map(|it| it.to_string()),
            ],
        )?;
        Ok(ExecutionId(id))
    }

    fn update_execution(&mut self, one: &JobExecution) -> Result<(), RepositoryError> {
        let changed = self.change(
            &self.statements.update_execution,
            values![
                one.id.0,
                one.status.name(),
                &one.exit.code,
                &one.exit.message,
                some_micros(one.started_at),
                some_micros(one.ended_at),
                one.owner.as_deref(),
                one.fence,
                some_micros(one.lease_until),
                one.stop_requested,
                one.failure.as_ref().map(|failure| &failure.code),
                one.failure.as_ref().map(|failure| &failure.message),
                json(&one.warnings)?,
                one.context.to_json(),
                one.version,
                json(&one.flow)?,
            ],
        )?;
        match changed {
            1 => Ok(()),
            _ => Err(RepositoryError::Conflict { what: format!("execution {}", one.id) }),
        }
    }

    fn renew_lease(&mut self, lease: &Lease, until: Timestamp) -> Result<Held, RepositoryError> {
        let fenced = values![lease.execution.0, lease.fence];
        let stop =
            self.one(&self.statements.lock_lease, fenced, |row| row.read("stop_requested"))?;
        let Some(stop_requested) = stop else { return Ok(Held::Lost) };
        let until = values![lease.execution.0, micros(until)];
        self.change(&self.statements.renew_lease, until)?;
        Ok(Held::with_stop(stop_requested))
    }

    fn steps_of(&mut self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError> {
        self.many(&self.statements.lock_steps, values![id.0], rows::step)
    }

    fn history_of(
        &mut self,
        id: InstanceId,
        step: &str,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        self.many(&self.statements.history_of, values![id.0, step], rows::step)
    }

    fn insert_step(&mut self, one: &StepExecution) -> Result<StepExecutionId, RepositoryError> {
        let counters = &one.counters;
        let id = self.insert(
            &self.statements.insert_step,
            values![
                one.execution_id.0,
                &one.name,
                one.partition.as_deref(),
                one.status.name(),
                &one.exit.code,
                &one.exit.message,
                count(counters.read),
                count(counters.write),
                count(counters.filter),
                count(counters.read_skip),
                count(counters.process_skip),
                count(counters.write_skip),
                count(counters.commit),
                count(counters.rollback),
                one.checkpoint.as_deref(),
                one.context.to_json(),
                micros(one.started_at),
                micros(one.updated_at),
                some_micros(one.ended_at),
                one.failure.as_ref().map(|failure| &failure.code),
                one.failure.as_ref().map(|failure| &failure.message),
                one.handled,
                one.begun_by.map(|id| id.0),
                one.progress.map(|progress| count(progress.done)),
                one.progress.map(|progress| count(progress.total)),
                one.progress.map(|progress| progress.unit.name()),
            ],
        )?;
        Ok(StepExecutionId(id))
    }

    fn update_step(&mut self, one: &StepExecution) -> Result<(), RepositoryError> {
        let counters = &one.counters;
        let changed = self.change(
            &self.statements.update_step,
            values![
                one.id.0,
                one.status.name(),
                &one.exit.code,
                &one.exit.message,
                count(counters.read),
                count(counters.write),
                count(counters.filter),
                count(counters.read_skip),
                count(counters.process_skip),
                count(counters.write_skip),
                count(counters.commit),
                count(counters.rollback),
                one.checkpoint.as_deref(),
                one.context.to_json(),
                micros(one.updated_at),
                some_micros(one.ended_at),
                one.failure.as_ref().map(|failure| &failure.code),
                one.failure.as_ref().map(|failure| &failure.message),
                one.handled,
            ],
        )?;
        match changed {
            1 => Ok(()),
            _ => Err(RepositoryError::Corrupt {
                what: format!("step execution {} does not exist", one.id),
            }),
        }
    }

    fn save_checkpoint(&mut self, update: &CheckpointUpdate<'_>) -> Result<Held, RepositoryError> {
        let (counters, Lease { execution, fence }) = (update.counters, update.lease);
        let stop = self.one(&self.statements.check_lease, values![execution.0, fence], |row| {
            row.read("stop_requested")
        })?;
        let held = stop.map(Held::with_stop).ok_or(RepositoryError::LeaseLost { execution })?;
        let saved = self.change(
            &self.statements.save_checkpoint,
            values![
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
                update.progress.map(|progress| count(progress.done)),
                update.progress.map(|progress| count(progress.total)),
                update.progress.map(|progress| progress.unit.name()),
            ],
        )?;
        if saved == 0 {
            return Err(RepositoryError::Corrupt {
                what: format!("step execution {} does not exist", update.step),
            });
        }
        if let Some(context) = update.step_context {
            self.change(&self.statements.save_step_context, values![update.step.0, context])?;
        }
        if let Some(context) = update.job_context {
            self.change(&self.statements.save_job_context, values![execution.0, context])?;
        }
        Ok(held)
    }

    fn insert_skips(
        &mut self,
        step: StepExecutionId,
        skips: &[SkipRecord],
    ) -> Result<(), RepositoryError> {
        for skip in skips {
            let SkipRecord { phase, item, location, kind, message, content, .. } = skip;
            let params = values![
                step.0,
                phase.name(),
                count(*item),
                location.as_deref(),
                kind,
                message,
                content.as_deref(),
            ];
            self.change(&self.statements.insert_skip, params)?;
        }
        Ok(())
    }

    fn insert_event(&mut self, event: &Event) -> Result<(), RepositoryError> {
        let (Some(execution), Some((status, note))) = (event.execution(), event.status()) else {
            return Ok(());
        };
        let params = values![execution.0, event.step(), status.name(), note, micros(event.at),];
        self.change(&self.statements.insert_event, params).map(drop)
    }

    fn insert_audit(&mut self, entry: &AuditEntry) -> Result<(), RepositoryError> {
        let AuditEntry { at, who, action, subject, detail, .. } = entry;
        let values = values![micros(*at), who, action, subject, detail.as_deref()];
        self.change(&self.statements.insert_audit, values).map(drop)
    }

    fn request(&mut self, key: &str) -> Result<Option<(RequestKey, ExecutionId)>, RepositoryError> {
        self.one(&self.statements.request, values![key], |row| {
            let request =
                RequestKey { key: row.read("request_key")?, fingerprint: row.read("fingerprint")? };
            Ok((request, ExecutionId(row.read("execution_id")?)))
        })
    }

    fn insert_request(
        &mut self,
        request: &RequestKey,
        id: ExecutionId,
    ) -> Result<(), RepositoryError> {
        let values = values![&request.key, &request.fingerprint, id.0];
        self.change(&self.statements.insert_request, values).map(drop)
    }

    fn delete_execution(&mut self, id: ExecutionId) -> Result<(), RepositoryError> {
        let statements = self.statements;
        let instance = self
            .one(&statements.lock_execution, values![id.0], |row| row.read::<i64>("instance_id"))?;
        for sql in [
            &statements.delete_requests,
            &statements.delete_response,
            &statements.delete_segments,
            &statements.delete_lanes,
            &statements.delete_progressive,
            &statements.delete_skips,
            &statements.delete_steps,
            &statements.delete_events,
            &statements.delete_execution,
        ] {
            self.change(sql, values![id.0])?;
        }
        if let Some(instance) = instance {
            self.change(&statements.delete_empty_instance, values![instance])?;
        }
        Ok(())
    }

    fn slices(&mut self) -> &mut dyn ProgressiveRows {
        self
    }

    fn resource(&mut self, wanted: TypeId) -> &mut dyn Any {
        if wanted == TypeId::of::<SqlSession>() {
            return self.session.as_any();
        }
        self.session.native()
    }

    fn commit(mut self: Box<Self>) -> Result<(), RepositoryError> {
        self.open = false;
        self.session.commit().map_err(|error| {
            self.open = true;
            error.at_commit()
        })
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String, RepositoryError> {
    serde_json::to_string(value)
        .map_err(|error| RepositoryError::unavailable("store a value as JSON", error))
}
