//! Inputs whose formats do not read from the beginning to the end.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use batchwright::ItemError;

use super::source::{ByteSource, FileSource, InputIdentity, OpenFile, OpenSource};

/// Bytes that are read in any order.
pub(crate) trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// An opened source of such bytes.
#[cfg_attr(
    not(any(feature = "arrow", feature = "excel")),
    expect(dead_code, reason = "what Parquet does not use")
)]
pub(crate) struct OpenSeekable {
    pub(crate) bytes: Box<dyn ReadSeek>,
    pub(crate) identity: InputIdentity,
    /// The claim to keep until the input is closed.
    pub(crate) held: Option<Box<dyn Send>>,
}

/// Opens `source` for reading in any order.
///
/// # Errors
///
/// When the source cannot be opened, or is a pipe or compressed.
pub(crate) fn seekable(source: &Arc<dyn ByteSource>) -> Result<OpenSeekable, ItemError> {
    let refused = || {
        ItemError::fatal(format!(
            "cannot read `{}`: its format needs a file of a known length, neither compressed nor a pipe",
            source.shown()
        ))
    };
    if let Some(path) = source.path() {
        let OpenFile { file, identity, held } = FileSource::new(path).open()?;
        let identity = identity.ok_or_else(refused)?;
        return Ok(OpenSeekable { bytes: Box::new(file), identity, held });
    }
    let OpenSource { bytes, identity, length, held } = source.open_at(0)?;
    let (Some(identity), Some(length)) = (identity, length) else { return Err(refused()) };
    let (source, stream) = (Arc::clone(source), Some((0, bytes)));
    let bytes = Box::new(Ranges { source, identity, length, at: 0, stream });
    Ok(OpenSeekable { bytes, identity, held })
}

/// A source that is opened again for each part that is read.
struct Ranges {
    source: Arc<dyn ByteSource>,
    identity: InputIdentity,
    length: u64,
    at: u64,
    /// The open part with its next byte.
    stream: Option<(u64, Box<dyn Read + Send>)>,
}

impl Read for Ranges {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let at = self.at;
        if at >= self.length || into.is_empty() {
            return Ok(0);
        }
        let mut bytes = match self.stream.take() {
            Some((next, bytes)) if next == at => bytes,
            _ => {
                let opened = self
                    .source
                    .open_at(at)
                    .map_err(|error| io::Error::other(error.into_boxed()))?;
                if opened.identity != Some(self.identity) {
                    return Err(io::Error::other("it was changed while it was read"));
                }
                opened.bytes
            }
        };
        let count = bytes.read(into)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.stream = Some((self.at, bytes));
        Ok(count)
    }
}

impl Seek for Ranges {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(byte) => Some(byte),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
