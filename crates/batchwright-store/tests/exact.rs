//! Edge cases in which rows, contexts or keys could be lost or repeated, each reported by a reviewer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use batchwright::execution::JobExecution;
use batchwright::item::NoWriter;
use batchwright::launch::RecoverMode;
use batchwright::operator::RunError;
use batchwright::query::Queries as _;
use batchwright::step::{Flow, Step};
use batchwright::testing::CommitPoint;
use batchwright::testing::fault::{FaultPlan, FaultyWriter};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, ListWriter,
    Sequence, TaskletStep,
};
use batchwright_store::{SqlReader, SqlRepository, SqlWriter, SqliteDatabase};

struct Place {
    dir: tempfile::TempDir,
    repository: Arc<SqlRepository>,
}

impl Place {
    fn new(schema: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Arc::new(SqlRepository::sqlite(dir.path().join("a.db")).unwrap());
        repository.database().run(schema).unwrap();
        Self { dir, repository }
    }

    fn operator(&self, step: impl Step + 'static) -> JobOperator {
        let operator = JobOperator::new(self.repository.clone());
        operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
        operator
    }
}

fn start(operator: &JobOperator) -> JobExecution {
    operator.start("job", JobParameters::new()).unwrap().wait().unwrap()
}

fn restart(operator: &JobOperator, of: &JobExecution) -> JobExecution {
    operator.restart(of.id).unwrap().wait().unwrap()
}

#[test]
fn a_panic_while_a_row_is_read_is_no_end_of_the_input() {
    let place = Place::new(
        "CREATE TABLE t (n INTEGER PRIMARY KEY, v INTEGER);
         WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 3000)
         INSERT INTO t SELECT n, nullif(n, 1500) FROM s",
    );
    let reader = SqlReader::new(place.repository.database().clone(), "SELECT n, v FROM t", |row| {
        Ok(row.get::<i64>("v").unwrap())
    });
    let step =
        ChunkStepBuilder::new("step").reader(reader.keyset("n")).writer(NoWriter::new()).build();
    let failed = start(&place.operator(step));
    assert_eq!(failed.status, BatchStatus::Failed);
    assert_eq!(failed.failure.unwrap().code, "read_failed");
}

#[test]
fn keys_that_are_no_whole_numbers_are_resumed_behind_to_the_last_bit() {
    let place = Place::new(
        "CREATE TABLE t (k REAL PRIMARY KEY);
         WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 400)
         INSERT INTO t SELECT n / 7.0 FROM s",
    );
    let written = Arc::new(Mutex::new(Vec::new()));
    let reader = SqlReader::new(place.repository.database().clone(), "SELECT k FROM t", |row| {
        row.get::<f64>("k")
    });
    let seen = Arc::new(Mutex::new(0));
    let step = ChunkStepBuilder::new("step")
        .reader(reader.keyset("k"))
        .processor(move |k: &f64| {
            // Every execution commits one more chunk.
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            if *seen % 12 == 0 { Err(ItemError::data("take a rest")) } else { Ok(Some(*k)) }
        })
        .writer(ListWriter::new(Arc::clone(&written)))
        .chunk_size(7)
        .build();
    let operator = place.operator(step);
    let mut last = start(&operator);
    while last.status != BatchStatus::Completed {
        last = restart(&operator, &last);
    }
    let written = written.lock().unwrap();
    assert_eq!(written.len(), 400);
    assert!(written.windows(2).all(|pair| pair[0] < pair[1]), "each once, in order");
}

#[test]
fn calls_of_a_tasklet_have_keys_of_their_own_across_restarts() {
    let place = Place::new("");
    let keys = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::clone(&keys);
    let step = TaskletStep::new("step", move |call| {
        let mut keys = calls.lock().unwrap();
        if keys.len() == 2 && !call.scope().context().has("tried") {
            keys.push("failed".to_owned());
            return Err(ItemError::data("go on"));
        }
        keys.push(call.transaction().idempotency_key());
        Ok(if keys.len() < 5 { Flow::Continue } else { Flow::Finished })
    });
    let operator = place.operator(step);
    let failed = start(&operator);
    restart(&operator, &failed);
    let keys: Vec<_> =
        keys.lock().unwrap().iter().filter(|key| *key != "failed").cloned().collect();
    let unique: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!((keys.len(), unique.len()), (4, 4), "{keys:?}");
}

#[test]
fn a_commit_that_a_sink_finishes_takes_its_contexts_along() {
    let place = Place::new("");
    let sink = SqliteDatabase::at(place.dir.path().join("b.db"));
    sink.connect().unwrap().execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
    let step = || {
        let sink = sink.clone();
        ChunkStepBuilder::new("step")
            .reader(Sequence::to(50))
            .processor_with(|scope| {
                let context = scope.context().clone();
                Ok(move |n: &u64| {
                    let count: u64 = if context.has("count") { context.get("count")? } else { 0 };
                    context.put("count", &(count + 1))?;
                    Ok(Some(*n))
                })
            })
            .writer(SqlWriter::in_database(sink, "t", ["n"], |n: &u64, row| row.bind(*n as i64)))
            .chunk_size(10)
            .build()
    };
    // The process "dies" between the two commits: the thread unwinds out of the second one.
    let commits = Mutex::new(0);
    let dying = JobOperator::builder(place.repository.clone())
        .commit_hook(move |_, _, point| {
            let mut commits = commits.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *commits += u32::from(point == CommitPoint::Before);
            assert!(*commits < 3, "simulated power cut");
        })
        .build();
    dying.registry().register(Job::builder("job").step(step()).build().unwrap()).unwrap();
    let failed = start(&dying);
    assert_eq!(failed.status, BatchStatus::Failed);
    let operator = place.operator(step());
    let done = restart(&operator, &failed);
    let step = operator.queries().steps(done.id).unwrap().pop().unwrap();
    assert_eq!(step.context.get::<u64>("count").unwrap(), 50);
    let rows: i64 = sink
        .connect_read_only()
        .unwrap()
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 50);
}

#[test]
fn an_owner_that_wakes_up_before_it_opened_its_writer_touches_nothing() {
    use std::sync::mpsc::channel;
    let place = Place::new("");
    let sink = SqliteDatabase::at(place.dir.path().join("b.db"));
    sink.connect().unwrap().execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
    let (asleep, sleeping) = channel();
    let (wake, woken) = channel::<()>();
    let woken = Mutex::new(Some(woken));
    let step = {
        let sink = sink.clone();
        ChunkStepBuilder::new("step")
            .reader_with(move |_| {
                // The first execution sleeps here until after it was taken over.
                let first = woken.lock().unwrap().take();
                if let Some(woken) = first {
                    asleep.send(()).unwrap();
                    let _ = woken.recv();
                }
                Ok(Sequence::to(50))
            })
            .writer_with(move |_| {
                let rows = SqlWriter::in_database(sink.clone(), "t", ["n"], |n: &u64, row| {
                    row.bind(*n as i64)
                });
                Ok(FaultyWriter::new(rows, &FaultPlan::default()))
            })
            .chunk_size(10)
            .build()
    };
    let operator = place.operator(step);
    let first = operator.start("job", JobParameters::new()).unwrap();
    sleeping.recv().unwrap();
    let taken = operator.recover(first.id(), RecoverMode::Force).unwrap();
    let done = restart(&operator, &taken);
    wake.send(()).unwrap();
    assert!(matches!(first.wait(), Err(RunError::LeaseLost { .. })));
    assert_eq!(done.status, BatchStatus::Completed);
    let rows: i64 = sink
        .connect_read_only()
        .unwrap()
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 50);
}

#[test]
fn the_write_ahead_log_stays_bounded_however_busy_the_readers_are() {
    let place = Place::new("CREATE TABLE rows (n INTEGER PRIMARY KEY, text TEXT)");
    let log = place.dir.path().join("a.db-wal");
    let ends = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (repository, ends) = (Arc::clone(&place.repository), Arc::clone(&ends));
            std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    repository.audit(None, 500).unwrap();
                }
            })
        })
        .collect();
    // A reader that stays in the log delays no commit.
    let staying = rusqlite::Connection::open(place.dir.path().join("a.db")).unwrap();
    staying.execute_batch("BEGIN; SELECT count(*) FROM rows").unwrap();
    // Each commit writes some pages; all together far more than the log may have.
    let operator = JobOperator::new(place.repository.clone());
    let detail = "x".repeat(30_000);
    for round in 0..12_000 {
        operator.audit("test", "write", "pages", Some(&detail)).unwrap();
        if round == 4_000 {
            staying.execute_batch("COMMIT").unwrap();
        }
    }
    let length = std::fs::metadata(&log).map_or(0, |log| log.len());
    ends.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert!(length < 80 * 1024 * 1024, "the log has {length} bytes");
}
