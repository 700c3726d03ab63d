//! `Idempotency-Key`: the same request, sent twice, starts one execution.
//!
//! The key is stored in the transaction that starts the execution, so it survives a restart of the server.

use axum::extract::{FromRequest, Request};
use axum::http::HeaderValue;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::execution::{ExecutionId, TraceContext};
use batchwright::launch::{LaunchOptions, RequestKey};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::IntoParams;

use super::access::Caller;
use super::body::{self, Body};
use super::{Api, Problem, commanding};

/// The header, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the OpenAPI document")]
pub(super) struct KeyHeader {
    /// Requests with the same key start one execution.
    #[param(rename = "idempotency-key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
    /// The caller's place in its trace (W3C Trace Context), stored with the execution.
    traceparent: Option<String>,
}

/// A body with the key of its request, if the request has one.
pub(super) struct Keyed<T> {
    pub(super) body: T,
    pub(super) key: Option<RequestKey>,
    pub(super) origin: Origin,
}

/// Where a request comes from.
pub(super) struct Origin {
    /// Who sends it, for `triggered_by`.
    pub(super) by: String,
    /// The caller's place in its trace, if the request names it. As W3C Trace Context asks, a malformed one is ignored.
    trace: Option<TraceContext>,
}

impl Origin {
    /// Returns the options of a launch that the request asks for.
    pub(super) fn options(self) -> LaunchOptions {
        LaunchOptions {
            triggered_by: Some(self.by),
            trace_parent: self.trace,
            ..LaunchOptions::default()
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Keyed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let headers = request.headers();
        let caller = Caller::of(request.extensions());
        let trace = headers.get("traceparent").and_then(|value| value.to_str().ok()?.parse().ok());
        let origin = Origin { by: caller.named(), trace };
        let Some(key) = body::header_word(headers, "idempotency-key")? else {
            let Body(body) = Body::from_request(request, state).await?;
            return Ok(Self { body, key: None, origin });
        };
        let owner = body::owner_token(headers)?.unwrap_or_default();
        let call = format!("{} {}", request.method(), request.uri().path());
        let raw = body::json(request, state).await?;
        // The fingerprint covers the body as sent, normalized in blanks and order of names, without defaults:
        // a default that a later version adds must not make it another request.
        let normalized = body::parse::<Value>(&raw.bytes)?.to_string();
        let key = RequestKey {
            key: digest(&[caller.name.as_bytes(), key.as_bytes()]),
            fingerprint: digest(&[call.as_bytes(), owner.as_bytes(), normalized.as_bytes()]),
        };
        Ok(Self { body: body::parse(&raw.bytes)?, key: Some(key), origin })
    }
}

/// Returns a hash of `parts`, each with its length, so that different lists have different inputs.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// Starts an execution with `start` and returns `answer` for it. A repeated request with the same `key` gets
/// the answer for the execution that the first one started.
pub(super) async fn once(
    api: Api,
    key: Option<RequestKey>,
    start: impl FnOnce(&Api, Option<RequestKey>) -> Result<ExecutionId, Problem> + Send + 'static,
    answer: impl FnOnce(&Api, ExecutionId) -> Result<Response, Problem> + Send + 'static,
) -> Result<Response, Problem> {
    commanding(move || {
        let (execution, is_replayed) = started(&api, key.as_ref(), || start(&api, key.clone()))?;
        let mut answer = answer(&api, execution)?;
        if is_replayed {
            answer.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        Ok(answer)
    })
    .await
}

/// Returns the execution that `start` starts, or the one that an earlier request with the same `key` started,
/// and whether it is the earlier one.
pub(super) fn started(
    api: &Api,
    key: Option<&RequestKey>,
    start: impl FnOnce() -> Result<ExecutionId, Problem>,
) -> Result<(ExecutionId, bool), Problem> {
    let problem = match start() {
        Ok(started) => return Ok((started, false)),
        Err(problem) => problem,
    };
    // The refusal may be due to the execution that the same request started before.
    let Some(key) = key else { return Err(problem) };
    let before = api.operator().explorer().requested(key)?.ok_or(problem)?;
    Ok((before, true))
}
