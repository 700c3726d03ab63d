//! JSON lines: one JSON value on each line.

use std::marker::PhantomData;
use std::path::PathBuf;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::partition::ByteRanges;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::lines::{DecodeLine, DecodedLines, LineReaderKeys, RawLine};
use crate::files::of_files;
use crate::format::{AT_RECORD, CUT_BACK};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ByteSplit, Example, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::record::Record;
use crate::transport::{Encode, FileWriter};
use crate::writer::BoxedWriter;

/// A reader that yields a `T` for every line that is not blank.
pub type JsonLinesReader<T> = DecodedLines<JsonLine<T>>;

/// The decoder of JSON lines: a `T` for every line that is not blank.
pub struct JsonLine<T>(PhantomData<fn() -> T>);

impl<T> Default for JsonLine<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for JsonLine<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> std::fmt::Debug for JsonLine<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JsonLine")
    }
}

impl<T: DeserializeOwned + Send + Sync> DecodeLine for JsonLine<T> {
    type Item = T;

    fn decode(&self, line: &RawLine<'_>) -> Result<T, ItemError> {
        serde_json::from_slice(line.bytes).map_err(|error| {
            line.blame(ItemError::wrap(ErrorKind::PARSE, "cannot read the line as JSON", error))
        })
    }

    fn is_blank(&self, line: &[u8]) -> bool {
        line.trim_ascii().is_empty()
    }
}

/// A writer that writes each output as a line of JSON.
pub type JsonLinesWriter = FileWriter<JsonLines>;

/// The encoder of JSON lines: one value on each line.
#[derive(Debug, Clone, Copy)]
pub struct JsonLines;

impl JsonLinesWriter {
    /// Creates a writer of the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::encoding(path, JsonLines)
    }
}

impl<T: Serialize> Encode<T> for JsonLines {
    fn encode(&mut self, items: &[T], _: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        for item in items {
            serde_json::to_writer(&mut *bytes, item)
                .map_err(|error| ItemError::wrap(ErrorKind::DATA, "cannot write as JSON", error))?;
            bytes.push(b'\n');
        }
        Ok(())
    }

    fn is_independent(&self) -> bool {
        true
    }
}

/// The kind `jsonl`: a record for each JSON object.
pub(crate) struct JsonLinesKind;

/// Writes each record as a JSON object on a line of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// Path of the file, relative to the job file, or its URL.
    path: Text,
}

impl ItemKind for JsonLinesKind {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn schema(&self) -> KindSchema {
        let schema = KindSchema::default().reader::<LineReaderKeys>().reader_restarts(AT_RECORD);
        schema.writer::<WriterKeys>().writer_restarts(CUT_BACK).example(
            Example {
                reader: "path = \"people.jsonl\"",
                writer: "path = \"out.jsonl\"",
                input: Some((
                    "people.jsonl",
                    "{\"id\":1,\"name\":\"Ada\"}\n{\"id\":2,\"name\":\"Grace\"}\n{\"id\":3,\"name\":\"Edsger\"}\n",
                )),
                output: Some("out.jsonl"),
                sql: "",
            }
        )
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let keys: LineReaderKeys = keys.parse()?;
        let (path, field) = (keys.path.clone(), keys.file_field.clone());
        of_files(cx, &path, field.as_deref(), None, move |source, scope| {
            let input = keys.input(source, scope)?;
            Ok(Reads::records(JsonLinesReader::<Record>::of(input, JsonLine::default())))
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let WriterKeys { path } = keys.parse()?;
        let path = cx.output_location(&path)?;
        Ok(Box::new(move |scope| Ok(BoxedWriter::new(path(scope)?.writer(JsonLines)))))
    }

    fn byte_split(&self, keys: Keys<'_>) -> Result<ByteSplit, Problem> {
        let LineReaderKeys { path, .. } = keys.parse()?;
        Ok(ByteSplit { path, make: Box::new(ByteRanges::lines) })
    }
}

/// The kind `file`: the older name of the writer `jsonl`.
pub(crate) struct FileKind;

impl ItemKind for FileKind {
    fn name(&self) -> &'static str {
        "file"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().writer::<WriterKeys>().writer_restarts(CUT_BACK).example(Example {
            writer: "path = \"out.json\"",
            output: Some("out.json"),
            ..Example::default()
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        JsonLinesKind.writer(keys, cx)
    }
}
