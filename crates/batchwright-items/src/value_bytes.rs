//! Values as bytes, each with its type, for files that only this process reads.

use std::sync::Arc;

use rust_decimal::Decimal;
use serde_json::value::RawValue;

use crate::value::Value;

/// Appends `values` to `bytes`.
pub fn put_all(values: &[Value], bytes: &mut Vec<u8>) {
    put_length(values.len(), bytes);
    values.iter().for_each(|value| put(value, bytes));
}

fn put(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Null => bytes.push(0),
        Value::Boolean(value) => bytes.extend([1, u8::from(*value)]),
        Value::Integer(number) => put_content(2, &number.to_le_bytes(), bytes),
        Value::Decimal(number) => put_content(3, &number.serialize(), bytes),
        Value::Float(number) => put_content(4, &number.to_bits().to_le_bytes(), bytes),
        Value::Text(text) => put_content(5, text.as_bytes(), bytes),
        Value::Field(text) => put_content(6, text.as_bytes(), bytes),
        Value::Number(json) => put_content(7, json.get().as_bytes(), bytes),
        Value::Json(json) => put_content(8, json.get().as_bytes(), bytes),
        Value::Bytes(content) => put_content(9, content, bytes),
        Value::Date(date) => put_content(10, date.to_string().as_bytes(), bytes),
        Value::Time(time) => put_content(11, time.to_string().as_bytes(), bytes),
        Value::Timestamp(at) => put_content(12, at.to_string().as_bytes(), bytes),
        Value::List(values) => {
            bytes.push(13);
            put_all(values, bytes);
        }
        Value::Map(entries) => {
            bytes.push(14);
            put_length(entries.len(), bytes);
            for (name, value) in entries.iter() {
                put_length(name.len(), bytes);
                bytes.extend_from_slice(name.as_bytes());
                put(value, bytes);
            }
        }
    }
}

fn put_length(length: usize, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
}

fn put_content(tag: u8, content: &[u8], bytes: &mut Vec<u8>) {
    bytes.push(tag);
    put_length(content.len(), bytes);
    bytes.extend_from_slice(content);
}

/// Takes values from the beginning of `bytes`; `None` if these are not what [`put_all`] appends.
pub fn take_all(bytes: &mut &[u8]) -> Option<Vec<Value>> {
    let count = take_length(bytes)?;
    (0..count).map(|_| take(bytes)).collect()
}

fn take(bytes: &mut &[u8]) -> Option<Value> {
    let tag = take_bytes(bytes, 1)?[0];
    Some(match tag {
        0 => Value::Null,
        1 => Value::Boolean(take_bytes(bytes, 1)?[0] != 0),
        13 => Value::List(take_all(bytes)?.into()),
        14 => {
            let count = take_length(bytes)?;
            let entry = |bytes: &mut &[u8]| {
                let name = take_content(bytes)?;
                Some((Arc::from(std::str::from_utf8(name).ok()?), take(bytes)?))
            };
            Value::Map((0..count).map(|_| entry(bytes)).collect::<Option<_>>()?)
        }
        tag => {
            let content = take_content(bytes)?;
            simple(tag, content)?
        }
    })
}

/// Returns the value with this `tag` and `content`.
fn simple(tag: u8, content: &[u8]) -> Option<Value> {
    let text = || std::str::from_utf8(content).ok();
    let json = || RawValue::from_string(text()?.to_owned()).ok().map(Arc::from);
    Some(match tag {
        2 => Value::Integer(i64::from_le_bytes(content.try_into().ok()?)),
        3 => Value::Decimal(Decimal::deserialize(content.try_into().ok()?)),
        4 => Value::Float(f64::from_bits(u64::from_le_bytes(content.try_into().ok()?))),
        5 => Value::Text(text()?.into()),
        6 => Value::Field(text()?.into()),
        7 => Value::Number(json()?),
        8 => Value::Json(json()?),
        9 => Value::Bytes(content.into()),
        10 => Value::Date(text()?.parse().ok()?),
        11 => Value::Time(text()?.parse().ok()?),
        12 => Value::Timestamp(text()?.parse().ok()?),
        _ => return None,
    })
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let length = take_bytes(bytes, 8)?;
    usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()
}

fn take_content<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_length(bytes)?;
    take_bytes(bytes, length)
}

fn take_bytes<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_read_as_it_was_written() {
        let json = |text: &str| Arc::from(RawValue::from_string(text.to_owned()).unwrap());
        let values = vec![
            Value::Null,
            Value::Boolean(true),
            Value::Integer(i64::MIN),
            Value::Decimal("-79228162514264337593543950.335".parse().unwrap()),
            Value::Float(-0.0),
            Value::Float(f64::NAN),
            Value::text("ä\0"),
            Value::Field("1.50".into()),
            Value::Number(json("1e400")),
            Value::Json(json("{\"a\":[1, 2]}")),
            Value::Bytes(vec![0, 255].into()),
            Value::Date(jiff::civil::date(-9999, 1, 1)),
            Value::Time(jiff::civil::time(23, 59, 59, 999_999_999)),
            Value::Timestamp(jiff::Timestamp::MIN),
            Value::List([Value::Null, Value::List([].into())].into()),
            Value::Map([(Arc::from("k"), Value::Integer(1))].into()),
        ];
        let mut bytes = Vec::new();
        put_all(&values, &mut bytes);
        let found = take_all(&mut &bytes[..]).unwrap();
        assert_eq!(format!("{found:?}"), format!("{values:?}"));
        for length in 0..bytes.len() {
            assert!(take_all(&mut &bytes[..length]).is_none(), "{length}");
        }
    }
}
