//! Claims, adopts and ends executions.

use jiff::Timestamp;

use super::{Claimant, change, owned, step::close_steps, transact};
use crate::context::ExecutionContext;
use crate::error::RepositoryError;
use crate::execution::{
    BatchStatus, ExecutionId, ExitStatus, Failure, FlowState, JobExecution, StatusEvent,
};
use crate::lifecycle::ObservedStore;
use crate::store::Lease;

/// Changes the status from `STARTING` to `STARTED`. `None` when the execution was stopped or taken over.
pub(crate) fn claim(
    store: &ObservedStore,
    lease: Lease,
    now: Timestamp,
) -> Result<Option<JobExecution>, RepositoryError> {
    transact(store, |tx| {
        let Some(mut execution) = tx.execution(lease.execution)? else { return Ok(None) };
        if execution.fence != lease.fence {
            return Ok(None);
        }
        let Ok(status) = execution.status.after(StatusEvent::Claim) else { return Ok(None) };
        execution.status = status;
        execution.started_at = Some(now);
        change(tx, &mut execution, now, None)?;
        Ok(Some(execution))
    })
}

/// Makes `claimant` the owner of a queued execution. `None` when another process has claimed it, or it was
/// stopped.
pub(crate) fn adopt(
    store: &ObservedStore,
    id: ExecutionId,
    claimant: &Claimant,
    now: Timestamp,
) -> Result<Option<JobExecution>, RepositoryError> {
    transact(store, |tx| {
        let waits = |one: &JobExecution| one.status == BatchStatus::Starting && one.owner.is_none();
        let Some(mut execution) = tx.execution(id)?.filter(waits) else { return Ok(None) };
        execution.owner = Some(claimant.owner.clone());
        execution.lease_until = Some(claimant.lease_until);
        change(tx, &mut execution, now, Some("claimed by a worker".to_owned()))?;
        Ok(Some(execution))
    })
}

/// The outcome with which an owner ends its execution.
pub(crate) struct Ended {
    pub(crate) event: StatusEvent,
    pub(crate) exit: ExitStatus,
    pub(crate) failure: Option<Failure>,
    pub(crate) warnings: Vec<String>,
    pub(crate) context: Option<ExecutionContext>,
    pub(crate) flow: FlowState,
}

/// Ends the execution of `lease`.
pub(crate) fn finish(
    store: &ObservedStore,
    lease: Lease,
    outcome: &Ended,
    now: Timestamp,
) -> Result<JobExecution, RepositoryError> {
    transact(store, |tx| {
        let mut execution = owned(tx, lease)?;
        execution.status = execution
            .status
            .after(outcome.event)
            .map_err(|_| RepositoryError::LeaseLost { execution: lease.execution })?;
        execution.exit = outcome.exit.clone();
        execution.failure = outcome.failure.clone();
        execution.warnings = outcome.warnings.clone();
        execution.flow = outcome.flow.clone();
        execution.ended_at = Some(now);
        execution.owner = None;
        execution.lease_until = None;
        if let Some(context) = &outcome.context {
            execution.context = context.clone();
        }
        // Close steps whose end could not be stored because the store had failed.
        let note = "the execution ended before the end of this step was stored";
        close_steps(tx, &execution, &Failure::new("commit_failed", note), note, now)?;
        change(tx, &mut execution, now, None)?;
        Ok(execution)
    })
}
