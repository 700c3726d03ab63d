//! Plain lines, and the bounded line input that other line formats use.

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{Block, ItemReader, Total};
use batchwright::partition::ByteRanges;
use batchwright::scope::StepScope;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lines_around::lines_around;
use super::raw::{RAW_BYTES_KEPT, RECORD_BYTES_MAX, RawRecords};
use crate::files::of_files;
use crate::format::{AT_RECORD, CUT_BACK};
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{
    BuildContext, ByteSplit, Example, ItemKind, KindSchema, Make, MakeReader, byte_range,
};
use crate::reader::Reads;
use crate::record::{Names, Record};
use crate::transport::input::Input;
use crate::transport::{ByteSource, Encode, FileWriter, IfChanged, InputIdentity, file};
use crate::value::Value;
use crate::writer::BoxedWriter;

/// A position of a line input: the bytes and lines consumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinePosition {
    /// Bytes consumed.
    pub byte: u64,
    /// Lines consumed.
    pub line: u64,
    /// Identity of the file; `None` for a pipe, and in checkpoints of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputIdentity>,
}

/// One raw line of a file, without its line end.
#[derive(Debug, Clone, Copy)]
pub struct RawLine<'a> {
    /// Bytes of the line.
    pub bytes: &'a [u8],
    /// Number of the line, from 1.
    pub number: u64,
    /// Offset of the first byte in the file.
    pub byte: u64,
}

impl<'a> RawLine<'a> {
    /// Returns the line as text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PARSE`] with line, byte and the raw line, when the line is not UTF-8.
    pub fn text(&self) -> Result<&'a str, ItemError> {
        std::str::from_utf8(self.bytes).map_err(|error| {
            let byte = self.byte + error.valid_up_to() as u64;
            ItemError::parse("cannot read the line: it is not valid UTF-8")
                .at(format!("line {}, byte {byte}", self.number))
                .with_raw(self.bytes)
        })
    }

    /// Returns `error` with this line's location and bytes.
    pub fn blame(&self, error: ItemError) -> ItemError {
        error.at(format!("line {}, byte {}", self.number, self.byte)).with_raw(self.bytes)
    }
}

/// A reader of raw lines with their positions and a length limit.
///
/// A byte order mark at the beginning of the file is not part of the first line. A pipe is read as a stream:
/// a step that fails cannot be restarted within it.
pub struct LineInput {
    source: Arc<dyn ByteSource>,
    bytes_max: usize,
    range: Option<(u64, u64)>,
    may_have_changed: bool,
    input: Option<Input>,
    line: u64,
}

impl std::fmt::Debug for LineInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = self.source.shown();
        f.debug_struct("LineInput").field("source", &source).finish_non_exhaustive()
    }
}

impl Clone for LineInput {
    /// Clones the settings; the clone is not open.
    fn clone(&self) -> Self {
        let Self { source, bytes_max, range, may_have_changed, .. } = self;
        Self {
            bytes_max: *bytes_max,
            range: *range,
            may_have_changed: *may_have_changed,
            ..Self::of(Arc::clone(source))
        }
    }
}

impl LineInput {
    /// Creates an input for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of(file(path))
    }

    /// Creates an input for `source`.
    pub fn of(source: Arc<dyn ByteSource>) -> Self {
        Self {
            source,
            bytes_max: RECORD_BYTES_MAX,
            range: None,
            may_have_changed: false,
            input: None,
            line: 0,
        }
    }

    /// Sets the maximum length of a line, in bytes without its line end; a longer one is an error of kind
    /// `data.too_long`. Default 1 MiB.
    #[must_use]
    pub fn line_bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Restricts the input to the bytes from `start` to `end`, excluding the end: the range of a partition,
    /// which begins and ends at line boundaries.
    #[must_use]
    pub fn bytes(mut self, start: u64, end: u64) -> Self {
        self.range = Some((start, end));
        self
    }

    /// Lets a restart continue at the stored byte although the file is no longer the one of the checkpoint.
    /// Default: such a restart is refused.
    #[must_use]
    pub fn may_have_changed(mut self) -> Self {
        self.may_have_changed = true;
        self
    }

    /// Opens the file just after `position`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or is not the file of the position.
    pub fn open(&mut self, position: Option<LinePosition>) -> Result<(), ItemError> {
        let mut input = Input::open(Arc::clone(&self.source))?;
        let (start, end) = self.range.unwrap_or((0, u64::MAX));
        if self.range.is_some() {
            input.end_at(end)?;
        }
        match position {
            Some(LinePosition { byte, line, .. }) if line > byte => {
                let what = "interpret the stored position: it counts more lines than bytes";
                return Err(ItemError::fatal(what));
            }
            Some(LinePosition { byte, line, input: made_with }) => {
                input.go_to(byte, made_with, self.may_have_changed)?;
                self.line = line;
            }
            None => {
                if start > 0 {
                    input.go_to(start, None, self.may_have_changed)?;
                }
                input.pass_over_mark()?;
                self.line = 0;
            }
        }
        self.input = Some(input);
        Ok(())
    }

    /// Returns the next line, or `None` at the end.
    ///
    /// # Errors
    ///
    /// When a line is too long (the next call returns the line after it), or when the file cannot be read.
    pub fn next_line(&mut self) -> Result<Option<RawLine<'_>>, ItemError> {
        let input =
            self.input.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        let (byte, mut searched) = (input.byte(), 0);
        // What an error keeps of a line that is too long must not depend on the sizes of the reads.
        let enough = self.bytes_max.saturating_add(1).max(RAW_BYTES_KEPT);
        let found = loop {
            let rest = input.rest();
            if let Some(at) = memchr::memchr(b'\n', &rest[searched..]) {
                break Some(searched + at);
            }
            searched = rest.len();
            if searched > enough || !input.more()? {
                break None;
            }
        };
        if found.is_none() && searched == 0 {
            return Ok(None);
        }
        self.line += 1;
        let number = self.line;
        let length = found.unwrap_or(searched);
        let ends_with_return = input.rest()[..length].ends_with(b"\r") && found.is_some();
        let content = length - usize::from(ends_with_return);
        if content > self.bytes_max {
            let raw = input.rest()[..content.min(RAW_BYTES_KEPT)].to_vec();
            input.pass_over_line()?;
            let what = format!("cannot read the line: it is longer than {} bytes", self.bytes_max);
            return Err(ItemError::new(ErrorKind::TOO_LONG, what)
                .at(format!("line {number}, byte {byte}"))
                .with_raw(raw));
        }
        let whole = length + usize::from(found.is_some());
        input.consume(whole);
        Ok(Some(RawLine { bytes: &input.consumed(whole)[..content], number, byte }))
    }

    /// Returns the current position.
    pub fn position(&self) -> LinePosition {
        match &self.input {
            None => LinePosition::default(),
            Some(input) => {
                LinePosition { byte: input.byte(), line: self.line, input: input.identity() }
            }
        }
    }

    /// Returns the number of bytes to read: the length of the file at opening, or of the range; `None` for a
    /// pipe.
    pub fn total(&self) -> Option<Total> {
        match self.range {
            Some((start, end)) => Some(Total::Bytes(end - start)),
            None => self.input.as_ref()?.length().map(Total::Bytes),
        }
    }

    /// Returns the number of bytes read.
    pub fn done(&self) -> u64 {
        let start = self.range.map_or(0, |(start, _)| start);
        self.input.as_ref().map_or(0, |input| input.byte().saturating_sub(start))
    }

    /// Closes the file.
    pub fn close(&mut self) {
        self.input = None;
    }
}

/// A decoder of lines: one for each format whose records are lines.
pub trait DecodeLine: Send + Sync {
    /// The item of a line.
    type Item: Send + Sync;

    /// Returns the item of `line`; called from several threads at once.
    ///
    /// # Errors
    ///
    /// The line counts as failed. The reader adds its location and bytes to an error that has none.
    fn decode(&self, line: &RawLine<'_>) -> Result<Self::Item, ItemError>;

    /// Whether a line is no record. Default: every line is one.
    fn is_blank(&self, line: &[u8]) -> bool {
        let _ = line;
        false
    }
}

/// A function from the text of a line.
impl<T: Send + Sync, F: Fn(&str) -> Result<T, ItemError> + Send + Sync> DecodeLine for F {
    type Item = T;

    fn decode(&self, line: &RawLine<'_>) -> Result<T, ItemError> {
        self(line.text()?).map_err(|error| line.blame(error))
    }
}

/// A reader that decodes each line of an input with `D`.
#[derive(Debug)]
pub struct DecodedLines<D> {
    input: LineInput,
    decode: Arc<D>,
    /// Size of the last block, which the next one will have too.
    block_bytes: usize,
}

/// A clone has not been opened.
impl<D> Clone for DecodedLines<D> {
    fn clone(&self) -> Self {
        Self { input: self.input.clone(), decode: Arc::clone(&self.decode), block_bytes: 0 }
    }
}

/// Lines, and what decodes them.
struct LineBlock<D> {
    lines: RawRecords,
    decode: Arc<D>,
}

impl<D: DecodeLine> Block<D::Item> for LineBlock<D> {
    fn records(&self) -> usize {
        self.lines.left()
    }

    fn is_last(&self) -> bool {
        self.lines.is_last
    }

    fn decode(&mut self, take: &mut dyn FnMut(D::Item)) -> Result<(), ItemError> {
        while let Some(record) = self.lines.next()? {
            take(self.decode.decode(&record.line)?);
        }
        Ok(())
    }
}

impl<D> DecodedLines<D> {
    /// Creates a reader that makes an item of each line of `input` with `decode`.
    pub fn of(input: LineInput, decode: D) -> Self {
        Self { input, decode: Arc::new(decode), block_bytes: 0 }
    }

    /// Sets the maximum length of a line, in bytes. Default 1 MiB.
    #[must_use]
    pub fn line_bytes_max(self, bytes: usize) -> Self {
        Self { input: self.input.line_bytes_max(bytes), ..self }
    }

    /// Lets a restart continue in another file; see [`LineInput::may_have_changed`].
    #[must_use]
    pub fn may_have_changed(self) -> Self {
        Self { input: self.input.may_have_changed(), ..self }
    }

    /// Restricts the input to the bytes from `start` to `end`; see [`ByteRanges`].
    #[must_use]
    pub fn bytes(self, start: u64, end: u64) -> Self {
        Self { input: self.input.bytes(start, end), ..self }
    }
}

impl<D: Default> DecodedLines<D> {
    /// Creates a reader of the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of(LineInput::new(path), D::default())
    }
}

impl<D: DecodeLine + 'static> ItemReader for DecodedLines<D> {
    type Item = D::Item;
    type Position = LinePosition;

    fn open(&mut self, position: Option<LinePosition>, _: &StepScope) -> Result<(), ItemError> {
        self.input.open(position)
    }

    fn read(&mut self) -> Result<Option<D::Item>, ItemError> {
        while let Some(line) = self.input.next_line()? {
            if !self.decode.is_blank(line.bytes) {
                return self.decode.decode(&line).map(Some);
            }
        }
        Ok(None)
    }

    fn reads_blocks(&self) -> bool {
        true
    }

    fn read_block(&mut self, records: usize) -> Result<Box<dyn Block<D::Item>>, ItemError> {
        let mut lines = RawRecords::with_capacity(self.block_bytes);
        while lines.left() < records {
            match self.input.next_line() {
                Ok(Some(line)) if self.decode.is_blank(line.bytes) => {}
                Ok(Some(line)) => lines.push(line.bytes, line.number, line.byte),
                Ok(None) => {
                    lines.is_last = true;
                    break;
                }
                Err(error) if *error.kind() == ErrorKind::TOO_LONG => lines.push_failed(error),
                // What follows may be readable again: the reader goes on line by line.
                Err(error) => {
                    lines.push_failed(error);
                    break;
                }
            }
        }
        self.block_bytes = lines.size();
        Ok(Box::new(LineBlock { lines, decode: Arc::clone(&self.decode) }))
    }

    fn position(&self) -> LinePosition {
        self.input.position()
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn total(&self) -> Option<Total> {
        self.input.total()
    }

    fn done(&self) -> u64 {
        self.input.done()
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.input.close();
        Ok(())
    }
}

/// A reader that yields the lines of a text file, without their line ends.
pub type LineReader = DecodedLines<Lines>;

impl DecodeLine for Lines {
    type Item = String;

    fn decode(&self, line: &RawLine<'_>) -> Result<String, ItemError> {
        line.text().map(str::to_owned)
    }
}

/// A writer that writes each output as a line.
pub type LineWriter = FileWriter<Lines>;

/// The format of plain lines.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines;

impl LineWriter {
    /// Creates a writer of the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::encoding(path, Lines)
    }
}

impl<T: AsRef<str>> Encode<T> for Lines {
    fn encode(&mut self, items: &[T], _: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        for item in items {
            let line = item.as_ref();
            // A reader takes a carriage return before the line feed for a part of the line end.
            if line.contains('\n') || line.ends_with('\r') {
                return Err(ItemError::data("cannot write a line: it contains a line end"));
            }
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        Ok(())
    }

    fn is_independent(&self) -> bool {
        true
    }
}

/// The kind `lines`: a record for each line of a text file.
pub(crate) struct LinesKind;

/// Reads a file line by line: `lines` gives records with the field `line`, `jsonl` a record of each JSON object.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LineReaderKeys {
    /// Path of the file, relative to the job file, or its URL; with `*` or `?` in the name, of all files that match, in the order
    /// of their names.
    pub(super) path: Text,
    /// A field that gets the path of the file.
    pub(super) file_field: Option<String>,
    /// Maximum length of a line in bytes.
    pub(super) line_bytes_max: Option<usize>,
    /// What a restart does when the file has changed: `refuse` or `continue`. Default: `refuse`.
    pub(super) if_changed: Option<At<IfChanged>>,
}

/// Writes one field of each record as a line.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LineWriterKeys {
    /// Path of the file, relative to the job file, or its URL.
    path: Text,
    /// The field that is written.
    field: String,
    /// A line before the first record.
    first_line: Option<Text>,
    /// A line after the last record; `${file.records}` is the number of records.
    last_line: Option<Text>,
}

impl ItemKind for LinesKind {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<LineReaderKeys>()
            .reader_restarts(AT_RECORD)
            .writer::<LineWriterKeys>()
            .writer_restarts(CUT_BACK)
            .example(Example {
                reader: "path = \"notes.txt\"",
                writer: "path = \"out.txt\"\nfield = \"name\"",
                input: Some(("notes.txt", "one\n\ntwo\nthree\n")),
                output: Some("out.txt"),
                sql: "",
            })
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let keys: LineReaderKeys = keys.parse()?;
        let names: Names = Arc::new([Arc::from("line")]);
        let (path, field) = (keys.path.clone(), keys.file_field.clone());
        let fields = Some(vec!["line".to_owned()]);
        of_files(cx, &path, field.as_deref(), fields, move |source, scope| {
            let names = Arc::clone(&names);
            let decode = move |line: &str| Ok(Record::single(&names, Value::text(line)));
            Ok(Reads::records(DecodedLines::of(keys.input(source, scope)?, decode)))
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let LineWriterKeys { path, field, first_line, last_line } = keys.parse()?;
        let path = cx.output_location(&path)?;
        let encode = |line: String| Ok(line.into_bytes());
        let ends = lines_around(first_line.as_ref(), last_line.as_ref(), b"\n", encode, cx)?;
        Ok(Box::new(move |scope| {
            let encode = RecordLines { field: field.as_str().into() };
            Ok(BoxedWriter::new(path(scope)?.writer(encode).ends(ends(scope)?)))
        }))
    }

    fn byte_split(&self, keys: Keys<'_>) -> Result<ByteSplit, Problem> {
        let LineReaderKeys { path, .. } = keys.parse()?;
        Ok(ByteSplit { path, make: Box::new(ByteRanges::lines) })
    }
}

impl LineReaderKeys {
    /// Returns the input of `source`, limited to the partition of `scope` if there is one.
    pub(super) fn input(
        &self,
        source: Arc<dyn ByteSource>,
        scope: &StepScope,
    ) -> Result<LineInput, ItemError> {
        let mut input = LineInput::of(source);
        if let Some(max) = self.line_bytes_max {
            input = input.line_bytes_max(max);
        }
        if let Some((start, end)) = byte_range(scope)? {
            input = input.bytes(start, end);
        }
        if IfChanged::continues(self.if_changed.as_ref()) {
            input = input.may_have_changed();
        }
        Ok(input)
    }
}

/// Encodes one field of each record as a line.
#[derive(Clone)]
struct RecordLines {
    field: Arc<str>,
}

impl Encode<Record> for RecordLines {
    fn encode(
        &mut self,
        items: &[Record],
        first: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        let line =
            |item: &Record| item.required("write field", &self.field).map(ToString::to_string);
        let lines: Result<Vec<String>, ItemError> = items.iter().map(line).collect();
        Lines.encode(&lines?, first, bytes)
    }

    fn is_independent(&self) -> bool {
        true
    }
}
