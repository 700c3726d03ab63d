//! The columns of a sheet that is written.

use std::sync::Arc;

use super::cell::TEXT_MAX;

/// Number of characters that a number format can have.
const FORMAT_MAX: usize = 255;

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
    /// and dates, times and timestamps are those of Excel; other values are texts.
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

    /// Refuses a title or a format that Excel cannot read.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { name, title, format, .. } = self;
        if title.as_ref().is_some_and(|title| title.encode_utf16().count() > TEXT_MAX) {
            return Err(format!("column `{name}`: a title has at most {TEXT_MAX} characters"));
        }
        let Some(format) = format else { return Ok(()) };
        let (mut quoted, mut depth, mut sections) = (false, 0, 1);
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => quoted = !quoted,
                _ if quoted => {}
                // The next character is itself, or a width, or fills the cell.
                '\\' | '_' | '*' if characters.next().is_none() => depth = 2,
                '[' => depth += 1,
                ']' => depth -= 1,
                ';' if depth == 0 => sections += 1,
                _ => {}
            }
            if !(0..=1).contains(&depth) {
                break;
            }
        }
        let is_right = !quoted && depth == 0 && sections <= 4;
        match is_right && !format.is_empty() && format.encode_utf16().count() <= FORMAT_MAX {
            true => Ok(()),
            false => Err(format!("column `{name}`: `{format}` is no number format of Excel")),
        }
    }

    /// Sets the width, in characters. Default: that of the program that shows the sheet.
    #[must_use]
    pub fn width(mut self, characters: f64) -> Self {
        self.width = Some(characters);
        self
    }
}
