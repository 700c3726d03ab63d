//! Signals between the worker of a slice, its client and its watchdog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a slice does when its client has disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OnDisconnect {
    /// Ends after the unit in work and drops uncommitted work.
    Halt,
    /// Ends after the unit in work, with a checkpoint and a stored answer.
    #[default]
    CleanStop,
    /// Continues to its normal end.
    Ignore,
}

/// The signal to a slice that its client has disconnected.
#[derive(Debug, Clone, Default)]
pub struct DisconnectSignal {
    pub(super) pulse: Arc<Pulse>,
}

impl DisconnectSignal {
    /// Signals that the client has disconnected; the slice then does `then`.
    pub fn set(&self, then: OnDisconnect) {
        let code = match then {
            OnDisconnect::Ignore => return,
            OnDisconnect::CleanStop => 1,
            OnDisconnect::Halt => 2,
        };
        self.pulse.lost.store(code, Ordering::Release);
    }
}

/// The number for user code that is not a unit.
const NO_UNIT: u64 = u64::MAX;

/// The state that the worker of a slice shares with its watchdog and its client.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    lost: AtomicU8,
    /// The unit in work.
    unit: AtomicU64,
    /// When the unit began, in microseconds since the clock's origin, plus one; 0: no unit is in work.
    began: AtomicU64,
}

impl Pulse {
    #[inline]
    pub(crate) fn lost_client(&self) -> Option<OnDisconnect> {
        match self.lost.load(Ordering::Acquire) {
            0 => None,
            1 => Some(OnDisconnect::CleanStop),
            _ => Some(OnDisconnect::Halt),
        }
    }

    #[inline]
    pub(crate) fn begin_unit(&self, unit: u64, now: Duration) {
        self.unit.store(unit, Ordering::Relaxed);
        self.began.store(micros(now) + 1, Ordering::Release);
    }

    /// Records that user code begins that is not a unit and may hang.
    pub(crate) fn begin_other(&self, now: Duration) {
        self.begin_unit(NO_UNIT, now);
    }

    #[inline]
    pub(crate) fn end_unit(&self) {
        self.began.store(0, Ordering::Release);
    }

    /// Returns what has run longer than `timeout`: `Some(Some(unit))` for a unit, `Some(None)` for other user
    /// code.
    pub(crate) fn hanging(&self, now: Duration, timeout: Duration) -> Option<Option<u64>> {
        let began = self.began.load(Ordering::Acquire);
        let is_late = began > 0 && micros(now).saturating_sub(began - 1) > micros(timeout);
        let unit = || Some(self.unit.load(Ordering::Relaxed)).filter(|unit| *unit != NO_UNIT);
        is_late.then(unit)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
