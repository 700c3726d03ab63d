//! Rows of the tables, and what they mean.

use batchwright::{
    BatchStatus, Counters, EventRecord, ExecutionContext, ExecutionId, ExitStatus, Failure,
    InstanceId, JobExecution, JobInstance, Phase, RepositoryError, SkipRecord, StepExecution,
    StepExecutionId,
};
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::store_error;

/// The row that `sql` finds, if there is one.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    map: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, RepositoryError> {
    let ask = || connection.prepare_cached(sql)?.query_row(params, map).optional();
    ask().map_err(|error| store_error("read a row", error))
}

/// All rows that `sql` finds.
pub(super) fn many<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    map: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, RepositoryError> {
    let ask = || -> rusqlite::Result<Vec<T>> {
        connection.prepare_cached(sql)?.query_map(params, map)?.collect()
    };
    ask().map_err(|error| store_error("read rows", error))
}

/// Microseconds since the epoch, the form of every time in the store.
pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

pub(super) fn some_micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(micros)
}

/// Counters are far from 2⁶³; what is not is stored as the largest number that fits.
pub(super) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What is stored cannot be understood.
fn corrupt(column: &str, reason: impl Into<String>) -> rusqlite::Error {
    let reason = RepositoryError::Corrupt { what: format!("column `{column}`: {}", reason.into()) };
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(reason))
}

fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(row.get(column)?)
        .map_err(|error| corrupt(column, error.to_string()))
}

fn some_time(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    let micros: Option<i64> = row.get(column)?;
    let time = micros.map(Timestamp::from_microsecond).transpose();
    time.map_err(|error| corrupt(column, error.to_string()))
}

fn status(row: &Row<'_>) -> rusqlite::Result<BatchStatus> {
    // A word that a newer or foreign program wrote reads as UNKNOWN; nothing acts on that.
    let word: String = row.get("status")?;
    Ok(BatchStatus::from_name(&word).unwrap_or(BatchStatus::Unknown))
}

fn exit(row: &Row<'_>) -> rusqlite::Result<ExitStatus> {
    Ok(ExitStatus { code: row.get("exit_code")?, message: row.get("exit_message")? })
}

fn failure(row: &Row<'_>) -> rusqlite::Result<Option<Failure>> {
    let code: Option<String> = row.get("failure_code")?;
    let message: Option<String> = row.get("failure")?;
    Ok(code.map(|code| Failure { code, message: message.unwrap_or_default() }))
}

fn context(row: &Row<'_>) -> rusqlite::Result<ExecutionContext> {
    let text: String = row.get("context")?;
    ExecutionContext::from_json(&text).map_err(|error| corrupt("context", error.to_string()))
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| corrupt(column, error.to_string()))
}

pub(super) fn instance(row: &Row<'_>) -> rusqlite::Result<JobInstance> {
    Ok(JobInstance {
        id: InstanceId(row.get("id")?),
        job: row.get("job")?,
        key: row.get("key")?,
        created_at: time(row, "created_at")?,
    })
}

pub(super) fn execution(row: &Row<'_>) -> rusqlite::Result<JobExecution> {
    Ok(JobExecution {
        id: ExecutionId(row.get("id")?),
        instance_id: InstanceId(row.get("instance_id")?),
        job: row.get("job")?,
        status: status(row)?,
        exit: exit(row)?,
        parameters: json(row, "parameters")?,
        restart_of: row.get::<_, Option<i64>>("restart_of")?.map(ExecutionId),
        created_at: time(row, "created_at")?,
        started_at: some_time(row, "started_at")?,
        ended_at: some_time(row, "ended_at")?,
        owner: row.get("owner")?,
        fence: row.get("fence")?,
        lease_until: some_time(row, "lease_until")?,
        stop_requested: row.get("stop_requested")?,
        failure: failure(row)?,
        warnings: json(row, "warnings")?,
        context: context(row)?,
        fingerprint: row.get("fingerprint")?,
        source: row.get("source")?,
        version: row.get("version")?,
    })
}

pub(super) fn step(row: &Row<'_>) -> rusqlite::Result<StepExecution> {
    let count = |column: &str| -> rusqlite::Result<u64> {
        let value: i64 = row.get(column)?;
        u64::try_from(value).map_err(|_| corrupt(column, "a counter below zero"))
    };
    Ok(StepExecution {
        id: StepExecutionId(row.get("id")?),
        execution_id: ExecutionId(row.get("execution_id")?),
        name: row.get("name")?,
        partition: row.get("partition")?,
        status: status(row)?,
        exit: exit(row)?,
        counters: Counters {
            read: count("read_count")?,
            write: count("write_count")?,
            filter: count("filter_count")?,
            read_skip: count("read_skip")?,
            process_skip: count("process_skip")?,
            write_skip: count("write_skip")?,
            commit: count("commit_count")?,
            rollback: count("rollback_count")?,
        },
        checkpoint: row.get("checkpoint")?,
        context: context(row)?,
        started_at: time(row, "started_at")?,
        updated_at: time(row, "updated_at")?,
        ended_at: some_time(row, "ended_at")?,
        failure: failure(row)?,
    })
}

pub(super) fn skip(row: &Row<'_>) -> rusqlite::Result<SkipRecord> {
    let phase: String = row.get("phase")?;
    let phases = [Phase::Read, Phase::Process, Phase::Write];
    let found = phases.into_iter().find(|one| one.name() == phase);
    let item: i64 = row.get("item")?;
    Ok(SkipRecord {
        step: row.get("name")?,
        phase: found.ok_or_else(|| corrupt("phase", phase))?,
        item: u64::try_from(item).map_err(|_| corrupt("item", "a number below zero"))?,
        location: row.get("location")?,
        kind: row.get("kind")?,
        message: row.get("message")?,
        content: row.get("content")?,
    })
}

pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<EventRecord> {
    Ok(EventRecord {
        at: time(row, "at")?,
        execution: ExecutionId(row.get("execution_id")?),
        step: row.get("step")?,
        status: status(row)?,
        note: row.get("note")?,
    })
}
