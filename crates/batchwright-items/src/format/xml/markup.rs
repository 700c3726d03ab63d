//! The parts of an XML document, found in its bytes. Works for all encodings in which ASCII characters have their usual bytes.

use std::ops::Range;

/// The namespace of `nil`.
pub(super) const SCHEMA_INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A part at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) markup: Markup,
    /// Number of its bytes.
    pub(super) length: usize,
}

/// The kinds of parts, with the ranges of their names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Markup {
    /// Text, which may go on after the part.
    Text,
    /// The beginning of a CDATA section.
    Cdata,
    /// The beginning of a comment or of a processing instruction, or a part of what `Parts` is within.
    Other,
    /// A declaration `<?xml … ?>`.
    Declaration,
    /// A document type, which may contain declarations.
    DocumentType { declares: bool },
    /// A start tag, or an empty element.
    Start { name: Range<usize>, is_empty: bool },
    /// An end tag.
    End { name: Range<usize> },
    /// A `<` that begins nothing.
    Nothing,
}

/// Finds part after part. A comment, a CDATA section or an instruction comes in pieces, so that its length is not limited.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// What ends the part that has begun.
    within: Option<&'static [u8]>,
}

impl Parts {
    /// Whether a part has begun that has not ended.
    pub(super) fn is_within(&self) -> bool {
        self.within.is_some()
    }

    /// Returns the part at the beginning of `bytes`, which are not empty; `None` when it ends after them.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Option<Part> {
        if let Some(end) = self.within {
            let length = match memchr::memmem::find(bytes, end) {
                Some(at) => {
                    self.within = None;
                    at + end.len()
                }
                // The last bytes may be the beginning of the end.
                None => bytes.len().checked_sub(end.len() - 1).filter(|length| *length > 0)?,
            };
            return Some(Part { markup: Markup::Other, length });
        }
        let (markup, length) = match bytes {
            [b'<', b'?', ..] => self.instruction(bytes)?,
            [b'<', b'!', ..] => self.exclamation(bytes)?,
            [b'<', b'/', ..] => {
                let length = tag_length(bytes)?;
                let name = name(bytes, 2..length - 1);
                match bytes[name.end..length - 1].trim_ascii().is_empty() && !name.is_empty() {
                    true => (Markup::End { name }, length),
                    false => (Markup::Nothing, length),
                }
            }
            [b'<'] => return None,
            [b'<', ..] => {
                let length = tag_length(bytes)?;
                match name(bytes, 1..length - 1) {
                    name if name.is_empty() => (Markup::Nothing, length),
                    name => {
                        let is_empty = bytes[..length].ends_with(b"/>");
                        (Markup::Start { name, is_empty }, length)
                    }
                }
            }
            _ => (Markup::Text, memchr::memchr(b'<', bytes).unwrap_or(bytes.len())),
        };
        Some(Part { markup, length })
    }

    fn instruction(&mut self, bytes: &[u8]) -> Option<(Markup, usize)> {
        const DECLARATION: &[u8] = b"<?xml";
        match bytes.get(DECLARATION.len()) {
            Some(after) if bytes.starts_with(DECLARATION) && after.is_ascii_whitespace() => {
                Some((Markup::Declaration, 2 + memchr::memmem::find(bytes, b"?>")?))
            }
            None if DECLARATION.starts_with(bytes) => None,
            None if bytes == DECLARATION => None,
            _ => {
                self.within = Some(b"?>");
                Some((Markup::Other, 2))
            }
        }
    }

    fn exclamation(&mut self, bytes: &[u8]) -> Option<(Markup, usize)> {
        let known: [(&[u8], _, Option<&'static [u8]>); 3] = [
            (b"<!--", Markup::Other, Some(b"-->")),
            (b"<![CDATA[", Markup::Cdata, Some(b"]]>")),
            (b"<!DOCTYPE", Markup::DocumentType { declares: false }, None),
        ];
        for (opening, markup, end) in known {
            if bytes.starts_with(opening) {
                self.within = end;
                return match end {
                    Some(_) => Some((markup, opening.len())),
                    None => document_type(bytes),
                };
            }
            if opening.starts_with(bytes) {
                return None;
            }
        }
        Some((Markup::Nothing, 2))
    }
}

/// The part of a name after its prefix.
pub(super) fn local(name: &[u8]) -> &[u8] {
    memchr::memchr(b':', name).map_or(name, |at| &name[at + 1..])
}

/// Returns the length of a tag, whose attributes may contain `>` within quotes.
fn tag_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr::memchr3(b'>', b'"', b'\'', bytes.get(at..)?)?;
        match bytes[at] {
            b'>' => return Some(at + 1),
            quote => at += 2 + memchr::memchr(quote, &bytes[at + 1..])?,
        }
    }
}

/// Returns a document type up to its end, or to its first declaration.
fn document_type(bytes: &[u8]) -> Option<(Markup, usize)> {
    let mut at = 1;
    loop {
        let byte = bytes.get(at)?;
        match byte {
            b'>' => return Some((Markup::DocumentType { declares: false }, at + 1)),
            b'[' => return Some((Markup::DocumentType { declares: true }, at + 1)),
            b'"' | b'\'' => at += 1 + memchr::memchr(*byte, &bytes[at + 1..])?,
            _ => {}
        }
        at += 1;
    }
}

/// Returns the range of the name at the beginning of the `content` of a tag.
fn name(bytes: &[u8], content: Range<usize>) -> Range<usize> {
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b"/<>=".contains(byte);
    let length = bytes[content.clone()].iter().position(is_end);
    content.start..length.map_or(content.end, |length| content.start + length)
}

/// Returns the encoding in a declaration `<?xml … encoding="…"?>`.
pub(super) fn declared_encoding(declaration: &[u8]) -> Option<&[u8]> {
    let found = memchr::memmem::find(declaration, b"encoding")?;
    let value = declaration[found + b"encoding".len()..].trim_ascii_start();
    let value = value.strip_prefix(b"=")?.trim_ascii_start();
    let quote = value.first().filter(|quote| b"\"'".contains(quote))?;
    value[1..].split(|byte| byte == quote).next()
}

/// Returns the prefixes that a start tag binds, each with whether it is to the namespace of `nil`; `tag` begins with the name.
pub(super) fn bound_prefixes(tag: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    attributes(tag).filter_map(|(name, value)| {
        Some((name.strip_prefix(b"xmlns:")?, value == SCHEMA_INSTANCE.as_bytes()))
    })
}

/// Returns the names and the raw values of the attributes of a tag, up to one that is malformed.
fn attributes(tag: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let end = tag.iter().position(|byte| byte.is_ascii_whitespace() || b"/>".contains(byte));
    let mut left = &tag[end.unwrap_or(tag.len())..];
    std::iter::from_fn(move || {
        left = left.trim_ascii_start();
        let (name, after) = left.split_at(memchr::memchr(b'=', left)?);
        let value = after[1..].trim_ascii_start();
        let quote = value.first().filter(|quote| b"\"'".contains(quote))?;
        let length = memchr::memchr(*quote, &value[1..])?;
        left = &value[length + 2..];
        Some((name.trim_ascii_end(), &value[1..=length]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_found_with_its_whole_length_and_no_prefix_of_it_is_one() {
        let start = |name| Markup::Start { name, is_empty: false };
        for (text, wanted) in [
            ("<?xml version=\"1.0\" encoding='x'?>", Markup::Declaration),
            ("<!DOCTYPE a PUBLIC '[>' \"b>\">", Markup::DocumentType { declares: false }),
            ("<!DOCTYPE a [", Markup::DocumentType { declares: true }),
            ("<a>", start(1..2)),
            ("<p:a b = '>' c=\"/>\">", start(1..4)),
            ("<a b='c'/>", Markup::Start { name: 1..2, is_empty: true }),
            ("</a >", Markup::End { name: 2..3 }),
            ("</a b>", Markup::Nothing),
            ("</>", Markup::Nothing),
            ("< a>", Markup::Nothing),
        ] {
            let bytes = [text.as_bytes(), b"<x"].concat();
            let part = Part { markup: wanted, length: text.len() };
            assert_eq!(Parts::default().next(&bytes), Some(part), "{text}");
            for length in 1..text.len() {
                let cut = &text.as_bytes()[..length];
                assert_eq!(Parts::default().next(cut), None, "{}", &text[..length]);
            }
        }
        let text = |length| Some(Part { markup: Markup::Text, length });
        assert_eq!(Parts::default().next(b"some text"), text(9));
        assert_eq!(Parts::default().next(b"text<a"), text(4));
        let nothing = Some(Part { markup: Markup::Nothing, length: 2 });
        assert_eq!(Parts::default().next(b"<!ENTITY a 'b'>"), nothing);
    }

    #[test]
    fn what_has_an_end_of_its_own_comes_in_pieces() {
        for text in ["<!-- a > b -- > -->", "<![CDATA[ ]] > <a> ]]>", "<?p a>b ?>"] {
            for size in 1..text.len() {
                let (mut parts, mut at, mut filled) = (Parts::default(), 0, size);
                while at < text.len() {
                    let rest = &text.as_bytes()[at..filled.min(text.len())];
                    match (!rest.is_empty()).then(|| parts.next(rest)).flatten() {
                        Some(part) => at += part.length,
                        None => filled += size,
                    }
                }
                assert_eq!((at, parts.within), (text.len(), None), "{text} by {size}");
            }
        }
    }

    #[test]
    fn the_encoding_and_the_prefix_are_what_the_tags_say() {
        assert_eq!(declared_encoding(b"<?xml encoding = \"gbk\"?>"), Some(&b"gbk"[..]));
        assert_eq!(declared_encoding(b"<?xml version='1.0'?>"), None);
        let tag = format!(
            "a s='{SCHEMA_INSTANCE}' b= '>' xmlns:i = \"{SCHEMA_INSTANCE}\" xmlns:j='{SCHEMA_INSTANCE}2' xmlns='x'/>"
        );
        let found: Vec<_> = bound_prefixes(tag.as_bytes()).collect();
        assert_eq!(found, [(&b"i"[..], true), (&b"j"[..], false)]);
        assert_eq!(bound_prefixes(b"a b>").count(), 0);
    }
}
