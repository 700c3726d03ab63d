//! Claims windows of units, in a transaction that has locked the execution.

use std::time::Duration;

use jiff::Timestamp;

use super::segments::{Claim, ClaimRules, claim};
use super::step::Settings;
use super::timing::UnitTimes;
use crate::error::RepositoryError;
use crate::execution::ExecutionId;
use crate::lifecycle::Tx;
use crate::store::{ProgressiveExecution, Segment};

/// Duration of the work that a lane claims at a time: so short that it hardly delays a lane that takes the
/// rest.
const WINDOW: Duration = Duration::from_millis(100);

/// Why a lane has no work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoWork {
    /// Other lanes work on all remaining units.
    Wait,
    /// No units remain.
    AllClosed,
}

/// Returns the rules for the claims of an execution.
pub(crate) fn rules(row: &ProgressiveExecution, settings: &Settings) -> ClaimRules {
    ClaimRules { may_split: row.is_split, each_unit_alone: settings.chunk_units == 1 }
}

/// Returns the number of units of a window.
pub(crate) fn window(times: &UnitTimes) -> u64 {
    let mean = times.mean().as_nanos().max(1);
    match times.samples() {
        // No unit was measured yet: the first window is one unit, which measures it.
        0 => 1,
        _ => u64::try_from(WINDOW.as_nanos() / mean).unwrap_or(1).max(1),
    }
}

/// Claims the next window for lane `me`, in a transaction that has locked the execution.
pub(crate) fn claim_segment(
    tx: &mut Tx<'_>,
    id: ExecutionId,
    me: u32,
    now: Timestamp,
    units: u64,
    rules: ClaimRules,
) -> Result<Result<Segment, NoWork>, RepositoryError> {
    let mut segments = tx.slices().segments_of(id)?;
    let lanes = tx.slices().lanes_of(id)?;
    let before: Vec<_> = segments.iter().map(|segment| segment.lane).collect();
    let is_live = |rank: u32| lanes.iter().any(|lane| lane.rank == rank && lane.is_live(now));
    match claim(&mut segments, me, &is_live, units, rules) {
        Claim::Window(index) => {
            // The new fence refuses commits of the former worker, unless its lane is already free.
            let former =
                lanes.iter().find(|lane| Some(lane.rank) == before[index] && lane.rank != me);
            if let Some(former) = former.filter(|lane| lane.lease_until.is_some()) {
                tx.slices().update_lane(&former.freed(), former.fence)?;
            }
            let mut segment = segments.swap_remove(index);
            tx.slices().claim_segment(&segment)?;
            segment.partial = tx.slices().partial_of(segment.id)?;
            Ok(Ok(segment))
        }
        Claim::Stolen(index, mut stolen) => {
            if let Some(end) = segments[index].end {
                tx.slices().cut_segment(segments[index].id, end)?;
            }
            stolen.id = tx.slices().insert_segment(&stolen)?;
            Ok(Ok(*stolen))
        }
        Claim::Wait => Ok(Err(NoWork::Wait)),
        Claim::AllClosed => Ok(Err(NoWork::AllClosed)),
    }
}
