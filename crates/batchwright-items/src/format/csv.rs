//! CSV readers and writers, with or without a header line.

mod format;
mod kind;
mod reader;
mod record;
mod split;
mod writer;

pub use format::CsvFormat;
#[cfg(feature = "excel")]
pub(super) use format::check_names;
pub(crate) use kind::Csv;
pub use reader::{CsvPosition, CsvReader};
pub use record::CsvRecord;
pub use writer::{CsvRecords, CsvWriter};
