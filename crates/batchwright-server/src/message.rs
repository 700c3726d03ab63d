//! Decodes and encodes messages: arguments separated by spaces, ended by a line feed.
//!
//! ```text
//! message   = *SP argument 1*( 1*SP argument ) *SP LF
//! argument  = simple / quoted
//! simple    = 1*( any character but SP, LF, DQUOTE )
//! quoted    = DQUOTE *( any but DQUOTE and "\" / "\\" / "\" DQUOTE ) DQUOTE
//! ```

/// Longest message, in bytes.
pub const MESSAGE_MAX: usize = 1024 * 1024;

/// A malformed message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// Identifier of the message, if it could be read.
    pub identifier: Option<String>,
    /// The problem.
    pub reason: &'static str,
    /// Whether the end of the message cannot be found, so that nothing after it can be decoded.
    pub is_fatal: bool,
}

/// Decodes messages from bytes that arrive in pieces; it reads each byte once.
///
/// ```
/// use batchwright_server::kcp::Decoder;
///
/// let mut decoder = Decoder::default();
/// let mut bytes = &b"1 SET mail.7 \"2026-11-22 "[..];
/// assert_eq!(decoder.next(&mut bytes), None); // not whole yet
/// let mut bytes = &b"06:30:00\"\n2 PING\n"[..];
/// let first = decoder.next(&mut bytes).unwrap().unwrap();
/// assert_eq!(first, ["1", "SET", "mail.7", "2026-11-22 06:30:00"]);
/// assert_eq!(decoder.next(&mut bytes).unwrap().unwrap(), ["2", "PING"]);
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// Longest message, in bytes.
    bytes_max: usize,
    /// Most arguments of a message.
    arguments_max: usize,
    arguments: Vec<Vec<u8>>,
    state: State,
    /// Bytes of the message so far.
    length: usize,
    /// The problem of the message, whose end has not arrived yet.
    wrong: Option<&'static str>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two arguments.
    #[default]
    Between,
    Simple,
    Quoted,
    /// After a backslash inside quotes.
    Escape,
}

impl Default for Decoder {
    /// Creates a decoder for messages of at most [`MESSAGE_MAX`] bytes.
    fn default() -> Self {
        Self {
            bytes_max: MESSAGE_MAX,
            arguments_max: usize::MAX,
            arguments: Vec::new(),
            state: State::Between,
            length: 0,
            wrong: None,
        }
    }
}

impl Decoder {
    /// Bounds the messages that begin from now on.
    pub(crate) fn bound(&mut self, bytes_max: usize, arguments_max: usize) {
        (self.bytes_max, self.arguments_max) = (bytes_max, arguments_max);
    }

    /// Returns the number of bytes of the current message so far.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Resets the decoder for the next message and returns the old state.
    fn reset(&mut self) -> Self {
        let fresh = Self {
            bytes_max: self.bytes_max,
            arguments_max: self.arguments_max,
            ..Self::default()
        };
        std::mem::replace(self, fresh)
    }

    /// Returns the next message of `bytes` and advances `bytes` past it; `None` when `bytes` end before the
    /// message.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Result<Vec<String>, Malformed>> {
        while let Some((&byte, rest)) = bytes.split_first() {
            // Plain characters, most of a message, are copied together.
            if self.wrong.is_none() && matches!(self.state, State::Simple | State::Quoted) {
                let is_plain = |byte: &u8| match self.state {
                    State::Simple => !matches!(byte, b' ' | b'\n' | b'"'),
                    _ => !matches!(byte, b'\\' | b'"'),
                };
                let room = self.bytes_max.saturating_sub(self.length);
                let run = bytes.iter().take(room).take_while(|byte| is_plain(byte)).count();
                if run > 0 {
                    self.argument().extend_from_slice(&bytes[..run]);
                    self.length += run;
                    *bytes = &bytes[run..];
                    continue;
                }
            }
            *bytes = rest;
            self.length += 1;
            if self.length > self.bytes_max || self.arguments.len() > self.arguments_max {
                let identifier = self.identifier();
                self.reset();
                let reason = "the message is too long or has too many arguments";
                return Some(Err(Malformed { identifier, reason, is_fatal: true }));
            }
            if self.take(byte) {
                return Some(self.end());
            }
        }
        None
    }

    /// Returns whether a message is incomplete so far.
    pub fn is_inside(&self) -> bool {
        self.length > 0
    }

    /// Consumes one byte; returns whether it ends the message.
    fn take(&mut self, byte: u8) -> bool {
        if self.wrong.is_some() {
            return byte == b'\n';
        }
        match (self.state, byte) {
            (State::Between | State::Simple, b'\n') => return true,
            (State::Between | State::Simple, b' ') => self.state = State::Between,
            (State::Between | State::Simple, b'"') => {
                self.arguments.push(Vec::new());
                self.state = State::Quoted;
            }
            (State::Between, other) => {
                self.arguments.push(vec![other]);
                self.state = State::Simple;
            }
            (State::Quoted, b'"') => self.state = State::Between,
            (State::Quoted, b'\\') => self.state = State::Escape,
            (State::Escape, b'"' | b'\\') => {
                self.argument().push(byte);
                self.state = State::Quoted;
            }
            (State::Escape, _) => {
                self.wrong = Some("a backslash must be followed by a backslash or a quote");
                return byte == b'\n';
            }
            (State::Simple | State::Quoted, other) => self.argument().push(other),
        }
        false
    }

    fn argument(&mut self) -> &mut Vec<u8> {
        self.arguments.last_mut().expect("the state is inside an argument")
    }

    fn identifier(&self) -> Option<String> {
        let whole = self.arguments.len() > 1 || self.state == State::Between;
        let first = self.arguments.first().filter(|_| whole)?;
        std::str::from_utf8(first).ok().map(str::to_owned)
    }

    fn end(&mut self) -> Result<Vec<String>, Malformed> {
        let Self { mut arguments, state, wrong, .. } = self.reset();
        // A terminal ends a line with a carriage return before the line feed.
        if state == State::Simple
            && let Some(last) = arguments.last_mut()
            && last.last() == Some(&b'\r')
        {
            last.pop();
            if last.is_empty() {
                arguments.pop();
            }
        }
        let identifier =
            arguments.first().and_then(|first| std::str::from_utf8(first).ok()).map(str::to_owned);
        let malformed =
            |reason| Malformed { identifier: identifier.clone(), reason, is_fatal: false };
        if let Some(reason) = wrong {
            // The unfinished quote may belong to the identifier itself.
            let identifier = identifier.clone().filter(|_| arguments.len() > 1);
            return Err(Malformed { identifier, reason, is_fatal: false });
        }
        match arguments.len() {
            0 => return Err(malformed("the line is empty")),
            1 => return Err(malformed("a message needs an identifier and at least one argument")),
            _ => {}
        }
        let texts = arguments.into_iter().map(String::from_utf8).collect::<Result<Vec<_>, _>>();
        texts.map_err(|_| malformed("the message is not UTF-8"))
    }
}

/// Encodes `arguments` as a message with its line feed.
pub fn encode(arguments: &[impl AsRef<str>]) -> String {
    let mut message = line(arguments);
    message.push('\n');
    message
}

/// Encodes `arguments` as a message without its line feed.
pub(crate) fn line(arguments: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    for argument in arguments {
        if !text.is_empty() {
            text.push(' ');
        }
        push_argument(&mut text, argument.as_ref());
    }
    text
}

pub(crate) fn push_argument(text: &mut String, argument: &str) {
    // A line feed or a carriage return could end the line; NUL is legal and harmless.
    let is_simple = !argument.is_empty() && !argument.contains([' ', '\n', '"', '\r']);
    if is_simple {
        text.push_str(argument);
        return;
    }
    text.push('"');
    for character in argument.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

/// Decodes the arguments of a line that [`line`] encoded.
pub(crate) fn words(text: &str) -> Result<Vec<String>, Malformed> {
    let mut decoder = Decoder::default();
    let mut whole = text.as_bytes();
    match decoder.next(&mut whole) {
        None => {}
        Some(read) => return read,
    }
    decoder.next(&mut &b"\n"[..]).unwrap_or(Ok(Vec::new()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut bytes: &[u8]) -> Vec<Result<Vec<String>, Malformed>> {
        let mut decoder = Decoder::default();
        std::iter::from_fn(|| decoder.next(&mut bytes)).collect()
    }

    fn one(text: &str) -> Vec<String> {
        all(text.as_bytes()).remove(0).unwrap()
    }

    #[test]
    fn every_form_of_an_argument_is_read() {
        assert_eq!(one("1 SET a \"b c\"\n"), ["1", "SET", "a", "b c"]);
        assert_eq!(one("   1   SET   \n"), ["1", "SET"]);
        assert_eq!(one("1 \"\" \"\"\n"), ["1", "", ""]);
        assert_eq!(one("1 a\"b\"c\n"), ["1", "a", "b", "c"]);
        assert_eq!(one("1 a\\b \"\\\\ \\\"\"\n"), ["1", "a\\b", "\\ \""]);
        assert_eq!(one("1 \"a\nb\tc\0d\" e\tf\n"), ["1", "a\nb\tc\0d", "e\tf"]);
        assert_eq!(one("1 PING\r\n"), ["1", "PING"]);
        assert_eq!(one("1 PING \r\n"), ["1", "PING"]);
        assert_eq!(one("1 \"a\"\r\n"), ["1", "a"]);
        assert_eq!(one("1 a\rb\n"), ["1", "a\rb"]);
        assert_eq!(one("1 ä\u{1f600}\n"), ["1", "ä\u{1f600}"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_identifier_and_the_next_line_is_read() {
        for (wrong, identifier) in [
            ("\n", None),
            ("   \n", None),
            ("\r\n", None),
            ("7\n", Some("7")),
            ("7 \"a\\b\" c\n", Some("7")),
            ("\"a\\b\" c\n", None),
            ("7 \"a\\\n", Some("7")),
        ] {
            let mut read = all(format!("{wrong}8 PING\n").as_bytes());
            let malformed = read.remove(0).unwrap_err();
            assert_eq!(malformed.identifier.as_deref(), identifier, "{wrong:?}");
            assert_eq!(read, [Ok(vec!["8".to_owned(), "PING".to_owned()])], "{wrong:?}");
        }
        let mut read = all(b"7 \xff\n8 PING\n");
        assert_eq!(read.remove(0).unwrap_err().identifier.as_deref(), Some("7"));
        assert!(read[0].is_ok());
    }

    #[test]
    fn a_message_without_an_end_has_one() {
        let endless = [b"7 \"".to_vec(), vec![b'a'; MESSAGE_MAX + 1]].concat();
        let mut decoder = Decoder::default();
        let mut bytes = &endless[..];
        let malformed = decoder.next(&mut bytes).unwrap().unwrap_err();
        assert!(malformed.is_fatal);
        assert_eq!(malformed.identifier.as_deref(), Some("7"));
        assert!(!decoder.is_inside());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_however_it_is_cut(
            arguments in prop::collection::vec(".{0,12}|[ \"\\\\\n\r\0a]{0,8}", 2..6),
            cuts in prop::collection::vec(1_usize..7, 1..40),
        ) {
            let message = encode(&arguments);
            let (mut rest, mut decoder, mut cuts) = (message.as_bytes(), Decoder::default(), cuts.iter().cycle());
            let mut read = None;
            while !rest.is_empty() {
                prop_assert!(read.is_none());
                let (mut part, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                read = decoder.next(&mut part);
                prop_assert!(part.is_empty());
                rest = later;
            }
            prop_assert_eq!(read, Some(Ok(arguments)));
        }

        #[test]
        fn any_bytes_are_read_the_same_whole_or_one_by_one(bytes in prop::collection::vec(
            prop_oneof![Just(b' '), Just(b'\n'), Just(b'"'), Just(b'\\'), Just(b'\r'), any::<u8>()], 0..80
        )) {
            let mut decoder = Decoder::default();
            let mut one_by_one = Vec::new();
            for byte in &bytes {
                one_by_one.extend(decoder.next(&mut std::slice::from_ref(byte)));
            }
            prop_assert_eq!(all(&bytes), one_by_one);
        }
    }
}
