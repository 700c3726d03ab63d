//! The errors that can end a verb, with their codes, exit codes and help texts.

use std::io::Write;

use batchwright::error::RepositoryError;
use batchwright::operator::{OperatorError, Refusal, RunError};
use batchwright::progressive::SliceError;
use batchwright_jobfile::{JobFileError, ReplayError};
use batchwright_server::{Refused, ServerError};
use batchwright_store::SqlError;
use serde_json::json;

use crate::args::Format;

pub(crate) const OK: u8 = 0;
pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
pub(crate) const ALREADY_COMPLETE: u8 = 3;
pub(crate) const ALREADY_RUNNING: u8 = 4;
pub(crate) const STOPPED: u8 = 5;
pub(crate) const NOT_RESTARTABLE: u8 = 6;
pub(crate) const STORE: u8 = 7;
pub(crate) const UNAVAILABLE: u8 = 69;
pub(crate) const INTERNAL: u8 = 70;
pub(crate) const STALE_LEASE: u8 = 75;
pub(crate) const CONFIG: u8 = 78;

const STORE_ADVICE: &str =
    "check the store; nothing that was committed is lost, and `recover` closes what was running";

/// Returns what to do about an error of the store.
fn advice_of_store(error: &RepositoryError) -> &'static str {
    let source = match error {
        RepositoryError::NewerSchema { .. } => {
            return "use a newer version of the program with this store; nothing was changed";
        }
        RepositoryError::Unavailable { source, .. } => source.downcast_ref::<SqlError>(),
        _ => None,
    };
    match source {
        Some(error) if error.is_not_a_database() => {
            "name another file with `--store`, or move this one away; it was not changed"
        }
        Some(error) if error.is_locked() => {
            "another process holds a transaction on the store: end it or wait, then repeat the command; nothing that \
             was committed is lost"
        }
        _ => STORE_ADVICE,
    }
}

/// An error that ended a verb.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Slice(#[from] SliceError),
    #[error(transparent)]
    JobFile(#[from] JobFileError),
    /// Corrected records that cannot be replayed.
    #[error(transparent)]
    Replay(ReplayError),
    #[error("{0}")]
    Usage(String),
    /// The command line cannot be parsed; the text names the argument and what exists.
    #[error("{}", of_arguments(.0))]
    Arguments(clap::Error),
    /// A request to the schedule that was refused.
    #[error("the request was refused: {0}")]
    Schedule(Refused),
    #[error(transparent)]
    Config(#[from] batchwright_server::ConfigError),
    #[error(transparent)]
    Server(#[from] batchwright_server::ServerError),
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
}

/// Returns the text of clap without its frame: the prefix and the reference to `--help` are our own.
fn of_arguments(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.trim_end().trim_end_matches("For more information, try '--help'.");
    text.trim_start_matches("error: ").trim_end().to_owned()
}

impl From<ReplayError> for CliError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Operator(error) => Self::Operator(error),
            ReplayError::JobFile(error) => Self::JobFile(error),
            other => Self::Replay(other),
        }
    }
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        Self::Operator(refusal.into())
    }
}

impl From<RepositoryError> for CliError {
    fn from(error: RepositoryError) -> Self {
        Self::Operator(error.into())
    }
}

impl CliError {
    fn code(&self) -> &'static str {
        match self {
            Self::Operator(error) => error.code(),
            Self::Run(error) => error.code(),
            Self::Slice(error) => error.code(),
            Self::JobFile(JobFileError::Folder { .. }) => "jobs_unreadable",
            Self::JobFile(_) => "invalid_definition",
            Self::Schedule(refused) => match refused.code {
                Refused::NOT_FOUND => "no_such_trigger",
                Refused::BUSY => "trigger_busy",
                _ => "usage",
            },
            Self::Config(_) => "invalid_config",
            Self::Server(_) => "server_failed",
            Self::Replay(_) | Self::Usage(_) | Self::Arguments(_) | Self::Output(_) => "usage",
        }
    }

    fn exit_code(&self) -> u8 {
        match self.code() {
            "already_complete" => ALREADY_COMPLETE,
            "already_running" | "lease_alive" => ALREADY_RUNNING,
            "abandoned" | "not_restartable" | "not_most_recent" | "changed_definition" => {
                NOT_RESTARTABLE
            }
            "not_running" => FAILED,
            "stale_lease" => STALE_LEASE,
            "trigger_busy" => ALREADY_RUNNING,
            "store_unavailable" => STORE,
            "invalid_config" => CONFIG,
            "server_failed" => UNAVAILABLE,
            "internal" => INTERNAL,
            _ => USAGE,
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Operator(OperatorError::Refused(refusal)) => refusal.advice(),
            Self::Operator(OperatorError::Repository(error)) => advice_of_store(error),
            Self::Server(ServerError::Store(error)) => advice_of_store(error),
            Self::Run(RunError::Repository { source, .. }) => advice_of_store(source),
            Self::Operator(_) => STORE_ADVICE,
            Self::Run(RunError::NoOutcome { .. }) => {
                "close the execution with `batchwright recover`, and read the log for the cause"
            }
            Self::Run(RunError::LeaseLost { .. }) => {
                "another process runs the execution now; nothing is to be done here"
            }
            Self::Run(_) => "list the executions with `batchwright executions`",
            Self::Slice(_) => {
                "see the execution with `batchwright show`; only progressive executions can be driven"
            }
            Self::JobFile(JobFileError::File { path, .. }) if !path.exists() => {
                "name a job file that exists, or a job by its name"
            }
            Self::JobFile(_) => "correct the job file; nothing was stored",
            Self::Replay(_) => {
                "correct the file, which `batchwright skips EXECUTION --export FILE` writes; nothing was replayed"
            }
            Self::Schedule(refused) => match refused.code {
                Refused::BUSY => "wait until its runner has ended",
                _ => {
                    "list what exists with `batchwright schedule list` and `batchwright rule list`; nothing was changed"
                }
            },
            Self::Config(error) if !error.file.exists() => {
                "name a file that exists with `--config` or BATCHWRIGHT_CONFIG; nothing was changed"
            }
            Self::Config(_) => "correct the file; nothing was changed",
            Self::Server(_) => "the server did not start; correct the cause named above",
            Self::Usage(_) | Self::Arguments(_) => "see `batchwright --help`",
            Self::Output(_) => "check that the output can be written",
        }
    }

    /// Prints the error and returns its exit code.
    pub(crate) fn tell(&self, format: Format) -> u8 {
        // A reader that closes the pipe before the end of the output is not a failure.
        if let Self::Output(error) = self
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            return OK;
        }
        let (code, message) = (self.code(), batchwright::report(self));
        let help = self.advice();
        let shown: Vec<_> = message.lines().map(batchwright::text::shown).collect();
        let shown = shown.join("\n    ");
        let _ = writeln!(std::io::stderr(), "error[{code}]: {shown}\n  help: {help}");
        if format == Format::Json {
            let error = json!({"error": {"code": code, "message": message, "detail": help}});
            let _ = writeln!(std::io::stdout(), "{error}");
        }
        self.exit_code()
    }
}
