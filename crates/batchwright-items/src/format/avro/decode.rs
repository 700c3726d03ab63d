//! Values in the binary encoding, <https://avro.apache.org/docs/1.12.0/specification/#binary-encoding>.

use std::sync::Arc;

use batchwright::ItemError;

use super::schema::{Schema, Shape};
use crate::format::typed::from;
use crate::value::Value;
use crate::varint;

/// Values within values are no deeper than this.
const DEPTH_MAX: usize = 64;
/// Maximum number of values of a record, those of its lists, maps and records included.
const VALUES_MAX: usize = 1_000_000;
/// Maximum number of values of a block that have no bytes, such as nulls, which could be more than the memory holds.
const EMPTY_MAX: usize = 1_000_000;
/// Maximum number of entries before the first block.
const ENTRIES_MAX: usize = 1_000;
/// What is wrong when there are too few bytes.
pub(super) const ENDS: &str = "it ends too early";

/// Decodes the values of a block.
pub(super) struct Decoder<'a> {
    schema: &'a Schema,
    bytes: Bytes<'a>,
    /// How many more values the record may have.
    values: usize,
    /// How many more values without bytes the block may have.
    empty: usize,
    /// What is wrong with the first value of the record that is decoded and out of range.
    wrong: Option<String>,
}

/// What was decoded, or why no further value can be.
type Decoded<T> = Result<T, String>;

impl<'a> Decoder<'a> {
    /// Decodes `bytes`, what is left of a block, which had values without bytes before them.
    pub(super) fn new(schema: &'a Schema, bytes: &'a [u8], empty: usize) -> Self {
        let empty = EMPTY_MAX.saturating_sub(empty);
        Self { schema, bytes: Bytes(bytes), values: VALUES_MAX, empty, wrong: None }
    }

    /// Returns how many values without bytes the block has so far.
    pub(super) fn empty(&self) -> usize {
        EMPTY_MAX - self.empty
    }

    /// Returns the number of bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.0.len()
    }

    /// Decodes the next record; the fields that are not `wanted` are left out. The record counts as failed when one of its values
    /// is out of range.
    pub(super) fn record(&mut self, wanted: &[bool]) -> Decoded<Result<Vec<Value>, ItemError>> {
        self.values = VALUES_MAX;
        let before = self.left();
        let mut values = Vec::with_capacity(wanted.len());
        let mut failure = None;
        for (field, is_wanted) in self.schema.fields.iter().zip(wanted) {
            let in_field = |what: String| format!("cannot read field `{}`: {what}", field.name);
            let value = self.value(&field.shape, 0).map_err(in_field)?;
            let wrong = self.wrong.take();
            if *is_wanted {
                values.push(value);
                failure = failure.or(wrong.map(in_field));
            }
        }
        self.charge(before)?;
        Ok(failure.map_or(Ok(values), |what| Err(ItemError::parse(what))))
    }

    /// Decodes the number of one of `all`.
    fn chosen<'s, T>(&mut self, all: &'s [T]) -> Decoded<Option<&'s T>> {
        let number = usize::try_from(self.bytes.long()?).ok();
        Ok(number.and_then(|number| all.get(number)))
    }

    /// Decodes a value of a type that not all bytes are in the range of; returns what is wrong with it.
    fn logical(&mut self, shape: &Shape) -> Decoded<Result<Value, String>> {
        Ok(match shape {
            Shape::Time { unit, is_int } => {
                let count = if *is_int { self.bytes.int()?.into() } else { self.bytes.long()? };
                from::time(count.saturating_mul(*unit))
            }
            Shape::Moment { unit, is_utc } => {
                from::instant(i128::from(self.bytes.long()?) * i128::from(*unit), *is_utc)
            }
            Shape::Decimal { scale, length } => {
                let bytes = match length {
                    Some(length) => self.bytes.take(*length)?,
                    None => self.bytes.sized()?,
                };
                from::decimal(bytes, *scale)
            }
            Shape::BigDecimal => {
                let mut content = Bytes(self.bytes.sized()?);
                let (digits, scale) = (content.sized()?, content.int()?);
                let scale = u32::try_from(scale).map_err(|_| format!("{scale} is no scale"));
                scale.and_then(|scale| from::decimal(digits, scale))
            }
            _ => from::date(self.bytes.int()?),
        })
    }

    /// Counts a value that began when `before` bytes were left.
    fn charge(&mut self, before: usize) -> Decoded<()> {
        self.values = self
            .values
            .checked_sub(1)
            .ok_or_else(|| format!("a record has more than {VALUES_MAX} values"))?;
        if self.left() == before {
            self.empty = self
                .empty
                .checked_sub(1)
                .ok_or_else(|| format!("a block has more than {EMPTY_MAX} values without bytes"))?;
        }
        Ok(())
    }

    fn value(&mut self, shape: &'a Shape, depth: usize) -> Decoded<Value> {
        let before = self.left();
        let value = self.of_shape(shape, depth)?;
        self.charge(before)?;
        Ok(value)
    }

    fn of_shape(&mut self, shape: &'a Shape, depth: usize) -> Decoded<Value> {
        if depth > DEPTH_MAX {
            return Err(format!("it is deeper than {DEPTH_MAX}"));
        }
        Ok(match shape {
            Shape::Null => Value::Null,
            Shape::Boolean => match self.bytes.take(1)? {
                [0] => Value::Boolean(false),
                [1] => Value::Boolean(true),
                other => return Err(format!("{} is neither true nor false", other[0])),
            },
            Shape::Int => Value::Integer(self.bytes.int()?.into()),
            Shape::Long => Value::Integer(self.bytes.long()?),
            Shape::Float => from::float(f32::from_le_bytes(self.bytes.array()?)),
            Shape::Double => Value::Float(f64::from_le_bytes(self.bytes.array()?)),
            Shape::Bytes => Value::Bytes(self.bytes.sized()?.into()),
            Shape::Text => Value::text(self.bytes.text()?),
            Shape::Date
            | Shape::Time { .. }
            | Shape::Moment { .. }
            | Shape::Decimal { .. }
            | Shape::BigDecimal => {
                let made = self.logical(shape)?;
                made.unwrap_or_else(|what| {
                    self.wrong.get_or_insert(what);
                    Value::Null
                })
            }
            Shape::Fixed(length) => Value::Bytes(self.bytes.take(*length)?.into()),
            Shape::Uuid => Value::from(uuid(self.bytes.array()?)),
            Shape::Duration => self.duration()?,
            Shape::Enum(symbols) => {
                let symbol = self.chosen(symbols)?;
                Value::text(symbol.ok_or("it is no symbol of its type")?)
            }
            Shape::List(of) => {
                let mut values = Vec::new();
                self.each(|decoder| {
                    values.push(decoder.value(of, depth + 1)?);
                    Ok(())
                })?;
                Value::List(values.into())
            }
            Shape::Map(of) => {
                let mut values = Vec::new();
                self.each(|decoder| {
                    let name = Arc::from(decoder.bytes.text()?);
                    values.push((name, decoder.value(of, depth + 1)?));
                    Ok(())
                })?;
                Value::Map(values.into())
            }
            Shape::Union(of) => {
                let of = self.chosen(of)?;
                // The number of the type is a byte of the value.
                self.of_shape(of.ok_or("it is of no type of its union")?, depth)?
            }
            Shape::Record(fields) => {
                let values = fields.iter().map(|field| {
                    Ok((Arc::clone(&field.name), self.value(&field.shape, depth + 1)?))
                });
                Value::Map(values.collect::<Decoded<_>>()?)
            }
            Shape::Named(number) => self.of_shape(&self.schema.named[*number], depth)?,
        })
    }

    fn duration(&mut self) -> Decoded<Value> {
        let names = ["months", "days", "milliseconds"];
        let values = names.map(|name| {
            let number = u32::from_le_bytes(self.bytes.array()?);
            Ok((Arc::from(name), Value::Integer(number.into())))
        });
        Ok(Value::Map(values.into_iter().collect::<Decoded<_>>()?))
    }

    /// Decodes the elements of a list or a map, which come in blocks.
    fn each(&mut self, mut decode: impl FnMut(&mut Self) -> Decoded<()>) -> Decoded<()> {
        while let Some(count) = self.bytes.block()? {
            for _ in 0..count {
                decode(self)?;
            }
        }
        Ok(())
    }
}

/// Bytes that are decoded from their beginning.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// Returns the number of elements of the next block of a list or a map; `None` after the last one.
    fn block(&mut self) -> Decoded<Option<usize>> {
        let count = self.long()?;
        if count < 0 {
            // The size of the block.
            self.long()?;
        }
        let number = usize::try_from(count.unsigned_abs()).map_err(|error| error.to_string())?;
        Ok((number > 0).then_some(number))
    }

    fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ENDS)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(ENDS)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn sized(&mut self) -> Decoded<&'a [u8]> {
        let length = self.long()?;
        self.take(usize::try_from(length).map_err(|_| format!("{length} is no length"))?)
    }

    fn text(&mut self) -> Decoded<&'a str> {
        std::str::from_utf8(self.sized()?).map_err(|_| "it is no UTF-8".to_owned())
    }

    fn int(&mut self) -> Decoded<i32> {
        let number = self.long()?;
        i32::try_from(number).map_err(|_| format!("{number} has more than 32 bits"))
    }

    fn long(&mut self) -> Decoded<i64> {
        match varint::number(self.0)? {
            Some((number, length)) => {
                self.0 = &self.0[length..];
                Ok(number)
            }
            None => Err(ENDS.to_owned()),
        }
    }
}

fn uuid(bytes: [u8; 16]) -> String {
    let digits = crate::text::hex(&bytes);
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    parts.join("-")
}

/// Names and values, in bytes.
type Entries<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Decodes a map of bytes, and returns what follows it.
pub(super) fn entries(bytes: &[u8]) -> Decoded<(Entries<'_>, &[u8])> {
    let (mut bytes, mut entries) = (Bytes(bytes), Vec::new());
    while let Some(count) = bytes.block()? {
        if entries.len().saturating_add(count) > ENTRIES_MAX {
            return Err(format!("its header has more than {ENTRIES_MAX} entries"));
        }
        for _ in 0..count {
            entries.push((bytes.sized()?, bytes.sized()?));
        }
    }
    Ok((entries, bytes.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(shape: &str, bytes: &[u8]) -> Decoded<Result<Vec<Value>, ItemError>> {
        let schema = format!(
            r#"{{"type": "record", "name": "R", "fields": [{{"name": "f", "type": {shape}}}]}}"#
        );
        let schema = Schema::parse(schema.as_bytes()).unwrap();
        Decoder::new(&schema, bytes, 0).record(&[true])
    }

    #[test]
    fn a_block_that_is_wrong_ends_the_file() {
        let endless = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let most = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for (shape, bytes, expected) in [
            (r#""boolean""#, &[2][..], "neither true nor false"),
            (r#""boolean""#, &[], ENDS),
            (r#""int""#, &endless, "more than 32 bits"),
            (r#""long""#, &[0xff; 10], "more than 64 bits"),
            (r#""long""#, &[0x80], ENDS),
            (r#""string""#, &[4, b'a'], ENDS),
            (r#""string""#, &[1], "-1 is no length"),
            (r#""string""#, &endless, "is no length"),
            (r#""string""#, &[2, 0xff], "no UTF-8"),
            (r#"["null", "int"]"#, &[4], "no type of its union"),
            (r#"{"type": "enum", "name": "E", "symbols": ["a"]}"#, &[2], "no symbol"),
            // A million values of no bytes each would take the memory of a million values.
            (r#"{"type": "array", "items": "null"}"#, &most, "1000000 values"),
            (
                r#"{"type": "array", "items": {"type": "record", "name": "W", "fields": [
                    {"name": "a", "type": "null"}, {"name": "b", "type": "null"}]}}"#,
                &most,
                "1000000 values",
            ),
            // The record contains itself, without an end.
            (r#""R""#, &[], "deeper than"),
        ] {
            let failed = decoded(shape, bytes).unwrap_err();
            assert!(failed.contains(expected) && failed.contains("field `f`"), "{shape}: {failed}");
        }
    }

    #[test]
    fn a_value_out_of_range_fails_its_record_alone() {
        let long = r#"{"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 0}"#;
        let mut bytes = vec![34];
        bytes.extend([1; 17]);
        let failed = decoded(long, &bytes).unwrap().unwrap_err().to_string();
        assert!(failed.contains("field `f`") && failed.contains("28 digits"), "{failed}");
        let big = r#"{"type": "bytes", "logicalType": "big-decimal"}"#;
        let value = decoded(big, &[6, 2, 125, 2]).unwrap().unwrap();
        assert_eq!(value[0].to_string(), "12.5");
        let time = r#"{"type": "long", "logicalType": "time-micros"}"#;
        assert!(decoded(time, &[1]).unwrap().is_err(), "it is before midnight");
    }
}
