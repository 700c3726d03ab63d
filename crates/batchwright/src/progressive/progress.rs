//! How far an execution is, from what is stored of it.

use serde::{Deserialize, Serialize};

use super::segments::Segment;
use super::timing::UnitTimes;
use crate::execution::{BatchStatus, ExecutionId, JobExecution};
use crate::repository::{Lane, ProgressiveExecution};

/// What became of the units of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct UnitsSummary {
    /// Units that succeeded.
    pub units_done: u64,
    /// Units that were given up.
    pub units_failed: u64,
}

pub(super) fn summary_of(segments: &[Segment]) -> UnitsSummary {
    UnitsSummary {
        units_done: segments.iter().map(|segment| segment.done).sum(),
        units_failed: segments.iter().map(|segment| segment.failed).sum(),
    }
}

/// How far an execution is. It never goes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnitProgress {
    /// The execution.
    pub execution: ExecutionId,
    /// What it is doing.
    pub status: BatchStatus,
    /// Units that succeeded.
    pub units_done: u64,
    /// Units that were given up.
    pub units_failed: u64,
    /// Units in all; `null` when nobody knows before the end.
    pub units_total: Option<u64>,
    /// Units a second, as quick as those who drive it were lately.
    pub units_per_second: f64,
    /// Milliseconds that the rest takes at that rate; `null` when nobody can say, and at the end.
    pub eta_ms: Option<u64>,
}

impl UnitProgress {
    pub(crate) fn new(
        execution: &JobExecution,
        row: &ProgressiveExecution,
        lanes: &[Lane],
        segments: &[Segment],
    ) -> Self {
        let summary = summary_of(segments);
        let left = row
            .units_total
            .map(|total| total.saturating_sub(summary.units_done + summary.units_failed));
        // What the lanes can do while they work: pauses between slices say nothing of the units.
        let speed = |lane: &Lane| {
            let mean = UnitTimes::from_json(&lane.times).mean().as_secs_f64();
            if mean > 0.0 { 1.0 / mean } else { 0.0 }
        };
        let units_per_second = lanes.iter().map(speed).sum::<f64>();
        let eta_ms = left
            .filter(|_| execution.status.is_running() && units_per_second > 0.0)
            .map(|left| (left as f64 / units_per_second * 1e3) as u64);
        Self {
            execution: execution.id,
            status: execution.status,
            units_done: summary.units_done,
            units_failed: summary.units_failed,
            units_total: row.units_total,
            units_per_second: (units_per_second * 10.0).round() / 10.0,
            eta_ms,
        }
    }
}
