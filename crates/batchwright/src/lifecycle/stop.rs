//! Stops, abandons and recovers executions.

use jiff::Timestamp;

use super::{change, close_stopped, refuse_if_superseded, step::close_steps, transact, wanted};
use crate::context::ExecutionContext;
use crate::error::RepositoryError;
use crate::execution::{BatchStatus, ExecutionId, ExitStatus, Failure, JobExecution, StatusEvent};
use crate::launch::{self, RecoverMode};
use crate::lifecycle::{ObservedStore, Tx};
use crate::refusal::{OperatorError, Refusal};

/// Requests a running execution to stop. An execution that has not begun is stopped at once.
pub(crate) fn request_stop(
    store: &ObservedStore,
    id: ExecutionId,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    transact(store, |tx| {
        let mut execution = wanted(tx, id)?;
        execution.status = execution
            .status
            .after(StatusEvent::RequestStop)
            .map_err(|illegal| Refusal::NotRunning { execution: id, status: illegal.status })?;
        if execution.stop_requested {
            // The worker that had to confirm the stop may be dead.
            if execution.owner.is_none() {
                close_stopped(tx, &mut execution, now)?;
            }
            return Ok(execution);
        }
        execution.stop_requested = true;
        if execution.status == BatchStatus::Stopped {
            execution.exit = ExitStatus::stopped();
            execution.ended_at = Some(now);
            execution.owner = None;
            execution.lease_until = None;
        }
        change(tx, &mut execution, now, Some("stop requested".to_owned()))?;
        // Between two slices no worker exists that could confirm the stop.
        if execution.status == BatchStatus::Stopping && execution.owner.is_none() {
            close_stopped(tx, &mut execution, now)?;
        }
        Ok(execution)
    })
}

/// Abandons an execution: it can never be restarted. A repeated call changes nothing.
pub(crate) fn abandon(
    store: &ObservedStore,
    id: ExecutionId,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    transact(store, |tx| {
        let mut execution = wanted(tx, id)?;
        if execution.status == BatchStatus::Abandoned {
            return Ok(execution);
        }
        // A newer execution of the instance is not invalidated.
        if execution.status.is_restartable() {
            refuse_if_superseded(tx, &execution)?;
        }
        execution.status = execution
            .status
            .after(StatusEvent::Abandon)
            .map_err(|illegal| Refusal::NotAbandonable { execution: id, status: illegal.status })?;
        change(tx, &mut execution, now, None)?;
        Ok(execution)
    })
}

/// Replaces the context of the job, which the next execution of the instance inherits, if it still is `before`.
pub(crate) fn replace_context(
    store: &ObservedStore,
    id: ExecutionId,
    before: &ExecutionContext,
    context: &ExecutionContext,
) -> Result<JobExecution, OperatorError> {
    transact(store, |tx| {
        let mut execution = wanted(tx, id)?;
        let refused = |reason: String| {
            Err(OperatorError::from(Refusal::NotRestartable { execution: id, reason }))
        };
        if !execution.status.is_restartable() {
            let status = execution.status;
            return refused(format!(
                "it is {status}, so that no execution would read another context"
            ));
        }
        refuse_if_superseded(tx, &execution)?;
        if execution.context != *before {
            return refused(
                "its context was changed meanwhile, and is kept; look at it again".to_owned(),
            );
        }
        execution.context = context.clone();
        tx.update_execution(&execution)?;
        execution.version += 1;
        Ok(execution)
    })
}

/// Closes an execution whose owner is dead, so that it can be restarted. A finished execution stays as it is.
pub(crate) fn recover(
    store: &ObservedStore,
    id: ExecutionId,
    mode: RecoverMode,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    transact(store, |tx| {
        let execution = wanted(tx, id)?;
        if !execution.status.is_running() {
            return Ok(execution);
        }
        launch::may_recover(&execution, mode, now).map_err(|_| Refusal::LeaseAlive {
            execution: id,
            owner: execution.owner.clone(),
            lease_until: execution.lease_until,
        })?;
        let closed = close_lost(tx, &execution, now)?;
        Ok(closed)
    })
}

/// Sets running steps and the job to `FAILED` and keeps their checkpoints; the new fence refuses commits of
/// the old owner.
pub(super) fn close_lost(
    tx: &mut Tx<'_>,
    execution: &JobExecution,
    now: Timestamp,
) -> Result<JobExecution, RepositoryError> {
    let owner = execution.owner.as_deref().unwrap_or("(none)");
    let since = execution.lease_until.unwrap_or(now);
    let lost = format!("owner {owner} lost, its lease ran until {since:.3}");
    let note = format!("recovered: {lost}");
    let failure = Failure::new("recovered", lost);
    close_steps(tx, execution, &failure, &note, now)?;
    let mut closed = execution.clone();
    closed.status = BatchStatus::Failed;
    closed.exit = ExitStatus::failed().with_message(&note);
    closed.failure = Some(failure);
    closed.ended_at = Some(now);
    closed.owner = None;
    closed.lease_until = None;
    closed.fence += 1;
    change(tx, &mut closed, now, Some(note))?;
    Ok(closed)
}
