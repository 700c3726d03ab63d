//! What identifies a thing that is sent to another place: it is the same when the thing is sent again.

use batchwright::scope::StepScope;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::text::hex;

/// Returns what identifies the output of a step: it is the same in all executions of the instance.
pub(crate) fn identity(scope: &StepScope) -> String {
    format!("{}/{}/{}", scope.store_id(), scope.job().instance_id(), scope.sink_name())
}

/// Returns a key of 32 hexadecimal digits for `parts`, one after the other.
pub(crate) fn key(parts: &[&[u8]]) -> String {
    let digest = parts.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part));
    hex(&digest.finalize()[..16])
}

/// Returns the key of the thing `number` with the content `body` that the output `identity` sends.
pub(crate) fn numbered_key(identity: &str, number: u64, body: &[u8]) -> String {
    key(&[format!("{identity}\n{number}\n").as_bytes(), body])
}

/// Number of items that were sent: the position of a writer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Sent {
    items: u64,
}

/// Counts the items that a writer sends.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    committed: u64,
    sent: u64,
}

impl Numbers {
    /// Counts from `position` on.
    pub(crate) fn after(position: Option<Sent>) -> Self {
        let items = position.unwrap_or_default().items;
        Self { committed: items, sent: items }
    }

    /// Returns the number of the next item; the first is 0.
    pub(crate) fn next(&self) -> u64 {
        self.sent
    }

    pub(crate) fn add(&mut self, items: usize) {
        self.sent += items as u64;
    }

    pub(crate) fn position(&self) -> Sent {
        Sent { items: self.sent }
    }

    pub(crate) fn commit(&mut self) {
        self.committed = self.sent;
    }

    pub(crate) fn roll_back(&mut self) {
        self.sent = self.committed;
    }
}
