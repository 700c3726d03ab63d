//! What comes with a request, read strictly.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use batchwright::ExecutionId;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::IntoParams;

use super::Problem;

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Memory of all bodies that are being taken apart, in KiB.
const BODIES_KIB: u32 = 64 * 1024;
/// How long a body waits for its place among them.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);

/// Memory that a byte of a body may come to, once it is taken apart.
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

/// The bytes of a JSON body, and the place that they have among all that are being taken apart.
pub(super) struct Raw {
    pub(super) bytes: Bytes,
    _place: SemaphorePermit<'static>,
}

/// Reads a JSON body; none, and `null`, are an empty object.
pub(super) async fn json<S: Send + Sync>(request: Request, state: &S) -> Result<Raw, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    // Connections and `body_max` bound what is being read: one that is slow takes no place from others.
    let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
    let bytes = match read {
        Ok(read) => read.map_err(unread)?,
        Err(_) => {
            let told = "the body did not arrive in time";
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "usage", told));
        }
    };
    // What is made of it takes more than its bytes.
    let weight = (bytes.len() as u64).saturating_mul(MEMORY_PER_BYTE) / 1024 + 1;
    let weight = u32::try_from(weight).unwrap_or(u32::MAX).min(BODIES_KIB);
    let place = tokio::time::timeout(PLACE_TIMEOUT, BODIES.acquire_many(weight)).await;
    let Ok(Ok(_place)) = place else {
        let told = "too many large requests are being read; ask again later";
        return Err(
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", told).retry_after(5)
        );
    };
    if bytes.is_empty() {
        return Ok(Raw { bytes: Bytes::from_static(b"{}"), _place });
    }
    let is_json = kind.as_ref().and_then(|kind| kind.to_str().ok()).is_some_and(|kind| {
        kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json")
    });
    if !is_json {
        let told = "the body must be JSON, with the content type application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "usage", told));
    }
    let is_null = bytes.trim_ascii() == b"null";
    Ok(Raw { bytes: if is_null { Bytes::from_static(b"{}") } else { bytes }, _place })
}

fn unread(rejection: BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
        _ => Problem::invalid("the body could not be read to its end"),
    }
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // To serde a list of fields is a structure too.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::invalid("the body must be a JSON object"));
    }
    let wrong = |error| Problem::invalid(format!("read the body: {error}"));
    batchwright::no_key_twice(bytes).map_err(wrong)?;
    serde_json::from_slice(bytes).map_err(wrong)
}

/// What stands behind the `?`, every name known.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let told = |rejection: QueryRejection| Problem::invalid(rejection.body_text());
        Query::from_request_parts(parts, state).await.map(|Query(asked)| Self(asked)).map_err(told)
    }
}

/// Nothing behind the `?`: a question that is misspelt, or asked at the wrong address, is not ignored.
pub(super) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.uri.query().filter(|query| !query.is_empty()) {
            None => Ok(Self),
            Some(query) => {
                let key = query.split(['&', '=']).next().unwrap_or_default();
                Err(Problem::invalid(format!("this address takes no `{key}`")))
            }
        }
    }
}

/// Number of an execution in a path.
pub(super) struct Id(pub(super) ExecutionId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(names) = Path::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid("the address cannot be read"))?;
        let text = names.into_iter().find(|(name, _)| name == "id").map(|(_, text)| text);
        text.and_then(|text| text.parse().ok())
            .map(|id| Self(ExecutionId(id)))
            .ok_or_else(|| Problem::invalid("the number of an execution is a whole number"))
    }
}

/// The header with the owner's token, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the document")]
pub(super) struct OwnerHeader {
    /// The secret of a progressive execution: shown when it is opened, it must be shown from then on.
    #[param(rename = "x-batch-owner", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    x_batch_owner: Option<String>,
}

/// The owner's token of a progressive execution.
pub(super) fn owner_token(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    header_word(headers, "x-batch-owner")
}

/// Longest word of a header, in bytes.
const WORD_BYTES_MAX: usize = 255;

/// A header that is one word of the client's choice.
pub(super) fn header_word(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    let Some(word) = headers.get(name) else { return Ok(None) };
    let word = word.as_bytes();
    if word.is_empty() || word.len() > WORD_BYTES_MAX || !word.iter().all(u8::is_ascii_graphic) {
        let told = format!("the header {name} is 1 to {WORD_BYTES_MAX} visible ASCII characters");
        return Err(Problem::invalid(told));
    }
    Ok(Some(String::from_utf8_lossy(word).into_owned()))
}

/// Whether the client asks for `kind` rather than for JSON.
pub(super) fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains(kind))
}
