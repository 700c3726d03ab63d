//! The values of a row.

use std::sync::Arc;

use batchwright::ItemError;
use jiff::civil::Time;
use jiff::{SignedDuration, Span, Timestamp};
use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as PhysicalType};
use parquet::data_type::Decimal as ParquetDecimal;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use rust_decimal::Decimal;

use crate::value::Value;

/// Returns the values of a row in the order of the columns of `schema`.
pub(super) fn values(row: Row, schema: &Type) -> Result<Vec<Value>, ItemError> {
    let columns = row.into_columns();
    columns
        .into_iter()
        .map(|(name, field)| {
            let known = schema.get_fields().iter().find(|one| one.name() == name);
            value(field, known.map(|known| &**known))
                .map_err(|what| ItemError::parse(format!("cannot read column `{name}`: {what}")))
        })
        .collect()
}

/// Returns the value of `field`, whose type in the schema is `kind`.
fn value(field: Field, kind: Option<&Type>) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Boolean(value),
        Field::Byte(number) => Value::Integer(number.into()),
        Field::Short(number) => Value::Integer(number.into()),
        Field::Int(number) => Value::Integer(number.into()),
        Field::UByte(number) => Value::Integer(number.into()),
        Field::UShort(number) => Value::Integer(number.into()),
        Field::UInt(number) => Value::Integer(number.into()),
        // The reader of rows knows no nanoseconds.
        Field::Long(number) => match kind.and_then(Logical::get_logical) {
            Some(LogicalType::Timestamp(of)) if of.unit == TimeUnit::NANOS => {
                instant(i128::from(number), of.is_adjusted_to_u_t_c)?
            }
            Some(LogicalType::Time(of)) if of.unit == TimeUnit::NANOS => time(number)?,
            _ => Value::Integer(number),
        },
        Field::ULong(number) => match i64::try_from(number) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Decimal(number.into()),
        },
        Field::Float16(number) => Value::Float(number.into()),
        // The digits of the shortest form, as it is written elsewhere.
        Field::Float(number) => Value::Float(number.to_string().parse().unwrap_or(number.into())),
        Field::Double(number) => Value::Float(number),
        Field::Decimal(number) => decimal(&number)?,
        Field::Str(text) => Value::Text(text.into()),
        Field::Bytes(bytes) => Value::Bytes(bytes.data().into()),
        Field::Date(days) => {
            let span = Span::new().try_days(days).ok();
            let date = span.and_then(|span| jiff::civil::date(1970, 1, 1).checked_add(span).ok());
            Value::Date(date.ok_or_else(|| format!("day {days} is out of range"))?)
        }
        Field::TimeMillis(millis) => time(i64::from(millis) * 1_000_000)?,
        Field::TimeMicros(micros) => time(micros.saturating_mul(1_000))?,
        Field::TimestampMillis(millis) => instant(i128::from(millis) * 1_000_000, is_utc(kind))?,
        Field::TimestampMicros(micros) => instant(i128::from(micros) * 1_000, is_utc(kind))?,
        Field::Group(row) => Value::Map(
            row.into_columns()
                .into_iter()
                .map(|(name, field)| {
                    let known = kind.and_then(|kind| field_of(kind, &name));
                    Ok((Arc::from(name), value(field, known)?))
                })
                .collect::<Result<_, String>>()?,
        ),
        Field::ListInternal(list) => {
            let kind = kind.and_then(element_of);
            let all = list.elements().iter().map(|field| value(field.clone(), kind));
            Value::List(all.collect::<Result<_, String>>()?)
        }
        Field::MapInternal(map) => Value::Map(
            map.entries()
                .iter()
                .map(|(key, field)| {
                    let of = |index: usize| kind.and_then(|kind| entry_of(kind, index));
                    let key = value(key.clone(), of(0))?.to_string();
                    Ok((Arc::from(key), value(field.clone(), of(1))?))
                })
                .collect::<Result<_, String>>()?,
        ),
    })
}

trait Logical {
    fn get_logical(&self) -> Option<LogicalType>;
}

impl Logical for Type {
    fn get_logical(&self) -> Option<LogicalType> {
        self.get_basic_info().logical_type_ref().cloned()
    }
}

fn field_of<'a>(kind: &'a Type, name: &str) -> Option<&'a Type> {
    let is_group = kind.is_group();
    is_group.then(|| kind.get_fields().iter().find(|one| one.name() == name))?.map(|one| &**one)
}

/// Returns the type of the elements of a list, by the rules of the format for old and new writers:
/// <https://github.com/apache/parquet-format/blob/master/LogicalTypes.md#lists>.
fn element_of(kind: &Type) -> Option<&Type> {
    let info = kind.get_basic_info();
    if info.has_repetition() && info.repetition() == Repetition::REPEATED {
        return Some(kind);
    }
    let repeated = kind.is_group().then(|| kind.get_fields().first())??;
    let is_element = !repeated.is_group()
        || repeated.get_fields().len() > 1
        || repeated.name() == "array"
        || repeated.name() == format!("{}_tuple", kind.name());
    match is_element {
        true => Some(repeated),
        false => repeated.get_fields().first().map(|one| &**one),
    }
}

/// Returns the type of the keys of a map (0) or of its values (1).
fn entry_of(kind: &Type, index: usize) -> Option<&Type> {
    let entries = kind.is_group().then(|| kind.get_fields().first())??;
    entries.is_group().then(|| entries.get_fields().get(index))?.map(|one| &**one)
}

/// Whether a timestamp is an instant; otherwise it is a day and a time of a clock.
fn is_utc(kind: Option<&Type>) -> bool {
    match kind.and_then(Logical::get_logical) {
        Some(LogicalType::Timestamp(of)) => of.is_adjusted_to_u_t_c,
        _ => true,
    }
}

fn instant(nanos: i128, is_utc: bool) -> Result<Value, String> {
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

fn time(nanos: i64) -> Result<Value, String> {
    let span = Span::new().try_nanoseconds(nanos).ok().filter(|_| nanos >= 0);
    let time = span.and_then(|span| Time::midnight().checked_add(span).ok());
    time.map(Value::Time).ok_or_else(|| format!("{nanos} ns is no time of day"))
}

fn decimal(number: &ParquetDecimal) -> Result<Value, String> {
    let bytes = number.data();
    let is_long = bytes.len() > 16;
    let is_negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let extended = if is_negative { u8::MAX } else { 0 };
    if is_long && bytes[..bytes.len() - 16].iter().any(|byte| *byte != extended) {
        return Err("it has more than 28 digits".to_owned());
    }
    let mut whole = [extended; 16];
    for (into, byte) in whole.iter_mut().rev().zip(bytes.iter().rev()) {
        *into = *byte;
    }
    let scale = u32::try_from(number.scale()).map_err(|_| "its scale is negative".to_owned())?;
    let parsed = Decimal::try_from_i128_with_scale(i128::from_be_bytes(whole), scale);
    parsed.map(Value::Decimal).map_err(|_| "it has more than 28 digits".to_owned())
}

/// Refuses types that the library cannot read, and says that old timestamps of 96 bits are read in milliseconds, which are all
/// that it gives.
pub(super) fn check(kind: &Type, shown: &str) -> Result<(), String> {
    let name = kind.name();
    if kind.is_group() {
        return kind.get_fields().iter().try_for_each(|field| check(field, shown));
    }
    if kind.get_basic_info().converted_type() == ConvertedType::INTERVAL {
        return Err(format!(
            "its column `{name}` has the type INTERVAL, which cannot be read; choose other `columns`"
        ));
    }
    if kind.get_physical_type() == PhysicalType::INT96 {
        tracing::warn!(
            target: "batchwright::input",
            "{shown}: the timestamps of column `{name}` (INT96) are read in milliseconds"
        );
    }
    Ok(())
}
