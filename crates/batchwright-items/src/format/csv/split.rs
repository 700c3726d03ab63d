//! Finds the end of a CSV record and the ranges of its fields.

use super::CsvFormat;

/// A splitter of records into fields. Its buffers are reused for every record.
#[derive(Debug)]
pub(super) struct Splitter {
    delimiter: u8,
    quote: Option<u8>,
    escape: Option<u8>,
    trim: bool,
    /// Role of each byte in a record without quotes. Fields are short: a table lookup for every byte is
    /// faster than a search for each next delimiter.
    parts: Box<[Part; 256]>,
    /// Ranges of the fields, in the record's bytes or in `unquoted`.
    fields: Vec<(usize, usize)>,
    /// Content of the fields of a record with quotes, without the quotes.
    unquoted: Vec<u8>,
}

/// The role of a byte in a record.
#[derive(Debug, Clone, Copy)]
enum Part {
    Text,
    Delimiter,
    LineFeed,
    Return,
    Quote,
}

/// The result of a search for a record at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole record.
    Record(Extent),
    /// The beginning of a record whose end lies beyond the bytes.
    More,
    /// Invalid CSV, with the reason.
    Bad(&'static str),
}

/// The extent of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Bytes without the line end.
    pub(super) content: usize,
    /// Bytes including the line end.
    pub(super) whole: usize,
    /// Number of lines.
    pub(super) lines: u64,
    /// Whether the fields are ranges of the record's own bytes, see [`Splitter::fields`].
    plain: bool,
}

impl Extent {
    /// Whether the fields are ranges of the record's own bytes.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }
}

impl Splitter {
    pub(super) fn new(format: &CsvFormat) -> Self {
        let CsvFormat { delimiter, quote, escape, trim, .. } = *format;
        let mut parts = Box::new([Part::Text; 256]);
        for (byte, part) in [(b'\n', Part::LineFeed), (b'\r', Part::Return)] {
            parts[usize::from(byte)] = part;
        }
        if let Some(quote) = quote {
            parts[usize::from(quote)] = Part::Quote;
        }
        parts[usize::from(delimiter)] = Part::Delimiter;
        Self { delimiter, quote, escape, trim, parts, fields: Vec::new(), unquoted: Vec::new() }
    }

    /// Finds the record at the beginning of `bytes`, which are not empty; `at_end` means that no bytes follow
    /// them.
    pub(super) fn find(&mut self, bytes: &[u8], at_end: bool) -> Found {
        match self.plain(bytes) {
            Some(extent) => Found::Record(extent),
            None => self.careful(bytes, at_end),
        }
    }

    /// Finds the record like [`find`](Self::find), and its fields only where they are needed to find its end.
    pub(super) fn find_end(&mut self, bytes: &[u8], at_end: bool) -> Found {
        let quote = self.quote.unwrap_or(b'\n');
        match memchr::memchr3(b'\n', b'\r', quote, bytes) {
            Some(at) if bytes[at] == b'\n' => {
                Found::Record(Extent { content: at, whole: at + 1, lines: 1, plain: true })
            }
            Some(at) if bytes[at..].starts_with(b"\r\n") => {
                Found::Record(Extent { content: at, whole: at + 2, lines: 1, plain: true })
            }
            _ => self.find(bytes, at_end),
        }
    }

    /// Returns the fields of the record found at the beginning of `bytes`, as one text and its ranges.
    pub(super) fn fields<'a>(
        &'a self,
        bytes: &'a [u8],
        extent: Extent,
    ) -> (&'a [u8], &'a [(usize, usize)]) {
        match extent.plain {
            true => (&bytes[..extent.content], &self.fields),
            false => (&self.unquoted, &self.fields),
        }
    }

    /// Finds a record of one line without quoted fields whose line feed is among the bytes. Returns `None`
    /// for every other record.
    fn plain(&mut self, bytes: &[u8]) -> Option<Extent> {
        self.fields.clear();
        let mut start = 0;
        for (at, byte) in bytes.iter().enumerate() {
            match self.parts[usize::from(*byte)] {
                Part::Text => {}
                Part::Delimiter => {
                    self.push(bytes, start, at);
                    start = at + 1;
                }
                Part::LineFeed => {
                    let end = if at > start && bytes[at - 1] == b'\r' { at - 1 } else { at };
                    self.push(bytes, start, end);
                    return Some(Extent { content: end, whole: at + 1, lines: 1, plain: true });
                }
                // A quote within a field is an ordinary character.
                Part::Quote if at > start && !self.trim => {}
                // A carriage return alone also ends a record.
                Part::Return if bytes.get(at + 1) == Some(&b'\n') => {}
                Part::Quote | Part::Return => return None,
            }
        }
        None
    }

    fn push(&mut self, bytes: &[u8], mut start: usize, mut end: usize) {
        if self.trim {
            while start < end && self.is_blank(bytes[start]) {
                start += 1;
            }
            while end > start && self.is_blank(bytes[end - 1]) {
                end -= 1;
            }
        }
        self.fields.push((start, end));
    }

    /// Finds any record, field by field.
    fn careful(&mut self, bytes: &[u8], at_end: bool) -> Found {
        self.fields.clear();
        self.unquoted.clear();
        let (mut at, mut lines) = (0, 1);
        loop {
            if self.trim {
                at += self.blanks(&bytes[at..]);
            }
            let begin = self.unquoted.len();
            let quoted = self.quote.is_some() && bytes.get(at).copied() == self.quote;
            if quoted {
                match self.quoted(bytes, at + 1) {
                    Some((after, breaks)) => {
                        lines += breaks;
                        at = after;
                    }
                    None if at_end => return Found::Bad("a quoted field has no closing quote"),
                    None => return Found::More,
                }
                if self.trim {
                    at += self.blanks(&bytes[at..]);
                }
            } else {
                let rest = &bytes[at..];
                let length =
                    memchr::memchr3(self.delimiter, b'\n', b'\r', rest).unwrap_or(rest.len());
                let mut content = &rest[..length];
                if self.trim {
                    content = content.trim_ascii_end();
                }
                self.unquoted.extend_from_slice(content);
                at += length;
            }
            self.fields.push((begin, self.unquoted.len()));
            let line_end = match bytes.get(at) {
                Some(byte) if *byte == self.delimiter => {
                    at += 1;
                    continue;
                }
                Some(b'\n') => 1,
                Some(b'\r') => match bytes.get(at + 1) {
                    Some(b'\n') => 2,
                    None if !at_end => return Found::More,
                    _ => 1,
                },
                Some(_) => return Found::Bad("text follows the closing quote of a field"),
                None if at_end => 0,
                None => return Found::More,
            };
            return Found::Record(Extent {
                content: at,
                whole: at + line_end,
                lines,
                plain: false,
            });
        }
    }

    /// Whether `trim` removes the byte; the delimiter is never removed.
    fn is_blank(&self, byte: u8) -> bool {
        matches!(byte, b' ' | b'\t') && byte != self.delimiter
    }

    fn blanks(&self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.is_blank(**byte)).count()
    }

    /// Appends the quoted field that begins at `at`. Returns the position after its closing quote and the
    /// number of its line feeds.
    fn quoted(&mut self, bytes: &[u8], mut at: usize) -> Option<(usize, u64)> {
        let quote = self.quote?;
        let escape = self.escape.unwrap_or(quote);
        let mut breaks = 0;
        loop {
            let rest = &bytes[at..];
            let length = memchr::memchr2(quote, escape, rest)?;
            self.unquoted.extend_from_slice(&rest[..length]);
            breaks += memchr::memchr_iter(b'\n', &rest[..length]).count() as u64;
            at += length;
            let next = bytes.get(at + 1).copied();
            if bytes[at] != quote {
                // An escape character escapes a quote and itself; before any other byte it is an ordinary
                // character.
                let is_escape = [quote, escape].contains(&next?);
                self.unquoted.push(if is_escape { next? } else { escape });
                at += 1 + usize::from(is_escape);
            } else if next == Some(quote) {
                self.unquoted.push(quote);
                at += 2;
            } else {
                return Some((at + 1, breaks));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(format: &CsvFormat, text: &str) -> (Found, Vec<String>) {
        let mut splitter = Splitter::new(format);
        let found = splitter.find(text.as_bytes(), true);
        let fields = match &found {
            Found::Record(extent) => {
                let (bytes, ranges) = splitter.fields(text.as_bytes(), *extent);
                let field = |(start, end): &(usize, usize)| &bytes[*start..*end];
                ranges.iter().map(|one| String::from_utf8_lossy(field(one)).into_owned()).collect()
            }
            _ => Vec::new(),
        };
        (found, fields)
    }

    #[test]
    fn the_delimiter_is_no_blank_that_trim_takes_off() {
        let tabs = CsvFormat::new().delimiter(b'\t').trim(true);
        assert_eq!(split(&tabs, " 1 \t\t\"x\"\n").1, ["1", "", "x"]);
    }

    #[test]
    fn fields_are_what_rfc_4180_says() {
        let usual = CsvFormat::new();
        for (text, wanted) in [
            ("a,b\n", vec!["a", "b"]),
            ("a,b\r\n", vec!["a", "b"]),
            ("a,b", vec!["a", "b"]),
            ("a,b\rc,d\r", vec!["a", "b"]),
            (",\n", vec!["", ""]),
            ("\"a,b\",\"c\"\"d\"\n", vec!["a,b", "c\"d"]),
            ("\"x\ny\",2\n", vec!["x\ny", "2"]),
            ("it\"s,2\n", vec!["it\"s", "2"]),
            ("\"\"\n", vec![""]),
            ("\"\"", vec![""]),
            (" a , b \n", vec![" a ", " b "]),
        ] {
            assert_eq!(split(&usual, text).1, wanted, "{text:?}");
        }
        let trimmed = CsvFormat::new().trim(true);
        assert_eq!(split(&trimmed, " a , \" b \" \t,c \n").1, ["a", " b ", "c"]);
        assert_eq!(split(&trimmed, " a , b \r\n").1, ["a", "b"]);
        let bare = CsvFormat::new().quote(None);
        assert_eq!(split(&bare, "\"a,b\"\n").1, ["\"a", "b\""]);
        let escaped = CsvFormat::new().escape(Some(b'\\'));
        assert_eq!(split(&escaped, "\"a\\\"b\\\\\",c\n").1, ["a\"b\\", "c"]);
        assert_eq!(split(&escaped, "\"C:\\dir\",c\n").1, ["C:\\dir", "c"]);
    }

    #[test]
    fn what_is_no_csv_is_bad_and_not_joined_to_later_lines() {
        let usual = CsvFormat::new();
        for text in ["\"red\n2,\"blue\"\n", "\"a\"b,c\n", "1,\"open", "\"a\" ,b\n"] {
            assert!(matches!(split(&usual, text).0, Found::Bad(_)), "{text:?}");
        }
    }

    #[test]
    fn every_prefix_of_a_record_asks_for_more_and_never_for_less() {
        for text in ["a,b\r\n", "\"a\"\"b\",c\r\n", "\"a\nb\",\"\"\n"] {
            for length in 1..text.len() {
                let mut splitter = Splitter::new(&CsvFormat::new());
                let found = splitter.find(&text.as_bytes()[..length], false);
                assert_eq!(found, Found::More, "{:?}", &text[..length]);
            }
        }
    }
}
