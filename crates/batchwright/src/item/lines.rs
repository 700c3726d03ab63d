//! Plain lines, and the bounded line input that other line formats stand on.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Encode, FileWriter, ItemReader, Total};
use crate::error::{ErrorKind, ItemError};
use crate::step::StepScope;

/// Longest line that is read when nothing else is said, in bytes.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an over-long line that are kept for the dead letters.
const RAW_BYTES_KEPT: usize = 64 * 1024;
/// Bytes read from the file at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Where a line input stands: behind so many bytes and lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinePosition {
    /// Bytes.
    pub byte: u64,
    /// Lines.
    pub line: u64,
}

/// One line as it stands in the file, without its end.
#[derive(Debug, Clone, Copy)]
pub struct RawLine<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its number, from 1.
    pub number: u64,
    /// Where it begins.
    pub byte: u64,
}

impl<'a> RawLine<'a> {
    /// The line as text.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PARSE`] with line, byte and the raw line, when it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, ItemError> {
        std::str::from_utf8(self.bytes).map_err(|error| {
            let byte = self.byte + error.valid_up_to() as u64;
            ItemError::parse("read the line: it is not valid UTF-8")
                .at(format!("line {}, byte {byte}", self.number))
                .with_raw(self.bytes)
        })
    }

    /// `error` with this line's place and bytes.
    pub fn blame(&self, error: ItemError) -> ItemError {
        error.at(format!("line {}, byte {}", self.number, self.byte)).with_raw(self.bytes)
    }
}

/// Reads lines with their positions; no line is longer than its bound.
#[derive(Debug)]
pub struct LineInput {
    path: PathBuf,
    bytes_max: usize,
    range: Option<(u64, u64)>,
    file: Option<BufReader<File>>,
    position: LinePosition,
    length: u64,
    line: Vec<u8>,
}

impl Clone for LineInput {
    /// The same file, not open.
    fn clone(&self) -> Self {
        let Self { path, bytes_max, range, .. } = self;
        Self { bytes_max: *bytes_max, range: *range, ..Self::new(path.clone()) }
    }
}

impl LineInput {
    /// The file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            bytes_max: LINE_BYTES_MAX,
            range: None,
            file: None,
            position: LinePosition::default(),
            length: 0,
            line: Vec::new(),
        }
    }

    /// Longest line, in bytes; a longer one is an error of kind `data.too_long`. Default 1 MiB.
    #[must_use]
    pub fn line_bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Only the bytes from `start` to `end`, the end excluded: the range of a partition, which begins and
    /// ends where lines do.
    #[must_use]
    pub fn bytes(mut self, start: u64, end: u64) -> Self {
        self.range = Some((start, end));
        self
    }

    /// Opens the file behind `position`.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is shorter than the position.
    pub fn open(&mut self, position: Option<LinePosition>) -> Result<(), ItemError> {
        let failed = |error| {
            ItemError::wrap(ErrorKind::IO, format!("open `{}`", self.path.display()), error)
        };
        let mut file = File::open(&self.path).map_err(failed)?;
        self.length = file.metadata().map_err(failed)?.len();
        let (start, end) = self.range.unwrap_or((0, self.length));
        self.position = position.unwrap_or(LinePosition { byte: start, line: 0 });
        if self.position.byte.max(end) > self.length {
            return Err(shrunk(&self.path, self.position.byte.max(end), self.length));
        }
        file.seek(SeekFrom::Start(self.position.byte)).map_err(failed)?;
        self.file = Some(BufReader::with_capacity(BUFFER_BYTES, file));
        Ok(())
    }

    /// The next line, or `None` at the end.
    ///
    /// # Errors
    ///
    /// A line that is too long, which is passed over; or what the file reports.
    pub fn next_line(&mut self) -> Result<Option<RawLine<'_>>, ItemError> {
        let file = self.file.as_mut().ok_or_else(|| ItemError::fatal("read a closed file"))?;
        let (byte, number) = (self.position.byte, self.position.line + 1);
        if self.range.is_some_and(|(_, end)| byte >= end) {
            return Ok(None);
        }
        self.line.clear();
        let bound = self.bytes_max as u64 + 1;
        let read = file.take(bound).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.position = LinePosition { byte: byte + read as u64, line: number };
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
        } else if read as u64 == bound {
            self.position.byte += pass_over_line(file)?;
            self.line.truncate(RAW_BYTES_KEPT);
            let what = format!("read the line: it is longer than {} bytes", self.bytes_max);
            return Err(ItemError::new(ErrorKind::new("data.too_long"), what)
                .at(format!("line {number}, byte {byte}"))
                .with_raw(self.line.as_slice()));
        }
        Ok(Some(RawLine { bytes: &self.line, number, byte }))
    }

    /// Where the input stands.
    pub fn position(&self) -> LinePosition {
        self.position
    }

    /// Bytes to read: the length of the file when it was opened, or of the range.
    pub fn total(&self) -> Option<Total> {
        Some(Total::Bytes(self.range.map_or(self.length, |(start, end)| end - start)))
    }

    /// Bytes that were read.
    pub fn done(&self) -> u64 {
        self.position.byte - self.range.map_or(0, |(start, _)| start)
    }

    /// Lets go of the file.
    pub fn close(&mut self) {
        self.file = None;
    }
}

/// Consumes up to and including the next line end; returns how much that was.
fn pass_over_line(file: &mut impl BufRead) -> std::io::Result<u64> {
    let mut passed = 0;
    loop {
        let buffer = file.fill_buf()?;
        let (length, found) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        file.consume(length);
        passed += length as u64;
        if found {
            return Ok(passed);
        }
    }
}

pub(super) fn shrunk(path: &std::path::Path, position: u64, length: u64) -> ItemError {
    let path = path.display();
    ItemError::fatal(format!(
        "continue `{path}` at byte {position}: it has only {length} bytes, it is not the file that the \
         checkpoint was made with"
    ))
}

/// Yields the lines of a text file, without their ends.
#[derive(Debug, Clone)]
pub struct LineReader {
    input: LineInput,
}

impl LineReader {
    /// The lines of the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { input: LineInput::new(path) }
    }

    /// Longest line, in bytes. Default 1 MiB.
    #[must_use]
    pub fn line_bytes_max(self, bytes: usize) -> Self {
        Self { input: self.input.line_bytes_max(bytes) }
    }
}

impl LineReader {
    /// Only the bytes from `start` to `end`; see [`ByteRanges`](crate::ByteRanges).
    #[must_use]
    pub fn bytes(self, start: u64, end: u64) -> Self {
        Self { input: self.input.bytes(start, end) }
    }
}

impl ItemReader for LineReader {
    type Item = String;
    type Position = LinePosition;

    fn open(&mut self, position: Option<LinePosition>, _: &StepScope) -> Result<(), ItemError> {
        self.input.open(position)
    }

    fn read(&mut self) -> Result<Option<String>, ItemError> {
        let Some(line) = self.input.next_line()? else { return Ok(None) };
        line.text().map(|text| Some(text.to_owned()))
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

/// Writes each output as a line.
pub type LineWriter = FileWriter<Lines>;

/// Plain lines.
#[derive(Debug, Clone, Copy)]
pub struct Lines;

impl LineWriter {
    /// Into the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::encoding(path, Lines)
    }
}

impl<T: AsRef<str>> Encode<T> for Lines {
    fn encode(&mut self, items: &[T], _: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        for item in items {
            let line = item.as_ref();
            if line.contains('\n') {
                return Err(ItemError::data("write a line: it contains a line end"));
            }
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        Ok(())
    }
}
