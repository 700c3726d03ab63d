//! The promises of a running job: panics, stops, contexts, listeners, pools, restarts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::event::{Change, ChunkTimes, Event};
use batchwright::execution::{ExitStatus, JobExecution, Phase, StepExecution};
use batchwright::item::{DeliveryWriter, FunctionReader, ItemReader, NoWriter};
use batchwright::launch::{Launch, LaunchOptions, RecoverMode, RequestKey};
use batchwright::listener::{
    ChunkListener, ItemListener, JobListener, ListenerResult, SkipListener, StepListener,
};
use batchwright::operator::Retention;
use batchwright::parameters::{ParameterDeclaration, ParameterType};
use batchwright::policy::{Classifier, Completion, SkipPolicy};
use batchwright::progressive::{NumberedUnits, OnFailed, ProgressiveStep};
use batchwright::query::{CachedQueries, ExecutionFilter, Queries};
use batchwright::retry::{Backoff, RetryPolicy};
use batchwright::scope::{JobScope, StepScope};
use batchwright::step::Flow;
use batchwright::testing::SimClock;
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, JobRegistry,
    ListWriter, MemoryRepository, Sequence, TaskletStep,
};

fn operator(job: Job) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job).unwrap();
    operator
}

fn run(job: Job) -> (JobOperator, JobExecution) {
    let name = job.name().to_owned();
    let operator = operator(job);
    let done = operator.start(&name, JobParameters::new()).unwrap().wait().unwrap();
    (operator, done)
}

fn restart(operator: &JobOperator, of: &JobExecution) -> JobExecution {
    operator.restart(of.id).unwrap().wait().unwrap()
}

fn one_step(step: impl batchwright::step::Step + 'static) -> Job {
    Job::builder("job").step(step).build().unwrap()
}

/// Returns a step that always fails.
fn failing() -> TaskletStep {
    TaskletStep::new("step", |_| Err(ItemError::data("it never works")))
}

#[test]
fn the_same_request_starts_or_restarts_once_and_is_told_what_it_did() {
    let progressive = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(1))
        .process(|_: &u64| Err::<Option<u64>, _>(ItemError::data("it never works")))
        .max_attempts(1)
        .on_failed(OnFailed::Fail)
        .build();
    for job in [one_step(failing()), one_step(progressive)] {
        let operator = operator(job);
        let asked = |key: &str, says: &str| LaunchOptions {
            request: Some(RequestKey { key: key.to_owned(), fingerprint: says.to_owned() }),
            ..LaunchOptions::default()
        };
        let none = JobParameters::new();
        let start = |options: LaunchOptions| {
            operator.launch(&Launch::start("job", none.clone()).options(options))
        };
        let first = start(asked("k1", "a")).unwrap().wait().unwrap();
        let again = start(asked("k1", "a")).unwrap_err();
        assert_eq!(again.code(), "request_repeated", "{again}");
        let other = start(asked("k1", "b")).unwrap_err();
        assert_eq!(other.code(), "key_reused", "{other}");
        let restart =
            |options: LaunchOptions| operator.launch(&Launch::restart(first.id).options(options));
        let second = restart(asked("k2", "a")).unwrap().wait().unwrap();
        let again = restart(asked("k2", "a")).unwrap_err();
        assert!(again.to_string().ends_with(&format!("execution {}", second.id)), "{again}");
        let superseded = restart(asked("k3", "a")).unwrap_err();
        assert_eq!(superseded.code(), "not_most_recent", "{superseded}");
        let odd = start(asked("k 4", "a")).unwrap_err();
        assert_eq!(odd.code(), "invalid_parameters", "{odd}");
        assert_eq!(operator.queries().executions(&ExecutionFilter::default()).unwrap().len(), 2);
    }
}

#[test]
fn a_panic_is_a_failure_of_its_item_and_of_nothing_else() {
    for (threads, ahead) in [(1, 0), (1, 2), (3, 2)] {
        let written = Arc::new(Mutex::new(Vec::new()));
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(10))
            .processor(|n: &u64| match n {
                4 => panic!("four"),
                n => Ok(Some(*n)),
            })
            .writer(ListWriter::new(Arc::clone(&written)))
            .chunk_size(3)
            .parallelism(threads)
            .read_ahead(ahead)
            .skip(SkipPolicy::limit(1).on(Classifier::none().including("panic")))
            .build();
        let (operator, done) = run(one_step(step));
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        assert_eq!(*written.lock().unwrap(), [1, 2, 3, 5, 6, 7, 8, 9, 10]);
        assert_eq!(operator.queries().skips(done.id).unwrap()[0].message, "panicked: four");
    }
}

#[test]
fn a_panic_that_no_policy_names_fails_the_step_and_the_job_can_be_restarted() {
    let broken = Arc::new(Mutex::new(true));
    let state = Arc::clone(&broken);
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(5))
        .processor(move |n: &u64| {
            let broken = *state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            assert!(!(broken && *n == 4), "no four today");
            Ok(Some(*n))
        })
        .writer(NoWriter::new())
        .chunk_size(2)
        .skip(SkipPolicy::limit(9))
        .build();
    let (operator, failed) = run(one_step(step));
    let failure = failed.failure.clone().unwrap();
    assert_eq!(failure.code, "process_failed");
    assert!(failure.message.contains("item 4") && failure.message.contains("no four today"));
    *broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = false;
    let done = restart(&operator, &failed);
    assert_eq!(operator.explorer().step_summaries(done.id).unwrap()[0].counters.read, 3);
}

#[test]
fn read_ahead_and_parallelism_change_nothing_but_the_time() {
    let expected: Vec<u64> = (1..=1_000).filter(|n| n % 3 != 0).map(|n| n * n).collect();
    for (threads, ahead) in [(1, 0), (1, 1), (1, 4), (2, 0), (4, 3)] {
        let written = Arc::new(Mutex::new(Vec::new()));
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(1_000))
            .processor(|n: &u64| Ok((!n.is_multiple_of(3)).then_some(n * n)))
            .writer(ListWriter::new(Arc::clone(&written)))
            .chunk_size(7)
            .parallelism(threads)
            .read_ahead(ahead)
            .build();
        run(one_step(step));
        assert_eq!(*written.lock().unwrap(), expected, "{threads} threads, {ahead} ahead");
    }
}

#[test]
fn a_stop_ends_the_step_behind_the_chunk_in_work_and_the_restart_goes_on() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let (at_five, reached) = channel();
    let (go_on, allowed) = channel::<()>();
    let allowed = Arc::new(Mutex::new(allowed));
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(20))
        .processor(move |n: &u64| {
            if *n == 5 {
                let _ = at_five.send(());
                let _ = allowed.lock().unwrap().recv();
            }
            Ok(Some(*n))
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(4)
        .build();
    let operator = operator(one_step(step));
    let handle = operator.start("job", JobParameters::new()).unwrap();
    reached.recv().unwrap();
    assert_eq!(operator.stop(handle.id()).unwrap().status, BatchStatus::Stopping);
    assert_eq!(operator.stop(handle.id()).unwrap().status, BatchStatus::Stopping, "idempotent");
    let refused = operator.restart(handle.id());
    assert_eq!(refused.unwrap_err().code(), "already_running", "the worker has not confirmed");
    drop(go_on);
    let stopped = handle.wait().unwrap();
    assert_eq!((stopped.status, stopped.exit.code.as_str()), (BatchStatus::Stopped, "STOPPED"));
    assert_eq!(*written.lock().unwrap(), (1..=8).collect::<Vec<_>>());
    restart(&operator, &stopped);
    assert_eq!(*written.lock().unwrap(), (1..=20).collect::<Vec<_>>());
    assert_eq!(operator.stop(stopped.id).unwrap_err().code(), "not_running");
}

#[test]
fn a_stop_cuts_a_backoff_short() {
    let (failed_once, reached) = channel();
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .processor(move |_: &u64| -> Result<Option<u64>, ItemError> {
            let _ = failed_once.send(());
            Err(ItemError::data("never works"))
        })
        .writer(NoWriter::new())
        .retry(RetryPolicy::attempts(5).backoff(Backoff::Fixed(Duration::from_secs(100_000))))
        .build();
    let operator = operator(one_step(step));
    let handle = operator.start("job", JobParameters::new()).unwrap();
    reached.recv().unwrap();
    operator.stop(handle.id()).unwrap();
    assert_eq!(handle.wait().unwrap().status, BatchStatus::Stopped);
}

#[test]
fn what_waits_for_the_pool_is_visible_as_starting_and_can_be_stopped() {
    let gate = Arc::new(Barrier::new(2));
    let ran = Arc::new(AtomicUsize::new(0));
    let (inside, counted) = (Arc::clone(&gate), Arc::clone(&ran));
    let step = TaskletStep::new("wait", move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        inside.wait();
        Ok(Flow::Finished)
    });
    let operator =
        JobOperator::builder(Arc::new(MemoryRepository::new())).running_jobs_max(1).build();
    operator.registry().register(one_step(step)).unwrap();
    let first = operator.start("job", JobParameters::new().with("n", 1)).unwrap();
    let second = operator.start("job", JobParameters::new().with("n", 2)).unwrap();
    assert_eq!(operator.explorer().execution(second.id()).unwrap().status, BatchStatus::Starting);
    assert_eq!(operator.explorer().running("job").unwrap().len(), 2);
    assert_eq!(operator.stop(second.id()).unwrap().status, BatchStatus::Stopped);
    gate.wait();
    assert_eq!(first.wait().unwrap().status, BatchStatus::Completed);
    assert_eq!(second.wait().unwrap().status, BatchStatus::Stopped);
    assert_eq!(ran.load(Ordering::SeqCst), 1, "the stopped one never ran");
}

#[test]
fn a_handle_can_be_awaited() {
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .writer(NoWriter::<u64>::new())
        .build();
    let operator = operator(one_step(step));
    let handle = operator.start("job", JobParameters::new()).unwrap();
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(handle);
    let done = loop {
        let mut context = std::task::Context::from_waker(&waker);
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(done) => break done.unwrap(),
            std::task::Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(done.status, BatchStatus::Completed);
}

/// A listener that records its calls, and fails in the call `fails`.
#[derive(Clone)]
struct Diary {
    name: &'static str,
    lines: Arc<Mutex<Vec<String>>>,
    fails: &'static str,
}

impl Diary {
    fn new(name: &'static str, fails: &'static str) -> Self {
        Self { name, lines: Arc::default(), fails }
    }

    fn note(&self, call: &str) -> ListenerResult {
        self.lines.lock().unwrap().push(format!("{} {call}", self.name));
        if self.fails == call { Err(ItemError::data(format!("fails in {call}"))) } else { Ok(()) }
    }

    fn named(&self, name: &'static str) -> Self {
        Self { name, ..self.clone() }
    }
}

impl JobListener for Diary {
    fn before_job(&self, _: &JobScope) -> ListenerResult {
        self.note("before_job")
    }

    fn after_job(&self, _: &JobScope, execution: &JobExecution) -> ListenerResult {
        self.note(if execution.status == BatchStatus::Failed {
            "after_failed"
        } else {
            "after_job"
        })
    }
}

impl StepListener for Diary {
    fn before_step(&self, _: &StepScope) -> ListenerResult {
        self.note("before_step")
    }

    fn after_step(&self, _: &StepScope, _: &StepExecution) -> ListenerResult<Option<ExitStatus>> {
        self.note("after_step").map(|()| Some(ExitStatus::new("COMPLETED BY DIARY")))
    }
}

impl ChunkListener<u64, u64> for Diary {
    fn before_chunk(&self, _: &StepScope, items: &[u64]) -> ListenerResult {
        self.note(&format!("before_chunk {items:?}"))
    }

    fn after_chunk(&self, _: &StepScope, items: &[u64]) -> ListenerResult {
        self.note(&format!("after_chunk {items:?}"))
    }

    fn on_chunk_error(&self, _: &StepScope, items: &[u64], _: &ItemError) -> ListenerResult {
        self.note(&format!("on_chunk_error {items:?}"))
    }
}

impl ItemListener<u64, u64> for Diary {
    fn after_process(&self, _: &StepScope, item: &u64, _: Option<&u64>) -> ListenerResult {
        if *item == 2 { self.note("after_process") } else { Ok(()) }
    }
}

impl SkipListener<u64, u64> for Diary {
    fn on_skip_in_write(&self, _: &StepScope, item: &u64, _: &ItemError) -> ListenerResult {
        self.note(&format!("on_skip_in_write {item}"))
    }
}

fn counting(
    listener: &Diary,
) -> ChunkStepBuilder<Sequence, batchwright::item::PassThrough, NoWriter<u64>> {
    ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .writer(NoWriter::new())
        .chunk_size(2)
        .step_listener(listener.clone())
}

#[test]
fn before_calls_run_in_order_and_after_calls_in_reverse() {
    let diary = Diary::new("a", "");
    let job = Job::builder("job")
        .step(counting(&diary).build())
        .listener(diary.clone())
        .listener(diary.named("b"))
        .build()
        .unwrap();
    let (_, done) = run(job);
    assert_eq!(done.exit.code, "COMPLETED BY DIARY");
    assert_eq!(
        *diary.lines.lock().unwrap(),
        [
            "a before_job",
            "b before_job",
            "a before_step",
            "a after_step",
            "b after_job",
            "a after_job"
        ]
    );
}

#[test]
fn a_failing_before_job_runs_no_step_and_every_after_job_sees_the_failure() {
    let diary = Diary::new("a", "before_job");
    let job =
        Job::builder("job").step(counting(&diary).build()).listener(diary.clone()).build().unwrap();
    let (operator, done) = run(job);
    assert_eq!(done.status, BatchStatus::Failed);
    assert!(operator.queries().steps(done.id).unwrap().is_empty());
    assert_eq!(*diary.lines.lock().unwrap(), ["a before_job", "a after_failed"]);
}

#[test]
fn a_failing_after_job_is_a_warning_and_changes_no_outcome() {
    let diary = Diary::new("a", "after_job");
    let job = Job::builder("job")
        .step(counting(&diary).build())
        .listener(diary.named("first"))
        .listener(diary.clone())
        .build()
        .unwrap();
    let (_, done) = run(job);
    assert_eq!(done.status, BatchStatus::Completed);
    assert_eq!(done.warnings.len(), 2, "{:?}", done.warnings);
    assert!(done.warnings[0].contains("fails in after_job"));
}

#[test]
fn a_failing_before_step_fails_the_step_without_starting_it() {
    let diary = Diary::new("a", "before_step");
    let (operator, done) = run(one_step(counting(&diary).build()));
    assert_eq!(done.failure.unwrap().code, "listener_failed");
    assert_eq!(operator.explorer().step_summaries(done.id).unwrap()[0].counters.read, 0);
    assert_eq!(*diary.lines.lock().unwrap(), ["a before_step", "a after_step"]);
}

#[test]
fn one_failing_after_step_does_not_lose_what_the_others_returned() {
    let fails = Diary::new("fails", "after_step");
    let step = counting(&Diary::new("good", "")).step_listener(fails).build();
    let (_, done) = run(one_step(step));
    assert_eq!(done.status, BatchStatus::Failed);
    assert_eq!(done.exit.code, "FAILED", "{:?}", done.exit);
}

#[test]
fn a_listener_that_fails_is_never_taken_for_an_item_that_fails() {
    let diary = Diary::new("a", "after_process");
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .processor(|n: &u64| Ok(Some(*n)))
        .writer(NoWriter::new())
        .skip(SkipPolicy::limit(9))
        .build()
        .item_listener(diary);
    let (operator, done) = run(one_step(step));
    assert_eq!(done.failure.unwrap().code, "listener_failed");
    assert!(operator.queries().skips(done.id).unwrap().is_empty());
}

#[test]
fn chunk_listeners_hear_the_same_with_read_ahead_in_parallel_and_in_a_scan() {
    use batchwright::testing::fault::{FaultPlan, FaultyWriter};
    let plan = FaultPlan { write: [2].into(), ..FaultPlan::default() };
    for (threads, ahead) in [(1, 0), (1, 2), (2, 2)] {
        let diary = Diary::new("a", "");
        let plan = plan.clone();
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(3))
            .processor(|n: &u64| Ok(Some(*n)))
            .writer_with(move |_| Ok(FaultyWriter::new(NoWriter::new(), &plan)))
            .chunk_size(3)
            .skip(SkipPolicy::limit(1))
            .parallelism(threads)
            .read_ahead(ahead)
            .build()
            .chunk_listener(diary.clone())
            .skip_listener(diary.clone());
        run(one_step(step));
        assert_eq!(
            *diary.lines.lock().unwrap(),
            [
                "a before_chunk [1, 2, 3]",
                "a on_chunk_error [1, 2, 3]",
                "a after_chunk [1]",
                "a on_chunk_error [2]",
                "a on_skip_in_write 2",
                "a after_chunk [3]",
            ]
        );
    }
}

#[test]
fn a_chunk_listener_that_fails_after_the_commit_leaves_the_commit_standing() {
    let diary = Diary::new("a", "after_chunk [1, 2]");
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(4))
        .writer(NoWriter::new())
        .chunk_size(2)
        .build()
        .chunk_listener(diary);
    let (operator, done) = run(one_step(step));
    let counters = operator.explorer().step_summaries(done.id).unwrap()[0].counters;
    assert_eq!(done.status, BatchStatus::Failed);
    assert_eq!((counters.write, counters.commit, counters.rollback), (2, 1, 0));
}

#[test]
fn completed_steps_get_no_new_row_and_the_job_context_is_inherited() {
    let broken = Arc::new(Mutex::new(true));
    let state = Arc::clone(&broken);
    let first = TaskletStep::new("first", |call| {
        call.scope().job().context().put("from", &"first")?;
        Ok(Flow::Finished)
    });
    let second = TaskletStep::new("second", move |call| {
        let from: String = call.scope().job().context().get("from")?;
        call.scope().context().put("lost", &1)?;
        match *state.lock().unwrap() {
            true => Err(ItemError::data(format!("go on from {from}"))),
            false => Ok(Flow::Finished),
        }
    });
    let job = Job::builder("job").step(first).step(second).build().unwrap();
    let (operator, failed) = run(job);
    assert_eq!(failed.status, BatchStatus::Failed);
    let rows = operator.queries().steps(failed.id).unwrap();
    assert!(!rows[1].context.has("lost"), "a failed unit of work changes no context");
    *broken.lock().unwrap() = false;
    let done = restart(&operator, &failed);
    let rows = operator.queries().steps(done.id).unwrap();
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["second"]);
    assert_eq!(done.context.get::<String>("from").unwrap(), "first");
}

#[test]
fn a_tasklet_counts_only_the_calls_that_committed() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let step = TaskletStep::new("tasklet", move |call| {
        call.contribute(1, 2);
        match counted.fetch_add(1, Ordering::SeqCst) {
            2 => Err(ItemError::data("call a third time")),
            _ => Ok(Flow::Continue),
        }
    });
    let (operator, done) = run(one_step(step));
    let counters = operator.explorer().step_summaries(done.id).unwrap()[0].counters;
    assert_eq!((counters.read, counters.write), (2, 4));
    assert_eq!((counters.commit, counters.rollback), (2, 1));
}

#[test]
fn a_chunk_ends_by_time_or_by_an_item_and_the_step_goes_on() {
    let diary = Diary::new("a", "");
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(5))
        .writer(NoWriter::new())
        .build()
        .chunk_until(|n| n % 2 == 0)
        .chunk_listener(diary.clone());
    run(one_step(step));
    let lines = diary.lines.lock().unwrap().clone();
    assert_eq!(
        lines.iter().filter(|line| line.contains("after")).collect::<Vec<_>>(),
        ["a after_chunk [1, 2]", "a after_chunk [3, 4]", "a after_chunk [5]"]
    );

    /// Each read takes a second of the simulated clock.
    #[derive(Clone)]
    struct Slow(Sequence, SimClock);
    impl ItemReader for Slow {
        type Item = u64;
        type Position = u64;
        fn open(&mut self, position: Option<u64>, scope: &StepScope) -> Result<(), ItemError> {
            self.0.open(position, scope)
        }
        fn read(&mut self) -> Result<Option<u64>, ItemError> {
            self.1.advance(Duration::from_secs(1));
            self.0.read()
        }
        fn position(&self) -> u64 {
            self.0.position()
        }
    }
    let clock = SimClock::at("2026-11-21T00:00:00Z".parse().unwrap());
    let diary = Diary::new("a", "");
    let step = ChunkStepBuilder::new("step")
        .reader(Slow(Sequence::to(7), clock.clone()))
        .writer(NoWriter::new())
        .completion(Completion::items(100).within(Duration::from_secs(2)))
        .build()
        .chunk_listener(diary.clone());
    let operator = JobOperator::builder(Arc::new(MemoryRepository::new())).clock(clock).build();
    operator.registry().register(one_step(step)).unwrap();
    operator.start("job", JobParameters::new()).unwrap().wait().unwrap();
    let lines = diary.lines.lock().unwrap().clone();
    assert_eq!(
        lines.iter().filter(|line| line.contains("after")).collect::<Vec<_>>(),
        ["a after_chunk [1, 2, 3]", "a after_chunk [4, 5, 6]", "a after_chunk [7]"]
    );
}

#[test]
fn a_reader_that_only_fails_is_taken_for_broken_in_the_end() {
    #[derive(Clone)]
    struct Broken;
    impl ItemReader for Broken {
        type Item = u64;
        type Position = ();
        fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<(), ItemError> {
            Ok(())
        }
        fn read(&mut self) -> Result<Option<u64>, ItemError> {
            Err(ItemError::parse("read anything"))
        }
        fn position(&self) {}
    }
    let step = ChunkStepBuilder::new("step")
        .reader(Broken)
        .writer(NoWriter::new())
        .skip(SkipPolicy::limit(u64::MAX))
        .build();
    let (_, done) = run(one_step(step));
    let failure = done.failure.unwrap();
    assert!(failure.message.contains("10001 times in a row"), "{}", failure.message);
}

#[test]
fn the_most_specific_kind_decides_what_is_skipped() {
    let only = |limit: SkipPolicy| {
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(3))
            .processor(|n: &u64| match n {
                2 => Err(ItemError::new(ErrorKind::new("data.iban"), "accept it")),
                n => Ok(Some(*n)),
            })
            .writer(NoWriter::new())
            .skip(limit)
            .build();
        run(one_step(step)).1.status
    };
    let data = || Classifier::none().including("data");
    assert_eq!(only(SkipPolicy::limit(1).on(data())), BatchStatus::Completed);
    assert_eq!(only(SkipPolicy::limit(1).on(data().excluding("data.iban"))), BatchStatus::Failed);
    assert_eq!(only(SkipPolicy::limit(0)), BatchStatus::Failed, "nothing may be skipped");
}

#[test]
fn the_cache_never_serves_what_may_still_change() {
    let gate = Arc::new(Barrier::new(2));
    let inside = Arc::clone(&gate);
    let step = TaskletStep::new("wait", move |_| {
        inside.wait();
        Ok(Flow::Finished)
    });
    let repository = Arc::new(MemoryRepository::new());
    let operator = JobOperator::new(Arc::clone(&repository) as _);
    operator.registry().register(one_step(step)).unwrap();
    let cached = CachedQueries::new(repository, Duration::from_secs(3_600), 10);
    let handle = operator.start("job", JobParameters::new()).unwrap();
    let running = cached.execution(handle.id()).unwrap().unwrap();
    assert!(running.status.is_running());
    let _ = cached.steps(handle.id()).unwrap();
    gate.wait();
    let done = handle.wait().unwrap();
    assert_eq!(cached.execution(handle.id()).unwrap().unwrap(), done, "not from the cache");
    assert_eq!(cached.steps(handle.id()).unwrap()[0].status, BatchStatus::Completed);
    operator.purge(&Retention::default(), false, |_| {}).unwrap();
    assert!(cached.execution(handle.id()).unwrap().is_some(), "this one is from the cache");
}

#[test]
fn a_live_owner_is_not_recovered_and_a_dead_one_only_once() {
    let gate = Arc::new(Barrier::new(2));
    let inside = Arc::clone(&gate);
    let (began, running) = channel();
    let step = TaskletStep::new("wait", move |_| {
        let _ = began.send(());
        inside.wait();
        Ok(Flow::Finished)
    });
    let operator = operator(one_step(step));
    let handle = operator.start("job", JobParameters::new()).unwrap();
    running.recv().unwrap();
    let alive = operator.recover(handle.id(), RecoverMode::Detect);
    assert_eq!(alive.unwrap_err().code(), "lease_alive");
    assert!(operator.recover_all().unwrap().is_empty());
    let forced = operator.recover(handle.id(), RecoverMode::Force).unwrap();
    assert_eq!(forced.failure.unwrap().code, "recovered");
    gate.wait();
    let lost = handle.wait().unwrap_err();
    assert!(matches!(lost, batchwright::operator::RunError::LeaseLost { .. }), "{lost}");
    let again = operator.recover(handle.id(), RecoverMode::Detect).unwrap();
    assert_eq!(again.status, BatchStatus::Failed, "a no-op for what has ended");
}

#[test]
fn eight_threads_that_start_one_identity_start_one_execution() {
    for _ in 0..50 {
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(10))
            .writer(NoWriter::<u64>::new())
            .build();
        let operator = operator(one_step(step));
        let gate = Barrier::new(8);
        let started = std::thread::scope(|threads| {
            let racers: Vec<_> = (0..8)
                .map(|_| {
                    threads.spawn(|| {
                        gate.wait();
                        operator.start("job", JobParameters::new()).map(|handle| handle.wait())
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
        });
        let refused = started.iter().filter_map(|one| one.as_ref().err()).map(|error| error.code());
        assert!(refused.clone().all(|code| matches!(code, "already_running" | "already_complete")));
        assert_eq!(refused.count(), 7);
    }
}

#[test]
fn concurrent_nexts_never_share_an_instance() {
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(1))
        .writer(NoWriter::<u64>::new())
        .build();
    let job = Job::builder("job")
        .step(step)
        .next(|newest| {
            let run = newest.map_or(0, |one| one.integer("run").unwrap_or(0));
            Ok(JobParameters::new().with("run", run + 1))
        })
        .build()
        .unwrap();
    let operator = operator(job);
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                for _ in 0..5 {
                    let next = operator.next("job");
                    next.unwrap().wait().unwrap();
                }
            });
        }
    });
    assert_eq!(operator.explorer().instance_count("job").unwrap(), 40);
}

#[test]
fn a_factory_is_called_once_and_its_failure_names_the_job() {
    let calls = Arc::new(AtomicUsize::new(0));
    let registry = JobRegistry::new();
    let counted = Arc::clone(&calls);
    registry
        .register_factory("broken", move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Err("the ledger is not configured".to_owned())
        })
        .unwrap();
    for _ in 0..2 {
        let refusal = registry.job("broken").unwrap_err();
        assert_eq!(refusal.code(), "invalid_definition");
        assert!(refusal.to_string().contains("`broken` is invalid: the ledger is not configured"));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(registry.job("nothing").unwrap_err().code(), "no_such_job");
    assert!(registry.unregister("broken") && !registry.unregister("broken"));
}

#[test]
fn a_job_without_a_way_to_begin_is_refused_when_it_is_built() {
    let step = || {
        ChunkStepBuilder::new("twice")
            .reader(Sequence::to(1))
            .writer(NoWriter::<u64>::new())
            .build()
    };
    for (job, expected) in [
        (Job::builder("job"), "it has no step"),
        (Job::builder(" ").step(step()), "its name is empty"),
        (Job::builder("job").step(step()).step(step()), "two steps are called `twice`"),
    ] {
        assert!(job.build().unwrap_err().to_string().contains(expected), "{expected}");
    }
}

#[test]
fn nothing_left_to_do_is_completed_with_noop() {
    let stop = StopToken::default();
    let inner = stop.clone();
    let step = TaskletStep::new("only", move |call| {
        inner.request();
        call.scope().stop().request();
        Ok(Flow::Finished)
    });
    let last = TaskletStep::new("last", |_| Ok(Flow::Finished));
    let job = Job::builder("job").step(step).step(last).build().unwrap();
    let (operator, stopped) = run(job);
    assert_eq!(stopped.status, BatchStatus::Stopped, "a finished step, a job stopped after it");
    let steps = operator.explorer().step_summaries(stopped.id).unwrap();
    assert_eq!(
        (steps.len(), steps[0].status),
        (1, BatchStatus::Completed),
        "later steps get no row"
    );
    let done = restart(&operator, &stopped);
    assert_eq!(done.status, BatchStatus::Completed);
    assert_eq!(operator.explorer().step_summaries(done.id).unwrap()[0].name, "last");
}

#[test]
fn a_panic_anywhere_in_a_step_fails_the_step_and_gives_the_lease_back() {
    let step = ChunkStepBuilder::new("step")
        .reader_with(|_| -> Result<Sequence, ItemError> { panic!("no reader today") })
        .writer(NoWriter::<u64>::new())
        .build();
    let (operator, failed) = run(one_step(step));
    assert_eq!(failed.status, BatchStatus::Failed);
    assert!(failed.failure.clone().unwrap().message.contains("no reader today"));
    assert_eq!(operator.stop_all(), 0, "nothing is held any more");
    assert_eq!(restart(&operator, &failed).status, BatchStatus::Failed, "restartable");
}

#[test]
fn an_instance_is_purged_as_a_whole_or_not_at_all() {
    let broken = Arc::new(Mutex::new(true));
    let state = Arc::clone(&broken);
    let step = TaskletStep::new("step", move |_| match *state.lock().unwrap() {
        true => Err(ItemError::data("work today")),
        false => Ok(Flow::Finished),
    });
    let (operator, failed) = run(one_step(step));
    let all = ExecutionFilter::default();
    let nothing = operator.purge(&Retention::default(), false, |_| {}).unwrap();
    assert_eq!(nothing, 0, "it could be restarted");
    *broken.lock().unwrap() = false;
    let done = restart(&operator, &failed);
    let completed = Retention { statuses: vec![BatchStatus::Completed], ..Retention::default() };
    let mut would = Vec::new();
    operator.purge(&completed, true, |one| would.push(one.id)).unwrap();
    assert_eq!(would, [done.id, failed.id]);
    assert!(operator.explorer().execution(failed.id).is_ok(), "a dry run deletes nothing");
    assert_eq!(operator.purge(&completed, false, |_| {}).unwrap(), 2);
    assert!(operator.queries().executions(&all).unwrap().is_empty());
    assert_eq!(
        operator.start("job", JobParameters::new()).unwrap().wait().unwrap().status,
        BatchStatus::Completed
    );
}

#[test]
fn a_retention_keeps_the_newest_instances_of_each_job_and_forgets_the_old_in_batches() {
    let clock = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
    let operator =
        JobOperator::builder(Arc::new(MemoryRepository::new())).clock(clock.clone()).build();
    for name in ["one", "two"] {
        let step = TaskletStep::new("step", |_| Ok(Flow::Finished));
        operator.registry().register(Job::builder(name).step(step).build().unwrap()).unwrap();
        // More than one batch.
        for n in 0..250 {
            clock.advance(Duration::from_secs(1));
            operator.start(name, JobParameters::new().with("n", n)).unwrap().wait().unwrap();
        }
    }
    let keep = |count| Retention { keep: Some(count), ..Retention::default() };
    assert_eq!(operator.purge(&keep(250), true, |_| {}).unwrap(), 0);
    assert_eq!(operator.purge(&keep(200), false, |_| {}).unwrap(), 100, "fifty of each job");
    let old = jiff::Timestamp::from_second(150).unwrap();
    let aged = Retention { ended_before: Some(old), ..keep(10) };
    assert_eq!(operator.purge(&aged, false, |_| {}).unwrap(), 99, "51 to 149 of the first job");
    let one = Retention { job: Some("two".to_owned()), ..keep(1) };
    operator.purge(&one, false, |_| {}).unwrap();
    assert_eq!(operator.explorer().instance_count("two").unwrap(), 1);
    let newest =
        &operator.explorer().instances("two", batchwright::query::InstancePage::first(1)).unwrap()
            [0];
    let left = operator.explorer().executions(newest.id).unwrap();
    assert_eq!(left[0].parameters, JobParameters::new().with("n", 249), "the newest one");
}

#[test]
fn the_value_of_a_secret_is_taken_out_of_messages_before_they_are_stored() {
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(3))
        .processor(|n: &u64| match n {
            1 => Err(ItemError::data("log in as me with hunter2-x")),
            2 => Ok(Some(*n)),
            _ => Err(ItemError::fatal("log in as me with hunter2-x: refused")),
        })
        .writer(NoWriter::new())
        .skip(SkipPolicy::limit(1))
        .chunk_size(1)
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let login = ParameterDeclaration::new("login", ParameterType::String).secret();
    let job = Job::builder("job").parameter(login).step(step).build().unwrap();
    operator.registry().register(job).unwrap();
    let given = JobParameters::new().with_non_identifying("login", "hunter2-x");
    let done = operator.start("job", given).unwrap().wait().unwrap();
    let step = operator.queries().steps(done.id).unwrap().remove(0);
    let skip = operator.queries().skips(done.id).unwrap().remove(0);
    let messages = [
        done.failure.unwrap().message,
        done.exit.message,
        step.failure.unwrap().message,
        step.exit.message,
        skip.message,
    ];
    for message in messages {
        assert!(message.contains("with ***") && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn observers_receive_every_change_after_its_commit() {
    let repository = Arc::new(MemoryRepository::new());
    let operator = JobOperator::new(Arc::clone(&repository) as _);
    let step = ChunkStepBuilder::new("count")
        .reader(Sequence::to(4))
        .writer(ListWriter::new(Arc::default()))
        .chunk_size(2)
        .build();
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (shown, stored) = (Arc::clone(&seen), Arc::clone(&repository));
    operator.events().observe(move |event: &Event| {
        let id = event.execution().unwrap();
        let text = match (&event.change, event.step()) {
            (Change::Status { status, .. }, step) => {
                // The store has it already.
                assert!(stored.events(id).unwrap().contains(event), "{event:?}");
                format!("{} {status}", step.unwrap_or("job"))
            }
            (Change::ChunkCommitted { id, counters, .. }, _) => {
                assert_eq!(stored.step(*id).unwrap().unwrap().counters, *counters);
                format!("chunk {}", counters.read)
            }
            other => format!("{other:?}"),
        };
        shown.lock().unwrap().push(text);
    });
    operator.start("job", JobParameters::new()).unwrap().wait().unwrap();
    let expected = [
        "job STARTING",
        "job STARTED",
        "count STARTING",
        "count STARTED",
        "chunk 2",
        "chunk 4",
        "count COMPLETED",
        "job COMPLETED",
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn observers_learn_how_long_each_phase_of_a_chunk_took_and_what_is_tried_again() {
    let clock = SimClock::at("2026-11-30T02:00:00Z".parse().unwrap());
    let takes = |seconds: u64| {
        let clock = clock.clone();
        move || clock.advance(Duration::from_secs(seconds))
    };
    let (read, process, write) = (takes(1), takes(10), takes(100));
    let reader = FunctionReader::new(move |read_so_far: &mut u64| {
        if *read_so_far == 4 {
            return Ok(None);
        }
        read();
        *read_so_far += 1;
        Ok(Some(*read_so_far))
    });
    let calls = Arc::new(AtomicUsize::new(0));
    let writer = DeliveryWriter::new(move |_: &[u64], _: &str| {
        write();
        match calls.fetch_add(1, Ordering::SeqCst) {
            1 => Err(ItemError::new(ErrorKind::IO, "the sink is busy")),
            _ => Ok(()),
        }
    });
    let step = ChunkStepBuilder::new("count")
        .reader(reader)
        .process(move |n: &u64| {
            process();
            Ok(Some(*n))
        })
        .writer(writer)
        .chunk_size(2)
        .retry(RetryPolicy::attempts(2))
        .build();
    let operator = JobOperator::builder(Arc::new(MemoryRepository::new())).clock(clock).build();
    operator.registry().register(one_step(step)).unwrap();
    let events = operator.events().subscribe(100);
    operator.run("job", JobParameters::new()).unwrap();
    let (mut chunks, mut retries) = (Vec::new(), Vec::new());
    for event in events.try_iter() {
        match event.change {
            Change::ChunkCommitted { times, .. } => chunks.push(times.unwrap()),
            Change::Retried { phase, kind, failed, .. } => retries.push((phase, kind, failed)),
            _ => {}
        }
    }
    let [read, process, write, commit] = [2, 20, 100, 0].map(Duration::from_secs);
    let first = ChunkTimes { read, process, write, commit };
    // The second chunk was written twice.
    assert_eq!(chunks, [first, ChunkTimes { write: 2 * write, ..first }]);
    assert_eq!(retries, [(Phase::Write, ErrorKind::IO, 1)]);
}

#[test]
fn a_chunk_that_is_delivered_again_has_the_same_key() {
    let delivered = Arc::new(Mutex::new(Vec::new()));
    let (sink, failing) = (Arc::clone(&delivered), Arc::new(AtomicUsize::new(0)));
    let deliver = move |items: &[u64], key: &str| -> Result<(), ItemError> {
        sink.lock().unwrap().push((key.to_owned(), items.to_vec()));
        // The sink has the second chunk, and the step does not know.
        match items[0] == 3 && failing.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Err(ItemError::fatal("the answer was lost")),
            false => Ok(()),
        }
    };
    let step = ChunkStepBuilder::new("send")
        .reader(Sequence::to(6))
        .writer(DeliveryWriter::new(deliver))
        .chunk_size(2)
        .build();
    let operator = operator(one_step(step));
    let failed = operator.start("job", JobParameters::new()).unwrap().wait().unwrap();
    assert_eq!(failed.status, BatchStatus::Failed);
    let done = operator.restart(failed.id).unwrap().wait().unwrap();
    assert_eq!(done.status, BatchStatus::Completed);
    let all = delivered.lock().unwrap().clone();
    let chunks: Vec<_> = all.iter().map(|(_, items)| items[0]).collect();
    assert_eq!(chunks, [1, 3, 3, 5]);
    assert_eq!(all[1], all[2], "the same items under the same key");
    assert_ne!(all[0].0, all[1].0);
}

#[test]
fn an_observer_may_use_the_operator() {
    let step = ChunkStepBuilder::new("count")
        .reader(Sequence::to(4))
        .writer(ListWriter::new(Arc::default()))
        .build();
    let operator = operator(one_step(step));
    let (other, started) = (operator.clone(), Arc::new(Mutex::new(Vec::new())));
    let handles = Arc::clone(&started);
    operator.events().observe(move |event: &Event| {
        let is_end = matches!(event.change, Change::Status { status: BatchStatus::Completed, .. });
        if is_end && event.step().is_none() && handles.lock().unwrap().is_empty() {
            // Starts the next execution within the event of the first one's end.
            let parameters = JobParameters::new().with("run", 2);
            handles.lock().unwrap().push(other.start("job", parameters).unwrap());
        }
    });
    operator.start("job", JobParameters::new().with("run", 1)).unwrap().wait().unwrap();
    let second = started.lock().unwrap().pop().unwrap();
    assert_eq!(second.wait().unwrap().status, BatchStatus::Completed);
}
