//! What a start returns: the id of an execution and its end, to wait for or to await.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::RepositoryError;
use crate::execution::{ExecutionId, JobExecution};
use crate::repository::JobRepository;

/// An execution that was started here.
///
/// Dropping it changes nothing: the execution goes on. `wait` and `.await` both give the execution as it
/// was stored at its end.
#[derive(Debug)]
pub struct JobHandle {
    id: ExecutionId,
    shared: Arc<Shared>,
}

/// The side that knows the end.
pub(super) struct JobEnding {
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
    end: Option<Result<(), Arc<RepositoryError>>>,
    wakers: Vec<Waker>,
}

/// Why an execution ended without its end being stored by this process.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Another worker carries it forward now.
    #[error("carry execution {execution} forward: its lease went to another worker")]
    LeaseLost {
        /// The execution.
        execution: ExecutionId,
    },
    /// The store failed; the execution stays running in it until it is recovered.
    #[error("store the end of execution {execution}")]
    Repository {
        /// The execution.
        execution: ExecutionId,
        /// What the store reported.
        #[source]
        source: Arc<RepositoryError>,
    },
    /// The thread that ran it is gone without a word.
    #[error("hear the end of execution {execution}: its thread is gone")]
    Vanished {
        /// The execution.
        execution: ExecutionId,
    },
}

impl JobHandle {
    pub(super) fn new(id: ExecutionId, repository: Arc<dyn JobRepository>) -> (Self, JobEnding) {
        let shared =
            Arc::new(Shared { repository, state: Mutex::default(), ended: Condvar::new() });
        (Self { id, shared: Arc::clone(&shared) }, JobEnding { shared })
    }

    /// Number of the execution.
    pub fn id(&self) -> ExecutionId {
        self.id
    }

    /// Blocks until the execution has ended.
    ///
    /// # Errors
    ///
    /// [`RunError`]: the end was not stored by this process.
    pub fn wait(&self) -> Result<JobExecution, RunError> {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self
            .shared
            .ended
            .wait_while(state, |state| state.end.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let end = state.end.clone();
        drop(state);
        self.outcome(end)
    }

    fn outcome(
        &self,
        end: Option<Result<(), Arc<RepositoryError>>>,
    ) -> Result<JobExecution, RunError> {
        let execution = self.id;
        match end {
            Some(Ok(())) => match self.shared.repository.execution(execution) {
                Ok(Some(found)) => Ok(found),
                Ok(None) => Err(RunError::Vanished { execution }),
                Err(error) => Err(RunError::Repository { execution, source: Arc::new(error) }),
            },
            Some(Err(error)) if error.is_lease_lost() => Err(RunError::LeaseLost { execution }),
            Some(Err(source)) => Err(RunError::Repository { execution, source }),
            None => Err(RunError::Vanished { execution }),
        }
    }
}

impl Future for JobHandle {
    type Output = Result<JobExecution, RunError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.end.is_none() {
            state.wakers.push(context.waker().clone());
            return Poll::Pending;
        }
        let end = state.end.clone();
        drop(state);
        Poll::Ready(self.outcome(end))
    }
}

impl JobEnding {
    /// Tells everybody who waits.
    pub(super) fn end(self, result: Result<(), RepositoryError>) {
        self.set(result.map_err(Arc::new));
    }

    fn set(&self, result: Result<(), Arc<RepositoryError>>) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.end.get_or_insert(result);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.shared.ended.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for JobEnding {
    /// A thread that unwinds must not leave anybody waiting.
    fn drop(&mut self) {
        let gone = "the thread that ran the execution ended without storing how";
        self.set(Err(Arc::new(RepositoryError::Corrupt { what: gone.to_owned() })));
    }
}
