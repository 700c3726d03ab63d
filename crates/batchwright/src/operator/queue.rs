//! Executions that are stored for another process: one process queues them, any process of the store claims them.

use super::{JobHandle, JobOperator, OperatorError};
use crate::execution::{BatchStatus, ExecutionId, ExitStatus, Failure, JobExecution, StatusEvent};
use crate::host::lock;
use crate::launch::{LaunchOptions, RecoverMode};
use crate::lifecycle;
use crate::query::ExecutionFilter;
use crate::store::Lease;

/// Suffix of the owner's name of an execution that a process claimed from the queue.
const CLAIMED_SUFFIX: &str = "/served";

impl JobOperator {
    /// Returns the queue of the store: executions that [`enqueue`](Self::enqueue) stored for any process.
    pub fn queue(&self) -> JobQueue<'_> {
        JobQueue { operator: self }
    }
}

/// The queue of a store, for a worker: the executions that wait, and those that this process claimed.
pub struct JobQueue<'a> {
    operator: &'a JobOperator,
}

impl std::fmt::Debug for JobQueue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobQueue").finish_non_exhaustive()
    }
}

impl JobQueue<'_> {
    /// Returns whether one more execution can begin at once in this process.
    pub fn has_room(&self) -> bool {
        lock(&self.operator.inner.host.active).len() < self.operator.inner.running_jobs_max
    }

    /// Returns the number of executions that this process runs and drives, queued or not.
    pub fn running(&self) -> usize {
        lock(&self.operator.inner.host.active).len()
    }

    /// Returns the queued executions that no process has claimed, oldest first.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn queued(&self) -> Result<Vec<JobExecution>, OperatorError> {
        let starting = ExecutionFilter::default().status(BatchStatus::Starting);
        let mut waiting = self.operator.queries().executions(&starting)?;
        waiting.retain(|execution| execution.owner.is_none());
        waiting.reverse();
        Ok(waiting)
    }

    /// Claims the queued execution `id` and runs it. `None`: another process claimed it first, it was
    /// stopped, or the definition of its job changed since it was queued, in which case the execution ends as
    /// failed.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchJob`](crate::refusal::Refusal::NoSuchJob) when the job is not registered here; the execution stays queued.
    pub fn claim(&self, id: ExecutionId) -> Result<Option<JobHandle>, OperatorError> {
        let job = self.operator.explorer().job_of(&self.operator.execution(id)?)?;
        let taken = self.operator.adopt(id, CLAIMED_SUFFIX)?;
        let Some(execution) = taken else { return Ok(None) };
        let queued = execution.fingerprint.as_deref();
        if job.fingerprint().zip(queued).is_some_and(|(now, then)| now != then) {
            self.refuse_changed(&execution)?;
            return Ok(None);
        }
        Ok(Some(self.operator.submit(job, &execution, &LaunchOptions::default())))
    }

    /// Fails a claimed execution because the definition of its job changed after it was queued.
    fn refuse_changed(&self, execution: &JobExecution) -> Result<(), OperatorError> {
        let message = "the definition of the job changed after the execution was queued";
        let failure = Failure::new("changed_definition", message);
        let ended = lifecycle::Ended {
            event: StatusEvent::Fail,
            exit: ExitStatus::failed().with_message(message),
            failure: Some(failure),
            warnings: Vec::new(),
            context: None,
            flow: execution.flow.clone(),
        };
        let lease = Lease { execution: execution.id, fence: execution.fence };
        lifecycle::finish(self.operator.store(), lease, &ended, self.operator.now())?;
        Ok(())
    }

    /// Returns the running executions whose owners are dead. The flag is true for an execution that was
    /// claimed from the queue: any process may continue it. The others are continued by the callers that
    /// started them.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn orphaned(&self) -> Result<Vec<(JobExecution, bool)>, OperatorError> {
        let now = self.operator.now();
        let mut running =
            self.operator.queries().executions(&ExecutionFilter::default().running())?;
        running.retain(|one| crate::launch::may_recover(one, RecoverMode::Detect, now).is_ok());
        let with_flag = |one: JobExecution| {
            let served = was_claimed(&one);
            (one, served)
        };
        Ok(running.into_iter().map(with_flag).collect())
    }

    /// Returns the executions that this process claimed from the queue and still runs.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn claimed(&self) -> Result<Vec<ExecutionId>, OperatorError> {
        let held: Vec<_> = lock(&self.operator.inner.host.active).keys().copied().collect();
        let mut served = Vec::new();
        for id in held {
            if was_claimed(&self.operator.execution(id)?) {
                served.push(id);
            }
        }
        Ok(served)
    }
}

fn was_claimed(execution: &JobExecution) -> bool {
    execution.owner.as_deref().is_some_and(|owner| owner.ends_with(CLAIMED_SUFFIX))
}
