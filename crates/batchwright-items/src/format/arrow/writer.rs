//! The writer: each chunk is a batch of rows. An output in work is a stream; its end adds the footer, which has the places of all
//! batches.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::convert::IpcSchemaEncoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_ipc::{Block, FooterBuilder, MetadataVersion};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use batchwright::ItemError;
use batchwright::error::ErrorKind;
use flatbuffers::FlatBufferBuilder;

use super::column;
use super::messages::{BATCH_BYTES_MAX, Failure, MAGIC, METADATA_BYTES_MAX, message_at};
use crate::format::AsRecords;
use crate::format::typed::{TypedColumn, TypedColumns};
use crate::record::Record;
use crate::transport::{ByteSource, Encode, FileWriter, ReadSeek, seekable};

/// A writer of a file of Apache Arrow: each chunk is a batch of rows, so give the step a large `chunk`.
///
/// ```no_run
/// use batchwright_items::format::arrow::{ArrowColumns, ArrowWriter};
/// use batchwright_items::format::typed::{TypedColumn, ValueType};
///
/// let columns = ArrowColumns::new(vec![
///     TypedColumn::new("symbol", ValueType::Text).required(),
///     TypedColumn::new("price", ValueType::Decimal { precision: 12, scale: 4 }),
/// ])?;
/// let writer = ArrowWriter::new("trades.arrow", columns);
/// # Ok::<(), String>(())
/// ```
pub type ArrowWriter = FileWriter<AsRecords<ArrowColumns>>;

impl ArrowWriter {
    /// Creates a writer of the file at `path`, which is not compressed, so that other programs can map it into their memory.
    pub fn new(path: impl Into<PathBuf>, columns: ArrowColumns) -> Self {
        Self::encoding(path, AsRecords(columns)).compressed(None)
    }
}

/// Number of rows of a batch if the step sets none.
const ROWS: usize = 20_000;
/// The first bytes of a file, to a multiple of eight.
const BEGIN: &[u8; 8] = b"ARROW1\0\0";
/// The end of a stream.
const STREAM_END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The encoder of rows.
#[derive(Debug, Clone)]
pub struct ArrowColumns {
    columns: TypedColumns,
    schema: SchemaRef,
    /// The message before the first batch.
    begin: Arc<[u8]>,
}

impl ArrowColumns {
    /// Creates an encoder of rows with `columns`.
    ///
    /// # Errors
    ///
    /// When there is no column, two have the same name, or the digits of a decimal are out of range: a sentence.
    pub fn new(columns: Vec<TypedColumn>) -> Result<Self, String> {
        let columns = TypedColumns::new(columns)?;
        let schema = Arc::new(Schema::new(columns.iter().map(column::schema).collect::<Vec<_>>()));
        let stream = stream(&schema).map_err(|error| error.to_string())?;
        let begin = stream.get_ref().as_slice().into();
        Ok(Self { columns, schema, begin })
    }

    fn batch(&self, rows: &[Record], bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        self.columns.check_names(rows)?;
        let arrays = self.columns.iter().map(|one| column::array(one, rows));
        let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(failed)?;
        let mut stream = stream(&self.schema).map_err(failed)?;
        stream.write(&batch).map_err(failed)?;
        let message = &stream.get_ref()[self.begin.len()..];
        if message.len() as u64 > BATCH_BYTES_MAX {
            let what =
                "cannot write a batch of more than 1 GiB, which is not read: use a smaller chunk";
            return Err(ItemError::fatal(what));
        }
        bytes.extend_from_slice(message);
        Ok(())
    }

    /// Returns the places of the batches that were written.
    fn blocks(&self, written: &Arc<dyn ByteSource>) -> Result<Vec<Block>, ItemError> {
        blocks_of(&mut *seekable(written)?.bytes, &self.begin).map_err(|error| {
            ItemError::wrap(ErrorKind::IO, format!("cannot continue `{}`", written.shown()), error)
        })
    }

    fn footer(&self, blocks: &[Block]) -> FlatBufferBuilder<'_> {
        let mut buffer = FlatBufferBuilder::new();
        let schema = IpcSchemaEncoder::new().schema_to_fb_offset(&mut buffer, &self.schema);
        let dictionaries = buffer.create_vector::<Block>(&[]);
        let batches = buffer.create_vector(blocks);
        let mut footer = FooterBuilder::new(&mut buffer);
        footer.add_version(MetadataVersion::V5);
        footer.add_schema(schema);
        footer.add_dictionaries(dictionaries);
        footer.add_recordBatches(batches);
        let footer = footer.finish();
        buffer.finish(footer, None);
        buffer
    }
}

/// Returns a stream that has its schema, and no batch yet.
fn stream(schema: &Schema) -> Result<StreamWriter<Vec<u8>>, ArrowError> {
    let options = IpcWriteOptions::try_new(BEGIN.len(), false, MetadataVersion::V5)?;
    StreamWriter::try_new_with_options(Vec::new(), schema, options)
}

fn failed(error: ArrowError) -> ItemError {
    ItemError::fatal(format!("cannot write a batch of rows: {error}"))
}

fn blocks_of(written: &mut dyn ReadSeek, begin: &[u8]) -> Result<Vec<Block>, Failure> {
    let length = written.seek(SeekFrom::End(0))?;
    let mut first = vec![0; BEGIN.len() + begin.len()];
    written.seek(SeekFrom::Start(0))?;
    written.read_exact(&mut first)?;
    if first.strip_prefix(BEGIN) != Some(begin) {
        return Err("it was begun with other columns".into());
    }
    let (mut at, mut blocks) = (first.len() as u64, Vec::new());
    while at < length {
        let found = message_at(written, length, at)?;
        let (block, _) = found.ok_or_else(|| format!("it ends before byte {at}"))?;
        at += (i64::from(block.metaDataLength()) + block.bodyLength()).unsigned_abs();
        blocks.push(block);
    }
    Ok(blocks)
}

impl Encode<Record> for ArrowColumns {
    fn encode(
        &mut self,
        items: &[Record],
        first: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        if first {
            bytes.extend_from_slice(BEGIN);
            bytes.extend_from_slice(&self.begin);
        }
        if items.is_empty() { Ok(()) } else { self.batch(items, bytes) }
    }

    fn resume(&mut self, begun: Arc<dyn ByteSource>) -> Result<(), ItemError> {
        self.blocks(&begun).map(drop)
    }

    fn finish(
        &mut self,
        first: bool,
        written: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        let blocks = match (first, written) {
            (true, _) => Vec::new(),
            (false, Some(written)) => self.blocks(&written)?,
            (false, None) => {
                return Err(ItemError::fatal(
                    "cannot end an Arrow output: what was written cannot be read back",
                ));
            }
        };
        let buffer = self.footer(&blocks);
        let footer = buffer.finished_data();
        let length = i32::try_from(footer.len()).ok();
        let length = length.filter(|_| footer.len() as u64 <= METADATA_BYTES_MAX);
        let length = length.ok_or_else(|| {
            ItemError::fatal(
                "cannot end an Arrow output: it has too many batches; use a larger chunk",
            )
        })?;
        bytes.extend_from_slice(&STREAM_END);
        bytes.extend_from_slice(footer);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        Ok(())
    }

    fn is_independent(&self) -> bool {
        true
    }

    fn chunk_items(&self) -> usize {
        ROWS
    }
}
