//! CSV reader: typed records of a file, each at a known byte.

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{Block, ItemReader, Total};
use batchwright::scope::StepScope;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::CsvFormat;
use super::format::check_names;
use super::record::CsvRecord;
use super::split::{Extent, Found, Splitter};
use crate::format::lines::RawLine;
use crate::format::raw::{RAW_BYTES_KEPT, RECORD_BYTES_MAX, RawRecord, RawRecords, Shared};
use crate::transport::input::Input;
use crate::transport::{ByteSource, InputIdentity, file};

/// A position of a CSV reader: the bytes, lines and records consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvPosition {
    /// Bytes consumed.
    pub byte: u64,
    /// Number of the next line, from 1; a quoted field may contain several lines.
    pub line: u64,
    /// Records consumed, including the header.
    pub record: u64,
    /// Identity of the file; `None` for a pipe, and in checkpoints of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputIdentity>,
}

/// A function that makes an item of a record.
type Decode<T> = Arc<dyn Fn(CsvRecord<'_>) -> Result<T, ItemError> + Send + Sync>;

/// A reader that yields a `T` for every record of a CSV file.
///
/// Columns are found by the names in the header line, or by those of [`CsvFormat::columns`]. Blank lines are
/// not records, even in files of one column. A record is an error of kind `data.…` when it has another number
/// of fields than the header, text after a closing quote, bytes that are invalid in the encoding, or more
/// bytes than its limit; the error contains line, byte and the raw record. Reading continues after the
/// record, and a quote that is never closed costs one line. An empty file has no records and needs no header.
/// A header with a repeated or an empty name fails the step.
///
/// A pipe is read as a stream: a step that fails cannot be restarted within it.
pub struct CsvReader<T> {
    source: Arc<dyn ByteSource>,
    format: Arc<CsvFormat>,
    record_bytes_max: u64,
    range: Option<(u64, u64)>,
    may_have_changed: bool,
    decode: Decode<T>,
    open: Option<Opened>,
}

struct Opened {
    input: Input,
    fields: Fields,
    /// Names of the columns; empty for an empty file.
    headers: Arc<[String]>,
    /// First byte of the input in the file.
    start: u64,
    line: u64,
    records: u64,
    bytes_max: usize,
    comment: Option<u8>,
    /// Size of the last block, which the next one will have too.
    block_bytes: usize,
}

/// A method of the splitter that finds the next record.
type Find = fn(&mut Splitter, &[u8], bool) -> Found;

/// Splits records into their fields.
struct Fields {
    splitter: Splitter,
    encoding: &'static encoding_rs::Encoding,
    /// Buffer for the text of a record in another encoding than UTF-8.
    decoded: String,
}

impl Fields {
    fn new(format: &CsvFormat) -> Self {
        let (splitter, decoded) = (Splitter::new(format), String::new());
        Self { splitter, encoding: format.encoding, decoded }
    }

    /// Returns what `make` makes of the record at `extent`, which the splitter has just found at the beginning of `bytes`.
    fn item<T>(
        &mut self,
        bytes: &[u8],
        extent: Extent,
        shared: Option<Shared<'_>>,
        columns: (&[String], &CsvFormat),
        make: impl FnOnce(CsvRecord<'_>) -> Result<T, ItemError>,
    ) -> Result<T, ItemError> {
        let Self { splitter, encoding, decoded } = self;
        if *encoding != encoding_rs::UTF_8 {
            let bytes = &bytes[..extent.content];
            let text = encoding.decode_without_bom_handling_and_without_replacement(bytes);
            decoded.clear();
            decoded.push_str(&text.ok_or_else(|| {
                let name = encoding.name();
                ItemError::parse(format!(
                    "cannot read the record: it contains bytes that are not {name}"
                ))
            })?);
            let Found::Record(extent) = splitter.find(decoded.as_bytes(), true) else {
                return Err(ItemError::parse("cannot read the record: its quotes do not match"));
            };
            let (text, fields) = splitter.fields(decoded.as_bytes(), extent);
            return make(CsvRecord::new(text, fields, columns)?);
        }
        let (text, fields) = splitter.fields(bytes, extent);
        let record = match shared.filter(|_| extent.is_plain()) {
            Some(shared) => CsvRecord::of_buffer(shared, text.len(), fields, columns)?,
            None => CsvRecord::new(text, fields, columns)?,
        };
        make(record)
    }

    /// Returns the item of a record with as many fields as there are columns.
    fn decode<T>(
        &mut self,
        bytes: &[u8],
        extent: Extent,
        shared: Option<Shared<'_>>,
        headers: &[String],
        (decode, format): (&Decode<T>, &CsvFormat),
    ) -> Result<T, ItemError> {
        self.item(bytes, extent, shared, (headers, format), |record| {
            let (found, expected) = (record.len(), headers.len());
            match found == expected {
                true => decode(record),
                false => Err(ItemError::parse(format!(
                    "cannot read the record: it has {found} fields, the header has {expected}"
                ))),
            }
        })
    }
}

/// Records, and what decodes them.
struct CsvBlock<T> {
    records: RawRecords,
    fields: Fields,
    headers: Arc<[String]>,
    format: Arc<CsvFormat>,
    decode: Decode<T>,
    /// Whether the numbers of lines are those of the file.
    knows_lines: bool,
}

impl<T> Block<T> for CsvBlock<T> {
    fn records(&self) -> usize {
        self.records.left()
    }

    fn is_last(&self) -> bool {
        self.records.is_last
    }

    fn decode(&mut self, take: &mut dyn FnMut(T)) -> Result<(), ItemError> {
        let Self { records, fields, headers, format, decode, knows_lines } = self;
        if fields.encoding == encoding_rs::UTF_8 {
            records.share();
        }
        while let Some(RawRecord { line, shared }) = records.next()? {
            let RawLine { bytes, number, byte } = line;
            let Found::Record(extent) = fields.splitter.find(bytes, true) else {
                return Err(ItemError::fatal("cannot split a record a second time"));
            };
            let item = fields.decode(bytes, extent, shared, headers, (decode, format));
            take(item.map_err(|error| {
                let raw = &bytes[..extent.content.min(RAW_BYTES_KEPT)];
                error.at(location(*knows_lines, number, byte)).with_raw(raw)
            })?);
        }
        Ok(())
    }
}

/// Returns the place of a record for messages. A reader of a byte range does not know how many lines precede the range.
fn location(knows_lines: bool, line: u64, byte: u64) -> String {
    match knows_lines {
        true => format!("line {line}, byte {byte}"),
        false => format!("byte {byte}"),
    }
}

/// The next record, or the reason why there is none.
enum Next {
    Record(Extent),
    End,
    Bad(Bad),
}

/// An invalid record: its error and its bytes.
struct Bad {
    error: ItemError,
    raw: Vec<u8>,
}

impl<T: DeserializeOwned + 'static> CsvReader<T> {
    /// Creates a reader of the file at `path`; each record is deserialized into a `T`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        // The item borrows nothing from the record.
        Self::decoding(path, |record| record.deserialize())
    }
}

impl<T> CsvReader<T> {
    /// Creates a reader of the file at `path`; `decode` makes a `T` of each record.
    ///
    /// A record may be deserialized into a type that borrows its texts, so that only what the item keeps is copied:
    ///
    /// ```
    /// use batchwright_items::format::csv::CsvReader;
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Trade<'a> {
    ///     symbol: &'a str,
    ///     price: f64,
    ///     quantity: u32,
    /// }
    ///
    /// let values: CsvReader<(String, f64)> = CsvReader::decoding("trades.csv", |record| {
    ///     let Trade { symbol, price, quantity } = record.deserialize()?;
    ///     Ok((symbol.to_owned(), price * f64::from(quantity)))
    /// });
    /// ```
    pub fn decoding(
        path: impl Into<PathBuf>,
        decode: impl Fn(CsvRecord<'_>) -> Result<T, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self::decoding_source(file(path), decode)
    }

    pub(super) fn decoding_source(
        source: Arc<dyn ByteSource>,
        decode: impl Fn(CsvRecord<'_>) -> Result<T, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            source,
            format: Arc::default(),
            record_bytes_max: RECORD_BYTES_MAX as u64,
            range: None,
            may_have_changed: false,
            decode: Arc::new(decode),
            open: None,
        }
    }

    /// Reads from `source` instead of the file.
    #[must_use]
    pub fn from_source(mut self, source: Arc<dyn ByteSource>) -> Self {
        self.source = source;
        self
    }

    /// Sets the format.
    #[must_use]
    pub fn format(mut self, format: CsvFormat) -> Self {
        self.format = Arc::new(format);
        self
    }

    /// Sets the character between fields. Default `,`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        Arc::make_mut(&mut self.format).delimiter = delimiter;
        self
    }

    /// Restricts the input to the bytes from `start` to `end`, excluding the end, after the header line; see
    /// [`ByteRanges`](batchwright::partition::ByteRanges).
    #[must_use]
    pub fn bytes(mut self, start: u64, end: u64) -> Self {
        self.range = Some((start, end));
        self
    }

    /// Sets the maximum length of a record, in bytes without its line end. Default 1 MiB.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: u64) -> Self {
        self.record_bytes_max = bytes;
        self
    }

    /// Lets a restart continue at the same byte of another file than the one of the checkpoint. Default: such
    /// a restart is refused.
    #[must_use]
    pub fn may_have_changed(mut self) -> Self {
        self.may_have_changed = true;
        self
    }

    /// Returns the names of the columns of the open file; empty for an empty file.
    pub fn headers(&self) -> Option<&[String]> {
        self.open.as_ref().map(|open| &*open.headers)
    }
}

impl<T> Clone for CsvReader<T> {
    /// Clones the settings; the clone is not open.
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            format: Arc::clone(&self.format),
            record_bytes_max: self.record_bytes_max,
            range: self.range,
            may_have_changed: self.may_have_changed,
            decode: Arc::clone(&self.decode),
            open: None,
        }
    }
}

impl Opened {
    fn new(
        source: Arc<dyn ByteSource>,
        format: &CsvFormat,
        record_bytes_max: u64,
    ) -> Result<Self, ItemError> {
        let mut input = Input::open(source)?;
        input.pass_over_mark()?;
        Ok(Self {
            input,
            fields: Fields::new(format),
            headers: Arc::new([]),
            start: 0,
            line: 1,
            records: 0,
            bytes_max: usize::try_from(record_bytes_max).unwrap_or(usize::MAX),
            comment: format.comment,
            block_bytes: 0,
        })
    }

    /// Reads the header line, or creates the names. Nothing is read twice, so a pipe works like a file.
    fn read_header(&mut self, shown: &str, format: &CsvFormat) -> Result<(), ItemError> {
        let failed = |what: &str| {
            ItemError::fatal(format!("cannot read the header line of `{shown}`: {what}"))
        };
        if format.header {
            match self.next_record(Splitter::find)? {
                Next::End => return Ok(()),
                Next::Bad(bad) => return Err(failed(&bad.error.to_string())),
                Next::Record(extent) => {
                    let names =
                        |names: CsvRecord<'_>| Ok(names.iter().map(str::to_owned).collect());
                    let rest = self.input.rest();
                    let names = self.fields.item(rest, extent, None, (&[], format), names);
                    let names = names.map_err(|error| error.at(self.location()).to_string());
                    self.pass(extent);
                    self.headers = names.map_err(|problem| failed(&problem))?;
                }
            }
        }
        match &format.columns {
            Some(names) if format.header && names.len() != self.headers.len() => {
                let (found, given) = (self.headers.len(), names.len());
                return Err(failed(&format!("it has {found} columns, `columns` names {given}")));
            }
            Some(names) if format.header => {
                let named = self.headers.iter().zip(names);
                if let Some((found, given)) =
                    named.into_iter().find(|(found, given)| found != given)
                {
                    return Err(failed(&format!(
                        "`columns` names `{given}` where the header has `{found}`; list them in the order of the \
                         file, or declare that it has no header"
                    )));
                }
            }
            Some(names) => self.headers = names.as_slice().into(),
            None if format.header => {}
            None => self.headers = self.numbered_columns()?,
        }
        check_names(self.headers.iter().map(String::as_str)).map_err(|problem| {
            failed(&format!("{problem}. Name the columns, in their order, with `columns`"))
        })?;
        self.warn_of_delimiter(shown, format);
        Ok(())
    }

    /// Returns `c1`, `c2`, … for as many fields as the first record has.
    fn numbered_columns(&mut self) -> Result<Arc<[String]>, ItemError> {
        let count = match self.next_record(Splitter::find)? {
            Next::Record(extent) => self.fields.splitter.fields(self.input.rest(), extent).1.len(),
            Next::End | Next::Bad(_) => 0,
        };
        Ok((1..=count).map(|number| format!("c{number}")).collect())
    }

    /// Warns when a header of one column contains another common delimiter: the configured one is probably
    /// wrong.
    fn warn_of_delimiter(&self, source: &str, format: &CsvFormat) {
        let usual = [(';', "`;`"), ('\t', "a tab"), ('|', "`|`"), (',', "`,`")];
        let [only] = &self.headers[..] else { return };
        let other =
            |(one, _): &&(char, &str)| *one != char::from(format.delimiter) && only.contains(*one);
        if let Some((_, shown)) = usual.iter().find(other) {
            tracing::warn!(
                target: "batchwright::input",
                "{} has one column, and its name holds {shown}: set `delimiter` if that separates the fields",
                source
            );
        }
    }

    /// Returns the next record, after blank lines and comments.
    fn next_record(&mut self, find: Find) -> Result<Next, ItemError> {
        let mut at_end = false;
        loop {
            let rest = self.input.rest();
            match rest.first().copied() {
                None if at_end => return Ok(Next::End),
                None => at_end = !self.input.more()?,
                Some(b'\n') => {
                    self.input.consume(1);
                    self.line += 1;
                }
                Some(b'\r') if rest.len() == 1 && !at_end => at_end = !self.input.more()?,
                Some(b'\r') => {
                    let count = 1 + usize::from(rest.get(1) == Some(&b'\n'));
                    self.input.consume(count);
                    self.line += 1;
                }
                Some(byte) if Some(byte) == self.comment => {
                    self.input.pass_over_csv_line()?;
                    self.line += 1;
                }
                Some(_) => {
                    // The longest record and its line end, and no more: whether a record is too long or invalid must
                    // not depend on the sizes of the reads.
                    let longest = &rest[..rest.len().min(self.bytes_max.saturating_add(3))];
                    let is_whole = longest.len() == rest.len();
                    match find(&mut self.fields.splitter, longest, at_end && is_whole) {
                        Found::Record(extent) if extent.content <= self.bytes_max => {
                            return Ok(Next::Record(extent));
                        }
                        Found::More if rest.len() <= self.bytes_max.saturating_add(2) => {
                            at_end = !self.input.more()?;
                        }
                        Found::Bad(what) => {
                            let error = ItemError::parse(format!("cannot read the record: {what}"));
                            return self.give_up_line(error).map(Next::Bad);
                        }
                        Found::Record(_) | Found::More => {
                            let max = self.bytes_max;
                            let what =
                                format!("cannot read the record: it is longer than {max} bytes");
                            let error = ItemError::new(ErrorKind::TOO_LONG, what);
                            return self.give_up_line(error).map(Next::Bad);
                        }
                    }
                }
            }
        }
    }

    /// Abandons an invalid record at the end of its first line, so that a quote that is never closed costs
    /// one line.
    fn give_up_line(&mut self, error: ItemError) -> Result<Bad, ItemError> {
        let location = self.location();
        let mut searched = 0;
        // What the error keeps of the line must not depend on the sizes of the reads.
        let length = loop {
            let rest = self.input.rest();
            if let Some(at) = memchr::memchr2(b'\n', b'\r', &rest[searched..]) {
                break searched + at;
            }
            searched = rest.len();
            if searched >= RAW_BYTES_KEPT || !self.input.more()? {
                break searched;
            }
        };
        let raw = self.input.rest()[..length.min(RAW_BYTES_KEPT)].to_vec();
        self.input.pass_over_csv_line()?;
        self.line += 1;
        self.records += 1;
        Ok(Bad { error: error.at(location), raw })
    }

    fn pass(&mut self, extent: Extent) {
        self.input.consume(extent.whole);
        self.line += extent.lines;
        self.records += 1;
    }

    fn raw(&self, extent: Extent) -> Vec<u8> {
        self.input.rest()[..extent.content.min(RAW_BYTES_KEPT)].to_vec()
    }

    fn location(&self) -> String {
        location(self.start == 0, self.line, self.input.byte())
    }

    fn position(&self) -> CsvPosition {
        CsvPosition {
            byte: self.input.byte(),
            line: self.line,
            record: self.records,
            input: self.input.identity(),
        }
    }
}

/// Returns the names in the header line of `source`, which may be an open output.
pub(super) fn header_names(
    source: Arc<dyn ByteSource>,
    format: &CsvFormat,
) -> Result<Vec<String>, ItemError> {
    let shown = source.shown();
    let mut open = Opened::new(source, format, RECORD_BYTES_MAX as u64)?;
    open.read_header(&shown, format)?;
    Ok(open.headers.to_vec())
}

impl<T: Send + Sync + 'static> ItemReader for CsvReader<T> {
    type Item = T;
    type Position = CsvPosition;

    fn open(&mut self, position: Option<CsvPosition>, _: &StepScope) -> Result<(), ItemError> {
        self.format.check().map_err(|problem| {
            ItemError::fatal(format!("cannot read `{}`: {problem}", self.source.shown()))
        })?;
        let mut open = Opened::new(Arc::clone(&self.source), &self.format, self.record_bytes_max)?;
        open.read_header(&self.source.shown(), &self.format)?;
        if let Some((start, end)) = self.range {
            open.start = start;
            open.input.end_at(end)?;
            if position.is_none() && start > 0 {
                open.input.go_to(start, None, self.may_have_changed)?;
                (open.line, open.records) = (1, 1);
            }
        }
        if let Some(CsvPosition { byte, line, record, input }) = position {
            if line.max(record) > byte.saturating_add(1) {
                let what =
                    "interpret the stored position: it counts more lines or records than bytes";
                return Err(ItemError::fatal(what));
            }
            open.input.go_to(byte, input, self.may_have_changed)?;
            (open.line, open.records) = (line, record);
        }
        self.open = Some(open);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let Self { decode, open, format, .. } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        let extent = match open.next_record(Splitter::find)? {
            Next::End => return Ok(None),
            Next::Bad(bad) => return Err(bad.error.with_raw(bad.raw)),
            Next::Record(extent) => extent,
        };
        let Opened { input, fields, headers, .. } = open;
        let item = match fields.decode(input.rest(), extent, None, headers, (decode, format)) {
            Ok(item) => Ok(Some(item)),
            Err(error) => Err(error.at(open.location()).with_raw(open.raw(extent))),
        };
        open.pass(extent);
        item
    }

    fn reads_blocks(&self) -> bool {
        true
    }

    fn read_block(&mut self, count: usize) -> Result<Box<dyn Block<T>>, ItemError> {
        let open =
            self.open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        let mut records = RawRecords::with_capacity(open.block_bytes);
        while records.left() < count {
            match open.next_record(Splitter::find_end) {
                Ok(Next::Record(extent)) => {
                    let bytes = &open.input.rest()[..extent.whole];
                    records.push(bytes, open.line, open.input.byte());
                    open.pass(extent);
                }
                Ok(Next::Bad(bad)) => records.push_failed(bad.error.with_raw(bad.raw)),
                Ok(Next::End) => {
                    records.is_last = true;
                    break;
                }
                // What follows may be readable again: the reader goes on record by record.
                Err(error) => {
                    records.push_failed(error);
                    break;
                }
            }
        }
        open.block_bytes = records.size();
        Ok(Box::new(CsvBlock {
            records,
            fields: Fields::new(&self.format),
            headers: Arc::clone(&open.headers),
            format: Arc::clone(&self.format),
            decode: Arc::clone(&self.decode),
            knows_lines: open.start == 0,
        }))
    }

    fn position(&self) -> CsvPosition {
        let start = CsvPosition { byte: 0, line: 1, record: 0, input: None };
        self.open.as_ref().map_or(start, Opened::position)
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn total(&self) -> Option<Total> {
        let open = self.open.as_ref()?;
        let end = self.range.map(|(_, end)| end).or_else(|| open.input.length())?;
        Some(Total::Bytes(end.saturating_sub(open.start)))
    }

    fn done(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.input.byte().saturating_sub(open.start))
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.open = None;
        Ok(())
    }
}
