//! The messages of a file or a stream: where they are, and the bytes of each.
//!
//! <https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>

use std::io::{Read as _, SeekFrom};
use std::sync::Arc;

use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{Block, Message, MessageHeader, MetadataVersion, RecordBatch};
use arrow_schema::SchemaRef;

use crate::transport::{InputIdentity, OpenSeekable, ReadSeek};

/// The first and the last bytes of a file; a stream has none.
pub(super) const MAGIC: &[u8; 6] = b"ARROW1";
/// The end of a stream: a continuation, and the length zero.
const STREAM_END_BYTES: u64 = 8;
/// Maximum length of a batch that is read over when only the descriptions of messages are wanted, in bytes.
const READ_OVER_BYTES: u64 = 1024 * 1024;
/// Maximum number of rows of a batch without bytes, which has only nulls or no columns.
const EMPTY_ROWS_MAX: i64 = 10_000_000;
/// What precedes the length of a message, since version 0.15 of the format.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Maximum size of what describes a message or the file, in bytes.
pub(super) const METADATA_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Maximum size of a batch, in bytes, as it is stored and after decompression.
pub(super) const BATCH_BYTES_MAX: u64 = 1024 * 1024 * 1024;

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A file or a stream.
pub(super) struct Messages {
    bytes: Box<dyn ReadSeek>,
    pub(super) length: u64,
    pub(super) identity: InputIdentity,
    /// Keeps outputs away from the file.
    _held: Option<Box<dyn Send>>,
    pub(super) schema: SchemaRef,
    pub(super) version: MetadataVersion,
    /// The places of dictionaries and batches, in the order in which they are read.
    pub(super) blocks: Vec<Place>,
}

/// The place of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) block: Block,
    pub(super) is_dictionary: bool,
}

impl Place {
    /// Returns the offset after the message.
    pub(super) fn end(&self) -> u64 {
        let lengths = i64::from(self.block.metaDataLength()) + self.block.bodyLength();
        (self.block.offset() + lengths).unsigned_abs()
    }
}

impl Messages {
    pub(super) fn open(opened: OpenSeekable) -> Result<Self, Failure> {
        let OpenSeekable { mut bytes, identity, held } = opened;
        let length = bytes.seek(SeekFrom::End(0))?;
        let first = read(&mut *bytes, length, 0, MAGIC.len() as u64)?;
        let (schema, version, blocks) = match first == MAGIC {
            true => of_file(&mut *bytes, length)?,
            false => of_stream(&mut *bytes, length)?,
        };
        Ok(Self { bytes, length, identity, _held: held, schema, version, blocks })
    }

    /// Returns the bytes of a message.
    pub(super) fn fetch(&mut self, place: &Place) -> Result<Buffer, Failure> {
        let start = place.block.offset().unsigned_abs();
        let count = place.end() - start;
        if count > BATCH_BYTES_MAX {
            let what = format!("a batch has {count} bytes, and no more than 1 GiB can be read");
            return Err(what.into());
        }
        let bytes = read(&mut *self.bytes, self.length, start, count)?;
        check_decompressed(&bytes, &place.block)?;
        Ok(Buffer::from_vec(bytes))
    }
}

type Contents = (SchemaRef, MetadataVersion, Vec<Place>);

fn of_file(bytes: &mut dyn ReadSeek, length: u64) -> Result<Contents, Failure> {
    const TAIL_BYTES: u64 = 10;
    let tail_at = length.checked_sub(TAIL_BYTES).ok_or("it ends within its first bytes")?;
    let tail = read(bytes, length, tail_at, TAIL_BYTES)?;
    let (count, magic) = tail.split_at(4);
    if magic != MAGIC {
        return Err("its end is missing".into());
    }
    let count = metadata_length(count)?;
    let footer_at = tail_at.checked_sub(count).ok_or("its footer is too long")?;
    let footer = read(bytes, length, footer_at, count)?;
    let footer = arrow_ipc::root_as_footer(&footer)?;
    let schema = schema_of(footer.schema())?;
    let dictionaries = footer.dictionaries().into_iter().flatten();
    let batches = footer.recordBatches().into_iter().flatten();
    let blocks = dictionaries
        .map(|block| Place { block: *block, is_dictionary: true })
        .chain(batches.map(|block| Place { block: *block, is_dictionary: false }))
        .collect::<Vec<_>>();
    blocks.iter().try_for_each(|place| check(&place.block, length))?;
    Ok((schema, footer.version(), blocks))
}

fn of_stream(bytes: &mut dyn ReadSeek, length: u64) -> Result<Contents, Failure> {
    let (mut at, mut known, mut blocks) = (0, None, Vec::new());
    while at < length {
        let Some((block, metadata)) = message_at(bytes, length, at)? else {
            // Another stream may follow, whose rows would be missing.
            if at + STREAM_END_BYTES < length {
                return Err(
                    format!("there are bytes after the end of the stream at byte {at}").into()
                );
            }
            break;
        };
        let message = arrow_ipc::root_as_message(&metadata)?;
        match (message.header_type(), &known) {
            (MessageHeader::Schema, None) => {
                known = Some((schema_of(message.header_as_schema())?, message.version()));
            }
            (MessageHeader::DictionaryBatch, Some(_)) => {
                blocks.push(Place { block, is_dictionary: true });
            }
            (MessageHeader::RecordBatch, Some(_)) => {
                blocks.push(Place { block, is_dictionary: false });
            }
            _ => return Err(format!("it is no Arrow file, or damaged at byte {at}").into()),
        }
        let read_to = at + u64::try_from(block.metaDataLength())?;
        at = Place { block, is_dictionary: false }.end();
        // Fewer requests to a server than a seek for each message.
        if at - read_to <= READ_OVER_BYTES {
            std::io::copy(&mut (&mut *bytes).take(at - read_to), &mut std::io::sink())?;
        }
    }
    let (schema, version) = known.ok_or("it is no Arrow file")?;
    Ok((schema, version, blocks))
}

/// Returns the place of the message at byte `at` and what describes it; `None` at the end of a stream.
pub(super) fn message_at(
    bytes: &mut dyn ReadSeek,
    length: u64,
    at: u64,
) -> Result<Option<(Block, Vec<u8>)>, Failure> {
    let mut prefix = 4;
    let mut count = read(bytes, length, at, prefix)?;
    if count == CONTINUATION {
        count = read(bytes, length, at + prefix, prefix)?;
        prefix += 4;
    }
    let count = metadata_length(&count)?;
    if count == 0 {
        return Ok(None);
    }
    let metadata = read(bytes, length, at + prefix, count)?;
    let body = arrow_ipc::root_as_message(&metadata)?.bodyLength();
    let block = Block::new(i64::try_from(at)?, i32::try_from(prefix + count)?, body);
    check(&block, length)?;
    Ok(Some((block, metadata)))
}

fn metadata_length(bytes: &[u8]) -> Result<u64, Failure> {
    let count = u64::from(u32::from_le_bytes(bytes.try_into()?));
    match count <= METADATA_BYTES_MAX {
        true => Ok(count),
        false => {
            Err("it is no Arrow file, or damaged: the description of a message is too long".into())
        }
    }
}

fn schema_of(schema: Option<arrow_ipc::Schema<'_>>) -> Result<SchemaRef, Failure> {
    let schema = schema.ok_or("it has no schema")?;
    if !schema.endianness().equals_to_target_endianness() {
        return Err("its numbers have another order of bytes than those of this machine".into());
    }
    Ok(Arc::new(try_fb_to_schema(schema)?))
}

/// Refuses a place that is not in the file.
fn check(block: &Block, length: u64) -> Result<(), Failure> {
    let numbers = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
    let is_right = numbers.iter().all(|number| *number >= 0);
    let end = numbers.iter().try_fold(0_i64, |sum, number| sum.checked_add(*number));
    match end.is_some_and(|end| is_right && end.unsigned_abs() <= length) {
        true => Ok(()),
        false => Err("it ends within a message".into()),
    }
}

/// Refuses a batch that is much larger after decompression, for which the library would ask for memory first.
fn check_decompressed(bytes: &[u8], block: &Block) -> Result<(), Failure> {
    let metadata = usize::try_from(block.metaDataLength())?;
    let (head, body) = bytes.split_at_checked(metadata).ok_or("it ends within a message")?;
    let head = head.strip_prefix(&CONTINUATION).unwrap_or(head);
    let message = arrow_ipc::root_as_message(head.get(4..).unwrap_or_default())?;
    let Some(batch) = batch_of(&message) else { return Ok(()) };
    if batch.length() < 0 || body.is_empty() && batch.length() > EMPTY_ROWS_MAX {
        return Err(
            format!("a batch of {} bytes claims {} rows", body.len(), batch.length()).into()
        );
    }
    if batch.compression().is_none() {
        return Ok(());
    }
    let sizes = batch.buffers().into_iter().flatten().filter_map(|buffer| {
        let begin = usize::try_from(buffer.offset()).ok()?;
        let size = body.get(begin..)?.first_chunk::<8>().filter(|_| buffer.length() >= 8)?;
        // A buffer that is not compressed has -1.
        u64::try_from(i64::from_le_bytes(*size)).ok()
    });
    match sizes.fold(0_u64, u64::saturating_add) <= BATCH_BYTES_MAX {
        true => Ok(()),
        false => Err("a batch has more than 1 GiB after decompression".into()),
    }
}

fn batch_of<'a>(message: &Message<'a>) -> Option<RecordBatch<'a>> {
    match message.header_type() {
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch()?.data(),
        _ => message.header_as_record_batch(),
    }
}

/// Reads `count` bytes at byte `at` of `length`.
fn read(bytes: &mut dyn ReadSeek, length: u64, at: u64, count: u64) -> Result<Vec<u8>, Failure> {
    if at.checked_add(count).is_none_or(|end| end > length) {
        return Err(format!("it ends at byte {length}, within a message").into());
    }
    bytes.seek(SeekFrom::Start(at))?;
    let mut content = vec![0; usize::try_from(count)?];
    bytes.read_exact(&mut content)?;
    Ok(content)
}
