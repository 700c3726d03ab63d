//! Items in SQL tables.

mod column;
mod named;
mod reader;
mod sink;
mod statement;
mod tasklet;
mod writer;

pub use column::column_range;
pub use named::NamedStatement;
pub use reader::SqlReader;
pub use statement::{RowBinder, SqlMode};
pub use tasklet::SqlTasklet;
pub use writer::SqlWriter;
