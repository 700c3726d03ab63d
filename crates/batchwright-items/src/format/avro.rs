//! Files of Apache Avro.

mod codec;
mod decode;
mod kind;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use kind::AvroKind;
pub use writer::{AvroColumns, AvroWriter};

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{ItemReader, Total};
use batchwright::scope::StepScope;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::typed::{self, ReaderSettings, reader_settings};
use crate::record::{Names, Record};
use crate::transport::input::{Input, Mark};
use crate::transport::{ByteSource, InputIdentity, file};
use crate::varint;
use codec::{BLOCK_BYTES_MAX, Codec};
use decode::{Decoder, ENDS};
use schema::{Schema, Shape};

/// The first bytes of a file.
const MAGIC: &[u8; 4] = b"Obj\x01";
/// Number of bytes of the marker after each block.
const SYNC_BYTES: usize = 16;
/// Maximum size of what precedes the first block, in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A reader of the records of an object container file of Apache Avro,
/// <https://avro.apache.org/docs/1.12.0/specification/#object-container-files>.
///
/// One block at a time is in memory, up to 64 MiB of it. A restart begins with the block of its position. The fields of a record
/// within a record, and the entries of a map, become an object, and an array becomes a list.
///
/// ```no_run
/// use batchwright_items::format::avro::AvroReader;
///
/// #[derive(serde::Deserialize)]
/// struct Trade {
///     symbol: String,
///     quantity: i64,
/// }
///
/// let trades = AvroReader::<Trade>::new("trades.avro").columns(["symbol", "quantity"]);
/// ```
pub struct AvroReader<T> {
    settings: ReaderSettings<T>,
    open: Option<Opened>,
    /// The position at the end: records that are left out do not move it.
    end: Option<AvroPosition>,
}

struct Opened {
    input: Input,
    /// The name of the file, for messages.
    shown: String,
    schema: Schema,
    /// Which ranges are of timestamps without a time zone.
    local: Vec<bool>,
    names: Names,
    /// Whether each field is read.
    wanted: Vec<bool>,
    codec: Codec,
    sync: [u8; SYNC_BYTES],
    block: Option<OpenBlock>,
    /// Number of records that were read.
    records: u64,
}

/// A block that is read.
struct OpenBlock {
    /// Where it begins.
    begin: Mark,
    content: Vec<u8>,
    at: usize,
    /// Number of its records, and of those that were read.
    count: u64,
    read: u64,
    /// Number of values without bytes that were read.
    empty: usize,
}

/// A position in a file of blocks: in the block that begins at a byte, after some of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[doc(hidden)]
pub struct AvroPosition {
    byte: u64,
    in_block: u64,
    records: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<InputIdentity>,
}

impl<T: DeserializeOwned> AvroReader<T> {
    /// Creates a reader of the file at `path`; each record is deserialized into a `T`, as from JSON.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::decoding(file(path), typed::from::record)
    }
}

reader_settings!(AvroReader);

impl<T> AvroReader<T> {
    fn decoding(source: Arc<dyn ByteSource>, decode: fn(Record) -> Result<T, ItemError>) -> Self {
        Self { settings: ReaderSettings::new(source, decode), open: None, end: None }
    }

    fn begin(&self) -> Result<Opened, ItemError> {
        let mut input = Input::open(Arc::clone(&self.settings.source))?;
        let mut wanted = MAGIC.len();
        let header = loop {
            while input.rest().len() < wanted && input.more()? {}
            match Header::parse(input.rest()) {
                Ok((header, length)) => {
                    input.consume(length);
                    break header;
                }
                // There may be more of it.
                Err(what) if what == ENDS && input.rest().len() >= wanted => {
                    if wanted >= HEADER_BYTES_MAX {
                        return Err(self.settings.failed(&"its header is too long"));
                    }
                    wanted = input.rest().len() * 2;
                }
                Err(what) => return Err(self.settings.failed(&what)),
            }
        };
        let failed = |what: String| self.settings.failed(&what);
        let schema = Schema::parse(&header.schema)
            .map_err(|what| failed(format!("its schema cannot be used: {what}")))?;
        let codec = Codec::of(&header.codec).map_err(failed)?;
        let all: Vec<&str> = schema.fields.iter().map(|field| &*field.name).collect();
        let wanted = self.settings.wanted(&all, "field")?;
        let fields = schema.fields.iter().zip(&wanted).filter(|(_, is_wanted)| **is_wanted);
        let names = fields.map(|(field, _)| Arc::clone(&field.name)).collect();
        let (block, records, shown) = (None, 0, self.settings.source.shown());
        let local = self.settings.local(|name| {
            let field = schema.fields.iter().find(|field| &*field.name == name);
            field.is_some_and(|field| is_local(&field.shape))
        });
        let sync = header.sync;
        Ok(Opened { input, shown, schema, names, local, wanted, codec, sync, block, records })
    }
}

/// Whether values of `shape` are timestamps without a time zone, or null.
fn is_local(shape: &Shape) -> bool {
    match shape {
        Shape::Moment { is_utc, .. } => !is_utc,
        Shape::Union(shapes) => shapes.iter().any(is_local),
        _ => false,
    }
}

/// What precedes the first block.
struct Header {
    schema: Vec<u8>,
    codec: Vec<u8>,
    sync: [u8; SYNC_BYTES],
}

impl Header {
    /// Parses the first bytes of a file, and returns their number.
    fn parse(bytes: &[u8]) -> Result<(Self, usize), String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("it is no file of Avro")?;
        let (entries, rest) = decode::entries(rest)?;
        let (sync, after) = rest.split_first_chunk().ok_or(ENDS)?;
        let value = |wanted: &str| {
            entries
                .iter()
                .find(|(key, _)| *key == wanted.as_bytes())
                .map(|(_, value)| value.to_vec())
        };
        let schema = value("avro.schema").ok_or("it has no schema")?;
        let codec = value("avro.codec").unwrap_or_else(|| b"null".to_vec());
        Ok((Self { schema, codec, sync: *sync }, bytes.len() - after.len()))
    }
}

impl Opened {
    /// Reads the next block; returns whether there is one.
    fn next_block(&mut self) -> Result<bool, ItemError> {
        let begin = self.input.mark();
        let byte = self.input.byte();
        let shown = &self.shown;
        let failed = |what: String| {
            ItemError::fatal(format!("cannot read the block at byte {byte} of `{shown}`: {what}"))
        };
        let (mut numbers, mut length) = ([0; 2], 0);
        for into in &mut numbers {
            loop {
                if let Some((found, bytes)) =
                    varint::number(&self.input.rest()[length..]).map_err(failed)?
                {
                    *into = found;
                    length += bytes;
                    break;
                }
                if !self.input.more()? {
                    return match self.input.rest().is_empty() {
                        true => Ok(false),
                        false => Err(failed("the file ends within it".to_owned())),
                    };
                }
            }
        }
        let [count, size] = numbers.map(|number| usize::try_from(number).ok());
        let (Some(count), Some(size)) = (count, size) else {
            return Err(failed("its numbers of records and of bytes are negative".to_owned()));
        };
        if size > BLOCK_BYTES_MAX {
            return Err(failed(format!(
                "it has {size} bytes, and the maximum is {BLOCK_BYTES_MAX}"
            )));
        }
        // The input is consumed when the block is known to be right.
        let end = length + size + SYNC_BYTES;
        while self.input.rest().len() < end {
            if !self.input.more()? {
                return Err(failed("the file ends within it".to_owned()));
            }
        }
        let (block, sync) = self.input.rest()[length..end].split_at(size);
        if sync != self.sync {
            return Err(failed("the marker of the file does not follow it".to_owned()));
        }
        let content = self.codec.decompress(block).map_err(failed)?.into_owned();
        if count == 0 && !content.is_empty() {
            return Err(failed(format!("{} bytes follow its records", content.len())));
        }
        self.input.consume(end);
        let count = count as u64;
        self.block = Some(OpenBlock { begin, content, at: 0, count, read: 0, empty: 0 });
        Ok(true)
    }

    /// Returns the next record; `None` at the end.
    fn next(&mut self) -> Result<Option<Record>, ItemError> {
        loop {
            if self.block.as_ref().is_some_and(|block| block.read < block.count) {
                return self.next_of_block()?.map(Some);
            }
            self.block = None;
            if !self.next_block()? {
                return Ok(None);
            }
        }
    }

    /// Decodes the next record of the block; returns the error of one whose values are out of range.
    fn next_of_block(&mut self) -> Result<Result<Record, ItemError>, ItemError> {
        let Some(block) = &mut self.block else { return Err(ItemError::fatal("no block is open")) };
        let number = self.records + 1;
        let shown = &self.shown;
        let failed = |what: String| {
            ItemError::fatal(format!("cannot read record {number} of `{shown}`: {what}"))
        };
        let mut decoder = Decoder::new(&self.schema, &block.content[block.at..], block.empty);
        let values = decoder.record(&self.wanted).map_err(failed)?;
        if block.read + 1 == block.count && decoder.left() > 0 {
            return Err(failed(format!("{} bytes follow the block's records", decoder.left())));
        }
        (block.at, block.empty) = (block.content.len() - decoder.left(), decoder.empty());
        block.read += 1;
        self.records = number;
        Ok(match values {
            Ok(values) => Ok(Record::new(Arc::clone(&self.names), values)),
            Err(error) => Err(error.at(format!("record {number}"))),
        })
    }
}

impl<T> Clone for AvroReader<T> {
    /// Clones the settings; the clone is not open.
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), open: None, end: None }
    }
}

impl<T: Send + Sync + 'static> ItemReader for AvroReader<T> {
    type Item = T;
    type Position = AvroPosition;

    fn open(&mut self, position: Option<AvroPosition>, scope: &StepScope) -> Result<(), ItemError> {
        self.settings.stop = scope.stop().clone();
        (self.open, self.end) = (None, None);
        let mut open = self.begin()?;
        if let Some(position) = position.filter(|position| position.byte > 0) {
            open.input.go_to(position.byte, position.input, self.settings.may_have_changed)?;
            open.records = position.records.saturating_sub(position.in_block);
            if position.in_block > 0 && !open.next_block()? {
                return Err(self.settings.failed(&"the block of the checkpoint is not there"));
            }
            for _ in 0..position.in_block {
                // One that fails has failed before.
                drop(open.next_of_block()?);
            }
        }
        self.open = Some(open);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let before = (!self.settings.only.is_empty()).then(|| self.position());
        let Self { settings, open, end } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        loop {
            let Some(record) = open.next()? else {
                *end = before;
                return Ok(None);
            };
            let at = |error: ItemError| error.at(format!("record {}", open.records));
            if settings.accepts(&record, &open.local).map_err(at)? {
                return (settings.decode)(record).map(Some).map_err(at);
            }
        }
    }

    fn position(&self) -> AvroPosition {
        if let Some(end) = self.end {
            return end;
        }
        let Some(open) = &self.open else {
            return AvroPosition { byte: 0, in_block: 0, records: 0, input: None };
        };
        let records = open.records;
        match open.block.as_ref().filter(|block| block.read < block.count) {
            Some(block) => {
                let (byte, input) = open.input.byte_and_identity(&block.begin);
                AvroPosition { byte, in_block: block.read, records, input }
            }
            None => {
                let (byte, input) = (open.input.byte(), open.input.identity());
                AvroPosition { byte, in_block: 0, records, input }
            }
        }
    }

    fn total(&self) -> Option<Total> {
        self.open.as_ref()?.input.length().map(Total::Bytes)
    }

    fn done(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.input.byte())
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.open = None;
        Ok(())
    }
}
