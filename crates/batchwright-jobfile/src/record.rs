//! The item of job files: a record of names and values that is cheap to clone.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use batchwright::testing::Numbered;
use rust_decimal::Decimal;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// A record. Clones share its fields.
#[derive(Debug, Clone)]
pub(super) struct Record {
    names: Names,
    values: Arc<[Value]>,
    number: u64,
}

/// Names of the fields, shared by all records of a source.
pub(super) type Names = Arc<[Arc<str>]>;

/// The value of a field. A value that no processor changes is written exactly as it was read, digit by digit.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    /// An exact number with a fraction, or one that is too large for 64 bits.
    Decimal(Decimal),
    Float(f64),
    Text(Arc<str>),
    /// Text of a source without types: kept as it is, and parsed as a number where a number is required.
    Field(Arc<str>),
    /// A number of JSON, as it is written there.
    Number(Arc<RawValue>),
    /// A list or an object of JSON, as it is written there.
    Json(Arc<RawValue>),
    /// A list within an expression; no field holds one.
    List(Arc<[Value]>),
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

    /// Returns the record with other fields and the same number.
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

    /// Parses the JSON `raw` as a value.
    fn from_raw(raw: &RawValue) -> Result<Self, serde_json::Error> {
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
        }
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (name, value) in self.names.iter().zip(&*self.values) {
            map.serialize_entry(name, value)
                .map_err(|error| S::Error::custom(format!("field `{name}`: {error}")))?;
        }
        map.end()
    }
}

/// Number of names above which [`repeated`] uses a set.
const NAMES_FEW: usize = 32;

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
                while let Some((name, raw)) = map.next_entry::<String, &'de RawValue>()? {
                    names.push(Arc::<str>::from(name));
                    values.push(Value::from_raw(raw).map_err(A::Error::custom)?);
                }
                match repeated(&names) {
                    None => Ok(Record::new(names.into(), values)),
                    Some(name) => Err(A::Error::custom(format!("the name `{name}` occurs twice"))),
                }
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Returns a name that occurs twice.
pub(super) fn repeated<N: AsRef<str>>(names: &[N]) -> Option<&str> {
    let names = names.iter().map(AsRef::as_ref);
    if names.len() <= NAMES_FEW {
        let all: Vec<&str> = names.collect();
        return (1..all.len())
            .find(|index| all[..*index].contains(&all[*index]))
            .map(|index| all[index]);
    }
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_touched_leaves_as_it_came_to_the_digit_and_in_its_order() {
        for line in [
            r#"{"z":1,"a":-0,"m":1.10,"b":1E5,"l":[1.0,{"y":2,"x":1}],"t":"a\"b","n":null,"f":false}"#,
            r#"{"id":340282366920938463463374607431768211457,"p":0.1234567890123456789}"#,
        ] {
            let record: Record = serde_json::from_slice(line.as_bytes()).unwrap();
            assert_eq!(serde_json::to_string(&record).unwrap(), line);
        }
    }

    #[test]
    fn an_object_with_a_name_twice_is_refused_and_so_is_a_number_that_json_cannot_say() {
        let twice = serde_json::from_slice::<Record>(br#"{"a":1,"a":2}"#).unwrap_err();
        assert!(twice.to_string().contains("`a` occurs twice"), "{twice}");
        let infinite = Record::new(Arc::new(["v".into()]), vec![Value::Float(f64::INFINITY)]);
        let error = serde_json::to_string(&infinite).unwrap_err().to_string();
        assert!(error.contains("field `v`: JSON has no number inf"), "{error}");
    }
}
