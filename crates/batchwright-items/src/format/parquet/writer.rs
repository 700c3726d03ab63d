//! The writer: every chunk is a group of rows.
//!
//! The bytes of a chunk are those of a small Parquet file of their own, but for its last four, which are appended. So an output
//! in work is a series of files, and a restart cuts it back to the end of one. The end of the output is a footer that describes
//! the groups of all of them; the format finds groups by their offsets and permits other bytes between them.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use parquet::basic::{ColumnOrder, Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    FileMetaData, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};

use super::column;
use crate::format::AsRecords;
use crate::format::typed::{TypedColumn, TypedColumns};
use crate::record::Record;
use crate::transport::{ByteSource, Encode, FileWriter, ReadSeek, seekable};

/// A writer of a file of Apache Parquet: each chunk is a group of rows, so give the step a large `chunk`.
///
/// ```no_run
/// use batchwright_items::format::parquet::{ParquetColumns, ParquetWriter};
/// use batchwright_items::format::typed::{TypedColumn, ValueType};
///
/// let columns = ParquetColumns::new(vec![
///     TypedColumn::new("symbol", ValueType::Text).required(),
///     TypedColumn::new("price", ValueType::Decimal { precision: 12, scale: 4 }),
/// ])?;
/// let writer = ParquetWriter::new("trades.parquet", columns);
/// # Ok::<(), String>(())
/// ```
pub type ParquetWriter = FileWriter<AsRecords<ParquetColumns>>;

impl ParquetWriter {
    /// Creates a writer of the file at `path`. The columns are compressed by Zstandard, and the whole never is.
    pub fn new(path: impl Into<PathBuf>, columns: ParquetColumns) -> Self {
        Self::encoding(path, AsRecords(columns)).compressed(None)
    }
}

/// Number of rows of a group if the step sets none.
const ROWS: usize = 20_000;

/// The encoder of rows.
#[derive(Debug, Clone)]
pub struct ParquetColumns {
    columns: TypedColumns,
    schema: TypePtr,
    properties: WriterPropertiesPtr,
}

/// The last bytes of a chunk, in place of those of a Parquet file: an output in work must not look like a complete one.
const CHUNK_END: &[u8; 4] = b"BWRG";
/// Number of bytes after the footer: its length, and the last ones.
const TAIL_BYTES: usize = 8;

impl ParquetColumns {
    /// Creates an encoder of rows with `columns`.
    ///
    /// # Errors
    ///
    /// When there is no column, two have the same name, or the digits of a decimal are out of range: a sentence.
    pub fn new(columns: Vec<TypedColumn>) -> Result<Self, String> {
        let columns = TypedColumns::new(columns)?;
        let fields = columns.iter().map(column::schema).collect::<Result<Vec<_>, _>>()?;
        let schema = Type::group_type_builder("schema").with_fields(fields).build();
        let schema = Arc::new(schema.map_err(|error| error.to_string())?);
        // Positions within a group are not written, because they would be those of the small file.
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(None)
            .set_created_by("Batchwright".to_owned())
            .build();
        Ok(Self { columns, schema, properties: Arc::new(properties) })
    }

    fn group(&self, rows: &[Record], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        if rows.is_empty() && !first {
            return Ok(());
        }
        let (schema, properties) = (Arc::clone(&self.schema), Arc::clone(&self.properties));
        self.columns.check_names(rows)?;
        let mut file =
            SerializedFileWriter::new(&mut *bytes, schema, properties).map_err(failed)?;
        if !rows.is_empty() {
            let mut group = file.next_row_group().map_err(failed)?;
            for column in self.columns.iter() {
                let mut writer = group.next_column().map_err(failed)?.ok_or_else(|| {
                    ItemError::fatal("cannot write a group of rows: a column is missing")
                })?;
                column::write(column, rows, &mut writer)?;
                writer.close().map_err(failed)?;
            }
            group.close().map_err(failed)?;
        }
        file.close().map_err(failed)?;
        if !rows.is_empty() {
            let end = bytes.len() - CHUNK_END.len();
            bytes[end..].copy_from_slice(CHUNK_END);
        }
        Ok(())
    }

    /// Returns the groups that were written.
    fn groups(&self, written: &Arc<dyn ByteSource>) -> Result<Vec<RowGroupMetaData>, ItemError> {
        groups_of(&mut *seekable(written)?.bytes, &self.schema).map_err(|error| {
            ItemError::wrap(ErrorKind::IO, format!("cannot continue `{}`", written.shown()), error)
        })
    }

    fn end(
        &self,
        first: bool,
        written: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        if first {
            // What is written is a complete file without rows.
            return Ok(());
        }
        let written = written.ok_or_else(|| {
            ItemError::fatal("cannot end a Parquet output: what was written cannot be read back")
        })?;
        let groups = self.groups(&written)?;
        let rows = groups.iter().map(RowGroupMetaData::num_rows).sum();
        let schema =
            Arc::new(parquet::schema::types::SchemaDescriptor::new(Arc::clone(&self.schema)));
        let by = Some("Batchwright".to_owned());
        // Readers trust the limits of groups only if the file says how values are compared.
        let orders = schema.columns().iter().map(|column| {
            let (logical, converted) = (column.logical_type_ref(), column.converted_type());
            ColumnOrder::column_order_for_type(logical, converted, column.physical_type())
        });
        let orders = Some(orders.collect());
        let file = FileMetaData::new(2, rows, by, None, schema, orders);
        let metadata = ParquetMetaData::new(file, groups);
        ParquetMetaDataWriter::new(&mut *bytes, &metadata).finish().map_err(failed)?;
        // The format has 32 bits for this length.
        match u32::try_from(bytes.len()) {
            Ok(_) => Ok(()),
            Err(_) => Err(ItemError::fatal(
                "cannot end a Parquet output: it has too many groups of rows; use a larger chunk",
            )),
        }
    }
}

fn failed(error: ParquetError) -> ItemError {
    ItemError::fatal(format!("cannot write a group of rows: {error}"))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Returns the groups of the small files in `written`, with their places in it.
fn groups_of(written: &mut dyn ReadSeek, schema: &Type) -> Result<Vec<RowGroupMetaData>, Failure> {
    let mut end = written.seek(SeekFrom::End(0))?;
    let mut groups = Vec::new();
    while end > 0 {
        let mut tail = [0; TAIL_BYTES];
        let tail_at = end.checked_sub(TAIL_BYTES as u64).ok_or("it begins with another file")?;
        written.seek(SeekFrom::Start(tail_at))?;
        written.read_exact(&mut tail)?;
        let (length, magic) = tail.split_at(4);
        if magic != CHUNK_END {
            return Err(format!("there is no footer before byte {end}").into());
        }
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        let footer_at = tail_at.checked_sub(length.into()).ok_or("a footer is too long")?;
        let mut footer = vec![0; usize::try_from(length)?];
        written.seek(SeekFrom::Start(footer_at))?;
        written.read_exact(&mut footer)?;
        let metadata = ParquetMetaDataReader::decode_metadata(&footer)?;
        if metadata.file_metadata().schema_descr().root_schema() != schema {
            return Err("it was begun with other columns".into());
        }
        let [group] = metadata.row_groups() else {
            return Err(format!("the footer at byte {footer_at} is not that of one chunk").into());
        };
        // The small file ends with the pages of its last column, before its footer.
        let pages = group.columns().iter().map(|column| column.byte_range());
        let pages_end = pages.map(|(start, length)| start + length).max().unwrap_or_default();
        let start =
            footer_at.checked_sub(pages_end).ok_or("a footer names bytes before the file")?;
        groups.push(moved(group, start)?);
        end = start;
    }
    groups.reverse();
    Ok(groups)
}

/// Returns the group as it is in the whole, where its file begins at `start`.
fn moved(group: &RowGroupMetaData, start: u64) -> Result<RowGroupMetaData, Failure> {
    let by = i64::try_from(start)?;
    let columns = group.columns().iter().map(|column| {
        let (data, dictionary) = (column.data_page_offset(), column.dictionary_page_offset());
        column
            .clone()
            .into_builder()
            .set_data_page_offset(data + by)
            .set_dictionary_page_offset(dictionary.map(|at| at + by))
            .build()
    });
    let columns = columns.collect::<Result<_, _>>()?;
    // Without its number, which would be that in the small file.
    Ok(RowGroupMetaData::builder(group.schema_descr_ptr())
        .set_num_rows(group.num_rows())
        .set_total_byte_size(group.total_byte_size())
        .set_column_metadata(columns)
        .build()?)
}

impl Encode<Record> for ParquetColumns {
    fn encode(
        &mut self,
        items: &[Record],
        first: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        self.group(items, first, bytes)
    }

    fn resume(&mut self, begun: Arc<dyn ByteSource>) -> Result<(), ItemError> {
        self.groups(&begun).map(drop)
    }

    fn finish(
        &mut self,
        first: bool,
        written: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        self.end(first, written, bytes)
    }

    fn is_independent(&self) -> bool {
        true
    }

    fn chunk_items(&self) -> usize {
        ROWS
    }
}
