//! Values of arrays.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType, RunArray};
use arrow_schema::{DataType, Field, TimeUnit};

use crate::format::typed::from;
use crate::value::Value;

/// Returns the value of `array` at `row`.
pub(super) fn value(array: &dyn Array, row: usize) -> Result<Value, String> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Boolean(array.as_boolean().value(row)),
        DataType::Int8 => Value::Integer(number::<Int8Type>(array, row).into()),
        DataType::Int16 => Value::Integer(number::<Int16Type>(array, row).into()),
        DataType::Int32 => Value::Integer(number::<Int32Type>(array, row).into()),
        DataType::Int64 => Value::Integer(number::<Int64Type>(array, row)),
        DataType::UInt8 => Value::Integer(number::<UInt8Type>(array, row).into()),
        DataType::UInt16 => Value::Integer(number::<UInt16Type>(array, row).into()),
        DataType::UInt32 => Value::Integer(number::<UInt32Type>(array, row).into()),
        DataType::UInt64 => {
            let number = number::<UInt64Type>(array, row);
            i64::try_from(number).map_or_else(|_| Value::Decimal(number.into()), Value::Integer)
        }
        DataType::Float16 => from::float(number::<Float16Type>(array, row).to_f32()),
        DataType::Float32 => from::float(number::<Float32Type>(array, row)),
        DataType::Float64 => Value::Float(number::<Float64Type>(array, row)),
        DataType::Utf8 => text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(array.as_string_view().value(row)),
        DataType::Binary => bytes(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytes(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row)),
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => decimal(array, row)?,
        DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(..) => moment(array, row)?,
        _ => nested(array, row)?,
    })
}

fn nested(array: &dyn Array, row: usize) -> Result<Value, String> {
    match array.data_type() {
        DataType::List(_) => list(&*array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(&*array.as_list::<i64>().value(row)),
        DataType::ListView(_) => list(&*array.as_list_view::<i32>().value(row)),
        DataType::LargeListView(_) => list(&*array.as_list_view::<i64>().value(row)),
        DataType::FixedSizeList(..) => list(&*array.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let values = columns
                .map(|(field, column)| Ok((Arc::from(field.name().as_str()), value(column, row)?)));
            values.collect::<Result<_, String>>().map(Value::Map)
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let pairs = (0..entries.len()).map(|at| {
                let key = value(entries.column(0), at)?.to_string();
                Ok((Arc::from(key), value(entries.column(1), at)?))
            });
            pairs.collect::<Result<_, String>>().map(Value::Map)
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            match value(dictionary.keys(), row)? {
                Value::Integer(key) => of_dictionary(dictionary.values(), key),
                key => Err(format!("`{key}` is no key of a dictionary")),
            }
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => of_run::<Int16Type>(array, row),
            DataType::Int32 => of_run::<Int32Type>(array, row),
            _ => of_run::<Int64Type>(array, row),
        },
        DataType::Union(..) => {
            let union = array.as_union();
            value(union.child(union.type_id(row)), union.value_offset(row))
        }
        other => Err(format!("its type {other} cannot be read")),
    }
}

fn number<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(bytes.into())
}

fn list(elements: &dyn Array) -> Result<Value, String> {
    (0..elements.len()).map(|at| value(elements, at)).collect::<Result<_, _>>().map(Value::List)
}

fn of_dictionary(values: &dyn Array, key: i64) -> Result<Value, String> {
    let at = usize::try_from(key).ok().filter(|at| *at < values.len());
    value(values, at.ok_or_else(|| format!("its dictionary has no value {key}"))?)
}

fn of_run<E: RunEndIndexType>(array: &dyn Array, row: usize) -> Result<Value, String> {
    let runs = array.as_any().downcast_ref::<RunArray<E>>();
    let runs = runs.ok_or_else(|| "its runs have another type".to_owned())?;
    value(runs.values(), runs.get_physical_index(row))
}

fn decimal(array: &dyn Array, row: usize) -> Result<Value, String> {
    let scaled = |digits: &[u8], scale: i8| match u32::try_from(scale) {
        Ok(scale) => from::decimal(digits, scale),
        // A multiple of a power of ten.
        Err(_) => {
            match (from::decimal(digits, 0)?, 10_i128.checked_pow(scale.unsigned_abs().into())) {
                (Value::Decimal(whole), Some(power)) => {
                    let digits = whole.mantissa().checked_mul(power);
                    let digits = digits.ok_or_else(|| "it has more than 28 digits".to_owned())?;
                    from::decimal(&digits.to_be_bytes(), 0)
                }
                _ => Err("it has more than 28 digits".to_owned()),
            }
        }
    };
    match array.data_type() {
        DataType::Decimal32(_, scale) => {
            scaled(&number::<Decimal32Type>(array, row).to_be_bytes(), *scale)
        }
        DataType::Decimal64(_, scale) => {
            scaled(&number::<Decimal64Type>(array, row).to_be_bytes(), *scale)
        }
        DataType::Decimal128(_, scale) => {
            scaled(&number::<Decimal128Type>(array, row).to_be_bytes(), *scale)
        }
        DataType::Decimal256(_, scale) => {
            scaled(&number::<Decimal256Type>(array, row).to_be_bytes(), *scale)
        }
        other => Err(format!("{other} is no decimal")),
    }
}

/// Milliseconds of a day.
const DAY_MILLIS: i64 = 86_400_000;

/// Returns a day, a time of day or an instant.
fn moment(array: &dyn Array, row: usize) -> Result<Value, String> {
    match array.data_type() {
        DataType::Date32 => from::date(number::<Date32Type>(array, row)),
        DataType::Date64 => {
            let millis = number::<Date64Type>(array, row);
            let days = i32::try_from(millis / DAY_MILLIS).ok().filter(|_| millis % DAY_MILLIS == 0);
            from::date(days.ok_or_else(|| format!("{millis} ms since 1970 is no day"))?)
        }
        DataType::Time32(TimeUnit::Second) => {
            from::time(i64::from(number::<Time32SecondType>(array, row)) * 1_000_000_000)
        }
        DataType::Time32(_) => {
            from::time(i64::from(number::<Time32MillisecondType>(array, row)) * 1_000_000)
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            from::time(number::<Time64MicrosecondType>(array, row).saturating_mul(1_000))
        }
        DataType::Time64(_) => from::time(number::<Time64NanosecondType>(array, row)),
        DataType::Timestamp(unit, zone) => {
            let (number, nanos) = match unit {
                TimeUnit::Second => (number::<TimestampSecondType>(array, row), 1_000_000_000),
                TimeUnit::Millisecond => {
                    (number::<TimestampMillisecondType>(array, row), 1_000_000)
                }
                TimeUnit::Microsecond => (number::<TimestampMicrosecondType>(array, row), 1_000),
                TimeUnit::Nanosecond => (number::<TimestampNanosecondType>(array, row), 1),
            };
            from::instant(
                i128::from(number) * nanos,
                zone.as_ref().is_some_and(|zone| !zone.is_empty()),
            )
        }
        other => Err(format!("{other} is no time")),
    }
}

/// Refuses types that have no value here.
pub(super) fn check(field: &Field) -> Result<(), String> {
    let unreadable = field.data_type();
    match unreadable {
        DataType::Interval(_) | DataType::Duration(_) => Err(format!(
            "its column `{}` has the type {unreadable}, which cannot be read; choose other `columns`",
            field.name()
        )),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| check(field)),
        DataType::Dictionary(_, values) => {
            check(&Field::new(field.name(), (**values).clone(), true))
        }
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => check(field),
        DataType::Union(fields, _) => fields.iter().try_for_each(|(_, field)| check(field)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::IntervalUnit;

    use super::*;

    #[test]
    fn types_without_a_value_here_are_refused_wherever_they_are() {
        let span = Field::new("span", DataType::Duration(TimeUnit::Second), true);
        let period = Field::new("period", DataType::Interval(IntervalUnit::DayTime), true);
        let list = Field::new("list", DataType::List(Arc::new(period.clone())), true);
        let words = DataType::Dictionary(
            Box::new(DataType::Int8),
            Box::new(DataType::Duration(TimeUnit::Second)),
        );
        let words = Field::new("words", words, true);
        for (field, named) in
            [(span, "span"), (period, "period"), (list, "period"), (words, "words")]
        {
            let refused = check(&field).unwrap_err();
            assert!(refused.contains(&format!("`{named}`")) && refused.contains("`columns`"));
        }
    }
}
