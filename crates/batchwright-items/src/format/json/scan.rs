//! Finds the end of a JSON value without parsing it.

use batchwright::ItemError;

/// Depth from which a value is refused: its place would need unbounded memory.
const DEPTH_MAX: usize = 1_000;

/// A search for the end of a value, which may come in parts.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The brackets that are open; each the byte that closes it.
    open: Vec<u8>,
    text: Text,
}

/// Whether the search is within a text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

/// Whether the byte is white space between the tokens of JSON.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Scan {
    /// Returns where the value ends in `bytes`, which follow those of the last call; `None` when it goes on after them. A value
    /// that ends before its first byte is missing.
    ///
    /// # Errors
    ///
    /// When brackets do not match.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ItemError> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            match self.text {
                Text::Escaped => self.text = Text::Inside,
                Text::Inside => match memchr::memchr2(b'"', b'\\', &bytes[at..]) {
                    None => return Ok(None),
                    Some(length) => {
                        at += length;
                        let is_end = bytes[at] == b'"';
                        self.text = if is_end { Text::Outside } else { Text::Escaped };
                        if is_end && self.open.is_empty() {
                            return Ok(Some(at + 1));
                        }
                    }
                },
                Text::Outside => match byte {
                    b'"' => self.text = Text::Inside,
                    b'{' | b'[' if self.open.len() == DEPTH_MAX => {
                        let what = format!(
                            "cannot read the document: it is deeper than {DEPTH_MAX} levels"
                        );
                        return Err(ItemError::fatal(what));
                    }
                    b'{' => self.open.push(b'}'),
                    b'[' => self.open.push(b']'),
                    b'}' | b']' if self.open.is_empty() => return Ok(Some(at)),
                    b'}' | b']' => {
                        let wanted = self.open.pop().unwrap_or(byte);
                        if wanted != byte {
                            let (wanted, found) = (char::from(wanted), char::from(byte));
                            let what = format!(
                                "cannot read the document: it has `{found}` where there must be `{wanted}`"
                            );
                            return Err(ItemError::fatal(what));
                        }
                        if self.open.is_empty() {
                            return Ok(Some(at + 1));
                        }
                    }
                    b',' if self.open.is_empty() => return Ok(Some(at)),
                    blank if is_blank(blank) && self.open.is_empty() => {
                        return Ok(Some(at));
                    }
                    _ => {}
                },
            }
            at += 1;
        }
        Ok(None)
    }
}
