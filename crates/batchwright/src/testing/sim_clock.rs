//! A clock that only tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::{Clock, StopToken};

/// A simulated clock. Only [`advance`](Self::advance) and [`wait`](Clock::wait) move it.
#[derive(Debug, Clone)]
pub struct SimClock {
    micros: Arc<AtomicI64>,
}

impl SimClock {
    /// Creates a clock that shows `start`.
    pub fn at(start: Timestamp) -> Self {
        Self { micros: Arc::new(AtomicI64::new(start.as_microsecond())) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        self.micros.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.micros.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.micros.load(Ordering::SeqCst)).unwrap_or(0))
    }

    fn wait(&self, duration: Duration, stop: &StopToken) {
        if !stop.is_requested() {
            self.advance(duration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_moves_the_simulated_clock_unless_a_stop_cuts_it_short() {
        let clock = SimClock::at(Timestamp::UNIX_EPOCH);
        let stop = StopToken::default();
        clock.wait(Duration::from_secs(5), &stop);
        stop.request();
        clock.wait(Duration::from_secs(5), &stop);
        assert_eq!(clock.now(), Timestamp::from_second(5).unwrap());
    }
}
