//! The functions of expressions. The book lists the same functions, and a test compares both.

use std::borrow::Cow;

use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};

use super::value::{
    Evaluated, Number, TEXT_BYTES_MAX, bounded_text, condition, described, equals, order, shown,
    textual, too_long,
};
use batchwright_items::Value;

/// The values that a function gets; most of them are borrowed from the record.
type Arguments<'v> = [Cow<'v, Value>];

/// A function, callable as `name(x, …)` and as `x.name(…)`.
pub(super) struct Function {
    pub(super) name: &'static str,
    /// Minimum and maximum number of arguments.
    pub(super) arguments: (usize, usize),
    pub(super) call: fn(&Arguments) -> Evaluated,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Maximum number of parts that `split` makes.
const LIST_MAX: usize = 100_000;

/// All functions, sorted by name.
pub(super) static FUNCTIONS: &[Function] = &[
    function("abs", (1, 1), abs),
    function("ceiling", (1, 1), |args| rounded(&args[0], 0, Rounding::Up)),
    function("choose", (3, 3), choose),
    function("contains", (2, 2), contains),
    function("ends_with", (2, 2), |args| Ok(text(&args[0])?.ends_with(text(&args[1])?).into())),
    function("floor", (1, 1), |args| rounded(&args[0], 0, Rounding::Down)),
    function("index_of", (2, 2), index_of),
    function("is_digits", (1, 1), |args| all_of(&args[0], u8::is_ascii_digit)),
    function("is_empty", (1, 1), |args| Ok((length(&args[0])? == 0).into())),
    function("is_upper", (1, 1), |args| all_of(&args[0], u8::is_ascii_uppercase)),
    function("last_upper", (2, 2), last_upper),
    function("len", (1, 1), |args| Ok(integer_of(length(&args[0])?))),
    function("lower", (1, 1), |args| bounded_text(text(&args[0])?.to_lowercase())),
    function("max", (2, 2), |args| larger(&args[0], &args[1], true)),
    function("min", (2, 2), |args| larger(&args[0], &args[1], false)),
    function("parse_decimal", (1, 1), |args| parse_number(&args[0], to_decimal)),
    function("parse_float", (1, 1), |args| parse_number(&args[0], to_float)),
    function("parse_int", (1, 1), parse_int),
    function("replace", (3, 3), replace),
    function("round", (1, 2), |args| {
        let digits = args.get(1).map_or(Ok(0), |one| digits(one))?;
        rounded(&args[0], digits, Rounding::Nearest)
    }),
    function("split", (2, 2), split),
    function("sqrt", (1, 1), sqrt),
    function("squeeze", (1, 1), |args| {
        bounded_text(text(&args[0])?.split_whitespace().collect::<Vec<_>>().join(" "))
    }),
    function("starts_with", (2, 2), |args| Ok(text(&args[0])?.starts_with(text(&args[1])?).into())),
    function("sub_string", (2, 3), sub_string),
    function("to_decimal", (1, 1), |args| to_decimal(&args[0])),
    function("to_float", (1, 1), |args| to_float(&args[0])),
    function("to_int", (1, 1), to_int),
    function("to_lower", (1, 1), |args| bounded_text(text(&args[0])?.to_lowercase())),
    function("to_string", (1, 1), to_text),
    function("to_upper", (1, 1), |args| bounded_text(text(&args[0])?.to_uppercase())),
    function("trim", (1, 1), |args| Ok(part(&args[0], text(&args[0])?.trim()))),
    function("upper", (1, 1), |args| bounded_text(text(&args[0])?.to_uppercase())),
    function("word", (2, 2), word),
];

const fn function(
    name: &'static str,
    arguments: (usize, usize),
    call: fn(&Arguments) -> Evaluated,
) -> Function {
    Function { name, arguments, call }
}

/// Returns the function called `name`.
pub(super) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.binary_search_by(|known| known.name.cmp(name)).ok().map(|index| &FUNCTIONS[index])
}

/// Returns the function name most similar to `name`, for messages.
pub(super) fn like(name: &str) -> Option<&'static str> {
    let distance = |known: &&'static str| {
        let (one, two): (Vec<char>, Vec<char>) = (name.chars().collect(), known.chars().collect());
        let mut row: Vec<usize> = (0..=two.len()).collect();
        for (i, a) in one.iter().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, b) in two.iter().enumerate() {
                let substituted = diagonal + usize::from(a != b);
                diagonal = row[j + 1];
                row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
            }
        }
        row[two.len()]
    };
    let names = FUNCTIONS.iter().map(|function| function.name);
    names.min_by_key(distance).filter(|known| distance(known) <= 2)
}

fn text(value: &Value) -> Evaluated<&str> {
    textual(value).ok_or_else(|| format!("expected text, found {}", described(value)))
}

fn integer(value: &Value) -> Evaluated<i64> {
    match Number::of(value)? {
        Number::Integer(number) => Ok(number),
        _ => Err(format!("expected a whole number, found {}", described(value))),
    }
}

fn integer_of(count: usize) -> Value {
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

fn length(value: &Value) -> Evaluated<usize> {
    match value {
        Value::List(values) => Ok(values.len()),
        other => Ok(text(other)?.chars().count()),
    }
}

fn abs(args: &Arguments) -> Evaluated {
    Ok(match Number::of(&args[0])? {
        Number::Integer(value) => {
            Value::Integer(value.checked_abs().ok_or("the number is out of range")?)
        }
        Number::Decimal(value) => Value::Decimal(value.abs()),
        Number::Float(value) => Value::Float(value.abs()),
    })
}

fn choose(args: &Arguments) -> Evaluated {
    let chosen = if condition(&args[0])? { &args[1] } else { &args[2] };
    Ok(Value::clone(chosen))
}

fn contains(args: &Arguments) -> Evaluated {
    match &*args[0] {
        Value::List(values) => {
            for value in values.iter() {
                if equals(value, &args[1])? {
                    return Ok(true.into());
                }
            }
            Ok(false.into())
        }
        other => Ok(text(other)?.contains(text(&args[1])?).into()),
    }
}

fn index_of(args: &Arguments) -> Evaluated {
    let (whole, part) = (text(&args[0])?, text(&args[1])?);
    Ok(match whole.find(part) {
        Some(at) => integer_of(whole[..at].chars().count()),
        None => Value::Integer(-1),
    })
}

fn all_of(value: &Value, is: fn(&u8) -> bool) -> Evaluated {
    let text = text(value)?;
    Ok((!text.is_empty() && text.as_bytes().iter().all(is)).into())
}

fn last_upper(args: &Arguments) -> Evaluated {
    let (whole, length) = (text(&args[0])?, usize::try_from(integer(&args[1])?).unwrap_or(0));
    let fits =
        |word: &&str| word.len() == length && word.bytes().all(|one| one.is_ascii_uppercase());
    Ok(part(&args[0], whole.split_whitespace().rev().find(fits).unwrap_or_default()))
}

fn larger(one: &Value, two: &Value, largest: bool) -> Evaluated {
    Number::of(one)?;
    Number::of(two)?;
    let keeps_first = order(one, two)?.is_ge() == largest;
    Ok(if keeps_first { one.clone() } else { two.clone() })
}

fn parse_int(args: &Arguments) -> Evaluated {
    let text = text(&args[0])?;
    text.parse().map(Value::Integer).map_err(|_| format!("{} is no whole number", shown(text)))
}

fn parse_number(value: &Value, to: fn(&Value) -> Evaluated) -> Evaluated {
    to(&Number::parse(text(value)?)?.into())
}

fn to_decimal(value: &Value) -> Evaluated {
    let number = Number::of(value)?.decimal();
    number.map(Value::Decimal).ok_or_else(|| format!("{} is no decimal", described(value)))
}

fn to_float(value: &Value) -> Evaluated {
    Ok(Value::Float(Number::of(value)?.float()))
}

fn to_int(args: &Arguments) -> Evaluated {
    let number = match Number::of(&args[0])? {
        Number::Integer(value) => Some(value),
        number => number.decimal().and_then(|value| value.trunc().to_i64()),
    };
    number.map(Value::Integer).ok_or_else(|| format!("{} is out of range", described(&args[0])))
}

fn to_text(args: &Arguments) -> Evaluated {
    match &*args[0] {
        Value::Null | Value::List(_) => Err(format!("{} is no text", described(&args[0]))),
        other => bounded_text(other.to_string()),
    }
}

#[derive(Clone, Copy)]
enum Rounding {
    Up,
    Down,
    Nearest,
}

fn digits(value: &Value) -> Evaluated<u32> {
    let digits = integer(value)?;
    u32::try_from(digits)
        .ok()
        .filter(|digits| *digits <= 28)
        .ok_or_else(|| format!("expected 0 to 28 digits, found {digits}"))
}

fn rounded(value: &Value, digits: u32, rounding: Rounding) -> Evaluated {
    Ok(match Number::of(value)? {
        Number::Integer(number) => Value::Integer(number),
        Number::Decimal(number) => Value::Decimal(round(number, digits, rounding)),
        float @ Number::Float(number) => match float.decimal() {
            Some(exact) => Value::Float(Number::Decimal(round(exact, digits, rounding)).float()),
            // A number outside the range of decimals: a large one has no fraction, a small one rounds to 0.
            None if number.abs() >= 1.0 => Value::Float(number),
            None => Value::Float(0.0),
        },
    })
}

/// Rounds `number`; `Nearest` rounds halves away from zero.
fn round(number: Decimal, digits: u32, rounding: Rounding) -> Decimal {
    let strategy = match rounding {
        Rounding::Up => RoundingStrategy::ToPositiveInfinity,
        Rounding::Down => RoundingStrategy::ToNegativeInfinity,
        Rounding::Nearest => RoundingStrategy::MidpointAwayFromZero,
    };
    number.round_dp_with_strategy(digits, strategy)
}

fn replace(args: &Arguments) -> Evaluated {
    let (whole, from, to) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    if from.is_empty() {
        return Err("the text to replace is empty".to_owned());
    }
    // The length is checked before the text is made.
    let count = whole.matches(from).count();
    let length = (whole.len() - count * from.len()).saturating_add(count.saturating_mul(to.len()));
    match length > TEXT_BYTES_MAX {
        true => Err(too_long(length)),
        false => bounded_text(whole.replace(from, to)),
    }
}

fn split(args: &Arguments) -> Evaluated {
    let (whole, separator) = (text(&args[0])?, text(&args[1])?);
    if separator.is_empty() {
        return Err("the separator is empty".to_owned());
    }
    let parts: Vec<Value> =
        whole.split(separator).take(LIST_MAX + 1).map(|one| part(&args[0], one)).collect();
    match parts.len() > LIST_MAX {
        true => Err(format!("the list would have more than {LIST_MAX} items")),
        false => Ok(Value::List(parts.into())),
    }
}

fn sqrt(args: &Arguments) -> Evaluated {
    match Number::of(&args[0])?.float() {
        number if number < 0.0 => Err(format!("{} has no root", described(&args[0]))),
        number => Ok(Value::Float(number.sqrt())),
    }
}

fn sub_string(args: &Arguments) -> Evaluated {
    let whole = text(&args[0])?;
    let length = i64::try_from(whole.chars().count()).unwrap_or(i64::MAX);
    let start = match integer(&args[1])? {
        start if start < 0 => (length + start).max(0),
        start => start,
    };
    let count = args.get(2).map_or(Ok(length), |count| integer(count))?;
    Ok(part(&args[0], slice(whole, start, start.saturating_add(count.max(0)))))
}

/// Returns the characters of `whole` from `start` to before `end`.
pub(super) fn slice(whole: &str, start: i64, end: i64) -> &str {
    let start = usize::try_from(start).unwrap_or(0);
    let count = usize::try_from(end).unwrap_or(0).saturating_sub(start);
    let after = |text: &str, count| text.char_indices().nth(count).map_or(text.len(), |(at, _)| at);
    let rest = &whole[after(whole, start)..];
    &rest[..after(rest, count)]
}

/// Returns `part`, a slice of the text of `whole`, as a text that shares the memory of `whole`.
pub(super) fn part(whole: &Value, part: &str) -> Value {
    match whole {
        Value::Text(text) | Value::Field(text) => Value::Text(text.of(part)),
        _ => Value::text(part),
    }
}

fn word(args: &Arguments) -> Evaluated {
    let mut words = text(&args[0])?.split_whitespace();
    let index = integer(&args[1])?;
    let word = match usize::try_from(index) {
        Ok(index) => words.nth(index),
        Err(_) => words.nth_back(usize::try_from(-(index + 1)).unwrap_or(usize::MAX)),
    };
    Ok(part(&args[0], word.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_are_sorted_so_that_they_are_found() {
        assert!(FUNCTIONS.is_sorted_by_key(|function| function.name));
        assert_eq!(find("trim").map(|function| function.name), Some("trim"));
        assert!(find("trimm").is_none());
        assert_eq!(like("trimm"), Some("trim"));
    }
}
