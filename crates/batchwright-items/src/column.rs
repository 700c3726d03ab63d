//! Columns of text files: their types, and the values of their fields.

use std::borrow::Cow;

use batchwright::ItemError;
use jiff::civil::{Date, DateTime, Time};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::text::SharedText;
use crate::value::Value;

/// A type; for dates and times it can have a format.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a type, or `{ type = …, format = … }`")]
#[schemars(inline)]
pub(crate) enum TypeKey {
    Name(String),
    Formatted {
        #[serde(rename = "type")]
        kind: String,
        format: Option<String>,
    },
}

/// The type of a column; a column without a type keeps its text.
#[derive(Debug, Clone)]
pub(crate) enum ColumnType {
    Text,
    Integer,
    Float,
    Decimal,
    Boolean,
    Date(Option<String>),
    Time(Option<String>),
    Timestamp(Option<String>),
}

const TYPES: &str = "string, integer, float, decimal, boolean, date, time, timestamp";

/// Returns the type that `written` names, for the column `name`.
pub(crate) fn column_type(name: &str, written: &TypeKey) -> Result<ColumnType, String> {
    let (word, format) = match written {
        TypeKey::Name(word) => (word, None),
        TypeKey::Formatted { kind, format } => (kind, format.clone()),
    };
    let parsed = match word.as_str() {
        "string" => ColumnType::Text,
        "integer" => ColumnType::Integer,
        "float" => ColumnType::Float,
        "decimal" => ColumnType::Decimal,
        "boolean" => ColumnType::Boolean,
        "date" => return Ok(ColumnType::Date(format)),
        "time" => return Ok(ColumnType::Time(format)),
        "timestamp" => return Ok(ColumnType::Timestamp(format)),
        other => {
            return Err(format!("column `{name}`: there is no type `{other}`; there are: {TYPES}"));
        }
    };
    match format {
        None => Ok(parsed),
        Some(_) => {
            Err(format!("column `{name}`: only a date, a time or a timestamp takes a `format`"))
        }
    }
}

impl ColumnType {
    /// Returns the value of `text` in the column `name`; `mark` is the decimal mark. An empty text is null, except in a
    /// column of text.
    pub(crate) fn value(
        &self,
        name: &str,
        text: &SharedText,
        mark: char,
    ) -> Result<Value, ItemError> {
        if text.is_empty() && !matches!(self, Self::Text) {
            return Ok(Value::Null);
        }
        let (value, wanted) = match self {
            Self::Text => (Some(Value::Text(text.clone())), "text"),
            Self::Integer => (text.parse().ok().map(Value::Integer), "an integer"),
            Self::Float => {
                let number = marked(text, mark).and_then(|text| text.parse::<f64>().ok());
                (number.filter(|number| number.is_finite()).map(Value::Float), "a number")
            }
            Self::Decimal => {
                let number =
                    marked(text, mark).and_then(|text| Decimal::from_str_exact(&text).ok());
                (number.map(Value::Decimal), "a decimal number of at most 28 digits")
            }
            Self::Boolean => (text.parse().ok().map(Value::Boolean), "`true` or `false`"),
            Self::Date(format) => (date(text, format.as_deref()), "a date"),
            Self::Time(format) => (time(text, format.as_deref()), "a time"),
            Self::Timestamp(format) => (timestamp(text, format.as_deref()), "a timestamp"),
        };
        value.ok_or_else(|| {
            let like = match self {
                Self::Date(Some(format))
                | Self::Time(Some(format))
                | Self::Timestamp(Some(format)) => format!(" written as `{format}`"),
                _ => String::new(),
            };
            ItemError::parse(format!("cannot read column `{name}`: `{text}` is not {wanted}{like}"))
        })
    }
}

/// Returns the number with a point as its decimal mark, or `None` if it has a point although `mark` is another character.
fn marked(text: &str, mark: char) -> Option<Cow<'_, str>> {
    match mark {
        '.' => Some(Cow::Borrowed(text)),
        mark => (!text.contains('.')).then(|| Cow::Owned(text.replacen(mark, ".", 1))),
    }
}

/// Returns the date in ISO 8601 form, parsed with `format` or, without one, as ISO 8601.
fn date(text: &SharedText, format: Option<&str>) -> Option<Value> {
    match format {
        None => text.parse::<Date>().ok().map(|_| Value::Text(text.clone())),
        Some(format) => {
            Date::strptime(format, text.as_bytes()).ok().map(|date| Value::text(&date.to_string()))
        }
    }
}

fn time(text: &SharedText, format: Option<&str>) -> Option<Value> {
    match format {
        None => text.parse::<Time>().ok().map(|_| Value::Text(text.clone())),
        Some(format) => {
            Time::strptime(format, text.as_bytes()).ok().map(|time| Value::text(&time.to_string()))
        }
    }
}

/// Returns the timestamp. A `format` with an offset gives an instant in UTC, a `format` without one a date and time;
/// without a `format` the text stays as it is.
fn timestamp(text: &SharedText, format: Option<&str>) -> Option<Value> {
    match format {
        None => {
            let is_one =
                text.parse::<jiff::Timestamp>().is_ok() || text.parse::<DateTime>().is_ok();
            is_one.then(|| Value::Text(text.clone()))
        }
        Some(format) => {
            let parsed = jiff::fmt::strtime::parse(format, text.as_bytes()).ok()?;
            match parsed.to_timestamp() {
                Ok(instant) => Some(Value::text(&instant.to_string())),
                Err(_) => parsed.to_datetime().ok().map(|both| Value::text(&both.to_string())),
            }
        }
    }
}
