//! Opens the store that a URL names.

use std::sync::Arc;

use batchwright::MemoryRepository;
use batchwright::store::JobRepository;
use batchwright_store::{Database, SqlRepository, SqlSchedule, StoreOptions};

use crate::error::CliError;

/// An opened store.
pub(crate) struct Store {
    pub(crate) repository: Arc<dyn JobRepository>,
    /// The database of the store, for readers and writers that use it; `None` for a store in memory.
    pub(crate) database: Option<Database>,
    pub(crate) options: StoreOptions,
}

impl Store {
    /// Opens the schedule in this store.
    pub(crate) fn schedule(&self) -> Result<SqlSchedule, CliError> {
        Ok(SqlSchedule::open(self.schedule_database()?, &self.options)?)
    }

    /// Returns the database of the schedule; the store in memory has none.
    pub(crate) fn schedule_database(&self) -> Result<&Database, CliError> {
        self.database.as_ref().ok_or_else(|| {
            CliError::Usage(
                "the `memory:` store cannot hold a schedule; pass `--store` with a database"
                    .to_owned(),
            )
        })
    }
}

/// Opens the store that `url` names for a verb that only reads it: a store that does not exist is treated as
/// empty and is not created.
pub(crate) fn look(url: &str) -> Result<Store, CliError> {
    match is_there(url)? {
        true => open(url),
        false => unopened(url),
    }
}

/// Whether opening the store that `url` names would create a file.
pub(crate) fn makes_a_file(url: &str) -> Result<bool, CliError> {
    let made = match unopened(url)?.database {
        Some(Database::Sqlite(database)) => !database.path().exists(),
        _ => false,
    };
    Ok(made)
}

/// Whether the store exists; logs when it does not.
pub(crate) fn is_there(url: &str) -> Result<bool, CliError> {
    let unopened = unopened(url)?;
    let Some(database) = &unopened.database else { return Ok(true) };
    let is_there = SqlRepository::is_there(database, &unopened.options)?;
    if !is_there {
        tracing::info!(target: "batchwright::output", "there is no store in `{database}` yet");
    }
    Ok(is_there)
}

/// Returns `url` without its password, for messages.
pub(crate) fn shown(url: &str) -> Result<String, CliError> {
    Ok(unopened(url)?.database.map_or_else(|| url.to_owned(), |database| database.to_string()))
}

/// Returns the store that `url` names without opening it: its repository is empty.
pub(crate) fn unopened(url: &str) -> Result<Store, CliError> {
    let repository = Arc::new(MemoryRepository::new());
    let (database, options) = match url {
        "memory:" => (None, StoreOptions::default()),
        url => {
            let (database, options) = parsed(url)?;
            (Some(database), options)
        }
    };
    Ok(Store { repository, database, options })
}

fn parsed(url: &str) -> Result<(Database, StoreOptions), CliError> {
    StoreOptions::parse(url).map_err(|reason| {
        CliError::Usage(format!(
            "the store cannot be opened: {reason} (`memory:` is a store that ends with the process)"
        ))
    })
}

/// Opens the store that `url` names, and creates it when it does not exist.
pub(crate) fn open(url: &str) -> Result<Store, CliError> {
    if url == "memory:" {
        return unopened(url);
    }
    let (database, options) = parsed(url)?;
    let repository = SqlRepository::open(database, &options)?;
    let database = Some(repository.database().clone());
    Ok(Store { repository: Arc::new(repository), database, options })
}
