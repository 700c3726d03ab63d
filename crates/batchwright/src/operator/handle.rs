//! The handle of a started execution: its id, and its end to wait for or to await.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::RepositoryError;
use crate::execution::{ExecutionId, JobExecution};
use crate::store::JobRepository;

/// The handle of an execution that this process started.
///
/// Dropping the handle does not stop the execution. `wait` and `.await` both return the execution as it was
/// stored at its end.
#[derive(Debug)]
pub struct JobHandle {
    id: ExecutionId,
    shared: Arc<Shared>,
}

/// The sending side of a [`JobHandle`]: reports how the execution ended.
pub(super) struct JobEnding {
    id: ExecutionId,
    shared: Arc<Shared>,
}

struct Shared {
    repository: Arc<dyn JobRepository>,
    state: Mutex<State>,
    ended: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    end: Option<Result<(), RunError>>,
    wakers: Vec<Waker>,
}

/// Why an execution ended without its end being stored by this process.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Another worker took over the lease of the execution.
    #[error("another process took over the lease of execution {execution}")]
    LeaseLost {
        /// The execution.
        execution: ExecutionId,
    },
    /// The store failed; the stored execution stays running until it is recovered.
    #[error("the end of execution {execution} cannot be stored")]
    Repository {
        /// The execution.
        execution: ExecutionId,
        /// What the store reported.
        #[source]
        source: Arc<RepositoryError>,
    },
    /// The thread of the execution panicked or could not be started; the stored execution stays running until it
    /// is recovered.
    #[error(
        "execution {execution} has no stored outcome: its thread panicked or could not be started"
    )]
    NoOutcome {
        /// The execution.
        execution: ExecutionId,
    },
    /// The execution was deleted before its outcome was read.
    #[error("execution {execution} was deleted before its outcome was read")]
    Deleted {
        /// The execution.
        execution: ExecutionId,
    },
}

impl JobHandle {
    pub(super) fn new(id: ExecutionId, repository: Arc<dyn JobRepository>) -> (Self, JobEnding) {
        let shared =
            Arc::new(Shared { repository, state: Mutex::default(), ended: Condvar::new() });
        (Self { id, shared: Arc::clone(&shared) }, JobEnding { id, shared })
    }

    /// Returns the number of the execution.
    pub fn id(&self) -> ExecutionId {
        self.id
    }

    /// Blocks until the execution has ended.
    ///
    /// # Errors
    ///
    /// [`RunError`]: the end was not stored by this process.
    pub fn wait(&self) -> Result<JobExecution, RunError> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = loop {
            match state.end.clone() {
                Some(end) => break end,
                None => {
                    let woken = self.shared.ended.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(state);
        self.outcome(end)
    }

    fn outcome(&self, end: Result<(), RunError>) -> Result<JobExecution, RunError> {
        let execution = self.id;
        end?;
        let found = self.shared.repository.execution(execution);
        found
            .map_err(|error| RunError::Repository { execution, source: Arc::new(error) })?
            .ok_or(RunError::Deleted { execution })
    }
}

impl Future for JobHandle {
    type Output = Result<JobExecution, RunError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(end) = state.end.clone() else {
            state.wakers.push(context.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        Poll::Ready(self.outcome(end))
    }
}

impl JobEnding {
    /// Stores the result and wakes all waiting threads and tasks.
    pub(super) fn end(self, result: Result<(), RepositoryError>) {
        let execution = self.id;
        self.set(result.map_err(|error| match error.is_lease_lost() {
            true => RunError::LeaseLost { execution },
            false => RunError::Repository { execution, source: Arc::new(error) },
        }));
    }

    fn set(&self, result: Result<(), RunError>) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.end.get_or_insert(result);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.shared.ended.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for JobEnding {
    /// Reports a missing outcome, so that a thread that unwinds leaves no caller waiting.
    fn drop(&mut self) {
        self.set(Err(RunError::NoOutcome { execution: self.id }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryRepository;

    fn unended() -> (JobHandle, JobEnding) {
        JobHandle::new(ExecutionId(7), Arc::new(MemoryRepository::new()))
    }

    #[test]
    fn a_thread_that_ends_without_an_outcome_leaves_no_caller_waiting() {
        let (handle, ending) = unended();
        drop(ending);
        let error = handle.wait().expect_err("no outcome");
        assert!(matches!(error, RunError::NoOutcome { .. }), "{error}");
    }

    #[test]
    fn an_execution_that_was_deleted_is_named_as_deleted() {
        let (handle, ending) = unended();
        ending.end(Ok(()));
        let error = handle.wait().expect_err("a deleted execution").to_string();
        assert_eq!(error, "execution 7 was deleted before its outcome was read");
    }
}
