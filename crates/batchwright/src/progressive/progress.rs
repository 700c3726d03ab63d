//! The progress of an execution, computed from its stored rows.

use serde::{Deserialize, Serialize};

use super::timing::UnitTimes;
use crate::execution::{BatchStatus, ExecutionId, JobExecution};
use crate::scope::StepScope;
use crate::store::{Lane, ProgressiveExecution, ProgressiveState, Segment};

/// The units of an execution that ended: what its final response is made from, besides the value.
#[derive(Debug, Clone, Serialize)]
pub struct UnitsSummary {
    /// Number of units that succeeded.
    pub units_done: u64,
    /// Number of units that failed in all their attempts.
    pub units_failed: u64,
    #[serde(skip)]
    scope: StepScope,
}

impl UnitsSummary {
    pub(super) fn new(segments: &[Segment], scope: &StepScope) -> Self {
        let (units_done, units_failed) = count(segments);
        Self { units_done, units_failed, scope: scope.clone() }
    }

    /// Returns the step execution: its parameters, contexts and numbers.
    pub fn scope(&self) -> &StepScope {
        &self.scope
    }
}

/// Returns the numbers of units that succeeded and that failed.
fn count(segments: &[Segment]) -> (u64, u64) {
    let done = segments.iter().map(|segment| segment.done).sum();
    (done, segments.iter().map(|segment| segment.failed).sum())
}

/// The progress of an execution. The numbers of units never decrease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnitProgress {
    /// The execution.
    pub execution: ExecutionId,
    /// The status of the execution.
    pub status: BatchStatus,
    /// Number of units that succeeded.
    pub units_done: u64,
    /// Number of units that failed in all their attempts.
    pub units_failed: u64,
    /// Total number of units; `null` when it is not known before the end.
    pub units_total: Option<u64>,
    /// Units per second: the sum of the recent speeds of all lanes.
    pub units_per_second: f64,
    /// Milliseconds until the end at that rate; `null` when they cannot be estimated, and at the end.
    pub eta_ms: Option<u64>,
}

impl UnitProgress {
    /// Returns the progress of an execution whose state was read.
    pub fn of(execution: &JobExecution, state: &ProgressiveState) -> Self {
        Self::new(execution, &state.row, &state.lanes, &state.segments)
    }

    pub(crate) fn new(
        execution: &JobExecution,
        row: &ProgressiveExecution,
        lanes: &[Lane],
        segments: &[Segment],
    ) -> Self {
        let (units_done, units_failed) = count(segments);
        let ended = units_done + units_failed;
        // An estimate may be too low.
        let units_total = row.units_total.map(|total| total.max(ended));
        let left = units_total.map(|total| total - ended);
        // The speed of the lanes while they work: pauses between slices do not count.
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
            units_done,
            units_failed,
            units_total,
            units_per_second: (units_per_second * 10.0).round() / 10.0,
            eta_ms,
        }
    }
}
