//! The usual incrementers: from the parameters of one instance to those of the next.

use jiff::ToSpan;

use crate::parameters::{JobParameters, Parameter, ParameterValue};

/// Returns an incrementer that adds `step` to the integer parameter `name`; the first instance has the value
/// `step`. All other parameters stay unchanged.
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
            Some(other) => Err(format!("parameter `{name}`: cannot increment a {}", other.kind())),
        })
    }
}

/// Returns an incrementer that moves the date parameter `name` by `days`. The first instance must be started
/// explicitly.
pub fn next_day(
    name: impl Into<String>,
    days: i64,
) -> impl Fn(Option<&JobParameters>) -> Result<JobParameters, String> + Send + Sync {
    let name = name.into();
    move |newest| {
        changed(newest, &name, |before| match before {
            None => Err(format!(
                "parameter `{name}`: there is no earlier instance; start the first one"
            )),
            Some(ParameterValue::Date(date)) => date
                .checked_add(days.days())
                .map(ParameterValue::Date)
                .map_err(|error| format!("parameter `{name}`: {error}")),
            Some(other) => Err(format!("parameter `{name}`: a {} is not a date", other.kind())),
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
