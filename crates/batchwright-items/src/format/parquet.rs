//! Files of Apache Parquet.

mod chunks;
mod column;
mod kind;
mod value;
mod writer;

pub(crate) use kind::ParquetKind;
pub use writer::{ParquetColumns, ParquetWriter};

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
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

use super::typed::{self, ReaderSettings, reader_settings, undamaged};
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
    /// Which ranges are of timestamps without a time zone.
    local: Vec<bool>,
    /// Number of the last row that was read.
    row: u64,
    /// The rows of the groups that are read and not passed yet.
    groups: VecDeque<Range<u64>>,
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

reader_settings!(ParquetReader);

impl<T> ParquetReader<T> {
    fn decoding(source: Arc<dyn ByteSource>, decode: fn(Record) -> Result<T, ItemError>) -> Self {
        Self { settings: ReaderSettings::new(source, decode), open: None }
    }

    /// Returns the schema of the columns that are read.
    fn projected(&self, metadata: &ParquetMetaData) -> Result<Arc<Type>, ItemError> {
        let whole = metadata.file_metadata().schema_descr().root_schema_ptr();
        let all: Vec<&str> = whole.get_fields().iter().map(|field| field.name()).collect();
        let wanted = self.settings.wanted(&all, "column")?;
        if self.settings.columns.is_none() {
            return Ok(whole);
        }
        let fields = whole.get_fields().iter().zip(wanted).filter(|(_, is_wanted)| *is_wanted);
        let fields = fields.map(|(field, _)| Arc::clone(field)).collect();
        let made = Type::group_type_builder(whole.name()).with_fields(fields).build();
        made.map(Arc::new).map_err(|error| self.settings.failed(&error))
    }

    /// Opens the rows after the first `done`.
    fn rows_after(&self, mut chunks: Chunks, done: u64) -> Result<Opened, ItemError> {
        let identity = chunks.identity();
        let failed = |error| self.settings.failed(&error);
        let wrong = |what: String| self.settings.failed(&what);
        let metadata = chunks.metadata().map_err(failed)?;
        let schema = self.projected(&metadata)?;
        let total: u64 = metadata.row_groups().iter().map(rows_of).sum();
        if done > total {
            return Err(changed(
                &self.settings.source.shown(),
                &format!("it has only {total} rows"),
            ));
        }
        value::check(&schema, &self.settings.source.shown())
            .map_err(|what| self.settings.failed(&what))?;
        let local = self.settings.local(|name| value::is_local(&schema, name));
        // Otherwise the order of the limits is not known.
        let is_ordered = metadata.file_metadata().column_orders().is_some();
        let mut begin = 0;
        let (mut groups, mut chosen) = (VecDeque::new(), HashSet::new());
        for (at, group) in metadata.row_groups().iter().enumerate() {
            let rows = begin..begin + rows_of(group);
            begin = rows.end;
            // Groups before the position are not read.
            if rows.end > done.max(rows.start)
                && (!is_ordered
                    || value::can_have(group, &self.settings.only, &local).map_err(wrong)?)
            {
                groups.push_back(rows);
                chosen.insert(at);
            }
        }
        let options = ReadOptionsBuilder::new()
            .with_predicate(Box::new(move |_, at| chosen.contains(&at)))
            .build();
        let reader = SerializedFileReader::new_with_options(chunks, options).map_err(failed)?;
        let projection = self.settings.columns.is_some().then(|| (*schema).clone());
        let names: Names =
            schema.get_fields().iter().map(|field| Arc::from(field.name())).collect();
        let has_rows = reader.metadata().num_row_groups() > 0;
        let rows = RowIter::from_file_into(Box::new(reader)).project(projection).map_err(failed)?;
        let passed = groups.front().map_or(done, |rows| rows.start.min(done));
        let mut open = Opened { rows, schema, names, local, row: done, groups, total, identity };
        for row in passed..if has_rows { done } else { passed } {
            let next = open.rows.next().transpose().map_err(failed)?;
            next.ok_or_else(|| self.settings.failed(&format!("row {} is missing", row + 1)))?;
        }
        Ok(open)
    }
}

impl Opened {
    /// Returns the number of the next row; `None` after the last one.
    fn next_row(&mut self) -> Option<u64> {
        while self.groups.front().is_some_and(|rows| self.row >= rows.end) {
            self.groups.pop_front();
        }
        self.groups.front().map(|rows| self.row.max(rows.start) + 1)
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

    fn open(
        &mut self,
        position: Option<ParquetPosition>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        self.settings.stop = scope.stop().clone();
        let chunks = Chunks::open(&self.settings.source)?;
        let made_with = position.and_then(|position| position.input);
        self.settings.check_same(made_with, chunks.identity())?;
        let done = position.map_or(0, |position| position.row);
        let opened = undamaged(|| self.rows_after(chunks, done));
        self.open = Some(opened.map_err(|what| self.settings.failed(&what))??);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let Self { settings, open } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        let failed = |row: u64, error: &dyn std::fmt::Display| {
            let shown = settings.source.shown();
            ItemError::fatal(format!("cannot read row {row} of `{shown}`: {error}"))
        };
        let before = open.row;
        loop {
            let number = open.next_row();
            let next = undamaged(|| open.rows.next());
            let next = next.map_err(|what| failed(number.unwrap_or(open.row), &what))?;
            let (number, row) = match (number, next) {
                (Some(number), Some(row)) => (number, row),
                (None, None) => {
                    // Rows that are left out do not move the position at the end.
                    open.row = before;
                    return Ok(None);
                }
                (Some(number), None) => return Err(failed(number, &"it is missing")),
                (None, Some(_)) => return Err(failed(open.row + 1, &"there are too many")),
            };
            let row = row.map_err(|error| failed(number, &error))?;
            open.row = number;
            let at = |error: ItemError| error.at(format!("row {number}"));
            let values = value::values(row, &open.schema).map_err(at)?;
            let record = Record::new(Arc::clone(&open.names), values);
            if settings.accepts(&record, &open.local).map_err(at)? {
                return (settings.decode)(record).map(Some).map_err(at);
            }
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use batchwright::ChunkStepBuilder;
    use batchwright::item::{ListReader, ListWriter};
    use batchwright::testing::TestBench;
    use serde_json::json;

    use super::*;
    use crate::format::typed::{ColumnRange, TypedColumn, ValueType};
    use crate::transport::{MemorySource, OpenSource};

    /// Bytes that count how often they are opened.
    struct Counting(MemorySource, AtomicUsize);

    impl ByteSource for Counting {
        fn shown(&self) -> String {
            self.0.shown()
        }

        fn open_at(&self, byte: u64) -> Result<OpenSource, ItemError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.open_at(byte)
        }
    }

    #[test]
    fn groups_without_a_row_in_the_range_are_not_fetched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        let columns = vec![TypedColumn::new("day", ValueType::Date)];
        let row = |n: i64| json!({ "day": format!("2026-11-{:02}", n + 1) });
        let step = ChunkStepBuilder::new("write")
            .reader(ListReader::new((0..30).map(row).collect::<Vec<_>>()))
            .writer(ParquetWriter::new(&path, ParquetColumns::new(columns).unwrap()))
            .chunk_size(3)
            .build();
        assert!(TestBench::of_step(step).run().failure.is_none());
        let bytes = std::fs::read(path).unwrap();
        let opened = |range: ColumnRange| {
            let source = MemorySource::new("rows.parquet", bytes.clone());
            let source = Arc::new(Counting(source, AtomicUsize::new(0)));
            let items = Arc::default();
            let reader = ParquetReader::<Record>::decoding(Arc::clone(&source) as _, Ok);
            let step = ChunkStepBuilder::new("read")
                .reader(reader.only(range))
                .writer(ListWriter::new(Arc::clone(&items)))
                .build();
            assert!(TestBench::of_step(step).run().failure.is_none());
            (items.lock().unwrap().len(), source.1.load(Ordering::SeqCst))
        };
        let (all, for_all) = opened(ColumnRange::of("day"));
        let (some, for_some) = opened(ColumnRange::of("day").from("2026-11-08").to("2026-11-11"));
        let (none, for_none) = opened(ColumnRange::of("day").from("2026-12-01"));
        assert_eq!((all, some, none), (30, 4, 0));
        assert_eq!((for_all - for_none, for_some - for_none), (10, 2));
    }
}
