//! Values of statements and rows, the same for every database.

use std::borrow::Cow;

use batchwright::ItemError;
use rusqlite::types::{ToSqlOutput, Value as SqliteValue, ValueRef};
use sqlx::mysql::MySqlRow;
use sqlx::postgres::PgRow;
use sqlx::{Column as _, Row as _, TypeInfo as _, ValueRef as _};

use super::convert::FromSql;
use super::{SqlError, SqlErrorClass};

/// A value in a database.
///
/// Dates, times, decimals, UUIDs and JSON are passed as text, and read as text. `From` makes a value of each number of
/// the standard library up to 64 bits, of text, bytes, the types of [`jiff`], and, with the feature `decimal`, of
/// `rust_decimal::Decimal`; [`FromSql`] reads them.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue<'a> {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A whole number above the largest `i64`, for a column that takes it: `bigint unsigned`, `numeric`.
    Unsigned(u64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// A point in time, which each database gets in its own form: with its offset, or in UTC.
    Timestamp(jiff::Timestamp),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
}

impl SqlValue<'_> {
    /// Returns the value with owned data.
    pub fn into_owned(self) -> SqlValue<'static> {
        match self {
            Self::Null => SqlValue::Null,
            Self::Boolean(value) => SqlValue::Boolean(value),
            Self::Integer(value) => SqlValue::Integer(value),
            Self::Unsigned(value) => SqlValue::Unsigned(value),
            Self::Float(value) => SqlValue::Float(value),
            Self::Timestamp(at) => SqlValue::Timestamp(at),
            Self::Text(text) => SqlValue::Text(Cow::Owned(text.into_owned())),
            Self::Bytes(bytes) => SqlValue::Bytes(Cow::Owned(bytes.into_owned())),
        }
    }

    /// Returns the value as a number of rows.
    pub(crate) fn count(self) -> Result<u64, SqlError> {
        u64::from_sql(self).map_err(|problem| SqlError::corrupt("count", problem))
    }

    /// Returns the type of the value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) | Self::Unsigned(_) => "an integer",
            Self::Timestamp(_) => "a timestamp",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
        }
    }
}

impl rusqlite::ToSql for SqlValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(SqliteValue::Null),
            Self::Boolean(value) => ToSqlOutput::Owned(SqliteValue::Integer(i64::from(*value))),
            Self::Integer(value) => ToSqlOutput::Owned(SqliteValue::Integer(*value)),
            // As text, SQLite would turn it into an inexact number.
            Self::Unsigned(value) => {
                let what = format!("{value} does not fit into an integer of SQLite");
                return Err(rusqlite::Error::ToSqlConversionFailure(what.into()));
            }
            Self::Float(value) => ToSqlOutput::Owned(SqliteValue::Real(*value)),
            Self::Timestamp(at) => ToSqlOutput::Owned(SqliteValue::Text(at.to_string())),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

/// A row of a query.
pub struct SqlRow<'r>(pub(super) Row<'r>);

pub(super) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r PgRow),
    MySql(&'r MySqlRow),
}

impl SqlRow<'_> {
    /// Returns the value of `column`.
    ///
    /// # Errors
    ///
    /// Fails if the column does not exist or its value cannot be read as `T`.
    pub fn get<T: FromSql>(&self, column: &str) -> Result<T, ItemError> {
        self.read(column).map_err(|error| error.of_item(format!("cannot read column `{column}`")))
    }

    /// Returns the value of the column at `index`, which counts from 0.
    ///
    /// # Errors
    ///
    /// Fails if the column does not exist or [`SqlValue`] has no type for its value.
    pub fn value(&self, index: usize) -> Result<SqlValue<'_>, ItemError> {
        self.at(index).map_err(|error| error.of_item(format!("cannot read column {}", index + 1)))
    }

    /// Returns the names of the columns.
    pub fn names(&self) -> Vec<&str> {
        match &self.0 {
            Row::Sqlite(row) => {
                // `column_names` returns a list up to rusqlite 0.40 and an iterator from 0.41; these methods
                // exist in both versions.
                let statement = row.as_ref();
                (0..statement.column_count())
                    .filter_map(|index| statement.column_name(index).ok())
                    .collect()
            }
            Row::Postgres(row) => row.columns().iter().map(|one| one.name()).collect(),
            Row::MySql(row) => row.columns().iter().map(|one| one.name()).collect(),
        }
    }

    pub(crate) fn read<T: FromSql>(&self, column: &str) -> Result<T, SqlError> {
        let index = match &self.0 {
            Row::Sqlite(row) => row.as_ref().column_index(column).ok(),
            Row::Postgres(row) => row.columns().iter().position(|one| one.name() == column),
            Row::MySql(row) => row.columns().iter().position(|one| one.name() == column),
        };
        let index = index.ok_or_else(|| {
            let known = self.names().join(", ");
            SqlError::new(
                SqlErrorClass::Other,
                format!("the query has no column `{column}`; it has {known}"),
            )
        })?;
        T::from_sql(self.at(index)?).map_err(|kind| SqlError::corrupt(column, kind))
    }

    pub(crate) fn at(&self, index: usize) -> Result<SqlValue<'_>, SqlError> {
        match &self.0 {
            Row::Sqlite(row) => sqlite(row, index),
            Row::Postgres(row) => postgres(row, index),
            Row::MySql(row) => mysql(row, index),
        }
    }
}

impl std::fmt::Debug for SqlRow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlRow").field("columns", &self.names()).finish()
    }
}

fn sqlite<'r>(row: &'r rusqlite::Row<'_>, index: usize) -> Result<SqlValue<'r>, SqlError> {
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

fn postgres(row: &PgRow, index: usize) -> Result<SqlValue<'_>, SqlError> {
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

/// Returns the double with the same shortest text as `number`, so that 0.1 of single precision stays 0.1.
pub(super) fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

/// The types of PostgreSQL whose values are read in binary form; all others are selected as text.
pub(super) const POSTGRES_PLAIN: [&str; 10] =
    ["BOOL", "INT2", "INT4", "INT8", "FLOAT4", "FLOAT8", "BYTEA", "TEXT", "VARCHAR", "NAME"];

fn mysql(row: &MySqlRow, index: usize) -> Result<SqlValue<'_>, SqlError> {
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
