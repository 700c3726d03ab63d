//! Carries forward the executions that other processes handed over, and those of servers that died.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::{
    BatchStatus, ExecutionFilter, ExecutionId, JobExecution, JobParameters, LaunchOptions,
    OperatorError, RecoverMode, Refusal, StopToken, report,
};

use crate::scheduler::JobStarter;

/// How often the store is looked at for what other processes put there.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Executions in a row that lost their owners, after which an instance waits for a person: the job may be what
/// kills its servers.
const LOST_MAX: usize = 3;

/// How long the body of a final response waits for somebody who wants it.
const RESPONSES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Carries forward what other processes hand over, and what dead ones left, until it is asked to stop.
///
/// A [`Server`](crate::Server) has one. An application that serves [`Api`](crate::api::Api) by itself runs its own, on a
/// thread, made of a clone of the same [`JobStarter`]: without a worker the API refuses to start anything.
pub struct Worker {
    jobs: JobStarter,
    _counted: Counted,
    recover_every: Duration,
    /// Executions whose jobs are not known here, told once.
    unknown: HashSet<ExecutionId>,
}

/// One of the workers, for as long as it is there: without any, the API takes no starts.
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

impl Worker {
    /// Of the jobs that `jobs` starts; owners are taken for dead when they were silent for `lease`.
    pub fn new(jobs: JobStarter, lease: Duration) -> Self {
        let counted = Counted::new(&jobs.workers);
        Self { jobs, _counted: counted, recover_every: lease / 3, unknown: HashSet::new() }
    }

    /// Hands over again those of `served` that the end of this server stopped.
    pub(crate) fn pass_on(jobs: &JobStarter, served: &[ExecutionId]) {
        for id in served {
            let Ok(execution) = jobs.operator.execution(*id) else { continue };
            if execution.status != BatchStatus::Stopped {
                continue;
            }
            let none = JobParameters::new();
            let passed = jobs.operator.hand_over_restart(*id, &none, &LaunchOptions::default());
            match passed {
                Ok(next) => {
                    tracing::info!(execution = %id, next = %next.id, "waits for the next server")
                }
                Err(error) => {
                    tracing::warn!(execution = %id, error = %report(&error), "stays stopped")
                }
            }
        }
    }

    /// Works on a thread of its own until `stop` is requested.
    ///
    /// # Errors
    ///
    /// When the system has no thread for it: nothing runs.
    pub fn spawn(self, stop: StopToken) -> std::io::Result<std::thread::JoinHandle<()>> {
        let named = std::thread::Builder::new().name("batchwright worker".to_owned());
        named.spawn(move || self.run(&stop, || true))
    }

    /// Looks at the store again and again. `changed` says whether there may be something new in it.
    pub(crate) fn run(mut self, stop: &StopToken, mut changed: impl FnMut() -> bool) {
        let mut since_recovery = self.recover_every;
        while !stop.is_requested() {
            if since_recovery >= self.recover_every {
                since_recovery = Duration::ZERO;
                self.recover();
                told(self.jobs.operator.settle_stopped());
                told(self.jobs.operator.expire_responses(RESPONSES_KEPT).map(drop));
            }
            if changed() {
                told(self.take_all());
                told(self.drive_all());
            }
            stop.wait(LOOK_INTERVAL);
            since_recovery += LOOK_INTERVAL;
        }
    }

    /// Drives the progressive executions that servers drive.
    fn drive_all(&self) -> Result<(), OperatorError> {
        self.jobs.operator.drive_all()
    }

    fn take_all(&mut self) -> Result<(), OperatorError> {
        for execution in self.jobs.operator.handed_over()? {
            // What cannot begin here now is for others, or for later.
            if !self.jobs.operator.has_room() {
                return Ok(());
            }
            let taken = match self.jobs.operator.job_of(&execution) {
                Ok(_) => self.jobs.operator.take(execution.id),
                Err(refusal) => {
                    if self.unknown.insert(execution.id) {
                        let (id, job) = (execution.id, execution.job);
                        let reason = report(&refusal);
                        tracing::warn!(execution = %id, job, reason, "its job is not known here");
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

    /// Closes what dead processes left running. What was handed over goes on, in whichever server takes it.
    ///
    /// One that cannot be closed now, because its frozen owner holds its row, keeps none of the others waiting.
    fn recover(&self) {
        match self.jobs.operator.lost() {
            Ok(lost) => {
                for (execution, was_served) in lost {
                    told(self.recover_one(&execution, was_served));
                }
            }
            Err(error) => told(Err(error)),
        }
    }

    fn recover_one(&self, execution: &JobExecution, was_served: bool) -> Result<(), OperatorError> {
        let (operator, id) = (&self.jobs.operator, execution.id);
        if was_served && !self.is_deadly(execution)? {
            let known = operator.job_of(execution);
            let options = LaunchOptions::default();
            let none = JobParameters::new();
            match known.map(|_| operator.hand_over_restart(id, &none, &options)) {
                Ok(Ok(next)) => {
                    tracing::info!(execution = %id, next = %next.id, "its server died: it goes on");
                    return Ok(());
                }
                Ok(Err(error @ OperatorError::Repository(_))) => return Err(error),
                // Another server was quicker, or the job may not be restarted.
                Ok(Err(error)) => tracing::debug!(execution = %id, %error, "not continued here"),
                // Some other server may know its job.
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

    /// Whether the last executions of the instance all lost their owners.
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

fn told(result: Result<(), OperatorError>) {
    if let Err(error) = result {
        tracing::warn!(error = %report(&error), "the store was not looked at");
    }
}
