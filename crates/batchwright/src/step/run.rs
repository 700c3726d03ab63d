//! One run of one step: its row, its lease, and the commit that moves both forward.

use jiff::Timestamp;

use super::{ChunkTransaction, StepScope};
use crate::clock::Clock;
use crate::error::{RepositoryError, StepError};
use crate::event::{Change, Event, Events, Progress};
use crate::execution::{Counters, SkipRecord, StepExecution};
use crate::operator::{CommitHook, CommitPoint};
use crate::repository::{CheckpointUpdate, JobRepository, Lease};

/// What a step's code works with while it runs.
#[doc(hidden)]
pub struct StepRun<'a> {
    pub(crate) repository: &'a dyn JobRepository,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) events: &'a Events,
    pub(crate) lease: Lease,
    pub(crate) scope: StepScope,
    /// The row, as last committed (its counters as last counted).
    pub(crate) step: StepExecution,
    /// Skips of earlier executions of the step in this instance.
    pub(crate) earlier_skips: u64,
    pub(crate) commit_hook: Option<CommitHook>,
}

impl<'a> StepRun<'a> {
    /// Whether the step should end at its next boundary.
    pub(crate) fn stop_requested(&self) -> bool {
        self.scope.stop().is_requested()
    }

    /// Commits `transaction` with the step at `checkpoint`.
    pub(crate) fn commit(
        &mut self,
        mut transaction: ChunkTransaction<'_>,
        commit: Commit<'_>,
    ) -> Result<(), RepositoryError> {
        let step_context = self.scope.context().change();
        let job_context = self.scope.job().context().change();
        let step_json = step_context.as_ref().map(crate::ExecutionContext::to_json);
        let job_json = job_context.as_ref().map(crate::ExecutionContext::to_json);
        let at = self.clock.now();
        let unit = transaction.unit()?;
        let stop = unit.save_checkpoint(&CheckpointUpdate {
            lease: self.lease,
            step: self.step.id,
            counters: &commit.counters,
            checkpoint: commit.checkpoint,
            step_context: step_json.as_deref(),
            job_context: job_json.as_deref(),
            at,
        })?;
        if !commit.skips.is_empty() {
            unit.insert_skips(self.step.id, commit.skips)?;
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
        if stop {
            self.scope.stop().request();
        }
        self.emit(at, |id, name| Change::ChunkCommitted {
            id,
            name,
            counters: commit.counters,
            progress: commit.progress,
        });
        Ok(())
    }

    fn call_hook(&self, point: CommitPoint) {
        if let Some(hook) = &self.commit_hook {
            hook(self.scope.job(), self.scope.step(), point);
        }
    }

    /// An attempt was abandoned: contexts go back to what is committed.
    pub(crate) fn roll_back(&mut self, error: &dyn std::fmt::Display) {
        self.scope.context().roll_back();
        self.scope.job().context().roll_back();
        self.step.counters.rollback += 1;
        tracing::debug!(step = self.scope.step(), %error, "chunk rolled back");
        let at = self.clock.now();
        let error = || error.to_string();
        self.emit(at, |id, name| Change::ChunkRolledBack { id, name, error: error() });
    }

    /// Turns a repository failure into this step's.
    pub(crate) fn commit_failed(&self, source: RepositoryError) -> StepError {
        StepError::Commit { step: self.scope.step().to_owned(), source }
    }

    fn emit(
        &self,
        at: Timestamp,
        change: impl FnOnce(crate::StepExecutionId, std::sync::Arc<str>) -> Change,
    ) {
        self.events.emit(|| Event {
            at,
            execution: self.lease.execution,
            job: self.scope.job().job().into(),
            change: change(self.step.id, self.scope.step().into()),
        });
    }
}

/// What one commit stores.
pub(crate) struct Commit<'a> {
    pub(crate) counters: Counters,
    pub(crate) checkpoint: &'a str,
    pub(crate) skips: &'a [SkipRecord],
    pub(crate) progress: Option<Progress>,
}
