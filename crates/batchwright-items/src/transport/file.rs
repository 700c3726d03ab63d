//! Input files: bytes at known positions, and the identity of the file of a checkpoint.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{OpenPath, PathUse, stable_hash};

/// Number of bytes read from the file at once.
const READ_BYTES: usize = 64 * 1024;
/// Number of bytes before a position that its checkpoint stores as a hash: more than any header or number
/// that two different files could share by chance.
const BEFORE_BYTES: usize = 128;
/// A UTF-8 byte order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The identity of an input file, stored with each position.
///
/// A restart compares the identity and refuses a file that was replaced or changed, because the position
/// would point to other records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputIdentity {
    /// Length of the file, in bytes.
    pub size: u64,
    /// Time of the last modification, in nanoseconds since 1970.
    pub modified: i64,
    /// Inode of the file.
    pub inode: u64,
    /// Hash of the bytes before the position.
    pub before: u64,
}

/// An input file, read in order. It may be a pipe, which has no length and no position to return to.
#[derive(Debug)]
pub(crate) struct Input {
    path: PathBuf,
    file: File,
    /// Size, time and inode at opening; `None` for a pipe.
    found: Option<InputIdentity>,
    buffer: Vec<u8>,
    /// Number of bytes of `buffer` with content.
    filled: usize,
    /// Number of bytes of `buffer` that are consumed.
    at: usize,
    /// Offset in the file of the first byte of `buffer`.
    base: u64,
    /// Offset in the file where the input ends.
    end: u64,
    /// Claim that keeps outputs away from the file while it is read.
    #[expect(dead_code, reason = "held until it is dropped")]
    open: Option<OpenPath>,
}

impl Input {
    pub(crate) fn open(path: &Path) -> Result<Self, ItemError> {
        let open = OpenPath::claim(path, PathUse::Input)?;
        Ok(Self { open: Some(open), ..Self::beside_output(path)? })
    }

    /// Opens a file that a writer of this process has open.
    pub(crate) fn beside_output(path: &Path) -> Result<Self, ItemError> {
        let failed = |error| {
            ItemError::wrap(ErrorKind::IO, format!("cannot open `{}`", path.display()), error)
        };
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            let what = format!("cannot open `{}`: it is a folder", path.display());
            return Err(ItemError::new(ErrorKind::IO, what));
        }
        let modified =
            found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
        let identity = InputIdentity { size: found.len(), modified, inode: found.ino(), before: 0 };
        Ok(Self {
            path: path.to_owned(),
            file,
            found: found.is_file().then_some(identity),
            buffer: Vec::new(),
            filled: 0,
            at: 0,
            base: 0,
            end: u64::MAX,
            open: None,
        })
    }

    /// Returns the length of the file; `None` for a pipe.
    pub(crate) fn length(&self) -> Option<u64> {
        self.found.map(|found| found.size)
    }

    /// Ends the input at offset `end` of the file.
    ///
    /// # Errors
    ///
    /// When the file is shorter than `end`.
    pub(crate) fn end_at(&mut self, end: u64) -> Result<(), ItemError> {
        match self.length() {
            Some(length) if length < end => Err(self.changed(&format!(
                "it has only {length} bytes, and the input was planned to byte {end}"
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
        let Some(found) = self.found else {
            let path = self.path.display();
            return Err(ItemError::fatal(format!(
                "cannot continue `{path}` at byte {byte}: it is a pipe, which cannot be read again; start a new instance"
            )));
        };
        if found.size < byte {
            let what = format!("it has only {} bytes, and the position is byte {byte}", found.size);
            return Err(self.changed(&what));
        }
        let begin = byte.saturating_sub(BEFORE_BYTES as u64);
        self.file.seek(SeekFrom::Start(begin))?;
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
        let path = self.path.display();
        ItemError::new(
            ErrorKind::INPUT_CHANGED,
            format!(
                "cannot continue `{path}`: it is not the file that the checkpoint was made with: {what}. Restore that \
                 file, start a new instance, or allow the change (`if_changed = \"continue\"`)"
            ),
        )
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
            match self.file.read(&mut self.buffer[self.filled..self.filled + wanted]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let what = format!("cannot read `{}` at byte {offset}", self.path.display());
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
        self.found.map(|found| InputIdentity { before: self.hash_before(), ..found })
    }

    fn hash_before(&self) -> u64 {
        stable_hash(&self.buffer[self.at - self.at.min(BEFORE_BYTES)..self.at])
    }
}
