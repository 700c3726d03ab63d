//! The raw records of a block: their bytes, their places in the input, and those that cannot be read.

use std::collections::VecDeque;

use batchwright::ItemError;

use super::lines::RawLine;

/// Records that were read and not decoded yet.
pub(super) struct RawRecords {
    bytes: Vec<u8>,
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

impl RawRecords {
    /// Creates a block without records, with room for `bytes` bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
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

    /// Returns the number of records that are left.
    pub(super) fn left(&self) -> usize {
        self.places.len() - self.next
    }

    /// Consumes the next record; `None` at the end of the block.
    ///
    /// # Errors
    ///
    /// That of a record that cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<RawLine<'_>>, ItemError> {
        let index = self.next;
        let Some(Place { end, line, byte }) = self.places.get(index) else { return Ok(None) };
        self.next += 1;
        if self.failures.front().is_some_and(|(failed, _)| *failed == index)
            && let Some((_, error)) = self.failures.pop_front()
        {
            return Err(error);
        }
        let start = index.checked_sub(1).map_or(0, |before| self.places[before].end);
        Ok(Some(RawLine { bytes: &self.bytes[start..*end], number: *line, byte: *byte }))
    }
}
