//! The kind `avro`.

use super::{AvroColumns, AvroReader};
use crate::format::typed::kind::typed_kind;

typed_kind! {
    AvroKind, "avro", AvroReader, AvroColumns,
    reads: {
        /// Reads the records of a file of Apache Avro, a block at a time.
    },
    restarts: "Exact: at the next record, from the block that has it. Another file is refused.",
    writes: {
        /// Writes a file of Apache Avro. Each chunk is a block, which is compressed by deflate.
    },
    by_extension: true,
}
