//! Retries: which failures, how often, and how far apart. Used by steps, and usable alone.

mod breaker;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub use breaker::{BreakerState, CircuitBreaker};

use crate::clock::{Clock, StopToken, SystemClock};
use crate::error::{ErrorKind, ItemError};
use crate::policy::Classifier;

/// The wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Backoff {
    /// No wait.
    None,
    /// The same wait every time.
    Fixed(Duration),
    /// A growing wait.
    Exponential {
        /// Wait after the first failed attempt.
        initial: Duration,
        /// Factor from one wait to the next; at least 1.
        multiplier: f64,
        /// Longest wait.
        max: Duration,
        /// Whether each wait is a random value between half of it and all of it, so that concurrent attempts
        /// spread.
        jitter: bool,
    },
    /// A random wait, distributed evenly over a range.
    Uniform {
        /// Shortest wait.
        min: Duration,
        /// Longest wait.
        max: Duration,
    },
}

/// The same wait every time.
impl From<Duration> for Backoff {
    fn from(wait: Duration) -> Self {
        Self::Fixed(wait)
    }
}

impl Backoff {
    /// Returns the time to wait after `attempt` failed attempts, counted from one.
    ///
    /// `random` is a value that the caller draws evenly from `0.0..1.0`, so that this function stays pure.
    ///
    /// ```
    /// use batchwright::retry::Backoff;
    /// use std::time::Duration;
    ///
    /// let backoff = Backoff::Exponential {
    ///     initial: Duration::from_millis(100),
    ///     multiplier: 2.0,
    ///     max: Duration::from_secs(1),
    ///     jitter: false,
    /// };
    /// assert_eq!(backoff.delay(1, 0.0), Duration::from_millis(100));
    /// assert_eq!(backoff.delay(3, 0.0), Duration::from_millis(400));
    /// assert_eq!(backoff.delay(30, 0.0), Duration::from_secs(1)); // capped
    /// ```
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        match *self {
            Self::None => Duration::ZERO,
            Self::Fixed(wait) => wait,
            Self::Exponential { initial, multiplier, max, jitter } => {
                let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
                let factor = multiplier.max(1.0).powi(exponent);
                let wait = (initial.as_secs_f64() * factor).min(max.as_secs_f64());
                let share = if jitter { 0.5 + random / 2.0 } else { 1.0 };
                Duration::try_from_secs_f64(wait * share).unwrap_or(max)
            }
            Self::Uniform { min, max } => min + max.saturating_sub(min).mul_f64(random),
        }
    }
}

/// The failures that are retried, how often, and how far apart.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Number of attempts at one item or chunk, including the first.
    pub max_attempts: NonZeroU32,
    /// Kinds of error that are retried.
    pub on: Classifier,
    /// Wait between attempts; a stop cuts it short.
    pub backoff: Backoff,
    /// Time after the first failure after which no further attempt is made.
    pub within: Option<Duration>,
    /// Policies for other failures: the first one that allows another attempt decides.
    pub others: Vec<RetryPolicy>,
}

impl RetryPolicy {
    /// Allows no retry.
    pub fn never() -> Self {
        Self { on: Classifier::none(), ..Self::attempts(1) }
    }

    /// Allows up to `max_attempts` attempts, including the first, for every kind except `fatal` and `panic`, without
    /// waiting. Zero counts as one: the first attempt is always made.
    pub fn attempts(max_attempts: u32) -> Self {
        Self {
            max_attempts: NonZeroU32::new(max_attempts).unwrap_or(NonZeroU32::MIN),
            on: Classifier::all(),
            backoff: Backoff::None,
            within: None,
            others: Vec::new(),
        }
    }

    /// Sets the wait between attempts: a duration, or a [`Backoff`] that grows.
    #[must_use]
    pub fn backoff(mut self, backoff: impl Into<Backoff>) -> Self {
        self.backoff = backoff.into();
        self
    }

    /// Sets the kinds of error that are retried.
    #[must_use]
    pub fn on(mut self, kinds: Classifier) -> Self {
        self.on = kinds;
        self
    }

    /// Allows no further attempt once `time` has passed since the first failure.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// Adds a policy for failures that this policy does not retry: for example, a few attempts for every
    /// error, many for temporary ones.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.others.push(other);
        self
    }

    /// Returns the wait before the next attempt, if the policy allows one after `attempts` failed attempts,
    /// the last with `error` and `elapsed` after the first failure.
    pub fn next(&self, attempts: u32, elapsed: Duration, error: &ItemError) -> Option<&Backoff> {
        let mine = attempts < self.max_attempts.get()
            && self.within.is_none_or(|within| elapsed < within)
            && self.on.matches_error(error);
        if mine {
            return Some(&self.backoff);
        }
        self.others.iter().find_map(|other| other.next(attempts, elapsed, error))
    }
}

/// The failed attempts at one item, chunk or call.
#[derive(Debug, Default)]
pub(crate) struct FailedAttempts {
    pub(crate) count: u32,
    first_at: Option<Duration>,
}

impl FailedAttempts {
    /// Counts one more failed attempt. Returns the wait before the next attempt, if `policy` allows one.
    pub(crate) fn add<'p>(
        &mut self,
        policy: &'p RetryPolicy,
        clock: &dyn Clock,
        error: &ItemError,
    ) -> Option<&'p Backoff> {
        self.count += 1;
        let now = clock.elapsed();
        let elapsed = now.saturating_sub(*self.first_at.get_or_insert(now));
        policy.next(self.count, elapsed, error)
    }
}

/// A retry loop: repeats a call according to its policy.
///
/// ```
/// use std::time::Duration;
/// use batchwright::retry::{Backoff, Retry, RetryPolicy};
/// use batchwright::ItemError;
///
/// let policy = RetryPolicy::attempts(3).backoff(Backoff::Fixed(Duration::from_millis(1)));
/// let answer = Retry::new(policy).call(|attempt| match attempt {
///     1 => Err(ItemError::data("not yet")),
///     _ => Ok(attempt),
/// });
/// assert_eq!(answer.unwrap(), 2);
/// ```
#[derive(Debug, Clone)]
pub struct Retry {
    policy: RetryPolicy,
    breaker: Option<CircuitBreaker>,
    clock: Arc<dyn Clock>,
    stop: StopToken,
}

impl Retry {
    /// Creates a retry loop with `policy`.
    pub fn new(policy: RetryPolicy) -> Self {
        let (clock, stop) = (Arc::new(SystemClock::default()), StopToken::default());
        Self { policy, breaker: None, clock, stop }
    }

    /// Sets a circuit breaker, which every attempt asks for permission and informs of its outcome. All
    /// callers of the same system share one breaker.
    #[must_use]
    pub fn breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Sets the clock. Default: the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the stop token that ends a wait and the retries; in a step pass
    /// the stop token of the step.
    #[must_use]
    pub fn stop(mut self, stop: StopToken) -> Self {
        self.stop = stop;
        self
    }

    /// Calls `work` with the number of the attempt, counted from 1, until a call succeeds.
    ///
    /// # Errors
    ///
    /// The last failure, when the policy allows no further attempt or a stop is requested; an error of kind
    /// `circuit.open` while the breaker is open.
    pub fn call<T>(
        &self,
        mut work: impl FnMut(u32) -> Result<T, ItemError>,
    ) -> Result<T, ItemError> {
        let mut failed = FailedAttempts::default();
        loop {
            let attempt = failed.count + 1;
            let result = match &self.breaker {
                None => work(attempt),
                Some(breaker) => breaker.call(&*self.clock, || work(attempt)),
            };
            let error = match result {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(backoff) = failed.add(&self.policy, &*self.clock, &error) else {
                return Err(error);
            };
            if wait(backoff, attempt, &*self.clock, &self.stop).is_err() {
                return Err(error);
            }
        }
    }
}

/// Waits before the next attempt, after `attempts` failed ones.
///
/// # Errors
///
/// Of kind `stopped` when a stop request cuts the wait short.
pub(crate) fn wait(
    backoff: &Backoff,
    attempts: u32,
    clock: &dyn Clock,
    stop: &StopToken,
) -> Result<(), ItemError> {
    let delay = backoff.delay(attempts, random(clock));
    if delay.is_zero() {
        return Ok(());
    }
    clock.wait(delay, stop);
    match stop.is_requested() {
        false => Ok(()),
        true => {
            let message = "a stop was requested during the wait for the next attempt";
            Err(ItemError::new(ErrorKind::STOPPED, message))
        }
    }
}

/// Returns a number from 0 to 1, derived from the clock: even enough for jitter, and reproducible with a
/// simulated clock.
fn random(clock: &dyn Clock) -> f64 {
    let nanos = clock.elapsed().as_nanos() as u64;
    let mixed = (nanos ^ (nanos >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SimClock;

    fn attempts(count: u32) -> RetryPolicy {
        RetryPolicy::attempts(count)
    }

    fn next(policy: &RetryPolicy, attempts: u32, error: &ItemError) -> bool {
        policy.next(attempts, Duration::ZERO, error).is_some()
    }

    #[test]
    fn max_attempts_includes_the_first() {
        let error = ItemError::data("x");
        assert!(next(&attempts(2), 1, &error));
        assert!(!next(&attempts(2), 2, &error));
        assert!(!next(&RetryPolicy::never(), 1, &error));
    }

    #[test]
    fn fatal_errors_are_never_tried_again_and_trouble_of_the_world_is() {
        assert!(!next(&attempts(9), 1, &ItemError::fatal("x")));
        assert!(next(&attempts(9), 1, &ItemError::new(ErrorKind::IO, "x")));
    }

    #[test]
    fn waits_stay_within_their_bounds() {
        let second = Duration::from_secs(1);
        let jitter = Backoff::Exponential {
            initial: 2 * second,
            multiplier: 1.0,
            max: 2 * second,
            jitter: true,
        };
        assert_eq!((jitter.delay(1, 0.0), jitter.delay(1, 1.0)), (second, 2 * second));
        let uniform = Backoff::Uniform { min: second, max: 3 * second };
        assert_eq!((uniform.delay(7, 0.0), uniform.delay(1, 0.5)), (second, 2 * second));
        assert_eq!(uniform.delay(1, 1.0), 3 * second);
        assert_eq!(Backoff::Fixed(second).delay(40, 0.7), second);
    }

    #[test]
    fn a_composite_asks_each_policy_for_its_own_failures() {
        let io = ItemError::new(ErrorKind::IO, "x");
        let data = ItemError::data("x");
        let both = attempts(2).on(Classifier::none().including("data")).or(attempts(5)
            .on(Classifier::none().including("io"))
            .backoff(Backoff::Fixed(Duration::from_secs(9))));
        assert!(next(&both, 1, &data) && !next(&both, 2, &data));
        assert!(next(&both, 4, &io) && !next(&both, 5, &io));
        let wait = both.next(1, Duration::ZERO, &io).unwrap().delay(1, 0.0);
        assert_eq!(wait, Duration::from_secs(9), "with its own wait");
    }

    #[test]
    fn there_is_no_attempt_once_the_time_is_over() {
        let clock = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        let policy = attempts(1_000)
            .backoff(Backoff::Fixed(Duration::from_secs(10)))
            .within(Duration::from_secs(35));
        let mut calls = 0;
        let failed = Retry::new(policy).clock(clock.clone()).call(|_| {
            calls += 1;
            Err::<(), _>(ItemError::data("never"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "never");
        assert_eq!(calls, 5, "at 0, 10, 20, 30 and 40 seconds; the fifth failure comes too late");
    }

    #[test]
    fn a_stop_ends_the_trying_with_the_last_failure() {
        let stop = StopToken::default();
        stop.request();
        let policy = attempts(9).backoff(Backoff::Fixed(Duration::from_secs(3600)));
        let failed = Retry::new(policy).stop(stop).call(|_| Err::<(), _>(ItemError::data("no")));
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }
}
