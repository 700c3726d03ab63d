//! Limits how many steps run at once.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::StopToken;

/// A limited number of permits: each holder may work, and the others wait.
pub(crate) struct Permits {
    left: Mutex<usize>,
    returned: Condvar,
}

/// The right to work until the permit is dropped.
pub(crate) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(crate) fn new(count: usize) -> Self {
        Self { left: Mutex::new(count), returned: Condvar::new() }
    }

    /// Waits for a permit. `None` when a stop is requested first.
    pub(crate) fn acquire(&self, stop: &StopToken) -> Option<Permit<'_>> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if stop.is_requested() {
                return None;
            }
            if *left > 0 {
                *left -= 1;
                return Some(Permit(self));
            }
            // A stop request does not signal the condition variable, so it is polled.
            let waited = self.returned.wait_timeout(left, STOP_CHECK_INTERVAL);
            left = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Time between two checks of a waiting step for a stop request.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}
