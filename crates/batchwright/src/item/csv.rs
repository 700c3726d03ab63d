//! CSV with a header line: typed records in, typed records out.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::csv::{ErrorKind as CsvErrorKind, Reader, ReaderBuilder, StringRecord, WriterBuilder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::lines::shrunk;
use super::{Encode, FileWriter, ItemReader, Total};
use crate::error::{ErrorKind, ItemError};
use crate::step::StepScope;

/// Longest record that is read when nothing else is said, in bytes.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of a bad record that are kept for the dead letters.
const RAW_BYTES_KEPT: u64 = 64 * 1024;
/// Bytes read from the file at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Where a CSV reader stands: behind so many bytes, lines and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvPosition {
    /// Bytes.
    pub byte: u64,
    /// Lines; a quoted field may hold several.
    pub line: u64,
    /// Records, the header included.
    pub record: u64,
}

/// Turns a record and its header into an item.
type Decode<T> = Arc<dyn Fn(&StringRecord, &StringRecord) -> Result<T, ItemError> + Send + Sync>;

/// Yields a `T` for every record of a CSV file.
///
/// Fields are found by the names in the header line. A record with another number of fields than the
/// header, with invalid UTF-8, or longer than its bound is an error of kind `data.…` that knows its line
/// and byte and carries the raw record; reading goes on behind it.
pub struct CsvReader<T> {
    path: PathBuf,
    delimiter: u8,
    record_bytes_max: u64,
    range: Option<(u64, u64)>,
    decode: Decode<T>,
    open: Option<Opened>,
}

struct Opened {
    csv: Reader<Bounded>,
    budget: Budget,
    headers: StringRecord,
    record: StringRecord,
    /// Where the input begins and ends, in bytes of the file.
    start: u64,
    end: u64,
    position: CsvPosition,
}

/// A file that yields no more than the record in work may have, and nothing behind its end.
struct Bounded {
    file: File,
    budget: Budget,
    at: u64,
    end: u64,
}

/// Bytes that may still be read for the record in work.
#[derive(Clone)]
struct Budget(Arc<std::sync::atomic::AtomicU64>);

impl Budget {
    fn set(&self, bytes: u64) {
        self.0.store(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    fn take(&self, bytes: u64) -> bool {
        let left = self.0.load(std::sync::atomic::Ordering::Relaxed);
        self.0.store(left.saturating_sub(bytes), std::sync::atomic::Ordering::Relaxed);
        left > 0
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let buffer = &mut buffer[..length];
        if !self.budget.take(buffer.len() as u64) {
            return Err(std::io::Error::other(TooLong));
        }
        let count = self.file.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the record is too long")]
struct TooLong;

impl<T: DeserializeOwned + 'static> CsvReader<T> {
    /// The records of the file at `path`, each deserialised into a `T`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::decoding(path, |record, headers| {
            record.deserialize(Some(headers)).map_err(|error| match error.kind() {
                CsvErrorKind::Deserialize { err, .. } => {
                    let column = err.field().and_then(|field| headers.get(field as usize));
                    let column =
                        column.map_or_else(String::new, |name| format!("column `{name}`: "));
                    ItemError::parse(format!("read the record: {column}{}", err.kind()))
                }
                _ => ItemError::parse(format!("read the record: {error}")),
            })
        })
    }
}

impl<T> CsvReader<T> {
    /// The records of the file at `path`, each made into a `T` by `decode(record, headers)`.
    pub fn decoding(
        path: impl Into<PathBuf>,
        decode: impl Fn(&StringRecord, &StringRecord) -> Result<T, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path: path.into(),
            delimiter: b',',
            record_bytes_max: RECORD_BYTES_MAX,
            range: None,
            decode: Arc::new(decode),
            open: None,
        }
    }

    /// Between fields. Default `,`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Only the bytes from `start` to `end`, the end excluded, behind the header line; see
    /// [`ByteRanges`](crate::ByteRanges).
    #[must_use]
    pub fn bytes(mut self, start: u64, end: u64) -> Self {
        self.range = Some((start, end));
        self
    }

    /// Longest record, in bytes (rounded up to the next 64 KiB). Default 1 MiB.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: u64) -> Self {
        self.record_bytes_max = bytes;
        self
    }
}

impl<T> Clone for CsvReader<T> {
    /// The same file, not open.
    fn clone(&self) -> Self {
        Self {
            path: self.path.clone(),
            delimiter: self.delimiter,
            record_bytes_max: self.record_bytes_max,
            range: self.range,
            decode: Arc::clone(&self.decode),
            open: None,
        }
    }
}

impl Opened {
    fn note_position(&mut self) {
        let at = self.csv.position();
        self.position = CsvPosition { byte: at.byte(), line: at.line(), record: at.record() };
    }

    fn location(&self) -> String {
        // Whoever begins in the middle does not know how many lines lie before.
        match self.start {
            0 => format!("line {}, byte {}", self.position.line, self.position.byte),
            _ => format!("byte {}", self.position.byte),
        }
    }

    /// The bytes of the file from the record's start up to `end`, as far as they are kept.
    fn raw(&self, path: &Path, end: u64) -> Vec<u8> {
        let start = self.position.byte;
        let length = end.saturating_sub(start).min(RAW_BYTES_KEPT);
        let mut raw = Vec::new();
        let read = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.take(length).read_to_end(&mut raw)
        });
        if read.is_err() {
            raw.clear();
        }
        while matches!(raw.last(), Some(b'\n' | b'\r')) {
            raw.pop();
        }
        raw
    }

    /// Leaves an over-long record at the end of its first line: an unbalanced quote costs one line.
    fn resynchronise(&mut self) -> Result<(), ItemError> {
        let file = &self.csv.get_ref().file;
        let mut file = std::io::BufReader::new(file.try_clone()?);
        file.seek(SeekFrom::Start(self.position.byte))?;
        let passed = std::io::BufRead::skip_until(&mut file, b'\n')? as u64;
        let mut next = ::csv::Position::new();
        next.set_byte(self.position.byte + passed).set_line(self.position.line + 1);
        next.set_record(self.position.record + 1);
        self.budget.set(u64::MAX);
        self.csv.seek_raw(SeekFrom::Start(next.byte()), next)?;
        Ok(())
    }

    /// Whether the last record of the file is cut off inside a quoted field.
    ///
    /// A line that is put behind it would become a part of it.
    fn ends_inside_quotes(&self, path: &Path, end: u64, delimiter: u8) -> bool {
        if end < self.end {
            return false;
        }
        let mut record = Vec::new();
        let length = end.saturating_sub(self.position.byte);
        let read = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.position.byte))?;
            file.take(length).read_to_end(&mut record)
        });
        record.extend(b"\n0\n");
        let mut parser = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(&*record);
        read.is_ok() && parser.byte_records().count() < 2
    }
}

impl<T: Send + Sync> ItemReader for CsvReader<T> {
    type Item = T;
    type Position = CsvPosition;

    fn open(&mut self, position: Option<CsvPosition>, _: &StepScope) -> Result<(), ItemError> {
        let failed = |error: std::io::Error| {
            ItemError::wrap(ErrorKind::IO, format!("open `{}`", self.path.display()), error)
        };
        let file = File::open(&self.path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let budget = Budget(Arc::default());
        budget.set(self.record_bytes_max);
        // Without a range there is no end but that of the file: a pipe has no length.
        let (start, end) = self.range.unwrap_or((0, u64::MAX));
        let source = Bounded { file, budget: budget.clone(), at: 0, end };
        let mut csv = ReaderBuilder::new()
            .delimiter(self.delimiter)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(source);
        let headers = csv.headers().map_err(|error| {
            let what = format!("read the header line of `{}`", self.path.display());
            ItemError::wrap(ErrorKind::FATAL, what, error)
        })?;
        let headers = headers.clone();
        let begin = (start > 0).then_some(CsvPosition { byte: start, line: 1, record: 1 });
        if let Some(CsvPosition { byte, line, record }) = position.or(begin) {
            let needed = self.range.map_or(byte, |(_, end)| byte.max(end));
            if needed > length {
                return Err(shrunk(&self.path, needed, length));
            }
            let mut at = ::csv::Position::new();
            at.set_byte(byte).set_line(line).set_record(record);
            csv.seek(at).map_err(std::io::Error::from).map_err(failed)?;
        }
        let position = CsvPosition { byte: 0, line: 1, record: 0 };
        let record = StringRecord::new();
        let end = end.min(length);
        let mut opened = Opened { csv, budget, headers, record, start, end, position };
        opened.note_position();
        self.open = Some(opened);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let bytes_max = self.record_bytes_max;
        let Self { path, decode, open, delimiter, .. } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("read a closed file"))?;
        open.budget.set(bytes_max);
        let result = open.csv.read_record(&mut open.record);
        let end = open.csv.position().byte();
        let error = match result {
            Ok(false) => {
                open.note_position();
                return Ok(None);
            }
            Ok(true) if open.ends_inside_quotes(path, end, *delimiter) => {
                Some(ItemError::parse("read the record: the file ends inside a quoted field"))
            }
            Ok(true) => match decode(&open.record, &open.headers) {
                Ok(item) => {
                    open.note_position();
                    return Ok(Some(item));
                }
                Err(error) => Some(error),
            },
            Err(error) => match error.into_kind() {
                CsvErrorKind::Io(error)
                    if error.get_ref().is_some_and(|one| one.is::<TooLong>()) =>
                {
                    None
                }
                CsvErrorKind::Io(error) => {
                    return Err(ItemError::from(error).at(open.location()));
                }
                CsvErrorKind::Utf8 { err, .. } => {
                    let column = open.headers.get(err.field()).unwrap_or_default();
                    let what = format!("read the record: column `{column}` is not valid UTF-8");
                    Some(ItemError::parse(what))
                }
                CsvErrorKind::UnequalLengths { expected_len, len, .. } => Some(ItemError::parse(
                    format!("read the record: it has {len} fields, the header has {expected_len}"),
                )),
                other => Some(ItemError::parse(format!("read the record: {other:?}"))),
            },
        };
        let location = open.location();
        let error = match error {
            Some(error) => {
                let raw = open.raw(path, end);
                error.at(location).with_raw(raw)
            }
            None => {
                let raw = open.raw(path, u64::MAX);
                open.resynchronise()?;
                let what = format!("read the record: it is longer than {bytes_max} bytes");
                ItemError::new(ErrorKind::new("data.too_long"), what).at(location).with_raw(raw)
            }
        };
        open.note_position();
        Err(error)
    }

    fn position(&self) -> CsvPosition {
        let start = CsvPosition { byte: 0, line: 1, record: 0 };
        self.open.as_ref().map_or(start, |open| open.position)
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn total(&self) -> Option<Total> {
        self.open.as_ref().map(|open| Total::Bytes(open.end - open.start))
    }

    fn done(&self) -> u64 {
        let start = self.open.as_ref().map_or(0, |open| open.start);
        self.position().byte.saturating_sub(start)
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.open = None;
        Ok(())
    }
}

/// Writes each output as a record; the header line comes from the names of its fields.
pub type CsvWriter = FileWriter<CsvRecords>;

/// Records with a header line.
#[derive(Debug, Clone, Copy)]
pub struct CsvRecords {
    delimiter: u8,
}

impl CsvWriter {
    /// Into the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::encoding(path, CsvRecords { delimiter: b',' })
    }

    /// Between fields. Default `,`.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.encode.delimiter = delimiter;
        self
    }
}

impl<T: Serialize> Encode<T> for CsvRecords {
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        let mut csv = WriterBuilder::new()
            .delimiter(self.delimiter)
            .has_headers(first)
            .buffer_capacity(BUFFER_BYTES)
            .from_writer(bytes);
        for item in items {
            csv.serialize(item)
                .map_err(|error| ItemError::wrap(ErrorKind::DATA, "write as CSV", error))?;
        }
        Ok(csv.flush()?)
    }
}
