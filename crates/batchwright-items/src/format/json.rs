//! JSON documents: the elements of an array, at the root of the document or within it.

mod scan;

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::scan::Scan;
use super::document::{Document, DocumentReader, Found, Growing, malformed};
use super::raw::RAW_BYTES_KEPT;
use crate::files::of_files;
use crate::format::{AT_ELEMENT, CUT_BACK};
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, Example, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::record::Record;
use crate::transport::input::Input;
use crate::transport::{ByteSource, Encode, FileWriter, IfChanged};
use crate::writer::BoxedWriter;

/// A reader that yields a `T` for every element of a JSON array.
///
/// ```no_run
/// use batchwright_items::format::json::JsonReader;
///
/// #[derive(serde::Deserialize)]
/// struct Trade {
///     symbol: String,
///     quantity: u32,
/// }
///
/// // {"date": "2026-11-29", "data": {"trades": [{"symbol": "ABC", "quantity": 7}, …]}}
/// let trades = JsonReader::<Trade>::within("trades.json", "data.trades");
/// ```
pub type JsonReader<T> = DocumentReader<JsonElements<T>>;

/// The array of a document whose elements are the records.
pub struct JsonElements<T> {
    /// Names of the fields that lead to the array; a sentence when they cannot be names.
    path: Result<Vec<String>, String>,
    item: PhantomData<fn() -> T>,
}

impl<T> std::fmt::Debug for JsonElements<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonElements").field("path", &self.path).finish()
    }
}

/// The place of a reader in a JSON document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonPlace {
    /// Before the array.
    #[default]
    Start,
    /// Just after an element of the array.
    Element,
}

impl<T: DeserializeOwned + Send + Sync + 'static> JsonReader<T> {
    /// Creates a reader of the file at `path`, whose document is an array.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of(path, JsonElements { path: Ok(Vec::new()), item: PhantomData })
    }

    /// Creates a reader of an array within the document of the file at `path`: `array` is the names of the fields that lead to
    /// it, with points between them, such as `data.trades`; a leading `$.` is allowed.
    pub fn within(path: impl Into<PathBuf>, array: &str) -> Self {
        Self::of(path, JsonElements { path: path_of(array), item: PhantomData })
    }
}

/// Returns the names in `array`, which points separate.
fn path_of(array: &str) -> Result<Vec<String>, String> {
    let names = match array.strip_prefix("$.") {
        None if array.is_empty() || array == "$" => return Ok(Vec::new()),
        names => names.unwrap_or(array),
    };
    let names: Vec<String> = names.split('.').map(str::to_owned).collect();
    match names.iter().any(String::is_empty) {
        true => Err(format!("`{array}` is no list of names with points between them")),
        false => Ok(names),
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Document for JsonElements<T> {
    type Item = T;
    type Place = JsonPlace;

    fn find(
        &self,
        place: &mut JsonPlace,
        input: &mut Input,
        bytes_max: usize,
    ) -> Result<Option<Found>, ItemError> {
        let path = self.path.as_deref().map_err(ItemError::fatal)?;
        match place {
            JsonPlace::Start => {
                for index in 0..path.len() {
                    enter(input, &path[..=index])?;
                }
                if next_byte(input)? != Some(b'[') {
                    return Err(malformed(&match path {
                        [] => "it is not a JSON array; name the array within it (`items_at`)"
                            .to_owned(),
                        path => format!("`{}` is not an array", path.join(".")),
                    }));
                }
                input.consume(1);
                if next_byte(input)? == Some(b']') {
                    return end(input, path);
                }
            }
            JsonPlace::Element => match next_byte(input)? {
                Some(b',') => {
                    input.consume(1);
                    next_byte(input)?;
                }
                Some(b']') => return end(input, path),
                found => return Err(unexpected(found, "`,` or `]` after an element")),
            },
        }
        let found = element(input, bytes_max)?;
        *place = JsonPlace::Element;
        Ok(Some(found))
    }

    fn decode(&self, _: &JsonPlace, element: &[u8]) -> Result<T, ItemError> {
        serde_json::from_slice(element).map_err(|error| {
            ItemError::wrap(ErrorKind::PARSE, "cannot read the element as JSON", error)
        })
    }
}

/// Consumes the end of the array at `path` and what follows it, up to the end of the document.
fn end(input: &mut Input, path: &[String]) -> Result<Option<Found>, ItemError> {
    input.consume(1);
    for open in (1..=path.len()).rev() {
        while has_more(input)? {
            if name(input)?.as_ref() == path.get(open - 1) {
                let path = path[..open].join(".");
                return Err(malformed(&format!("it has `{path}` twice")));
            }
            value(input)?;
        }
        input.consume(1);
    }
    match next_byte(input)? {
        None => Ok(None),
        Some(byte) => {
            Err(malformed(&format!("it goes on with `{}` after its end", byte.escape_ascii())))
        }
    }
}

/// Returns the next byte that is no white space, without consuming it; `None` at the end.
fn next_byte(input: &mut Input) -> Result<Option<u8>, ItemError> {
    loop {
        let rest = input.rest();
        let blank = rest.iter().take_while(|byte| scan::is_blank(**byte)).count();
        let found = rest.get(blank).copied();
        input.consume(blank);
        if found.is_some() || !input.more()? {
            return Ok(found);
        }
    }
}

fn unexpected(found: Option<u8>, wanted: &str) -> ItemError {
    malformed(&match found {
        None => format!("it ends where there must be {wanted}"),
        Some(byte) => format!("it has `{}` where there must be {wanted}", byte.escape_ascii()),
    })
}

/// Consumes the beginning of an object up to the value of its field with the last name of `path`.
fn enter(input: &mut Input, path: &[String]) -> Result<(), ItemError> {
    let missing = || malformed(&format!("it has no `{}`", path.join(".")));
    match next_byte(input)? {
        Some(b'{') => input.consume(1),
        _ => return Err(missing()),
    }
    if next_byte(input)? == Some(b'}') {
        return Err(missing());
    }
    loop {
        if name(input)?.as_ref() == path.last() {
            return Ok(());
        }
        value(input)?;
        if !has_more(input)? {
            return Err(missing());
        }
    }
}

/// Whether the object has a further field after a value: then the comma is consumed, and otherwise a brace follows.
fn has_more(input: &mut Input) -> Result<bool, ItemError> {
    match next_byte(input)? {
        Some(b',') => {
            input.consume(1);
            Ok(true)
        }
        Some(b'}') => Ok(false),
        found => Err(unexpected(found, "`,` or `}` after a value")),
    }
}

/// Consumes the name of a field and the colon after it; `None` for a name that is too long for any path.
fn name(input: &mut Input) -> Result<Option<String>, ItemError> {
    match next_byte(input)? {
        Some(b'"') => {}
        found => return Err(unexpected(found, "the name of a field")),
    }
    let name = match element(input, RAW_BYTES_KEPT)? {
        Found::TooLong(..) => None,
        Found::Element(length) => {
            let name = serde_json::from_slice(&input.rest()[..length]);
            let name = name.map_err(|error| malformed(&format!("a name is no JSON: {error}")))?;
            input.consume(length);
            Some(name)
        }
    };
    match next_byte(input)? {
        Some(b':') => input.consume(1),
        found => return Err(unexpected(found, "`:` after the name of a field")),
    }
    next_byte(input)?;
    Ok(name)
}

/// Consumes a value that is not needed.
fn value(input: &mut Input) -> Result<(), ItemError> {
    let Found::Element(length) = element(input, RAW_BYTES_KEPT)? else { return Ok(()) };
    let text = &input.rest()[..length];
    // Of texts, lists and objects the end is known, of anything else only that it is none of them.
    if !matches!(text, [b'"' | b'[' | b'{', ..]) {
        serde_json::from_slice::<serde::de::IgnoredAny>(text)
            .map_err(|error| malformed(&format!("a value is no JSON: {error}")))?;
    }
    input.consume(length);
    Ok(())
}

/// Finds the end of the value at the beginning of `input`, and consumes a value that is longer than `bytes_max`.
fn element(input: &mut Input, bytes_max: usize) -> Result<Found, ItemError> {
    let (mut scan, mut growing, mut is_begun) = (Scan::default(), Growing::begin(input), false);
    loop {
        let rest = &input.rest()[growing.at..];
        match scan.end(rest)? {
            Some(0) if !is_begun => return Err(unexpected(rest.first().copied(), "a value")),
            Some(length) => {
                growing.pass(length, input, bytes_max);
                return Ok(growing.found(input, bytes_max));
            }
            None => {
                let length = rest.len();
                is_begun |= length > 0;
                growing.pass(length, input, bytes_max);
                if !input.more()? {
                    return Err(unexpected(None, "the rest of a value"));
                }
            }
        }
    }
}

/// A writer that writes the outputs as the elements of a JSON array, one on each line.
pub type JsonWriter = FileWriter<JsonArray>;

/// The encoder of a JSON array.
#[derive(Debug, Clone, Copy)]
pub struct JsonArray;

impl JsonWriter {
    /// Creates a writer of the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::encoding(path, JsonArray)
    }
}

impl<T: Serialize> Encode<T> for JsonArray {
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        for (index, item) in items.iter().enumerate() {
            bytes.extend_from_slice(if first && index == 0 { b"[\n" } else { b",\n" });
            serde_json::to_writer(&mut *bytes, item)
                .map_err(|error| ItemError::wrap(ErrorKind::DATA, "cannot write as JSON", error))?;
        }
        Ok(())
    }

    fn finish(
        &mut self,
        first: bool,
        _: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        bytes.extend_from_slice(if first { b"[]\n" } else { b"\n]\n" });
        Ok(())
    }

    fn is_independent(&self) -> bool {
        true
    }
}

/// The kind `json`: a record for each object of a JSON array.
pub(crate) struct JsonKind;

/// Reads the elements of a JSON array, each of which is an object, without holding the document in memory.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// Path of the file, relative to the job file, or its URL; with `*` or `?` in the name, of all files that match, in the order
    /// of their names.
    path: Text,
    /// The fields that lead to the array, with points between them, such as `data.items`. Default: the document is the array.
    items_at: Option<String>,
    /// A field that gets the path of the file.
    file_field: Option<String>,
    /// Maximum length of an element in bytes. Default: 1 MiB.
    element_bytes_max: Option<usize>,
    /// What a restart does when the file has changed: `refuse` or `continue`. Default: `refuse`.
    if_changed: Option<At<IfChanged>>,
}

/// Writes a JSON array with an object for each record, one on each line.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// Path of the file, relative to the job file, or its URL.
    path: Text,
}

impl ItemKind for JsonKind {
    fn name(&self) -> &'static str {
        "json"
    }

    fn schema(&self) -> KindSchema {
        let schema = KindSchema::default().reader::<ReaderKeys>().reader_restarts(AT_ELEMENT);
        schema.writer::<WriterKeys>().writer_restarts(CUT_BACK).example(Example {
            reader: "path = \"people.json\"\nitems_at = \"people\"",
            writer: "path = \"out.json\"",
            input: Some((
                "people.json",
                "{\"of\": \"2026\", \"people\": [\n  {\"id\": 1, \"name\": \"Ada\"},\n  {\"id\": 2, \"name\": \"Grace\"},\n  {\"id\": 3, \"name\": \"Edsger\"}\n]}\n",
            )),
            output: Some("out.json"),
            sql: "",
        })
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let ReaderKeys { path, items_at, file_field, element_bytes_max, if_changed } =
            keys.parse()?;
        if let Some(Err(message)) = items_at.as_deref().map(path_of) {
            return Err(keys.problem_at("items_at", message));
        }
        of_files(cx, &path, file_field.as_deref(), None, move |source, _| {
            let array = items_at.as_deref().unwrap_or_default();
            let reader = JsonReader::<Record>::within("", array).from_source(source);
            Ok(Reads::records(reader.with_keys(element_bytes_max, if_changed.as_ref())))
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let WriterKeys { path } = keys.parse()?;
        let path = cx.output_location(&path)?;
        Ok(Box::new(move |scope| Ok(BoxedWriter::new(path(scope)?.writer(JsonArray)))))
    }
}
