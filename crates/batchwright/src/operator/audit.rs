//! Stores the commands of people and programs.

use super::JobOperator;
use crate::audit::{AuditEntry, bounded};
use crate::error::RepositoryError;
use crate::lifecycle::transact;

/// Longest stored text of an entry, in bytes; longer ones are cut.
const TEXT_BYTES_MAX: usize = 255;
/// Longest stored detail of an entry, in bytes; longer ones are cut.
const DETAIL_BYTES_MAX: usize = 4_096;

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
