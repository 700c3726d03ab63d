//! The item of job files: a record of names and values that is cheap to clone.

pub(crate) mod into_item;
pub(crate) mod of_item;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::testing::fault::Numbered;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::value::Value;

/// An item of a job file: values with names. Clones share the fields.
///
/// ```
/// use std::sync::Arc;
/// use batchwright_items::{Names, Record, Value};
///
/// let names: Names = Arc::new([Arc::from("id"), Arc::from("city")]);
/// let record = Record::new(names, vec![Value::Integer(7), Value::text("Lyon")]);
/// assert_eq!(record.get("city").unwrap().to_string(), "Lyon");
/// assert_eq!(serde_json::to_string(&record).unwrap(), r#"{"id":7,"city":"Lyon"}"#);
/// ```
#[derive(Debug, Clone)]
pub struct Record {
    names: Names,
    values: Arc<[Value]>,
    number: u64,
}

/// Names of the fields, shared by all records of a source.
pub type Names = Arc<[Arc<str>]>;

impl Record {
    /// Creates a record of `values`, one for each of `names`.
    ///
    /// # Panics
    ///
    /// When the numbers of names and of values differ.
    pub fn new(names: Names, values: Vec<Value>) -> Self {
        Self::of(names, values.into())
    }

    /// As [`new`](Self::new), without copying the values: an iterator of known length can be collected into an `Arc`.
    ///
    /// # Panics
    ///
    /// See [`new`](Self::new).
    pub fn of(names: Names, values: Arc<[Value]>) -> Self {
        assert_eq!(names.len(), values.len(), "a record has a value for each name");
        Self { names, values, number: 0 }
    }

    /// Creates a record of one field.
    pub fn single(names: &Names, value: Value) -> Self {
        Self { names: Arc::clone(names), values: Arc::new([value]), number: 0 }
    }

    /// Returns the names of the fields, in their order.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Returns the values of the fields, in the order of the names.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Returns the value of the field `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let index = self.names.iter().position(|known| **known == *name)?;
        self.values.get(index)
    }

    /// Returns the value of the field `name`, which must be there.
    ///
    /// # Errors
    ///
    /// Of kind `data`, with `purpose` in the message: `cannot write column …`.
    pub fn required(&self, purpose: &str, name: &str) -> Result<&Value, ItemError> {
        self.get(name).ok_or_else(|| {
            ItemError::data(format!("cannot {purpose} `{name}`: the item has no such field"))
        })
    }

    /// Returns the record with other fields and the same number.
    pub fn with(&self, names: Names, values: Arc<[Value]>) -> Self {
        Self { number: self.number, ..Self::of(names, values) }
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

/// Number of names above which [`first_duplicate`] uses a set.
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
                match first_duplicate(&names) {
                    None => Ok(Record::new(names.into(), values)),
                    Some(name) => Err(A::Error::custom(format!("the name `{name}` occurs twice"))),
                }
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Returns a name that occurs twice.
pub fn first_duplicate<N: AsRef<str>>(names: &[N]) -> Option<&str> {
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
