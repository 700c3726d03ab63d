//! The formats of files: one module each, with its typed reader and writer and its kind for job files.

pub mod csv;
pub mod document;
#[cfg(feature = "excel")]
pub mod excel;
pub mod fixed_width;
pub mod json;
pub mod json_lines;
mod line_end;
pub mod lines;
#[cfg(feature = "parquet")]
pub mod parquet;
mod raw;
#[cfg(feature = "xml")]
pub mod xml;

pub use line_end::LineEnd;
