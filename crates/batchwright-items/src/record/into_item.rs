//! Items of any type from records: as from their JSON, without making it where both are the same.

use serde::Deserializer;
use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer, Visitor};
use serde_json::Error;
use serde_json::de::IoRead;

use super::Record;
use crate::value::Value;

/// Returns the item that `record` is as JSON.
pub(crate) fn item<T: DeserializeOwned>(record: &Record) -> Result<T, Error> {
    // What borrows from JSON needs it, and its errors say what is wrong.
    T::deserialize(OfRecord(record)).or_else(|_| {
        let json = serde_json::to_string(record)?;
        serde_json::from_str(&json)
    })
}

/// The names by which `serde_json` asks for JSON itself.
const JSON_ITSELF: &str = "$serde_json::private";

struct OfRecord<'a>(&'a Record);

impl<'de> Deserializer<'de> for OfRecord<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let fields = self.0.names().iter().zip(self.0.values());
        // That refuses entries that are left over.
        MapDeserializer::new(fields.map(|(name, value)| (&**name, Of(value))))
            .deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match name.starts_with(JSON_ITSELF) {
            false => visitor.visit_newtype_struct(self),
            true => by_json(self.0, |json| json.deserialize_newtype_struct(name, visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        by_json(self.0, |json| json.deserialize_enum(name, variants, visitor))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// Makes the JSON of `part`, and deserializes it.
fn by_json<T>(
    part: &impl serde::Serialize,
    read: impl FnOnce(&mut serde_json::Deserializer<IoRead<&[u8]>>) -> Result<T, Error>,
) -> Result<T, Error> {
    let json = serde_json::to_vec(part)?;
    // Not as a text: what is deserialized must not borrow from it.
    read(&mut serde_json::Deserializer::from_reader(&json[..]))
}

/// A value.
#[derive(Clone, Copy)]
struct Of<'a>(&'a Value);

impl<'a> IntoDeserializer<'_, Error> for Of<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Of<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_i64(*number),
            },
            Value::Float(number) if number.is_finite() => visitor.visit_f64(*number),
            Value::Text(text) | Value::Field(text) => visitor.visit_str(text),
            Value::List(values) => {
                SeqDeserializer::new(values.iter().map(Of)).deserialize_any(visitor)
            }
            Value::Map(fields) => {
                let fields = fields.iter().map(|(name, value)| (&**name, Of(value)));
                MapDeserializer::new(fields).deserialize_any(visitor)
            }
            text @ (Value::Bytes(_) | Value::Date(_) | Value::Time(_) | Value::Timestamp(_)) => {
                visitor.visit_string(text.to_string())
            }
            // Their digits.
            other => by_json(other, |json| json.deserialize_any(visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match name.starts_with(JSON_ITSELF) {
            false => visitor.visit_newtype_struct(self),
            true => by_json(self.0, |json| json.deserialize_newtype_struct(name, visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match name.starts_with(JSON_ITSELF) {
            false => self.deserialize_any(visitor),
            true => by_json(self.0, |json| json.deserialize_struct(name, fields, visitor)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Text(text) | Value::Field(text) => {
                visitor.visit_enum(StrDeserializer::<Error>::new(text))
            }
            other => by_json(other, |json| json.deserialize_enum(name, variants, visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(self.0, |json| json.deserialize_bytes(visitor))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(self.0, |json| json.deserialize_byte_buf(visitor))
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(self.0, |json| json.deserialize_i128(visitor))
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(self.0, |json| json.deserialize_u128(visitor))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        by_json(self.0, |json| json.deserialize_f32(visitor))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f64 char str string unit unit_struct seq tuple
        tuple_struct map identifier
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    enum Kind {
        One,
        Two(i64),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Whole {
        a: Option<serde_json::Value>,
        b: Option<f64>,
        c: Option<String>,
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            prop::num::f64::ANY.prop_map(Value::Float),
            any::<String>().prop_map(Value::from),
            any::<i64>().prop_map(|n| Value::Decimal(rust_decimal::Decimal::new(n, 3))),
            Just(Value::Date(jiff::civil::date(2026, 11, 29))),
            Just(Value::Bytes([0, 255].into())),
            Just(Value::Number(Arc::from(RawValue::from_string("1.50e3".to_owned()).unwrap()))),
            Just(Value::Json(Arc::from(RawValue::from_string("[1,{}]".to_owned()).unwrap()))),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|all| Value::List(all.into())),
                prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|all| Value::Map(
                    all.into_iter().map(|(name, value)| (Arc::from(name), value)).collect()
                )),
            ]
        })
    }

    fn same<T: DeserializeOwned + std::fmt::Debug>(record: &Record) {
        let json = serde_json::to_string(record).and_then(|json| serde_json::from_str::<T>(&json));
        let direct = item::<T>(record);
        match (json, direct) {
            (Ok(json), Ok(direct)) => assert_eq!(format!("{json:?}"), format!("{direct:?}")),
            (json, direct) => assert_eq!(json.is_err(), direct.is_err(), "{json:?} {direct:?}"),
        }
    }

    proptest! {
        #[test]
        fn an_item_is_that_of_the_json(values in prop::collection::vec(value(), 3)) {
            // What is ignored can be a number that JSON has not.
            let is_finite = |value: &Value| !matches!(value, Value::Float(n) if !n.is_finite());
            prop_assume!(values.iter().all(is_finite));
            let names: super::super::Names = ["a", "b", "c"].map(Arc::from).into();
            let record = Record::new(names, values);
            same::<serde_json::Value>(&record);
            same::<Whole>(&record);
            same::<BTreeMap<String, Option<f64>>>(&record);
            same::<BTreeMap<String, Option<f32>>>(&record);
            same::<BTreeMap<String, i64>>(&record);
            same::<BTreeMap<String, u8>>(&record);
            same::<BTreeMap<String, Option<String>>>(&record);
            same::<BTreeMap<String, Box<RawValue>>>(&record);
            same::<BTreeMap<String, Option<bool>>>(&record);
            same::<BTreeMap<String, Vec<Option<i64>>>>(&record);
            same::<BTreeMap<String, BTreeMap<String, serde_json::Value>>>(&record);
            same::<BTreeMap<String, Option<(Option<i64>, serde_json::Value)>>>(&record);
            same::<BTreeMap<String, [serde_json::Value; 1]>>(&record);
            same::<BTreeMap<String, Option<Kind>>>(&record);
            same::<Record>(&record);
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_refused() {
        let names: super::super::Names = [Arc::from("a")].into();
        let list = |count: i64| Value::List((0..count).map(Value::Integer).collect());
        let read = |count| {
            let record = Record::new(Arc::clone(&names), vec![list(count)]);
            item::<BTreeMap<String, [i64; 2]>>(&record).is_ok()
        };
        assert_eq!([1, 2, 3].map(read), [false, true, false]);
    }

    #[test]
    fn enumerations_are_read_as_from_json() {
        let names: super::super::Names = [Arc::from("kind")].into();
        let kind = |value: Value| {
            let record = Record::new(Arc::clone(&names), vec![value]);
            item::<BTreeMap<String, Kind>>(&record).map(|mut map| map.remove("kind").unwrap())
        };
        assert_eq!(kind(Value::text("One")).unwrap(), Kind::One);
        let two = Value::Map([(Arc::from("Two"), Value::Integer(2))].into());
        assert_eq!(kind(two).unwrap(), Kind::Two(2));
        let failed = kind(Value::text("Six")).unwrap_err().to_string();
        assert!(failed.contains("unknown variant `Six`"), "{failed}");
    }
}
