//! Readers, writers, partitioners and tasklets for SQL tables.

mod column;
mod interrupt;
mod key;
mod named;
mod reader;
mod sink;
mod statement;
mod tasklet;
mod writer;

pub use column::ColumnPartitions;
pub use key::KeyColumns;
pub use named::NamedStatement;
pub use reader::SqlReader;
pub use statement::{RowBinder, SqlMode};
pub use tasklet::SqlTasklet;
pub use writer::SqlWriter;
