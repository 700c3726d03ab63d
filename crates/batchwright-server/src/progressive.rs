//! Long work behind ordinary requests: a handler says that it needs a batch, a client middleware does the rest,
//! and the caller sees one response.

pub mod client;
mod layer;

pub use layer::{NeedsBatch, NeedsBatchLayer, NeedsBatchService};

/// The header by which an application says that its answer needs a batch: the number of the execution.
pub const NEEDS_BATCH: &str = "x-needs-batch";
/// The header that shows the owner's token of an execution.
pub const OWNER: &str = "x-batch-owner";
