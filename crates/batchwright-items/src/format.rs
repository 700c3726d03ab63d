//! The formats of files: one module each, with its typed reader and writer and its kind for job files.

#[cfg(feature = "arrow")]
pub mod arrow;
#[cfg(any(feature = "excel", feature = "typed"))]
mod as_records;
#[cfg(feature = "avro")]
pub mod avro;
pub mod csv;
pub mod document;
#[cfg(feature = "excel")]
pub mod excel;
pub mod fixed_width;
pub mod json;
pub mod json_lines;
mod line_end;
pub mod lines;
mod lines_around;
#[cfg(feature = "parquet")]
pub mod parquet;
mod raw;
#[cfg(feature = "typed")]
pub mod typed;
#[cfg(feature = "xml")]
pub mod xml;

#[cfg(any(feature = "excel", feature = "typed"))]
pub use as_records::AsRecords;
pub use line_end::LineEnd;

/// What a restart does with readers of records of text, of elements of documents, and with writers of files.
pub(crate) const AT_RECORD: &str = "Exact: at the byte of the next record. The position has the identity of the file, and another file is refused.";
pub(crate) const AT_ELEMENT: &str = "Exact: at the byte of the next element. The position has the identity of the file, and another file is refused.";
pub(crate) const CUT_BACK: &str = "Exact: the file in work is cut back to its length at the last checkpoint, and gets its name when it is complete.";
