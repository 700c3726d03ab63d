//! From the URL of a store to its repository.

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::{Durability, JobRepository, MemoryRepository};
use batchwright_store::{SqliteDatabase, SqliteOptions, SqliteRepository};

use crate::error::CliError;

/// An opened store.
pub(crate) struct Store {
    pub(crate) repository: Arc<dyn JobRepository>,
    /// The file, when it is SQLite: for items that live in it.
    pub(crate) database: Option<SqliteDatabase>,
}

/// Opens the store that `url` names, making it when needed.
pub(crate) fn open(url: &str) -> Result<Store, CliError> {
    if url == "memory:" {
        return Ok(Store { repository: Arc::new(MemoryRepository::new()), database: None });
    }
    let (path, options) = sqlite(url)?;
    let repository = SqliteRepository::open_with(path, &options)?;
    let database = Some(repository.database().clone());
    Ok(Store { repository: Arc::new(repository), database })
}

/// The SQLite file of another URL, for items.
pub(crate) fn database(url: &str) -> Result<SqliteDatabase, String> {
    let (path, options) = sqlite(url).map_err(|error| error.to_string())?;
    Ok(SqliteDatabase::at(path).durability(options.durability))
}

/// Path and options of `sqlite://PATH[?synchronous=normal|full&prefix=…]`.
fn sqlite(url: &str) -> Result<(PathBuf, SqliteOptions), CliError> {
    let Some(rest) = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")) else {
        // The rest of the URL may hold a password: only its scheme is repeated.
        let scheme = url.split(':').next().unwrap_or_default();
        return Err(CliError::Usage(format!(
            "open a store of kind `{scheme}`: this program knows `sqlite://FILE` and `memory:`"
        )));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() {
        return Err(CliError::Usage("open the store: the URL names no file".to_owned()));
    }
    let mut options = SqliteOptions::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("synchronous", "normal")) => options.durability = Durability::Process,
            Some(("synchronous", "full")) => options.durability = Durability::Power,
            Some(("prefix", prefix)) => options.prefix = prefix.to_owned(),
            _ => {
                return Err(CliError::Usage(format!(
                    "open the store: `{pair}` is unknown; there are `synchronous=normal`, \
                     `synchronous=full` and `prefix=NAME`"
                )));
            }
        }
    }
    Ok((path.into(), options))
}
