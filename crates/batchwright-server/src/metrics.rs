//! Metrics for Prometheus: what this process did, counted from its events, and what the store says now.
//!
//! Names and labels are a contract, which a test pins. Labels are names of jobs, steps and triggers, at most [`NAMES_MAX`] of each;
//! further ones are counted as `other`, so that a program that invents names cannot fill the memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::event::{Change, ChunkTimes, Event, Observer, Subject};
use batchwright::execution::{BatchStatus, Counters, ExecutionId, StepExecutionId};
use batchwright::query::ExecutionFilter;
use batchwright::store::schedule::{TRIGGER, TriggerRow, TriggerStatus};
use batchwright::{JobOperator, report};
use jiff::Timestamp;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::scheduler::{Answer, Request, Scheduler};

/// Most names of jobs, of steps and of triggers.
const NAMES_MAX: usize = 1_000;
/// Most steps and executions whose beginnings are remembered.
const BEGUN_MAX: usize = 100_000;
/// Triggers whose next fires are among the metrics.
const NEXT_FIRES_MAX: usize = 1_000;
/// Most running executions that a scrape reads.
const RUNNING_MAX: usize = 10_000;
/// What starts executions; everything else counts as an application.
const KINDS: [&str; 6] = ["cli", "api", "dashboard", "schedule", "queue", "step"];
/// The buckets of durations, in seconds.
const SECONDS: [f64; 14] = [
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 10_800.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabel {
    job: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    job: String,
    step: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ItemLabels {
    job: String,
    step: String,
    op: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    job: String,
    step: String,
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    job: String,
    step: String,
    class: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobEndLabels {
    job: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExecutionLabels {
    job: String,
    status: &'static str,
    exit_code: String,
    trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepEndLabels {
    job: String,
    step: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScheduleLabel {
    schedule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MisfireLabels {
    schedule: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FiredLabels {
    schedule: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunnerLabels {
    runner: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// A histogram of seconds for each set of labels.
type Seconds<L> = Family<L, Histogram, fn() -> Histogram>;

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// A chunk takes some milliseconds, and minutes when its sink is slow.
fn chunk_seconds() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0,
    ])
}

fn seconds_of<L: Clone + std::hash::Hash + Eq>() -> Seconds<L> {
    Family::new_with_constructor(seconds)
}

/// Declares the metrics: field, type and first value, name and explanation.
macro_rules! metrics {
    ($($field:ident: $kind:ty = $first:expr, $name:literal, $help:literal;)*) => {
        struct Families { $($field: $kind),* }

        impl Families {
            fn new(registry: &mut Registry) -> Self {
                $(
                    let $field: $kind = $first;
                    registry.register($name, $help, $field.clone());
                )*
                Self { $($field),* }
            }
        }
    };
}

metrics! {
    build: Family<BuildLabels, Gauge> = Family::default(), "build_info", "Version of the program";
    executions: Family<ExecutionLabels, Counter> = Family::default(),
        "job_executions", "Executions that ended in this process";
    job_seconds: Seconds<JobEndLabels> = seconds_of(),
        "job_duration_seconds", "Duration of executions that ended in this process";
    step_seconds: Seconds<StepEndLabels> = seconds_of(),
        "step_duration_seconds", "Duration of steps that ended in this process";
    items: Family<ItemLabels, Counter> = Family::default(), "items", "Items of committed chunks";
    commits: Family<StepLabels, Counter> = Family::default(), "chunk_commits", "Committed chunks";
    rollbacks: Family<StepLabels, Counter> = Family::default(),
        "chunk_rollbacks", "Attempts at chunks that were rolled back";
    chunk_seconds: Seconds<PhaseLabels> = Family::new_with_constructor(chunk_seconds),
        "chunk_duration_seconds", "Duration of the phases of committed chunks";
    retries: Family<RetryLabels, Counter> = Family::default(),
        "item_retries", "Reads, items and chunks that failed and were tried again, by the kind of the error";
    slice_seconds: Histogram = seconds(),
        "slice_duration_seconds", "Duration of slices of progressive executions";
    lag: Seconds<ScheduleLabel> = seconds_of(),
        "schedule_lag_seconds", "Time between the planned and the actual firing";
    misfires: Family<MisfireLabels, Counter> = Family::default(),
        "schedule_misfires", "Slots that did not fire";
    fired: Family<FiredLabels, Counter> = Family::default(),
        "triggers_fired", "Triggers and slots that ended, by result";
    calls: Family<RunnerLabels, Counter> = Family::default(),
        "runner_invocations", "Calls of the runners of triggers that ended";
    call_seconds: Seconds<RunnerLabels> = seconds_of(),
        "runner_duration_seconds", "Duration of the calls of the runners of triggers";
    running: Family<JobLabel, Gauge> = Family::default(),
        "job_running", "Running executions in the store";
    stale: Family<JobLabel, Gauge> = Family::default(),
        "stuck_executions", "Executions in the store whose owner is lost";
    queued: Gauge = Gauge::default(),
        "queued_executions", "Executions in the store that wait for a process";
    last_success: Family<JobLabel, Gauge> = Family::default(),
        "job_last_success_timestamp_seconds", "End of the last completed execution in the store";
    next_fire: Family<ScheduleLabel, Gauge> = Family::default(),
        "schedule_next_fire_timestamp_seconds", "Time at which the trigger fires next";
}

/// The metrics of a process. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    operator: JobOperator,
    of: Families,
    known: Mutex<Known>,
    /// Held during a scrape, which clears and fills gauges.
    scrape: Mutex<()>,
}

/// What is remembered between events.
#[derive(Default)]
struct Known {
    jobs: Names,
    exits: Names,
    steps: Names,
    kinds: Names,
    triggers: Names,
    begun: HashMap<(ExecutionId, Arc<str>), Timestamp>,
    counted: HashMap<StepExecutionId, (ExecutionId, Counters)>,
}

/// A bounded set of names.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// Returns the name, or `other` when there are too many.
    fn label(&mut self, name: &str) -> String {
        if !self.0.contains(name) {
            if self.0.len() >= NAMES_MAX {
                return "other".to_owned();
            }
            self.0.insert(name.to_owned());
        }
        name.to_owned()
    }
}

impl Metrics {
    /// Creates the metrics of `operator` and begins to count.
    pub(crate) fn new(operator: &JobOperator) -> Self {
        let mut registry = Registry::with_prefix("batchwright");
        let of = Families::new(&mut registry);
        of.build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        let operator = operator.clone();
        let inner = Inner {
            registry,
            operator: operator.clone(),
            of,
            known: Mutex::default(),
            scrape: Mutex::default(),
        };
        let metrics = Self { inner: Arc::new(inner) };
        // A weak observer: the operator outlives the metrics, and they hold the operator.
        let observed = Arc::downgrade(&metrics.inner);
        operator.events().observe(move |event: &Event| {
            if let Some(inner) = observed.upgrade() {
                inner.observe(event);
            }
        });
        metrics
    }

    /// Returns all metrics as OpenMetrics text. Reads the store; `upcoming` are the triggers that fire next.
    pub(crate) fn text(&self, upcoming: &[TriggerRow]) -> Result<String, String> {
        let _alone = self.inner.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.look(upcoming).map_err(|error| report(&error))?;
        let mut text = String::new();
        encode(&mut text, &self.inner.registry).map_err(|error| error.to_string())?;
        Ok(text)
    }
}

/// Returns the triggers that fire next. None when the schedule cannot be read: the metrics of executions are there also then.
pub(crate) async fn next_fires(scheduler: Option<&Scheduler>) -> Vec<TriggerRow> {
    let Some(scheduler) = scheduler else { return Vec::new() };
    let upcoming = scheduler.read(Request::Upcoming { limit: NEXT_FIRES_MAX });
    upcoming.await.map(Answer::triggers).unwrap_or_default()
}

impl Inner {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the store says now.
    fn look(&self, upcoming: &[TriggerRow]) -> Result<(), batchwright::error::RepositoryError> {
        let (queries, now) = (self.operator.queries(), self.operator.clock().now());
        let running =
            queries.executions(&ExecutionFilter::default().running().limit(RUNNING_MAX))?;
        let mut successes = BTreeMap::new();
        for newest in queries.newest_of_jobs()? {
            let completed =
                ExecutionFilter::of_job(&newest.job).status(BatchStatus::Completed).limit(1);
            let last = match newest.status {
                BatchStatus::Completed => Some(newest.clone()),
                _ => queries.executions(&completed)?.into_iter().next(),
            };
            if let Some(ended) = last.and_then(|one| one.ended_at) {
                successes.insert(newest.job, ended.as_second());
            }
        }
        let mut known = self.known();
        for family in [&self.of.running, &self.of.stale, &self.of.last_success] {
            family.clear();
        }
        self.of.next_fire.clear();
        let is_queued = |one: &batchwright::execution::JobExecution| {
            one.status == BatchStatus::Starting && one.owner.is_none()
        };
        let queued = running.iter().filter(|one| is_queued(one)).count();
        self.of.queued.set(i64::try_from(queued).unwrap_or(i64::MAX));
        for one in running.iter().filter(|one| !is_queued(one)) {
            let label = JobLabel { job: known.jobs.label(&one.job) };
            self.of.stale.get_or_create(&label).inc_by(i64::from(one.is_stale(now)));
            self.of.running.get_or_create(&label).inc();
        }
        for (job, at) in successes {
            self.of.last_success.get_or_create(&JobLabel { job: known.jobs.label(&job) }).set(at);
        }
        for row in upcoming.iter().filter(|row| row.key.occurrence == TRIGGER) {
            // Triggers that fire once come and go, and would use up the names.
            if row.plan.is_none() {
                continue;
            }
            let label = ScheduleLabel { schedule: known.triggers.label(&row.key.identifier) };
            if let Some(due) = row.due {
                self.of.next_fire.get_or_create(&label).set(due / 1_000_000);
            }
        }
        Ok(())
    }

    fn execution_ended(&self, id: ExecutionId, job: String, status: BatchStatus) {
        let row = self.operator.queries().execution(id).ok().flatten();
        let trigger = row.as_ref().and_then(|row| row.triggered_by.as_deref());
        let trigger = trigger.and_then(|by| by.split(':').next()).unwrap_or_default();
        let trigger = KINDS.into_iter().find(|kind| *kind == trigger).unwrap_or("application");
        let exit_code = row.as_ref().map_or("", |row| &row.exit.code);
        let exit_code = self.known().exits.label(&cut(exit_code));
        let labels =
            ExecutionLabels { job: job.clone(), status: status.name(), exit_code, trigger };
        self.of.executions.get_or_create(&labels).inc();
        let times = row.and_then(|row| row.started_at.zip(row.ended_at));
        // An execution that is abandoned ended before.
        if let Some((begun, ended)) = times.filter(|_| status != BatchStatus::Abandoned) {
            let labels = JobEndLabels { job, status: status.name() };
            let took = ended.duration_since(begun).as_secs_f64();
            self.of.job_seconds.get_or_create(&labels).observe(took);
        }
    }

    fn step_changed(
        &self,
        id: ExecutionId,
        job: &str,
        step: &Arc<str>,
        status: BatchStatus,
        at: Timestamp,
    ) {
        let mut known = self.known();
        let key = (id, Arc::clone(step));
        match status {
            BatchStatus::Started if known.begun.len() < BEGUN_MAX => {
                known.begun.insert(key, at);
            }
            status if status.is_running() => {}
            status => {
                let Some(begun) = known.begun.remove(&key) else { return };
                let (job, step) =
                    (known.jobs.label(job), known.steps.label(without_partition(step)));
                let labels = StepEndLabels { job, step, status: status.name() };
                let took = at.duration_since(begun).as_secs_f64();
                self.of.step_seconds.get_or_create(&labels).observe(took);
            }
        }
    }

    fn committed(
        &self,
        id: ExecutionId,
        job: &str,
        step: &str,
        row: StepExecutionId,
        counters: Counters,
        times: Option<ChunkTimes>,
    ) {
        let mut known = self.known();
        if known.counted.len() >= BEGUN_MAX {
            known.counted.clear();
        }
        let before =
            known.counted.insert(row, (id, counters)).map_or_else(Counters::default, |it| it.1);
        let (job, step) = (known.jobs.label(job), known.steps.label(without_partition(step)));
        drop(known);
        let of = |count: fn(&Counters) -> u64| count(&counters).saturating_sub(count(&before));
        let counts = [
            ("read", of(|it| it.read)),
            ("filter", of(|it| it.filter)),
            ("write", of(|it| it.write)),
            ("read_skip", of(|it| it.read_skip)),
            ("process_skip", of(|it| it.process_skip)),
            ("write_skip", of(|it| it.write_skip)),
        ];
        for (op, count) in counts.into_iter().filter(|(op, count)| *count > 0 || *op == "read") {
            let labels = ItemLabels { job: job.clone(), step: step.clone(), op };
            self.of.items.get_or_create(&labels).inc_by(count);
        }
        let phases = times.map(|times| {
            [
                ("read", times.read),
                ("process", times.process),
                ("write", times.write),
                ("commit", times.commit),
            ]
        });
        for (phase, took) in phases.into_iter().flatten() {
            let labels = PhaseLabels { job: job.clone(), step: step.clone(), phase };
            self.of.chunk_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        }
        self.of.commits.get_or_create(&StepLabels { job, step }).inc();
    }

    fn trigger_changed(
        &self,
        identifier: &str,
        due: Option<Timestamp>,
        at: Timestamp,
        status: &str,
        reason: Option<&str>,
    ) {
        let schedule = self.known().triggers.label(identifier);
        match TriggerStatus::from_name(status) {
            Some(TriggerStatus::Triggered) => {
                let Some(due) = due else { return };
                let lag = at.duration_since(due).as_secs_f64().max(0.0);
                self.of.lag.get_or_create(&ScheduleLabel { schedule }).observe(lag);
            }
            Some(TriggerStatus::Skipped) => {
                let reason = match reason.unwrap_or_default() {
                    text if text.starts_with("overlap") || text.starts_with("replaced") => {
                        "overlap"
                    }
                    text if text.starts_with("paused") => "paused",
                    _ => "down",
                };
                self.of.misfires.get_or_create(&MisfireLabels { schedule, reason }).inc();
            }
            Some(
                status @ (TriggerStatus::Executed | TriggerStatus::Failed | TriggerStatus::Dead),
            ) => {
                self.of.fired.get_or_create(&FiredLabels { schedule, result: status.name() }).inc();
            }
            _ => {}
        }
    }
}

impl Observer for Inner {
    fn observe(&self, event: &Event) {
        match (&event.subject, &event.change) {
            (Subject::Execution { id, job }, Change::Status { status, .. })
                if !status.is_running() =>
            {
                let job = self.known().jobs.label(job);
                self.execution_ended(*id, job, *status);
                let mut known = self.known();
                known.counted.retain(|_, (execution, _)| execution != id);
                known.begun.retain(|(execution, _), _| execution != id);
            }
            (Subject::Step { execution, job, step }, change) => match change {
                Change::Status { status, .. } => {
                    self.step_changed(*execution, job, step, *status, event.at);
                }
                Change::ChunkCommitted { id, counters, times, .. } => {
                    self.committed(*execution, job, step, *id, *counters, *times);
                }
                Change::Retried { kind, .. } => {
                    let mut known = self.known();
                    let step = known.steps.label(without_partition(step));
                    let class = known.kinds.label(&cut(kind.name()));
                    let labels = RetryLabels { job: known.jobs.label(job), step, class };
                    drop(known);
                    self.of.retries.get_or_create(&labels).inc();
                }
                Change::ChunkRolledBack { .. } => {
                    let mut known = self.known();
                    let step = known.steps.label(without_partition(step));
                    let labels = StepLabels { job: known.jobs.label(job), step };
                    drop(known);
                    self.of.rollbacks.get_or_create(&labels).inc();
                }
                _ => {}
            },
            (_, Change::SliceEnded { took, .. }) => {
                self.of.slice_seconds.observe(took.as_secs_f64())
            }
            (Subject::Trigger { identifier, .. }, Change::Trigger { status, reason, due }) => {
                self.trigger_changed(identifier, *due, event.at, status, reason.as_deref());
            }
            (_, Change::RunnerEnded { runner, outcome, took, .. }) => {
                let labels = RunnerLabels { runner, outcome };
                self.of.calls.get_or_create(&labels).inc();
                self.of.call_seconds.get_or_create(&labels).observe(took.as_secs_f64());
            }
            _ => {}
        }
    }
}

/// Returns the name of a step without the key of its partition.
fn without_partition(step: &str) -> &str {
    step.split(':').next().unwrap_or(step)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(64)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::error::ErrorKind;
    use batchwright::execution::Phase;
    use batchwright::item::{ListReader, ListWriter};
    use batchwright::launch::Launch;
    use batchwright::store::schedule::TriggerKey;
    use batchwright::{ChunkStepBuilder, Job, JobParameters, MemoryRepository, TaskletStep};
    use std::sync::mpsc;

    /// The names are a contract: dashboards and alerts of others depend on them.
    const NAMES: [&str; 20] = [
        "batchwright_build_info",
        "batchwright_chunk_commits",
        "batchwright_chunk_duration_seconds",
        "batchwright_chunk_rollbacks",
        "batchwright_item_retries",
        "batchwright_items",
        "batchwright_job_duration_seconds",
        "batchwright_job_executions",
        "batchwright_job_last_success_timestamp_seconds",
        "batchwright_job_running",
        "batchwright_queued_executions",
        "batchwright_runner_duration_seconds",
        "batchwright_runner_invocations",
        "batchwright_schedule_lag_seconds",
        "batchwright_schedule_misfires",
        "batchwright_schedule_next_fire_timestamp_seconds",
        "batchwright_slice_duration_seconds",
        "batchwright_step_duration_seconds",
        "batchwright_stuck_executions",
        "batchwright_triggers_fired",
    ];

    #[test]
    fn names_and_labels_are_a_contract() {
        let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
        let metrics = Metrics::new(&operator);
        let step = ChunkStepBuilder::new("load")
            .reader(ListReader::new((1..=10).collect::<Vec<i64>>()))
            .process(|n: &i64| Ok((*n % 2 == 1).then_some(*n)))
            .writer(ListWriter::new(Arc::default()))
            .chunk_size(4)
            .build();
        operator.registry().register(Job::builder("import").step(step).build().unwrap()).unwrap();
        operator.run("import", JobParameters::new()).unwrap();
        let (begun, release) = (mpsc::channel(), mpsc::channel::<()>());
        let released = Mutex::new(release.1);
        let wait = TaskletStep::call("wait", move || {
            begun.0.send(()).unwrap();
            let _ = released.lock().unwrap().recv();
        });
        operator.registry().register(Job::builder("waiting").step(wait).build().unwrap()).unwrap();
        let waiting = operator.start("waiting", JobParameters::new()).unwrap();
        begun.1.recv().unwrap();
        operator.enqueue(&Launch::start("import", JobParameters::new().with("n", 1))).unwrap();
        let now = operator.clock().now();
        let trigger = |status: TriggerStatus, reason: Option<&str>| {
            let subject = Subject::Trigger { identifier: "nightly".into(), slot: now };
            let reason = reason.map(str::to_owned);
            let change = Change::Trigger { status: status.name(), reason, due: Some(now) };
            metrics.inner.observe(&Event { at: now, subject, change });
        };
        trigger(TriggerStatus::Triggered, None);
        trigger(TriggerStatus::Executed, None);
        trigger(TriggerStatus::Skipped, Some("overlap skip: the slot of 1 has not ended"));
        let call = Change::RunnerEnded {
            runner: "shell",
            call: "sh nightly.sh".into(),
            attempt: 1,
            trace: batchwright::execution::TraceContext::root(&["call"]),
            took: std::time::Duration::from_secs(2),
            outcome: "executed",
            reason: None,
        };
        let subject = Subject::Trigger { identifier: "nightly".into(), slot: now };
        metrics.inner.observe(&Event { at: now, subject, change: call });
        let subject = Subject::Step {
            execution: ExecutionId(1),
            job: "import".into(),
            step: "load:p1".into(),
        };
        let change =
            Change::ChunkRolledBack { id: StepExecutionId(1), error: "on purpose".to_owned() };
        metrics.inner.observe(&Event { at: now, subject, change });
        let subject = Subject::Step {
            execution: ExecutionId(1),
            job: "import".into(),
            step: "load:p1".into(),
        };
        let (phase, kind) = (Phase::Process, ErrorKind::IO);
        let change = Change::Retried { id: StepExecutionId(1), phase, kind, failed: 1 };
        metrics.inner.observe(&Event { at: now, subject, change });
        let mut row = TriggerRow::planned(TriggerKey::of("nightly"), 1_795_305_600_000_000);
        row.plan = Some("cron \"0 2 * * *\"".to_owned());
        let text = metrics.text(&[row]).unwrap();
        release.0.send(()).unwrap();
        waiting.wait().unwrap();
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        names.sort_unstable();
        assert_eq!(names, NAMES, "{text}");
        for line in [
            "batchwright_job_running{job=\"waiting\"} 1",
            "batchwright_stuck_executions{job=\"waiting\"} 0",
            "batchwright_queued_executions 1",
            "batchwright_chunk_rollbacks_total{job=\"import\",step=\"load\"} 1",
            "batchwright_chunk_duration_seconds_count{job=\"import\",step=\"load\",phase=\"write\"} 3",
            "batchwright_item_retries_total{job=\"import\",step=\"load\",class=\"io\"} 1",
            "batchwright_schedule_lag_seconds_count{schedule=\"nightly\"} 1",
            "batchwright_schedule_misfires_total{schedule=\"nightly\",reason=\"overlap\"} 1",
            "batchwright_triggers_fired_total{schedule=\"nightly\",result=\"executed\"} 1",
            "batchwright_schedule_next_fire_timestamp_seconds{schedule=\"nightly\"} 1795305600",
            "batchwright_runner_invocations_total{runner=\"shell\",outcome=\"executed\"} 1",
            "batchwright_runner_duration_seconds_sum{runner=\"shell\",outcome=\"executed\"} 2.0",
            "batchwright_items_total{job=\"import\",step=\"load\",op=\"read\"} 10",
            "batchwright_items_total{job=\"import\",step=\"load\",op=\"write\"} 5",
            "batchwright_items_total{job=\"import\",step=\"load\",op=\"filter\"} 5",
            "batchwright_chunk_commits_total{job=\"import\",step=\"load\"} 3",
            "batchwright_job_executions_total{job=\"import\",status=\"COMPLETED\",exit_code=\"COMPLETED\",trigger=\"application\"} 1",
            "batchwright_job_duration_seconds_count{job=\"import\",status=\"COMPLETED\"} 1",
            "batchwright_step_duration_seconds_count{job=\"import\",step=\"load\",status=\"COMPLETED\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("batchwright_job_last_success_timestamp_seconds{job=\"import\"} "));
        let known = metrics.inner.known();
        assert!(known.counted.is_empty() && known.begun.is_empty(), "what has ended is forgotten");
    }

    #[test]
    fn too_many_names_are_counted_together() {
        let mut names = Names::default();
        for number in 0..NAMES_MAX {
            assert_eq!(names.label(&number.to_string()), number.to_string());
        }
        assert_eq!((names.label("new"), names.label("7")), ("other".to_owned(), "7".to_owned()));
    }
}
