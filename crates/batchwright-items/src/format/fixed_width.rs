//! Files with fields of fixed widths.

use std::sync::Arc;

use batchwright::ItemError;
use schemars::JsonSchema;
use serde::Deserialize;

use super::line_end::LineEnd;
use super::lines::{DecodedLines, LineReaderKeys};
use super::lines_around::lines_around;
use crate::column::{ColumnType, TypeKey, column_type};
use crate::files::of_files;
use crate::format::{AT_RECORD, CUT_BACK};
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, Example, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::record::{Names, Record};
use crate::text::SharedText;
use crate::transport::{Encode, IfChanged};
use crate::value::Value;
use crate::writer::BoxedWriter;

/// The kind `fixed_width`.
pub(crate) struct FixedWidthKind;

/// Reads lines whose fields have fixed widths; blanks around a field are removed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// Path of the file, relative to the job file, or its URL.
    path: Text,
    /// The columns in their order.
    columns: At<Vec<ReadColumn>>,
    /// A field that gets the path of the file.
    file_field: Option<String>,
    /// Maximum length of a line in bytes.
    line_bytes_max: Option<usize>,
    /// What a restart does when the file has changed: `refuse` or `continue`. Default: `refuse`.
    if_changed: Option<At<IfChanged>>,
}

/// Writes lines whose fields have fixed widths; a value that is longer than its column is an error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// Path of the file, relative to the job file, or its URL.
    path: Text,
    /// The columns in their order.
    columns: At<Vec<WriteColumn>>,
    /// The end of a line: `lf` or `crlf`. Default: `lf`.
    #[serde(default)]
    line_end: LineEnd,
    /// A line before the first record.
    first_line: Option<Text>,
    /// A line after the last record; `${file.records}` is the number of records.
    last_line: Option<Text>,
}

/// A column that is read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct ReadColumn {
    /// The name of the field.
    name: String,
    /// The width in characters.
    #[schemars(range(min = 1, max = 65_536))]
    width: usize,
    /// The type. Default: text, which is parsed as a number where a number is required.
    #[serde(rename = "type")]
    kind: Option<TypeKey>,
}

/// A column that is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct WriteColumn {
    /// The name of the field.
    name: String,
    /// The width in characters.
    #[schemars(range(min = 1, max = 65_536))]
    width: usize,
    /// The side of the column that a shorter value is written to. Default: `left`.
    #[serde(default)]
    align: Align,
}

/// Maximum width of a column in characters.
const WIDTH_MAX: usize = 65_536;

/// The side of a column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Align {
    #[default]
    Left,
    Right,
}

impl ItemKind for FixedWidthKind {
    fn name(&self) -> &'static str {
        "fixed_width"
    }

    fn schema(&self) -> KindSchema {
        let schema = KindSchema::default().reader::<ReaderKeys>().reader_restarts(AT_RECORD);
        schema.writer::<WriterKeys>().writer_restarts(CUT_BACK).example(Example {
            reader: "path = \"people.txt\"\ncolumns = [{ name = \"id\", width = 4, type = \"integer\" }, { name = \"name\", width = 8 }]",
            writer: "path = \"out.txt\"\ncolumns = [{ name = \"id\", width = 6, align = \"right\" }, { name = \"name\", width = 14 }]",
            input: Some(("people.txt", "   1Ada     \n   2Grace   \n   3Åse\n")),
            output: Some("out.txt"),
            sql: "",
        })
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let ReaderKeys { path, file_field, columns, line_bytes_max, if_changed } = keys.parse()?;
        let lines = LineReaderKeys { path: path.clone(), file_field, line_bytes_max, if_changed };
        let field = lines.file_field.clone();
        let names = names_of(&columns, |one| (&one.name, one.width))?;
        let columns: Arc<[(usize, Option<ColumnType>)]> = columns
            .get_ref()
            .iter()
            .map(|one| {
                let kind = one.kind.as_ref().map(|kind| column_type(&one.name, kind)).transpose();
                Ok((one.width, kind.map_err(|message| Problem::at(&columns, message))?))
            })
            .collect::<Result<_, Problem>>()?;
        let fields = names.iter().map(ToString::to_string).collect();
        of_files(cx, &path, field.as_deref(), Some(fields), move |source, scope| {
            let (names, columns) = (Arc::clone(&names), Arc::clone(&columns));
            let input = lines.input(source, scope)?;
            let parse = move |line: &str| parsed(line, &names, &columns);
            Ok(Reads::records(DecodedLines::of(input, parse)))
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let WriterKeys { path, columns, line_end, first_line, last_line } = keys.parse()?;
        let path = cx.output_location(&path)?;
        let encode = |line: String| Ok(line.into_bytes());
        let (first, last) = (first_line.as_ref(), last_line.as_ref());
        let ends = lines_around(first, last, line_end.bytes(), encode, cx)?;
        names_of(&columns, |one| (&one.name, one.width))?;
        let columns: Arc<[WriteColumn]> = columns.into_inner().into();
        Ok(Box::new(move |scope| {
            let encode = FixedWidth { columns: Arc::clone(&columns), line_end };
            Ok(BoxedWriter::new(path(scope)?.writer(encode).ends(ends(scope)?)))
        }))
    }
}

fn names_of<C>(
    columns: &At<Vec<C>>,
    of: impl Fn(&C) -> (&String, usize),
) -> Result<Names, Problem> {
    let all = columns.get_ref();
    if all.is_empty() {
        return Err(Problem::at(columns, "there is at least one column"));
    }
    if let Some((name, _)) = all.iter().map(&of).find(|(_, width)| !(1..=WIDTH_MAX).contains(width))
    {
        let message = format!("the width of `{name}` is between 1 and {WIDTH_MAX}");
        return Err(Problem::at(columns, message));
    }
    let names: Vec<Arc<str>> = all.iter().map(|one| Arc::from(of(one).0.as_str())).collect();
    match crate::record::first_duplicate(&names) {
        Some(name) => Err(Problem::at(columns, format!("two columns are called `{name}`"))),
        None => Ok(names.into()),
    }
}

/// Cuts `line` into its fields. The last fields may be missing, because editors remove blanks at the end of a line.
fn parsed(
    line: &str,
    names: &Names,
    columns: &[(usize, Option<ColumnType>)],
) -> Result<Record, ItemError> {
    let whole = SharedText::from(line);
    let mut rest = &*whole;
    let mut values = Vec::with_capacity(columns.len());
    for ((width, kind), name) in columns.iter().zip(names.iter()) {
        let end = rest.char_indices().nth(*width).map_or(rest.len(), |(at, _)| at);
        let (field, after) = rest.split_at(end);
        let field = whole.of(field.trim());
        values.push(match kind {
            None => Value::Field(field),
            Some(kind) => kind.value(name, &field, '.')?,
        });
        rest = after;
    }
    if !rest.trim().is_empty() {
        let whole: usize = columns.iter().map(|(width, _)| width).sum();
        let what =
            format!("cannot read the line: it has more than the {whole} characters of its columns");
        return Err(ItemError::parse(what));
    }
    Ok(Record::new(Arc::clone(names), values))
}

/// The encoder of lines with fields of fixed widths.
#[derive(Clone)]
struct FixedWidth {
    columns: Arc<[WriteColumn]>,
    line_end: LineEnd,
}

impl Encode<Record> for FixedWidth {
    fn encode(&mut self, items: &[Record], _: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        for item in items {
            for WriteColumn { name, width, align } in &*self.columns {
                let text = item.required("write column", name)?.to_string();
                let length = text.chars().count();
                if length > *width || text.contains(['\n', '\r']) {
                    return Err(ItemError::data(format!(
                        "cannot write column `{name}`: `{text}` does not fit into a column of {width} characters"
                    )));
                }
                let blanks = width - length;
                if *align == Align::Right {
                    bytes.resize(bytes.len() + blanks, b' ');
                }
                bytes.extend_from_slice(text.as_bytes());
                if *align == Align::Left {
                    bytes.resize(bytes.len() + blanks, b' ');
                }
            }
            bytes.extend_from_slice(self.line_end.bytes());
        }
        Ok(())
    }

    fn is_independent(&self) -> bool {
        true
    }
}
