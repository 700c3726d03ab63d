//! XML documents: every element of one name is a record.

mod element;
mod kind;
mod markup;
mod writer;

use std::borrow::Cow;
use std::path::PathBuf;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use self::kind::XmlKind;
use self::markup::{Markup, Part, local, markup};
pub use self::writer::{XmlItems, XmlWriter};
use super::document::{Document, DocumentReader, Found, Growing};
use super::raw::RAW_BYTES_KEPT;
use crate::transport::input::Input;

/// A reader that yields a `T` for every element of a name.
///
/// ```no_run
/// use batchwright_items::format::xml::XmlReader;
///
/// #[derive(serde::Deserialize)]
/// struct Trade {
///     #[serde(rename = "@id")]
///     id: u64,
///     symbol: String,
/// }
///
/// // <trades><trade id="1"><symbol>ABC</symbol></trade>…</trades>
/// let trades = XmlReader::<Trade>::new("trades.xml", "trade");
/// ```
///
/// The name of the element is its name without a prefix. Elements of the name within such an element are a part of it. Entities
/// other than those of XML itself are refused, and nothing outside of the file is read.
pub type XmlReader<T> = DocumentReader<XmlElements<T>>;

/// The elements of a document that are records.
#[derive(Debug)]
pub struct XmlElements<T> {
    /// The name of the elements.
    name: String,
    decode: fn(&str) -> Result<T, ItemError>,
}

/// The place of a reader in an XML document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XmlPlace {
    /// Names of the elements that are open.
    open: Vec<String>,
    /// Whether the first element has been read.
    is_begun: bool,
    /// The encoding that the document declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<String>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> XmlReader<T> {
    /// Creates a reader of the elements `element` in the file at `path`; each is deserialized into a `T` by the rules of
    /// `quick_xml::de`: attributes have an `@` before their names, and `$text` is the text.
    pub fn new(path: impl Into<PathBuf>, element: impl Into<String>) -> Self {
        let decode = |element: &str| {
            quick_xml::de::from_str(element).map_err(|error| {
                ItemError::wrap(ErrorKind::PARSE, "cannot read the element", error)
            })
        };
        Self::of(path, XmlElements { name: element.into(), decode })
    }
}

impl<T: Send + Sync + 'static> Document for XmlElements<T> {
    type Item = T;
    type Place = XmlPlace;

    fn find(
        &self,
        place: &mut XmlPlace,
        input: &mut Input,
        bytes_max: usize,
    ) -> Result<Option<Found>, ItemError> {
        loop {
            if input.rest().is_empty() && !input.more()? {
                return place.end().map(|()| None);
            }
            if matches!(input.rest(), [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..]) {
                return Err(malformed("it is UTF-16; convert it to UTF-8"));
            }
            let Part { markup, length } = part(input, 0, bytes_max)?;
            let bytes = &input.rest()[..length];
            match markup {
                Markup::Start { name, is_empty } => {
                    let name = &bytes[name];
                    place.begin(name)?;
                    if local(name) == self.name.as_bytes() {
                        return whole_element(input, bytes_max).map(Some);
                    }
                    if !is_empty {
                        place.open.push(text_of(name));
                    }
                }
                Markup::End { name } => match (place.open.pop(), text_of(&bytes[name])) {
                    (Some(open), ended) if open == ended => {}
                    (open, ended) => {
                        let open = open.unwrap_or_default();
                        return Err(malformed(&format!("`</{ended}>` ends `<{open}>`")));
                    }
                },
                Markup::Text | Markup::Cdata if place.open.is_empty() => {
                    let blank = length - bytes.trim_ascii_start().len();
                    if blank < length {
                        input.consume(blank);
                        return Err(malformed("it has text outside of its first element"));
                    }
                }
                Markup::Text | Markup::Cdata | Markup::Comment => {}
                Markup::Instruction { declared: None } => {}
                Markup::Instruction { declared: Some(label) } => {
                    place.encoding =
                        encoding(&bytes[label])?.map(|encoding| encoding.name().to_owned());
                }
                Markup::DocumentType { declares: false } => {}
                Markup::DocumentType { declares: true } => {
                    return Err(ItemError::fatal(
                        "cannot read the document: it declares entities or types of its own, which are refused",
                    ));
                }
                Markup::Nothing => return Err(malformed("`<` begins no tag")),
            }
            input.consume(length);
        }
    }

    fn decode(&self, place: &XmlPlace, element: &[u8]) -> Result<T, ItemError> {
        let encoding =
            place.encoding.as_deref().and_then(|name| Encoding::for_label(name.as_bytes()));
        (self.decode)(&text(element, encoding.unwrap_or(UTF_8))?)
    }
}

impl XmlPlace {
    /// Records that the element `name` begins.
    fn begin(&mut self, name: &[u8]) -> Result<(), ItemError> {
        if self.is_begun && self.open.is_empty() {
            return Err(malformed(&format!("`<{}>` follows its first element", text_of(name))));
        }
        self.is_begun = true;
        Ok(())
    }

    /// Checks that the document may end here.
    fn end(&self) -> Result<(), ItemError> {
        match self.open.last() {
            Some(open) => Err(malformed(&format!("it ends within `<{open}>`"))),
            None if !self.is_begun => Err(malformed("it has no element")),
            None => Ok(()),
        }
    }
}

/// Returns the part of the document after the first `at` bytes of `input`.
fn part(input: &mut Input, at: usize, bytes_max: usize) -> Result<Part, ItemError> {
    let longest = bytes_max.max(RAW_BYTES_KEPT);
    let endless = "a tag, a comment or the like has no end, or is too long";
    loop {
        let rest = &input.rest()[at..];
        let (is_empty, is_long) = (rest.is_empty(), rest.len() > longest);
        match if is_empty { None } else { markup(rest) } {
            Some(part) if part.length <= longest || part.markup == Markup::Text => return Ok(part),
            Some(_) => return Err(malformed(endless)),
            None if is_long => return Err(malformed(endless)),
            None if input.more()? => {}
            None if is_empty => return Err(malformed("it ends within an element")),
            None => return Err(malformed(endless)),
        }
    }
}

/// Finds the end of the element at the beginning of `input`, and consumes one that is longer than `bytes_max`.
fn whole_element(input: &mut Input, bytes_max: usize) -> Result<Found, ItemError> {
    let (mut growing, mut depth, mut name) = (Growing::begin(input), 0_usize, Vec::new());
    loop {
        let Part { markup, length } = part(input, growing.at, bytes_max)?;
        let bytes = &input.rest()[growing.at..];
        match markup {
            Markup::Start { name: begun, is_empty } => {
                if name.is_empty() {
                    bytes[begun].clone_into(&mut name);
                }
                depth += usize::from(!is_empty);
            }
            Markup::End { name: ended } => {
                depth -= 1;
                if depth == 0 && bytes[ended.clone()] != name {
                    let (ended, name) = (text_of(&bytes[ended]), text_of(&name));
                    return Err(malformed(&format!("`</{ended}>` ends `<{name}>`")));
                }
            }
            Markup::Nothing => return Err(malformed("`<` begins no tag")),
            Markup::DocumentType { .. } => return Err(malformed("an element has a document type")),
            _ => {}
        }
        growing.pass(length, input, bytes_max);
        if depth == 0 {
            return Ok(growing.found(input, bytes_max));
        }
    }
}

fn malformed(what: &str) -> ItemError {
    ItemError::fatal(format!("cannot read the document: {what}"))
}

/// Returns a name for messages and comparisons.
fn text_of(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Returns the encoding called `label`; `None` is UTF-8.
fn encoding(label: &[u8]) -> Result<Option<&'static Encoding>, ItemError> {
    let shown = String::from_utf8_lossy(label);
    match Encoding::for_label(label) {
        Some(known) if known == UTF_8 => Ok(None),
        Some(known) if known == UTF_16LE || known == UTF_16BE => Err(malformed(&format!(
            "it declares the encoding `{shown}`, but its bytes are not of it"
        ))),
        Some(known) => Ok(Some(known)),
        None => Err(malformed(&format!("there is no encoding `{shown}`"))),
    }
}

fn text<'a>(bytes: &'a [u8], encoding: &'static Encoding) -> Result<Cow<'a, str>, ItemError> {
    if encoding == UTF_8 {
        return std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|error| {
            let at = error.valid_up_to();
            ItemError::parse(format!("cannot read the element: its byte {at} is not valid UTF-8"))
        });
    }
    encoding.decode_without_bom_handling_and_without_replacement(bytes).ok_or_else(|| {
        let name = encoding.name();
        ItemError::parse(format!("cannot read the element: it contains bytes that are not {name}"))
    })
}
