//! Connections to SQLite files.

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use batchwright::clock::{Clock, StopToken, SystemClock};
use batchwright::store::Durability;
use rusqlite::types::{ToSqlOutput, Value as SqliteValue, ValueRef};
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::value::{Row, SqlRow};
use super::{
    EachRow, Interrupter, Readable, Session, Sql, SqlError, SqlErrorClass, SqlValue,
    SqliteDatabase, class,
};

/// Maximum time that a writer waits for a lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between attempts where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Maximum number of cached prepared statements; the repository has fewer.
const PREPARED_MAX: usize = 64;

impl SqliteDatabase {
    /// Opens a connection with a busy time-out and foreign keys.
    ///
    /// A new file is readable only by its owner and uses the write-ahead log; an existing file keeps its
    /// journal mode.
    ///
    /// # Errors
    ///
    /// Returns the error of SQLite.
    pub fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = self.open()?;
        let is_new =
            connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))? == 0;
        if is_new {
            write_ahead(&connection)?;
        }
        let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        // Without the write-ahead log, only FULL prevents corruption of the file when the machine loses
        // power.
        self.set_synchronous(&connection, journal == "wal")?;
        Ok(connection)
    }

    /// Opens a connection as [`connect`](Self::connect) does, and switches the file to the write-ahead log.
    pub(super) fn connect_store(&self) -> rusqlite::Result<Connection> {
        let connection = self.open()?;
        write_ahead(&connection)?;
        self.set_synchronous(&connection, true)?;
        Ok(connection)
    }

    /// Refuses a folder, for which SQLite has no error of its own.
    fn refuse_folder(&self) -> rusqlite::Result<()> {
        if !self.path.is_dir() {
            return Ok(());
        }
        let message = format!("`{}` is a folder; name a file in it", self.path.display());
        Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(message),
        ))
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        self.refuse_folder()?;
        // The file may contain secrets, so a new file and SQLite's files next to it are only for the owner.
        // When the file cannot be created, SQLite reports the reason below.
        let mut new = OpenOptions::new();
        drop(new.write(true).create_new(true).mode(0o600).open(&self.path));
        let connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(PREPARED_MAX);
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    }

    fn set_synchronous(&self, connection: &Connection, write_ahead: bool) -> rusqlite::Result<()> {
        let synchronous = match self.durability {
            Durability::Process | Durability::None if write_ahead => "NORMAL",
            _ => "FULL",
        };
        connection.pragma_update(None, "synchronous", synchronous)
    }

    /// Opens a connection that cannot write.
    ///
    /// # Errors
    ///
    /// Returns the error of SQLite.
    pub fn connect_read_only(&self) -> rusqlite::Result<Connection> {
        self.refuse_folder()?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(PREPARED_MAX);
        Ok(connection)
    }
}

/// Switches to the write-ahead log, and waits for other processes that open the same new file, because SQLite
/// does not wait for this switch by itself.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let clock = SystemClock::default();
    let begun = clock.elapsed();
    // The loop below keeps the time limit; within one attempt SQLite waits only briefly.
    connection.busy_timeout(BUSY_PAUSE)?;
    loop {
        let switched =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        match switched {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && clock.elapsed() - begun < BUSY_TIMEOUT =>
            {
                StopToken::default().wait(BUSY_PAUSE);
            }
            switched => {
                switched?;
                return connection.busy_timeout(BUSY_TIMEOUT);
            }
        }
    }
}

/// Commits of a connection between two looks at the size of the write-ahead log.
const LOG_LOOK_INTERVAL: u32 = 256;
/// Size above which the write-ahead log is begun anew. SQLite does that by itself only at a moment without readers, of which
/// busy readers leave few.
const LOG_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How long a commit waits for readers to leave a large log. A reader that stays longer, such as a step that reads this file, is
/// not waited for: the log grows, and is begun anew later.
const LOG_TIMEOUT: Duration = Duration::from_millis(50);

/// A connection to a SQLite file.
pub(super) struct SqliteSession {
    connection: Connection,
    place: Arc<str>,
    /// Commits since the last look at the log.
    commits: u32,
    /// Size above which the log is begun anew.
    log_max: u64,
}

impl SqliteSession {
    pub(super) fn new(connection: Connection, place: Arc<str>) -> Self {
        Self { connection, place, commits: 0, log_max: LOG_BYTES_MAX }
    }

    /// Begins the write-ahead log anew when it has become large: waits a moment for the readers that are in it, and lets new ones
    /// read the file. When a reader stays, it is tried again when the log has become larger still.
    fn bound_log(&mut self) {
        self.commits += 1;
        if self.commits < LOG_LOOK_INTERVAL {
            return;
        }
        self.commits = 0;
        let log = self.connection.path().map(|path| format!("{path}-wal"));
        let length = log.and_then(|log| std::fs::metadata(log).ok()).map_or(0, |log| log.len());
        if length <= self.log_max {
            return;
        }
        let begun_anew = self.begin_log_anew().unwrap_or_else(|error| {
            tracing::debug!(%error, length, "the write-ahead log cannot be begun anew now");
            false
        });
        self.log_max = if begun_anew { LOG_BYTES_MAX } else { length + LOG_BYTES_MAX };
    }

    /// Returns whether no reader was in the log.
    fn begin_log_anew(&self) -> rusqlite::Result<bool> {
        self.connection.busy_timeout(LOG_TIMEOUT)?;
        let is_busy =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        is_busy.map(|is_busy: i64| is_busy == 0)
    }

    fn checked<T>(&self, result: rusqlite::Result<T>) -> Result<T, SqlError> {
        result.map_err(|error| SqlError::from(error).at(&self.place))
    }
}

/// The columns of a query. SQLite is asked for their names once, not for each value of each row.
pub(super) struct Columns {
    names: Vec<String>,
    /// Whether each name is one column's. Of several columns with one name, the first counts.
    are_unique: bool,
    /// The column after the one that was read last: most rows are read in the order of their columns.
    next: Cell<usize>,
}

impl Columns {
    fn of(statement: &rusqlite::Statement<'_>) -> rusqlite::Result<Self> {
        let names = (0..statement.column_count())
            .map(|index| statement.column_name(index).map(str::to_owned))
            .collect::<rusqlite::Result<Vec<String>>>()?;
        let is_first = |(index, name): (usize, &String)| {
            names[..index].iter().all(|other| !other.eq_ignore_ascii_case(name))
        };
        let are_unique = names.iter().enumerate().all(is_first);
        Ok(Self { names, are_unique, next: Cell::new(0) })
    }

    /// Returns the index of `column`, also if its name differs in case only.
    pub(super) fn index(&self, row: &rusqlite::Row<'_>, column: &str) -> Option<usize> {
        if !self.are_unique {
            return row.as_ref().column_index(column).ok();
        }
        let count = self.names.len();
        let from = self.next.get();
        let found = (from..count).chain(0..from.min(count)).find(|at| self.names[*at] == column);
        self.next.set(found.map_or(0, |index| index + 1));
        found.or_else(|| row.as_ref().column_index(column).ok())
    }
}

impl SqliteSession {
    fn stream_rows(
        &self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: &mut dyn FnMut(&SqlRow<'_>) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError> {
        let mut statement = self.connection.prepare_cached(&sql.text)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut columns = None;
        while let Some(row) = rows.next()? {
            // Not before the first row: until then SQLite may prepare the statement again for a changed table.
            let columns = match &mut columns {
                Some(known) => &*known,
                none => none.insert(Columns::of(row.as_ref())?),
            };
            if !each(&SqlRow(Row::Sqlite(row, columns)))? {
                break;
            }
        }
        Ok(())
    }
}

impl Session for SqliteSession {
    fn execute(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<u64, SqlError> {
        let prepared = self.connection.prepare_cached(&sql.text);
        let changed = prepared.and_then(|mut one| one.execute(params_from_iter(values)));
        self.checked(changed).map(|changed| changed as u64)
    }

    fn insert(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<i64, SqlError> {
        let prepared = self.connection.prepare_cached(&sql.text);
        self.checked(
            prepared.and_then(|mut one| one.query_row(params_from_iter(values), |row| row.get(0))),
        )
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
        self.stream_rows(sql, values, each).map_err(|error| error.at(&self.place))
    }

    fn readable(&mut self, query: &str, rest: &str) -> Result<Readable, SqlError> {
        let whole = match rest {
            "" => query.to_owned(),
            rest => format!("SELECT * FROM ({query}\n) AS q {rest}"),
        };
        let statement = self.checked(self.connection.prepare(&whole))?;
        let names = (0..statement.column_count()).map(|index| statement.column_name(index));
        let columns = self.checked(names.map(|name| name.map(str::to_owned)).collect())?;
        Ok(Readable { text: whole, columns })
    }

    fn key_parameter(&mut self, _: &str, _: &str, index: usize) -> Result<String, SqlError> {
        Ok(super::Dialect::Sqlite.parameter(index))
    }

    fn interrupter(&mut self) -> Result<Option<Interrupter>, SqlError> {
        let handle = self.connection.get_interrupt_handle();
        Ok(Some(Box::new(move || {
            handle.interrupt();
            Ok(())
        })))
    }

    fn columns_of(&mut self, table: &str) -> Result<Vec<String>, SqlError> {
        let sql = Sql::native("SELECT name FROM pragma_table_info(?1)");
        (self as &mut dyn Session).many(&sql, &[table.into()], |row| row.read("name"))
    }

    fn run(&mut self, text: &str) -> Result<(), SqlError> {
        self.checked(self.connection.execute_batch(text))
    }

    fn is_broken(&self) -> bool {
        // A transaction that an error left open must end before the connection is used again.
        !self.connection.is_autocommit()
    }

    fn native(&mut self) -> &mut dyn Any {
        &mut self.connection
    }

    fn begin(&mut self) -> Result<(), SqlError> {
        let prepared = self.connection.prepare_cached("BEGIN IMMEDIATE");
        self.checked(prepared.and_then(|mut one| one.execute([])).map(drop))
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        let prepared = self.connection.prepare_cached("COMMIT");
        let committed = prepared.and_then(|mut one| one.execute([])).map(drop);
        self.checked(committed)?;
        self.bound_log();
        Ok(())
    }

    fn roll_back(&mut self) -> Result<(), SqlError> {
        // After some errors SQLite has already rolled the transaction back.
        match self.connection.is_autocommit() {
            true => Ok(()),
            false => self.run("ROLLBACK"),
        }
    }
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        let class = error.sqlite_error_code().map_or(SqlErrorClass::Other, class::of_sqlite);
        Self::new(class, error)
    }
}

impl rusqlite::ToSql for SqlValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(SqliteValue::Null),
            Self::Boolean(value) => ToSqlOutput::Owned(SqliteValue::Integer(i64::from(*value))),
            Self::Integer(value) => ToSqlOutput::Owned(SqliteValue::Integer(*value)),
            Self::Unsigned(value) => return Err(too_large(*value)),
            Self::Float(value) => ToSqlOutput::Owned(SqliteValue::Real(*value)),
            Self::Timestamp(at) => instant(*at),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

/// Returns the text of an instant. Apart from the conversion of other values, which is called for each of them and stays small.
#[inline(never)]
fn instant(at: jiff::Timestamp) -> ToSqlOutput<'static> {
    ToSqlOutput::Owned(SqliteValue::Text(at.to_string()))
}

/// Refuses a number that SQLite would turn from text into an inexact one.
#[cold]
fn too_large(value: u64) -> rusqlite::Error {
    let what = format!("{value} does not fit into an integer of SQLite");
    rusqlite::Error::ToSqlConversionFailure(what.into())
}

/// Returns the value of the column at `index`.
pub(super) fn value<'r>(
    row: &'r rusqlite::Row<'_>,
    index: usize,
) -> Result<SqlValue<'r>, SqlError> {
    Ok(match row.get_ref(index)? {
        ValueRef::Null => SqlValue::Null,
        ValueRef::Integer(value) => SqlValue::Integer(value),
        ValueRef::Real(value) => SqlValue::Float(value),
        ValueRef::Text(bytes) => SqlValue::Text(Cow::Borrowed(
            std::str::from_utf8(bytes)
                .map_err(|error| SqlError::new(SqlErrorClass::Data, error))?,
        )),
        ValueRef::Blob(bytes) => SqlValue::Bytes(Cow::Borrowed(bytes)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_in_any_order_also_after_a_change_of_the_table() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE t (a, b, c); INSERT INTO t VALUES (1, 2, 3), (4, 5, 6)")
            .unwrap();
        let session = SqliteSession::new(Connection::open(&path).unwrap(), "t".into());
        let read_of = |query: &'static str, names: &[&str]| -> Result<Vec<i64>, SqlError> {
            let mut found = Vec::new();
            session.stream_rows(&Sql::native(query), &[], &mut |row| {
                for name in names {
                    found.push(row.read(name)?);
                }
                Ok(true)
            })?;
            Ok(found)
        };
        let read = |names: &[&str]| read_of("SELECT * FROM t", names);
        assert_eq!(read(&["c", "A", "a", "b"]).unwrap(), [3, 1, 1, 2, 6, 4, 4, 5]);
        // Of two columns with one name the first counts, in each row.
        let twice = read_of("SELECT a, b, c AS a FROM t", &["b", "a"]).unwrap();
        assert_eq!(twice, [2, 1, 5, 4]);
        assert!(read(&["a", "d"]).unwrap_err().to_string().contains("`d`"));
        // The statement is in the cache of the session, which prepares it again.
        connection.execute_batch("ALTER TABLE t DROP COLUMN a").unwrap();
        assert_eq!(read(&["b", "c"]).unwrap(), [2, 3, 5, 6]);
    }
}
