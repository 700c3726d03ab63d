//! Connections to PostgreSQL. Parameters are encoded in the types that the server expects.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use jiff::civil::{Date, DateTime};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgConnectOptions, PgConnection, PgRow, PgStatement, PgTypeInfo,
};
use sqlx::{
    Arguments, AssertSqlSafe, Column as _, ConnectOptions, Either, Encode, Executor, Postgres,
    Row as _, SqlSafeStr as _, Statement as _, Type, TypeInfo as _, ValueRef as _,
};

use super::driver::{Driver, breaks};
use super::server::ServerDatabase;
use super::value::{Row, SqlRow, shortest};
use super::{EachRow, Interrupter, Readable, Session, Sql, SqlError, SqlErrorClass, SqlValue};

/// The settings of every session, as far as the server knows them. With these a session that is idle in a
/// transaction, or whose machine lost power, does not block others for long. Values in the URL (`options`)
/// take precedence.
const SETTINGS: [(&str, &str); 6] = [
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30s"),
];

/// Maximum number of cached statement descriptions; used with a pool, which keeps no prepared statements.
const DESCRIBED_MAX: usize = 256;

/// Drops the statements that the driver prepared, because a pool gives the session to another client next.
/// Only names of the driver are dropped, because newer pools prepare statements of their own.
const FORGET: &str = "DO $$ DECLARE prepared text; BEGIN \
    FOR prepared IN SELECT name FROM pg_prepared_statements WHERE name LIKE 'sqlx\\_s\\_%' \
    LOOP EXECUTE format('DEALLOCATE %I', prepared); END LOOP; END $$";

/// A connection to PostgreSQL.
///
/// A custom writer that shares the store's database gets the session from
/// [`ChunkTransaction::resource`](batchwright::item::ChunkTransaction::resource) and uses it in the chunk's
/// transaction.
pub struct PostgresSession {
    connection: PgConnection,
    driver: Driver,
    server: ServerDatabase,
    place: Arc<str>,
    broken: bool,
    /// Whether the server is reached through a pool: then no state is left in the session, and every
    /// statement belongs to a transaction.
    pooled: bool,
    /// Whether a transaction is open; used only with a pool.
    in_transaction: bool,
    described: HashMap<Arc<str>, PgStatement>,
}

impl PostgresSession {
    pub(super) fn connect(server: &ServerDatabase, place: Arc<str>) -> Result<Self, SqlError> {
        let driver = Driver::new()?;
        let options: PgConnectOptions = server.url().parse()?;
        let mut options = options.application_name("batchwright").disable_statement_logging();
        let pooled = server.is_pooled();
        if pooled {
            options = options.statement_cache_capacity(0).extra_float_digits(None);
        }
        let chosen = options.get_options().unwrap_or_default().to_owned();
        let connection = driver.connect(options.connect())?;
        let described = HashMap::new();
        let mut session = Self {
            connection,
            driver,
            server: server.clone(),
            place,
            broken: false,
            pooled,
            in_transaction: false,
            described,
        };
        if !pooled {
            let is_free = |(name, _): &&(&str, &str)| !chosen.contains(name);
            let set = |(name, value): &(&str, &str)| {
                // A setting that the server does not know is skipped.
                format!(
                    "SELECT set_config(name, '{value}', false) FROM pg_settings WHERE name = '{name}'"
                )
            };
            let text: Vec<_> = SETTINGS.iter().filter(is_free).map(set).collect();
            session.run(&text.join("; "))?;
        }
        Ok(session)
    }

    /// Runs `work` with the connection and waits for its result.
    pub fn wait<T: Send>(&mut self, work: impl AsyncFnOnce(&mut PgConnection) -> T) -> T {
        let done = self.driver.wait_here(work(&mut self.connection));
        if self.pooled {
            let _ = self.run(FORGET);
        }
        done
    }

    fn checked<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, SqlError> {
        result.map_err(|error| {
            self.broken |= breaks(&error);
            SqlError::from(error).at(&self.place)
        })
    }

    /// Returns a statement with the types of its parameters and columns.
    fn prepare(&mut self, text: &Arc<str>) -> Result<PgStatement, SqlError> {
        if let Some(known) = self.described.get(text) {
            return Ok(known.clone());
        }
        let sql = AssertSqlSafe(Arc::clone(text)).into_sql_str();
        let prepared = self.driver.wait((&mut self.connection).prepare(sql));
        let prepared = self.checked(prepared)?;
        if self.pooled {
            // The driver gives prepared statements names, which must not stay in a pooled session.
            self.run(FORGET)?;
            if self.described.len() >= DESCRIBED_MAX {
                self.described.clear();
            }
            self.described.insert(Arc::clone(text), prepared.clone());
        }
        Ok(prepared)
    }

    /// Runs `work` in a transaction if the server is reached through a pool: outside a transaction, the
    /// messages of one statement could reach different sessions.
    fn pinned<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        if !self.pooled || self.in_transaction {
            return work(self);
        }
        self.begin()?;
        match work(self) {
            Ok(done) => self.commit().map(|()| done),
            Err(error) => {
                let _ = self.roll_back();
                Err(error)
            }
        }
    }

    /// Returns the statement with its arguments; with a pool it is not kept prepared in the session.
    fn query(
        &self,
        text: &Arc<str>,
        arguments: PgArguments,
    ) -> sqlx::query::Query<'static, Postgres, PgArguments> {
        sqlx::query_with(AssertSqlSafe(Arc::clone(text)), arguments).persistent(!self.pooled)
    }

    /// Inserts or updates rows from one array per column; returns the number of changed rows.
    pub(crate) fn execute_arrays(
        &mut self,
        sql: &Sql,
        columns: &[ArrayColumn],
    ) -> Result<u64, SqlError> {
        self.pinned(|this| {
            let statement = this.prepare(&sql.text)?;
            let mut arguments = PgArguments::default();
            for (column, info) in columns.iter().zip(parameters(&statement)) {
                let argument = Argument { bytes: Some(Bytes::Array(column)), info: info.clone() };
                let added = arguments.add(argument);
                added.map_err(|error| SqlError::new(SqlErrorClass::Data, error))?;
            }
            let query = this.query(&sql.text, arguments);
            let done = this.driver.wait(query.execute(&mut this.connection));
            this.checked(done).map(|done| done.rows_affected())
        })
    }

    /// Returns the names and types of the columns of `table`. The types have no lengths, because a cast to a
    /// type with a length cuts a long text silently, while an insert refuses it.
    pub(crate) fn column_types(&mut self, table: &str) -> Result<Vec<(String, String)>, SqlError> {
        let sql = Sql::native(
            "SELECT attname::text AS name, format_type(atttypid, -1) AS type FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        );
        let quoted = super::Dialect::Postgres.table(table);
        (self as &mut dyn Session)
            .many(&sql, &[quoted.into()], |row| Ok((row.read("name")?, row.read("type")?)))
    }
}

impl std::fmt::Debug for PostgresSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresSession").field("broken", &self.broken).finish_non_exhaustive()
    }
}

fn parameters(statement: &PgStatement) -> &[PgTypeInfo] {
    match statement.parameters() {
        Some(Either::Left(types)) => types,
        _ => &[],
    }
}

fn arguments(statement: &PgStatement, values: &[SqlValue<'_>]) -> Result<PgArguments, SqlError> {
    let types = parameters(statement);
    let failed = |message: String| SqlError::new(SqlErrorClass::Data, message);
    if types.len() != values.len() {
        let message =
            format!("the statement takes {} parameters, not {}", types.len(), values.len());
        return Err(SqlError::new(SqlErrorClass::Other, message));
    }
    let mut arguments = PgArguments::default();
    for (index, (value, info)) in values.iter().zip(types).enumerate() {
        let bytes = encode(value, info.name())
            .map_err(|problem| failed(format!("parameter ${}: {problem}", index + 1)))?;
        let argument = Argument { bytes: bytes.map(Bytes::Plain), info: info.clone() };
        arguments.add(argument).map_err(|error| failed(error.to_string()))?;
    }
    Ok(arguments)
}

/// An encoded parameter, of the type that the server expects.
struct Argument<'a> {
    bytes: Option<Bytes<'a>>,
    info: PgTypeInfo,
}

enum Bytes<'a> {
    Plain(Vec<u8>),
    Array(&'a ArrayColumn),
}

impl Type<Postgres> for Argument<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("text")
    }
}

impl<'q> Encode<'q, Postgres> for Argument<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.bytes {
            None => return Ok(IsNull::Yes),
            Some(Bytes::Plain(bytes)) => buffer.extend_from_slice(bytes),
            Some(Bytes::Array(column)) => column.write_to(buffer),
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.info.clone())
    }
}

/// Returns `value` in the binary form of type `name`; `None` is null.
fn encode(value: &SqlValue<'_>, name: &str) -> Result<Option<Vec<u8>>, String> {
    if matches!(value, SqlValue::Null) {
        return Ok(None);
    }
    let narrow = |number: i64| format!("{number} does not fit into {}", name.to_lowercase());
    let bytes = match name {
        "INT8" => integer(value)?.to_be_bytes().to_vec(),
        "INT4" => {
            let number = integer(value)?;
            i32::try_from(number).map_err(|_| narrow(number))?.to_be_bytes().to_vec()
        }
        "INT2" => {
            let number = integer(value)?;
            i16::try_from(number).map_err(|_| narrow(number))?.to_be_bytes().to_vec()
        }
        #[expect(clippy::cast_possible_truncation, reason = "the column is that narrow")]
        "FLOAT4" => (float(value)? as f32).to_be_bytes().to_vec(),
        "FLOAT8" => float(value)?.to_be_bytes().to_vec(),
        "BOOL" => vec![u8::from(boolean(value)?)],
        "BYTEA" => match value {
            SqlValue::Bytes(bytes) => bytes.to_vec(),
            other => return Err(format!("expected bytes, found {}", other.kind())),
        },
        "TEXT" | "VARCHAR" | "CHAR" | "BPCHAR" | "NAME" | "UNKNOWN" | "JSON" | "citext" => {
            text(value)?.into_bytes()
        }
        "JSONB" => [b"\x01", text(value)?.as_bytes()].concat(),
        "DATE" => {
            let date: Date = parsed(&text(value)?, "a date")?;
            let days = date.since(EPOCH_DATE).map_err(|error| error.to_string())?.get_days();
            days.to_be_bytes().to_vec()
        }
        "TIMESTAMP" => {
            let at = match value {
                SqlValue::Timestamp(at) => *at,
                other => {
                    let time: DateTime = parsed(&text(other)?, "a date and time")?;
                    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC);
                    zoned.map_err(|error| error.to_string())?.timestamp()
                }
            };
            micros(at)
        }
        "TIMESTAMPTZ" => micros(parsed(&text(value)?, "a timestamp")?),
        "UUID" => uuid(&text(value)?)?,
        "NUMERIC" => numeric(&text(value)?)?,
        other => {
            let kind = other.to_lowercase();
            return Err(format!("its type is {kind}; write CAST(CAST(… AS text) AS {kind})"));
        }
    };
    Ok(Some(bytes))
}

/// The epoch of PostgreSQL's dates and timestamps.
const EPOCH_DATE: Date = Date::constant(2000, 1, 1);
const EPOCH_MICROS: i64 = 946_684_800_000_000;

fn micros(at: jiff::Timestamp) -> Vec<u8> {
    (at.as_microsecond() - EPOCH_MICROS).to_be_bytes().to_vec()
}

fn parsed<T: std::str::FromStr>(text: &str, wanted: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not {wanted}"))
}

fn uuid(text: &str) -> Result<Vec<u8>, String> {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | '{' | '}')).collect();
    let whole = digits.len() == 32 && digits.is_ascii();
    let number = whole.then(|| u128::from_str_radix(&digits, 16).ok()).flatten();
    number
        .map(|number| number.to_be_bytes().to_vec())
        .ok_or_else(|| format!("`{text}` is not a UUID"))
}

/// Returns a decimal number in PostgreSQL's binary form: groups of four digits and the place of the decimal
/// point.
fn numeric(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("`{text}` is not a decimal number");
    let trimmed = text.trim();
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return Err(wrong());
    }
    let padded = format!(
        "{}{whole}{fraction}{}",
        "0".repeat((4 - whole.len() % 4) % 4),
        "0".repeat((4 - fraction.len() % 4) % 4)
    );
    let mut groups: Vec<i16> = padded
        .as_bytes()
        .chunks(4)
        .map(|group| group.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0')))
        .collect();
    let narrow = |number: usize| i16::try_from(number).map_err(|_| wrong());
    let mut weight = narrow(whole.len().div_ceil(4))? - 1;
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    weight -= narrow(leading)?;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let sign: u16 = if negative && !groups.is_empty() { 0x4000 } else { 0 };
    let mut bytes = Vec::with_capacity(8 + groups.len() * 2);
    bytes.extend_from_slice(&narrow(groups.len())?.to_be_bytes());
    bytes.extend_from_slice(&weight.to_be_bytes());
    bytes.extend_from_slice(&sign.to_be_bytes());
    bytes.extend_from_slice(&narrow(fraction.len())?.to_be_bytes());
    for group in groups {
        bytes.extend_from_slice(&group.to_be_bytes());
    }
    Ok(bytes)
}

fn integer(value: &SqlValue<'_>) -> Result<i64, String> {
    match value {
        SqlValue::Integer(number) => Ok(*number),
        SqlValue::Unsigned(number) => Err(format!("{number} does not fit into a bigint")),
        SqlValue::Boolean(value) => Ok((*value).into()),
        SqlValue::Text(text) => parsed(text.trim(), "an integer"),
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2⁵³ is exact")]
        SqlValue::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            Ok(*number as i64)
        }
        other => Err(format!("expected an integer, found {}", other.kind())),
    }
}

fn float(value: &SqlValue<'_>) -> Result<f64, String> {
    match value {
        SqlValue::Float(number) => Ok(*number),
        #[expect(clippy::cast_precision_loss, reason = "the column is a floating-point number")]
        SqlValue::Integer(number) => Ok(*number as f64),
        #[expect(clippy::cast_precision_loss, reason = "the column is a floating-point number")]
        SqlValue::Unsigned(number) => Ok(*number as f64),
        SqlValue::Text(text) => parsed(text.trim(), "a number"),
        other => Err(format!("expected a number, found {}", other.kind())),
    }
}

fn boolean(value: &SqlValue<'_>) -> Result<bool, String> {
    match value {
        SqlValue::Boolean(value) => Ok(*value),
        SqlValue::Integer(0) => Ok(false),
        SqlValue::Integer(1) => Ok(true),
        SqlValue::Text(text) => match &**text {
            "true" | "t" | "1" | "yes" => Ok(true),
            "false" | "f" | "0" | "no" => Ok(false),
            other => Err(format!("`{other}` is not a boolean")),
        },
        other => Err(format!("expected a boolean, found {}", other.kind())),
    }
}

fn text(value: &SqlValue<'_>) -> Result<String, String> {
    Ok(match value {
        SqlValue::Text(text) => text.clone().into_owned(),
        SqlValue::Integer(number) => number.to_string(),
        SqlValue::Unsigned(number) => number.to_string(),
        SqlValue::Timestamp(at) => at.to_string(),
        SqlValue::Float(number) => format!("{number:?}"),
        SqlValue::Boolean(value) => value.to_string(),
        SqlValue::Null | SqlValue::Bytes(_) => {
            return Err(format!("expected text, found {}", value.kind()));
        }
    })
}

impl Session for PostgresSession {
    fn execute(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<u64, SqlError> {
        self.pinned(|this| {
            let statement = this.prepare(&sql.text)?;
            let query = this.query(&sql.text, arguments(&statement, values)?);
            let done = this.driver.wait(query.execute(&mut this.connection));
            this.checked(done).map(|done| done.rows_affected())
        })
    }

    fn insert(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Result<i64, SqlError> {
        let id = (self as &mut dyn Session).one(sql, values, |row| row.read("id"))?;
        id.ok_or_else(|| SqlError::new(SqlErrorClass::Corrupt, "the insert returned no id"))
    }

    fn rows(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: EachRow<'_>,
    ) -> Result<(), SqlError> {
        let found = self.pinned(|this| {
            let statement = this.prepare(&sql.text)?;
            let query = this.query(&sql.text, arguments(&statement, values)?);
            let found = this.driver.wait(query.fetch_all(&mut this.connection));
            this.checked(found)
        })?;
        found.iter().try_for_each(|row| each(&SqlRow(Row::Postgres(row))))
    }

    fn stream(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        each: &mut dyn FnMut(&SqlRow<'_>) -> Result<bool, SqlError>,
    ) -> Result<(), SqlError> {
        if !self.pooled {
            // A slow step lets rows wait unread, which must not count as a dead connection.
            self.run("SET tcp_user_timeout = 0")?;
        }
        self.pinned(|this| {
            let statement = this.prepare(&sql.text)?;
            let query = this.query(&sql.text, arguments(&statement, values)?);
            let Self { driver, connection, .. } = this;
            let ended: Result<Result<(), SqlError>, sqlx::Error> = driver.wait_here(async {
                let mut rows = query.fetch(connection);
                while let Some(row) = rows.next().await {
                    match each(&SqlRow(Row::Postgres(&row?))) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => return Ok(Err(error)),
                    }
                }
                Ok(Ok(()))
            });
            this.checked(ended)?
        })
    }

    fn readable(&mut self, query: &str, rest: &str) -> Result<Readable, SqlError> {
        let statement = self.pinned(|this| this.prepare(&query.into()))?;
        let columns = statement.columns();
        let names: Vec<String> = columns.iter().map(|one| one.name().to_owned()).collect();
        let is_plain = |info: &PgTypeInfo| POSTGRES_PLAIN.contains(&info.name());
        if rest.is_empty() && columns.iter().all(|one| is_plain(one.type_info())) {
            return Ok(Readable { text: query.to_owned(), columns: names });
        }
        let list: Vec<_> = columns
            .iter()
            .map(|one| {
                let name = super::Dialect::Postgres.quoted(one.name());
                match is_plain(one.type_info()) {
                    true => format!("q.{name}"),
                    false => format!("q.{name}::text AS {name}"),
                }
            })
            .collect();
        // The query may end in a comment.
        let whole = format!("SELECT {} FROM ({query}\n) AS q {rest}", list.join(", "));
        self.pinned(|this| this.prepare(&whole.as_str().into()))?;
        Ok(Readable { text: whole, columns: names })
    }

    fn key_parameter(
        &mut self,
        query: &str,
        column: &str,
        index: usize,
    ) -> Result<String, SqlError> {
        let statement = self.pinned(|this| this.prepare(&query.into()))?;
        let key = statement.columns().iter().find(|one| one.name() == column);
        let parameter = super::Dialect::Postgres.parameter(index);
        Ok(match key.map(|key| key.type_info().name()) {
            // Keys of other types are read as text and cast back to their type.
            Some(name) if !POSTGRES_PLAIN.contains(&name) => {
                format!("CAST(CAST({parameter} AS text) AS {name})")
            }
            _ => parameter,
        })
    }

    fn interrupter(&mut self) -> Result<Option<Interrupter>, SqlError> {
        // With a pool, only a transaction has a fixed connection to the server.
        if self.pooled && !self.in_transaction {
            return Ok(None);
        }
        let sql = Sql::native("SELECT pg_backend_pid()::bigint AS id");
        let id = (self as &mut dyn Session).one(&sql, &[], |row| row.read::<i64>("id"))?;
        let (server, place) = (self.server.clone(), Arc::clone(&self.place));
        Ok(id.map(|id| -> Interrupter {
            Box::new(move || {
                let mut session = Self::connect(&server, Arc::clone(&place))?;
                session.run(&format!("SELECT pg_cancel_backend({id})"))
            })
        }))
    }

    fn columns_of(&mut self, table: &str) -> Result<Vec<String>, SqlError> {
        Ok(self.column_types(table)?.into_iter().map(|(name, _)| name).collect())
    }

    fn run(&mut self, text: &str) -> Result<(), SqlError> {
        let ran =
            self.driver.wait(sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut self.connection));
        self.checked(ran).map(drop)
    }

    fn is_broken(&self) -> bool {
        self.broken
    }

    fn native(&mut self) -> &mut dyn Any {
        self
    }

    /// Begins a transaction with the isolation level that the engine relies on, regardless of the server's
    /// default.
    fn begin(&mut self) -> Result<(), SqlError> {
        self.run("BEGIN ISOLATION LEVEL READ COMMITTED")?;
        self.in_transaction = true;
        if self.pooled {
            // A pool keeps no settings of a session, so these apply only to the transaction.
            self.run("SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '60s'")?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        self.in_transaction = false;
        self.run("COMMIT")
    }

    fn roll_back(&mut self) -> Result<(), SqlError> {
        self.in_transaction = false;
        self.run("ROLLBACK")
    }
}

/// The type of the elements of an [`ArrayColumn`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArrayKind {
    Integer,
    Float,
    Boolean,
    Bytes,
    Text,
}

impl ArrayKind {
    /// Returns the kind for a column of type `name`: every type except numbers, booleans and bytes is sent as
    /// text and cast by the server.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "smallint" | "integer" | "bigint" => Self::Integer,
            "real" | "double precision" => Self::Float,
            "boolean" => Self::Boolean,
            "bytea" => Self::Bytes,
            _ => Self::Text,
        }
    }

    /// Returns the SQL type of the array.
    pub(crate) fn array_type(self) -> &'static str {
        match self {
            Self::Integer => "bigint[]",
            Self::Float => "double precision[]",
            Self::Boolean => "boolean[]",
            Self::Bytes => "bytea[]",
            Self::Text => "text[]",
        }
    }

    fn element_oid(self) -> u32 {
        match self {
            Self::Integer => 20,
            Self::Float => 701,
            Self::Boolean => 16,
            Self::Bytes => 17,
            Self::Text => 25,
        }
    }
}

/// The values of one column of many rows, in the binary form of an array: each value is copied once, from the
/// item to the message to the server.
#[derive(Debug, Clone)]
pub(crate) struct ArrayColumn {
    kind: ArrayKind,
    elements: Vec<u8>,
    count: u32,
    nulls: bool,
}

impl ArrayColumn {
    pub(crate) fn new(kind: ArrayKind) -> Self {
        Self { kind, elements: Vec::new(), count: 0, nulls: false }
    }

    /// Returns the size of the elements, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.elements.len()
    }

    pub(crate) fn clear(&mut self) {
        self.elements.clear();
        self.count = 0;
        self.nulls = false;
    }

    /// Appends `value`, or returns the reason why it does not fit the kind of the array.
    pub(crate) fn push(&mut self, value: &SqlValue<'_>) -> Result<(), String> {
        match (self.kind, value) {
            (_, SqlValue::Null) => {
                self.elements.extend_from_slice(&(-1_i32).to_be_bytes());
                self.nulls = true;
            }
            (ArrayKind::Integer, value) => self.element(&integer(value)?.to_be_bytes())?,
            (ArrayKind::Float, value) => self.element(&float(value)?.to_be_bytes())?,
            (ArrayKind::Boolean, value) => self.element(&[u8::from(boolean(value)?)])?,
            (ArrayKind::Bytes, SqlValue::Bytes(bytes)) => self.element(bytes)?,
            (ArrayKind::Bytes, other) => {
                return Err(format!("expected bytes, found {}", other.kind()));
            }
            (ArrayKind::Text, SqlValue::Text(text)) if text.contains('\0') => {
                return Err("a text in PostgreSQL cannot contain a NUL character".to_owned());
            }
            (ArrayKind::Text, SqlValue::Text(text)) => self.element(text.as_bytes())?,
            (ArrayKind::Text, value) => self.element(text(value)?.as_bytes())?,
        }
        self.count += 1;
        Ok(())
    }

    fn element(&mut self, bytes: &[u8]) -> Result<(), String> {
        let length = i32::try_from(bytes.len()).map_err(|_| "longer than 2 GiB".to_owned())?;
        self.elements.extend_from_slice(&length.to_be_bytes());
        self.elements.extend_from_slice(bytes);
        Ok(())
    }

    fn write_to(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&1_i32.to_be_bytes());
        buffer.extend_from_slice(&i32::from(self.nulls).to_be_bytes());
        buffer.extend_from_slice(&self.kind.element_oid().to_be_bytes());
        buffer.extend_from_slice(&self.count.to_be_bytes());
        buffer.extend_from_slice(&1_i32.to_be_bytes());
        buffer.extend_from_slice(&self.elements);
    }
}

/// The types of PostgreSQL whose values are read in binary form; all others are selected as text.
const POSTGRES_PLAIN: [&str; 10] =
    ["BOOL", "INT2", "INT4", "INT8", "FLOAT4", "FLOAT8", "BYTEA", "TEXT", "VARCHAR", "NAME"];

/// Returns the value of the column at `index`.
pub(super) fn value(row: &PgRow, index: usize) -> Result<SqlValue<'_>, SqlError> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(SqlValue::Null);
    }
    Ok(match raw.type_info().name() {
        "BOOL" => SqlValue::Boolean(row.try_get(index)?),
        "INT2" => SqlValue::Integer(row.try_get::<i16, _>(index)?.into()),
        "INT4" => SqlValue::Integer(row.try_get::<i32, _>(index)?.into()),
        "INT8" => SqlValue::Integer(row.try_get(index)?),
        "FLOAT4" => SqlValue::Float(shortest(row.try_get(index)?)),
        "FLOAT8" => SqlValue::Float(row.try_get(index)?),
        "BYTEA" => SqlValue::Bytes(Cow::Borrowed(row.try_get(index)?)),
        _ => SqlValue::Text(Cow::Borrowed(row.try_get_unchecked(index)?)),
    })
}
