//! A circuit breaker: pauses calls to a system that fails repeatedly.
//!
//! After Michael Nygard, "Release It!": closed, open, half open.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{ErrorKind, ItemError};
use crate::policy::Classifier;

/// A circuit breaker: allows calls until too many fail in a row, then refuses them for a while, then allows
/// one trial call. Clones share the state.
///
/// ```
/// use std::time::Duration;
/// use batchwright::clock::SystemClock;
/// use batchwright::retry::CircuitBreaker;
/// use batchwright::ItemError;
///
/// let clock = SystemClock::default();
/// let breaker = CircuitBreaker::new(2, Duration::from_secs(60));
/// for _ in 0..2 {
///     let _ = breaker.call(&clock, || Err::<(), _>(ItemError::data("down")));
/// }
/// let refused = breaker.call(&clock, || Ok(())).unwrap_err();
/// assert_eq!(refused.kind().name(), "circuit.open");
/// ```
#[derive(Debug, Clone)]
pub struct CircuitBreaker {
    failures_max: u32,
    reset_after: Duration,
    on: Classifier,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Failures since the last success.
    failures: u32,
    /// Time at which the breaker opened, on the clock of the callers.
    opened: Option<Duration>,
    /// Whether a trial call is running.
    trying: bool,
}

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are allowed.
    Closed,
    /// Calls are refused.
    Open,
    /// One trial call is allowed; its outcome decides.
    HalfOpen,
}

impl CircuitBreaker {
    /// Creates a breaker that opens after `failures_max` failures in a row (zero counts as one), and allows a
    /// trial call `reset_after` later.
    pub fn new(failures_max: u32, reset_after: Duration) -> Self {
        let on = Classifier::all();
        Self { failures_max: failures_max.max(1), reset_after, on, inner: Arc::default() }
    }

    /// Sets the failures that count, besides panics; any other failure is an answer of the system, as a success is. Default:
    /// every kind except `fatal`. In a step, exclude `data`: a bad record does not mean that the system is down.
    #[must_use]
    pub fn on(mut self, failures: Classifier) -> Self {
        self.on = failures;
        self
    }

    /// Returns the current state.
    pub fn state(&self, clock: &dyn Clock) -> BreakerState {
        self.state_at(&self.lock(), clock.elapsed())
    }

    fn state_at(&self, inner: &Inner, now: Duration) -> BreakerState {
        match inner.opened {
            None => BreakerState::Closed,
            Some(_) if inner.trying => BreakerState::Open,
            Some(since) if now.saturating_sub(since) >= self.reset_after => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        }
    }

    /// Calls `work`, unless the breaker is open.
    ///
    /// # Errors
    ///
    /// The error of `work`; or an error of kind `circuit.open`, when `work` was not called.
    pub fn call<T>(
        &self,
        clock: &dyn Clock,
        work: impl FnOnce() -> Result<T, ItemError>,
    ) -> Result<T, ItemError> {
        self.admit(clock)?;
        let attempt = Attempt { breaker: self, clock };
        let result = work();
        std::mem::forget(attempt);
        self.record(&result, clock);
        result
    }

    /// Calls `work`, which makes several calls at once, unless the breaker is open. The result of each counts.
    pub(crate) fn call_all<T>(
        &self,
        clock: &dyn Clock,
        work: impl FnOnce() -> Vec<Result<T, ItemError>>,
    ) -> Result<Vec<Result<T, ItemError>>, ItemError> {
        self.admit(clock)?;
        let attempt = Attempt { breaker: self, clock };
        let results = work();
        std::mem::forget(attempt);
        results.iter().for_each(|result| self.record(result, clock));
        Ok(results)
    }

    /// Allows a call, unless the breaker is open. The result of the call must be recorded.
    fn admit(&self, clock: &dyn Clock) -> Result<(), ItemError> {
        let mut inner = self.lock();
        match self.state_at(&inner, clock.elapsed()) {
            BreakerState::Closed => Ok(()),
            BreakerState::HalfOpen => {
                inner.trying = true;
                Ok(())
            }
            BreakerState::Open => {
                let failures = inner.failures;
                let what = format!("the circuit is open after {failures} failures in a row");
                Err(ItemError::new(ErrorKind::new("circuit.open"), what))
            }
        }
    }

    /// Records the result of an admitted call.
    fn record<T>(&self, result: &Result<T, ItemError>, clock: &dyn Clock) {
        let Err(error) = result else { return self.count(true, clock.elapsed()) };
        match error.is_stop() {
            // The call was cut short, so it has no answer.
            true => self.lock().trying = false,
            false => {
                let failed = *error.kind() == ErrorKind::PANIC || self.on.matches_error(error);
                self.count(!failed, clock.elapsed());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, succeeded: bool, now: Duration) {
        let mut inner = self.lock();
        inner.trying = false;
        if succeeded {
            *inner = Inner::default();
            return;
        }
        inner.failures = inner.failures.saturating_add(1);
        if inner.opened.is_some() || inner.failures >= self.failures_max {
            inner.opened = Some(now);
        }
    }
}

/// A running call; unwinding counts as a failure.
struct Attempt<'a> {
    breaker: &'a CircuitBreaker,
    clock: &'a dyn Clock,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.breaker.count(false, self.clock.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SimClock;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_call_decides_whether_it_closes() {
        let clock = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        let breaker = CircuitBreaker::new(2, Duration::from_secs(10));
        let fail = || breaker.call(&clock, || Err::<(), _>(ItemError::data("down"))).unwrap_err();
        let succeed = || breaker.call(&clock, || Ok(()));
        fail();
        succeed().unwrap();
        fail();
        assert_eq!(breaker.state(&clock), BreakerState::Closed, "a success in between");
        fail();
        assert_eq!(breaker.state(&clock), BreakerState::Open);
        assert_eq!(succeed().unwrap_err().kind().name(), "circuit.open");
        clock.advance(Duration::from_secs(10));
        assert_eq!(breaker.state(&clock), BreakerState::HalfOpen);
        assert_eq!(fail().kind().name(), "data", "one call was let through");
        assert_eq!(breaker.state(&clock), BreakerState::Open, "and failed");
        clock.advance(Duration::from_secs(10));
        succeed().unwrap();
        assert_eq!(breaker.state(&clock), BreakerState::Closed);
    }

    #[test]
    fn while_one_call_tries_the_others_are_refused_and_a_panic_is_a_failure() {
        let clock = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        let breaker = CircuitBreaker::new(1, Duration::from_secs(10));
        let _ = breaker.call(&clock, || Err::<(), _>(ItemError::data("down")));
        clock.advance(Duration::from_secs(10));
        let tried = breaker.call(&clock, || {
            assert_eq!(breaker.state(&clock), BreakerState::Open);
            assert!(breaker.call(&clock, || Ok(())).is_err());
            Ok(())
        });
        tried.unwrap();
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            breaker.call(&clock, || -> Result<(), ItemError> { panic!("bad") })
        }));
        assert!(unwound.is_err());
        assert_eq!(breaker.state(&clock), BreakerState::Open);
    }
}
