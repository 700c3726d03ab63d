//! Retries in a chunk: the policy, the listeners and the wait between two attempts, for reads, items and
//! writes alike.

use std::sync::Arc;
use std::time::Duration;

use super::process::Fault;
use crate::clock::Clock;
use crate::error::ItemError;
use crate::event::{Change, Event, Events};
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
    /// Where each retry is reported.
    pub(super) events: &'a Events,
}

/// Maximum number of attempts at a commit that conflicts with other transactions. Each resolution of a
/// deadlock lets one transaction through, so this many conflicts in a row are no accident.
pub(super) const CONTENTION_ATTEMPTS_MAX: u32 = 10;

/// Returns the wait before the next attempt, which doubles up to a limit. Jitter is not needed: the timing of
/// processes differs.
pub(super) fn contention_wait(attempts: u32) -> Duration {
    Duration::from_millis(5 << attempts.min(6))
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
        self.events.emit(|| Event {
            at: self.clock.now(),
            subject: self.scope.subject(),
            change: Change::Retried {
                id: self.scope.id(),
                phase,
                kind: error.kind().clone(),
                failed: failed.count,
            },
        });
        Ok(true)
    }
}
