//! The kind `excel`.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::ExcelReader;
use super::column::{ExcelColumn, ExcelType};
use super::writer::ExcelColumns;
use crate::files::of_files;
use crate::format::CUT_BACK;
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::record::Record;
use crate::transport::IfChanged;
use crate::writer::BoxedWriter;

/// The kind `excel`: a record for each row of a sheet.
pub(crate) struct ExcelKind;

/// Reads the rows of a sheet of an `.xlsx` file. Rows without any value are left out; the texts that cells share are in memory.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// Path of the file, relative to the job file, or its URL; with `*` or `?` in the name, of all files that match, in the order
    /// of their names.
    path: Text,
    /// Name of the sheet. Default: the first one.
    sheet: Option<String>,
    /// Whether the first row that is not empty has the names of the columns. Default: `true`; otherwise they are `c1`, `c2`, ….
    header: Option<bool>,
    /// A field that gets the path of the file.
    file_field: Option<String>,
    /// What a restart does when the file has changed: `refuse` or `continue`. Default: `refuse`.
    if_changed: Option<At<IfChanged>>,
}

/// Writes an `.xlsx` file with one sheet; its first row has the titles of the columns. Each chunk is compressed on its own,
/// 5,000 rows if the step sets no `chunk`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// Path of the file, relative to the job file, or its URL.
    path: Text,
    /// Name of the sheet. Default: `Sheet1`.
    sheet: Option<String>,
    /// The columns in their order: names of fields, or tables with more. A field that is no column is an error, one that is
    /// missing an empty cell.
    columns: At<Vec<Column>>,
}

/// A column that is written.
#[derive(Debug, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
enum Column {
    Name(String),
    Styled(Styled),
}

/// By hand: of a table, the error of its own keys is the one that helps.
impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Column;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a table with `name`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Column, E> {
                Ok(Column::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Column, A::Error> {
                Styled::deserialize(MapAccessDeserializer::new(map)).map(Column::Styled)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

/// A column with more than a name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Styled {
    /// The name of the field.
    name: String,
    /// The text in the first row. Default: the name.
    title: Option<String>,
    /// The type, which parses texts: a value that does not fit is an error. Default: numbers of at most 15 digits are numbers,
    /// dates and times those of Excel, and all other values texts.
    #[serde(rename = "type")]
    kind: Option<Kind>,
    /// The number format of Excel, such as `#,##0.00` or `dd.mm.yyyy`.
    format: Option<String>,
    /// The width, in characters.
    width: Option<f64>,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Kind {
    /// Text.
    String,
    /// Numbers of at most 15 digits.
    Number,
    /// `true` and `false`.
    Boolean,
    /// Days from 1900-03-01 on.
    Date,
    /// Times of day, in milliseconds.
    Time,
    /// Days with times, in milliseconds; those of an instant in UTC.
    Timestamp,
}

impl ItemKind for ExcelKind {
    fn name(&self) -> &'static str {
        "excel"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts("Exact: at the next row; the rows before it are read again, without decoding them. Another file is refused.")
            .writer::<WriterKeys>()
            .writer_restarts(CUT_BACK)
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let ReaderKeys { path, sheet, header, file_field, if_changed } = keys.parse()?;
        of_files(cx, &path, file_field.as_deref(), None, move |source, _| {
            let mut reader = ExcelReader::<Record>::decoding(source, Ok);
            reader.sheet.clone_from(&sheet);
            reader.has_header = header.unwrap_or(true);
            reader.may_have_changed = IfChanged::continues(if_changed.as_ref());
            Ok(Reads::with_fields(reader, |reader| {
                let names = reader.open.as_ref().map(|open| &open.names);
                // A sheet without rows has no columns, and no records that could lack one.
                let names = names.filter(|names| !names.is_empty());
                Ok(names.map(|names| names.iter().map(ToString::to_string).collect()))
            }))
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let WriterKeys { path, sheet, columns } = keys.parse()?;
        let all = columns.get_ref().iter().map(column).collect();
        let encode = ExcelColumns::new(sheet.as_deref().unwrap_or("Sheet1"), all);
        let encode = encode.map_err(|message| Problem::at(&columns, message))?;
        let path = cx.output_location(&path)?;
        Ok(Box::new(move |scope| {
            let writer = path(scope)?.writer(encode.clone());
            Ok(BoxedWriter::new(writer.compressed(None)))
        }))
    }
}

fn column(written: &Column) -> ExcelColumn {
    let Styled { name, title, kind, format, width } = match written {
        Column::Name(name) => return ExcelColumn::new(name.as_str()),
        Column::Styled(styled) => styled,
    };
    let mut column = ExcelColumn::new(name.as_str());
    (column.title, column.format, column.width) = (title.clone(), format.clone(), *width);
    column.kind = kind.map(|kind| match kind {
        Kind::String => ExcelType::Text,
        Kind::Number => ExcelType::Number,
        Kind::Boolean => ExcelType::Boolean,
        Kind::Date => ExcelType::Date,
        Kind::Time => ExcelType::Time,
        Kind::Timestamp => ExcelType::DateTime,
    });
    column
}
