//! A job on a bench: started, killed, restarted and looked at, on a store that is gone afterwards.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    Clock, CommitPoint, ExecutionId, Job, JobExecution, JobOperator, JobParameters, JobRepository,
    LaunchOptions, MemoryRepository, RecoverMode, SimClock, Step, StepExecution,
};

/// Runs jobs for tests.
///
/// It keeps a store and a clock of its own across executions; a [crash](Self::crash_at) ends an execution in
/// the middle as the death of its process would, and [`restart`](Self::restart) goes on from what was
/// committed.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use batchwright::testing::TestBench;
/// use batchwright::{BatchStatus, ChunkStepBuilder, CommitPoint, Job, ListWriter, Sequence};
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
/// # Ok::<(), batchwright::Refusal>(())
/// ```
pub struct TestBench {
    repository: Arc<dyn JobRepository>,
    clock: SimClock,
    job: Arc<Mutex<Job>>,
    crash: Arc<Mutex<Option<Crash>>>,
    last: Option<ExecutionId>,
}

/// The commit at which the next execution dies.
#[derive(Clone, Copy)]
struct Crash {
    point: CommitPoint,
    commits_left: u64,
}

/// What unwinds the thread of an execution that crashes.
struct Crashed;

impl TestBench {
    /// A bench for `job` on a store in memory.
    pub fn of(job: Job) -> Self {
        Self::on(Arc::new(MemoryRepository::new()), job)
    }

    /// A bench for `job` on `repository`: a temporary one, or that of a real server.
    pub fn on(repository: Arc<dyn JobRepository>, job: Job) -> Self {
        // The morning of a day long ago: a test that depends on today is a test that fails some day.
        let clock = SimClock::at(jiff::Timestamp::from_second(946_713_600).unwrap_or_default());
        let job = Arc::new(Mutex::new(job));
        Self { repository, clock, job, crash: Arc::default(), last: None }
    }

    /// A bench for a job of `step` alone.
    ///
    /// # Panics
    ///
    /// When the step cannot stand alone in a job: its name is empty, its start limit is 0.
    pub fn of_step(step: impl Step + 'static) -> Self {
        Self::of(Job::builder("bench").step(step).build().expect("a step that can run alone"))
    }

    /// The clock of every execution: it stands still until it is moved, and waits move it.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// What the executions are remembered in.
    pub fn repository(&self) -> &dyn JobRepository {
        &*self.repository
    }

    /// The next execution dies at its `commit`-th commit, counted from 1: [before](CommitPoint::Before) it is
    /// durable, or [after](CommitPoint::After).
    pub fn crash_at(&mut self, point: CommitPoint, commit: u64) {
        let commits_left = NonZeroU64::new(commit).map_or(1, NonZeroU64::get);
        *self.crash.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Crash { point, commits_left });
    }

    /// Runs the job without parameters to its end, or its crash.
    ///
    /// # Panics
    ///
    /// When the job may not start.
    pub fn run(&mut self) -> JobExecution {
        self.run_with(JobParameters::new())
    }

    /// As [`run`](Self::run), with parameters.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn run_with(&mut self, parameters: JobParameters) -> JobExecution {
        let (operator, name) = self.operator();
        let handle = operator.start(&name, parameters).expect("the job starts");
        self.ends(&operator, handle.id(), handle.wait().is_ok())
    }

    /// Continues the last execution.
    ///
    /// # Panics
    ///
    /// When there is none, or it may not be restarted.
    pub fn restart(&mut self) -> JobExecution {
        let (operator, _) = self.operator();
        let last = self.last.expect("something ran before");
        let none = JobParameters::new();
        let handle =
            operator.restart(last, &none, &LaunchOptions::default()).expect("the job restarts");
        self.ends(&operator, handle.id(), handle.wait().is_ok())
    }

    /// The step execution of that name in the last execution.
    ///
    /// # Panics
    ///
    /// When there is none; says which there are.
    pub fn step(&self, name: &str) -> StepExecution {
        let last = self.last.expect("something ran before");
        let steps = self.repository.steps(last).expect("the store answers");
        let names: Vec<_> = steps.iter().map(|step| step.name.clone()).collect();
        let found = steps.into_iter().find(|step| step.name == name);
        found.unwrap_or_else(|| panic!("no step `{name}` ran; there ran {names:?}"))
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
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let name = job.name().to_owned();
        operator.registry().register(job).expect("the only job");
        (operator, name)
    }

    /// A crashed execution is closed as the next process would close it.
    fn ends(&mut self, operator: &JobOperator, id: ExecutionId, stored: bool) -> JobExecution {
        self.last = Some(id);
        if !stored {
            operator.recover(id, RecoverMode::Force).expect("a dead execution can be recovered");
        }
        *self.crash.lock().unwrap_or_else(PoisonError::into_inner) = None;
        operator.execution(id).expect("the execution is stored")
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

/// Asserts that the file at `path` has exactly these `lines`.
///
/// # Panics
///
/// When it cannot be read, or names the first line that differs.
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
