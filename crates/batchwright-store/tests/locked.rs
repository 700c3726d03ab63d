//! A store that becomes unavailable during a job is not treated as a bad record: no item is skipped, the step
//! fails, and the restart is exact.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use batchwright::policy::SkipPolicy;
use batchwright::query::ExecutionFilter;
use batchwright::{
    BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters, Sequence, TaskletStep,
};
use batchwright_store::{SqlRepository, SqlWriter, SqliteDatabase};

/// Takes as long as SQLite waits for a lock, ten seconds.
#[test]
fn a_locked_store_gives_up_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Arc::new(SqlRepository::sqlite(dir.path().join("a.db")).unwrap());
    let database = SqliteDatabase::at(dir.path().join("a.db"));
    database.connect().unwrap().execute_batch("CREATE TABLE number (n INTEGER)").unwrap();
    let (reached, at_five) = channel();
    let (unlocked, until_unlocked) = channel::<()>();
    let (is_locked, until_locked) = channel::<()>();
    let until_locked = Arc::new(Mutex::new(until_locked));
    let step = ChunkStepBuilder::new("load")
        .reader(Sequence::to(10))
        .processor_with(move |_| {
            let (reached, until_locked) = (reached.clone(), Arc::clone(&until_locked));
            Ok(move |n: &u64| {
                if *n == 5 {
                    let _ = reached.send(());
                    let _ = until_locked.lock().unwrap().recv();
                }
                Ok(Some(*n))
            })
        })
        .writer(SqlWriter::in_store("number", ["n"], |n: &u64, row| row.bind(*n as i64)))
        .chunk_size(2)
        .skip(SkipPolicy::limit(10))
        .build();
    let operator = JobOperator::new(repository);
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();

    // Another connection holds the write lock from the third chunk until the test releases it.
    let holder = {
        let database = database.clone();
        std::thread::spawn(move || {
            at_five.recv().unwrap();
            let other = database.connect().unwrap();
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            is_locked.send(()).unwrap();
            let _ = until_unlocked.recv();
            other.execute_batch("ROLLBACK").unwrap();
            // Both channel ends are dropped here, so that item five does not wait a second time.
        })
    };
    let handle = operator.start("job", JobParameters::new()).unwrap();
    // Neither the chunk nor the end of the step can be stored, so the handle returns an error.
    let lost = handle.wait();
    drop(unlocked);
    holder.join().unwrap();
    match lost {
        Err(_) => {
            operator.recover(handle.id(), batchwright::launch::RecoverMode::Force).unwrap();
        }
        // The lock was taken between two statements: the chunk failed, and its end was stored.
        Ok(execution) => assert_eq!(execution.status, BatchStatus::Failed),
    }
    assert!(operator.queries().skips(handle.id()).unwrap().is_empty(), "no record was skipped");
    let done = operator.restart(handle.id()).unwrap().wait().unwrap();
    assert_eq!(done.status, BatchStatus::Completed);
    let connection = database.connect_read_only().unwrap();
    let rows: i64 =
        connection.query_row("SELECT count(DISTINCT n) FROM number", [], |row| row.get(0)).unwrap();
    let all: i64 =
        connection.query_row("SELECT count(*) FROM number", [], |row| row.get(0)).unwrap();
    assert_eq!((rows, all), (10, 10));
}

/// Wakes the thread that polls.
struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn a_start_from_asynchronous_code_returns_to_its_runtime_while_the_store_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let repository = Arc::new(SqlRepository::sqlite(dir.path().join("a.db")).unwrap());
    let operator = JobOperator::new(repository);
    let step = TaskletStep::call("step", || ());
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();

    let lock = SqliteDatabase::at(dir.path().join("a.db")).connect().unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let asynchronous = operator.asynchronous();
    let mut run = pin!(asynchronous.run("job", JobParameters::new()));
    // A poll that waited for the store would return only after SQLite has given up, with an error.
    assert!(run.as_mut().poll(&mut context).is_pending(), "the first poll only begins the call");
    let known = operator.queries().execution_count(&ExecutionFilter::default()).unwrap();
    assert_eq!(known, 0, "nothing can be stored while the lock is held");
    assert!(run.as_mut().poll(&mut context).is_pending(), "the store is still locked");
    lock.execute_batch("ROLLBACK").unwrap();

    let ended = loop {
        match run.as_mut().poll(&mut context) {
            Poll::Ready(ended) => break ended.unwrap(),
            Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(ended.status, BatchStatus::Completed);
}

#[test]
fn a_call_that_panics_has_no_result_and_leaves_no_caller_waiting() {
    let operator = JobOperator::new(Arc::new(batchwright::MemoryRepository::new()));
    let asynchronous = operator.asynchronous();
    let mut call = pin!(asynchronous.call(|_| -> Result<(), _> { panic!("on purpose") }));
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let error = loop {
        match call.as_mut().poll(&mut context) {
            Poll::Ready(result) => break result.unwrap_err(),
            Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(error.code(), "internal");
}
