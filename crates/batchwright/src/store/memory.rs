//! A repository in memory, which ends with the process. Short enough to serve as the specification.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::progressive::{
    Lane, ProgressiveExecution, ProgressiveQueries, ProgressiveRows, ProgressiveState,
    StoredResponse,
};
use super::{CheckpointUpdate, Durability, Held, JobRepository, Lease, Transaction};
use crate::audit::AuditEntry;
use crate::context::ExecutionContext;
use crate::error::RepositoryError;
use crate::event::Event;
use crate::execution::{
    BatchStatus, Counters, ExecutionId, InstanceId, JobExecution, JobInstance, Progress,
    SkipRecord, StepExecution, StepExecutionId,
};
use crate::launch::RequestKey;
use crate::query::{ExecutionFilter, InstancePage, OutcomeCount, Queries};
use crate::store::Segment;

/// A repository in memory: full semantics, no durability.
#[derive(Debug)]
pub struct MemoryRepository {
    state: Mutex<State>,
    id: String,
}

#[derive(Debug, Default)]
struct State {
    last_instance: i64,
    last_execution: i64,
    last_step: i64,
    last_segment: i64,
    instances: BTreeMap<InstanceId, JobInstance>,
    executions: BTreeMap<ExecutionId, JobExecution>,
    steps: BTreeMap<StepExecutionId, StepExecution>,
    skips: Vec<(StepExecutionId, SkipRecord)>,
    last_event: i64,
    /// With their numbers, in their order.
    events: Vec<(i64, Event)>,
    audit: Vec<AuditEntry>,
    requests: BTreeMap<String, (RequestKey, ExecutionId)>,
    progressive: Progressive,
}

/// The rows of progressive executions: few enough to be copied for each transaction that changes them.
#[derive(Debug, Clone, Default)]
struct Progressive {
    rows: BTreeMap<ExecutionId, ProgressiveExecution>,
    lanes: BTreeMap<(ExecutionId, u32), Lane>,
    segments: BTreeMap<i64, Segment>,
    responses: BTreeMap<ExecutionId, StoredResponse>,
}

impl State {
    /// Whether `filter` accepts an execution as the newest of its instance.
    fn is_newest(&self, execution: &JobExecution, filter: &ExecutionFilter) -> bool {
        let newer =
            |one: &JobExecution| one.instance_id == execution.instance_id && one.id > execution.id;
        !filter.newest_of_instance || !self.executions.values().any(newer)
    }
}

impl Default for MemoryRepository {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryRepository {
    /// Returns an empty repository.
    pub fn new() -> Self {
        Self { state: Mutex::default(), id: crate::execution::owner::unique_id() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A transaction that unwinds is rolled back before the lock is released, so the state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobRepository for MemoryRepository {
    fn begin(&self) -> Result<Box<dyn Transaction + '_>, RepositoryError> {
        Ok(Box::new(MemoryUnit { state: self.lock(), undo: Vec::new(), no_database: () }))
    }

    fn slices(&self) -> &dyn ProgressiveQueries {
        self
    }

    fn durability(&self) -> Durability {
        Durability::None
    }

    fn store_id(&self) -> &str {
        &self.id
    }
}

/// A transaction that changes the state in place and records how to undo each change.
struct MemoryUnit<'a> {
    state: MutexGuard<'a, State>,
    undo: Vec<Undo>,
    no_database: (),
}

enum Undo {
    Instance(InstanceId, Option<JobInstance>),
    Execution(ExecutionId, Option<Box<JobExecution>>),
    Step(StepExecutionId, Option<Box<StepExecution>>),
    Checkpoint {
        id: StepExecutionId,
        counters: Counters,
        progress: Option<Progress>,
        checkpoint: Option<String>,
        at: Timestamp,
    },
    Context(StepExecutionId, ExecutionContext),
    Skips(Vec<(StepExecutionId, SkipRecord)>),
    SkipCount(usize),
    Events(Vec<(i64, Event)>),
    EventCount(usize),
    AuditCount(usize),
    Request(String, Option<(RequestKey, ExecutionId)>),
    Progressive(Box<Progressive>),
}

fn put_back<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Drop for MemoryUnit<'_> {
    fn drop(&mut self) {
        let state = &mut *self.state;
        for undo in self.undo.drain(..).rev() {
            match undo {
                Undo::Instance(id, before) => put_back(&mut state.instances, id, before),
                Undo::Execution(id, before) => {
                    put_back(&mut state.executions, id, before.map(|one| *one));
                }
                Undo::Step(id, before) => put_back(&mut state.steps, id, before.map(|one| *one)),
                Undo::Checkpoint { id, counters, progress, checkpoint, at } => {
                    let Some(step) = state.steps.get_mut(&id) else { continue };
                    (step.counters, step.progress) = (counters, progress);
                    (step.checkpoint, step.updated_at) = (checkpoint, at);
                }
                Undo::Context(id, before) => {
                    let Some(step) = state.steps.get_mut(&id) else { continue };
                    step.context = before;
                }
                Undo::Skips(before) => state.skips = before,
                Undo::SkipCount(count) => state.skips.truncate(count),
                Undo::Events(before) => state.events = before,
                Undo::EventCount(count) => state.events.truncate(count),
                Undo::AuditCount(count) => state.audit.truncate(count),
                Undo::Request(key, before) => put_back(&mut state.requests, key, before),
                Undo::Progressive(before) => state.progressive = *before,
            }
        }
    }
}

/// Raises the last id of one kind of row, and returns it.
fn next_id(last: &mut i64) -> i64 {
    *last += 1;
    *last
}

fn missing(what: impl std::fmt::Display) -> RepositoryError {
    RepositoryError::Corrupt { what: format!("{what} does not exist") }
}

impl Transaction for MemoryUnit<'_> {
    fn find_instance(
        &mut self,
        job: &str,
        key: &str,
    ) -> Result<Option<JobInstance>, RepositoryError> {
        let found = self.state.instances.values().find(|one| one.job == job && one.key == key);
        Ok(found.cloned())
    }

    fn newest_instance(&mut self, job: &str) -> Result<Option<JobInstance>, RepositoryError> {
        Ok(self.state.instances.values().rev().find(|one| one.job == job).cloned())
    }

    fn insert_instance(
        &mut self,
        job: &str,
        key: &str,
        at: Timestamp,
    ) -> Result<JobInstance, RepositoryError> {
        if self.find_instance(job, key)?.is_some() {
            return Err(RepositoryError::Conflict { what: format!("the instance of job `{job}`") });
        }
        let id = InstanceId(next_id(&mut self.state.last_instance));
        let instance = JobInstance { id, job: job.to_owned(), key: key.to_owned(), created_at: at };
        self.undo.push(Undo::Instance(id, None));
        self.state.instances.insert(id, instance.clone());
        Ok(instance)
    }

    fn executions_of(&mut self, id: InstanceId) -> Result<Vec<JobExecution>, RepositoryError> {
        let all = self.state.executions.values().rev();
        Ok(all.filter(|one| one.instance_id == id).cloned().collect())
    }

    fn execution(&mut self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError> {
        Ok(self.state.executions.get(&id).cloned())
    }

    fn insert_execution(
        &mut self,
        execution: &JobExecution,
    ) -> Result<ExecutionId, RepositoryError> {
        let instance = execution.instance_id;
        let runs = |one: &JobExecution| one.instance_id == instance && one.status.is_running();
        if execution.status.is_running() && self.state.executions.values().any(runs) {
            return Err(RepositoryError::Conflict {
                what: format!("the running execution of instance {instance}"),
            });
        }
        let id = ExecutionId(next_id(&mut self.state.last_execution));
        self.undo.push(Undo::Execution(id, None));
        self.state.executions.insert(id, JobExecution { id, version: 1, ..execution.clone() });
        Ok(id)
    }

    fn update_execution(&mut self, execution: &JobExecution) -> Result<(), RepositoryError> {
        let id = execution.id;
        let row = self
            .state
            .executions
            .get_mut(&id)
            .ok_or_else(|| missing(format_args!("execution {id}")))?;
        if row.version != execution.version {
            return Err(RepositoryError::Conflict { what: format!("execution {id}") });
        }
        let after = JobExecution { version: row.version + 1, ..execution.clone() };
        let before = std::mem::replace(row, after);
        self.undo.push(Undo::Execution(id, Some(Box::new(before))));
        Ok(())
    }

    fn renew_lease(&mut self, lease: &Lease, until: Timestamp) -> Result<Held, RepositoryError> {
        let Some(row) = self.state.executions.get_mut(&lease.execution) else {
            return Ok(Held::Lost);
        };
        if row.fence != lease.fence || !row.status.is_running() {
            return Ok(Held::Lost);
        }
        let before = row.clone();
        row.lease_until = Some(until);
        let held = Held::with_stop(row.stop_requested);
        self.undo.push(Undo::Execution(lease.execution, Some(Box::new(before))));
        Ok(held)
    }

    fn steps_of(&mut self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError> {
        let all = self.state.steps.values();
        Ok(all.filter(|one| one.execution_id == id).cloned().collect())
    }

    fn history_of(
        &mut self,
        id: InstanceId,
        step: &str,
    ) -> Result<Vec<StepExecution>, RepositoryError> {
        let State { executions, steps, .. } = &*self.state;
        let belongs = |one: &&StepExecution| {
            one.name == step
                && executions.get(&one.execution_id).is_some_and(|e| e.instance_id == id)
        };
        Ok(steps.values().rev().filter(belongs).cloned().collect())
    }

    fn insert_step(&mut self, step: &StepExecution) -> Result<StepExecutionId, RepositoryError> {
        let id = StepExecutionId(next_id(&mut self.state.last_step));
        self.undo.push(Undo::Step(id, None));
        self.state.steps.insert(id, StepExecution { id, ..step.clone() });
        Ok(id)
    }

    fn update_step(&mut self, step: &StepExecution) -> Result<(), RepositoryError> {
        let before = self.state.steps.insert(step.id, step.clone());
        if before.is_none() {
            self.state.steps.remove(&step.id);
            return Err(missing(format_args!("step execution {}", step.id)));
        }
        self.undo.push(Undo::Step(step.id, before.map(Box::new)));
        Ok(())
    }

    fn save_checkpoint(&mut self, update: &CheckpointUpdate<'_>) -> Result<Held, RepositoryError> {
        let State { executions, steps, .. } = &mut *self.state;
        let Lease { execution, fence } = update.lease;
        let job = executions
            .get_mut(&execution)
            .filter(|one| one.fence == fence && one.status.is_running())
            .ok_or(RepositoryError::LeaseLost { execution })?;
        let held = Held::with_stop(job.stop_requested);
        let step = steps
            .get_mut(&update.step)
            .ok_or_else(|| missing(format_args!("step execution {}", update.step)))?;
        self.undo.push(Undo::Checkpoint {
            id: update.step,
            counters: std::mem::replace(&mut step.counters, *update.counters),
            progress: std::mem::replace(&mut step.progress, update.progress),
            checkpoint: step.checkpoint.replace(update.checkpoint.to_owned()),
            at: std::mem::replace(&mut step.updated_at, update.at),
        });
        let parse = |text: &str| {
            ExecutionContext::from_json(text)
                .map_err(|error| RepositoryError::Corrupt { what: error.to_string() })
        };
        if let Some(text) = update.step_context {
            let before = std::mem::replace(&mut step.context, parse(text)?);
            self.undo.push(Undo::Context(update.step, before));
        }
        if let Some(text) = update.job_context {
            self.undo.push(Undo::Execution(execution, Some(Box::new(job.clone()))));
            job.context = parse(text)?;
        }
        Ok(held)
    }

    fn insert_skips(
        &mut self,
        step: StepExecutionId,
        skips: &[SkipRecord],
    ) -> Result<(), RepositoryError> {
        self.undo.push(Undo::SkipCount(self.state.skips.len()));
        self.state.skips.extend(skips.iter().map(|skip| (step, skip.clone())));
        Ok(())
    }

    fn insert_event(&mut self, event: &Event) -> Result<(), RepositoryError> {
        if event.status().is_some() {
            self.undo.push(Undo::EventCount(self.state.events.len()));
            let id = next_id(&mut self.state.last_event);
            self.state.events.push((id, event.clone()));
        }
        Ok(())
    }

    fn insert_audit(&mut self, entry: &AuditEntry) -> Result<(), RepositoryError> {
        let audit = &mut self.state.audit;
        self.undo.push(Undo::AuditCount(audit.len()));
        audit.push(AuditEntry { id: audit.len() as i64 + 1, ..entry.clone() });
        Ok(())
    }

    fn request(&mut self, key: &str) -> Result<Option<(RequestKey, ExecutionId)>, RepositoryError> {
        Ok(self.state.requests.get(key).cloned())
    }

    fn insert_request(
        &mut self,
        request: &RequestKey,
        id: ExecutionId,
    ) -> Result<(), RepositoryError> {
        if self.state.requests.contains_key(&request.key) {
            return Err(RepositoryError::Conflict { what: "a request".to_owned() });
        }
        self.undo.push(Undo::Request(request.key.clone(), None));
        self.state.requests.insert(request.key.clone(), (request.clone(), id));
        Ok(())
    }

    fn delete_execution(&mut self, id: ExecutionId) -> Result<(), RepositoryError> {
        let steps = self.steps_of(id)?;
        self.undo.push(Undo::Skips(self.state.skips.clone()));
        self.state.skips.retain(|(step, _)| steps.iter().all(|one| one.id != *step));
        if self.state.progressive.rows.contains_key(&id) {
            let progressive = self.progressive_mut();
            progressive.rows.remove(&id);
            progressive.lanes.retain(|(execution, _), _| *execution != id);
            progressive.segments.retain(|_, segment| segment.execution != id);
            progressive.responses.remove(&id);
        }
        self.undo.push(Undo::Events(self.state.events.clone()));
        self.state.events.retain(|(_, event)| event.execution() != Some(id));
        for (key, request) in self.state.requests.extract_if(.., |_, (_, of)| *of == id) {
            self.undo.push(Undo::Request(key, Some(request)));
        }
        for step in steps {
            self.state.steps.remove(&step.id);
            self.undo.push(Undo::Step(step.id, Some(Box::new(step))));
        }
        if let Some(execution) = self.state.executions.remove(&id) {
            let instance = execution.instance_id;
            self.undo.push(Undo::Execution(id, Some(Box::new(execution))));
            if self.state.executions.values().all(|one| one.instance_id != instance) {
                let before = self.state.instances.remove(&instance);
                self.undo.push(Undo::Instance(instance, before));
            }
        }
        Ok(())
    }

    fn slices(&mut self) -> &mut dyn ProgressiveRows {
        self
    }

    fn resource(&mut self, _: std::any::TypeId) -> &mut dyn Any {
        // The store has no database to share: a writer that requires one finds `()` and reports an error.
        &mut self.no_database
    }

    fn commit(mut self: Box<Self>) -> Result<(), RepositoryError> {
        self.undo.clear();
        Ok(())
    }
}

impl MemoryUnit<'_> {
    fn progressive_mut(&mut self) -> &mut Progressive {
        self.undo.push(Undo::Progressive(Box::new(self.state.progressive.clone())));
        &mut self.state.progressive
    }

    fn segment_mut(&mut self, id: i64) -> Result<&mut Segment, RepositoryError> {
        let found = self.progressive_mut().segments.get_mut(&id);
        found.ok_or_else(|| missing(format_args!("segment {id}")))
    }
}

impl Progressive {
    fn lanes(&self, id: ExecutionId) -> Vec<Lane> {
        self.lanes.range((id, 0)..=(id, u32::MAX)).map(|(_, lane)| lane.clone()).collect()
    }

    fn segments(&self, id: ExecutionId) -> Vec<Segment> {
        let all = self.segments.values().filter(|segment| segment.execution == id);
        let mut all: Vec<_> =
            all.map(|segment| Segment { partial: None, ..segment.clone() }).collect();
        all.sort_by_key(|segment| (segment.rank, segment.start));
        all
    }
}

impl ProgressiveRows for MemoryUnit<'_> {
    fn insert_progressive(&mut self, row: &ProgressiveExecution) -> Result<(), RepositoryError> {
        self.progressive_mut().rows.insert(row.execution, row.clone());
        Ok(())
    }

    fn progressive(
        &mut self,
        id: ExecutionId,
    ) -> Result<Option<ProgressiveExecution>, RepositoryError> {
        Ok(self.state.progressive.rows.get(&id).cloned())
    }

    fn update_total(&mut self, id: ExecutionId, total: u64) -> Result<(), RepositoryError> {
        if let Some(row) = self.progressive_mut().rows.get_mut(&id) {
            row.units_total = Some(total);
        }
        Ok(())
    }

    fn insert_lane(&mut self, lane: &Lane) -> Result<(), RepositoryError> {
        self.progressive_mut().lanes.insert((lane.execution, lane.rank), lane.clone());
        Ok(())
    }

    fn lanes_of(&mut self, id: ExecutionId) -> Result<Vec<Lane>, RepositoryError> {
        Ok(self.state.progressive.lanes(id))
    }

    fn update_lane(&mut self, lane: &Lane, fence: i64) -> Result<bool, RepositoryError> {
        let lanes = &mut self.progressive_mut().lanes;
        let found = lanes.get_mut(&(lane.execution, lane.rank)).filter(|row| row.fence == fence);
        Ok(found.map(|row| *row = lane.clone()).is_some())
    }

    fn renew_lane(
        &mut self,
        lane: &Lane,
        fence: i64,
        until: Timestamp,
    ) -> Result<bool, RepositoryError> {
        let lanes = &mut self.progressive_mut().lanes;
        let found = lanes.get_mut(&(lane.execution, lane.rank)).filter(|row| row.fence == fence);
        Ok(found.map(|row| row.lease_until = Some(until)).is_some())
    }

    fn insert_segment(&mut self, segment: &Segment) -> Result<i64, RepositoryError> {
        let id = next_id(&mut self.state.last_segment);
        self.progressive_mut().segments.insert(id, Segment { id, ..segment.clone() });
        Ok(id)
    }

    fn segments_of(&mut self, id: ExecutionId) -> Result<Vec<Segment>, RepositoryError> {
        Ok(self.state.progressive.segments(id))
    }

    fn partial_of(&mut self, id: i64) -> Result<Option<String>, RepositoryError> {
        Ok(self.state.progressive.segments.get(&id).and_then(|segment| segment.partial.clone()))
    }

    fn update_segment(&mut self, segment: &Segment) -> Result<(), RepositoryError> {
        let row = self.segment_mut(segment.id)?;
        *row = Segment { start: row.start, end: row.end, ..segment.clone() };
        Ok(())
    }

    fn claim_segment(&mut self, segment: &Segment) -> Result<(), RepositoryError> {
        let row = self.segment_mut(segment.id)?;
        row.lane = segment.lane;
        row.claimed = segment.claimed;
        row.failure_record = segment.failure_record.clone();
        Ok(())
    }

    fn cut_segment(&mut self, id: i64, end: u64) -> Result<(), RepositoryError> {
        self.segment_mut(id)?.end = Some(end);
        Ok(())
    }

    fn hold_execution(&mut self, lease: &Lease) -> Result<Held, RepositoryError> {
        let found = self.state.executions.get(&lease.execution);
        let held = found.filter(|one| one.fence == lease.fence && one.status.is_running());
        Ok(held.map_or(Held::Lost, |one| Held::with_stop(one.stop_requested)))
    }

    fn add_counters(
        &mut self,
        step: StepExecutionId,
        more: &Counters,
        at: Timestamp,
    ) -> Result<(), RepositoryError> {
        let row = self.state.steps.get_mut(&step);
        let row = row.ok_or_else(|| missing(format_args!("step execution {step}")))?;
        let before = row.clone();
        row.counters += *more;
        row.updated_at = at;
        self.undo.push(Undo::Step(step, Some(Box::new(before))));
        Ok(())
    }

    fn insert_response(
        &mut self,
        id: ExecutionId,
        response: &StoredResponse,
    ) -> Result<(), RepositoryError> {
        self.progressive_mut().responses.insert(id, response.clone());
        Ok(())
    }

    fn acknowledge_response(&mut self, id: ExecutionId) -> Result<bool, RepositoryError> {
        let found = self.progressive_mut().responses.get_mut(&id);
        Ok(found.filter(|one| !one.is_acknowledged).map(let_go).is_some())
    }

    fn expire_responses(&mut self, before: Timestamp) -> Result<u64, RepositoryError> {
        let old = self.progressive_mut().responses.values_mut();
        let old = old.filter(|one| one.at < before && !one.is_acknowledged);
        Ok(old.map(let_go).count() as u64)
    }
}

fn let_go(response: &mut StoredResponse) {
    response.is_acknowledged = true;
    response.body.clear();
}

impl ProgressiveQueries for MemoryRepository {
    fn progressive_state(
        &self,
        id: ExecutionId,
    ) -> Result<Option<ProgressiveState>, RepositoryError> {
        let state = self.lock();
        let Some(row) = state.progressive.rows.get(&id) else { return Ok(None) };
        let (lanes, segments) = (state.progressive.lanes(id), state.progressive.segments(id));
        Ok(Some(ProgressiveState { row: row.clone(), lanes, segments }))
    }

    fn response(&self, id: ExecutionId) -> Result<Option<StoredResponse>, RepositoryError> {
        Ok(self.lock().progressive.responses.get(&id).cloned())
    }

    fn server_driven(&self) -> Result<Vec<ExecutionId>, RepositoryError> {
        let state = self.lock();
        let rows = state.progressive.rows.values().filter(|row| row.is_server_driven);
        let runs =
            |id: &ExecutionId| state.executions.get(id).is_some_and(|one| one.status.is_running());
        Ok(rows.map(|row| row.execution).filter(runs).collect())
    }
}

impl Queries for MemoryRepository {
    fn job_names(&self) -> Result<Vec<String>, RepositoryError> {
        let mut names: Vec<_> = self.lock().instances.values().map(|one| one.job.clone()).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn instance(&self, id: InstanceId) -> Result<Option<JobInstance>, RepositoryError> {
        Ok(self.lock().instances.get(&id).cloned())
    }

    fn instances(
        &self,
        job: &str,
        page: InstancePage,
    ) -> Result<Vec<JobInstance>, RepositoryError> {
        let state = self.lock();
        let newest_first = state.instances.values().rev();
        Ok(newest_first
            .filter(|one| one.job == job && page.before.is_none_or(|before| one.id < before))
            .skip(page.offset)
            .take(page.limit)
            .cloned()
            .collect())
    }

    fn instance_count(&self, job: &str) -> Result<u64, RepositoryError> {
        Ok(self.lock().instances.values().filter(|one| one.job == job).count() as u64)
    }

    fn execution(&self, id: ExecutionId) -> Result<Option<JobExecution>, RepositoryError> {
        Ok(self.lock().executions.get(&id).cloned())
    }

    fn executions(&self, filter: &ExecutionFilter) -> Result<Vec<JobExecution>, RepositoryError> {
        let state = self.lock();
        let newest_first = state.executions.values().rev();
        Ok(newest_first
            .filter(|one| filter.matches(one) && state.is_newest(one, filter))
            .skip(filter.offset)
            .take(filter.limit.unwrap_or(usize::MAX))
            .cloned()
            .collect())
    }

    fn execution_count(&self, filter: &ExecutionFilter) -> Result<u64, RepositoryError> {
        let state = self.lock();
        let matches = |one: &&JobExecution| filter.matches(one) && state.is_newest(one, filter);
        Ok(state.executions.values().filter(matches).count() as u64)
    }

    fn steps(&self, id: ExecutionId) -> Result<Vec<StepExecution>, RepositoryError> {
        let state = self.lock();
        Ok(state.steps.values().filter(|one| one.execution_id == id).cloned().collect())
    }

    fn step(&self, id: StepExecutionId) -> Result<Option<StepExecution>, RepositoryError> {
        Ok(self.lock().steps.get(&id).cloned())
    }

    fn skips(&self, id: ExecutionId) -> Result<Vec<SkipRecord>, RepositoryError> {
        let state = self.lock();
        let belongs = |step: &StepExecutionId| {
            state.steps.get(step).is_some_and(|one| one.execution_id == id)
        };
        Ok(state
            .skips
            .iter()
            .filter(|(step, _)| belongs(step))
            .map(|(_, skip)| skip.clone())
            .collect())
    }

    fn events(&self, id: ExecutionId) -> Result<Vec<Event>, RepositoryError> {
        let state = self.lock();
        let events = state.events.iter().map(|(_, event)| event);
        Ok(events.filter(|one| one.execution() == Some(id)).cloned().collect())
    }

    fn events_after(&self, after: i64, limit: usize) -> Result<Vec<(i64, Event)>, RepositoryError> {
        let state = self.lock();
        let later = state.events.iter().filter(|(id, _)| *id > after);
        Ok(later.take(limit).cloned().collect())
    }

    fn last_event(&self) -> Result<i64, RepositoryError> {
        Ok(self.lock().events.last().map_or(0, |(id, _)| *id))
    }

    fn steps_of(&self, ids: &[ExecutionId]) -> Result<Vec<StepExecution>, RepositoryError> {
        let state = self.lock();
        Ok(state.steps.values().filter(|one| ids.contains(&one.execution_id)).cloned().collect())
    }

    fn newest_of_jobs(&self) -> Result<Vec<JobExecution>, RepositoryError> {
        let state = self.lock();
        let by_job: BTreeMap<&str, &JobExecution> =
            state.executions.values().map(|one| (&*one.job, one)).collect();
        Ok(by_job.into_values().cloned().collect())
    }

    fn outcomes(
        &self,
        since: Timestamp,
        seconds: u32,
    ) -> Result<Vec<OutcomeCount>, RepositoryError> {
        let mut counts: BTreeMap<(u32, &str), (BatchStatus, u64)> = BTreeMap::new();
        let state = self.lock();
        for one in state.executions.values().filter(|one| one.created_at >= since) {
            let period = one.created_at.duration_since(since).as_secs() / i64::from(seconds.max(1));
            let period = u32::try_from(period).unwrap_or(u32::MAX);
            counts.entry((period, one.status.name())).or_insert((one.status, 0)).1 += 1;
        }
        let counts = counts.into_iter();
        Ok(counts
            .map(|((period, _), (status, count))| OutcomeCount { period, status, count })
            .collect())
    }

    fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>, RepositoryError> {
        let state = self.lock();
        let older = state.audit.iter().rev().filter(|one| before.is_none_or(|id| one.id < id));
        Ok(older.take(limit).cloned().collect())
    }
}
