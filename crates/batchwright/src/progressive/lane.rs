//! A lane during one slice: decides what comes next, and stores commits.

mod ending;

use std::time::Duration;

use super::budget::Budget;
use super::claims::{self, NoWork};
use super::pulse::{OnDisconnect, Pulse};
use super::segments::{Claim, claim};
use super::slice::SliceOutcome;
use super::step::{OnFailed, ProgressiveWork, Settings};
use super::timing::UnitTimes;
use crate::clock::{StopToken, later};
use crate::error::{ErrorKind, ItemError, RepositoryError};
use crate::execution::{Counters, Failure, JobExecution, Phase, SkipRecord};
use crate::host::{CommitPoint, Host};
use crate::item::ChunkTransaction;
use crate::lifecycle::{Final, Tx, end, owned, retry_on_conflict};
use crate::scope::StepScope;
use crate::store::{Held, Lane, Lease, ProgressiveExecution, Segment};

/// Number of parts into which the units of a chunk are divided after one of them failed the whole chunk.
const CHUNK_DIVISOR: u64 = 16;
/// Time between two checks of a lane without work for new work.
const IDLE_INTERVAL: Duration = Duration::from_millis(10);

/// Why a lane cannot continue.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The execution fails.
    Fatal(Failure),
    /// The client disconnected, and its request asks to drop uncommitted work.
    Dropped,
    /// The store failed, or the lease is lost.
    Repository(RepositoryError),
}

impl From<RepositoryError> for Halt {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(error)
    }
}

impl Halt {
    /// Returns the failure of an execution: `event`, a sentence, because of `error`.
    pub(crate) fn fatal(event: &str, error: ItemError) -> Self {
        Self::Fatal(Failure::new("component_failed", format!("{event}: {error}")))
    }
}

/// What a lane does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Run a unit.
    Unit,
    /// Commit.
    Commit(CommitAction),
    /// Wait: other lanes work on all remaining units.
    Idle,
    /// Nothing: the slice has ended.
    End,
}

/// What a commit does in addition to storing the results of the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitAction {
    /// Nothing: the commit is only a checkpoint.
    Continue,
    /// Claims the next window.
    ClaimNext,
    /// Releases the lease and stores the answer.
    Release,
    /// Fails the execution.
    Fail,
}

/// How a unit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitEnd {
    /// With an output.
    Done,
    /// Without an output.
    Filtered,
}

/// The results since the last commit.
#[derive(Debug, Default)]
struct Uncommitted {
    counters: Counters,
    skips: Vec<SkipRecord>,
    began: Duration,
}

impl Uncommitted {
    fn units(&self) -> u64 {
        self.counters.read
    }
}

#[derive(Debug)]
enum Stage {
    Working,
    Idle,
    Ended(String),
}

/// The values with which a slice begins.
pub(crate) struct LaneStart<'a> {
    pub(crate) work: &'a dyn ProgressiveWork,
    pub(crate) host: &'a Host,
    pub(crate) scope: StepScope,
    pub(crate) row: ProgressiveExecution,
    pub(crate) lease: Lease,
    pub(crate) lane: Lane,
    pub(crate) seq: u64,
    pub(crate) arrived: Duration,
    pub(crate) target: Duration,
    pub(crate) pulse: &'a Pulse,
    pub(crate) stop: &'a StopToken,
    /// The segment that was claimed with the lease; `Err`: no work remains, or none is available now.
    pub(crate) segment: Result<Segment, NoWork>,
}

/// A lane that runs a slice.
pub(crate) struct LaneRun<'a> {
    work: &'a dyn ProgressiveWork,
    host: &'a Host,
    settings: Settings,
    scope: StepScope,
    row: ProgressiveExecution,
    lease: Lease,
    lane: Lane,
    seq: u64,
    arrived: Duration,
    pulse: &'a Pulse,
    slice_stop: &'a StopToken,
    budget: Budget,
    times: UnitTimes,
    /// The segment with uncommitted changes.
    segment: Option<Segment>,
    /// The segment as last committed.
    committed: Option<Segment>,
    uncommitted: Uncommitted,
    /// Number of units begun in this slice.
    units_begun: u64,
    /// The time since the clock's origin, as last read.
    now: Duration,
    must_commit: bool,
    /// Whether the segment or its position changed other than by advancing past a unit: the reader must be
    /// opened again.
    has_moved: bool,
    /// Whether the slice ends with its next commit.
    must_release: bool,
    failure: Option<Failure>,
    /// Whether the total number of units of the row is not stored yet.
    has_new_total: bool,
    stage: Stage,
}

impl<'a> LaneRun<'a> {
    /// Begins a slice whose lane has just taken its lease.
    pub(crate) fn begin(start: LaneStart<'a>) -> Result<Self, Halt> {
        let LaneStart { work, host, scope, row, lease, lane, seq, arrived, target, .. } = start;
        let times = UnitTimes::from_json(&lane.times);
        let budget = Budget { target, reserve: lane.checkpoint_cost };
        let now = host.clock.elapsed();
        let mut run = Self {
            work,
            host,
            settings: work.settings(),
            scope,
            row,
            lease,
            lane,
            seq,
            arrived,
            pulse: start.pulse,
            slice_stop: start.stop,
            budget,
            times,
            segment: None,
            committed: None,
            uncommitted: Uncommitted { began: now, ..Uncommitted::default() },
            units_begun: 0,
            now,
            must_commit: false,
            has_moved: true,
            must_release: false,
            failure: None,
            has_new_total: false,
            stage: Stage::Working,
        };
        run.set_segment(start.segment)?;
        Ok(run)
    }

    /// Continues with the claimed segment, or without one.
    fn set_segment(&mut self, claimed: Result<Segment, NoWork>) -> Result<(), Halt> {
        let position = |segment: &Segment| (segment.id, segment.position);
        let before = self.segment.as_ref().map(position);
        self.segment = claimed.as_ref().ok().cloned();
        self.committed = self.segment.clone();
        self.has_moved |= self.segment.as_ref().map(position) != before;
        match claimed {
            Ok(_) => self.stage = Stage::Working,
            Err(NoWork::Wait) => self.stage = Stage::Idle,
            Err(NoWork::AllClosed) => self.finalise()?,
        }
        Ok(())
    }

    /// Returns the answer of a slice that has ended.
    pub(crate) fn into_answer(self) -> Option<String> {
        match self.stage {
            Stage::Ended(answer) => Some(answer),
            Stage::Working | Stage::Idle => None,
        }
    }

    pub(crate) fn plan(&self) -> &str {
        &self.row.plan
    }

    /// Notes the total number of units, as far as it is known now; the next commit stores it.
    pub(crate) fn set_total(&mut self, total: u64) {
        if self.row.units_total != Some(total) {
            self.row.units_total = Some(total);
            self.has_new_total = true;
        }
    }

    pub(crate) fn scope(&self) -> &StepScope {
        &self.scope
    }

    /// Returns the committed partial result of its segment.
    pub(crate) fn partial(&self) -> Option<&str> {
        self.committed.as_ref()?.partial.as_deref()
    }

    /// Returns whether the position changed other than by advancing past a unit, and resets the flag.
    #[inline]
    pub(crate) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// Returns the rank and the number of the next unit.
    pub(crate) fn next_unit(&self) -> (u32, u64) {
        self.segment.as_ref().map_or((0, 0), |segment| (segment.rank, segment.position))
    }

    /// Returns the time limit of a unit that can be cancelled: the rest of the slice up to its hard ceiling,
    /// at most the timeout of a unit. The first unit of a slice gets the whole time, however long the request
    /// waited.
    pub(crate) fn time_left(&self) -> Duration {
        /// Minimum time of a unit that begins.
        const LEAST: Duration = Duration::from_millis(1);
        let from = if self.units_begun > 1 { self.arrived } else { self.now };
        let ceiling = from + self.budget.target.max(self.row.target) * 2;
        ceiling.saturating_sub(self.now).min(self.settings.unit_timeout).max(LEAST)
    }

    fn elapsed(&self) -> Duration {
        self.now.saturating_sub(self.arrived)
    }

    fn has_room(&self) -> bool {
        self.units_begun == 0 || self.budget.has_room(self.elapsed(), &self.times)
    }

    /// Returns what comes next.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Next, Halt> {
        match self.stage {
            Stage::Working => {}
            Stage::Idle => return Ok(Next::Idle),
            Stage::Ended(_) => return Ok(Next::End),
        }
        let Some(segment) = &self.segment else { return Ok(Next::Idle) };
        if self.failure.is_some() {
            return Ok(Next::Commit(CommitAction::Fail));
        }
        match self.pulse.lost_client() {
            Some(OnDisconnect::Halt) => return Err(Halt::Dropped),
            Some(OnDisconnect::CleanStop) => return Ok(Next::Commit(CommitAction::Release)),
            Some(OnDisconnect::Ignore) | None => {}
        }
        if self.must_release || self.slice_stop.is_requested() || !self.has_room() {
            return Ok(Next::Commit(CommitAction::Release));
        }
        if segment.is_closed || segment.position >= segment.claimed {
            return Ok(Next::Commit(CommitAction::ClaimNext));
        }
        if self.must_commit || self.is_checkpoint_due(segment) {
            return Ok(Next::Commit(CommitAction::Continue));
        }
        Ok(Next::Unit)
    }

    #[inline]
    fn is_checkpoint_due(&self, segment: &Segment) -> bool {
        let units = self.uncommitted.units();
        if units == 0 {
            return false;
        }
        // A chunk keeps its size until its end, even if the search for the failing unit ends inside it.
        let begin =
            self.committed.as_ref().map_or(segment.position, |committed| committed.position);
        units >= self.settings.chunk_units
            || self.now.saturating_sub(self.uncommitted.began) >= self.settings.chunk_time
            || segment.search_chunk_at(begin).is_some_and(|chunk| units >= chunk)
    }

    /// Begins a unit.
    ///
    /// # Errors
    ///
    /// When all its attempts were used by workers that died or hung in it.
    #[inline]
    pub(crate) fn begin_unit(&mut self) -> Result<(), ItemError> {
        self.units_begun += 1;
        let Some(segment) = &self.segment else { return Ok(()) };
        let attempts = segment.failure_record.attempts_at(segment.position);
        if attempts >= self.settings.max_attempts {
            return Err(ItemError::new(
                ErrorKind::new("worker_lost"),
                format!(
                    "{attempts} attempts failed; in the last one the process died or the thread hung"
                ),
            ));
        }
        self.pulse.begin_unit(segment.position, self.now);
        Ok(())
    }

    /// Records that a unit succeeded.
    #[inline]
    pub(crate) fn unit_done(&mut self, end: UnitEnd) {
        self.unit_ended();
        let Some(segment) = &mut self.segment else { return };
        segment.failure_record.forget(segment.position);
        segment.position += 1;
        segment.done += 1;
        self.uncommitted.counters.read += 1;
        match end {
            UnitEnd::Done => self.uncommitted.counters.write += 1,
            UnitEnd::Filtered => self.uncommitted.counters.filter += 1,
        }
    }

    #[inline]
    fn unit_ended(&mut self) -> Duration {
        let began = self.now;
        self.now = self.host.clock.elapsed();
        self.pulse.end_unit();
        let took = self.now.saturating_sub(began);
        self.times.record(took);
        took
    }

    /// Opens a reader. When opening takes more than half of the target, the slice ends later, at most at its
    /// hard ceiling, so that it has time for units.
    pub(crate) fn opening<T>(&mut self, open: impl FnOnce() -> T) -> T {
        let opened = self.watch_for_hang(open);
        let before = std::mem::replace(&mut self.now, self.host.clock.elapsed());
        let target = self.budget.target;
        if self.now.saturating_sub(before) > target / 2 {
            self.budget.target = (self.elapsed() + target / 2).clamp(target, target * 2);
        }
        opened
    }

    /// Runs user code that is not a unit, under the same watch for hanging.
    pub(crate) fn watch_for_hang<T>(&self, code: impl FnOnce() -> T) -> T {
        self.pulse.begin_other(self.host.clock.elapsed());
        let done = code();
        self.pulse.end_unit();
        done
    }

    /// Records that the reader has no more units: the end of a rank, or of an input that has changed.
    pub(crate) fn no_more_units(&mut self) {
        self.pulse.end_unit();
        self.now = self.host.clock.elapsed();
        let Some(segment) = &mut self.segment else { return };
        match segment.end {
            None => segment.is_closed = true,
            Some(end) => {
                let (found, until) = (segment.position, end);
                let message = format!(
                    "the input ends after {found} units; it had at least {until} when opened"
                );
                self.failure = Some(Failure::new("input_changed", message));
            }
        }
    }

    /// Records that an attempt at the next unit failed. The attempt is committed before the next one begins.
    /// When no attempt is left, the unit or the execution fails.
    pub(crate) fn unit_failed(&mut self, error: &ItemError) {
        let took = self.unit_ended();
        if *error.kind() == ErrorKind::TIMEOUT
            && self.units_begun > 1
            && took < self.settings.unit_timeout
        {
            // The slice ran out of time before the unit used its own timeout, so no attempt is counted; the
            // next slice begins with this unit.
            self.must_release = true;
            return;
        }
        let (max, on_failed) = (self.settings.max_attempts, self.settings.on_failed);
        let Some(segment) = &mut self.segment else { return };
        segment.failure_record.count_attempt(segment.position);
        self.must_commit = true;
        let attempts = segment.failure_record.attempts.min(max);
        let number = segment.position + 1;
        let is_fatal = *error.kind() == ErrorKind::FATAL;
        let message = match is_fatal {
            true => format!("unit {number} failed and is not retried: {error}"),
            false => format!("unit {number} failed in {attempts} of {max} attempts: {error}"),
        };
        let message = self.scope.parameters().mask_in(message);
        if is_fatal {
            segment.failure_record.forget(segment.position);
            self.failure = Some(Failure::new("unit_failed", message));
        } else if segment.failure_record.attempts >= max {
            match on_failed {
                OnFailed::Fail => {
                    segment.failure_record.forget(segment.position);
                    self.failure = Some(Failure::new("unit_failed", message));
                }
                OnFailed::Continue => {
                    segment.failure_record.forget(segment.position);
                    segment.position += 1;
                    segment.failed += 1;
                    self.uncommitted.counters.read += 1;
                    self.uncommitted.counters.count_skip(Phase::Process);
                    self.uncommitted.skips.push(SkipRecord {
                        step: self.scope.step().to_owned(),
                        phase: Phase::Process,
                        item: number,
                        location: error.location().map(str::to_owned),
                        kind: error.kind().name().to_owned(),
                        message: self.scope.parameters().mask_in(error.to_string()),
                        content: error.raw().map(|raw| String::from_utf8_lossy(raw).into_owned()),
                    });
                }
            }
        }
    }

    /// Goes back to the last checkpoint after a failure that undid the units since. With at most
    /// `suspects_max` units since, the failure counts as an attempt at the next unit; with more, chunks become
    /// smaller until the failing unit is found.
    pub(crate) fn rewind(&mut self, error: &ItemError, suspects_max: u64) {
        let until = self.segment.as_ref().map_or(0, |segment| segment.position + 1);
        self.segment.clone_from(&self.committed);
        self.has_moved = true;
        let units = self.uncommitted.units();
        self.uncommitted = Uncommitted { began: self.now, ..Uncommitted::default() };
        match &mut self.segment {
            Some(_) if units <= suspects_max => self.unit_failed(error),
            Some(segment) => segment.begin_search(until, (units / CHUNK_DIVISOR).max(1)),
            None => {}
        }
    }

    /// Stores the results since the last commit and does `then`. `write` writes the outputs in the same
    /// transaction, and may be called again when the transaction conflicts with another. Returns `false` when
    /// `write` failed and the lane went back to its last checkpoint.
    pub(crate) fn commit(
        &mut self,
        then: CommitAction,
        partial: Option<String>,
        write: &mut dyn FnMut(&mut ChunkTransaction<'_>) -> Result<(), ItemError>,
    ) -> Result<bool, Halt> {
        if let Some(segment) = &mut self.segment {
            segment.partial = partial;
            segment.is_closed |= segment.end == Some(segment.position);
        }
        self.now = self.host.clock.elapsed();
        let began = self.now;
        let result = retry_on_conflict(|| self.commit_once(then, write))?;
        self.now = self.host.clock.elapsed();
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                self.rewind(&error, 1);
                return Ok(false);
            }
        };
        self.lane.checkpoint_cost = smoothed(self.lane.checkpoint_cost, self.now - began);
        self.budget.reserve = self.lane.checkpoint_cost;
        self.uncommitted = Uncommitted { began: self.now, ..Uncommitted::default() };
        self.committed.clone_from(&self.segment);
        self.must_commit = false;
        self.has_new_total = false;
        match result {
            CommitResult::SameSegment { stop_requested } => self.must_release |= stop_requested,
            CommitResult::Claimed(claimed) => self.set_segment(claimed)?,
            CommitResult::Ended(answer) => self.stage = Stage::Ended(answer),
        }
        if then == CommitAction::Fail {
            self.call_on_end();
        }
        Ok(true)
    }

    fn commit_once(
        &mut self,
        then: CommitAction,
        write: &mut dyn FnMut(&mut ChunkTransaction<'_>) -> Result<(), ItemError>,
    ) -> Result<Result<CommitResult, ItemError>, RepositoryError> {
        let scope = self.scope.clone();
        let sequence = self.committed.as_ref().map_or(0, |segment| segment.position);
        let mut chunk = ChunkTransaction::new(&self.host.store, &scope, sequence);
        if let Err(error) = self.watch_for_hang(|| write(&mut chunk)) {
            return match chunk.broken() {
                Some(error) => Err(error),
                None => Ok(Err(error)),
            };
        }
        let tx = chunk.tx()?;
        let result = match then {
            CommitAction::Continue => {
                let held = tx.slices().hold_execution(&self.lease)?;
                if held == Held::Lost {
                    return Err(RepositoryError::LeaseLost { execution: self.lease.execution });
                }
                self.store(tx)?;
                self.store_lane(tx)?;
                CommitResult::SameSegment { stop_requested: held == Held::StopRequested }
            }
            CommitAction::ClaimNext => {
                let execution = owned(tx, self.lease)?;
                self.store(tx)?;
                match execution.stop_requested {
                    true => CommitResult::Ended(self.end_slice(tx, execution)?),
                    false => {
                        let claimed = self.claim_in(tx)?;
                        self.store_lane(tx)?;
                        CommitResult::Claimed(claimed)
                    }
                }
            }
            CommitAction::Release => {
                let execution = owned(tx, self.lease)?;
                self.store(tx)?;
                let is_done = self.segment.as_ref().is_none_or(|segment| segment.is_closed);
                let segments = tx.slices().segments_of(self.lease.execution)?;
                match is_done && segments.iter().all(|segment| segment.is_closed) {
                    // When all segments are closed, the lane ends the execution instead of releasing it.
                    true => {
                        self.store_lane(tx)?;
                        CommitResult::Claimed(Err(NoWork::AllClosed))
                    }
                    false => CommitResult::Ended(self.end_slice(tx, execution)?),
                }
            }
            CommitAction::Fail => {
                let execution = owned(tx, self.lease)?;
                self.store(tx)?;
                CommitResult::Ended(self.fail_execution(tx, execution)?)
            }
        };
        self.call_hook(CommitPoint::Before);
        chunk.commit()?;
        self.call_hook(CommitPoint::After);
        Ok(Ok(result))
    }

    /// Ends the execution with the failure of a unit.
    fn fail_execution(
        &self,
        tx: &mut Tx<'_>,
        mut execution: JobExecution,
    ) -> Result<String, RepositoryError> {
        let unknown = || Failure::new("unit_failed", "a unit failed".to_owned());
        let now = self.host.clock.now();
        let ended = Final::failed(self.failure.clone().unwrap_or_else(unknown), now);
        end(tx, &mut execution, &self.row, ended, now)?;
        self.free_lane_with_answer(tx, SliceOutcome::Final, &execution)
    }

    fn call_hook(&self, point: CommitPoint) {
        if let Some(hook) = &self.host.commit_hook {
            hook(self.scope.job(), self.scope.step(), point);
        }
    }

    /// Stores the results since the last commit.
    fn store(&self, tx: &mut Tx<'_>) -> Result<(), RepositoryError> {
        if let Some(total) = self.row.units_total.filter(|_| self.has_new_total) {
            tx.slices().update_total(self.lease.execution, total)?;
        }
        let Some(segment) = &self.segment else { return Ok(()) };
        tx.slices().update_segment(segment)?;
        if !self.uncommitted.skips.is_empty() {
            tx.insert_skips(self.row.step, &self.uncommitted.skips)?;
        }
        if self.uncommitted.units() > 0 {
            let counters = Counters { commit: 1, ..self.uncommitted.counters };
            tx.slices().add_counters(self.row.step, &counters, self.host.clock.now())?;
        }
        Ok(())
    }

    /// Stores the lane with a renewed lease.
    fn store_lane(&self, tx: &mut Tx<'_>) -> Result<(), RepositoryError> {
        let until = later(self.host.clock.now(), self.host.lease_timeout);
        let mut lane = self.lane.clone();
        lane.lease_until = Some(until);
        lane.times = self.times.to_json();
        self.store_as(tx, &lane)
    }

    fn store_as(&self, tx: &mut Tx<'_>, lane: &Lane) -> Result<(), RepositoryError> {
        match tx.slices().update_lane(lane, self.lane.fence)? {
            true => Ok(()),
            false => Err(RepositoryError::LeaseLost { execution: self.lease.execution }),
        }
    }

    fn claim_in(&self, tx: &mut Tx<'_>) -> Result<Result<Segment, NoWork>, RepositoryError> {
        let rules = claims::rules(&self.row, &self.settings);
        let units = claims::window(&self.times);
        claims::claim_segment(
            tx,
            self.lease.execution,
            self.lane.rank,
            self.host.clock.now(),
            units,
            rules,
        )
    }

    /// Waits, within the time of the slice, for work or for the end of the execution.
    pub(crate) fn idle(&mut self) -> Result<(), Halt> {
        let host = self.host;
        loop {
            if self.pulse.lost_client() == Some(OnDisconnect::Halt) {
                return Err(Halt::Dropped);
            }
            let id = self.lease.execution;
            let execution = host.store.execution(id)?;
            let Some(execution) = execution.filter(|one| one.status.is_running()) else {
                return Ok(self.answer_ended_execution()?);
            };
            let is_late = self.elapsed() + self.budget.reserve >= self.budget.target;
            let is_disconnected = self.pulse.lost_client() == Some(OnDisconnect::CleanStop);
            let is_slice_stopped = self.slice_stop.is_requested();
            if is_late || is_disconnected || is_slice_stopped || execution.stop_requested {
                return self.commit(CommitAction::Release, None, &mut |_| Ok(())).map(drop);
            }
            if self.should_claim()? {
                return self.commit(CommitAction::ClaimNext, None, &mut |_| Ok(())).map(drop);
            }
            host.clock.wait(IDLE_INTERVAL, &StopToken::default());
            self.now = host.clock.elapsed();
        }
    }

    /// Returns whether a claim would find work, or that no work remains.
    fn should_claim(&self) -> Result<bool, RepositoryError> {
        let state = self.host.store.slices().progressive_state(self.lease.execution)?;
        let Some(mut state) = state else { return Ok(false) };
        let now = self.host.clock.now();
        let is_live =
            |rank: u32| state.lanes.iter().any(|lane| lane.rank == rank && lane.is_live(now));
        let rules = claims::rules(&self.row, &self.settings);
        let found = claim(&mut state.segments, self.lane.rank, &is_live, 1, rules);
        Ok(found != Claim::Wait)
    }
}

/// The result of a commit.
enum CommitResult {
    SameSegment { stop_requested: bool },
    Claimed(Result<Segment, NoWork>),
    Ended(String),
}

/// Returns the smoothed cost of a commit: a new cost has a quarter of the weight.
fn smoothed(before: Duration, cost: Duration) -> Duration {
    if before.is_zero() { cost } else { (before * 3 + cost) / 4 }
}
