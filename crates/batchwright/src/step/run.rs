//! A running step execution: its row, its lease, and the commit that updates both.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::error::{RepositoryError, StepError};
use crate::event::{Change, ChunkTimes, Event, Progress};
use crate::execution::{Counters, SkipRecord, StepExecution, StepExecutionId};
use crate::host::{CommitPoint, Host};
use crate::item::ChunkTransaction;
use crate::lifecycle::{self, ObservedStore};
use crate::scope::StepScope;
use crate::store::{CheckpointUpdate, Held, Lease};

/// The state that a step's code uses while it runs.
#[doc(hidden)]
pub struct StepRun<'a> {
    pub(crate) host: &'a Host,
    pub(crate) lease: Lease,
    pub(crate) scope: StepScope,
    /// The row as last committed; its counters as last counted.
    pub(crate) step: StepExecution,
    /// Number of skips of each kind of error in earlier executions of the step in this instance.
    pub(crate) earlier_skips: BTreeMap<String, u64>,
    /// Skips of a commit that this execution completed in the store, because only the sink had it.
    pub(crate) prepared_skips: BTreeMap<String, u64>,
}

impl<'a> StepRun<'a> {
    pub(crate) fn store(&self) -> &'a ObservedStore {
        &self.host.store
    }

    pub(crate) fn clock(&self) -> &'a dyn Clock {
        &*self.host.clock
    }

    /// Stores the plan that a restart needs, separate from the checkpoints of items.
    pub(crate) fn keep_plan(&mut self, plan: &str) -> Result<(), StepError> {
        let now = self.clock().now();
        lifecycle::keep_plan(self.store(), self.lease, &mut self.step, plan, now)
            .map_err(|source| self.commit_failed(source))
    }

    /// Whether the step should end at its next chunk boundary.
    pub(crate) fn stop_requested(&self) -> bool {
        self.scope.stop().is_requested()
    }

    /// Commits `transaction` with the step's checkpoint and contexts.
    pub(crate) fn commit(
        &mut self,
        mut transaction: ChunkTransaction<'_>,
        commit: Commit<'_>,
    ) -> Result<(), RepositoryError> {
        let (at, begun) = (self.clock().now(), self.clock().elapsed());
        // First the transaction, then the lock: the holder of the lock then always has a connection already.
        let tx = transaction.tx()?;
        let lock = self.scope.job().context().commit_lock();
        let alone = lock.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        let step_context = self.scope.context().change();
        let job_context = self.scope.job().context().change();
        let step_json = step_context.as_ref().map(crate::context::ExecutionContext::to_json);
        let job_json = job_context.as_ref().map(crate::context::ExecutionContext::to_json);
        let held = tx.save_checkpoint(&CheckpointUpdate {
            lease: self.lease,
            step: self.step.id,
            counters: &commit.counters,
            progress: commit.progress,
            checkpoint: commit.checkpoint,
            step_context: step_json.as_deref(),
            job_context: job_json.as_deref(),
            at,
        })?;
        if !commit.skips.is_empty() {
            tx.insert_skips(self.step.id, commit.skips)?;
        }
        self.call_hook(CommitPoint::Before);
        transaction.commit()?;
        self.call_hook(CommitPoint::After);
        if let Some(stored) = step_context {
            self.scope.context().committed(stored);
        }
        if let Some(stored) = job_context {
            self.scope.job().context().committed(stored);
        }
        self.step.counters = commit.counters;
        self.step.progress = commit.progress;
        self.scope.set_counters(commit.counters);
        if held == Held::StopRequested {
            self.scope.job().stop().request();
        }
        // An observer may wait for another commit of this job.
        drop(alone);
        let took = self.clock().elapsed().saturating_sub(begun);
        self.emit(at, |id| Change::ChunkCommitted {
            id,
            counters: commit.counters,
            progress: commit.progress,
            times: commit.times.map(|times| ChunkTimes { commit: took, ..times }),
        });
        Ok(())
    }

    fn call_hook(&self, point: CommitPoint) {
        if let Some(hook) = &self.host.commit_hook {
            hook(self.scope.job(), self.scope.step(), point);
        }
    }

    /// Restores the contexts to their committed values after a failed attempt.
    pub(crate) fn roll_back(&mut self, error: &dyn std::fmt::Display) {
        self.scope.context().roll_back();
        self.scope.job().context().roll_back();
        self.step.counters.rollback += 1;
        tracing::debug!(step = self.scope.step(), %error, "chunk rolled back");
        let at = self.clock().now();
        let error = || error.to_string();
        self.emit(at, |id| Change::ChunkRolledBack { id, error: error() });
    }

    /// Converts a repository failure into a failure of this step.
    pub(crate) fn commit_failed(&self, source: RepositoryError) -> StepError {
        StepError::Commit { step: self.scope.step().to_owned(), source }
    }

    fn emit(&self, at: Timestamp, change: impl FnOnce(StepExecutionId) -> Change) {
        self.host.store.events().emit(|| {
            let subject = self.scope.subject();
            Event { at, subject, change: change(self.step.id) }
        });
    }
}

/// The values that one commit stores.
#[derive(Clone, Copy)]
pub(crate) struct Commit<'a> {
    pub(crate) counters: Counters,
    pub(crate) checkpoint: &'a str,
    pub(crate) skips: &'a [SkipRecord],
    pub(crate) progress: Option<Progress>,
    pub(crate) times: Option<ChunkTimes>,
}
