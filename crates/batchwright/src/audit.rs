//! The audit: which command was given by whom, and when.
//!
//! ```
//! use std::sync::Arc;
//! use batchwright::audit::AuditEntry;
//! use batchwright::query::Queries;
//! use batchwright::{JobOperator, MemoryRepository};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
//! operator.audit("cli:maria@host", "stop", "execution 7", None)?;
//! let newest: Vec<AuditEntry> = operator.queries().audit(None, 10)?;
//! assert_eq!((&*newest[0].who, &*newest[0].action), ("cli:maria@host", "stop"));
//! # Ok(())
//! # }
//! ```

use jiff::Timestamp;
use serde::Serialize;

/// A command that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Number given by the store.
    pub id: i64,
    /// Time of the command.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    #[serde(serialize_with = "crate::execution::millis")]
    pub at: Timestamp,
    /// Who gave it, as a kind and a name: `cli:maria@host`, `api:nightly`, `dashboard:maria`.
    pub who: String,
    /// The verb: `start`, `stop`, `restart`, `abandon`, `recover`, `purge`, `set`, …
    pub action: String,
    /// What it was given for: `job import`, `execution 7`, `trigger nightly`.
    pub subject: String,
    /// Further facts.
    pub detail: Option<String>,
}

/// Returns the beginning of `text` that has at most `bytes_max` bytes.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}
