//! The heartbeat of this process: renews leases and passes on stop requests, on a thread of its own.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::clock::{Clock, StopToken, later};
use crate::error::RepositoryError;
use crate::host::{Active, ActiveExecution, RunMode, lock};
use crate::store::{Held, JobRepository};

/// Renewals within one lease, so that one or two may fail.
const RENEWALS_PER_LEASE: u32 = 3;

/// Renews leases on a thread of its own until it is dropped and no execution is active.
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
                // Real time, not the operator's clock: other processes measure leases in real time.
                ended.wait(interval);
                // Executions outlive a dropped operator, and the process still owns them.
                if ended.is_requested() && lock(&active).is_empty() {
                    return;
                }
                if let Err(error) = beat(&*repository, &*clock, &active, lease_timeout) {
                    tracing::warn!(error = %crate::error::report(&error), "leases were not renewed");
                }
                if ended.is_requested() {
                    StopToken::default().wait(interval);
                }
            }
        };
        let spawned = thread::Builder::new().name("batchwright heartbeat".to_owned()).spawn(beats);
        if let Err(error) = spawned {
            tracing::error!(%error, "the heartbeat did not start; leases will expire");
        }
        Self { end }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.end.request();
    }
}

/// Renews the leases of all owned executions in one transaction and passes on their stop requests.
fn beat(
    repository: &dyn JobRepository,
    clock: &dyn Clock,
    active: &Active,
    lease_timeout: Duration,
) -> Result<(), RepositoryError> {
    let mut held: Vec<ActiveExecution> = lock(active).values().cloned().collect();
    // A driven execution has no lease of its own: each of its lanes has one.
    held.retain(|one| one.mode == RunMode::Owned);
    if held.is_empty() {
        return Ok(());
    }
    let until = later(clock.now(), lease_timeout);
    let mut tx = repository.begin()?;
    for ActiveExecution { lease, job, stop, .. } in held {
        match tx.renew_lease(&lease, until)? {
            Held::Yes => {}
            Held::StopRequested => stop.request(),
            Held::Lost if lock(active).contains_key(&lease.execution) => {
                // The next commit of the execution will be refused, so its work can end now.
                tracing::warn!(execution = %lease.execution, job, "lease lost");
                stop.request();
            }
            Held::Lost => {}
        }
    }
    tx.commit()
}
