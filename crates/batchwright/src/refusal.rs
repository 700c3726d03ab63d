//! The errors of the operator: refusals and failures of the store.

use jiff::Timestamp;

use crate::error::RepositoryError;
use crate::execution::{BatchStatus, ExecutionId, JobExecution};
use crate::parameters::names;

/// Why the operator refused a request. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such job is registered.
    #[error("find job `{name}`; the jobs are: {}", names(known.iter().map(String::as_str)))]
    NoSuchJob {
        /// The requested name.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// No such execution is stored.
    #[error("find execution {execution}: no execution has that number")]
    NoSuchExecution {
        /// The requested number.
        execution: ExecutionId,
    },
    /// The job has no execution yet.
    #[error("find an execution of job `{job}`: the job has never been started")]
    NeverStarted {
        /// The job.
        job: String,
    },
    /// The job does not accept the parameters.
    #[error("use the parameters: {}", problems.join("; "))]
    InvalidParameters {
        /// The problems, one sentence each.
        problems: Vec<String>,
    },
    /// The definition of the job cannot be used.
    #[error("use the definition of job `{job}`: {reason}")]
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
    #[error("start the instance: execution {execution} is {status}{}", owned(owner, *lease_until))]
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
    #[error("start the instance: execution {execution} already completed it")]
    AlreadyComplete {
        /// The execution that completed it.
        execution: ExecutionId,
    },
    /// The instance was abandoned.
    #[error("start the instance: execution {execution} was abandoned")]
    Abandoned {
        /// The abandoned execution.
        execution: ExecutionId,
    },
    /// The instance cannot be restarted.
    #[error("restart execution {execution}: {reason}")]
    NotRestartable {
        /// The execution.
        execution: ExecutionId,
        /// The reason.
        reason: String,
    },
    /// The definition of the job has changed since the execution ran.
    #[error("restart execution {execution}: the definition of its job has changed since")]
    ChangedDefinition {
        /// The execution.
        execution: ExecutionId,
    },
    /// Only a running execution can be stopped.
    #[error("stop execution {execution}: it is {status}, nothing is running")]
    NotRunning {
        /// The execution.
        execution: ExecutionId,
        /// Its status.
        status: BatchStatus,
    },
    /// Only a failed or stopped execution can be abandoned.
    #[error("abandon execution {execution}: it is {status}; only FAILED and STOPPED ones can be")]
    NotAbandonable {
        /// The execution.
        execution: ExecutionId,
        /// Its status.
        status: BatchStatus,
    },
    /// A newer execution of the instance exists.
    #[error("use execution {execution}: execution {newest} of the same instance is newer")]
    NotMostRecent {
        /// The requested execution.
        execution: ExecutionId,
        /// The newest execution of the instance.
        newest: ExecutionId,
    },
    /// The execution is not lost: its lease has not expired, or it has no owner.
    #[error("recover execution {execution}: it is not lost{}", owned(owner, *lease_until))]
    LeaseAlive {
        /// The execution.
        execution: ExecutionId,
        /// Its owner, if it has one.
        owner: Option<String>,
        /// When the lease of the owner expires unless it is renewed.
        lease_until: Option<Timestamp>,
    },
    /// The request does not show the token that the execution was opened with.
    #[error("continue execution {execution}: the owner token is missing or wrong")]
    WrongOwner {
        /// The execution.
        execution: ExecutionId,
    },
    /// The same request was already received and started an execution.
    #[error("repeat this request: it already started execution {execution}")]
    RequestRepeated {
        /// The execution that the request started.
        execution: ExecutionId,
    },
    /// Another request with the same key was already received.
    #[error("accept this request: another request with the same key started execution {execution}")]
    KeyReused {
        /// The execution that the other request started.
        execution: ExecutionId,
    },
    /// The job declares no sequence of instances.
    #[error("find the next instance of job `{job}`: the job declares no sequence")]
    NoSequence {
        /// The job.
        job: String,
    },
}

fn owned(owner: &Option<String>, until: Option<Timestamp>) -> String {
    match (owner, until) {
        (Some(owner), Some(until)) => format!(", owned by {owner} with a lease until {until:.3}"),
        _ => String::from(" and has no owner"),
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
            Self::NoSuchExecution { .. } | Self::NeverStarted { .. } => "no_such_execution",
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
            Self::NoSequence { .. } => "usage",
        }
    }

    /// Returns what the caller can do about the refusal.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoSuchJob { .. } => "check the name and the folders that jobs are read from",
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
                "accept the changed definition if its checkpoints still make sense, or start a new \
                 instance"
            }
            Self::NotRunning { .. } => "nothing is to be done",
            Self::NotAbandonable { .. } => {
                "stop it first; a completed execution need not be abandoned"
            }
            Self::NotMostRecent { .. } => "restart the newest execution of the instance",
            Self::LeaseAlive { .. } => "stop it, or wait until its lease has expired",
            Self::WrongOwner { .. } => "send the token that it was opened with",
            Self::RequestRepeated { .. } => {
                "look at that execution, or use a new key for a new request"
            }
            Self::KeyReused { .. } => "use a new key for every new request",
            Self::NoSequence { .. } => {
                "declare how the next instance differs, or start with parameters"
            }
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
}

impl OperatorError {
    /// Returns the stable code that scripts and dashboards may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Repository(RepositoryError::LeaseLost { .. }) => "stale_lease",
            Self::Repository(_) => "store_unavailable",
        }
    }
}
