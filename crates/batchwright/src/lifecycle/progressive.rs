//! The end of a progressive execution: rules over its rows.

use jiff::Timestamp;

use super::{change, record_step};
use crate::error::RepositoryError;
use crate::execution::{ExitStatus, Failure, JobExecution, StatusEvent};
use crate::lifecycle::Tx;
use crate::store::{ProgressiveExecution, StoredResponse};

/// The end of a progressive execution: its event, failure and response.
#[derive(Debug, Clone)]
pub(crate) struct Final {
    pub(crate) event: StatusEvent,
    pub(crate) failure: Option<Failure>,
    pub(crate) response: Option<StoredResponse>,
}

impl Final {
    pub(crate) fn completed(response: StoredResponse) -> Self {
        Self { event: StatusEvent::Complete, failure: None, response: Some(response) }
    }

    /// The response has no body: the failure, which is stored with the execution, is the answer. A client
    /// acknowledges it like any other.
    pub(crate) fn failed(failure: Failure, at: Timestamp) -> Self {
        let response = StoredResponse {
            status: 500,
            headers: Vec::new(),
            body: Vec::new(),
            at,
            is_acknowledged: false,
        };
        Self { event: StatusEvent::Fail, failure: Some(failure), response: Some(response) }
    }

    pub(crate) fn stopped() -> Self {
        Self { event: StatusEvent::ConfirmStop, failure: None, response: None }
    }
}

/// Returns the exit status of an execution that ended with `event`.
fn exit_of(event: StatusEvent) -> ExitStatus {
    match event {
        StatusEvent::Complete => ExitStatus::completed(),
        StatusEvent::ConfirmStop => ExitStatus::stopped(),
        _ => ExitStatus::failed(),
    }
}

/// Ends an execution that the transaction has locked.
pub(crate) fn end(
    tx: &mut Tx<'_>,
    execution: &mut JobExecution,
    row: &ProgressiveExecution,
    ended: Final,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    let id = execution.id;
    let illegal = |_| RepositoryError::LeaseLost { execution: id };
    let mut exit = exit_of(ended.event);
    let mask = |failure: Failure| failure.map_message(|text| execution.parameters.mask_in(text));
    let failure = ended.failure.map(mask);
    for mut step in tx.steps_of(id)?.into_iter().filter(|step| step.id == row.step) {
        step.status = step.status.after(ended.event).map_err(illegal)?;
        exit = exit.with_skips(step.counters.skips() > 0);
        step.exit = match &failure {
            Some(failure) => exit.clone().with_message(&failure.message),
            None => exit.clone(),
        };
        step.failure.clone_from(&failure);
        step.ended_at = Some(now);
        step.updated_at = now;
        tx.update_step(&step)?;
        record_step(tx, &execution.job, &step, now)?;
    }
    if let Some(response) = ended.response {
        tx.slices().insert_response(id, &response)?;
    }
    execution.status = execution.status.after(ended.event).map_err(illegal)?;
    execution.exit = exit;
    execution.failure = failure;
    execution.ended_at = Some(now);
    change(tx, execution, now, None)
}

/// Ends an execution with a requested stop when no lane has a live worker, and updates `execution`.
pub(crate) fn close_stopped(
    tx: &mut Tx<'_>,
    execution: &mut JobExecution,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    let Some(row) = tx.slices().progressive(execution.id)? else { return Ok(()) };
    let lanes = tx.slices().lanes_of(execution.id)?;
    if lanes.iter().any(|lane| lane.is_live(now)) {
        return Ok(());
    }
    end(tx, execution, &row, Final::stopped(), now)
}
