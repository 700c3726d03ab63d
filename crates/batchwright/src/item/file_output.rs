//! Output files that grow chunk by chunk and return to their last checkpoint after any crash.

mod names;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::names::{Checked, Names, checked, identity, identity_matches};
use super::Ending;
use super::open_paths::{OpenPath, PathUse};
use crate::error::{ErrorKind, ItemError};
use crate::scope::{StepScope, StepStart};
use crate::store::Durability;

/// A position of an output file: its length, and the file's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredPosition")]
pub struct FilePosition {
    /// Length of the file at the checkpoint, in bytes. A restart cuts off everything after it.
    pub length: u64,
    /// Identity of the file; `None` in checkpoints of version 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileIdentity>,
}

/// The identity of the file of a checkpoint, so that a restart continues no other file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Step execution that created the file; part of the file's temporary name.
    pub made_by: i64,
    /// Inode of the file.
    pub inode: u64,
    /// Hash of the last bytes before the position.
    pub before: u64,
}

/// The stored forms of a position: version 0.1 stored only lengths, for dead letters as bare numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredPosition {
    Length(u64),
    Position {
        length: u64,
        #[serde(default)]
        file: Option<FileIdentity>,
    },
}

impl From<StoredPosition> for FilePosition {
    fn from(stored: StoredPosition) -> Self {
        match stored {
            StoredPosition::Length(length) => Self { length, file: None },
            StoredPosition::Position { length, file } => Self { length, file },
        }
    }
}

/// Number of bytes before a position that its checkpoint stores as a hash.
const BEFORE_BYTES: usize = 128;

/// An output file, the base of every file writer.
///
/// A growing file has the temporary name `NAME.TOKEN-ID.part`: `TOKEN` identifies the instance, its step and
/// its partition, and `ID` is the step execution that created the file, so no other instance and no former
/// owner of this instance ever opens it. When the step completes, the file is synced and renamed to its final
/// name in one operation. A restart finds the file of its checkpoint by name, inode and content, cuts it to
/// the length of the checkpoint, and continues it. A file that is *shorter* than its checkpoint requires
/// (after a power cut under `synchronous=NORMAL`, or an edit) or has other content is refused, never
/// continued.
///
/// A symbolic link as the path refers to its target. A device, a pipe or a socket as the path is refused and
/// left unchanged. Two outputs of one process cannot have the same path, and no output can be an input that
/// is being read.
///
/// ```
/// use batchwright::ItemError;
/// use batchwright::item::{ChunkTransaction, Ending, FileOutput, FilePosition, ItemWriter, PreparedCommit};
/// use batchwright::scope::StepScope;
///
/// /// Writes each number in a line.
/// #[derive(Clone)]
/// struct Numbers(FileOutput);
///
/// impl ItemWriter<u64> for Numbers {
///     type Position = FilePosition;
///
///     fn open(
///         &mut self,
///         position: Option<FilePosition>,
///         scope: &StepScope,
///     ) -> Result<Option<PreparedCommit>, ItemError> {
///         self.0.open(position, scope).map(|()| None)
///     }
///
///     fn write(&mut self, items: &[u64], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
///         items.iter().try_for_each(|item| self.0.append(format!("{item}\n").as_bytes()))
///     }
///
///     fn position(&mut self) -> Result<FilePosition, ItemError> {
///         self.0.position()
///     }
///
///     fn committed(&mut self) -> Result<(), ItemError> {
///         self.0.committed();
///         Ok(())
///     }
///
///     fn rolled_back(&mut self) -> Result<(), ItemError> {
///         self.0.rolled_back()
///     }
///
///     fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
///         self.0.close(ending)
///     }
/// }
/// ```
#[derive(Debug)]
pub struct FileOutput {
    path: PathBuf,
    /// Whether the file also gets its final name when the step fails or stops.
    named_always: bool,
    state: Option<Growing>,
}

impl Clone for FileOutput {
    /// Clones the settings; the clone is not open.
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), named_always: self.named_always, state: None }
    }
}

#[derive(Debug)]
struct Growing {
    file: File,
    /// Temporary name while the file grows.
    path: PathBuf,
    /// Final name.
    target: PathBuf,
    /// Name of the proof that a full file got its name.
    proof: PathBuf,
    /// Files of former owners, which must not get the final name any more.
    former: Vec<PathBuf>,
    /// The file that this one is a copy of, until the first commit: the stored checkpoint refers to it.
    copied_from: Option<PathBuf>,
    made_by: i64,
    inode: u64,
    buffer: Vec<u8>,
    /// The last appended bytes, at most [`BEFORE_BYTES`].
    tail: Vec<u8>,
    committed_tail: Vec<u8>,
    /// Length of the file including the buffer.
    length: u64,
    committed: u64,
    synced: Durability,
    _open: OpenPath,
}

/// Maximum size of the write buffer, in bytes.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

impl FileOutput {
    /// Creates an output for the file at `path`; missing folders are created when it opens.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), named_always: false, state: None }
    }

    /// Creates an output whose file gets its final name whenever its step ends, so that people can read it
    /// after a failure.
    pub(crate) fn named_always(path: impl Into<PathBuf>) -> Self {
        Self { named_always: true, ..Self::new(path) }
    }

    /// Returns the final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the temporary name of the open file.
    pub fn growing(&self) -> Option<&Path> {
        self.state.as_ref().map(|state| state.path.as_path())
    }

    /// Creates the file, or continues it at `position`.
    ///
    /// # Errors
    ///
    /// When the file cannot be created, is missing, or is not the file of its checkpoint. Nothing was
    /// changed.
    pub fn open(
        &mut self,
        position: Option<FilePosition>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        let target = target(&self.path)?;
        let names = Names::new(&target, scope);
        let own = scope.id().0;
        let wanted = PathUse::Output { token: names.token.clone(), made_by: own };
        let open = OpenPath::claim(&target, wanted)?;
        let mut copied_from = None;
        let (file, path, made_by, former) = match position {
            None => {
                make_folders(&target)?;
                // Remove files that earlier executions began and that no checkpoint refers to.
                for former in names.of_former(own) {
                    remove(&former)?;
                }
                // One of an earlier round of the instance.
                remove(&names.proof())?;
                let path = names.of(own);
                (create(&path)?, path, own, Vec::new())
            }
            Some(position) => {
                let found = names.find(&position, own)?;
                match scope.start() == StepStart::TakenOver {
                    // The former owner may wake up and continue to write: it keeps its file, and this
                    // execution gets a copy.
                    true => {
                        let path = names.of(own);
                        let file = copy(found.file, &found.path, &path, position.length)?;
                        let mut former = names.of_former(own);
                        former.retain(|one| *one != found.path);
                        copied_from = Some(found.path);
                        (file, path, own, former)
                    }
                    false => {
                        let mut file = found.file;
                        cut_back(&mut file, position.length)
                            .map_err(|error| failed("cut back", &found.path, error))?;
                        let former = names.of_former(own);
                        let former = former.into_iter().filter(|one| *one != found.path).collect();
                        (file, found.path, found.made_by, former)
                    }
                }
            }
        };
        let length = position.map_or(0, |position| position.length);
        let proof = names.proof();
        let (inode, tail) =
            identity(&file, length).map_err(|error| failed("read", &path, error))?;
        self.state = Some(Growing {
            file,
            path,
            target,
            proof,
            former,
            copied_from,
            made_by,
            inode,
            buffer: Vec::new(),
            committed_tail: tail.clone(),
            tail,
            length,
            committed: length,
            synced: scope.durability(),
            _open: open,
        });
        Ok(())
    }

    /// Whether the file that ends at `position`, which was closed as a full one or is to be, is complete and has its name, or had
    /// it and was taken.
    ///
    /// # Errors
    ///
    /// When the file is missing, and was never complete.
    #[doc(hidden)]
    pub fn is_named(&self, position: &FilePosition, scope: &StepScope) -> Result<bool, ItemError> {
        Names::new(&target(&self.path)?, scope).is_named(position, scope.id().0)
    }

    /// Proves that the file, which has its name, was taken: see [`is_named`](Self::is_named).
    ///
    /// # Errors
    ///
    /// When the system refuses it.
    #[doc(hidden)]
    pub fn prove(&self, scope: &StepScope) -> Result<(), ItemError> {
        create(&Names::new(&target(&self.path)?, scope).proof()).map(drop)
    }

    /// Removes what [`is_named`](Self::is_named) knows a full file by that was taken.
    ///
    /// # Errors
    ///
    /// When the system refuses it.
    #[doc(hidden)]
    pub fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        remove(&Names::new(&target(&self.path)?, scope).proof())
    }

    /// Makes the growing file of `position` again if it is missing, with the content that `write` gives it and compares: for
    /// outputs whose complete file has left this machine. A file that is there, whatever it contains, is left alone.
    ///
    /// # Errors
    ///
    /// When the file cannot be created, or `write` fails; there is no file then.
    pub fn restore(
        &self,
        position: FilePosition,
        scope: &StepScope,
        write: impl FnOnce(&mut File) -> Result<(), ItemError>,
    ) -> Result<(), ItemError> {
        let names = Names::new(&target(&self.path)?, scope);
        let Some(FileIdentity { made_by, .. }) = position.file else { return Ok(()) };
        let own = scope.id().0;
        let known = [names.of(made_by), names.target.clone()];
        for path in names.of_former(own).into_iter().chain(known) {
            if !matches!(checked(&path, 0, |_| Ok(true))?, Checked::Missing) {
                return Ok(());
            }
        }
        // Under another name until it is compared: a process that dies meanwhile leaves nothing that looks right.
        let fetched = names.beside(&format!(".{}.fetched", names.token));
        make_folders(&fetched)?;
        let mut file = create(&fetched)?;
        write(&mut file).inspect_err(|_| {
            // The first error is the cause.
            let _ = remove(&fetched);
        })?;
        let path = names.of(made_by);
        let renamed = file.sync_all().and_then(|()| fs::rename(&fetched, &path));
        renamed.and_then(|()| sync_folder(&path)).map_err(|error| failed("restore", &path, error))
    }

    /// Returns the length including all appended bytes.
    pub fn length(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.length)
    }

    /// Returns the committed length in bytes; 0 when the file is not open.
    pub(crate) fn committed_length(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.committed)
    }

    /// Appends `bytes`; [`position`](Self::position) flushes them to the system at the latest.
    ///
    /// # Errors
    ///
    /// When the system refuses the bytes (a full disk); [`rolled_back`](Self::rolled_back) removes what was
    /// written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ItemError> {
        let state = self.state.as_mut().ok_or_else(not_open)?;
        state.length += bytes.len() as u64;
        keep_tail(&mut state.tail, bytes);
        if state.buffer.len() + bytes.len() <= BUFFER_BYTES_MAX {
            state.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        let written =
            state.file.write_all(&state.buffer).and_then(|()| state.file.write_all(bytes));
        state.buffer.clear();
        written.map_err(|error| failed("write", &state.path, error))
    }

    /// Flushes the buffer, syncs the file when the repository survives power loss, and returns the end of the
    /// file.
    ///
    /// # Errors
    ///
    /// When the system refuses the write or the sync.
    pub fn position(&mut self) -> Result<FilePosition, ItemError> {
        let state = self.state.as_mut().ok_or_else(not_open)?;
        if state.length != state.committed {
            let written = state.file.write_all(&state.buffer);
            state.buffer.clear();
            written.map_err(|error| failed("write", &state.path, error))?;
            if state.synced == Durability::Power {
                state.file.sync_data().map_err(|error| failed("sync", &state.path, error))?;
            }
        }
        let Growing { made_by, inode, .. } = *state;
        let file = Some(FileIdentity { made_by, inode, before: stable_hash(&state.tail) });
        Ok(FilePosition { length: state.length, file })
    }

    /// Records that everything appended is committed.
    pub fn committed(&mut self) {
        if let Some(state) = &mut self.state {
            state.committed = state.length;
            state.committed_tail.clone_from(&state.tail);
            // From now on the checkpoint refers to the copy.
            state.former.extend(state.copied_from.take());
        }
    }

    /// Cuts the file back to its committed length.
    ///
    /// # Errors
    ///
    /// When the system refuses it; a restart cuts the file back in any case.
    pub fn rolled_back(&mut self) -> Result<(), ItemError> {
        let Some(state) = &mut self.state else { return Ok(()) };
        state.buffer.clear();
        state.length = state.committed;
        state.tail.clone_from(&state.committed_tail);
        cut_back(&mut state.file, state.committed)
            .map_err(|error| failed("cut back", &state.path, error))
    }

    /// Closes the file; a complete file is synced and gets its final name.
    ///
    /// # Errors
    ///
    /// When the system refuses it, or when another execution replaced the file.
    pub fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        let Some(mut state) = self.state.take() else { return Ok(()) };
        match ending {
            Ending::Unused => return remove(&state.path),
            Ending::Incomplete if !self.named_always => return Ok(()),
            _ => {}
        }
        if let Some(original) = state.copied_from.take() {
            // Without a commit, only the original is known to a restart.
            if ending == Ending::Incomplete {
                return Ok(());
            }
            state.return_to(original)?;
        }
        let written = state.file.write_all(&state.buffer).and_then(|()| state.file.sync_all());
        let Growing { path, target, .. } = &state;
        written.map_err(|error| failed("sync", path, error))?;
        // A former owner that wakes up after this point has no file of its own left to rename.
        for former in &state.former {
            remove(former)?;
        }
        if !is_same_file(&state.file, path) {
            let what =
                format!("cannot finish `{}`: another execution has taken it over", path.display());
            return Err(ItemError::new(ErrorKind::IO, what));
        }
        if let Some(proof) = Some(&state.proof).filter(|_| ending == Ending::Full) {
            drop(create(proof)?);
        }
        fs::rename(path, target).map_err(|error| failed("move the output to", target, error))?;
        sync_folder(target).map_err(|error| failed("sync the folder of", target, error))?;
        if matches!(ending, Ending::Complete | Ending::Full) {
            tracing::info!(target: "batchwright::output", "wrote {}", target.display());
        }
        Ok(())
    }
}

impl Growing {
    /// Replaces the copy by its `original`, which is cut to the committed length.
    fn return_to(&mut self, original: PathBuf) -> Result<(), ItemError> {
        let (length, before) = (self.committed, stable_hash(&self.committed_tail));
        let found = checked(&original, length, |file| identity_matches(file, length, before))?;
        let Checked::Right(mut file) = found else {
            let (target, original) = (self.target.display(), original.display());
            let what = format!(
                "cannot finish `{target}`: `{original}` is not the file of the checkpoint any more"
            );
            return Err(ItemError::new(ErrorKind::IO, what));
        };
        cut_back(&mut file, length).map_err(|error| failed("cut back", &original, error))?;
        // What exceeded the buffer since then is in the copy.
        let mut copied = || {
            self.file.seek(SeekFrom::Start(length))?;
            std::io::copy(&mut self.file, &mut file)
        };
        copied().map_err(|error| failed("write", &original, error))?;
        remove(&self.path)?;
        (self.file, self.path) = (file, original);
        Ok(())
    }
}

fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() >= BEFORE_BYTES {
        tail.clear();
        tail.extend_from_slice(&bytes[bytes.len() - BEFORE_BYTES..]);
        return;
    }
    let surplus = (tail.len() + bytes.len()).saturating_sub(BEFORE_BYTES);
    tail.drain(..surplus);
    tail.extend_from_slice(bytes);
}

fn cut_back(file: &mut File, length: u64) -> std::io::Result<()> {
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length)).map(drop)
}

/// Returns the file that `path` refers to: links are followed, and only a regular file is accepted.
fn target(path: &Path) -> Result<PathBuf, ItemError> {
    let refused = |what: &str| {
        Err(ItemError::fatal(format!(
            "cannot write to `{}`: it is {what}; name a file",
            path.display()
        )))
    };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(path.to_owned()),
        found => found.map_err(|error| failed("write to", path, error))?,
    };
    if found.is_symlink() {
        return match fs::canonicalize(path) {
            Ok(file) => target(&file),
            Err(error) => Err(failed("follow the link", path, error)),
        };
    }
    match found.file_type() {
        kind if kind.is_file() => Ok(path.to_owned()),
        kind if kind.is_dir() => refused("a folder"),
        _ => refused("a device, a pipe or a socket, which a restart cannot cut back"),
    }
}

/// Creates the folders of `path`; each new folder is synced into its parent.
fn make_folders(path: &Path) -> Result<(), ItemError> {
    let Some(folder) = path.parent().filter(|one| !one.as_os_str().is_empty()) else {
        return Ok(());
    };
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|one| !one.as_os_str().is_empty() && !one.exists()).collect();
    fs::create_dir_all(folder).map_err(|error| failed("make the folder", folder, error))?;
    for made in missing {
        sync_folder(made).map_err(|error| failed("sync the folder of", made, error))?;
    }
    Ok(())
}

/// Creates a new file; an existing link of that name is not followed.
fn create(path: &Path) -> Result<File, ItemError> {
    remove(path)?;
    let made = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    made.and_then(|file| sync_folder(path).map(|()| file))
        .map_err(|error| failed("create", path, error))
}

fn remove(path: &Path) -> Result<(), ItemError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("replace", path, error))
        }
        _ => Ok(()),
    }
}

/// Copies the first `length` bytes of `old` into a new file.
fn copy(mut old: File, from: &Path, path: &Path, length: u64) -> Result<File, ItemError> {
    let mut new = create(path)?;
    let mut copied = || -> std::io::Result<u64> {
        old.seek(SeekFrom::Start(0))?;
        let count = std::io::copy(&mut (&mut old).take(length), &mut new)?;
        new.sync_all()?;
        Ok(count)
    };
    match copied().map_err(|error| failed("copy", from, error))? {
        count if count == length => Ok(new),
        _ => {
            let what = format!("cannot copy `{}`: it became shorter meanwhile", from.display());
            Err(ItemError::new(ErrorKind::IO, what))
        }
    }
}

/// Whether `path` is still the name of the open `file`.
fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Returns the FNV-1a hash, 64 bits: stable over versions, because checkpoints store it.
/// <http://www.isthe.com/chongo/tech/comp/fnv/>
#[doc(hidden)]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    stable_hash_after(0xcbf2_9ce4_8422_2325, bytes)
}

/// Returns the hash of some bytes followed by `bytes`; `hash` is that of the former.
#[doc(hidden)]
pub fn stable_hash_after(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whether `name` is that of an output that is not complete, `NAME.TOKEN-NUMBER.part`, or of the proof of a full one,
/// `NAME.TOKEN.done`.
pub(crate) fn is_growing(name: &str) -> bool {
    let Some((rest, ending)) = name.rsplit_once('.') else { return false };
    let Some((_, token)) = rest.rsplit_once('.') else { return false };
    let is_token =
        |token: &str| token.len() == 16 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match ending {
        "part" => token.split_once('-').is_some_and(|(token, id)| is_token(token) && is_number(id)),
        "done" => is_token(token),
        _ => false,
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn failed(action: &str, path: &Path, error: std::io::Error) -> ItemError {
    ItemError::wrap(ErrorKind::IO, format!("cannot {action} `{}`", path.display()), error)
}

fn not_open() -> ItemError {
    ItemError::fatal("cannot write to a file that is not open")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::StopToken;
    use crate::execution::{JobExecution, StepExecution, StepExecutionId};
    use crate::parameters::JobParameters;
    use crate::scope::JobScope;
    use crate::store::MemoryRepository;
    use jiff::Timestamp;

    /// Step execution `id`, which takes over from one whose process died.
    fn taken_over(repository: &MemoryRepository, id: i64) -> StepScope {
        let job = JobExecution::new_unsaved("job", JobParameters::new(), Timestamp::UNIX_EPOCH);
        let step = StepExecution::new_unsaved("step", Timestamp::UNIX_EPOCH);
        let step = StepExecution { id: StepExecutionId(id), ..step };
        let job = JobScope::new(&job, StopToken::default());
        StepScope::new(job, &step, None, repository, StepStart::TakenOver)
    }

    fn committed(output: &mut FileOutput, bytes: &[u8]) -> FilePosition {
        output.append(bytes).unwrap();
        let position = output.position().unwrap();
        output.committed();
        position
    }

    #[test]
    fn a_file_that_was_named_without_a_further_commit_is_found_after_the_next_death() {
        let repository = MemoryRepository::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut first = FileOutput::named_always(&path);
        first.open(None, &taken_over(&repository, 1)).unwrap();
        let position = committed(&mut first, b"one\n");
        first.append(b"not committed").unwrap();
        drop(first);
        // Each finds nothing more to write, names the file, and dies before the end of the step is stored.
        for id in 2..5 {
            let mut output = FileOutput::named_always(&path);
            output.open(Some(position), &taken_over(&repository, id)).unwrap();
            output.close(Ending::Complete).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"one\n");
            assert_eq!(
                fs::read_dir(folder.path()).unwrap().count(),
                1,
                "only the finished file is left"
            );
        }
    }

    #[test]
    fn a_file_whose_execution_fails_before_its_first_commit_is_found_after_the_next_death() {
        let repository = MemoryRepository::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut first = FileOutput::named_always(&path);
        first.open(None, &taken_over(&repository, 1)).unwrap();
        let position = committed(&mut first, b"one\n");
        drop(first);
        let mut second = FileOutput::named_always(&path);
        second.open(Some(position), &taken_over(&repository, 2)).unwrap();
        second.close(Ending::Incomplete).unwrap();
        let mut third = FileOutput::named_always(&path);
        third.open(Some(position), &taken_over(&repository, 3)).unwrap();
        committed(&mut third, b"two\n");
        third.close(Ending::Complete).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "only the finished file is left"
        );
    }
}
