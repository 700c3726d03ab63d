//! The format of a CSV file.

use encoding_rs::{Encoding, UTF_8};

use crate::format::line_end::LineEnd;

/// The format of a CSV file: delimiter, quoting, columns and encoding.
///
/// The default is RFC 4180 with a header line, in UTF-8: `,` between fields, `"` around them, a doubled quote
/// for a quote.
#[derive(Debug, Clone, PartialEq)]
pub struct CsvFormat {
    pub(super) delimiter: u8,
    pub(super) quote: Option<u8>,
    pub(super) escape: Option<u8>,
    pub(super) comment: Option<u8>,
    pub(super) trim: bool,
    pub(super) header: bool,
    pub(super) columns: Option<Vec<String>>,
    pub(super) null: Vec<String>,
    pub(super) encoding: &'static Encoding,
    pub(super) line_end: LineEnd,
    pub(super) quotes_all: bool,
    pub(super) has_mark: bool,
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self {
            delimiter: b',',
            quote: Some(b'"'),
            escape: None,
            comment: None,
            trim: false,
            header: true,
            columns: None,
            null: Vec::new(),
            encoding: UTF_8,
            line_end: LineEnd::Lf,
            quotes_all: false,
            has_mark: false,
        }
    }
}

impl CsvFormat {
    /// Creates the default format: RFC 4180 with a header line, in UTF-8.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the character between fields: one ASCII character. Default `,`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Sets the character around fields that contain a delimiter or a line end. Default `"`; `None` treats a
    /// quote as an ordinary character.
    #[must_use]
    pub fn quote(mut self, quote: Option<u8>) -> Self {
        self.quote = quote;
        self
    }

    /// Sets a character that escapes a quote within a quoted field, instead of a second quote. Default: none.
    /// Only for reading.
    #[must_use]
    pub fn escape(mut self, escape: Option<u8>) -> Self {
        self.escape = escape;
        self
    }

    /// Sets the first character of comment lines. Default: none. Only for reading.
    #[must_use]
    pub fn comment(mut self, comment: Option<u8>) -> Self {
        self.comment = comment;
        self
    }

    /// Sets whether white space around fields and names is dropped; white space within quotes is kept.
    /// Default: `false`. Only for reading.
    #[must_use]
    pub fn trim(mut self, trim: bool) -> Self {
        self.trim = trim;
        self
    }

    /// Sets whether the first record contains the names of the columns. Default: `true`.
    #[must_use]
    pub fn header(mut self, header: bool) -> Self {
        self.header = header;
        self
    }

    /// Sets the names of the columns, in their order, in place of those of the header line. A file without a
    /// header line and without names has the columns `c1`, `c2`, ….
    #[must_use]
    pub fn columns<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.columns = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the texts that mean null. When reading, an `Option` treats such a field as empty; when writing,
    /// null becomes the first text. Default: none, and null is written as an empty field.
    #[must_use]
    pub fn null<N: Into<String>>(mut self, texts: impl IntoIterator<Item = N>) -> Self {
        self.null = texts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the encoding of the file by its name in the WHATWG Encoding Standard: `windows-1252`,
    /// `shift_jis`, …. Default UTF-8.
    ///
    /// # Errors
    ///
    /// A sentence, when the encoding does not exist, or when its line feed is not one byte (UTF-16,
    /// ISO-2022-JP): convert such a file first.
    pub fn encoding(mut self, label: &str) -> Result<Self, String> {
        let encoding = Encoding::for_label(label.as_bytes())
            .ok_or_else(|| format!("there is no encoding `{label}`"))?;
        if !encoding.is_ascii_compatible() {
            let name = encoding.name();
            return Err(format!(
                "the encoding {name} is not supported, because its line ends are not single bytes; convert the file \
                 to UTF-8 first"
            ));
        }
        self.encoding = encoding;
        Ok(self)
    }

    /// Sets the end of written lines. Default: a line feed. Only for writing; both are read.
    #[must_use]
    pub fn line_end(mut self, line_end: LineEnd) -> Self {
        self.line_end = line_end;
        self
    }

    /// Sets whether every field is quoted, also those that need no quotes. Default: `false`. Only for writing.
    #[must_use]
    pub fn quote_all(mut self, quotes_all: bool) -> Self {
        self.quotes_all = quotes_all;
        self
    }

    /// Sets whether the file begins with the byte order mark of UTF-8, by which some programs recognize the encoding. Default:
    /// `false`. Only for writing; a mark is always passed over.
    #[must_use]
    pub fn byte_order_mark(mut self, has_mark: bool) -> Self {
        self.has_mark = has_mark;
        self
    }

    /// Checks that the settings do not contradict each other.
    ///
    /// # Errors
    ///
    /// A sentence that names the two conflicting settings.
    pub fn check(&self) -> Result<(), String> {
        let set = [
            ("delimiter", Some(self.delimiter)),
            ("quote", self.quote),
            ("escape", self.escape),
            ("comment", self.comment),
        ];
        for (index, (name, byte)) in set.iter().enumerate() {
            let Some(byte) = byte else { continue };
            if !byte.is_ascii() || matches!(byte, b'\n' | b'\r') {
                return Err(format!("`{name}` is one ASCII character and no line end"));
            }
            let same = set[..index].iter().find(|(_, other)| *other == Some(*byte));
            if let Some((other, _)) = same
                && (*name, *other) != ("escape", "quote")
            {
                return Err(format!("`{name}` and `{other}` are the same character"));
            }
        }
        if self.escape.is_some() && self.quote.is_none() {
            return Err("`escape` requires `quote`: it escapes quotes in quoted fields".to_owned());
        }
        if self.quotes_all && self.quote.is_none() {
            return Err("`quote_all` requires `quote`".to_owned());
        }
        if self.has_mark && self.encoding != UTF_8 {
            let name = self.encoding.name();
            return Err(format!("`byte_order_mark` is for UTF-8, and the encoding is {name}"));
        }
        match &self.columns {
            Some(names) => check_names(names.iter().map(String::as_str)),
            None => Ok(()),
        }
    }
}

/// Checks that every column has a name of its own.
pub(in crate::format) fn check_names<'a>(
    names: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let mut seen = std::collections::HashSet::new();
    for (index, name) in names.enumerate() {
        let number = index + 1;
        if name.is_empty() {
            return Err(format!("column {number} has no name"));
        }
        if !seen.insert(name) {
            return Err(format!(
                "the column name `{name}` occurs twice; column {number} repeats it"
            ));
        }
    }
    Ok(())
}
