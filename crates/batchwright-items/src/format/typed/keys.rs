//! Columns in job files.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::scope::StepScope;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{ColumnRange, TypedColumn, ValueType};
use crate::key::{Problem, Text};
use crate::kind::BuildContext;
use crate::template::Template;

/// A column that is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct Column {
    /// The name of the field.
    name: String,
    /// The type.
    #[serde(rename = "type")]
    kind: Kind,
    /// Number of digits of a `decimal`, 1 to 28. Default: 18.
    precision: Option<u8>,
    /// Number of digits after the point of a `decimal`. Default: 2.
    scale: Option<u8>,
    /// Whether every record must have a value. Default: false.
    #[serde(default)]
    required: bool,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Kind {
    /// Text.
    String,
    /// Whole numbers of 64 bits.
    Integer,
    /// Binary fractions of 64 bits.
    Float,
    /// Exact numbers.
    Decimal,
    /// `true` and `false`.
    Boolean,
    /// Days.
    Date,
    /// Times of day, in microseconds.
    Time,
    /// Instants, in microseconds.
    Timestamp,
    /// Days with times and without a time zone, in microseconds.
    Datetime,
    /// Bytes.
    Bytes,
}

/// A range of the values of a column.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(crate) struct Range {
    /// The name of the column, which is read.
    column: String,
    /// The least value. Default: none.
    from: Option<Text>,
    /// The greatest value. Default: none.
    to: Option<Text>,
}

/// Returns what makes the ranges that `written` describes.
pub(crate) fn ranges(
    written: &[Range],
    cx: &BuildContext<'_>,
) -> Result<impl Fn(&StepScope) -> Result<Vec<ColumnRange>, ItemError> + Send + Sync + use<>, Problem>
{
    let end = |text: &Option<Text>| text.as_ref().map(|text| cx.template(text)).transpose();
    let all: Vec<(Arc<str>, Option<Template>, Option<Template>)> = written
        .iter()
        .map(|one| Ok((Arc::from(one.column.as_str()), end(&one.from)?, end(&one.to)?)))
        .collect::<Result<_, Problem>>()?;
    Ok(move |scope: &StepScope| {
        let range = |(column, from, to): &(Arc<str>, Option<Template>, Option<Template>)| {
            let mut range = ColumnRange::of(Arc::clone(column));
            if let Some(from) = from {
                range = range.from(from.render(scope)?);
            }
            if let Some(to) = to {
                range = range.to(to.render(scope)?);
            }
            Ok(range)
        };
        all.iter().map(range).collect()
    })
}

/// Returns the columns that `written` describes.
///
/// # Errors
///
/// A sentence.
pub(crate) fn columns(written: &[Column]) -> Result<Vec<TypedColumn>, String> {
    written.iter().map(column).collect()
}

fn column(written: &Column) -> Result<TypedColumn, String> {
    let Column { name, kind, precision, scale, required } = written;
    if *kind != Kind::Decimal && (precision.is_some() || scale.is_some()) {
        return Err(format!("column `{name}`: only a decimal has a `precision` and a `scale`"));
    }
    let kind = match kind {
        Kind::String => ValueType::Text,
        Kind::Integer => ValueType::Integer,
        Kind::Float => ValueType::Float,
        Kind::Decimal => {
            ValueType::Decimal { precision: precision.unwrap_or(18), scale: scale.unwrap_or(2) }
        }
        Kind::Boolean => ValueType::Boolean,
        Kind::Date => ValueType::Date,
        Kind::Time => ValueType::Time,
        Kind::Timestamp => ValueType::Timestamp,
        Kind::Datetime => ValueType::DateTime,
        Kind::Bytes => ValueType::Bytes,
    };
    let column = TypedColumn::new(Arc::from(name.as_str()), kind);
    Ok(if *required { column.required() } else { column })
}
