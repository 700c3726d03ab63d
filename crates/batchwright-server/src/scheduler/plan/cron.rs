//! Cron expressions: common forms that the library writes differently, and errors that name the wrong field.

use croner::Cron;
use croner::parser::{CronParser, Seconds};

/// Parses a cron expression with five to seven fields, or a name such as `@daily`.
///
/// # Errors
///
/// A sentence that names the first wrong field.
pub(super) fn parse(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).build();
    refuse_misplaced_names(text)?;
    let written = usual(text)?;
    parser.parse(&written).map_err(|error| {
        let problem = problem_of(&parser, text, &written).unwrap_or_else(|| error.to_string());
        format!("the cron expression `{text}` is invalid: {problem}")
    })
}

/// Refuses names such as `FRI` in other fields than month and weekday; the library reads them as numbers.
fn refuse_misplaced_names(text: &str) -> Result<(), String> {
    let fields: Vec<_> = text.split_whitespace().collect();
    let first = usize::from(fields.len() == 5);
    let named = fields.iter().zip(CRON_FIELDS.iter().skip(first)).find(|(field, (name, _))| {
        !text.starts_with('@')
            && !matches!(*name, "month" | "weekday")
            && field
                .contains(|letter: char| letter.is_ascii_alphabetic() && !"LlWw".contains(letter))
    });
    match named {
        None => Ok(()),
        Some((field, (name, values))) => Err(format!(
            "the cron expression `{text}` is invalid: the {name} is `{field}`; it accepts {values}"
        )),
    }
}

/// The fields of a cron expression with the values that they accept.
const CRON_FIELDS: [(&str, &str); 7] = [
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day", "1-31, L, LW or a day with W"),
    ("month", "1-12 or JAN-DEC"),
    ("weekday", "0-7 or SUN-SAT, with #N or L"),
    ("year", "four digits"),
];

/// Returns what is wrong with the expression `text`, which the library refused in the form `written`: its name,
/// the number of its fields, or the first field that is also refused alone.
fn problem_of(parser: &CronParser, text: &str, written: &str) -> Option<String> {
    let shown: Vec<_> = text.split_whitespace().collect();
    let fields: Vec<_> = written.split_whitespace().collect();
    if text.trim().starts_with('@') {
        return Some("the names are @hourly, @daily (@midnight), @weekly, @monthly, @yearly (@annually), and @every DURATION".into());
    }
    let count = fields.len();
    if !(5..=7).contains(&count) {
        return Some(format!(
            "it has {count} fields; the fields are minute, hour, day, month and weekday; second may precede them, and year \
             may follow six"
        ));
    }
    // Only five fields leave out the second.
    let first = usize::from(count == 5);
    (0..count).find_map(|index| {
        let mut alone = vec!["*"; count];
        alone[index] = fields[index];
        let (name, values) = CRON_FIELDS[first + index];
        let refused = parser.parse(&alone.join(" ")).is_err();
        refused.then(|| format!("the {name} is `{}`; it accepts {values}", shown[index]))
    })
}

/// Rewrites `text` for the library, which writes three common forms differently: `@midnight`, `5/15` (from 5
/// in steps of 15) and week days that wrap around, `FRI-MON`.
fn usual(text: &str) -> Result<String, String> {
    if text.trim().eq_ignore_ascii_case("@midnight") {
        return Ok("@daily".to_owned());
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if !(5..=6).contains(&fields.len()) || text.starts_with('@') {
        return Ok(text.to_owned());
    }
    let maxima: &[u8] = &[59, 59, 23, 31, 12, 7];
    let maxima = &maxima[6 - fields.len()..];
    let last = fields.len() - 1;
    let mut written = Vec::new();
    for (index, (field, max)) in fields.iter().zip(maxima).enumerate() {
        let parts: Vec<String> = field
            .split(',')
            .map(|part| match part.split_once('/') {
                Some((from, step)) if from.parse::<u8>().is_ok() => format!("{from}-{max}/{step}"),
                None if index == last => unwrapped(part),
                _ => part.to_owned(),
            })
            .collect();
        if index == last - 2 && parts.iter().any(|part| part.starts_with("L-")) {
            return Err(format!(
                "the cron expression `{text}` is invalid: days before the last of the month are not supported; write `L`, `LW` or a day"
            ));
        }
        written.push(parts.join(","));
    }
    Ok(written.join(" "))
}

/// Returns a range of week days that wraps around the end of the week as a list of its days.
fn unwrapped(part: &str) -> String {
    const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let day = |text: &str| {
        let named = DAYS.iter().position(|name| name.eq_ignore_ascii_case(text));
        named.or_else(|| text.parse().ok().filter(|day| *day <= 7).map(|day: usize| day % 7))
    };
    match part.split_once('-').and_then(|(from, to)| Some((day(from)?, day(to)?))) {
        Some((from, to)) if from > to => {
            (from..7).chain(0..=to).map(|day| DAYS[day]).collect::<Vec<_>>().join(",")
        }
        _ => part.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_first_wrong_field() {
        for (text, problem) in [
            ("99 * * * *", "the minute is `99`"),
            ("0 99 * * * *", "the minute is `99`"),
            ("99 0 * * * *", "the second is `99`"),
            ("0 24 * * *", "the hour is `24`"),
            ("0 0 32 1 *", "the day is `32`"),
            ("0 0 0 32 1 * 2027", "the day is `32`"),
            ("0 0 1 13 *", "the month is `13`"),
            ("0 0 * * FRX", "the weekday is `FRX`"),
            ("0 0 0 1 1 * x", "the year is `x`"),
            ("FRI * * * *", "the minute is `FRI`"),
            ("* * *", "it has 3 fields"),
            ("0 0 0 1 1 * 2027 1", "it has 8 fields"),
            ("@nope", "the names are @hourly"),
            ("@every", "the names are @hourly"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn all_usual_forms_are_accepted() {
        for text in [
            "0 2 * * *",
            "0 30 2 * * *",
            "0 0 0 1 1 * 2027",
            "5/15 * * * *",
            "0 0 * * FRI-MON",
            "0 0 L * *",
            "0 0 15W * *",
            "0 0 LW * *",
            "0 0 * JAN MON#2",
            "@daily",
            "@midnight",
            "@hourly",
            "@weekly",
            "@monthly",
            "@yearly",
            "@annually",
        ] {
            parse(text).expect(text);
        }
    }
}
