//! The columns of a written file.

use std::sync::Arc;

use batchwright::ItemError;
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as PhysicalType};
use parquet::data_type::{
    BoolType, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType,
    Int32Type, Int64Type,
};
use parquet::file::writer::SerializedColumnWriter;
use parquet::schema::types::{Type, TypePtr};

use crate::format::typed::{TypedColumn, ValueType, into};
use crate::record::Record;
use crate::value::Value;

/// Digits that 64 bits hold.
const DIGITS_OF_64_BITS: u8 = 18;
/// Bytes of a decimal with more digits.
const DECIMAL_BYTES: i32 = 16;

/// Returns the schema of `column`.
pub(super) fn schema(column: &TypedColumn) -> Result<TypePtr, String> {
    let micros = TimeUnit::MICROS;
    let (physical, logical) = match column.kind {
        ValueType::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        ValueType::Integer => (PhysicalType::INT64, None),
        ValueType::Float => (PhysicalType::DOUBLE, None),
        ValueType::Decimal { precision, scale } => {
            let physical = match precision <= DIGITS_OF_64_BITS {
                true => PhysicalType::INT64,
                false => PhysicalType::FIXED_LEN_BYTE_ARRAY,
            };
            (physical, Some(LogicalType::decimal(scale.into(), precision.into())))
        }
        ValueType::Boolean => (PhysicalType::BOOLEAN, None),
        ValueType::Date => (PhysicalType::INT32, Some(LogicalType::Date)),
        ValueType::Time => (PhysicalType::INT64, Some(LogicalType::time(false, micros))),
        ValueType::Timestamp => (PhysicalType::INT64, Some(LogicalType::timestamp(true, micros))),
        ValueType::DateTime => (PhysicalType::INT64, Some(LogicalType::timestamp(false, micros))),
        ValueType::Bytes => (PhysicalType::BYTE_ARRAY, None),
    };
    let is_optional = !column.is_required;
    let mut builder = Type::primitive_type_builder(&column.name, physical)
        .with_repetition(if is_optional { Repetition::OPTIONAL } else { Repetition::REQUIRED })
        .with_logical_type(logical);
    if let ValueType::Decimal { precision, scale } = column.kind {
        builder = builder.with_precision(precision.into()).with_scale(scale.into());
        if physical == PhysicalType::FIXED_LEN_BYTE_ARRAY {
            builder = builder.with_length(DECIMAL_BYTES);
        }
    }
    builder.build().map(Arc::new).map_err(|error| error.to_string())
}

/// Writes the values of `rows` as `column`.
pub(super) fn write(
    column: &TypedColumn,
    rows: &[Record],
    writer: &mut SerializedColumnWriter<'_>,
) -> Result<(), ItemError> {
    match column.kind {
        ValueType::Text => write_as::<ByteArrayType>(column, rows, writer, |value| {
            Ok(value.to_string().into_bytes().into())
        }),
        ValueType::Integer => write_as::<Int64Type>(column, rows, writer, into::integer),
        ValueType::Float => write_as::<DoubleType>(column, rows, writer, into::float),
        ValueType::Decimal { precision, scale } if precision <= DIGITS_OF_64_BITS => {
            write_as::<Int64Type>(column, rows, writer, |value| {
                let whole = into::mantissa(value, precision, scale)?;
                i64::try_from(whole).map_err(|_| "it has too many digits".to_owned())
            })
        }
        ValueType::Decimal { precision, scale } => {
            write_as::<FixedLenByteArrayType>(column, rows, writer, |value| {
                let whole = into::mantissa(value, precision, scale)?;
                Ok(FixedLenByteArray::from(whole.to_be_bytes().to_vec()))
            })
        }
        ValueType::Boolean => write_as::<BoolType>(column, rows, writer, into::boolean),
        ValueType::Date => write_as::<Int32Type>(column, rows, writer, into::days),
        ValueType::Time => write_as::<Int64Type>(column, rows, writer, into::time),
        ValueType::Timestamp => write_as::<Int64Type>(column, rows, writer, into::timestamp),
        ValueType::DateTime => write_as::<Int64Type>(column, rows, writer, into::datetime),
        ValueType::Bytes => write_as::<ByteArrayType>(column, rows, writer, |value| {
            into::bytes(value).map(Into::into)
        }),
    }
}

fn write_as<T: DataType>(
    column: &TypedColumn,
    rows: &[Record],
    writer: &mut SerializedColumnWriter<'_>,
    convert: impl Fn(&Value) -> Result<T::T, String>,
) -> Result<(), ItemError> {
    let (mut values, mut levels) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let value = column.value(row)?;
        levels.push(i16::from(value.is_some()));
        if let Some(value) = value {
            values.push(convert(value).map_err(|what| column.refused(&what))?);
        }
    }
    let levels = (!column.is_required).then_some(&*levels);
    let written = writer.typed::<T>().write_batch(&values, levels, None);
    let name = &column.name;
    written
        .map(drop)
        .map_err(|error| ItemError::fatal(format!("cannot write column `{name}`: {error}")))
}
