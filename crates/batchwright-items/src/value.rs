//! The value of a field.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use rust_decimal::Decimal;
use serde::ser::{Error as _, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::text::SharedText;

/// The value of a field. A value that no processor changes is written exactly as it was read, digit by digit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Value {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// A whole number of 64 bits.
    Integer(i64),
    /// An exact number with a fraction, or one that is too large for 64 bits.
    Decimal(Decimal),
    /// A binary fraction; JSON cannot hold one that is not finite.
    Float(f64),
    /// Text.
    Text(SharedText),
    /// Text of a source without types: kept as it is, and parsed as a number where a number is required.
    Field(SharedText),
    /// A number of JSON, as it is written there.
    Number(Arc<RawValue>),
    /// A list or an object of JSON, as it is written there.
    Json(Arc<RawValue>),
    /// A list. In JSON a list; in a text file its values in brackets.
    List(Arc<[Value]>),
    /// Names and values. In JSON an object; in a text file its names and values in braces.
    Map(Arc<[(Arc<str>, Value)]>),
    /// Bytes. In JSON and in text files their hexadecimal digits, in a database the bytes.
    Bytes(Arc<[u8]>),
    /// A day. Written as in ISO 8601.
    Date(Date),
    /// A time of day. Written as in ISO 8601.
    Time(Time),
    /// An instant. Written as in RFC 3339, in UTC.
    Timestamp(Timestamp),
}

impl Value {
    /// Creates a text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    /// Parses the JSON `raw` as a value.
    pub(crate) fn from_raw(raw: &RawValue) -> Result<Self, serde_json::Error> {
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Boolean(true),
            Some(b'f') => Self::Boolean(false),
            Some(b'"') => match text[1..text.len() - 1].contains('\\') {
                false => Self::text(&text[1..text.len() - 1]),
                true => Self::Text(serde_json::from_str::<String>(text)?.into()),
            },
            Some(b'{' | b'[') => Self::Json(raw.to_owned().into()),
            _ => match text.parse() {
                // `-0` is kept as it is written, which an integer cannot express.
                Ok(number) if text != "-0" => Self::Integer(number),
                _ => Self::Number(raw.to_owned().into()),
            },
        })
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Boolean(value),
            serde_json::Value::String(text) => Self::Text(text.into()),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(value) => Self::Integer(value),
                None => Self::Number(raw(&number)),
            },
            other => Self::Json(raw(&other)),
        }
    }
}

fn raw(json: &impl Serialize) -> Arc<RawValue> {
    serde_json::value::to_raw_value(json).expect("it is JSON already").into()
}

/// Formats a value as a field of a text file; null is empty.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Decimal(value) => value.fmt(f),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(text) | Self::Field(text) => f.write_str(text),
            Self::Number(json) | Self::Json(json) => f.write_str(json.get()),
            Self::List(values) => {
                let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
            Self::Map(fields) => {
                let texts = fields.iter().map(|(name, value)| format!("{name}: {value}"));
                write!(f, "{{{}}}", texts.collect::<Vec<_>>().join(", "))
            }
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::Date(date) => date.fmt(f),
            Self::Time(time) => time.fmt(f),
            Self::Timestamp(instant) => instant.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Decimal(value) => {
                let text = RawValue::from_string(value.to_string());
                text.map_err(S::Error::custom)?.serialize(serializer)
            }
            Self::Float(value) if !value.is_finite() => {
                Err(S::Error::custom(format!("JSON has no number {value}")))
            }
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) | Self::Field(text) => serializer.serialize_str(text),
            Self::Number(json) | Self::Json(json) => json.serialize(serializer),
            Self::List(values) => values.serialize(serializer),
            Self::Map(fields) => {
                serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
            }
            Self::Bytes(_) | Self::Date(_) | Self::Time(_) | Self::Timestamp(_) => {
                serializer.collect_str(self)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_form_in_text_and_in_json() {
        let list = Value::List([Value::Integer(1), Value::Null].into());
        let map = Value::Map([("a".into(), Value::text("x")), ("b".into(), list.clone())].into());
        for (value, text, json) in [
            (Value::Bytes([0, 255].into()), "00ff", r#""00ff""#),
            (Value::Date(Date::constant(2026, 11, 28)), "2026-11-28", r#""2026-11-28""#),
            (Value::Time(Time::constant(6, 5, 4, 0)), "06:05:04", r#""06:05:04""#),
            (
                Value::Timestamp(Timestamp::UNIX_EPOCH),
                "1970-01-01T00:00:00Z",
                r#""1970-01-01T00:00:00Z""#,
            ),
            (list, "[1, ]", "[1,null]"),
            (map, "{a: x, b: [1, ]}", r#"{"a":"x","b":[1,null]}"#),
        ] {
            assert_eq!(value.to_string(), text);
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
        }
    }
}
