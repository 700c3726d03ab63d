//! The job repository on a SQL database, with the same statements for every database and a pool of
//! connections.

mod pool;
mod progressive;
mod query;
mod rows;
mod schema;
mod statements;
mod transaction;

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::error::RepositoryError;
use batchwright::store::{Durability, JobRepository, ProgressiveQueries, Transaction};

use crate::database::{Database, Dialect, SqliteDatabase};
use pool::Pool;
use statements::Statements;
use transaction::SqlTransaction;

/// Connections that read a SQLite file: a query that reads many rows must not keep others waiting.
const SQLITE_READERS_MAX: usize = 4;

/// How a [`SqlRepository`] is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// What a commit survives on SQLite. Default [`Durability::Power`]: `synchronous=FULL`, one sync to disk
    /// per commit. [`Durability::Process`] (`NORMAL`) survives every crash of the process and is several
    /// times faster, but a power cut may lose the last commits. A server has a setting of its own.
    pub durability: Durability,
    /// Prefix of every table's name: letters, digits and underscores. Default `bw_`.
    pub prefix: String,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { durability: Durability::Power, prefix: "bw_".to_owned() }
    }
}

impl StoreOptions {
    /// Parses the database and options of a URL for [`Database::parse`], whose query may also contain
    /// `prefix=NAME`, `synchronous=normal|full` (SQLite) and `connections=N` (servers).
    ///
    /// # Errors
    ///
    /// Returns a sentence about what is wrong with the URL, without its password.
    pub fn parse(url: &str) -> Result<(Database, Self), String> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let is_file = base.starts_with("sqlite:");
        let mut options = Self::default();
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("synchronous", "normal")) if is_file => {
                    options.durability = Durability::Process;
                }
                Some(("synchronous", "full")) if is_file => options.durability = Durability::Power,
                Some(("prefix", prefix)) => options.prefix = prefix.to_owned(),
                _ if is_file => {
                    return Err(format!(
                        "the option `{pair}` of the store URL is unknown; the options are `synchronous=normal`, `synchronous=full` and \
                         `prefix=NAME`"
                    ));
                }
                _ => rest.push(pair),
            }
        }
        let database = match rest.is_empty() {
            true => Database::parse(base)?,
            false => Database::parse(&format!("{base}?{}", rest.join("&")))?,
        };
        Ok((database.durability(options.durability), options))
    }
}

/// A [`JobRepository`] in a SQLite file, or on a PostgreSQL, MySQL or MariaDB server.
///
/// Several processes may share a store. On SQLite, transactions exclude each other by the write lock of the
/// file, for which a process waits up to ten seconds; on servers they lock the rows that they use. The
/// repository waits up to fifteen seconds for a server that is restarting.
pub struct SqlRepository {
    database: Database,
    dialect: Dialect,
    writers: Arc<Pool>,
    readers: Arc<Pool>,
    statements: Statements,
    /// Beginnings of the queries that are completed with the conditions of a filter.
    executions: String,
    execution_count: String,
    /// A condition of such a filter.
    newest_of_instance: String,
    /// A condition beside that of the time, which keeps a search from reading all older executions: numbers rise with time, but
    /// for what hosts with different clocks store at once.
    first_since: String,
    /// Beginning of the query for the steps of several executions.
    steps: String,
    id: String,
}

impl SqlRepository {
    /// Opens the store in the SQLite file at `path`, durable against power loss; creates and migrates it when
    /// needed.
    ///
    /// # Errors
    ///
    /// Fails as [`open`](Self::open) does.
    pub fn sqlite(path: impl Into<PathBuf>) -> Result<Self, RepositoryError> {
        Self::open(SqliteDatabase::at(path).into(), &StoreOptions::default())
    }

    /// Opens the store at `url`; see [`StoreOptions::parse`].
    ///
    /// # Errors
    ///
    /// Fails as [`open`](Self::open) does, and if the URL is invalid.
    pub fn connect(url: &str) -> Result<Self, RepositoryError> {
        let (database, options) = StoreOptions::parse(url)
            .map_err(|reason| RepositoryError::unavailable("open the store", reason))?;
        Self::open(database, &options)
    }

    /// Whether `database` has a store with the prefix of `options`. Creates nothing, not even a file.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be read.
    pub fn is_there(database: &Database, options: &StoreOptions) -> Result<bool, RepositoryError> {
        if let Database::Sqlite(file) = database
            && !file.path().exists()
        {
            return Ok(false);
        }
        let opened = database.connect_read_only();
        let mut session = opened.map_err(|error| error.in_store("open the store"))?;
        schema::is_there(&mut *session, database.dialect(), &options.prefix)
    }

    /// Opens the store in `database`; creates and migrates its tables when needed.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be opened, is no database, or has a newer schema. Nothing is changed
    /// then.
    pub fn open(database: Database, options: &StoreOptions) -> Result<Self, RepositoryError> {
        let database = database.durability(options.durability);
        let action = format!("open `{database}`");
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !options.prefix.bytes().all(valid) {
            let reason = format!("the table prefix `{}` is not an identifier", options.prefix);
            return Err(RepositoryError::unavailable(action, reason));
        }
        let dialect = database.dialect();
        // Older versions of SQLite can corrupt a write-ahead log that two connections share.
        #[cfg(feature = "sqlite")]
        if dialect == Dialect::Sqlite && rusqlite::version_number() < 3_051_003 {
            let reason = format!("SQLite {} is too old, 3.51.3 is needed", rusqlite::version());
            return Err(RepositoryError::unavailable(action, reason));
        }
        let (writing, reading) = (database.clone(), database.clone());
        let writers = Arc::new(match &database {
            Database::Sqlite(_) => Pool::new(1, move |_| writing.connect_store()),
            Database::Postgres(server) | Database::MySql(server) => {
                Pool::new(server.connections(), move |first| match first {
                    true => writing.connect_store(),
                    false => writing.reconnect_store(),
                })
            }
        });
        let readers = match dialect {
            // A chunk holds the writing connection until its end, so queries have connections of their own.
            Dialect::Sqlite => {
                Arc::new(Pool::new(SQLITE_READERS_MAX, move |_| reading.connect_read_only()))
            }
            Dialect::Postgres | Dialect::MySql => Arc::clone(&writers),
        };
        let (id, is_new) = {
            let mut session = writers.take().map_err(opening)?;
            schema::migrate(&mut *session, dialect, &options.prefix)?
        };
        if is_new {
            tracing::info!(target: "batchwright::output", "created a new store in `{database}`");
        }
        let select = |what: &str| {
            format!("SELECT {what} FROM {}job_execution WHERE id < ?1 ", options.prefix)
        };
        Ok(Self {
            dialect,
            writers,
            readers,
            statements: Statements::new(dialect, &options.prefix),
            executions: select("*"),
            execution_count: select("count(*)"),
            newest_of_instance: "AND NOT EXISTS (SELECT 1 FROM {p}job_execution newer \
                 WHERE newer.instance_id = {p}job_execution.instance_id AND newer.id > {p}job_execution.id) "
                .replace("{p}", &options.prefix),
            first_since: "id >= (SELECT first.id FROM {p}job_execution first WHERE first.created_at >= ?# \
                 ORDER BY first.created_at LIMIT 1) - 10000"
                .replace("{p}", &options.prefix),
            steps: format!("SELECT * FROM {}step_execution WHERE execution_id", options.prefix),
            id,
            database,
        })
    }

    /// Returns the database, for readers and writers that use it.
    pub fn database(&self) -> &Database {
        &self.database
    }
}

/// Adds to `error` that the store was being opened.
fn opening(error: RepositoryError) -> RepositoryError {
    match error {
        RepositoryError::Unavailable { source, .. } => {
            RepositoryError::Unavailable { action: "open the store".to_owned(), source }
        }
        other => other,
    }
}

impl std::fmt::Debug for SqlRepository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlRepository").field("database", &self.database).finish_non_exhaustive()
    }
}

impl JobRepository for SqlRepository {
    fn begin(&self) -> Result<Box<dyn Transaction + '_>, RepositoryError> {
        loop {
            if let Some(tx) = SqlTransaction::begin(self.writers.take()?, &self.statements)? {
                return Ok(Box::new(tx));
            }
        }
    }

    fn slices(&self) -> &dyn ProgressiveQueries {
        self
    }

    fn durability(&self) -> Durability {
        match &self.database {
            Database::Sqlite(file) => file.chosen_durability(),
            // The administrator of the server decides what its commits survive. `Power` is assumed, so that
            // output files are synced.
            Database::Postgres(_) | Database::MySql(_) => Durability::Power,
        }
    }

    fn store_id(&self) -> &str {
        &self.id
    }
}
