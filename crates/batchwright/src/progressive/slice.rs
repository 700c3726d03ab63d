//! Runs slices: begins the work of one request, watches its worker and returns the answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lane::{Halt, LaneRun, LaneStart};
use super::lifecycle::{self, Beginning, Begun};
use super::progress::UnitProgress;
use super::pulse::{DisconnectSignal, Pulse};
use super::step::ProgressiveWork;
use crate::clock::{StopToken, later};
use crate::error::{ItemError, RepositoryError};
use crate::execution::{BatchStatus, ExecutionId, JobExecution};
use crate::host::Host;
use crate::lifecycle::{MayConflict, transact};
use crate::refusal::OperatorError;
use crate::scope::{JobScope, StepScope, StepStart};
use crate::store::{Lane, ProgressiveExecution, Segment};

/// A request for a slice.
#[derive(Debug, Clone)]
pub struct SliceOrder {
    /// The execution.
    pub execution: ExecutionId,
    /// Id of the lane.
    pub lane: String,
    /// Number of the request on its lane, from 1. The number of the last answered request returns the same
    /// answer again; the next number runs a slice.
    pub seq: u64,
    /// The owner token of the execution, if it has one.
    pub owner_token: Option<String>,
    /// Whether this process itself sends the request, which needs no token.
    pub as_server: bool,
    /// Target time of the slice. Default: the target of the execution.
    pub target: Option<Duration>,
    /// When the request arrived, by the operator's clock.
    pub arrived: Duration,
    /// The signal that the client has disconnected.
    pub client: DisconnectSignal,
    /// The token that ends the slice at its next checkpoint, with an answer.
    pub stop: StopToken,
}

impl SliceOrder {
    /// Returns request `seq` of lane `lane`, which arrived at time `arrived` of the operator's clock.
    pub fn new(
        execution: ExecutionId,
        lane: impl Into<String>,
        seq: u64,
        arrived: Duration,
    ) -> Self {
        Self {
            execution,
            lane: lane.into(),
            seq,
            owner_token: None,
            as_server: false,
            target: None,
            arrived,
            client: DisconnectSignal::default(),
            stop: StopToken::default(),
        }
    }
}

/// How a slice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SliceOutcome {
    /// Units remain: send the next request.
    Continue,
    /// Other lanes work on all remaining units: send the next request later.
    Wait,
    /// No units remain for this lane, and the execution has no response: it is stopping or has stopped.
    Done,
    /// The execution has ended, and its response can be read.
    Final,
}

/// The answer to a request for a slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SliceAnswer {
    /// How the slice ended.
    pub outcome: SliceOutcome,
    /// Number of the next request on this lane.
    pub next_seq: u64,
    /// Milliseconds until the next request should be sent, for `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The progress of the whole execution.
    pub progress: UnitProgress,
}

/// Why a slice has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SliceError {
    /// The execution is not progressive.
    #[error("execution {execution} is not progressive, so it cannot run in slices")]
    NotProgressive {
        /// The execution.
        execution: ExecutionId,
    },
    /// The execution has no such lane.
    #[error("execution {execution} has no lane with that id")]
    NoSuchLane {
        /// The execution.
        execution: ExecutionId,
    },
    /// Another request of the lane runs.
    #[error("lane {lane} is busy: another request of the lane runs")]
    LaneBusy {
        /// Its rank.
        lane: u32,
    },
    /// The number of the request is neither the last one nor the next one of the lane.
    #[error("request {given} is not the next of the lane: the next request number is {expected}")]
    WrongSeq {
        /// The number of the request.
        given: u64,
        /// The number of the next request.
        expected: u64,
    },
    /// The execution has ended.
    #[error("execution {execution} has already ended as {status}")]
    Finished {
        /// The execution.
        execution: ExecutionId,
        /// Its status.
        status: BatchStatus,
    },
    /// The client disconnected and had requested to drop uncommitted work then.
    #[error("the client disconnected, and uncommitted work was dropped")]
    Dropped,
    /// The execution or its job does not exist here, the owner token is wrong, or the store failed.
    #[error(transparent)]
    Operator(#[from] OperatorError),
}

impl From<RepositoryError> for SliceError {
    fn from(error: RepositoryError) -> Self {
        Self::Operator(error.into())
    }
}

impl MayConflict for SliceError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Operator(error) if error.is_conflict())
    }
}

impl SliceError {
    /// Returns the stable code that clients may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotProgressive { .. } => "not_progressive",
            Self::NoSuchLane { .. } => "no_such_lane",
            Self::LaneBusy { .. } => "lane_busy",
            Self::WrongSeq { .. } => "wrong_seq",
            Self::Finished { .. } => "execution_finished",
            Self::Dropped => "client_gone",
            Self::Operator(error) => error.code(),
        }
    }
}

/// Runs a slice. `spawn` runs the worker; the caller waits, renews the lease of the lane, and ends the
/// request when a unit hangs.
pub(crate) fn run_slice(
    host: &Host,
    work: &Arc<dyn ProgressiveWork>,
    order: &SliceOrder,
    spawn: impl FnOnce(Box<dyn FnOnce() + Send>),
) -> Result<String, SliceError> {
    let settings = work.settings();
    let now = host.clock.now();
    let lease = host.lease_timeout;
    let begun =
        match lifecycle::begin_slice(&host.store, order, &settings, &host.owner, now, lease)? {
            Beginning::Run(begun) => Arc::new(*begun),
            Beginning::Answered(answer) => return Ok(answer),
            Beginning::Ended(ended) => return answer_finished(host, order, &ended),
        };
    let (sender, receiver) = sync_channel(1);
    let pulse = Arc::clone(&order.client.pulse);
    {
        let (host, work, begun) = (host.clone(), Arc::clone(work), Arc::clone(&begun));
        let (pulse, order) = (Arc::clone(&pulse), order.clone());
        spawn(Box::new(move || {
            let run = || work_through(&host, &*work, &begun, &order, &pulse);
            let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
                let what = ItemError::from_panic(&*payload).to_string();
                Err(Halt::Repository(RepositoryError::Corrupt { what }))
            });
            // The receiver has been dropped when a unit of the slice hung.
            let _ = sender.send(ended);
        }));
    }
    let mut since_renewal = Duration::ZERO;
    let look = settings.unit_timeout.min(lease / 3).min(Duration::from_secs(1)).max(MIN_LOOK);
    let ended = loop {
        match receiver.recv_timeout(look) {
            Ok(ended) => break ended,
            Err(RecvTimeoutError::Disconnected) => {
                let what = "the thread of a slice ended without a result".to_owned();
                break Err(Halt::Repository(RepositoryError::Corrupt { what }));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(unit) = pulse.hanging(host.clock.elapsed(), settings.unit_timeout) {
            tracing::warn!(
                execution = %order.execution,
                unit,
                "the thread of a slice exceeded the unit timeout and is shut out"
            );
            return give_up(host, &begun, unit, order);
        }
        since_renewal += look;
        if since_renewal >= lease / 3 {
            since_renewal = Duration::ZERO;
            renew(host, &begun);
        }
    };
    match ended {
        Ok(answer) => Ok(answer),
        Err(Halt::Dropped) => Err(SliceError::Dropped),
        Err(Halt::Fatal(failure)) => {
            let what = format!("the failure of an execution was not stored: {}", failure.message);
            Err(RepositoryError::Corrupt { what }.into())
        }
        Err(Halt::Repository(error)) if error.is_lease_lost() => Err(ended_or(host, order, error)),
        Err(Halt::Repository(error)) => Err(error.into()),
    }
}

/// Minimum time between two checks of a worker.
const MIN_LOOK: Duration = Duration::from_millis(1);

/// Does all work of the slice, on the worker's thread.
fn work_through(
    host: &Host,
    work: &dyn ProgressiveWork,
    begun: &Begun,
    order: &SliceOrder,
    pulse: &Pulse,
) -> Result<String, Halt> {
    let Begun { execution, step, row, lease, lane, segment } = begun;
    let job = JobScope::new(execution, StopToken::default());
    let start = if execution.restart_of.is_some() { StepStart::Resumed } else { StepStart::Fresh };
    let scope = StepScope::new(job, step, None, &*host.store, start);
    let mut run = LaneRun::begin(LaneStart {
        work,
        host,
        scope,
        row: row.clone(),
        lease: *lease,
        lane: lane.clone(),
        seq: order.seq,
        arrived: order.arrived,
        target: order.target.unwrap_or(row.target),
        pulse,
        stop: &order.stop,
        segment: segment.clone(),
    })?;
    match work.work(&mut run) {
        Ok(()) => {}
        Err(Halt::Fatal(failure)) => run.fail(failure)?,
        // Another lane may have ended the execution since the last commit of this one.
        Err(Halt::Repository(lost)) if lost.is_lease_lost() => {
            run.answer_ended_execution().map_err(|_| lost)?;
        }
        Err(halt) => {
            // Tried also when the store has just failed: otherwise the lane is blocked until its lease
            // expires.
            if let Err(error) = run.free_lane_without_answer() {
                tracing::debug!(%error, "the lease of a lane was not given back");
            }
            return Err(halt);
        }
    }
    run.into_answer().ok_or_else(|| {
        Halt::Repository(RepositoryError::Corrupt {
            what: "a slice ended without an answer".to_owned(),
        })
    })
}

fn renew(host: &Host, begun: &Begun) {
    let until = later(host.clock.now(), host.lease_timeout);
    let renewed = transact::<_, RepositoryError>(&host.store, |tx| {
        tx.slices().renew_lane(&begun.lane, begun.lane.fence, until)
    });
    match renewed {
        Ok(true) => {}
        // The next commit of the worker will be refused.
        Ok(false) => {
            tracing::warn!(execution = %begun.lease.execution, "the lease of a lane is lost")
        }
        Err(error) => tracing::warn!(%error, "the lease of a lane was not renewed"),
    }
}

fn give_up(
    host: &Host,
    begun: &Begun,
    unit: Option<u64>,
    order: &SliceOrder,
) -> Result<String, SliceError> {
    let answer = |execution: &JobExecution,
                  row: &ProgressiveExecution,
                  lanes: &[Lane],
                  segments: &[Segment]| {
        let progress = UnitProgress::new(execution, row, lanes, segments);
        let (outcome, next_seq) = (SliceOutcome::Continue, order.seq + 1);
        let answer = SliceAnswer { outcome, next_seq, retry_after_ms: None, progress };
        serde_json::to_string(&answer).unwrap_or_default()
    };
    let took = host.clock.elapsed().saturating_sub(order.arrived);
    let ended = (host.clock.now(), took);
    lifecycle::shut_out_worker(&host.store, begun, order.seq, unit, ended, &answer)
        .map_err(SliceError::from)
}

/// Answers a request for a slice of an execution that has ended, until its response is acknowledged.
fn answer_finished(
    host: &Host,
    order: &SliceOrder,
    (execution, row): &(JobExecution, ProgressiveExecution),
) -> Result<String, SliceError> {
    let finished = SliceError::Finished { execution: execution.id, status: execution.status };
    let response = host.store.slices().response(execution.id)?;
    if response.is_none_or(|response| response.is_acknowledged) {
        return Err(finished);
    }
    let state = host.store.slices().progressive_state(execution.id)?;
    let (lanes, segments) = state.map(|state| (state.lanes, state.segments)).unwrap_or_default();
    let answer = SliceAnswer {
        outcome: outcome_of(execution),
        next_seq: order.seq,
        retry_after_ms: None,
        progress: UnitProgress::new(execution, row, &lanes, &segments),
    };
    serde_json::to_string(&answer)
        .map_err(|error| RepositoryError::unavailable("answer a slice", error).into())
}

/// Returns the error of a lane whose lease is lost: the execution has ended, or another worker took the lane
/// over.
fn ended_or(host: &Host, order: &SliceOrder, lost: RepositoryError) -> SliceError {
    match host.store.execution(order.execution) {
        Ok(Some(one)) if !one.status.is_running() => {
            SliceError::Finished { execution: one.id, status: one.status }
        }
        _ => lost.into(),
    }
}

/// Returns the outcome for requests for slices of an execution that has ended.
pub(crate) fn outcome_of(execution: &JobExecution) -> SliceOutcome {
    use crate::execution::BatchStatus::{Completed, Failed};
    match execution.status {
        Completed | Failed => SliceOutcome::Final,
        _ => SliceOutcome::Done,
    }
}
