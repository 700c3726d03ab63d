//! The writer: a chunk is one block, or several if it is large.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::codec::{BLOCK_BYTES_MAX, deflate};
use super::{MAGIC, SYNC_BYTES};
use crate::format::AsRecords;
use crate::format::typed::{TypedColumn, TypedColumns, ValueType, into};
use crate::record::Record;
use crate::transport::{ByteSource, Encode, FileWriter};
use crate::value::Value;

/// A writer of a file of Apache Avro, in blocks that are compressed by deflate.
///
/// ```no_run
/// use batchwright_items::format::avro::{AvroColumns, AvroWriter};
/// use batchwright_items::format::typed::{TypedColumn, ValueType};
///
/// let columns = AvroColumns::new(vec![
///     TypedColumn::new("symbol", ValueType::Text).required(),
///     TypedColumn::new("price", ValueType::Decimal { precision: 12, scale: 4 }),
/// ])?;
/// let writer = AvroWriter::new("trades.avro", columns);
/// # Ok::<(), String>(())
/// ```
pub type AvroWriter = FileWriter<AsRecords<AvroColumns>>;

impl AvroWriter {
    /// Creates a writer of the file at `path`.
    pub fn new(path: impl Into<PathBuf>, columns: AvroColumns) -> Self {
        Self::encoding(path, AsRecords(columns))
    }
}

/// A block of this size is full, in bytes before it is compressed.
const BLOCK_BYTES: usize = 1024 * 1024;

/// The encoder of records.
#[derive(Debug, Clone)]
pub struct AvroColumns {
    columns: TypedColumns,
    /// The bytes before the first block.
    header: Arc<[u8]>,
}

impl AvroColumns {
    /// Creates an encoder of records with `columns`.
    ///
    /// # Errors
    ///
    /// When there is no column, two have the same name, a name has other characters than ASCII letters, digits and `_`, or the
    /// digits of a decimal are out of range: a sentence.
    pub fn new(columns: Vec<TypedColumn>) -> Result<Self, String> {
        let columns = TypedColumns::new(columns)?;
        if let Some(column) = columns.iter().find(|column| !is_name(&column.name)) {
            return Err(format!(
                "the column `{}` needs a name of ASCII letters, digits and `_` that does not begin with a digit",
                column.name
            ));
        }
        let fields: Vec<Json> = columns.iter().map(field).collect();
        let schema = json!({ "type": "record", "name": "Record", "fields": fields }).to_string();
        let mut header = MAGIC.to_vec();
        put_number(2, &mut header);
        for (key, value) in [("avro.codec", "deflate"), ("avro.schema", schema.as_str())] {
            put_bytes(key.as_bytes(), &mut header);
            put_bytes(value.as_bytes(), &mut header);
        }
        put_number(0, &mut header);
        // The same in each execution, so that a restart continues the file with the same bytes.
        header.extend_from_slice(&Sha256::digest(schema.as_bytes())[..SYNC_BYTES]);
        Ok(Self { columns, header: header.into() })
    }

    fn put_block(&self, rows: usize, content: &[u8], bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        let compressed = deflate(content)?;
        put_number(rows as i64, bytes);
        put_bytes(&compressed, bytes);
        bytes.extend_from_slice(&self.header[self.header.len() - SYNC_BYTES..]);
        Ok(())
    }
}

/// Whether `name` is a name by the rules of the format.
fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Returns the schema of `column`.
fn field(column: &TypedColumn) -> Json {
    let kind = match column.kind {
        ValueType::Text => json!("string"),
        ValueType::Integer => json!("long"),
        ValueType::Float => json!("double"),
        ValueType::Decimal { precision, scale } => json!({
            "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale
        }),
        ValueType::Boolean => json!("boolean"),
        ValueType::Date => json!({ "type": "int", "logicalType": "date" }),
        ValueType::Time => json!({ "type": "long", "logicalType": "time-micros" }),
        ValueType::Timestamp => json!({ "type": "long", "logicalType": "timestamp-micros" }),
        ValueType::DateTime => json!({ "type": "long", "logicalType": "local-timestamp-micros" }),
        ValueType::Bytes => json!("bytes"),
    };
    let kind = if column.is_required { kind } else { json!(["null", kind]) };
    json!({ "name": &*column.name, "type": kind })
}

pub(super) fn put_number(number: i64, bytes: &mut Vec<u8>) {
    let mut zigzag = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        bytes.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
}

pub(super) fn put_bytes(content: &[u8], bytes: &mut Vec<u8>) {
    put_number(content.len() as i64, bytes);
    bytes.extend_from_slice(content);
}

/// Appends `value` as `column` has it.
fn put(column: &TypedColumn, value: Option<&Value>, bytes: &mut Vec<u8>) -> Result<(), String> {
    if !column.is_required {
        put_number(i64::from(value.is_some()), bytes);
    }
    let Some(value) = value else { return Ok(()) };
    match column.kind {
        ValueType::Text => match value {
            Value::Text(text) | Value::Field(text) => put_bytes(text.as_bytes(), bytes),
            value => put_bytes(value.to_string().as_bytes(), bytes),
        },
        ValueType::Integer => put_number(into::integer(value)?, bytes),
        ValueType::Float => bytes.extend_from_slice(&into::float(value)?.to_le_bytes()),
        ValueType::Decimal { precision, scale } => {
            let whole = into::mantissa(value, precision, scale)?.to_be_bytes();
            put_bytes(shortest(&whole), bytes);
        }
        ValueType::Boolean => bytes.push(into::boolean(value)?.into()),
        ValueType::Date => put_number(into::days(value)?.into(), bytes),
        ValueType::Time => put_number(into::time(value)?, bytes),
        ValueType::Timestamp => put_number(into::timestamp(value)?, bytes),
        ValueType::DateTime => put_number(into::datetime(value)?, bytes),
        ValueType::Bytes => put_bytes(&into::bytes(value)?, bytes),
    }
    Ok(())
}

/// Returns the fewest bytes that are the same number in two's complement.
fn shortest(mut number: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = number
        && let [second, ..] = rest
        && matches!((first, second & 0x80), (0, 0) | (0xff, 0x80))
    {
        number = rest;
    }
    number
}

impl Encode<Record> for AvroColumns {
    fn encode(
        &mut self,
        items: &[Record],
        first: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        self.columns.check_names(items)?;
        if first {
            bytes.extend_from_slice(&self.header);
        }
        let (mut rows, mut content, mut row) = (0, Vec::new(), Vec::new());
        for item in items {
            row.clear();
            for column in self.columns.iter() {
                let value = column.value(item)?;
                put(column, value, &mut row).map_err(|what| column.refused(&what))?;
            }
            if row.len() > BLOCK_BYTES_MAX {
                return Err(ItemError::data(format!(
                    "cannot write a record of {} bytes: a block has up to {BLOCK_BYTES_MAX}",
                    row.len()
                )));
            }
            if rows > 0 && content.len() + row.len() > BLOCK_BYTES {
                self.put_block(rows, &content, bytes)?;
                (rows, content) = (0, Vec::new());
            }
            content.extend_from_slice(&row);
            rows += 1;
        }
        match rows {
            0 => Ok(()),
            rows => self.put_block(rows, &content, bytes),
        }
    }

    fn resume(&mut self, begun: Arc<dyn ByteSource>) -> Result<(), ItemError> {
        let mut header = vec![0; self.header.len()];
        let failed = format!("cannot continue `{}`", begun.shown());
        let read = begun.open_at(0)?.bytes.read_exact(&mut header);
        read.map_err(|error| ItemError::wrap(ErrorKind::IO, failed.clone(), error))?;
        match header == *self.header {
            true => Ok(()),
            false => {
                let what = format!("{failed}: it was begun with other columns");
                Err(ItemError::new(ErrorKind::IO, what))
            }
        }
    }

    fn is_independent(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::varint::number;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for written in [0, 1, -1, 63, 64, -64, -65, 8191, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_number(written, &mut bytes);
            assert_eq!(number(&bytes), Ok(Some((written, bytes.len()))), "{bytes:?}");
            assert_eq!(number(&bytes[..bytes.len() - 1]), Ok(None));
        }
        assert!(number(&[0xff; 10]).is_err());
    }

    #[test]
    fn decimals_have_the_fewest_bytes() {
        for (whole, expected) in [
            (0_i128, &[0][..]),
            (-1, &[0xff]),
            (127, &[127]),
            (128, &[0, 128]),
            (-128, &[128]),
            (-129, &[0xff, 127]),
        ] {
            assert_eq!(shortest(&whole.to_be_bytes()), expected, "{whole}");
        }
    }
}
