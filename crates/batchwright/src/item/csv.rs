//! CSV readers and writers, with or without a header line.

mod format;
mod reader;
mod record;
mod split;
mod writer;

pub use format::CsvFormat;
pub use reader::{CsvPosition, CsvReader};
pub use record::CsvRecord;
pub use writer::{CsvRecords, CsvWriter};
