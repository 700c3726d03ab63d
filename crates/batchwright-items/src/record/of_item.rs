//! Records from items of any type: as from their JSON, without making it where both are the same.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use serde::ser::{Error as _, Impossible, SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use serde_json::Error;

use super::{Names, Record, first_duplicate};
use crate::value::Value;

/// Returns the record that `item` is as JSON. Items with the names of `known`, the last ones, share them.
pub(crate) fn record<T: Serialize>(item: &T, known: &mut Names) -> Result<Record, Error> {
    let fields = Fields { known, names: Vec::new(), values: Vec::new(), next: None };
    // Whatever is not simple is read from its JSON, whose errors say what is wrong.
    item.serialize(Whole(fields)).or_else(|_| {
        let json = serde_json::to_string(item)?;
        serde_json::from_str(&json)
    })
}

/// Returns the records that `items` are as JSON; `what` says what an item that is no object cannot be used for.
pub(crate) fn records<T: Serialize>(items: &[T], what: &str) -> Result<Vec<Record>, ItemError> {
    let mut names = Names::default();
    let record = |item| {
        record(item, &mut names).map_err(|error| ItemError::wrap(ErrorKind::DATA, what, error))
    };
    items.iter().map(record).collect()
}

/// What is not written here.
fn not_simple<T>() -> Result<T, Error> {
    Err(Error::custom("it is not simple"))
}

/// The fields of an item.
struct Fields<'a> {
    known: &'a mut Names,
    /// The names, once they are others than the known ones.
    names: Vec<Arc<str>>,
    values: Vec<Value>,
    /// The name of the next value of a map.
    next: Option<Arc<str>>,
}

impl Fields<'_> {
    fn add(&mut self, name: &str, value: Value) {
        let count = self.values.len();
        let is_known =
            self.names.is_empty() && self.known.get(count).is_some_and(|one| **one == *name);
        if !is_known {
            if self.names.is_empty() {
                self.names.extend(self.known.iter().take(count).cloned());
            }
            self.names.push(name.into());
        }
        self.values.push(value);
    }

    fn record(self) -> Result<Record, Error> {
        let count = self.values.len();
        if self.names.is_empty() && self.known.len() == count {
            return Ok(Record::new(Arc::clone(self.known), self.values));
        }
        let names: Names = match self.names.is_empty() {
            true => self.known.iter().take(count).cloned().collect(),
            false => self.names.into(),
        };
        if first_duplicate(&names).is_some() {
            return not_simple();
        }
        *self.known = Arc::clone(&names);
        Ok(Record::new(names, self.values))
    }
}

impl SerializeStruct for Fields<'_> {
    type Ok = Record;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: Name,
        value: &T,
    ) -> Result<(), Error> {
        let value = value_of(value)?;
        self.add(name, value);
        Ok(())
    }

    fn end(self) -> Result<Record, Error> {
        self.record()
    }
}

impl SerializeMap for Fields<'_> {
    type Ok = Record;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        match key.serialize(Simple)? {
            Value::Text(text) => {
                self.next = Some(Arc::from(&*text));
                Ok(())
            }
            _ => not_simple(),
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let Some(name) = self.next.take() else { return not_simple() };
        let value = value_of(value)?;
        self.add(&name, value);
        Ok(())
    }

    fn end(self) -> Result<Record, Error> {
        self.record()
    }
}

fn value_of<T: Serialize + ?Sized>(value: &T) -> Result<Value, Error> {
    value.serialize(Simple).or_else(|_| {
        let raw = serde_json::value::to_raw_value(value)?;
        Value::from_raw(&raw)
    })
}

type Name = &'static str;

/// Methods that refuse what is not simple.
macro_rules! refuse {
    ($($method:ident($($argument:ident: $type:ty),*) -> $ok:ty;)*) => {
        $(fn $method(self, $($argument: $type),*) -> Result<$ok, Error> {
            $(let _ = $argument;)*
            not_simple()
        })*
    };
}

/// The item itself: a struct, or a map.
struct Whole<'a>(Fields<'a>);

impl<'a> Serializer for Whole<'a> {
    type Ok = Record;
    type Error = Error;
    type SerializeSeq = Impossible<Record, Error>;
    type SerializeTuple = Impossible<Record, Error>;
    type SerializeTupleStruct = Impossible<Record, Error>;
    type SerializeTupleVariant = Impossible<Record, Error>;
    type SerializeMap = Fields<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Impossible<Record, Error>;

    fn serialize_struct(self, name: Name, _: usize) -> Result<Fields<'a>, Error> {
        // JSON itself has such a name.
        if name.starts_with('$') { not_simple() } else { Ok(self.0) }
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Fields<'a>, Error> {
        Ok(self.0)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Record, Error> {
        value.serialize(self)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Record, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Record, Error> {
        not_simple()
    }

    refuse! {
        serialize_bool(value: bool) -> Record;
        serialize_i8(value: i8) -> Record;
        serialize_i16(value: i16) -> Record;
        serialize_i32(value: i32) -> Record;
        serialize_i64(value: i64) -> Record;
        serialize_u8(value: u8) -> Record;
        serialize_u16(value: u16) -> Record;
        serialize_u32(value: u32) -> Record;
        serialize_u64(value: u64) -> Record;
        serialize_f32(value: f32) -> Record;
        serialize_f64(value: f64) -> Record;
        serialize_char(value: char) -> Record;
        serialize_str(value: &str) -> Record;
        serialize_bytes(value: &[u8]) -> Record;
        serialize_none() -> Record;
        serialize_unit() -> Record;
        serialize_unit_struct(name: Name) -> Record;
        serialize_unit_variant(name: Name, index: u32, variant: Name) -> Record;
        serialize_seq(length: Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(length: usize) -> Self::SerializeTuple;
        serialize_tuple_struct(name: Name, length: usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(name: Name, index: u32, variant: Name, length: usize) -> Self::SerializeTupleVariant;
        serialize_struct_variant(name: Name, index: u32, variant: Name, length: usize) -> Self::SerializeStructVariant;
    }
}

/// Methods for whole numbers that 64 bits hold.
macro_rules! integers {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method(self, value: $type) -> Result<Value, Error> {
            Ok(Value::Integer(value.into()))
        })*
    };
}

/// A value that has no parts.
struct Simple;

impl Serializer for Simple {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = Impossible<Value, Error>;
    type SerializeTuple = Impossible<Value, Error>;
    type SerializeTupleStruct = Impossible<Value, Error>;
    type SerializeTupleVariant = Impossible<Value, Error>;
    type SerializeMap = Impossible<Value, Error>;
    type SerializeStruct = Impossible<Value, Error>;
    type SerializeStructVariant = Impossible<Value, Error>;

    fn serialize_bool(self, value: bool) -> Result<Value, Error> {
        Ok(Value::Boolean(value))
    }

    integers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
    }

    fn serialize_u64(self, value: u64) -> Result<Value, Error> {
        i64::try_from(value).map_or_else(|_| not_simple(), |value| Ok(Value::Integer(value)))
    }

    fn serialize_f64(self, value: f64) -> Result<Value, Error> {
        // JSON has no other numbers.
        Ok(if value.is_finite() { Value::Float(value) } else { Value::Null })
    }

    fn serialize_str(self, value: &str) -> Result<Value, Error> {
        Ok(Value::text(value))
    }

    fn serialize_none(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: Name,
    ) -> Result<Value, Error> {
        Ok(Value::text(variant))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: Name,
        value: &T,
    ) -> Result<Value, Error> {
        if name.starts_with('$') { not_simple() } else { value.serialize(self) }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Value, Error> {
        not_simple()
    }

    refuse! {
        serialize_f32(value: f32) -> Value;
        serialize_char(value: char) -> Value;
        serialize_bytes(value: &[u8]) -> Value;
        serialize_unit_struct(name: Name) -> Value;
        serialize_seq(length: Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(length: usize) -> Self::SerializeTuple;
        serialize_tuple_struct(name: Name, length: usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(name: Name, index: u32, variant: Name, length: usize) -> Self::SerializeTupleVariant;
        serialize_map(length: Option<usize>) -> Self::SerializeMap;
        serialize_struct(name: Name, length: usize) -> Self::SerializeStruct;
        serialize_struct_variant(name: Name, index: u32, variant: Name, length: usize) -> Self::SerializeStructVariant;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Clone, Serialize)]
    struct Row {
        a: i64,
        b: Option<f64>,
        c: String,
        d: Option<Vec<u8>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        e: Option<u64>,
        f: f32,
        #[serde(flatten)]
        rest: BTreeMap<String, bool>,
    }

    fn check<T: Serialize>(item: &T, known: &mut Names) {
        let json = serde_json::to_string(item).unwrap();
        let found = record(item, known);
        match serde_json::from_str::<Record>(&json) {
            Ok(expected) => {
                let found = found.unwrap();
                assert_eq!(found.names(), expected.names());
                let texts = |record: &Record| -> Vec<String> {
                    // JSON writes exponents in its own way.
                    let is_float = |value: &&Value| !matches!(value, Value::Float(_));
                    let texts = record.values().iter().filter(is_float).map(ToString::to_string);
                    texts.filter(|text| text.parse::<f64>().is_err()).collect()
                };
                assert_eq!(texts(&found), texts(&expected));
                assert_eq!(serde_json::to_string(&found).unwrap(), json);
            }
            Err(_) => assert!(found.is_err(), "{json}"),
        }
    }

    proptest! {
        #[test]
        fn a_record_is_that_of_the_json(
            a in any::<i64>(),
            b in any::<Option<f64>>(),
            c in any::<String>(),
            d in any::<Option<Vec<u8>>>(),
            e in any::<Option<u64>>(),
            f in any::<f32>(),
            rest in prop::collection::btree_map("[a-z]", any::<bool>(), 0..3),
        ) {
            let mut known: Names = Arc::default();
            let row = Row { a, b, c, d, e, f, rest };
            check(&row, &mut known);
            // With names that are known, and with others.
            check(&row, &mut known);
            check(&Row { e: row.e.xor(Some(1)), ..row.clone() }, &mut known);
            check(&json!({ "a": a, "b": [b], "c": { "d": null } }), &mut known);
        }
    }

    #[test]
    fn items_that_are_no_objects_are_refused() {
        let mut known: Names = Arc::default();
        for item in [json!(1), json!([1]), json!("a"), json!(null)] {
            assert!(record(&item, &mut known).is_err(), "{item}");
        }
        assert!(record(&BTreeMap::from([(1, 2)]), &mut known).is_ok(), "JSON has texts as keys");
    }

    #[test]
    fn records_of_one_type_share_their_names() {
        let mut known: Names = Arc::default();
        let item = BTreeMap::from([("a", 1), ("b", 2)]);
        let one = record(&item, &mut known).unwrap();
        let other = record(&item, &mut known).unwrap();
        assert!(Arc::ptr_eq(one.names(), other.names()));
    }
}
