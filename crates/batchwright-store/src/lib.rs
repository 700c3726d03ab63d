//! Durable storage for Batchwright on SQL databases: the job repository, the schedule, and readers and
//! writers of SQL tables.
//!
//! ```
//! use std::sync::Arc;
//! use batchwright::{ChunkStepBuilder, Job, JobOperator, JobParameters, Sequence};
//! use batchwright_store::{SqlRepository, SqlWriter, SqliteDatabase};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("app.db");
//! let repository = Arc::new(SqlRepository::sqlite(&path)?);
//! SqliteDatabase::at(&path).connect()?.execute_batch("CREATE TABLE number (n INTEGER PRIMARY KEY)")?;
//!
//! // Rows and checkpoint commit in one transaction: `kill -9` loses and repeats nothing.
//! let step = ChunkStepBuilder::new("load")
//!     .reader(Sequence::to(10))
//!     .writer(SqlWriter::in_store("number", ["n"], |n: &u64, row| row.bind(*n as i64)))
//!     .build();
//! let operator = JobOperator::new(repository);
//! operator.registry().register(Job::builder("numbers").step(step).build()?)?;
//! operator.run("numbers", JobParameters::new())?;
//! # Ok(())
//! # }
//! ```

mod database;
mod item;
mod repository;
mod schedule;

pub use database::{
    Database, FromSql, MySqlSession, PostgresSession, ServerDatabase, SqlError, SqlRow, SqlValue,
    SqliteDatabase,
};
pub use item::{
    ColumnPartitions, KeyColumns, NamedStatement, RowBinder, SqlMode, SqlReader, SqlTasklet,
    SqlWriter,
};
pub use repository::{SqlRepository, StoreOptions};
pub use rusqlite;
pub use schedule::SqlSchedule;
pub use sqlx;
