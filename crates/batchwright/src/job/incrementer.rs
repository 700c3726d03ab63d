//! The usual ways from one instance to the next.

use jiff::ToSpan;

use crate::parameters::{JobParameters, Parameter, ParameterValue};

/// The next instance counts integer parameter `name` up by `step`; the first one begins with `step`. All other
/// parameters stay.
pub fn increment(
    name: impl Into<String>,
    step: i64,
) -> impl Fn(Option<&JobParameters>) -> Result<JobParameters, String> + Send + Sync {
    let name = name.into();
    move |newest| {
        changed(newest, &name, |before| match before {
            None => Ok(ParameterValue::Integer(step)),
            Some(ParameterValue::Integer(number)) => number
                .checked_add(step)
                .map(ParameterValue::Integer)
                .ok_or_else(|| format!("parameter `{name}`: {number} + {step} is too large")),
            Some(other) => Err(format!("parameter `{name}`: cannot count up a {}", other.kind())),
        })
    }
}

/// The next instance has date parameter `name` `days` later. There must be a first one.
pub fn next_day(
    name: impl Into<String>,
    days: i64,
) -> impl Fn(Option<&JobParameters>) -> Result<JobParameters, String> + Send + Sync {
    let name = name.into();
    move |newest| {
        changed(newest, &name, |before| match before {
            None => Err(format!(
                "parameter `{name}`: there is no instance yet to go on from; start the first one"
            )),
            Some(ParameterValue::Date(date)) => date
                .checked_add(days.days())
                .map(ParameterValue::Date)
                .map_err(|error| format!("parameter `{name}`: {error}")),
            Some(other) => Err(format!("parameter `{name}`: a {} is no date", other.kind())),
        })
    }
}

fn changed(
    newest: Option<&JobParameters>,
    name: &str,
    change: impl FnOnce(Option<&ParameterValue>) -> Result<ParameterValue, String>,
) -> Result<JobParameters, String> {
    let mut next = newest.cloned().unwrap_or_default();
    let before = newest.and_then(|parameters| parameters.get(name));
    let value = change(before.map(|parameter| &parameter.value))?;
    let next_one = match before.cloned() {
        Some(before) => Parameter { value, ..before },
        None => Parameter::new(value, true),
    };
    next.insert(name, next_one);
    Ok(next)
}
