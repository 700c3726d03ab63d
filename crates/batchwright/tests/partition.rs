//! Partitions (engine rows A13, 41, 42): planned once, run concurrently, restarted one by one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use batchwright::execution::{ExitStatus, JobExecution, StepExecution};
use batchwright::item::{ListReader, NoWriter};
use batchwright::partition::{ByteRanges, NumberRanges, PartitionStep, Partitioner};
use batchwright::policy::SkipPolicy;
use batchwright::scope::{Partition, StepScope};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, ListWriter,
    MemoryRepository,
};
use batchwright_items::format::csv::CsvReader;

fn operator(step: PartitionStep) -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    operator
}

fn start(operator: &JobOperator) -> JobExecution {
    operator.start("job", JobParameters::new()).unwrap().wait().unwrap()
}

fn restart(operator: &JobOperator, of: &JobExecution) -> JobExecution {
    operator.restart(of.id).unwrap().wait().unwrap()
}

fn steps(operator: &JobOperator, of: &JobExecution) -> Vec<StepExecution> {
    let mut steps = operator.queries().steps(of.id).unwrap();
    steps.sort_by(|a, b| a.name.cmp(&b.name));
    steps
}

type Numbers = Arc<Mutex<Vec<i64>>>;

/// Returns a step that writes the numbers of the partition's range; those in `bad` fail.
fn worker(
    written: &Numbers,
    bad: &Arc<Mutex<BTreeSet<i64>>>,
) -> impl batchwright::step::Step + use<> {
    let bad = Arc::clone(bad);
    ChunkStepBuilder::new("load")
        .reader_with(|scope: &StepScope| {
            let range = scope.partition_value::<i64>("min")?..=scope.partition_value("max")?;
            Ok(ListReader::new(range.collect::<Vec<_>>()))
        })
        .processor(move |n: &i64| match bad.lock().unwrap().contains(n) {
            true => Err(ItemError::data("a bad number")),
            false => Ok(Some(*n)),
        })
        .writer(ListWriter::new(Arc::clone(written)))
        .chunk_size(2)
        .build()
}

fn world() -> (Numbers, Arc<Mutex<BTreeSet<i64>>>) {
    Default::default()
}

fn sorted(numbers: &Numbers) -> Vec<i64> {
    let mut all = numbers.lock().unwrap().clone();
    all.sort_unstable();
    all
}

#[test]
fn row_116_partitions_have_rows_named_after_step_and_key() {
    let (written, bad) = world();
    let operator = operator(PartitionStep::new(
        worker(&written, &bad),
        NumberRanges { min: 1, max: 9, grid: 3 },
    ));
    let done = start(&operator);
    assert_eq!(done.status, BatchStatus::Completed);
    let rows = steps(&operator, &done);
    let names: Vec<_> =
        rows.iter().map(|row| (row.name.as_str(), row.partition.as_deref())).collect();
    assert_eq!(
        names,
        [
            ("load", None),
            ("load:p0000", Some("p0000")),
            ("load:p0001", Some("p0001")),
            ("load:p0002", Some("p0002"))
        ]
    );
    assert_eq!(sorted(&written), (1..=9).collect::<Vec<_>>());
}

#[test]
fn row_117_the_plan_is_stored_once_and_a_restart_goes_by_it_whatever_changed() {
    let (written, bad) = world();
    bad.lock().unwrap().insert(8);
    let asked = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&asked);
    let planner = move |_: &StepScope| {
        let mut asked = counter.lock().unwrap();
        *asked += 1;
        // The data changed, so a second plan would differ.
        NumberRanges { min: 1, max: 9 * *asked, grid: 3 * u32::try_from(*asked).unwrap() }.cut()
    };
    let operator = operator(PartitionStep::new(worker(&written, &bad), planner));
    let failed = start(&operator);
    bad.lock().unwrap().clear();
    let done = restart(&operator, &failed);
    assert_eq!(done.status, BatchStatus::Completed);
    assert_eq!(*asked.lock().unwrap(), 1);
    assert_eq!(sorted(&written), (1..=9).collect::<Vec<_>>());
}

#[test]
fn rows_118_and_119_all_partitions_finish_and_a_restart_runs_only_what_is_not_complete() {
    let (written, bad) = world();
    bad.lock().unwrap().insert(2);
    let operator = operator(PartitionStep::new(
        worker(&written, &bad),
        NumberRanges { min: 1, max: 9, grid: 3 },
    ));
    let failed = start(&operator);
    assert_eq!(failed.failure.as_ref().unwrap().code, "partition_failed");
    assert!(failed.failure.as_ref().unwrap().message.contains("1 of 3 partitions"));
    assert_eq!(sorted(&written), [4, 5, 6, 7, 8, 9], "one failure does not cancel the others");
    bad.lock().unwrap().clear();
    let done = restart(&operator, &failed);
    assert_eq!(done.status, BatchStatus::Completed);
    let rows = steps(&operator, &done);
    assert_eq!(
        rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
        ["load", "load:p0000"]
    );
    assert_eq!(sorted(&written), (1..=9).collect::<Vec<_>>());
}

#[test]
fn row_119_a_step_that_fails_fast_asks_the_others_to_stop() {
    let (written, bad) = world();
    bad.lock().unwrap().insert(1);
    let step =
        PartitionStep::new(worker(&written, &bad), NumberRanges { min: 1, max: 30, grid: 3 });
    let operator = operator(step.threads(1).fail_fast());
    let failed = start(&operator);
    assert_eq!(failed.status, BatchStatus::Failed);
    assert!(written.lock().unwrap().is_empty(), "what had not begun does not begin");
    bad.lock().unwrap().clear();
    restart(&operator, &failed);
    assert_eq!(sorted(&written), (1..=30).collect::<Vec<_>>());
}

#[test]
fn rows_41_and_42_the_step_sums_what_its_partitions_committed_in_this_execution() {
    let (written, bad) = world();
    bad.lock().unwrap().insert(3);
    let operator = operator(PartitionStep::new(
        worker(&written, &bad),
        NumberRanges { min: 1, max: 9, grid: 3 },
    ));
    let failed = start(&operator);
    let manager = &steps(&operator, &failed)[0];
    assert_eq!((manager.status, manager.exit.code.as_str()), (BatchStatus::Failed, "FAILED"));
    // Of 1, 2, 3 the first chunk (1, 2) was committed; the second one failed and wrote nothing.
    assert_eq!((manager.counters.write, manager.counters.read), (8, 9));
    assert_eq!((manager.counters.commit, manager.counters.rollback), (5, 1));
    bad.lock().unwrap().clear();
    let done = restart(&operator, &failed);
    assert_eq!(steps(&operator, &done)[0].counters.write, 1, "of this execution only");
}

#[test]
fn row_120_an_aggregator_sees_partitions_of_earlier_executions_and_may_set_the_exit_code() {
    let (written, bad) = world();
    bad.lock().unwrap().insert(1);
    let step = PartitionStep::new(worker(&written, &bad), NumberRanges { min: 1, max: 9, grid: 3 });
    let operator = operator(step.aggregator(|_, rows: &[StepExecution]| {
        let total: u64 = rows.iter().map(|row| row.counters.write).sum();
        Ok(Some(ExitStatus::new(format!("COMPLETED {total} OF {}", rows.len()))))
    }));
    let failed = start(&operator);
    bad.lock().unwrap().clear();
    assert_eq!(restart(&operator, &failed).exit.code, "COMPLETED 9 OF 3");
}

#[test]
fn row_121_no_partitions_at_all_complete_the_step() {
    let (written, bad) = world();
    let operator =
        operator(PartitionStep::new(worker(&written, &bad), |_: &StepScope| Ok(Vec::new())));
    let done = start(&operator);
    assert_eq!((done.status, steps(&operator, &done).len()), (BatchStatus::Completed, 1));
}

#[test]
fn partitions_need_keys_of_their_own() {
    for (keys, expected) in
        [(["a", "a"], "two partitions have the key `a`"), (["a", ""], "an empty key")]
    {
        let (written, bad) = world();
        let plan = move |_: &StepScope| Ok(keys.map(Partition::new).to_vec());
        let failed = start(&operator(PartitionStep::new(worker(&written, &bad), plan)));
        assert!(failed.failure.unwrap().message.contains(expected));
    }
}

#[test]
fn a_stop_ends_every_partition_at_a_checkpoint_and_the_restart_goes_on_in_each() {
    let (written, bad) = world();
    let stopper: Arc<std::sync::OnceLock<JobOperator>> = Arc::default();
    let operator_cell = Arc::clone(&stopper);
    let operator = JobOperator::builder(Arc::new(MemoryRepository::new()))
        .commit_hook(move |scope, _, point| {
            if point == batchwright::testing::CommitPoint::After {
                let _ = operator_cell.get().unwrap().stop(scope.execution_id());
            }
        })
        .build();
    let _ = stopper.set(operator.clone());
    let step =
        PartitionStep::new(worker(&written, &bad), NumberRanges { min: 1, max: 40, grid: 4 });
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    let mut last = start(&operator);
    assert_eq!(last.status, BatchStatus::Stopped);
    while last.status != BatchStatus::Completed {
        last = restart(&operator, &last);
    }
    assert_eq!(sorted(&written), (1..=40).collect::<Vec<_>>());
}

#[test]
fn a_limit_of_running_steps_does_not_lock_a_partitioned_step_out() {
    let (written, bad) = world();
    let step =
        PartitionStep::new(worker(&written, &bad), NumberRanges { min: 1, max: 40, grid: 8 });
    let operator =
        JobOperator::builder(Arc::new(MemoryRepository::new())).running_steps_max(1).build();
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    assert_eq!(start(&operator).status, BatchStatus::Completed);
}

#[test]
fn ranges_of_a_csv_file_together_are_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.csv");
    let mut text = "n,t\n".to_owned();
    for n in 0..500 {
        let quoted = ["plain", "\"two\nlines\"", "\"a \"\"word\"\"\"", "\"\n\n\""][n % 4];
        let end = if n % 3 == 0 { "\r\n" } else { "\n" };
        text.push_str(&format!("{n},{quoted}{end}"));
        if n % 50 == 0 {
            text.push('\n');
        }
    }
    std::fs::write(&path, &text).unwrap();
    let read = |grid: u32| {
        let rows: Arc<Mutex<Vec<(u64, String)>>> = Arc::default();
        let file = path.clone();
        let step = ChunkStepBuilder::new("load")
            .reader_with(move |scope: &StepScope| {
                let (start, end) = (scope.partition_value("start")?, scope.partition_value("end")?);
                Ok(CsvReader::<(u64, String)>::new(&file).bytes(start, end))
            })
            .writer(ListWriter::new(Arc::clone(&rows)))
            .chunk_size(7)
            .build();
        let done = start(&operator(PartitionStep::new(step, ByteRanges::csv(&path, grid))));
        assert_eq!(done.status, BatchStatus::Completed, "{:?}", done.failure);
        let mut rows = rows.lock().unwrap().clone();
        rows.sort_unstable();
        rows
    };
    let whole = read(1);
    assert_eq!(whole.len(), 500);
    for grid in [2, 3, 4, 7, 50, 600] {
        assert_eq!(read(grid), whole, "{grid} partitions");
    }
}

#[test]
fn row_124_a_value_that_is_not_there_is_an_error_that_names_it() {
    let step = |name: &'static str| {
        ChunkStepBuilder::new("load")
            .reader_with(move |scope: &StepScope| {
                Ok(ListReader::new(vec![scope.partition_value::<i64>(name)?]))
            })
            .writer(NoWriter::new())
            .build()
    };
    let failed =
        start(&operator(PartitionStep::new(step("mni"), NumberRanges { min: 1, max: 1, grid: 1 })));
    assert!(failed.failure.unwrap().message.contains("`mni`"));
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("job").step(step("min")).build().unwrap()).unwrap();
    let message = start(&operator).failure.unwrap().message;
    assert!(message.contains("`min`") && message.contains("no partitions"), "{message}");
}

#[test]
fn files_are_partitions_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.csv", "a.csv", "c.txt"] {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&keys);
    let files = batchwright::partition::FilePartitions::new(dir.path(), "*.csv");
    let watched = move |scope: &StepScope| {
        let plan = files.partitions(scope)?;
        seen.lock().unwrap().extend(plan.iter().map(|one| one.key.clone()));
        Ok(plan)
    };
    let step = ChunkStepBuilder::new("load")
        .reader_with(|scope: &StepScope| {
            Ok(ListReader::new(vec![scope.partition_value::<String>("path")?]))
        })
        .writer(NoWriter::new())
        .build();
    start(&operator(PartitionStep::new(step, watched)));
    assert_eq!(*keys.lock().unwrap(), ["a.csv", "b.csv"]);
}

#[test]
fn partitions_that_skip_every_record_together_fail_their_step() {
    for (bad_numbers, code) in [(1..=6, "FAILED"), (1..=5, "COMPLETED_WITH_SKIPS")] {
        let (written, bad) = world();
        bad.lock().unwrap().extend(bad_numbers);
        let bad = Arc::clone(&bad);
        let worker = ChunkStepBuilder::new("load")
            .reader_with(|scope: &StepScope| {
                let range = scope.partition_value::<i64>("min")?..=scope.partition_value("max")?;
                Ok(ListReader::new(range.collect::<Vec<_>>()))
            })
            .processor(move |n: &i64| match bad.lock().unwrap().contains(n) {
                true => Err(ItemError::data("a bad number")),
                false => Ok(Some(*n)),
            })
            .writer(ListWriter::new(Arc::clone(&written)))
            .skip(SkipPolicy::limit(9))
            .build();
        let operator =
            operator(PartitionStep::new(worker, NumberRanges { min: 1, max: 6, grid: 3 }));
        let done = start(&operator);
        assert_eq!(done.exit.code, code);
        if let Some(failure) = done.failure {
            assert_eq!(failure.code, "all_skipped");
            let again =
                restart(&operator, &operator.queries().execution(done.id).unwrap().unwrap());
            assert_eq!(again.failure.unwrap().code, "all_skipped", "a restart does not hide it");
        }
    }
}

#[test]
fn a_partition_that_was_resumed_and_skipped_everything_is_no_result_either() {
    let is_cut = Arc::new(Mutex::new(true));
    let cut = Arc::clone(&is_cut);
    let worker = ChunkStepBuilder::new("load")
        .reader_with(|scope: &StepScope| {
            let range = scope.partition_value::<i64>("min")?..=scope.partition_value("max")?;
            Ok(ListReader::new(range.collect::<Vec<_>>()))
        })
        .processor(move |n: &i64| -> Result<Option<i64>, ItemError> {
            match *n == 2 && *cut.lock().unwrap() {
                true => Err(ItemError::fatal("the power is cut")),
                false => Err(ItemError::data("a bad number")),
            }
        })
        .writer(NoWriter::new())
        .skip(SkipPolicy::limit(9))
        .chunk_size(1)
        .build();
    let operator = operator(PartitionStep::new(worker, NumberRanges { min: 1, max: 4, grid: 2 }));
    let failed = start(&operator);
    assert_eq!(failed.failure.as_ref().unwrap().code, "partition_failed");
    *is_cut.lock().unwrap() = false;
    let again = restart(&operator, &failed);
    assert_eq!(again.failure.unwrap().code, "all_skipped");
}
