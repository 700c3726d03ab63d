//! Parses and shows the times and durations of the schedule.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

/// Microseconds since 1970.
pub(crate) type Micros = i64;

/// The last second of the year 9999.
pub(crate) const MAX: Micros = 253_402_300_799_000_000;

/// The civil time from which [`Micros`] count. Civil times reach to the end of 9999; [`Timestamp`] does not.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Parses `2026-11-22 06:30:00` in UTC, or RFC 3339; years 1970 to 9999.
pub(crate) fn parse(text: &str) -> Result<Micros, String> {
    let wrong =
        || format!("`{text}` is not a time; write `YYYY-MM-DD HH:MM:SS` in UTC, or RFC 3339");
    let parsed = match plain(text) {
        Some(datetime) => datetime.map(|at| at.duration_since(EPOCH).as_micros()),
        None if text.as_bytes().get(10).is_some_and(|byte| b"Tt".contains(byte)) => {
            let instant = text.parse::<Timestamp>().ok().map(|at| i128::from(at.as_microsecond()));
            instant.or_else(|| Some(utc(text)?.duration_since(EPOCH).as_micros()))
        }
        None => None,
    };
    let micros = parsed.and_then(|micros| Micros::try_from(micros).ok()).ok_or_else(wrong)?;
    match (0..=MAX + 999_999).contains(&micros) {
        true => Ok(micros),
        false => Err(wrong()),
    }
}

/// Parses `Y-m-d H:i:s` with all digits. The outer `None` means another form, the inner one a time that does
/// not exist.
fn plain(text: &str) -> Option<Option<DateTime>> {
    let bytes = text.as_bytes();
    let form = bytes.len() == 19
        && bytes.iter().zip(b"dddd-dd-dd dd:dd:dd").all(|(byte, form)| match form {
            b'd' => byte.is_ascii_digit(),
            other => byte == other,
        });
    if !form {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<i16>().ok();
    let small = |from: usize| text[from..from + 2].parse::<i8>().ok();
    Some((|| {
        DateTime::new(number(0, 4)?, small(5)?, small(8)?, small(11)?, small(14)?, small(17)?, 0)
            .ok()
    })())
}

/// Parses RFC 3339 in UTC. [`Timestamp`] ends 26 hours before the year 9999 does; this form reaches to its end.
fn utc(text: &str) -> Option<DateTime> {
    let civil = text.strip_suffix(['Z', 'z'])?;
    let fraction = civil.get(19..)?;
    let is_fraction = |text: &str| {
        let digits = text.strip_prefix('.').unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    // An offset would be ignored.
    (fraction.is_empty() || is_fraction(fraction)).then(|| civil.parse().ok())?
}

fn civil(micros: Micros) -> DateTime {
    EPOCH.saturating_add(SignedDuration::from_micros(micros))
}

pub(crate) fn timestamp(micros: Micros) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

/// Returns microseconds since 1970 as `2026-11-22 06:30:00` in UTC, for output and for the line protocol.
pub fn show(micros: Micros) -> String {
    civil(micros).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Returns the time as RFC 3339 with all its microseconds.
pub(crate) fn show_exact(micros: Micros) -> String {
    format!("{}Z", civil(micros))
}

/// Parses a duration of at most a hundred years, which the schedule can add to a time without overflow.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let length = batchwright::clock::parse_duration(text)?;
    match length <= Duration::from_secs(100 * 366 * 86_400) {
        true => Ok(length),
        false => Err(format!("`{text}` is longer than a hundred years")),
    }
}

/// Returns `length` in the form that [`duration`] parses.
pub(crate) fn show_duration(length: Duration) -> String {
    match SignedDuration::try_from(length) {
        Ok(length) => format!("{length:#}"),
        Err(_) => format!("{}s", length.as_secs()),
    }
}

pub(crate) fn micros_of(length: Duration) -> Micros {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX / 4)
}
