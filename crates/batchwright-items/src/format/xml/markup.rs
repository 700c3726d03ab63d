//! The parts of an XML document, found in its bytes. Works for all encodings in which ASCII characters have their usual bytes.

use std::ops::Range;

/// A part at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) markup: Markup,
    /// Number of its bytes. A text may go on after them.
    pub(super) length: usize,
}

/// The kinds of parts, with the ranges of their names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Markup {
    Text,
    Cdata,
    Comment,
    /// A processing instruction; the declaration of the document may have an encoding.
    Instruction {
        declared: Option<Range<usize>>,
    },
    /// A document type, which may contain declarations.
    DocumentType {
        declares: bool,
    },
    /// A start tag, or an empty element.
    Start {
        name: Range<usize>,
        is_empty: bool,
    },
    End {
        name: Range<usize>,
    },
    /// A `<` that begins nothing.
    Nothing,
}

/// Returns the part at the beginning of `bytes`, which are not empty; `None` when it ends after them.
pub(super) fn markup(bytes: &[u8]) -> Option<Part> {
    let until = |end: &[u8], from: usize| {
        memchr::memmem::find(bytes.get(from..)?, end).map(|at| from + at + end.len())
    };
    let (markup, length) = match bytes {
        [b'<', b'?', ..] => {
            let length = until(b"?>", 2)?;
            (Markup::Instruction { declared: declared_encoding(bytes, 2..length - 2) }, length)
        }
        [b'<', b'!', ..] => match opening(bytes)? {
            Opening::Comment => (Markup::Comment, until(b"-->", 4)?),
            Opening::Cdata => (Markup::Cdata, until(b"]]>", 9)?),
            Opening::Other => {
                let length = tag_length(bytes)?;
                let declares = memchr::memchr(b'[', &bytes[..length]).is_some();
                (Markup::DocumentType { declares }, length)
            }
        },
        [b'<', b'/', ..] => {
            let length = tag_length(bytes)?;
            (Markup::End { name: name(bytes, 2..length) }, length)
        }
        [b'<'] => return None,
        [b'<', ..] => {
            let length = tag_length(bytes)?;
            match name(bytes, 1..length) {
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

/// The part of a name after its prefix.
pub(super) fn local(name: &[u8]) -> &[u8] {
    memchr::memchr(b':', name).map_or(name, |at| &name[at + 1..])
}

enum Opening {
    Comment,
    Cdata,
    Other,
}

/// Returns what `<!` begins; `None` when the bytes do not tell.
fn opening(bytes: &[u8]) -> Option<Opening> {
    let known = [(&b"<!--"[..], Opening::Comment), (&b"<![CDATA["[..], Opening::Cdata)];
    for (opening, kind) in known {
        if bytes.starts_with(opening) {
            return Some(kind);
        }
        if opening.starts_with(bytes) {
            return None;
        }
    }
    Some(Opening::Other)
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

/// Returns the range of the name at the beginning of the `content` of a tag.
fn name(bytes: &[u8], content: Range<usize>) -> Range<usize> {
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b"/>".contains(byte);
    let length = bytes[content.clone()].iter().position(is_end);
    content.start..length.map_or(content.end, |length| content.start + length)
}

/// Returns the range of the encoding in the `content` of a declaration `<?xml … encoding="…"?>`.
fn declared_encoding(bytes: &[u8], content: Range<usize>) -> Option<Range<usize>> {
    let attributes = bytes[content.clone()].strip_prefix(b"xml")?;
    let found = memchr::memmem::find(attributes, b"encoding")?;
    let value = attributes[found + b"encoding".len()..].trim_ascii_start();
    let value = value.strip_prefix(b"=")?.trim_ascii_start();
    let quote = value.first().filter(|quote| b"\"'".contains(quote))?;
    let length = memchr::memchr(*quote, &value[1..])?;
    let start = content.end - value.len() + 1;
    Some(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_found_with_its_whole_length_and_no_prefix_of_it_is_one() {
        let start = |name| Markup::Start { name, is_empty: false };
        for (text, wanted) in [
            (
                "<?xml version=\"1.0\" encoding='x'?>",
                Markup::Instruction { declared: Some(30..31) },
            ),
            ("<?p a>b ?>", Markup::Instruction { declared: None }),
            ("<!-- a > b -- > -->", Markup::Comment),
            ("<![CDATA[ ]] > <a> ]]>", Markup::Cdata),
            ("<!DOCTYPE a SYSTEM \"b>\">", Markup::DocumentType { declares: false }),
            ("<!DOCTYPE a [<!ENTITY b \"c\">", Markup::DocumentType { declares: true }),
            ("<a>", start(1..2)),
            ("<p:a b = '>' c=\"/>\">", start(1..4)),
            ("<a b='c'/>", Markup::Start { name: 1..2, is_empty: true }),
            ("</a >", Markup::End { name: 2..3 }),
            ("< a>", Markup::Nothing),
        ] {
            let bytes = [text.as_bytes(), b"<x"].concat();
            assert_eq!(markup(&bytes), Some(Part { markup: wanted, length: text.len() }), "{text}");
            for length in 1..text.len() {
                assert_eq!(markup(&text.as_bytes()[..length]), None, "{}", &text[..length]);
            }
        }
        assert_eq!(markup(b"some text"), Some(Part { markup: Markup::Text, length: 9 }));
        assert_eq!(markup(b"text<a"), Some(Part { markup: Markup::Text, length: 4 }));
    }
}
