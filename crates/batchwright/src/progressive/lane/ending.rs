//! The end of a lane's slice, and of its execution.

use std::cell::Cell;
use std::time::Duration;

use super::{CommitAction, Halt, LaneRun, Stage, Uncommitted};
use crate::error::RepositoryError;
use crate::execution::{Failure, JobExecution};
use crate::item::guarded;
use crate::lifecycle::{Final, Tx, end, owned, transact};
use crate::progressive::lifecycle;
use crate::progressive::progress::{UnitProgress, UnitsSummary};
use crate::progressive::slice::{SliceAnswer, SliceOutcome, outcome_of};
use crate::store::Lane;

/// Time after which the client of a lane without work should send the next request.
const WAIT: Duration = Duration::from_millis(250);

impl LaneRun<'_> {
    /// Ends the slice and releases its lease. Ends the execution when a stop is requested and no other lane
    /// has a worker.
    pub(super) fn end_slice(
        &self,
        tx: &mut Tx<'_>,
        mut execution: JobExecution,
    ) -> Result<String, RepositoryError> {
        if let Some(segment) = &self.segment {
            let mut given_back = segment.clone();
            given_back.claimed = given_back.position;
            tx.slices().claim_segment(&given_back)?;
        }
        let now = self.host.clock.now();
        let outcome = match (execution.stop_requested, &self.segment) {
            (true, _) => {
                let lanes = tx.slices().lanes_of(execution.id)?;
                let is_other = |lane: &Lane| lane.rank != self.lane.rank && lane.is_live(now);
                if !lanes.iter().any(is_other) {
                    end(tx, &mut execution, &self.row, Final::stopped(), now)?;
                }
                SliceOutcome::Done
            }
            (false, Some(_)) => SliceOutcome::Continue,
            (false, None) => SliceOutcome::Wait,
        };
        self.free_lane_with_answer(tx, outcome, &execution)
    }

    /// Releases the lease and stores the answer.
    pub(super) fn free_lane_with_answer(
        &self,
        tx: &mut Tx<'_>,
        outcome: SliceOutcome,
        execution: &JobExecution,
    ) -> Result<String, RepositoryError> {
        let times = self.times.to_json();
        let segments = tx.slices().segments_of(execution.id)?;
        let mut lanes = tx.slices().lanes_of(execution.id)?;
        for mine in lanes.iter_mut().filter(|lane| lane.rank == self.lane.rank) {
            mine.times.clone_from(&times);
        }
        let answer = SliceAnswer {
            outcome,
            next_seq: self.seq + 1,
            retry_after_ms: (outcome == SliceOutcome::Wait).then_some(WAIT.as_millis() as u64),
            progress: UnitProgress::new(execution, &self.row, &lanes, &segments),
        };
        let answer = serde_json::to_string(&answer)
            .map_err(|error| RepositoryError::unavailable("store the answer of a slice", error))?;
        // The new fence refuses all later commits of this slice.
        let lane = Lane {
            seq: self.seq,
            answer: Some(answer.clone()),
            times,
            slices: self.lane.slices + 1,
            last_slice: self.elapsed(),
            ..self.lane.freed()
        };
        self.store_as(tx, &lane)?;
        let ended = (self.host.clock.now(), lane.last_slice);
        tx.after_commit(|| lifecycle::slice_ended(execution, lane.rank, ended));
        Ok(answer)
    }

    /// Answers for an execution that another lane or an operator has ended.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::LeaseLost`] when the execution still runs, without this lane.
    pub(crate) fn answer_ended_execution(&mut self) -> Result<(), RepositoryError> {
        let answer = self.answer_after(|_, execution| match execution.status.is_running() {
            true => Err(RepositoryError::LeaseLost { execution: execution.id }),
            false => Ok(()),
        })?;
        self.stage = Stage::Ended(answer);
        Ok(())
    }

    /// Stores and returns the answer that fits the execution, after `settle` has seen the execution in the
    /// same transaction.
    fn answer_after(
        &self,
        settle: impl Fn(&mut Tx<'_>, &mut JobExecution) -> Result<(), RepositoryError>,
    ) -> Result<String, RepositoryError> {
        transact(&self.host.store, |tx| {
            let lost = RepositoryError::LeaseLost { execution: self.lease.execution };
            let mut execution = tx.execution(self.lease.execution)?.ok_or(lost)?;
            settle(tx, &mut execution)?;
            self.free_lane_with_answer(tx, outcome_of(&execution), &execution)
        })
    }

    /// Assembles the response after all units have ended, and ends the execution if no other lane has.
    ///
    /// No transaction is open while the response is assembled: the first stored response wins.
    pub(super) fn finalise(&mut self) -> Result<(), Halt> {
        let id = self.lease.execution;
        let (partials, summary) = {
            let mut tx = self.host.store.begin()?;
            let segments = tx.slices().segments_of(id)?;
            let mut partials = Vec::new();
            for segment in &segments {
                partials.push(tx.slices().partial_of(segment.id)?);
            }
            (partials, UnitsSummary::new(&segments, &self.scope))
        };
        let assembled = self.watch_for_hang(|| self.work.assemble(partials, &summary));
        let now = self.host.clock.now();
        let ended = match assembled {
            Ok(response) => Final::completed(response.into_stored(now)),
            Err(error) => {
                let message = format!("the job failed to assemble its response: {error}");
                Final::failed(Failure::new("response_failed", message), now)
            }
        };
        let is_mine = Cell::new(false);
        let answer = self.answer_after(|tx, execution| {
            is_mine.set(execution.fence == self.lease.fence && execution.status.is_running());
            if is_mine.get() {
                end(tx, execution, &self.row, ended.clone(), now)?;
            }
            Ok(())
        })?;
        self.stage = Stage::Ended(answer);
        if is_mine.get() {
            self.call_on_end();
        }
        Ok(())
    }

    /// Calls the user's function for the end of the execution, which this lane has stored.
    pub(super) fn call_on_end(&self) {
        let Some(on_end) = self.work.on_end() else { return };
        let execution = match self.host.store.execution(self.lease.execution) {
            Ok(Some(execution)) => execution,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(execution = %self.lease.execution, %error, "`on_end` was not called");
                return;
            }
        };
        if let Err(error) = self.watch_for_hang(|| guarded(|| on_end(&self.scope, &execution))) {
            tracing::warn!(execution = %execution.id, %error, "`on_end` failed");
        }
    }

    /// Fails the execution for a reason outside its units.
    pub(crate) fn fail(&mut self, failure: Failure) -> Result<(), Halt> {
        self.segment.clone_from(&self.committed);
        self.uncommitted = Uncommitted::default();
        self.failure = Some(failure);
        let partial = self.committed.as_ref().and_then(|segment| segment.partial.clone());
        self.commit(CommitAction::Fail, partial, &mut |_| Ok(())).map(drop)
    }

    /// Releases uncommitted units and the lease, without an answer. Reads the rows again, because the last
    /// commit may have succeeded or failed.
    pub(crate) fn free_lane_without_answer(&self) -> Result<(), RepositoryError> {
        transact(&self.host.store, |tx| {
            let id = self.lease.execution;
            let execution = owned(tx, self.lease)?;
            let (rank, fence) = (self.lane.rank, self.lane.fence);
            let lanes = tx.slices().lanes_of(id)?;
            let mine = lanes.into_iter().find(|lane| lane.rank == rank && lane.fence == fence);
            let lane = mine.ok_or(RepositoryError::LeaseLost { execution: id })?;
            for mut segment in tx.slices().segments_of(id)? {
                if segment.lane == Some(rank) && segment.claimed > segment.position {
                    segment.claimed = segment.position;
                    tx.slices().claim_segment(&segment)?;
                }
            }
            self.store_as(tx, &lane.freed())?;
            let ended = (self.host.clock.now(), self.elapsed());
            tx.after_commit(|| lifecycle::slice_ended(&execution, rank, ended));
            Ok(())
        })
    }
}
