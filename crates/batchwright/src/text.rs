//! Text that comes from others: shown on a terminal without its control characters, and JSON without duplicate keys.

mod json;

pub use json::reject_duplicate_keys;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_forges_no_line_and_moves_no_cursor() {
        assert_eq!(shown("plain, ä"), "plain, ä");
        assert_eq!(shown("a\n\u{1b}[2J\u{7}\tb\u{202e}"), "a\\n\\u{1b}[2J\\u{7}\\tb\\u{202e}");
    }
}
