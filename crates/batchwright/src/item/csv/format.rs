//! How a CSV file is written, checked once.

use encoding_rs::{Encoding, UTF_8};

/// The form of a CSV file: what separates, quotes and encodes its fields.
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
        }
    }
}

impl CsvFormat {
    /// RFC 4180 with a header line, in UTF-8.
    pub fn new() -> Self {
        Self::default()
    }

    /// Between fields: one ASCII character. Default `,`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Around fields that hold a delimiter or a line end. Default `"`; `None`: a quote is a character like others.
    #[must_use]
    pub fn quote(mut self, quote: Option<u8>) -> Self {
        self.quote = quote;
        self
    }

    /// Before a quote within a quoted field, instead of a second quote. Default: none. Only for reading.
    #[must_use]
    pub fn escape(mut self, escape: Option<u8>) -> Self {
        self.escape = escape;
        self
    }

    /// First character of lines that are no records. Default: none. Only for reading.
    #[must_use]
    pub fn comment(mut self, comment: Option<u8>) -> Self {
        self.comment = comment;
        self
    }

    /// Whether white space around fields and names is dropped; within quotes it stays. Default: it stays.
    /// Only for reading.
    #[must_use]
    pub fn trim(mut self, trim: bool) -> Self {
        self.trim = trim;
        self
    }

    /// Whether the first record holds the names of the columns. Default: it does.
    #[must_use]
    pub fn header(mut self, header: bool) -> Self {
        self.header = header;
        self
    }

    /// Names of the columns, in their order, in place of those of the header line. A file without header line
    /// and without names has the columns `c1`, `c2`, ….
    #[must_use]
    pub fn columns<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.columns = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Texts that mean null. When reading, such a field is as good as an empty one for an `Option`; when
    /// writing, null becomes the first of them. Default: none, and null is written as an empty field.
    #[must_use]
    pub fn null<N: Into<String>>(mut self, texts: impl IntoIterator<Item = N>) -> Self {
        self.null = texts.into_iter().map(Into::into).collect();
        self
    }

    /// The encoding of the file, by its name in the WHATWG Encoding Standard: `windows-1252`, `shift_jis`, ….
    /// Default UTF-8.
    ///
    /// # Errors
    ///
    /// A sentence, when there is no such encoding, or when it is one in which a line feed is not one byte
    /// (UTF-16, ISO-2022-JP): convert such a file first.
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

    /// What is wrong with the combination, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the two settings that exclude each other.
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
            return Err(
                "`escape` needs `quote`: it stands before quotes in quoted fields".to_owned()
            );
        }
        match &self.columns {
            Some(names) => check_names(names.iter().map(String::as_str)),
            None => Ok(()),
        }
    }
}

/// Every column has a name, and one of its own.
pub(super) fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
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
