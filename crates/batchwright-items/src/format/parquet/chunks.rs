//! The bytes of a Parquet file: a group of rows is fetched at once, from whatever place.

use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::ItemError;
use bytes::{Buf as _, Bytes};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::transport::{ByteSource, InputIdentity};

/// Maximum size of a group that is in memory as a whole, in bytes.
const GROUP_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Maximum length of the header of a page in a larger group, in bytes.
const HEADER_BYTES_MAX: usize = 256 * 1024;

/// The bytes of a file.
pub(super) struct Chunks {
    source: Arc<dyn ByteSource>,
    identity: InputIdentity,
    length: u64,
    /// Keeps outputs away from the file.
    _held: Mutex<Option<Box<dyn Send>>>,
    /// The bytes of each group of rows.
    groups: Vec<Range<u64>>,
    /// The group that was fetched last, with the offset of its first byte.
    fetched: Mutex<(u64, Bytes)>,
}

impl Chunks {
    pub(super) fn open(source: &Arc<dyn ByteSource>) -> std::result::Result<Self, ItemError> {
        let opened = source.open_at(0)?;
        let (Some(identity), Some(length)) = (opened.identity, opened.length) else {
            return Err(ItemError::fatal(format!(
                "cannot read `{}`: Parquet needs a file of a known length, neither compressed nor a pipe",
                source.shown()
            )));
        };
        let fetched = Mutex::new((0, Bytes::new()));
        Ok(Self {
            source: Arc::clone(source),
            identity,
            length,
            _held: Mutex::new(opened.held),
            groups: Vec::new(),
            fetched,
        })
    }

    pub(super) fn identity(&self) -> InputIdentity {
        self.identity
    }

    /// Reads the end of the file, which describes its columns and groups.
    pub(super) fn metadata(&mut self) -> Result<ParquetMetaData> {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(self)?;
        for group in metadata.row_groups() {
            group.columns().iter().try_for_each(|column| self.check(column))?;
        }
        self.groups = metadata.row_groups().iter().filter_map(bytes_of).collect();
        self.groups.sort_unstable_by_key(|group| group.start);
        Ok(metadata)
    }

    /// Refuses a column whose place is not in the file: the library would panic.
    fn check(&self, column: &ColumnChunkMetaData) -> Result<()> {
        let numbers = [
            Some(column.data_page_offset()),
            column.dictionary_page_offset(),
            Some(column.compressed_size()),
            Some(column.uncompressed_size()),
            Some(column.num_values()),
        ];
        let is_right = numbers.into_iter().flatten().all(|number| number >= 0);
        let end = is_right
            .then(|| column.byte_range())
            .and_then(|(start, length)| start.checked_add(length));
        match end.is_some_and(|end| end <= self.length) {
            true => Ok(()),
            false => {
                let path = column.column_path();
                Err(ParquetError::General(format!(
                    "the place of column `{path}` is not in the file"
                )))
            }
        }
    }

    fn group_at(&self, start: u64) -> Option<&Range<u64>> {
        let after = self.groups.partition_point(|group| group.start <= start);
        self.groups[..after].last().filter(|group| group.contains(&start))
    }

    /// Returns the bytes at `start`; their group is fetched if it is another than the last one.
    fn bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.saturating_add(length as u64);
        let Some(group) = self.group_at(start).filter(|group| end <= group.end) else {
            return self.fetch(start, length);
        };
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if fetched.0 != group.start || fetched.1.is_empty() {
            // The memory of the last one is given back first.
            *fetched = (0, Bytes::new());
            *fetched = (group.start, self.fetch(group.start, size(group)?)?);
        }
        let first = size(&(group.start..start))?;
        Ok(fetched.1.slice(first..first + length))
    }

    fn fetch(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.saturating_add(length as u64);
        if end > self.length {
            let what = format!("it ends at byte {}, and byte {end} is needed", self.length);
            return Err(ParquetError::General(what));
        }
        let opened =
            self.source.open_at(start).map_err(|error| ParquetError::General(error.to_string()))?;
        if opened.identity != Some(self.identity) {
            return Err(ParquetError::General("it was changed while it was read".to_owned()));
        }
        let mut bytes = Vec::new();
        opened.bytes.take(length as u64).read_to_end(&mut bytes)?;
        match bytes.len() == length {
            true => Ok(bytes.into()),
            false => Err(ParquetError::General(format!("it ends after byte {start}"))),
        }
    }
}

fn size(range: &Range<u64>) -> Result<usize> {
    Ok(usize::try_from(range.end - range.start)?)
}

/// Returns the bytes of a group of rows, unless they are too many.
fn bytes_of(group: &parquet::file::metadata::RowGroupMetaData) -> Option<Range<u64>> {
    let ranges = group.columns().iter().map(|column| column.byte_range());
    let (mut first, mut end) = (u64::MAX, 0);
    for (start, length) in ranges {
        first = first.min(start);
        end = end.max(start.checked_add(length)?);
    }
    (first < end && end - first <= GROUP_BYTES_MAX).then_some(first..end)
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Chunks {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        let group = self.group_at(start);
        let end = group.map_or(self.length, |group| group.end);
        let left = size(&(start..end.max(start)))?;
        // Without a group this is a header of a page, whose length is not known.
        let length = if group.is_some() { left } else { left.min(HEADER_BYTES_MAX) };
        Ok(self.bytes(start, length)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.bytes(start, length)
    }
}
