//! CSV writer.

use std::path::PathBuf;
use std::sync::Arc;

use ::csv::{QuoteStyle, ReaderBuilder, Terminator, WriterBuilder};
use batchwright::ItemError;
use batchwright::error::ErrorKind;
use encoding_rs::UTF_8;
use serde::Serialize;

use super::CsvFormat;
use crate::format::LineEnd;
use crate::transport::input::BYTE_ORDER_MARK;
use crate::transport::{ByteSource, Encode, FileWriter};

/// A writer of CSV records; the header line contains the names of the outputs' fields.
pub type CsvWriter = FileWriter<CsvRecords>;

/// The encoder of CSV records, with or without a header line.
#[derive(Debug, Clone)]
pub struct CsvRecords {
    format: CsvFormat,
}

impl CsvWriter {
    /// Creates a writer of the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::encoding(path, CsvRecords { format: CsvFormat::new() })
    }

    /// Sets the character between fields. Default `,`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.encode.format.delimiter = delimiter;
        self
    }

    /// Sets the format: delimiter, quote, header, and the names in the header line. With names, the file has
    /// its header line even without items.
    #[must_use]
    pub fn format(mut self, format: CsvFormat) -> Self {
        self.encode.format = format;
        self
    }
}

impl CsvFormat {
    fn writer_builder(&self) -> WriterBuilder {
        let mut builder = WriterBuilder::new();
        builder.delimiter(self.delimiter).quote(self.quote.unwrap_or(b'"'));
        builder.has_headers(false).buffer_capacity(64 * 1024);
        // Without quotes, this text is read again, which takes either end.
        if self.quote.is_some() && self.line_end == LineEnd::Crlf {
            builder.terminator(Terminator::CRLF);
        }
        if self.quotes_all {
            builder.quote_style(QuoteStyle::Always);
        }
        builder
    }

    /// Appends what `write` writes, in this format and its encoding.
    #[doc(hidden)]
    pub fn write(
        &self,
        bytes: &mut Vec<u8>,
        write: impl FnOnce(&mut ::csv::Writer<&mut Vec<u8>>) -> Result<(), ItemError>,
    ) -> Result<(), ItemError> {
        self.write_with(&self.writer_builder(), bytes, write)
    }

    fn write_with(
        &self,
        builder: &WriterBuilder,
        bytes: &mut Vec<u8>,
        write: impl FnOnce(&mut ::csv::Writer<&mut Vec<u8>>) -> Result<(), ItemError>,
    ) -> Result<(), ItemError> {
        if self.quote.is_some() && self.encoding == UTF_8 {
            let mut csv = builder.from_writer(bytes);
            write(&mut csv)?;
            return Ok(csv.flush()?);
        }
        let mut text = Vec::new();
        let mut csv = builder.from_writer(&mut text);
        write(&mut csv)?;
        csv.flush()?;
        drop(csv);
        if self.quote.is_none() {
            text = self.without_quotes(&text)?;
        }
        self.encode_text(text, bytes)
    }

    /// Returns the same records without quotes; a record that needs quotes is refused.
    fn without_quotes(&self, text: &[u8]) -> Result<Vec<u8>, ItemError> {
        let mut plain = Vec::with_capacity(text.len());
        let mut builder = ReaderBuilder::new();
        builder.delimiter(self.delimiter).has_headers(false).flexible(true);
        for record in builder.from_reader(text).byte_records() {
            let record = record?;
            let needs_quotes = |byte: &u8| *byte == self.delimiter || matches!(byte, b'\n' | b'\r');
            if let Some(field) = record.iter().find(|field| field.iter().any(needs_quotes)) {
                let shown: String = String::from_utf8_lossy(field).chars().take(80).collect();
                return Err(ItemError::data(format!(
                    "cannot write the field `{shown}`: it contains the delimiter or a line end, and the format has no \
                     quotes"
                )));
            }
            if record.len() == 1 && record[0].is_empty() {
                let what = "cannot write an empty record: without quotes it is a blank line, which is no record";
                return Err(ItemError::data(what));
            }
            for (index, field) in record.iter().enumerate() {
                if index > 0 {
                    plain.push(self.delimiter);
                }
                plain.extend_from_slice(field);
            }
            plain.extend_from_slice(self.line_end.bytes());
        }
        Ok(plain)
    }

    /// Appends what a file begins with before its first record.
    pub(super) fn begin(&self, bytes: &mut Vec<u8>) {
        if self.has_mark {
            bytes.extend_from_slice(BYTE_ORDER_MARK);
        }
    }

    pub(super) fn encode_text(&self, text: Vec<u8>, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        if self.encoding == UTF_8 {
            bytes.extend_from_slice(&text);
            return Ok(());
        }
        let text = String::from_utf8(text)
            .map_err(|error| ItemError::wrap(ErrorKind::DATA, "cannot write as CSV", error))?;
        let (encoded, encoding, lost) = self.encoding.encode(&text);
        if lost {
            let name = encoding.name();
            let what =
                format!("cannot write as CSV: {name} has no code for a character of the record");
            return Err(ItemError::data(what));
        }
        bytes.extend_from_slice(&encoded);
        Ok(())
    }

    /// Returns the names in the header line of a file in this format.
    pub(super) fn header_of(&self, source: Arc<dyn ByteSource>) -> Result<Vec<String>, ItemError> {
        let format = Self { columns: None, ..self.clone() };
        super::reader::header_names(source, &format)
    }

    /// Returns the text that represents null in an output.
    #[doc(hidden)]
    pub fn null_text(&self) -> &str {
        self.null.first().map_or("", String::as_str)
    }

    /// Whether some text of the file means null.
    pub(super) fn has_nulls(&self) -> bool {
        !self.null.is_empty()
    }

    /// Whether `field`, read from a file, means null.
    #[doc(hidden)]
    pub fn is_null(&self, field: &str) -> bool {
        self.null.iter().any(|text| text == field)
    }

    /// Whether the file has a header line.
    #[doc(hidden)]
    pub fn has_header(&self) -> bool {
        self.header
    }
}

impl<T: Serialize> Encode<T> for CsvRecords {
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        let failed = |error| ItemError::wrap(ErrorKind::DATA, "cannot write as CSV", error);
        let format = &self.format;
        if first {
            format.begin(bytes);
        }
        let header = first && format.header;
        let names = format.columns.as_ref().filter(|_| header);
        let mut builder = format.writer_builder();
        builder.has_headers(header && names.is_none());
        format.write_with(&builder, bytes, |csv| {
            if let Some(names) = names {
                csv.write_record(names).map_err(failed)?;
            }
            items.iter().try_for_each(|item| csv.serialize(item).map_err(failed))
        })
    }

    fn is_independent(&self) -> bool {
        true
    }
}
