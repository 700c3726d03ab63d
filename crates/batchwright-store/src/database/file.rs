//! The file of a SQLite database.

use std::path::{Path, PathBuf};

use batchwright::store::Durability;

/// A SQLite file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteDatabase {
    pub(super) path: PathBuf,
    pub(super) durability: Durability,
}

impl SqliteDatabase {
    /// The SQLite file at `path`, whose commits survive the death of the process.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), durability: Durability::Process }
    }

    /// Sets what commits survive.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Returns what commits survive.
    pub(crate) fn chosen_durability(&self) -> Durability {
        self.durability
    }

    /// Resolves the path relative to `folder`.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.path = folder.join(&self.path);
        self
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
