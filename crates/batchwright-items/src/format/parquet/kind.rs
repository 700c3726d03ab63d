//! The kind `parquet`.

use super::ParquetReader;
use super::writer::ParquetColumns;
use crate::format::typed::kind::typed_kind;

typed_kind! {
    ParquetKind, "parquet", ParquetReader, ParquetColumns,
    reads: {
        /// Reads the rows of a file of Apache Parquet, a group of rows at a time.
    },
    restarts: "Exact: at the next row, from the group of rows that has it. Another file is refused.",
    writes: {
        /// Writes a file of Apache Parquet. Each chunk is a group of rows, 20,000 if the step sets no `chunk`.
    },
    // Its columns are compressed.
    by_extension: false,
}
