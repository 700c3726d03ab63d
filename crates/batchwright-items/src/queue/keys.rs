//! What the keys of all queues have in common.

use std::time::Duration;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use url::Url;

use super::body::BodyFormat;
use crate::key::{At, Problem, Text, duration};
use crate::kind::{BuildContext, Make};
use crate::transport::url_with_values;

/// Time after which an unanswered request fails, without `timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the format that is given, or the default.
pub(super) fn format_of(given: Option<&At<BodyFormat>>) -> BodyFormat {
    given.map_or_else(BodyFormat::default, |given| *given.get_ref())
}

/// Returns the time after which a request fails.
pub(super) fn timeout(given: Option<&Text>) -> Result<Duration, Problem> {
    let Some(given) = given else { return Ok(TIMEOUT) };
    match duration(given)? {
        Duration::ZERO => Err(Problem::at(given, "the time-out must be above zero")),
        timeout => Ok(timeout),
    }
}

/// Returns what makes the URL of a broker, whose scheme is one of `schemes`. Errors do not show the URL, which may have a password.
pub(super) fn server(
    text: &Text,
    schemes: &'static [&'static str],
    cx: &BuildContext<'_>,
) -> Result<Make<Url>, Problem> {
    let wrong = move |why: &str| {
        let (first, host) = (schemes[0], "USER:PASSWORD@HOST:PORT");
        format!("cannot use the address of the server, such as {first}://{host}: {why}")
    };
    let template = cx.template(text)?;
    let scheme = text.get_ref().split("://").next().unwrap_or_default();
    if !scheme.contains('$') && !schemes.contains(&scheme) {
        return Err(Problem::at(text, wrong("its scheme is another one")));
    }
    Ok(Box::new(move |scope: &StepScope| {
        let url = url_with_values(&template, scope);
        let url = url.map_err(|why| ItemError::fatal(wrong(&why)))?;
        match schemes.contains(&url.scheme()) && url.host_str().is_some() {
            true => Ok(url),
            false => Err(ItemError::fatal(wrong("its scheme or host is missing or another one"))),
        }
    }))
}

/// Returns the address in `url` for messages: without user, password and options.
#[cfg(feature = "acknowledge")]
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// The error of a broker that fails, or does not answer.
pub(super) fn failed(
    action: &str,
    broker: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ItemError {
    ItemError::wrap(ErrorKind::IO, format!("cannot {action} at {broker}"), source)
}

/// The error of a broker that does not answer within `timeout`.
pub(super) fn silent(action: &str, broker: &str, timeout: Duration) -> ItemError {
    let seconds = timeout.as_secs_f64();
    ItemError::new(
        ErrorKind::new("io.timeout"),
        format!("cannot {action} at {broker}: there is no answer within {seconds} s"),
    )
}
