//! Splits the text of an expression into tokens.

use rust_decimal::Decimal;

use batchwright_items::Value;

/// A token, and the byte where it begins.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Name(String),
    Literal(Value),
    /// A text in back quotes: its texts and expressions, each expression with the byte where it begins.
    Template(Vec<Part>),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

#[derive(Debug, Clone)]
pub(super) enum Part {
    Text(String),
    Expression { text: String, at: usize },
}

/// The signs of expressions, longest first, so that `**` is not read as two `*`.
const SIGNS: [&str; 33] = [
    "..=", "**", "==", "!=", "<=", ">=", "&&", "||", "??", "..", "=>", "+", "-", "*", "/", "%",
    "<", ">", "!", "(", ")", "[", "]", "{", "}", ",", ".", "|", "_", ":", ";", "=", "?",
];

/// Maximum nesting of texts in back quotes.
const NESTED_MAX: usize = 16;

/// A result, or a sentence about what is wrong with the expression.
pub(super) type Parsed<T> = Result<T, String>;

/// Splits `text` into tokens; `offset` is the place of `text` in the whole expression.
pub(super) fn tokens(text: &str, offset: usize) -> Parsed<Vec<Token>> {
    let mut scanner = Scanner { text, at: 0, counted: (0, 0), offset, nested: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = scanner.next()?;
        let is_end = matches!(token.kind, Kind::End);
        tokens.push(token);
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
    /// A byte, and the number of characters before it: each character is counted once.
    counted: (usize, usize),
    offset: usize,
    /// Number of texts in back quotes parents the current place.
    nested: usize,
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn wrong<T>(&self, what: &str) -> Parsed<T> {
        let before = &self.text[..self.at];
        Err(format!("{what} at character {}", self.offset + before.chars().count() + 1))
    }

    /// Returns the character of the current place in the whole expression, from 0.
    fn character(&mut self) -> usize {
        let (byte, count) = self.counted;
        self.counted = (self.at, count + self.text[byte..self.at].chars().count());
        self.offset + self.counted.1
    }

    fn pass_over_blanks(&mut self) -> Parsed<()> {
        loop {
            let rest = self.rest();
            let blanks = rest.len() - rest.trim_start().len();
            self.at += blanks;
            let rest = self.rest();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                match rest.find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return self.wrong("a comment has no end"),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Parsed<Token> {
        self.pass_over_blanks()?;
        let at = self.character();
        let kind = match self.rest().chars().next() {
            None => Kind::End,
            Some('"') => Kind::Literal(Value::Text(self.quoted('"')?.into())),
            Some('\'') => Kind::Literal(Value::Text(self.quoted('\'')?.into())),
            Some('`') => Kind::Template(self.template()?),
            Some(digit) if digit.is_ascii_digit() => Kind::Literal(self.number()?),
            Some(letter) if letter.is_alphabetic() => self.name(),
            Some('_')
                if self.rest()[1..]
                    .starts_with(|next: char| next.is_alphanumeric() || next == '_') =>
            {
                self.name()
            }
            Some(other) => match SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) {
                Some(sign) => {
                    self.at += sign.len();
                    Kind::Sign(sign)
                }
                None => return self.wrong(&format!("unexpected `{other}`")),
            },
        };
        Ok(Token { kind, at })
    }

    fn name(&mut self) -> Kind {
        let rest = self.rest();
        let end = rest.find(|next: char| !next.is_alphanumeric() && next != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        let (length, kind) = (name.len(), Kind::Name(name.to_owned()));
        self.at += length;
        kind
    }

    /// Reads a number: digits with optional `_` between them, a fraction and an exponent.
    fn number(&mut self) -> Parsed<Value> {
        let bytes = self.rest().as_bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'_') {
                at += 1;
            }
            at
        };
        let mut end = digits(0);
        // `1..5` is a range and `1.to_string()` a call.
        let fraction =
            bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
        if fraction {
            end = digits(end + 1);
        }
        let mut exponent = false;
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                exponent = true;
                end = digits(end + 1 + sign);
            }
        }
        let text = self.rest()[..end].replace('_', "");
        let value = match (fraction, exponent) {
            (false, false) => text.parse().ok().map(Value::Integer),
            (true, false) => Decimal::from_str_exact(&text).ok().map(Value::Decimal),
            (_, true) => Decimal::from_scientific(&text).ok().map(Value::Decimal).or_else(|| {
                text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float)
            }),
        };
        match value {
            Some(value) => {
                self.at += end;
                Ok(value)
            }
            None => self.wrong(&format!("the number `{text}` is out of range")),
        }
    }

    fn quoted(&mut self, quote: char) -> Parsed<String> {
        let begin = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(next) = self.rest().chars().next() else {
                self.at = begin;
                return self.wrong("a text has no closing quote");
            };
            self.at += next.len_utf8();
            match next {
                _ if next == quote => return Ok(text),
                '\\' => text.push(self.escaped()?),
                other => text.push(other),
            }
        }
    }

    fn escaped(&mut self) -> Parsed<char> {
        let Some(next) = self.rest().chars().next() else {
            return self.wrong("a text ends in a backslash");
        };
        self.at += next.len_utf8();
        let digits = match next {
            't' => return Ok('\t'),
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            '\\' | '"' | '\'' | '`' | '$' => return Ok(next),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => return self.wrong(&format!("`\\{other}` is no escape")),
        };
        let code = self.rest().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match code.and_then(char::from_u32) {
            Some(found) => {
                self.at += digits;
                Ok(found)
            }
            None => self.wrong(&format!("`\\{next}` needs {digits} hexadecimal digits")),
        }
    }

    fn template(&mut self) -> Parsed<Vec<Part>> {
        let begin = self.at;
        self.at += 1;
        let (mut parts, mut text) = (Vec::new(), String::new());
        loop {
            if self.rest().starts_with("${") {
                parts.push(Part::Text(std::mem::take(&mut text)));
                parts.push(self.placed()?);
                continue;
            }
            let Some(next) = self.rest().chars().next() else {
                self.at = begin;
                return self.wrong("a text has no closing back quote");
            };
            self.at += next.len_utf8();
            match next {
                '`' => {
                    parts.push(Part::Text(text));
                    return Ok(parts);
                }
                '\\' => text.push(self.escaped()?),
                other => text.push(other),
            }
        }
    }

    /// Reads `${…}`, whose expression may contain braces and texts.
    fn placed(&mut self) -> Parsed<Part> {
        let begin = self.at;
        self.nested += 1;
        self.at += 2;
        let (start, mut depth) = (self.at, 1);
        let at = self.character();
        loop {
            match self.rest().chars().next() {
                None => {
                    self.at = begin;
                    return self.wrong("`${` has no closing brace");
                }
                Some(quote @ ('"' | '\'')) => drop(self.quoted(quote)?),
                Some('`') if self.nested >= NESTED_MAX => {
                    return self
                        .wrong(&format!("texts are nested deeper than {NESTED_MAX} levels"));
                }
                Some('`') => drop(self.template()?),
                Some(next) => {
                    self.at += next.len_utf8();
                    match next {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        self.nested -= 1;
                        let text = self.text[start..self.at - 1].to_owned();
                        return Ok(Part::Expression { text, at });
                    }
                }
            }
        }
    }
}
