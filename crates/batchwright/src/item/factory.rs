//! Makes the parts of a step for each of its executions, and calls them.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::ItemError;
use crate::scope::StepScope;

/// A factory that creates a part of a step for each step execution.
pub(crate) type Factory<T> = Arc<dyn Fn(&StepScope) -> Result<T, ItemError> + Send + Sync>;

/// Creates a factory that clones `part`; `part` itself need not be shareable.
pub(crate) fn cloning<T: Clone + Send + 'static>(part: T) -> Factory<T> {
    let part = Mutex::new(part);
    Arc::new(move |_| Ok(part.lock().unwrap_or_else(PoisonError::into_inner).clone()))
}

/// Runs user code and turns a panic into an error of kind `panic`.
pub(crate) fn guarded<T>(code: impl FnOnce() -> Result<T, ItemError>) -> Result<T, ItemError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(code))
        .unwrap_or_else(|payload| Err(ItemError::from_panic(&*payload)))
}
