//! `Prefer: wait=SECONDS` (RFC 7240): the answer to a start waits for the end of the execution.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use batchwright::execution::ExecutionId;
use utoipa::IntoParams;

use super::{Api, Problem, blocking};

/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often the execution is read meanwhile.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The header, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the OpenAPI document")]
pub(super) struct PreferHeader {
    /// `wait=30`: answers with the end of the execution (200), or after so many seconds, at most 60, with its present state (202).
    prefer: Option<String>,
}

/// Returns how long the client waits. Preferences that this server does not know are ignored, as RFC 7240 asks.
fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    let mut words = values.flat_map(|value| value.split([',', ';'])).map(str::trim);
    let seconds = words.find_map(|word| word.strip_prefix("wait=")?.trim().parse().ok())?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// Waits, if the client prefers that, for the end of the execution that `started` names.
pub(super) async fn wait(
    api: &Api,
    headers: &HeaderMap,
    started: Response,
) -> Result<Response, Problem> {
    let location = started.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let id = location.and_then(|path| path.rsplit('/').next()?.parse().ok()).map(ExecutionId);
    let (Some(limit), Some(id)) = (preferred(headers), id) else { return Ok(started) };
    let clock = api.operator().clock();
    let end = clock.elapsed() + limit;
    loop {
        let looked = api.clone();
        let look = blocking(move || Ok(looked.operator().explorer().summary(id)?)).await;
        // The execution was started: a store that does not answer now does not make that an error.
        let Ok(summary) = look else { return Ok(started) };
        let is_ended = !summary.status.is_running();
        if is_ended || clock.elapsed() >= end || api.stop.is_requested() {
            let (mut parts, _) = started.into_parts();
            parts.status = if is_ended { StatusCode::OK } else { StatusCode::ACCEPTED };
            parts.headers.remove(header::CONTENT_LENGTH);
            let applied = format!("wait={}", limit.as_secs());
            if let Ok(applied) = HeaderValue::from_str(&applied) {
                parts.headers.insert(HeaderName::from_static("preference-applied"), applied);
            }
            let body = Json(summary).into_response().into_body();
            return Ok(Response::from_parts(parts, body));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_is_read_and_others_are_ignored() {
        let of = |value: &str| {
            preferred(&HeaderMap::from_iter([(
                HeaderName::from_static("prefer"),
                value.parse().unwrap(),
            )]))
        };
        assert_eq!(of("wait=30"), Some(Duration::from_secs(30)));
        assert_eq!(of("respond-async, wait=5"), Some(Duration::from_secs(5)));
        assert_eq!(of("wait=99999"), Some(WAIT_MAX));
        assert_eq!([of("respond-async"), of("wait=x"), of("wait")], [None; 3]);
    }
}
