//! What the keys of all queues have in common.

use std::time::Duration;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use url::Url;

use super::body::{BodyFormat, Decode};
use super::reader::ReaderSettings;
use crate::key::{At, Problem, Text, duration};
use crate::kind::{BuildContext, Make};
use crate::transport::url_with_values;

/// Time after which an unanswered request fails, without `timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Defines the keys of the reader of a queue: those of `$name`, and those of all.
macro_rules! reader_keys {
    ($(#[$about:meta])* struct $name:ident { $($(#[$doc:meta])* $key:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($(#[$doc])* $key: $type,)*
            /// The field that gets the id of the message. Default: none gets it.
            id_field: Option<String>,
            /// How long the reader waits for a message of an empty queue before it ends. Default: `0s`.
            wait: Option<crate::key::Text>,
            /// Maximum number of messages; the others stay in the queue. Default: unlimited.
            limit: Option<std::num::NonZeroU64>,
            /// Time after which an unanswered request fails. Default: `30s`.
            timeout: Option<crate::key::Text>,
        }

        impl $name {
            /// Returns the settings of the reader.
            fn settings(
                &self,
                format: crate::queue::body::BodyFormat,
            ) -> Result<crate::queue::reader::ReaderSettings, crate::key::Problem> {
                let id_field = self.id_field.as_deref();
                crate::queue::keys::settings(format, id_field, self.wait.as_ref(), self.limit)
            }
        }
    };
}

pub(super) use reader_keys;

/// Returns the settings of a reader.
pub(super) fn settings(
    format: BodyFormat,
    id_field: Option<&str>,
    wait: Option<&Text>,
    limit: Option<std::num::NonZeroU64>,
) -> Result<ReaderSettings, Problem> {
    Ok(ReaderSettings {
        wait: wait.map_or(Ok(Duration::ZERO), duration)?,
        limit: limit.map(Into::into),
        decode: Decode::new(format, id_field),
    })
}

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

/// Returns the sentence about the reader of a queue in a rehearsal.
pub(super) fn takes_outside() -> &'static str {
    "it takes messages from a queue; --allow-outside permits it in a rehearsal"
}
