//! Policies: which errors are tolerated, and when a chunk is full. Pure.
//!
//! ```
//! use std::time::Duration;
//! use batchwright::clock::SystemClock;
//! use batchwright::item::NoWriter;
//! use batchwright::policy::{Completion, SkipLimitScope, SkipPolicy};
//! use batchwright::retry::{BreakerState, CircuitBreaker};
//! use batchwright::{ChunkStepBuilder, Sequence};
//!
//! let breaker = CircuitBreaker::new(5, Duration::from_secs(30));
//! let step = ChunkStepBuilder::new("load")
//!     .reader(Sequence::to(100))
//!     .writer(NoWriter::new())
//!     // A chunk of 500 items, or of two seconds.
//!     .completion(Completion::items(500).within(Duration::from_secs(2)))
//!     // Ten bad records over all executions of the instance.
//!     .skip(SkipPolicy::limit(10).scope(SkipLimitScope::Instance))
//!     .breaker(breaker.clone())
//!     .build();
//! assert_eq!(breaker.state(&SystemClock::default()), BreakerState::Closed);
//! ```

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ErrorKind, ItemError};
use crate::execution::Phase;

/// A classifier of error kinds: decides whether a policy applies to a kind.
///
/// The longest pattern that matches the kind decides; of two equally long ones the exclusion wins. `fatal`,
/// `panic` and the engine's own kinds are excluded unless a pattern names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classifier {
    rules: Vec<(String, bool)>,
    otherwise: bool,
    when: Option<Condition>,
}

/// A function of the user that looks at errors. Two are equal if they are the same one.
#[derive(Clone)]
struct Condition(Arc<dyn Fn(&ItemError) -> bool + Send + Sync>);

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a function")
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Condition {}

impl Classifier {
    /// Matches every kind except `fatal` and `panic`.
    pub fn all() -> Self {
        Self {
            rules: vec![
                (ErrorKind::FATAL.name().to_owned(), false),
                (ErrorKind::PANIC.name().to_owned(), false),
            ],
            otherwise: true,
            when: None,
        }
    }

    /// Matches the kind `data` and its children: errors caused by the record itself. A service that is down,
    /// a full disk, a locked database and an error without a kind do not match; skipping records would not
    /// help against them.
    pub fn records() -> Self {
        Self::none().including(ErrorKind::DATA.name())
    }

    /// Matches no kind, until one is included.
    pub fn none() -> Self {
        Self { rules: Vec::new(), otherwise: false, when: None }
    }

    /// Includes `kind` and its children.
    #[must_use]
    pub fn including(mut self, kind: impl Into<String>) -> Self {
        let kind = kind.into();
        self.rules.retain(|(pattern, _)| *pattern != kind);
        self.rules.push((kind, true));
        self
    }

    /// Excludes `kind` and its children.
    #[must_use]
    pub fn excluding(mut self, kind: impl Into<String>) -> Self {
        self.rules.push((kind.into(), false));
        self
    }

    /// Restricts the errors of matching kinds to those for which `condition` returns true, such as one whose message
    /// names a code.
    ///
    /// ```
    /// use batchwright::policy::{Classifier, SkipPolicy};
    ///
    /// let skip = SkipPolicy::limit(10)
    ///     .on(Classifier::all().when(|error| error.to_string().contains("E-17")));
    /// ```
    #[must_use]
    pub fn when(mut self, condition: impl Fn(&ItemError) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Condition(Arc::new(condition)));
        self
    }

    /// Whether the policy applies to `error`: to its kind, and by the condition, if there is one.
    pub fn matches_error(&self, error: &ItemError) -> bool {
        self.matches(error.kind()) && self.when.as_ref().is_none_or(|when| (when.0)(error))
    }

    /// Whether the policy applies to errors of `kind`, apart from a condition.
    pub fn matches(&self, kind: &ErrorKind) -> bool {
        let internal = [&ErrorKind::STOPPED, &ErrorKind::LEASE_LOST, &ErrorKind::COMMIT_UNKNOWN];
        if internal.contains(&kind) {
            return false;
        }
        self.rules
            .iter()
            .filter(|(pattern, _)| kind.is_a(pattern))
            .max_by_key(|(pattern, included)| (pattern.len(), !included))
            .map_or(self.otherwise, |(_, included)| *included)
    }
}

/// The executions whose skips count against the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SkipLimitScope {
    /// Each execution has the whole limit.
    #[default]
    Execution,
    /// All executions of the instance share the limit.
    Instance,
}

/// The records that a step may skip: one limit for read, process and write together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkipPolicy {
    /// Number of records that may be skipped; the next failure fails the step.
    pub limit: u64,
    /// Further limits for kinds of error and their children, within `limit`.
    pub limits: Vec<(String, u64)>,
    /// Kinds of error that may be skipped.
    pub on: Classifier,
    /// Phases in which records may be skipped.
    pub phases: Vec<Phase>,
    /// Executions whose skips count against the limit.
    pub scope: SkipLimitScope,
    /// Number of consecutive read skips after which the reader counts as broken.
    pub consecutive_reads_max: u64,
}

impl SkipPolicy {
    /// Default maximum of consecutive unreadable records; more of them indicate a broken reader instead of
    /// bad data.
    pub const CONSECUTIVE_READS_MAX: u64 = 10_000;

    /// Tolerates up to `limit` failures of every phase, of the kinds of [`Classifier::records`].
    pub fn limit(limit: u64) -> Self {
        Self {
            limit,
            limits: Vec::new(),
            on: Classifier::records(),
            phases: vec![Phase::Read, Phase::Process, Phase::Write],
            scope: SkipLimitScope::default(),
            consecutive_reads_max: Self::CONSECUTIVE_READS_MAX,
        }
    }

    /// Tolerates no failure.
    pub fn never() -> Self {
        Self { on: Classifier::none(), ..Self::limit(0) }
    }

    /// Sets the kinds that may be skipped.
    #[must_use]
    pub fn on(mut self, kinds: Classifier) -> Self {
        self.on = kinds;
        self
    }

    /// Also limits the skips of the kind `kind` and its children, which must be among those that may be skipped.
    ///
    /// ```
    /// use batchwright::policy::SkipPolicy;
    ///
    /// // A hundred bad records, of which at most five violate a constraint.
    /// let skip = SkipPolicy::limit(100).limit_of("data.constraint", 5);
    /// ```
    #[must_use]
    pub fn limit_of(mut self, kind: impl Into<String>, limit: u64) -> Self {
        self.limits.push((kind.into(), limit));
        self
    }

    /// Sets the phases in which records may be skipped.
    #[must_use]
    pub fn in_phases(mut self, phases: impl Into<Vec<Phase>>) -> Self {
        self.phases = phases.into();
        self
    }

    /// Sets the executions whose skips count against the limit.
    #[must_use]
    pub fn scope(mut self, scope: SkipLimitScope) -> Self {
        self.scope = scope;
        self
    }

    /// Whether a failure of this kind may be skipped, regardless of the limit.
    pub fn tolerates(&self, phase: Phase, error: &ItemError) -> bool {
        self.phases.contains(&phase) && self.on.matches_error(error)
    }
}

/// The condition under which a chunk is full. Ending a chunk never ends the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Maximum number of items in a chunk.
    pub items: NonZeroUsize,
    /// Time since the chunk's first item after which the chunk ends early.
    pub within: Option<Duration>,
}

impl Completion {
    /// Default number of items in a chunk: large enough that a durable commit is cheap compared with the
    /// work, small enough that little is lost.
    pub const ITEMS_DEFAULT: usize = 1_000;

    /// Ends a chunk after `items` items; zero counts as one.
    pub fn items(items: usize) -> Self {
        Self { items: NonZeroUsize::new(items).unwrap_or(NonZeroUsize::MIN), within: None }
    }

    /// Also ends a chunk once `time` has passed since its first item.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }
}

impl Default for Completion {
    fn default() -> Self {
        Self::items(Self::ITEMS_DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_decides_and_an_exclusion_beats_its_equal() {
        let some = Classifier::all().excluding("data").including("data.parse");
        assert!(some.matches(&ErrorKind::PARSE));
        assert!(!some.matches(&ErrorKind::DATA));
        assert!(some.matches(&ErrorKind::IO));
        let both = Classifier::none().including("io").excluding("io");
        assert!(!both.matches(&ErrorKind::IO));
    }

    #[test]
    fn a_condition_restricts_the_kinds_and_widens_none() {
        let some = Classifier::records().when(|error| error.to_string().contains("17"));
        assert!(some.matches_error(&ItemError::data("code 17")));
        assert!(!some.matches_error(&ItemError::data("code 18")));
        assert!(!some.matches_error(&ItemError::fatal("code 17")));
        assert_eq!(some, some.clone());
        assert_ne!(some, Classifier::records());
        let retried = crate::retry::RetryPolicy::attempts(3).on(some);
        assert!(retried.next(1, Duration::ZERO, &ItemError::data("code 17")).is_some());
        assert!(retried.next(1, Duration::ZERO, &ItemError::data("code 18")).is_none());
    }

    #[test]
    fn fatal_errors_and_panics_are_tolerated_only_by_name() {
        assert!(!Classifier::all().matches(&ErrorKind::FATAL));
        assert!(!Classifier::all().matches(&ErrorKind::PANIC));
        assert!(Classifier::all().including("panic").matches(&ErrorKind::PANIC));
    }

    #[test]
    fn trouble_of_the_world_gives_up_no_record_unless_it_is_named() {
        assert!(!SkipPolicy::limit(9).on.matches(&ErrorKind::IO));
        assert!(!SkipPolicy::limit(9).on.matches(&ErrorKind::new("sql")));
        assert!(SkipPolicy::limit(9).on.matches(&ErrorKind::CONSTRAINT));
    }
}
