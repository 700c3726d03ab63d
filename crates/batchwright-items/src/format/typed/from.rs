//! Values of what is stored.

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use jiff::civil::Time;
use jiff::{SignedDuration, Span, Timestamp};
use rust_decimal::Decimal;
use serde::de::DeserializeOwned;

use crate::record::Record;
use crate::value::Value;

/// Returns the item that `record` is as JSON.
pub(crate) fn record<T: DeserializeOwned>(record: Record) -> Result<T, ItemError> {
    crate::record::into_item::item(&record)
        .map_err(|error| ItemError::wrap(ErrorKind::PARSE, "cannot read the row", error))
}

/// Returns the fraction with the digits of its shortest form, as it is written elsewhere.
pub(crate) fn float(number: f32) -> Value {
    Value::Float(number.to_string().parse().unwrap_or(number.into()))
}

pub(crate) fn date(days: i32) -> Result<Value, String> {
    let span = Span::new().try_days(days).ok();
    let date = span.and_then(|span| jiff::civil::date(1970, 1, 1).checked_add(span).ok());
    date.map(Value::Date).ok_or_else(|| format!("day {days} is out of range"))
}

/// Returns the instant, or the day and the time of a clock.
pub(crate) fn instant(nanos: i128, is_utc: bool) -> Result<Value, String> {
    let value = match is_utc {
        true => Timestamp::from_nanosecond(nanos).ok().map(Value::Timestamp),
        false => {
            let since = SignedDuration::from_nanos_i128(nanos);
            let both = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0).checked_add(since);
            both.ok().map(|both| Value::from(both.to_string()))
        }
    };
    value.ok_or_else(|| format!("{nanos} ns since 1970 is out of range"))
}

pub(crate) fn time(nanos: i64) -> Result<Value, String> {
    let span = Span::new().try_nanoseconds(nanos).ok().filter(|_| nanos >= 0);
    let time = span.and_then(|span| Time::midnight().checked_add(span).ok());
    time.map(Value::Time).ok_or_else(|| format!("{nanos} ns is no time of day"))
}

/// Returns the number of which `bytes` are the digits, as a whole number of two's complement, `scale` of them after the point.
pub(crate) fn decimal(bytes: &[u8], scale: u32) -> Result<Value, String> {
    let is_long = bytes.len() > 16;
    let is_negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let extended = if is_negative { u8::MAX } else { 0 };
    if is_long && bytes[..bytes.len() - 16].iter().any(|byte| *byte != extended) {
        return Err("it has more than 28 digits".to_owned());
    }
    if bytes.is_empty() {
        return Err("it has no digits".to_owned());
    }
    let mut whole = [extended; 16];
    for (into, byte) in whole.iter_mut().rev().zip(bytes.iter().rev()) {
        *into = *byte;
    }
    if (whole[0] & 0x80 != 0) != is_negative {
        return Err("it has more than 28 digits".to_owned());
    }
    let parsed = Decimal::try_from_i128_with_scale(i128::from_be_bytes(whole), scale);
    parsed.map(Value::Decimal).map_err(|_| "it has more than 28 digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_that_does_not_fit_is_not_another_number() {
        let bytes = |first: u8, rest: u8| [&[first][..], &[rest; 16]].concat();
        for (digits, expected) in [
            (vec![0x01], Some("0.1")),
            (vec![0xff], Some("-0.1")),
            (bytes(0, 0), Some("0.0")),
            (bytes(0xff, 0xff), Some("-0.1")),
            (vec![], None),
            // 2 to the power of 128 less 1, and its opposite.
            (bytes(0, 0xff), None),
            ([&[0xff][..], &[0; 15], &[1]].concat(), None),
            (bytes(1, 1), None),
        ] {
            let found = decimal(&digits, 1).ok().map(|value| value.to_string());
            assert_eq!(found.as_deref(), expected, "{digits:?}");
        }
    }
}
