//! The rules of an execution's lifecycle, shared by all repositories.
//!
//! A public function of a child is one transaction, unless it takes one as `tx`: it reads rows, decides by a
//! pure function and writes rows.

mod launch;
mod observed;
mod progressive;
mod run;
mod step;
mod stop;

use jiff::Timestamp;

pub(crate) use launch::{
    Claimant, StartRequest, parameters_of_restart, restart, start, start_in, start_next, started_by,
};
pub(crate) use observed::{ObservedStore, Tx};
pub(crate) use progressive::{Final, close_stopped, end};
pub(crate) use run::{Ended, adopt, claim, finish};
pub(crate) use step::{Contexts, begin_step, end_step, handle_failures, keep_plan, update_step};
pub(crate) use stop::{abandon, recover, replace_context, request_stop};

use crate::error::RepositoryError;
use crate::event::{Event, Subject};
use crate::execution::{BatchStatus, ExecutionId, JobExecution, StepExecution};
use crate::refusal::{OperatorError, Refusal};
use crate::store::Lease;

/// Runs `work` in a transaction and commits what it wrote; an error of `work` rolls all of it back. Repeats both
/// after a conflict: another transaction changed the rows that `work` had read.
pub(crate) fn transact<T, E: MayConflict>(
    store: &ObservedStore,
    mut work: impl FnMut(&mut Tx<'_>) -> Result<T, E>,
) -> Result<T, E> {
    retry_on_conflict(|| {
        let mut tx = store.begin()?;
        let done = work(&mut tx)?;
        tx.commit()?;
        Ok(done)
    })
}

/// Runs `work`, and runs it again after each conflict: another transaction changed the rows that it had read.
/// A store that runs transactions one after another reports no conflict.
pub(crate) fn retry_on_conflict<T, E: MayConflict>(
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    /// More attempts than concurrent transactions need; a conflict at the last attempt is returned.
    const ATTEMPTS_MAX: usize = 32;
    let mut result = work();
    for _ in 1..ATTEMPTS_MAX {
        match result {
            Err(error) if error.is_conflict() => result = work(),
            result => return result,
        }
    }
    result
}

/// An error that may be a conflict with another transaction.
pub(crate) trait MayConflict: From<RepositoryError> {
    fn is_conflict(&self) -> bool;
}

impl MayConflict for RepositoryError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

impl MayConflict for OperatorError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Repository(error) if error.is_conflict())
    }
}

/// Checks that the caller still owns the execution, before it changes anything that is shared.
pub(crate) fn still_owned(store: &ObservedStore, lease: Lease) -> Result<(), RepositoryError> {
    owned(&mut store.begin()?, lease).map(drop)
}

/// Returns the execution of `lease` if the caller still owns it.
pub(crate) fn owned(tx: &mut Tx<'_>, lease: Lease) -> Result<JobExecution, RepositoryError> {
    tx.execution(lease.execution)?
        .filter(|one| one.fence == lease.fence && one.status.is_running())
        .ok_or(RepositoryError::LeaseLost { execution: lease.execution })
}

fn wanted(tx: &mut Tx<'_>, id: ExecutionId) -> Result<JobExecution, OperatorError> {
    Ok(tx.execution(id)?.ok_or(Refusal::NoSuchExecution { execution: id })?)
}

/// Refuses an execution that is not the newest of its instance. The refusal states what the newest one is
/// doing, so that the loser of a race between two starts learns it.
fn refuse_if_superseded(tx: &mut Tx<'_>, execution: &JobExecution) -> Result<(), OperatorError> {
    let all = tx.executions_of(execution.instance_id)?;
    let Some(newest) = all.first().filter(|newest| newest.id != execution.id) else {
        return Ok(());
    };
    Err(match newest.status {
        status if status.is_running() => Refusal::running(newest),
        BatchStatus::Completed => Refusal::AlreadyComplete { execution: newest.id },
        _ => Refusal::NotMostRecent { execution: execution.id, newest: newest.id },
    }
    .into())
}

pub(crate) fn change(
    tx: &mut Tx<'_>,
    execution: &mut JobExecution,
    at: Timestamp,
    note: Option<String>,
) -> Result<(), RepositoryError> {
    tx.update_execution(execution)?;
    execution.version += 1;
    record(tx, execution, at, note)
}

fn record(
    tx: &mut Tx<'_>,
    execution: &JobExecution,
    at: Timestamp,
    note: Option<String>,
) -> Result<(), RepositoryError> {
    tx.record(Event::of_status(at, subject_of(execution), execution.status, note))
}

/// Returns the execution as the subject of an event.
pub(crate) fn subject_of(execution: &JobExecution) -> Subject {
    Subject::Execution { id: execution.id, job: execution.job.as_str().into() }
}

pub(crate) fn record_step(
    tx: &mut Tx<'_>,
    job: &str,
    step: &StepExecution,
    at: Timestamp,
) -> Result<(), RepositoryError> {
    let subject = Subject::Step {
        execution: step.execution_id,
        job: job.into(),
        step: step.name.as_str().into(),
    };
    tx.record(Event::of_status(at, subject, step.status, None))
}
