//! The client's half: reads `X-Needs-Batch`, drives the lanes, and returns the final response to the caller.

use std::sync::Arc;
use std::time::Duration;

use batchwright::progressive::{SliceOutcome, UnitProgress};
use futures_util::future::join_all;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, Request, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::{NEEDS_BATCH, OWNER};

/// First wait after a failure; it doubles with each further failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Timeout of one request: a slice may take twice its target, a single unit longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);

/// The final response of a request, direct or assembled by a progressive execution.
#[derive(Debug, Clone)]
pub struct FinalAnswer {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl FinalAnswer {
    /// Returns the body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// Parses the body as JSON.
    ///
    /// # Errors
    ///
    /// [`ClientError::Malformed`] when the body is no JSON of a `T`.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| ClientError::Malformed(error.to_string()))
    }
}

/// Why there is no final response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The HTTP client cannot be created.
    #[error("the HTTP client cannot be created")]
    Unusable(#[source] reqwest::Error),
    /// The server cannot be reached for longer than the tolerance.
    #[error("the server cannot be reached: {0}")]
    Unreachable(reqwest::Error),
    /// The server refuses the request.
    #[error("the server refused the request: {status}: {detail}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The stable code.
        code: String,
        /// The explanation of the server.
        detail: String,
    },
    /// The server's answer has an unexpected form.
    #[error("the answer of the server is malformed: {0}")]
    Malformed(String),
}

type OnProgress = Arc<dyn Fn(&UnitProgress) + Send + Sync>;

/// Sends requests, and drives the executions that their answers need.
#[derive(Clone)]
pub struct BatchClient {
    http: Client,
    owner: Option<String>,
    tolerance: Duration,
    on_progress: OnProgress,
}

impl std::fmt::Debug for BatchClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchClient").field("tolerance", &self.tolerance).finish_non_exhaustive()
    }
}

impl BatchClient {
    /// Creates a client.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unusable`] when the system's certificates cannot be read.
    pub fn new() -> Result<Self, ClientError> {
        // Does nothing when the program has chosen a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder().build().map(Self::of).map_err(ClientError::Unusable)
    }

    /// Creates a client that sends through `http`.
    pub fn of(http: Client) -> Self {
        Self {
            http,
            owner: None,
            tolerance: Duration::from_secs(60),
            on_progress: Arc::new(|_| {}),
        }
    }

    /// Returns the HTTP client, to build requests.
    pub fn http(&self) -> &Client {
        &self.http
    }

    /// Sets the owner's token of the executions.
    #[must_use]
    pub fn owner(mut self, token: impl Into<String>) -> Self {
        self.owner = Some(token.into());
        self
    }

    /// Sets how long requests are retried while the server fails or does not answer. Default 60 s.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Calls `report` with the progress of each answer.
    #[must_use]
    pub fn on_progress(mut self, report: impl Fn(&UnitProgress) + Send + Sync + 'static) -> Self {
        self.on_progress = Arc::new(report);
        self
    }

    /// Sends `request`. When the answer needs a batch, drives the execution and returns its final response
    /// instead.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: an open execution stays open, for this or another driver.
    pub async fn send(&self, request: Request) -> Result<FinalAnswer, ClientError> {
        let url = request.url().clone();
        let response = self.http.execute(request).await.map_err(ClientError::Unreachable)?;
        let text = |name: &str| response.headers().get(name)?.to_str().ok();
        let needed = text(NEEDS_BATCH).and_then(|id| id.parse::<i64>().ok());
        let Some(id) = needed.filter(|_| response.status() == StatusCode::ACCEPTED) else {
            return whole(response).await;
        };
        let path =
            text(LOCATION.as_str()).map_or_else(|| format!("/v1/executions/{id}"), str::to_owned);
        let place = join(&url, &format!("{path}/"))?;
        // The owner's token is sent there.
        if place.origin() != url.origin() {
            let problem = format!("it leads to another server, {place}");
            return Err(ClientError::Malformed(problem));
        }
        self.drive_at(place).await
    }

    /// Drives execution `id` of the API at `base` to its end.
    ///
    /// # Errors
    ///
    /// The same as those of [`send`](Self::send).
    pub async fn drive(&self, base: &Url, id: i64) -> Result<FinalAnswer, ClientError> {
        let mut base = base.clone();
        base.set_path(&format!("{}/", base.path().trim_end_matches('/')));
        self.drive_at(join(&base, &format!("v1/executions/{id}/"))?).await
    }

    async fn drive_at(&self, place: Url) -> Result<FinalAnswer, ClientError> {
        let opened: Opened = self.get(&place, "lanes").await?;
        // The first lane that receives the end of the execution ends all lanes.
        let (end, ended) = watch::channel(false);
        let lanes = opened.lanes.into_iter().take(opened.max_concurrency);
        let lanes = lanes.map(|lane| self.lane(&place, lane, &end, ended.clone()));
        join_all(lanes).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        self.response(&place).await
    }

    async fn lane(
        &self,
        place: &Url,
        lane: Lane,
        end: &watch::Sender<bool>,
        mut ended: watch::Receiver<bool>,
    ) -> Result<(), ClientError> {
        let url = join(place, &format!("lanes/{}/slices", lane.id))?;
        let mut seq = lane.next_seq;
        loop {
            // At the end of the execution, the answers of the other lanes are not needed any more.
            let asked = tokio::select! {
                asked = self.slice(&url, &lane.id, seq) => asked?,
                _ = ended.wait_for(|ended| *ended) => return Ok(()),
            };
            match asked {
                Asked::Answer(answer) => {
                    (self.on_progress)(&answer.progress);
                    seq = answer.next_seq;
                    match answer.outcome {
                        SliceOutcome::Continue => {}
                        SliceOutcome::Wait => {
                            let wait = Duration::from_millis(answer.retry_after_ms.unwrap_or(250));
                            tokio::select! {
                                () = tokio::time::sleep(wait) => {}
                                _ = ended.wait_for(|ended| *ended) => return Ok(()),
                            }
                        }
                        SliceOutcome::Done | SliceOutcome::Final => {
                            end.send_replace(true);
                            return Ok(());
                        }
                    }
                }
                Asked::Busy(wait) => tokio::time::sleep(wait).await,
                Asked::Next(expected) => seq = expected,
                Asked::Finished => {
                    end.send_replace(true);
                    return Ok(());
                }
            }
        }
    }

    /// Requests the slice `seq` of `lane`, again after each temporary failure.
    async fn slice(&self, url: &Url, lane: &str, seq: u64) -> Result<Asked, ClientError> {
        let request = || self.http.post(url.clone()).json(&json!({ "seq": seq }));
        let response = self.insist(lane, request).await?;
        let status = response.status();
        let wait = retry_after(&response);
        let body = response.bytes().await.map_err(ClientError::Unreachable)?;
        if status.is_success() {
            let answer = serde_json::from_slice(&body);
            return answer
                .map(Asked::Answer)
                .map_err(|error| ClientError::Malformed(error.to_string()));
        }
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        match (problem.code.as_str(), problem.expected) {
            ("lane_busy" | "stale_lease", _) => Ok(Asked::Busy(wait.unwrap_or(BACKOFF_FIRST))),
            ("wrong_seq", Some(expected)) => Ok(Asked::Next(expected)),
            ("execution_finished", _) => Ok(Asked::Finished),
            _ => Err(problem.refused(status)),
        }
    }

    async fn response(&self, place: &Url) -> Result<FinalAnswer, ClientError> {
        let url = join(place, "response?wait=30s")?;
        loop {
            let response = self.insist("", || self.http.get(url.clone())).await?;
            if response.status() == StatusCode::ACCEPTED {
                continue;
            }
            if is_problem(&response) && response.status() == StatusCode::GONE {
                let status = response.status();
                let body = response.bytes().await.map_err(ClientError::Unreachable)?;
                let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
                return Err(problem.refused(status));
            }
            let answer = whole(response).await?;
            // A lost acknowledgement only means that the server keeps the response longer.
            let url = join(place, "response")?;
            let _ = self.signed(self.http.delete(url)).send().await;
            return Ok(answer);
        }
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        place: &Url,
        what: &str,
    ) -> Result<T, ClientError> {
        let url = join(place, what)?;
        let response = self.insist("", || self.http.get(url.clone())).await?;
        let status = response.status();
        let body = response.bytes().await.map_err(ClientError::Unreachable)?;
        match status.is_success() {
            true => serde_json::from_slice(&body)
                .map_err(|error| ClientError::Malformed(error.to_string())),
            false => {
                let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
                Err(problem.refused(status))
            }
        }
    }

    fn signed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        let request = request.timeout(ANSWER_TIMEOUT);
        match &self.owner {
            Some(owner) => request.header(OWNER, owner),
            None => request,
        }
    }

    /// Sends the request until the answer is not a temporary failure, or the tolerance is used up.
    async fn insist(
        &self,
        lane: &str,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let (mut attempt, mut waited) = (0, Duration::ZERO);
        loop {
            let sent = self.signed(request()).send().await;
            let wait = match &sent {
                // A failed execution answers with 500, which is final.
                Ok(response)
                    if response.status().is_server_error()
                        && (is_problem(response) || response.url().path().ends_with("/slices"))
                        && !response.url().path().ends_with("/response") =>
                {
                    retry_after(response)
                }
                Ok(response) if response.status() == StatusCode::BAD_GATEWAY => None,
                Ok(_) => return sent.map_err(ClientError::Unreachable),
                Err(_) => None,
            };
            let wait = wait.unwrap_or_else(|| backoff(attempt, lane));
            if waited + wait > self.tolerance {
                return match sent {
                    Ok(response) => {
                        let (status, body) = (response.status(), response.bytes().await);
                        let body = body.unwrap_or_default();
                        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
                        Err(problem.refused(status))
                    }
                    Err(error) => Err(ClientError::Unreachable(error)),
                };
            }
            tokio::time::sleep(wait).await;
            waited += wait;
            attempt += 1;
        }
    }
}

/// Returns the wait before the next attempt: it doubles with each attempt, and each lane waits a different
/// share of it, so that the lanes do not return together.
fn backoff(attempt: u32, lane: &str) -> Duration {
    let whole = BACKOFF_FIRST.saturating_mul(1 << attempt.min(10)).min(BACKOFF_MAX);
    let mixed =
        lane.bytes().fold(attempt, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    whole.mul_f64(0.5 + f64::from(mixed % 512) / 1024.0)
}

fn is_problem(response: &reqwest::Response) -> bool {
    let kind = response.headers().get(reqwest::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"))
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn join(place: &Url, what: &str) -> Result<Url, ClientError> {
    place.join(what).map_err(|error| ClientError::Malformed(error.to_string()))
}

async fn whole(response: reqwest::Response) -> Result<FinalAnswer, ClientError> {
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.map_err(ClientError::Unreachable)?;
    Ok(FinalAnswer { status, headers, body: body.to_vec() })
}

enum Asked {
    Answer(Answer),
    Busy(Duration),
    Next(u64),
    Finished,
}

#[derive(Deserialize)]
struct Opened {
    lanes: Vec<Lane>,
    max_concurrency: usize,
}

#[derive(Deserialize)]
struct Lane {
    id: String,
    next_seq: u64,
}

#[derive(Deserialize)]
struct Answer {
    outcome: SliceOutcome,
    next_seq: u64,
    retry_after_ms: Option<u64>,
    progress: UnitProgress,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
    expected: Option<u64>,
}

impl Problem {
    fn refused(self, status: StatusCode) -> ClientError {
        ClientError::Refused { status, code: self.code, detail: self.detail }
    }
}
