//! Converts rows of the tables to the types of the engine.

use batchwright::BatchStatus;
use batchwright::audit::AuditEntry;
use batchwright::context::ExecutionContext;
use batchwright::event::{Event, Subject};
use batchwright::execution::{
    Counters, ExecutionId, ExitStatus, Failure, InstanceId, JobExecution, JobInstance, Phase,
    Progress, ProgressUnit, SkipRecord, StepExecution, StepExecutionId, TraceContext,
};
use batchwright::query::OutcomeCount;
use jiff::Timestamp;

use crate::database::{SqlError, SqlRow};

/// Makes a slice of the values of a statement.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$(crate::database::SqlValue::from($value)),*] };
}
pub(super) use values;

/// Returns the microseconds since the epoch, the form of every time in the store.
pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

pub(super) fn some_micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(micros)
}

/// Returns a counter as a signed number; a value of 2⁶³ or more is stored as the largest number that fits.
pub(super) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) type Read<T> = Result<T, SqlError>;

pub(super) fn time(row: &SqlRow<'_>, column: &str) -> Read<Timestamp> {
    Timestamp::from_microsecond(row.read(column)?).map_err(|error| SqlError::corrupt(column, error))
}

pub(super) fn some_time(row: &SqlRow<'_>, column: &str) -> Read<Option<Timestamp>> {
    let micros: Option<i64> = row.read(column)?;
    let time = micros.map(Timestamp::from_microsecond).transpose();
    time.map_err(|error| SqlError::corrupt(column, error))
}

fn status(row: &SqlRow<'_>) -> Read<BatchStatus> {
    // An unknown status of a newer or foreign program is read as UNKNOWN, on which the engine does not act.
    let word: String = row.read("status")?;
    Ok(BatchStatus::from_name(&word).unwrap_or(BatchStatus::Unknown))
}

fn exit(row: &SqlRow<'_>) -> Read<ExitStatus> {
    Ok(ExitStatus { code: row.read("exit_code")?, message: row.read("exit_message")? })
}

fn failure(row: &SqlRow<'_>) -> Read<Option<Failure>> {
    let code: Option<String> = row.read("failure_code")?;
    let message: Option<String> = row.read("failure")?;
    Ok(code.map(|code| Failure { code, message: message.unwrap_or_default() }))
}

fn context(row: &SqlRow<'_>) -> Read<ExecutionContext> {
    let text: String = row.read("context")?;
    ExecutionContext::from_json(&text).map_err(|error| SqlError::corrupt("context", error))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(row: &SqlRow<'_>, column: &str) -> Read<T> {
    let text: String = row.read(column)?;
    serde_json::from_str(&text).map_err(|error| SqlError::corrupt(column, error))
}

pub(super) fn instance(row: &SqlRow<'_>) -> Read<JobInstance> {
    Ok(JobInstance {
        id: InstanceId(row.read("id")?),
        job: row.read("job")?,
        key: row.read("key")?,
        created_at: time(row, "created_at")?,
    })
}

pub(super) fn execution(row: &SqlRow<'_>) -> Read<JobExecution> {
    Ok(JobExecution {
        id: ExecutionId(row.read("id")?),
        instance_id: InstanceId(row.read("instance_id")?),
        job: row.read("job")?,
        status: status(row)?,
        exit: exit(row)?,
        parameters: json(row, "parameters")?,
        restart_of: row.read::<Option<i64>>("restart_of")?.map(ExecutionId),
        created_at: time(row, "created_at")?,
        started_at: some_time(row, "started_at")?,
        ended_at: some_time(row, "ended_at")?,
        owner: row.read("owner")?,
        fence: row.read("fence")?,
        lease_until: some_time(row, "lease_until")?,
        stop_requested: row.read("stop_requested")?,
        failure: failure(row)?,
        warnings: json(row, "warnings")?,
        context: context(row)?,
        fingerprint: row.read("fingerprint")?,
        source: row.read("source")?,
        flow: json(row, "flow")?,
        parent: row.read::<Option<i64>>("parent")?.map(ExecutionId),
        triggered_by: row.read("triggered_by")?,
        trace_parent: trace_parent(row)?,
        version: row.read("version")?,
    })
}

fn trace_parent(row: &SqlRow<'_>) -> Read<Option<TraceContext>> {
    let parsed = row.read::<Option<String>>("trace_parent")?.map(|text| text.parse());
    parsed.transpose().map_err(|error| SqlError::corrupt("trace_parent", error))
}

fn progress(row: &SqlRow<'_>) -> Read<Option<Progress>> {
    let Some(unit) = row.read::<Option<String>>("progress_unit")? else { return Ok(None) };
    let unit =
        [ProgressUnit::Items, ProgressUnit::Bytes].into_iter().find(|one| one.name() == unit);
    let (Some(unit), Ok(done), Ok(total)) = (
        unit,
        u64::try_from(row.read::<i64>("progress_done")?),
        u64::try_from(row.read::<i64>("progress_total")?),
    ) else {
        return Err(SqlError::corrupt("progress_unit", "it is no progress"));
    };
    Ok(Some(Progress { done, total, unit }))
}

pub(super) fn audit(row: &SqlRow<'_>) -> Read<AuditEntry> {
    Ok(AuditEntry {
        id: row.read("id")?,
        at: time(row, "at")?,
        who: row.read("who")?,
        action: row.read("action")?,
        subject: row.read("subject")?,
        detail: row.read("detail")?,
    })
}

pub(super) fn outcome(row: &SqlRow<'_>) -> Read<OutcomeCount> {
    let period: i64 = row.read("period")?;
    Ok(OutcomeCount {
        period: u32::try_from(period).map_err(|error| SqlError::corrupt("period", error))?,
        status: status(row)?,
        count: row.at(2)?.count()?,
    })
}

pub(super) fn numbered_event(row: &SqlRow<'_>) -> Read<(i64, Event)> {
    Ok((row.read("id")?, event(row)?))
}

pub(super) fn step(row: &SqlRow<'_>) -> Read<StepExecution> {
    let count = |column: &str| -> Read<u64> {
        let value: i64 = row.read(column)?;
        u64::try_from(value).map_err(|_| SqlError::corrupt(column, "a counter below zero"))
    };
    Ok(StepExecution {
        id: StepExecutionId(row.read("id")?),
        execution_id: ExecutionId(row.read("execution_id")?),
        name: row.read("name")?,
        partition: row.read("partition")?,
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
        checkpoint: row.read("checkpoint")?,
        context: context(row)?,
        started_at: time(row, "started_at")?,
        progress: progress(row)?,
        updated_at: time(row, "updated_at")?,
        ended_at: some_time(row, "ended_at")?,
        failure: failure(row)?,
        handled: row.read("handled")?,
        begun_by: row.read::<Option<i64>>("begun_by")?.map(StepExecutionId),
    })
}

pub(super) fn skip(row: &SqlRow<'_>) -> Read<SkipRecord> {
    let phase: String = row.read("phase")?;
    let phases = [Phase::Read, Phase::Process, Phase::Write];
    let found = phases.into_iter().find(|one| one.name() == phase);
    let item: i64 = row.read("item")?;
    Ok(SkipRecord {
        step: row.read("name")?,
        phase: found.ok_or_else(|| SqlError::corrupt("phase", phase))?,
        item: u64::try_from(item).map_err(|_| SqlError::corrupt("item", "a number below zero"))?,
        location: row.read("location")?,
        kind: row.read("kind")?,
        message: row.read("message")?,
        content: row.read("content")?,
    })
}

pub(super) fn event(row: &SqlRow<'_>) -> Read<Event> {
    let execution = ExecutionId(row.read("execution_id")?);
    let job = row.read::<String>("job")?.into();
    let subject = match row.read::<Option<String>>("step")? {
        Some(step) => Subject::Step { execution, job, step: step.into() },
        None => Subject::Execution { id: execution, job },
    };
    Ok(Event::of_status(time(row, "at")?, subject, status(row)?, row.read("note")?))
}
