//! Progressive executions, driven in this process: the result does not depend on the worker of each unit, and
//! a failed unit is counted once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::execution::JobExecution;
use batchwright::item::{ChunkTransaction, ItemWriter, ListReader, PreparedCommit};
use batchwright::launch::LaunchOptions;
use batchwright::operator::{OperatorError, Refusal, Retention};
use batchwright::policy::Completion;
use batchwright::progressive::{
    Extent, FinalResponse, ItemUnits, NumberedUnits, OnFailed, OpenOptions, ProgressiveStep,
    SliceOrder, UnitRange, UnitReader, Units,
};
use batchwright::scope::StepScope;
use batchwright::{BatchStatus, ItemError, Job, JobOperator, JobParameters, MemoryRepository};
use serde_json::{Value, json};

/// Counts how often the body of each unit ran.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Runs {
    fn count(&self, unit: u64) -> u32 {
        let mut runs = self.0.lock().unwrap();
        let count = runs.entry(unit).or_default();
        *count += 1;
        *count
    }

    fn of(&self, unit: u64) -> u32 {
        self.0.lock().unwrap().get(&unit).copied().unwrap_or(0)
    }
}

fn operator(step: ProgressiveStep) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    operator
}

fn run(operator: &JobOperator) -> (BatchStatus, Value) {
    let handle = operator.start("job", JobParameters::new()).unwrap();
    let execution = handle.wait().unwrap();
    let response = operator.progressive().response(execution.id, None).unwrap();
    let body = response.map_or(Value::Null, |one| serde_json::from_slice(&one.body).unwrap());
    (execution.status, body)
}

/// Joins the units as text, so that a combination in another order shows.
fn joined(lanes: u32, units: u64) -> ProgressiveStep {
    ProgressiveStep::builder("step")
        .units(NumberedUnits::new(units))
        .process(|unit: &u64| Ok(Some(*unit)))
        .reduce(
            |text: Option<String>, unit| Ok(format!("{}{unit},", text.unwrap_or_default())),
            |left, right| Ok(left + &right),
        )
        .lanes(lanes)
        .target(Duration::from_millis(20))
        .build()
}

#[test]
fn the_result_of_many_lanes_is_that_of_one() {
    let one = run(&operator(joined(1, 3000)));
    assert_eq!(one.1["units_done"], 3000);
    for lanes in [2, 3, 8] {
        assert_eq!(run(&operator(joined(lanes, 3000))), one);
    }
}

#[test]
fn no_units_are_done_at_once() {
    let (status, body) = run(&operator(joined(4, 0)));
    assert_eq!(status, BatchStatus::Completed);
    assert_eq!(body, json!({"units_done": 0, "units_failed": 0, "result": null}));
}

#[test]
fn a_value_of_nothing_is_a_value() {
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(10))
        .process(|unit: &u64| Ok(Some(*unit)))
        .reduce(|_: Option<Option<u64>>, _| Ok(None), |_, _| Ok(None))
        .respond(|result, _| FinalResponse::json(&json!([result.is_some()])))
        .build();
    assert_eq!(run(&operator(step)).1, json!([true]));
}

#[test]
fn a_unit_that_fails_has_its_attempts_and_is_then_counted_once() {
    let runs = Runs::default();
    let counted = runs.clone();
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(100))
        .process(move |unit: &u64| {
            let run = counted.count(*unit);
            match unit {
                13 => Err(ItemError::data("never works")),
                27 => panic!("never works either"),
                42 if run < 3 => Err(ItemError::data("works the third time")),
                _ => Ok(Some(*unit)),
            }
        })
        .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
        .max_attempts(3)
        .on_failed(OnFailed::Continue)
        .build();
    let operator = operator(step);
    let (status, body) = run(&operator);
    assert_eq!(status, BatchStatus::Completed);
    let sum: u64 = (0..100).sum::<u64>() - 13 - 27;
    assert_eq!(body, json!({"units_done": 98, "units_failed": 2, "result": sum}));
    assert_eq!((runs.of(13), runs.of(27), runs.of(42), runs.of(43)), (3, 3, 3, 1));
    let id = operator.queries().executions(&Default::default()).unwrap()[0].id;
    let skips = operator.queries().skips(id).unwrap();
    let mut skipped: Vec<_> = skips.iter().map(|skip| (skip.item, skip.kind.as_str())).collect();
    skipped.sort_unstable();
    assert_eq!(skipped, [(14, "data"), (28, "panic")]);
    let counters = operator.queries().steps(id).unwrap()[0].counters;
    assert_eq!((counters.read, counters.write, counters.process_skip), (100, 98, 2));
    assert!(counters.is_balanced());
}

#[test]
fn a_failed_unit_may_fail_the_execution_and_a_restart_tries_it_again() {
    let runs = Runs::default();
    let counted = runs.clone();
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(100))
        .process(move |unit: &u64| match (unit, counted.count(*unit)) {
            (50, run) if run <= 2 => Err(ItemError::data("not yet")),
            _ => Ok(Some(*unit)),
        })
        .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
        .max_attempts(2)
        .on_failed(OnFailed::Fail)
        .lanes(1)
        .build();
    let operator = operator(step);
    let failed = operator.start("job", JobParameters::new()).unwrap().wait().unwrap();
    assert_eq!(failed.failure.unwrap().code, "unit_failed");
    let response = operator.progressive().response(failed.id, None).unwrap().unwrap();
    assert_eq!((response.status, response.body.len()), (500, 0));
    let (status, body) = run(&operator);
    assert_eq!(status, BatchStatus::Completed);
    assert_eq!(body["result"], (0..100).sum::<u64>());
    assert!((0..100).all(|unit| runs.of(unit) == if unit == 50 { 3 } else { 1 }));
}

/// Refuses every chunk that contains unit 777 or 2500.
#[derive(Clone)]
struct Picky;

impl ItemWriter<u64> for Picky {
    type Position = ();

    fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        Ok(None)
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    fn write(&mut self, items: &[u64], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        match items.iter().find(|item| [777, 2500].contains(*item)) {
            Some(item) => Err(ItemError::data(format!("not {item}"))),
            None => Ok(()),
        }
    }
}

#[test]
fn a_unit_that_spoils_its_chunk_is_found_without_running_the_others_again_and_again() {
    const UNITS: u64 = 4000;
    let runs = Runs::default();
    let counted = runs.clone();
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(UNITS))
        .process(move |unit: &u64| {
            counted.count(*unit);
            Ok(Some(*unit))
        })
        .writer(Picky)
        .on_failed(OnFailed::Continue)
        .lanes(1)
        .target(Duration::from_secs(1))
        .build();
    let (status, body) = run(&operator(step));
    assert_eq!(status, BatchStatus::Completed);
    assert_eq!((&body["units_done"], &body["units_failed"]), (&json!(UNITS - 2), &json!(2)));
    let all: u32 = (0..UNITS).map(|unit| runs.of(unit)).sum();
    assert!(all < 3 * UNITS as u32, "{all} runs of {UNITS} units");
}

/// Units whose reader counts to a different number on each rank.
struct Ranked(Arc<AtomicU64>);

struct RankReader(u64, u64);

impl UnitReader for RankReader {
    type Unit = u64;

    fn next(&mut self) -> Result<Option<u64>, ItemError> {
        self.0 += 1;
        Ok((self.0 <= self.1).then_some(self.0))
    }
}

impl Units for Ranked {
    type Unit = u64;
    type Plan = String;
    type Reader = RankReader;

    fn extent(&self, _: &StepScope) -> Result<Extent<String>, ItemError> {
        Ok(Extent::Ranks(3, "plan".to_owned()))
    }

    fn total(&self, plan: &String, _: &StepScope) -> Result<Option<u64>, ItemError> {
        assert_eq!(plan, "plan");
        Ok(Some(self.0.load(Ordering::SeqCst)))
    }

    fn open(&self, plan: &String, at: UnitRange, _: &StepScope) -> Result<RankReader, ItemError> {
        assert_eq!(plan, "plan");
        Ok(RankReader(at.from, u64::from(at.rank) * 100))
    }
}

#[test]
fn units_that_cannot_be_split_are_worked_on_by_rank_and_their_total_may_change() {
    let total = Arc::new(AtomicU64::new(7));
    let step = ProgressiveStep::builder("step")
        .units(Ranked(Arc::clone(&total)))
        .process(|unit: &u64| Ok(Some(*unit)))
        .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
        .target(Duration::from_millis(5))
        .build();
    let operator = operator(step);
    let open = |options: &OpenOptions| {
        let parameters = JobParameters::new();
        operator.progressive().open("job", parameters, &LaunchOptions::default(), options)
    };
    let opened = open(&OpenOptions::default()).unwrap();
    let asked = |seq: u64| {
        let state = operator.progressive().progressive_state(opened.id, None).unwrap().1;
        let order = SliceOrder {
            target: Some(Duration::from_nanos(1)),
            ..SliceOrder::new(opened.id, &state.lanes[2].id, seq, Duration::ZERO)
        };
        let answer = operator.progressive().slice(&order, |work| work()).unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["progress"]["units_total"].clone()
    };
    assert_eq!(asked(1), 7);
    total.store(300, Ordering::SeqCst);
    assert_eq!(asked(2), 300);
    let progress = operator.progressive().units_progress(opened.id, None).unwrap();
    assert_eq!(progress.units_total, Some(300));
    operator.progressive().drive(opened.id, 3, &StopToken::default()).unwrap();
    let response = operator.progressive().response(opened.id, None).unwrap().unwrap();
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    let sum: u64 = (1..=100).sum::<u64>() + (1..=200).sum::<u64>();
    assert_eq!(body, json!({"units_done": 300, "units_failed": 0, "result": sum}));
}

#[test]
fn the_number_of_units_may_come_from_a_parameter_and_the_response_knows_the_parameters() {
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::with(|scope| {
            Ok(u64::try_from(scope.parameters().integer("pages")?)?)
        }))
        .process(|unit: &u64| Ok(Some(*unit)))
        .respond(|_: Option<()>, end| {
            let pages = end.scope().parameters().integer("pages")?;
            FinalResponse::json(&json!([pages, end.units_done]))
        })
        .build();
    let operator = operator(step);
    let run = |parameters| operator.start("job", parameters).unwrap().wait().unwrap();
    let ended = run(JobParameters::new().with("pages", 12));
    let response = operator.progressive().response(ended.id, None).unwrap().unwrap();
    assert_eq!(response.body, b"[12,12]");
    let refused = operator.start("job", JobParameters::new()).unwrap_err();
    assert!(refused.to_string().contains("the units cannot be determined"), "{refused}");
}

#[test]
fn every_attempt_at_a_unit_and_the_end_of_an_execution_are_reported() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let ends = Arc::new(Mutex::new(Vec::new()));
    let make = |fails: bool| {
        let (log, log_of_ends) = (Arc::clone(&attempts), Arc::clone(&ends));
        ProgressiveStep::builder("step")
            .units(NumberedUnits::new(3))
            .process(move |unit: &u64| match *unit {
                0 => Ok(None),
                2 if fails => Err(ItemError::data("two")),
                unit => Ok(Some(unit * 10)),
            })
            .on_unit(move |scope, unit, result| {
                let result = result.as_ref().map(|output| *output).map_err(ToString::to_string);
                log.lock().unwrap().push((scope.step().to_owned(), *unit, result));
                Ok(())
            })
            .on_end(move |scope, execution| {
                assert_eq!(scope.job().execution_id(), execution.id);
                log_of_ends.lock().unwrap().push(execution.status);
                Err("an error here changes nothing".into())
            })
            .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
            .max_attempts(2)
            .lanes(1)
            .build()
    };
    let ended = |step| {
        let handle = operator(step).start("job", JobParameters::new()).unwrap();
        handle.wait().unwrap().status
    };
    assert_eq!(ended(make(false)), BatchStatus::Completed);
    assert_eq!(ended(make(true)), BatchStatus::Failed);
    let unit = |unit, result| ("step".to_owned(), unit, result);
    let two = || unit(2, Err("two".to_owned()));
    let first = || [unit(0, Ok(None)), unit(1, Ok(Some(10)))];
    let expected = [&first()[..], &[unit(2, Ok(Some(20)))], &first(), &[two(), two()]].concat();
    assert_eq!(*attempts.lock().unwrap(), expected);
    assert_eq!(*ends.lock().unwrap(), [BatchStatus::Completed, BatchStatus::Failed]);
}

#[test]
fn the_items_of_any_reader_are_units_and_every_lane_begins_where_it_should() {
    for count in [0, 1, 7, 512, 513, 5000] {
        let items: Vec<u64> = (0..count).collect();
        let step = ProgressiveStep::builder("step")
            .units(ItemUnits::new(move |_| Ok(ListReader::new(items.clone()))))
            .process(|unit: &u64| Ok(Some(*unit)))
            .reduce(
                |text: Option<String>, unit| Ok(format!("{}{unit},", text.unwrap_or_default())),
                |left, right| Ok(left + &right),
            )
            .lanes(5)
            .target(Duration::from_millis(10))
            .build();
        let (_, body) = run(&operator(step));
        assert_eq!(body["units_done"], count);
        let all: String = (0..count).map(|unit| format!("{unit},")).collect();
        assert_eq!(body["result"].as_str().unwrap_or_default(), all);
    }
}

#[test]
fn a_unit_that_hangs_is_given_up_and_the_others_go_on() {
    let runs = Runs::default();
    let counted = runs.clone();
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(50))
        .process(move |unit: &u64| {
            counted.count(*unit);
            if *unit == 20 {
                StopToken::default().wait(Duration::from_secs(3600));
            }
            Ok(Some(*unit))
        })
        .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
        .unit_timeout(Duration::from_millis(50))
        .max_attempts(2)
        .on_failed(OnFailed::Continue)
        .build();
    let (status, body) = run(&operator(step));
    assert_eq!(status, BatchStatus::Completed);
    let sum = (0..50).sum::<u64>() - 20;
    assert_eq!(body, json!({"units_done": 49, "units_failed": 1, "result": sum}));
    assert_eq!(runs.of(20), 2);
}

#[test]
fn a_lane_that_waited_for_work_takes_over_what_another_one_left() {
    let gate = StopToken::default();
    let opened = gate.clone();
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(20))
        .process(move |unit: &u64| {
            // The first attempt at the fifth unit from the end blocks its worker for good.
            if *unit == 15 && !opened.is_requested() {
                opened.request();
                StopToken::default().wait(Duration::from_secs(3600));
            }
            Ok(Some(*unit))
        })
        .reduce(
            |text: Option<String>, unit| Ok(format!("{}{unit},", text.unwrap_or_default())),
            |left, right| Ok(left + &right),
        )
        .completion(Completion::items(1))
        .unit_timeout(Duration::from_millis(100))
        .lanes(2)
        .target(Duration::from_secs(3600))
        .build();
    let operator = operator(step);
    let (launch, open) = (Default::default(), OpenOptions::default());
    let id = operator.progressive().open("job", JobParameters::new(), &launch, &open).unwrap().id;
    let (_, state) = operator.progressive().progressive_state(id, None).unwrap();
    let slice = |rank: usize| {
        let order = SliceOrder::new(id, &state.lanes[rank].id, 1, operator.clock().elapsed());
        operator.progressive().slice(&order, |work| drop(std::thread::spawn(work))).unwrap()
    };
    std::thread::scope(|scope| {
        // The second lane blocks in the unit, and no further request reaches that lane.
        scope.spawn(|| slice(1));
        gate.wait(Duration::from_secs(60));
        slice(0);
    });
    let response = operator.progressive().response(id, None).unwrap().unwrap();
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    let all: String = (0..20).map(|unit| format!("{unit},")).collect();
    assert_eq!(body["result"], all);
}

#[test]
fn a_future_is_cancelled_where_it_awaits() {
    let dropped = Arc::new(AtomicU64::new(0));
    struct CountsDrop(Arc<AtomicU64>);
    impl Drop for CountsDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let counter = Arc::clone(&dropped);
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(1))
        .process_async(move |unit: &u64| {
            let (unit, guard) = (*unit, CountsDrop(Arc::clone(&counter)));
            async move {
                let _guard = guard;
                std::future::pending::<()>().await;
                Ok(Some(unit))
            }
        })
        .target(Duration::from_millis(30))
        .max_attempts(2)
        .on_failed(OnFailed::Continue)
        .build();
    let (_, body) = run(&operator(step));
    assert_eq!(body, json!({"units_done": 0, "units_failed": 1, "result": null}));
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}

#[test]
fn an_execution_that_nobody_drives_is_stopped_at_once() {
    let operator = operator(joined(2, 100));
    let opened = operator
        .progressive()
        .open("job", JobParameters::new(), &Default::default(), &OpenOptions::default())
        .unwrap();
    assert_eq!(opened.status, BatchStatus::Started);
    assert_eq!(operator.stop(opened.id).unwrap().status, BatchStatus::Stopped);
    let (status, body) = run(&operator);
    assert_eq!((status, &body["units_done"]), (BatchStatus::Completed, &json!(100)));
}

#[test]
fn a_progressive_step_stands_alone_in_its_job() {
    let again = ProgressiveStep::builder("again")
        .units(NumberedUnits::new(1))
        .process(|unit: &u64| Ok(Some(*unit)))
        .build();
    let refused = Job::builder("job").step(joined(1, 1)).step(again).build().unwrap_err();
    assert_eq!(refused.code(), "invalid_definition");
}

#[test]
fn a_worker_that_was_given_up_commits_nothing_when_it_comes_back() {
    // Unit 9 exceeds its time limit once: its worker returns while another worker has the lane.
    let (runs, back) = (Runs::default(), StopToken::default());
    let (counted, came_back, gate) = (runs.clone(), back.clone(), StopToken::default());
    let step = ProgressiveStep::builder("step")
        .units(NumberedUnits::new(10))
        .process(move |unit: &u64| {
            match (*unit, counted.count(*unit)) {
                (9, 1) => {
                    gate.wait(Duration::from_secs(60));
                    came_back.request();
                }
                (9, 2) => {
                    gate.request();
                    // Gives the former worker enough time to commit, if it could.
                    came_back.wait(Duration::from_secs(60));
                    StopToken::default().wait(Duration::from_millis(30));
                }
                _ => {}
            }
            Ok(Some(*unit))
        })
        .reduce(|sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit), |a, b| Ok(a + b))
        .unit_timeout(Duration::from_millis(80))
        .target(Duration::from_millis(1))
        .lanes(1)
        .build();
    let operator = operator(step);
    let (status, body) = run(&operator);
    assert_eq!(status, BatchStatus::Completed);
    let sum = (0..10).sum::<u64>();
    assert_eq!(body, json!({"units_done": 10, "units_failed": 0, "result": sum}));
    let id = operator.queries().executions(&Default::default()).unwrap()[0].id;
    assert_eq!(operator.queries().steps(id).unwrap()[0].counters.read, 10);
}

#[test]
fn an_input_that_shrinks_fails_the_execution_instead_of_passing_for_done() {
    let length = Arc::new(AtomicU64::new(100));
    let shrinking = Arc::clone(&length);
    let step = ProgressiveStep::builder("step")
        .units(ItemUnits::new(move |_| {
            let items: Vec<u64> = (0..shrinking.load(Ordering::SeqCst)).collect();
            Ok(ListReader::new(items))
        }))
        .process(|unit: &u64| Ok(Some(*unit)))
        .lanes(1)
        .build();
    let operator = operator(step);
    let (launch, open) = (Default::default(), OpenOptions::default());
    let id = operator.progressive().open("job", JobParameters::new(), &launch, &open).unwrap().id;
    length.store(60, Ordering::SeqCst);
    let driven = operator.progressive().drive(id, 4, &StopToken::default()).unwrap();
    assert_eq!(driven.status, BatchStatus::Failed);
    assert_eq!(driven.failure.unwrap().code, "input_changed");
}

#[test]
fn who_opened_an_instance_keeps_it() {
    let operator = operator(joined(2, 100));
    let open = |token: Option<&str>| {
        let owner_token = token.map(str::to_owned);
        let options = OpenOptions { owner_token, ..OpenOptions::default() };
        operator.progressive().open("job", JobParameters::new(), &Default::default(), &options)
    };
    let first = open(Some("mine")).unwrap().id;
    operator.stop(first).unwrap();
    for stranger in [None, Some("yours")] {
        let refused = open(stranger).unwrap_err();
        assert_eq!(refused.code(), "wrong_owner");
    }
    // An operator restarts the execution for its owner; only the owner may read the response.
    let handle = operator.restart(first).unwrap();
    let second = handle.wait().unwrap().id;
    assert_eq!(operator.progressive().response(second, None).unwrap_err().code(), "wrong_owner");
    assert!(operator.progressive().response(second, Some("mine")).unwrap().is_some());
}

#[test]
fn equal_work_is_joined_while_it_runs_and_done_again_when_it_is_over() {
    let operator = operator(joined(1, 3));
    let options = OpenOptions { repeats: true, ..OpenOptions::default() };
    let open = || {
        let launch = LaunchOptions::default();
        operator.progressive().open(
            "job",
            JobParameters::new().with("file", "a"),
            &launch,
            &options,
        )
    };
    let running = |refused: Result<JobExecution, OperatorError>| match refused {
        Err(OperatorError::Refused(Refusal::AlreadyRunning { execution, .. })) => execution,
        other => panic!("{other:?}"),
    };
    let mut seen = Vec::new();
    for number in 0..5_i64 {
        let opened = open().unwrap();
        let repeat = opened.parameters.integer("repeat").ok();
        assert_eq!(repeat, (number > 0).then_some(number));
        assert_eq!(running(open()), opened.id, "an equal request joins the running execution");
        operator.progressive().drive(opened.id, 1, &StopToken::default()).unwrap();
        seen.push(opened.id);
    }
    // An abandoned execution also counts as over.
    let given_up = open().unwrap();
    operator.stop(given_up.id).unwrap();
    operator.abandon(given_up.id).unwrap();
    let next = open().unwrap();
    assert_eq!(next.parameters.integer("repeat").unwrap(), 6);
    // A purge of ended executions keeps the running one, which equal requests still join.
    operator.purge(&Retention::default(), false, |_| ()).unwrap();
    assert_eq!(running(open()), next.id);
}
