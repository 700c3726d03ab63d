//! From the URL of a store to its repository.

use std::sync::Arc;

use batchwright::{JobRepository, MemoryRepository};
use batchwright_store::{Database, SqlRepository, StoreOptions};

use crate::error::CliError;

/// An opened store.
pub(crate) struct Store {
    pub(crate) repository: Arc<dyn JobRepository>,
    /// The database, when it is one: for items that live in it.
    pub(crate) database: Option<Database>,
}

/// Opens the store that `url` names, making it when needed.
pub(crate) fn open(url: &str) -> Result<Store, CliError> {
    if url == "memory:" {
        return Ok(Store { repository: Arc::new(MemoryRepository::new()), database: None });
    }
    let (database, options) = StoreOptions::parse(url)
        .map_err(|reason| CliError::Usage(format!("open the store: {reason}; or memory:")))?;
    let repository = SqlRepository::open(database, &options)?;
    let database = Some(repository.database().clone());
    Ok(Store { repository: Arc::new(repository), database })
}
