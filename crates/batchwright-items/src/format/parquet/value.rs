//! The values of a row.

use std::sync::Arc;

use batchwright::ItemError;
use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as PhysicalType};
use parquet::data_type::Decimal as ParquetDecimal;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use parquet::record::{Field, Row};
use parquet::schema::types::{ColumnDescPtr, Type};

use crate::format::typed::{ColumnRange, from};
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
                from::instant(i128::from(number), of.is_adjusted_to_u_t_c)?
            }
            Some(LogicalType::Time(of)) if of.unit == TimeUnit::NANOS => from::time(number)?,
            _ => Value::Integer(number),
        },
        Field::ULong(number) => match i64::try_from(number) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Decimal(number.into()),
        },
        Field::Float16(number) => Value::Float(number.into()),
        Field::Float(number) => from::float(number),
        Field::Double(number) => Value::Float(number),
        Field::Decimal(number) => decimal(&number)?,
        Field::Str(text) => Value::Text(text.into()),
        Field::Bytes(bytes) => Value::Bytes(bytes.data().into()),
        Field::Date(days) => from::date(days)?,
        Field::TimeMillis(millis) => from::time(i64::from(millis) * 1_000_000)?,
        Field::TimeMicros(micros) => from::time(micros.saturating_mul(1_000))?,
        Field::TimestampMillis(millis) => {
            from::instant(i128::from(millis) * 1_000_000, is_utc(kind))?
        }
        Field::TimestampMicros(micros) => from::instant(i128::from(micros) * 1_000, is_utc(kind))?,
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

/// Whether the column called `name` has timestamps without a time zone.
pub(super) fn is_local(schema: &Type, name: &str) -> bool {
    let column = schema.get_fields().iter().find(|field| field.name() == name);
    let logical = column.and_then(|column| column.get_logical());
    matches!(logical, Some(LogicalType::Timestamp(of)) if !of.is_adjusted_to_u_t_c)
}

/// Whether a group can have a row whose values are in the ranges `only`, by its statistics.
pub(super) fn can_have(
    group: &RowGroupMetaData,
    only: &[ColumnRange],
    local: &[bool],
) -> Result<bool, String> {
    for (range, is_local) in only.iter().zip(local) {
        let named =
            |column: &&ColumnChunkMetaData| column.column_path().parts() == [&*range.column];
        let Some(column) = group.columns().iter().find(named) else { continue };
        let Some(statistics) = column.statistics() else { continue };
        if statistics.null_count_opt() == u64::try_from(group.num_rows()).ok() {
            return Ok(false);
        }
        let limits = limits(statistics, &column.column_descr_ptr());
        if let Some((least, greatest)) = limits
            && !range.overlaps(&least, &greatest, *is_local)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the least and the greatest value; `None` if they are unknown, or not in the order of their values.
fn limits(statistics: &Statistics, column: &ColumnDescPtr) -> Option<(Value, Value)> {
    if statistics.is_min_max_deprecated() {
        return None;
    }
    let (least, greatest) = match statistics {
        Statistics::Int32(of) => (
            Field::convert_int32(column, *of.min_opt()?),
            Field::convert_int32(column, *of.max_opt()?),
        ),
        Statistics::Int64(of) => (
            Field::convert_int64(column, *of.min_opt()?),
            Field::convert_int64(column, *of.max_opt()?),
        ),
        Statistics::Boolean(of) => (Field::Bool(*of.min_opt()?), Field::Bool(*of.max_opt()?)),
        Statistics::Float(of) => (Field::Float(*of.min_opt()?), Field::Float(*of.max_opt()?)),
        Statistics::Double(of) => (Field::Double(*of.min_opt()?), Field::Double(*of.max_opt()?)),
        Statistics::ByteArray(of) => (
            Field::convert_byte_array(column, of.min_opt()?.clone()).ok()?,
            Field::convert_byte_array(column, of.max_opt()?.clone()).ok()?,
        ),
        // Decimals.
        Statistics::FixedLenByteArray(of) => (
            Field::convert_byte_array(column, of.min_opt()?.clone().into()).ok()?,
            Field::convert_byte_array(column, of.max_opt()?.clone().into()).ok()?,
        ),
        _ => return None,
    };
    let kind = column.self_type();
    let pair = (value(least, Some(kind)).ok()?, value(greatest, Some(kind)).ok()?);
    let has_order = |value: &Value| match value {
        // The writer may have cut long bytes within a character.
        Value::Bytes(_) => false,
        Value::Float(number) => !number.is_nan(),
        _ => true,
    };
    (has_order(&pair.0) && has_order(&pair.1)).then_some(pair)
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

fn decimal(number: &ParquetDecimal) -> Result<Value, String> {
    let scale = u32::try_from(number.scale()).map_err(|_| "its scale is negative".to_owned())?;
    from::decimal(number.data(), scale)
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
