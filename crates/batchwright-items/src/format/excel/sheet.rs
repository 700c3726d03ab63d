//! The rows of a sheet, read by a thread of its own: the library's reader of cells borrows the workbook.

use std::io::BufReader;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

use batchwright::ItemError;
use calamine::{Data, DataRef, ExcelDateTime, Reader, Xlsx};
use jiff::civil::{Date, DateTime, Time};

use crate::transport::ReadSeek;
use crate::value::Value;

/// Number of rows that the thread may be ahead.
const ROWS_AHEAD: usize = 8;
/// Number of columns that a sheet can have.
const COLUMNS_MAX: u32 = 16_384;
/// Maximum size of the texts of a row, in bytes.
const ROW_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The day after the last one that Excel has, 9999-12-31.
const DAYS_END: f64 = 2_958_466.0;

/// A row with its values, of which there is at least one.
pub(super) struct Row {
    /// Number of the row, from 1.
    pub(super) number: u32,
    /// Columns, from 0 and ascending, with what they contain.
    cells: Vec<(u32, Cell)>,
}

/// What a cell contains.
pub(super) enum Cell {
    Value(Value),
    /// An error of Excel, such as `#DIV/0!`.
    Error(String),
}

impl Cell {
    /// Returns the number of bytes of its text.
    fn size(&self) -> usize {
        match self {
            Self::Value(Value::Text(text)) => text.len(),
            _ => 0,
        }
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Value(value) => value.to_string(),
            Self::Error(error) => error.clone(),
        }
    }
}

impl Row {
    /// Returns the first and the last column with a value.
    pub(super) fn columns(&self) -> (u32, u32) {
        let column = |cell: Option<&(u32, Cell)>| cell.map_or(0, |(column, _)| *column);
        (column(self.cells.first()), column(self.cells.last()))
    }

    pub(super) fn get(&self, column: u32) -> Option<&Cell> {
        let at = self.cells.binary_search_by_key(&column, |(column, _)| *column).ok()?;
        Some(&self.cells[at].1)
    }

    /// Returns the values with tabs between them, for the dead letters.
    pub(super) fn shown(&self) -> String {
        let cells: Vec<String> = self.cells.iter().map(|(_, cell)| cell.shown()).collect();
        cells.join("\t")
    }
}

/// What the thread sends: a row, the end, or why there is no further row.
type Sent = Result<Option<Row>, String>;

/// The rows that the thread reads, in their order.
pub(super) struct Rows {
    sent: Receiver<Sent>,
    is_over: bool,
}

impl Rows {
    /// Starts to read the sheet called `sheet`, or the first one, of the workbook in `file`.
    pub(super) fn open(file: Box<dyn ReadSeek>, sheet: Option<String>) -> Result<Self, ItemError> {
        let (sender, sent) = sync_channel(ROWS_AHEAD);
        let work = move || {
            let end = read(file, sheet.as_deref(), &sender).map(|()| None);
            // A reader that is closed already needs no end.
            let _ = sender.send(end);
        };
        let started = Builder::new().name("batchwright excel".to_owned()).spawn(work);
        started.map_err(|error| ItemError::fatal(format!("cannot start a thread: {error}")))?;
        Ok(Self { sent, is_over: false })
    }

    /// Returns the next row; `None` at the end.
    pub(super) fn next(&mut self) -> Sent {
        if self.is_over {
            return Ok(None);
        }
        // A thread that panics sends no end.
        let row = self.sent.recv().unwrap_or_else(|_| Err("it is damaged".to_owned()))?;
        self.is_over = row.is_none();
        Ok(row)
    }
}

/// Sends the rows of the sheet, up to its end or until the receiver is closed.
fn read(
    file: Box<dyn ReadSeek>,
    sheet: Option<&str>,
    sender: &SyncSender<Sent>,
) -> Result<(), String> {
    let mut book =
        Xlsx::new(BufReader::new(file)).map_err(|error| format!("it is no workbook: {error}"))?;
    let names = book.sheet_names();
    let name = match sheet {
        None => names.first().cloned().ok_or("it has no sheet")?,
        Some(sheet) if names.iter().any(|name| name == sheet) => sheet.to_owned(),
        Some(sheet) => {
            return Err(format!("it has no sheet `{sheet}`; its sheets are: {}", names.join(", ")));
        }
    };
    let failed = |error| format!("the sheet `{name}` is damaged: {error}");
    let mut cells = book.worksheet_cells_reader(&name).map_err(failed)?;
    let (mut row, mut last, mut bytes) = (Row { number: 0, cells: Vec::new() }, 0, 0);
    loop {
        let next = cells.next_cell().map_err(failed)?;
        let number = next.as_ref().map(|cell| cell.get_position().0 + 1);
        if number != Some(row.number) && !row.cells.is_empty() {
            let done = std::mem::replace(&mut row, Row { number: 0, cells: Vec::new() });
            if sender.send(Ok(Some(done))).is_err() {
                return Ok(());
            }
        }
        let (Some(cell), Some(number)) = (next, number) else { return Ok(()) };
        if number < last {
            return Err(format!("row {number} of the sheet `{name}` is not in order"));
        }
        (row.number, last) = (number, number);
        let Some(value) = value(cell.get_value()) else { continue };
        let column = cell.get_position().1;
        if column >= COLUMNS_MAX || row.cells.last().is_some_and(|(last, _)| *last >= column) {
            return Err(format!("a cell of row {number} of the sheet `{name}` is not in order"));
        }
        bytes = if row.cells.is_empty() { 0 } else { bytes } + value.size();
        if bytes > ROW_BYTES_MAX {
            return Err(format!(
                "row {number} of the sheet `{name}` has more than {ROW_BYTES_MAX} bytes"
            ));
        }
        row.cells.push((column, value));
    }
}

/// Returns what a cell contains; `None` when it is empty.
fn value(data: &DataRef<'_>) -> Option<Cell> {
    Some(Cell::Value(match Data::from(data.clone()) {
        Data::Empty => return None,
        Data::String(text) if text.is_empty() => return None,
        Data::String(text) | Data::DateTimeIso(text) | Data::DurationIso(text) => Value::from(text),
        Data::Int(number) => Value::Integer(number),
        Data::Float(number) => number_of(number),
        Data::Bool(value) => Value::Boolean(value),
        Data::DateTime(instant) => moment(instant),
        Data::Error(error) => return Some(Cell::Error(error.to_string())),
    }))
}

/// Largest number whose neighbours are all exact in a binary fraction of 64 bits.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Excel has binary fractions alone: one without a fraction is an integer.
#[expect(clippy::cast_possible_truncation, reason = "the number is checked to be one of 64 bits")]
fn number_of(number: f64) -> Value {
    match number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        true => Value::Integer(number as i64),
        false => Value::Float(number),
    }
}

/// Returns a day, a time of day, or both as a text of ISO 8601: Excel knows no time zone.
fn moment(instant: ExcelDateTime) -> Value {
    let days = instant.as_f64();
    if instant.is_duration() || !(0.0..DAYS_END).contains(&days) {
        return number_of(days);
    }
    let (year, month, day, hour, minute, second, milli) = instant.to_ymd_hms_milli();
    let small = |number: u8| i8::try_from(number).unwrap_or(i8::MAX);
    let nanos = i32::from(milli) * 1_000_000;
    let date = Date::new(i16::try_from(year).unwrap_or(i16::MAX), small(month), small(day));
    let time = Time::new(small(hour), small(minute), small(second), nanos);
    match (date, time) {
        // Days begin with 1: what is below is a time of day.
        (_, Ok(time)) if days < 1.0 => Value::Time(time),
        (Ok(date), Ok(time)) if time == Time::midnight() => Value::Date(date),
        (Ok(date), Ok(time)) => Value::from(DateTime::from_parts(date, time).to_string()),
        _ => number_of(days),
    }
}

/// Returns the letters of a column, counted from 0: `A`, …, `Z`, `AA`.
pub(super) fn letters(column: u32) -> String {
    let mut letters = Vec::new();
    let mut left = column + 1;
    while left > 0 {
        left -= 1;
        letters.push(char::from(b'A' + u8::try_from(left % 26).unwrap_or_default()));
        left /= 26;
    }
    letters.iter().rev().collect()
}
