//! The kind `avro`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AvroColumns, AvroReader};
use crate::files::of_files;
use crate::format::CUT_BACK;
use crate::format::typed::keys::{self, Column};
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::record::Record;
use crate::transport::IfChanged;
use crate::writer::BoxedWriter;

/// The kind `avro`.
pub(crate) struct AvroKind;

/// Reads the records of a file of Apache Avro, a block at a time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// Path or URL of the file, or of all files by a pattern in the name: `*` matches any characters, `?` one.
    path: Text,
    /// The fields that are read. Default: all.
    columns: Option<Vec<String>>,
    /// A field that gets the path of the file.
    file_field: Option<String>,
    /// What a restart does when the file has changed: `refuse` or `continue`. Default: `refuse`.
    if_changed: Option<At<IfChanged>>,
}

/// Writes a file of Apache Avro. Each chunk is a block, which is compressed by deflate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// Path or URL of the file.
    path: Text,
    /// The columns in their order. A value that does not fit its column exactly is an error.
    columns: At<Vec<Column>>,
}

impl ItemKind for AvroKind {
    fn name(&self) -> &'static str {
        "avro"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts(
                "Exact: at the next record, from the block that has it. Another file is refused.",
            )
            .writer::<WriterKeys>()
            .writer_restarts(CUT_BACK)
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let ReaderKeys { path, columns, file_field, if_changed } = keys.parse()?;
        of_files(cx, &path, file_field.as_deref(), columns.clone(), move |source, _| {
            let mut reader = AvroReader::<Record>::decoding(source, Ok);
            reader.settings.columns.clone_from(&columns);
            reader.settings.may_have_changed = IfChanged::continues(if_changed.as_ref());
            Ok(Reads::with_fields(reader, |reader| {
                let names = reader.open.as_ref().map(|open| &open.names);
                Ok(names.map(|names| names.iter().map(ToString::to_string).collect()))
            }))
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let WriterKeys { path, columns } = keys.parse()?;
        let encode = keys::columns(columns.get_ref()).and_then(AvroColumns::new);
        let encode = encode.map_err(|message| Problem::at(&columns, message))?;
        let path = cx.output_location(&path)?;
        Ok(Box::new(move |scope| Ok(BoxedWriter::new(path(scope)?.writer(encode.clone())))))
    }
}
