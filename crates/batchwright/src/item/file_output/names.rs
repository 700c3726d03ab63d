//! The names that an output file has while it grows, and what is found under them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{BEFORE_BYTES, FilePosition, failed, stable_hash};
use crate::error::{ErrorKind, ItemError};
use crate::scope::StepScope;

/// The temporary names of an output file.
pub(super) struct Names {
    pub(super) target: PathBuf,
    /// Hash of the store, the instance, its step and its partition.
    pub(super) token: String,
}

/// The file found for a checkpoint.
pub(super) struct Found {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) made_by: i64,
}

impl Names {
    pub(super) fn new(target: &Path, scope: &StepScope) -> Self {
        let partition = scope.partition().map_or("", |partition| partition.key.as_str());
        let (store, instance) = (scope.store_id(), scope.job().instance_id());
        let whole = format!("{store}\n{instance}\n{}\n{partition}", scope.step());
        Self { target: target.to_owned(), token: format!("{:016x}", stable_hash(whole.as_bytes())) }
    }

    /// Returns the temporary name of the file that step execution `id` creates.
    pub(super) fn of(&self, id: i64) -> PathBuf {
        self.beside(&format!(".{}-{id}.part", self.token))
    }

    pub(super) fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.target.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    /// Returns the existing files of step executions before `own`; later ones belong to a successor.
    pub(super) fn of_former(&self, own: i64) -> Vec<PathBuf> {
        // A bare name refers to the working folder.
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let entries =
            fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| self.id_of(&entry.path()));
        let mut ids: Vec<i64> = ids.filter(|id| *id < own).collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| self.of(id)).collect()
    }

    /// Returns the step execution that created the file at `path`, when the name has this pattern.
    fn id_of(&self, path: &Path) -> Option<i64> {
        let name = path.file_name()?.to_str()?;
        let rest = name.strip_prefix(self.target.file_name()?.to_str()?)?;
        rest.strip_prefix('.')?
            .strip_prefix(&self.token)?
            .strip_prefix('-')?
            .strip_suffix(".part")?
            .parse()
            .ok()
    }

    /// Finds the file of `position`: under its original temporary name, under that of a later execution that
    /// copied the file and died, or under the final name when the process died before it stored the end.
    pub(super) fn find(&self, position: &FilePosition, own: i64) -> Result<Found, ItemError> {
        let Some(identity) = position.file else { return self.find_old(position.length, own) };
        let known = self.of(identity.made_by);
        let mut refused = None;
        let former = self.of_former(own).into_iter().rev();
        for path in std::iter::once(known.clone()).chain(former.filter(|path| *path != known)) {
            let made_by = self.id_of(&path).unwrap_or(identity.made_by);
            match checked(&path, position.length, |file| {
                identity_matches(file, position.length, identity.before)
            })? {
                Checked::Right(file) => return Ok(Found { file, path, made_by }),
                Checked::Missing => {}
                Checked::Wrong(problem) => drop(refused.get_or_insert((path, problem))),
            }
        }
        // Accept only the execution's own finished file, not another file that has the final name now.
        let finished = checked(&self.target, position.length, |file| {
            Ok(file.metadata()?.ino() == identity.inode
                && identity_matches(file, position.length, identity.before)?)
        })?;
        if let Checked::Right(file) = finished {
            return self.take_back(file, identity.made_by);
        }
        let (path, problem) = refused.map_or((known, None), |(path, what)| (path, Some(what)));
        Err(self.refuse(&path, position.length, problem))
    }

    /// Finds a file with a name of version 0.1: `NAME.part`, or `NAME` for dead letters.
    fn find_old(&self, length: u64, own: i64) -> Result<Found, ItemError> {
        let growing = self.beside(".part");
        match checked(&growing, length, |_| Ok(true))? {
            Checked::Right(file) => {
                let path = self.of(own);
                fs::rename(&growing, &path).map_err(|error| failed("continue", &growing, error))?;
                Ok(Found { file, path, made_by: own })
            }
            Checked::Wrong(problem) => Err(self.refuse(&growing, length, Some(problem))),
            Checked::Missing => match checked(&self.target, length, |_| Ok(true))? {
                Checked::Right(file) => self.take_back(file, own),
                _ => Err(self.refuse(&growing, length, None)),
            },
        }
    }

    /// Returns the name of the proof that a full file has its name, or had it and was taken.
    pub(super) fn proof(&self) -> PathBuf {
        self.beside(&format!(".{}.done", self.token))
    }

    /// Whether the file of `position` is complete and has its name, or had it.
    pub(super) fn is_named(&self, position: &FilePosition, own: i64) -> Result<bool, ItemError> {
        let made_by = position.file.map_or(own, |file| file.made_by);
        let is_there = |path: &Path| -> Result<bool, ItemError> {
            Ok(!matches!(checked(path, 0, |_| Ok(true))?, Checked::Missing))
        };
        if is_there(&self.of(made_by))? {
            return Ok(false);
        }
        if self.proof().exists() {
            return Ok(true);
        }
        // Copies of later executions.
        for path in self.of_former(own).into_iter().chain([self.of(own)]) {
            if is_there(&path)? {
                return Ok(false);
            }
        }
        let finished = checked(&self.target, position.length, |file| {
            let Some(identity) = position.file else { return Ok(false) };
            Ok(file.metadata()?.ino() == identity.inode
                && identity_matches(file, position.length, identity.before)?)
        })?;
        let problem = match finished {
            Checked::Right(_) => return Ok(true),
            Checked::Wrong(problem) => Some(problem),
            Checked::Missing => None,
        };
        Err(self.refuse(&self.of(made_by), position.length, problem))
    }

    fn take_back(&self, file: File, made_by: i64) -> Result<Found, ItemError> {
        let path = self.of(made_by);
        fs::rename(&self.target, &path).map_err(|error| failed("continue", &self.target, error))?;
        Ok(Found { file, path, made_by })
    }

    /// The error of the file at `path`, with its problem; `None` if it is missing.
    fn refuse(&self, path: &Path, length: u64, problem: Option<String>) -> ItemError {
        let kind = if problem.is_some() { ErrorKind::IO } else { ErrorKind::new("io.missing") };
        let problem = problem.as_deref().unwrap_or("it is missing");
        let (target, path) = (self.target.display(), path.display());
        let what = format!("cannot continue `{target}` at byte {length}: {problem}");
        ItemError::new(kind, format!("{what}; the checkpoint refers to `{path}`"))
    }
}

/// The result of checking a candidate file.
pub(super) enum Checked {
    Right(File),
    Missing,
    /// The file exists and does not fit, with the reason.
    Wrong(String),
}

/// Opens the file at `path` and checks that it has at least `length` bytes and satisfies `right`.
pub(super) fn checked(
    path: &Path,
    length: u64,
    right: impl FnOnce(&File) -> std::io::Result<bool>,
) -> Result<Checked, ItemError> {
    let failed = |error| failed("open", path, error);
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = match OpenOptions::new().read(true).write(true).custom_flags(no_follow).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Checked::Missing),
        opened => opened.map_err(failed)?,
    };
    let found = file.metadata().map_err(failed)?.len();
    if found < length {
        let what = format!("it has only {found} bytes, less than its checkpoint requires");
        return Ok(Checked::Wrong(what));
    }
    Ok(match right(&file).map_err(failed)? {
        true => Checked::Right(file),
        false => Checked::Wrong("its content is not that of the checkpoint".to_owned()),
    })
}

pub(super) fn identity_matches(file: &File, length: u64, before: u64) -> std::io::Result<bool> {
    Ok(stable_hash(&identity(file, length)?.1) == before)
}

/// Returns the inode of `file`, and its last bytes before `length`.
pub(super) fn identity(mut file: &File, length: u64) -> std::io::Result<(u64, Vec<u8>)> {
    let count = length.min(BEFORE_BYTES as u64);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length - count))?;
    file.take(count).read_to_end(&mut tail)?;
    file.seek(SeekFrom::Start(length))?;
    Ok((file.metadata()?.ino(), tail))
}
