//! Items of any type, encoded as the records that they are as JSON.

use std::sync::Arc;

use batchwright::ItemError;
use serde::Serialize;

use crate::record::{Record, of_item};
use crate::transport::{ByteSource, Encode};

/// The encoder `E` of records, for items that are structs or objects: their fields are those that they have as JSON, where numbers
/// that are not finite are null.
#[derive(Debug, Clone)]
pub struct AsRecords<E>(pub E);

impl<T: Serialize, E: Encode<Record>> Encode<T> for AsRecords<E> {
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        let records = of_item::records(items, "cannot write a row: the item is no object")?;
        self.0.encode(&records, first, bytes)
    }

    fn finish(
        &mut self,
        first: bool,
        written: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        self.0.finish(first, written, bytes)
    }

    fn chunk_items(&self) -> usize {
        self.0.chunk_items()
    }

    fn is_independent(&self) -> bool {
        self.0.is_independent()
    }

    fn resume(&mut self, begun: Arc<dyn ByteSource>) -> Result<(), ItemError> {
        self.0.resume(begun)
    }
}
