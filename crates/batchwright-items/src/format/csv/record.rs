//! The fields of one record, and their deserialization into a type.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::StrDeserializer,
};

use super::CsvFormat;
use crate::format::raw::Shared;
use crate::text::SharedText;
use batchwright::ItemError;

/// The fields of one record of a CSV file.
#[derive(Debug, Clone, Copy)]
pub struct CsvRecord<'a> {
    text: &'a str,
    fields: &'a [(usize, usize)],
    /// Names of the columns; none for the header line.
    headers: &'a [String],
    format: &'a CsvFormat,
    /// A buffer that contains `text`, and its offset there.
    shared: Option<Shared<'a>>,
}

impl<'a> CsvRecord<'a> {
    /// Creates a record from `bytes` and the ranges of its `fields`; no field may end within a character.
    pub(super) fn new(
        bytes: &'a [u8],
        fields: &'a [(usize, usize)],
        (headers, format): (&'a [String], &'a CsvFormat),
    ) -> Result<Self, ItemError> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to();
            let column = fields.iter().position(|(_, end)| at < *end);
            let column = column.and_then(|index| headers.get(index));
            let column = column.map(String::as_str).unwrap_or_default();
            ItemError::parse(format!(
                "cannot read the record: column `{column}` is not valid UTF-8"
            ))
        })?;
        // Quoted fields are stored without delimiters between them, so a character may seem to span two
        // fields.
        if fields.iter().any(|(_, end)| !text.is_char_boundary(*end)) {
            return Err(ItemError::parse("cannot read the record: a field is not valid UTF-8"));
        }
        Ok(Self { text, fields, headers, format, shared: None })
    }

    /// Creates a record of the `length` bytes of `buffer` from `start` on.
    pub(super) fn of_buffer(
        (buffer, start): Shared<'a>,
        length: usize,
        fields: &'a [(usize, usize)],
        (headers, format): (&'a [String], &'a CsvFormat),
    ) -> Result<Self, ItemError> {
        let text = buffer.get(start..start + length);
        let text = text.filter(|text| fields.iter().all(|(_, end)| text.is_char_boundary(*end)));
        let text = text.ok_or_else(|| {
            ItemError::parse("cannot read the record: a field is not valid UTF-8")
        })?;
        Ok(Self { text, fields, headers, format, shared: Some((buffer, start)) })
    }

    /// Returns all fields, in their order, as texts that share one buffer.
    pub(super) fn texts(&self) -> impl Iterator<Item = SharedText> + use<'a> {
        let (buffer, offset) = match self.shared {
            Some((buffer, offset)) => (Arc::clone(buffer), offset),
            None => (Arc::new(self.text.to_owned()), 0),
        };
        self.fields
            .iter()
            .map(move |(start, end)| SharedText::part(&buffer, offset + start..offset + end))
    }

    /// Returns the number of fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether the record has no fields.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Returns the field at `index`, from 0.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a str> {
        let (start, end) = *self.fields.get(index)?;
        self.text.get(start..end)
    }

    /// Returns all fields, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let text = self.text;
        self.fields.iter().map(move |(start, end)| text.get(*start..*end).unwrap_or_default())
    }

    /// Returns the names of the columns.
    pub fn headers(&self) -> &'a [String] {
        self.headers
    }

    /// Deserializes the fields into a `T` by the names of the columns; a field that means null counts as empty. The `T` may borrow
    /// texts from the record, see [`CsvReader::decoding`](super::CsvReader::decoding).
    ///
    /// # Errors
    ///
    /// Names the column that does not fit.
    pub fn deserialize<T: Deserialize<'a>>(self) -> Result<T, ItemError> {
        let mut fields = Fields { record: self, has_nulls: self.format.has_nulls(), next: 0 };
        T::deserialize(&mut fields).map_err(|Mismatch { column, message }| {
            let column = column.and_then(|index| self.headers.get(index));
            let column = column.map_or_else(String::new, |name| format!("column `{name}`: "));
            ItemError::parse(format!("cannot read the record: {column}{message}"))
        })
    }
}

/// The reason why a record cannot be deserialized.
#[derive(Debug)]
struct Mismatch {
    column: Option<usize>,
    message: String,
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mismatch {}

impl serde::de::Error for Mismatch {
    fn custom<T: Display>(message: T) -> Self {
        Self { column: None, message: message.to_string() }
    }
}

impl Mismatch {
    fn at(self, column: usize) -> Self {
        Self { column: self.column.or(Some(column)), ..self }
    }
}

/// The fields not consumed yet; each part of the deserialized type consumes one field.
struct Fields<'a> {
    record: CsvRecord<'a>,
    has_nulls: bool,
    next: usize,
}

impl<'a> Fields<'a> {
    #[inline]
    fn peek(&self) -> Option<&'a str> {
        let field = self.record.get(self.next)?;
        Some(if self.has_nulls && self.record.format.is_null(field) { "" } else { field })
    }

    #[inline]
    fn take(&mut self) -> Result<&'a str, Mismatch> {
        match self.peek() {
            Some(field) => {
                self.next += 1;
                Ok(field)
            }
            None => Err(serde::de::Error::custom("the record has no more fields")),
        }
    }

    /// Passes the next field to `visit`; an error carries the column.
    #[inline]
    fn value<V>(
        &mut self,
        visit: impl FnOnce(&'a str) -> Result<V, Mismatch>,
    ) -> Result<V, Mismatch> {
        let field = self.take()?;
        visit(field).map_err(|mismatch| mismatch.at(self.next - 1))
    }
}

fn parsed<T: FromStr<Err: Display>>(field: &str) -> Result<T, Mismatch> {
    field.parse().map_err(|error: T::Err| Mismatch { column: None, message: error.to_string() })
}

/// Deserializes one field as a number; integers may be written in hexadecimal.
macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty, $radix:expr;)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            self.value(|field| {
                let radix: Option<fn(&str, u32) -> Result<$type, std::num::ParseIntError>> = $radix;
                match (field.strip_prefix("0x"), radix) {
                    (Some(digits), Some(radix)) => visitor.$visit(radix(digits, 16).map_err(serde::de::Error::custom)?),
                    _ => visitor.$visit(parsed(field)?),
                }
            })
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Fields<'de> {
    type Error = Mismatch;

    numbers! {
        deserialize_i8 visit_i8 i8, Some(i8::from_str_radix);
        deserialize_i16 visit_i16 i16, Some(i16::from_str_radix);
        deserialize_i32 visit_i32 i32, Some(i32::from_str_radix);
        deserialize_i64 visit_i64 i64, Some(i64::from_str_radix);
        deserialize_i128 visit_i128 i128, Some(i128::from_str_radix);
        deserialize_u8 visit_u8 u8, Some(u8::from_str_radix);
        deserialize_u16 visit_u16 u16, Some(u16::from_str_radix);
        deserialize_u32 visit_u32 u32, Some(u32::from_str_radix);
        deserialize_u64 visit_u64 u64, Some(u64::from_str_radix);
        deserialize_u128 visit_u128 u128, Some(u128::from_str_radix);
        deserialize_f32 visit_f32 f32, None;
        deserialize_f64 visit_f64 f64, None;
    }

    /// Deserializes a field into the type that its text looks like, for types that accept any value.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.value(|field| match field {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => {
                // An integer that is too large for one type must not become a float.
                if let Ok(number) = field.parse() {
                    visitor.visit_u64(number)
                } else if let Ok(number) = field.parse() {
                    visitor.visit_i64(number)
                } else if let Ok(number) = field.parse() {
                    visitor.visit_u128(number)
                } else if let Ok(number) = field.parse() {
                    visitor.visit_i128(number)
                } else if let Ok(number) = field.parse() {
                    visitor.visit_f64(number)
                } else {
                    visitor.visit_borrowed_str(field)
                }
            }
        })
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.value(|field| visitor.visit_bool(parsed(field)?))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.value(|field| visitor.visit_char(parsed(field)?))
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.value(|field| visitor.visit_borrowed_str(field))
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.value(|field| visitor.visit_borrowed_bytes(field.as_bytes()))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_bytes(visitor)
    }

    /// Deserializes an empty field as `None`.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.peek() {
            Some(field) if !field.is_empty() => visitor.visit_some(self),
            Some(_) => {
                self.next += 1;
                visitor.visit_none()
            }
            None => visitor.visit_none(),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.value(|_| visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_seq(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_seq(self)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_seq(self)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_map(self)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_map(self)
    }

    /// Deserializes a variant without content, by its name.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.value(|field| {
            let variant: StrDeserializer<'_, Mismatch> = field.into_deserializer();
            visitor.visit_enum(variant)
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_unit(visitor)
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

impl<'de> MapAccess<'de> for &mut Fields<'de> {
    type Error = Mismatch;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mismatch> {
        match self.record.headers.get(self.next).filter(|_| self.next < self.record.len()) {
            Some(name) => seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some),
            None => Ok(None),
        }
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Mismatch> {
        let column = self.next;
        seed.deserialize(&mut **self).map_err(|mismatch| mismatch.at(column))
    }
}

impl<'de> SeqAccess<'de> for &mut Fields<'de> {
    type Error = Mismatch;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mismatch> {
        if self.next >= self.record.len() {
            return Ok(None);
        }
        let column = self.next;
        seed.deserialize(&mut **self).map(Some).map_err(|mismatch| mismatch.at(column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read<T: serde::de::DeserializeOwned>(fields: &[&str]) -> Result<T, String> {
        let (mut text, mut ranges) = (String::new(), Vec::new());
        for field in fields {
            ranges.push((text.len(), text.len() + field.len()));
            text.push_str(field);
        }
        let headers: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let format = CsvFormat::new().null(["NULL"]);
        let record = CsvRecord::new(text.as_bytes(), &ranges, (&headers, &format)).unwrap();
        record.deserialize().map_err(|error| error.to_string())
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Side {
        Buy,
        Sell,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Row {
        c: Side,
        a: u8,
        #[serde(default)]
        b: Option<f64>,
    }

    #[test]
    fn a_record_becomes_what_its_reader_wants() {
        let row = |a, b, c| Row { a, b, c };
        assert_eq!(read(&["1", "2.5", "Buy"]), Ok(row(1, Some(2.5), Side::Buy)));
        assert_eq!(read(&["0xff", "", "Sell"]), Ok(row(255, None, Side::Sell)));
        assert_eq!(read(&["7", "NULL", "Sell"]), Ok(row(7, None, Side::Sell)));
        assert_eq!(read(&["x", "y", "z"]), Ok(("x".to_owned(), 'y', ["z".to_owned()])));
        assert_eq!(read(&["1", "-2", "3"]), Ok(vec![1_i64, -2, 3]));
        assert_eq!(read(&["1", "2", "3"]), Ok((1_u8, vec![2_u8, 3])));
        let map: BTreeMap<String, serde_json::Value> = read(&["1", "true", "x"]).unwrap();
        assert_eq!(serde_json::to_string(&map).unwrap(), r#"{"a":1,"b":true,"c":"x"}"#);
        let large =
            read::<BTreeMap<String, serde_json::Value>>(&["89490200001234567890", "1", "2"]);
        assert!(large.unwrap_err().contains("column `a`"), "no float of another value");
        #[derive(Debug, PartialEq, Deserialize)]
        struct Flat {
            a: String,
            #[serde(flatten)]
            rest: BTreeMap<String, String>,
        }
        let flat: Flat = read(&["x", "y", "z"]).unwrap();
        assert_eq!((flat.a.as_str(), flat.rest.len()), ("x", 2));
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_column() {
        for (fields, expected) in [
            (["x", "1", "Buy"], "column `a`: invalid digit found in string"),
            (["300", "1", "Buy"], "column `a`: number too large to fit in target type"),
            (["1", "y", "Buy"], "column `b`: invalid float literal"),
            (["1", "1", "Hold"], "column `c`: unknown variant `Hold`, expected `Buy` or `Sell`"),
        ] {
            let error = read::<Row>(&fields).unwrap_err();
            assert_eq!(error, format!("cannot read the record: {expected}"));
        }
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "never made")]
        struct Other {
            d: u8,
        }
        assert_eq!(
            read::<Other>(&["1", "2", "3"]).unwrap_err(),
            "cannot read the record: missing field `d`"
        );
    }

    #[test]
    fn a_character_does_not_reach_from_one_field_into_the_next() {
        let bytes = "é".as_bytes();
        let format = CsvFormat::new();
        assert!(CsvRecord::new(bytes, &[(0, 1), (1, 2)], (&[], &format)).is_err());
        assert!(CsvRecord::new(&bytes[..1], &[(0, 1)], (&["n".to_owned()], &format)).is_err());
    }
}
