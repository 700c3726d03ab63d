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
use crate::transport::{ByteSource, Encode, FileWriter};
use crate::value::Value;

/// Depth of the values within a record that is refused.
const DEPTH_MAX: usize = 100;

/// A writer of an XML document with an element for each output.
///
/// ```no_run
/// use batchwright_items::format::xml::XmlWriter;
///
/// // <?xml version="1.0" encoding="UTF-8"?>
/// // <trades>
/// // <trade><symbol>ABC</symbol></trade>
/// // </trades>
/// // Each output is a struct or a map: `None` is written as an empty element unless serde skips the field.
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

    fn finish(
        &mut self,
        _: bool,
        _: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
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
            self.check_prefix(name)?;
        }
        let mut text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{}", self.root);
        for (name, value) in &self.root_attributes {
            attribute(&mut text, name, value)?;
        }
        text.push_str(">\n");
        bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Checks that the prefix of `name` is declared.
    pub(super) fn check_prefix(&self, name: &str) -> Result<(), ItemError> {
        let Some((prefix, local)) = name.split_once(':') else { return Ok(()) };
        let is_known = ["xml", "xmlns"].contains(&prefix)
            || self.root_attributes.contains_key(&format!("xmlns:{prefix}"));
        match is_known && !local.is_empty() && !local.contains(':') {
            true => Ok(()),
            false => Err(ItemError::data(format!(
                "cannot write `{name}` as XML: `root_attributes` does not declare its prefix"
            ))),
        }
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

    fn finish(
        &mut self,
        _: bool,
        _: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
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
            match item.required("write attribute", name)? {
                Value::Null => {}
                Value::List(_) | Value::Map(_) | Value::Json(_) => {
                    return Err(ItemError::data(format!(
                        "cannot write attribute `{name}`: a list or a map is no attribute"
                    )));
                }
                value => attribute(text, name, &shown(value))?,
            }
        }
        text.push('>');
        for (name, value) in item.names().iter().zip(item.values()) {
            if !self.attributes.iter().any(|attribute| **attribute == **name) {
                self.field(text, name, value, 0)?;
            }
        }
        let _ = writeln!(text, "</{element}>");
        Ok(())
    }

    /// Appends an element for `value`; several for a list, and none for null.
    fn field(
        &self,
        text: &mut String,
        name: &str,
        value: &Value,
        depth: usize,
    ) -> Result<(), ItemError> {
        let failed =
            |what: &str| Err(ItemError::data(format!("cannot write field `{name}`: {what}")));
        if depth == DEPTH_MAX {
            return failed("it is too deep");
        }
        check_name(name)?;
        self.frame.check_prefix(name)?;
        match value {
            Value::Null => Ok(()),
            Value::List(values) => values.iter().try_for_each(|value| match value {
                Value::Null => failed("a null within a list has no place in XML"),
                Value::List(_) => failed("a list of lists has no place in XML"),
                Value::Json(json) if json.get().starts_with('[') => {
                    failed("a list of lists has no place in XML")
                }
                value => self.field(text, name, value, depth + 1),
            }),
            Value::Map(fields) => {
                let _ = write!(text, "<{name}>");
                for (name, value) in &**fields {
                    self.field(text, name, value, depth + 1)?;
                }
                let _ = write!(text, "</{name}>");
                Ok(())
            }
            Value::Json(json) => match parsed(json) {
                Ok(value) => self.field(text, name, &value, depth + 1),
                Err(error) => failed(&error.to_string()),
            },
            other => {
                let _ = write!(text, "<{name}>");
                escaped(text, &shown(other), name)?;
                let _ = write!(text, "</{name}>");
                Ok(())
            }
        }
    }
}

/// Returns the text of a value, as XML Schema has it.
fn shown(value: &Value) -> String {
    match value {
        Value::Float(number) if number.is_infinite() => {
            if *number > 0.0 {
                "INF".to_owned()
            } else {
                "-INF".to_owned()
            }
        }
        other => other.to_string(),
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

/// Checks that `name` can be the name of an element or an attribute, by XML 1.0.
pub(super) fn check_name(name: &str) -> Result<(), ItemError> {
    let mut characters = name.chars();
    match characters.next().is_some_and(begins_name) && characters.all(continues_name) {
        true => Ok(()),
        false => Err(ItemError::data(format!(
            "cannot write `{name}` as XML: an element or attribute cannot have this name"
        ))),
    }
}

/// `NameStartChar` of XML 1.0, fifth edition, section 2.3.
fn begins_name(character: char) -> bool {
    matches!(character, ':' | '_' | 'A'..='Z' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}'
        | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}'
        | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}'
        | '\u{FDF0}'..='\u{FFFD}' | '\u{10000}'..='\u{EFFFF}')
}

/// `NameChar` there.
fn continues_name(character: char) -> bool {
    begins_name(character)
        || matches!(character, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}
