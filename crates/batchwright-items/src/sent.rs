//! What identifies a thing that is sent to another place: it is the same when the thing is sent again.

#[cfg(any(feature = "http", feature = "queue"))]
mod writer;

use batchwright::scope::StepScope;
use sha2::{Digest, Sha256};

#[cfg(any(feature = "http", feature = "queue"))]
pub(crate) use self::writer::{Connect, Outgoing, Sender, SendingWriter};
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
