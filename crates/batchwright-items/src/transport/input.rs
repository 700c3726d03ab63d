//! An open input: bytes of a source at known positions, and the check that a restart reads the same content.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::stable_hash;

use super::source::{ByteSource, InputIdentity, OpenSource};

/// Number of bytes read from the file at once.
const READ_BYTES: usize = 64 * 1024;
/// Number of bytes before a position that its checkpoint stores as a hash: more than any header or number
/// that two different files could share by chance.
const BEFORE_BYTES: usize = 128;
/// A UTF-8 byte order mark.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// An input, read in order. Its source may be a pipe, which has no length and no position to return to.
pub struct Input {
    source: Arc<dyn ByteSource>,
    opened: OpenSource,
    buffer: Vec<u8>,
    /// Number of bytes of `buffer` with content.
    filled: usize,
    /// Number of bytes of `buffer` that are consumed.
    at: usize,
    /// Offset in the source of the first byte of `buffer`.
    base: u64,
    /// Offset in the source where the input ends.
    end: u64,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (source, byte) = (self.source.shown(), self.byte());
        f.debug_struct("Input")
            .field("source", &source)
            .field("byte", &byte)
            .finish_non_exhaustive()
    }
}

impl Input {
    pub(crate) fn open(source: Arc<dyn ByteSource>) -> Result<Self, ItemError> {
        let opened = source.open_at(0)?;
        let (buffer, filled, at, base, end) = (Vec::new(), 0, 0, 0, u64::MAX);
        Ok(Self { source, opened, buffer, filled, at, base, end })
    }

    /// Returns the length of the source; `None` for a pipe, and for a compressed file.
    pub(crate) fn length(&self) -> Option<u64> {
        self.opened.length
    }

    /// Ends the input at offset `end` of the source.
    ///
    /// # Errors
    ///
    /// When the source is shorter than `end`.
    pub(crate) fn end_at(&mut self, end: u64) -> Result<(), ItemError> {
        match self.length() {
            Some(length) if length < end => Err(self.changed(&format!(
                "it has only {length} bytes, and the input was planned to byte {end}"
            ))),
            None if self.opened.identity.is_some() => Err(ItemError::fatal(format!(
                "cannot read a part of `{}`: a compressed file is read as a whole",
                self.source.shown()
            ))),
            _ => {
                self.end = end;
                // Bytes in the buffer beyond the end belong to other partitions.
                let left = usize::try_from(end.saturating_sub(self.base)).unwrap_or(usize::MAX);
                self.filled = self.filled.min(left.max(self.at));
                Ok(())
            }
        }
    }

    /// Continues at offset `byte`.
    ///
    /// # Errors
    ///
    /// Of kind `fatal.input_changed` when `made_with` belongs to another file or other content, unless
    /// `may_have_changed`; a pipe cannot go back at all.
    pub(crate) fn go_to(
        &mut self,
        byte: u64,
        made_with: Option<InputIdentity>,
        may_have_changed: bool,
    ) -> Result<(), ItemError> {
        let Some(found) = self.opened.identity else {
            let path = self.source.shown();
            return Err(ItemError::fatal(format!(
                "cannot continue `{path}` at byte {byte}: it is a pipe, which cannot be read again; start a new instance"
            )));
        };
        if let Some(length) = self.length().filter(|length| *length < byte) {
            let what = format!("it has only {length} bytes, and the position is byte {byte}");
            return Err(self.changed(&what));
        }
        let begin = byte.saturating_sub(BEFORE_BYTES as u64);
        // A server may allow one connection: the former one ends before the next begins.
        self.opened.bytes = Box::new(std::io::empty());
        self.opened = self.source.open_at(begin)?;
        (self.base, self.filled, self.at) = (begin, 0, 0);
        let skipped = usize::try_from(byte - begin).unwrap_or(BEFORE_BYTES);
        while self.filled < skipped && self.more()? {}
        self.at = skipped.min(self.filled);
        match made_with {
            Some(made_with) if !may_have_changed => self.compare(made_with, found),
            _ => Ok(()),
        }
    }

    fn compare(&self, made_with: InputIdentity, found: InputIdentity) -> Result<(), ItemError> {
        let what = if made_with.size != found.size {
            format!("it had {} bytes and has {}", made_with.size, found.size)
        } else if made_with.before != self.hash_before() {
            format!("the bytes before byte {} are not the same", self.byte())
        } else if made_with.modified != found.modified {
            "it was modified since then".to_owned()
        } else if made_with.inode != found.inode {
            "another file has its name".to_owned()
        } else {
            return Ok(());
        };
        Err(self.changed(&what))
    }

    fn changed(&self, what: &str) -> ItemError {
        changed(&self.source.shown(), what)
    }

    /// Skips a byte order mark at the beginning of the file.
    pub(crate) fn pass_over_mark(&mut self) -> Result<(), ItemError> {
        while self.byte() == 0 && self.rest().len() < BYTE_ORDER_MARK.len() && self.more()? {}
        if self.byte() == 0 && self.rest().starts_with(BYTE_ORDER_MARK) {
            self.consume(BYTE_ORDER_MARK.len());
        }
        Ok(())
    }

    /// Returns the buffered bytes that are not consumed.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.at..self.filled]
    }

    /// Reads more bytes after [`rest`](Self::rest); returns `false` at the end.
    ///
    /// # Errors
    ///
    /// The system's error; the position stays unchanged.
    pub(crate) fn more(&mut self) -> Result<bool, ItemError> {
        let kept = self.at.min(BEFORE_BYTES);
        if self.at > kept {
            let first = self.at - kept;
            self.buffer.copy_within(first..self.filled, 0);
            self.base += first as u64;
            self.filled -= first;
            self.at = kept;
        }
        let offset = self.base + self.filled as u64;
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        // The buffer at least doubles while a record is larger than one read.
        let wanted = READ_BYTES.max(self.filled - self.at).min(left);
        if wanted == 0 {
            return Ok(false);
        }
        if self.buffer.len() < self.filled + wanted {
            self.buffer.resize(self.filled + wanted, 0);
        }
        loop {
            match self.opened.bytes.read(&mut self.buffer[self.filled..self.filled + wanted]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let what = format!("cannot read `{}` at byte {offset}", self.source.shown());
                    return Err(ItemError::wrap(ErrorKind::IO, what, error));
                }
            }
        }
    }

    /// Consumes `count` bytes of [`rest`](Self::rest).
    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(self.at + count <= self.filled);
        self.at += count;
    }

    /// Returns the last `count` consumed bytes, which stay in the buffer until the next call of
    /// [`more`](Self::more).
    pub(crate) fn consumed(&self, count: usize) -> &[u8] {
        &self.buffer[self.at - count..self.at]
    }

    /// Skips everything up to and including the next line feed.
    pub(crate) fn pass_over_line(&mut self) -> Result<(), ItemError> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', self.rest()) {
                self.consume(at + 1);
                return Ok(());
            }
            self.consume(self.rest().len());
            if !self.more()? {
                return Ok(());
            }
        }
    }

    /// Skips the rest of a line of a CSV file, where a carriage return alone also ends a line.
    pub(crate) fn pass_over_csv_line(&mut self) -> Result<(), ItemError> {
        loop {
            if let Some(at) = memchr::memchr2(b'\n', b'\r', self.rest()) {
                let is_return = self.rest()[at] == b'\r';
                self.consume(at + 1);
                if is_return && self.rest().is_empty() {
                    self.more()?;
                }
                if is_return && self.rest().first() == Some(&b'\n') {
                    self.consume(1);
                }
                return Ok(());
            }
            self.consume(self.rest().len());
            if !self.more()? {
                return Ok(());
            }
        }
    }

    /// Returns the offset of the first byte of [`rest`](Self::rest).
    pub(crate) fn byte(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Returns the identity of the file at this position; `None` for a pipe.
    pub(crate) fn identity(&self) -> Option<InputIdentity> {
        self.opened.identity.map(|found| InputIdentity { before: self.hash_before(), ..found })
    }

    fn hash_before(&self) -> u64 {
        stable_hash(self.before())
    }

    fn before(&self) -> &[u8] {
        &self.buffer[self.at - self.at.min(BEFORE_BYTES)..self.at]
    }

    /// Returns the place of this position, for [`byte_and_identity`](Self::byte_and_identity) after more bytes were consumed.
    pub(crate) fn mark(&self) -> Mark {
        let (before, mut kept) = (self.before(), [0; BEFORE_BYTES]);
        kept[..before.len()].copy_from_slice(before);
        Mark { byte: self.byte(), before: kept, length: before.len() }
    }

    /// Returns the offset of `mark`, and the identity of the file there.
    pub(crate) fn byte_and_identity(&self, mark: &Mark) -> (u64, Option<InputIdentity>) {
        let before = stable_hash(&mark.before[..mark.length]);
        (mark.byte, self.opened.identity.map(|found| InputIdentity { before, ..found }))
    }
}

/// Returns the error of an input that is not the one of the checkpoint.
pub(crate) fn changed(shown: &str, what: &str) -> ItemError {
    ItemError::new(
        ErrorKind::INPUT_CHANGED,
        format!(
            "cannot continue `{shown}`: it is not the file that the checkpoint was made with: {what}. Restore that \
             file, start a new instance, or allow the change (`if_changed = \"continue\"`)"
        ),
    )
}

/// A former position of an input, and the bytes before it.
pub(crate) struct Mark {
    byte: u64,
    before: [u8; BEFORE_BYTES],
    length: usize,
}
