//! The columns of a written file.

use std::sync::Arc;

use arrow_array::builder::PrimitiveBuilder;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float64Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{ArrayRef, BinaryArray, BooleanArray, StringArray};
use arrow_schema::{DataType, Field, TimeUnit};
use batchwright::ItemError;

use crate::format::typed::{TypedColumn, ValueType, into};
use crate::record::Record;
use crate::value::Value;

/// Returns the schema of `column`.
pub(super) fn schema(column: &TypedColumn) -> Field {
    Field::new(&*column.name, kind(column.kind), !column.is_required)
}

fn kind(kind: ValueType) -> DataType {
    match kind {
        ValueType::Text => DataType::Utf8,
        ValueType::Integer => DataType::Int64,
        ValueType::Float => DataType::Float64,
        ValueType::Decimal { precision, scale } => {
            DataType::Decimal128(precision, scale.cast_signed())
        }
        ValueType::Boolean => DataType::Boolean,
        ValueType::Date => DataType::Date32,
        ValueType::Time => DataType::Time64(TimeUnit::Microsecond),
        ValueType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ValueType::DateTime => DataType::Timestamp(TimeUnit::Microsecond, None),
        ValueType::Bytes => DataType::Binary,
    }
}

/// Returns the values of `rows` in `column`.
pub(super) fn array(column: &TypedColumn, rows: &[Record]) -> Result<ArrayRef, ItemError> {
    match column.kind {
        ValueType::Text => {
            let texts = values(column, rows, |value| Ok(value.to_string()))?;
            check_size(column, texts.iter().flatten().map(String::len))?;
            Ok(Arc::new(StringArray::from(texts)))
        }
        ValueType::Bytes => {
            let all = values(column, rows, into::bytes)?;
            check_size(column, all.iter().flatten().map(Vec::len))?;
            Ok(Arc::new(all.iter().map(Option::as_deref).collect::<BinaryArray>()))
        }
        ValueType::Boolean => {
            Ok(Arc::new(BooleanArray::from(values(column, rows, into::boolean)?)))
        }
        ValueType::Integer => primitive::<Int64Type>(column, rows, into::integer),
        ValueType::Float => primitive::<Float64Type>(column, rows, into::float),
        ValueType::Decimal { precision, scale } => {
            primitive::<Decimal128Type>(column, rows, |value| {
                into::mantissa(value, precision, scale)
            })
        }
        ValueType::Date => primitive::<Date32Type>(column, rows, into::days),
        ValueType::Time => primitive::<Time64MicrosecondType>(column, rows, into::time),
        ValueType::Timestamp => {
            primitive::<TimestampMicrosecondType>(column, rows, into::timestamp)
        }
        ValueType::DateTime => primitive::<TimestampMicrosecondType>(column, rows, into::datetime),
    }
}

fn values<T>(
    column: &TypedColumn,
    rows: &[Record],
    convert: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<Option<T>>, ItemError> {
    let converted = rows.iter().map(|row| {
        let value = column.value(row)?;
        value.map(&convert).transpose().map_err(|what| column.refused(&what))
    });
    converted.collect()
}

fn primitive<T: ArrowPrimitiveType>(
    column: &TypedColumn,
    rows: &[Record],
    convert: impl Fn(&Value) -> Result<T::Native, String>,
) -> Result<ArrayRef, ItemError> {
    let values = values(column, rows, convert)?;
    let builder = PrimitiveBuilder::<T>::with_capacity(values.len());
    let mut builder = builder.with_data_type(kind(column.kind));
    for value in values {
        builder.append_option(value);
    }
    Ok(Arc::new(builder.finish()))
}

/// Refuses values that the offsets of a batch, 32 bits, cannot reach: the library would panic.
fn check_size(column: &TypedColumn, sizes: impl Iterator<Item = usize>) -> Result<(), ItemError> {
    match i32::try_from(sizes.sum::<usize>()) {
        Ok(_) => Ok(()),
        Err(_) => Err(column.refused("a batch has up to 2 GiB of it; use a smaller chunk")),
    }
}
