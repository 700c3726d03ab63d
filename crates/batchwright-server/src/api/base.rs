//! The path under which an application serves the API: links, `Location` and the types of problems begin
//! with it.

use std::sync::Arc;

use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Problem;
use super::problem::Verbatim;

/// The path before `/v1`; empty when the API is not nested.
#[derive(Debug, Clone, Default)]
pub(super) struct Base(pub(super) Arc<str>);

impl Base {
    /// Returns `path` as clients see it.
    pub(super) fn join(&self, path: &str) -> String {
        match path {
            // A nested router answers at the path itself, without a slash after it.
            "/" if !self.0.is_empty() => self.0.to_string(),
            path => format!("{}{path}", self.0),
        }
    }

    /// Returns the path that the routers of the application removed from that of the request.
    fn removed(request: &Request) -> Self {
        let original = request.extensions().get::<OriginalUri>().map(|uri| uri.0.path());
        let removed = original.and_then(|path| match request.uri().path() {
            "/" if !path.ends_with('/') => Some(path),
            inner => path.strip_suffix(inner),
        });
        Self(removed.unwrap_or_default().into())
    }
}

/// Writes the base into every response: the given one, or the path that was removed from the request's.
pub(super) async fn apply(
    State(given): State<Option<Base>>,
    mut request: Request,
    next: Next,
) -> Response {
    let base = given.unwrap_or_else(|| Base::removed(&request));
    request.extensions_mut().insert(base.clone());
    let mut response = next.run(request).await;
    // A job decides itself about the headers of its response.
    if base.0.is_empty() || response.extensions().get::<Verbatim>().is_some() {
        return response;
    }
    let problem = response.extensions_mut().remove::<Problem>();
    if let Some(problem) = problem {
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        let problem = problem.under(&base);
        parts.extensions.insert(problem.clone());
        response = Response::from_parts(parts, problem.into_response().into_body());
    }
    let headers = response.headers_mut();
    extend(headers, header::LOCATION, |path| path.starts_with('/').then(|| base.join(path)));
    extend(headers, header::LINK, |link| {
        link.strip_prefix("</").map(|rest| format!("<{}", base.join(&format!("/{rest}"))))
    });
    response
}

fn extend(
    headers: &mut HeaderMap,
    name: header::HeaderName,
    extended: impl Fn(&str) -> Option<String>,
) {
    let value = headers.get(&name).and_then(|value| value.to_str().ok()).and_then(extended);
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
        headers.insert(name, value);
    }
}
