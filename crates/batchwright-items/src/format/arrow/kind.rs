//! The kind `arrow`.

use super::{ArrowColumns, ArrowReader};
use crate::format::typed::kind::typed_kind;

typed_kind! {
    ArrowKind, "arrow", ArrowReader, ArrowColumns,
    reads: {
        /// Reads the rows of a file or a stream of Apache Arrow, also called Feather of version 2, a batch at a time.
    },
    restarts: "Exact: at the next row, from the batch that has it. Another file is refused.",
    writes: {
        /// Writes a file of Apache Arrow. Each chunk is a batch of rows, 20,000 if the step sets no `chunk`.
    },
    // What is read by its offsets is not compressed as a whole.
    by_extension: false,
}
