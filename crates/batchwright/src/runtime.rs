//! The runtime that drives asynchronous parts, on the thread of their step.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::clock::StopToken;
use crate::error::{ErrorKind, ItemError};
use crate::threads::waker_of_this_thread;

/// Threads of the runtime. They serve sockets and timers; the futures of parts are polled by the steps.
const RUNTIME_THREADS: usize = 2;
/// How often a wait looks for a stop request.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// How long a call of a part goes on after a stop request.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);

/// Polls `future` on this thread until it is ready. When `stop` is requested, drops the future after `grace`.
///
/// The thread is not one of the runtime, and may be one of the application's: a test that calls a part.
///
/// # Errors
///
/// The future was dropped, or the system refuses the threads of the runtime.
#[expect(clippy::disallowed_methods, reason = "a bound on a wait, not a time that is stored")]
pub(crate) fn wait<T>(
    stop: &StopToken,
    grace: Duration,
    future: impl Future<Output = T>,
) -> Result<T, ItemError> {
    // The sockets and timers of the future are those of this runtime, also when it is dropped.
    let _within = runtime()?.enter();
    let mut future = pin!(future);
    let waker = waker_of_this_thread();
    let mut context = Context::from_waker(&waker);
    let mut stopped_at = None;
    loop {
        if let Poll::Ready(ready) = future.as_mut().poll(&mut context) {
            return Ok(ready);
        }
        if stop.is_requested() {
            let stopped_at = *stopped_at.get_or_insert_with(Instant::now);
            if stopped_at.elapsed() >= grace {
                return Err(ItemError::stopped("a stop was requested during the wait"));
            }
        }
        std::thread::park_timeout(STOP_INTERVAL);
    }
}

/// Returns the runtime of this process, and starts it at the first call.
pub(crate) fn runtime() -> Result<&'static Runtime, ItemError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(RUNTIME_THREADS).thread_name("batchwright async").enable_all();
    let started = builder.build().map_err(|error| {
        ItemError::wrap(ErrorKind::IO, "cannot start the runtime of asynchronous parts", error)
    })?;
    Ok(RUNTIME.get_or_init(|| started))
}
