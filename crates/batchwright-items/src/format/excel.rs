//! Excel workbooks (`.xlsx`): each row of a sheet is a record or an item.

mod cell;
mod column;
mod kind;
mod package;
mod sheet;
mod writer;

pub use column::{ExcelColumn, ExcelType};
pub(crate) use kind::ExcelKind;
pub use writer::{ExcelColumns, ExcelWriter};

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::ItemReader;
use batchwright::scope::StepScope;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::sheet::{Cell, Row, Rows};
use super::csv::check_names;
use super::raw::RAW_BYTES_KEPT;
use crate::record::{Names, Record};
use crate::transport::{ByteSource, FileSource, InputIdentity, OpenSeekable, changed, seekable};
use crate::value::Value;

/// A position in a sheet: the number of the last row that was read, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowPosition {
    /// Number of the row; 0 before the first one.
    pub row: u32,
    /// Identity of the file.
    pub input: Option<InputIdentity>,
}

/// A reader that yields a `T` for every row of a sheet.
///
/// Columns are found by the names in the first row that is not empty. Numbers without a fraction are integers, days are dates, an
/// empty cell is null; rows without any value are left out. The sheet is read row by row, but the texts that its cells share are
/// in memory. A cell with an error of Excel, and a value in a column without a name, make the row a bad record. A restart reads the
/// rows before its position again, without decoding them.
///
/// ```no_run
/// use batchwright_items::format::excel::ExcelReader;
///
/// #[derive(serde::Deserialize)]
/// struct Price {
///     article: String,
///     price: f64,
/// }
///
/// let prices = ExcelReader::<Price>::new("prices.xlsx").sheet("2026");
/// ```
pub struct ExcelReader<T> {
    source: Arc<dyn ByteSource>,
    sheet: Option<String>,
    has_header: bool,
    may_have_changed: bool,
    decode: fn(Record) -> Result<T, ItemError>,
    open: Option<Opened>,
}

struct Opened {
    rows: Rows,
    /// Number of the first column.
    first: u32,
    names: Names,
    row: u32,
    identity: Option<InputIdentity>,
    /// The first row of a sheet without a header, which was read for the number of its columns.
    pending: Option<Row>,
    /// Keeps outputs away from the file.
    _held: Option<Box<dyn Send>>,
}

impl<T: DeserializeOwned> ExcelReader<T> {
    /// Creates a reader of the first sheet of the workbook at `path`; each row is deserialized into a `T`, as from JSON.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::decoding(Arc::new(FileSource::new(path)), |record| {
            let json = serde_json::to_value(&record).and_then(serde_json::from_value);
            json.map_err(|error| ItemError::wrap(ErrorKind::PARSE, "cannot read the row", error))
        })
    }
}

impl<T> ExcelReader<T> {
    fn decoding(source: Arc<dyn ByteSource>, decode: fn(Record) -> Result<T, ItemError>) -> Self {
        let (sheet, open) = (None, None);
        Self { source, sheet, has_header: true, may_have_changed: false, decode, open }
    }

    /// Reads the sheet called `name` instead of the first one.
    #[must_use]
    pub fn sheet(mut self, name: impl Into<String>) -> Self {
        self.sheet = Some(name.into());
        self
    }

    /// Sets whether the first row has the names of the columns. Default: `true`; otherwise they are `c1`, `c2`, and so on, as
    /// many as the first row has.
    #[must_use]
    pub fn header(mut self, has_header: bool) -> Self {
        self.has_header = has_header;
        self
    }

    /// Lets a restart continue after the stored row although the file is no longer the one of the checkpoint.
    /// Default: such a restart is refused.
    #[must_use]
    pub fn may_have_changed(mut self) -> Self {
        self.may_have_changed = true;
        self
    }

    fn failed(&self, what: &str) -> ItemError {
        ItemError::fatal(format!("cannot read `{}`: {what}", self.source.shown()))
    }

    /// Returns the first column and the names of all.
    fn columns(&self, row: Option<&Row>) -> Result<(u32, Names), ItemError> {
        let Some(row) = row else { return Ok((0, Arc::new([]))) };
        let (first, last) = row.columns();
        let name = |column: u32| match row.get(column) {
            _ if !self.has_header => format!("c{}", column - first + 1),
            None => String::new(),
            Some(cell) => cell.shown(),
        };
        let names: Vec<String> = (first..=last).map(name).collect();
        check_names(names.iter().map(String::as_str)).map_err(|problem| self.failed(&problem))?;
        Ok((first, names.into_iter().map(Arc::from).collect()))
    }
}

impl<T> Clone for ExcelReader<T> {
    /// Clones the settings; the clone is not open.
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            sheet: self.sheet.clone(),
            has_header: self.has_header,
            may_have_changed: self.may_have_changed,
            decode: self.decode,
            open: None,
        }
    }
}

impl<T: Send + Sync + 'static> ItemReader for ExcelReader<T> {
    type Item = T;
    type Position = RowPosition;

    fn open(&mut self, position: Option<RowPosition>, _: &StepScope) -> Result<(), ItemError> {
        let OpenSeekable { bytes, identity, held } = seekable(&self.source)?;
        if let Some(made_with) = position.and_then(|position| position.input)
            && !self.may_have_changed
            && made_with != identity
        {
            let shown = self.source.shown();
            return Err(changed(&shown, "its size, its time or its file is another"));
        }
        let mut rows = Rows::open(bytes, self.sheet.clone())?;
        let header = rows.next().map_err(|problem| self.failed(&problem))?;
        let (first, names) = self.columns(header.as_ref())?;
        let mut open = Opened {
            rows,
            first,
            names,
            row: header.as_ref().map_or(0, |row| row.number),
            identity: Some(identity),
            pending: None,
            _held: held,
        };
        if !self.has_header {
            (open.row, open.pending) = (0, header);
        }
        let done = position.map_or(0, |position| position.row);
        while open.row < done {
            match open.next().map_err(|problem| self.failed(&problem))? {
                Some(row) if row.number <= done => open.row = row.number,
                next if self.may_have_changed => {
                    (open.row, open.pending) = (done, next);
                }
                _ => {
                    let shown = self.source.shown();
                    return Err(changed(&shown, &format!("it has no row {done}")));
                }
            }
        }
        self.open = Some(open);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let Self { source, decode, open, .. } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        let next = open.next().map_err(|problem| {
            ItemError::fatal(format!(
                "cannot read `{}` after row {}: {problem}",
                source.shown(),
                open.row
            ))
        });
        let Some(row) = next? else { return Ok(None) };
        open.row = row.number;
        let record = open.record(&row).and_then(decode);
        record.map(Some).map_err(|error| {
            let mut raw = row.shown().into_bytes();
            raw.truncate(RAW_BYTES_KEPT);
            error.at(format!("row {}", row.number)).with_raw(raw)
        })
    }

    fn position(&self) -> RowPosition {
        match &self.open {
            None => RowPosition { row: 0, input: None },
            Some(open) => RowPosition { row: open.row, input: open.identity },
        }
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.open = None;
        Ok(())
    }
}

impl Opened {
    fn next(&mut self) -> Result<Option<Row>, String> {
        match self.pending.take() {
            Some(row) => Ok(Some(row)),
            None => self.rows.next(),
        }
    }

    fn record(&self, row: &Row) -> Result<Record, ItemError> {
        let (first, last) = row.columns();
        let count = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        for column in [first, last] {
            if !(self.first..self.first + count).contains(&column) {
                let column = sheet::letters(column);
                return Err(ItemError::parse(format!(
                    "cannot read the row: column {column} has a value and no name"
                )));
            }
        }
        let value = |column: u32| match row.get(column) {
            None => Ok(Value::Null),
            Some(Cell::Value(value)) => Ok(value.clone()),
            Some(Cell::Error(error)) => {
                let column = sheet::letters(column);
                Err(ItemError::parse(format!("cannot read the row: column {column} has {error}")))
            }
        };
        let values: Arc<[Value]> =
            (self.first..self.first + count).map(value).collect::<Result<_, _>>()?;
        Ok(Record::of(Arc::clone(&self.names), values))
    }
}
