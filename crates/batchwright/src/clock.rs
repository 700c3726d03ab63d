//! The clock of the engine: no other module of this crate reads the time.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A source of time, so that a test can set it.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the wall-clock time, for what is stored and displayed.
    fn now(&self) -> Timestamp;

    /// Returns the time since an arbitrary fixed moment, for durations; the value never decreases.
    fn elapsed(&self) -> Duration;

    /// Waits for `duration`; returns at once when a stop is requested.
    fn wait(&self, duration: Duration, stop: &StopToken);

    /// Waits until [`elapsed`](Self::elapsed) reaches `deadline`; returns at once when a stop is requested. In contrast to
    /// [`wait`](Self::wait), this does not move a simulated clock.
    fn wait_until(&self, deadline: Duration, stop: &StopToken) {
        /// Time between two looks at a clock that other code may move.
        const LOOK: Duration = Duration::from_millis(5);
        while self.elapsed() < deadline && !stop.is_requested() {
            stop.wait(LOOK);
        }
    }
}

/// The machine's clock. All of them in a process have the same origin, so that their times can be compared.
#[derive(Debug, Clone)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the clock that all other code uses")]
    fn default() -> Self {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        Self { origin: *ORIGIN.get_or_init(Instant::now) }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the clock that all other code uses")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    fn wait(&self, duration: Duration, stop: &StopToken) {
        stop.wait(duration);
    }

    fn wait_until(&self, deadline: Duration, stop: &StopToken) {
        stop.wait(deadline.saturating_sub(self.elapsed()));
    }
}

/// A stop request that threads share, poll and wait for.
///
/// Long-running user code (an item, a tasklet) polls [`is_requested`](Self::is_requested) and returns early.
#[derive(Debug, Clone, Default)]
pub struct StopToken {
    inner: Arc<StopState>,
}

#[derive(Debug, Default)]
struct StopState {
    requested: Mutex<bool>,
    changed: Condvar,
    /// The value of `requested`, readable without a lock.
    flag: AtomicBool,
    /// Tokens that receive every request of this one.
    children: Mutex<Vec<Weak<StopState>>>,
}

impl StopState {
    fn request(&self) {
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.flag.store(true, Ordering::Release);
        self.changed.notify_all();
        for child in &*self.children.lock().unwrap_or_else(PoisonError::into_inner) {
            if let Some(child) = child.upgrade() {
                child.request();
            }
        }
    }
}

impl StopToken {
    /// Requests the stop. A second request has no effect.
    pub fn request(&self) {
        self.inner.request();
    }

    /// Creates a token that receives this token's requests; its own requests do not reach this token.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Self::default();
        let mut children = self.inner.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(&child.inner));
        drop(children);
        // A request may have arrived before the child was in the list.
        if self.is_requested() {
            child.request();
        }
        child
    }

    /// Whether a stop was requested.
    pub fn is_requested(&self) -> bool {
        self.inner.flag.load(Ordering::Acquire)
    }

    /// Waits until a stop is requested, for at most `timeout`.
    pub fn wait(&self, timeout: Duration) {
        let requested = self.inner.requested.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.inner.changed.wait_timeout_while(requested, timeout, |requested| !*requested));
    }
}

/// Returns the length of time that `text` writes, such as `90d`, `10m`, `1h 30m` or `250ms`: the form of every option and
/// every file of Batchwright.
///
/// # Errors
///
/// A sentence when `text` is no length of time, is below zero, or contains months or years.
#[doc(hidden)]
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    // A day is 24 hours here, because a time-out has no calendar.
    let span: jiff::Span = text
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; examples: 250ms, 30s, 10m, 12h, 90d"))?;
    let length = span
        .total((jiff::Unit::Second, jiff::SpanRelativeTo::days_are_24_hours()))
        .map_err(|_| format!("`{text}` has months or years; write days"))?;
    Duration::try_from_secs_f64(length).map_err(|_| format!("`{text}` is negative"))
}

/// Returns the time `timeout` after `now`, at most the latest timestamp.
pub(crate) fn later(now: Timestamp, timeout: Duration) -> Timestamp {
    now.saturating_add(timeout).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_stop_ends_every_wait() {
        let clock = SystemClock::default();
        let stop = StopToken::default();
        stop.request();
        clock.wait(Duration::from_secs(3600), &stop);
        assert!(stop.is_requested());
    }

    #[test]
    fn a_child_is_asked_with_its_parent_and_never_the_other_way_round() {
        let parent = StopToken::default();
        let (first, second) = (parent.child(), parent.child());
        first.request();
        assert!(!parent.is_requested() && !second.is_requested());
        parent.request();
        assert!(second.is_requested() && parent.child().is_requested());
    }
}
