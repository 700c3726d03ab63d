//! `ETag`, `If-Match` and `If-None-Match`: what a client has seen is what it changes, and what it has is not sent again.
//! Source: RFC 9110, section 13; RFC 6585, section 3.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::IntoParams;

use super::Problem;
use super::idempotency::digest;
use crate::scheduler::{Condition, Request};

/// The headers of a conditional change, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the OpenAPI document")]
pub(super) struct ConditionHeaders {
    /// The `ETag` of what is to be changed, or `*` for whatever exists. Needed to replace what exists by something else.
    #[param(rename = "if-match", pattern = "^(\\*|\"[0-9a-f]{1,64}\")$")]
    if_match: Option<String>,
    /// `*`: create it, and replace nothing.
    #[param(rename = "if-none-match", pattern = "^\\*$")]
    if_none_match: Option<String>,
}

/// The condition of a request that changes something.
pub(super) struct Conditions(Option<Condition>);

impl Conditions {
    /// Returns a request that stores something: it does not replace what exists without a condition.
    pub(super) fn set(self, change: Request) -> Request {
        let condition = self.0.unwrap_or(Condition::NewOrSame);
        Request::Conditional { condition, change: Box::new(change) }
    }

    /// Returns a request that removes something.
    pub(super) fn unset(self, change: Request) -> Request {
        match self.0 {
            Some(condition) => Request::Conditional { condition, change: Box::new(change) },
            None => change,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Conditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let exists = tags(&parts.headers, &IF_MATCH)?;
        let absent = tags(&parts.headers, &IF_NONE_MATCH)?;
        Ok(Self(match (exists, absent) {
            (None, None) => None,
            (Some(Tags::Any), None) => Some(Condition::Exists),
            (Some(Tags::Some(tags)), None) => Some(Condition::Tagged(tags)),
            (None, Some(Tags::Any)) => Some(Condition::New),
            (None, Some(Tags::Some(_))) => {
                return Err(Problem::invalid("If-None-Match of a change must be `*`"));
            }
            (Some(_), Some(_)) => {
                return Err(Problem::invalid("send either If-Match or If-None-Match"));
            }
        }))
    }
}

/// What a header names.
enum Tags {
    Any,
    Some(Vec<String>),
}

/// Parses a header with tags. Weak ones count for `If-None-Match` alone: for a change they match nothing.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let (mut found, takes_weak) = (Vec::new(), *name == IF_NONE_MATCH);
    for value in headers.get_all(name) {
        let wrong = || {
            Problem::invalid(format!("the header {name} must be `*` or tags in quotation marks"))
        };
        for tag in value.to_str().map_err(|_| wrong())?.split(',').map(str::trim) {
            match tag.strip_prefix("W/").unwrap_or(tag) {
                "*" if tag == "*" => return Ok(Some(Tags::Any)),
                quoted if quoted.len() >= 2 && quoted.starts_with('"') && quoted.ends_with('"') => {
                    let is_weak = quoted.len() != tag.len();
                    let counts = takes_weak || !is_weak;
                    found.extend(counts.then(|| quoted[1..quoted.len() - 1].to_owned()));
                }
                _ => return Err(wrong()),
            }
        }
    }
    Ok(headers.contains_key(name).then_some(Tags::Some(found)))
}

/// Returns an answer about what has this tag.
pub(super) fn with_tag(tag: &str, body: &impl Serialize) -> Response {
    ([(ETAG, format!("\"{tag}\""))], Json(body)).into_response()
}

/// Returns an answer with a tag of its content; without the content when the client has it.
pub(super) fn unless_known(headers: &HeaderMap, body: &impl Serialize) -> Response {
    let content = serde_json::to_vec(body).unwrap_or_default();
    let tag = digest(&[&content]);
    let known = match tags(headers, &IF_NONE_MATCH) {
        Ok(Some(Tags::Any)) => true,
        Ok(Some(Tags::Some(tags))) => tags.contains(&tag),
        // A condition that cannot be read is not met.
        Ok(None) | Err(_) => false,
    };
    match known {
        true => (StatusCode::NOT_MODIFIED, [(ETAG, format!("\"{tag}\""))]).into_response(),
        false => with_tag(&tag, body),
    }
}
