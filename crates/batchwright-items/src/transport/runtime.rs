//! The threads on which the connections of asynchronous libraries run.

use std::sync::OnceLock;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use tokio::runtime::{Builder, Runtime};

/// Returns the threads on which the connections of asynchronous libraries run.
pub(crate) fn runtime() -> Result<&'static Runtime, ItemError> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("batchwright-places").enable_all();
    let made = builder.build().map_err(|error| {
        ItemError::wrap(ErrorKind::IO, "cannot start a thread for connections", error)
    })?;
    Ok(RUNTIME.get_or_init(|| made))
}
