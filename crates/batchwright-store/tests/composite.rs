//! A composite of a file, the store and another database has each item once everywhere, whichever call fails.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use batchwright::item::{
    Choice, ChunkTransaction, CompositeWriter, Ending, ItemWriter, PreparedCommit,
};
use batchwright::launch::RecoverMode;
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::scope::StepScope;
use batchwright::step::Step;
use batchwright::testing::CommitPoint;
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, Sequence,
};
use batchwright_items::format::csv::CsvWriter;
use batchwright_store::{
    Database, SqlRepository, SqlValue, SqlWriter, SqliteDatabase, StoreOptions,
};
use batchwright_testkit::{Service, needs};
use serde::{Deserialize, Serialize};

const ITEMS: u64 = 10;
const CHUNK: usize = 3;
/// More failures in a row than a run needs attempts.
const ATTEMPTS_MAX: usize = 6;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    n: i64,
}

/// Counts calls, and fails one of them: before its work is done, or after.
#[derive(Debug, Clone, Default)]
struct Calls {
    /// The number of the call that fails; none if it is negative.
    failing: Arc<AtomicI64>,
    after: bool,
    /// Whether a failed commit certainly did nothing, such as after a deadlock.
    is_definite: bool,
    count: Arc<AtomicI64>,
    names: Arc<Mutex<Vec<String>>>,
}

impl Calls {
    fn call<T>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T, ItemError>,
    ) -> Result<T, ItemError> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        self.names.lock().unwrap().push(name.to_owned());
        let fails = number == self.failing.load(Ordering::SeqCst);
        let fault = || match name {
            "prepare" if !self.is_definite => ItemError::commit_unknown("the connection broke"),
            _ => ItemError::fatal(format!("{name} fails")),
        };
        if fails && !self.after {
            return Err(fault());
        }
        let result = work()?;
        if fails { Err(fault()) } else { Ok(result) }
    }
}

/// A writer whose calls are counted.
struct Counted<W> {
    writer: W,
    calls: Calls,
}

impl<T, W: ItemWriter<T>> ItemWriter<T> for Counted<W> {
    type Position = W::Position;

    fn open(
        &mut self,
        position: Option<W::Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.calls.call("open", || self.writer.open(position, scope))
    }

    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.calls.call("write", || self.writer.write(items, chunk))
    }

    fn position(&mut self) -> Result<W::Position, ItemError> {
        self.calls.call("position", || self.writer.position())
    }

    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        self.calls.call("prepare", || self.writer.prepare(commit))
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.calls.call("committed", || self.writer.committed())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.calls.call("rolled_back", || self.writer.rolled_back())
    }

    fn prepares(&self) -> bool {
        self.writer.prepares()
    }

    fn keeps_position(&self) -> bool {
        self.writer.keeps_position()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        self.calls.call("close", || self.writer.close(ending))
    }
}

/// The places that the job writes to.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        for file in ["store.db", "other.db"] {
            let database = Database::from(SqliteDatabase::at(place.path(file)));
            database.run("CREATE TABLE numbers (n INTEGER NOT NULL CHECK (n <> 5))").unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rows(&self, file: &str) -> Vec<i64> {
        let database = rusqlite::Connection::open(self.path(file)).unwrap();
        let mut rows = database.prepare("SELECT n FROM numbers ORDER BY rowid").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn lines(&self) -> Vec<i64> {
        let text = std::fs::read_to_string(self.path("out.csv")).unwrap();
        text.lines().skip(1).map(|line| line.parse().unwrap()).collect()
    }
}

fn to_store() -> SqlWriter<Row> {
    SqlWriter::in_store("numbers", ["n"], |row: &Row, to| to.bind(row.n))
}

fn to_other(path: &Path) -> SqlWriter<Row> {
    let database = Database::from(SqliteDatabase::at(path));
    SqlWriter::in_database(database, "numbers", ["n"], |row: &Row, to| to.bind(row.n))
}

/// Writes the numbers that `skip_five` leaves: all in the file and in the store; in the other database all.
fn step(place: &Place, calls: &Calls, skip_five: bool) -> impl Step + 'static {
    let (folder, calls) = (place.folder.path().to_owned(), calls.clone());
    ChunkStepBuilder::new("copy")
        .reader(Sequence::to(ITEMS))
        .process(move |n| Ok((skip_five || *n != 5).then_some(Row { n: *n as i64 })))
        .writer_with(move |_| {
            let counted = |writer| Counted { writer, calls: calls.clone() };
            let file = CsvWriter::new(folder.join("out.csv"));
            let store = counted(to_store());
            let other = counted(to_other(&folder.join("other.db")));
            let file = Counted { writer: file, calls: calls.clone() };
            Ok(CompositeWriter::new(CompositeWriter::new(file, store), other))
        })
        .skip(SkipPolicy::limit(if skip_five { 1 } else { 0 }).on(Classifier::records()))
        .chunk_size(CHUNK)
        .build()
}

/// Runs the job until it is complete, and returns the number of attempts.
fn run(place: &Place, step: impl Step + 'static, crash: Option<(CommitPoint, i64)>) -> usize {
    let repository = Arc::new(SqlRepository::sqlite(place.path("store.db")).unwrap());
    let left = AtomicI64::new(crash.map_or(-1, |(_, commit)| commit));
    let operator = JobOperator::builder(repository)
        .commit_hook(move |_, _, point| {
            if crash.is_some_and(|(planned, _)| planned == point)
                && left.fetch_sub(1, Ordering::SeqCst) == 1
            {
                std::panic::resume_unwind(Box::new("a crash"));
            }
        })
        .build();
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    let mut handle = operator.start("job", JobParameters::new()).unwrap();
    for attempt in 1..=ATTEMPTS_MAX {
        let id = handle.id();
        if handle.wait().is_err() {
            operator.recover(id, RecoverMode::Force).unwrap();
        }
        let ended = operator.explorer().execution(id).unwrap();
        if ended.status == BatchStatus::Completed {
            return attempt;
        }
        handle = operator.restart(id).unwrap();
    }
    panic!("the job does not complete");
}

fn assert_exact(place: &Place, when: &str) {
    let expected: Vec<i64> = (1..=ITEMS as i64).filter(|n| *n != 5).collect();
    assert_eq!(place.lines(), expected, "file: {when}");
    assert_eq!(place.rows("store.db"), expected, "store: {when}");
    assert_eq!(place.rows("other.db"), expected, "other database: {when}");
}

fn calls_of(skip_five: bool) -> Vec<String> {
    let (place, calls) =
        (Place::new(), Calls { failing: Arc::new((-1).into()), ..Calls::default() });
    assert_eq!(run(&place, step(&place, &calls, skip_five), None), 1);
    assert_exact(&place, "no fault");
    let names = calls.names.lock().unwrap();
    names.clone()
}

fn every_call_fails_once(skip_five: bool) {
    let names = calls_of(skip_five);
    assert!(names.len() > 40 && names.iter().any(|name| name == "prepare"), "{names:?}");
    for (number, name) in names.iter().enumerate() {
        for after in [false, true] {
            let failing = Arc::new(AtomicI64::new(number as i64));
            let calls = Calls { failing, after, ..Calls::default() };
            let place = Place::new();
            let attempts = run(&place, step(&place, &calls, skip_five), None);
            let when =
                format!("call {number}, {name}, fails {}", if after { "after" } else { "before" });
            assert!(attempts <= 2, "{when}");
            assert_exact(&place, &when);
        }
    }
}

#[test]
fn whichever_call_fails_every_writer_has_each_item_once() {
    every_call_fails_once(false);
}

/// A deadlock at the commit of the other database: the chunk is written and committed there once more, at once.
#[test]
fn a_commit_that_is_refused_for_certain_is_tried_again_in_the_same_execution() {
    let names = calls_of(false);
    let commits = names.iter().enumerate().filter(|(_, name)| *name == "prepare");
    let commits: Vec<usize> = commits.map(|(number, _)| number).collect();
    assert_eq!(commits.len(), ITEMS.div_ceil(CHUNK as u64) as usize);
    for number in commits {
        let failing = Arc::new(AtomicI64::new(number as i64));
        let calls = Calls { failing, is_definite: true, ..Calls::default() };
        let place = Place::new();
        assert_eq!(run(&place, step(&place, &calls, false), None), 1, "call {number}");
        assert_exact(&place, &format!("call {number} is refused"));
    }
}

/// A row that the databases refuse: the chunk is written again item by item.
#[test]
fn whichever_call_fails_during_a_scan_every_writer_has_each_item_once() {
    every_call_fails_once(true);
}

#[test]
fn whichever_commit_the_process_dies_at_every_writer_has_each_item_once() {
    for point in [CommitPoint::Before, CommitPoint::After] {
        for commit in 1..=4 {
            let (place, calls) =
                (Place::new(), Calls { failing: Arc::new((-1).into()), ..Calls::default() });
            let attempts = run(&place, step(&place, &calls, false), Some((point, commit)));
            assert_eq!(attempts, 2, "{point:?} {commit}");
            assert_exact(&place, &format!("{point:?} commit {commit}"));
        }
    }
}

#[test]
fn a_function_chooses_the_writer_of_each_item() {
    let place = Place::new();
    let folder = place.folder.path().to_owned();
    let step = ChunkStepBuilder::new("route")
        .reader(Sequence::to(ITEMS))
        .process(|n| Ok(Some(Row { n: *n as i64 })))
        .writer_with(move |_| {
            let choose = |row: &Row| match row.n {
                5 => Choice::Neither,
                n if n > 8 => Choice::Both,
                n if n % 2 == 0 => Choice::First,
                _ => Choice::Second,
            };
            Ok(CompositeWriter::choosing(choose, to_store(), to_other(&folder.join("other.db"))))
        })
        .chunk_size(CHUNK)
        .build();
    // Chunk 3 has an item for each writer.
    assert_eq!(run(&place, step, Some((CommitPoint::After, 3))), 2);
    assert_eq!(place.rows("store.db"), [2, 4, 6, 8, 9, 10]);
    assert_eq!(place.rows("other.db"), [1, 3, 7, 9, 10]);
}

/// Three tables of one database, in nested composites: each writer has a transaction and commits of its own there.
#[test]
fn three_writers_to_one_other_database_have_each_item_once() {
    let Some(url) = needs(Service::Postgres) else { return };
    for point in [CommitPoint::Before, CommitPoint::After] {
        for commit in 1..=4 {
            let place = Place::new();
            let (database, _) = StoreOptions::parse(&url).unwrap();
            for table in ["composite_a", "composite_b", "composite_c"] {
                let make = format!(
                    "DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (n BIGINT NOT NULL)"
                );
                database.run(&make).unwrap();
            }
            let target = database.clone();
            let step = ChunkStepBuilder::new("three")
                .reader(Sequence::to(ITEMS))
                .process(|n| Ok(Some(Row { n: *n as i64 })))
                .writer_with(move |_| {
                    let table = |name| {
                        SqlWriter::in_database(target.clone(), name, ["n"], |row: &Row, to| {
                            to.bind(row.n)
                        })
                    };
                    // The first chunk has no item for the inner composite.
                    let choose = |row: &Row| if row.n <= 3 { Choice::Second } else { Choice::Both };
                    let inner = CompositeWriter::new(table("composite_a"), table("composite_b"));
                    Ok(CompositeWriter::choosing(choose, inner, table("composite_c")))
                })
                .chunk_size(CHUNK)
                .build();
            assert_eq!(run(&place, step, Some((point, commit))), 2, "{point:?} {commit}");
            let rows = |table: &str| -> Vec<i64> {
                let rows = database.query(&format!("SELECT n FROM {table} ORDER BY n")).unwrap();
                let number = |row: &Vec<SqlValue<'_>>| match row[0] {
                    SqlValue::Integer(n) => n,
                    ref other => panic!("{other:?}"),
                };
                rows.iter().map(number).collect()
            };
            let when = format!("{point:?} {commit}");
            assert_eq!(rows("composite_a"), (4..=10).collect::<Vec<i64>>(), "a: {when}");
            assert_eq!(rows("composite_b"), (4..=10).collect::<Vec<i64>>(), "b: {when}");
            assert_eq!(rows("composite_c"), (1..=10).collect::<Vec<i64>>(), "c: {when}");
        }
    }
}
