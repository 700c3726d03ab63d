//! Files that grow chunk by chunk and look, after any crash, as they did at the last checkpoint.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Ending, ItemWriter, PreparedCommit};
use crate::error::{ErrorKind, ItemError};
use crate::repository::Durability;
use crate::step::{ChunkTransaction, StepScope, StepStart};

/// Length of a file at a checkpoint, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePosition {
    /// Everything behind it is cut off on restart.
    pub length: u64,
}

/// An output file, the base of every file writer.
///
/// While it grows it is called `NAME.part`; it gets its name when the step completes, synced, in one
/// step. On restart it is cut to the length of the checkpoint. A file that is *shorter* than its
/// checkpoint (a power cut under `synchronous=NORMAL`, somebody's editor) is refused, never continued.
#[derive(Debug)]
pub struct FileOutput {
    path: PathBuf,
    growing: PathBuf,
    state: Option<Growing>,
}

impl Clone for FileOutput {
    /// The same file, not open.
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), growing: self.growing.clone(), state: None }
    }
}

#[derive(Debug)]
struct Growing {
    file: File,
    buffer: Vec<u8>,
    /// Length when the buffer is written out.
    length: u64,
    committed: u64,
    synced: Durability,
}

/// Bytes that are gathered before they are handed to the system.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

impl FileOutput {
    /// The file at `path`; missing folders are made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let mut growing = path.clone().into_os_string();
        growing.push(".part");
        Self { path, growing: growing.into(), state: None }
    }

    /// A file that has its name from the beginning, for people who look at it while it grows.
    pub(crate) fn in_place(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { growing: path.clone(), path, state: None }
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file, or continues it at `position`.
    ///
    /// # Errors
    ///
    /// When it cannot be made, is missing, or is shorter than its checkpoint. Nothing was changed.
    pub fn open(
        &mut self,
        position: Option<FilePosition>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        let length = position.map_or(0, |position| position.length);
        let file = match position {
            None => self.create()?,
            Some(FilePosition { length }) => {
                self.resume(length, scope.start() == StepStart::TakenOver)?
            }
        };
        self.state = Some(Growing {
            file,
            buffer: Vec::new(),
            length,
            committed: length,
            synced: scope.durability(),
        });
        Ok(())
    }

    fn create(&self) -> Result<File, ItemError> {
        if let Some(folder) = self.growing.parent().filter(|one| !one.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| failed("make the folder", folder, error))?;
        }
        // A new file, so that whoever still has the old one open cannot write into this one.
        match fs::remove_file(&self.growing) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("replace", &self.growing, error));
            }
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.growing)
            .and_then(|file| sync_folder(&self.growing).map(|()| file))
            .map_err(|error| failed("create", &self.growing, error))
    }

    fn resume(&self, length: u64, taken_over: bool) -> Result<File, ItemError> {
        if !self.growing.exists() {
            // The process died between giving the file its name and saying that the step completed.
            let finished = fs::metadata(&self.path).is_ok_and(|found| found.len() == length);
            if !finished {
                let what =
                    format!("continue `{}` at byte {length}: it is gone", self.growing.display());
                return Err(ItemError::new(ErrorKind::IO, what));
            }
            fs::rename(&self.path, &self.growing)
                .map_err(|error| failed("continue", &self.path, error))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.growing)
            .map_err(|error| failed("open", &self.growing, error))?;
        let found = file.metadata().map_err(|error| failed("open", &self.growing, error))?.len();
        if found < length {
            return Err(ItemError::new(
                ErrorKind::IO,
                format!(
                    "continue `{}` at byte {length}: it has only {found} bytes, less than its checkpoint \
                     counts on",
                    self.growing.display()
                ),
            ));
        }
        if taken_over {
            file = self.copy_away(file, length)?;
        }
        file.set_len(length)
            .and_then(|()| file.seek(SeekFrom::Start(length)))
            .map_err(|error| failed("cut back", &self.growing, error))?;
        Ok(file)
    }

    /// The old owner may wake up and write on: it keeps the old file, this execution gets a copy.
    fn copy_away(&self, old: File, length: u64) -> Result<File, ItemError> {
        let mut name = self.growing.clone().into_os_string();
        name.push(".new");
        let name = PathBuf::from(name);
        let copy = || -> std::io::Result<File> {
            let mut new = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&name)?;
            std::io::copy(&mut old.take(length), &mut new)?;
            new.sync_all()?;
            fs::rename(&name, &self.growing)?;
            sync_folder(&self.growing)?;
            Ok(new)
        };
        copy().map_err(|error| failed("copy", &self.growing, error))
    }

    /// Bytes behind everything appended so far.
    pub fn length(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.length)
    }

    /// Appends `bytes`; they reach the system at the latest with [`position`](Self::position).
    ///
    /// # Errors
    ///
    /// When the system refuses them (a full disk); [`rolled_back`](Self::rolled_back) undoes the rest.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ItemError> {
        let growing = &self.growing;
        let state = self.state.as_mut().ok_or_else(not_open)?;
        state.length += bytes.len() as u64;
        if state.buffer.len() + bytes.len() <= BUFFER_BYTES_MAX {
            state.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let written =
            state.file.write_all(&state.buffer).and_then(|()| state.file.write_all(bytes));
        state.buffer.clear();
        written.map_err(|error| failed("write", growing, error))
    }

    /// Hands everything to the system, syncs it when the repository survives power loss, and says
    /// where the file ends.
    ///
    /// # Errors
    ///
    /// When the system refuses it.
    pub fn position(&mut self) -> Result<FilePosition, ItemError> {
        let growing = &self.growing;
        let state = self.state.as_mut().ok_or_else(not_open)?;
        if state.length == state.committed {
            return Ok(FilePosition { length: state.length });
        }
        let written = state.file.write_all(&state.buffer);
        state.buffer.clear();
        written.map_err(|error| failed("write", growing, error))?;
        if state.synced == Durability::Power {
            state.file.sync_data().map_err(|error| failed("sync", growing, error))?;
        }
        Ok(FilePosition { length: state.length })
    }

    /// What was appended is committed.
    pub fn committed(&mut self) {
        if let Some(state) = &mut self.state {
            state.committed = state.length;
        }
    }

    /// Cuts the file back to what is committed.
    ///
    /// # Errors
    ///
    /// When the system refuses it; a restart cuts it back all the same.
    pub fn rolled_back(&mut self) -> Result<(), ItemError> {
        let growing = &self.growing;
        let Some(state) = &mut self.state else { return Ok(()) };
        state.buffer.clear();
        state.length = state.committed;
        state
            .file
            .set_len(state.committed)
            .and_then(|()| state.file.seek(SeekFrom::Start(state.committed)).map(drop))
            .map_err(|error| failed("cut back", growing, error))
    }

    /// Closes the file; a complete one is synced and gets its name.
    ///
    /// # Errors
    ///
    /// When the system refuses it, or when the file was replaced under this writer.
    pub fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        let Some(state) = self.state.take() else { return Ok(()) };
        if ending == Ending::Incomplete {
            return Ok(());
        }
        let growing = &self.growing;
        state.file.sync_all().map_err(|error| failed("sync", growing, error))?;
        if !is_same_file(&state.file, growing) {
            let what = format!("finish `{}`: another writer replaced it", growing.display());
            return Err(ItemError::new(ErrorKind::IO, what));
        }
        if self.growing != self.path {
            fs::rename(growing, &self.path).map_err(|error| failed("name", &self.path, error))?;
            sync_folder(&self.path)
                .map_err(|error| failed("sync the folder of", &self.path, error))?;
        }
        tracing::info!(target: "batchwright::output", "wrote {}", self.path.display());
        Ok(())
    }
}

/// Whether `path` still names the open `file`.
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Turns items into the bytes of a file.
pub trait Encode<T>: Send {
    /// Appends `items` to `bytes`; `first` tells that nothing stands in the file yet.
    ///
    /// # Errors
    ///
    /// The write attempt fails; nothing of it reaches the file.
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError>;

    /// Looks at the `file` that an earlier execution began, for what the rest of it must follow.
    ///
    /// # Errors
    ///
    /// The step fails; nothing was written.
    fn resume(&mut self, file: &Path) -> Result<(), ItemError> {
        let _ = file;
        Ok(())
    }
}

/// Writes items to a [`FileOutput`], encoded by `E`. What every file format has in common.
#[derive(Debug, Clone)]
pub struct FileWriter<E> {
    file: FileOutput,
    pub(crate) encode: E,
    bytes: Vec<u8>,
}

impl<E> FileWriter<E> {
    /// Into the file at `path`, in a format of your own.
    pub fn encoding(path: impl Into<PathBuf>, encode: E) -> Self {
        Self { file: FileOutput::new(path), encode, bytes: Vec::new() }
    }
}

impl<T, E: Encode<T>> ItemWriter<T> for FileWriter<E> {
    type Position = FilePosition;

    fn open(
        &mut self,
        position: Option<FilePosition>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.file.open(position, scope)?;
        if self.file.length() > 0 {
            self.encode.resume(&self.file.growing)?;
        }
        Ok(None)
    }

    fn write(&mut self, items: &[T], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.bytes.clear();
        self.encode.encode(items, self.file.length() == 0, &mut self.bytes)?;
        self.file.append(&self.bytes)
    }

    fn position(&mut self) -> Result<FilePosition, ItemError> {
        self.file.position()
    }

    fn committed(&mut self) {
        self.file.committed();
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.file.rolled_back()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        self.file.close(ending)
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn failed(action: &str, path: &Path, error: std::io::Error) -> ItemError {
    ItemError::wrap(ErrorKind::IO, format!("{action} `{}`", path.display()), error)
}

fn not_open() -> ItemError {
    ItemError::fatal("write to a file that is not open")
}
