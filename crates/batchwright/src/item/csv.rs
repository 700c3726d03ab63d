//! CSV: records in, records out, with a header line or without.

mod format;
mod reader;
mod record;
mod split;
mod writer;

pub use format::CsvFormat;
pub use reader::{CsvPosition, CsvReader};
pub use record::CsvRecord;
pub use writer::{CsvRecords, CsvWriter};
