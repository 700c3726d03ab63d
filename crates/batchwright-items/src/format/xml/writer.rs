//! Writers of XML documents.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::record::Record;
use crate::transport::{Encode, FileWriter};
use crate::value::Value;

/// A writer of an XML document with an element for each output.
///
/// ```no_run
/// use batchwright_items::format::xml::XmlWriter;
///
/// // <?xml version="1.0" encoding="UTF-8"?>
/// // <trades>
/// // <trade><symbol>ABC</symbol></trade>
/// // </trades>
/// let writer = XmlWriter::new("trades.xml", "trades", "trade");
/// ```
pub type XmlWriter = FileWriter<XmlItems>;

/// The encoder of a document whose elements are serialized by the rules of `quick_xml::se`.
#[derive(Debug, Clone)]
pub struct XmlItems(Frame);

impl XmlWriter {
    /// Creates a writer of the file at `path`: an element `root` with an `element` for each output.
    pub fn new(
        path: impl Into<PathBuf>,
        root: impl Into<String>,
        element: impl Into<String>,
    ) -> Self {
        let (root, element) = (root.into(), element.into());
        Self::encoding(path, XmlItems(Frame { root, root_attributes: BTreeMap::new(), element }))
    }
}

impl<T: Serialize> Encode<T> for XmlItems {
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        self.0.begin(first, bytes)?;
        for item in items {
            let element = quick_xml::se::to_string_with_root(&self.0.element, item);
            let element = element
                .map_err(|error| ItemError::wrap(ErrorKind::DATA, "cannot write as XML", error))?;
            if let Some(character) = element.chars().find(|one| !is_allowed(*one)) {
                return Err(not_allowed(character, "the element"));
            }
            bytes.extend_from_slice(element.as_bytes());
            bytes.push(b'\n');
        }
        Ok(())
    }

    fn finish(&mut self, first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        let _ = first;
        self.0.end(bytes);
        Ok(())
    }

    fn is_independent(&self) -> bool {
        true
    }
}

/// What surrounds the outputs.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) root: String,
    pub(super) root_attributes: BTreeMap<String, String>,
    pub(super) element: String,
}

impl Frame {
    /// Appends the beginning of the document.
    fn begin(&self, first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        if !first {
            return Ok(());
        }
        for name in self.root_attributes.keys().chain([&self.root, &self.element]) {
            check_name(name)?;
        }
        let mut text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{}", self.root);
        for (name, value) in &self.root_attributes {
            attribute(&mut text, name, value)?;
        }
        text.push_str(">\n");
        bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn end(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(format!("</{}>\n", self.root).as_bytes());
    }
}

/// The encoder of records.
#[derive(Debug, Clone)]
pub(super) struct XmlRecords {
    pub(super) frame: Frame,
    /// Fields that are attributes of the element.
    pub(super) attributes: Arc<[String]>,
}

impl Encode<Record> for XmlRecords {
    fn encode(
        &mut self,
        items: &[Record],
        first: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        self.frame.begin(first, bytes)?;
        let mut text = String::new();
        for item in items {
            text.clear();
            self.record(item, &mut text)?;
            bytes.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }

    fn finish(&mut self, _: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError> {
        self.frame.end(bytes);
        Ok(())
    }

    fn is_independent(&self) -> bool {
        true
    }
}

impl XmlRecords {
    fn record(&self, item: &Record, text: &mut String) -> Result<(), ItemError> {
        let element = &self.frame.element;
        let _ = write!(text, "<{element}");
        for name in &*self.attributes {
            match item.get(name) {
                None => {
                    return Err(ItemError::data(format!(
                        "cannot write attribute `{name}`: the item has no such field"
                    )));
                }
                Some(Value::Null) => {}
                Some(value) => attribute(text, name, &value.to_string())?,
            }
        }
        text.push('>');
        for (name, value) in item.names().iter().zip(item.values()) {
            if !self.attributes.iter().any(|attribute| **attribute == **name) {
                check_name(name)?;
                field(text, name, value)?;
            }
        }
        let _ = writeln!(text, "</{element}>");
        Ok(())
    }
}

/// Appends an element for `value`; several for a list, and none for null.
fn field(text: &mut String, name: &str, value: &Value) -> Result<(), ItemError> {
    match value {
        Value::Null => Ok(()),
        Value::List(values) => values.iter().try_for_each(|value| field(text, name, value)),
        Value::Map(fields) => {
            let _ = write!(text, "<{name}>");
            for (name, value) in &**fields {
                check_name(name)?;
                field(text, name, value)?;
            }
            let _ = write!(text, "</{name}>");
            Ok(())
        }
        Value::Json(json) => field(text, name, &parsed(json)?),
        other => {
            let _ = write!(text, "<{name}>");
            escaped(text, &other.to_string(), name)?;
            let _ = write!(text, "</{name}>");
            Ok(())
        }
    }
}

/// Returns the list or the map that the JSON `raw` is.
fn parsed(raw: &RawValue) -> Result<Value, serde_json::Error> {
    let text = raw.get();
    if text.starts_with('[') {
        let parts: Vec<&RawValue> = serde_json::from_str(text)?;
        return Ok(Value::List(parts.into_iter().map(Value::from_raw).collect::<Result<_, _>>()?));
    }
    let record: Record = serde_json::from_str(text)?;
    let fields = record.names().iter().cloned().zip(record.values().iter().cloned());
    Ok(Value::Map(fields.collect()))
}

fn attribute(text: &mut String, name: &str, value: &str) -> Result<(), ItemError> {
    let _ = write!(text, " {name}=\"");
    escaped(text, value, name)?;
    text.push('"');
    Ok(())
}

/// Appends `value` so that every reader of XML gets the same characters back.
fn escaped(text: &mut String, value: &str, name: &str) -> Result<(), ItemError> {
    for character in value.chars() {
        match character {
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '&' => text.push_str("&amp;"),
            '"' => text.push_str("&quot;"),
            // Readers make spaces of these in attributes, and a line feed of a carriage return in texts.
            '\t' | '\n' | '\r' => {
                let _ = write!(text, "&#{};", u32::from(character));
            }
            other if is_allowed(other) => text.push(other),
            other => return Err(not_allowed(other, &format!("field `{name}`"))),
        }
    }
    Ok(())
}

/// Whether XML 1.0 has the character.
fn is_allowed(character: char) -> bool {
    !matches!(character, '\0'..='\u{8}' | '\u{B}' | '\u{C}' | '\u{E}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}')
}

fn not_allowed(character: char, what: &str) -> ItemError {
    let number = u32::from(character);
    ItemError::data(format!("cannot write {what}: XML has no character U+{number:04X}"))
}

/// Checks that `name` can be the name of an element or an attribute.
pub(super) fn check_name(name: &str) -> Result<(), ItemError> {
    let is_first = |one: char| one.is_alphabetic() || one == '_';
    let is_other = |one: char| is_first(one) || one.is_numeric() || "-.:".contains(one);
    let mut characters = name.chars();
    match characters.next().is_some_and(is_first) && characters.all(is_other) {
        true => Ok(()),
        false => Err(ItemError::data(format!(
            "cannot write `{name}` as XML: an element or attribute cannot have this name"
        ))),
    }
}
