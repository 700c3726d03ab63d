//! An element as a record.

use std::collections::HashMap;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::markup::bound_prefixes;
use super::text_of;
use crate::record::Record;
use crate::value::Value;

/// Depth of elements within a record that is refused.
const DEPTH_MAX: usize = 100;
/// The field of the text of an element that also has attributes or elements.
const TEXT: &str = "text";

/// Number of fields from which they are found by a map.
const FIELDS_FEW: usize = 32;

/// An element that is being read.
#[derive(Default)]
struct Node {
    name: Option<Arc<str>>,
    fields: Vec<Field>,
    /// The indices of many fields, by their names.
    index: HashMap<Arc<str>, usize>,
    text: String,
    is_null: bool,
}

/// The prefixes of the namespace of `nil`: those around the element, and those that it binds.
struct NilPrefixes<'a> {
    around: &'a [&'a str],
    within: Vec<String>,
}

impl NilPrefixes<'_> {
    fn contains(&self, prefix: &str) -> bool {
        prefix == "xsi"
            || self.around.contains(&prefix)
            || self.within.iter().any(|known| known == prefix)
    }
}

/// An attribute, or all elements of a name.
struct Field {
    name: Arc<str>,
    values: Vec<Value>,
    is_attribute: bool,
}

/// Returns the record of the XML `element`: a field for each attribute and each element within it, by their names without a
/// prefix. Elements of the same name are a list; an element with attributes or elements is a map. `prefixes` are those of the
/// namespace of `nil` around the element.
pub(super) fn record(element: &str, prefixes: &[&str]) -> Result<Record, ItemError> {
    let failed = |error: quick_xml::Error| {
        ItemError::wrap(ErrorKind::PARSE, "cannot read the element", error)
    };
    let mut reader = Reader::from_str(element);
    let mut open: Vec<Node> = Vec::new();
    let mut nil = NilPrefixes { around: prefixes, within: Vec::new() };
    loop {
        let ended = match reader.read_event().map_err(failed)? {
            Event::Start(start) if open.len() < DEPTH_MAX => {
                open.push(Node::begin(&start, &mut nil)?);
                None
            }
            Event::Start(_) => {
                let what = format!("cannot read the element: it is deeper than {DEPTH_MAX} levels");
                return Err(ItemError::parse(what));
            }
            Event::Empty(start) => Some(Node::begin(&start, &mut nil)?),
            Event::End(_) => open.pop(),
            Event::Eof => return Err(ItemError::parse("cannot read the element: it has no end")),
            other => {
                let node = open.last_mut();
                node.map_or(Ok(()), |node| node.add_text(other))?;
                None
            }
        };
        match (ended, open.last_mut()) {
            (Some(ended), Some(outer)) => outer.add_element(ended)?,
            (Some(ended), None) => {
                let (names, values): (Vec<_>, Vec<_>) = ended.fields()?.into_iter().unzip();
                return Ok(Record::new(names.into(), values));
            }
            (None, _) => {}
        }
    }
}

impl Node {
    fn begin(start: &BytesStart<'_>, nil: &mut NilPrefixes<'_>) -> Result<Self, ItemError> {
        let local = start.local_name();
        let mut node = Self { name: Some(Arc::from(local.as_ref())), ..Self::default() };
        let bound = bound_prefixes(start.as_bytes()).filter(|(_, is_nil)| *is_nil);
        nil.within.extend(bound.map(|(prefix, _)| text_of(prefix)));
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| {
                ItemError::wrap(ErrorKind::PARSE, "cannot read an attribute", error)
            })?;
            let value = attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|error| {
                ItemError::wrap(ErrorKind::PARSE, "cannot read an attribute", error)
            })?;
            let (name, prefix) = (attribute.key.local_name(), attribute.key.prefix());
            match prefix.as_ref().map(|prefix| prefix.as_ref()) {
                Some(prefix) if nil.contains(prefix) => {
                    let is_true = ["true", "1"].contains(&value.trim());
                    node.is_null |= name.as_ref() == "nil" && is_true;
                }
                // Declarations of prefixes are no data.
                Some("xmlns") => {}
                None if attribute.key.as_ref() == "xmlns" => {}
                _ => node.add(name.as_ref().into(), field(&value), true)?,
            }
        }
        Ok(node)
    }

    fn add(&mut self, name: Arc<str>, value: Value, is_attribute: bool) -> Result<(), ItemError> {
        match self.position(&name) {
            None => {
                if self.fields.len() >= FIELDS_FEW {
                    self.index.insert(Arc::clone(&name), self.fields.len());
                }
                self.fields.push(Field { name, values: vec![value], is_attribute });
            }
            Some(at) if self.fields[at].is_attribute || is_attribute => {
                return Err(ItemError::parse(format!(
                    "cannot read the element: an attribute and another part are both called `{name}`"
                )));
            }
            Some(at) => self.fields[at].values.push(value),
        }
        Ok(())
    }

    /// Returns the index of the field `name`.
    fn position(&self, name: &str) -> Option<usize> {
        let first = &self.fields[..self.fields.len().min(FIELDS_FEW)];
        let found = first.iter().position(|field| *field.name == *name);
        found.or_else(|| self.index.get(name).copied())
    }

    fn add_element(&mut self, inner: Self) -> Result<(), ItemError> {
        let name = inner.name.clone().unwrap_or_else(|| Arc::from(TEXT));
        self.add(name, inner.into_value()?, false)
    }

    fn add_text(&mut self, event: Event<'_>) -> Result<(), ItemError> {
        match event {
            Event::Text(text) => self.text.push_str(&text.xml10_content()),
            Event::CData(text) => self.text.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) => match reference.resolve_char_ref() {
                Ok(Some(character)) => self.text.push(character),
                Ok(None) => match quick_xml::escape::resolve_predefined_entity(&reference) {
                    Some(text) => self.text.push_str(text),
                    None => {
                        return Err(ItemError::parse(format!(
                            "cannot read the element: there is no entity `{}`",
                            &*reference
                        )));
                    }
                },
                Err(error) => {
                    let what = "cannot read the element";
                    return Err(ItemError::wrap(ErrorKind::PARSE, what, error));
                }
            },
            _ => {}
        }
        Ok(())
    }

    /// Returns the fields of the element, with its text as one of them unless that is blank.
    fn fields(mut self) -> Result<Vec<(Arc<str>, Value)>, ItemError> {
        if !self.text.trim().is_empty() {
            self.add(Arc::from(TEXT), field(&self.text), true)?;
        }
        let value = |mut values: Vec<Value>| match values.len() {
            1 => values.pop().unwrap_or(Value::Null),
            _ => Value::List(values.into()),
        };
        Ok(self
            .fields
            .into_iter()
            .map(|Field { name, values, .. }| (name, value(values)))
            .collect())
    }

    fn into_value(self) -> Result<Value, ItemError> {
        match self.fields.is_empty() {
            _ if self.is_null => Ok(Value::Null),
            true => Ok(field(&self.text)),
            false => Ok(Value::Map(self.fields()?.into())),
        }
    }
}

fn field(text: &str) -> Value {
    Value::Field(text.into())
}
