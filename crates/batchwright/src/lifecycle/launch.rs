//! Starts and restarts executions.

use jiff::Timestamp;

use super::{record, refuse_if_superseded, stop::close_lost, transact, wanted};
use crate::audit::{AuditEntry, bounded};
use crate::error::RepositoryError;
use crate::execution::{ExecutionId, FlowState, JobExecution, JobInstance};
use crate::launch::{self, LaunchDecision, LaunchOptions, LaunchRules, RequestKey};
use crate::lifecycle::{ObservedStore, Tx};
use crate::parameters::JobParameters;
use crate::refusal::{OperatorError, Refusal};

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
    store: &ObservedStore,
    request: &StartRequest<'_>,
    parameters: JobParameters,
) -> Result<JobExecution, OperatorError> {
    transact(store, |tx| start_in(tx, request, parameters.clone()))
}

pub(crate) fn start_in(
    tx: &mut Tx<'_>,
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
    tx: &mut Tx<'_>,
    request: &StartRequest<'_>,
    instance: &JobInstance,
    parameters: JobParameters,
) -> Result<JobExecution, OperatorError> {
    refuse_repeated(tx, request.options)?;
    let history = tx.executions_of(instance.id)?;
    let decision = launch::decide(&history, request.rules, request.options, request.now)?;
    let restart_of = match decision {
        LaunchDecision::Fresh => None,
        LaunchDecision::Restart(id) | LaunchDecision::Again(id) => Some(id),
        LaunchDecision::TakeOver(id) => {
            close_lost(tx, &history[0], request.now)?;
            Some(id)
        }
    };
    let flow = match (decision, request.rules.again_from) {
        (LaunchDecision::Again(id), Some(first)) => FlowState::again(first, id),
        _ => history.first().map(|newest| newest.flow.clone()).unwrap_or_default(),
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
        flow,
        parent: request.parent,
        triggered_by: triggered_by(request.options),
        trace_parent: request.options.trace_parent,
        ..JobExecution::new_unsaved(request.job, parameters, request.now)
    };
    execution.id = tx.insert_execution(&execution)?;
    if let Some(request) = &request.options.request {
        tx.insert_request(request, execution.id)?;
    }
    audit(tx, &execution)?;
    record(tx, &execution, request.now, None)?;
    Ok(execution)
}

/// Longest stored name of who started an execution, in bytes.
const TRIGGERED_BY_BYTES_MAX: usize = 255;

/// Stores a start in the audit, unless it follows from a schedule, a queue or a step.
fn audit(tx: &mut Tx<'_>, execution: &JobExecution) -> Result<(), RepositoryError> {
    let Some(who) = &execution.triggered_by else { return Ok(()) };
    let kind = who.split(':').next().unwrap_or_default();
    if ["schedule", "queue", "step"].contains(&kind) {
        return Ok(());
    }
    tx.insert_audit(&AuditEntry {
        id: 0,
        at: execution.created_at,
        who: who.clone(),
        action: if execution.restart_of.is_some() { "restart" } else { "start" }.to_owned(),
        subject: format!("execution {}", execution.id),
        detail: Some(format!("job {}", execution.job)),
    })
}

fn triggered_by(options: &LaunchOptions) -> Option<String> {
    options.triggered_by.as_deref().map(|text| bounded(text, TRIGGERED_BY_BYTES_MAX))
}

/// Returns the execution that `request` started; `None` when it started none.
pub(crate) fn started_by(
    tx: &mut Tx<'_>,
    request: &RequestKey,
) -> Result<Option<ExecutionId>, OperatorError> {
    if !RequestKey::is_valid(&request.key) || !RequestKey::is_valid(&request.fingerprint) {
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
fn refuse_repeated(tx: &mut Tx<'_>, options: &LaunchOptions) -> Result<(), OperatorError> {
    let Some(request) = &options.request else { return Ok(()) };
    match started_by(tx, request)? {
        Some(execution) => Err(Refusal::RequestRepeated { execution }.into()),
        None => Ok(()),
    }
}

/// Restarts the instance of execution `id`, which must be the newest of the instance, with `change` applied
/// to its parameters.
pub(crate) fn restart(
    store: &ObservedStore,
    id: ExecutionId,
    request: &StartRequest<'_>,
    change: impl Fn(JobParameters) -> Result<JobParameters, Refusal>,
) -> Result<JobExecution, OperatorError> {
    transact(store, |tx| {
        let parameters = parameters_of_restart(tx, id, request.options, &change)?;
        let instance = tx.find_instance(request.job, &parameters.key())?.ok_or_else(|| {
            RepositoryError::Corrupt { what: format!("execution {id} has no instance") }
        })?;
        let restarted = launch_in(tx, request, &instance, parameters)?;
        Ok(restarted)
    })
}

/// Returns the parameters of a restart of execution `id`; `change` may change those that are not identifying.
pub(crate) fn parameters_of_restart(
    tx: &mut Tx<'_>,
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

/// Starts the next instance; `change` makes its parameters from those of the newest one.
pub(crate) fn start_next(
    store: &ObservedStore,
    request: &StartRequest<'_>,
    change: impl Fn(Option<JobParameters>) -> Result<JobParameters, Refusal>,
) -> Result<JobExecution, OperatorError> {
    transact(store, |tx| {
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
        let execution = match start_in(tx, request, parameters) {
            // A new instance has no history that could refuse the start: another process has inserted it
            // since.
            Err(OperatorError::Refused(refusal)) if made.is_none() && !refusal.is_of_request() => {
                let what = "the newest instance".to_owned();
                return Err(RepositoryError::Conflict { what }.into());
            }
            started => started?,
        };
        Ok(execution)
    })
}
