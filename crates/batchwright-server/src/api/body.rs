//! Strict extractors for the parts of a request: body, query, path and headers.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use batchwright::execution::ExecutionId;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::IntoParams;

use super::Problem;

/// Timeout for reading a body.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Total memory of all bodies that are being parsed, in KiB.
const BODIES_KIB: u32 = 64 * 1024;
/// How long a body waits for its share of that memory.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of memory that one byte of a body may need once it is parsed.
const MEMORY_PER_BYTE: u64 = 16;

static BODIES: Semaphore = Semaphore::const_new(BODIES_KIB as usize);

/// A JSON body; an empty one is an empty object.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        parse(&json(request, state).await?.bytes).map(Self)
    }
}

/// The bytes of a JSON body, with their share of the memory of all bodies that are being parsed.
pub(super) struct Raw {
    pub(super) bytes: Bytes,
    _place: SemaphorePermit<'static>,
}

/// Reads a JSON body; an empty body and `null` count as an empty object.
pub(super) async fn json<S: Send + Sync>(request: Request, state: &S) -> Result<Raw, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    // Connections and `body_max` bound the reading, so a slow body takes no share from others.
    let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
    let bytes = match read {
        Ok(read) => read.map_err(unread)?,
        Err(_) => {
            let detail = "the body did not arrive in time";
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "usage", detail));
        }
    };
    // A parsed body takes more memory than its bytes.
    let weight = (bytes.len() as u64).saturating_mul(MEMORY_PER_BYTE) / 1024 + 1;
    let weight = u32::try_from(weight).unwrap_or(u32::MAX).min(BODIES_KIB);
    let place = tokio::time::timeout(PLACE_TIMEOUT, BODIES.acquire_many(weight)).await;
    let Ok(Ok(_place)) = place else {
        let detail = "too many large requests are being read; try again later";
        return Err(
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).retry_after(5)
        );
    };
    if bytes.is_empty() {
        return Ok(Raw { bytes: Bytes::from_static(b"{}"), _place });
    }
    let is_json = kind.as_ref().and_then(|kind| kind.to_str().ok()).is_some_and(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json")
    });
    if !is_json {
        let detail = "the body must be JSON, with the content type application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "usage", detail));
    }
    let is_null = bytes.trim_ascii() == b"null";
    Ok(Raw { bytes: if is_null { Bytes::from_static(b"{}") } else { bytes }, _place })
}

fn unread(rejection: BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
        _ => Problem::invalid("the body cannot be read to its end"),
    }
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Serde accepts an array of fields for a struct, too.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::invalid("the body must be a JSON object"));
    }
    let wrong = |error| Problem::invalid(format!("cannot read the body: {error}"));
    batchwright::text::reject_duplicate_keys(bytes).map_err(wrong)?;
    serde_json::from_slice(bytes).map_err(wrong)
}

/// The query parameters; an unknown one is refused.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let wrong = |rejection: QueryRejection| Problem::invalid(rejection.body_text());
        Query::from_request_parts(parts, state).await.map(|Query(asked)| Self(asked)).map_err(wrong)
    }
}

/// Refuses all query parameters, so that a misspelt or misplaced one is not ignored.
pub(super) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.uri.query().filter(|query| !query.is_empty()) {
            None => Ok(Self),
            Some(query) => {
                let key = query.split(['&', '=']).next().unwrap_or_default();
                Err(Problem::invalid(format!("this address has no query parameter `{key}`")))
            }
        }
    }
}

/// The number of an execution in a path.
pub(super) struct Id(pub(super) ExecutionId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(names) = Path::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid("the path cannot be parsed"))?;
        let text = names.into_iter().find(|(name, _)| name == "id").map(|(_, text)| text);
        text.and_then(|text| text.parse().ok())
            .map(|id| Self(ExecutionId(id)))
            .ok_or_else(|| Problem::invalid("the number of an execution must be an integer"))
    }
}

/// The header with the owner's token, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the OpenAPI document")]
pub(super) struct OwnerHeader {
    /// The owner's token of a progressive execution: a token sent when it is opened is required in all later
    /// requests.
    #[param(rename = "x-batch-owner", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    x_batch_owner: Option<String>,
}

/// Returns the owner's token of a progressive execution, if the request has one.
pub(super) fn owner_token(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    header_word(headers, "x-batch-owner")
}

/// Longest value of a header that clients choose, in bytes.
const WORD_BYTES_MAX: usize = 255;

/// Returns the value of a header that the client chooses: visible ASCII characters.
pub(super) fn header_word(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    let Some(word) = headers.get(name) else { return Ok(None) };
    let word = word.as_bytes();
    if word.is_empty() || word.len() > WORD_BYTES_MAX || !word.iter().all(u8::is_ascii_graphic) {
        let detail =
            format!("the header {name} must have 1 to {WORD_BYTES_MAX} visible ASCII characters");
        return Err(Problem::invalid(detail));
    }
    Ok(Some(String::from_utf8_lossy(word).into_owned()))
}

/// Returns whether the client requests `kind` instead of JSON.
pub(super) fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains(kind))
}
