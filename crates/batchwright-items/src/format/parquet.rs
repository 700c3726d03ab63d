//! Files of Apache Parquet.

mod chunks;
mod column;
mod kind;
mod value;
mod writer;

pub(crate) use kind::ParquetKind;
pub use writer::{ParquetColumns, ParquetWriter};

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{ItemReader, Total};
use batchwright::scope::StepScope;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::typed::{self, ReaderSettings, undamaged};
use crate::record::{Names, Record};
use crate::transport::{ByteSource, FileSource, InputIdentity, changed};
use chunks::Chunks;

/// A reader of the rows of a file of Apache Parquet, <https://parquet.apache.org/docs/file-format/>.
///
/// One group of rows at a time is in memory, compressed as it is in the file, up to 64 MiB; of a larger one, the pages. A
/// restart begins with the group of its position. Lists, maps and structures become lists and objects of JSON.
///
/// ```no_run
/// use batchwright_items::format::parquet::ParquetReader;
///
/// #[derive(serde::Deserialize)]
/// struct Trade {
///     symbol: String,
///     quantity: i64,
/// }
///
/// let trades = ParquetReader::<Trade>::new("trades.parquet").columns(["symbol", "quantity"]);
/// ```
pub struct ParquetReader<T> {
    settings: ReaderSettings<T>,
    open: Option<Opened>,
}

struct Opened {
    rows: RowIter<'static>,
    /// The schema of the columns that are read.
    schema: Arc<Type>,
    names: Names,
    /// Number of rows that were read.
    row: u64,
    total: u64,
    identity: InputIdentity,
}

/// A position in a file of rows: after that many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[doc(hidden)]
pub struct ParquetPosition {
    row: u64,
    input: Option<InputIdentity>,
}

impl<T: DeserializeOwned> ParquetReader<T> {
    /// Creates a reader of the file at `path`; each row is deserialized into a `T`, as from JSON.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::decoding(Arc::new(FileSource::new(path)), typed::from::record)
    }
}

impl<T> ParquetReader<T> {
    fn decoding(source: Arc<dyn ByteSource>, decode: fn(Record) -> Result<T, ItemError>) -> Self {
        Self { settings: ReaderSettings::new(source, decode), open: None }
    }

    /// Reads only the columns called `names`, in the order of the file. Default: all.
    #[must_use]
    pub fn columns<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.settings.columns = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Lets a restart continue after the stored row although the file is no longer the one of the checkpoint.
    /// Default: such a restart is refused.
    #[must_use]
    pub fn may_have_changed(mut self) -> Self {
        self.settings.may_have_changed = true;
        self
    }

    /// Returns the schema of the columns that are read.
    fn projected(&self, metadata: &ParquetMetaData) -> Result<Arc<Type>, ItemError> {
        let whole = metadata.file_metadata().schema_descr().root_schema_ptr();
        if self.settings.columns.is_none() {
            return Ok(whole);
        }
        let all: Vec<&str> = whole.get_fields().iter().map(|field| field.name()).collect();
        let wanted = self.settings.wanted(&all, "column")?;
        let fields = whole.get_fields().iter().zip(wanted).filter(|(_, is_wanted)| *is_wanted);
        let fields = fields.map(|(field, _)| Arc::clone(field)).collect();
        let made = Type::group_type_builder(whole.name()).with_fields(fields).build();
        made.map(Arc::new).map_err(|error| self.settings.failed(&error))
    }

    /// Opens the rows after the first `done`.
    fn rows_after(&self, mut chunks: Chunks, done: u64) -> Result<Opened, ItemError> {
        let identity = chunks.identity();
        let failed = |error| self.settings.failed(&error);
        let metadata = chunks.metadata().map_err(failed)?;
        let schema = self.projected(&metadata)?;
        let total: u64 = metadata.row_groups().iter().map(rows_of).sum();
        if done > total {
            return Err(changed(
                &self.settings.source.shown(),
                &format!("it has only {total} rows"),
            ));
        }
        // Groups before the position are not read.
        let (mut passed, mut first) = (0, 0);
        for group in metadata.row_groups() {
            if passed + rows_of(group) > done {
                break;
            }
            passed += rows_of(group);
            first += 1;
        }
        value::check(&schema, &self.settings.source.shown())
            .map_err(|what| self.settings.failed(&what))?;
        let options =
            ReadOptionsBuilder::new().with_predicate(Box::new(move |_, at| at >= first)).build();
        let reader = SerializedFileReader::new_with_options(chunks, options).map_err(failed)?;
        let projection = self.settings.columns.is_some().then(|| (*schema).clone());
        let names: Names =
            schema.get_fields().iter().map(|field| Arc::from(field.name())).collect();
        let has_rows = reader.metadata().num_row_groups() > 0;
        let rows = RowIter::from_file_into(Box::new(reader)).project(projection).map_err(failed)?;
        let mut open = Opened { rows, schema, names, row: passed, total, identity };
        while has_rows && open.row < done {
            let next = open.rows.next().transpose().map_err(failed)?;
            next.ok_or_else(|| self.settings.failed(&format!("row {} is missing", open.row + 1)))?;
            open.row += 1;
        }
        Ok(open)
    }
}

fn rows_of(group: &parquet::file::metadata::RowGroupMetaData) -> u64 {
    u64::try_from(group.num_rows()).unwrap_or(0)
}

impl<T> Clone for ParquetReader<T> {
    /// Clones the settings; the clone is not open.
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), open: None }
    }
}

impl<T: Send + Sync + 'static> ItemReader for ParquetReader<T> {
    type Item = T;
    type Position = ParquetPosition;

    fn open(&mut self, position: Option<ParquetPosition>, _: &StepScope) -> Result<(), ItemError> {
        let chunks = Chunks::open(&self.settings.source)?;
        if let Some(made_with) = position.and_then(|position| position.input)
            && !self.settings.may_have_changed
            && made_with != chunks.identity()
        {
            let shown = self.settings.source.shown();
            return Err(changed(&shown, "its size, its time or its content is another"));
        }
        let done = position.map_or(0, |position| position.row);
        let opened = undamaged(|| self.rows_after(chunks, done));
        self.open = Some(opened.map_err(|what| self.settings.failed(&what))??);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let Self { settings: ReaderSettings { source, decode, .. }, open } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        let failed = |row: u64, error: &dyn std::fmt::Display| {
            ItemError::fatal(format!("cannot read row {row} of `{}`: {error}", source.shown()))
        };
        let next = undamaged(|| open.rows.next());
        let Some(next) = next.map_err(|what| failed(open.row + 1, &what))? else {
            return match open.row == open.total {
                true => Ok(None),
                false => Err(failed(open.row + 1, &"it is missing")),
            };
        };
        let row = next.map_err(|error| failed(open.row + 1, &error))?;
        open.row += 1;
        let at = |error: ItemError| error.at(format!("row {}", open.row));
        let values = value::values(row, &open.schema).map_err(at)?;
        decode(Record::new(Arc::clone(&open.names), values)).map(Some).map_err(at)
    }

    fn position(&self) -> ParquetPosition {
        match &self.open {
            Some(open) => ParquetPosition { row: open.row, input: Some(open.identity) },
            None => ParquetPosition { row: 0, input: None },
        }
    }

    fn total(&self) -> Option<Total> {
        self.open.as_ref().map(|open| Total::Items(open.total))
    }

    fn done(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.row)
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.open = None;
        Ok(())
    }
}
