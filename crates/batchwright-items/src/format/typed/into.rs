//! Values as they are stored: each conversion is exact, or an error.

use jiff::civil::{Date, DateTime, Time};
use jiff::{Timestamp, Unit};
use rust_decimal::Decimal;

use crate::value::Value;

pub(crate) fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(value) => Ok(*value),
        value => parsed(value, "`true` or `false`"),
    }
}

/// Returns the number of days since 1970.
pub(crate) fn days(value: &Value) -> Result<i32, String> {
    let date = match value {
        Value::Date(date) => *date,
        value => shaped::<Date>(value, is_date, "a date")?,
    };
    let days = jiff::civil::date(1970, 1, 1).until(date).map(|span| span.get_days());
    days.map_err(|error| error.to_string())
}

/// Returns the number of microseconds since midnight.
pub(crate) fn time(value: &Value) -> Result<i64, String> {
    let time = match value {
        Value::Time(time) => *time,
        value => shaped::<Time>(value, is_time, "a time")?,
    };
    let nanos = Time::midnight().until((Unit::Nanosecond, time));
    let nanos = nanos.map(|span| span.get_nanoseconds());
    micros(nanos.map_err(|error| error.to_string())?.into())
}

/// Returns the number of microseconds since 1970.
pub(crate) fn timestamp(value: &Value) -> Result<i64, String> {
    let at = match value {
        Value::Timestamp(at) => *at,
        value => parsed::<Timestamp>(value, "an instant with its offset")?,
    };
    micros(at.as_nanosecond())
}

/// Returns the number of microseconds since 1970, as if the clock were in UTC.
pub(crate) fn datetime(value: &Value) -> Result<i64, String> {
    let is_both = |text: &str| {
        text.split_once(['T', ' ']).is_some_and(|(day, at)| is_date(day) && is_time(at))
    };
    let both = shaped::<DateTime>(value, is_both, "a day and a time without an offset")?;
    let since = both.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
    micros(since.as_nanos())
}

fn parsed<T: std::str::FromStr>(value: &Value, wanted: &str) -> Result<T, String> {
    let parsed = match value {
        Value::Text(text) | Value::Field(text) => text.parse().ok(),
        Value::Number(json) => json.get().parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| format!("`{value}` is not {wanted}"))
}

/// As [`parsed`], of texts that `is_right` accepts: the parser ignores what else they contain.
fn shaped<T: std::str::FromStr>(
    value: &Value,
    is_right: impl Fn(&str) -> bool,
    wanted: &str,
) -> Result<T, String> {
    match value {
        Value::Text(text) | Value::Field(text) if is_right(text) => parsed(value, wanted),
        _ => Err(format!("`{value}` is not {wanted}")),
    }
}

fn is_date(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

fn is_time(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'))
}

pub(crate) fn bytes(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::Bytes(bytes) => Ok(bytes.to_vec()),
        // As bytes are written in texts.
        Value::Text(text) | Value::Field(text) => {
            hexadecimal(text).ok_or_else(|| format!("`{value}` is no bytes in hexadecimal digits"))
        }
        value => Err(format!("`{value}` is no bytes")),
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
            _ => None,
        })
        .collect()
}

pub(crate) fn integer(value: &Value) -> Result<i64, String> {
    match value {
        Value::Integer(number) => Ok(*number),
        Value::Decimal(number) if number.is_integer() => {
            i64::try_from(number.mantissa() / 10_i128.pow(number.scale()))
                .map_err(|_| format!("`{value}` has more than 64 bits"))
        }
        value => parsed(value, "an integer"),
    }
}

/// Returns the binary fraction of a number; a whole number must be exact.
pub(crate) fn float(value: &Value) -> Result<f64, String> {
    let text = match value {
        Value::Float(number) => return Ok(*number),
        Value::Integer(_) | Value::Decimal(_) => value.to_string(),
        Value::Text(text) | Value::Field(text) => text.to_string(),
        Value::Number(json) => json.get().to_owned(),
        _ => return Err(format!("`{value}` is no number")),
    };
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    #[expect(clippy::cast_possible_truncation, reason = "a number out of range is not the same")]
    let is_exact = |number: f64| {
        let whole = text.parse::<i128>().ok();
        whole.is_none_or(|whole| number as i128 == whole)
    };
    number
        .filter(|number| is_exact(*number))
        .ok_or_else(|| format!("`{value}` is not a number that a binary fraction of 64 bits holds"))
}

/// Returns the digits of a number with `scale` of them after the point, none of which is lost.
pub(crate) fn mantissa(value: &Value, precision: u8, scale: u8) -> Result<i128, String> {
    let number = match value {
        Value::Decimal(number) => *number,
        Value::Integer(number) => Decimal::from(*number),
        // By the digits that it is written with.
        Value::Float(number) => {
            let text = number.to_string();
            Decimal::from_str_exact(&text).map_err(|_| format!("`{value}` is no decimal"))?
        }
        value => {
            let text = match value {
                Value::Text(text) | Value::Field(text) => text,
                Value::Number(json) => json.get(),
                _ => return Err(format!("`{value}` is no decimal")),
            };
            Decimal::from_str_exact(text).map_err(|_| format!("`{value}` is no decimal"))?
        }
    };
    let number = number.normalize();
    let Some(missing) = u32::from(scale).checked_sub(number.scale()) else {
        return Err(format!("`{value}` has more than {scale} digits after the point"));
    };
    let whole = number.mantissa().checked_mul(10_i128.pow(missing));
    let whole = whole.filter(|whole| whole.unsigned_abs() < 10_u128.pow(precision.into()));
    whole.ok_or_else(|| {
        format!("`{value}` has more than {} digits before the point", precision - scale)
    })
}

fn micros(nanos: i128) -> Result<i64, String> {
    match nanos % 1_000 {
        0 => i64::try_from(nanos / 1_000).map_err(|_| "the time is out of range".to_owned()),
        _ => Err("the time has digits below a microsecond".to_owned()),
    }
}
