//! A test bench for jobs: starts, crashes and restarts them on a temporary store.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::testing::SimClock;
use serde::Serialize;
use serde_json::json;

use crate::context::ExecutionContext;
use crate::execution::{BatchStatus, ExecutionId, ExitStatus, JobExecution, StepExecution};
use crate::host::CommitPoint;
use crate::job::Job;
use crate::launch::RecoverMode;
use crate::operator::JobOperator;
use crate::parameters::JobParameters;
use crate::step::Step;
use crate::store::{JobRepository, MemoryRepository, StoredResponse};

/// A bench that runs a job in tests.
///
/// The bench keeps its store and clock across executions; a [crash](Self::crash_at) ends an execution in the
/// middle as the death of its process would, and [`restart`](Self::restart) continues from the last commit.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use batchwright::testing::TestBench;
/// use batchwright::testing::CommitPoint;
/// use batchwright::{BatchStatus, ChunkStepBuilder, Job, ListWriter, Sequence};
///
/// let written = Arc::new(Mutex::new(Vec::new()));
/// let step = ChunkStepBuilder::new("copy")
///     .reader(Sequence::to(10))
///     .writer(ListWriter::new(Arc::clone(&written)))
///     .chunk_size(3)
///     .build();
///
/// let mut bench = TestBench::of(Job::builder("job").step(step).build()?);
/// bench.crash_at(CommitPoint::After, 2);
/// let crashed = bench.run();
/// assert_eq!(crashed.status, BatchStatus::Failed);
/// assert_eq!(written.lock().unwrap().len(), 6);
///
/// let done = bench.restart();
/// assert_eq!(done.status, BatchStatus::Completed);
/// assert_eq!(*written.lock().unwrap(), (1..=10).collect::<Vec<u64>>());
/// assert_eq!(bench.step("copy").counters.read, 4);
/// # Ok::<(), batchwright::operator::Refusal>(())
/// ```
pub struct TestBench {
    repository: Arc<dyn JobRepository>,
    clock: SimClock,
    job: Job,
    /// The job of the last execution: `job`, or one of its steps alone.
    running: Job,
    crash: Arc<Mutex<Option<Crash>>>,
    last: Option<ExecutionId>,
    seed: Option<Seed>,
}

/// What an earlier execution would have left, for the next run.
#[derive(Default)]
struct Seed {
    context: ExecutionContext,
    /// Context and checkpoint of each step.
    steps: BTreeMap<String, (ExecutionContext, Option<String>)>,
}

/// The commit at which the next execution crashes.
#[derive(Clone, Copy)]
struct Crash {
    point: CommitPoint,
    commits_left: u64,
}

/// The panic payload of a crash.
struct Crashed;

impl TestBench {
    /// Creates a bench for `job` on a store in memory.
    pub fn of(job: Job) -> Self {
        Self::on(Arc::new(MemoryRepository::new()), job)
    }

    /// Creates a bench for `job` on `repository`: a temporary store, or that of a real server.
    pub fn on(repository: Arc<dyn JobRepository>, job: Job) -> Self {
        // A fixed day in the past: a test must not depend on the current date.
        let clock = SimClock::at(jiff::Timestamp::from_second(946_713_600).unwrap_or_default());
        let running = job.clone();
        Self { repository, clock, job, running, crash: Arc::default(), last: None, seed: None }
    }

    /// Creates a bench for a job with the single step `step`.
    ///
    /// # Panics
    ///
    /// When the step cannot be the only step of a job: its name is empty, its start limit is 0.
    pub fn of_step(step: impl Step + 'static) -> Self {
        Self::of(Job::builder("bench").step(step).build().expect("a step that can run alone"))
    }

    /// Returns the clock of all executions; only `advance` and waits move it.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Returns the store of the executions.
    pub fn repository(&self) -> &dyn JobRepository {
        &*self.repository
    }

    /// Makes the next execution crash at commit number `commit`, counted from 1:
    /// [before](CommitPoint::Before) the commit is durable, or [after](CommitPoint::After). In a progressive job only the slice
    /// crashes that makes the commit; other lanes go on and take over its units.
    pub fn crash_at(&mut self, point: CommitPoint, commit: u64) {
        let commits_left = NonZeroU64::new(commit).map_or(1, NonZeroU64::get);
        *self.crash.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Crash { point, commits_left });
    }

    /// Lets the next run find `context` as the job's context, as an earlier execution that was stopped would have left it.
    pub fn job_context(&mut self, context: ExecutionContext) {
        self.seed.get_or_insert_default().context = context;
    }

    /// Lets the next run find `context` as the context of the step `step`; see [`job_context`](Self::job_context).
    pub fn step_context(&mut self, step: &str, context: ExecutionContext) {
        self.seed_of(step).0 = context;
    }

    /// Lets the next run of the chunk step `step` begin at `position` of its reader, with a writer at the beginning of its
    /// output; see [`job_context`](Self::job_context).
    ///
    /// # Panics
    ///
    /// When `position` cannot be serialized as JSON.
    pub fn position(&mut self, step: &str, position: &impl Serialize) {
        let reader = serde_json::to_value(position).expect("a position that can be stored");
        let checkpoint = json!({"sequence": 0, "records": 0, "reader": reader, "writer": null});
        self.seed_of(step).1 = Some(checkpoint.to_string());
    }

    fn seed_of(&mut self, step: &str) -> &mut (ExecutionContext, Option<String>) {
        self.seed.get_or_insert_default().steps.entry(step.to_owned()).or_default()
    }

    /// Runs the step `step` of the job alone, with `parameters`, to its end, or its crash: as a job of its own with the name
    /// `JOB.STEP`, which a following [`restart`](Self::restart) continues.
    ///
    /// # Panics
    ///
    /// When the job has no such step, or the start is refused.
    pub fn run_step(&mut self, step: &str, parameters: JobParameters) -> JobExecution {
        let alone = self.job.of_step(step).unwrap_or_else(|| {
            let names: Vec<_> = self.job.step_names().collect();
            panic!("the job has no step `{step}`; it has {names:?}")
        });
        self.run_job(alone, parameters)
    }

    /// Returns the final response of the last execution, of a progressive job.
    ///
    /// # Panics
    ///
    /// When the last execution has none.
    pub fn response(&self) -> StoredResponse {
        let last = self.last.expect("something ran before");
        let response = self.repository.slices().response(last).expect("the store answers");
        response.expect("a progressive execution that ended")
    }

    /// Runs the job without parameters to its end, or its crash.
    ///
    /// # Panics
    ///
    /// When the start is refused.
    pub fn run(&mut self) -> JobExecution {
        self.run_with(JobParameters::new())
    }

    /// Runs the job with parameters; see [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// See [`run`](Self::run).
    pub fn run_with(&mut self, parameters: JobParameters) -> JobExecution {
        self.run_job(self.job.clone(), parameters)
    }

    fn run_job(&mut self, job: Job, parameters: JobParameters) -> JobExecution {
        self.running = job;
        let (operator, name) = self.operator();
        let handle = match self.seed.take() {
            None => operator.start(&name, parameters),
            Some(seed) => operator.restart(self.store_seed(&name, parameters, seed)),
        };
        let handle = handle.expect("the job starts");
        self.ends(&operator, handle.id(), handle.wait().is_ok())
    }

    /// Continues the last execution.
    ///
    /// # Panics
    ///
    /// When nothing ran before, or the restart is refused.
    pub fn restart(&mut self) -> JobExecution {
        let (operator, _) = self.operator();
        let last = self.last.expect("something ran before");
        let handle = operator.restart(last).expect("the job restarts");
        self.ends(&operator, handle.id(), handle.wait().is_ok())
    }

    /// Returns the step execution of that name in the last execution.
    ///
    /// # Panics
    ///
    /// When no such step ran; the message lists the steps that did.
    pub fn step(&self, name: &str) -> StepExecution {
        let last = self.last.expect("something ran before");
        let steps = self.repository.steps(last).expect("the store answers");
        let names: Vec<_> = steps.iter().map(|step| step.name.clone()).collect();
        let found = steps.into_iter().find(|step| step.name == name);
        found.unwrap_or_else(|| panic!("no step `{name}` ran; there ran {names:?}"))
    }

    /// Stores a stopped execution with the contexts and checkpoints of `seed`.
    fn store_seed(&self, job: &str, parameters: JobParameters, seed: Seed) -> ExecutionId {
        let now = self.clock.now();
        let names: Vec<_> = self.running.step_names().collect();
        if let Some(unknown) = seed.steps.keys().find(|step| !names.contains(&step.as_str())) {
            panic!("the job has no step `{unknown}`; it has {names:?}");
        }
        let accepted = self.running.accept(parameters);
        let parameters = accepted.expect("parameters that the job accepts");
        let mut tx = self.repository.begin().expect("the store answers");
        let key = parameters.key();
        let instance = tx.insert_instance(job, &key, now).expect("an instance that never ran");
        let execution = JobExecution {
            instance_id: instance.id,
            status: BatchStatus::Stopped,
            exit: ExitStatus::stopped(),
            ended_at: Some(now),
            context: seed.context,
            ..JobExecution::new_unsaved(job, parameters, now)
        };
        let id = tx.insert_execution(&execution).expect("the store answers");
        for (step, (context, checkpoint)) in seed.steps {
            let row = StepExecution {
                execution_id: id,
                status: BatchStatus::Stopped,
                exit: ExitStatus::stopped(),
                ended_at: Some(now),
                context,
                checkpoint,
                ..StepExecution::new_unsaved(&step, now)
            };
            tx.insert_step(&row).expect("the store answers");
        }
        tx.commit().expect("the store answers");
        id
    }

    fn operator(&self) -> (JobOperator, String) {
        let crash = Arc::clone(&self.crash);
        let operator = JobOperator::builder(Arc::clone(&self.repository))
            .clock(self.clock.clone())
            .commit_hook(move |_, _, point| {
                if dies_here(&crash, point) {
                    std::panic::resume_unwind(Box::new(Crashed));
                }
            })
            .build();
        let job = self.running.clone();
        let name = job.name().to_owned();
        operator.registry().register(job).expect("the only job");
        (operator, name)
    }

    /// Records the execution; a crashed one is recovered as the next process would recover it.
    fn ends(&mut self, operator: &JobOperator, id: ExecutionId, stored: bool) -> JobExecution {
        self.last = Some(id);
        if !stored {
            operator.recover(id, RecoverMode::Force).expect("a dead execution can be recovered");
        }
        *self.crash.lock().unwrap_or_else(PoisonError::into_inner) = None;
        operator.explorer().execution(id).expect("the execution is stored")
    }
}

impl std::fmt::Debug for TestBench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBench")
            .field("last", &self.last)
            .field("now", &self.clock.now())
            .finish_non_exhaustive()
    }
}

fn dies_here(crash: &Mutex<Option<Crash>>, point: CommitPoint) -> bool {
    let mut crash = crash.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *crash {
        Some(Crash { point: planned, commits_left }) if *planned == point => {
            *commits_left -= 1;
            let dies = *commits_left == 0;
            if dies {
                *crash = None;
            }
            dies
        }
        _ => false,
    }
}

/// Asserts that the lines of the file at `path` are exactly `lines`.
///
/// # Panics
///
/// When the file cannot be read, or a line differs; the message contains its number.
#[track_caller]
pub fn assert_lines<S: AsRef<str>>(path: impl AsRef<Path>, lines: impl IntoIterator<Item = S>) {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("cannot read `{}`: {error}", path.display()));
    let mut found = text.lines();
    let mut number = 0;
    for expected in lines {
        number += 1;
        let line = found.next();
        assert_eq!(line, Some(expected.as_ref()), "line {number} of `{}`", path.display());
    }
    assert_eq!(found.next(), None, "more than {number} lines in `{}`", path.display());
}
