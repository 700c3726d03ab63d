//! Stores and steps with PgBouncer in transaction mode, where each transaction may use another session.

mod common;

use std::sync::Arc;

use batchwright::testing::conformance;
use batchwright::{BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters};
use batchwright_store::{Database, RowBinder, SqlReader, SqlRepository, SqlWriter};
use batchwright_testkit::{Service, needs};
use common::{Kind, Place};

/// A database for the test, and its URL through the pool.
fn pooled() -> Option<(Place, String)> {
    let pool = needs(Service::PgBouncer)?;
    if !Kind::Postgres.is_there() {
        return None;
    }
    let place = Place::new(Kind::Postgres);
    let name = place.url.rsplit_once('/').unwrap().1;
    let url = format!("{}/{name}?pgbouncer=true", pool.rsplit_once('/').unwrap().0);
    Some((place, url))
}

#[test]
fn a_store_behind_a_pool_of_transactions_keeps_the_promises_of_a_repository() {
    let Some((_place, url)) = pooled() else { return };
    conformance(&SqlRepository::connect(&url).unwrap());
}

#[test]
fn items_go_through_a_pool_of_transactions_and_a_restart_is_exact() {
    let Some((place, url)) = pooled() else { return };
    place.run("CREATE TABLE source (n BIGINT PRIMARY KEY)");
    place.run("CREATE TABLE sink (n BIGINT PRIMARY KEY)");
    place.run("INSERT INTO source SELECT generate_series(1, 5000)");
    let database = Database::parse(&url).unwrap();
    let repository = Arc::new(SqlRepository::connect(&url).unwrap());
    let bind = |n: &i64, row: &mut RowBinder<'_, '_>| row.bind(*n);
    for (name, writer) in [
        ("own", SqlWriter::in_store("sink", ["n"], bind)),
        ("other", SqlWriter::in_database(database.clone(), "sink", ["n"], bind)),
    ] {
        place.run("DELETE FROM sink");
        let query = "SELECT n FROM source";
        let reader = SqlReader::new(database.clone(), query, |row| row.get::<i64>("n")).keyset("n");
        let gate = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let closed = Arc::clone(&gate);
        let step = ChunkStepBuilder::new("copy")
            .reader(reader)
            .processor(move |n: &i64| {
                match *n == 2_500 && closed.load(std::sync::atomic::Ordering::SeqCst) {
                    true => Err(batchwright::ItemError::data("not yet")),
                    false => Ok(Some(*n)),
                }
            })
            .writer(writer)
            .chunk_size(100)
            .build();
        let operator = JobOperator::new(Arc::clone(&repository) as _);
        operator.registry().register(Job::builder(name).step(step).build().unwrap()).unwrap();
        let none = JobParameters::new();
        let failed = operator.start(name, none.clone()).unwrap().wait().unwrap();
        assert_eq!(failed.status, BatchStatus::Failed, "{name}: {:?}", failed.failure);
        gate.store(false, std::sync::atomic::Ordering::SeqCst);
        let again = operator.restart(failed.id).unwrap();
        let done = again.wait().unwrap();
        assert_eq!(done.status, BatchStatus::Completed, "{name}: {:?}", done.failure);
        let rows = place.numbers("SELECT n FROM sink ORDER BY n");
        assert_eq!(rows, (1..=5_000).collect::<Vec<_>>(), "{name}");
    }
}
