//! Opens progressive executions: stores their rows in the transaction of their start.

use std::time::Duration;

use super::lifecycle::{hash, learn};
use super::step::{Plan, Settings};
use crate::error::RepositoryError;
use crate::execution::owner::unique_id;
use crate::execution::{BatchStatus, ExecutionId, JobExecution, StepExecution};
use crate::launch::RequestKey;
use crate::lifecycle::{
    ObservedStore, StartRequest, Tx, change, record_step, retry_on_conflict, start_in,
};
use crate::parameters::{JobParameters, REPEAT_PARAMETER};
use crate::refusal::{OperatorError, Refusal};
use crate::store::{Lane, ProgressiveExecution, Segment};

/// Minimum target of a slice: a shorter slice would consist only of its commit.
const TARGET_MIN: Duration = Duration::from_millis(1);

/// Maximum target of a slice: a slice serves a short request.
const TARGET_MAX: Duration = Duration::from_secs(24 * 3600);

/// The options of opening a progressive execution.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Number of lanes. Default and maximum: the number of lanes of the step.
    pub lanes: Option<u32>,
    /// Target time of a slice. Default: the target of the step.
    pub target: Option<Duration>,
    /// The owner token: a secret that requests for this execution must show, 1 to 255 visible ASCII
    /// characters.
    pub owner_token: Option<String>,
    /// Whether servers drive the execution and clients only wait for its end.
    pub is_server_driven: bool,
    /// Whether complete work is done again, as an instance of its own with the parameter
    /// [`REPEAT_PARAMETER`]. Otherwise it is refused as complete.
    pub repeats: bool,
}

impl OpenOptions {
    /// Returns the options of an execution that servers drive: another server continues it when the process
    /// that opened it dies.
    pub fn server_driven() -> Self {
        Self { is_server_driven: true, ..Self::default() }
    }
}

/// The values for opening an execution, in addition to those of its start.
pub(crate) struct OpenRequest<'a> {
    pub(crate) start: StartRequest<'a>,
    pub(crate) step: &'a str,
    pub(crate) settings: Settings,
    pub(crate) options: &'a OpenOptions,
    /// Whether a client sends the request, which must then show the owner token of an execution that it
    /// continues.
    pub(crate) as_client: bool,
    /// Examines the input; called only when the instance begins.
    pub(crate) plan: &'a dyn Fn() -> Result<Plan, OperatorError>,
}

/// Starts or restarts the instance of `parameters` and opens it for slices.
pub(crate) fn open(
    store: &ObservedStore,
    request: &OpenRequest<'_>,
    parameters: &JobParameters,
) -> Result<JobExecution, OperatorError> {
    let mut plan = None;
    let under_way = match request.options.repeats {
        true => under_way(store, request.start.job, parameters)?,
        false => None,
    };
    let parameters = under_way.as_ref().unwrap_or(parameters);
    loop {
        // A transaction that only finds that the input must be examined is rolled back.
        let opened = retry_on_conflict(|| {
            let mut tx = store.begin()?;
            let opened = open_in(&mut tx, request, parameters, plan.as_ref())?;
            if opened.is_some() {
                tx.commit()?;
            }
            Ok::<_, OperatorError>(opened)
        })?;
        match opened {
            Some(execution) => return Ok(execution),
            // No transaction is open while user code examines the input.
            None => plan = Some((request.plan)()?),
        }
    }
}

/// Opens the execution in one transaction. `None`: the input must be examined first.
fn open_in(
    tx: &mut Tx<'_>,
    request: &OpenRequest<'_>,
    parameters: &JobParameters,
    plan: Option<&Plan>,
) -> Result<Option<JobExecution>, OperatorError> {
    let now = request.start.now;
    let repeats = request.options.repeats && parameters.get(REPEAT_PARAMETER).is_none();
    let parameters = match repeats {
        true => repeated(tx, request.start.job, parameters)?,
        false => parameters.clone(),
    };
    let mut execution = start_in(tx, &request.start, parameters)?;
    let former = former(tx, &execution)?;
    let units = match (&former, plan) {
        (Some((row, _)), _) => UnitsOf::Former(row),
        (None, Some(plan)) => UnitsOf::Plan(plan),
        (None, None) => return Ok(None),
    };
    execution.status = BatchStatus::Started;
    execution.started_at = Some(now);
    change(tx, &mut execution, now, None)?;
    let step = insert_step(tx, request, execution.id, former.as_ref().map(|(_, step)| step))?;
    let former = former.as_ref().map(|(row, _)| row);
    let known = match former {
        Some(former) => tx.slices().lanes_of(former.execution)?,
        None => Vec::new(),
    };
    let max = request.settings.lanes;
    let as_before = u32::try_from(known.len()).ok().filter(|lanes| *lanes > 0).unwrap_or(max);
    let lanes = request.options.lanes.unwrap_or(as_before).clamp(1, max);
    let target = former.map_or(request.settings.target, |former| former.target);
    let (is_split, units_total, text) = units.facts();
    let row = ProgressiveExecution {
        execution: execution.id,
        step: step.id,
        target: request.options.target.unwrap_or(target).clamp(TARGET_MIN, TARGET_MAX),
        is_split,
        units_total,
        plan: text.to_owned(),
        owner_hash: owner_of(former, request)?,
        is_server_driven: request.options.is_server_driven,
    };
    let segments = match units {
        UnitsOf::Former(former) => inherited(tx, former.execution, execution.id)?,
        UnitsOf::Plan(plan) => cut(execution.id, plan, lanes),
    };
    tx.slices().insert_progressive(&row)?;
    for segment in &segments {
        tx.slices().insert_segment(segment)?;
    }
    insert_lanes(tx, &row, segments.len(), lanes, &known)?;
    Ok(Some(execution))
}

/// Where the units of an execution come from.
enum UnitsOf<'a> {
    /// The execution continues the segments of this one.
    Former(&'a ProgressiveExecution),
    /// The input was examined.
    Plan(&'a Plan),
}

impl UnitsOf<'_> {
    /// Returns whether units can be split, their total number if it is known, and the text of the plan.
    fn facts(&self) -> (bool, Option<u64>, &str) {
        match self {
            Self::Former(former) => (former.is_split, former.units_total, &former.plan),
            Self::Plan(plan) => (plan.extent.is_ok(), plan.extent.ok(), &plan.text),
        }
    }
}

/// Inserts the row of the step, which continues `former`.
fn insert_step(
    tx: &mut Tx<'_>,
    request: &OpenRequest<'_>,
    execution: ExecutionId,
    former: Option<&StepExecution>,
) -> Result<StepExecution, RepositoryError> {
    let now = request.start.now;
    let mut step = StepExecution {
        execution_id: execution,
        status: BatchStatus::Started,
        context: former.map(|former| former.context.clone()).unwrap_or_default(),
        begun_by: former.map(StepExecution::round),
        ..StepExecution::new_unsaved(request.step, now)
    };
    step.id = tx.insert_step(&step)?;
    record_step(tx, request.start.job, &step, now)?;
    Ok(step)
}

/// Inserts the lanes of an execution; they begin with the unit times of the lanes `known`.
fn insert_lanes(
    tx: &mut Tx<'_>,
    row: &ProgressiveExecution,
    segments: usize,
    wanted: u32,
    known: &[Lane],
) -> Result<(), RepositoryError> {
    // Each rank requires a lane; units that can be split require at most one lane per unit.
    let count = match row.is_split {
        true => wanted.min(u32::try_from(row.units_total.unwrap_or(1)).unwrap_or(wanted)).max(1),
        false => u32::try_from(segments).unwrap_or(1).max(1),
    };
    for rank in 0..count {
        let mut lane = Lane {
            execution: row.execution,
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
        learn(&mut lane, known);
        tx.slices().insert_lane(&lane)?;
    }
    Ok(())
}

/// Returns `parameters`, or those of the first repetition that is neither completed nor abandoned. Doubling
/// and halving find its number where the numbers have no gap; a gap that a purge left may be used as a
/// number.
fn repeated(
    tx: &mut Tx<'_>,
    job: &str,
    parameters: &JobParameters,
) -> Result<JobParameters, OperatorError> {
    let repetition = |number: i64| match number {
        0 => parameters.clone(),
        _ => parameters.clone().with(REPEAT_PARAMETER, number),
    };
    let mut is_over = |number| -> Result<bool, OperatorError> {
        let Some(instance) = tx.find_instance(job, &repetition(number).key())? else {
            return Ok(false);
        };
        let newest = tx.executions_of(instance.id)?.into_iter().next();
        let ends = [BatchStatus::Completed, BatchStatus::Abandoned];
        Ok(newest.is_some_and(|newest| ends.contains(&newest.status)))
    };
    if !is_over(0)? {
        return Ok(repetition(0));
    }
    let (mut over, mut open) = (0, 1);
    while is_over(open)? {
        (over, open) = (open, open * 2);
    }
    while open - over > 1 {
        let middle = over + (open - over) / 2;
        match is_over(middle)? {
            true => over = middle,
            false => open = middle,
        }
    }
    Ok(repetition(open))
}

/// Returns the parameters of a running execution that does the work of `parameters`, in any repetition.
fn under_way(
    store: &ObservedStore,
    job: &str,
    parameters: &JobParameters,
) -> Result<Option<JobParameters>, OperatorError> {
    let key = parameters.key();
    let running = store.running(job)?.into_iter().map(|one| one.parameters);
    Ok(running.into_iter().find(|one| one.without(REPEAT_PARAMETER).key() == key))
}

/// Returns the hash of the owner token. The token with which the instance was first opened stays valid.
fn owner_of(
    former: Option<&ProgressiveExecution>,
    request: &OpenRequest<'_>,
) -> Result<Option<String>, Refusal> {
    let given = request.options.owner_token.as_deref();
    if !given.is_none_or(RequestKey::is_valid) {
        let problem = "the owner token must be 1 to 255 visible ASCII characters";
        return Err(Refusal::InvalidParameters { problems: vec![problem.to_owned()] });
    }
    let given = given.map(hash);
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

/// Returns the progressive execution that `execution` restarts, and its step.
fn former(
    tx: &mut Tx<'_>,
    execution: &JobExecution,
) -> Result<Option<(ProgressiveExecution, StepExecution)>, RepositoryError> {
    let Some(id) = execution.restart_of else { return Ok(None) };
    let Some(row) = tx.slices().progressive(id)? else { return Ok(None) };
    let steps = tx.steps_of(id)?;
    Ok(steps.into_iter().find(|step| step.id == row.step).map(|step| (row, step)))
}

/// Returns the segments of `from` at their positions, for `to`. The records of failed attempts are deleted,
/// so that units have all their attempts again; units that are counted as failed stay so.
fn inherited(
    tx: &mut Tx<'_>,
    from: ExecutionId,
    to: ExecutionId,
) -> Result<Vec<Segment>, RepositoryError> {
    let mut segments = tx.slices().segments_of(from)?;
    for segment in &mut segments {
        segment.partial = tx.slices().partial_of(segment.id)?;
        segment.execution = to;
        segment.claimed = segment.position;
        segment.lane = None;
        segment.failure_record = Default::default();
    }
    Ok(segments)
}

/// Returns one segment for each lane, of nearly the same length, or one for each rank.
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
