//! The outcomes of the last hours, which are counted at most once a second however many people look.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use batchwright::JobOperator;
use batchwright::error::RepositoryError;
use batchwright::query::OutcomeCount;
use jiff::Timestamp;

/// How old counts may be although something has changed since.
const AGE_MAX: Duration = Duration::from_secs(1);
/// How old they may be when nothing has changed: a purge is no change that the store numbers.
const UNCHANGED_AGE_MAX: Duration = Duration::from_secs(60);
/// Length of a period, in seconds.
pub(super) const PERIOD: u32 = 3_600;

/// The newest counts. Clones share them.
#[derive(Clone, Default)]
pub(in crate::api) struct Outcomes {
    kept: Arc<Mutex<Option<Kept>>>,
}

#[derive(Clone)]
struct Kept {
    /// The beginning of the first period.
    since: Timestamp,
    /// The number of the newest change before they were counted.
    last_event: i64,
    /// When they were counted, by the monotonic clock.
    at: Duration,
    counts: Arc<[OutcomeCount]>,
}

/// What [`Outcomes::count`] returns.
pub(super) struct Counted {
    pub(super) counts: Arc<[OutcomeCount]>,
    /// Whether something has changed since they were counted.
    pub(super) is_outdated: bool,
}

impl Outcomes {
    /// Counts the executions created at `since` or later. Who asks while another one counts waits for its result.
    pub(super) fn count(
        &self,
        operator: &JobOperator,
        since: Timestamp,
    ) -> Result<Counted, RepositoryError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (queries, now) = (operator.queries(), operator.clock().elapsed());
        let last_event = queries.last_event()?;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.since == since) {
            let is_outdated = kept.last_event != last_event;
            let age_max = if is_outdated { AGE_MAX } else { UNCHANGED_AGE_MAX };
            if now.saturating_sub(kept.at) < age_max {
                return Ok(Counted { counts: Arc::clone(&kept.counts), is_outdated });
            }
        }
        let counts: Arc<[OutcomeCount]> = queries.outcomes(since, PERIOD)?.into();
        *kept = Some(Kept { since, last_event, at: now, counts: Arc::clone(&counts) });
        Ok(Counted { counts, is_outdated: false })
    }
}

#[cfg(test)]
mod tests {
    use batchwright::testing::SimClock;
    use batchwright::{Job, JobParameters, MemoryRepository, TaskletStep};

    use super::*;

    #[test]
    fn counts_are_kept_while_nothing_changes_and_for_a_second_when_something_does() {
        let clock = SimClock::at("2026-11-30T06:00:00Z".parse().unwrap());
        let store = Arc::new(MemoryRepository::new());
        let operator = JobOperator::builder(store).clock(clock.clone()).build();
        let job = Job::builder("job").step(TaskletStep::call("step", || ())).build().unwrap();
        operator.registry().register(job).unwrap();
        let since = "2026-11-30T00:00:00Z".parse().unwrap();
        let outcomes = Outcomes::default();
        let count = || {
            let counted = outcomes.count(&operator, since).unwrap();
            (counted.counts.iter().map(|one| one.count).sum::<u64>(), counted.is_outdated)
        };
        let run = |number: i64| {
            operator.run("job", JobParameters::new().with("number", number)).unwrap();
        };
        assert_eq!(count(), (0, false));
        run(1);
        assert_eq!(count(), (0, true), "the page is loaded once more");
        clock.advance(AGE_MAX);
        assert_eq!(count(), (1, false));
        clock.advance(AGE_MAX);
        let first = Arc::clone(&outcomes.count(&operator, since).unwrap().counts);
        let second = outcomes.count(&operator, since).unwrap().counts;
        assert!(Arc::ptr_eq(&first, &second), "nothing has changed");
        run(2);
        assert_eq!(count(), (2, false), "the counts are older than a second");
    }
}
