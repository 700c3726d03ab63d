//! A signed `POST`, after the [Standard Webhooks](https://www.standardwebhooks.com) convention.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, StatusCode, Url};
use serde_json::json;
use sha2::Sha256;

use super::OUTPUT_MAX;
use crate::scheduler::dispatch::{Shared, Stop};
use crate::scheduler::group::Firing;
use crate::scheduler::rule::Secret;
use crate::scheduler::time;
use crate::scheduler::trigger::Outcome;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The client of all webhooks. It follows no redirection: a signed message goes where its rule says.
pub(crate) fn client() -> Result<Client, String> {
    let builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")));
    builder.build().map_err(|error| format!("make the HTTP client: {error}"))
}

/// Refuses a URL that cannot be called.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    let parsed = Url::parse(url).map_err(|error| format!("the URL cannot be used: {error}"))?;
    match (parsed.scheme(), parsed.host_str()) {
        ("http" | "https", Some(_)) => Ok(()),
        _ => Err("the URL cannot be used: it is neither http nor https".to_owned()),
    }
}

/// Scheme and host of a URL. Its path may be a secret too: that of a chat's webhook is.
pub(crate) fn redacted(url: &str) -> String {
    match Url::parse(url) {
        Ok(parsed) => {
            let path = if parsed.path().len() > 1 { "/…" } else { "/" };
            format!("{}://{}{path}", parsed.scheme(), host(url))
        }
        Err(_) => "***".to_owned(),
    }
}

/// Host and port of a URL that was checked.
pub(crate) fn host(url: &str) -> String {
    let parsed = Url::parse(url).ok();
    let place = parsed
        .and_then(|url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?)));
    place.unwrap_or_default()
}

/// The signature of a message: `v1,` and the HMAC-SHA256 of `id.timestamp.body` as base64.
///
/// A secret that begins with `whsec_` is base64 behind it; any other is taken as it is.
pub(crate) fn signature(secret: &str, id: &str, timestamp: i64, body: &str) -> String {
    let decoded = secret.strip_prefix("whsec_").and_then(|coded| BASE64.decode(coded).ok());
    let key = decoded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

/// Sends the message. An answer of the two hundreds is success; the others, unless they say that the request
/// itself is wrong, and no answer at all, may be tried again.
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
        .header("webhook-timestamp", timestamp);
    if let Some(secret) = secret {
        let signed = signature(secret.expose(), &id, timestamp, &body);
        request = request.header("webhook-signature", signed);
    }
    let answered = async {
        let mut response = request.body(body).send().await?;
        let status = response.status();
        let mut said = Vec::new();
        while said.len() < OUTPUT_MAX
            && let Some(chunk) = response.chunk().await?
        {
            said.extend_from_slice(&chunk);
        }
        said.truncate(OUTPUT_MAX);
        Ok::<_, reqwest::Error>((status, said))
    };
    let answered = tokio::select! {
        answered = answered => answered,
        stop = stop => return match stop {
            Stop::Shutdown | Stop::Lost => Outcome::Released,
            Stop::Replaced | Stop::No => Outcome::failed("replaced", false),
        },
    };
    match answered {
        Ok((status, said)) if status.is_success() => Outcome::Executed(super::tail(&said)),
        Ok((status, said)) => Outcome::Failed {
            reason: format!("answered {status}"),
            output: super::tail(&said),
            retryable: !status.is_client_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS),
        },
        Err(error) => Outcome::failed(reason(error), true),
    }
}

/// A header holds letters of ASCII alone; all others are written as `%XX`.
fn header(text: &str) -> String {
    let written = |byte: u8| match byte {
        b'!'..=b'~' if byte != b'%' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(written).collect()
}

/// The chain of causes, without the URL, which may hold secrets.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        told.push_str(&format!(": {one}"));
        cause = one.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

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
