//! The same request twice starts one thing: `Idempotency-Key`.
//!
//! The key is stored with what the request started, in one transaction; so it outlives the server.

use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::{ExecutionId, RequestKey};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::IntoParams;

use super::{Api, Problem, blocking};

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// The header, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "for the document")]
pub(super) struct KeyHeader {
    /// The same key starts one execution.
    #[param(rename = "idempotency-key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

/// The key of a request that says `call` and `body`, if it carries one. Everybody who can ask has keys of their own.
fn request_key(
    headers: &HeaderMap,
    call: &str,
    body: &impl Serialize,
) -> Result<Option<RequestKey>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let is_key = key.as_bytes().iter().all(u8::is_ascii_graphic);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !is_key {
        let told = format!("an Idempotency-Key is 1 to {KEY_BYTES_MAX} visible ASCII characters");
        return Err(Problem::invalid(told));
    }
    let who = headers.get("authorization").map(HeaderValue::as_bytes).unwrap_or_default();
    let owner = headers.get("x-batch-owner").map(HeaderValue::as_bytes).unwrap_or_default();
    let body = serde_json::to_vec(body).map_err(|_| Problem::internal())?;
    let key = digest(&[who, key.as_bytes()]);
    Ok(Some(RequestKey { key, fingerprint: digest(&[call.as_bytes(), owner, &body]) }))
}

/// Hash of `parts`, each with its length: no two lists of them are the same text.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// Starts an execution by `start`, and answers by `answer`: what is known of it, also when the same request
/// started it before. `call` and `body` are all that the request says.
pub(super) async fn once<B: Serialize + Send + 'static>(
    api: Api,
    headers: &HeaderMap,
    call: String,
    body: B,
    start: impl FnOnce(&Api, B, Option<RequestKey>) -> Result<ExecutionId, Problem> + Send + 'static,
    answer: impl FnOnce(&Api, ExecutionId) -> Result<Response, Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let key = request_key(headers, &call, &body)?;
    blocking(move || {
        let Some(key) = key else { return answer(&api, start(&api, body, None)?) };
        let before = match api.operator().requested(&key)? {
            Some(before) => before,
            None => match start(&api, body, Some(key.clone())) {
                Ok(started) => return answer(&api, started),
                // The same request, at the same time: what it started may be what stands in the way.
                Err(problem) => api.operator().requested(&key)?.ok_or(problem)?,
            },
        };
        let mut replayed = answer(&api, before)?;
        replayed.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
        Ok(replayed)
    })
    .await
}
