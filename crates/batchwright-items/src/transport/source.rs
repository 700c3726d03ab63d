//! Where the bytes of an input come from.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{OpenPath, PathUse, stable_hash};
use serde::{Deserialize, Serialize};

use super::compression::{Compression, Decompressed};

/// The identity of an input, stored with each position.
///
/// A restart compares the identity and refuses an input that was replaced or changed, because the position
/// would point to other records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputIdentity {
    /// Length, in bytes, as stored.
    pub size: u64,
    /// Time of the last modification, in nanoseconds since 1970, or another number that changes with the
    /// content.
    pub modified: i64,
    /// Inode of a file, or another number of the place.
    pub inode: u64,
    /// Hash of the bytes before the position.
    pub before: u64,
}

/// A source of bytes: a file, bytes in memory, a system of your own. Every format reads from every source.
pub trait ByteSource: Send + Sync {
    /// Returns the name of the source for messages; it contains no secrets.
    fn shown(&self) -> String;

    /// Opens the source at byte `byte`.
    ///
    /// # Errors
    ///
    /// When the source cannot be opened, or cannot be read from that byte.
    fn open_at(&self, byte: u64) -> Result<OpenSource, ItemError>;

    /// Returns the path of the source, if it is a file of this machine.
    fn path(&self) -> Option<&Path> {
        None
    }
}

/// Returns the source of the file at `path`, decompressed if its extension says so.
pub(crate) fn file(path: impl Into<PathBuf>) -> Arc<dyn ByteSource> {
    let path = path.into();
    let compression = Compression::of(&path);
    decompressed(Arc::new(FileSource::new(path)), compression)
}

/// Returns the content of `source`.
pub(crate) fn decompressed(
    source: Arc<dyn ByteSource>,
    compression: Option<Compression>,
) -> Arc<dyn ByteSource> {
    match compression {
        Some(compression) => Arc::new(Decompressed { source, compression }),
        None => source,
    }
}

/// An opened source.
pub struct OpenSource {
    /// The bytes from the requested one to the end.
    pub bytes: Box<dyn Read + Send>,
    /// The identity of the content, without the hash of the bytes before the position; `None` for a source
    /// that can be read only once, such as a pipe.
    pub identity: Option<InputIdentity>,
    /// Number of bytes in all, from the first one; `None` when only reading shows it.
    pub length: Option<u64>,
    /// Something to keep until the input is closed, such as a claim.
    pub held: Option<Box<dyn Send>>,
}

impl std::fmt::Debug for OpenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSource").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A file, or a pipe.
#[derive(Debug, Clone)]
pub struct FileSource {
    path: PathBuf,
    /// Whether outputs are kept away from the file while it is open.
    claims: bool,
}

impl FileSource {
    /// Creates a source of the file at `path`. While it is open, no writer of this process may write to it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), claims: true }
    }

    /// Creates a source of a file that a writer of this process has open.
    pub fn beside_output(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), claims: false }
    }
}

/// An opened file.
pub(crate) struct OpenFile {
    pub(crate) file: File,
    /// Identity of a regular file, without the hash of the bytes before the position; its size is the length.
    pub(crate) identity: Option<InputIdentity>,
    /// The claim to keep until the file is closed.
    pub(crate) held: Option<Box<dyn Send>>,
}

impl FileSource {
    /// Opens the file, or the pipe.
    pub(crate) fn open(&self) -> Result<OpenFile, ItemError> {
        let held: Option<Box<dyn Send>> = match self.claims {
            true => Some(Box::new(OpenPath::claim(&self.path, PathUse::Input)?)),
            false => None,
        };
        let failed = |error| {
            ItemError::wrap(ErrorKind::IO, format!("cannot open `{}`", self.path.display()), error)
        };
        let file = File::open(&self.path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            let what = format!("cannot open `{}`: it is a folder", self.path.display());
            return Err(ItemError::new(ErrorKind::IO, what));
        }
        let (size, modified) = (found.len(), modified(&found));
        let identity = InputIdentity { size, modified, inode: found.ino(), before: 0 };
        Ok(OpenFile { file, identity: found.is_file().then_some(identity), held })
    }
}

impl ByteSource for FileSource {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn open_at(&self, byte: u64) -> Result<OpenSource, ItemError> {
        let OpenFile { mut file, identity, held } = self.open()?;
        if byte > 0 {
            file.seek(SeekFrom::Start(byte))?;
        }
        let length = identity.map(|identity| identity.size);
        Ok(OpenSource { bytes: Box::new(file), identity, length, held })
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

/// Returns the time of the last modification in nanoseconds since 1970.
pub(crate) fn modified(found: &std::fs::Metadata) -> i64 {
    found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec())
}

/// Bytes in memory.
#[derive(Debug, Clone)]
pub struct MemorySource {
    name: String,
    bytes: Arc<[u8]>,
}

impl MemorySource {
    /// Creates a source of `bytes`; messages call it `name`.
    pub fn new(name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

impl ByteSource for MemorySource {
    fn shown(&self) -> String {
        self.name.clone()
    }

    fn open_at(&self, byte: u64) -> Result<OpenSource, ItemError> {
        let size = self.bytes.len() as u64;
        let mut bytes = std::io::Cursor::new(Arc::clone(&self.bytes));
        bytes.set_position(byte.min(size));
        // The content is its own identity.
        let inode = stable_hash(&self.bytes);
        let identity = InputIdentity { size, modified: 0, inode, before: 0 };
        let (bytes, identity) = (Box::new(bytes), Some(identity));
        Ok(OpenSource { bytes, identity, length: Some(size), held: None })
    }
}
