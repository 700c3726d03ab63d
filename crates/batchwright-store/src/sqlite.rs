//! The repository on SQLite: one connection that writes, one that answers questions.

mod query;
mod rows;
mod schema;
mod statements;
mod unit;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use batchwright::{Durability, JobRepository, RepositoryError, StopToken, UnitOfWork};
use rusqlite::{Connection, OpenFlags};

use statements::Statements;
use unit::SqliteUnit;

/// How long a writer waits for another process before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between attempts where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Statements kept prepared; the repository has fewer.
const PREPARED_MAX: usize = 64;

/// A SQLite file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteDatabase {
    path: PathBuf,
    durability: Durability,
}

impl SqliteDatabase {
    /// The file at `path`, whose commits survive the death of the process.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), durability: Durability::Process }
    }

    /// What its commits survive.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The same, its path taken relative to `folder`.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.path = folder.join(&self.path);
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection with our settings: WAL, a busy time-out, foreign keys.
    ///
    /// # Errors
    ///
    /// What SQLite reports.
    pub fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(PREPARED_MAX);
        connection.pragma_update(None, "foreign_keys", true)?;
        write_ahead(&connection)?;
        let synchronous = match self.durability {
            Durability::Power => "FULL",
            Durability::Process | Durability::None => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        Ok(connection)
    }

    /// A connection that cannot write.
    ///
    /// # Errors
    ///
    /// What SQLite reports.
    pub fn connect_read_only(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(PREPARED_MAX);
        Ok(connection)
    }
}

/// Switches to the write-ahead log. When several processes open a new file at once, SQLite does not wait
/// for the others here by itself.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        let switched =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        match switched {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && waited < BUSY_TIMEOUT =>
            {
                StopToken::default().wait(BUSY_PAUSE);
                waited += BUSY_PAUSE;
            }
            switched => return switched.map(drop),
        }
    }
}

/// How a [`SqliteRepository`] is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// What a commit survives. Default [`Durability::Power`]: `synchronous=FULL`, one sync to disk a
    /// commit. [`Durability::Process`] (`NORMAL`) survives every crash of the process and is several times faster, but
    /// a power cut may take the last commits back.
    pub durability: Durability,
    /// In front of every table's name: letters, digits and underscores. Default `bw_`.
    pub prefix: String,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { durability: Durability::Power, prefix: "bw_".to_owned() }
    }
}

/// A [`JobRepository`] in a SQLite file.
///
/// Several processes may share the file: units of work exclude each other by SQLite's write lock, for
/// which a process waits up to ten seconds.
#[derive(Debug)]
pub struct SqliteRepository {
    database: SqliteDatabase,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    statements: Statements,
    id: String,
}

impl SqliteRepository {
    /// Opens the file at `path`, making and migrating it when needed, durable against power loss.
    ///
    /// # Errors
    ///
    /// [`RepositoryError`]: it cannot be opened, is no database, or has a newer schema. Nothing was changed.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RepositoryError> {
        Self::open_with(path, &SqliteOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(
        path: impl Into<PathBuf>,
        options: &SqliteOptions,
    ) -> Result<Self, RepositoryError> {
        let database = SqliteDatabase::at(path).durability(options.durability);
        let action = format!("open `{}`", database.path.display());
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !options.prefix.bytes().all(valid) {
            let reason = format!("the table prefix `{}` is no identifier", options.prefix);
            return Err(RepositoryError::unavailable(action, reason));
        }
        // Older versions can corrupt a write-ahead log that two connections share.
        if rusqlite::version_number() < 3_051_003 {
            let reason = format!("SQLite {} is too old, 3.51.3 is needed", rusqlite::version());
            return Err(RepositoryError::unavailable(action, reason));
        }
        let opened = database.connect().map_err(|error| store_error(&action, error))?;
        let id = schema::migrate(&opened, &options.prefix)?;
        let reader = database.connect_read_only().map_err(|error| store_error(&action, error))?;
        Ok(Self {
            database,
            writer: Mutex::new(opened),
            reader: Mutex::new(reader),
            statements: Statements::new(&options.prefix),
            id,
        })
    }

    /// The file, for readers and writers of items that live in it.
    pub fn database(&self) -> &SqliteDatabase {
        &self.database
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobRepository for SqliteRepository {
    fn begin(&self) -> Result<Box<dyn UnitOfWork + '_>, RepositoryError> {
        // A unit that unwinds rolls back first, so the connection is whole.
        let connection = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        SqliteUnit::begin(connection, &self.statements).map(|unit| Box::new(unit) as _)
    }

    fn durability(&self) -> Durability {
        self.database.durability
    }

    fn store_id(&self) -> &str {
        &self.id
    }
}

/// What SQLite reports, in the repository's words.
pub(crate) fn store_error(action: &str, error: rusqlite::Error) -> RepositoryError {
    use rusqlite::ErrorCode::{ConstraintViolation, DatabaseCorrupt, NotADatabase};
    match error.sqlite_error_code() {
        Some(NotADatabase | DatabaseCorrupt) => {
            RepositoryError::Corrupt { what: format!("{action}: {error}") }
        }
        Some(ConstraintViolation) => {
            RepositoryError::Conflict { what: format!("{action}: {error}") }
        }
        _ => RepositoryError::unavailable(action, error),
    }
}
