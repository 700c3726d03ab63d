//! The supported databases, and one interface to all of them.

mod class;
mod convert;
#[cfg(feature = "server")]
mod driver;
mod file;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod server;
#[cfg(feature = "sqlite")]
mod sqlite;
mod value;

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock, StopToken, SystemClock};
use batchwright::error::{ErrorKind, RepositoryError};
use batchwright::store::Durability;

pub(crate) use class::SqlErrorClass;
pub use convert::FromSql;
pub use file::SqliteDatabase;
#[cfg(feature = "mysql")]
pub use mysql::MySqlSession;
#[cfg(feature = "mysql")]
pub(crate) use mysql::{push as push_mysql, size as size_in_mysql, too_large};
#[cfg(feature = "postgres")]
pub use postgres::PostgresSession;
#[cfg(feature = "postgres")]
pub(crate) use postgres::{ArrayColumn, ArrayKind};
pub use server::ServerDatabase;
pub use value::{SqlRow, SqlValue};

/// How long a reconnect waits for a server: long enough for a restart of the server.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two attempts to reconnect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// A database of one of the supported kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file.
    Sqlite(SqliteDatabase),
    /// PostgreSQL 14 or newer.
    Postgres(ServerDatabase),
    /// MySQL 8, or MariaDB 10.6 or newer.
    MySql(ServerDatabase),
}

impl Database {
    /// Parses a URL: `sqlite://PATH`, `postgres://…` or `mysql://…` (also `postgresql://`, `mariadb://`).
    ///
    /// # Errors
    ///
    /// Returns a sentence about what is wrong with the URL, without its password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(
                "the URL has no scheme; write sqlite://PATH, postgres://… or mysql://…".to_owned()
            );
        };
        match scheme {
            "sqlite" => match rest.strip_prefix("//").unwrap_or(rest) {
                "" => Err("the URL names no file; write sqlite://PATH".to_owned()),
                memory if memory == ":memory:" || memory.starts_with("file:") => Err(
                    "SQLite databases in memory and `file:` names are not supported; write sqlite://PATH, or `memory:` for a \
                     store that ends with the process"
                        .to_owned(),
                ),
                _ if cfg!(not(feature = "sqlite")) => Err(without("sqlite")),
                path => Ok(Self::Sqlite(SqliteDatabase::at(path))),
            },
            "postgres" | "postgresql" => ServerDatabase::postgres(url).map(Self::Postgres),
            "mysql" => ServerDatabase::mysql(url).map(Self::MySql),
            "mariadb" => ServerDatabase::mysql(&format!("mysql:{rest}")).map(Self::MySql),
            // The text before the first colon may be a password, so the message does not repeat it.
            _ => Err(
                "the scheme of the URL is unknown; write sqlite://PATH, postgres://… or mysql://…"
                    .to_owned(),
            ),
        }
    }

    /// Sets what commits of a SQLite file survive. Has no effect on a server, which decides that itself.
    #[must_use]
    pub fn durability(self, durability: Durability) -> Self {
        match self {
            Self::Sqlite(file) => Self::Sqlite(file.durability(durability)),
            server => server,
        }
    }

    /// Resolves the path of a SQLite file relative to `folder`. Has no effect on a server.
    #[must_use]
    pub fn in_folder(self, folder: &Path) -> Self {
        match self {
            Self::Sqlite(file) => Self::Sqlite(file.in_folder(folder)),
            server => server,
        }
    }

    /// Runs statements without parameters on a new connection, for instance to create tables.
    ///
    /// # Errors
    ///
    /// Returns the error of the database; the statements before the failed one remain in effect.
    pub fn run(&self, text: &str) -> Result<(), SqlError> {
        self.connect()?.run(text)
    }

    /// Returns all rows of `query`; meant for small results.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub fn query(&self, query: &str) -> Result<Vec<Vec<SqlValue<'static>>>, SqlError> {
        let mut session = self.connect_read_only()?;
        let readable = session.readable(query, "")?;
        session.many(&Sql::native(&readable.text), &[], |row| {
            (0..row.names().len()).map(|index| Ok(row.at(index)?.into_owned())).collect()
        })
    }

    /// Returns the names of all tables, sorted.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub fn tables(&self) -> Result<Vec<String>, SqlError> {
        let query = match self.dialect() {
            Dialect::Sqlite => {
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1"
            }
            Dialect::Postgres => {
                "SELECT tablename::text AS name FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1"
            }
            Dialect::MySql => {
                "SELECT CAST(table_name AS CHAR) AS name FROM information_schema.tables \
                 WHERE table_schema = database() ORDER BY 1"
            }
        };
        self.connect_read_only()?.many(&Sql::native(query), &[], |row| row.read("name"))
    }

    /// Returns the name of a table quoted for SQL text; any characters are allowed in the name.
    pub fn quoted_table(&self, table: &str) -> String {
        self.dialect().table(table)
    }

    /// Returns the names of the columns of `table` in order; empty if the table does not exist.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub fn columns_of(&self, table: &str) -> Result<Vec<String>, SqlError> {
        self.connect()?.columns_of(table)
    }

    /// Whether the server is reached through a pool such as PgBouncer.
    pub(crate) fn is_pooled(&self) -> bool {
        matches!(self, Self::Postgres(server) if server.is_pooled())
    }

    /// Returns the SQL dialect.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
            Self::MySql(_) => Dialect::MySql,
        }
    }

    /// Opens a connection.
    pub(crate) fn connect(&self) -> Result<SqlSession, SqlError> {
        let place = self.place();
        let connected: Result<Box<dyn Session>, SqlError> = match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(file) => {
                let connected = file.connect().map_err(SqlError::from);
                connected.map(|one| Box::new(sqlite::SqliteSession::new(one, self.place())) as _)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(server) => {
                PostgresSession::connect(server, self.place()).map(|one| Box::new(one) as _)
            }
            #[cfg(feature = "mysql")]
            Self::MySql(server) => {
                MySqlSession::connect(server, self.place()).map(|one| Box::new(one) as _)
            }
            #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
            _ => Err(SqlError::new(SqlErrorClass::Other, without(self.dialect().feature()))),
        };
        connected.map(SqlSession).map_err(|error| error.at(&place))
    }

    /// Opens a connection to a store; fails on a server that takes no writes.
    pub(crate) fn connect_store(&self) -> Result<SqlSession, SqlError> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(file) => {
                let connected = file.connect_store().map_err(SqlError::from);
                let connection = connected.map_err(|error| error.at(&self.place()))?;
                Ok(SqlSession(Box::new(sqlite::SqliteSession::new(connection, self.place()))))
            }
            Self::Postgres(_) => {
                let mut session = self.connect()?;
                let sql = Sql::native("SELECT pg_is_in_recovery() AS standby");
                match session.one(&sql, &[], |row| row.read("standby"))? {
                    Some(true) => {
                        let message = "the server is a standby, which takes no writes";
                        Err(SqlError::new(SqlErrorClass::Unavailable, message).at(&self.place()))
                    }
                    _ => Ok(session),
                }
            }
            _ => self.connect(),
        }
    }

    /// Returns the URL without its password, for messages.
    fn place(&self) -> std::sync::Arc<str> {
        self.to_string().into()
    }

    /// Opens a connection in place of a broken one; waits for a server that is restarting.
    pub(crate) fn reconnect_store(&self) -> Result<SqlSession, SqlError> {
        waiting_for_restart(|| self.connect_store())
    }

    /// Opens a connection for reading only; on a server an ordinary one.
    pub(crate) fn connect_read_only(&self) -> Result<SqlSession, SqlError> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(file) => {
                let connected = file.connect_read_only().map_err(SqlError::from);
                let connection = connected.map_err(|error| error.at(&self.place()))?;
                Ok(SqlSession(Box::new(sqlite::SqliteSession::new(connection, self.place()))))
            }
            _ => self.connect(),
        }
    }
}

/// Returns the message about a database for which this program was built without a driver.
fn without(feature: &str) -> String {
    format!("this program was built without that kind of database; enable the feature `{feature}`")
}

/// Calls `connect` until it succeeds or [`RECONNECT_TIMEOUT`] has passed, for a server that is restarting.
fn waiting_for_restart(
    connect: impl Fn() -> Result<SqlSession, SqlError>,
) -> Result<SqlSession, SqlError> {
    let clock = SystemClock::default();
    let begun = clock.elapsed();
    loop {
        match connect() {
            Err(error)
                if error.class == SqlErrorClass::Unavailable
                    && clock.elapsed() - begun < RECONNECT_TIMEOUT =>
            {
                StopToken::default().wait(RECONNECT_PAUSE);
            }
            connected => return connected,
        }
    }
}

impl From<SqliteDatabase> for Database {
    fn from(file: SqliteDatabase) -> Self {
        Self::Sqlite(file)
    }
}

/// Shows the URL without its password.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "sqlite://{}", file.path().display()),
            Self::Postgres(server) | Self::MySql(server) => server.fmt(f),
        }
    }
}

/// The SQL dialect of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

impl Dialect {
    /// Returns the feature of this crate that the database needs.
    #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "mysql")))]
    fn feature(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }

    /// Returns `name` quoted as an identifier for SQL text; any characters are allowed.
    pub(crate) fn quoted(self, name: &str) -> String {
        match self {
            Self::MySql => format!("`{}`", name.replace('`', "``")),
            Self::Sqlite | Self::Postgres => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// Returns the quoted name of a table; on servers a dot separates the schema from the name.
    pub(crate) fn table(self, name: &str) -> String {
        match self {
            Self::Sqlite => self.quoted(name),
            Self::Postgres | Self::MySql => {
                name.split('.').map(|part| self.quoted(part)).collect::<Vec<_>>().join(".")
            }
        }
    }

    /// Returns the placeholder of parameter `index`, which counts from 1.
    pub(crate) fn parameter(self, index: usize) -> String {
        match self {
            Self::Sqlite => format!("?{index}"),
            Self::Postgres => format!("${index}"),
            Self::MySql => "?".to_owned(),
        }
    }
}

/// A statement in the dialect of one database, made from a text with parameters `?1`, `?2`, … in any order.
#[derive(Debug, Clone)]
pub(crate) struct Sql {
    pub(crate) text: std::sync::Arc<str>,
    /// The index of the value for each placeholder, for MySQL, whose placeholders have no numbers.
    order: Vec<usize>,
}

impl Sql {
    /// Translates `text` to `dialect`.
    ///
    /// Besides parameters, the text may contain `{lock}` (locks the selected rows until the end of the
    /// transaction), `{share}` (prevents changes of these rows until then), `{id}` (makes an insert return
    /// the new id), `{q}` (the quote of an identifier) and `{div}` (the division of integers).
    pub(crate) fn new(dialect: Dialect, text: &str) -> Self {
        let (lock, share, id, quote, div) = match dialect {
            Dialect::Sqlite => ("", "", " RETURNING id", "\"", "/"),
            Dialect::Postgres => (" FOR UPDATE", " FOR SHARE", " RETURNING id", "\"", "/"),
            Dialect::MySql => (" FOR UPDATE", " LOCK IN SHARE MODE", "", "`", "DIV"),
        };
        let text = text
            .replace("{lock}", lock)
            .replace("{share}", share)
            .replace("{id}", id)
            .replace("{q}", quote)
            .replace("{div}", div);
        if dialect == Dialect::Sqlite {
            return Self { text: text.into(), order: Vec::new() };
        }
        let (mut translated, mut order) = (String::with_capacity(text.len()), Vec::new());
        let mut rest = text.as_str();
        while let Some(at) = rest.find('?') {
            let digits = rest[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
            let index: usize = rest[at + 1..at + 1 + digits].parse().unwrap_or(1);
            translated.push_str(&rest[..at]);
            translated.push_str(&dialect.parameter(index));
            order.push(index - 1);
            rest = &rest[at + 1 + digits..];
        }
        translated.push_str(rest);
        Self { text: translated.into(), order }
    }

    /// A statement whose text is already in the dialect of the database.
    pub(crate) fn native(text: &str) -> Self {
        Self { text: text.into(), order: Vec::new() }
    }

    /// Returns the values in the order of the placeholders.
    fn in_order<'v, 'a>(
        &'v self,
        values: &'v [SqlValue<'a>],
    ) -> impl Iterator<Item = &'v SqlValue<'a>> {
        let plain = if self.order.is_empty() { values } else { &[] };
        plain.iter().chain(self.order.iter().filter_map(|index| values.get(*index)))
    }
}

/// A query that can be run, and the names of its columns in order.
pub(crate) struct Readable {
    pub(crate) text: String,
    pub(crate) columns: Vec<String>,
}

/// A function that cancels the running statement of a connection.
pub(crate) type Interrupter = Box<dyn Fn() -> Result<(), SqlError> + Send + Sync>;

/// A function that is called for each row.
pub(crate) type EachRow<'f> = &'f mut dyn FnMut(&SqlRow<'_>) -> Result<(), SqlError>;

/// One connection to a database. Each call waits for its result.
pub(crate) trait Session: Any + Send {
    /// Runs a statement; returns the number of rows that it changed, or matched for an update without
    /// changes.
    fn execute(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<u64, SqlError>;

    /// Inserts one row and returns its id. The statement must end with `{id}`.
    fn insert(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<i64, SqlError>;

    /// Calls `each` with every row.
    fn rows(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: EachRow<'_>,
    ) -> Result<(), SqlError>;

    /// Runs statements without parameters.
    fn run(&mut self, text: &str) -> Result<(), SqlError>;

    /// Calls `each` with one row at a time until it returns `false`, for results of any size. Only for
    /// threads of this crate, which run inside no other runtime.
    fn stream(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: &mut dyn FnMut(&SqlRow<'_>) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError>;

    /// Returns `query` followed by `rest` (a condition, an order), with every column converted to a type that
    /// [`SqlValue`] has. Fails on invalid SQL.
    fn readable(&mut self, query: &str, rest: &str) -> Result<Readable, SqlError>;

    /// Returns the SQL of parameter `index` for a comparison with `column` of `query`, with a cast if needed.
    fn key_parameter(
        &mut self,
        query: &str,
        column: &str,
        index: usize,
    ) -> Result<String, SqlError>;

    /// Returns the names of the columns of `table` in order.
    fn columns_of(&mut self, table: &str) -> Result<Vec<String>, SqlError>;

    /// Returns a function that cancels the running statement of this connection from another thread; `None`
    /// where the connection of the server is not known.
    fn interrupter(&mut self) -> Result<Option<Interrupter>, SqlError>;

    /// Whether the connection can no longer be used.
    fn is_broken(&self) -> bool;

    /// Returns the driver's connection, for code that knows its type.
    fn native(&mut self) -> &mut dyn Any;

    /// Whether a statement that changes the definition of a table commits the transaction.
    fn commits_definitions(&self) -> bool {
        false
    }

    /// Begins a transaction that will write.
    fn begin(&mut self) -> Result<(), SqlError> {
        self.run("BEGIN")
    }

    /// Commits the transaction. After an error its outcome is unknown.
    fn commit(&mut self) -> Result<(), SqlError> {
        self.run("COMMIT")
    }

    /// Rolls the transaction back.
    fn roll_back(&mut self) -> Result<(), SqlError> {
        self.run("ROLLBACK")
    }
}

/// A connection to any database, which the writers of this crate share with the store.
pub(crate) struct SqlSession(pub(crate) Box<dyn Session>);

impl std::ops::Deref for SqlSession {
    type Target = dyn Session;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl std::ops::DerefMut for SqlSession {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

impl dyn Session {
    /// Returns all rows, mapped.
    pub(crate) fn many<T>(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        map: impl Fn(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, SqlError> {
        let mut found = Vec::new();
        self.rows(sql, values, &mut |row| {
            found.push(map(row)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns the first row, mapped, or `None` if the query returned no rows.
    pub(crate) fn one<T>(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        map: impl Fn(&SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Option<T>, SqlError> {
        Ok(self.many(sql, values, map)?.into_iter().next())
    }
}

/// An error of a database.
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}", self.shown_place())]
pub struct SqlError {
    pub(crate) class: SqlErrorClass,
    /// The URL of the database without its password.
    place: Option<std::sync::Arc<str>>,
    /// The error of the driver. It is part of the text, and its own causes only repeat it.
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl SqlError {
    pub(crate) fn new(
        class: SqlErrorClass,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { class, place: None, cause: cause.into() }
    }

    /// Adds the database at `place` to the error, unless it already names one.
    pub(crate) fn at(mut self, place: &std::sync::Arc<str>) -> Self {
        self.place.get_or_insert_with(|| std::sync::Arc::clone(place));
        self
    }

    fn shown_place(&self) -> String {
        self.place.as_ref().map_or_else(String::new, |place| format!(" (in {place})"))
    }

    /// Whether another transaction held a lock for too long.
    pub fn is_locked(&self) -> bool {
        self.class == SqlErrorClass::Locked
    }

    /// Whether the file is no database.
    pub fn is_not_a_database(&self) -> bool {
        self.class == SqlErrorClass::NotADatabase
    }

    /// Whether the database refused to commit the transaction, so that nothing was stored.
    pub(crate) fn is_refusal(&self) -> bool {
        use SqlErrorClass::{Constraint, Contention, Data};
        matches!(self.class, Constraint | Data | Contention)
    }

    /// Converts the error to a failed commit of a transaction.
    pub(crate) fn at_commit(self) -> RepositoryError {
        match self.class {
            SqlErrorClass::Constraint => {
                RepositoryError::Refused { kind: ErrorKind::CONSTRAINT, source: Box::new(self) }
            }
            SqlErrorClass::Data => {
                RepositoryError::Refused { kind: ErrorKind::DATA, source: Box::new(self) }
            }
            _ => self.in_store("commit"),
        }
    }

    /// An error about a stored value in `column` that cannot be parsed.
    pub(crate) fn corrupt(column: &str, reason: impl fmt::Display) -> Self {
        Self::new(SqlErrorClass::Corrupt, format!("column `{column}`: {reason}"))
    }

    /// Converts the error to one of the repository.
    pub(crate) fn in_store(self, action: &str) -> RepositoryError {
        match self.class {
            SqlErrorClass::Corrupt => RepositoryError::Corrupt { what: self.to_string() },
            SqlErrorClass::Constraint | SqlErrorClass::Contention => {
                RepositoryError::Conflict { what: format!("the same row ({self})") }
            }
            _ => RepositoryError::unavailable(action, self),
        }
    }

    /// Converts the error to a failed item, of a kind that policies can name.
    pub(crate) fn of_item(self, action: impl Into<String>) -> ItemError {
        let kind = match self.class {
            SqlErrorClass::Unavailable => ErrorKind::IO,
            SqlErrorClass::Constraint => ErrorKind::CONSTRAINT,
            SqlErrorClass::Data => ErrorKind::DATA,
            SqlErrorClass::Contention => ErrorKind::new("sql.contention"),
            SqlErrorClass::Locked => ErrorKind::new("io.locked"),
            SqlErrorClass::Canceled => ErrorKind::TIMEOUT,
            SqlErrorClass::Corrupt | SqlErrorClass::NotADatabase | SqlErrorClass::Other => {
                ErrorKind::new("sql")
            }
        };
        ItemError::wrap(kind, action, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_serves_every_database() {
        let text = "UPDATE {q}t{q} SET a = ?2 WHERE id = ?1{lock}";
        assert_eq!(
            &*Sql::new(Dialect::Sqlite, text).text,
            r#"UPDATE "t" SET a = ?2 WHERE id = ?1"#
        );
        assert_eq!(
            &*Sql::new(Dialect::Postgres, text).text,
            r#"UPDATE "t" SET a = $2 WHERE id = $1 FOR UPDATE"#
        );
        let mysql = Sql::new(Dialect::MySql, text);
        assert_eq!(&*mysql.text, "UPDATE `t` SET a = ? WHERE id = ? FOR UPDATE");
        let values = [SqlValue::Integer(1), SqlValue::Integer(2)];
        let order: Vec<_> = mysql.in_order(&values).cloned().collect();
        assert_eq!(order, [SqlValue::Integer(2), SqlValue::Integer(1)]);
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(Dialect::Sqlite.quoted(r#"a"; DROP TABLE t; --"#), r#""a""; DROP TABLE t; --""#);
        assert_eq!(Dialect::MySql.table("s.a`b"), "`s`.`a``b`");
    }

    #[test]
    fn a_password_is_never_shown() {
        let database = Database::parse("postgres://me:secret@db.example:5433/app").unwrap();
        assert_eq!(database.to_string(), "postgres://me@db.example:5433/app");
        assert!(!format!("{database:?}").contains("secret"));
        let wrong = Database::parse("mysql://me:secret@host:port/app").unwrap_err();
        assert!(!wrong.contains("secret"), "{wrong}");
    }
}
