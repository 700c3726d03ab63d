//! The files that this process has open: no output may also be an input or another output.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::ItemError;

/// The use of an open file.
#[derive(Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum PathUse {
    /// Reading; any number of readers may have the file open.
    Input,
    /// Writing; only one writer may have the file open. An execution that takes over replaces the claim of
    /// the former owner, which may still run in a stuck thread of this process.
    Output {
        /// Identifies the instance and its step.
        token: String,
        /// The step execution that writes.
        made_by: i64,
    },
}

/// The claim on an open file: a number of readers, or one writer.
#[derive(Debug)]
enum Claimed {
    Inputs(usize),
    Output { token: String, made_by: i64, claim: u64 },
}

static CLAIMS: AtomicU64 = AtomicU64::new(0);
static OPEN: Mutex<Option<HashMap<PathBuf, Claimed>>> = Mutex::new(None);

/// A claim on a path; dropping it releases the claim.
#[derive(Debug)]
#[doc(hidden)]
pub struct OpenPath {
    canonical: PathBuf,
    claim: u64,
}

impl OpenPath {
    /// Claims `path` for `wanted`, compared in canonical form.
    ///
    /// # Errors
    ///
    /// When the file is open for a use that excludes `wanted`.
    pub fn claim(path: &Path, wanted: PathUse) -> Result<Self, ItemError> {
        let canonical = canonical(path);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_default();
        let claim = CLAIMS.fetch_add(1, Ordering::Relaxed);
        let claimed = match (open.get(&canonical), wanted) {
            (None, PathUse::Input) => Claimed::Inputs(1),
            (Some(Claimed::Inputs(count)), PathUse::Input) => Claimed::Inputs(count + 1),
            (None, PathUse::Output { token, made_by }) => Claimed::Output { token, made_by, claim },
            (
                Some(Claimed::Output { token: one, made_by: former, .. }),
                PathUse::Output { token, made_by },
            ) if *one == token && *former < made_by => Claimed::Output { token, made_by, claim },
            (Some(Claimed::Inputs(_)), PathUse::Output { .. }) => {
                return Err(conflict(path, "write to", "an input that is being read"));
            }
            (Some(Claimed::Output { .. }), PathUse::Input) => {
                return Err(conflict(path, "read", "an output that is being written"));
            }
            (Some(Claimed::Output { .. }), PathUse::Output { .. }) => {
                return Err(conflict(path, "write to", "another output that is being written"));
            }
        };
        open.insert(canonical.clone(), claimed);
        Ok(Self { canonical, claim })
    }
}

impl Drop for OpenPath {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = open.as_mut() else { return };
        match open.get_mut(&self.canonical) {
            Some(Claimed::Inputs(count)) if *count > 1 => *count -= 1,
            Some(Claimed::Output { claim, .. }) if *claim != self.claim => {}
            _ => drop(open.remove(&self.canonical)),
        }
    }
}

fn conflict(path: &Path, action: &str, other: &str) -> ItemError {
    ItemError::fatal(format!(
        "cannot {action} `{}`: the same file is {other}; give each its own path",
        path.display()
    ))
}

/// Returns `path` without links and dots, as far as the path exists.
pub(super) fn canonical(path: &Path) -> PathBuf {
    if let Ok(whole) = path.canonicalize() {
        return whole;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => absolute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_no_input_and_no_other_output_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let dotted = dir.path().join("x/../a");
        std::fs::create_dir(dir.path().join("x")).unwrap();
        let output_of = |token: &str, made_by| PathUse::Output { token: token.to_owned(), made_by };
        let input = OpenPath::claim(&path, PathUse::Input).unwrap();
        let again = OpenPath::claim(&dotted, PathUse::Input).unwrap();
        assert!(OpenPath::claim(&path, output_of("a", 1)).is_err());
        drop(input);
        assert!(OpenPath::claim(&dotted, output_of("a", 1)).is_err(), "one reader is left");
        drop(again);
        let output = OpenPath::claim(&dotted, output_of("a", 1)).unwrap();
        assert!(OpenPath::claim(&path, output_of("b", 2)).is_err());
        assert!(OpenPath::claim(&path, PathUse::Input).is_err());
        assert!(OpenPath::claim(&path, output_of("a", 1)).is_err(), "it has it already");
        let successor = OpenPath::claim(&path, output_of("a", 2)).unwrap();
        drop(output);
        assert!(OpenPath::claim(&path, PathUse::Input).is_err(), "the successor has it");
        drop(successor);
        assert!(OpenPath::claim(&path, PathUse::Input).is_ok());
    }
}
