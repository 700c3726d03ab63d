//! The raw records of a block: their bytes, their places in the input, and those that cannot be read.

use std::collections::VecDeque;
use std::sync::Arc;

use batchwright::ItemError;

use super::lines::RawLine;

/// Default maximum length of a record, in bytes.
pub(super) const RECORD_BYTES_MAX: usize = 1024 * 1024;
/// Maximum number of raw bytes of an invalid record that an error keeps, for the dead letters.
pub(super) const RAW_BYTES_KEPT: usize = 64 * 1024;

/// A buffer of text that contains a record, and the offset of the record there.
pub(super) type Shared<'a> = (&'a Arc<String>, usize);

/// Records that were read and not decoded yet.
pub(super) struct RawRecords {
    bytes: Vec<u8>,
    /// The bytes as text, for all records together, once they are [shared](Self::share).
    text: Option<Arc<String>>,
    places: Vec<Place>,
    /// Errors of the records that cannot be read, by their indices.
    failures: VecDeque<(usize, ItemError)>,
    next: usize,
    pub(super) is_last: bool,
}

/// The place of a record.
struct Place {
    /// End of the record in the bytes of the block.
    end: usize,
    /// Number of its first line, from 1.
    line: u64,
    /// Offset of its first byte in the file.
    byte: u64,
}

/// A record of a block.
pub(super) struct RawRecord<'a> {
    pub(super) line: RawLine<'a>,
    /// The text of the block, and the offset of the record there, once they are shared.
    pub(super) shared: Option<Shared<'a>>,
}

impl RawRecords {
    /// Creates a block without records, with room for `bytes` bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            text: None,
            places: Vec::new(),
            failures: VecDeque::new(),
            next: 0,
            is_last: false,
        }
    }

    /// Adds the record `bytes`, which begins with line `line` at offset `byte` of the file.
    pub(super) fn push(&mut self, bytes: &[u8], line: u64, byte: u64) {
        self.bytes.extend_from_slice(bytes);
        self.places.push(Place { end: self.bytes.len(), line, byte });
    }

    /// Adds a record that cannot be read.
    pub(super) fn push_failed(&mut self, error: ItemError) {
        self.failures.push_back((self.places.len(), error));
        self.places.push(Place { end: self.bytes.len(), line: 0, byte: 0 });
    }

    /// Returns the number of bytes of all records.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the number of records that are consumed.
    pub(super) fn consumed(&self) -> usize {
        self.next
    }

    /// Returns the number of records that are left.
    pub(super) fn left(&self) -> usize {
        self.places.len() - self.next
    }

    /// Makes the bytes of all records one text, which their fields can share, if they are valid UTF-8.
    pub(super) fn share(&mut self) {
        if self.text.is_none() && self.next == 0 {
            match String::from_utf8(std::mem::take(&mut self.bytes)) {
                Ok(text) => self.text = Some(Arc::new(text)),
                Err(error) => self.bytes = error.into_bytes(),
            }
        }
    }

    /// Consumes the next record; `None` at the end of the block.
    ///
    /// # Errors
    ///
    /// That of a record that cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<RawRecord<'_>>, ItemError> {
        let index = self.next;
        let Some(Place { end, line, byte }) = self.places.get(index) else { return Ok(None) };
        self.next += 1;
        if self.failures.front().is_some_and(|(failed, _)| *failed == index)
            && let Some((_, error)) = self.failures.pop_front()
        {
            return Err(error);
        }
        let start = index.checked_sub(1).map_or(0, |before| self.places[before].end);
        let bytes = self.text.as_ref().map_or(&self.bytes[..], |text| text.as_bytes());
        let line = RawLine { bytes: &bytes[start..*end], number: *line, byte: *byte };
        Ok(Some(RawRecord { line, shared: self.text.as_ref().map(|text| (text, start)) }))
    }
}
