//! Exit statuses: the codes that jobs and steps end with, and how they are combined.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::bounded;

/// Longest exit message that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 2_500;

/// The exit code of a job or step, which steers the flow, and a message for people. Not the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExitStatus {
    /// `COMPLETED`, `FAILED`, or a code of the job's own.
    pub code: String,
    /// Explanation, for people.
    pub message: String,
}

impl ExitStatus {
    /// The work is still running.
    pub const EXECUTING: &'static str = "EXECUTING";
    /// The work is done.
    pub const COMPLETED: &'static str = "COMPLETED";
    /// The work is done, and records were skipped. A transition on `COMPLETED` matches it too.
    pub const COMPLETED_WITH_SKIPS: &'static str = "COMPLETED_WITH_SKIPS";
    /// There was nothing to do.
    pub const NOOP: &'static str = "NOOP";
    /// The work ended on request.
    pub const STOPPED: &'static str = "STOPPED";
    /// The work failed.
    pub const FAILED: &'static str = "FAILED";
    /// Read from the store only; the engine never writes it.
    pub const UNKNOWN: &'static str = "UNKNOWN";

    /// Creates an exit status without a message.
    pub fn new(code: impl Into<String>) -> Self {
        Self { code: code.into(), message: String::new() }
    }

    /// Sets the message; a long one is cut and marked.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = bounded(message.into(), MESSAGE_BYTES_MAX);
        self
    }

    /// Returns the exit status of work that is still running.
    pub fn executing() -> Self {
        Self::new(Self::EXECUTING)
    }

    /// Returns the exit status of work that is done.
    pub fn completed() -> Self {
        Self::new(Self::COMPLETED)
    }

    /// Replaces the code `COMPLETED` with `COMPLETED_WITH_SKIPS` when the work `has_skips`. Any other code
    /// stays unchanged.
    #[must_use]
    pub(crate) fn with_skips(self, has_skips: bool) -> Self {
        match self.code == Self::COMPLETED && has_skips {
            true => Self { code: Self::COMPLETED_WITH_SKIPS.to_owned(), ..self },
            false => self,
        }
    }

    /// Replaces the message with `change(message)`.
    #[must_use]
    pub(crate) fn map_message(self, change: impl FnOnce(String) -> String) -> Self {
        Self { message: change(self.message), ..self }
    }

    /// Returns the exit status of work that ended on request.
    pub fn stopped() -> Self {
        Self::new(Self::STOPPED)
    }

    /// Returns the exit status of work that failed.
    pub fn failed() -> Self {
        Self::new(Self::FAILED)
    }

    /// Returns the more severe of two exit statuses; their messages are joined without repetition.
    ///
    /// Severity: `EXECUTING < COMPLETED* < NOOP* < STOPPED* < FAILED* < UNKNOWN* <` custom codes.
    /// Of two equally severe codes the lexicographically greater one wins.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let message = match (self.message.is_empty(), other.message.is_empty()) {
            (_, true) => self.message.clone(),
            (true, false) => other.message.clone(),
            _ if self.message.contains(&other.message) => self.message.clone(),
            _ => format!("{}; {}", self.message, other.message),
        };
        let order = self.severity().cmp(&other.severity()).then(self.code.cmp(&other.code));
        let code = if order == Ordering::Less { other.code } else { self.code };
        Self::new(code).with_message(message)
    }

    fn severity(&self) -> u8 {
        const CLASSES: [&str; 6] = [
            ExitStatus::EXECUTING,
            ExitStatus::COMPLETED,
            ExitStatus::NOOP,
            ExitStatus::STOPPED,
            ExitStatus::FAILED,
            ExitStatus::UNKNOWN,
        ];
        (0u8..)
            .zip(CLASSES)
            .find(|(_, class)| self.code.starts_with(class))
            .map_or(6, |(severity, _)| severity)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(&self.code),
            message => write!(f, "{} ({message})", self.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn and(left: &str, right: &str) -> String {
        ExitStatus::new(left).and(ExitStatus::new(right)).code
    }

    #[test]
    fn the_more_severe_code_survives_in_any_order() {
        let ladder = [
            "EXECUTING",
            "COMPLETED",
            "COMPLETED_WITH_SKIPS",
            "NOOP",
            "STOPPED",
            "FAILED",
            "UNKNOWN",
            "CUSTOM",
        ];
        for (low, less) in ladder.iter().enumerate() {
            for more in &ladder[low..] {
                assert_eq!(and(less, more), *more, "{less} and {more}");
                assert_eq!(and(more, less), *more, "{more} and {less}");
            }
        }
    }

    #[test]
    fn messages_are_joined_once() {
        let a = ExitStatus::failed().with_message("disk full");
        let b = ExitStatus::failed().with_message("no ink");
        let both = a.clone().and(b.clone()).and(b).and(a);
        assert_eq!(both.message, "disk full; no ink");
    }

    #[test]
    fn a_long_message_is_cut_with_a_mark() {
        let exit = ExitStatus::failed().with_message("x".repeat(10_000));
        assert!(exit.message.len() < 2_600 && exit.message.ends_with("(cut)"));
    }
}
