//! From the URL of a store to its repository.

use std::sync::Arc;

use batchwright::{JobRepository, MemoryRepository};
use batchwright_store::{Database, ScheduleStore, SqlRepository, StoreOptions};

use crate::error::CliError;

/// An opened store.
pub(crate) struct Store {
    pub(crate) repository: Arc<dyn JobRepository>,
    /// The database, when it is one: for items that live in it.
    pub(crate) database: Option<Database>,
    pub(crate) options: StoreOptions,
}

impl Store {
    /// The triggers in it.
    pub(crate) fn schedule(&self) -> Result<ScheduleStore, CliError> {
        match &self.database {
            Some(database) => Ok(ScheduleStore::open(database, &self.options)?),
            None => Err(CliError::Usage(
                "keep a schedule: memory: is gone with this process; name a database".to_owned(),
            )),
        }
    }
}

/// Opens the store that `url` names, making it when needed.
pub(crate) fn open(url: &str) -> Result<Store, CliError> {
    if url == "memory:" {
        let repository = Arc::new(MemoryRepository::new());
        return Ok(Store { repository, database: None, options: StoreOptions::default() });
    }
    let (database, options) = StoreOptions::parse(url)
        .map_err(|reason| CliError::Usage(format!("open the store: {reason}; or memory:")))?;
    let repository = SqlRepository::open(database, &options)?;
    let database = Some(repository.database().clone());
    Ok(Store { repository: Arc::new(repository), database, options })
}
