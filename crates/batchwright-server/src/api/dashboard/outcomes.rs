//! The outcomes of the last hours, which are counted at most once a second however many people look.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use batchwright::JobOperator;
use batchwright::error::RepositoryError;
use batchwright::query::OutcomeCount;
use jiff::Timestamp;

use super::super::changes::OVERLAP;

/// How old counts may be although something may have changed since.
const AGE_MAX: Duration = Duration::from_secs(1);
/// How old they may be when nothing has changed: a purge is no change that the store numbers.
const UNCHANGED_AGE_MAX: Duration = Duration::from_secs(60);
/// Length of a period, in seconds.
pub(super) const PERIOD: u32 = 3_600;

/// The newest counts. Clones share them.
#[derive(Clone, Default)]
pub(in crate::api) struct Outcomes {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Held by the one who counts.
    counting: Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The number of the newest change, and when it was first seen, by the monotonic clock.
    newest: Option<(i64, Duration)>,
    kept: Option<Kept>,
}

struct Kept {
    /// The beginning of the first period.
    since: Timestamp,
    /// The number of the newest change before they were counted; `None` while one with a lower number may become visible.
    last_event: Option<i64>,
    /// When they were counted, by the monotonic clock.
    at: Duration,
    counts: Arc<[OutcomeCount]>,
}

/// What [`Outcomes::count`] returns.
pub(super) struct Counted {
    /// The beginning of the first period.
    pub(super) since: Timestamp,
    pub(super) counts: Arc<[OutcomeCount]>,
    /// Whether something may have changed since they were counted.
    pub(super) is_outdated: bool,
}

impl Outcomes {
    /// Counts the executions created at `since` or later. While another caller counts, the former counts are returned, if there are
    /// any, also those of an earlier `since`.
    pub(super) fn count(
        &self,
        operator: &JobOperator,
        since: Timestamp,
    ) -> Result<Counted, RepositoryError> {
        let (queries, clock) = (operator.queries(), operator.clock());
        let last_event = queries.last_event()?;
        if let Some(counted) = self.known().fresh(since, last_event, clock.elapsed()) {
            return Ok(counted);
        }
        let _alone = match self.inner.counting.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(alone)) => alone.into_inner(),
            Err(TryLockError::WouldBlock) => {
                if let Some(old) = &self.known().kept {
                    return Ok(old.counted(true));
                }
                let alone = self.inner.counting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(counted) = self.known().fresh(since, last_event, clock.elapsed()) {
                    return Ok(counted);
                }
                alone
            }
        };
        let begun = clock.elapsed();
        let counts: Arc<[OutcomeCount]> = queries.outcomes(since, PERIOD)?.into();
        let mut known = self.known();
        let is_settled = known.first_seen(last_event, begun) + OVERLAP <= begun;
        let kept = Kept {
            since,
            last_event: is_settled.then_some(last_event),
            at: clock.elapsed(),
            counts,
        };
        let counted = kept.counted(!is_settled);
        known.kept = Some(kept);
        Ok(counted)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Returns when the change `last_event`, the newest one, was first seen.
    fn first_seen(&mut self, last_event: i64, now: Duration) -> Duration {
        match self.newest {
            Some((known, at)) if known == last_event => at,
            _ => self.newest.insert((last_event, now)).1,
        }
    }

    /// Returns the counts that are kept, unless they are too old.
    fn fresh(&mut self, since: Timestamp, last_event: i64, now: Duration) -> Option<Counted> {
        self.first_seen(last_event, now);
        let kept = self.kept.as_ref().filter(|kept| kept.since == since)?;
        let is_outdated = kept.last_event != Some(last_event);
        let age_max = if is_outdated { AGE_MAX } else { UNCHANGED_AGE_MAX };
        let is_fresh = now.saturating_sub(kept.at) < age_max;
        is_fresh.then(|| kept.counted(is_outdated))
    }
}

impl Kept {
    fn counted(&self, is_outdated: bool) -> Counted {
        Counted { since: self.since, counts: Arc::clone(&self.counts), is_outdated }
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
        assert_eq!(count(), (0, true));
        run(1);
        assert_eq!(count(), (0, true), "the page is loaded once more");
        clock.advance(AGE_MAX);
        assert_eq!(count(), (1, true), "a change before it may still become visible");
        clock.advance(OVERLAP);
        assert_eq!(count(), (1, false));
        let first = Arc::clone(&outcomes.count(&operator, since).unwrap().counts);
        clock.advance(UNCHANGED_AGE_MAX - AGE_MAX);
        let second = outcomes.count(&operator, since).unwrap().counts;
        assert!(Arc::ptr_eq(&first, &second), "nothing has changed");
        run(2);
        assert_eq!(count(), (2, true), "the counts are older than a second");
    }

    #[test]
    fn the_former_counts_are_returned_while_another_caller_counts() {
        let clock = SimClock::at("2026-11-30T06:00:00Z".parse().unwrap());
        let store = Arc::new(MemoryRepository::new());
        let operator = JobOperator::builder(store).clock(clock.clone()).build();
        let (outcomes, since) = (Outcomes::default(), Timestamp::UNIX_EPOCH);
        let first = outcomes.count(&operator, since).unwrap();
        let counting = outcomes.inner.counting.lock().unwrap();
        clock.advance(UNCHANGED_AGE_MAX);
        // Also in the next hour.
        let next = since + Duration::from_secs(PERIOD.into());
        let old = outcomes.count(&operator, next).unwrap();
        assert!(old.is_outdated && old.since == since && Arc::ptr_eq(&old.counts, &first.counts));
        drop(counting);
        assert_eq!(outcomes.count(&operator, next).unwrap().since, next);
    }
}
