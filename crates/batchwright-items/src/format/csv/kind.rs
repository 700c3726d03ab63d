//! The kind `csv` of job files: records whose values have the types of their columns.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use batchwright::ItemError;
use batchwright::partition::ByteRanges;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{CsvFormat, CsvReader};
use crate::column::{ColumnType, TypeKey, column_type};
use crate::files::of_files;
use crate::format::LineEnd;
use crate::format::lines_around::lines_around;
use crate::format::{AT_RECORD, CUT_BACK};
use crate::key::{At, Keys, Problem, Text, Texts};
use crate::kind::{
    BuildContext, ByteSplit, Example, ItemKind, KindSchema, Make, MakeReader, byte_range,
};
use crate::reader::Reads;
use crate::record::{Names, Record};
use crate::text::SharedText;
use crate::transport::ByteSource;
use crate::transport::{Encode, IfChanged};
use crate::value::Value;
use crate::writer::BoxedWriter;

/// The kind `csv`.
pub(crate) struct Csv;

/// Reads the records of a CSV file. The header line names their fields.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// Path of the file, relative to the job file, or its URL; with `*` or `?` in the name, of all files that match, in the order
    /// of their names.
    path: Text,
    /// A field that gets the path of the file.
    file_field: Option<String>,
    /// Whether the first record holds the names of the columns. Default: true.
    header: Option<bool>,
    /// Types of columns by name, or all columns in their order.
    columns: Option<At<Columns>>,
    /// The text, or the texts, that mean null.
    null: Option<Texts>,
    /// The character between fields. Default: `,`.
    delimiter: Option<Text>,
    /// The character around quoted fields; an empty text turns quoting off. Default: `"`.
    quote: Option<Text>,
    /// The character that escapes a quote in a quoted field. Default: a quote is doubled.
    escape: Option<Text>,
    /// The first character of comment lines, which are not read. Default: no comments.
    comment: Option<Text>,
    /// Whether blanks around fields are removed. Default: false.
    #[serde(default)]
    trim: bool,
    /// The encoding of the file, by its WHATWG label. Default: `utf-8`.
    encoding: Option<Text>,
    /// The mark before the fraction of a number: `.` or `,`. Default: `.`.
    decimal: Option<Text>,
    /// Maximum length of a record in bytes.
    line_bytes_max: Option<u64>,
    /// What a restart does when the file has changed: `refuse` or `continue`. Default: `refuse`.
    if_changed: Option<At<IfChanged>>,
}

/// Writes a CSV file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// Path of the file, relative to the job file, or its URL.
    path: Text,
    /// Whether the file begins with the names of the columns. Default: true.
    header: Option<bool>,
    /// The columns in their order. Default: the fields of the first record.
    columns: Option<Vec<String>>,
    /// The text that is written for null; of several texts, the first one. Default: an empty text.
    null: Option<Texts>,
    /// The character between fields. Default: `,`.
    delimiter: Option<Text>,
    /// The character around fields that must be quoted; an empty text turns quoting off. Default: `"`.
    quote: Option<Text>,
    /// Whether every field is quoted. Default: false.
    #[serde(default)]
    quote_all: bool,
    /// The end of a line: `lf` or `crlf`. Default: `lf`.
    #[serde(default)]
    line_end: LineEnd,
    /// Whether the file begins with the byte order mark of UTF-8. Default: false.
    #[serde(default)]
    byte_order_mark: bool,
    /// A line before the first record, and before the names of the columns.
    first_line: Option<Text>,
    /// A line after the last record; `${file.records}` is the number of records.
    last_line: Option<Text>,
    /// The encoding of the file, by its WHATWG label. Default: `utf-8`.
    encoding: Option<Text>,
}

/// Types by name, or all columns in their order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected types by name, such as `{ id = \"integer\" }`, or all columns in their order, such as `[\"id\", { name = \"day\", type = \"date\" }]`"
)]
#[schemars(inline)]
enum Columns {
    Types(BTreeMap<String, TypeKey>),
    InOrder(Vec<Column>),
}

/// A column of a file whose columns are listed in their order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a name, or `{ name = …, type = …, format = … }`")]
#[schemars(inline)]
enum Column {
    Name(String),
    Typed {
        name: String,
        #[serde(flatten)]
        column: TypeKey,
    },
}

impl ItemKind for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts(AT_RECORD)
            .writer::<WriterKeys>()
            .writer_restarts(CUT_BACK)
            .example(Example {
                reader: "path = \"people.csv\"\ncolumns = { id = \"integer\" }",
                writer: "path = \"out.csv\"",
                input: Some((
                    "people.csv",
                    "id,name\n1,Ada\n2,\"Lovelace, A.\"\n3,Grace\n4,Edsger\n",
                )),
                output: Some("out.csv"),
                sql: "",
            })
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let parsed: ReaderKeys = keys.parse()?;
        let input = input(&parsed, keys)?;
        let bytes_max = parsed.line_bytes_max;
        let may_change = IfChanged::continues(parsed.if_changed.as_ref());
        let fields = input.names.clone();
        of_files(cx, &parsed.path, parsed.file_field.as_deref(), fields, move |source, scope| {
            let mut csv = input.reader(source);
            if let Some((start, end)) = byte_range(scope)? {
                csv = csv.bytes(start, end);
            }
            if let Some(bytes) = bytes_max {
                csv = csv.record_bytes_max(bytes);
            }
            if may_change {
                csv = csv.may_have_changed();
            }
            let input = input.clone();
            Ok(Reads::with_fields(csv, move |csv| input.fields(csv)))
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let parsed: WriterKeys = keys.parse()?;
        let path = cx.output_location(&parsed.path)?;
        let (first_line, last_line) = (parsed.first_line.as_ref(), parsed.last_line.as_ref());
        if first_line.is_some() && parsed.byte_order_mark {
            let what = "a file with a `first_line` has no `byte_order_mark`";
            return Err(keys.problem_at("byte_order_mark", what));
        }
        let format = output(&parsed, keys)?;
        let (of_lines, line_end) = (format.clone(), parsed.line_end.bytes());
        let encode = move |line: String| {
            let mut bytes = Vec::new();
            of_lines.encode_text(line.into_bytes(), &mut bytes)?;
            Ok(bytes)
        };
        let ends = lines_around(first_line, last_line, line_end, encode, cx)?;
        let columns: Option<Names> =
            parsed.columns.map(|all| all.iter().map(|name| Arc::from(name.as_str())).collect());
        Ok(Box::new(move |scope| {
            let encode = RecordCsv { format: format.clone(), columns: columns.clone() };
            Ok(BoxedWriter::new(path(scope)?.writer(encode).ends(ends(scope)?)))
        }))
    }

    fn byte_split(&self, keys: Keys<'_>) -> Result<ByteSplit, Problem> {
        let ReaderKeys { path, header, delimiter, quote, escape, comment, trim, .. } =
            keys.parse()?;
        if comment.is_some() || escape.is_some() || quote.is_some() || trim {
            let message =
                "a file with `comment`, `escape`, `quote` or `trim` has no byte partitions";
            return Err(keys.problem_at("path", message));
        }
        let header = header.unwrap_or(true);
        let between = self::delimiter(delimiter.as_ref())?;
        let make =
            move |path, count| ByteRanges::csv(path, count).delimiter(between).header(header);
        Ok(ByteSplit { path, make: Box::new(make) })
    }
}

/// The format of an input file and the types of its columns.
#[derive(Debug, Clone)]
struct Input {
    format: CsvFormat,
    types: Arc<BTreeMap<String, ColumnType>>,
    /// Names of all columns, if the job file lists them in order.
    names: Option<Vec<String>>,
    decimal_mark: char,
}

/// Returns the format of an input file.
fn input(reader: &ReaderKeys, keys: Keys<'_>) -> Result<Input, Problem> {
    let ReaderKeys {
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
    } = reader;
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
        let typed = |name: &str, written: &TypeKey| {
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
    format.check().map_err(|message| keys.problem(message))?;
    let decimal_mark = match decimal.as_ref().map(|mark| (mark, mark.get_ref().as_str())) {
        None | Some((_, ".")) => '.',
        Some((_, ",")) => ',',
        Some((mark, _)) => {
            return Err(Problem::at(mark, "`decimal` is the mark before a fraction: `.` or `,`"));
        }
    };
    if header == &Some(false) && names.is_none() && !types.is_empty() {
        let message = "without a header line `columns` must list all columns in order: `columns = [\"id\", { name = \"amount\", type = \"decimal\" }]`";
        return Err(keys.problem(message));
    }
    Ok(Input { format, types: Arc::new(types), names, decimal_mark })
}

/// Returns the format of an output file.
fn output(writer: &WriterKeys, keys: Keys<'_>) -> Result<CsvFormat, Problem> {
    let WriterKeys { delimiter, quote, header, columns, null, encoding, .. } = writer;
    let mut format = CsvFormat::new()
        .delimiter(self::delimiter(delimiter.as_ref())?)
        .quote(self::quote(quote.as_ref())?)
        .header(header.unwrap_or(true))
        .null(null.as_ref().map(Texts::all).unwrap_or_default())
        .quote_all(writer.quote_all)
        .line_end(writer.line_end)
        .byte_order_mark(writer.byte_order_mark);
    if let Some(label) = encoding {
        format = format.encoding(label.get_ref()).map_err(|message| Problem::at(label, message))?;
    }
    if let Some(columns) = columns {
        format = format.columns(columns);
    }
    format.check().map_err(|message| keys.problem(message))?;
    Ok(format)
}

/// Names and types of the columns.
type Header = (Names, Arc<[Option<ColumnType>]>);

impl Input {
    /// Returns the reader of the file at `path`.
    fn reader(&self, source: Arc<dyn ByteSource>) -> CsvReader<Record> {
        let header: OnceLock<Header> = OnceLock::new();
        let this = self.clone();
        let reader = CsvReader::decoding_source(source, move |record| {
            let headers = record.headers();
            let (names, kinds) = header.get_or_init(|| {
                let names: Vec<Arc<str>> =
                    headers.iter().map(|name| Arc::from(name.as_str())).collect();
                let kinds: Vec<_> =
                    headers.iter().map(|name| this.types.get(name).cloned()).collect();
                (names.into(), kinds.into())
            });
            if this.types.is_empty() && !this.format.has_nulls() {
                let values: Arc<[Value]> = record.texts().map(Value::Field).collect();
                return Ok(Record::of(Arc::clone(names), values));
            }
            let fields = record.texts().zip(names.iter()).zip(kinds.iter());
            let values: Result<Vec<Value>, ItemError> =
                fields.map(|((text, name), kind)| this.value(name, text, kind.as_ref())).collect();
            Ok(Record::new(Arc::clone(names), values?))
        });
        reader.format(self.format.clone())
    }

    fn value(
        &self,
        name: &str,
        text: SharedText,
        kind: Option<&ColumnType>,
    ) -> Result<Value, ItemError> {
        match kind {
            _ if self.format.is_null(&text) => Ok(Value::Null),
            None => Ok(Value::Field(text)),
            Some(kind) => kind.value(name, &text, self.decimal_mark),
        }
    }

    /// Returns the columns of the open file; fails if it lacks a column that has a type.
    fn fields(&self, csv: &CsvReader<Record>) -> Result<Option<Vec<String>>, ItemError> {
        let columns: Vec<String> = csv.headers().into_iter().flatten().cloned().collect();
        // An empty file has no columns, and no records that could lack one.
        if columns.is_empty() {
            return Ok(None);
        }
        match self.types.keys().find(|name| !columns.contains(name)) {
            Some(missing) => {
                let known = columns.join(", ");
                Err(ItemError::fatal(format!(
                    "cannot find column `{missing}`: the file has {known}"
                )))
            }
            None => Ok(Some(columns)),
        }
    }
}

fn delimiter(text: Option<&Text>) -> Result<u8, Problem> {
    match text {
        None => Ok(b','),
        Some(text) => one_character(text),
    }
}

/// Returns the quote character; the empty text turns quoting off.
fn quote(text: Option<&Text>) -> Result<Option<u8>, Problem> {
    match text {
        None => Ok(Some(b'"')),
        Some(text) if text.get_ref().is_empty() => Ok(None),
        Some(text) => one_character(text).map(Some),
    }
}

fn one_character(text: &Text) -> Result<u8, Problem> {
    match text.get_ref().as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(*byte),
        _ => {
            let given = text.get_ref();
            let message = format!("`{given}` is not one ASCII character other than a line end");
            Err(Problem::at(text, message))
        }
    }
}

/// Encodes records as CSV; the columns are those that the job file lists, or the fields of the first record.
#[derive(Clone)]
struct RecordCsv {
    format: CsvFormat,
    columns: Option<Names>,
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
        if first {
            self.format.begin(bytes);
        }
        self.format.write(bytes, |csv| {
            if first && self.format.has_header() {
                csv.write_record(columns.iter().map(|name| name.as_bytes()))?;
            }
            let mut text = String::new();
            for item in items {
                let same = Arc::ptr_eq(columns, item.names());
                for (index, name) in columns.iter().enumerate() {
                    let value = match same {
                        true => &item.values()[index],
                        false => item.required("write column", name)?,
                    };
                    write_field(csv, value, null, &mut text)?;
                }
                csv.write_record(None::<&[u8]>)?;
                let extra = item.names().iter().find(|name| !same && !columns.contains(name));
                if let Some(extra) = extra {
                    let what = format!("cannot write field `{extra}`: it is no column of the file");
                    return Err(ItemError::data(what));
                }
            }
            Ok(())
        })
    }

    fn is_independent(&self) -> bool {
        self.columns.is_some()
    }

    /// Takes the columns from the header line of `begun`, regardless of the next record.
    fn resume(&mut self, begun: Arc<dyn ByteSource>) -> Result<(), ItemError> {
        if self.columns.is_none() && self.format.has_header() {
            let header = self.format.header_of(begun)?;
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
