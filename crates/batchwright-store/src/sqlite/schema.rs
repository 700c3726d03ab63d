//! Makes the tables and brings old ones up to date.

use batchwright::RepositoryError;
use rusqlite::{Connection, OptionalExtension};

use super::store_error;

/// All migrations, in order; number and name are stored, the text is never edited after release.
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "init", include_str!("../../migrations/sqlite/0001_init.sql"))];

/// Migrates to the newest version; returns the store's name. Alone: other processes wait.
pub(super) fn migrate(connection: &Connection, prefix: &str) -> Result<String, RepositoryError> {
    let failed = |error| store_error("migrate the store", error);
    if let Some(id) = current(connection, prefix).map_err(failed)? {
        return Ok(id);
    }
    connection.execute_batch("BEGIN EXCLUSIVE").map_err(failed)?;
    let migrated = migrate_alone(connection, prefix);
    let end = if migrated.is_ok() { "COMMIT" } else { "ROLLBACK" };
    connection.execute_batch(end).map_err(failed)?;
    migrated
}

/// The store's name, when nothing is to be done: the way that every later start takes.
fn current(connection: &Connection, prefix: &str) -> rusqlite::Result<Option<String>> {
    let exists = connection
        .query_row(
            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1",
            [format!("{prefix}schema_version")],
            |_| Ok(()),
        )
        .optional()?;
    if exists.is_none() || version(connection, prefix)? != newest() {
        return Ok(None);
    }
    connection.query_row(&format!("SELECT id FROM {prefix}store"), [], |row| row.get(0)).optional()
}

fn newest() -> i64 {
    MIGRATIONS[MIGRATIONS.len() - 1].0
}

fn version(connection: &Connection, prefix: &str) -> rusqlite::Result<i64> {
    let sql = format!("SELECT coalesce(max(version), 0) FROM {prefix}schema_version");
    connection.query_row(&sql, [], |row| row.get(0))
}

fn migrate_alone(connection: &Connection, prefix: &str) -> Result<String, RepositoryError> {
    let failed = |error| store_error("migrate the store", error);
    connection
        .execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {prefix}schema_version (
                 version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL
             ) STRICT"
        ))
        .map_err(failed)?;
    let found = version(connection, prefix).map_err(failed)?;
    if found > newest() {
        return Err(RepositoryError::NewerSchema { found, known: newest() });
    }
    for (number, name, text) in MIGRATIONS.iter().filter(|(number, ..)| *number > found) {
        connection.execute_batch(&text.replace("{p}", prefix)).map_err(failed)?;
        let insert = format!("INSERT INTO {prefix}schema_version VALUES (?1, ?2, datetime())");
        connection.execute(&insert, (number, name)).map_err(failed)?;
    }
    let id: Option<String> = connection
        .query_row(&format!("SELECT id FROM {prefix}store"), [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    match id {
        Some(id) => Ok(id),
        None => connection
            .query_row(
                &format!(
                    "INSERT INTO {prefix}store VALUES (lower(hex(randomblob(16)))) RETURNING id"
                ),
                [],
                |row| row.get(0),
            )
            .map_err(failed),
    }
}
