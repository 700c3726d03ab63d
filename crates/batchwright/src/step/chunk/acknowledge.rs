//! Acknowledges commits to the queue that a step reads.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use super::checkpoint::{Checkpoint, position, to_json};
use crate::error::ItemError;
use crate::item::{Acknowledge, ItemReader, guarded};

/// Acknowledges the positions of stored checkpoints.
pub(super) struct Acknowledging {
    acknowledge: Box<dyn AcknowledgeJson>,
    /// The position of the checkpoint that was stored last.
    stored: String,
}

impl Acknowledging {
    /// Returns what acknowledges commits to the queue of `reader`, which is open; `None` if it reads none.
    pub(super) fn of<R: ItemReader>(reader: &R) -> Result<Option<Self>, ItemError> {
        let acknowledger = guarded(|| Ok(reader.acknowledger()))?;
        Ok(acknowledger
            .map(|inner| Self { acknowledge: Box::new(Typed(inner)), stored: String::new() }))
    }

    /// Returns `checkpoint` as it is stored. A queue may deliver records again in another order than before, so that the records
    /// of a scan are resolved by the position, and not by their number.
    pub(super) fn stored<'c>(
        &mut self,
        checkpoint: &'c Checkpoint,
    ) -> Result<Cow<'c, Checkpoint>, ItemError> {
        if checkpoint.resolved == 0 {
            self.stored.clone_from(&checkpoint.reader);
            return Ok(Cow::Borrowed(checkpoint));
        }
        let (reader, resolved) = (&checkpoint.reader, checkpoint.resolved);
        guarded(|| self.acknowledge.write_after(reader, resolved, &mut self.stored))?;
        Ok(Cow::Owned(Checkpoint {
            records: checkpoint.records + resolved,
            resolved: 0,
            reader: self.stored.clone(),
            ..checkpoint.clone()
        }))
    }

    /// Acknowledges the checkpoint that was stored last, after its commit.
    pub(super) fn acknowledge(&mut self) -> Result<(), ItemError> {
        guarded(|| self.acknowledge.acknowledge(&self.stored))
    }
}

/// An [`Acknowledge`] whose positions are JSON; an empty text is the beginning of the input.
trait AcknowledgeJson {
    fn acknowledge(&mut self, json: &str) -> Result<(), ItemError>;
    fn write_after(&self, json: &str, records: u64, text: &mut String) -> Result<(), ItemError>;
}

struct Typed<P>(Box<dyn Acknowledge<P>>);

impl<P: serde::Serialize + DeserializeOwned> AcknowledgeJson for Typed<P> {
    fn acknowledge(&mut self, json: &str) -> Result<(), ItemError> {
        match position(json)? {
            Some(position) => self.0.acknowledge(position),
            None => Ok(()),
        }
    }

    fn write_after(&self, json: &str, records: u64, text: &mut String) -> Result<(), ItemError> {
        to_json(&self.0.position_after(position(json)?, records), text)
    }
}
