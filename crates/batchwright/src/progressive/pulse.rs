//! What the worker of a slice, its client and whoever watches it know of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a slice does when its client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LostClient {
    /// Drops what is not committed after the unit in work.
    Halt,
    /// Ends after the unit in work, with a checkpoint and a stored answer.
    #[default]
    CleanStop,
    /// Works on to its end.
    Ignore,
}

/// Tells a slice that its client is gone.
#[derive(Debug, Clone, Default)]
pub struct ClientGone {
    pub(super) pulse: Arc<Pulse>,
}

impl ClientGone {
    /// The client is gone; the slice does what `then` says.
    pub fn set(&self, then: LostClient) {
        let code = match then {
            LostClient::Ignore => return,
            LostClient::CleanStop => 1,
            LostClient::Halt => 2,
        };
        self.pulse.lost.store(code, Ordering::Release);
    }
}

/// Stands for code of the user that is no unit.
const NO_UNIT: u64 = u64::MAX;

/// What the worker of a slice and whoever watches it know of each other.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    lost: AtomicU8,
    /// The unit in work.
    unit: AtomicU64,
    /// When it began, in microseconds since the clock's origin, and one more; 0: none is in work.
    began: AtomicU64,
}

impl Pulse {
    #[inline]
    pub(crate) fn lost_client(&self) -> Option<LostClient> {
        match self.lost.load(Ordering::Acquire) {
            0 => None,
            1 => Some(LostClient::CleanStop),
            _ => Some(LostClient::Halt),
        }
    }

    #[inline]
    pub(crate) fn begin_unit(&self, unit: u64, now: Duration) {
        self.unit.store(unit, Ordering::Relaxed);
        self.began.store(micros(now) + 1, Ordering::Release);
    }

    /// Something else than a unit begins that may hang.
    pub(crate) fn begin_other(&self, now: Duration) {
        self.begin_unit(NO_UNIT, now);
    }

    #[inline]
    pub(crate) fn end_unit(&self) {
        self.began.store(0, Ordering::Release);
    }

    /// What has been in work longer than `timeout`: a unit, or something else.
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
