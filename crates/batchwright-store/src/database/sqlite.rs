//! SQLite files.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::{Durability, StopToken};
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::value::{Row, SqlRow};
use super::{EachRow, Session, Sql, SqlError, SqlErrorClass, SqlValue};

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

    /// What its commits were chosen to survive.
    pub(crate) fn chosen_durability(&self) -> Durability {
        self.durability
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

/// A connection to a SQLite file.
pub(super) struct SqliteSession(Connection);

impl SqliteSession {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

impl Session for SqliteSession {
    fn execute(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<u64, SqlError> {
        let changed = self.0.prepare_cached(&sql.text)?.execute(params_from_iter(values))?;
        Ok(changed as u64)
    }

    fn insert(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<i64, SqlError> {
        let mut statement = self.0.prepare_cached(&sql.text)?;
        Ok(statement.query_row(params_from_iter(values), |row| row.get(0))?)
    }

    fn rows(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: EachRow<'_>,
    ) -> Result<(), SqlError> {
        self.stream(sql, values, &mut |row| each(row).map(|()| true))
    }

    fn stream(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: &mut dyn FnMut(&SqlRow<'_>) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError> {
        let mut statement = self.0.prepare_cached(&sql.text)?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            if !each(&SqlRow(Row::Sqlite(row)))? {
                break;
            }
        }
        Ok(())
    }

    fn readable(&mut self, query: &str, rest: &str) -> Result<String, SqlError> {
        let whole = match rest {
            "" => query.to_owned(),
            rest => format!("SELECT * FROM ({query}) AS q {rest}"),
        };
        self.0.prepare(&whole)?;
        Ok(whole)
    }

    fn key_parameter(&mut self, _: &str, _: &str, index: usize) -> Result<String, SqlError> {
        Ok(super::Dialect::Sqlite.parameter(index))
    }

    fn columns_of(&mut self, table: &str) -> Result<Vec<String>, SqlError> {
        let sql = Sql::native("SELECT name FROM pragma_table_info(?1)");
        (self as &mut dyn Session).many(&sql, &[table.into()], |row| row.read("name"))
    }

    fn run(&mut self, text: &str) -> Result<(), SqlError> {
        Ok(self.0.execute_batch(text)?)
    }

    fn is_broken(&self) -> bool {
        // Whatever an error left open is ended before the connection is used again.
        !self.0.is_autocommit()
    }

    fn native(&mut self) -> &mut dyn Any {
        &mut self.0
    }

    fn begin(&mut self) -> Result<(), SqlError> {
        Ok(self.0.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)?)
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        Ok(self.0.prepare_cached("COMMIT")?.execute([]).map(drop)?)
    }

    fn roll_back(&mut self) -> Result<(), SqlError> {
        // SQLite itself rolls back after some errors; then there is nothing left to end.
        match self.0.is_autocommit() {
            true => Ok(()),
            false => self.run("ROLLBACK"),
        }
    }
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{
            CannotOpen, ConstraintViolation, DatabaseBusy, DatabaseCorrupt, DatabaseLocked,
            DiskFull, NotADatabase, ReadOnly, SystemIoFailure, TypeMismatch,
        };
        let class = match error.sqlite_error_code() {
            Some(NotADatabase | DatabaseCorrupt) => SqlErrorClass::Corrupt,
            Some(ConstraintViolation) => SqlErrorClass::Constraint,
            Some(TypeMismatch) => SqlErrorClass::Data,
            Some(
                DatabaseBusy | DatabaseLocked | DiskFull | SystemIoFailure | ReadOnly | CannotOpen,
            ) => SqlErrorClass::Unavailable,
            _ => SqlErrorClass::Other,
        };
        Self::new(class, error)
    }
}
