//! The number of a request: its client sends it or gets one; the response, problem documents and the log have it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{OriginalUri, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use batchwright::execution::TraceContext;

use super::problem::{Occurrence, Verbatim};
use super::{Problem, random_word};

const NAME: HeaderName = HeaderName::from_static("x-request-id");
const TRACE: HeaderName = HeaderName::from_static("traceparent");
/// Longest number of a client that is kept, in bytes.
const BYTES_MAX: usize = 128;

/// Adds the number of the request to its response, and to the problem document if it is one. What the API says of executions and
/// triggers is not to be stored by browsers and proxies, unless the response says otherwise.
pub(super) async fn identify(request: Request, next: Next) -> Response {
    let id: Arc<str> = match word(&request, &NAME).filter(|id| is_number(id)) {
        Some(given) => given.into(),
        None => random_word().into(),
    };
    let trace = word(&request, &TRACE).and_then(|trace| trace.parse::<TraceContext>().ok());
    let trace_id = trace.and_then(|it| it.to_string().split('-').nth(1).map(str::to_owned));
    let path = path_of(&request).to_owned();
    let is_data = request.uri().path().starts_with("/v1/");
    let method = request.method().clone();
    let mut response = next.run(request).await;
    let is_verbatim = response.extensions().get::<Verbatim>().is_some();
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR && !is_verbatim {
        tracing::error!(request = &*id, %method, path, "the request failed");
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let request_id = (*id).to_owned();
        let problem = problem.of_request(Occurrence { instance: path, request_id, trace_id });
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        response = Response::from_parts(parts, Body::new(problem.into_response().into_body()));
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.entry(NAME).or_insert(id);
    }
    if is_data && !is_verbatim {
        let no_store = HeaderValue::from_static("no-store");
        headers.entry(header::CACHE_CONTROL).or_insert(no_store);
    }
    response
}

/// Returns the path of the request as its client sees it.
fn path_of(request: &Request) -> &str {
    let original = request.extensions().get::<OriginalUri>();
    original.map_or_else(|| request.uri().path(), |uri| uri.0.path())
}

fn word<'a>(request: &'a Request, name: &HeaderName) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// Whether a client's number can stand in a header and a line of the log.
fn is_number(id: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:+/=".contains(&byte);
    !id.is_empty() && id.len() <= BYTES_MAX && id.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_clients_are_short_and_plain() {
        assert!(is_number("7f2c-11:a+b/c=") && is_number(&"a".repeat(BYTES_MAX)));
        for wrong in ["", "a b", "a\tb", "<b>", "ä", &"a".repeat(BYTES_MAX + 1)] {
            assert!(!is_number(wrong), "{wrong}");
        }
    }
}
