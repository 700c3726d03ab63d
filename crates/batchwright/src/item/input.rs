//! Input files: bytes at known positions, and the identity of the file that a checkpoint was made with.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::open_paths::{OpenPath, Use};
use crate::error::{ErrorKind, ItemError};

/// Bytes read from the file at once.
const READ_BYTES: usize = 64 * 1024;
/// Bytes before a position that its checkpoint remembers as a hash: more than any header or number that two
/// different files could share by chance.
const BEFORE_BYTES: usize = 128;
/// A UTF-8 byte order mark.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Which file a position belongs to.
///
/// A checkpoint stores it beside the position. A restart compares it and refuses a file that was replaced or
/// changed, because the position would point into other records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputIdentity {
    /// Length of the file, in bytes.
    pub size: u64,
    /// When its content changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// Its inode.
    pub inode: u64,
    /// Hash of the bytes before the position.
    pub before: u64,
}

/// An input file, read in order. It may be a pipe, which has no length and no position to return to.
#[derive(Debug)]
pub(super) struct Input {
    path: PathBuf,
    file: File,
    /// Size, time and inode when it was opened; `None` for a pipe.
    found: Option<InputIdentity>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that hold content.
    filled: usize,
    /// Bytes of `buffer` that are consumed.
    at: usize,
    /// Offset in the file of the first byte of `buffer`.
    base: u64,
    /// Offset in the file where the input ends.
    end: u64,
    /// Keeps outputs away from the file while it is read.
    #[expect(dead_code, reason = "held until it is dropped")]
    open: Option<OpenPath>,
}

impl Input {
    pub(super) fn open(path: &Path) -> Result<Self, ItemError> {
        let open = OpenPath::claim(path, Use::Input)?;
        Ok(Self { open: Some(open), ..Self::beside_output(path)? })
    }

    /// A file that a writer of ours has open.
    pub(super) fn beside_output(path: &Path) -> Result<Self, ItemError> {
        let failed =
            |error| ItemError::wrap(ErrorKind::IO, format!("open `{}`", path.display()), error);
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            let what = format!("open `{}`: it is a folder", path.display());
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

    /// The length of the file, unless it is a pipe.
    pub(super) fn length(&self) -> Option<u64> {
        self.found.map(|found| found.size)
    }

    /// Ends the input at offset `end` of the file.
    ///
    /// # Errors
    ///
    /// When the file is shorter.
    pub(super) fn end_at(&mut self, end: u64) -> Result<(), ItemError> {
        match self.length() {
            Some(length) if length < end => Err(self.changed(&format!(
                "it has only {length} bytes, and the input was planned to byte {end}"
            ))),
            _ => {
                self.end = end;
                // What was read beyond it belongs to others.
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
    /// `fatal.input_changed` when `made_with` belongs to another file or another content, unless
    /// `may_have_changed`; a pipe cannot go back at all.
    pub(super) fn go_to(
        &mut self,
        byte: u64,
        made_with: Option<InputIdentity>,
        may_have_changed: bool,
    ) -> Result<(), ItemError> {
        let Some(found) = self.found else {
            let path = self.path.display();
            return Err(ItemError::fatal(format!(
                "continue `{path}` at byte {byte}: it is a pipe, which cannot be read again; start a new instance"
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
            "it was written to since".to_owned()
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
                "continue `{path}`: it is not the file that the checkpoint was made with: {what}. Bring that file \
                 back as it was, start a new instance, or say that it may have changed (`if_changed = \"continue\"`)"
            ),
        )
    }

    /// Passes over a byte order mark at the beginning of the file.
    pub(super) fn pass_over_mark(&mut self) -> Result<(), ItemError> {
        while self.byte() == 0 && self.rest().len() < BYTE_ORDER_MARK.len() && self.more()? {}
        if self.byte() == 0 && self.rest().starts_with(BYTE_ORDER_MARK) {
            self.consume(BYTE_ORDER_MARK.len());
        }
        Ok(())
    }

    /// What is in memory and not consumed.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer[self.at..self.filled]
    }

    /// Brings more bytes behind [`rest`](Self::rest); `false` at the end.
    ///
    /// # Errors
    ///
    /// What the system reports; the input stays where it is.
    pub(super) fn more(&mut self) -> Result<bool, ItemError> {
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
        // At least doubled while a record is larger than what is read at once.
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
                    let what = format!("read `{}` at byte {offset}", self.path.display());
                    return Err(ItemError::wrap(ErrorKind::IO, what, error));
                }
            }
        }
    }

    /// Passes over `count` bytes of [`rest`](Self::rest).
    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(self.at + count <= self.filled);
        self.at += count;
    }

    /// The last `count` bytes that were consumed; they stay in memory until [`more`](Self::more) is called.
    pub(super) fn consumed(&self, count: usize) -> &[u8] {
        &self.buffer[self.at - count..self.at]
    }

    /// Passes over everything up to and including the next line feed.
    pub(super) fn pass_over_line(&mut self) -> Result<(), ItemError> {
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

    /// Passes over the rest of a line of a CSV file, which a carriage return alone ends too.
    #[cfg(feature = "csv")]
    pub(super) fn pass_over_csv_line(&mut self) -> Result<(), ItemError> {
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

    /// Offset of the first byte of [`rest`](Self::rest).
    pub(super) fn byte(&self) -> u64 {
        self.base + self.at as u64
    }

    /// What a checkpoint remembers of the file here; `None` for a pipe.
    pub(super) fn identity(&self) -> Option<InputIdentity> {
        self.found.map(|found| InputIdentity { before: self.hash_before(), ..found })
    }

    fn hash_before(&self) -> u64 {
        hash(&self.buffer[self.at - self.at.min(BEFORE_BYTES)..self.at])
    }
}

/// FNV-1a, 64 bits: stable over versions, because checkpoints store it.
/// <http://www.isthe.com/chongo/tech/comp/fnv/>
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
