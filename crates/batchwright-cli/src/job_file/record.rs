//! The item of job files: names and values, cheap to pass on.

use std::fmt;
use std::sync::Arc;

use batchwright::testing::Numbered;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A record. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Record {
    names: Names,
    values: Arc<[Value]>,
    number: u64,
}

/// Names of the fields, shared by all records of a source.
pub(super) type Names = Arc<[Arc<str>]>;

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(Arc<str>),
    /// Text of a source that has no types: stays as it is, but reads as a number in expressions when
    /// it is one.
    Field(Arc<str>),
    /// A list or an object of JSON.
    Json(Arc<serde_json::Value>),
}

impl Record {
    pub(super) fn new(names: Names, values: Vec<Value>) -> Self {
        debug_assert_eq!(names.len(), values.len());
        Self { names, values: values.into(), number: 0 }
    }

    /// A record of one field.
    pub(super) fn single(names: &Names, value: Value) -> Self {
        Self { names: Arc::clone(names), values: Arc::new([value]), number: 0 }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        let index = self.names.iter().position(|known| **known == *name)?;
        self.values.get(index)
    }

    /// The same record (its number too) with other fields.
    pub(super) fn with(&self, names: Names, values: Vec<Value>) -> Self {
        Self { number: self.number, ..Self::new(names, values) }
    }
}

impl Numbered for Record {
    fn number(&self) -> u64 {
        self.number
    }

    fn set_number(&mut self, number: u64) {
        self.number = number;
    }
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Boolean(value),
            serde_json::Value::String(text) => Self::Text(text.into()),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Self::Integer(value),
                // Larger than 64 bits: kept as JSON, so that no digit is lost.
                (None, Some(value)) if !number.is_u64() => Self::Float(value),
                _ => Self::Json(Arc::new(serde_json::Value::Number(number))),
            },
            other => Self::Json(Arc::new(other)),
        }
    }
}

/// As a field of a text file: null is empty.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(text) | Self::Field(text) => f.write_str(text),
            Self::Json(json) => json.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) | Self::Field(text) => serializer.serialize_str(text),
            Self::Json(json) => json.serialize(serializer),
        }
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (name, value) in self.names.iter().zip(&*self.values) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let (mut names, mut values) = (Vec::new(), Vec::new());
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    names.push(Arc::from(name));
                    values.push(Value::from(value));
                }
                Ok(Record::new(names.into(), values))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
