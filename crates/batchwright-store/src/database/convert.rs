//! Conversions between values of databases and types of Rust.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::SqlValue;
use super::value::shortest;

macro_rules! from {
    ($($type:ty => $value:ident: $make:expr;)*) => {$(
        impl<'a> From<$type> for SqlValue<'a> {
            #[inline]
            fn from($value: $type) -> Self {
                $make
            }
        }
    )*};
}

from! {
    bool => value: Self::Boolean(value);
    i64 => value: Self::Integer(value);
    i32 => value: Self::Integer(value.into());
    i16 => value: Self::Integer(value.into());
    i8 => value: Self::Integer(value.into());
    isize => value: Self::Integer(value as i64);
    u64 => value: i64::try_from(value).map_or(Self::Unsigned(value), Self::Integer);
    usize => value: Self::from(value as u64);
    u32 => value: Self::Integer(value.into());
    u16 => value: Self::Integer(value.into());
    u8 => value: Self::Integer(value.into());
    f64 => value: Self::Float(value);
    f32 => value: Self::Float(shortest(value));
    &'a str => value: Self::Text(Cow::Borrowed(value));
    &'a String => value: Self::Text(Cow::Borrowed(value));
    String => value: Self::Text(Cow::Owned(value));
    &'a [u8] => value: Self::Bytes(Cow::Borrowed(value));
    Date => value: Self::Text(Cow::Owned(value.to_string()));
    Time => value: Self::Text(Cow::Owned(value.to_string()));
    DateTime => value: Self::Text(Cow::Owned(value.to_string().replace('T', " ")));
    Timestamp => value: Self::Timestamp(value);
    Vec<u8> => value: Self::Bytes(Cow::Owned(value));
}

impl<'a, T: Into<SqlValue<'a>>> From<Option<T>> for SqlValue<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A type that a value of a row can be read as.
pub trait FromSql: Sized {
    /// Converts `value` to this type.
    ///
    /// # Errors
    ///
    /// Returns a sentence about the value if it has another type.
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String>;
}

fn wrong<T>(wanted: &str, value: &SqlValue<'_>) -> Result<T, String> {
    Err(format!("expected {wanted}, found {}", value.kind()))
}

impl FromSql for i64 {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        match value {
            SqlValue::Integer(value) => Ok(value),
            SqlValue::Boolean(value) => Ok(value.into()),
            other => wrong("an integer", &other),
        }
    }
}

impl FromSql for u64 {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        match value {
            // Databases return larger numbers than an `i64` as text.
            SqlValue::Text(text) => text.parse().map_err(|_| not(&text, "a whole number from 0")),
            SqlValue::Unsigned(value) => Ok(value),
            other => narrow(i64::from_sql(other)?),
        }
    }
}

/// Returns `number` as a narrower type.
fn narrow<T: TryFrom<i64>>(number: i64) -> Result<T, String> {
    T::try_from(number).map_err(|_| match number < 0 {
        true => format!("{number} is below the smallest {}", std::any::type_name::<T>()),
        false => format!("{number} is above the largest {}", std::any::type_name::<T>()),
    })
}

fn not(text: &str, wanted: &str) -> String {
    format!("`{text}` is not {wanted}")
}

macro_rules! narrower {
    ($($type:ty),*) => {$(
        impl FromSql for $type {
            fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
                narrow(i64::from_sql(value)?)
            }
        }
    )*};
}

narrower!(i32, i16, i8, u32, u16, u8, isize, usize);

impl FromSql for f32 {
    #[expect(clippy::cast_possible_truncation, reason = "asked for in single precision")]
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        f64::from_sql(value).map(|number| number as f32)
    }
}

macro_rules! from_text {
    ($($type:ty => $wanted:literal;)*) => {$(
        impl FromSql for $type {
            fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
                let text = String::from_sql(value)?;
                text.parse().map_err(|_| not(&text, $wanted))
            }
        }
    )*};
}

from_text! {
    Date => "a date";
    Time => "a time";
    DateTime => "a date and time";
}

/// A date and time without an offset is one in UTC.
impl FromSql for Timestamp {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        let text = match value {
            SqlValue::Timestamp(at) => return Ok(at),
            other => String::from_sql(other)?,
        };
        if let Ok(at) = text.parse() {
            return Ok(at);
        }
        let in_utc = text.parse::<DateTime>().ok().and_then(|at| at.to_zoned(TimeZone::UTC).ok());
        in_utc.map(|at| at.timestamp()).ok_or_else(|| not(&text, "a date and time"))
    }
}

impl FromSql for bool {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        match value {
            SqlValue::Boolean(value) => Ok(value),
            SqlValue::Integer(value) => Ok(value != 0),
            other => wrong("a boolean", &other),
        }
    }
}

impl FromSql for f64 {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        match value {
            SqlValue::Float(value) => Ok(value),
            #[expect(clippy::cast_precision_loss, reason = "asked for as a floating-point number")]
            SqlValue::Integer(value) => Ok(value as f64),
            #[expect(clippy::cast_precision_loss, reason = "asked for as a floating-point number")]
            SqlValue::Unsigned(value) => Ok(value as f64),
            other => wrong("a number", &other),
        }
    }
}

impl FromSql for String {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        match value {
            SqlValue::Text(text) => Ok(text.into_owned()),
            other => wrong("text", &other),
        }
    }
}

impl FromSql for Vec<u8> {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        match value {
            SqlValue::Bytes(bytes) => Ok(bytes.into_owned()),
            SqlValue::Text(text) => Ok(text.into_owned().into_bytes()),
            other => wrong("bytes", &other),
        }
    }
}

impl FromSql for SqlValue<'static> {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        Ok(value.into_owned())
    }
}

impl<T: FromSql> FromSql for Option<T> {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        match value {
            SqlValue::Null => Ok(None),
            value => T::from_sql(value).map(Some),
        }
    }
}

/// A decimal number, with its digits.
#[cfg(feature = "decimal")]
impl From<rust_decimal::Decimal> for SqlValue<'_> {
    fn from(value: rust_decimal::Decimal) -> Self {
        Self::Text(Cow::Owned(value.to_string()))
    }
}

#[cfg(feature = "decimal")]
impl FromSql for rust_decimal::Decimal {
    fn from_sql(value: SqlValue<'_>) -> Result<Self, String> {
        let text = match value {
            SqlValue::Integer(value) => return Ok(value.into()),
            SqlValue::Unsigned(value) => return Ok(value.into()),
            // SQLite has no decimals; the shortest text of a number is what was written.
            SqlValue::Float(value) => value.to_string(),
            other => String::from_sql(other)?,
        };
        Self::from_str_exact(&text).map_err(|_| not(&text, "a decimal number of at most 28 digits"))
    }
}
