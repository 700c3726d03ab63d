//! The same request twice starts one thing: `Idempotency-Key`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::Problem;

/// Keys that are remembered; then the oldest are forgotten.
const KEYS_MAX: usize = 10_000;
/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Longest answer that is kept, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Answers to requests that carried a key, for as long as the process lives.
#[derive(Default)]
pub(super) struct Replays {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    answers: HashMap<String, Replay>,
    order: VecDeque<String>,
}

struct Replay {
    fingerprint: [u8; 32],
    /// `None`: it is being worked on.
    answer: Option<(StatusCode, HeaderMap, Vec<u8>)>,
}

impl Replays {
    /// Answers by `work`, or as the request with the same key was answered. `what` is all that the request says.
    ///
    /// What was begun under a key is finished, also when its client does not wait for it.
    pub(super) async fn once(
        self: Arc<Self>,
        headers: &HeaderMap,
        what: &str,
        work: impl Future<Output = Result<Response, Problem>> + Send + 'static,
    ) -> Result<Response, Problem> {
        let Some(key) = headers.get("idempotency-key") else { return work.await };
        let key = key.to_str().unwrap_or_default().to_owned();
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let told = format!("an Idempotency-Key is a text of 1 to {KEY_BYTES_MAX} bytes");
            return Err(Problem::invalid(told));
        }
        let who = headers.get("authorization").map(HeaderValue::as_bytes).unwrap_or_default();
        let key = format!("{key} {:x?}", Sha256::digest(who));
        let fingerprint: [u8; 32] = Sha256::digest(what).into();
        if let Some(answer) = self.begin(&key, fingerprint)? {
            return Ok(answer);
        }
        let pending = Pending { replays: self, key: Some(key) };
        let finished = tokio::spawn(async move {
            let (parts, body) = work.await?.into_parts();
            let body = axum::body::to_bytes(body, ANSWER_BYTES_MAX).await;
            let body = body.map_err(|_| Problem::internal())?.to_vec();
            pending.keep((parts.status, parts.headers.clone(), body.clone()));
            Ok(Response::from_parts(parts, Body::from(body)))
        });
        finished.await.unwrap_or_else(|_| Err(Problem::internal()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer that was given, or `None` after noting that one is being worked on.
    fn begin(&self, key: &str, fingerprint: [u8; 32]) -> Result<Option<Response>, Problem> {
        let mut kept = self.lock();
        match kept.answers.get(key) {
            Some(replay) if replay.fingerprint != fingerprint => Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "key_reused",
                "this Idempotency-Key came with another request before",
            )),
            Some(Replay { answer: None, .. }) => Err(Problem::new(
                StatusCode::CONFLICT,
                "in_flight",
                "the request with this Idempotency-Key is being worked on",
            )
            .retry_after(1)),
            Some(Replay { answer: Some((status, headers, body)), .. }) => {
                let mut response = (*status, headers.clone(), body.clone()).into_response();
                let yes = HeaderValue::from_static("true");
                response.headers_mut().insert("idempotency-replayed", yes);
                Ok(Some(response))
            }
            None => {
                kept.order.push_back(key.to_owned());
                kept.answers.insert(key.to_owned(), Replay { fingerprint, answer: None });
                if kept.order.len() > KEYS_MAX
                    && let Some(oldest) = kept.order.pop_front()
                {
                    kept.answers.remove(&oldest);
                }
                Ok(None)
            }
        }
    }
}

/// A key whose answer is not there yet; without one it is forgotten, so that the client may try again.
struct Pending {
    replays: Arc<Replays>,
    key: Option<String>,
}

impl Pending {
    fn keep(mut self, answer: (StatusCode, HeaderMap, Vec<u8>)) {
        let Some(key) = self.key.take() else { return };
        if let Some(replay) = self.replays.lock().answers.get_mut(&key) {
            replay.answer = Some(answer);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut kept = self.replays.lock();
        kept.answers.remove(&key);
        kept.order.retain(|other| *other != key);
    }
}
