//! The cells of a row as XML.

use std::fmt::Write as _;

use batchwright::ItemError;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::column::{ExcelColumn, ExcelType};
use crate::value::Value;

/// Number of digits that a number of Excel keeps.
const DIGITS: usize = 15;
/// The largest and the smallest number of Excel above zero.
const NUMBER_MAX: f64 = 9.999_999_999_999_99e307;
const NUMBER_MIN: f64 = 2.225_073_858_507_201_4e-308;
/// Number of characters, as UTF-16, that a cell can have.
pub(super) const TEXT_MAX: usize = 32_767;
/// The first day that all programs count alike: Excel takes 1900 for a leap year.
const FIRST_DAY: Date = Date::constant(1900, 3, 1);
/// The day with the number 0.
const DAY_ZERO: Date = Date::constant(1899, 12, 30);

/// What is written into a cell.
enum Content {
    Empty,
    Boolean(bool),
    /// A number as it is written.
    Number(String),
    /// A number of days since [`DAY_ZERO`], and its style without a format of the column.
    Days(f64, Style),
    Text(String),
}

/// The styles that every workbook has, by their numbers.
#[derive(Clone, Copy)]
pub(super) enum Style {
    Header = 1,
    Date = 2,
    Time = 3,
    DateTime = 4,
}

/// Appends the cell of `value` in `column`, whose own style is `style`.
pub(super) fn cell(
    xml: &mut String,
    column: &ExcelColumn,
    style: Option<usize>,
    value: &Value,
) -> Result<(), ItemError> {
    let name = &*column.name;
    let content = content(column.kind, value)
        .map_err(|wanted| ItemError::data(format!("cannot write column `{name}`: {wanted}")))?;
    let styled = |xml: &mut String, default: Option<Style>| {
        if let Some(style) = style.or(default.map(|style| style as usize)) {
            let _ = write!(xml, " s=\"{style}\"");
        }
    };
    xml.push_str("<c");
    match content {
        Content::Empty => {
            xml.push_str("/>");
            return Ok(());
        }
        Content::Boolean(value) => {
            let _ = write!(xml, " t=\"b\"><v>{}</v>", u8::from(value));
        }
        Content::Number(number) => {
            styled(xml, None);
            let _ = write!(xml, "><v>{number}</v>");
        }
        Content::Days(days, default) => {
            styled(xml, Some(default));
            let _ = write!(xml, "><v>{days}</v>");
        }
        Content::Text(text) => {
            if text.encode_utf16().count() > TEXT_MAX {
                let what = format!("the text has more than {TEXT_MAX} characters");
                return Err(ItemError::data(format!("cannot write column `{name}`: {what}")));
            }
            styled(xml, None);
            xml.push_str(" t=\"inlineStr\"><is><t xml:space=\"preserve\">");
            escape(xml, &text);
            xml.push_str("</t></is>");
        }
    }
    xml.push_str("</c>");
    Ok(())
}

/// Appends the header cell `title`.
pub(super) fn header(xml: &mut String, title: &str) {
    let style = Style::Header as usize;
    let _ = write!(xml, "<c s=\"{style}\" t=\"inlineStr\"><is><t xml:space=\"preserve\">");
    escape(xml, title);
    xml.push_str("</t></is></c>");
}

/// Returns what is written for `value`, or a sentence that says why it does not fit.
fn content(kind: Option<ExcelType>, value: &Value) -> Result<Content, String> {
    let misfit = |wanted: &str| format!("`{}` is not {wanted}", shortened(&value.to_string()));
    Ok(match (kind, value) {
        (_, Value::Null) => Content::Empty,
        (Some(kind), Value::Text(text) | Value::Field(text))
            if text.is_empty() && kind != ExcelType::Text =>
        {
            Content::Empty
        }
        (Some(ExcelType::Text), value) => Content::Text(value.to_string()),
        (Some(ExcelType::Number), value) => {
            let text = value.to_string();
            match (number(value, &text), is_number(&text)) {
                (Some(number), _) => Content::Number(number),
                (None, true) => {
                    return Err(misfit(&format!(
                        "a number of at most {DIGITS} digits that Excel can hold"
                    )));
                }
                (None, false) => return Err(misfit("a number")),
            }
        }
        (Some(ExcelType::Boolean), value) => {
            Content::Boolean(value.to_string().parse().map_err(|_| misfit("`true` or `false`"))?)
        }
        (Some(ExcelType::Date), value) => {
            let day = date(&value.to_string()).ok_or_else(|| misfit("a date"))?;
            days(day.into(), Style::Date).ok_or_else(|| misfit("a date from 1900-03-01 on"))?
        }
        (Some(ExcelType::Time), value) => {
            let text = value.to_string();
            let is_plain = text.chars().all(|one| one.is_ascii_digit() || ":.".contains(one));
            let time = text.parse().ok().filter(|_| is_plain);
            of_time(time.ok_or_else(|| misfit("a time"))?)
        }
        (Some(ExcelType::DateTime), value) => {
            let text = value.to_string();
            let both = match text.parse::<Timestamp>() {
                Ok(instant) => TimeZone::UTC.to_datetime(instant),
                // With the name of a zone and no offset it is none either.
                Err(_) if text.contains('[') => return Err(misfit("a timestamp")),
                Err(_) => text.parse().map_err(|_| misfit("a timestamp"))?,
            };
            days(both, Style::DateTime).ok_or_else(|| misfit("a time from 1900-03-01 on"))?
        }
        (None, Value::Boolean(value)) => Content::Boolean(*value),
        (None, Value::Float(number)) if !number.is_finite() => {
            return Err(misfit("a number of Excel"));
        }
        (None, Value::Integer(_) | Value::Decimal(_) | Value::Float(_) | Value::Number(_)) => {
            let text = value.to_string();
            // Excel would change its last digits.
            number(value, &text).map_or(Content::Text(text), Content::Number)
        }
        (None, Value::Date(day)) => {
            days((*day).into(), Style::Date).unwrap_or_else(|| Content::Text(day.to_string()))
        }
        (None, Value::Time(time)) => of_time(*time),
        (None, Value::Timestamp(instant)) => {
            days(TimeZone::UTC.to_datetime(*instant), Style::DateTime)
                .unwrap_or_else(|| Content::Text(instant.to_string()))
        }
        (None, Value::List(_) | Value::Map(_)) => {
            Content::Text(serde_json::to_string(value).map_err(|error| error.to_string())?)
        }
        (None, value) => Content::Text(value.to_string()),
    })
}

/// Returns the number as Excel keeps it, or `None` if it has more digits or `text` is no number.
fn number(value: &Value, text: &str) -> Option<String> {
    if !is_number(text) {
        return None;
    }
    // The digits of a binary fraction are those of its shortest form, which Excel keeps.
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_start_matches('0');
    let significant =
        if mantissa.contains('.') { significant.trim_end_matches('0') } else { significant };
    let fits =
        matches!(value, Value::Float(_)) || significant.trim_end_matches('0').len() <= DIGITS;
    // Larger ones are none in Excel, and smaller ones zero.
    let size = text.parse::<f64>().unwrap_or_default().abs();
    let is_zero = significant.is_empty();
    let in_range = is_zero || (NUMBER_MIN..=NUMBER_MAX).contains(&size);
    (fits && in_range).then(|| text.trim_start_matches('+').to_owned())
}

/// Whether `text` is a finite number in the form that XML Schema has for one.
fn is_number(text: &str) -> bool {
    let plain = |character: char| character.is_ascii_digit() || "+-.eE".contains(character);
    text.chars().all(plain) && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Returns the day that `text` is. A text with a time is none; the parser would drop the time.
fn date(text: &str) -> Option<Date> {
    text.parse::<Date>().ok().filter(|day| day.to_string() == text)
}

fn days(both: DateTime, style: Style) -> Option<Content> {
    if both.date() < FIRST_DAY {
        return None;
    }
    let days = both.date().since(DAY_ZERO).ok()?.get_days();
    Some(Content::Days(f64::from(days) + part_of_day(both.time()), style))
}

fn of_time(time: Time) -> Content {
    Content::Days(part_of_day(time), Style::Time)
}

/// Returns the part of the day in whole milliseconds, which Excel has; it would round the rest up to the next day.
fn part_of_day(time: Time) -> f64 {
    let milliseconds = time.duration_since(Time::midnight()).as_millis();
    f64::from(i32::try_from(milliseconds).unwrap_or_default()) / 86_400_000.0
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Appends `text` as the content of an element. A character that XML does not have is written as `_xHHHH_`, and a text that
/// looks like one with its underscore in that form (ECMA-376, ST_Xstring).
fn escape(xml: &mut String, text: &str) {
    for (at, character) in text.char_indices() {
        match character {
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '&' => xml.push_str("&amp;"),
            '_' if is_escape(&text.as_bytes()[at..]) => xml.push_str("_x005F_"),
            // A parser of XML would make a line feed of it.
            '\r' => xml.push_str("&#13;"),
            '\0'..='\u{8}' | '\u{B}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => {
                let _ = write!(xml, "_x{:04X}_", u32::from(character));
            }
            other => xml.push(other),
        }
    }
}

/// Whether `bytes` begin with `_xHHHH_`.
fn is_escape(bytes: &[u8]) -> bool {
    bytes.len() >= 7
        && matches!(bytes[1], b'x' | b'X')
        && bytes[6] == b'_'
        && bytes[2..6].iter().all(u8::is_ascii_hexdigit)
}

/// Appends `text` as the value of an attribute.
pub(super) fn attribute(xml: &mut String, text: &str) {
    let mut escaped = String::new();
    escape(&mut escaped, text);
    xml.push_str(&escaped.replace('"', "&quot;").replace('\n', "&#10;").replace('\t', "&#9;"));
}
