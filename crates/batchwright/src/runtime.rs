//! The runtime that drives asynchronous parts, on the thread of their step.

use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::clock::StopToken;
use crate::error::{ErrorKind, ItemError};

/// Threads of the runtime. They serve sockets and timers; the futures of parts are polled by the steps.
const RUNTIME_THREADS: usize = 2;
/// How often a wait looks for a stop request.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// How long a call of a part goes on after a stop request.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);

/// Polls `future` on this thread until it is ready. When `stop` is requested, drops the future after `grace`.
///
/// # Errors
///
/// The future was dropped, or the system refuses the threads of the runtime.
pub(crate) fn wait<T>(
    stop: &StopToken,
    grace: Duration,
    future: impl Future<Output = T>,
) -> Result<T, ItemError> {
    runtime()?.block_on(async {
        let mut future = pin!(future);
        let mut waited_after_stop = Duration::ZERO;
        loop {
            if let Ok(ready) = tokio::time::timeout(STOP_INTERVAL, future.as_mut()).await {
                return Ok(ready);
            }
            if stop.is_requested() {
                waited_after_stop += STOP_INTERVAL;
                if waited_after_stop > grace {
                    return Err(ItemError::stopped("a stop was requested during the wait"));
                }
            }
        }
    })
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
