//! Text that comes from others: shown on a terminal without its control characters, bounded, matched with
//! wildcards; JSON without duplicate keys; messages of serde.

mod json;
mod refused;

pub use json::reject_duplicate_keys;
pub use refused::refused_value;

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns `text` with its control characters escaped, so that the text cannot move the cursor, forge a line
/// or reverse the order of letters: a line feed becomes `\n`, an escape character `\u{1b}`.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match is_control(letter) {
            true => {
                let _ = write!(escaped, "{}", letter.escape_default());
            }
            false => escaped.push(letter),
        }
    }
    Cow::Owned(escaped)
}

/// Whether `letter` is a control character, changes the direction of text, or ends a line.
fn is_control(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Cuts `text` at a character boundary and marks the cut when it is longer than `bytes_max`.
///
/// A NUL, which some databases cannot store, becomes U+FFFD.
pub(crate) fn bounded(mut text: String, bytes_max: usize) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{FFFD}");
    }
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" … (cut)");
    }
    text
}

/// Returns `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether `pattern` matches `code`: `*` matches any characters, `?` one character.
pub(crate) fn matches(pattern: &str, code: &str) -> bool {
    let (pattern, code): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), code.chars().collect());
    // `ends[n]`: whether the part of the pattern read so far matches the first `n` characters of the code.
    let mut ends = vec![false; code.len() + 1];
    ends[0] = true;
    for part in pattern {
        let mut next = vec![false; code.len() + 1];
        for at in 0..=code.len() {
            next[at] = match part {
                '*' => ends[at] || (at > 0 && next[at - 1]),
                '?' => at > 0 && ends[at - 1],
                literal => at > 0 && ends[at - 1] && code[at - 1] == literal,
            };
        }
        ends = next;
    }
    ends[code.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_forges_no_line_and_moves_no_cursor() {
        assert_eq!(shown("plain, ä"), "plain, ä");
        assert_eq!(shown("a\n\u{1b}[2J\u{7}\tb\u{202e}"), "a\\n\\u{1b}[2J\\u{7}\\tb\\u{202e}");
    }
}
