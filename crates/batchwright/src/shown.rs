//! Texts of strangers on a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with its control characters escaped, so that it cannot move a cursor, forge a line or turn the order of
/// letters around: a line feed becomes `\n`, an escape `\u{1b}`.
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

/// Control characters, and those that change the direction of text or end a line.
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
