//! The readers and writers of job files as one type each, so that all steps have the same type.

use std::sync::Arc;

use batchwright::{
    ChunkTransaction, CsvFormat, CsvReader, Encode, Ending, FileWriter, ItemError, ItemReader,
    ItemWriter, JsonLinesReader, JsonLinesWriter, LineReader, Lines, ListReader, PreparedCommit,
    Sequence, StepScope, Total,
};
use batchwright_store::SqlReader;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::build::CsvInput;
use crate::expression::{Stage, check_fields};
use crate::record::{Names, Record, Value, repeated};
use crate::sql::RecordSqlWriter;

/// The position of the inner reader or writer, as JSON.
type Position = Box<RawValue>;

fn pack(position: &impl serde::Serialize) -> Position {
    serde_json::value::to_raw_value(position).expect("a position is JSON by its contract")
}

fn unpack<T: DeserializeOwned>(position: Option<Position>) -> Result<Option<T>, ItemError> {
    let parsed = position.map(|json| serde_json::from_str(json.get())).transpose();
    parsed.map_err(|error| ItemError::fatal(format!("parse the stored position: {error}")))
}

/// The reader of a step, which checks the columns of its input when it is opened.
#[derive(Clone)]
pub(super) struct AnyReader {
    inner: Opened,
    stages: Arc<[Stage]>,
}

/// A reader of any type.
#[derive(Clone)]
pub(super) enum Opened {
    Csv(Box<CsvReader<Record>>, CsvInput),
    JsonLines(JsonLinesReader<Record>),
    Lines(LineReader, Names),
    List(ListReader<Record>),
    Sequence(Sequence, Names),
    Sql(SqlReader<Record>),
}

/// Runs the same code for every type of reader.
macro_rules! each_reader {
    ($any:expr, $reader:ident => $code:expr) => {
        match $any {
            Opened::Csv($reader, _) => $code,
            Opened::JsonLines($reader) => $code,
            Opened::Lines($reader, _) => $code,
            Opened::List($reader) => $code,
            Opened::Sequence($reader, _) => $code,
            Opened::Sql($reader) => $code,
        }
    };
}

impl AnyReader {
    pub(super) fn new(inner: Opened, stages: Arc<[Stage]>) -> Self {
        Self { inner, stages }
    }

    /// Checks that the open input has all columns that the job file names.
    fn check_columns(&self) -> Result<(), ItemError> {
        let failed = |message: String| Err(ItemError::fatal(message));
        match &self.inner {
            Opened::Csv(csv, input) => {
                let columns = csv.headers().into_iter().flatten().map(String::as_str);
                let columns: Vec<&str> = columns.collect();
                // An empty file has no columns, and no records in which one could be missing.
                if columns.is_empty() {
                    return Ok(());
                }
                if let Some(missing) = input.missing_column(&columns) {
                    let known = columns.join(", ");
                    return failed(format!("find column `{missing}`: the file has {known}"));
                }
                check_fields(&self.stages, Some(&columns)).or_else(failed)
            }
            Opened::Sql(sql) => {
                let columns = sql.columns().unwrap_or_default();
                if let Some(name) = repeated(columns) {
                    return failed(format!(
                        "read the query: two of its columns are called `{name}`; rename one of them with AS"
                    ));
                }
                let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
                check_fields(&self.stages, Some(&columns)).or_else(failed)
            }
            _ => Ok(()),
        }
    }
}

impl ItemReader for AnyReader {
    type Item = Record;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        each_reader!(&mut self.inner, reader => reader.open(unpack(position)?, scope))?;
        self.check_columns()
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        match &mut self.inner {
            Opened::Csv(reader, _) => reader.read(),
            Opened::JsonLines(reader) => reader.read(),
            Opened::List(reader) => reader.read(),
            Opened::Sql(reader) => reader.read(),
            Opened::Lines(reader, names) => {
                let line = reader.read()?;
                Ok(line.map(|line| Record::single(names, Value::Text(line.into()))))
            }
            Opened::Sequence(reader, names) => {
                let number = reader.read()?;
                let value = |n| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
                Ok(number.map(|n| Record::single(names, value(n))))
            }
        }
    }

    fn position(&self) -> Position {
        each_reader!(&self.inner, reader => pack(&reader.position()))
    }

    fn reads_ahead(&self) -> bool {
        each_reader!(&self.inner, reader => reader.reads_ahead())
    }

    fn total(&self) -> Option<Total> {
        each_reader!(&self.inner, reader => reader.total())
    }

    fn done(&self) -> u64 {
        each_reader!(&self.inner, reader => reader.done())
    }

    fn close(&mut self) -> Result<(), ItemError> {
        each_reader!(&mut self.inner, reader => reader.close())
    }
}

/// A writer of any type.
#[derive(Clone)]
pub(super) enum AnyWriter {
    Csv(FileWriter<RecordCsv>),
    JsonLines(JsonLinesWriter),
    Lines(FileWriter<RecordLines>),
    Sql(Box<RecordSqlWriter>),
    None,
}

/// Runs the same code for every type of writer; `None` does nothing.
macro_rules! each_writer {
    ($any:expr, $writer:ident => $code:expr, none => $none:expr) => {
        match $any {
            AnyWriter::Csv($writer) => $code,
            AnyWriter::JsonLines($writer) => $code,
            AnyWriter::Lines($writer) => $code,
            AnyWriter::Sql(boxed) => {
                let $writer = &mut **boxed;
                $code
            }
            AnyWriter::None => $none,
        }
    };
}

/// Helps type inference: several item types are possible, and these readers and writers are of records.
trait RecordWriter: ItemWriter<Record> {}
impl<W: ItemWriter<Record>> RecordWriter for W {}

fn open<W: RecordWriter>(
    writer: &mut W,
    position: Option<Position>,
    scope: &StepScope,
) -> Result<Option<PreparedCommit>, ItemError> {
    writer.open(unpack(position)?, scope)
}

fn position<W: RecordWriter>(writer: &mut W) -> Result<Position, ItemError> {
    writer.position().map(|position| pack(&position))
}

fn prepare<W: RecordWriter>(writer: &mut W, commit: &PreparedCommit) -> Result<(), ItemError> {
    writer.prepare(commit)
}

fn committed<W: RecordWriter>(writer: &mut W) {
    writer.committed();
}

fn rolled_back<W: RecordWriter>(writer: &mut W) -> Result<(), ItemError> {
    writer.rolled_back()
}

fn close<W: RecordWriter>(writer: &mut W, ending: Ending) -> Result<(), ItemError> {
    writer.close(ending)
}

impl ItemWriter<Record> for AnyWriter {
    type Position = Position;

    fn open(
        &mut self,
        position: Option<Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        each_writer!(self, writer => open(writer, position, scope), none => Ok(None))
    }

    fn write(
        &mut self,
        items: &[Record],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        each_writer!(self, writer => writer.write(items, chunk), none => Ok(()))
    }

    fn position(&mut self) -> Result<Position, ItemError> {
        each_writer!(self, writer => position(writer), none => Ok(pack(&())))
    }

    fn keeps_position(&self) -> bool {
        !matches!(self, Self::Sql(_) | Self::None)
    }

    fn prepares(&self) -> bool {
        // Only the SQL writer has transactions of its own.
        matches!(self, Self::Sql(writer) if writer.prepares())
    }

    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        each_writer!(self, writer => prepare(writer, commit), none => Ok(()))
    }

    fn committed(&mut self) {
        each_writer!(self, writer => committed(writer), none => ());
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        each_writer!(self, writer => rolled_back(writer), none => Ok(()))
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        each_writer!(self, writer => close(writer, ending), none => Ok(()))
    }
}

/// Encodes records as CSV; the columns are those named, or those of the first record.
#[derive(Clone)]
pub(super) struct RecordCsv {
    pub(super) format: CsvFormat,
    pub(super) columns: Option<Names>,
}

impl Encode<Record> for RecordCsv {
    fn encode(
        &mut self,
        items: &[Record],
        first: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        if let (None, Some(one)) = (&self.columns, items.first()) {
            self.columns = Some(Arc::clone(one.names()));
        }
        // Without columns and items the header is not known.
        let Some(columns) = &self.columns else { return Ok(()) };
        let null = self.format.null_text();
        self.format.write(bytes, |csv| {
            if first && self.format.has_header() {
                csv.write_record(columns.iter().map(|name| name.as_bytes()))?;
            }
            let mut text = String::new();
            for item in items {
                let same = Arc::ptr_eq(columns, item.names());
                for (index, name) in columns.iter().enumerate() {
                    let value = if same { item.values().get(index) } else { item.get(name) };
                    let value = value.ok_or_else(|| {
                        ItemError::data(format!(
                            "write column `{name}`: the item has no such field"
                        ))
                    })?;
                    write_field(csv, value, null, &mut text)?;
                }
                csv.write_record(None::<&[u8]>)?;
                let extra = item.names().iter().find(|name| !same && !columns.contains(name));
                if let Some(extra) = extra {
                    let what = format!("write field `{extra}`: it is no column of the file");
                    return Err(ItemError::data(what));
                }
            }
            Ok(())
        })
    }

    /// Takes the columns from the header line, regardless of the next record.
    fn resume(&mut self, file: &std::path::Path) -> Result<(), ItemError> {
        if self.columns.is_none() && self.format.has_header() {
            let header = self.format.header_of(file)?;
            self.columns = Some(header.iter().map(|name| Arc::from(name.as_str())).collect());
        }
        Ok(())
    }
}

fn write_field(
    csv: &mut csv::Writer<&mut Vec<u8>>,
    value: &Value,
    null: &str,
    text: &mut String,
) -> Result<(), csv::Error> {
    use std::fmt::Write;
    match value {
        Value::Null => csv.write_field(null),
        Value::Text(value) | Value::Field(value) => csv.write_field(&**value),
        other => {
            text.clear();
            let _ = write!(text, "{other}");
            csv.write_field(text.as_bytes())
        }
    }
}

/// Encodes one field of each record as a line.
#[derive(Clone)]
pub(super) struct RecordLines {
    pub(super) field: Arc<str>,
}

impl Encode<Record> for RecordLines {
    fn encode(
        &mut self,
        items: &[Record],
        first: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        let line = |item: &Record| match item.get(&self.field) {
            Some(value) => Ok(value.to_string()),
            None => {
                let field = &self.field;
                Err(ItemError::data(format!("write field `{field}`: the item has no such field")))
            }
        };
        let lines: Result<Vec<String>, ItemError> = items.iter().map(line).collect();
        Lines.encode(&lines?, first, bytes)
    }
}
