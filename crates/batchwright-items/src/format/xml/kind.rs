//! The kind `xml`: a record for each element of a name.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::writer::{Frame, XmlRecords, check_name};
use super::{XmlElements, element, is_local_name, not_local};
use crate::files::of_files;
use crate::format::document::DocumentReader;
use crate::format::{AT_ELEMENT, CUT_BACK};
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, Example, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::record::first_duplicate;
use crate::transport::IfChanged;
use crate::writer::BoxedWriter;

/// The kind `xml`.
pub(crate) struct XmlKind;

/// Reads every element of a name, without holding the document in memory. Its attributes and the elements within it are fields, by
/// their names without a prefix; elements of the same name are a list, elements with parts a map.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// Path of the file, relative to the job file, or its URL; with `*` or `?` in the name, of all files that match, in the order
    /// of their names.
    path: Text,
    /// Name of the elements that are records, without a prefix.
    element: Text,
    /// A field that gets the path of the file.
    file_field: Option<String>,
    /// Maximum length of an element in bytes. Default: 1 MiB.
    element_bytes_max: Option<usize>,
    /// What a restart does when the file has changed: `refuse` or `continue`. Default: `refuse`.
    if_changed: Option<At<IfChanged>>,
}

/// Writes an element for each record, with an element for each field; a null has none, and a list several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// Path of the file, relative to the job file, or its URL.
    path: Text,
    /// Name of the element around all records. Default: `items`.
    root: Option<Text>,
    /// Attributes of the element around all records, such as `xmlns`.
    #[serde(default)]
    root_attributes: BTreeMap<String, String>,
    /// Name of the element of a record. Default: `item`.
    element: Option<Text>,
    /// Fields that are attributes of the element.
    #[serde(default)]
    attributes: Vec<String>,
}

impl ItemKind for XmlKind {
    fn name(&self) -> &'static str {
        "xml"
    }

    fn schema(&self) -> KindSchema {
        let schema = KindSchema::default().reader::<ReaderKeys>().reader_restarts(AT_ELEMENT);
        schema.writer::<WriterKeys>().writer_restarts(CUT_BACK).example(Example {
            reader: "path = \"people.xml\"\nelement = \"person\"",
            writer: "path = \"out.xml\"\nroot = \"people\"\nelement = \"person\"\nattributes = [\"id\"]",
            input: Some((
                "people.xml",
                "<?xml version=\"1.0\"?>\n<people>\n  <person id=\"1\"><name>Ada</name></person>\n  <person id=\"2\"><name>Grace</name></person>\n  <person id=\"3\"><name>Edsger</name></person>\n</people>\n",
            )),
            output: Some("out.xml"),
            sql: "",
        })
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let ReaderKeys { path, element, file_field, element_bytes_max, if_changed } =
            keys.parse()?;
        if !is_local_name(element.get_ref()) {
            return Err(Problem::at(&element, not_local(element.get_ref())));
        }
        let element = element.into_inner();
        of_files(cx, &path, file_field.as_deref(), None, move |source, _| {
            let elements = XmlElements { name: element.clone(), decode: element::record };
            let reader = DocumentReader::sharing(source, Arc::new(elements));
            Ok(Reads::records(reader.with_keys(element_bytes_max, if_changed.as_ref())))
        })
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let WriterKeys { path, root, root_attributes, element, attributes } = keys.parse()?;
        for name in root.iter().chain(&element) {
            check_name(name.get_ref()).map_err(|error| Problem::at(name, error.to_string()))?;
        }
        if let Some(name) =
            root_attributes.keys().chain(&attributes).find(|one| check_name(one).is_err())
        {
            return Err(keys.problem(format!("an attribute cannot be called `{name}`")));
        }
        if let Some(name) = first_duplicate(&attributes) {
            return Err(keys.problem_at("attributes", format!("`{name}` is there twice")));
        }
        let path = cx.output_location(&path)?;
        let named = |given: Option<Text>, name: &str| {
            given.map_or_else(|| name.to_owned(), Text::into_inner)
        };
        let frame =
            Frame { root: named(root, "items"), root_attributes, element: named(element, "item") };
        for name in [&frame.root, &frame.element].into_iter().chain(&attributes) {
            frame.check_prefix(name).map_err(|error| keys.problem(error.to_string()))?;
        }
        let attributes: Arc<[String]> = attributes.into();
        Ok(Box::new(move |scope| {
            let encode = XmlRecords { frame: frame.clone(), attributes: Arc::clone(&attributes) };
            Ok(BoxedWriter::new(path(scope)?.writer(encode)))
        }))
    }
}
