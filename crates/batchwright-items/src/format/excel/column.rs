//! The columns of a sheet that is written.

use std::sync::Arc;

/// A column of a sheet.
#[derive(Debug, Clone, PartialEq)]
pub struct ExcelColumn {
    /// The name of the field.
    pub(super) name: Arc<str>,
    pub(super) title: Option<String>,
    pub(super) kind: Option<ExcelType>,
    pub(super) format: Option<String>,
    pub(super) width: Option<f64>,
}

/// The type of the cells of a column. A value that does not fit is an error; an empty text is an empty cell, except in a column
/// of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExcelType {
    /// Text.
    Text,
    /// Numbers, of at most 15 digits.
    Number,
    /// `true` and `false`.
    Boolean,
    /// Days from 1900-03-01 on.
    Date,
    /// Times of day, in milliseconds.
    Time,
    /// Days with times, in milliseconds; those of an instant in UTC.
    DateTime,
}

impl ExcelColumn {
    /// Creates a column of the field `name`. Its cells have the types of the values: numbers of at most 15 digits are numbers,
    /// and dates,
    /// times and timestamps are those of Excel; other values are texts.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), title: None, kind: None, format: None, width: None }
    }

    /// Sets the text in the header row. Default: the name of the field.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Sets the type of all cells, which parses texts.
    #[must_use]
    pub fn kind(mut self, kind: ExcelType) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Sets the number format of Excel, such as `#,##0.00` or `dd.mm.yyyy`. Default: that of the type.
    #[must_use]
    pub fn format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }

    /// Sets the width, in characters. Default: that of the program that shows the sheet.
    #[must_use]
    pub fn width(mut self, characters: f64) -> Self {
        self.width = Some(characters);
        self
    }
}
