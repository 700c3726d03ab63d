//! On every database too the engine does exactly what the reference model says: rows in the store's own
//! database, and in another one.

mod common;
#[path = "../../batchwright/tests/common/mod.rs"]
mod plans;

use std::sync::Arc;

use batchwright::JobRepository;
use batchwright::testing::oracle::{Shape, check};
use batchwright_store::{RowBinder, SqlWriter};
use common::{Kind, Place};
use plans::cases;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Runs `count` random plans on a store of kind `store`, with the rows in it or in a database of kind `other`.
fn does_what_the_model_says(count: u32, store: Kind, other: Kind) {
    let (store, other) = (Place::new(store), Place::new(other));
    // SERIAL and its like differ; the order of writing is told by a number that only grows.
    let schema = |kind| match kind {
        Kind::Sqlite => "CREATE TABLE number (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)",
        Kind::Postgres => "CREATE TABLE number (id BIGSERIAL PRIMARY KEY, n BIGINT NOT NULL)",
        Kind::MySql => {
            "CREATE TABLE number (id BIGINT AUTO_INCREMENT PRIMARY KEY, n BIGINT NOT NULL)"
        }
    };
    store.run(schema(store.kind));
    other.run(schema(other.kind));
    let repository: Arc<dyn JobRepository> = store.repository();
    let config =
        ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() };
    let plans = (cases(), 0usize..4, 1usize..4, any::<bool>());
    let round = std::cell::Cell::new(0);
    TestRunner::new(config)
        .run(&plans, |(case, read_ahead, parallelism, elsewhere)| {
            // One store for all plans: each has a job of its own.
            round.set(round.get() + 1);
            let bind = |n: &u64, row: &mut RowBinder<'_, '_>| row.bind(*n as i64);
            let (sink, writer) = match elsewhere {
                true => (&other, SqlWriter::in_database(other.database(), "number", ["n"], bind)),
                false => (&store, SqlWriter::in_store("number", ["n"], bind)),
            };
            sink.run("DELETE FROM number");
            let rows = || {
                let rows = sink.numbers("SELECT n FROM number ORDER BY id");
                rows.into_iter().map(|n| u64::try_from(n).unwrap()).collect()
            };
            let name = format!("numbers-{}", round.get());
            check(&repository, &name, &writer, rows, &case, Shape { read_ahead, parallelism });
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
