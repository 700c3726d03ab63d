//! The sign of life of this process: renews leases, hears stops. Independent of user code.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Active, Carried, Held, later, lock};
use crate::clock::{Clock, StopToken};
use crate::error::RepositoryError;
use crate::repository::JobRepository;

/// Renewals within one lease: one or two may get lost.
const RENEWALS_PER_LEASE: u32 = 3;

/// Beats on a thread of its own until it is dropped.
pub(super) struct Heartbeat {
    end: StopToken,
}

impl Heartbeat {
    pub(super) fn start(
        repository: Arc<dyn JobRepository>,
        clock: Arc<dyn Clock>,
        active: Active,
        lease_timeout: Duration,
    ) -> Self {
        let end = StopToken::default();
        let ended = end.clone();
        let beats = move || {
            let interval = lease_timeout / RENEWALS_PER_LEASE;
            loop {
                // Real time, whatever the clock says: other processes live in it too.
                ended.wait(interval);
                // A process whose operator is gone still owns what it runs.
                if ended.is_requested() && lock(&active).is_empty() {
                    return;
                }
                if let Err(error) = beat(&*repository, &*clock, &active, lease_timeout) {
                    tracing::warn!(error = %crate::report(&error), "leases were not renewed");
                }
                if ended.is_requested() {
                    StopToken::default().wait(interval);
                }
            }
        };
        let spawned = thread::Builder::new().name("batchwright heartbeat".to_owned()).spawn(beats);
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for the heartbeat: leases will expire");
        }
        Self { end }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.end.request();
    }
}

/// Renews all leases in one unit of work.
fn beat(
    repository: &dyn JobRepository,
    clock: &dyn Clock,
    active: &Active,
    lease_timeout: Duration,
) -> Result<(), RepositoryError> {
    let mut held: Vec<Held> = lock(active).values().cloned().collect();
    // What is driven has lanes, each with a lease of its own.
    held.retain(|one| one.carried == Carried::Owned);
    if held.is_empty() {
        return Ok(());
    }
    let until = later(clock.now(), lease_timeout);
    let mut unit = repository.begin()?;
    for Held { lease, job, stop, .. } in held {
        match unit.renew_lease(&lease, until)? {
            Some(false) => {}
            Some(true) => stop.request(),
            None if lock(active).contains_key(&lease.execution) => {
                // Its next commit will be refused; the work may as well end now.
                tracing::warn!(execution = %lease.execution, job, "lease lost");
                stop.request();
            }
            None => {}
        }
    }
    unit.commit()
}
