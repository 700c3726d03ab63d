//! Files of this machine by a pattern in their names.

use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::stable_hash;
use batchwright::partition::FilePartitions;
use batchwright::scope::StepScope;

/// Whether the last part of `path` is a pattern: `*` matches any characters, `?` one.
pub(crate) fn is_pattern(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(['*', '?']))
}

/// Returns the folder of the file at `path`.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// Returns the files that `path` names or matches, sorted by their names; a folder that does not exist has none.
pub(crate) fn files_of(path: &Path) -> Result<Vec<PathBuf>, ItemError> {
    if !is_pattern(path) {
        return match std::fs::metadata(path) {
            Ok(found) => Ok(if found.is_file() { vec![path.to_owned()] } else { Vec::new() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(unreadable(path, error)),
        };
    }
    let folder = folder_of(path);
    match folder.try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(&folder, error)),
    }
    let pattern = path.file_name().unwrap_or_default().to_string_lossy();
    let names = FilePartitions::new(&folder, pattern).names()?;
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Returns the files of `path`, or an error when there is none.
pub(crate) fn some_files_of(path: &Path) -> Result<Vec<PathBuf>, ItemError> {
    let files = files_of(path)?;
    match files.is_empty() {
        false => Ok(files),
        true if is_pattern(path) => Err(no_file(&format!("no file matches `{}`", path.display()))),
        true if path.is_dir() => {
            Err(no_file(&format!("`{}` is a folder; add a pattern, such as `*`", path.display())))
        }
        true => Err(no_file(&format!("`{}` does not exist", path.display()))),
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> ItemError {
    ItemError::wrap(ErrorKind::IO, format!("cannot read `{}`", path.display()), error)
}

pub(crate) fn no_file(what: &str) -> ItemError {
    ItemError::new(ErrorKind::IO, format!("cannot begin: {what}"))
}

/// Returns a part of the names of files in work: the same for each attempt of this instance, and of no other.
pub(crate) fn token(scope: &StepScope) -> String {
    let whole = format!("{} {} {}", scope.store_id(), scope.job().instance_id(), scope.step());
    format!("{:016x}", stable_hash(whole.as_bytes()))
}
