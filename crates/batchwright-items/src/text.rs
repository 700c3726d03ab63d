//! Text that shares its memory with other texts, and the text of bytes.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Returns the hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of a buffer of text, which all its parts and their clones share: the fields of a record are parts of the text of the
/// record, or of the whole chunk. Who keeps a text beyond its chunk copies it (`to_string`), and not its whole buffer.
///
/// ```
/// use std::sync::Arc;
/// use batchwright_items::SharedText;
///
/// let buffer = Arc::new("7,Lyon".to_owned());
/// let city = SharedText::part(&buffer, 2..6);
/// assert_eq!(&*city, "Lyon");
/// assert_eq!(city.clone(), SharedText::from("Lyon"));
/// ```
#[derive(Clone)]
pub struct SharedText {
    buffer: Arc<String>,
    start: usize,
    end: usize,
}

impl SharedText {
    /// Returns the part `range` of `buffer`.
    ///
    /// # Panics
    ///
    /// When the range is not one of whole characters of the buffer.
    #[inline]
    pub fn part(buffer: &Arc<String>, range: Range<usize>) -> Self {
        assert!(
            buffer.get(range.clone()).is_some(),
            "a text has no part from byte {} to byte {}",
            range.start,
            range.end
        );
        Self { buffer: Arc::clone(buffer), start: range.start, end: range.end }
    }

    /// Returns the part of the text that is `part`, a slice of it.
    pub fn of(&self, part: &str) -> Self {
        let offset = part.as_ptr().addr().wrapping_sub(self.as_ptr().addr());
        match self.get(offset..offset.saturating_add(part.len())) {
            Some(found) if std::ptr::eq(found, part) => Self {
                buffer: Arc::clone(&self.buffer),
                start: self.start + offset,
                end: self.start + offset + part.len(),
            },
            _ => part.into(),
        }
    }
}

impl Deref for SharedText {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        &self.buffer[self.start..self.end]
    }
}

impl From<String> for SharedText {
    fn from(text: String) -> Self {
        Self { start: 0, end: text.len(), buffer: Arc::new(text) }
    }
}

impl From<&str> for SharedText {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Debug for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl PartialEq for SharedText {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SharedText {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_a_text_shares_its_buffer_and_another_slice_is_copied() {
        let text = SharedText::part(&Arc::new("a  word  b".to_owned()), 1..9);
        let word = text.of(text.trim());
        assert_eq!(&*word, "word");
        assert!(Arc::ptr_eq(&word.buffer, &text.buffer));
        assert_eq!(&*word.of(&word[1..3]), "or");
        let other = text.of("word");
        assert!(!Arc::ptr_eq(&other.buffer, &text.buffer));
        assert_eq!(other, word);
        assert_eq!(&*text.of(""), "");
    }
}
