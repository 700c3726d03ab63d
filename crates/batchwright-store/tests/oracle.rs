//! On every database the engine does exactly what the reference model predicts, with rows in the store's own
//! database and in another one.

mod common;
#[path = "../../batchwright/tests/common/mod.rs"]
mod plans;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use batchwright::store::JobRepository;
use batchwright::testing::fault::{FaultPlan, FaultyWriter};
use batchwright::testing::oracle::{Shape, check};
use batchwright::{BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters, ListWriter};
use batchwright_store::{RowBinder, SqlReader, SqlWriter};
use common::{Kind, Place, all};
use plans::cases;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Runs `count` random plans on a store of kind `store`, with the rows in it or in a database of kind
/// `other`.
fn does_what_the_model_says(count: u32, store: Kind, other: Kind) {
    if !store.is_there() || !other.is_there() {
        return;
    }
    let (store, other) = (Place::new(store), Place::new(other));
    // Automatic ids have a different syntax in each database; a growing id records the order of writing. A
    // number that is not in `accepted` is refused when its transaction commits, not when it is written. MySQL
    // has no deferred constraints, so there all numbers are accepted.
    const DEFERRED: &str = "REFERENCES accepted (n) DEFERRABLE INITIALLY DEFERRED";
    let schema = |kind| match kind {
        Kind::Sqlite => format!("(id INTEGER PRIMARY KEY, n INTEGER NOT NULL {DEFERRED})"),
        Kind::Postgres => format!("(id BIGSERIAL PRIMARY KEY, n BIGINT NOT NULL {DEFERRED})"),
        Kind::MySql => "(id BIGINT AUTO_INCREMENT PRIMARY KEY, n BIGINT NOT NULL)".to_owned(),
    };
    for place in [&store, &other] {
        place.run("CREATE TABLE accepted (n BIGINT PRIMARY KEY)");
        place.run(&format!("CREATE TABLE number {}", schema(place.kind)));
    }
    let repository: Arc<dyn JobRepository> = store.repository();
    let config =
        ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() };
    let plans = (cases(), 0usize..4, 1usize..4, any::<bool>());
    let round = std::cell::Cell::new(0);
    TestRunner::new(config)
        .run(&plans, |(case, read_ahead, parallelism, elsewhere)| {
            // All plans share one store; each has its own job.
            round.set(round.get() + 1);
            let bind = |n: &u64, row: &mut RowBinder<'_, '_>| row.bind(*n as i64);
            let (sink, writer) = match elsewhere {
                true => (&other, SqlWriter::in_database(other.database(), "number", ["n"], bind)),
                false => (&store, SqlWriter::in_store("number", ["n"], bind)),
            };
            let accept = |refused: &BTreeSet<u64>| {
                let accepted = (1..25).filter(|n| !refused.contains(n)).map(|n| format!("({n})"));
                let accepted = accepted.collect::<Vec<_>>().join(", ");
                sink.run(&format!("DELETE FROM number; DELETE FROM accepted; INSERT INTO accepted VALUES {accepted}"));
            };
            let mut case = case;
            if sink.kind == Kind::MySql {
                case.refused.clear();
            }
            accept(&case.refused);
            let accept_all = || {
                for n in &case.refused {
                    sink.run(&format!("INSERT INTO accepted VALUES ({n})"));
                }
            };
            let rows = || {
                let rows = sink.numbers("SELECT n FROM number ORDER BY id");
                rows.into_iter().map(|n| u64::try_from(n).unwrap()).collect()
            };
            let name = format!("numbers-{}", round.get());
            let shape = Shape { read_ahead, parallelism };
            check(&repository, &name, &writer, rows, accept_all, &case, shape);
            Ok(())
        })
        .unwrap();
}

#[test]
fn sqlite_does_what_the_model_says() {
    does_what_the_model_says(300, Kind::Sqlite, Kind::Sqlite);
}

#[test]
fn postgresql_does_what_the_model_says() {
    does_what_the_model_says(60, Kind::Postgres, Kind::Postgres);
}

#[test]
fn mariadb_does_what_the_model_says() {
    does_what_the_model_says(60, Kind::MySql, Kind::MySql);
}

#[test]
fn a_store_and_a_sink_of_different_kinds_do_what_the_model_says() {
    does_what_the_model_says(15, Kind::Postgres, Kind::MySql);
    does_what_the_model_says(15, Kind::MySql, Kind::Sqlite);
    does_what_the_model_says(15, Kind::Sqlite, Kind::Postgres);
}

/// Random keys, some of them twice, read by a step that fails at a random item and is restarted.
#[test]
fn rows_behind_a_key_are_read_once_each_or_the_tie_is_told_before_one_is_lost() {
    for kind in all() {
        let place = Place::new(kind);
        place.run("CREATE TABLE keyed (k BIGINT NOT NULL)");
        let repository: Arc<dyn JobRepository> = place.repository();
        let cases = if kind == Kind::Sqlite { 200 } else { 40 };
        let config =
            ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let plans = (proptest::collection::vec(0u64..200, 1..25), 1usize..9, 1u64..25);
        let round = std::cell::Cell::new(0);
        TestRunner::new(config)
            .run(&plans, |(mut keys, chunk, failing)| {
                round.set(round.get() + 1);
                let rows = keys.iter().map(|key| format!("({key})")).collect::<Vec<_>>().join(", ");
                place.run(&format!("DELETE FROM keyed; INSERT INTO keyed VALUES {rows}"));
                keys.sort_unstable();
                let written = Arc::new(Mutex::new(Vec::new()));
                let faults = Arc::new(Mutex::new(FaultPlan::default()));
                faults.lock().unwrap().fatal_write.insert(failing);
                let (sink, plan) = (Arc::clone(&written), Arc::clone(&faults));
                let reader = SqlReader::new(place.database(), "SELECT k FROM keyed", |row| {
                    row.get::<i64>("k")
                });
                let step = ChunkStepBuilder::new("read")
                    .reader(reader.keyset("k"))
                    .processor(|key: &i64| Ok(Some(key.unsigned_abs())))
                    .writer_with(move |_| {
                        let writer = ListWriter::new(Arc::clone(&sink));
                        Ok(FaultyWriter::new(writer, &plan.lock().unwrap()))
                    })
                    .chunk_size(chunk)
                    .build();
                let operator = JobOperator::new(Arc::clone(&repository));
                let name = format!("keys-{}", round.get());
                operator
                    .registry()
                    .register(Job::builder(&*name).step(step).build().unwrap())
                    .unwrap();
                let none = JobParameters::new();
                let mut done = operator.start(&name, none.clone()).unwrap().wait().unwrap();
                *faults.lock().unwrap() = FaultPlan::default();
                if done.status != BatchStatus::Completed {
                    let again = operator.restart(done.id).unwrap();
                    done = again.wait().unwrap();
                }
                let written = written.lock().unwrap().clone();
                let tie = keys.windows(2).position(|pair| pair[0] == pair[1]);
                match tie {
                    None => prop_assert_eq!((done.status, written), (BatchStatus::Completed, keys)),
                    Some(at) => {
                        prop_assert_eq!(done.status, BatchStatus::Failed);
                        let message = done.failure.expect("it failed").message;
                        prop_assert!(message.contains("occurs in two rows"), "{}", message);
                        // Only whole chunks before the tie are written, each row once.
                        prop_assert!(written.len() <= at + 1);
                        prop_assert_eq!(&written[..], &keys[..written.len()]);
                    }
                }
                Ok(())
            })
            .unwrap();
    }
}
