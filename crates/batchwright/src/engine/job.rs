//! Runs one job execution from its claim to its end.

use std::sync::Arc;

use super::SPANS;
use super::flow::{FlowEnd, Walk};
use crate::clock::StopToken;
use crate::error::{ItemError, RepositoryError};
use crate::execution::{ExitStatus, Failure, FlowState, JobExecution, StatusEvent};
use crate::host::Host;
use crate::item::guarded;
use crate::job::Job;
use crate::lifecycle;
use crate::lifecycle::Ended;
use crate::scope::JobScope;
use crate::store::Lease;

/// A job execution to run.
pub(crate) struct JobRun {
    pub(crate) job: Arc<Job>,
    pub(crate) lease: Lease,
    pub(crate) stop: StopToken,
}

/// Runs the execution to its end. `None` when the execution was stopped or taken over before it began.
pub(crate) fn run_job(host: &Host, run: &JobRun) -> Result<Option<JobExecution>, RepositoryError> {
    let Some(execution) = lifecycle::claim(&host.store, run.lease, host.clock.now())? else {
        return Ok(None);
    };
    let span = tracing::info_span!(
        target: SPANS,
        "run",
        job = execution.job,
        execution = execution.id.0,
        instance = execution.instance_id.0,
        triggered_by = execution.triggered_by,
    );
    let _within = span.enter();
    let scope = JobScope::new(&execution, run.stop.clone());
    let (end, flow) = match before_job(&run.job, &scope) {
        Ok(()) => {
            let walk = Walk::new(host, run.lease, execution.flow.clone());
            let end = walk.flow(&run.job.flow, &scope)?;
            (end, walk.into_state())
        }
        Err(error) => {
            let message = format!("a listener of the job failed in `before_job`: {error}");
            let failure = Failure::new("listener_failed", message);
            (FlowEnd::failed(failure, ExitStatus::failed()), execution.flow.clone())
        }
    };
    finish(host, run, &scope, execution, end, flow).map(Some)
}

/// Calls each `after_job` with the outcome, then stores the outcome.
fn finish(
    host: &Host,
    run: &JobRun,
    scope: &JobScope,
    mut execution: JobExecution,
    end: FlowEnd,
    flow: FlowState,
) -> Result<JobExecution, RepositoryError> {
    let (event, exit, failure) = match end {
        FlowEnd::Completed { exit, ran: true } => (StatusEvent::Complete, exit, None),
        FlowEnd::Completed { .. } => {
            let nothing = ExitStatus::new(ExitStatus::NOOP);
            let exit = nothing.with_message("all steps were already complete");
            (StatusEvent::Complete, exit, None)
        }
        FlowEnd::Stopped => (StatusEvent::ConfirmStop, ExitStatus::stopped(), None),
        FlowEnd::Failed { failure, exit, .. } => (StatusEvent::Fail, exit, Some(failure)),
    };
    let parameters = execution.parameters.clone();
    let mask = |text: String| parameters.mask_in(text);
    let exit = exit.map_message(mask);
    let failure = failure.map(|failure| failure.map_message(mask));
    if let Ok(status) = execution.status.after(event) {
        execution.status = status;
    }
    execution.exit = exit.clone();
    execution.failure = failure.clone();
    execution.ended_at = Some(host.clock.now());
    let mut warnings = Vec::new();
    for listener in run.job.listeners.iter().rev() {
        if let Err(error) = guarded(|| listener.after_job(scope, &execution)) {
            tracing::warn!(job = run.job.name(), %error, "after_job failed");
            warnings.push(mask(format!("a listener of the job failed in `after_job`: {error}")));
        }
    }
    let context = scope.context().change();
    let ended = Ended { event, exit, failure, warnings, context, flow };
    let now = host.clock.now();
    lifecycle::finish(&host.store, run.lease, &ended, now)
}

fn before_job(job: &Job, scope: &JobScope) -> Result<(), ItemError> {
    job.listeners.iter().try_for_each(|listener| guarded(|| listener.before_job(scope)))
}
