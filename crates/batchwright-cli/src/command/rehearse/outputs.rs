//! The outputs of a run, as digests that can be compared.

use std::collections::BTreeMap;
use std::path::Path;

use batchwright_store::{Database, SqliteDatabase};
use sha2::{Digest, Sha256};

use super::scratch::STORE_FILE;
use crate::error::CliError;

/// Digests of files and tables by name.
pub(super) struct Outputs(BTreeMap<String, [u8; 32]>);

impl Outputs {
    /// Reads all files below `folder`, and of SQLite databases their tables.
    pub(super) fn of_folder(folder: &Path) -> Result<Self, CliError> {
        let mut outputs = Self(BTreeMap::new());
        outputs.add_folder(folder, folder)?;
        Ok(outputs)
    }

    fn add_folder(&mut self, root: &Path, folder: &Path) -> Result<(), CliError> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if path.is_dir() {
                self.add_folder(root, &path)?;
                continue;
            }
            let is_log = name.ends_with("-wal") || name.ends_with("-shm");
            if is_log || !path.is_file() {
                continue;
            }
            let bytes = std::fs::read(&path)?;
            if bytes.starts_with(b"SQLite format 3\0") {
                let label = if name == STORE_FILE { "the store's database" } else { &name };
                self.add_database(label, &SqliteDatabase::at(&path).into())?;
            } else {
                self.0.insert(name, Sha256::digest(without_execution(&bytes)).into());
            }
        }
        Ok(())
    }

    /// Adds the tables of `database`, except those of Batchwright.
    pub(super) fn add_database(
        &mut self,
        label: &str,
        database: &Database,
    ) -> Result<(), CliError> {
        let failed = |error| CliError::Usage(format!("cannot read the tables of {label}: {error}"));
        for table in database.tables().map_err(failed)? {
            if table.starts_with("bw_") || table == "batchwright_checkpoint" {
                continue;
            }
            let query = format!("SELECT * FROM {}", database.quoted_table(&table));
            let mut rows: Vec<String> = database
                .query(&query)
                .map_err(failed)?
                .iter()
                .map(|row| format!("{row:?}"))
                .collect();
            // The rows of a table have no order.
            rows.sort_unstable();
            let digest = Sha256::digest(rows.join("\n").as_bytes());
            self.0.insert(format!("table {table} of {label}"), digest.into());
        }
        Ok(())
    }

    /// Returns the names of the outputs that differ between `self` and `other`.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let mut names: Vec<_> = self.0.keys().chain(other.0.keys()).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| self.0.get(name) != other.0.get(name));
        names
    }
}

/// Removes the execution from dead letters: it differs after a restart, and nothing else may differ.
fn without_execution(bytes: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.to_vec() };
    let is_letter =
        |line: &serde_json::Value| line.get("execution").is_some() && line.get("phase").is_some();
    let mut lines = Vec::new();
    for line in text.lines() {
        match serde_json::from_str::<serde_json::Value>(line) {
            Ok(mut letter) if is_letter(&letter) => {
                if let Some(fields) = letter.as_object_mut() {
                    fields.remove("execution");
                }
                lines.push(letter.to_string());
            }
            _ => return bytes.to_vec(),
        }
    }
    lines.join("\n").into_bytes()
}
