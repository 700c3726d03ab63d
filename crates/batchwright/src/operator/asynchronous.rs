//! The operator for asynchronous code.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::pool::Pool;
use super::{JobHandle, JobOperator, OperatorError};
use crate::execution::{ExecutionId, JobExecution};
use crate::launch::Launch;
use crate::parameters::JobParameters;

/// Maximum number of calls that run at once; further ones wait. A store serves few writers at a time.
pub(super) const CALLS_MAX: usize = 8;

impl JobOperator {
    /// Returns the operator for asynchronous code. Its calls run on threads of the operator, so that a store that
    /// answers late blocks no thread of the runtime; any runtime can poll them.
    pub fn asynchronous(&self) -> AsyncOperator {
        AsyncOperator { operator: self.clone() }
    }
}

/// Starts, restarts and stops executions from asynchronous code. Made by [`JobOperator::asynchronous`].
///
/// A call begins when it is first polled. Dropping its future does not undo it: the call runs to its end. The futures
/// borrow nothing, so they can be spawned.
///
/// ```no_run
/// use batchwright::{JobOperator, JobParameters};
///
/// async fn import(operator: &JobOperator) -> Result<String, Box<dyn std::error::Error>> {
///     let handle = operator.asynchronous().start("import", JobParameters::new()).await?;
///     let ended = handle.await?;
///     Ok(ended.status.to_string())
/// }
/// ```
#[derive(Clone)]
pub struct AsyncOperator {
    pub(super) operator: JobOperator,
}

impl std::fmt::Debug for AsyncOperator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncOperator").finish_non_exhaustive()
    }
}

impl AsyncOperator {
    /// Calls `work` with the operator, for questions and for calls that have no method here. At most eight calls run
    /// at once, so `work` must not wait for the end of a job or for another call.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`OperatorError::NoResult`] when `work` panics or no thread can be started.
    pub fn call<T, F>(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T, OperatorError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&JobOperator) -> Result<T, OperatorError> + Send + 'static,
    {
        let operator = self.operator.clone();
        async move { call_on(&operator, &operator.inner.calls, work).await }
    }

    /// Starts a job; see [`JobOperator::start`]. Await the handle for the end of the execution.
    ///
    /// # Errors
    ///
    /// As [`JobOperator::start`].
    pub fn start(
        &self,
        name: &str,
        parameters: JobParameters,
    ) -> impl Future<Output = Result<JobHandle, OperatorError>> + Send + use<> {
        self.launch(Launch::start(name, parameters))
    }

    /// Starts a job and waits for its end; see [`JobOperator::run`].
    ///
    /// # Errors
    ///
    /// As [`JobOperator::run`].
    pub fn run(
        &self,
        name: &str,
        parameters: JobParameters,
    ) -> impl Future<Output = Result<JobExecution, OperatorError>> + Send + use<> {
        let started = self.start(name, parameters);
        async move { Ok(started.await?.await?) }
    }

    /// Starts the next instance of a job; see [`JobOperator::next`].
    ///
    /// # Errors
    ///
    /// As [`JobOperator::next`].
    pub fn next(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<JobHandle, OperatorError>> + Send + use<> {
        self.launch(Launch::next(name))
    }

    /// Restarts an execution; see [`JobOperator::restart`].
    ///
    /// # Errors
    ///
    /// As [`JobOperator::restart`].
    pub fn restart(
        &self,
        id: ExecutionId,
    ) -> impl Future<Output = Result<JobHandle, OperatorError>> + Send + use<> {
        self.launch(Launch::restart(id))
    }

    /// Starts the execution that `launch` describes; see [`JobOperator::launch`].
    ///
    /// # Errors
    ///
    /// As [`JobOperator::launch`].
    pub fn launch(
        &self,
        launch: Launch,
    ) -> impl Future<Output = Result<JobHandle, OperatorError>> + Send + use<> {
        self.call(move |operator| operator.launch(&launch))
    }

    /// Queues an execution for any server that shares the store; see [`JobOperator::enqueue`]. It is continued on another
    /// one when its server stops or dies.
    ///
    /// # Errors
    ///
    /// As [`JobOperator::enqueue`].
    pub fn enqueue(
        &self,
        launch: Launch,
    ) -> impl Future<Output = Result<JobExecution, OperatorError>> + Send + use<> {
        self.call(move |operator| operator.enqueue(&launch))
    }

    /// Requests an execution to stop; see [`JobOperator::stop`].
    ///
    /// # Errors
    ///
    /// As [`JobOperator::stop`].
    pub fn stop(
        &self,
        id: ExecutionId,
    ) -> impl Future<Output = Result<JobExecution, OperatorError>> + Send + use<> {
        let operator = self.operator.clone();
        async move { call_on(&operator, &operator.inner.stops, move |operator| operator.stop(id)).await }
    }
}

/// Runs `work` on a thread of `pool`.
async fn call_on<T: Send + 'static>(
    operator: &JobOperator,
    pool: &Pool,
    work: impl FnOnce(&JobOperator) -> Result<T, OperatorError> + Send + 'static,
) -> Result<T, OperatorError> {
    let (sender, result) = pending();
    let operator = operator.clone();
    pool.submit(Box::new(move || sender.send(work(&operator))));
    result.await
}

/// The result of a call, and who waits for it.
struct Slot<T> {
    result: Option<Result<T, OperatorError>>,
    waker: Option<Waker>,
}

/// The side of a call that sends its result, once. Dropped without one, it sends [`OperatorError::NoResult`].
struct ResultSender<T>(Arc<Mutex<Slot<T>>>);

/// The side of a call that waits for its result.
struct PendingResult<T>(Arc<Mutex<Slot<T>>>);

fn pending<T>() -> (ResultSender<T>, PendingResult<T>) {
    let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
    (ResultSender(Arc::clone(&slot)), PendingResult(slot))
}

impl<T> ResultSender<T> {
    fn send(self, result: Result<T, OperatorError>) {
        self.set(result);
    }

    fn set(&self, result: Result<T, OperatorError>) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.result.get_or_insert(result);
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for ResultSender<T> {
    fn drop(&mut self) {
        self.set(Err(OperatorError::NoResult));
    }
}

impl<T> Future for PendingResult<T> {
    type Output = Result<T, OperatorError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
