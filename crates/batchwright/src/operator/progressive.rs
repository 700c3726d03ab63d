//! Opens progressive executions, runs their slices, and drives them to their end.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{JobHandle, JobOperator, OperatorError, Refusal};
use crate::clock::StopToken;
use crate::error::RepositoryError;
use crate::execution::{BatchStatus, ExecutionId, JobExecution, StepExecution};
use crate::host::{RunMode, lock};
use crate::job::Job;
use crate::launch::LaunchOptions;
use crate::lifecycle::{close_stopped, transact};
use crate::parameters::JobParameters;
use crate::progressive::{
    self, OpenOptions, OpenRequest, ProgressiveWork, SliceAnswer, SliceError, SliceOrder,
    SliceOutcome, UnitProgress,
};
use crate::query::ExecutionFilter;
use crate::scope::{JobScope, StepScope, StepStart};
use crate::store::{ProgressiveState, StoredResponse};
use crate::threads;

/// Time between two checks whether a requested stop is confirmed.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(20);
/// How long a driver waits for a lane that another worker holds.
const BUSY_WAIT: Duration = Duration::from_secs(1);

impl JobOperator {
    /// Returns the access to progressive executions: their slices, progress and responses.
    pub fn progressive(&self) -> ProgressiveOperator<'_> {
        ProgressiveOperator { operator: self }
    }

    /// Opens an execution of `job`; a client that continues one must show its owner token.
    pub(super) fn open_as(
        &self,
        job: &Job,
        work: &Arc<dyn ProgressiveWork>,
        parameters: JobParameters,
        options: &LaunchOptions,
        open: &OpenOptions,
        as_client: bool,
    ) -> Result<JobExecution, OperatorError> {
        let step = job.step_names().next().unwrap_or_default().to_owned();
        let plan = || {
            let scope = self.preview(job, &step, &parameters);
            work.plan(&scope).map_err(|error| {
                let problems = vec![format!("the units cannot be determined: {error}")];
                Refusal::InvalidParameters { problems }.into()
            })
        };
        let request = OpenRequest {
            start: self.request(job, options, None),
            step: &step,
            settings: work.settings(),
            options: open,
            as_client,
            plan: &plan,
        };
        progressive::open(self.store(), &request, &parameters)
    }

    /// Returns the scope of a step before its execution has a number.
    fn preview(&self, job: &Job, step: &str, parameters: &JobParameters) -> StepScope {
        let now = self.now();
        let execution = JobExecution::new_unsaved(job.name(), parameters.clone(), now);
        let step = StepExecution::new_unsaved(step, now);
        let scope = JobScope::new(&execution, StopToken::default());
        StepScope::new(scope, &step, None, &**self.store(), StepStart::Fresh)
    }

    /// Drives an execution on a thread of the operator.
    pub(super) fn submit_drive(&self, execution: &JobExecution, mode: RunMode) -> JobHandle {
        let id = execution.id;
        let (activity, stop) = self.activate(execution, mode);
        let (handle, ending) = JobHandle::new(id, Arc::clone(self.inner.host.store.repository()));
        let operator = self.clone();
        self.inner.pool.submit(Box::new(move || {
            let slices = operator.progressive();
            let driven = slices.drive(id, u32::MAX, &stop);
            let driven = driven.and_then(|execution| slices.confirmed(execution));
            drop(activity);
            match driven {
                Ok(ended) => ending.end(Ok(Some(ended))),
                Err(SliceError::Operator(OperatorError::Repository(error))) => {
                    ending.end(Err(error));
                }
                Err(error) => {
                    tracing::warn!(
                        execution = %id,
                        error = %crate::error::report(&error),
                        "this process no longer drives an execution"
                    );
                    ending.end(Ok(None));
                }
            }
        }));
        handle
    }
}

/// Opens progressive executions, runs their slices, and drives them to their end.
///
/// ```
/// use batchwright::execution::ExecutionId;
/// use batchwright::operator::ProgressiveOperator;
/// use batchwright::progressive::{DisconnectSignal, OnDisconnect, SliceError, SliceOrder, UnitProgress};
///
/// /// Answers one request for a slice; `lost` is set by the connection.
/// fn answer(
///     operator: ProgressiveOperator<'_>,
///     order: SliceOrder,
///     lost: &DisconnectSignal,
/// ) -> Result<String, SliceError> {
///     let order = SliceOrder { client: lost.clone(), ..order };
///     match operator.slice(&order, |work| drop(std::thread::spawn(work))) {
///         // Another request of the lane runs: the client sends its request again later.
///         Err(SliceError::LaneBusy { lane }) => Ok(format!("lane {lane} is busy")),
///         answered => answered,
///     }
/// }
///
/// /// The client has disconnected: the unit in progress is the last one.
/// fn disconnected(lost: &DisconnectSignal) {
///     lost.set(OnDisconnect::CleanStop);
/// }
///
/// fn share(operator: ProgressiveOperator<'_>, id: ExecutionId) -> Result<f64, SliceError> {
///     let UnitProgress { units_done, units_total, .. } = operator.units_progress(id, None)?;
///     Ok(units_total.map_or(0.0, |total| units_done as f64 / total.max(1) as f64))
/// }
/// ```
#[derive(Clone, Copy)]
pub struct ProgressiveOperator<'a> {
    operator: &'a JobOperator,
}

impl std::fmt::Debug for ProgressiveOperator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgressiveOperator").finish_non_exhaustive()
    }
}

impl ProgressiveOperator<'_> {
    /// Opens an execution of the progressive job `name`, or restarts its failed or stopped instance. From
    /// then on the lanes of the execution accept requests for slices; no work is done between slices.
    ///
    /// # Errors
    ///
    /// As [`start`](JobOperator::start); [`Refusal::InvalidDefinition`] when the job is not progressive,
    /// [`Refusal::InvalidParameters`] when its units cannot be determined. Nothing was stored.
    pub fn open(
        &self,
        name: &str,
        parameters: JobParameters,
        options: &LaunchOptions,
        open: &OpenOptions,
    ) -> Result<JobExecution, OperatorError> {
        let operator = self.operator;
        let job = operator.explorer().job(name)?;
        let Some(work) = job.progressive() else {
            let reason = "it has no progressive step".to_owned();
            return Err(Refusal::InvalidDefinition { job: name.to_owned(), reason }.into());
        };
        let parameters = job.accept(parameters)?;
        operator.open_as(&job, &work, parameters, options, open, true)
    }

    /// Runs a slice and returns its answer: a [`SliceAnswer`] as JSON. A repeated request returns the same
    /// bytes. `spawn` must run the given function on another thread.
    ///
    /// # Errors
    ///
    /// [`SliceError`]: committed units stay committed; any lane may claim the others again.
    pub fn slice(
        &self,
        order: &SliceOrder,
        spawn: impl FnOnce(Box<dyn FnOnce() + Send>),
    ) -> Result<String, SliceError> {
        let work = self.work_of(order.execution)?;
        progressive::run_slice(&self.operator.inner.host, &work, order, spawn)
    }

    fn work_of(&self, id: ExecutionId) -> Result<Arc<dyn ProgressiveWork>, SliceError> {
        let execution = self.operator.execution(id)?;
        let job = self.operator.explorer().job_of(&execution)?;
        job.progressive().ok_or(SliceError::NotProgressive { execution: id })
    }

    /// Returns the stored state of the progressive execution `id`. `token` is its owner token, if it has one.
    ///
    /// # Errors
    ///
    /// [`SliceError`] when the execution does not exist, is not progressive, or has another owner token.
    pub fn progressive_state(
        &self,
        id: ExecutionId,
        token: Option<&str>,
    ) -> Result<(JobExecution, ProgressiveState), SliceError> {
        let execution = self.operator.execution(id)?;
        let state = self.operator.store().slices().progressive_state(id)?;
        let state = state.ok_or(SliceError::NotProgressive { execution: id })?;
        progressive::check_owner(&state.row, token)?;
        Ok((execution, state))
    }

    /// Returns the progress of the progressive execution `id`.
    ///
    /// # Errors
    ///
    /// As [`progressive_state`](Self::progressive_state).
    pub fn units_progress(
        &self,
        id: ExecutionId,
        token: Option<&str>,
    ) -> Result<UnitProgress, SliceError> {
        let (execution, state) = self.progressive_state(id, token)?;
        Ok(UnitProgress::of(&execution, &state))
    }

    /// Returns the final response of execution `id`; `None` before it is stored. An acknowledged response has
    /// no body, nor has that of a failed execution, whose answer is the failure of the execution.
    ///
    /// # Errors
    ///
    /// As [`progressive_state`](Self::progressive_state).
    pub fn response(
        &self,
        id: ExecutionId,
        token: Option<&str>,
    ) -> Result<Option<StoredResponse>, SliceError> {
        self.progressive_state(id, token)?;
        Ok(self.operator.store().slices().response(id)?)
    }

    /// Acknowledges the final response of execution `id` and deletes its body. Returns whether the execution
    /// had an unacknowledged response.
    ///
    /// # Errors
    ///
    /// As [`progressive_state`](Self::progressive_state).
    pub fn acknowledge(&self, id: ExecutionId, token: Option<&str>) -> Result<bool, SliceError> {
        self.progressive_state(id, token)?;
        transact(self.operator.store(), |tx| Ok(tx.slices().acknowledge_response(id)?))
    }

    /// Deletes the bodies of responses that no client acknowledged for `age`. Returns their number.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn expire_responses(&self, age: Duration) -> Result<u64, OperatorError> {
        let before = self.operator.now().saturating_sub(age).unwrap_or(jiff::Timestamp::MIN);
        transact(self.operator.store(), |tx| Ok(tx.slices().expire_responses(before)?))
    }

    /// Drives the progressive execution `id` with up to `lanes` lanes at once, until the execution ends or
    /// `stop` is requested. After `stop` the execution stays open.
    ///
    /// # Errors
    ///
    /// [`SliceError`]: the execution stays open, for this or another driver.
    pub fn drive(
        &self,
        id: ExecutionId,
        lanes: u32,
        stop: &StopToken,
    ) -> Result<JobExecution, SliceError> {
        self.work_of(id)?;
        let state = self.operator.store().slices().progressive_state(id)?;
        let state = state.ok_or(SliceError::NotProgressive { execution: id })?;
        let now = self.operator.now();
        let mut all = state.lanes;
        // Lanes without a worker come first.
        all.sort_by_key(|lane| (lane.is_live(now), lane.rank));
        all.truncate(usize::try_from(lanes.max(1)).unwrap_or(usize::MAX));
        thread::scope(|scope| {
            let mut all = all.into_iter();
            // The first lane runs on this thread, so that it runs even when no thread can be started.
            let first = all.next();
            let lanes: Vec<_> = all
                .filter_map(|lane| {
                    threads::start(scope, "batchwright lane", move || {
                        self.drive_lane(id, lane.id, lane.seq + 1, stop)
                    })
                })
                .collect();
            if let Some(lane) = first {
                self.drive_lane(id, lane.id, lane.seq + 1, stop)?;
            }
            let ends: Vec<_> = lanes.into_iter().map(|lane| lane.join()).collect();
            ends.into_iter().try_for_each(|end| match end {
                Ok(result) => result,
                Err(payload) => std::panic::resume_unwind(payload),
            })
        })?;
        Ok(self.operator.execution(id)?)
    }

    fn drive_lane(
        &self,
        id: ExecutionId,
        lane: String,
        mut seq: u64,
        stop: &StopToken,
    ) -> Result<(), SliceError> {
        while !stop.is_requested() {
            let order = SliceOrder {
                as_server: true,
                stop: stop.clone(),
                ..SliceOrder::new(id, &lane, seq, self.operator.clock().elapsed())
            };
            let answer = self.slice(&order, |work| {
                let spawned =
                    thread::Builder::new().name("batchwright slice".to_owned()).spawn(work);
                if let Err(error) = spawned {
                    tracing::error!(%error, "the thread of a slice could not be started");
                }
            });
            match answer {
                Ok(answer) => {
                    let SliceAnswer { outcome, next_seq, retry_after_ms, .. } =
                        serde_json::from_str(&answer).map_err(|error| {
                            RepositoryError::Corrupt { what: format!("a slice's answer: {error}") }
                        })?;
                    seq = next_seq;
                    match outcome {
                        SliceOutcome::Continue => {}
                        SliceOutcome::Wait => {
                            stop.wait(Duration::from_millis(retry_after_ms.unwrap_or(0)));
                        }
                        SliceOutcome::Done | SliceOutcome::Final => return Ok(()),
                    }
                }
                // Another worker holds or took over the lane: the same request is sent again.
                Err(
                    SliceError::LaneBusy { .. }
                    | SliceError::Operator(OperatorError::Repository(RepositoryError::LeaseLost {
                        ..
                    })),
                ) => stop.wait(BUSY_WAIT),
                Err(SliceError::WrongSeq { expected, .. }) => seq = expected,
                Err(SliceError::Finished { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the other drivers of a stopping execution have stopped or died, for at most the lease
    /// timeout.
    fn confirmed(&self, mut execution: JobExecution) -> Result<JobExecution, SliceError> {
        let mut waited = Duration::ZERO;
        while execution.status == BatchStatus::Stopping
            && waited < self.operator.inner.host.lease_timeout
        {
            StopToken::default().wait(CONFIRM_INTERVAL);
            waited += CONFIRM_INTERVAL;
            execution = match self.operator.stop(execution.id) {
                Ok(stopping) => stopping,
                Err(OperatorError::Refused(_)) => self.operator.execution(execution.id)?,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(execution)
    }

    /// Drives, on threads of the operator, the executions that servers drive, whose jobs exist here, and that this process
    /// does not drive yet, as long as there is room.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn drive_all(&self) -> Result<(), OperatorError> {
        for id in self.operator.store().slices().server_driven()? {
            if !self.operator.queue().has_room() {
                return Ok(());
            }
            if lock(&self.operator.inner.host.active).contains_key(&id) {
                continue;
            }
            let execution = self.operator.execution(id)?;
            if execution.status.is_running() && self.operator.explorer().job_of(&execution).is_ok()
            {
                drop(self.operator.submit_drive(&execution, RunMode::ServerDriven));
            }
        }
        Ok(())
    }

    /// Ends executions with a requested stop that have no live worker.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn end_stopped(&self) -> Result<(), OperatorError> {
        let stopping = ExecutionFilter::default().status(BatchStatus::Stopping);
        for execution in self.operator.queries().executions(&stopping)? {
            if execution.owner.is_some() {
                continue;
            }
            transact(self.operator.store(), |tx| match tx.execution(execution.id)? {
                Some(mut execution) if execution.status == BatchStatus::Stopping => {
                    close_stopped(tx, &mut execution, self.operator.now())
                }
                _ => Ok(()),
            })?;
        }
        Ok(())
    }
}
