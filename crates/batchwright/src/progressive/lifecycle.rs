//! The rules of a progressive execution's lifecycle, each applied in one transaction.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::budget::SAMPLES_MIN;
use super::claims::{self, NoWork};
use super::slice::{SliceError, SliceOrder};
use super::step::Settings;
use super::timing::UnitTimes;
use crate::clock::later;
use crate::error::RepositoryError;
use crate::event::{Change, Event};
use crate::execution::{JobExecution, StepExecution};
use crate::lifecycle::{ObservedStore, Tx, subject_of, transact};
use crate::refusal::Refusal;
use crate::store::{Lane, Lease, ProgressiveExecution, Segment};
use crate::text::hex;

/// Returns the hash of a token, as it is stored.
pub(super) fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// A slice that has begun.
pub(crate) struct Begun {
    pub(crate) execution: JobExecution,
    pub(crate) step: StepExecution,
    pub(crate) row: ProgressiveExecution,
    pub(crate) lease: Lease,
    pub(crate) lane: Lane,
    pub(crate) segment: Result<Segment, NoWork>,
}

/// The result of beginning a slice.
pub(crate) enum Beginning {
    /// The slice runs.
    Run(Box<Begun>),
    /// The request was answered before: the stored answer.
    Answered(String),
    /// The execution has ended, and the request is new.
    Ended(Box<(JobExecution, ProgressiveExecution)>),
}

/// Takes the lease of a lane and claims its first window.
pub(crate) fn begin_slice(
    store: &ObservedStore,
    order: &SliceOrder,
    settings: &Settings,
    owner: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<Beginning, SliceError> {
    transact(store, |tx| begin_in(tx, order, settings, owner, now, lease))
}

fn begin_in(
    tx: &mut Tx<'_>,
    order: &SliceOrder,
    settings: &Settings,
    owner: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<Beginning, SliceError> {
    let id = order.execution;
    let execution = tx.execution(id)?.ok_or(Refusal::NoSuchExecution { execution: id })?;
    let row = tx.slices().progressive(id)?.ok_or(SliceError::NotProgressive { execution: id })?;
    let lanes = tx.slices().lanes_of(id)?;
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
    if !tx.slices().update_lane(&lane, former)? {
        return Err(SliceError::LaneBusy { lane: lane.rank });
    }
    learn(&mut lane, &others);
    let rules = claims::rules(&row, settings);
    let units = claims::window(&UnitTimes::from_json(&lane.times));
    let segment = match execution.stop_requested {
        true => Err(NoWork::Wait),
        false => claims::claim_segment(tx, id, lane.rank, now, units, rules)?,
    };
    let steps = tx.steps_of(id)?;
    let step = steps
        .into_iter()
        .find(|step| step.id == row.step)
        .ok_or_else(|| RepositoryError::Corrupt { what: format!("execution {id} has no step") })?;
    let lease = Lease { execution: id, fence: execution.fence };
    tx.after_commit(|| {
        let change = Change::SliceBegan { lane: lane.rank };
        Event { at: now, subject: subject_of(&execution), change }
    });
    Ok(Beginning::Run(Box::new(Begun { execution, step, row, lease, lane, segment })))
}

/// Gives a lane with too few samples the unit times of the lane that has the most.
pub(super) fn learn(lane: &mut Lane, others: &[Lane]) {
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

/// Refuses a request without the owner token of the execution. Both sides are hashes, so that the time of the
/// comparison discloses nothing about the token.
pub(crate) fn check_owner(row: &ProgressiveExecution, token: Option<&str>) -> Result<(), Refusal> {
    match &row.owner_hash {
        Some(owner) if token.map(hash).as_ref() != Some(owner) => {
            Err(Refusal::WrongOwner { execution: row.execution })
        }
        _ => Ok(()),
    }
}

/// A function that makes an answer from stored rows.
type AnswerOf<'a> = &'a dyn Fn(&JobExecution, &ProgressiveExecution, &[Lane], &[Segment]) -> String;

/// Shuts out the worker of a hanging unit or other user code: counts the attempt and frees the lane. A slice
/// that was answered in the meantime keeps its answer.
pub(crate) fn shut_out_worker(
    store: &ObservedStore,
    begun: &Begun,
    seq: u64,
    hanging: Option<u64>,
    ended: (Timestamp, Duration),
    answer: AnswerOf<'_>,
) -> Result<String, RepositoryError> {
    transact(store, |tx| {
        let id = begun.lease.execution;
        let lost = RepositoryError::LeaseLost { execution: id };
        let execution = tx.execution(id)?.ok_or(lost)?;
        let lanes = tx.slices().lanes_of(id)?;
        let lane = lanes.iter().find(|lane| lane.rank == begun.lane.rank).cloned();
        let lane = lane.ok_or(RepositoryError::LeaseLost { execution: id })?;
        if lane.seq == seq
            && let Some(answer) = &lane.answer
        {
            return Ok(answer.clone());
        }
        let mut segments = tx.slices().segments_of(id)?;
        let (rank, fence) = (begun.lane.rank, begun.lane.fence);
        let working = |segment: &&mut Segment| {
            segment.lane == Some(rank) && !segment.is_closed && segment.claimed > segment.position
        };
        if let Some(segment) = segments.iter_mut().find(working) {
            // The units between the checkpoint and the hanging unit run again, each as a chunk of its own.
            if let Some(hanging) = hanging {
                segment.begin_search(segment.failure_record.search_until.max(hanging + 1), 1);
                segment.failure_record.count_attempt(hanging);
            }
            segment.claimed = segment.position;
            tx.slices().claim_segment(segment)?;
        }
        let answer = answer(&execution, &begun.row, &lanes, &segments);
        let free =
            Lane { seq, answer: Some(answer.clone()), slices: lane.slices + 1, ..lane.freed() };
        if !tx.slices().update_lane(&free, fence)? {
            return Err(RepositoryError::LeaseLost { execution: id });
        }
        tx.after_commit(|| slice_ended(&execution, rank, ended));
        Ok(answer)
    })
}

/// Returns the event of a slice of lane `lane` that ended at a time after a duration.
pub(super) fn slice_ended(
    execution: &JobExecution,
    lane: u32,
    (at, took): (Timestamp, Duration),
) -> Event {
    Event { at, subject: subject_of(execution), change: Change::SliceEnded { lane, took } }
}

impl From<Refusal> for SliceError {
    fn from(refusal: Refusal) -> Self {
        Self::Operator(refusal.into())
    }
}
