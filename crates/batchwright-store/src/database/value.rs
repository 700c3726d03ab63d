//! Values of statements and rows, the same for every database.

use std::borrow::Cow;

use batchwright::ItemError;
#[cfg(feature = "server")]
use sqlx::{Column as _, Row as _};

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

/// A row of a query.
pub struct SqlRow<'r>(pub(super) Row<'r>);

pub(super) enum Row<'r> {
    #[cfg(feature = "sqlite")]
    Sqlite(&'r rusqlite::Row<'r>, &'r super::sqlite::Columns),
    #[cfg(feature = "postgres")]
    Postgres(&'r sqlx::postgres::PgRow),
    #[cfg(feature = "mysql")]
    MySql(&'r sqlx::mysql::MySqlRow),
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
            #[cfg(feature = "sqlite")]
            Row::Sqlite(row, _) => {
                // `column_names` returns a list up to rusqlite 0.40 and an iterator from 0.41; these methods
                // exist in both versions.
                let statement = row.as_ref();
                (0..statement.column_count())
                    .filter_map(|index| statement.column_name(index).ok())
                    .collect()
            }
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => row.columns().iter().map(|one| one.name()).collect(),
            #[cfg(feature = "mysql")]
            Row::MySql(row) => row.columns().iter().map(|one| one.name()).collect(),
        }
    }

    pub(crate) fn read<T: FromSql>(&self, column: &str) -> Result<T, SqlError> {
        let index = match &self.0 {
            #[cfg(feature = "sqlite")]
            Row::Sqlite(row, columns) => columns.index(row, column),
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => row.columns().iter().position(|one| one.name() == column),
            #[cfg(feature = "mysql")]
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
            #[cfg(feature = "sqlite")]
            Row::Sqlite(row, _) => super::sqlite::value(row, index),
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => super::postgres::value(row, index),
            #[cfg(feature = "mysql")]
            Row::MySql(row) => super::mysql::value(row, index),
        }
    }
}

impl std::fmt::Debug for SqlRow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlRow").field("columns", &self.names()).finish()
    }
}

/// Returns the double with the same shortest text as `number`, so that 0.1 of single precision stays 0.1.
pub(super) fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}
