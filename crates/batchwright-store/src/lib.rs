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

#![cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "mysql")),
    allow(dead_code, unused, reason = "the drivers that are left out use the rest")
)]

#[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
compile_error!("enable a feature of batchwright-store: `sqlite`, `postgres` or `mysql`");

mod database;
mod item;
mod repository;
mod schedule;

#[cfg(feature = "mysql")]
pub use database::MySqlSession;
#[cfg(feature = "postgres")]
pub use database::PostgresSession;
pub use database::{Database, FromSql, ServerDatabase, SqlError, SqlRow, SqlValue, SqliteDatabase};
pub use item::{
    ColumnPartitions, KeyColumns, NamedStatement, RowBinder, SqlMode, SqlReader, SqlTasklet,
    SqlWriter,
};
pub use repository::{SqlRepository, StoreOptions};
#[cfg(feature = "sqlite")]
pub use rusqlite;
pub use schedule::SqlSchedule;
#[cfg(feature = "server")]
pub use sqlx;
