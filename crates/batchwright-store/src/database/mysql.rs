//! Connections to MySQL and MariaDB.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use futures_util::StreamExt;
use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::{
    Arguments, AssertSqlSafe, Column as _, ConnectOptions, Executor, Row as _, SqlSafeStr as _,
    Statement as _, TypeInfo as _, ValueRef as _,
};

use super::driver::{Driver, breaks};
use super::server::ServerDatabase;
use super::value::{Row, SqlRow, shortest};
use super::{EachRow, Interrupter, Readable, Session, Sql, SqlError, SqlErrorClass, SqlValue};

/// A connection to MySQL or MariaDB.
///
/// A custom writer that shares the store's database gets the session from
/// [`ChunkTransaction::resource`](batchwright::item::ChunkTransaction::resource) and uses it in the chunk's
/// transaction.
pub struct MySqlSession {
    connection: MySqlConnection,
    driver: Driver,
    server: ServerDatabase,
    place: Arc<str>,
    broken: bool,
    /// The server's `max_allowed_packet`, once it was read.
    packet_max: Option<usize>,
}

/// Statements smaller than this are sent without reading the server's limit, which is 16 MiB or more by
/// default.
const PACKET_SURE: usize = 64 * 1024;

impl MySqlSession {
    pub(super) fn connect(server: &ServerDatabase, place: Arc<str>) -> Result<Self, SqlError> {
        let driver = Driver::new()?;
        let options: MySqlConnectOptions = server.url().parse()?;
        let options = options.disable_statement_logging();
        let connection = driver.connect(options.connect())?;
        let server = server.clone();
        let mut session =
            Self { connection, driver, server, place, broken: false, packet_max: None };
        // Strict mode makes a value that does not fit an error instead of a warning. In UTC, a `TIMESTAMP` column has the
        // same text on every server. The engine relies on
        // this isolation level, regardless of the server's default.
        session.run(
            // The write time-out is long, because a step may read rows slowly. The other time-outs are short,
            // so that a session on a frozen or lost machine does not block others for long.
            "SET SESSION net_write_timeout = 3600, time_zone = '+00:00', sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), \
                 innodb_lock_wait_timeout = 10, lock_wait_timeout = 10 \
                 /*M!100300 , idle_transaction_timeout = 60 */; \
             SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        )?;
        Ok(session)
    }

    /// Runs `work` with the connection and waits for its result.
    pub fn wait<T: Send>(&mut self, work: impl AsyncFnOnce(&mut MySqlConnection) -> T) -> T {
        self.driver.wait_here(work(&mut self.connection))
    }

    fn checked<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, SqlError> {
        result.map_err(|error| {
            self.broken |= breaks(&error);
            SqlError::from(error).at(&self.place)
        })
    }

    /// Returns the maximum size in bytes of a statement with its values.
    pub(crate) fn packet_max(&mut self) -> Result<usize, SqlError> {
        if let Some(bytes) = self.packet_max {
            return Ok(bytes);
        }
        let sql = Sql::native("SELECT CAST(@@max_allowed_packet AS SIGNED) AS bytes");
        let found = (self as &mut dyn Session).one(&sql, &[], |row| row.read::<i64>("bytes"))?;
        let bytes = found.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        self.packet_max = Some(bytes);
        Ok(bytes)
    }

    /// Refuses a statement that is too large. The server would close the connection instead, which would look
    /// like a fault of the server.
    fn check_packet(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<(), SqlError> {
        let bytes = sql.text.len() + values.iter().map(size).sum::<usize>();
        if bytes < PACKET_SURE || bytes < self.packet_max()? {
            return Ok(());
        }
        Err(SqlError::new(SqlErrorClass::Data, too_large(bytes, self.packet_max()?)))
    }

    /// Runs `sql` with encoded arguments; returns the number of changed rows and the last inserted id.
    pub(crate) fn execute_with(
        &mut self,
        sql: &Sql,
        arguments: MySqlArguments,
    ) -> Result<(u64, u64), SqlError> {
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(&sql.text)), arguments);
        let done = self.driver.wait(query.execute(&mut self.connection));
        self.checked(done).map(|done| (done.rows_affected(), done.last_insert_id()))
    }
}

impl std::fmt::Debug for MySqlSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MySqlSession").field("broken", &self.broken).finish_non_exhaustive()
    }
}

/// Returns the message about a row or statement of `bytes` bytes that is too large.
pub(crate) fn too_large(bytes: usize, packet_max: usize) -> String {
    format!(
        "{bytes} bytes do not fit into a packet of the server (max_allowed_packet = {packet_max})"
    )
}

/// Returns the maximum number of bytes that `value` takes in a packet.
pub(crate) fn size(value: &SqlValue<'_>) -> usize {
    /// A number, or the length prefix of other values, with the type.
    const FIXED: usize = 12;
    FIXED
        + match value {
            SqlValue::Text(text) => text.len(),
            SqlValue::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
}

/// Appends `value` to `arguments`.
pub(crate) fn push(arguments: &mut MySqlArguments, value: &SqlValue<'_>) -> Result<(), SqlError> {
    let added = match value {
        SqlValue::Null => arguments.add(None::<&str>),
        SqlValue::Boolean(value) => arguments.add(value),
        SqlValue::Integer(value) => arguments.add(value),
        SqlValue::Unsigned(value) => arguments.add(value),
        SqlValue::Float(value) => arguments.add(value),
        // The session's time zone is UTC.
        SqlValue::Timestamp(at) => arguments.add(at.strftime("%F %T%.6f").to_string()),
        SqlValue::Text(text) => arguments.add(&**text),
        SqlValue::Bytes(bytes) => arguments.add(&**bytes),
    };
    added.map_err(|error| SqlError::new(SqlErrorClass::Data, error))
}

fn arguments(sql: &Sql, values: &[SqlValue<'_>]) -> Result<MySqlArguments, SqlError> {
    let mut arguments = MySqlArguments::default();
    sql.in_order(values).try_for_each(|value| push(&mut arguments, value))?;
    Ok(arguments)
}

impl Session for MySqlSession {
    fn execute(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<u64, SqlError> {
        self.check_packet(sql, values)?;
        self.execute_with(sql, arguments(sql, values)?).map(|(changed, _)| changed)
    }

    fn insert(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<i64, SqlError> {
        self.check_packet(sql, values)?;
        let (_, id) = self.execute_with(sql, arguments(sql, values)?)?;
        i64::try_from(id).map_err(|error| SqlError::new(SqlErrorClass::Corrupt, error))
    }

    fn rows(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: EachRow<'_>,
    ) -> Result<(), SqlError> {
        let arguments = arguments(sql, values)?;
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(&sql.text)), arguments);
        let found = self.driver.wait(query.fetch_all(&mut self.connection));
        self.checked(found)?.iter().try_for_each(|row| each(&SqlRow(Row::MySql(row))))
    }

    fn stream(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: &mut dyn FnMut(&SqlRow<'_>) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError> {
        let arguments = arguments(sql, values)?;
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(&sql.text)), arguments);
        let Self { driver, connection, .. } = self;
        let ended: Result<Result<(), SqlError>, sqlx::Error> = driver.wait_here(async {
            let mut rows = query.fetch(connection);
            while let Some(row) = rows.next().await {
                match each(&SqlRow(Row::MySql(&row?))) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(()))
        });
        self.checked(ended)?
    }

    fn readable(&mut self, query: &str, rest: &str) -> Result<Readable, SqlError> {
        let whole = match rest {
            "" => query.to_owned(),
            // The query may end in a comment.
            rest => format!("SELECT * FROM ({query}\n) AS q {rest}"),
        };
        let text = AssertSqlSafe(whole.clone()).into_sql_str();
        let prepared = self.driver.wait((&mut self.connection).prepare(text));
        let columns =
            self.checked(prepared)?.columns().iter().map(|one| one.name().to_owned()).collect();
        Ok(Readable { text: whole, columns })
    }

    fn key_parameter(
        &mut self,
        query: &str,
        column: &str,
        index: usize,
    ) -> Result<String, SqlError> {
        let text = AssertSqlSafe(query.to_owned()).into_sql_str();
        let prepared = self.driver.wait((&mut self.connection).prepare(text));
        let statement = self.checked(prepared)?;
        let key = statement.columns().iter().find(|one| one.name() == column);
        if let Some(name @ ("ENUM" | "SET")) = key.map(|key| key.type_info().name()) {
            return Err(SqlError::new(
                SqlErrorClass::Other,
                format!(
                    "key `{column}` is of type {name}, which sorts and compares differently, so a restart could \
                     lose rows; select it as CAST(… AS CHAR) or name another key"
                ),
            ));
        }
        Ok(super::Dialect::MySql.parameter(index))
    }

    fn interrupter(&mut self) -> Result<Option<Interrupter>, SqlError> {
        let sql = Sql::native("SELECT CAST(connection_id() AS SIGNED) AS id");
        let id = (self as &mut dyn Session).one(&sql, &[], |row| row.read::<i64>("id"))?;
        let (server, place) = (self.server.clone(), Arc::clone(&self.place));
        Ok(id.map(|id| -> Interrupter {
            Box::new(move || {
                let mut session = Self::connect(&server, Arc::clone(&place))?;
                match session.run(&format!("KILL QUERY {id}")) {
                    // The connection has already ended.
                    Err(error) if error.to_string().contains("Unknown thread") => Ok(()),
                    ran => ran,
                }
            })
        }))
    }

    fn columns_of(&mut self, table: &str) -> Result<Vec<String>, SqlError> {
        let (schema, table) = match table.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, table),
        };
        let sql = Sql::native(
            "SELECT CAST(column_name AS CHAR) AS name FROM information_schema.columns \
             WHERE table_schema = coalesce(?, database()) AND table_name = ? ORDER BY ordinal_position",
        );
        let values = [schema.into(), table.into()];
        (self as &mut dyn Session).many(&sql, &values, |row| row.read("name"))
    }

    fn run(&mut self, text: &str) -> Result<(), SqlError> {
        let ran =
            self.driver.wait(sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut self.connection));
        self.checked(ran).map(drop)
    }

    fn is_broken(&self) -> bool {
        self.broken
    }

    fn commits_definitions(&self) -> bool {
        true
    }

    fn native(&mut self) -> &mut dyn Any {
        self
    }
}

/// Returns the value of the column at `index`.
pub(super) fn value(row: &MySqlRow, index: usize) -> Result<SqlValue<'_>, SqlError> {
    let raw = row.try_get_raw(index)?;
    let info = raw.type_info().into_owned();
    let name = info.name();
    if raw.is_null() {
        // The driver reports a date of zeros as null, but such a date has bytes and null has none.
        let zero = row.try_get_unchecked::<&[u8], _>(index).is_ok();
        return Ok(match name {
            "DATE" if zero => SqlValue::Text(Cow::Borrowed("0000-00-00")),
            "DATETIME" | "TIMESTAMP" if zero => {
                SqlValue::Text(Cow::Borrowed("0000-00-00 00:00:00"))
            }
            _ => SqlValue::Null,
        });
    }
    Ok(match name {
        _ if name.ends_with("UNSIGNED") => {
            let value: u64 = row.try_get_unchecked(index)?;
            match i64::try_from(value) {
                Ok(value) => SqlValue::Integer(value),
                Err(_) => SqlValue::Text(Cow::Owned(value.to_string())),
            }
        }
        _ if name.contains("INT") || name == "BOOLEAN" || name == "YEAR" => {
            SqlValue::Integer(row.try_get_unchecked(index)?)
        }
        "DATE" | "TIME" | "DATETIME" | "TIMESTAMP" => {
            let bytes: &[u8] = row.try_get_unchecked(index)?;
            let text = mysql_time(name, bytes);
            SqlValue::Text(Cow::Owned(text.ok_or_else(|| SqlError::corrupt(name, "cut short"))?))
        }
        "FLOAT" => SqlValue::Float(shortest(row.try_get_unchecked(index)?)),
        "DOUBLE" => SqlValue::Float(row.try_get_unchecked(index)?),
        "BIT" => {
            let bytes: &[u8] = row.try_get_unchecked(index)?;
            let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            match i64::try_from(number) {
                Ok(number) => SqlValue::Integer(number),
                Err(_) => SqlValue::Text(Cow::Owned(number.to_string())),
            }
        }
        // The driver also reports text of a binary collation with these types, so valid UTF-8 is read as
        // text.
        _ if name.contains("BLOB") || name.contains("BINARY") => {
            let bytes: &[u8] = row.try_get_unchecked(index)?;
            match std::str::from_utf8(bytes) {
                Ok(text) => SqlValue::Text(Cow::Borrowed(text)),
                Err(_) => SqlValue::Bytes(Cow::Borrowed(bytes)),
            }
        }
        _ => SqlValue::Text(Cow::Borrowed(row.try_get_unchecked(index)?)),
    })
}

/// Returns a date or time of MySQL's binary protocol as text.
fn mysql_time(name: &str, bytes: &[u8]) -> Option<String> {
    let two = |at: usize| u32::from(bytes[at]);
    let micros = |at: usize| -> String {
        let micros = bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        micros
            .filter(|micros| *micros > 0)
            .map(|micros| format!(".{micros:06}"))
            .unwrap_or_default()
    };
    if name == "TIME" {
        // Length, sign, days, hours, minutes, seconds, microseconds.
        if bytes.len() < 9 {
            return Some("00:00:00".to_owned());
        }
        let days = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        let sign = if bytes[1] == 1 { "-" } else { "" };
        let hours = days * 24 + two(6);
        return Some(format!("{sign}{hours:02}:{:02}:{:02}{}", two(7), two(8), micros(9)));
    }
    // Length, year, month, day, hour, minute, second, microseconds.
    let date = bytes
        .get(1..5)
        .map(|b| format!("{:04}-{:02}-{:02}", u16::from_le_bytes([b[0], b[1]]), b[2], b[3]))?;
    if name == "DATE" {
        return Some(date);
    }
    if bytes.len() < 8 {
        return Some(format!("{date} 00:00:00"));
    }
    Some(format!("{date} {:02}:{:02}:{:02}{}", two(5), two(6), two(7), micros(8)))
}
