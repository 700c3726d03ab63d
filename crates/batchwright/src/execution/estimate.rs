//! The rate of a running step, and when it will probably end.

use jiff::Timestamp;
use serde::Serialize;

use super::{Progress, ProgressUnit, StepExecution, millis};

/// When a step will probably end, computed from what its last commit stored.
///
/// ```
/// use batchwright::execution::{Estimate, StepSummary};
///
/// /// Returns how fast a running step is.
/// fn rate(step: &StepSummary) -> String {
///     match step.estimate {
///         Some(Estimate { items_per_second, ends_at: Some(end) }) => format!("{items_per_second:.0}/s, until {end}"),
///         Some(Estimate { items_per_second, ends_at: None }) => format!("{items_per_second:.0}/s"),
///         None => "not running".to_owned(),
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Estimate {
    /// Records that the step has read in each second of this execution.
    pub items_per_second: f64,
    /// The probable end, if the rest of the input is read as fast; `None` when the size of the input is unknown, or when it is
    /// unknown how much of it this execution has read.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    #[serde(serialize_with = "some_millis")]
    pub ends_at: Option<Timestamp>,
}

fn some_millis<S: serde::Serializer>(
    at: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => millis(at, serializer),
        None => serializer.serialize_none(),
    }
}

impl Estimate {
    /// Returns the estimate of a running step; `None` when the step has ended or has committed nothing.
    pub fn of(step: &StepExecution) -> Option<Self> {
        let seconds = step.updated_at.duration_since(step.started_at).as_secs_f64();
        if !step.status.is_running() || step.counters.commit == 0 || seconds <= 0.0 {
            return None;
        }
        let records = step.counters.read + step.counters.read_skip;
        let ends_at = step.progress.and_then(|progress| {
            let done = read_here(step, progress, records)?;
            let left = progress.total.saturating_sub(progress.done);
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let left = jiff::SignedDuration::try_from_secs_f64(seconds * left as f64 / done as f64);
            step.updated_at.checked_add(left.ok()?).ok()
        });
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let items_per_second = records as f64 / seconds;
        Some(Self { items_per_second, ends_at })
    }
}

/// Returns how much of the input this execution of the step has read, in the unit of its progress. Bytes that an execution
/// before it read are not counted anywhere.
fn read_here(step: &StepExecution, progress: Progress, records: u64) -> Option<u64> {
    let done = match progress.unit {
        ProgressUnit::Items => records,
        ProgressUnit::Bytes if step.begun_by.is_none() => progress.done,
        ProgressUnit::Bytes => return None,
    };
    (done > 0).then_some(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::{BatchStatus, StepExecutionId};

    fn running(progress: Option<Progress>) -> StepExecution {
        let began = Timestamp::UNIX_EPOCH;
        let mut step = StepExecution::new_unsaved("load", began);
        step.status = BatchStatus::Started;
        step.updated_at = Timestamp::from_second(10).unwrap();
        (step.counters.read, step.counters.commit) = (200, 2);
        step.progress = progress;
        step
    }

    fn ends_at(step: &StepExecution) -> Option<i64> {
        Estimate::of(step).unwrap().ends_at.map(Timestamp::as_second)
    }

    #[test]
    fn the_rest_is_expected_to_be_read_as_fast() {
        let items = Progress { done: 200, total: 1_000, unit: ProgressUnit::Items };
        let estimate = Estimate::of(&running(Some(items))).unwrap();
        assert!((estimate.items_per_second - 20.0).abs() < 1e-9);
        assert_eq!(ends_at(&running(Some(items))), Some(50));
        let bytes = Progress { done: 500, total: 1_000, unit: ProgressUnit::Bytes };
        assert_eq!(ends_at(&running(Some(bytes))), Some(20));
        assert_eq!(ends_at(&running(None)), None, "the size is unknown");
    }

    #[test]
    fn a_continued_step_counts_only_what_it_read_itself() {
        let items = Progress { done: 600, total: 1_000, unit: ProgressUnit::Items };
        let mut step = running(Some(items));
        step.begun_by = Some(StepExecutionId(1));
        assert_eq!(ends_at(&step), Some(30), "400 are left, 20 in a second");
        step.progress = Some(Progress { unit: ProgressUnit::Bytes, ..items });
        assert_eq!(ends_at(&step), None);
    }

    #[test]
    fn what_has_ended_or_committed_nothing_has_no_estimate() {
        let mut step = running(None);
        step.counters.commit = 0;
        assert_eq!(Estimate::of(&step), None);
        let mut step = running(None);
        step.status = BatchStatus::Completed;
        assert_eq!(Estimate::of(&step), None);
        let mut step =
            running(Some(Progress { done: 2, total: u64::MAX, unit: ProgressUnit::Bytes }));
        step.updated_at = step.started_at;
        assert_eq!(Estimate::of(&step), None, "no time has passed");
    }
}
