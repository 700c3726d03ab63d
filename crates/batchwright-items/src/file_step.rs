//! Kinds of steps that handle whole files: each can be killed at any moment and restarted.
//!
//! A step that removes something first stores what it is going to do, in its context: a restart finishes that, and leaves
//! alone what arrived meanwhile, also under the same names.

#[cfg(feature = "archive")]
mod archive;
mod checksum;
mod copy;
mod delete;
mod divide;
#[cfg(feature = "archive")]
mod extract;
mod merge;
mod transfer;
mod wait;

#[cfg(feature = "archive")]
pub(crate) use archive::ArchiveKind;
pub(crate) use checksum::ChecksumKind;
pub(crate) use copy::CopyKind;
pub(crate) use delete::DeleteKind;
pub(crate) use divide::DivideKind;
#[cfg(feature = "archive")]
pub(crate) use extract::ExtractKind;
pub(crate) use merge::MergeKind;
pub(crate) use transfer::TransferKind;
pub(crate) use wait::WaitKind;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::item::{OpenPath, PathUse};
use batchwright::scope::StepScope;
use serde::{Deserialize, Serialize};

use crate::paths::{folder_of, token};
use crate::transport::modified;

/// Number of files that one call handles; then its progress is stored, and a stop is noticed.
const FILES_PER_CALL: usize = 100;
/// Maximum number of files in a plan, which is stored in the step's context.
const PLANNED_MAX: usize = 10_000;
/// Number of bytes that are copied or hashed between two looks at the stop.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// Returns an error of kind `io` about `path`.
fn failed(action: &str, path: &Path, error: std::io::Error) -> ItemError {
    ItemError::wrap(ErrorKind::IO, format!("cannot {action} `{}`", path.display()), error)
}

/// A file as it was when the step planned its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFile {
    /// Absolute, because a restart may have another working folder.
    path: PathBuf,
    size: u64,
    /// Time of the last modification, in nanoseconds since 1970.
    modified: i64,
    device: u64,
    inode: u64,
}

impl KnownFile {
    /// Returns the file, or link, at `path`; `None` if there is none.
    fn at(path: &Path) -> Result<Option<Self>, ItemError> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(Self {
                path: absolute(path)?,
                size: found.len(),
                modified: modified(&found),
                device: found.dev(),
                inode: found.ino(),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path, error)),
        }
    }

    /// Returns `files` as they are now. With `no_links` a link is refused, because it is not what it names.
    fn all(files: Vec<PathBuf>, no_links: bool) -> Result<Vec<Self>, ItemError> {
        let mut known = Vec::with_capacity(files.len());
        for path in files {
            if no_links && path.is_symlink() {
                return Err(ItemError::fatal(format!(
                    "cannot use `{}`: it is a link; name the file itself",
                    path.display()
                )));
            }
            known.extend(Self::at(&path)?);
        }
        Ok(known)
    }

    /// Whether the file is still at its path, as it was.
    fn is_there(&self) -> Result<bool, ItemError> {
        Ok(Self::at(&self.path)?.as_ref() == Some(self))
    }

    /// Whether `other` is a name of the same file.
    fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Returns `path` with the working folder of this process before it if it is relative.
fn absolute(path: &Path) -> Result<PathBuf, ItemError> {
    std::path::absolute(path).map_err(|error| failed("use", path, error))
}

/// Refuses a plan of too many files.
fn within_bounds<T>(planned: Vec<T>, path: &Path) -> Result<Vec<T>, ItemError> {
    match planned.len() {
        0..=PLANNED_MAX => Ok(planned),
        count => Err(ItemError::fatal(format!(
            "cannot use `{}`: it matches {count} files, and a step takes at most {PLANNED_MAX}",
            path.display()
        ))),
    }
}

/// Copies the bytes of `from`, the file at `path`, to `to`, and returns their number.
///
/// # Errors
///
/// When reading or writing fails, or a stop is requested.
fn copy_bytes(
    (path, from): (&Path, &mut dyn Read),
    to: &mut dyn Write,
    stop: &StopToken,
) -> Result<u64, ItemError> {
    let mut copied = 0;
    loop {
        if stop.is_requested() {
            return Err(ItemError::stopped("a stop was requested while a file was copied"));
        }
        let piece = std::io::copy(&mut from.take(PIECE_BYTES), to)
            .map_err(|error| failed("copy the bytes of", path, error))?;
        copied += piece;
        if piece < PIECE_BYTES {
            return Ok(copied);
        }
    }
}

/// How a file is placed.
#[derive(Default)]
struct Placing {
    /// The time of modification that it gets.
    modified: Option<SystemTime>,
    /// Whether an existing file is an error.
    keeps_existing: bool,
}

/// Writes the file at `to` by `write`: under another name first, so that it appears complete, also after a loss of power.
fn place(
    to: &Path,
    scope: &StepScope,
    placing: &Placing,
    write: impl FnOnce(&mut File) -> Result<(), ItemError>,
) -> Result<(), ItemError> {
    let folder = made_folder_of(to)?;
    let token = token(scope);
    let wanted = PathUse::Output { token: token.clone(), made_by: scope.id().0 };
    let _claim = OpenPath::claim(to, wanted)?;
    // Hidden, so that no pattern matches it; an attempt replaces what an earlier one left.
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let part = folder.join(format!(".{name}.{token}.part"));
    let in_part = |error| failed("write", &part, error);
    remove(&part)?;
    let mut options = File::options();
    let mut file = options.read(true).write(true).create_new(true).open(&part).map_err(in_part)?;
    if let Err(error) = write(&mut file) {
        remove(&part)?;
        return Err(error);
    }
    if let Some(modified) = placing.modified {
        file.set_modified(modified).map_err(in_part)?;
    }
    file.sync_all().map_err(in_part)?;
    match placing.keeps_existing {
        false => fs::rename(&part, to).map_err(|error| failed("rename to", to, error))?,
        true => {
            // A link fails when the name exists, and a renaming would not.
            fs::hard_link(&part, to).map_err(|error| failed("create", to, error))?;
            remove(&part)?;
        }
    }
    sync_folder(&folder)
}

/// Creates the folder of `path` if it does not exist, and returns it.
fn made_folder_of(path: &Path) -> Result<PathBuf, ItemError> {
    let folder = folder_of(path);
    if !folder.exists() {
        fs::create_dir_all(&folder).map_err(|error| failed("create the folder", &folder, error))?;
        folder.ancestors().skip(1).filter(|one| one.is_dir()).take(2).try_for_each(sync_folder)?;
    }
    Ok(folder)
}

fn sync_folder(folder: &Path) -> Result<(), ItemError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed("sync the folder", folder, error))
}

/// Removes the file at `path`, which may be removed already.
fn remove(path: &Path) -> Result<(), ItemError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Removes files that are still what they were; others are left alone.
fn remove_all(files: &[KnownFile]) -> Result<(), ItemError> {
    for file in files {
        if file.is_there()? {
            remove(&file.path)?;
        }
    }
    match files.first() {
        Some(first) if folder_of(&first.path).is_dir() => sync_folder(&folder_of(&first.path)),
        _ => Ok(()),
    }
}
