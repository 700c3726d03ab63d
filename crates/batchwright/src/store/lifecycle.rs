//! The rules of an execution's lifecycle, shared by all repositories.
//!
//! Each function is one transaction: it reads rows, decides by a pure function and writes rows.

use std::sync::PoisonError;

use jiff::Timestamp;

use super::{CheckpointUpdate, JobRepository, Lease, Transaction};
use crate::context::{ContextHandle, ExecutionContext};
use crate::error::{Failure, RepositoryError};
use crate::event::EventRecord;
use crate::execution::{
    BatchStatus, ExecutionId, ExitStatus, FlowState, JobExecution, JobInstance, StatusEvent,
    StepExecution, StepExecutionId,
};
use crate::launch::{self, Launch, LaunchOptions, LaunchRules, RecoverMode, RequestKey};
use crate::operator::{OperatorError, Refusal};
use crate::parameters::JobParameters;
use crate::progressive;

/// The owner of a new or claimed execution, and its lease.
#[derive(Debug, Clone)]
pub(crate) struct Claimant {
    pub(crate) owner: String,
    pub(crate) lease_until: Timestamp,
}

/// The values that a start stores.
pub(crate) struct StartRequest<'a> {
    pub(crate) job: &'a str,
    pub(crate) rules: LaunchRules<'a>,
    pub(crate) options: &'a LaunchOptions,
    /// The owner; `None` queues the execution for any process that shares the store.
    pub(crate) claimant: Option<Claimant>,
    /// The execution whose step starts this one.
    pub(crate) parent: Option<ExecutionId>,
    pub(crate) now: Timestamp,
}

/// Starts or restarts the instance of `parameters`: stores instance and execution in one transaction.
pub(crate) fn start(
    repository: &dyn JobRepository,
    request: &StartRequest<'_>,
    parameters: JobParameters,
) -> Result<JobExecution, OperatorError> {
    contended(|| {
        let mut tx = repository.begin()?;
        let execution = start_in(&mut *tx, request, parameters.clone())?;
        tx.commit()?;
        Ok(execution)
    })
}

/// Runs `work`, and runs it again after each conflict: another transaction changed the rows that it had read.
/// A store that runs transactions one after another reports no conflict.
pub(crate) fn contended<T, E: MayConflict>(mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
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
pub(crate) trait MayConflict {
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

pub(crate) fn start_in(
    tx: &mut dyn Transaction,
    request: &StartRequest<'_>,
    parameters: JobParameters,
) -> Result<JobExecution, OperatorError> {
    let key = parameters.key();
    let instance = match tx.find_instance(request.job, &key)? {
        Some(instance) => instance,
        None => tx.insert_instance(request.job, &key, request.now)?,
    };
    launch_in(tx, request, &instance, parameters)
}

fn launch_in(
    tx: &mut dyn Transaction,
    request: &StartRequest<'_>,
    instance: &JobInstance,
    parameters: JobParameters,
) -> Result<JobExecution, OperatorError> {
    refuse_repeated(tx, request.options)?;
    let history = tx.executions_of(instance.id)?;
    let restart_of = match launch::decide(&history, request.rules, request.options, request.now)? {
        Launch::Fresh => None,
        Launch::Restart(id) => Some(id),
        Launch::TakeOver(id) => {
            close_lost(tx, &history[0], request.now)?;
            Some(id)
        }
    };
    let context = history.first().map(|newest| newest.context.clone()).unwrap_or_default();
    let (owner, lease_until) =
        request.claimant.clone().map(|one| (one.owner, one.lease_until)).unzip();
    let mut execution = JobExecution {
        instance_id: instance.id,
        restart_of,
        owner,
        lease_until,
        context,
        fingerprint: request.rules.fingerprint.map(str::to_owned),
        source: request.rules.source.map(str::to_owned),
        flow: history.first().map(|newest| newest.flow.clone()).unwrap_or_default(),
        parent: request.parent,
        ..JobExecution::new_unsaved(request.job, parameters, request.now)
    };
    execution.id = tx.insert_execution(&execution)?;
    if let Some(request) = &request.options.request {
        tx.insert_request(request, execution.id)?;
    }
    record(tx, &execution, request.now, None)?;
    Ok(execution)
}

/// Returns the execution that `request` started; `None` when it started none.
pub(crate) fn started_by(
    tx: &mut dyn Transaction,
    request: &RequestKey,
) -> Result<Option<ExecutionId>, OperatorError> {
    if !launch::is_token(&request.key) || !launch::is_token(&request.fingerprint) {
        let problem =
            "the key and the fingerprint of a request must be 1 to 255 visible ASCII characters";
        return Err(Refusal::InvalidParameters { problems: vec![problem.to_owned()] }.into());
    }
    match tx.request(&request.key)? {
        Some((known, execution)) if known != *request => {
            Err(Refusal::KeyReused { execution }.into())
        }
        known => Ok(known.map(|(_, execution)| execution)),
    }
}

/// Refuses a request that has already started an execution.
fn refuse_repeated(tx: &mut dyn Transaction, options: &LaunchOptions) -> Result<(), OperatorError> {
    let Some(request) = &options.request else { return Ok(()) };
    match started_by(tx, request)? {
        Some(execution) => Err(Refusal::RequestRepeated { execution }.into()),
        None => Ok(()),
    }
}

/// Restarts the instance of execution `id`, which must be the newest of the instance, with `change` applied
/// to its parameters.
pub(crate) fn restart(
    repository: &dyn JobRepository,
    id: ExecutionId,
    request: &StartRequest<'_>,
    change: impl Fn(JobParameters) -> Result<JobParameters, Refusal>,
) -> Result<JobExecution, OperatorError> {
    contended(|| restart_once(repository, id, request, &change))
}

fn restart_once(
    repository: &dyn JobRepository,
    id: ExecutionId,
    request: &StartRequest<'_>,
    change: &impl Fn(JobParameters) -> Result<JobParameters, Refusal>,
) -> Result<JobExecution, OperatorError> {
    let mut tx = repository.begin()?;
    let parameters = parameters_of_restart(&mut *tx, id, request.options, change)?;
    let instance = tx.find_instance(request.job, &parameters.key())?.ok_or_else(|| {
        RepositoryError::Corrupt { what: format!("execution {id} has no instance") }
    })?;
    let restarted = launch_in(&mut *tx, request, &instance, parameters)?;
    tx.commit()?;
    Ok(restarted)
}

/// Returns the parameters of a restart of execution `id`; `change` may change those that are not identifying.
pub(crate) fn parameters_of_restart(
    tx: &mut dyn Transaction,
    id: ExecutionId,
    options: &LaunchOptions,
    change: impl Fn(JobParameters) -> Result<JobParameters, Refusal>,
) -> Result<JobParameters, OperatorError> {
    // This check comes first: a repeated request gets the execution that it started, not the refusal that a
    // newer one exists.
    refuse_repeated(tx, options)?;
    let execution = wanted(tx, id)?;
    refuse_if_superseded(tx, &execution)?;
    let key = execution.parameters.key();
    let parameters = change(execution.parameters)?;
    if parameters.key() != key {
        let problems = vec!["a restart must not change identifying parameters".to_owned()];
        return Err(Refusal::InvalidParameters { problems }.into());
    }
    Ok(parameters)
}

/// Refuses an execution that is not the newest of its instance. The refusal states what the newest one is
/// doing, so that the loser of a race between two starts learns it.
fn refuse_if_superseded(
    tx: &mut dyn Transaction,
    execution: &JobExecution,
) -> Result<(), OperatorError> {
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

/// Starts the next instance; `change` makes its parameters from those of the newest one.
pub(crate) fn start_next(
    repository: &dyn JobRepository,
    request: &StartRequest<'_>,
    change: impl Fn(Option<JobParameters>) -> Result<JobParameters, Refusal>,
) -> Result<JobExecution, OperatorError> {
    contended(|| {
        let mut tx = repository.begin()?;
        let newest = tx.newest_instance(request.job)?;
        let execution = match &newest {
            Some(instance) => tx.executions_of(instance.id)?.into_iter().next(),
            None => None,
        };
        let parameters = change(execution.map(|execution| execution.parameters))?;
        // Another process has inserted that instance since the newest one was read, so it is the newest now.
        let made = tx.find_instance(request.job, &parameters.key())?.map(|instance| instance.id);
        if made > newest.map(|instance| instance.id) {
            return Err(RepositoryError::Conflict { what: "the newest instance".to_owned() }.into());
        }
        let execution = match start_in(&mut *tx, request, parameters) {
            // A new instance has no history that could refuse the start: another process has inserted it
            // since.
            Err(OperatorError::Refused(refusal)) if made.is_none() && !refusal.is_of_request() => {
                let what = "the newest instance".to_owned();
                return Err(RepositoryError::Conflict { what }.into());
            }
            started => started?,
        };
        tx.commit()?;
        Ok(execution)
    })
}

/// Changes the status from `STARTING` to `STARTED`. `None` when the execution was stopped or taken over.
pub(crate) fn claim(
    repository: &dyn JobRepository,
    lease: Lease,
    now: Timestamp,
) -> Result<Option<JobExecution>, RepositoryError> {
    contended(|| claim_once(repository, lease, now))
}

fn claim_once(
    repository: &dyn JobRepository,
    lease: Lease,
    now: Timestamp,
) -> Result<Option<JobExecution>, RepositoryError> {
    let mut tx = repository.begin()?;
    let Some(mut execution) = tx.execution(lease.execution)? else { return Ok(None) };
    if execution.fence != lease.fence {
        return Ok(None);
    }
    let Ok(status) = execution.status.after(StatusEvent::Claim) else { return Ok(None) };
    execution.status = status;
    execution.started_at = Some(now);
    change(&mut *tx, &mut execution, now, None)?;
    tx.commit()?;
    Ok(Some(execution))
}

/// Makes `claimant` the owner of a queued execution. `None` when another process has claimed it, or it was
/// stopped.
pub(crate) fn adopt(
    repository: &dyn JobRepository,
    id: ExecutionId,
    claimant: &Claimant,
    now: Timestamp,
) -> Result<Option<JobExecution>, RepositoryError> {
    contended(|| {
        let mut tx = repository.begin()?;
        let waits = |one: &JobExecution| one.status == BatchStatus::Starting && one.owner.is_none();
        let Some(mut execution) = tx.execution(id)?.filter(waits) else { return Ok(None) };
        execution.owner = Some(claimant.owner.clone());
        execution.lease_until = Some(claimant.lease_until);
        change(&mut *tx, &mut execution, now, Some("claimed by a worker".to_owned()))?;
        tx.commit()?;
        Ok(Some(execution))
    })
}

/// The outcome with which an owner ends its execution.
#[derive(Clone)]
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
    repository: &dyn JobRepository,
    lease: Lease,
    outcome: Ended,
    now: Timestamp,
) -> Result<JobExecution, RepositoryError> {
    contended(|| finish_once(repository, lease, outcome.clone(), now))
}

fn finish_once(
    repository: &dyn JobRepository,
    lease: Lease,
    outcome: Ended,
    now: Timestamp,
) -> Result<JobExecution, RepositoryError> {
    let mut tx = repository.begin()?;
    let mut execution = owned(&mut *tx, lease)?;
    execution.status = execution
        .status
        .after(outcome.event)
        .map_err(|_| RepositoryError::LeaseLost { execution: lease.execution })?;
    execution.exit = outcome.exit;
    execution.failure = outcome.failure;
    execution.warnings = outcome.warnings;
    execution.flow = outcome.flow;
    execution.ended_at = Some(now);
    execution.owner = None;
    execution.lease_until = None;
    if let Some(context) = outcome.context {
        execution.context = context;
    }
    // Close steps whose end could not be stored because the store had failed.
    let note = "the execution ended before the end of this step was stored";
    close_steps(&mut *tx, execution.id, &Failure::new("commit_failed", note), note, now)?;
    change(&mut *tx, &mut execution, now, None)?;
    tx.commit()?;
    Ok(execution)
}

/// Requests a running execution to stop. An execution that has not begun is stopped at once.
pub(crate) fn request_stop(
    repository: &dyn JobRepository,
    id: ExecutionId,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    contended(|| request_stop_once(repository, id, now))
}

fn request_stop_once(
    repository: &dyn JobRepository,
    id: ExecutionId,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    let mut tx = repository.begin()?;
    let mut execution = wanted(&mut *tx, id)?;
    execution.status = execution
        .status
        .after(StatusEvent::RequestStop)
        .map_err(|illegal| Refusal::NotRunning { execution: id, status: illegal.status })?;
    if execution.stop_requested {
        // The worker that had to confirm the stop may be dead.
        if execution.owner.is_none() {
            progressive::close_stopped(&mut *tx, &mut execution, now)?;
            tx.commit()?;
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
    change(&mut *tx, &mut execution, now, Some("stop requested".to_owned()))?;
    // Between two slices no worker exists that could confirm the stop.
    if execution.status == BatchStatus::Stopping && execution.owner.is_none() {
        progressive::close_stopped(&mut *tx, &mut execution, now)?;
    }
    tx.commit()?;
    Ok(execution)
}

/// Abandons an execution: it can never be restarted. A repeated call changes nothing.
pub(crate) fn abandon(
    repository: &dyn JobRepository,
    id: ExecutionId,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    contended(|| abandon_once(repository, id, now))
}

fn abandon_once(
    repository: &dyn JobRepository,
    id: ExecutionId,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    let mut tx = repository.begin()?;
    let mut execution = wanted(&mut *tx, id)?;
    if execution.status == BatchStatus::Abandoned {
        return Ok(execution);
    }
    // A newer execution of the instance is not invalidated.
    if execution.status.is_restartable() {
        refuse_if_superseded(&mut *tx, &execution)?;
    }
    execution.status = execution
        .status
        .after(StatusEvent::Abandon)
        .map_err(|illegal| Refusal::NotAbandonable { execution: id, status: illegal.status })?;
    change(&mut *tx, &mut execution, now, None)?;
    tx.commit()?;
    Ok(execution)
}

/// Closes an execution whose owner is dead, so that it can be restarted. A finished execution stays as it is.
pub(crate) fn recover(
    repository: &dyn JobRepository,
    id: ExecutionId,
    mode: RecoverMode,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    contended(|| recover_once(repository, id, mode, now))
}

fn recover_once(
    repository: &dyn JobRepository,
    id: ExecutionId,
    mode: RecoverMode,
    now: Timestamp,
) -> Result<JobExecution, OperatorError> {
    let mut tx = repository.begin()?;
    let execution = wanted(&mut *tx, id)?;
    if !execution.status.is_running() {
        return Ok(execution);
    }
    launch::may_recover(&execution, mode, now).map_err(|_| Refusal::LeaseAlive {
        execution: id,
        owner: execution.owner.clone(),
        lease_until: execution.lease_until,
    })?;
    let closed = close_lost(&mut *tx, &execution, now)?;
    tx.commit()?;
    Ok(closed)
}

/// Sets running steps and the job to `FAILED` and keeps their checkpoints; the new fence refuses commits of
/// the old owner.
fn close_lost(
    tx: &mut dyn Transaction,
    execution: &JobExecution,
    now: Timestamp,
) -> Result<JobExecution, RepositoryError> {
    let owner = execution.owner.as_deref().unwrap_or("(none)");
    let since = execution.lease_until.unwrap_or(now);
    let lost = format!("owner {owner} lost, its lease ran until {since:.3}");
    let note = format!("recovered: {lost}");
    let failure = Failure::new("recovered", lost);
    close_steps(tx, execution.id, &failure, &note, now)?;
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

/// Sets the running steps and partitions of `execution` to `FAILED` and keeps their checkpoints.
fn close_steps(
    tx: &mut dyn Transaction,
    execution: ExecutionId,
    failure: &Failure,
    note: &str,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    for mut step in tx.steps_of(execution)? {
        if step.status.is_running() {
            step.status = BatchStatus::Failed;
            step.exit = ExitStatus::failed().with_message(note);
            step.failure = Some(failure.clone());
            step.ended_at = Some(now);
            tx.update_step(&step)?;
            record_step(tx, &step, now)?;
        }
    }
    Ok(())
}

/// Inserts the row of a step that begins.
pub(crate) fn begin_step(
    repository: &dyn JobRepository,
    lease: Lease,
    step: StepExecution,
) -> Result<StepExecution, RepositoryError> {
    contended(|| begin_step_once(repository, lease, step.clone()))
}

fn begin_step_once(
    repository: &dyn JobRepository,
    lease: Lease,
    mut step: StepExecution,
) -> Result<StepExecution, RepositoryError> {
    let mut tx = repository.begin()?;
    owned(&mut *tx, lease)?;
    step.id = tx.insert_step(&step)?;
    record_step(&mut *tx, &step, step.started_at)?;
    tx.commit()?;
    Ok(step)
}

/// Stores the changed row of a running step.
pub(crate) fn update_step(
    repository: &dyn JobRepository,
    lease: Lease,
    step: &StepExecution,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    contended(|| update_step_once(repository, lease, step, now))
}

fn update_step_once(
    repository: &dyn JobRepository,
    lease: Lease,
    step: &StepExecution,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    let mut tx = repository.begin()?;
    owned(&mut *tx, lease)?;
    tx.update_step(step)?;
    record_step(&mut *tx, step, now)?;
    tx.commit()
}

/// The contexts of a step and its job, which the end of the step stores.
#[derive(Clone, Copy)]
pub(crate) struct Contexts<'a> {
    pub(crate) step: &'a ContextHandle,
    pub(crate) job: &'a ContextHandle,
}

/// Stores how a step ended.
///
/// Position, counters and context are stored by the commits of chunks, and their stored values are kept, also
/// when the answer to the last commit was lost and this process takes it for failed.
pub(crate) fn end_step(
    repository: &dyn JobRepository,
    lease: Lease,
    step: &mut StepExecution,
    contexts: Contexts<'_>,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    contended(|| end_step_once(repository, lease, step, contexts, now))
}

fn end_step_once(
    repository: &dyn JobRepository,
    lease: Lease,
    step: &mut StepExecution,
    contexts: Contexts<'_>,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    let mut tx = repository.begin()?;
    // The order is transaction, lock, row of the execution: a holder of the lock already has a connection,
    // and a waiter for the row already holds the lock.
    let lock = contexts.job.commit_lock();
    let _alone = lock.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
    // With the row of the execution locked, no commit of this process is in progress: each commit locks it.
    let mut execution = owned(&mut *tx, lease)?;
    let rows = tx.steps_of(lease.execution)?;
    let stored = rows.into_iter().find(|row| row.id == step.id).ok_or_else(|| {
        RepositoryError::Corrupt { what: format!("step execution {} does not exist", step.id) }
    })?;
    step.checkpoint = stored.checkpoint;
    if stored.counters.commit > step.counters.commit {
        step.counters = stored.counters;
    }
    step.context = contexts.step.change().unwrap_or(stored.context);
    let job_context = contexts.job.change();
    if let Some(context) = &job_context {
        execution.context = context.clone();
        tx.update_execution(&execution)?;
    }
    tx.update_step(step)?;
    record_step(&mut *tx, step, now)?;
    tx.commit()?;
    if let Some(stored) = job_context {
        contexts.job.committed(stored);
    }
    Ok(())
}

/// Marks the failures of `steps` as handled: the flow continues after them, and a restart does not run them
/// again.
pub(crate) fn handle_failures(
    repository: &dyn JobRepository,
    lease: Lease,
    steps: &[StepExecutionId],
) -> Result<(), RepositoryError> {
    contended(|| handle_failures_once(repository, lease, steps))
}

fn handle_failures_once(
    repository: &dyn JobRepository,
    lease: Lease,
    steps: &[StepExecutionId],
) -> Result<(), RepositoryError> {
    let mut tx = repository.begin()?;
    owned(&mut *tx, lease)?;
    for mut step in tx.steps_of(lease.execution)? {
        if steps.contains(&step.id) {
            step.handled = true;
            tx.update_step(&step)?;
        }
    }
    tx.commit()
}

/// Stores the plan of a running step as its checkpoint, for its restart.
pub(crate) fn keep_plan(
    repository: &dyn JobRepository,
    lease: Lease,
    step: &mut StepExecution,
    plan: &str,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    contended(|| keep_plan_once(repository, lease, step, plan, now))
}

fn keep_plan_once(
    repository: &dyn JobRepository,
    lease: Lease,
    step: &mut StepExecution,
    plan: &str,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    let mut tx = repository.begin()?;
    tx.save_checkpoint(&CheckpointUpdate {
        lease,
        step: step.id,
        counters: &step.counters,
        checkpoint: plan,
        step_context: None,
        job_context: None,
        at: now,
    })?;
    tx.commit()?;
    step.checkpoint = Some(plan.to_owned());
    Ok(())
}

/// Checks that the caller still owns the execution, before it changes anything that is shared.
pub(crate) fn still_owned(
    repository: &dyn JobRepository,
    lease: Lease,
) -> Result<(), RepositoryError> {
    owned(&mut *repository.begin()?, lease).map(drop)
}

/// Returns the execution of `lease` if the caller still owns it.
pub(crate) fn owned(
    tx: &mut dyn Transaction,
    lease: Lease,
) -> Result<JobExecution, RepositoryError> {
    tx.execution(lease.execution)?
        .filter(|one| one.fence == lease.fence && one.status.is_running())
        .ok_or(RepositoryError::LeaseLost { execution: lease.execution })
}

fn wanted(tx: &mut dyn Transaction, id: ExecutionId) -> Result<JobExecution, OperatorError> {
    Ok(tx.execution(id)?.ok_or(Refusal::NoSuchExecution { execution: id })?)
}

pub(crate) fn change(
    tx: &mut dyn Transaction,
    execution: &mut JobExecution,
    at: Timestamp,
    note: Option<String>,
) -> Result<(), RepositoryError> {
    tx.update_execution(execution)?;
    execution.version += 1;
    record(tx, execution, at, note)
}

fn record(
    tx: &mut dyn Transaction,
    execution: &JobExecution,
    at: Timestamp,
    note: Option<String>,
) -> Result<(), RepositoryError> {
    let (execution, status) = (execution.id, execution.status);
    tx.insert_event(&EventRecord { at, execution, step: None, status, note })
}

pub(crate) fn record_step(
    tx: &mut dyn Transaction,
    step: &StepExecution,
    at: Timestamp,
) -> Result<(), RepositoryError> {
    let (execution, status) = (step.execution_id, step.status);
    let step = Some(step.name.clone());
    tx.insert_event(&EventRecord { at, execution, step, status, note: None })
}
