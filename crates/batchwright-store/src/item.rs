//! Items in SQL tables.

mod reader;
mod tasklet;
mod writer;

pub use reader::SqlReader;
pub use tasklet::SqlTasklet;
pub use writer::{RowBinder, SqlMode, SqlWriter};

use batchwright::{ErrorKind, ItemError};

/// What SQLite reports about an item, as a kind that policies can name.
fn item_error(action: impl Into<String>, error: rusqlite::Error) -> ItemError {
    use rusqlite::ErrorCode::{
        CannotOpen, ConstraintViolation, DatabaseBusy, DatabaseLocked, DiskFull, ReadOnly,
        SystemIoFailure, TypeMismatch,
    };
    let kind = match error.sqlite_error_code() {
        // A record that lacks a field which the statement binds.
        None if matches!(error, rusqlite::Error::InvalidColumnName(_)) => ErrorKind::DATA,
        Some(ConstraintViolation) => ErrorKind::CONSTRAINT,
        Some(TypeMismatch) => ErrorKind::DATA,
        Some(
            DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure | ReadOnly | CannotOpen,
        ) => ErrorKind::IO,
        _ => ErrorKind::new("sql"),
    };
    ItemError::wrap(kind, action, error)
}

/// `name` as an identifier in SQL text, whatever it contains.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
