//! On SQLite too the engine does exactly what the reference model says: rows in the store's own database,
//! and in another one.

#[path = "../../batchwright/tests/common/mod.rs"]
mod common;

use std::sync::Arc;

use batchwright::testing::oracle::{Shape, check};
use batchwright::{Durability, JobRepository};
use batchwright_store::{SqlWriter, SqliteDatabase, SqliteOptions, SqliteRepository};
use common::cases;
use proptest::prelude::*;

fn numbers(database: &SqliteDatabase) -> Vec<u64> {
    let connection = database.connect_read_only().unwrap();
    let mut rows = connection.prepare("SELECT n FROM number ORDER BY rowid").unwrap();
    let rows = rows.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    rows.map(|n| u64::try_from(n.unwrap()).unwrap()).collect()
}

fn table(database: &SqliteDatabase) {
    let connection = database.connect().unwrap();
    connection.execute_batch("CREATE TABLE number (n INTEGER NOT NULL)").unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn sqlite_does_what_the_model_says(
        case in cases(),
        read_ahead in 0usize..4,
        parallelism in 1usize..4,
        elsewhere in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options =
            SqliteOptions { durability: Durability::Process, ..SqliteOptions::default() };
        let store = SqliteRepository::open_with(dir.path().join("a.db"), &options).unwrap();
        let sink = match elsewhere {
            true => SqliteDatabase::at(dir.path().join("b.db")),
            false => store.database().clone(),
        };
        table(&sink);
        let bind = |n: &u64, row: &mut batchwright_store::RowBinder<'_, '_>| row.bind(*n as i64);
        let writer = match elsewhere {
            true => SqlWriter::in_database(sink.clone(), "number", ["n"], bind),
            false => SqlWriter::in_store("number", ["n"], bind),
        };
        let repository: Arc<dyn JobRepository> = Arc::new(store);
        let shape = Shape { read_ahead, parallelism };
        check(&repository, &writer, || numbers(&sink), &case, shape);
    }
}
