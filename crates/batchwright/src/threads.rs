//! Scoped threads that run concurrently within one call.

use std::thread::{Builder, Scope, ScopedJoinHandle};

/// Starts a thread called `name` in `scope`. Returns `None`, and logs a warning, when the system cannot start
/// a thread; the caller then works without it.
pub(crate) fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, work)
        .inspect_err(|error| tracing::warn!(%error, thread = name, "a thread could not be started"))
        .ok()
}
