//! Comparison and arithmetic of values. All operators follow this table:
//!
//! | left, right | `==` `!=` | `<` `<=` `>` `>=` | `+` | `-` `*` `/` `%` `**` |
//! |---|---|---|---|---|
//! | number, number | by value, exactly | by value | number | number |
//! | number, untyped field | the field as a number | the same | number | number |
//! | text, text or untyped field | as text | as text | joined | error |
//! | two untyped fields | as numbers when both are, else as text | as numbers or as text; error when only one is a number | as numbers | as numbers |
//! | boolean, boolean or untyped field | yes | error | error | error |
//! | text, number | error | error | joined | error |
//! | null, anything | only null equals null | error | error | error |
//!
//! An untyped field that must be a number but is none is an error too.

use std::cmp::Ordering;
use std::str::FromStr;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use batchwright_items::Value;

/// A value, or a sentence about why the expression has none.
pub(super) type Evaluated<T = Value> = Result<T, String>;

/// A number of any type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Integer(i64),
    Decimal(Decimal),
    Float(f64),
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        match number {
            Number::Integer(value) => Self::Integer(value),
            Number::Decimal(value) => Self::Decimal(value),
            Number::Float(value) => Self::Float(value),
        }
    }
}

impl Number {
    /// Parses `text` as a number: digits with an optional sign, fraction and exponent, and nothing else.
    pub(super) fn parse(text: &str) -> Evaluated<Self> {
        let is_written_so = |text: &str| {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            digits.as_bytes().first().is_some_and(u8::is_ascii_digit)
                && digits
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
        };
        if !is_written_so(text) {
            return Err(format!("{} is no number", shown(text)));
        }
        if let Ok(number) = text.parse() {
            return Ok(Self::Integer(number));
        }
        if text.contains(['e', 'E']) {
            return match (Decimal::from_scientific(text), text.parse::<f64>()) {
                (Ok(number), _) => Ok(Self::Decimal(number)),
                (Err(_), Ok(number)) if number.is_finite() => Ok(Self::Float(number)),
                _ => Err(format!("{} is no number", shown(text))),
            };
        }
        Decimal::from_str_exact(text).map(Self::Decimal).map_err(|_| match text.parse::<f64>() {
            Ok(_) => format!("{} has more digits than the 28 that arithmetic keeps", shown(text)),
            Err(_) => format!("{} is no number", shown(text)),
        })
    }

    /// Returns `value` as a number.
    pub(super) fn of(value: &Value) -> Evaluated<Self> {
        match value {
            Value::Integer(number) => Ok(Self::Integer(*number)),
            Value::Decimal(number) => Ok(Self::Decimal(*number)),
            Value::Float(number) => Ok(Self::Float(*number)),
            Value::Field(text) if text.is_empty() => Err("an empty field is no number".to_owned()),
            Value::Field(text) => Self::parse(text),
            Value::Number(raw) => Self::parse(raw.get()),
            other => Err(format!("{} is no number", described(other))),
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "the other operand is a float already")]
            Self::Integer(value) => value as f64,
            Self::Decimal(value) => value.to_f64().unwrap_or(f64::NAN),
            Self::Float(value) => value,
        }
    }

    /// Returns the number as an exact decimal, if it has one; a float as the shortest text that parses to it.
    pub(super) fn decimal(self) -> Option<Decimal> {
        match self {
            Self::Integer(value) => Some(value.into()),
            Self::Decimal(value) => Some(value),
            Self::Float(value) if value.is_finite() => {
                let text = format!("{value:?}");
                Decimal::from_str(&text).or_else(|_| Decimal::from_scientific(&text)).ok()
            }
            Self::Float(_) => None,
        }
    }

    fn compare(self, other: Self) -> Evaluated<Ordering> {
        if let (Self::Integer(one), Self::Integer(two)) = (self, other) {
            return Ok(one.cmp(&two));
        }
        if let (Some(one), Some(two)) = (self.decimal(), other.decimal()) {
            return Ok(one.cmp(&two));
        }
        let (one, two) = (self.float(), other.float());
        one.partial_cmp(&two).ok_or_else(|| format!("{one} and {two} have no order"))
    }
}

/// An operator of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
}

impl Arithmetic {
    fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::Power => "**",
        }
    }

    pub(super) fn apply(self, left: &Value, right: &Value) -> Evaluated {
        if self == Self::Add && (is_text(left) || is_text(right)) {
            let fits =
                |value: &Value| !matches!(value, Value::Null | Value::List(_) | Value::Boolean(_));
            return match fits(left) && fits(right) {
                true => bounded_text(format!("{left}{right}")),
                false => Err(self.does_not_fit(left, right)),
            };
        }
        if let (Self::Add, Value::Field(one), Value::Field(two)) = (self, left, right)
            && (Number::parse(one).is_err() || Number::parse(two).is_err())
        {
            return Err(format!(
                "{} + {}: untyped fields are added as numbers; to join texts write `${{…}}${{…}}` in back quotes",
                shown(one),
                shown(two)
            ));
        }
        let explain = |problem: String| {
            format!("{} {} {}: {problem}", described(left), self.sign(), described(right))
        };
        let (one, two) = (Number::of(left).map_err(explain)?, Number::of(right).map_err(explain)?);
        if matches!(self, Self::Divide | Self::Remainder) && two.float() == 0.0 {
            return Err(explain("the divisor is zero".to_owned()));
        }
        let result = self.numbers(one, two).map(Value::from);
        result.ok_or_else(|| explain("the result is out of range".to_owned()))
    }

    fn does_not_fit(self, left: &Value, right: &Value) -> String {
        let sign = self.sign();
        format!("{} {sign} {}: the types do not fit", described(left), described(right))
    }

    fn numbers(self, left: Number, right: Number) -> Option<Number> {
        match (left, right) {
            (Number::Integer(one), Number::Integer(two)) => self.integers(one, two),
            (Number::Float(_), _) | (_, Number::Float(_)) => {
                let value = self.floats(left.float(), right.float());
                value.is_finite().then_some(Number::Float(value))
            }
            _ => self.decimals(left.decimal()?, right.decimal()?),
        }
    }

    fn integers(self, one: i64, two: i64) -> Option<Number> {
        let value = match self {
            Self::Add => one.checked_add(two),
            Self::Subtract => one.checked_sub(two),
            Self::Multiply => one.checked_mul(two),
            Self::Divide => one.checked_div(two),
            Self::Remainder => one.checked_rem(two),
            Self::Power => match u32::try_from(two) {
                Ok(power) => one.checked_pow(power),
                #[expect(clippy::cast_precision_loss, reason = "a power below zero is a fraction")]
                Err(_) => {
                    let value = (one as f64).powf(two as f64);
                    return value.is_finite().then_some(Number::Float(value));
                }
            },
        };
        value.map(Number::Integer)
    }

    fn decimals(self, one: Decimal, two: Decimal) -> Option<Number> {
        let value = match self {
            Self::Add => one.checked_add(two),
            Self::Subtract => one.checked_sub(two),
            Self::Multiply => one.checked_mul(two),
            Self::Divide => one.checked_div(two),
            Self::Remainder => one.checked_rem(two),
            Self::Power => {
                let value = one.to_f64()?.powf(two.to_f64()?);
                return value.is_finite().then_some(Number::Float(value));
            }
        };
        value.map(Number::Decimal)
    }

    fn floats(self, one: f64, two: f64) -> f64 {
        match self {
            Self::Add => one + two,
            Self::Subtract => one - two,
            Self::Multiply => one * two,
            Self::Divide => one / two,
            Self::Remainder => one % two,
            Self::Power => one.powf(two),
        }
    }
}

/// `left == right`.
pub(super) fn equals(left: &Value, right: &Value) -> Evaluated<bool> {
    use Value::{Boolean, Field, Null};
    match (left, right) {
        (Null, Null) => Ok(true),
        (Null, _) | (_, Null) => Ok(false),
        (Boolean(one), Boolean(two)) => Ok(one == two),
        (Boolean(one), Field(two)) | (Field(two), Boolean(one)) => Ok(*one == boolean(two)?),
        (Field(one), Field(two)) => match (Number::parse(one), Number::parse(two)) {
            (Ok(one), Ok(two)) => Ok(one.compare(two)? == Ordering::Equal),
            _ => Ok(one == two),
        },
        _ => Ok(order(left, right)? == Ordering::Equal),
    }
}

/// Returns the order of `left` and `right`.
pub(crate) fn order(left: &Value, right: &Value) -> Evaluated<Ordering> {
    let does_not_fit =
        || format!("{} and {} cannot be compared", described(left), described(right));
    if let (Some(one), Some(two)) = (textual(left), textual(right)) {
        if let (Value::Field(_), Value::Field(_)) = (left, right) {
            return match (Number::parse(one), Number::parse(two)) {
                (Ok(one), Ok(two)) => one.compare(two),
                (Err(_), Err(_)) => Ok(one.cmp(two)),
                _ => Err(format!("{}: only one of them is a number", does_not_fit())),
            };
        }
        return Ok(one.cmp(two));
    }
    if !is_numeric(left) || !is_numeric(right) {
        return Err(does_not_fit());
    }
    let explain = |problem: String| format!("{}: {problem}", does_not_fit());
    Number::of(left).map_err(explain)?.compare(Number::of(right).map_err(explain)?)
}

/// Returns the text of a text, an untyped field or a JSON value; `None` for other types.
pub(super) fn textual(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Field(text) => Some(text),
        Value::Json(raw) => Some(raw.get()),
        _ => None,
    }
}

fn is_text(value: &Value) -> bool {
    matches!(value, Value::Text(_) | Value::Json(_))
}

fn is_numeric(value: &Value) -> bool {
    matches!(
        value,
        Value::Integer(_)
            | Value::Decimal(_)
            | Value::Float(_)
            | Value::Number(_)
            | Value::Field(_)
    )
}

fn boolean(field: &str) -> Evaluated<bool> {
    match field {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{} is neither `true` nor `false`", shown(other))),
    }
}

/// Returns `value` as a condition.
pub(super) fn condition(value: &Value) -> Evaluated<bool> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Field(text) => boolean(text),
        other => Err(format!("{} is neither true nor false", described(other))),
    }
}

/// Maximum length in bytes of a text that an expression makes.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Returns `text` as a value, unless it is longer than [`TEXT_BYTES_MAX`].
pub(super) fn bounded_text(text: String) -> Evaluated {
    match text.len() {
        ..=TEXT_BYTES_MAX => Ok(Value::Text(text.into())),
        length => Err(too_long(length)),
    }
}

pub(super) fn too_long(length: usize) -> String {
    format!("the text would have {length} bytes; the limit is {TEXT_BYTES_MAX}")
}

/// Returns `value` for a message: its type and its text, cut when it is long.
pub(super) fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(_) | Value::Decimal(_) | Value::Float(_) | Value::Number(_) => {
            format!("the number {value}")
        }
        Value::Text(text) => format!("the text {}", shown(text)),
        Value::Field(text) => format!("the field {}", shown(text)),
        Value::Json(raw) => format!("the JSON {}", shown(raw.get())),
        Value::List(_) => "a list".to_owned(),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        other => format!("`{other}`"),
    }
}

/// Returns `text` in back quotes, cut when it is long.
pub(super) fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let short: String = chars.by_ref().take(60).collect();
    match chars.next() {
        None => format!("`{short}`"),
        Some(_) => format!("`{short}…`"),
    }
}
