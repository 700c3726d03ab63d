//! Progressive executions on every database: many lanes at once write each row exactly once.

mod common;

use std::thread;
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::launch::LaunchOptions;
use batchwright::policy::Completion;
use batchwright::progressive::{
    NumberedUnits, OnFailed, OpenOptions, ProgressiveStep, SliceAnswer,
};
use batchwright::{BatchStatus, ItemError, Job, JobOperator, JobParameters};
use batchwright_store::{SqlValue, SqlWriter};
use common::{Kind, Place, all};

/// A step that writes its units to `t (id, v)` and sums them. Every hundredth unit is slow, so that lanes
/// overlap.
fn step(units: u64) -> ProgressiveStep {
    let writer = SqlWriter::in_store("t", ["id", "v"], |unit: &u64, to| {
        to.bind(*unit as i64)?;
        to.bind("x")
    });
    ProgressiveStep::builder("step")
        .units(NumberedUnits::new(units))
        .process(|unit: &u64| {
            if unit.is_multiple_of(100) {
                StopToken::default().wait(Duration::from_millis(2));
            }
            Ok(Some(*unit))
        })
        .writer(writer)
        .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
        .on_failed(OnFailed::Continue)
        .lanes(6)
        .target(Duration::from_millis(300))
        .completion(Completion::items(200).within(Duration::from_millis(20)))
        .build()
}

fn operator(place: &Place, step: ProgressiveStep) -> JobOperator {
    place.database().run("CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR(10))").unwrap();
    let operator = JobOperator::new(place.repository());
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    operator
}

fn rows(place: &Place) -> i64 {
    let counted = place.database().query("SELECT count(*) FROM t").unwrap();
    match counted[0][0] {
        SqlValue::Integer(rows) => rows,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn rows_are_written_with_their_checkpoints_by_many_lanes_at_once() {
    for kind in all() {
        let place = Place::new(kind);
        let operator = operator(&place, step(5000));
        let execution = operator.start("job", JobParameters::new()).unwrap().wait().unwrap();
        assert_eq!(execution.status, BatchStatus::Completed, "{kind:?}: {:?}", execution.failure);
        assert_eq!(rows(&place), 5000, "{kind:?}");
        let response = operator.progressive().response(execution.id, None).unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(body["result"], (0..5000u64).sum::<u64>(), "{kind:?}");
        let counters = operator.queries().steps(execution.id).unwrap()[0].counters;
        assert_eq!((counters.read, counters.write), (5000, 5000), "{kind:?}");
    }
}

#[test]
fn two_drivers_of_one_execution_do_each_unit_once_and_see_one_response() {
    for kind in all() {
        let place = Place::new(kind);
        let first = operator(&place, step(3000));
        let second = JobOperator::new(place.repository());
        second.registry().register(Job::builder("job").step(step(3000)).build().unwrap()).unwrap();
        let (launch, open) = (LaunchOptions::default(), OpenOptions::default());
        let id = first.progressive().open("job", JobParameters::new(), &launch, &open).unwrap().id;
        thread::scope(|scope| {
            for operator in [&first, &second, &first] {
                scope.spawn(move || {
                    operator.progressive().drive(id, 4, &StopToken::default()).unwrap()
                });
            }
        });
        assert_eq!(first.explorer().execution(id).unwrap().status, BatchStatus::Completed);
        assert_eq!(rows(&place), 3000, "{kind:?}");
        assert_eq!(
            first.progressive().response(id, None).unwrap(),
            second.progressive().response(id, None).unwrap()
        );
    }
}

#[test]
fn a_row_that_the_database_refuses_is_the_failure_of_its_unit_alone() {
    for kind in all() {
        let place = Place::new(kind);
        let operator = operator(&place, step(1000));
        place.database().run("INSERT INTO t VALUES (333, 'there')").unwrap();
        let execution = operator.start("job", JobParameters::new()).unwrap().wait().unwrap();
        assert_eq!(execution.status, BatchStatus::Completed, "{kind:?}: {:?}", execution.failure);
        assert_eq!(rows(&place), 1000, "{kind:?}");
        let skips = operator.queries().skips(execution.id).unwrap();
        let items: Vec<_> = skips.iter().map(|skip| skip.item).collect();
        assert_eq!(items, [334], "{kind:?}");
        let response = operator.progressive().response(execution.id, None).unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(body["result"], (0..1000u64).sum::<u64>() - 333, "{kind:?}");
    }
}

#[test]
fn the_same_request_gets_the_same_bytes_and_runs_nothing() {
    let place = Place::new(Kind::Sqlite);
    let operator = operator(&place, step(100_000));
    let (launch, open) = (LaunchOptions::default(), OpenOptions::default());
    let id = operator.progressive().open("job", JobParameters::new(), &launch, &open).unwrap().id;
    let (_, state) = operator.progressive().progressive_state(id, None).unwrap();
    let lane = state.lanes[0].id.clone();
    let ask = |seq: u64| {
        let order =
            batchwright::progressive::SliceOrder::new(id, &lane, seq, operator.clock().elapsed());
        operator.progressive().slice(&order, |work| drop(thread::spawn(work)))
    };
    let first = ask(1).unwrap();
    let written = rows(&place);
    assert_eq!(ask(1).unwrap(), first);
    assert_eq!(rows(&place), written);
    assert_eq!(ask(3).unwrap_err().code(), "wrong_seq");
    let answer: SliceAnswer = serde_json::from_str(&ask(2).unwrap()).unwrap();
    assert!(answer.progress.units_done as i64 > written && answer.next_seq == 3);
    assert_eq!(ask(1).unwrap_err().code(), "wrong_seq");
}

#[test]
fn a_writer_with_a_position_of_its_own_is_refused() {
    let place = Place::new(Kind::Sqlite);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.jsonl");
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(10))
        .process(|unit: &u64| Ok::<_, ItemError>(Some(*unit)))
        .writer(batchwright_items::format::json_lines::JsonLinesWriter::new(out))
        .build();
    let operator = operator(&place, step);
    let execution = operator.start("job", JobParameters::new()).unwrap().wait().unwrap();
    assert_eq!(execution.status, BatchStatus::Failed);
    let failure = execution.failure.unwrap();
    assert!(failure.message.contains("position of its own"), "{}", failure.message);
}
