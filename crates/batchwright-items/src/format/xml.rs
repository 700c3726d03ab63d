//! XML documents: every element of one name is a record.

mod element;
mod kind;
mod markup;
mod writer;

use std::borrow::Cow;
use std::path::PathBuf;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use encoding_rs::{Encoding, UTF_8};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use self::kind::XmlKind;
use self::markup::{
    Markup, Part, Parts, SCHEMA_INSTANCE, bound_prefixes, declared_encoding, local,
};
pub use self::writer::{XmlItems, XmlWriter};
use super::document::{Document, DocumentReader, Found, Growing, malformed};
use super::raw::RAW_BYTES_KEPT;
use crate::transport::input::Input;

/// Depth of the elements around the records that is refused.
const DEPTH_MAX: usize = 1_000;
/// Maximum length of a name, in bytes.
const NAME_BYTES_MAX: usize = 1_024;

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
    /// Makes an item of the text of an element, and of the prefixes of the namespace of `nil` around it.
    decode: fn(&str, &[&str]) -> Result<T, ItemError>,
}

/// The place of a reader in an XML document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XmlPlace {
    /// The elements that are open.
    open: Vec<Open>,
    /// Whether the first element has been read.
    is_begun: bool,
    /// The encoding that the document declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<String>,
}

/// An element that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    name: String,
    /// The prefix that it gives to the namespace of `nil`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nil_prefix: Option<String>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> XmlReader<T> {
    /// Creates a reader of the elements `element` in the file at `path`; each is deserialized into a `T` by the rules of
    /// `quick_xml::de`: attributes have an `@` before their names, and `$text` is the text.
    pub fn new(path: impl Into<PathBuf>, element: impl Into<String>) -> Self {
        let decode = |element: &str, prefixes: &[&str]| {
            let element = with_prefixes(element, prefixes);
            quick_xml::de::from_str(&element).map_err(|error| {
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
        let mut now = Cow::Borrowed(&*place);
        if !now.is_begun && input.byte() <= MARK_BYTES {
            if !is_local_name(&self.name) {
                return Err(ItemError::fatal(not_local(&self.name)));
            }
            declaration(now.to_mut(), input, bytes_max)?;
        }
        let mut parts = Parts::default();
        loop {
            if input.rest().is_empty() && !parts.is_within() && !input.more()? {
                return now.end().map(|()| None);
            }
            let Part { markup, length } = part(&mut parts, input, 0, bytes_max)?;
            let bytes = &input.rest()[..length];
            match markup {
                Markup::Start { name, is_empty } => {
                    let name = now.name(&bytes[name])?;
                    if now.is_begun && now.open.is_empty() {
                        return Err(malformed(&format!("`<{name}>` follows its first element")));
                    }
                    if !now.is_begun {
                        now.to_mut().is_begun = true;
                    }
                    if local(name.as_bytes()) == self.name.as_bytes() {
                        let found = whole_element(input, bytes_max)?;
                        if let Cow::Owned(now) = now {
                            *place = now;
                        }
                        return Ok(Some(found));
                    }
                    if !is_empty {
                        let name = name.into_owned();
                        now.to_mut().enter(name, &bytes[1..])?;
                    }
                }
                Markup::End { name } => {
                    let name = now.name(&bytes[name])?.into_owned();
                    match now.to_mut().open.pop() {
                        Some(open) if open.name == name => {}
                        open => {
                            let open = open.map(|open| open.name).unwrap_or_default();
                            return Err(malformed(&format!("`</{name}>` ends `<{open}>`")));
                        }
                    }
                }
                Markup::Text | Markup::Cdata if now.open.is_empty() => {
                    let blank = length - bytes.trim_ascii_start().len();
                    if blank < length {
                        input.consume(blank);
                        return Err(malformed("it has text outside of its first element"));
                    }
                }
                Markup::Text | Markup::Cdata | Markup::Other => {}
                Markup::DocumentType { declares: false } if !now.is_begun => {}
                other => return Err(misplaced(&other)),
            }
            input.consume(length);
        }
    }

    fn decode(&self, place: &XmlPlace, element: &[u8]) -> Result<T, ItemError> {
        let prefixes = place.open.iter().filter_map(|open| open.nil_prefix.as_deref());
        (self.decode)(&text(element, place.encoding())?, &prefixes.collect::<Vec<_>>())
    }
}

/// Returns `element`, which is decoded alone, with the `prefixes` of the namespace of `nil` that it uses and does not bind.
fn with_prefixes<'a>(element: &'a str, prefixes: &[&str]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(element);
    for prefix in prefixes {
        let mut bound = bound_prefixes(&element.as_bytes()[1..]);
        if element.contains(&format!("{prefix}:nil"))
            && !bound.any(|(bound, _)| bound == prefix.as_bytes())
        {
            let is_end = |one: char| one.is_ascii_whitespace() || "/>".contains(one);
            let at = element.find(is_end).unwrap_or(element.len());
            text.to_mut().insert_str(at, &format!(" xmlns:{prefix}=\"{SCHEMA_INSTANCE}\""));
        }
    }
    text
}

/// Number of bytes of a byte order mark.
const MARK_BYTES: u64 = 3;

/// Consumes the declaration at the beginning of the document, if there is one.
fn declaration(place: &mut XmlPlace, input: &mut Input, bytes_max: usize) -> Result<(), ItemError> {
    if input.rest().is_empty() && !input.more()? {
        return Ok(());
    }
    let has_mark = input.byte() == MARK_BYTES;
    let Part { markup, length } = part(&mut Parts::default(), input, 0, bytes_max)?;
    if markup != Markup::Declaration {
        return Ok(());
    }
    if let Some(label) = declared_encoding(&input.rest()[..length]) {
        let found = encoding(label)?;
        if has_mark && found != UTF_8 {
            let what = format!("it has the mark of UTF-8, and declares {}", found.name());
            return Err(malformed(&what));
        }
        place.encoding = (found != UTF_8).then(|| found.name().to_owned());
    }
    input.consume(length);
    Ok(())
}

impl XmlPlace {
    fn encoding(&self) -> &'static Encoding {
        let known = self.encoding.as_deref().and_then(|name| Encoding::for_label(name.as_bytes()));
        known.unwrap_or(UTF_8)
    }

    /// Returns a name as text.
    fn name<'a>(&self, name: &'a [u8]) -> Result<Cow<'a, str>, ItemError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(malformed(&format!("a name is longer than {NAME_BYTES_MAX} bytes")));
        }
        text(name, self.encoding()).map_err(|_| {
            let (name, encoding) = (text_of(name), self.encoding().name());
            malformed(&format!("the name `{name}` is not valid {encoding}"))
        })
    }

    /// Records that the element `name` begins, whose start tag is `tag` without its first character.
    fn enter(&mut self, name: String, tag: &[u8]) -> Result<(), ItemError> {
        if self.open.len() == DEPTH_MAX {
            return Err(malformed(&format!("it is deeper than {DEPTH_MAX} levels")));
        }
        let mut bound = bound_prefixes(tag);
        let prefix = bound.find(|(prefix, is_nil)| *is_nil && prefix.len() <= NAME_BYTES_MAX);
        let prefix = prefix.map(|(prefix, _)| text_of(prefix));
        // A prefix is known once, whatever number of elements binds it.
        let is_new = |prefix: &String| {
            !self.open.iter().any(|open| open.nil_prefix.as_ref() == Some(prefix))
        };
        let nil_prefix = prefix.filter(is_new);
        self.open.push(Open { name, nil_prefix });
        Ok(())
    }

    /// Checks that the document may end here.
    fn end(&self) -> Result<(), ItemError> {
        match self.open.last() {
            Some(open) => Err(malformed(&format!("it ends within `<{}>`", open.name))),
            None if !self.is_begun => Err(malformed("it has no element")),
            None => Ok(()),
        }
    }
}

/// Returns the error of markup that cannot be where it is.
fn misplaced(markup: &Markup) -> ItemError {
    malformed(match markup {
        Markup::DocumentType { declares: true } => {
            "it declares entities or types of its own, which are refused"
        }
        Markup::DocumentType { .. } => "a document type is within an element",
        Markup::Declaration => "a declaration is not at its beginning",
        _ => "a `<` begins no tag",
    })
}

/// Returns the part of the document after the first `at` bytes of `input`.
fn part(
    parts: &mut Parts,
    input: &mut Input,
    at: usize,
    bytes_max: usize,
) -> Result<Part, ItemError> {
    let longest = bytes_max.max(RAW_BYTES_KEPT);
    loop {
        let rest = &input.rest()[at..];
        let (is_empty, is_long) = (rest.is_empty(), rest.len() > longest);
        let is_tag = |part: &Part| {
            !matches!(part.markup, Markup::Text | Markup::Other) && part.length > longest
        };
        match if is_empty { None } else { parts.next(rest) } {
            Some(part) if is_tag(&part) => {
                return Err(malformed(&format!("a tag is longer than {longest} bytes")));
            }
            Some(part) => return Ok(part),
            None if is_long => {
                return Err(malformed(&format!("a tag is longer than {longest} bytes")));
            }
            None if input.more()? => {}
            None => return Err(malformed("it ends within an element, a tag or a comment")),
        }
    }
}

/// Finds the end of the element at the beginning of `input`, and consumes one that is longer than `bytes_max`.
fn whole_element(input: &mut Input, bytes_max: usize) -> Result<Found, ItemError> {
    let (mut growing, mut depth, mut name) = (Growing::begin(input), 0_usize, Vec::new());
    let mut parts = Parts::default();
    loop {
        let Part { markup, length } = part(&mut parts, input, growing.at, bytes_max)?;
        let bytes = &input.rest()[growing.at..];
        match markup {
            Markup::Start { name: begun, is_empty } => {
                if name.is_empty() {
                    bytes[begun].clone_into(&mut name);
                }
                depth += usize::from(!is_empty);
            }
            Markup::End { name: ended } => {
                depth = depth.saturating_sub(1);
                if depth == 0 && bytes[ended.clone()] != name {
                    let (ended, name) = (text_of(&bytes[ended]), text_of(&name));
                    return Err(malformed(&format!("`</{ended}>` ends `<{name}>`")));
                }
            }
            Markup::Text | Markup::Cdata | Markup::Other => {}
            other => return Err(misplaced(&other)),
        }
        growing.pass(length, input, bytes_max);
        if depth == 0 {
            return Ok(growing.found(input, bytes_max));
        }
    }
}

/// Whether `name` can be the name of an element, without a prefix.
fn is_local_name(name: &str) -> bool {
    !name.contains(':') && writer::check_name(name).is_ok()
}

fn not_local(name: &str) -> String {
    format!("`{name}` is no name of an element, without a prefix")
}

/// Returns a name for messages.
fn text_of(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Returns the encoding called `label`.
fn encoding(label: &[u8]) -> Result<&'static Encoding, ItemError> {
    let shown = String::from_utf8_lossy(label);
    match Encoding::for_label(label) {
        Some(known) if known.is_ascii_compatible() => Ok(known),
        Some(_) => {
            Err(malformed(&format!("its encoding `{shown}` is not supported; convert it to UTF-8")))
        }
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
