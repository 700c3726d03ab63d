//! CSV inputs and outputs of job files: their formats and the types of their columns.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::{CsvFormat, CsvReader, ItemError};
use jiff::civil::{Date, DateTime, Time};
use rust_decimal::Decimal;
use toml::Spanned;

use super::{Built, Problem, Text};
use crate::definition::{self, Column, ColumnType as Written, Columns, Texts};
use crate::record::{Names, Record, Value};

/// The type of a column; a column without a type keeps its text.
#[derive(Debug, Clone)]
enum ColumnType {
    Text,
    Integer,
    Float,
    Decimal,
    Boolean,
    Date(Option<String>),
    Time(Option<String>),
    Timestamp(Option<String>),
}

const TYPES: &str = "string, integer, float, decimal, boolean, date, time, timestamp";

/// The format of an input file and the types of its columns.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    format: CsvFormat,
    types: Arc<BTreeMap<String, ColumnType>>,
    /// Names of all columns, if the job file lists them in order.
    pub(super) names: Option<Vec<String>>,
    decimal_mark: char,
}

/// Returns the format of an input file.
pub(super) fn input(reader: &Spanned<definition::Reader>) -> Built<Input> {
    let definition::Reader {
        columns,
        delimiter,
        quote,
        escape,
        comment,
        trim,
        header,
        null,
        encoding,
        decimal,
        ..
    } = reader.get_ref();
    let mut format = CsvFormat::new()
        .delimiter(self::delimiter(delimiter.as_ref())?)
        .quote(self::quote(quote.as_ref())?)
        .escape(escape.as_ref().map(one_character).transpose()?)
        .comment(comment.as_ref().map(one_character).transpose()?)
        .trim(*trim)
        .header(header.unwrap_or(true))
        .null(null.as_ref().map(Texts::all).unwrap_or_default());
    if let Some(label) = encoding {
        format = format.encoding(label.get_ref()).map_err(|message| Problem::at(label, message))?;
    }
    let (mut types, mut names) = (BTreeMap::new(), None);
    if let Some(columns) = columns {
        let typed = |name: &str, written: &Written| {
            let parsed = column_type(name, written);
            parsed.map_err(|message| Problem::at(columns, message))
        };
        match columns.get_ref() {
            Columns::Types(given) => {
                for (name, written) in given {
                    types.insert(name.clone(), typed(name, written)?);
                }
            }
            Columns::InOrder(given) => {
                let mut all = Vec::new();
                for column in given {
                    let (name, written) = match column {
                        Column::Name(name) => (name, None),
                        Column::Typed { name, column } => (name, Some(column)),
                    };
                    if let Some(written) = written {
                        types.insert(name.clone(), typed(name, written)?);
                    }
                    all.push(name.clone());
                }
                format = format.columns(all.clone());
                names = Some(all);
            }
        }
    }
    format.check().map_err(|message| Problem::at(reader, message))?;
    let decimal_mark = match decimal.as_ref().map(|mark| (mark, mark.get_ref().as_str())) {
        None | Some((_, ".")) => '.',
        Some((_, ",")) => ',',
        Some((mark, _)) => {
            return Err(Problem::at(mark, "`decimal` is the mark before a fraction: `.` or `,`"));
        }
    };
    if header == &Some(false) && names.is_none() && !types.is_empty() {
        let message = "without a header line `columns` must list all columns in order: `columns = [\"id\", { name = \"amount\", type = \"decimal\" }]`";
        return Err(Problem::at(reader, message));
    }
    Ok(Input { format, types: Arc::new(types), names, decimal_mark })
}

/// Returns the format of an output file.
pub(super) fn output(
    writer: &definition::Writer,
    columns: Option<&[String]>,
    at: &Spanned<definition::Writer>,
) -> Built<CsvFormat> {
    let definition::Writer { delimiter, quote, header, null, encoding, .. } = writer;
    let mut format = CsvFormat::new()
        .delimiter(self::delimiter(delimiter.as_ref())?)
        .quote(self::quote(quote.as_ref())?)
        .header(header.unwrap_or(true))
        .null(null.as_ref().map(Texts::all).unwrap_or_default());
    if let Some(label) = encoding {
        format = format.encoding(label.get_ref()).map_err(|message| Problem::at(label, message))?;
    }
    if let Some(columns) = columns {
        format = format.columns(columns);
    }
    format.check().map_err(|message| Problem::at(at, message))?;
    Ok(format)
}

fn column_type(name: &str, written: &Written) -> Result<ColumnType, String> {
    let (word, format) = match written {
        Written::Name(word) => (word, None),
        Written::Formatted { kind, format } => (kind, format.clone()),
    };
    let parsed = match word.as_str() {
        "string" => ColumnType::Text,
        "integer" => ColumnType::Integer,
        "float" => ColumnType::Float,
        "decimal" => ColumnType::Decimal,
        "boolean" => ColumnType::Boolean,
        "date" => return Ok(ColumnType::Date(format)),
        "time" => return Ok(ColumnType::Time(format)),
        "timestamp" => return Ok(ColumnType::Timestamp(format)),
        other => {
            return Err(format!("column `{name}`: there is no type `{other}`; there are: {TYPES}"));
        }
    };
    match format {
        None => Ok(parsed),
        Some(_) => {
            Err(format!("column `{name}`: only a date, a time or a timestamp takes a `format`"))
        }
    }
}

/// Names and types of the columns.
type Header = (Names, Arc<[Option<ColumnType>]>);

impl Input {
    /// Returns the reader of the file at `path`.
    pub(super) fn reader(&self, path: PathBuf) -> CsvReader<Record> {
        let header: Mutex<Option<Header>> = Mutex::new(None);
        let this = self.clone();
        let reader = CsvReader::decoding(path, move |record, headers| {
            let mut header = header.lock().unwrap_or_else(PoisonError::into_inner);
            let (names, kinds) = header.get_or_insert_with(|| {
                let names: Vec<Arc<str>> =
                    headers.iter().map(|name| Arc::from(name.as_str())).collect();
                let kinds: Vec<_> =
                    headers.iter().map(|name| this.types.get(name).cloned()).collect();
                (names.into(), kinds.into())
            });
            let fields = record.iter().zip(names.iter()).zip(kinds.iter());
            let values: Result<Vec<Value>, ItemError> =
                fields.map(|((text, name), kind)| this.value(name, text, kind.as_ref())).collect();
            Ok(Record::new(Arc::clone(names), values?))
        });
        reader.format(self.format.clone())
    }

    /// Returns a typed column that is missing in the file.
    pub(crate) fn missing_column(&self, columns: &[&str]) -> Option<&str> {
        let missing = self.types.keys().find(|name| !columns.contains(&name.as_str()));
        missing.map(String::as_str)
    }

    fn value(&self, name: &str, text: &str, kind: Option<&ColumnType>) -> Result<Value, ItemError> {
        if self.format.is_null(text) {
            return Ok(Value::Null);
        }
        let Some(kind) = kind else { return Ok(Value::Field(text.into())) };
        if text.is_empty() && !matches!(kind, ColumnType::Text) {
            return Ok(Value::Null);
        }
        let (value, wanted) = match kind {
            ColumnType::Text => (Some(Value::text(text)), "text"),
            ColumnType::Integer => (text.parse().ok().map(Value::Integer), "an integer"),
            ColumnType::Float => {
                let number = self.marked(text).and_then(|text| text.parse::<f64>().ok());
                (number.filter(|number| number.is_finite()).map(Value::Float), "a number")
            }
            ColumnType::Decimal => {
                let number = self.marked(text).and_then(|text| Decimal::from_str_exact(&text).ok());
                (number.map(Value::Decimal), "a decimal number of at most 28 digits")
            }
            ColumnType::Boolean => (text.parse().ok().map(Value::Boolean), "`true` or `false`"),
            ColumnType::Date(format) => (date(text, format.as_deref()), "a date"),
            ColumnType::Time(format) => (time(text, format.as_deref()), "a time"),
            ColumnType::Timestamp(format) => (timestamp(text, format.as_deref()), "a timestamp"),
        };
        value.ok_or_else(|| {
            let like = match kind {
                ColumnType::Date(Some(format))
                | ColumnType::Time(Some(format))
                | ColumnType::Timestamp(Some(format)) => format!(" written as `{format}`"),
                _ => String::new(),
            };
            ItemError::parse(format!("read column `{name}`: `{text}` is not {wanted}{like}"))
        })
    }

    /// Returns the number with a decimal point; `None` if it is written with the wrong decimal mark.
    fn marked(&self, text: &str) -> Option<String> {
        match self.decimal_mark {
            '.' => Some(text.to_owned()),
            mark => (!text.contains('.')).then(|| text.replacen(mark, ".", 1)),
        }
    }
}

/// Returns the date in ISO 8601 form, parsed with `format` or, without one, as ISO 8601.
fn date(text: &str, format: Option<&str>) -> Option<Value> {
    match format {
        None => text.parse::<Date>().ok().map(|_| Value::text(text)),
        Some(format) => {
            Date::strptime(format, text).ok().map(|date| Value::text(&date.to_string()))
        }
    }
}

fn time(text: &str, format: Option<&str>) -> Option<Value> {
    match format {
        None => text.parse::<Time>().ok().map(|_| Value::text(text)),
        Some(format) => {
            Time::strptime(format, text).ok().map(|time| Value::text(&time.to_string()))
        }
    }
}

/// Returns the timestamp: with an offset in its `format` an instant in UTC, without one a date and time.
fn timestamp(text: &str, format: Option<&str>) -> Option<Value> {
    match format {
        None => {
            let is_one =
                text.parse::<jiff::Timestamp>().is_ok() || text.parse::<DateTime>().is_ok();
            is_one.then(|| Value::text(text))
        }
        Some(format) => {
            let parsed = jiff::fmt::strtime::parse(format, text).ok()?;
            match parsed.to_timestamp() {
                Ok(instant) => Some(Value::text(&instant.to_string())),
                Err(_) => parsed.to_datetime().ok().map(|both| Value::text(&both.to_string())),
            }
        }
    }
}

pub(super) fn delimiter(text: Option<&Text>) -> Built<u8> {
    match text {
        None => Ok(b','),
        Some(text) => one_character(text),
    }
}

/// Returns the quote character; the empty text turns quoting off.
fn quote(text: Option<&Text>) -> Built<Option<u8>> {
    match text {
        None => Ok(Some(b'"')),
        Some(text) if text.get_ref().is_empty() => Ok(None),
        Some(text) => one_character(text).map(Some),
    }
}

fn one_character(text: &Text) -> Built<u8> {
    match text.get_ref().as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(*byte),
        _ => Err(Problem::at(text, "expected one ASCII character other than a line end")),
    }
}
