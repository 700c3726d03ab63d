//! Columns with types, which the formats with a schema have: what a program and a job file say about them.

pub(crate) mod from;
pub(crate) mod into;
pub(crate) mod keys;
pub(crate) mod kind;
mod range;
mod settings;

use std::sync::Arc;

use batchwright::ItemError;
pub use range::ColumnRange;
#[cfg(any(feature = "arrow", feature = "parquet"))]
pub(crate) use settings::undamaged;
pub(crate) use settings::{ReaderSettings, reader_settings};

use crate::record::{Names, Record};
use crate::value::Value;

/// A column of a file with a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedColumn {
    pub(crate) name: Arc<str>,
    pub(crate) kind: ValueType,
    pub(crate) is_required: bool,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
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

/// Digits that an exact number of ours holds.
const DIGITS_MAX: u8 = 28;

impl TypedColumn {
    /// Creates a column of the fields called `name`, in which a value may be missing.
    pub fn new(name: impl Into<Arc<str>>, kind: ValueType) -> Self {
        Self { name: name.into(), kind, is_required: false }
    }

    /// Makes a missing value an error.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// Returns the value of the column in `row`; `None` where it is missing.
    ///
    /// # Errors
    ///
    /// When `row` has no such field, or the value is missing and required.
    pub(crate) fn value<'r>(&self, row: &'r Record) -> Result<Option<&'r Value>, ItemError> {
        let name = &*self.name;
        let value = row.required("write column", name)?;
        let is_missing = match (value, self.kind) {
            (Value::Null, _) => true,
            // An empty field of a text file has no other type.
            (Value::Field(text), kind) => text.is_empty() && kind != ValueType::Text,
            _ => false,
        };
        if is_missing && self.is_required {
            return Err(ItemError::data(format!(
                "cannot write column `{name}`: there is no value"
            )));
        }
        Ok((!is_missing).then_some(value))
    }

    /// Returns the error of a value that the column cannot have.
    pub(crate) fn refused(&self, what: &str) -> ItemError {
        ItemError::data(format!("cannot write column `{}`: {what}", self.name))
    }
}

/// The columns of a file, which have different names.
#[derive(Debug, Clone)]
pub(crate) struct TypedColumns(Arc<[TypedColumn]>);

impl TypedColumns {
    /// # Errors
    ///
    /// When there is no column, two have the same name, or the digits of a decimal are out of range: a sentence.
    pub(crate) fn new(columns: Vec<TypedColumn>) -> Result<Self, String> {
        let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
        if names.is_empty() {
            return Err("a file needs a column".to_owned());
        }
        if let Some(name) = crate::record::first_duplicate(&names) {
            return Err(format!("the column `{name}` is there twice"));
        }
        for column in &columns {
            if let ValueType::Decimal { precision, scale } = column.kind
                && (!(1..=DIGITS_MAX).contains(&precision) || scale > precision)
            {
                return Err(format!(
                    "column `{}`: a decimal has 1 to {DIGITS_MAX} digits, and no more than these after the point",
                    column.name
                ));
            }
        }
        Ok(Self(columns.into()))
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, TypedColumn> {
        self.0.iter()
    }

    /// Refuses fields that are no columns.
    pub(crate) fn check_names(&self, rows: &[Record]) -> Result<(), ItemError> {
        let mut known: Option<&Names> = None;
        for row in rows {
            if known.is_some_and(|known| Arc::ptr_eq(known, row.names())) {
                continue;
            }
            let is_column = |name: &&Arc<str>| self.iter().any(|one| one.name == **name);
            if let Some(extra) = row.names().iter().find(|name| !is_column(name)) {
                let what = format!("cannot write field `{extra}`: it is no column of the file");
                return Err(ItemError::data(what));
            }
            known = Some(row.names());
        }
        Ok(())
    }
}
