//! Rows of the contract without a test elsewhere; `docs/conformance.md` lists the test of each row.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};

use batchwright::context::ExecutionContext;
use batchwright::execution::{ExecutionId, ExitStatus, JobExecution, StepExecution};
use batchwright::item::{
    ChunkTransaction, ItemReader, ItemWriter, ListReader, NoWriter, PreparedCommit,
};
use batchwright::job::{Decision, JobBuilder, increment};
use batchwright::launch::{Launch, RecoverMode};
use batchwright::listener::{
    ItemListener, JobListener, ListenerResult, SkipListener, StepListener,
};
use batchwright::operator::{Refusal, Retention};
use batchwright::parameters::{ParameterDeclaration, ParameterType, ParameterValue};
use batchwright::partition::{NumberRanges, PartitionStep};
use batchwright::policy::{SkipLimitScope, SkipPolicy};
use batchwright::query::{ExecutionFilter, InstancePage};
use batchwright::retry::RetryPolicy;
use batchwright::scope::{JobScope, StepScope};
use batchwright::step::{Flow, Step, StepOptions};
use batchwright::testing::CommitPoint;
use batchwright::testing::SimClock;
use batchwright::testing::fault::{FaultPlan, FaultyWriter};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, ListWriter,
    MemoryRepository, Sequence, TaskletStep,
};
use spy::{Fault, Spy};

type Shared<T> = Arc<Mutex<T>>;

fn shared<T>(value: T) -> Shared<T> {
    Arc::new(Mutex::new(value))
}

fn operator(job: JobBuilder) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job.build().unwrap()).unwrap();
    operator
}

fn watched(spy: &Arc<Spy>, job: JobBuilder) -> JobOperator {
    let operator = JobOperator::new(Arc::clone(spy) as _);
    operator.registry().register(job.build().unwrap()).unwrap();
    operator
}

fn job(step: impl Step + 'static) -> JobBuilder {
    Job::builder("job").step(step)
}

fn none() -> JobParameters {
    JobParameters::new()
}

fn start_with(operator: &JobOperator, parameters: JobParameters) -> JobExecution {
    operator.start("job", parameters).unwrap().wait().unwrap()
}

fn start(operator: &JobOperator) -> JobExecution {
    start_with(operator, none())
}

fn restart(operator: &JobOperator, of: &JobExecution) -> JobExecution {
    operator.restart(of.id).unwrap().wait().unwrap()
}

fn steps(operator: &JobOperator, of: &JobExecution) -> Vec<StepExecution> {
    operator.queries().steps(of.id).unwrap()
}

/// A step that does nothing.
fn idle(name: &str) -> TaskletStep {
    TaskletStep::new(name, |_| Ok(Flow::Finished))
}

/// A step that fails while `broken` is true.
fn fragile(name: &str, broken: &Shared<bool>) -> TaskletStep {
    let broken = Arc::clone(broken);
    TaskletStep::new(name, move |_| match *broken.lock().unwrap() {
        true => Err(ItemError::data("not today")),
        false => Ok(Flow::Finished),
    })
}

/// A step that signals its begin and waits for the gate.
fn gated(name: &str) -> (TaskletStep, std::sync::mpsc::Receiver<()>, Arc<Barrier>) {
    let gate = Arc::new(Barrier::new(2));
    let inside = Arc::clone(&gate);
    let (began, begun) = channel();
    let step = TaskletStep::new(name, move |_| {
        let _ = began.send(());
        inside.wait();
        Ok(Flow::Finished)
    });
    (step, begun, gate)
}

// A1: identity and parameters

#[test]
fn row_1_the_same_identifying_parameters_in_any_order_are_the_same_instance() {
    let operator = operator(job(idle("a")));
    start_with(&operator, none().with("a", 1).with("b", 2));
    let again = operator.start("job", none().with("b", 2).with("a", 1)).unwrap_err();
    assert_eq!(again.code(), "already_complete");
    start_with(&operator, none().with("a", 1).with("b", 3));
    assert_eq!(operator.explorer().instance_count("job").unwrap(), 2);
}

#[test]
fn row_2_non_identifying_parameters_are_stored_and_may_differ_between_executions() {
    let broken = shared(true);
    let operator = operator(job(fragile("a", &broken)));
    let given = |n: i64| none().with("day", "monday").with_non_identifying("n", n);
    let first = start_with(&operator, given(1));
    *broken.lock().unwrap() = false;
    let second = start_with(&operator, given(2));
    assert_eq!((second.instance_id, second.restart_of), (first.instance_id, Some(first.id)));
    assert_eq!(operator.explorer().parameters(first.id).unwrap(), given(1));
    assert_eq!(operator.explorer().parameters(second.id).unwrap(), given(2));
}

#[test]
fn row_3_a_number_and_its_text_are_two_instances() {
    let operator = operator(job(idle("a")));
    start_with(&operator, none().with("x", "1"));
    start_with(&operator, none().with("x", 1));
    assert_eq!(operator.explorer().instance_count("job").unwrap(), 2);
}

#[test]
fn row_5_a_value_has_one_text_and_that_text_is_read_back_as_the_value() {
    let second = "2026-11-21T12:00:00.5+02:00".parse::<jiff::Timestamp>().unwrap();
    for (value, text) in [
        (ParameterValue::from(-7), "-7"),
        (0.1.into(), "0.1"),
        (1.0.into(), "1.0"),
        (second.into(), "2026-11-21T10:00:00.5Z"),
    ] {
        assert_eq!(value.to_string(), text);
        assert_eq!(ParameterValue::parse(text, value.kind()).unwrap(), value);
    }
}

#[test]
fn row_6_a_job_without_parameters_has_one_instance_and_the_refusal_says_how_to_get_another() {
    let operator = operator(job(idle("a")));
    let done = start(&operator);
    let batchwright::operator::OperatorError::Refused(refusal) =
        operator.start("job", none()).unwrap_err()
    else {
        panic!("a refusal")
    };
    assert_eq!(refusal, Refusal::AlreadyComplete { execution: done.id });
    assert!(refusal.advice().contains("start a new instance: change an identifying parameter"));
    assert_eq!(operator.explorer().execution_count("job").unwrap(), 1);
}

#[test]
fn rows_7_and_8_missing_and_unknown_parameters_are_all_named_and_nothing_is_stored() {
    let declared = |name: &str| ParameterDeclaration::new(name, ParameterType::Integer);
    let with = |job: JobBuilder| {
        job.parameter(declared("m").required()).parameter(declared("n").required())
    };
    let operator = self::operator(with(job(idle("a"))));
    let refused = operator.start("job", none().with("o", 1)).unwrap_err();
    assert_eq!(refused.code(), "invalid_parameters");
    for problem in ["`m` is required", "`n` is required", "`o` is unknown"] {
        assert!(refused.to_string().contains(problem), "{refused}");
    }
    assert_eq!(operator.explorer().instance_count("job").unwrap(), 0);
    let right = none().with("m", 1).with("n", 1);
    assert_eq!(start_with(&operator, right.clone()).status, BatchStatus::Completed);
    let open = self::operator(with(job(idle("a"))).open_parameters());
    assert_eq!(start_with(&open, right.with("o", 1)).status, BatchStatus::Completed);
}

// A2: launch rules

#[test]
fn row_12_instance_and_execution_are_made_together_or_not_at_all() {
    let spy = Arc::new(Spy::default());
    let operator = watched(&spy, job(idle("a")));
    spy.fail(Fault::InsertExecution);
    assert_eq!(operator.start("job", none()).unwrap_err().code(), "store_unavailable");
    assert_eq!(
        operator.explorer().instance_count("job").unwrap(),
        0,
        "no instance without an execution"
    );
    spy.fail(Fault::None);
    assert_eq!(start(&operator).status, BatchStatus::Completed);
}

#[test]
fn row_13_a_running_instance_is_refused_with_its_execution_its_owner_and_its_lease() {
    let (step, begun, gate) = gated("a");
    let operator = operator(job(step));
    let handle = operator.start("job", none()).unwrap();
    begun.recv().unwrap();
    let running = operator.explorer().execution(handle.id()).unwrap();
    let expected = Refusal::AlreadyRunning {
        execution: running.id,
        status: BatchStatus::Started,
        owner: running.owner.clone(),
        lease_until: running.lease_until,
    };
    assert!(running.owner.is_some() && running.lease_until.is_some());
    let again = operator.start("job", none()).unwrap_err();
    assert_eq!(again.to_string(), expected.to_string());
    let restarted = operator.restart(handle.id());
    assert_eq!(restarted.unwrap_err().code(), "already_running");
    gate.wait();
    handle.wait().unwrap();
}

#[test]
fn row_14_a_complete_instance_is_neither_started_nor_restarted() {
    let operator = operator(job(idle("a")));
    let done = start(&operator);
    assert_eq!(operator.start("job", none()).unwrap_err().code(), "already_complete");
    let restarted = operator.restart(done.id);
    assert_eq!(restarted.unwrap_err().code(), "already_complete");
}

#[test]
fn row_19_a_job_that_forbids_restarts_is_not_restarted_in_either_way() {
    let operator = operator(job(fragile("a", &shared(true))).not_restartable());
    let failed = start(&operator);
    let restarted = operator.restart(failed.id);
    assert_eq!(restarted.unwrap_err().code(), "not_restartable");
    assert_eq!(operator.start("job", none()).unwrap_err().code(), "not_restartable");
}

// A3: restart

#[test]
fn rows_23_and_32_a_step_that_always_runs_begins_with_an_empty_context() {
    let broken = shared(true);
    let found = shared(Vec::new());
    let seen = Arc::clone(&found);
    let always = TaskletStep::new("always", move |call| {
        seen.lock().unwrap().push(call.scope().context().has("k"));
        call.scope().context().put("k", &1)?;
        Ok(Flow::Finished)
    });
    let options = StepOptions { allow_start_if_complete: true, ..StepOptions::default() };
    let operator = operator(job(always.options(options)).step(fragile("b", &broken)));
    let first = start(&operator);
    let second = restart(&operator, &first);
    *broken.lock().unwrap() = false;
    restart(&operator, &second);
    assert_eq!(*found.lock().unwrap(), [false, false, false]);
}

#[test]
fn rows_24_and_32_a_failed_step_goes_on_with_its_last_context_and_counts_from_zero() {
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(4))
        .processor_with(|scope: &StepScope| {
            let context = scope.context().clone();
            Ok(move |n: &u64| {
                if *n == 3 && context.get::<u64>("last")? == 2 && !context.has("tried") {
                    return Err(ItemError::data("the first time"));
                }
                context.put("last", n)?;
                Ok(Some(*n))
            })
        })
        .writer(NoWriter::new())
        .chunk_size(2)
        .build();
    let operator = operator(job(step));
    let failed = start(&operator);
    let row = &steps(&operator, &failed)[0];
    assert_eq!((row.counters.read, row.counters.write), (4, 2));
    let again = restart(&operator, &failed);
    let row = &steps(&operator, &again)[0];
    assert_eq!(row.context.get::<u64>("last").unwrap(), 2, "a copy of what was committed");
    assert_eq!((row.counters.read, row.counters.write), (2, 0), "this execution alone");
    assert_ne!(row.id, steps(&operator, &failed)[0].id, "a row of its own");
}

#[test]
fn row_25_passing_over_a_completed_step_uses_up_no_start_and_a_limit_of_nothing_is_refused() {
    let broken = shared(true);
    let limited = |limit| {
        idle("once").options(StepOptions { start_limit: Some(limit), ..StepOptions::default() })
    };
    let operator = operator(job(limited(1)).step(fragile("b", &broken)));
    let mut last = start(&operator);
    for _ in 0..3 {
        last = restart(&operator, &last);
        assert_eq!(last.failure.as_ref().unwrap().code, "tasklet_failed");
    }
    *broken.lock().unwrap() = false;
    assert_eq!(restart(&operator, &last).status, BatchStatus::Completed);
    assert!(job(limited(0)).build().unwrap_err().to_string().contains("its limit is 0"));
}

#[test]
fn row_27_a_step_that_comes_twice_runs_twice_and_the_newest_row_decides_on_restart() {
    let broken = shared(true);
    let ran = Arc::new(AtomicUsize::new(0));
    let (state, counted) = (Arc::clone(&broken), Arc::clone(&ran));
    let poll = TaskletStep::new("poll", move |_| {
        let nth = counted.fetch_add(1, Ordering::SeqCst) + 1;
        match nth > 1 && *state.lock().unwrap() {
            true => Err(ItemError::data("the second time")),
            false => Ok(Flow::Finished),
        }
    });
    let counted = Arc::clone(&ran);
    let operator = operator(
        job(poll)
            .decision("again?", move |_: &Decision<'_>| {
                Ok(if counted.load(Ordering::SeqCst) < 2 { "YES" } else { "NO" }.to_owned())
            })
            .on("YES")
            .to("poll")
            .on("NO")
            .end("DONE"),
    );
    let failed = start(&operator);
    let statuses: Vec<_> = steps(&operator, &failed).iter().map(|row| row.status).collect();
    assert_eq!(statuses, [BatchStatus::Completed, BatchStatus::Failed]);
    *broken.lock().unwrap() = false;
    assert_eq!(restart(&operator, &failed).exit.code, "DONE");
    assert_eq!(ran.load(Ordering::SeqCst), 3, "the failed one was run again");
}

#[test]
fn row_28_the_skip_budget_begins_anew_with_every_execution_unless_the_instance_shares_it() {
    for (scope, expected) in [
        (SkipLimitScope::Execution, BatchStatus::Completed),
        (SkipLimitScope::Instance, BatchStatus::Failed),
    ] {
        let broken = shared(true);
        let state = Arc::clone(&broken);
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(6))
            .processor(move |n: &u64| match n {
                1 | 2 | 5 | 6 => Err(ItemError::data("a bad record")),
                3 if *state.lock().unwrap() => Err(ItemError::fatal("not today")),
                n => Ok(Some(*n)),
            })
            .writer(NoWriter::new())
            .chunk_size(2)
            .skip(SkipPolicy::limit(2).scope(scope))
            .build();
        let operator = operator(job(step));
        let failed = start(&operator);
        *broken.lock().unwrap() = false;
        assert_eq!(restart(&operator, &failed).status, expected, "{scope:?}");
    }
}

#[test]
fn row_30_a_restart_changes_what_does_not_identify_and_nothing_that_does() {
    let broken = shared(true);
    let operator = operator(job(fragile("a", &broken)));
    let given = |n: i64| none().with("day", 1).with_non_identifying("n", n);
    let failed = start_with(&operator, given(1));
    *broken.lock().unwrap() = false;
    let with =
        |change: JobParameters| operator.launch(&Launch::restart(failed.id).parameters(change));
    assert_eq!(with(none().with("day", 2)).unwrap_err().code(), "invalid_parameters");
    let done = with(none().with_non_identifying("n", 2)).unwrap().wait().unwrap();
    assert_eq!((done.status, done.parameters), (BatchStatus::Completed, given(2)));
}

// A4: contexts

#[test]
fn row_33_a_context_is_stored_with_the_chunk_that_changed_it_and_not_with_one_that_failed() {
    let plan = FaultPlan { fatal_write: [5].into(), ..FaultPlan::default() };
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(6))
        .processor_with(|scope: &StepScope| {
            let context = scope.context().clone();
            Ok(move |n: &u64| {
                context.put("last", n)?;
                Ok(Some(*n))
            })
        })
        .writer_with(move |_| Ok(FaultyWriter::new(NoWriter::new(), &plan)))
        .chunk_size(2)
        .build();
    let operator = operator(job(step));
    let failed = start(&operator);
    assert_eq!(steps(&operator, &failed)[0].context.get::<u64>("last").unwrap(), 4);
}

#[test]
fn rows_36_and_37_a_context_holds_what_the_user_put_there_whole_and_nothing_of_the_engine() {
    let large = "x".repeat(4 * 1024 * 1024);
    let text = large.clone();
    let step = ChunkStepBuilder::new("step")
        .reader_with(move |scope: &StepScope| {
            scope.context().put("mine", &text)?;
            Ok(Sequence::to(3))
        })
        .writer(NoWriter::<u64>::new())
        .build();
    let operator = operator(job(step));
    let done = start(&operator);
    let row = &steps(&operator, &done)[0];
    assert_eq!(row.context.names().collect::<Vec<_>>(), ["mine"]);
    assert!(row.context.get::<String>("mine").unwrap() == large);
    assert!(row.checkpoint.is_some(), "the engine's own state is separate");
    assert!(done.context.is_empty());
}

#[test]
fn row_38_a_context_that_did_not_change_is_not_written_again() {
    let spy = Arc::new(Spy::default());
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(6))
        .processor_with(|scope: &StepScope| {
            let context = scope.context().clone();
            Ok(move |n: &u64| {
                if *n == 3 {
                    context.put("half", n)?;
                }
                Ok(Some(*n))
            })
        })
        .writer(NoWriter::new())
        .chunk_size(2)
        .build();
    start(&watched(&spy, job(step)));
    assert_eq!(*spy.contexts_written.lock().unwrap(), [false, true, false]);
}

// A5: counters

#[test]
fn row_40_35_chunks_of_one_bad_item_are_written_once_and_counted_with_their_skip() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(2))
        .writer(Odd { attempts: Arc::clone(&attempts), ..Odd::refusing([1, 2]) })
        .chunk_size(1)
        .skip(SkipPolicy::limit(2))
        .build();
    let operator = operator(job(step));
    let done = start(&operator);
    let counters = steps(&operator, &done)[0].counters;
    assert_eq!((counters.write_skip, counters.commit, counters.rollback), (2, 2, 2));
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
}

#[test]
fn rows_40_36_and_112_a_tasklet_is_called_until_it_is_finished_with_a_commit_for_each_call() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let step = TaskletStep::new("a", move |call| {
        call.contribute(1, 2);
        let last = counted.fetch_add(1, Ordering::SeqCst) == 2;
        Ok(if last { Flow::Finished } else { Flow::Continue })
    });
    let operator = operator(job(step));
    let done = start(&operator);
    let counters = steps(&operator, &done)[0].counters;
    assert_eq!((counters.read, counters.write, counters.commit), (3, 6, 3));
}

#[test]
fn row_43_stored_counters_never_run_ahead_of_the_sink_and_are_exact_in_the_end() {
    let sink: Shared<Vec<u64>> = shared(Vec::new());
    let seen = shared(Vec::new());
    let (rows, noted) = (Arc::clone(&sink), Arc::clone(&seen));
    let repository = Arc::new(MemoryRepository::new());
    let store = Arc::clone(&repository);
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(9))
        .processor_with(move |scope: &StepScope| {
            let (id, store) = (scope.id(), Arc::clone(&store));
            let (rows, noted) = (Arc::clone(&rows), Arc::clone(&noted));
            Ok(move |n: &u64| {
                let stored = batchwright::query::Queries::step(&*store, id)?.unwrap().counters;
                noted.lock().unwrap().push((stored.write, rows.lock().unwrap().len() as u64));
                Ok(Some(*n))
            })
        })
        .writer(ListWriter::new(Arc::clone(&sink)))
        .chunk_size(3)
        .build();
    let operator = JobOperator::new(repository);
    operator.registry().register(job(step).build().unwrap()).unwrap();
    let done = start(&operator);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().map(|(stored, _)| *stored).max(), Some(6));
    assert!(seen.iter().all(|(stored, written)| stored == written), "{seen:?}");
    assert_eq!(steps(&operator, &done)[0].counters.write, 9);
}

#[test]
fn row_44_a_writer_that_drops_and_multiplies_is_counted_by_its_items() {
    let sink = shared(Vec::new());
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(5))
        .writer(Odd { rows: Arc::clone(&sink), ..Odd::refusing([]) })
        .build();
    let operator = operator(job(step));
    let done = start(&operator);
    assert_eq!(steps(&operator, &done)[0].counters.write, 5);
    assert_eq!(*sink.lock().unwrap(), [1, 1, 3, 3, 5, 5], "odd ones twice, the others not at all");
}

/// A writer that writes odd numbers twice, drops the others, refuses some, and records the key of every
/// write.
#[derive(Clone, Default)]
struct Odd {
    rows: Shared<Vec<u64>>,
    keys: Shared<Vec<String>>,
    attempts: Arc<AtomicUsize>,
    refused: Shared<BTreeSet<u64>>,
}

impl Odd {
    fn refusing(items: impl IntoIterator<Item = u64>) -> Self {
        Self { refused: shared(items.into_iter().collect()), ..Self::default() }
    }
}

impl ItemWriter<u64> for Odd {
    type Position = ();

    fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        Ok(None)
    }

    fn write(&mut self, items: &[u64], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        self.keys.lock().unwrap().push(chunk.idempotency_key());
        if items.iter().any(|n| self.refused.lock().unwrap().contains(n)) {
            return Err(ItemError::data("a bad number"));
        }
        let odd = items.iter().filter(|n| *n % 2 == 1).flat_map(|n| [*n, *n]);
        self.rows.lock().unwrap().extend(odd);
        Ok(())
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }
}

// A6: transactions and durability

#[test]
fn row_48_the_key_of_a_chunk_is_the_same_when_the_restart_writes_it_again() {
    let writer = Odd::refusing([4]);
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(6))
        .writer(writer.clone())
        .chunk_size(2)
        .build();
    let operator = operator(job(step));
    let failed = start(&operator);
    writer.refused.lock().unwrap().clear();
    restart(&operator, &failed);
    let keys = writer.keys.lock().unwrap().clone();
    let [first, second, again, third] = &keys[..] else { panic!("{keys:?}") };
    assert_eq!(second, again);
    assert_eq!(BTreeSet::from([first, second, third]).len(), 3, "{keys:?}");
}

#[test]
fn row_49_a_commit_that_fails_fails_the_chunk_and_the_stored_checkpoint_decides_on_restart() {
    for (fault, written) in [(Fault::CommitLost, 2), (Fault::CommitUnanswered, 4)] {
        let spy = Arc::new(Spy::default());
        let sink = shared(Vec::new());
        let (rows, breaking) = (Arc::clone(&sink), Arc::clone(&spy));
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(6))
            .processor(move |n: &u64| {
                if *n == 3 {
                    breaking.fail_first(fault);
                }
                Ok(Some(*n))
            })
            .writer(ListWriter::new(rows))
            .chunk_size(2)
            .skip(SkipPolicy::limit(9))
            .build();
        let operator = watched(&spy, job(step));
        let failed = start(&operator);
        assert_eq!(failed.status, BatchStatus::Failed);
        assert_eq!(failed.failure.as_ref().unwrap().code, "commit_failed");
        let stored = operator.queries().steps(failed.id).unwrap()[0].checkpoint.clone().unwrap();
        assert!(stored.contains(&format!(r#""records":{written}"#)), "{stored}");
        let done = restart(&operator, &failed);
        assert_eq!(done.status, BatchStatus::Completed);
        assert_eq!(steps(&operator, &done)[0].counters.write, 6 - written, "{fault:?}");
    }
}

#[test]
fn row_50_a_store_that_is_gone_fails_the_execution_and_leaves_it_restartable() {
    let spy = Arc::new(Spy::default());
    let sink = shared(Vec::new());
    let (rows, breaking) = (Arc::clone(&sink), Arc::clone(&spy));
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(6))
        .processor(move |n: &u64| {
            if *n == 3 {
                breaking.fail_first(Fault::Unreachable);
            }
            Ok(Some(*n))
        })
        .writer(ListWriter::new(rows))
        .chunk_size(2)
        .build();
    let operator = watched(&spy, job(step));
    let handle = operator.start("job", none()).unwrap();
    assert!(handle.wait().is_err(), "nothing could be stored, and the handle says so");
    assert_eq!(operator.stop_all(), 0, "no lease is renewed any more");
    spy.fail(Fault::None);
    let recovered = operator.recover(handle.id(), RecoverMode::Force).unwrap();
    assert_eq!(recovered.status, BatchStatus::Failed);
    assert_eq!(restart(&operator, &recovered).status, BatchStatus::Completed);
    assert_eq!(*sink.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn row_51_no_unit_of_work_is_open_while_items_are_read_and_processed() {
    struct Counting(Sequence, Arc<Spy>, Shared<Vec<usize>>);
    impl ItemReader for Counting {
        type Item = u64;
        type Position = u64;
        fn open(&mut self, position: Option<u64>, scope: &StepScope) -> Result<(), ItemError> {
            self.0.open(position, scope)
        }
        fn read(&mut self) -> Result<Option<u64>, ItemError> {
            self.2.lock().unwrap().push(self.1.open_in(std::thread::current().id()));
            self.0.read()
        }
        fn position(&self) -> u64 {
            self.0.position()
        }
    }
    let (spy, open) = (Arc::new(Spy::default()), shared(Vec::new()));
    let (reading, seen) = (Arc::clone(&spy), Arc::clone(&open));
    let (processing, noted) = (Arc::clone(&spy), Arc::clone(&open));
    let step = ChunkStepBuilder::new("step")
        .reader_with(move |_| {
            Ok(Counting(Sequence::to(5), Arc::clone(&reading), Arc::clone(&seen)))
        })
        .processor(move |n: &u64| {
            noted.lock().unwrap().push(processing.open_in(std::thread::current().id()));
            Ok(Some(*n))
        })
        .writer(NoWriter::new())
        .chunk_size(2)
        .build();
    start(&watched(&spy, job(step)));
    let open = open.lock().unwrap();
    assert!(open.len() > 10 && open.iter().all(|count| *count == 0), "{open:?}");
}

// A7: skip and retry

#[test]
fn row_53_the_skip_behind_the_last_one_allowed_fails_the_step_with_limit_and_cause() {
    let failing = |limit| {
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(5))
            .processor(|n: &u64| match n {
                2 | 4 => Err(ItemError::data("an odd mistake")),
                n => Ok(Some(*n)),
            })
            .writer(NoWriter::new())
            .skip(SkipPolicy::limit(limit))
            .build();
        start(&operator(job(step))).failure
    };
    assert_eq!(failing(2), None);
    let failure = failing(1).unwrap();
    assert_eq!(failure.code, "skip_limit_exceeded");
    for part in ["skip limit of 1", "item 4", "an odd mistake"] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

/// A processor that records its calls and fails item `bad` `times` times.
fn clumsy(
    calls: &Shared<Vec<u64>>,
    bad: u64,
    times: u32,
) -> impl batchwright::item::ItemProcessor<u64, Output = u64> + Clone + use<> {
    let (calls, left) = (Arc::clone(calls), shared(times));
    move |n: &u64| {
        calls.lock().unwrap().push(*n);
        let mut left = left.lock().unwrap();
        match *n == bad && *left > 0 {
            true => {
                *left -= 1;
                Err(ItemError::data("clumsy"))
            }
            false => Ok(Some(*n)),
        }
    }
}

fn attempts(count: u32) -> RetryPolicy {
    RetryPolicy::attempts(count)
}

#[test]
fn rows_56_and_57_an_item_is_tried_again_in_its_place_as_often_as_allowed_and_no_other_is() {
    for (fails, tries, expected) in
        [(2, 3, BatchStatus::Completed), (3, 3, BatchStatus::Failed), (1, 1, BatchStatus::Failed)]
    {
        let calls = shared(Vec::new());
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(3))
            .processor(clumsy(&calls, 2, fails))
            .writer(NoWriter::new())
            .retry(attempts(tries))
            .build();
        assert_eq!(start(&operator(job(step))).status, expected);
        let mut once = vec![1];
        once.extend(std::iter::repeat_n(2, tries as usize));
        once.extend((expected == BatchStatus::Completed).then_some(3));
        assert_eq!(*calls.lock().unwrap(), once);
    }
}

#[test]
fn row_58_a_read_is_tried_again_only_if_the_failed_one_did_not_advance() {
    #[derive(Clone)]
    struct Advancing(Sequence, bool);
    impl ItemReader for Advancing {
        type Item = u64;
        type Position = u64;
        fn open(&mut self, position: Option<u64>, scope: &StepScope) -> Result<(), ItemError> {
            self.0.open(position, scope)
        }
        fn read(&mut self) -> Result<Option<u64>, ItemError> {
            let read = self.0.read()?;
            match read {
                Some(3) if !std::mem::replace(&mut self.1, true) => Err(ItemError::parse("three")),
                read => Ok(read),
            }
        }
        fn position(&self) -> u64 {
            self.0.position()
        }
    }
    let run = |policy: SkipPolicy| {
        let sink = shared(Vec::new());
        let step = ChunkStepBuilder::new("step")
            .reader(Advancing(Sequence::to(5), false))
            .writer(ListWriter::new(Arc::clone(&sink)))
            .retry(attempts(5))
            .skip(policy)
            .build();
        let operator = operator(job(step));
        let done = start(&operator);
        let skipped = operator.queries().skips(done.id).unwrap().len();
        let rows = sink.lock().unwrap().clone();
        (done.status, rows, skipped)
    };
    assert_eq!(run(SkipPolicy::never()), (BatchStatus::Failed, vec![], 0), "never lost silently");
    assert_eq!(run(SkipPolicy::limit(1)), (BatchStatus::Completed, vec![1, 2, 4, 5], 1));
}

#[test]
fn rows_59_and_61_a_scan_tries_each_item_once_and_processes_none_again() {
    let calls = shared(Vec::new());
    let writer = Odd::refusing([2]);
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .processor(clumsy(&calls, 0, 0))
        .writer(writer.clone())
        .retry(attempts(4))
        .skip(SkipPolicy::limit(1))
        .build();
    assert_eq!(start(&operator(job(step))).status, BatchStatus::Completed);
    assert_eq!(writer.attempts.load(Ordering::SeqCst), 4 + 3, "the chunk four times, each once");
    assert_eq!(*calls.lock().unwrap(), [1, 2, 3]);
}

#[test]
fn row_62_a_skip_whose_chunk_fails_leaves_no_record_until_the_chunk_is_committed() {
    let broken = shared(true);
    let state = Arc::clone(&broken);
    let plan = move || match *state.lock().unwrap() {
        true => FaultPlan { fatal_write: [3].into(), ..FaultPlan::default() },
        false => FaultPlan::default(),
    };
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .processor(clumsy(&shared(Vec::new()), 2, u32::MAX))
        .writer_with(move |_| Ok(FaultyWriter::new(NoWriter::new(), &plan())))
        .skip(SkipPolicy::limit(1))
        .build();
    let operator = operator(job(step));
    let failed = start(&operator);
    assert!(operator.queries().skips(failed.id).unwrap().is_empty());
    *broken.lock().unwrap() = false;
    let done = restart(&operator, &failed);
    let skips = operator.queries().skips(done.id).unwrap();
    assert_eq!(skips.len(), 1);
    assert_eq!((skips[0].step.as_str(), skips[0].item), ("step", 2));
    assert_eq!(
        (skips[0].phase, skips[0].kind.as_str()),
        (batchwright::execution::Phase::Process, "data")
    );
}

// A9: listeners

/// A listener that returns a code after the step, or fails.
struct Says(&'static str);

impl StepListener for Says {
    fn after_step(&self, _: &StepScope, _: &StepExecution) -> ListenerResult<Option<ExitStatus>> {
        match self.0 {
            "" => Err(ItemError::data("no word")),
            code => Ok(Some(ExitStatus::new(code))),
        }
    }
}

fn saying(fails: bool, codes: &[&'static str]) -> JobBuilder {
    let listeners = codes.iter().map(|code| Arc::new(Says(code)) as Arc<dyn StepListener>);
    let options = StepOptions { listeners: listeners.collect(), ..StepOptions::default() };
    job(fragile("a", &shared(fails)).options(options)).on("*").end("ANY")
}

fn exit_of(job: JobBuilder) -> (BatchStatus, String) {
    let operator = operator(job);
    let done = start(&operator);
    let row = &steps(&operator, &done)[0];
    (row.status, row.exit.code.clone())
}

#[test]
fn row_73_the_code_of_one_listener_survives_the_failure_of_another() {
    for order in [["CUSTOM", ""], ["", "CUSTOM"]] {
        assert_eq!(exit_of(saying(false, &order)), (BatchStatus::Failed, "CUSTOM".to_owned()));
    }
}

#[test]
fn row_74_a_listener_raises_the_severity_of_the_exit_code_and_never_lowers_it_or_the_status() {
    let completed = |code: &str| (BatchStatus::Completed, code.to_owned());
    let failed = |code: &str| (BatchStatus::Failed, code.to_owned());
    assert_eq!(
        exit_of(saying(false, &["COMPLETED_WITH_SKIPS"])),
        completed("COMPLETED_WITH_SKIPS")
    );
    assert_eq!(exit_of(saying(false, &["EXECUTING"])), completed("COMPLETED"));
    assert_eq!(exit_of(saying(true, &["COMPLETED"])), failed("FAILED"));
    assert_eq!(exit_of(saying(true, &["CUSTOM"])), failed("CUSTOM"), "a failure all the same");
}

/// A listener that fails in one call.
struct Fails(&'static str);

impl Fails {
    fn check(&self, call: &str) -> ListenerResult {
        if self.0 == call { Err(ItemError::data("a listener's own mistake")) } else { Ok(()) }
    }
}

impl ItemListener<u64, u64> for Fails {
    fn before_read(&self, _: &StepScope) -> ListenerResult {
        self.check("before_read")
    }
    fn after_read(&self, _: &StepScope, _: &u64) -> ListenerResult {
        self.check("after_read")
    }
    fn before_process(&self, _: &StepScope, _: &u64) -> ListenerResult {
        self.check("before_process")
    }
    fn after_process(&self, _: &StepScope, _: &u64, _: Option<&u64>) -> ListenerResult {
        self.check("after_process")
    }
    fn before_write(
        &self,
        _: &StepScope,
        _: &[u64],
        _: &mut ChunkTransaction<'_>,
    ) -> ListenerResult {
        self.check("before_write")
    }
    fn after_write(
        &self,
        _: &StepScope,
        _: &[u64],
        _: &mut ChunkTransaction<'_>,
    ) -> ListenerResult {
        self.check("after_write")
    }
}

impl batchwright::listener::ChunkListener<u64, u64> for Fails {
    fn before_chunk(&self, _: &StepScope, _: &[u64]) -> ListenerResult {
        self.check("before_chunk")
    }
}

impl SkipListener<u64, u64> for Fails {
    fn on_skip_in_process(&self, _: &StepScope, _: &u64, _: &ItemError) -> ListenerResult {
        self.check("on_skip")
    }
}

fn listened(call: &'static str, sink: &Shared<Vec<u64>>) -> JobBuilder {
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(3))
        .processor(clumsy(&shared(Vec::new()), 2, u32::MAX))
        .writer(ListWriter::new(Arc::clone(sink)))
        .skip(SkipPolicy::limit(9))
        .build()
        .skip_listener(Fails(call));
    match call {
        "on_skip" => job(step),
        _ => job(step.item_listener(Fails(call)).chunk_listener(Fails(call))),
    }
}

#[test]
fn row_75_whatever_listener_fails_the_step_fails_and_its_chunk_is_undone_with_no_item_lost() {
    for call in [
        "before_read",
        "after_read",
        "before_chunk",
        "before_process",
        "after_process",
        "before_write",
        "after_write",
    ] {
        let sink = shared(Vec::new());
        let operator = operator(listened(call, &sink));
        let failed = start(&operator);
        let failure = failed.failure.clone().unwrap();
        assert_eq!(failure.code, "listener_failed", "{call}: {}", failure.message);
        assert!(failure.message.contains(call), "{call}: {}", failure.message);
        assert!(sink.lock().unwrap().is_empty(), "{call}");
        assert!(operator.queries().skips(failed.id).unwrap().is_empty(), "{call}");
        let counters = steps(&operator, &failed)[0].counters;
        assert_eq!((counters.write, counters.commit), (0, 0), "{call}");
    }
}

#[test]
fn row_75_a_chunk_that_a_listener_undid_is_counted_as_rolled_back() {
    for call in ["before_read", "before_chunk", "after_process", "before_write", "after_write"] {
        let operator = operator(listened(call, &shared(Vec::new())));
        let failed = start(&operator);
        assert_eq!(steps(&operator, &failed)[0].counters.rollback, 1, "{call}");
    }
}

#[test]
fn row_77_a_skip_listener_that_fails_fails_the_step_behind_the_commit() {
    let sink = shared(Vec::new());
    let operator = operator(listened("on_skip", &sink));
    let failed = start(&operator);
    assert_eq!(failed.failure.as_ref().unwrap().code, "listener_failed");
    assert_eq!(*sink.lock().unwrap(), [1, 3], "the committed rows remain");
    assert_eq!(operator.queries().skips(failed.id).unwrap().len(), 1);
}

// A10: stop, abandon, recovery

#[test]
fn row_84_a_stop_reaches_the_inside_of_a_long_call() {
    let (began, begun) = channel();
    let step = TaskletStep::new("long", move |call| {
        let _ = began.send(());
        // Only the stop request ends this wait in time.
        call.scope().stop().wait(std::time::Duration::from_secs(100_000));
        Ok(Flow::Continue)
    });
    let operator = operator(job(step));
    let handle = operator.start("job", none()).unwrap();
    begun.recv().unwrap();
    operator.stop(handle.id()).unwrap();
    let stopped = handle.wait().unwrap();
    assert_eq!(stopped.status, BatchStatus::Stopped);
    assert!(stopped.ended_at.is_some() && stopped.owner.is_none());
}

#[test]
fn row_87_only_what_failed_or_stopped_is_abandoned_and_then_never_goes_on() {
    let (step, begun, gate) = gated("a");
    let running = operator(job(step));
    let handle = running.start("job", none()).unwrap();
    begun.recv().unwrap();
    assert_eq!(running.abandon(handle.id()).unwrap_err().code(), "not_running");
    gate.wait();
    let done = handle.wait().unwrap();
    assert_eq!(running.abandon(done.id).unwrap_err().code(), "not_running", "a completed one");

    let operator = operator(job(fragile("a", &shared(true))));
    let failed = start(&operator);
    let abandoned = operator.abandon(failed.id).unwrap();
    assert_eq!(abandoned.status, BatchStatus::Abandoned);
    assert_eq!(operator.abandon(failed.id).unwrap(), abandoned, "no change");
    assert_eq!(operator.start("job", none()).unwrap_err().code(), "abandoned");
}

#[test]
fn the_context_of_a_failed_job_can_be_replaced_and_its_restart_reads_it() {
    let fails = shared(true);
    let operator = operator(job(fragile("a", &fails)));
    let failed = start(&operator);
    let of = |text: &str| ExecutionContext::from_json(text).unwrap();
    let context = of(r#"{"month":"2026-11"}"#);
    let refused = operator.replace_context(failed.id, &of("{\"other\":1}"), &context).unwrap_err();
    assert!(refused.to_string().contains("changed meanwhile"), "{refused}");
    let changed = operator.replace_context(failed.id, &failed.context, &context).unwrap();
    assert_eq!((changed.status, &changed.context), (BatchStatus::Failed, &context));
    *fails.lock().unwrap() = false;
    let restarted = start(&operator);
    assert_eq!((restarted.status, &restarted.context), (BatchStatus::Completed, &context));
    let replace = |id| operator.replace_context(id, &context, &of("{}")).unwrap_err();
    assert_eq!(replace(restarted.id).code(), "not_restartable");
    assert_eq!(replace(failed.id).code(), "already_complete");
    assert_eq!(operator.explorer().execution(failed.id).unwrap().context, context);
}

#[test]
fn rows_18_and_88_recovery_closes_job_and_steps_and_leaves_the_checkpoint_to_the_restart() {
    let (began, begun) = channel();
    let (wake, woken) = channel::<()>();
    let woken = shared(Some(woken));
    let sink = shared(Vec::new());
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(6))
        .processor(move |n: &u64| {
            let first = if *n == 3 { woken.lock().unwrap().take() } else { None };
            if let Some(woken) = first {
                let _ = began.send(());
                let _ = woken.recv();
            }
            Ok(Some(*n))
        })
        .writer(ListWriter::new(Arc::clone(&sink)))
        .chunk_size(2)
        .build();
    let operator = operator(job(step));
    let lost = operator.start("job", none()).unwrap();
    begun.recv().unwrap();
    let owner = operator.explorer().execution(lost.id()).unwrap().owner.unwrap();
    let recovered = operator.recover(lost.id(), RecoverMode::Force).unwrap();
    let row = &steps(&operator, &recovered)[0];
    for (status, exit, ended_at) in [
        (recovered.status, &recovered.exit, recovered.ended_at),
        (row.status, &row.exit, row.ended_at),
    ] {
        assert_eq!((status, exit.code.as_str()), (BatchStatus::Failed, "FAILED"));
        let expected = format!("recovered: owner {owner} lost");
        assert!(exit.message.starts_with(&expected), "{}", exit.message);
        assert!(ended_at.is_some());
    }
    let done = restart(&operator, &recovered);
    assert_eq!(steps(&operator, &done)[0].counters.read, 4, "from the checkpoint");
    drop(wake);
    assert!(lost.wait().is_err(), "the old owner can commit nothing more");
    assert_eq!(*sink.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn row_94_recovery_closes_running_partitions_and_keeps_those_that_completed() {
    let (began, begun) = channel();
    let (wake, woken) = channel::<()>();
    let woken = shared(Some(woken));
    let sink = shared(Vec::new());
    let worker = ChunkStepBuilder::new("load")
        .reader_with(|scope: &StepScope| {
            Ok(ListReader::new(vec![scope.partition_value::<i64>("min")?]))
        })
        .processor(move |n: &i64| {
            let first = if *n == 2 { woken.lock().unwrap().take() } else { None };
            if let Some(woken) = first {
                let _ = began.send(());
                let _ = woken.recv();
            }
            Ok(Some(*n))
        })
        .writer(ListWriter::new(Arc::clone(&sink)))
        .build();
    let step = PartitionStep::new(worker, NumberRanges { min: 1, max: 3, grid: 3 }).threads(1);
    let operator = operator(job(step));
    let lost = operator.start("job", none()).unwrap();
    begun.recv().unwrap();
    let recovered = operator.recover(lost.id(), RecoverMode::Force).unwrap();
    let rows = steps(&operator, &recovered);
    let found: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.status)).collect();
    let (completed, failed) = (BatchStatus::Completed, BatchStatus::Failed);
    assert_eq!(found, [("load", failed), ("load:p0000", completed), ("load:p0001", failed)]);
    let done = restart(&operator, &recovered);
    let again: Vec<_> = steps(&operator, &done).into_iter().map(|row| row.name).collect();
    assert_eq!(again, ["load", "load:p0001", "load:p0002"]);
    drop(wake);
    assert!(lost.wait().is_err());
    assert_eq!(*sink.lock().unwrap(), [1, 2, 3]);
}

// A12: tasklets, panics

#[test]
fn row_112_a_stop_is_looked_at_between_the_calls_of_a_tasklet() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let step = TaskletStep::new("a", move |call| {
        if counted.fetch_add(1, Ordering::SeqCst) == 2 {
            call.scope().stop().request();
        }
        Ok(Flow::Continue)
    });
    let operator = operator(job(step));
    let stopped = start(&operator);
    assert_eq!(stopped.status, BatchStatus::Stopped);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!(steps(&operator, &stopped)[0].counters.commit, 3, "the call in work is committed");
}

#[test]
fn row_113_a_panic_of_a_tasklet_or_a_listener_is_a_failure_of_that_call() {
    struct Panics(&'static str);
    impl JobListener for Panics {
        fn before_job(&self, _: &JobScope) -> ListenerResult {
            assert_ne!(self.0, "before_job", "on purpose");
            Ok(())
        }
        fn after_job(&self, _: &JobScope, _: &JobExecution) -> ListenerResult {
            assert_ne!(self.0, "after_job", "on purpose");
            Ok(())
        }
    }
    let tasklet = TaskletStep::new("a", |_| panic!("on purpose"));
    let failed = start(&operator(job(tasklet)));
    assert!(failed.failure.unwrap().message.contains("panicked: on purpose"));
    let failed = start(&operator(job(idle("a")).listener(Panics("before_job"))));
    assert_eq!(failed.failure.unwrap().code, "listener_failed");
    let done = start(&operator(job(idle("a")).listener(Panics("after_job"))));
    assert_eq!((done.status, done.warnings.len()), (BatchStatus::Completed, 1));
}

// A14: late binding

#[test]
fn row_123_the_parts_of_a_step_are_made_for_each_execution_from_parameters_and_contexts() {
    let prepare = TaskletStep::new("prepare", |call| {
        call.scope().job().context().put("from", &3)?;
        Ok(Flow::Finished)
    });
    let sink = shared(Vec::new());
    let load = ChunkStepBuilder::new("load")
        .reader_with(|scope: &StepScope| {
            let from = scope.job().context().get::<i64>("from")?;
            let to = scope.parameters().integer("to")?;
            Ok(ListReader::new((from..=to).collect::<Vec<_>>()))
        })
        .writer(ListWriter::new(Arc::clone(&sink)))
        .build();
    let operator = operator(job(prepare).step(load));
    start_with(&operator, none().with("to", 5));
    start_with(&operator, none().with("to", 4));
    assert_eq!(*sink.lock().unwrap(), [3, 4, 5, 3, 4]);
    let failure = start(&operator).failure.unwrap();
    assert_eq!(failure.code, "component_failed");
    assert!(failure.message.contains("`to`"), "{}", failure.message);
}

// A15: next instance

#[test]
fn row_127_next_leaves_a_failed_instance_behind_that_can_still_be_restarted() {
    let broken = shared(true);
    let operator = operator(job(fragile("a", &broken)).next(increment("run", 1)));
    let next = || operator.next("job").unwrap().wait().unwrap();
    let failed = next();
    *broken.lock().unwrap() = false;
    let second = next();
    assert_eq!(second.parameters, none().with("run", 2));
    assert_ne!(second.instance_id, failed.instance_id);
    assert_eq!(restart(&operator, &failed).instance_id, failed.instance_id);
}

#[test]
fn row_128_a_start_takes_the_parameters_that_are_given_whatever_the_sequence_says() {
    let operator = operator(job(idle("a")).next(increment("run", 1)));
    let given = none().with("run", 41).with("x", "mine");
    assert_eq!(start_with(&operator, given.clone()).parameters, given);
    let next = operator.launch(&Launch::next("job").parameters(none().with("x", "other")));
    let next = next.unwrap().wait().unwrap();
    assert_eq!(next.parameters, none().with("run", 42).with("x", "other"));
}

#[test]
fn row_129_a_next_without_an_incrementer_is_refused() {
    let operator = operator(job(idle("a")));
    let refused = operator.next("job").unwrap_err();
    assert!(
        matches!(
            refused,
            batchwright::operator::OperatorError::Refused(Refusal::NoIncrementer { .. })
        ),
        "{refused}"
    );
    assert_eq!(operator.explorer().instance_count("job").unwrap(), 0);
}

// A16: operator and registry

#[test]
fn row_131_every_call_with_the_number_of_no_execution_says_so_in_the_same_way() {
    let operator = operator(job(idle("a")));
    let id = ExecutionId(99);
    let refusals = [
        operator.explorer().execution(id).map(drop),
        operator.explorer().parameters(id).map(drop),
        operator.explorer().summary(id).map(drop),
        operator.explorer().step_summaries(id).map(drop),
        operator.stop(id).map(drop),
        operator.abandon(id).map(drop),
        operator.recover(id, RecoverMode::Detect).map(drop),
        operator.restart(id).map(drop),
        operator.enqueue(&Launch::restart(id)).map(drop),
    ];
    for refusal in refusals {
        assert_eq!(refusal.unwrap_err().code(), "no_such_execution");
    }
}

#[test]
fn rows_132_133_and_140_history_outlives_the_registration_and_unknown_is_not_the_same_as_empty() {
    let operator = operator(job(fragile("a", &shared(true))));
    operator.registry().register(Job::builder("empty").step(idle("a")).build().unwrap()).unwrap();
    let failed = start(&operator);
    assert!(operator.registry().unregister("job"));
    let names = operator.explorer().job_names().unwrap();
    let listed: Vec<_> = names.iter().map(|one| (one.name.as_str(), one.registered)).collect();
    assert_eq!(listed, [("empty", true), ("job", false)], "sorted and marked");
    assert_eq!(operator.explorer().execution_count("job").unwrap(), 1);
    assert_eq!(operator.explorer().instance_count("empty").unwrap(), 0);
    assert!(operator.explorer().running("empty").unwrap().is_empty());
    let page = InstancePage::first(1);
    for unknown in [
        operator.explorer().instance_count("nothing").map(drop),
        operator.explorer().execution_count("nothing").map(drop),
        operator.explorer().instances("nothing", page).map(drop),
        operator.explorer().running("nothing").map(drop),
        operator.start("job", none()).map(drop),
        operator.restart(failed.id).map(drop),
    ] {
        assert_eq!(unknown.unwrap_err().code(), "no_such_job");
    }
}

#[test]
fn row_135_a_running_execution_whose_lease_ran_out_is_listed_as_stale() {
    let clock = SimClock::at("2026-11-21T00:00:00Z".parse().unwrap());
    let (step, begun, gate) = gated("a");
    let operator =
        JobOperator::builder(Arc::new(MemoryRepository::new())).clock(clock.clone()).build();
    operator.registry().register(job(step).build().unwrap()).unwrap();
    let handle = operator.start("job", none()).unwrap();
    begun.recv().unwrap();
    assert!(!operator.explorer().summary(handle.id()).unwrap().stale);
    clock.advance(std::time::Duration::from_secs(31));
    assert!(operator.explorer().summary(handle.id()).unwrap().stale);
    assert_eq!(operator.explorer().running("job").unwrap()[0].id, handle.id());
    gate.wait();
    handle.wait().unwrap();
    assert!(
        !operator.explorer().summary(handle.id()).unwrap().stale,
        "what has ended needs no lease"
    );
    assert!(operator.explorer().running("job").unwrap().is_empty());
}

#[test]
fn row_137_a_summary_is_data_for_programs_and_one_line_for_people() {
    let clock = SimClock::at("2026-11-21T00:00:00Z".parse().unwrap());
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(3))
        .writer(NoWriter::<u64>::new())
        .build();
    let operator = JobOperator::builder(Arc::new(MemoryRepository::new())).clock(clock).build();
    operator.registry().register(job(step).build().unwrap()).unwrap();
    let done = start_with(&operator, none().with("n", 1));
    let summary = operator.explorer().summary(done.id).unwrap();
    let (id, instance) = (done.id, done.instance_id);
    let line = format!("execution {id} of job (instance {instance}): COMPLETED, 0.000 s");
    assert_eq!(summary.to_string(), line);
    let line = "step load: COMPLETED, 3 read, 3 written, 1 commits, 0.000 s";
    assert_eq!(summary.steps[0].to_string(), line);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["started_at"], "2026-11-21T00:00:00.000Z");
    assert_eq!(json["parameters"]["n"]["type"], "integer");
    assert_eq!((&json["steps"][0]["read"], &json["steps"][0]["commit"]), (&3.into(), &1.into()));
}

#[test]
fn row_138_a_name_is_registered_once_and_replaced_only_on_request() {
    let operator = operator(job(idle("a")));
    let again = operator.registry().register(job(idle("b")).build().unwrap());
    assert_eq!(again.unwrap_err().code(), "duplicate_job");
    let lazy = operator.registry().register_factory("job", |_| Err("never asked".to_owned()));
    assert_eq!(lazy.unwrap_err().code(), "duplicate_job");
    let done = start(&operator);
    assert_eq!(steps(&operator, &done)[0].name, "a", "the first one remains");
    operator.registry().replace(job(idle("b")).build().unwrap());
    let done = start_with(&operator, none().with("n", 2));
    assert_eq!(steps(&operator, &done)[0].name, "b");
}

#[test]
fn row_142_what_is_running_is_never_deleted() {
    let (step, begun, gate) = gated("a");
    let operator = operator(job(step));
    let handle = operator.start("job", none()).unwrap();
    begun.recv().unwrap();
    let everything = Retention { include_restartable: true, ..Retention::default() };
    assert_eq!(operator.purge(&everything, false, |_| {}).unwrap(), 0);
    gate.wait();
    assert_eq!(handle.wait().unwrap().status, BatchStatus::Completed);
    assert_eq!(operator.purge(&everything, false, |_| {}).unwrap(), 1);
    assert!(operator.queries().executions(&ExecutionFilter::default()).unwrap().is_empty());
}

// A17, A18: statuses and races

#[test]
fn row_146_a_job_fails_with_the_failed_code_of_its_step_and_stops_with_the_stopped_one() {
    let failed = start(&operator(job(fragile("a", &shared(true)))));
    assert_eq!((failed.status, failed.exit.code.as_str()), (BatchStatus::Failed, "FAILED"));
    let stopping = TaskletStep::new("a", |call| {
        call.scope().stop().request();
        Ok(Flow::Continue)
    });
    let stopped = start(&operator(job(stopping)));
    assert_eq!((stopped.status, stopped.exit.code.as_str()), (BatchStatus::Stopped, "STOPPED"));
}

#[test]
fn row_150_of_eight_threads_that_restart_one_failed_instance_one_does() {
    for _ in 0..50 {
        let broken = shared(true);
        let operator = operator(job(fragile("a", &broken)));
        let failed = start(&operator);
        *broken.lock().unwrap() = false;
        let gate = Barrier::new(8);
        let race = || {
            gate.wait();
            let restarted = operator.restart(failed.id);
            restarted.map(|handle| handle.wait().unwrap().status).map_err(|refused| refused.code())
        };
        let ends: Vec<_> = std::thread::scope(|threads| {
            let racers: Vec<_> = (0..8).map(|_| threads.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let refused =
            |end: &&Result<_, &str>| matches!(end, Err("already_running" | "already_complete"));
        assert_eq!(ends.iter().filter(refused).count(), 7, "{ends:?}");
        assert_eq!(operator.explorer().execution_count("job").unwrap(), 2);
    }
}

#[test]
fn row_151_a_worker_whose_execution_was_changed_behind_its_back_loses_its_change() {
    let stolen: Arc<std::sync::OnceLock<JobOperator>> = Arc::default();
    let thief = Arc::clone(&stolen);
    let sink = shared(Vec::new());
    let operator = JobOperator::builder(Arc::new(MemoryRepository::new()))
        .commit_hook(move |scope, _, point| {
            if point == CommitPoint::After {
                let _ = thief.get().unwrap().recover(scope.execution_id(), RecoverMode::Force);
            }
        })
        .build();
    let _ = stolen.set(operator.clone());
    let step = ChunkStepBuilder::new("step")
        .reader(Sequence::to(6))
        .writer(ListWriter::new(Arc::clone(&sink)))
        .chunk_size(2)
        .build();
    operator.registry().register(job(step).build().unwrap()).unwrap();
    let handle = operator.start("job", none()).unwrap();
    assert!(handle.wait().is_err());
    assert_eq!(*sink.lock().unwrap(), [1, 2], "nothing was committed after the theft");
    let stored = operator.explorer().execution(handle.id()).unwrap();
    assert_eq!(stored.failure.unwrap().code, "recovered", "the other writer's change remains");
}

/// A repository in memory whose calls can be observed and made to fail.
mod spy {
    use std::any::{Any, TypeId};
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::ThreadId;

    use batchwright::MemoryRepository;
    use batchwright::audit::AuditEntry;
    use batchwright::error::RepositoryError;
    use batchwright::event::Event;
    use batchwright::execution::{
        ExecutionId, InstanceId, JobExecution, JobInstance, SkipRecord, StepExecution,
        StepExecutionId,
    };
    use batchwright::launch::RequestKey;
    use batchwright::query::{ExecutionFilter, InstancePage, OutcomeCount, Queries};
    use batchwright::store::{
        CheckpointUpdate, Durability, Held, JobRepository, Lease, ProgressiveQueries,
        ProgressiveRows, Transaction,
    };
    use jiff::Timestamp;

    type Answer<T> = Result<T, RepositoryError>;

    /// The fault that the repository injects.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub(super) enum Fault {
        #[default]
        None,
        /// An execution cannot be inserted.
        InsertExecution,
        /// The next commit of a checkpoint fails and has no effect.
        CommitLost,
        /// The next commit of a checkpoint takes effect, and its answer is an error.
        CommitUnanswered,
        /// Every call fails.
        Unreachable,
    }

    #[derive(Default)]
    pub(super) struct Spy {
        inner: MemoryRepository,
        fault: Mutex<Fault>,
        failed: AtomicBool,
        open: Mutex<HashMap<ThreadId, usize>>,
        /// Whether a context was written, for every checkpoint.
        pub(super) contexts_written: Mutex<Vec<bool>>,
    }

    fn unreachable_store() -> RepositoryError {
        RepositoryError::unavailable("ask the store", "it does not answer")
    }

    impl Spy {
        pub(super) fn fail(&self, fault: Fault) {
            *self.fault.lock().unwrap() = fault;
        }

        /// Injects `fault` at the first call only; see [`fail`](Self::fail).
        pub(super) fn fail_first(&self, fault: Fault) {
            if !self.failed.swap(true, Ordering::SeqCst) {
                self.fail(fault);
            }
        }

        fn fault(&self) -> Fault {
            *self.fault.lock().unwrap()
        }

        fn asked(&self) -> Answer<&MemoryRepository> {
            if self.fault() == Fault::Unreachable {
                Err(unreachable_store())
            } else {
                Ok(&self.inner)
            }
        }

        /// Returns the number of open transactions of `thread`.
        pub(super) fn open_in(&self, thread: ThreadId) -> usize {
            self.open.lock().unwrap().get(&thread).copied().unwrap_or(0)
        }
    }

    impl Queries for Spy {
        fn job_names(&self) -> Answer<Vec<String>> {
            self.asked()?.job_names()
        }
        fn instance(&self, id: InstanceId) -> Answer<Option<JobInstance>> {
            self.asked()?.instance(id)
        }
        fn instances(&self, job: &str, page: InstancePage) -> Answer<Vec<JobInstance>> {
            self.asked()?.instances(job, page)
        }
        fn instance_count(&self, job: &str) -> Answer<u64> {
            self.asked()?.instance_count(job)
        }
        fn execution(&self, id: ExecutionId) -> Answer<Option<JobExecution>> {
            self.asked()?.execution(id)
        }
        fn executions(&self, filter: &ExecutionFilter) -> Answer<Vec<JobExecution>> {
            self.asked()?.executions(filter)
        }
        fn execution_count(&self, filter: &ExecutionFilter) -> Answer<u64> {
            self.asked()?.execution_count(filter)
        }
        fn steps(&self, id: ExecutionId) -> Answer<Vec<StepExecution>> {
            self.asked()?.steps(id)
        }
        fn step(&self, id: StepExecutionId) -> Answer<Option<StepExecution>> {
            self.asked()?.step(id)
        }
        fn skips(&self, id: ExecutionId) -> Answer<Vec<SkipRecord>> {
            self.asked()?.skips(id)
        }
        fn events(&self, id: ExecutionId) -> Answer<Vec<Event>> {
            self.asked()?.events(id)
        }
        fn events_after(&self, after: i64, limit: usize) -> Answer<Vec<(i64, Event)>> {
            self.asked()?.events_after(after, limit)
        }
        fn last_event(&self) -> Answer<i64> {
            self.asked()?.last_event()
        }
        fn steps_of(&self, ids: &[ExecutionId]) -> Answer<Vec<StepExecution>> {
            self.asked()?.steps_of(ids)
        }
        fn newest_of_jobs(&self) -> Answer<Vec<JobExecution>> {
            self.asked()?.newest_of_jobs()
        }
        fn outcomes(&self, since: Timestamp, seconds: u32) -> Answer<Vec<OutcomeCount>> {
            self.asked()?.outcomes(since, seconds)
        }
        fn audit(&self, before: Option<i64>, limit: usize) -> Answer<Vec<AuditEntry>> {
            self.asked()?.audit(before, limit)
        }
    }

    impl JobRepository for Spy {
        fn begin(&self) -> Answer<Box<dyn Transaction + '_>> {
            let inner = Some(self.asked()?.begin()?);
            let thread = std::thread::current().id();
            *self.open.lock().unwrap().entry(thread).or_default() += 1;
            Ok(Box::new(Unit { inner, spy: self, thread, is_checkpoint: false }))
        }
        fn slices(&self) -> &dyn ProgressiveQueries {
            self.inner.slices()
        }
        fn durability(&self) -> Durability {
            self.inner.durability()
        }
        fn store_id(&self) -> &str {
            self.inner.store_id()
        }
    }

    struct Unit<'a> {
        inner: Option<Box<dyn Transaction + 'a>>,
        spy: &'a Spy,
        thread: ThreadId,
        is_checkpoint: bool,
    }

    impl<'a> Unit<'a> {
        fn inner(&mut self) -> &mut (dyn Transaction + 'a) {
            &mut **self.inner.as_mut().unwrap()
        }
    }

    impl Drop for Unit<'_> {
        fn drop(&mut self) {
            if let Some(open) = self.spy.open.lock().unwrap().get_mut(&self.thread) {
                *open -= 1;
            }
        }
    }

    impl Transaction for Unit<'_> {
        fn find_instance(&mut self, job: &str, key: &str) -> Answer<Option<JobInstance>> {
            self.inner().find_instance(job, key)
        }
        fn newest_instance(&mut self, job: &str) -> Answer<Option<JobInstance>> {
            self.inner().newest_instance(job)
        }
        fn insert_instance(&mut self, job: &str, key: &str, at: Timestamp) -> Answer<JobInstance> {
            self.inner().insert_instance(job, key, at)
        }
        fn executions_of(&mut self, id: InstanceId) -> Answer<Vec<JobExecution>> {
            self.inner().executions_of(id)
        }
        fn execution(&mut self, id: ExecutionId) -> Answer<Option<JobExecution>> {
            self.inner().execution(id)
        }
        fn insert_execution(&mut self, execution: &JobExecution) -> Answer<ExecutionId> {
            match self.spy.fault() {
                Fault::InsertExecution => Err(unreachable_store()),
                _ => self.inner().insert_execution(execution),
            }
        }
        fn update_execution(&mut self, execution: &JobExecution) -> Answer<()> {
            self.inner().update_execution(execution)
        }
        fn renew_lease(&mut self, lease: &Lease, until: Timestamp) -> Answer<Held> {
            self.inner().renew_lease(lease, until)
        }
        fn steps_of(&mut self, id: ExecutionId) -> Answer<Vec<StepExecution>> {
            self.inner().steps_of(id)
        }
        fn history_of(&mut self, id: InstanceId, step: &str) -> Answer<Vec<StepExecution>> {
            self.inner().history_of(id, step)
        }
        fn insert_step(&mut self, step: &StepExecution) -> Answer<StepExecutionId> {
            self.inner().insert_step(step)
        }
        fn update_step(&mut self, step: &StepExecution) -> Answer<()> {
            self.inner().update_step(step)
        }
        fn save_checkpoint(&mut self, update: &CheckpointUpdate<'_>) -> Answer<Held> {
            self.is_checkpoint = true;
            let written = update.step_context.is_some() || update.job_context.is_some();
            self.spy.contexts_written.lock().unwrap().push(written);
            self.inner().save_checkpoint(update)
        }
        fn insert_skips(&mut self, step: StepExecutionId, skips: &[SkipRecord]) -> Answer<()> {
            self.inner().insert_skips(step, skips)
        }
        fn insert_event(&mut self, event: &Event) -> Answer<()> {
            self.inner().insert_event(event)
        }
        fn insert_audit(&mut self, entry: &AuditEntry) -> Answer<()> {
            self.inner().insert_audit(entry)
        }
        fn request(&mut self, key: &str) -> Answer<Option<(RequestKey, ExecutionId)>> {
            self.inner().request(key)
        }
        fn insert_request(&mut self, request: &RequestKey, id: ExecutionId) -> Answer<()> {
            self.inner().insert_request(request, id)
        }
        fn delete_execution(&mut self, id: ExecutionId) -> Answer<()> {
            self.inner().delete_execution(id)
        }
        fn slices(&mut self) -> &mut dyn ProgressiveRows {
            self.inner().slices()
        }
        fn resource(&mut self, wanted: TypeId) -> &mut dyn Any {
            self.inner().resource(wanted)
        }
        fn commit(mut self: Box<Self>) -> Answer<()> {
            let inner = self.inner.take().unwrap();
            match self.spy.fault() {
                Fault::Unreachable => Err(unreachable_store()),
                fault @ (Fault::CommitLost | Fault::CommitUnanswered) if self.is_checkpoint => {
                    self.spy.fail(Fault::None);
                    if fault == Fault::CommitUnanswered {
                        inner.commit()?;
                    }
                    Err(unreachable_store())
                }
                _ => inner.commit(),
            }
        }
    }
}
