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

use crate::error::RepositoryError;
use crate::lifecycle::transact;
use crate::operator::JobOperator;

/// Longest stored text of an entry, in bytes; longer ones are cut.
const TEXT_BYTES_MAX: usize = 255;
/// Longest stored detail of an entry, in bytes; longer ones are cut.
const DETAIL_BYTES_MAX: usize = 4_096;

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

impl JobOperator {
    /// Stores that `who` gave the command `action` for `subject`.
    ///
    /// # Errors
    ///
    /// When the store fails: the command itself may have succeeded.
    pub fn audit(
        &self,
        who: &str,
        action: &str,
        subject: &str,
        detail: Option<&str>,
    ) -> Result<(), RepositoryError> {
        let entry = AuditEntry {
            id: 0,
            at: self.now(),
            who: bounded(who, TEXT_BYTES_MAX),
            action: bounded(action, TEXT_BYTES_MAX),
            subject: bounded(subject, TEXT_BYTES_MAX),
            detail: detail.map(|text| bounded(text, DETAIL_BYTES_MAX)),
        };
        transact(self.store(), |tx| tx.insert_audit(&entry))
    }
}

/// Returns the beginning of `text` that has at most `bytes_max` bytes.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}
