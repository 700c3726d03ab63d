//! The columns of a written file.

use std::sync::Arc;

use batchwright::ItemError;
use jiff::civil::{Date, DateTime, Time};
use jiff::{Timestamp, Unit};
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as PhysicalType};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray,
    FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::file::writer::SerializedColumnWriter;
use parquet::schema::types::{Type, TypePtr};
use rust_decimal::Decimal;

use crate::record::Record;
use crate::value::Value;

/// A column that is written.
#[derive(Debug, Clone)]
pub struct ParquetColumn {
    pub(super) name: Arc<str>,
    kind: ParquetType,
    is_required: bool,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParquetType {
    /// Text; other values as they are shown.
    Text,
    /// Whole numbers of 64 bits.
    Integer,
    /// Binary fractions of 64 bits.
    Float,
    /// Exact numbers of up to `precision` digits (1 to 28), `scale` of them after the point.
    Decimal {
        /// Number of digits in all.
        precision: u8,
        /// Number of digits after the point.
        scale: u8,
    },
    /// `true` and `false`.
    Boolean,
    /// Days.
    Date,
    /// Times of day, in microseconds.
    Time,
    /// Instants, in microseconds.
    Timestamp,
    /// Days with a time of a clock and no time zone, in microseconds.
    DateTime,
    /// Bytes.
    Bytes,
}

/// Digits that 64 bits hold.
const DIGITS_OF_64_BITS: u8 = 18;
/// Digits that an exact number of ours holds.
const DIGITS_MAX: u8 = 28;
/// Bytes of a decimal with more digits.
const DECIMAL_BYTES: i32 = 16;

impl ParquetColumn {
    /// Creates a column of the fields called `name`, in which a value may be missing.
    pub fn new(name: impl Into<Arc<str>>, kind: ParquetType) -> Self {
        Self { name: name.into(), kind, is_required: false }
    }

    /// Makes a missing value an error.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    pub(super) fn schema(&self) -> Result<TypePtr, String> {
        let micros = TimeUnit::MICROS;
        let (physical, logical) = match self.kind {
            ParquetType::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
            ParquetType::Integer => (PhysicalType::INT64, None),
            ParquetType::Float => (PhysicalType::DOUBLE, None),
            ParquetType::Decimal { precision, scale } => {
                if !(1..=DIGITS_MAX).contains(&precision) || scale > precision {
                    return Err(format!(
                        "column `{}`: a decimal has 1 to {DIGITS_MAX} digits, and no more than these after the point",
                        self.name
                    ));
                }
                let physical = match precision <= DIGITS_OF_64_BITS {
                    true => PhysicalType::INT64,
                    false => PhysicalType::FIXED_LEN_BYTE_ARRAY,
                };
                (physical, Some(LogicalType::decimal(scale.into(), precision.into())))
            }
            ParquetType::Boolean => (PhysicalType::BOOLEAN, None),
            ParquetType::Date => (PhysicalType::INT32, Some(LogicalType::Date)),
            ParquetType::Time => (PhysicalType::INT64, Some(LogicalType::time(false, micros))),
            ParquetType::Timestamp => {
                (PhysicalType::INT64, Some(LogicalType::timestamp(true, micros)))
            }
            ParquetType::DateTime => {
                (PhysicalType::INT64, Some(LogicalType::timestamp(false, micros)))
            }
            ParquetType::Bytes => (PhysicalType::BYTE_ARRAY, None),
        };
        let is_optional = !self.is_required;
        let mut builder = Type::primitive_type_builder(&self.name, physical)
            .with_repetition(if is_optional { Repetition::OPTIONAL } else { Repetition::REQUIRED })
            .with_logical_type(logical);
        if let ParquetType::Decimal { precision, scale } = self.kind {
            builder = builder.with_precision(precision.into()).with_scale(scale.into());
            if physical == PhysicalType::FIXED_LEN_BYTE_ARRAY {
                builder = builder.with_length(DECIMAL_BYTES);
            }
        }
        builder.build().map(Arc::new).map_err(|error| error.to_string())
    }

    /// Writes the values of `rows`.
    pub(super) fn write(
        &self,
        rows: &[Record],
        column: &mut SerializedColumnWriter<'_>,
    ) -> Result<(), ItemError> {
        match self.kind {
            ParquetType::Text => self.write_as::<ByteArrayType>(rows, column, |value| {
                Ok(value.to_string().into_bytes().into())
            }),
            ParquetType::Integer => self.write_as::<Int64Type>(rows, column, integer),
            ParquetType::Float => self.write_as::<DoubleType>(rows, column, float),
            ParquetType::Decimal { precision, scale } if precision <= DIGITS_OF_64_BITS => {
                self.write_as::<Int64Type>(rows, column, |value| {
                    let whole = mantissa(value, precision, scale)?;
                    i64::try_from(whole).map_err(|_| "it has too many digits".to_owned())
                })
            }
            ParquetType::Decimal { precision, scale } => {
                self.write_as::<FixedLenByteArrayType>(rows, column, |value| {
                    let whole = mantissa(value, precision, scale)?;
                    Ok(FixedLenByteArray::from(whole.to_be_bytes().to_vec()))
                })
            }
            ParquetType::Boolean => self.write_as::<BoolType>(rows, column, |value| match value {
                Value::Boolean(value) => Ok(*value),
                value => parsed(value, "`true` or `false`"),
            }),
            ParquetType::Date => self.write_as::<Int32Type>(rows, column, |value| {
                let date = match value {
                    Value::Date(date) => *date,
                    value => shaped::<Date>(value, is_date, "a date")?,
                };
                let days = jiff::civil::date(1970, 1, 1).until(date).map(|span| span.get_days());
                days.map_err(|error| error.to_string())
            }),
            ParquetType::Time => self.write_as::<Int64Type>(rows, column, |value| {
                let time = match value {
                    Value::Time(time) => *time,
                    value => shaped::<Time>(value, is_time, "a time")?,
                };
                let nanos = Time::midnight().until((Unit::Nanosecond, time));
                let nanos = nanos.map(|span| span.get_nanoseconds());
                micros(nanos.map_err(|error| error.to_string())?.into())
            }),
            ParquetType::Timestamp => self.write_as::<Int64Type>(rows, column, |value| {
                let at = match value {
                    Value::Timestamp(at) => *at,
                    value => parsed::<Timestamp>(value, "an instant with its offset")?,
                };
                micros(at.as_nanosecond())
            }),
            ParquetType::DateTime => self.write_as::<Int64Type>(rows, column, |value| {
                let is_both = |text: &str| {
                    text.split_once(['T', ' ']).is_some_and(|(day, at)| is_date(day) && is_time(at))
                };
                let both =
                    shaped::<DateTime>(value, is_both, "a day and a time without an offset")?;
                let since = both.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
                micros(since.as_nanos())
            }),
            ParquetType::Bytes => self.write_as::<ByteArrayType>(rows, column, bytes),
        }
    }

    fn write_as<T: DataType>(
        &self,
        rows: &[Record],
        column: &mut SerializedColumnWriter<'_>,
        convert: impl Fn(&Value) -> Result<T::T, String>,
    ) -> Result<(), ItemError> {
        let name = &*self.name;
        let (mut values, mut levels) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let value = row.required("write column", name)?;
            let is_missing = match (value, self.kind) {
                (Value::Null, _) => true,
                // An empty field of a text file has no other type.
                (Value::Field(text), kind) => text.is_empty() && kind != ParquetType::Text,
                _ => false,
            };
            if is_missing && self.is_required {
                return Err(ItemError::data(format!(
                    "cannot write column `{name}`: there is no value"
                )));
            }
            if !is_missing {
                values.push(convert(value).map_err(|what| {
                    ItemError::data(format!("cannot write column `{name}`: {what}"))
                })?);
            }
            levels.push(i16::from(!is_missing));
        }
        let levels = (!self.is_required).then_some(&*levels);
        let written = column.typed::<T>().write_batch(&values, levels, None);
        written
            .map(drop)
            .map_err(|error| ItemError::fatal(format!("cannot write column `{name}`: {error}")))
    }
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

fn bytes(value: &Value) -> Result<ByteArray, String> {
    match value {
        Value::Bytes(bytes) => Ok(bytes.to_vec().into()),
        // As bytes are written in texts.
        Value::Text(text) | Value::Field(text) => hexadecimal(text)
            .map(Into::into)
            .ok_or_else(|| format!("`{value}` is no bytes in hexadecimal digits")),
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

fn integer(value: &Value) -> Result<i64, String> {
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
fn float(value: &Value) -> Result<f64, String> {
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
fn mantissa(value: &Value, precision: u8, scale: u8) -> Result<i128, String> {
    let number = match value {
        Value::Decimal(number) => *number,
        Value::Integer(number) => Decimal::from(*number),
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
