//! Runs the executions that other processes queued, and recovers those of dead processes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::execution::{ExecutionId, JobExecution};
use batchwright::launch::{Launch, LaunchOptions, RecoverMode};
use batchwright::operator::{OperatorError, Refusal};
use batchwright::query::ExecutionFilter;
use batchwright::{BatchStatus, report};

use crate::scheduler::{JobStarter, POLL_INTERVAL};

/// Executions in a row that lost their owners, after which an instance is no longer restarted automatically:
/// the job itself may kill its servers.
const LOST_MAX: usize = 3;

/// How long the body of an unacknowledged final response is kept.
const RESPONSES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs queued executions and recovers those of dead processes, until it is asked to stop.
///
/// A `Server` has one. An application that serves `Api` by itself runs a
/// worker on a thread, made of a clone of the same [`JobStarter`]: without a worker the API refuses to start
/// jobs.
pub struct Worker {
    jobs: JobStarter,
    _counted: Counted,
    recover_every: Duration,
    /// Queued executions whose jobs are unknown here; each is logged once.
    unknown: HashSet<ExecutionId>,
}

/// Counts a worker for as long as it exists: the API refuses to start jobs while the count is 0.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(workers: &Arc<AtomicUsize>) -> Self {
        workers.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(workers))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns the launch that continues an execution whose server has ended, with who started it.
fn continuing(ended: &JobExecution) -> Launch {
    let by = ended.triggered_by.as_deref().unwrap_or("application");
    let by = by.strip_prefix("queue:").unwrap_or(by);
    let triggered_by = Some(format!("queue:{by}"));
    Launch::restart(ended.id).options(LaunchOptions { triggered_by, ..LaunchOptions::default() })
}

impl Worker {
    /// Creates a worker for the jobs of `jobs`. An owner counts as dead after `lease` without a heartbeat;
    /// the worker checks for dead owners three times in that time.
    pub fn new(jobs: JobStarter, lease: Duration) -> Self {
        let counted = Counted::new(&jobs.workers);
        Self { jobs, _counted: counted, recover_every: lease / 3, unknown: HashSet::new() }
    }

    /// Queues again those of `served` that the end of this server stopped.
    pub(crate) fn requeue(jobs: &JobStarter, served: &[ExecutionId]) {
        for id in served {
            let Ok(execution) = jobs.operator.explorer().execution(*id) else { continue };
            if execution.status != BatchStatus::Stopped {
                continue;
            }
            match jobs.operator.enqueue(&continuing(&execution)) {
                Ok(next) => {
                    tracing::info!(execution = %id, next = %next.id, "queued for another server")
                }
                Err(error) => {
                    tracing::warn!(execution = %id, error = %report(&error), "remains stopped")
                }
            }
        }
    }

    /// Starts a thread that works until `stop` is requested.
    ///
    /// # Errors
    ///
    /// When the system refuses the thread: nothing runs.
    pub fn spawn(self, stop: StopToken) -> std::io::Result<std::thread::JoinHandle<()>> {
        let named = std::thread::Builder::new().name("batchwright worker".to_owned());
        named.spawn(move || self.run(&stop, || true))
    }

    /// Polls the store until `stop` is requested. `changed` returns whether it may contain something new.
    pub(crate) fn run(mut self, stop: &StopToken, mut changed: impl FnMut() -> bool) {
        let mut since_recovery = self.recover_every;
        while !stop.is_requested() {
            if since_recovery >= self.recover_every {
                since_recovery = Duration::ZERO;
                self.recover();
                log_error(self.jobs.operator.progressive().end_stopped());
                log_error(
                    self.jobs.operator.progressive().expire_responses(RESPONSES_KEPT).map(drop),
                );
            }
            if !self.jobs.is_drained() && changed() {
                log_error(self.take_all());
                log_error(self.drive_all());
            }
            stop.wait(POLL_INTERVAL);
            since_recovery += POLL_INTERVAL;
        }
    }

    /// Drives the progressive executions that a server, not a client, drives.
    fn drive_all(&self) -> Result<(), OperatorError> {
        self.jobs.operator.progressive().drive_all()
    }

    fn take_all(&mut self) -> Result<(), OperatorError> {
        for execution in self.jobs.operator.queue().queued()? {
            // Without room here, the execution stays queued for another server or for later.
            if self.jobs.is_drained() || !self.jobs.operator.queue().has_room() {
                return Ok(());
            }
            let taken = match self.jobs.operator.explorer().job_of(&execution) {
                Ok(_) => self.jobs.operator.queue().claim(execution.id),
                Err(refusal) => {
                    if self.unknown.insert(execution.id) {
                        let (id, job) = (execution.id, execution.job);
                        let reason = report(&refusal);
                        tracing::warn!(execution = %id, job, reason, "the job is unknown here");
                    }
                    continue;
                }
            };
            match taken {
                Ok(_) | Err(OperatorError::Refused(Refusal::NoSuchJob { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Recovers the executions of dead owners. Those that had been queued are queued again, for any server.
    ///
    /// An execution that cannot be closed now, because its frozen owner locks its row, does not delay the
    /// others.
    fn recover(&self) {
        match self.jobs.operator.queue().orphaned() {
            Ok(lost) => {
                for (execution, was_served) in lost {
                    log_error(self.recover_one(&execution, was_served));
                }
            }
            Err(error) => log_error(Err(error)),
        }
    }

    fn recover_one(&self, execution: &JobExecution, was_served: bool) -> Result<(), OperatorError> {
        let (operator, id) = (&self.jobs.operator, execution.id);
        if was_served && !self.is_deadly(execution)? {
            let known = operator.explorer().job_of(execution);
            match known.map(|_| operator.enqueue(&continuing(execution))) {
                Ok(Ok(next)) => {
                    tracing::info!(execution = %id, next = %next.id, "its server died: queued again");
                    return Ok(());
                }
                Ok(Err(error @ OperatorError::Repository(_))) => return Err(error),
                // Another server was faster, or the job may not be restarted.
                Ok(Err(error)) => tracing::debug!(execution = %id, %error, "not continued here"),
                // Another server may have its job.
                Err(_) => return Ok(()),
            }
        }
        match operator.recover(id, RecoverMode::Detect) {
            Ok(_) => tracing::info!(execution = %id, "its owner died: it can be restarted"),
            Err(OperatorError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Returns whether the last executions of the instance all lost their owners.
    fn is_deadly(&self, execution: &JobExecution) -> Result<bool, OperatorError> {
        let filter = ExecutionFilter::of_instance(execution.instance_id).limit(LOST_MAX);
        let newest = self.jobs.operator.queries().executions(&filter)?;
        let lost = |one: &JobExecution| {
            one.id == execution.id
                || one.failure.as_ref().is_some_and(|failure| failure.code == "recovered")
        };
        Ok(newest.len() == LOST_MAX && newest.iter().all(lost))
    }
}

fn log_error(result: Result<(), OperatorError>) {
    if let Err(error) = result {
        tracing::warn!(error = %report(&error), "the worker cannot use the store");
    }
}
