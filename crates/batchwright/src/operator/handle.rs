//! The handle of a started execution: its id, and its end to wait for or to await.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::RepositoryError;
use crate::execution::{ExecutionId, JobExecution};
use crate::refusal::RunError;
use crate::store::JobRepository;

/// The handle of an execution that this process started.
///
/// Dropping the handle does not stop the execution. `wait` and `.await` both return the execution as it was
/// stored at its end. Neither asks the store: the thread of the execution does, before it wakes the callers.
#[derive(Debug)]
#[must_use = "the execution runs on; call `wait`, `.await` the handle, or keep its `id`"]
pub struct JobHandle {
    id: ExecutionId,
    shared: Arc<Shared>,
}

/// The sending side of a [`JobHandle`]: reports how the execution ended.
pub(super) struct JobEnding {
    id: ExecutionId,
    repository: Arc<dyn JobRepository>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
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
    end: Option<Result<JobExecution, RunError>>,
    wakers: Vec<Waker>,
}

impl JobHandle {
    pub(super) fn new(id: ExecutionId, repository: Arc<dyn JobRepository>) -> (Self, JobEnding) {
        let shared = Arc::<Shared>::default();
        (Self { id, shared: Arc::clone(&shared) }, JobEnding { id, repository, shared })
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
        loop {
            if let Some(end) = state.end.clone() {
                return end;
            }
            let woken = self.shared.ended.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for JobHandle {
    type Output = Result<JobExecution, RunError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.end.clone() {
            Some(end) => Poll::Ready(end),
            None => {
                if !state.wakers.iter().any(|known| known.will_wake(context.waker())) {
                    state.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl JobEnding {
    /// Reads the execution as it was stored at its end, and wakes all waiting threads and tasks. `result` has the
    /// execution as this process stored it, if it did; that is the end when the store cannot be read now.
    pub(super) fn end(self, result: Result<Option<JobExecution>, RepositoryError>) {
        let execution = self.id;
        let ended = result.and_then(|mine| match (self.repository.execution(execution), mine) {
            (Err(_), Some(mine)) => Ok(Some(mine)),
            (stored, _) => stored,
        });
        self.set(match ended {
            Ok(Some(ended)) => Ok(ended),
            Ok(None) => Err(RunError::Deleted { execution }),
            Err(error) if error.is_lease_lost() => Err(RunError::LeaseLost { execution }),
            Err(error) => Err(RunError::Repository { execution, source: Arc::new(error) }),
        });
    }

    fn set(&self, result: Result<JobExecution, RunError>) {
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
        ending.end(Ok(None));
        let error = handle.wait().expect_err("a deleted execution").to_string();
        assert_eq!(error, "execution 7 was deleted before its outcome was read");
    }
}
