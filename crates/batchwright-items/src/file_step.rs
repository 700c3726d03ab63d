//! Kinds of steps that handle whole files: each can be killed at any moment and restarted.
//!
//! A step that removes something first stores what it is going to do, in its context: a restart finishes that, and does not
//! begin again with files that arrived meanwhile.

mod checksum;
mod copy;
mod delete;
mod merge;
mod wait;

pub(crate) use checksum::ChecksumKind;
pub(crate) use copy::{CopyKind, MoveKind};
pub(crate) use delete::DeleteKind;
pub(crate) use merge::MergeKind;
pub(crate) use wait::WaitKind;

use std::fs::{self, File, Metadata};
use std::io::{Read, Write};
use std::path::Path;
use std::time::SystemTime;

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;

/// Number of bytes that are copied or hashed between two looks at the stop.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// Returns an error of kind `io` about `path`.
fn failed(action: &str, path: &Path, error: std::io::Error) -> ItemError {
    ItemError::wrap(ErrorKind::IO, format!("cannot {action} `{}`", path.display()), error)
}

/// Returns the time of the last modification in nanoseconds since 1970.
fn modified(found: &Metadata) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec())
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
            .map_err(|error| failed("copy", path, error))?;
        copied += piece;
        if piece < PIECE_BYTES {
            return Ok(copied);
        }
    }
}

/// Writes the file at `to` by `write`: under another name first, so that it appears complete, also after a loss of power.
fn place(
    to: &Path,
    modified: Option<SystemTime>,
    write: impl FnOnce(&mut File) -> Result<(), ItemError>,
) -> Result<(), ItemError> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| failed("create the folder", folder, error))?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    // Hidden, so that no pattern matches it. What an earlier attempt left is overwritten.
    let part = folder.join(format!(".{name}.part"));
    let in_part = |error| failed("write", &part, error);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let mut file = options.open(&part).map_err(in_part)?;
    if let Err(error) = write(&mut file) {
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    if let Some(modified) = modified {
        file.set_modified(modified).map_err(in_part)?;
    }
    file.sync_all().map_err(in_part)?;
    fs::rename(&part, to).map_err(|error| failed("rename to", to, error))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), ItemError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| failed("sync the folder", folder, error))
}

/// Removes the file at `path`, which may be removed already.
fn remove(path: &Path) -> Result<bool, ItemError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path, error)),
    }
}
