//! Retries in a chunk: the policy, the listeners and the wait between two attempts, for reads, items and
//! writes alike.

use std::sync::Arc;

use super::process::Fault;
use crate::clock::Clock;
use crate::error::ItemError;
use crate::execution::Phase;
use crate::item::guarded;
use crate::listener::RetryListener;
use crate::retry::{self, FailedAttempts, RetryPolicy};
use crate::scope::StepScope;

/// What a retry needs.
#[derive(Clone, Copy)]
pub(super) struct Retries<'a> {
    pub(super) policy: &'a RetryPolicy,
    pub(super) listeners: &'a [Arc<dyn RetryListener>],
    pub(super) clock: &'a dyn Clock,
    pub(super) scope: &'a StepScope,
}

impl Retries<'_> {
    /// Counts a failed attempt, and returns whether another one follows. If so, calls the listeners and waits
    /// before it returns.
    ///
    /// # Errors
    ///
    /// A listener's, or one of kind `stopped` when a stop request cuts the wait short.
    pub(super) fn wait_for_next(
        &self,
        phase: Phase,
        failed: &mut FailedAttempts,
        error: &ItemError,
    ) -> Result<bool, Fault> {
        let Some(backoff) = failed.add(self.policy, self.clock, error) else { return Ok(false) };
        for listener in self.listeners {
            guarded(|| listener.on_retry(self.scope, phase, failed.count, error))
                .map_err(|error| Fault::Listener("on_retry", error))?;
        }
        retry::wait(backoff, failed.count, self.clock, self.scope.stop()).map_err(Fault::Item)?;
        Ok(true)
    }
}
