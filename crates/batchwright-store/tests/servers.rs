//! Guarantees of readers and writers on every database: values are read as they were written, chunks are
//! written whole, restarts are exact. Also the guarantees of a store on a server beyond the conformance
//! suite.

mod common;

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use batchwright::execution::JobExecution;
use batchwright::item::ListReader;
use batchwright::job::increment;
use batchwright::launch::{Launch, LaunchOptions, RequestKey};
use batchwright::policy::SkipPolicy;
use batchwright::query::ExecutionFilter;
use batchwright::step::{Flow, Step, StepOptions};
use batchwright::testing::CommitPoint;
use batchwright::testing::fault::{FaultPlan, FaultyWriter};
use batchwright::{
    BatchStatus, ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters, ListWriter,
    MemoryRepository, Sequence, TaskletStep,
};
use batchwright_store::{
    ColumnPartitions, Database, FromSql, SqlMode, SqlReader, SqlTasklet, SqlValue, SqlWriter,
};
use batchwright_testkit::process::until;
use common::{Kind, Place, all, servers};
use jiff::Timestamp;
use jiff::civil::{Date, date, time};
use rust_decimal::Decimal;

fn operator(place: &Place, step: impl Step + 'static) -> JobOperator {
    let operator = JobOperator::new(place.repository());
    operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    operator
}

fn start(operator: &JobOperator) -> JobExecution {
    operator.start("job", JobParameters::new()).unwrap().wait().unwrap()
}

fn restart(operator: &JobOperator, of: &JobExecution) -> JobExecution {
    operator.restart(of.id).unwrap().wait().unwrap()
}

fn run(place: &Place, step: impl Step + 'static) -> JobExecution {
    start(&operator(place, step))
}

fn completed(execution: &JobExecution) {
    assert_eq!(execution.status, BatchStatus::Completed, "{:?}", execution.failure);
}

type Row = (i64, SqlValue<'static>);

/// Writes `rows` into `t (id, v)`.
fn writing(rows: Vec<Row>, mode: SqlMode) -> impl Step {
    let writer = SqlWriter::in_store("t", ["id", "v"], |row: &Row, to| {
        to.bind(row.0)?;
        to.bind(row.1.clone())
    });
    ChunkStepBuilder::new("step")
        .reader(ListReader::new(rows))
        .writer(writer.mode(mode).unwrap())
        .build()
}

fn query(place: &Place, text: &str) -> Vec<Vec<SqlValue<'static>>> {
    place.database().query(text).unwrap()
}

#[test]
fn values_come_back_as_they_went_in_whatever_their_type() {
    let text = |text: &str| SqlValue::from(text.to_owned());
    let cases: [(&str, &str, SqlValue<'static>); 12] = [
        ("BIGINT", "BIGINT", i64::MIN.into()),
        ("SMALLINT", "SMALLINT", 32_767.into()),
        ("DOUBLE PRECISION", "DOUBLE", 0.1.into()),
        ("BOOLEAN", "BOOLEAN", true.into()),
        ("TEXT", "TEXT", text("ä \"quoted\", 'quoted' \\ back\nslash ${x}")),
        ("TEXT", "TEXT", text("")),
        ("TEXT", "TEXT", SqlValue::Null),
        ("BYTEA", "BLOB", vec![0, 255, 7].into()),
        ("NUMERIC(20,5)", "DECIMAL(20,5)", text("-123456789012.34500")),
        ("DATE", "DATE", text("2026-11-22")),
        ("TIMESTAMP", "DATETIME(6)", text("2026-11-22 04:05:06.789")),
        ("UUID", "CHAR(36)", text("0191f5a0-0000-7000-8000-0000000000ff")),
    ];
    for kind in servers() {
        for (postgres, mysql, value) in &cases {
            let place = Place::new(kind);
            let column = if kind == Kind::Postgres { postgres } else { mysql };
            place.run(&format!("CREATE TABLE t (id BIGINT PRIMARY KEY, v {column})"));
            completed(&run(&place, writing(vec![(1, value.clone())], SqlMode::Insert)));
            let found = query(&place, "SELECT v FROM t").remove(0).remove(0);
            let found = match (found, value) {
                // MySQL has no boolean type and prints all digits of a fraction.
                (SqlValue::Integer(number), SqlValue::Boolean(_)) => (number != 0).into(),
                (SqlValue::Text(found), _) if *mysql == "DATETIME(6)" => {
                    text(found.trim_end_matches('0'))
                }
                (found, _) => found,
            };
            assert_eq!(found, *value, "{column}");
        }
    }
}

/// Writes `values` into a column of a new table and returns what a reader makes of them.
fn through<T, R>(place: &Place, column: &str, values: Vec<T>) -> Result<Vec<R>, String>
where
    T: Into<SqlValue<'static>> + Clone + Send + Sync + 'static,
    R: FromSql + Clone + Send + Sync + 'static,
{
    place.run(&format!("CREATE TABLE t (id BIGINT PRIMARY KEY, v {column})"));
    let rows: Vec<Row> =
        (1..).zip(values).map(|(id, value)| (id, value.into().into_owned())).collect();
    let wrote = run(place, writing(rows, SqlMode::Insert));
    if let Some(failure) = wrote.failure {
        return Err(failure.message);
    }
    let read = Arc::new(Mutex::new(Vec::new()));
    let step = ChunkStepBuilder::new("step")
        .reader(SqlReader::new(place.database(), "SELECT v FROM t ORDER BY id", |row| row.get("v")))
        .writer(ListWriter::new(Arc::clone(&read)))
        .build();
    let reading = JobOperator::new(Arc::new(MemoryRepository::new()));
    reading.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
    let ended = start(&reading);
    let read = read.lock().unwrap().clone();
    ended.failure.map_or(Ok(read), |failure| Err(failure.message))
}

/// As [`through`], with the type that was written.
fn same<T>(place: &Place, column: &str, values: Vec<T>) -> Result<Vec<T>, String>
where
    T: Into<SqlValue<'static>> + FromSql + Clone + Send + Sync + 'static,
{
    through(place, column, values)
}

#[test]
fn numbers_dates_and_decimals_of_rust_come_back_as_they_went_in() {
    for kind in all() {
        let place = || Place::new(kind);
        let column = |postgres: &'static str, mysql: &'static str, sqlite: &'static str| match kind
        {
            Kind::Postgres => postgres,
            Kind::MySql => mysql,
            Kind::Sqlite => sqlite,
        };
        let large = vec![0, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
        let unsigned = through::<_, u64>(
            &place(),
            column("NUMERIC(20)", "BIGINT UNSIGNED", "INTEGER"),
            large.clone(),
        );
        match kind {
            Kind::Sqlite => {
                assert!(unsigned.unwrap_err().contains("does not fit into an integer of SQLite"))
            }
            _ => assert_eq!(unsigned.unwrap(), large),
        }
        let refused = through::<_, u64>(&place(), "BIGINT", vec![u64::MAX]).unwrap_err();
        assert!(refused.contains("write") && !refused.contains("panic"), "{refused}");
        let small = vec![i8::MIN, 0, i8::MAX];
        assert_eq!(same(&place(), "SMALLINT", small.clone()).unwrap(), small);
        let narrow = through::<_, u8>(&place(), "SMALLINT", vec![-1_i16, 300]).unwrap_err();
        assert!(narrow.contains("-1 is below the smallest u8"), "{narrow}");

        let dates = vec![date(2026, 11, 28), date(1, 1, 1), date(1999, 2, 28)];
        assert_eq!(same(&place(), column("DATE", "DATE", "TEXT"), dates.clone()).unwrap(), dates);
        let times = vec![time(0, 0, 0, 0), time(23, 59, 59, 999_999_000)];
        let read = same(&place(), column("TIME", "TIME(6)", "TEXT"), times.clone());
        assert_eq!(read.unwrap(), times);
        let civil: Vec<_> = dates.iter().map(|date| date.at(4, 5, 6, 789_000_000)).collect();
        let read = same(&place(), column("TIMESTAMP", "DATETIME(6)", "TEXT"), civil.clone());
        assert_eq!(read.unwrap(), civil);
        let points: Vec<Timestamp> = vec![
            "2026-11-28T10:11:12.345678Z".parse().unwrap(),
            "1999-12-31T23:59:59Z".parse().unwrap(),
        ];
        for column in [
            column("TIMESTAMPTZ", "TIMESTAMP(6)", "TEXT"),
            column("TIMESTAMP", "DATETIME(6)", "TEXT"),
        ] {
            assert_eq!(same(&place(), column, points.clone()).unwrap(), points, "{column}");
        }

        let decimals: Vec<Decimal> =
            ["-123456789012.34500", "0.1", "19.99"].map(|text| text.parse().unwrap()).to_vec();
        let column = column("NUMERIC(20,5)", "DECIMAL(20,5)", "NUMERIC");
        assert_eq!(same(&place(), column, decimals.clone()).unwrap(), decimals);
        let text = through::<_, Date>(&place(), "TEXT", vec!["yesterday"]).unwrap_err();
        assert!(text.contains("`yesterday` is not a date"), "{text}");
    }
}

#[test]
fn a_value_that_does_not_fit_is_refused_and_never_cut() {
    for kind in servers() {
        let place = Place::new(kind);
        place.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR(3))");
        let failed = run(&place, writing(vec![(1, "abcdef".into())], SqlMode::Insert));
        assert_eq!(failed.failure.unwrap().code, "write_failed", "{kind:?}");
        assert!(place.numbers("SELECT id FROM t").is_empty());
    }
}

#[test]
fn numbers_without_a_sign_are_read_as_they_are() {
    if !Kind::MySql.is_there() {
        return;
    }
    let place = Place::new(Kind::MySql);
    place.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v INT UNSIGNED, w TINYINT UNSIGNED)");
    place.run("INSERT INTO t VALUES (1, 3000000000, 200)");
    let row = query(&place, "SELECT v, w FROM t").remove(0);
    assert_eq!(row, [SqlValue::Integer(3_000_000_000), SqlValue::Integer(200)]);
    let (table, column) = ("t".to_owned(), "v".to_owned());
    let cut = ColumnPartitions { database: place.database(), table, column, grid: 3 };
    let cut = cut.cut().unwrap();
    assert_eq!(cut.len(), 1);
    assert_eq!(cut[0].values.get::<i64>("min").unwrap(), 3_000_000_000);
}

#[test]
fn every_row_belongs_to_one_partition_of_its_column() {
    for kind in all() {
        let place = Place::new(kind);
        place.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)");
        place.run("INSERT INTO t VALUES (1, 1), (2, 2), (3, NULL), (4, 9), (5, NULL), (6, 5)");
        let (table, column) = ("t".to_owned(), "v".to_owned());
        let by = |column: &str| {
            let column = column.to_owned();
            ColumnPartitions { database: place.database(), table: table.clone(), column, grid: 3 }
        };
        let rows = |by: &ColumnPartitions| {
            let mut all = Vec::new();
            for partition in by.cut().unwrap() {
                let rows: String = partition.values.get("where").unwrap();
                all.extend(place.numbers(&format!("SELECT id FROM t WHERE {rows}")));
            }
            all.sort_unstable();
            all
        };
        assert_eq!(rows(&by("id")), [1, 2, 3, 4, 5, 6], "{kind:?}");
        let by = by(&column);
        assert_eq!(rows(&by), [1, 2, 3, 4, 5, 6], "{kind:?}");
        let last = by.cut().unwrap().pop().unwrap();
        assert_eq!((last.key.as_str(), last.values.has("min")), ("null", false), "{kind:?}");
        place.run("DELETE FROM t WHERE v IS NOT NULL");
        assert_eq!(rows(&by), [3, 5], "{kind:?}");
    }
}

#[test]
fn a_key_of_two_columns_goes_on_behind_the_last_row() {
    for kind in all() {
        let place = Place::new(kind);
        place.run("CREATE TABLE t (a BIGINT, b BIGINT, PRIMARY KEY (a, b))");
        for a in 1..=3 {
            place.run(&format!("INSERT INTO t VALUES ({a}, 1), ({a}, 2), ({a}, 3)"));
        }
        place.run("CREATE TABLE u (a BIGINT, b BIGINT)");
        let written = Arc::new(Mutex::new(Vec::new()));
        let reader = SqlReader::new(place.database(), "SELECT b, a FROM t", |row| {
            Ok((row.get::<i64>("a")?, row.get::<i64>("b")?))
        });
        let operator = operator(&place, interrupted(reader.keyset(["a", "b"]), &written));
        let mut last = start(&operator);
        let mut executions = 1;
        while last.status != BatchStatus::Completed {
            last = restart(&operator, &last);
            executions += 1;
        }
        assert!(executions > 3, "{kind:?}");
        let all: Vec<_> = (1..=3).flat_map(|a| (1..=3).map(move |b| (a, b))).collect();
        assert_eq!(*written.lock().unwrap(), all, "{kind:?}");
    }
}

/// Writes the items of `reader` in chunks of two; every third item of an execution fails the step.
fn interrupted<T: Clone + Send + Sync + 'static>(
    reader: SqlReader<T>,
    written: &Arc<Mutex<Vec<T>>>,
) -> impl Step + 'static {
    let seen = Arc::new(Mutex::new(0));
    ChunkStepBuilder::new("step")
        .reader(reader)
        .processor(move |item: &T| {
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            match *seen % 3 {
                0 => Err(ItemError::data("take a rest")),
                _ => Ok(Some(item.clone())),
            }
        })
        .writer(ListWriter::new(Arc::clone(written)))
        .chunk_size(2)
        .build()
}

#[test]
fn a_tie_that_only_the_collation_sees_is_refused_at_the_restart() {
    for kind in [Kind::Sqlite, Kind::MySql].into_iter().filter(|kind| kind.is_there()) {
        let place = Place::new(kind);
        let collation = if kind == Kind::Sqlite { "COLLATE NOCASE" } else { "" };
        place.run(&format!("CREATE TABLE t (k VARCHAR(9) {collation})"));
        place.run("INSERT INTO t VALUES ('a'), ('b'), ('B'), ('c')");
        let written = Arc::new(Mutex::new(Vec::new()));
        let reader =
            SqlReader::new(place.database(), "SELECT k FROM t", |row| row.get::<String>("k"));
        let operator = operator(&place, interrupted(reader.keyset("k"), &written));
        let failed = start(&operator);
        assert_eq!(written.lock().unwrap().len(), 2, "the last one is a `b`");
        let refused = restart(&operator, &failed).failure.unwrap();
        assert!(refused.message.contains("two rows have the key `"), "{kind:?}: {refused:?}");
        assert_eq!(written.lock().unwrap().len(), 2);
    }
}

#[test]
fn of_several_items_with_one_key_the_last_one_counts() {
    for kind in all() {
        let place = Place::new(kind);
        place.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)");
        place.run("INSERT INTO t VALUES (2, 0)");
        let rows = vec![(1, 10.into()), (2, 20.into()), (1, 11.into()), (2, 22.into())];
        completed(&run(&place, writing(rows, SqlMode::Upsert { key: vec!["id".to_owned()] })));
        assert_eq!(place.numbers("SELECT v FROM t ORDER BY id"), [11, 22], "{kind:?}");
    }
}

#[test]
fn an_update_of_a_row_that_is_not_there_gives_up_that_item_alone() {
    for kind in all() {
        let place = Place::new(kind);
        // The key is not unique, and two rows with one key do not compensate for a missing row.
        place.run("CREATE TABLE t (id BIGINT, v BIGINT)");
        place.run("INSERT INTO t VALUES (1, 0), (1, 0), (3, 0)");
        let writer = SqlWriter::in_store("t", ["id", "v"], |id: &i64, to| {
            to.bind(*id)?;
            to.bind(id * 10)
        });
        let step = ChunkStepBuilder::new("step")
            .reader(ListReader::new(vec![1_i64, 2, 3]))
            .writer(writer.mode(SqlMode::Update { key: vec!["id".to_owned()] }).unwrap())
            .skip(SkipPolicy::limit(1))
            .build();
        let operator = operator(&place, step);
        let done = start(&operator);
        completed(&done);
        let skips = operator.queries().skips(done.id).unwrap();
        assert_eq!(
            skips.iter().map(|skip| (skip.item, skip.kind.as_str())).collect::<Vec<_>>(),
            [(2, "data.missing")]
        );
        assert_eq!(place.numbers("SELECT v FROM t ORDER BY id"), [10, 10, 30], "{kind:?}");
    }
}

#[test]
fn tables_and_columns_may_be_called_anything() {
    for kind in all() {
        let place = Place::new(kind);
        let quote = if kind == Kind::MySql { '`' } else { '"' };
        place.run(&format!("CREATE TABLE {quote}select s{quote} ({quote}n{quote} BIGINT PRIMARY KEY, {quote}to \"it{quote} BIGINT)").replace("to \"it", "to it"));
        for mode in [
            SqlMode::Insert,
            SqlMode::Upsert { key: vec!["n".to_owned()] },
            SqlMode::Update { key: vec!["n".to_owned()] },
        ] {
            let writer = SqlWriter::in_store("select s", ["n", "to it"], |n: &i64, to| {
                to.bind(*n)?;
                to.bind(n + 1)
            });
            let step = ChunkStepBuilder::new("step")
                .reader(ListReader::new(vec![1_i64, 2]))
                .writer(writer.mode(mode).unwrap())
                .build();
            let operator = JobOperator::new(place.repository());
            operator.registry().register(Job::builder("job").step(step).build().unwrap()).unwrap();
            let parameters = JobParameters::new()
                .with("run", place.numbers("SELECT count(*) FROM bw_job_instance")[0]);
            completed(&operator.start("job", parameters).unwrap().wait().unwrap());
        }
        assert_eq!(
            place.numbers(&format!(
                "SELECT {quote}to it{quote} FROM {quote}select s{quote} ORDER BY 1"
            )),
            [2, 3]
        );
    }
}

#[test]
fn a_statement_of_ones_own_is_run_once_for_every_item() {
    for kind in all() {
        let place = Place::new(kind);
        place.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)");
        let sql = match kind {
            Kind::Sqlite => "INSERT INTO t VALUES (?1, ?2 * 2)",
            Kind::Postgres => "INSERT INTO t VALUES ($1, $2 * 2)",
            Kind::MySql => "INSERT INTO t VALUES (?, ? * 2)",
        };
        let rows = (1..=5).map(|n| (n, n.into())).collect();
        completed(&run(&place, writing(rows, SqlMode::Statement(sql.to_owned()))));
        assert_eq!(place.numbers("SELECT v FROM t ORDER BY id"), [2, 4, 6, 8, 10]);
    }
}

#[test]
fn a_reader_goes_on_behind_its_key_whatever_the_keys_type() {
    for kind in all() {
        let types: &[&str] = match kind {
            Kind::Sqlite => &["BIGINT", "TEXT"],
            Kind::Postgres => &["BIGINT", "TEXT", "NUMERIC(12,3)", "DATE", "UUID", "TIMESTAMPTZ"],
            Kind::MySql => &["BIGINT", "VARCHAR(40)", "DECIMAL(12,3)", "DATE"],
        };
        for key in types {
            let place = Place::new(kind);
            place.run(&format!("CREATE TABLE t (k {key} PRIMARY KEY, v BIGINT)"));
            for n in 0..40 {
                let value = match *key {
                    "BIGINT" => format!("{n}"),
                    "DATE" => format!("'2026-{:02}-{:02}'", n / 20 + 1, n % 20 + 1),
                    "UUID" => format!("'00000000-0000-0000-0000-0000000000{n:02}'"),
                    "TIMESTAMPTZ" => format!("'2026-01-01 00:00:{n:02}+00'"),
                    "TEXT" | "VARCHAR(40)" => format!("'key {n:02}'"),
                    // Ordered as numbers, not as text.
                    _ => format!("{}.5", n - 9),
                };
                place.run(&format!("INSERT INTO t VALUES ({value}, {n})"));
            }
            let read = Arc::new(Mutex::new(Vec::new()));
            let reader =
                SqlReader::new(place.database(), "SELECT k, v FROM t", |row| row.get::<i64>("v"));
            let faults = Arc::new(Mutex::new(FaultPlan {
                fatal_write: [20].into(),
                ..FaultPlan::default()
            }));
            let (written, plan) = (Arc::clone(&read), Arc::clone(&faults));
            let step = ChunkStepBuilder::new("step")
                .reader(reader.keyset("k"))
                .processor(|v: &i64| Ok(Some(v.unsigned_abs())))
                .writer_with(move |_| {
                    Ok(FaultyWriter::new(
                        ListWriter::new(Arc::clone(&written)),
                        &plan.lock().unwrap(),
                    ))
                })
                .chunk_size(7)
                .build();
            let operator = operator(&place, step);
            let failed = start(&operator);
            assert_eq!(failed.status, BatchStatus::Failed, "{kind:?} {key}");
            *faults.lock().unwrap() = FaultPlan::default();
            completed(&restart(&operator, &failed));
            assert_eq!(*read.lock().unwrap(), (0..40).collect::<Vec<u64>>(), "{kind:?} {key}");
        }
    }
}

#[test]
fn statements_of_a_step_are_undone_with_it() {
    for kind in all() {
        let place = Place::new(kind);
        place.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v BIGINT)");
        let text =
            "INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2); INSERT INTO t VALUES (1, 3)";
        let step = TaskletStep::of("step", SqlTasklet::in_store(|_| Ok(text.to_owned())));
        assert_eq!(run(&place, step).status, BatchStatus::Failed);
        assert!(place.numbers("SELECT id FROM t").is_empty(), "{kind:?}: all or none");
        let died = JobOperator::builder(place.repository())
            .commit_hook(|_, _, point| assert!(point != CommitPoint::Before, "the process died"))
            .build();
        let whole = SqlTasklet::in_store(|_| Ok("INSERT INTO t VALUES (7, 7)".to_owned()));
        let step = TaskletStep::of("step", whole);
        died.registry().register(Job::builder("other").step(step).build().unwrap()).unwrap();
        died.start("other", JobParameters::new()).unwrap().wait().unwrap();
        assert!(
            place.numbers("SELECT id FROM t").is_empty(),
            "{kind:?}: not before its checkpoint"
        );
    }
}

#[test]
fn a_rerun_writes_to_another_database_although_its_first_attempt_died_early() {
    for kind in all() {
        let (store, sink) = (Place::new(Kind::Sqlite), Place::new(kind));
        sink.run("CREATE TABLE t (n BIGINT)");
        let broken = Arc::new(Mutex::new(false));
        let (state, database) = (Arc::clone(&broken), sink.database());
        let step = ChunkStepBuilder::new("again")
            .reader(Sequence::to(3))
            .writer_with(move |_| {
                if *state.lock().unwrap() {
                    return Err(ItemError::data("cannot be reached"));
                }
                Ok(SqlWriter::in_database(database.clone(), "t", ["n"], |n: &u64, to| {
                    to.bind(*n as i64)
                }))
            })
            .allow_start_if_complete()
            .build();
        let gate = Arc::new(Mutex::new(false));
        let open = Arc::clone(&gate);
        let last = TaskletStep::new("last", move |_| match *open.lock().unwrap() {
            true => Ok(Flow::Finished),
            false => Err(ItemError::data("not yet")),
        });
        let operator = JobOperator::new(store.repository());
        let job = Job::builder("job").step(step).step(last).build().unwrap();
        operator.registry().register(job).unwrap();
        let first = start(&operator);
        *broken.lock().unwrap() = true;
        let second = restart(&operator, &first);
        *broken.lock().unwrap() = false;
        *gate.lock().unwrap() = true;
        completed(&restart(&operator, &second));
        assert_eq!(
            sink.numbers("SELECT n FROM t ORDER BY n"),
            [1, 1, 2, 2, 3, 3],
            "{kind:?}: two whole runs"
        );
    }
}

#[test]
fn row_130_concurrent_starts_of_the_next_instance_never_make_the_same_one() {
    for kind in all() {
        let place = Place::new(kind);
        let repository = place.repository();
        let together = Arc::new(Barrier::new(6));
        let threads: Vec<_> = (0..6)
            .map(|_| {
                let (repository, together) = (Arc::clone(&repository), Arc::clone(&together));
                std::thread::spawn(move || {
                    let operator = JobOperator::new(repository);
                    let step = TaskletStep::new("step", |_| Ok(Flow::Finished));
                    let job =
                        Job::builder("job").step(step).next(increment("run", 1)).build().unwrap();
                    operator.registry().register(job).unwrap();
                    together.wait();
                    let next = operator.next("job");
                    next.map(|handle| handle.wait().unwrap().parameters)
                        .map_err(|error| error.to_string())
                })
            })
            .collect();
        let mut runs: Vec<_> =
            threads.into_iter().map(|one| one.join().unwrap().unwrap()).collect();
        runs.sort_by_key(|one| format!("{one:?}"));
        runs.dedup();
        assert_eq!(runs.len(), 6, "{kind:?}: six instances");
    }
}

#[test]
fn of_one_request_that_comes_several_times_at_once_one_starts_something() {
    const ROUNDS: usize = 10;
    for kind in all() {
        let place = Place::new(kind);
        let repository = place.repository();
        let operator = JobOperator::new(repository.clone());
        let step = TaskletStep::new("step", |_| Ok(Flow::Finished));
        let job = Job::builder("job").step(step).next(increment("run", 1)).build().unwrap();
        operator.registry().register(job).unwrap();
        let together = Barrier::new(4);
        for round in 0..ROUNDS {
            let request = RequestKey { key: format!("k{round}"), fingerprint: "all".to_owned() };
            let options = LaunchOptions { request: Some(request.clone()), ..Default::default() };
            let launch = Launch::next("job").options(options);
            let next = || {
                together.wait();
                let next = operator.launch(&launch);
                next.map(|handle| handle.wait().unwrap().id).map_err(|error| error.to_string())
            };
            let ends: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(next)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let started: Vec<_> = ends.iter().filter_map(|end| end.as_ref().ok()).collect();
            assert_eq!(started.len(), 1, "{kind:?}: {ends:?}");
            let known = operator.explorer().requested(&request).unwrap();
            assert_eq!(known.as_ref(), Some(started[0]), "{kind:?}");
            let message = format!("this request already started execution {}", started[0]);
            let refused: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
            assert!(refused.iter().all(|one| one.ends_with(&message)), "{kind:?}: {ends:?}");
            let other = RequestKey { fingerprint: "other".to_owned(), ..request };
            assert_eq!(operator.explorer().requested(&other).unwrap_err().code(), "key_reused");
            let options = LaunchOptions { request: Some(other), ..Default::default() };
            let refused = operator.launch(&Launch::next("job").options(options)).unwrap_err();
            assert_eq!(refused.code(), "key_reused", "{refused}");
        }
        let all = operator.queries().executions(&ExecutionFilter::of_job("job")).unwrap();
        assert_eq!(all.len(), ROUNDS, "{kind:?}");
    }
}

#[test]
fn two_partitions_that_change_the_jobs_context_do_not_wait_for_each_other_for_ever() {
    for kind in all() {
        let place = Place::new(kind);
        place.run("CREATE TABLE t (n BIGINT)");
        let branch = |name: &str| {
            let step = TaskletStep::new(name, |call| {
                let step = call.scope().step().to_owned();
                call.scope().job().context().put(&step, &1)?;
                Ok(Flow::Finished)
            });
            batchwright::job::JobFlow::builder(format!("flow {name}")).step(step)
        };
        let operator = JobOperator::new(place.repository());
        let job =
            Job::builder("job").split("all", ["a", "b", "c", "d"].map(branch)).build().unwrap();
        operator.registry().register(job).unwrap();
        let done = start(&operator);
        completed(&done);
        assert_eq!(done.context.names().count(), 4, "{kind:?}");
    }
}

#[test]
fn a_store_can_be_used_and_dropped_inside_an_asynchronous_program() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for kind in servers() {
        let place = Place::new(kind);
        let url = place.url.clone();
        runtime.block_on(async {
            let database = Database::parse(&url).unwrap();
            assert!(database.tables().unwrap().is_empty());
            let repository = batchwright_store::SqlRepository::connect(&url).unwrap();
            assert!(batchwright::query::Queries::job_names(&repository).unwrap().is_empty());
        });
    }
}

#[test]
fn a_text_with_a_nul_fails_no_store() {
    for kind in all() {
        let place = Place::new(kind);
        let step = ChunkStepBuilder::new("step")
            .reader(Sequence::to(3))
            .processor(|n: &u64| match n {
                2 => Err(ItemError::data("a NUL: \0 in it")),
                n => Ok(Some(*n)),
            })
            .writer(batchwright::item::NoWriter::new())
            .skip(SkipPolicy::limit(1))
            .build();
        completed(&run(&place, step));
        let step = TaskletStep::new("step", |_| Err(ItemError::data("a \0 too")));
        let operator = JobOperator::new(place.repository());
        operator
            .registry()
            .register(
                Job::builder("other").step(step.options(StepOptions::default())).build().unwrap(),
            )
            .unwrap();
        let failed = operator.start("other", JobParameters::new()).unwrap().wait().unwrap();
        assert_eq!(failed.status, BatchStatus::Failed, "{kind:?}: its end is stored");
    }
}

#[test]
fn a_key_with_ties_fails_the_step_before_a_row_is_lost_or_repeated() {
    for kind in all() {
        let place = Place::new(kind);
        place.run("CREATE TABLE t (k BIGINT, v BIGINT)");
        place.run("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (3, 4), (4, 5)");
        let written = Arc::new(Mutex::new(Vec::new()));
        let reader =
            SqlReader::new(place.database(), "SELECT k, v FROM t", |row| row.get::<i64>("v"));
        let step = ChunkStepBuilder::new("step")
            .reader(reader.keyset("k"))
            .writer(ListWriter::new(Arc::clone(&written)))
            .chunk_size(1)
            .build();
        let failed = start(&operator(&place, step));
        let message = failed.failure.expect("it failed").message;
        assert!(message.contains("key `k`: 3 occurs in two rows"), "{kind:?}: {message}");
        assert!(written.lock().unwrap().len() <= 3, "{kind:?}: nothing after the tie");
    }
}

#[test]
fn a_key_that_sorts_otherwise_than_it_compares_is_refused_before_anything_is_read() {
    if !Kind::MySql.is_there() {
        return;
    }
    let place = Place::new(Kind::MySql);
    place.run("CREATE TABLE t (k ENUM('z', 'a') PRIMARY KEY)");
    place.run("INSERT INTO t VALUES ('z'), ('a')");
    let written = Arc::new(Mutex::new(Vec::new()));
    let reader = SqlReader::new(place.database(), "SELECT k FROM t", |row| row.get::<String>("k"));
    let step = ChunkStepBuilder::new("step")
        .reader(reader.keyset("k"))
        .writer(ListWriter::new(Arc::clone(&written)))
        .build();
    let failed = start(&operator(&place, step));
    let message = failed.failure.expect("it failed").message;
    assert!(message.contains("of type ENUM, which sorts and compares differently"), "{message}");
    assert!(written.lock().unwrap().is_empty());
}

#[test]
fn a_row_that_no_packet_of_the_server_holds_is_a_bad_record_like_others() {
    if !Kind::MySql.is_there() {
        return;
    }
    let place = Place::new(Kind::MySql);
    place.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v LONGTEXT)");
    let large = "x".repeat(17 * 1024 * 1024);
    let rows: Vec<Row> = vec![(1, "a".into()), (2, large.into()), (3, "c".into())];
    let update = SqlMode::Update { key: vec!["id".to_owned()] };
    for (mode, ids) in [(SqlMode::Insert, vec![1, 3]), (update, vec![1, 3])] {
        let writer = SqlWriter::in_store("t", ["id", "v"], |row: &Row, to| {
            to.bind(row.0)?;
            to.bind(row.1.clone())
        });
        let step = ChunkStepBuilder::new("step")
            .reader(ListReader::new(rows.clone()))
            .writer(writer.mode(mode).unwrap())
            .skip(SkipPolicy::limit(1))
            .build();
        let operator = operator(&place, step);
        let count = place.numbers("SELECT count(*) FROM bw_job_instance")[0];
        let done = operator.start("job", JobParameters::new().with("run", count)).unwrap();
        completed(&done.wait().unwrap());
        assert_eq!(place.numbers("SELECT id FROM t ORDER BY id"), ids);
    }
    let skips = place.database().query("SELECT item, kind, message FROM bw_skip_record").unwrap();
    assert_eq!(skips.len(), 2);
    for skip in skips {
        assert_eq!(skip[..2], [SqlValue::Integer(2), "data".into()]);
        let SqlValue::Text(message) = &skip[2] else { panic!() };
        assert!(message.contains("max_allowed_packet = 16777216"), "{message}");
    }
}

#[test]
fn a_stop_cancels_a_query_that_would_never_end() {
    // The cross join of eight tables of a hundred rows has too many rows to count.
    const ENDLESS: &str = "SELECT count(*) AS n FROM t a, t b, t c, t d, t e, t f, t g, t h";
    thread::scope(|threads| {
        for kind in all() {
            threads.spawn(move || {
                let place = Place::new(kind);
                place.run("CREATE TABLE t (n BIGINT)");
                place.run("CREATE TABLE u (n BIGINT)");
                for n in 0..100 {
                    place.run(&format!("INSERT INTO t VALUES ({n})"));
                }
                let statement = format!("INSERT INTO u {}", ENDLESS.replace(" AS n", ""));
                let tasklet = SqlTasklet::in_store(move |_| Ok(statement.clone()));
                let reader = SqlReader::new(place.database(), ENDLESS, |row| row.get::<i64>("n"));
                let step = ChunkStepBuilder::new("read")
                    .reader(reader)
                    .writer(ListWriter::new(Arc::default()))
                    .build();
                let jobs = [
                    Job::builder("change")
                        .step(TaskletStep::of("change", tasklet))
                        .build()
                        .unwrap(),
                    Job::builder("read").step(step).build().unwrap(),
                ];
                for job in jobs {
                    let operator = JobOperator::new(place.repository());
                    let name = job.name().to_owned();
                    operator.registry().register(job).unwrap();
                    let handle = operator.start(&name, JobParameters::new()).unwrap();
                    until("it runs", || {
                        let steps = operator.queries().steps(handle.id()).unwrap();
                        steps.first().is_some_and(|step| step.status == BatchStatus::Started)
                    });
                    operator.stop(handle.id()).unwrap();
                    let done = handle.wait().unwrap();
                    assert_eq!(done.status, BatchStatus::Stopped, "{kind:?}: {:?}", done.failure);
                }
                assert!(place.numbers("SELECT n FROM u").is_empty());
            });
        }
    });
}
