//! Policies of steps and jobs: retry and timeout of whole steps, limits of kinds, circuit breakers, stops, and
//! instances that start again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::error::ErrorKind;
use batchwright::execution::{ExitStatus, JobExecution, StepExecution};
use batchwright::item::{ChunkTransaction, ItemWriter, NoWriter, PreparedCommit};
use batchwright::job_step::JobStep;
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::listener::{ListenerResult, StepListener};
use batchwright::operator::{OperatorError, Refusal};
use batchwright::partition::{NumberRanges, PartitionStep};
use batchwright::policy::{Classifier, SkipLimitScope, SkipPolicy};
use batchwright::retry::{Backoff, CircuitBreaker, RetryPolicy};
use batchwright::scope::StepScope;
use batchwright::step::{CommandStep, Flow, Step, StepOptions, TaskletStep};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, ListWriter,
    MemoryRepository, Sequence,
};

fn operator(job: Job) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job).unwrap();
    operator
}

fn of_step(step: impl Step + 'static) -> JobOperator {
    operator(Job::builder("job").step(step).build().unwrap())
}

fn run(operator: &JobOperator) -> JobExecution {
    operator.run("job", JobParameters::new()).unwrap()
}

fn message(execution: &JobExecution) -> &str {
    execution.failure.as_ref().map_or("", |failure| &failure.message)
}

/// Returns the status of each execution of each step, oldest first.
fn statuses(operator: &JobOperator, of: &JobExecution) -> Vec<(String, BatchStatus)> {
    let mut steps = operator.queries().steps(of.id).unwrap();
    steps.sort_by_key(|step| step.id);
    steps.into_iter().map(|StepExecution { name, status, .. }| (name, status)).collect()
}

/// Returns a function that fails its first `times` calls with an error of kind `io`.
fn failing(times: u32) -> impl Fn() -> Result<(), ItemError> + Clone + Send + Sync + 'static {
    let left = Arc::new(AtomicU32::new(times));
    move || match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
    {
        Ok(_) => Err(ItemError::new(ErrorKind::IO, "away")),
        Err(_) => Ok(()),
    }
}

fn once_more() -> StepOptions {
    StepOptions { retry: Some(RetryPolicy::attempts(2)), ..StepOptions::default() }
}

#[test]
fn a_chunk_step_that_is_retried_continues_at_its_checkpoint_and_writes_no_row_twice() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let failed = Arc::new(Mutex::new(BTreeSet::new()));
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(10))
        .process(move |n| match [3, 7].contains(n) && failed.lock().unwrap().insert(*n) {
            true => Err(ItemError::new(ErrorKind::IO, "away")),
            false => Ok(Some(*n)),
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(2)
        .retry_step(RetryPolicy::attempts(3))
        .build();
    let operator = of_step(step);
    let ended = run(&operator);
    assert_eq!(ended.status, BatchStatus::Completed, "{}", message(&ended));
    assert_eq!(*written.lock().unwrap(), (1..=10).collect::<Vec<u64>>());
    let expected = [BatchStatus::Failed, BatchStatus::Failed, BatchStatus::Completed];
    assert_eq!(statuses(&operator, &ended), expected.map(|status| ("load".to_owned(), status)));
}

#[test]
fn commands_jobs_and_partitions_are_retried_alike() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let script = "test -e \"$0\" || { touch \"$0\"; exit 3; }";
    let argv = ["sh".into(), "-c".into(), script.to_owned(), mark.display().to_string()];
    let command = CommandStep::new("command", argv).retry(RetryPolicy::attempts(2));
    assert_eq!(run(&of_step(command)).status, BatchStatus::Completed);

    let child = Job::builder("child").step(TaskletStep::call("call", failing(1))).build().unwrap();
    let job = JobStep::new("nested", child).options(once_more());
    assert_eq!(run(&of_step(job)).status, BatchStatus::Completed);

    let fails = failing(1);
    let inner = TaskletStep::new("part", move |_| fails().map(|()| Flow::Finished))
        .retry(RetryPolicy::attempts(2));
    let parts =
        of_step(PartitionStep::new(inner, NumberRanges { min: 1, max: 4, grid: 2 }).threads(1));
    let ended = run(&parts);
    assert_eq!(ended.status, BatchStatus::Completed, "{}", message(&ended));
    let failed = statuses(&parts, &ended).into_iter().filter(|(_, s)| *s == BatchStatus::Failed);
    assert_eq!(failed.count(), 1, "the other partition and the whole step ran once");

    let fails = failing(1);
    let inner = TaskletStep::new("part", move |_| fails().map(|()| Flow::Finished));
    let whole =
        PartitionStep::new(inner, NumberRanges { min: 1, max: 4, grid: 2 }).options(once_more());
    assert_eq!(run(&of_step(whole)).status, BatchStatus::Completed);
}

#[test]
fn a_retry_ends_at_the_start_limit_and_a_transition_on_failed_waits_for_the_last_attempt() {
    let options = |limit| StepOptions {
        start_limit: Some(limit),
        retry: Some(RetryPolicy::attempts(9)),
        ..StepOptions::default()
    };
    let limited = of_step(TaskletStep::call("call", failing(5)).options(options(3)));
    let ended = run(&limited);
    assert_eq!(ended.status, BatchStatus::Failed);
    assert_eq!(statuses(&limited, &ended).len(), 3);

    let flow = |fails: u32| {
        let job = Job::builder("job")
            .step(TaskletStep::call("call", failing(fails)).options(once_more()))
            .on("FAILED")
            .to("repair")
            .on("COMPLETED")
            .end("COMPLETED")
            .step(TaskletStep::call("repair", || ()));
        let operator = operator(job.build().unwrap());
        let ended = run(&operator);
        assert_eq!(ended.status, BatchStatus::Completed);
        statuses(&operator, &ended).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(flow(1), ["call", "call"]);
    assert_eq!(flow(2), ["call", "call", "repair"]);
}

#[test]
fn every_kind_of_step_ends_at_its_timeout_and_continues_at_a_restart() {
    let soon = Duration::from_millis(50);
    let endless = |call: &mut batchwright::step::TaskletCall<'_, '_>| {
        call.scope().stop().wait(Duration::from_millis(5));
        Ok(Flow::Continue)
    };
    let timed_out = |step: &str, operator: JobOperator| {
        let ended = run(&operator);
        assert_eq!(ended.status, BatchStatus::Failed);
        let message = message(&ended);
        assert!(message.contains(&format!("step `{step}` timed out after 50ms")), "{message}");
    };
    timed_out("tasklet", of_step(TaskletStep::new("tasklet", endless).timeout(soon)));
    let options = StepOptions { timeout: Some(soon), ..StepOptions::default() };
    let child = Job::builder("child").step(TaskletStep::new("call", endless)).build().unwrap();
    timed_out("nested", of_step(JobStep::new("nested", child).options(options.clone())));
    let parts = PartitionStep::new(
        TaskletStep::new("parts", endless),
        NumberRanges { min: 1, max: 2, grid: 2 },
    );
    timed_out("parts", of_step(parts.options(options)));

    let written = Arc::new(Mutex::new(Vec::new()));
    let waits = Arc::new(AtomicU32::new(1));
    let chunks = ChunkStepBuilder::new("chunks")
        .reader(Sequence::to(6))
        .processor_with(move |scope| {
            let (stop, waits) = (scope.stop().clone(), Arc::clone(&waits));
            Ok(move |n: &u64| {
                if *n == 4 && waits.swap(0, Ordering::SeqCst) == 1 {
                    stop.wait(Duration::from_secs(600));
                }
                Ok(Some(*n))
            })
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(2)
        .timeout(soon)
        .build();
    let operator = of_step(chunks);
    let ended = run(&operator);
    assert!(message(&ended).contains("step `chunks` timed out after 50ms"), "{}", message(&ended));
    let restarted = operator.restart(ended.id).unwrap().wait().unwrap();
    assert_eq!(restarted.status, BatchStatus::Completed);
    assert_eq!(*written.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_command_ends_at_its_timeout_with_its_output_and_may_run_again() {
    let soon = Duration::from_millis(300);
    let slow = CommandStep::new("slow", ["sh", "-c", "echo waiting; sleep 600"]).timeout(soon);
    let ended = run(&of_step(slow));
    let message = message(&ended);
    assert!(message.contains("timed out after 300ms") && message.contains("waiting"), "{message}");

    let retried = CommandStep::new("slow", ["sleep", "600"])
        .timeout(soon)
        .retry(RetryPolicy::attempts(2).on(Classifier::none().including("command.timeout")));
    let operator = of_step(retried);
    let ended = run(&operator);
    assert_eq!(statuses(&operator, &ended).len(), 2);
}

#[test]
fn each_kind_has_its_own_limit_of_skips_also_over_the_executions_of_an_instance() {
    let step = |policy: SkipPolicy| {
        ChunkStepBuilder::new("load")
            .reader(Sequence::to(9))
            .process(|n| match n {
                2 | 4 | 6 => Err(ItemError::parse(format!("{n} is malformed"))),
                3 => Err(ItemError::data("3 is unknown")),
                _ => Ok(Some(*n)),
            })
            .writer(NoWriter::new())
            .chunk_size(2)
            .skip(policy)
            .build()
    };
    let run_with = |policy| run(&of_step(step(policy)));
    assert_eq!(run_with(SkipPolicy::limit(9)).status, BatchStatus::Completed);
    assert_eq!(
        run_with(SkipPolicy::limit(9).limit_of("data.parse", 3)).status,
        BatchStatus::Completed
    );
    let two = run_with(SkipPolicy::limit(9).limit_of("data.parse", 2));
    let what = "exceeded its skip limit of 2 for `data.parse` at item 6 (process)";
    assert!(message(&two).contains(what), "{}", message(&two));
    let all = run_with(SkipPolicy::limit(9).limit_of("data", 3));
    assert!(message(&all).contains("limit of 3 for `data` at item 6"), "{}", message(&all));

    let operator = of_step(step(SkipPolicy::limit(9).limit_of("data.parse", 2)));
    let first = run(&operator);
    let second = operator.restart(first.id).unwrap().wait().unwrap();
    assert_eq!(second.status, BatchStatus::Completed, "a restart has the whole limit");

    let shared = SkipPolicy::limit(9).limit_of("data.parse", 2).scope(SkipLimitScope::Instance);
    let operator = of_step(step(shared));
    let first = run(&operator);
    let second = operator.restart(first.id).unwrap().wait().unwrap();
    assert!(message(&second).contains("limit of 2 for `data.parse`"), "{}", message(&second));
}

#[test]
fn an_open_circuit_refuses_the_calls_of_all_steps_that_share_the_breaker() {
    let (calls, breaker) = (Arc::new(AtomicU32::new(0)), CircuitBreaker::new(2, Duration::MAX));
    let breaker = breaker.on(Classifier::all().excluding("data"));
    let step = |name: &str| {
        let counted = Arc::clone(&calls);
        ChunkStepBuilder::new(name)
            .reader(Sequence::to(9))
            .process(move |n| match n {
                1 => Err(ItemError::data("a bad record is an answer")),
                _ => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    Err::<Option<u64>, _>(ItemError::new(ErrorKind::IO, "away"))
                }
            })
            .writer(NoWriter::new())
            .breaker(breaker.clone())
            .skip(SkipPolicy::limit(1))
            .retry(RetryPolicy::attempts(5).on(Classifier::none().including("io")))
            .build()
    };
    for name in ["first", "second"] {
        let ended = run(&of_step(step(name)));
        let message = message(&ended);
        assert!(message.contains("the circuit is open after 2 failures in a row"), "{message}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);

    let writes = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&writes);
    let writer = ChunkStepBuilder::new("write")
        .reader(Sequence::to(1))
        .writer(batchwright::item::DeliveryWriter::call(move |_: &[u64], _: &str| {
            counted.fetch_add(1, Ordering::SeqCst);
            Err(ItemError::new(ErrorKind::IO, "away"))
        }))
        .breaker(CircuitBreaker::new(2, Duration::MAX))
        .retry(RetryPolicy::attempts(5).on(Classifier::none().including("io")))
        .build();
    assert!(message(&run(&of_step(writer))).contains("the circuit is open"));
    assert_eq!(writes.load(Ordering::SeqCst), 2);
}

#[test]
fn a_retry_waits_until_the_circuit_closes() {
    let fails = failing(2);
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(2))
        .process(move |n| fails().map(|()| Some(*n)))
        .writer(NoWriter::new())
        .breaker(CircuitBreaker::new(2, Duration::from_millis(20)))
        .retry(RetryPolicy::attempts(50).backoff(Backoff::Fixed(Duration::from_millis(10))))
        .build();
    assert_eq!(run(&of_step(step)).status, BatchStatus::Completed);
}

#[test]
fn a_condition_of_your_own_stops_a_step_between_chunks() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(6))
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(2)
        .stop_when(|scope| scope.counters().write == 4)
        .build();
    let operator = of_step(step);
    let ended = run(&operator);
    assert_eq!(ended.status, BatchStatus::Stopped);
    assert_eq!(*written.lock().unwrap(), [1, 2, 3, 4]);
    let restarted = operator.restart(ended.id).unwrap().wait().unwrap();
    assert_eq!(restarted.status, BatchStatus::Completed);
    assert_eq!(*written.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
}

/// Fails the first end of its step.
struct FailsOnce(AtomicU32);

impl StepListener for FailsOnce {
    fn after_step(&self, _: &StepScope, _: &StepExecution) -> ListenerResult<Option<ExitStatus>> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Err("the end of the step is not stored as complete".into()),
            _ => Ok(None),
        }
    }
}

#[test]
fn a_new_round_runs_the_jobs_of_its_steps_again_and_a_restart_does_not() {
    let child = |calls: &Arc<AtomicU32>| {
        let calls = Arc::clone(calls);
        let step = TaskletStep::call("call", move || {
            calls.fetch_add(1, Ordering::SeqCst);
        });
        Job::builder("child").step(step)
    };
    let calls = Arc::new(AtomicU32::new(0));
    let parent = Job::builder("job").step(JobStep::new("nested", child(&calls).build().unwrap()));
    let again = operator(parent.allow_start_if_complete().build().unwrap());
    assert_eq!(run(&again).status, BatchStatus::Completed);
    assert_eq!(run(&again).status, BatchStatus::Completed);
    assert_eq!(calls.load(Ordering::SeqCst), 2, "the new round runs the child too");

    let calls = Arc::new(AtomicU32::new(0));
    let child = child(&calls).allow_start_if_complete().build().unwrap();
    let listeners: Vec<Arc<dyn StepListener>> = vec![Arc::new(FailsOnce(AtomicU32::new(0)))];
    let options = StepOptions { listeners, ..StepOptions::default() };
    let restarted = of_step(JobStep::new("nested", child).options(options));
    let failed = run(&restarted);
    assert_eq!(failed.status, BatchStatus::Failed);
    let ended = restarted.restart(failed.id).unwrap().wait().unwrap();
    assert_eq!(ended.status, BatchStatus::Completed, "{}", message(&ended));
    assert_eq!(calls.load(Ordering::SeqCst), 1, "the child was complete");
}

#[test]
fn a_caller_that_may_repeat_a_start_keeps_a_complete_instance() {
    let job = Job::builder("job").step(TaskletStep::call("call", || ())).allow_start_if_complete();
    let operator = operator(job.build().unwrap());
    let done = run(&operator);
    let options = LaunchOptions { keep_complete: true, ..LaunchOptions::default() };
    let launch = Launch::start("job", JobParameters::new()).options(options);
    match operator.launch(&launch).map(|handle| handle.id()) {
        Err(OperatorError::Refused(Refusal::AlreadyComplete { execution })) => {
            assert_eq!(execution, done.id);
        }
        started => panic!("{started:?}"),
    }
}

#[test]
fn a_stop_of_the_steps_own_code_is_no_timeout_and_none_is_left_after_the_step() {
    let stops = TaskletStep::new("stops", |call| {
        call.scope().stop().request();
        Ok(Flow::Continue)
    });
    let ended = run(&of_step(stops.timeout(Duration::from_secs(600))));
    assert_eq!(ended.status, BatchStatus::Stopped, "{}", message(&ended));

    struct Sees;
    impl StepListener for Sees {
        fn after_step(
            &self,
            scope: &StepScope,
            _: &StepExecution,
        ) -> ListenerResult<Option<ExitStatus>> {
            assert!(!scope.stop().is_requested());
            Ok(None)
        }
    }
    let options = StepOptions { listeners: vec![Arc::new(Sees)], ..StepOptions::default() };
    let step = TaskletStep::call("ends", || ()).timeout(Duration::from_secs(600));
    assert_eq!(run(&of_step(step.options(options))).status, BatchStatus::Completed);
}

#[test]
fn a_complete_instance_starts_again_from_its_first_step_if_the_job_allows_it() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let fails = Arc::new(AtomicU32::new(0));
    let step = |name: &'static str| {
        let (calls, fails) = (Arc::clone(&calls), Arc::clone(&fails));
        TaskletStep::call(name, move || {
            calls.lock().unwrap().push(name);
            match name == "second" && fails.swap(0, Ordering::SeqCst) == 1 {
                true => Err(ItemError::data("not today")),
                false => Ok(()),
            }
        })
    };
    let job = || Job::builder("job").step(step("first")).step(step("second"));
    let again = operator(job().allow_start_if_complete().build().unwrap());
    let first = run(&again);
    let second = run(&again);
    assert_eq!((second.status, second.restart_of), (BatchStatus::Completed, Some(first.id)));
    assert_eq!(second.instance_id, first.instance_id);
    assert_eq!(calls.lock().unwrap().len(), 4);

    fails.store(1, Ordering::SeqCst);
    let third = run(&again);
    assert_eq!(third.status, BatchStatus::Failed);
    let fourth = run(&again);
    assert_eq!(fourth.status, BatchStatus::Completed);
    let calls = calls.lock().unwrap().split_off(4);
    assert_eq!(calls, ["first", "second", "second"], "a restart continues the new round");

    let refused = operator(job().build().unwrap());
    run(&refused);
    assert!(refused.run("job", JobParameters::new()).is_err());
    let contradiction = job().allow_start_if_complete().not_restartable().build();
    assert!(contradiction.unwrap_err().to_string().contains("cannot"));
}

/// A writer whose output is best committed by sevens.
#[derive(Clone)]
struct Sevens;

impl ItemWriter<u64> for Sevens {
    type Position = ();

    fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        Ok(None)
    }

    fn write(&mut self, _: &[u64], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        Ok(())
    }

    fn chunk_items(&self) -> usize {
        7
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }
}

#[test]
fn a_step_without_a_chunk_size_takes_the_one_of_its_writer() {
    let commits = |step: ChunkStepBuilder<Sequence, _, Sevens>| {
        let operator = of_step(step.build());
        operator.queries().steps(run(&operator).id).unwrap()[0].counters.commit
    };
    let step = || ChunkStepBuilder::new("copy").reader(Sequence::to(21)).writer(Sevens);
    assert_eq!(commits(step()), 3);
    assert_eq!(commits(step().chunk_size(21)), 1);
}
