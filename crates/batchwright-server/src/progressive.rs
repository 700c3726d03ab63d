//! Progressive execution within ordinary HTTP requests: a handler returns that it needs a batch, the client
//! drives the execution, and its caller gets one response.

#[cfg(feature = "http")]
pub mod client;
mod layer;

pub use layer::{NeedsBatch, NeedsBatchLayer, NeedsBatchService};

/// The response header of an answer that needs a batch: the number of the execution.
pub const NEEDS_BATCH: &str = "x-needs-batch";
/// The request header with the owner's token of an execution.
pub const OWNER: &str = "x-batch-owner";
