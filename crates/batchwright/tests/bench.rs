//! The promises of the test bench to users who test their jobs with it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::clock::Clock;
use batchwright::context::ExecutionContext;
use batchwright::execution::ExitStatus;
use batchwright::policy::Completion;
use batchwright::progressive::{FinalResponse, NumberedUnits, ProgressiveStep};
use batchwright::retry::{Backoff, RetryPolicy};
use batchwright::step::Flow;
use batchwright::testing::CommitPoint;
use batchwright::testing::fault::{FaultPlan, FaultyWriter};
use batchwright::testing::{TestBench, assert_lines};
use batchwright::{
    BatchStatus, ChunkStepBuilder, Job, JobParameters, ListWriter, Sequence, TaskletStep,
};
use batchwright_items::format::json_lines::JsonLinesWriter;

#[test]
fn whichever_commit_an_execution_dies_at_a_file_is_exact_after_the_restart() {
    for point in [CommitPoint::Before, CommitPoint::After] {
        for commit in 1..=4 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out.jsonl");
            let step = ChunkStepBuilder::new("copy")
                .reader(Sequence::to(10))
                .writer(JsonLinesWriter::new(&path))
                .chunk_size(3)
                .build();
            let mut bench = TestBench::of_step(step);
            bench.crash_at(point, commit);
            assert_eq!(bench.run().status, BatchStatus::Failed, "{point:?} {commit}");
            assert_eq!(bench.restart().status, BatchStatus::Completed, "{point:?} {commit}");
            assert_lines(&path, (1..=10).map(|n| n.to_string()));
        }
    }
}

#[test]
fn a_tasklet_that_finished_is_not_called_again_when_only_its_end_was_not_stored() {
    let calls = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&calls);
    let step = TaskletStep::new("once", move |_| {
        *counter.lock().unwrap() += 1;
        Ok(Flow::FinishedWith(ExitStatus::new("COMPLETED ONCE")))
    });
    let mut bench = TestBench::of_step(step);
    bench.crash_at(CommitPoint::After, 1);
    assert_eq!(bench.run().status, BatchStatus::Failed);
    assert_eq!(bench.restart().exit.code, "COMPLETED ONCE");
    assert_eq!(*calls.lock().unwrap(), 1);
}

#[test]
fn waits_take_no_time_and_move_the_clock() {
    let faults = FaultPlan { write_flaky: [(2, 3)].into(), ..FaultPlan::default() };
    let rows = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&rows);
    let step = ChunkStepBuilder::new("copy")
        .reader(Sequence::to(4))
        .writer_with(move |_| Ok(FaultyWriter::new(ListWriter::new(Arc::clone(&written)), &faults)))
        .retry(RetryPolicy::attempts(9).backoff(Backoff::Fixed(Duration::from_secs(3_600))))
        .build();
    let mut bench = TestBench::of(Job::builder("job").step(step).build().unwrap());
    let before = bench.clock().now();
    assert_eq!(bench.run().status, BatchStatus::Completed);
    assert_eq!(bench.clock().now() - before, jiff::Span::new().seconds(3 * 3_600).fieldwise());
    assert_eq!(bench.step("copy").counters.rollback, 3);
}

#[test]
fn a_run_begins_with_the_contexts_and_at_the_position_that_a_test_gives_it() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let rows = Arc::clone(&written);
    let copy = ChunkStepBuilder::new("copy")
        .reader(Sequence::to(5))
        .processor_with(|scope| {
            let factor: u64 = scope.job().context().get("factor")?;
            let added: u64 = scope.context().get("added")?;
            Ok(move |n: &u64| Ok(Some(n * factor + added)))
        })
        .writer(ListWriter::new(rows))
        .build();
    let other = TaskletStep::call("other", || Err::<(), _>("does not run".into()));
    let job = Job::builder("job").step(copy).step(other).build().unwrap();
    let mut bench = TestBench::of(job);
    let mut context = ExecutionContext::default();
    context.put("factor", &10).unwrap();
    bench.job_context(context);
    let mut context = ExecutionContext::default();
    context.put("added", &1).unwrap();
    bench.step_context("copy", context);
    bench.position("copy", &3);
    let ended = bench.run_step("copy", JobParameters::new().with("day", 1));
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    assert_eq!(*written.lock().unwrap(), [41, 51]);

    let failed = bench.run_step("copy", JobParameters::new().with("day", 2));
    assert_eq!(failed.status, BatchStatus::Failed, "a seed is for one run");
    assert_eq!(bench.run().failure.unwrap().code, "component_failed", "the whole job is kept");
}

#[test]
fn a_timeout_is_one_of_the_clock_of_the_bench() {
    let within = |rounds: u32| {
        let clock = Arc::new(Mutex::new(None::<batchwright::testing::SimClock>));
        let shared = Arc::clone(&clock);
        let step = TaskletStep::new("slow", move |call| {
            let round: u32 = call.scope().context().get("round").unwrap_or(0);
            call.scope().context().put("round", &(round + 1))?;
            shared.lock().unwrap().as_ref().unwrap().advance(Duration::from_secs(3_000));
            if round == rounds {
                return Ok(Flow::Finished);
            }
            // The watch of the timeout sees the time that has passed.
            call.scope().stop().wait(Duration::from_millis(if round > 0 { 60_000 } else { 0 }));
            Ok(Flow::Continue)
        });
        let mut bench = TestBench::of_step(step.timeout(Duration::from_secs(3_600)));
        *clock.lock().unwrap() = Some(bench.clock().clone());
        bench.run()
    };
    assert_eq!(within(0).status, BatchStatus::Completed, "50 minutes");
    assert_eq!(within(9).failure.unwrap().code, "timeout", "100 minutes");
}

#[test]
fn a_progressive_job_runs_to_its_response_although_a_slice_crashes() {
    let step = || {
        ProgressiveStep::builder("sum")
            .units(NumberedUnits::new(100))
            .process(|unit: &u64| Ok(Some(*unit)))
            .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
            .respond(|sum, _| FinalResponse::json(&sum))
            .completion(Completion::items(10))
            .build()
    };
    let mut bench = TestBench::of_step(step());
    assert_eq!(bench.run().status, BatchStatus::Completed);
    assert_eq!(bench.response().body, b"4950");

    let mut bench = TestBench::of_step(step());
    bench.crash_at(CommitPoint::After, 1);
    assert_eq!(bench.run().status, BatchStatus::Completed, "another lane takes over");
    assert_eq!(bench.response().body, b"4950");
}

#[test]
#[should_panic(expected = "no step `kopy` ran; there ran [\"copy\"]")]
fn a_step_that_did_not_run_is_named_with_those_that_did() {
    let step = ChunkStepBuilder::new("copy")
        .reader(Sequence::to(1))
        .writer(batchwright::item::NoWriter::new())
        .build();
    let mut bench = TestBench::of_step(step);
    bench.run();
    bench.step("kopy");
}
