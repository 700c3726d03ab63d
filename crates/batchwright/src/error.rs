//! Errors: their kinds, their causes and locations, and their texts.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::execution::{ExecutionId, ExitStatus, Failure, Phase};

/// A class of failures, dotted from the general to the special: `data`, `data.parse`.
///
/// Policies name kinds. The longest pattern that equals the kind or one of its parents decides; of two
/// equally long patterns the exclusion wins.
/// ```
/// use batchwright::ItemError;
/// use batchwright::error::{ErrorKind, RepositoryError, StepError};
/// use batchwright::policy::Classifier;
///
/// // A kind of your own is below one of the usual ones, so that policies for `data` cover it.
/// let kind = ErrorKind::new("data.iban");
/// let error = ItemError::new(kind.clone(), "the checksum is wrong").at("line 7");
/// assert!(Classifier::records().matches_error(&error) && kind.is_a("data"));
///
/// // What the engine reports.
/// fn code(error: &StepError) -> &'static str {
///     match error {
///         StepError::Commit { source: RepositoryError::LeaseLost { .. }, .. } => "taken over",
///         other => other.code(),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorKind(Cow<'static, str>);

impl ErrorKind {
    /// The record is invalid.
    pub const DATA: Self = Self(Cow::Borrowed("data"));
    /// The record cannot be parsed.
    pub const PARSE: Self = Self(Cow::Borrowed("data.parse"));
    /// A file, a database or another system failed.
    pub const IO: Self = Self(Cow::Borrowed("io"));
    /// The sink refused the item: a constraint, a duplicate key.
    pub const CONSTRAINT: Self = Self(Cow::Borrowed("data.constraint"));
    /// User code panicked.
    pub const PANIC: Self = Self(Cow::Borrowed("panic"));
    /// Neither retried nor skipped unless a policy names it.
    pub const FATAL: Self = Self(Cow::Borrowed("fatal"));
    /// The record exceeds its length limit.
    pub const TOO_LONG: Self = Self(Cow::Borrowed("data.too_long"));
    /// The input is not the file that the checkpoint was made with.
    pub const INPUT_CHANGED: Self = Self(Cow::Borrowed("fatal.input_changed"));
    /// The work exceeded its time limit.
    pub const TIMEOUT: Self = Self(Cow::Borrowed("timeout"));
    /// An error without a classification.
    pub const OTHER: Self = Self(Cow::Borrowed("other"));
    /// The outcome of a sink's commit is unknown.
    pub(crate) const COMMIT_UNKNOWN: Self = Self(Cow::Borrowed("commit_unknown"));
    /// The transaction was rolled back because of a conflict with another one.
    pub(crate) const CONTENTION: Self = Self(Cow::Borrowed("sql.contention"));
    /// A stop request cut a wait short.
    pub(crate) const STOPPED: Self = Self(Cow::Borrowed("stopped"));
    /// The execution lost its lease to another worker.
    pub(crate) const LEASE_LOST: Self = Self(Cow::Borrowed("stale_lease"));

    /// Creates a kind of your own, e.g. `"data.iban"`.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// Returns the dotted name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether this kind is `pattern` or a child of `pattern`.
    pub fn is_a(&self, pattern: &str) -> bool {
        self.0.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// The name of the kind.
impl From<ErrorKind> for String {
    fn from(kind: ErrorKind) -> Self {
        kind.0.into_owned()
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error of an item that could not be read, processed or written.
///
/// `?` converts every error, text and boxed error; [`new`](Self::new) creates one of a kind that policies can name.
/// Like the error of the crate `anyhow`, `ItemError` does not implement [`Error`] itself, because the conversion from
/// every error would conflict; [`into_boxed`](Self::into_boxed) returns one that does.
pub struct ItemError(Box<ItemErrorParts>);

struct ItemErrorParts {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    location: Option<String>,
    raw: Option<Vec<u8>>,
}

impl ItemError {
    /// Creates an error of `kind`; `message` is a sentence that can stand alone, such as "cannot read column `n`".
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(ItemErrorParts {
            kind,
            message: message.into(),
            source: None,
            location: None,
            raw: None,
        }))
    }

    /// Creates an error of an invalid record.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::DATA, message)
    }

    /// Creates an error of a record that cannot be parsed.
    pub fn parse(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PARSE, message)
    }

    /// Creates an error that no retry and no skip can resolve.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FATAL, message)
    }

    /// Creates the error of a sink that another execution writes to now; the step ends at once.
    pub fn lease_lost() -> Self {
        Self::new(
            ErrorKind::LEASE_LOST,
            "cannot write to the sink: another execution has taken it over",
        )
    }

    /// Creates the error of a connection that broke while the sink committed, so that the outcome is unknown.
    /// The step ends without a rollback, and the restart reads the sink's last commit.
    pub fn commit_unknown(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::wrap(ErrorKind::COMMIT_UNKNOWN, "it is unknown whether the sink committed", source)
    }

    /// Creates the error of work that a stop request cut short; the step stops and can be restarted.
    pub fn stopped(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::STOPPED, message)
    }

    /// Whether a stop request cut the work short.
    pub fn is_stop(&self) -> bool {
        *self.kind() == ErrorKind::STOPPED
    }

    /// Whether nothing was committed: neither is the outcome unknown, nor was the lease lost.
    pub(crate) fn is_definite(&self) -> bool {
        *self.kind() != ErrorKind::COMMIT_UNKNOWN && *self.kind() != ErrorKind::LEASE_LOST
    }

    /// Creates an error with `message` and the cause `source`.
    pub fn wrap(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        let mut error = Self::new(kind, message);
        error.0.source = Some(source.into());
        error
    }

    /// Replaces the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Sets the record's location in its source: `line 17, byte 2044`.
    #[must_use]
    pub fn at(mut self, location: impl Into<String>) -> Self {
        self.0.location = Some(location.into());
        self
    }

    /// Sets the raw bytes of the record, for the dead-letter file.
    #[must_use]
    pub fn with_raw(mut self, raw: impl Into<Vec<u8>>) -> Self {
        self.0.raw = Some(raw.into());
        self
    }

    /// Returns the error for code whose errors implement [`Error`], such as a unit test of a reader.
    pub fn into_boxed(self) -> Box<dyn Error + Send + Sync> {
        Box::new(ItemErrorText(self))
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Returns the record's location in its source, if the reader set one.
    pub fn location(&self) -> Option<&str> {
        self.0.location.as_deref()
    }

    /// Returns the raw bytes of the record, if the reader kept them.
    pub fn raw(&self) -> Option<&[u8]> {
        self.0.raw.as_deref()
    }

    /// Creates an error of kind `panic` from the payload of a caught panic.
    pub fn from_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        Self::new(ErrorKind::PANIC, format!("panicked: {}", panic_message(payload)))
    }
}

/// Returns the text of a caught panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

/// Converts every error, every text, and every boxed error. An I/O error has the kind `io`, every other one the kind
/// `other`; so has an error of the crate `anyhow`, whatever caused it.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for ItemError {
    fn from(error: E) -> Self {
        let error = match error.into().downcast::<ItemErrorText>() {
            Ok(boxed) => return boxed.0,
            Err(error) => error,
        };
        let kind = match error.is::<std::io::Error>() {
            true => ErrorKind::IO,
            false => ErrorKind::OTHER,
        };
        let mut made = Self::new(kind, error.to_string());
        made.0.source = error.source().map(|cause| report(cause).into());
        made
    }
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(location) = &self.0.location {
            write!(f, " ({location})")?;
        }
        match &self.0.source {
            Some(source) => write!(f, ": {}", report(source.as_ref())),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemError({}: {self})", self.0.kind)
    }
}

/// Joins an error and its causes on one line: `cannot …: cause: cause`.
///
/// ```
/// use batchwright::error::report;
/// use batchwright::{JobOperator, JobParameters, MemoryRepository};
///
/// let operator = JobOperator::new(std::sync::Arc::new(MemoryRepository::new()));
/// let refused = operator.run("import", JobParameters::new()).unwrap_err();
/// assert!(report(&refused).contains("import"));
/// ```
pub fn report(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some errors already contain the text of their cause, sometimes followed by its location.
        if !line.ends_with(&text)
            && !line.starts_with(&text)
            && !line.contains(&format!(": {text}"))
        {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}

/// The error that ends a step execution before its work is done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// An item failed and the failure was not tolerated.
    #[error("step `{step}` failed at {} ({phase}): {source}", items(*item, *last))]
    Item {
        /// Step that was running.
        step: String,
        /// Phase of the failure.
        phase: Phase,
        /// The item's number in reading order, from 1; for a whole chunk, its first item.
        item: u64,
        /// Equal to `item`; for a whole chunk, its last item.
        last: u64,
        /// Error of the user code.
        source: ItemErrorText,
    },
    /// The failures exceed the skip limit.
    #[error(
        "step `{step}` exceeded its skip limit of {limit}{} at item {item} ({phase}): {source}",
        of_kind(kind.as_deref())
    )]
    SkipLimit {
        /// Step that was running.
        step: String,
        /// Skips allowed.
        limit: u64,
        /// The kind to which the limit applies; `None` for all.
        kind: Option<String>,
        /// Phase of the failure.
        phase: Phase,
        /// The item's number in reading order, from 1.
        item: u64,
        /// Error of the user code.
        source: ItemErrorText,
    },
    /// Every record that was read was skipped.
    #[error(
        "all {records} records of step `{step}` were skipped; see the reasons with `skips`, correct the input or \
         the job, and start a new instance"
    )]
    AllSkipped {
        /// Step that was running.
        step: String,
        /// Records that the step read, over all executions of the instance.
        records: u64,
    },
    /// A reader, processor, writer or dead-letter file could not be built, opened or closed.
    #[error("step `{step}` failed to {action} its {part}: {source}")]
    Component {
        /// Step that was running.
        step: String,
        /// What failed: the reader, processor, writer, dead-letter file, partitions or parameters.
        part: &'static str,
        /// Operation that failed, as a verb: `create`, `open`, `restore`, `roll back`, `close`, `aggregate`, `evaluate`.
        action: &'static str,
        /// Error of the component.
        source: ItemErrorText,
    },
    /// A listener failed.
    #[error("a listener of step `{step}` failed in `{call}`: {source}")]
    Listener {
        /// Step that was running.
        step: String,
        /// Name of the call.
        call: &'static str,
        /// Error of the listener.
        source: ItemErrorText,
    },
    /// A tasklet or command failed.
    #[error("step `{step}` failed: {source}")]
    Tasklet {
        /// Step that was running.
        step: String,
        /// Error of the tasklet or command.
        source: ItemErrorText,
    },
    /// Partitions failed.
    #[error(
        "{failed} of {count} partitions of step `{step}` failed; the first, `{first}`: {failure}"
    )]
    Partitions {
        /// The partitioned step.
        step: String,
        /// Number of partitions that failed.
        failed: usize,
        /// Number of all partitions.
        count: usize,
        /// Key of the first partition that failed.
        first: String,
        /// Failure of that partition.
        failure: String,
    },
    /// The job that the step runs failed or was refused.
    #[error("job `{job}` of step `{step}` failed: {failure}")]
    Job {
        /// The step.
        step: String,
        /// The job.
        job: String,
        /// Failure of the job.
        failure: String,
        /// Exit status of the job.
        exit: ExitStatus,
    },
    /// The step took longer than its timeout.
    #[error("step `{step}` timed out after {timeout:?}")]
    Timeout {
        /// The step.
        step: String,
        /// Its timeout.
        timeout: std::time::Duration,
    },
    /// The step reached its start limit for this instance.
    #[error("step `{step}` cannot start again: its start limit of {limit} is reached")]
    StartLimit {
        /// The step.
        step: String,
        /// Executions of the step allowed for an instance.
        limit: u32,
    },
    /// The repository refused the commit or failed; on restart the stored checkpoint decides.
    #[error("step `{step}` failed to commit")]
    Commit {
        /// Step that was running.
        step: String,
        /// Error of the repository.
        #[source]
        source: RepositoryError,
    },
}

/// Returns the kind of a limit, for a message.
fn of_kind(kind: Option<&str>) -> String {
    kind.map_or_else(String::new, |kind| format!(" for `{kind}`"))
}

fn items(first: u64, last: u64) -> String {
    match first == last {
        true => format!("item {first}"),
        false => format!("items {first} to {last}"),
    }
}

/// An [`ItemError`] as a link of an error chain.
#[derive(Debug)]
#[doc(hidden)]
pub struct ItemErrorText(pub ItemError);

impl fmt::Display for ItemErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ItemErrorText {}

impl StepError {
    /// Returns the stable code, for scripts and dashboards.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Item { phase: Phase::Read, .. } => "read_failed",
            Self::Item { phase: Phase::Process, .. } => "process_failed",
            Self::Item { phase: Phase::Write, .. } => "write_failed",
            Self::SkipLimit { .. } => "skip_limit_exceeded",
            Self::AllSkipped { .. } => "all_skipped",
            Self::Component { source, .. } if *source.0.kind() == ErrorKind::INPUT_CHANGED => {
                "input_changed"
            }
            Self::Component { .. } => "component_failed",
            Self::Listener { .. } => "listener_failed",
            Self::Tasklet { .. } => "tasklet_failed",
            Self::Partitions { .. } => "partition_failed",
            Self::Job { .. } => "job_failed",
            Self::Timeout { .. } => "timeout",
            Self::StartLimit { .. } => "start_limit_exceeded",
            Self::Commit { source, .. } if source.is_lease_lost() => "stale_lease",
            Self::Commit { .. } => "commit_failed",
        }
    }

    /// Returns the exit status of the failed step.
    pub(crate) fn exit(&self) -> ExitStatus {
        match self {
            Self::Job { exit, .. } => exit.clone(),
            _ => ExitStatus::failed().with_message(self.failure().message),
        }
    }

    /// Returns the error that a retry policy decides about; `None` when another attempt cannot help, or nothing more may
    /// be written.
    pub(crate) fn for_retry(&self) -> Option<ItemError> {
        let kind = match self {
            Self::Item { source, .. }
            | Self::Component { source, .. }
            | Self::Listener { source, .. }
            | Self::Tasklet { source, .. } => source.0.kind().clone(),
            Self::Partitions { .. } | Self::Job { .. } | Self::Timeout { .. } => {
                ErrorKind::new(self.code())
            }
            Self::SkipLimit { .. }
            | Self::AllSkipped { .. }
            | Self::StartLimit { .. }
            | Self::Commit { .. } => return None,
        };
        Some(ItemError::new(kind, report(self)))
    }

    /// Returns the failure that is stored with the execution.
    pub fn failure(&self) -> Failure {
        // `Item`, `SkipLimit` and similar variants print their source themselves.
        Failure::new(self.code(), report(self))
    }
}

/// The error of a repository operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// The store is not reachable, or the outcome of a commit is unknown: reload before deciding.
    #[error("the store is unavailable: cannot {action}")]
    Unavailable {
        /// Operation that failed, as a verb: `commit`, `open the store`.
        action: String,
        /// Error of the store.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another worker holds the execution's lease; nothing of this commit was stored.
    #[error("another process holds the lease of execution {execution} now")]
    LeaseLost {
        /// The execution whose lease was lost.
        execution: ExecutionId,
    },
    /// The database refused the rows of a chunk at commit; nothing was stored.
    #[error("the store refused to commit the chunk")]
    Refused {
        /// Kind of the failure, for the policies of the chunk's items.
        kind: ErrorKind,
        /// Error of the database.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another writer changed the row first; nothing was stored.
    #[error("another writer changed {what} first")]
    Conflict {
        /// The contended row.
        what: String,
    },
    /// The store was written by a newer version of the program.
    #[error(
        "the store is newer than this program: its schema has version {found}, this program supports up to {known}"
    )]
    NewerSchema {
        /// Schema version of the store.
        found: i64,
        /// Newest schema version that this program supports.
        known: i64,
    },
    /// The stored data cannot be interpreted.
    #[error("the stored data cannot be interpreted: {what}")]
    Corrupt {
        /// Description of the data and the problem.
        what: String,
    },
}

impl RepositoryError {
    /// Creates an [`Unavailable`](Self::Unavailable) error: `action`, a verb, failed because of `source`.
    pub fn unavailable(
        action: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { action: action.into(), source: source.into() }
    }

    /// Whether another worker holds the execution's lease.
    pub fn is_lease_lost(&self) -> bool {
        matches!(self, Self::LeaseLost { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_belongs_to_its_parents_and_to_nobody_whose_name_merely_begins_alike() {
        assert!(ErrorKind::PARSE.is_a("data"));
        assert!(ErrorKind::PARSE.is_a("data.parse"));
        assert!(!ErrorKind::DATA.is_a("data.parse"));
        assert!(!ErrorKind::new("database").is_a("data"));
    }

    #[test]
    fn an_error_keeps_its_whole_chain_and_its_place() {
        let cause = "x".parse::<u32>().unwrap_err();
        let error = ItemError::wrap(ErrorKind::PARSE, "cannot read column `n`", cause).at("line 3");
        assert_eq!(
            error.to_string(),
            "cannot read column `n` (line 3): invalid digit found in string"
        );
    }

    #[test]
    fn an_endless_message_is_cut_with_a_mark_and_never_inside_a_character() {
        let failure = Failure::new("x", "é".repeat(10_000));
        assert!(failure.message.len() < 9_000);
        assert!(failure.message.ends_with("(cut)"));
    }
}
