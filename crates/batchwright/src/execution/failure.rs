//! The stored reason of a failure, and the phase of a chunk in which it occurred.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::bounded;

/// Maximum length of a stored failure message, in bytes.
///
/// Every chain met so far fits, and a megabyte of user text cannot prevent the update of the status.
const FAILURE_MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// The reason why an execution failed, as stored and displayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// Stable code.
    pub code: String,
    /// The chain of causes, for people.
    pub message: String,
}

impl Failure {
    /// Creates a failure; a message longer than 8 KiB is cut and marked.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: bounded(message.into(), FAILURE_MESSAGE_BYTES_MAX) }
    }

    /// Replaces the message with `change(message)`.
    pub(crate) fn map_message(self, change: impl FnOnce(String) -> String) -> Self {
        Self::new(self.code, change(self.message))
    }
}

/// The phase of a chunk in which an error occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Phase {
    /// Reading from the source.
    Read,
    /// Turning an input into an output.
    Process,
    /// Writing outputs to the sink.
    Write,
}

impl Phase {
    /// Returns the word used in messages and records.
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
