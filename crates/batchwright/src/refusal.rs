//! The errors of the operator: refusals and failures of the store.

use std::sync::Arc;

use jiff::Timestamp;

use crate::error::RepositoryError;
use crate::execution::{BatchStatus, ExecutionId, InstanceId, JobExecution};
use crate::parameters::names;

/// Why the operator refused a request. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such job is registered.
    #[error("there is no job `{name}`; {}{}", jobs(known), but(broken))]
    NoSuchJob {
        /// The requested name.
        name: String,
        /// The names that exist.
        known: Vec<String>,
        /// The problems of job files that could not be read, so that their jobs are unknown.
        broken: Vec<String>,
    },
    /// No such execution is stored.
    #[error("there is no execution {execution}")]
    NoSuchExecution {
        /// The requested number.
        execution: ExecutionId,
    },
    /// No such instance is stored.
    #[error("there is no instance {instance}")]
    NoSuchInstance {
        /// The requested number.
        instance: InstanceId,
    },
    /// The job has no execution yet.
    #[error("job `{job}` has no execution: it has never been started")]
    NeverStarted {
        /// The job.
        job: String,
    },
    /// The job does not accept the parameters.
    #[error("the parameters are invalid: {}", problems.join("; "))]
    InvalidParameters {
        /// The problems, one sentence each.
        problems: Vec<String>,
    },
    /// The definition of the job cannot be used.
    #[error("the definition of job `{job}` is invalid: {reason}")]
    InvalidDefinition {
        /// The job.
        job: String,
        /// The reason.
        reason: String,
    },
    /// The place of the jobs cannot be read.
    #[error("{reason}")]
    JobsUnreadable {
        /// The place, and what is wrong with it.
        reason: String,
    },
    /// An execution of the instance is running.
    #[error("execution {execution} of this instance is already {status}: {}", owned(owner, *lease_until))]
    AlreadyRunning {
        /// The running execution.
        execution: ExecutionId,
        /// Its status.
        status: BatchStatus,
        /// Its owner, if it has one.
        owner: Option<String>,
        /// When the lease of the owner expires unless it is renewed.
        lease_until: Option<Timestamp>,
    },
    /// The instance is complete.
    #[error("execution {execution} already completed this instance")]
    AlreadyComplete {
        /// The execution that completed it.
        execution: ExecutionId,
    },
    /// The instance was abandoned.
    #[error("execution {execution} of this instance was abandoned")]
    Abandoned {
        /// The abandoned execution.
        execution: ExecutionId,
    },
    /// The instance cannot be restarted.
    #[error("execution {execution} cannot be restarted: {reason}")]
    NotRestartable {
        /// The execution.
        execution: ExecutionId,
        /// The reason.
        reason: String,
    },
    /// The definition of the job has changed since the execution ran.
    #[error("the definition of the job has changed since execution {execution}")]
    ChangedDefinition {
        /// The execution.
        execution: ExecutionId,
    },
    /// Only a running execution can be stopped.
    #[error("execution {execution} is not running: it is {status}")]
    NotRunning {
        /// The execution.
        execution: ExecutionId,
        /// Its status.
        status: BatchStatus,
    },
    /// Only a failed or stopped execution can be abandoned.
    #[error(
        "execution {execution} cannot be abandoned: it is {status}, and only FAILED and STOPPED executions can be"
    )]
    NotAbandonable {
        /// The execution.
        execution: ExecutionId,
        /// Its status.
        status: BatchStatus,
    },
    /// A newer execution of the instance exists.
    #[error("execution {execution} is not the newest of its instance: execution {newest} is newer")]
    NotMostRecent {
        /// The requested execution.
        execution: ExecutionId,
        /// The newest execution of the instance.
        newest: ExecutionId,
    },
    /// The execution is not lost: its lease has not expired, or it has no owner.
    #[error("execution {execution} cannot be recovered: {}", owned(owner, *lease_until))]
    LeaseAlive {
        /// The execution.
        execution: ExecutionId,
        /// Its owner, if it has one.
        owner: Option<String>,
        /// When the lease of the owner expires unless it is renewed.
        lease_until: Option<Timestamp>,
    },
    /// The request does not show the token that the execution was opened with.
    #[error("the owner token of execution {execution} is missing or wrong")]
    WrongOwner {
        /// The execution.
        execution: ExecutionId,
    },
    /// The same request was already received and started an execution.
    #[error("this request already started execution {execution}")]
    RequestRepeated {
        /// The execution that the request started.
        execution: ExecutionId,
    },
    /// Another request with the same key was already received.
    #[error("another request with the same key already started execution {execution}")]
    KeyReused {
        /// The execution that the other request started.
        execution: ExecutionId,
    },
    /// The job declares no incrementer.
    #[error("job `{job}` has no next instance: it declares no incrementer (`next` in a job file)")]
    NoIncrementer {
        /// The job.
        job: String,
    },
}

fn jobs(known: &[String]) -> String {
    match known {
        [] => String::from("neither a job folder nor the program defines jobs"),
        known => format!("the jobs are: {}", names(known.iter().map(String::as_str))),
    }
}

fn but(broken: &[String]) -> String {
    broken.iter().map(|problem| format!("; {problem}")).collect()
}

fn owned(owner: &Option<String>, until: Option<Timestamp>) -> String {
    match (owner, until) {
        (Some(owner), Some(until)) => {
            format!(
                "{} owns it, with a lease until {until:.3}",
                crate::execution::owner::shown(owner)
            )
        }
        _ => String::from("no process owns it; it is queued or runs in slices"),
    }
}

impl Refusal {
    /// Returns the refusal of a start while `execution` of the same instance runs.
    pub(crate) fn running(execution: &JobExecution) -> Self {
        Self::AlreadyRunning {
            execution: execution.id,
            status: execution.status,
            owner: execution.owner.clone(),
            lease_until: execution.lease_until,
        }
    }

    /// Returns whether the refusal concerns the request key and not the state of the instance.
    pub(crate) fn is_of_request(&self) -> bool {
        matches!(self, Self::RequestRepeated { .. } | Self::KeyReused { .. })
    }

    /// Returns the stable code that scripts and dashboards may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchJob { .. } => "no_such_job",
            Self::NoSuchExecution { .. }
            | Self::NoSuchInstance { .. }
            | Self::NeverStarted { .. } => "no_such_execution",
            Self::InvalidParameters { .. } => "invalid_parameters",
            Self::InvalidDefinition { .. } => "invalid_definition",
            Self::JobsUnreadable { .. } => "jobs_unreadable",
            Self::AlreadyRunning { .. } => "already_running",
            Self::AlreadyComplete { .. } => "already_complete",
            Self::Abandoned { .. } => "abandoned",
            Self::NotRestartable { .. } => "not_restartable",
            Self::ChangedDefinition { .. } => "changed_definition",
            Self::NotRunning { .. } | Self::NotAbandonable { .. } => "not_running",
            Self::NotMostRecent { .. } => "not_most_recent",
            Self::LeaseAlive { .. } => "lease_alive",
            Self::WrongOwner { .. } => "wrong_owner",
            Self::RequestRepeated { .. } => "request_repeated",
            Self::KeyReused { .. } => "key_reused",
            Self::NoIncrementer { .. } => "usage",
        }
    }

    /// Returns what the caller can do about the refusal.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoSuchJob { .. } => "check the name and the folders that jobs are read from",
            Self::NoSuchInstance { .. } => "list the instances and use a number from the list",
            Self::NoSuchExecution { .. } => "list the executions and use a number from the list",
            Self::NeverStarted { .. } => "start the job first",
            Self::InvalidParameters { .. } => "correct the parameters; nothing was stored",
            Self::InvalidDefinition { .. } => "correct the job; nothing was stored",
            Self::JobsUnreadable { .. } => {
                "name folders that exist and can be read; nothing was stored"
            }
            Self::AlreadyRunning { .. } => {
                "wait for it, stop it, or recover it once its owner is dead"
            }
            Self::AlreadyComplete { .. } => {
                "start a new instance: change an identifying parameter, or ask for the next one"
            }
            Self::Abandoned { .. } => "start a new instance: change an identifying parameter",
            Self::NotRestartable { .. } => "start a new instance",
            Self::ChangedDefinition { .. } => {
                "pass `--accept-changed-definition` if the stored checkpoints are still valid for the new \
                 definition, or start a new instance"
            }
            Self::NotRunning { .. } => "no action is needed",
            Self::NotAbandonable { .. } => {
                "stop a running execution first, or recover it when its owner is dead; a completed one need not be \
                 abandoned"
            }
            Self::NotMostRecent { .. } => "use the newest execution of the instance",
            Self::LeaseAlive { .. } => {
                "stop it, wait until its lease has expired, or start a server if it is queued"
            }
            Self::WrongOwner { .. } => "send the token that it was opened with",
            Self::RequestRepeated { .. } => {
                "look at that execution, or use a new key for a new request"
            }
            Self::KeyReused { .. } => "use a new key for every new request",
            Self::NoIncrementer { .. } => {
                "declare how the next instance differs, or start with parameters"
            }
        }
    }
}

/// Why an execution ended without its end being stored by this process.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Another worker took over the lease of the execution.
    #[error("another process took over the lease of execution {execution}")]
    LeaseLost {
        /// The execution.
        execution: ExecutionId,
    },
    /// The store failed; the stored execution stays running until it is recovered.
    #[error("the end of execution {execution} cannot be stored")]
    Repository {
        /// The execution.
        execution: ExecutionId,
        /// What the store reported.
        #[source]
        source: Arc<RepositoryError>,
    },
    /// The thread of the execution panicked or could not be started; the stored execution stays running until it
    /// is recovered.
    #[error(
        "execution {execution} has no stored outcome: its thread ended early or could not be started"
    )]
    NoOutcome {
        /// The execution.
        execution: ExecutionId,
    },
    /// The execution was deleted before its outcome was read.
    #[error("execution {execution} was deleted before its outcome was read")]
    Deleted {
        /// The execution.
        execution: ExecutionId,
    },
}

impl RunError {
    /// Returns the stable code that scripts and dashboards may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LeaseLost { .. } => "stale_lease",
            Self::Repository { .. } | Self::NoOutcome { .. } => "store_unavailable",
            Self::Deleted { .. } => "no_such_execution",
        }
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The operator refused the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// An execution ended without its end being stored by this process.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A call of asynchronous code has no result, and what it did is not known.
    #[error("the call has no result: its thread ended early or could not be started")]
    NoResult,
}

impl OperatorError {
    /// Returns the stable code that scripts and dashboards may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Repository(RepositoryError::LeaseLost { .. }) => "stale_lease",
            Self::Repository(_) => "store_unavailable",
            Self::Run(error) => error.code(),
            Self::NoResult => "internal",
        }
    }
}
