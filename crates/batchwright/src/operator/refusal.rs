//! Why the operator did not do what it was asked.

use jiff::Timestamp;

use crate::error::RepositoryError;
use crate::execution::{BatchStatus, ExecutionId, JobExecution};
use crate::parameters::names;

/// A state that stands in the way. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such job is registered.
    #[error("find job `{name}`; there are: {}", names(known.iter().map(String::as_str)))]
    NoSuchJob {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// No such execution is stored.
    #[error("find execution {execution}: there is none with that number")]
    NoSuchExecution {
        /// The number asked for.
        execution: ExecutionId,
    },
    /// The job has no execution yet.
    #[error("find an execution of job `{job}`: it has never been started")]
    NeverStarted {
        /// The job.
        job: String,
    },
    /// The parameters are not what the job accepts.
    #[error("use the parameters: {}", problems.join("; "))]
    InvalidParameters {
        /// One sentence each.
        problems: Vec<String>,
    },
    /// The definition of the job cannot be used.
    #[error("use the definition of job `{job}`: {reason}")]
    InvalidDefinition {
        /// The job.
        job: String,
        /// What is wrong.
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
        /// What it is doing.
        status: BatchStatus,
        /// Who carries it forward.
        owner: Option<String>,
        /// Until when, unless renewed.
        lease_until: Option<Timestamp>,
    },
    /// The instance is done.
    #[error("start the instance: execution {execution} completed it")]
    AlreadyComplete {
        /// The execution that completed it.
        execution: ExecutionId,
    },
    /// The instance was given up.
    #[error("start the instance: execution {execution} was abandoned")]
    Abandoned {
        /// The abandoned execution.
        execution: ExecutionId,
    },
    /// The instance may not be tried again.
    #[error("restart execution {execution}: {reason}")]
    NotRestartable {
        /// The execution.
        execution: ExecutionId,
        /// Why not.
        reason: String,
    },
    /// The job is not what it was when the execution ran.
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
    #[error("restart execution {execution}: execution {newest} is newer")]
    NotMostRecent {
        /// The execution asked for.
        execution: ExecutionId,
        /// The newest of the instance.
        newest: ExecutionId,
    },
    /// The owner still holds its lease.
    #[error("recover execution {execution}: it is not lost{}", owned(owner, *lease_until))]
    LeaseAlive {
        /// The execution.
        execution: ExecutionId,
        /// Who carries it forward.
        owner: Option<String>,
        /// Until when, unless renewed.
        lease_until: Option<Timestamp>,
    },
    /// It belongs to who shows another token.
    #[error("continue execution {execution}: it belongs to somebody else")]
    WrongOwner {
        /// The execution.
        execution: ExecutionId,
    },
    /// The request with that key came before.
    #[error("start by this request again: it started execution {execution}")]
    RequestRepeated {
        /// The execution that it started.
        execution: ExecutionId,
    },
    /// Another request with that key came before.
    #[error("start by this request: another one with its key started execution {execution}")]
    KeyReused {
        /// The execution that the other one started.
        execution: ExecutionId,
    },
    /// The job says nothing of a next instance.
    #[error("find the next instance of job `{job}`: it declares no sequence")]
    NoSequence {
        /// The job.
        job: String,
    },
}

fn owned(owner: &Option<String>, until: Option<Timestamp>) -> String {
    match (owner, until) {
        (Some(owner), Some(until)) => format!(", carried forward by {owner} until {until:.3}"),
        _ => String::from(", nobody carries it forward yet"),
    }
}

impl Refusal {
    /// The refusal of a start beside the running `execution`.
    pub(crate) fn running(execution: &JobExecution) -> Self {
        Self::AlreadyRunning {
            execution: execution.id,
            status: execution.status,
            owner: execution.owner.clone(),
            lease_until: execution.lease_until,
        }
    }

    /// Whether it is the request that is refused, whatever the state of the instance.
    pub(crate) fn is_of_request(&self) -> bool {
        matches!(self, Self::RequestRepeated { .. } | Self::KeyReused { .. })
    }

    /// The stable code that scripts and dashboards may rely on.
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

    /// What somebody who meets it can do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoSuchJob { .. } => "check the name, or the folders that jobs are read from",
            Self::NoSuchExecution { .. } => "list the executions and take a number from there",
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
            Self::NotAbandonable { .. } => "stop it first; a completed one needs no abandoning",
            Self::NotMostRecent { .. } => "restart the newest execution of the instance",
            Self::LeaseAlive { .. } => "stop it, or wait until its lease has expired",
            Self::WrongOwner { .. } => "show the token that it was opened with",
            Self::RequestRepeated { .. } => {
                "look at that execution, or use a new key for a new request"
            }
            Self::KeyReused { .. } => "use a new key for every new request",
            Self::NoSequence { .. } => {
                "declare what the next instance changes, or start with parameters"
            }
        }
    }
}

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The state stands in the way.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl OperatorError {
    /// The stable code that scripts and dashboards may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Repository(RepositoryError::LeaseLost { .. }) => "stale_lease",
            Self::Repository(_) => "store_unavailable",
        }
    }
}
