//! The HTTP runner: sends a signed `POST` by the [Standard Webhooks](https://www.standardwebhooks.com)
//! convention.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use batchwright::parameters::MASK;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{StatusCode, Url};

pub(crate) use reqwest::Client;
use serde_json::json;

use super::OUTPUT_MAX;
use super::signature::signature;
use crate::scheduler::dispatch::{Shared, Stop};
use crate::scheduler::group::Firing;
use crate::scheduler::rule::Secret;
use crate::scheduler::time;
use crate::scheduler::trigger::Outcome;

/// Timeout for the body of an answer.
const BODY_GRACE: Duration = Duration::from_secs(1);
/// Timeout for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the client of all webhooks. The client follows no redirect: a signed message goes only to the URL
/// of its rule.
pub(crate) fn client() -> Result<Client, String> {
    let builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")));
    builder
        .build()
        .map_err(|error| format!("cannot create the HTTP client: {}", batchwright::report(&error)))
}

/// Refuses a URL that cannot be called.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    let parsed = Url::parse(url).map_err(|error| format!("the URL cannot be used: {error}"))?;
    match (parsed.scheme(), parsed.host_str()) {
        ("http" | "https", Some(_)) => Ok(()),
        _ => Err("the URL cannot be used: it is neither http nor https".to_owned()),
    }
}

/// Returns scheme and host of a URL. Its path is left out, because it may be a secret, as in a chat's
/// webhook.
pub(crate) fn redacted(url: &str) -> String {
    match Url::parse(url) {
        Ok(parsed) => {
            let path = if parsed.path().len() > 1 { "/…" } else { "/" };
            format!("{}://{}{path}", parsed.scheme(), host(url))
        }
        Err(_) => MASK.to_owned(),
    }
}

/// Returns host and port of a checked URL.
pub(crate) fn host(url: &str) -> String {
    let parsed = Url::parse(url).ok();
    let place = parsed
        .and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    place.unwrap_or_default()
}

/// Sends the message. A 2xx status is success. A 5xx status, 408, 425, 429 and a missing answer may be
/// retried; any other status is final.
pub(crate) async fn call(
    shared: &Shared,
    firing: &Firing,
    url: &Secret,
    secret: Option<&Secret>,
    stop: impl Future<Output = Stop>,
) -> Outcome {
    let slot = time::show_exact(firing.slot);
    let id = header(&format!("{}/{slot}", firing.key.identifier));
    let body = json!({"trigger": firing.key.identifier, "slot": slot, "attempt": firing.attempt})
        .to_string();
    let timestamp = shared.lease.now() / 1_000_000;
    let mut request = shared
        .http
        .post(url.expose())
        .timeout(firing.rule.settings.timeout())
        .header("content-type", "application/json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", timestamp)
        .header("traceparent", shared.trace(firing).to_string());
    if let Some(secret) = secret {
        let signed = signature(secret.expose(), &id, timestamp, &body);
        request = request.header("webhook-signature", signed);
    }
    let answered = async {
        let mut response = request.body(body).send().await?;
        let (status, wait) = (response.status(), retry_after(response.headers(), timestamp));
        let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
        let place = place.map(redacted);
        let mut output = Vec::new();
        let reading = async {
            while output.len() < OUTPUT_MAX
                && let Ok(Some(chunk)) = response.chunk().await
            {
                output.extend_from_slice(&chunk);
            }
        };
        // The status decides the outcome; the body is only shown, so the wait for it is short.
        let _ = tokio::time::timeout(BODY_GRACE, reading).await;
        output.truncate(OUTPUT_MAX);
        Ok::<_, reqwest::Error>(Answer { status, wait, place, output })
    };
    let answered = tokio::select! {
        answered = answered => answered,
        stop = stop => return match stop {
            Stop::Shutdown | Stop::Lost => Outcome::Released,
            Stop::Replaced | Stop::No => Outcome::failed("replaced", false),
        },
    };
    match answered {
        Ok(answer) => answer.outcome(),
        Err(error) => Outcome::failed(reason(error), true),
    }
}

/// The answer of a receiver.
struct Answer {
    status: StatusCode,
    /// The requested wait before another call.
    wait: Option<Duration>,
    /// The target of a redirect, without the parts that may be secret.
    place: Option<String>,
    output: Vec<u8>,
}

impl Answer {
    fn outcome(self) -> Outcome {
        let Self { status, wait, place, output } = self;
        if status.is_success() {
            return Outcome::Executed(super::tail(&output));
        }
        let place = place.filter(|_| status.is_redirection());
        let place = place.map_or_else(String::new, |place| format!(", a redirect to {place}"));
        // A redirect is a final failure: a signed message goes only to the URL of its rule.
        let retryable = status.is_server_error()
            || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS]
                .contains(&status);
        Outcome::Failed {
            reason: format!("answered {status}{place}"),
            output: super::tail(&output),
            retryable,
            not_before: wait.filter(|_| retryable),
        }
    }
}

/// Returns the wait of `Retry-After`, which contains seconds or a date. `now` is in seconds since 1970.
fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second();
            u64::try_from(at - now).unwrap_or(0)
        }
    };
    Some(Duration::from_secs(seconds))
}

/// Returns `text` for a header: bytes other than visible ASCII are written as `%XX`.
fn header(text: &str) -> String {
    let written = |byte: u8| match byte {
        b'!'..=b'~' if byte != b'%' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(written).collect()
}

/// Returns the error with its causes, without the URL, which may contain secrets.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        text.push_str(&format!(": {one}"));
        cause = one.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_asks_to_be_called_later_is_understood() {
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, 1_000_000_000).map(|wait| wait.as_secs())
        };
        assert_eq!(asked("120"), Some(120));
        assert_eq!(asked("Sun, 09 Sep 2001 01:47:10 GMT"), Some(30));
        assert_eq!(asked("Sun, 09 Sep 2001 01:46:00 GMT"), Some(0));
        assert_eq!(asked("soon"), None);
        assert_eq!(asked("-5"), None);
    }

    #[test]
    fn a_signature_is_the_one_that_the_convention_gives_as_its_example() {
        let signed = signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
