//! Ranges of the values of columns, for rows that are read.

use std::cmp::Ordering;
use std::sync::Arc;

use batchwright::ItemError;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use rust_decimal::Decimal;

use crate::record::Record;
use crate::value::Value;

/// A range of the values of a column: rows with other values, and without a value, are not read.
///
/// The ends are texts of the column's type, such as `2026-11-29` or `17.50`, and belong to the range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnRange {
    pub(crate) column: Arc<str>,
    from: Option<Arc<str>>,
    to: Option<Arc<str>>,
}

impl ColumnRange {
    /// Creates a range of all values of the column called `column`.
    pub fn of(column: impl Into<Arc<str>>) -> Self {
        Self { column: column.into(), from: None, to: None }
    }

    /// Sets the least value.
    #[must_use]
    pub fn from(mut self, value: impl Into<Arc<str>>) -> Self {
        self.from = Some(value.into());
        self
    }

    /// Sets the greatest value.
    #[must_use]
    pub fn to(mut self, value: impl Into<Arc<str>>) -> Self {
        self.to = Some(value.into());
        self
    }

    /// Whether `value` is in the range; `is_local` if the column has timestamps without a time zone, whose values are texts here.
    ///
    /// # Errors
    ///
    /// When an end is no value of its type: a sentence.
    pub(crate) fn contains(&self, value: &Value, is_local: bool) -> Result<bool, String> {
        Ok(!matches!(value, Value::Null)
            && !self.is_below(value, is_local)?
            && !self.is_above(value, is_local)?)
    }

    /// Whether values from `least` to `greatest` can be in the range.
    ///
    /// # Errors
    ///
    /// As [`contains`](Self::contains).
    #[cfg(feature = "parquet")]
    pub(crate) fn overlaps(
        &self,
        least: &Value,
        greatest: &Value,
        is_local: bool,
    ) -> Result<bool, String> {
        Ok(!self.is_below(greatest, is_local)? && !self.is_above(least, is_local)?)
    }

    /// Whether `record` has a value in the range.
    pub(crate) fn accepts(&self, record: &Record, is_local: bool) -> Result<bool, ItemError> {
        let value = record.required("compare column", &self.column)?;
        self.contains(value, is_local).map_err(ItemError::fatal)
    }

    fn is_below(&self, value: &Value, is_local: bool) -> Result<bool, String> {
        self.is((value, is_local), self.from.as_deref(), Ordering::Less)
    }

    fn is_above(&self, value: &Value, is_local: bool) -> Result<bool, String> {
        self.is((value, is_local), self.to.as_deref(), Ordering::Greater)
    }

    /// Whether `value` is, beside `end`, in this `order`.
    fn is(
        &self,
        (value, is_local): (&Value, bool),
        end: Option<&str>,
        order: Ordering,
    ) -> Result<bool, String> {
        let Some(end) = end else { return Ok(false) };
        if matches!(value, Value::Float(number) if number.is_nan()) {
            return Ok(true);
        }
        let compared = compare(value, is_local, end);
        let compared = compared.ok_or_else(|| {
            let column = &self.column;
            format!("cannot compare column `{column}` with `{end}`: its values, such as `{value}`, have another type")
        })?;
        Ok(compared == order)
    }
}

/// Compares `value` with the value that `end` is in its type; `None` if it is none.
fn compare(value: &Value, is_local: bool, end: &str) -> Option<Ordering> {
    match value {
        Value::Text(text) if is_local => Some(civil(text)?.cmp(&civil(end)?)),
        Value::Text(text) | Value::Field(text) => Some((**text).cmp(end)),
        Value::Integer(number) => Some(Decimal::from(*number).cmp(&end.parse().ok()?)),
        Value::Decimal(number) => Some(number.cmp(&end.parse().ok()?)),
        Value::Float(number) => number.partial_cmp(&end.parse().ok()?),
        Value::Date(date) => Some(date.cmp(&end.parse::<Date>().ok()?)),
        Value::Time(time) => Some(time.cmp(&end.parse::<Time>().ok()?)),
        Value::Timestamp(at) => Some(at.cmp(&end.parse::<Timestamp>().ok()?)),
        Value::Boolean(value) => Some(value.cmp(&end.parse().ok()?)),
        _ => None,
    }
}

/// Returns the day and the time that `text` is.
fn civil(text: &str) -> Option<DateTime> {
    let (day, at) = text.split_once(['T', ' '])?;
    let is_day = day.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let is_time = at.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'));
    if is_day && is_time { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_in_their_type() {
        let range = ColumnRange::of("c").from("9").to("10");
        for (value, expected) in [
            (Value::Integer(9), Ok(true)),
            (Value::Integer(11), Ok(false)),
            (Value::Decimal("10.00".parse().unwrap()), Ok(true)),
            (Value::Float(8.99), Ok(false)),
            (Value::Null, Ok(false)),
            // As texts, 10 is less than 9.
            (Value::text("95"), Ok(false)),
            (Value::Date(jiff::civil::date(2026, 11, 29)), Err(())),
            (Value::List([].into()), Err(())),
        ] {
            assert_eq!(range.contains(&value, false).map_err(drop), expected, "{value}");
        }
        assert_eq!(ColumnRange::of("c").contains(&Value::Float(f64::NAN), false), Ok(true));
        assert_eq!(range.contains(&Value::Float(f64::NAN), false), Ok(false));
        let local = Value::text("2026-11-29T10:00:00");
        for (from, expected) in [
            ("2026-11-29T10:00", Ok(true)),
            ("2026-11-29 10:00:00.5", Ok(false)),
            ("2026-11-29", Err(())),
            ("2026-11-29T10:00:00Z", Err(())),
        ] {
            let found = ColumnRange::of("c").from(from).contains(&local, true);
            assert_eq!(found.map_err(drop), expected, "{from}");
        }
        // Texts are texts, whatever they look like.
        assert_eq!(ColumnRange::of("c").from("2026-11-29").contains(&local, false), Ok(true));
        let days = ColumnRange::of("c").from("2026-11-29");
        assert_eq!(days.contains(&Value::Date(jiff::civil::date(2026, 11, 28)), false), Ok(false));
    }
}
