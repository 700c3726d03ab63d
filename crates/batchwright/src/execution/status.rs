//! The statuses of executions, as a pure state machine.
//!
//! ```text
//!             claim              complete
//!  STARTING ─────────▶ STARTED ─────────────▶ COMPLETED
//!     │ │                │ │ └── fail ──────▶ FAILED ──┐
//!     │ └─ fail ─▶ FAILED│ └ end stopped ─▶ STOPPED    │ abandon
//!     │                  │ request stop       ▲  │     ▼
//!     │ request stop     ▼                    │  └▶ ABANDONED
//!     └──────▶ STOPPED  STOPPING ─ confirm ───┘
//!                          └── complete ▶ COMPLETED, fail ▶ FAILED
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BatchStatus {
    /// Accepted; waits for a worker.
    Starting,
    /// Running.
    Started,
    /// A stop is requested; the owner has not confirmed it yet.
    Stopping,
    /// Ended on request, at a checkpoint; restartable.
    Stopped,
    /// Done.
    Completed,
    /// Ended by a failure; restartable.
    Failed,
    /// Declared as never to be restarted.
    Abandoned,
    /// Read from foreign or imported rows only; the engine never writes it.
    Unknown,
}

/// An event that changes the status of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusEvent {
    /// The owner begins to run the execution.
    Claim,
    /// A caller requests a stop.
    RequestStop,
    /// The owner ends the execution at a checkpoint, on request.
    ConfirmStop,
    /// The owner completed the work.
    Complete,
    /// The owner failed, or was found dead.
    Fail,
    /// An operator abandons the execution.
    Abandon,
}

impl BatchStatus {
    /// All statuses.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Started,
        Self::Stopping,
        Self::Stopped,
        Self::Completed,
        Self::Failed,
        Self::Abandoned,
        Self::Unknown,
    ];

    /// Returns the status after `event`.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] for every pair that the diagram of this module does not show.
    pub fn after(self, event: StatusEvent) -> Result<Self, IllegalTransition> {
        use BatchStatus::{Abandoned, Completed, Failed, Started, Starting, Stopped, Stopping};
        match (self, event) {
            (Starting, StatusEvent::Claim) => Ok(Started),
            (Starting, StatusEvent::RequestStop | StatusEvent::ConfirmStop) => Ok(Stopped),
            (Started | Stopping, StatusEvent::RequestStop) => Ok(Stopping),
            (Started | Stopping, StatusEvent::ConfirmStop) => Ok(Stopped),
            (Started | Stopping, StatusEvent::Complete) => Ok(Completed),
            (Starting | Started | Stopping, StatusEvent::Fail) => Ok(Failed),
            (Stopped | Failed | Abandoned, StatusEvent::Abandon) => Ok(Abandoned),
            (status, event) => Err(IllegalTransition { status, event }),
        }
    }

    /// Whether an owner may still run the execution.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Starting | Self::Started | Self::Stopping)
    }

    /// Whether a new execution may restart this one.
    pub fn is_restartable(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// Returns the name used in the store, in JSON and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Started => "STARTED",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Abandoned => "ABANDONED",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Returns the status of that name; upper and lower case are equal.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name().eq_ignore_ascii_case(name))
    }

    /// Returns the worse of two statuses, for sums over parts: every other status outranks `COMPLETED`.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        if self.severity() >= other.severity() { self } else { other }
    }

    fn severity(self) -> u8 {
        match self {
            Self::Completed => 0,
            Self::Starting => 1,
            Self::Started => 2,
            Self::Stopping => 3,
            Self::Stopped => 4,
            Self::Failed => 5,
            Self::Abandoned => 6,
            Self::Unknown => 7,
        }
    }
}

impl fmt::Display for BatchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An event that a status does not permit. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an execution that is {status} does not allow {event:?}")]
pub struct IllegalTransition {
    /// The status found.
    pub status: BatchStatus,
    /// The event refused.
    pub event: StatusEvent,
}

#[cfg(test)]
mod tests {
    use super::*;
    use StatusEvent::{Abandon, Claim, Complete, ConfirmStop, Fail, RequestStop};

    /// All 48 pairs: every pair outside the table is refused.
    #[test]
    fn every_pair_of_status_and_event_is_decided() {
        use BatchStatus::{Abandoned, Completed, Failed, Started, Starting, Stopped, Stopping};
        let legal = [
            (Starting, Claim, Started),
            (Starting, RequestStop, Stopped),
            (Starting, ConfirmStop, Stopped),
            (Starting, Fail, Failed),
            (Started, RequestStop, Stopping),
            (Started, ConfirmStop, Stopped),
            (Started, Complete, Completed),
            (Started, Fail, Failed),
            (Stopping, RequestStop, Stopping),
            (Stopping, ConfirmStop, Stopped),
            (Stopping, Complete, Completed),
            (Stopping, Fail, Failed),
            (Stopped, Abandon, Abandoned),
            (Failed, Abandon, Abandoned),
            (Abandoned, Abandon, Abandoned),
        ];
        for status in BatchStatus::ALL {
            for event in [Claim, RequestStop, ConfirmStop, Complete, Fail, Abandon] {
                let expected = legal
                    .iter()
                    .find(|(from, by, _)| (*from, *by) == (status, event))
                    .map(|(_, _, to)| *to)
                    .ok_or(IllegalTransition { status, event });
                assert_eq!(status.after(event), expected, "{status} after {event:?}");
            }
        }
        let _ = Completed;
    }

    #[test]
    fn the_engine_never_reaches_unknown() {
        for status in BatchStatus::ALL {
            for event in [Claim, RequestStop, ConfirmStop, Complete, Fail, Abandon] {
                assert_ne!(status.after(event), Ok(BatchStatus::Unknown));
            }
        }
    }

    #[test]
    fn a_sum_over_parts_is_as_bad_as_its_worst_part() {
        use BatchStatus::{Completed, Failed, Started, Stopped};
        assert_eq!(Completed.worst(Started), Started);
        assert_eq!(Failed.worst(Completed), Failed);
        assert_eq!(Stopped.worst(Failed), Failed);
    }
}
