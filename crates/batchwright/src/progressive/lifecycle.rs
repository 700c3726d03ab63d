//! The rules of a progressive execution's life, each one unit of work.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::budget::SAMPLES_MIN;
use super::lane::{NoWork, claim_rules, claim_segment, window};
use super::segments::Segment;
use super::slice::{SliceError, SliceOrder};
use super::step::{FinalResponse, Plan, Settings};
use super::timing::UnitTimes;
use crate::error::{Failure, RepositoryError};
use crate::execution::{
    BatchStatus, ExecutionId, ExitStatus, JobExecution, StatusEvent, StepExecution,
};
use crate::operator::{OperatorError, Refusal, later};
use crate::owner::unique_id;
use crate::parameters::{JobParameters, hex};
use crate::repository::lifecycle::{StartRequest, change, contended, record_step, start_in};
use crate::repository::{
    JobRepository, Lane, Lease, ProgressiveExecution, StoredResponse, UnitOfWork,
};

/// Bounds of a target: below, a slice is all commit; above, it is no short request.
const TARGET_MIN: Duration = Duration::from_millis(1);
const TARGET_MAX: Duration = Duration::from_secs(24 * 3600);

/// How a progressive execution is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Lanes, at most as many as the step has, which is the default.
    pub lanes: Option<u32>,
    /// When a slice should end. Default: what the step says.
    pub target: Option<Duration>,
    /// A secret that the lanes of this execution must show from now on.
    pub owner_token: Option<String>,
    /// Whether servers drive it by themselves; clients only wait.
    pub is_server_driven: bool,
}

/// Everything that opening stores beyond the start.
pub(crate) struct OpenRequest<'a> {
    pub(crate) start: StartRequest<'a>,
    pub(crate) step: &'a str,
    pub(crate) settings: Settings,
    pub(crate) options: &'a OpenOptions,
    /// Whether a client asks, who must own what it continues.
    pub(crate) as_client: bool,
    /// Looks at the input; asked only when the instance begins.
    pub(crate) plan: &'a dyn Fn() -> Result<Plan, OperatorError>,
}

/// Hash of a token, as it is stored.
pub(crate) fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// Starts or restarts the instance of `parameters` and lets slices in.
pub(crate) fn open(
    repository: &dyn JobRepository,
    request: &OpenRequest<'_>,
    parameters: &JobParameters,
) -> Result<JobExecution, OperatorError> {
    let mut plan = None;
    loop {
        let opened = contended(|| {
            let mut unit = repository.begin()?;
            let opened = open_in(&mut *unit, request, parameters, plan.as_ref())?;
            if opened.is_some() {
                unit.commit()?;
            }
            Ok::<_, OperatorError>(opened)
        })?;
        match opened {
            Some(execution) => return Ok(execution),
            // Nobody's unit of work stays open while user code looks at the input.
            None => plan = Some((request.plan)()?),
        }
    }
}

/// `None`: the input must be looked at first.
fn open_in(
    unit: &mut dyn UnitOfWork,
    request: &OpenRequest<'_>,
    parameters: &JobParameters,
    plan: Option<&Plan>,
) -> Result<Option<JobExecution>, OperatorError> {
    let now = request.start.now;
    let mut execution = start_in(unit, &request.start, parameters.clone())?;
    let former = former(unit, &execution)?;
    if former.is_none() && plan.is_none() {
        return Ok(None);
    }
    let id = execution.id;
    execution.status = BatchStatus::Started;
    execution.started_at = Some(now);
    change(unit, &mut execution, now, None)?;
    let (begun_by, context) = match &former {
        Some((_, step)) => (Some(step.round()), step.context.clone()),
        None => (None, Default::default()),
    };
    let mut step = StepExecution {
        execution_id: id,
        status: BatchStatus::Started,
        context,
        begun_by,
        ..StepExecution::unborn(request.step, now)
    };
    step.id = unit.insert_step(&step)?;
    record_step(unit, &step, now)?;
    let owner_hash = owner_of(former.as_ref().map(|(row, _)| row), request)?;
    let max = request.settings.lanes;
    let known = match &former {
        Some((former, _)) => unit.slices().lanes_of(former.execution)?,
        None => Vec::new(),
    };
    let as_before = u32::try_from(known.len()).ok().filter(|lanes| *lanes > 0).unwrap_or(max);
    let wanted = request.options.lanes.unwrap_or(as_before).clamp(1, max);
    let target = former.as_ref().map_or(request.settings.target, |(row, _)| row.target);
    let row = |is_split, units_total, plan: &str| ProgressiveExecution {
        execution: id,
        step: step.id,
        target: request.options.target.unwrap_or(target).clamp(TARGET_MIN, TARGET_MAX),
        is_split,
        units_total,
        plan: plan.to_owned(),
        owner_hash: owner_hash.clone(),
        is_server_driven: request.options.is_server_driven,
    };
    let (row, segments) = match (&former, plan) {
        (Some((former, _)), _) => {
            let segments = inherited(unit, former.execution, id)?;
            (row(former.is_split, former.units_total, &former.plan), segments)
        }
        (None, Some(plan)) => {
            let segments = cut(id, plan, wanted);
            (row(plan.extent.is_ok(), plan.extent.ok(), &plan.text), segments)
        }
        (None, None) => return Ok(None),
    };
    unit.slices().insert_progressive(&row)?;
    for segment in &segments {
        unit.slices().insert_segment(segment)?;
    }
    // Ranks need a lane each; units that can be split need no more lanes than there are units.
    let most = match row.is_split {
        true => wanted.min(u32::try_from(row.units_total.unwrap_or(1)).unwrap_or(wanted)).max(1),
        false => u32::try_from(segments.len()).unwrap_or(1).max(1),
    };
    for rank in 0..most {
        let mut lane = Lane {
            execution: id,
            rank,
            id: unique_id(),
            seq: 0,
            answer: None,
            fence: 1,
            owner: None,
            lease_until: None,
            times: String::new(),
            slices: 0,
            last_slice: Duration::ZERO,
            checkpoint_cost: Duration::ZERO,
        };
        learn(&mut lane, &known);
        unit.slices().insert_lane(&lane)?;
    }
    Ok(Some(execution))
}

/// The hash of the token that the lanes must show: whoever opened the instance first keeps it.
fn owner_of(
    former: Option<&ProgressiveExecution>,
    request: &OpenRequest<'_>,
) -> Result<Option<String>, Refusal> {
    let given = request.options.owner_token.as_deref().map(hash);
    match former {
        Some(former) if former.owner_hash.is_some() => {
            if request.as_client && given != former.owner_hash {
                return Err(Refusal::WrongOwner { execution: former.execution });
            }
            Ok(former.owner_hash.clone())
        }
        _ => Ok(given),
    }
}

/// The progressive execution that `execution` continues, and its step.
fn former(
    unit: &mut dyn UnitOfWork,
    execution: &JobExecution,
) -> Result<Option<(ProgressiveExecution, StepExecution)>, RepositoryError> {
    let Some(id) = execution.restart_of else { return Ok(None) };
    let Some(row) = unit.slices().progressive(id)? else { return Ok(None) };
    let steps = unit.steps_of(id)?;
    Ok(steps.into_iter().find(|step| step.id == row.step).map(|step| (row, step)))
}

/// The segments of `from` where they stand, for `to`. Units that were given up for what they did are tried
/// again when their turn comes; those that were counted stay counted.
fn inherited(
    unit: &mut dyn UnitOfWork,
    from: ExecutionId,
    to: ExecutionId,
) -> Result<Vec<Segment>, RepositoryError> {
    let mut segments = unit.slices().segments_of(from)?;
    for segment in &mut segments {
        segment.partial = unit.slices().partial_of(segment.id)?;
        segment.execution = to;
        segment.claimed = segment.position;
        segment.lane = None;
        segment.poison = Default::default();
    }
    Ok(segments)
}

/// Segments of nearly the same length, one for each lane; or one for each rank.
fn cut(id: ExecutionId, plan: &Plan, lanes: u32) -> Vec<Segment> {
    match plan.extent {
        Err(ranks) => (0..ranks).map(|rank| Segment::new(id, rank, 0, None)).collect(),
        Ok(units) => {
            let parts = u64::from(lanes).min(units).max(1);
            let bound =
                |part: u64| (u128::from(units) * u128::from(part) / u128::from(parts)) as u64;
            let ranks = 0..u32::try_from(parts).unwrap_or(1);
            ranks
                .map(|rank| {
                    let part = u64::from(rank);
                    let mut segment = Segment::new(id, 0, bound(part), Some(bound(part + 1)));
                    segment.lane = Some(rank);
                    segment
                })
                .collect()
        }
    }
}

/// A slice that may run.
pub(crate) struct Begun {
    pub(crate) execution: JobExecution,
    pub(crate) step: StepExecution,
    pub(crate) row: ProgressiveExecution,
    pub(crate) lease: Lease,
    pub(crate) lane: Lane,
    pub(crate) segment: Result<Segment, NoWork>,
}

/// What a request for a slice meets.
pub(crate) enum Beginning {
    /// It runs.
    Run(Box<Begun>),
    /// It ran before: that answer again.
    Answered(String),
    /// The execution ended; this lane has not heard of it.
    Ended(Box<(JobExecution, ProgressiveExecution)>),
}

/// Takes the lease of a lane and claims its first window.
pub(crate) fn begin_slice(
    repository: &dyn JobRepository,
    order: &SliceOrder,
    settings: &Settings,
    owner: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<Beginning, SliceError> {
    contended(|| {
        let mut unit = repository.begin()?;
        let beginning = begin_in(&mut *unit, order, settings, owner, now, lease)?;
        if matches!(beginning, Beginning::Run(_)) {
            unit.commit()?;
        }
        Ok(beginning)
    })
}

fn begin_in(
    unit: &mut dyn UnitOfWork,
    order: &SliceOrder,
    settings: &Settings,
    owner: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<Beginning, SliceError> {
    let id = order.execution;
    let execution = unit.execution(id)?.ok_or(SliceError::NoSuchExecution { execution: id })?;
    let row = unit.slices().progressive(id)?.ok_or(SliceError::NotProgressive { execution: id })?;
    let lanes = unit.slices().lanes_of(id)?;
    let (mine, others): (Vec<_>, Vec<_>) =
        lanes.into_iter().partition(|lane| lane.id == order.lane);
    let mine = mine.into_iter().next();
    let mut lane = mine.ok_or_else(|| SliceError::NoSuchLane { execution: id })?;
    if !order.as_server {
        check_owner(&row, order.owner_token.as_deref())?;
    }
    if order.seq == lane.seq
        && let Some(answer) = lane.answer
    {
        return Ok(Beginning::Answered(answer));
    }
    let expected = lane.seq + 1;
    if order.seq != expected {
        return Err(SliceError::WrongSeq { given: order.seq, expected });
    }
    if !execution.status.is_running() {
        return Ok(Beginning::Ended(Box::new((execution, row))));
    }
    if lane.is_live(now) {
        return Err(SliceError::LaneBusy { lane: lane.rank });
    }
    let former = lane.fence;
    lane.fence += 1;
    lane.owner = Some(owner.to_owned());
    lane.lease_until = Some(later(now, lease));
    if !unit.slices().update_lane(&lane, former)? {
        return Err(SliceError::LaneBusy { lane: lane.rank });
    }
    learn(&mut lane, &others);
    let rules = claim_rules(&row, settings);
    let units = window(&UnitTimes::from_json(&lane.times));
    let segment = match execution.stop_requested {
        true => Err(NoWork::Wait),
        false => claim_segment(unit, id, lane.rank, now, units, rules)?,
    };
    let steps = unit.steps_of(id)?;
    let step = steps
        .into_iter()
        .find(|step| step.id == row.step)
        .ok_or_else(|| RepositoryError::Corrupt { what: format!("execution {id} has no step") })?;
    let lease = Lease { execution: id, fence: execution.fence };
    Ok(Beginning::Run(Box::new(Begun { execution, step, row, lease, lane, segment })))
}

/// A lane that knows too little of its units begins with what another one knows.
fn learn(lane: &mut Lane, others: &[Lane]) {
    let samples = |lane: &Lane| UnitTimes::from_json(&lane.times).samples();
    if samples(lane) >= SAMPLES_MIN {
        return;
    }
    if let Some(other) = others.iter().max_by_key(|other| samples(other))
        && samples(other) > samples(lane)
    {
        lane.times.clone_from(&other.times);
        lane.checkpoint_cost = other.checkpoint_cost;
    }
}

/// Refuses whoever does not show the execution's token. Both sides are hashes: how long the comparison takes
/// says nothing of the token.
pub(crate) fn check_owner(
    row: &ProgressiveExecution,
    token: Option<&str>,
) -> Result<(), SliceError> {
    match &row.owner_hash {
        Some(owner) if token.map(hash).as_ref() != Some(owner) => {
            Err(SliceError::WrongOwner { execution: row.execution })
        }
        _ => Ok(()),
    }
}

/// Words an answer from what is stored.
type AnswerOf<'a> = &'a dyn Fn(&JobExecution, &ProgressiveExecution, &[Lane], &[Segment]) -> String;

/// A unit, or something around it, hangs: its worker is shut out, the attempt recorded, the lane free. A slice that
/// was answered in the meantime stays so.
pub(crate) fn give_up_worker(
    repository: &dyn JobRepository,
    begun: &Begun,
    seq: u64,
    hanging: Option<u64>,
    answer: AnswerOf<'_>,
) -> Result<String, RepositoryError> {
    contended(|| {
        let mut unit = repository.begin()?;
        let id = begun.lease.execution;
        let lost = RepositoryError::LeaseLost { execution: id };
        let execution = unit.execution(id)?.ok_or(lost)?;
        let lanes = unit.slices().lanes_of(id)?;
        let lane = lanes.iter().find(|lane| lane.rank == begun.lane.rank).cloned();
        let lane = lane.ok_or(RepositoryError::LeaseLost { execution: id })?;
        if lane.seq == seq
            && let Some(answer) = &lane.answer
        {
            return Ok(answer.clone());
        }
        let mut segments = unit.slices().segments_of(id)?;
        let (rank, fence) = (begun.lane.rank, begun.lane.fence);
        let working = |segment: &&mut Segment| {
            segment.lane == Some(rank) && !segment.is_closed && segment.claimed > segment.position
        };
        if let Some(segment) = segments.iter_mut().find(working) {
            // What lies between the checkpoint and the unit runs again, each alone.
            if let Some(hanging) = hanging {
                segment.suspect(segment.poison.careful_until.max(hanging + 1), 1);
                match hanging == segment.position {
                    true => {
                        segment.poison.attempts += 1 + std::mem::take(&mut segment.poison.deaths);
                    }
                    false => segment.poison.deaths += 1,
                }
            }
            segment.claimed = segment.position;
            unit.slices().claim_segment(segment)?;
        }
        let answer = answer(&execution, &begun.row, &lanes, &segments);
        let free =
            Lane { seq, answer: Some(answer.clone()), slices: lane.slices + 1, ..lane.freed() };
        if !unit.slices().update_lane(&free, fence)? {
            return Err(RepositoryError::LeaseLost { execution: id });
        }
        unit.commit()?;
        Ok(answer)
    })
}

/// How a progressive execution ends.
#[derive(Debug, Clone)]
pub(crate) struct Final {
    pub(crate) event: StatusEvent,
    pub(crate) failure: Option<Failure>,
    pub(crate) response: Option<FinalResponse>,
}

impl Final {
    pub(crate) fn completed(response: FinalResponse) -> Self {
        Self { event: StatusEvent::Complete, failure: None, response: Some(response) }
    }

    pub(crate) fn failed(failure: Failure) -> Self {
        let response = Some(problem(&failure));
        Self { event: StatusEvent::Fail, failure: Some(failure), response }
    }

    pub(crate) fn stopped() -> Self {
        Self { event: StatusEvent::ConfirmStop, failure: None, response: None }
    }
}

/// The response of an execution that failed.
fn problem(failure: &Failure) -> FinalResponse {
    let body = serde_json::json!({
        "type": format!("/errors/{}", failure.code),
        "title": "The execution failed",
        "status": 500,
        "detail": failure.message,
        "code": failure.code,
    });
    FinalResponse::new("application/problem+json", body.to_string()).status(500)
}

/// What the exit status says of an execution that ended so.
fn exit_of(event: StatusEvent) -> ExitStatus {
    match event {
        StatusEvent::Complete => ExitStatus::completed(),
        StatusEvent::ConfirmStop => ExitStatus::stopped(),
        _ => ExitStatus::failed(),
    }
}

/// Ends an execution that the unit of work has locked.
pub(crate) fn end(
    unit: &mut dyn UnitOfWork,
    execution: &mut JobExecution,
    row: &ProgressiveExecution,
    ended: Final,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    let id = execution.id;
    let illegal = |_| RepositoryError::LeaseLost { execution: id };
    let exit = exit_of(ended.event);
    for mut step in unit.steps_of(id)?.into_iter().filter(|step| step.id == row.step) {
        step.status = step.status.after(ended.event).map_err(illegal)?;
        step.exit = match &ended.failure {
            Some(failure) => exit.clone().with_message(&failure.message),
            None => exit.clone(),
        };
        step.failure.clone_from(&ended.failure);
        step.ended_at = Some(now);
        step.updated_at = now;
        unit.update_step(&step)?;
        record_step(unit, &step, now)?;
    }
    if let Some(FinalResponse { status, headers, body }) = ended.response {
        let response = StoredResponse { status, headers, body, at: now, is_acknowledged: false };
        unit.slices().insert_response(id, &response)?;
    }
    execution.status = execution.status.after(ended.event).map_err(illegal)?;
    execution.exit = exit;
    execution.failure = ended.failure;
    execution.ended_at = Some(now);
    change(unit, execution, now, None)
}

/// Ends an execution that was asked to stop when nobody works for it: what `execution` then is.
pub(crate) fn close_stopped(
    unit: &mut dyn UnitOfWork,
    execution: &mut JobExecution,
    now: Timestamp,
) -> Result<(), RepositoryError> {
    let Some(row) = unit.slices().progressive(execution.id)? else { return Ok(()) };
    let lanes = unit.slices().lanes_of(execution.id)?;
    if lanes.iter().any(|lane| lane.is_live(now)) {
        return Ok(());
    }
    end(unit, execution, &row, Final::stopped(), now)
}

impl From<Refusal> for SliceError {
    fn from(refusal: Refusal) -> Self {
        Self::Operator(refusal.into())
    }
}
