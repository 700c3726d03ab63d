//! The rows of steps: their begin, changes and end.

use std::sync::PoisonError;

use jiff::Timestamp;

use super::{owned, record_step, retry_on_conflict, transact};
use crate::context::ContextHandle;
use crate::error::RepositoryError;
use crate::execution::{
    BatchStatus, ExitStatus, Failure, JobExecution, StepExecution, StepExecutionId,
};
use crate::lifecycle::{ObservedStore, Tx};
use crate::store::{CheckpointUpdate, Lease};

/// Inserts the row of a step that begins.
pub(crate) fn begin_step(
    store: &ObservedStore,
    lease: Lease,
    step: StepExecution,
) -> Result<StepExecution, RepositoryError> {
    let id = transact(store, |tx| {
        let execution = owned(tx, lease)?;
        let id = tx.insert_step(&step)?;
        record_step(tx, &execution.job, &step, step.started_at)?;
        Ok::<_, RepositoryError>(id)
    })?;
    Ok(StepExecution { id, ..step })
}

/// Stores the changed row of a running step.
pub(crate) fn update_step(
    store: &ObservedStore,
    lease: Lease,
    step: &StepExecution,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    transact(store, |tx| {
        let execution = owned(tx, lease)?;
        tx.update_step(step)?;
        record_step(tx, &execution.job, step, now)
    })
}

/// The contexts of a step and its job, which the end of the step stores.
#[derive(Clone, Copy)]
pub(crate) struct Contexts<'a> {
    pub(crate) step: &'a ContextHandle,
    pub(crate) job: &'a ContextHandle,
}

/// Stores how a step ended.
///
/// The commits of chunks store position, counters and context. This function does not overwrite them, because
/// the last commit may have succeeded although its answer was lost.
pub(crate) fn end_step(
    store: &ObservedStore,
    lease: Lease,
    step: &mut StepExecution,
    contexts: Contexts<'_>,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    retry_on_conflict(|| {
        let mut tx = store.begin()?;
        // The order is transaction, lock, row of the execution: a holder of the lock already has a connection,
        // and a waiter for the row already holds the lock.
        let lock = contexts.job.commit_lock();
        let alone = lock.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        // With the row of the execution locked, no commit of this process is in progress: each commit locks it.
        let mut execution = owned(&mut tx, lease)?;
        let rows = tx.steps_of(lease.execution)?;
        let stored = rows.into_iter().find(|row| row.id == step.id).ok_or_else(|| {
            RepositoryError::Corrupt { what: format!("step execution {} does not exist", step.id) }
        })?;
        step.checkpoint = stored.checkpoint;
        if stored.counters.commit > step.counters.commit {
            step.counters = stored.counters;
        }
        step.context = contexts.step.change().unwrap_or(stored.context);
        let job_context = contexts.job.change();
        if let Some(context) = &job_context {
            execution.context = context.clone();
            tx.update_execution(&execution)?;
        }
        tx.update_step(step)?;
        record_step(&mut tx, &execution.job, step, now)?;
        let events = tx.commit_silently()?;
        if let Some(stored) = job_context {
            contexts.job.committed(stored);
        }
        // An observer may wait for another commit of this job.
        drop(alone);
        events.send();
        Ok(())
    })
}

/// Marks the failures of `steps` as handled: the flow continues after them, and a restart does not run them
/// again.
pub(crate) fn handle_failures(
    store: &ObservedStore,
    lease: Lease,
    steps: &[StepExecutionId],
) -> Result<(), RepositoryError> {
    transact(store, |tx| {
        owned(tx, lease)?;
        for mut step in tx.steps_of(lease.execution)? {
            if steps.contains(&step.id) {
                step.handled = true;
                tx.update_step(&step)?;
            }
        }
        Ok(())
    })
}

/// Stores the plan of a running step as its checkpoint, for its restart.
pub(crate) fn keep_plan(
    store: &ObservedStore,
    lease: Lease,
    step: &mut StepExecution,
    plan: &str,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    transact::<_, RepositoryError>(store, |tx| {
        // The step sees a requested stop at the commit of its next chunk.
        let _held = tx.save_checkpoint(&CheckpointUpdate {
            lease,
            step: step.id,
            counters: &step.counters,
            progress: step.progress,
            checkpoint: plan,
            step_context: None,
            job_context: None,
            at: now,
        })?;
        Ok(())
    })?;
    step.checkpoint = Some(plan.to_owned());
    Ok(())
}

/// Sets the running steps and partitions of `execution` to `FAILED` and keeps their checkpoints.
pub(super) fn close_steps(
    tx: &mut Tx<'_>,
    execution: &JobExecution,
    failure: &Failure,
    note: &str,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    for mut step in tx.steps_of(execution.id)? {
        if step.status.is_running() {
            step.status = BatchStatus::Failed;
            step.exit = ExitStatus::failed().with_message(note);
            step.failure = Some(failure.clone());
            step.ended_at = Some(now);
            tx.update_step(&step)?;
            record_step(tx, &execution.job, &step, now)?;
        }
    }
    Ok(())
}
