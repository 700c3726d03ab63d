//! What can go wrong, where it went wrong, and how it is told.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::execution::{ExecutionId, ExitStatus};

/// A class of failures, dotted from the general to the special: `data`, `data.parse`.
///
/// Policies name kinds. The longest pattern that is the kind itself or one of its parents wins;
/// of two equally long ones the exclusion wins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorKind(Cow<'static, str>);

impl ErrorKind {
    /// The record itself is wrong.
    pub const DATA: Self = Self(Cow::Borrowed("data"));
    /// The record could not be taken apart.
    pub const PARSE: Self = Self(Cow::Borrowed("data.parse"));
    /// A file, a database or another system failed.
    pub const IO: Self = Self(Cow::Borrowed("io"));
    /// The sink refused the item: a constraint, a duplicate key.
    pub const CONSTRAINT: Self = Self(Cow::Borrowed("data.constraint"));
    /// User code panicked.
    pub const PANIC: Self = Self(Cow::Borrowed("panic"));
    /// Neither retried nor skipped unless a policy names it.
    pub const FATAL: Self = Self(Cow::Borrowed("fatal"));
    /// The record is longer than its bound.
    pub const TOO_LONG: Self = Self(Cow::Borrowed("data.too_long"));
    /// The input is not the one that the checkpoint was made with.
    pub const INPUT_CHANGED: Self = Self(Cow::Borrowed("fatal.input_changed"));
    /// It took longer than it may.
    pub const TIMEOUT: Self = Self(Cow::Borrowed("timeout"));
    /// Anything that was not classified.
    pub const OTHER: Self = Self(Cow::Borrowed("other"));
    /// Whether a sink committed is not known.
    pub(crate) const COMMIT_UNKNOWN: Self = Self(Cow::Borrowed("commit_unknown"));
    /// Two transactions stood in each other's way, and this one was undone.
    pub(crate) const CONTENTION: Self = Self(Cow::Borrowed("sql.contention"));
    /// A wait was cut short because a stop was requested.
    pub(crate) const STOPPED: Self = Self(Cow::Borrowed("stopped"));
    /// The right to carry the execution forward is gone.
    pub(crate) const LEASE_LOST: Self = Self(Cow::Borrowed("stale_lease"));

    /// A kind of your own, e.g. `"data.iban"`.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// The dotted name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether this kind is `pattern` or one of its children.
    pub fn is_a(&self, pattern: &str) -> bool {
        self.0.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an item could not be read, processed or written.
///
/// Made from any error with `?`, or by hand with a kind that policies can name. Like a boxed
/// error it does not implement [`Error`] itself, so that the conversion from every error can exist.
pub struct ItemError(Box<ItemErrorParts>);

struct ItemErrorParts {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    location: Option<String>,
    raw: Option<Vec<u8>>,
}

impl ItemError {
    /// A failure of `kind`; `message` completes "failed to …".
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(ItemErrorParts {
            kind,
            message: message.into(),
            source: None,
            location: None,
            raw: None,
        }))
    }

    /// The record is wrong.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::DATA, message)
    }

    /// The record cannot be taken apart.
    pub fn parse(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::PARSE, message)
    }

    /// Nothing that a retry or a skip would help.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FATAL, message)
    }

    /// A sink found that another execution writes to it now: the step must end at once.
    pub fn lease_lost() -> Self {
        Self::new(ErrorKind::LEASE_LOST, "write on: another execution took the sink over")
    }

    /// The connection to a sink broke while it committed: whether it did is not known. The step ends, nothing is
    /// undone, and the restart looks at what the sink holds.
    pub fn commit_unknown(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::wrap(ErrorKind::COMMIT_UNKNOWN, "learn whether the sink committed", source)
    }

    /// The work was cut short because a stop was requested; the step stops and can be restarted.
    pub fn stopped(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::STOPPED, message)
    }

    /// Whether the work was cut short because a stop was requested.
    pub fn is_stop(&self) -> bool {
        *self.kind() == ErrorKind::STOPPED
    }

    /// `message` about `source`, which stays in the chain.
    pub fn wrap(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        let mut error = Self::new(kind, message);
        error.0.source = Some(source.into());
        error
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Where the record stands in its source: `line 17, byte 2044`.
    #[must_use]
    pub fn at(mut self, location: impl Into<String>) -> Self {
        self.0.location = Some(location.into());
        self
    }

    /// The record as it was found, for the dead letters.
    #[must_use]
    pub fn with_raw(mut self, raw: impl Into<Vec<u8>>) -> Self {
        self.0.raw = Some(raw.into());
        self
    }

    /// What class of failure this is.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Where the record stands in its source, if the reader said so.
    pub fn location(&self) -> Option<&str> {
        self.0.location.as_deref()
    }

    /// The record as it was found, if the reader kept it.
    pub fn raw(&self) -> Option<&[u8]> {
        self.0.raw.as_deref()
    }

    /// From a caught panic's payload: an error of kind `panic`.
    pub fn from_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        Self::new(ErrorKind::PANIC, format!("panicked: {}", panic_message(payload)))
    }
}

/// The text of a caught panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

impl<E: Error + Send + Sync + 'static> From<E> for ItemError {
    fn from(error: E) -> Self {
        let kind = if (&error as &dyn std::any::Any).is::<std::io::Error>() {
            ErrorKind::IO
        } else {
            ErrorKind::OTHER
        };
        let mut made = Self::new(kind, error.to_string());
        made.0.source = error.source().map(|cause| chain(cause).into());
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
            Some(source) => write!(f, ": {}", chain(source.as_ref())),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemError({}: {self})", self.0.kind)
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some say what their cause is by themselves, and where that happened behind it.
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

/// The one line a person reads: `failed to …: cause: cause`.
pub fn report(error: &dyn Error) -> String {
    format!("failed to {}", chain(error))
}

/// The part of a chunk in which something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Phase {
    /// Reading from the source.
    Read,
    /// Turning an input into an output.
    Process,
    /// Handing outputs to the sink.
    Write,
}

impl Phase {
    /// The word used in messages and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Process => "process",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a step execution ended before its work was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// An item failed and the failure was not tolerated.
    #[error("{phase} item {item} of step `{step}`: {source}")]
    Item {
        /// Step that was running.
        step: String,
        /// What was being done.
        phase: Phase,
        /// The item's number in reading order, from 1; for a whole chunk, its first item.
        item: u64,
        /// What the user code reported.
        source: ItemErrorText,
    },
    /// One failure more than the skip policy allows.
    #[error(
        "stay within the skip limit of {limit} in step `{step}`: {phase} item {item}: {source}"
    )]
    SkipLimit {
        /// Step that was running.
        step: String,
        /// Skips allowed.
        limit: u64,
        /// What was being done.
        phase: Phase,
        /// The item's number in reading order, from 1.
        item: u64,
        /// What the user code reported.
        source: ItemErrorText,
    },
    /// Records were read, and every one of them was skipped.
    #[error(
        "complete step `{step}`: all {records} records were skipped; see why (`skips`), mend the input or the job, \
         and run it as a new instance"
    )]
    AllSkipped {
        /// Step that was running.
        step: String,
        /// Records that the instance's step read.
        records: u64,
    },
    /// A reader, processor, writer or dead-letter file could not be made, opened or closed.
    #[error("{action} the {part} of step `{step}`: {source}")]
    Component {
        /// Step that was running.
        step: String,
        /// Reader, processor, writer, dead letters.
        part: &'static str,
        /// Build, open, close, position.
        action: &'static str,
        /// What it reported.
        source: ItemErrorText,
    },
    /// A listener failed.
    #[error("call {call} of step `{step}`: {source}")]
    Listener {
        /// Step that was running.
        step: String,
        /// Which call.
        call: &'static str,
        /// What it reported.
        source: ItemErrorText,
    },
    /// A tasklet or command failed.
    #[error("run step `{step}`: {source}")]
    Tasklet {
        /// Step that was running.
        step: String,
        /// What it reported.
        source: ItemErrorText,
    },
    /// Partitions failed.
    #[error("run {failed} of {count} partitions of step `{step}`; the first, `{first}`: {failure}")]
    Partitions {
        /// The partitioned step.
        step: String,
        /// How many failed.
        failed: usize,
        /// How many there are.
        count: usize,
        /// Key of the first that failed.
        first: String,
        /// Why it did.
        failure: String,
    },
    /// The job that the step runs failed, or may not run.
    #[error("run job `{job}` in step `{step}`: {failure}")]
    Job {
        /// The step.
        step: String,
        /// The job.
        job: String,
        /// Why it failed.
        failure: String,
        /// Its exit status.
        exit: ExitStatus,
    },
    /// The step ran as often as it may for this instance.
    #[error("start step `{step}` again: it ran {limit} times, its start limit")]
    StartLimit {
        /// The step.
        step: String,
        /// Runs allowed for an instance.
        limit: u32,
    },
    /// The repository refused or failed; the checkpoint row decides on restart.
    #[error("commit in step `{step}`")]
    Commit {
        /// Step that was running.
        step: String,
        /// What the repository reported.
        #[source]
        source: RepositoryError,
    },
}

/// An [`ItemError`] as it stands in an error chain.
#[derive(Debug)]
pub struct ItemErrorText(pub ItemError);

impl fmt::Display for ItemErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ItemErrorText {}

impl StepError {
    /// The stable code that scripts and dashboards may rely on.
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
            Self::StartLimit { .. } => "start_limit_exceeded",
            Self::Commit { source, .. } if source.is_lease_lost() => "stale_lease",
            Self::Commit { .. } => "commit_failed",
        }
    }

    /// The exit status that the step ends with.
    pub(crate) fn exit(&self) -> ExitStatus {
        match self {
            Self::Job { exit, .. } => exit.clone(),
            _ => ExitStatus::failed().with_message(self.failure().message),
        }
    }

    /// The failure as it is stored with the execution.
    pub fn failure(&self) -> Failure {
        // `Item`, `SkipLimit` and their like print their source themselves.
        Failure::new(self.code(), report(self))
    }
}

/// Longest failure message that is stored, in bytes.
///
/// Long enough for every chain met so far, short enough that a megabyte of user text never
/// stands in the way of the state update.
const FAILURE_MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// Why an execution failed, as stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// Stable code.
    pub code: String,
    /// The chain of causes, for people.
    pub message: String,
}

impl Failure {
    /// A failure; a message over 8 KiB is cut with a mark.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: bounded(message.into(), FAILURE_MESSAGE_BYTES_MAX) }
    }

    /// With the message that `change` makes of it.
    pub(crate) fn map_message(self, change: impl FnOnce(String) -> String) -> Self {
        Self::new(self.code, change(self.message))
    }
}

/// `text`, cut at a character boundary with a mark when it is longer than `bytes_max`.
///
/// A NUL, which some databases cannot store, becomes U+FFFD.
pub(crate) fn bounded(mut text: String, bytes_max: usize) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{FFFD}");
    }
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" … (cut)");
    }
    text
}

/// Why the repository could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// The store cannot be reached, or the outcome of a commit is unknown: reload before deciding.
    #[error("reach the store: {action}")]
    Unavailable {
        /// What was being done.
        action: String,
        /// What the store reported.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another worker holds the execution now; nothing of this commit was kept.
    #[error("carry execution {execution} forward: its lease went to another worker")]
    LeaseLost {
        /// The execution that was lost.
        execution: ExecutionId,
    },
    /// The database refused the rows of a chunk when they were committed; nothing was kept.
    #[error("commit the chunk")]
    Refused {
        /// What class of failure it is to the chunk's items.
        kind: ErrorKind,
        /// What the database reported.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another writer changed the row first; nothing was kept.
    #[error("update {what}: another writer changed it first")]
    Conflict {
        /// Row that was contended.
        what: String,
    },
    /// The store was written by a newer version of the program.
    #[error("use the store: its schema has version {found}, this program knows {known}")]
    NewerSchema {
        /// Version found.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// What is stored cannot be understood.
    #[error("understand the store: {what}")]
    Corrupt {
        /// What was found where.
        what: String,
    },
}

impl RepositoryError {
    /// `action` failed with `source`.
    pub fn unavailable(
        action: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { action: action.into(), source: source.into() }
    }

    /// Whether the execution belongs to somebody else now.
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
        let error = ItemError::wrap(ErrorKind::PARSE, "read column `n`", cause).at("line 3");
        assert_eq!(error.to_string(), "read column `n` (line 3): invalid digit found in string");
    }

    #[test]
    fn an_endless_message_is_cut_with_a_mark_and_never_inside_a_character() {
        let failure = Failure::new("x", "é".repeat(10_000));
        assert!(failure.message.len() < 9_000);
        assert!(failure.message.ends_with("(cut)"));
    }
}
