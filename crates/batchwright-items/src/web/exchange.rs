//! One exchange with a server: a request that is sent until it is answered, and its answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, StopToken, SystemClock};
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde_json::value::RawValue;
use tokio::runtime::Runtime;

use crate::key::{Problem, Text, duration};
use crate::kind::BuildContext;
use crate::template::Template;
use crate::transport::{runtime, scheme_of, url_with_values, web_client};

/// Maximum size of an answer in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The first wait before another attempt, which doubles with each.
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait that the program chooses itself.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The time between two looks for a stop request.
const STOP_LOOK: Duration = Duration::from_millis(100);
/// Number of characters of an answer that an error shows.
const SHOWN_MAX: usize = 300;

/// How requests are made, as the job file describes it.
#[derive(Clone)]
pub(super) struct Requests {
    url: Template,
    shows: Shows,
    headers: Arc<[(HeaderName, Template)]>,
    timeout: Duration,
    max_attempts: u32,
    wait_max: Duration,
}

/// What messages show of a URL.
#[derive(Clone, Copy)]
enum Shows {
    /// The path too; `has_server` says whether no value is in the name of the server.
    Path {
        has_server: bool,
    },
    Server,
    Nothing,
}

impl Shows {
    /// Values of the environment and of contexts can be secret, as those of secret parameters are.
    fn of(text: &str) -> Self {
        let literal = text.split("${").next().unwrap_or_default();
        let has_server = literal.splitn(4, '/').count() == 4;
        let shows = Self::Path { has_server };
        match ["${env.", "context."].iter().any(|name| text.contains(name)) {
            true => shows.without_values(),
            false => shows,
        }
    }

    fn without_values(self) -> Self {
        match self {
            Self::Path { has_server: true } => Self::Server,
            Self::Path { has_server: false } => Self::Nothing,
            shows => shows,
        }
    }
}

/// The keys that readers, writers and steps have in common.
pub(super) struct Common<'a> {
    pub(super) url: &'a Text,
    pub(super) headers: &'a BTreeMap<String, Text>,
    pub(super) timeout: Option<&'a Text>,
    pub(super) max_attempts: Option<std::num::NonZeroU32>,
    pub(super) wait_max: Option<&'a Text>,
}

impl Requests {
    pub(super) fn of(keys: &Common<'_>, cx: &BuildContext<'_>) -> Result<Self, Problem> {
        let url = keys.url;
        let is_whole = url.get_ref().starts_with("${");
        if !is_whole && !matches!(scheme_of(url.get_ref()), Some("http" | "https")) {
            let what = "expected a URL that begins with `http://` or `https://`";
            return Err(Problem::at(url, what));
        }
        let headers = keys.headers.iter().map(|(name, value)| {
            let known = HeaderName::from_bytes(name.as_bytes());
            let name = known
                .map_err(|_| Problem::at(value, format!("`{name}` is no name of a header")))?;
            Ok((name, cx.template(value)?))
        });
        let or =
            |text: Option<&Text>, seconds| text.map_or(Ok(Duration::from_secs(seconds)), duration);
        Ok(Self {
            url: cx.template(url)?,
            shows: Shows::of(url.get_ref()),
            headers: headers.collect::<Result<_, Problem>>()?,
            timeout: or(keys.timeout, 30)?,
            max_attempts: keys.max_attempts.map_or(5, std::num::NonZero::get),
            wait_max: or(keys.wait_max, 300)?,
        })
    }

    /// Prepares the exchanges of a step execution.
    pub(super) fn exchange(&self, scope: &StepScope) -> Result<Exchange, ItemError> {
        // A value within a URL is a name in it, and no option or other server.
        let wrong = |why: &dyn std::fmt::Display| {
            ItemError::fatal(format!("cannot use the URL of an API: {why}"))
        };
        let url = url_with_values(&self.url, scope).map_err(|why| wrong(&why))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(&"it begins with neither `http://` nor `https://`"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &*self.headers {
            let mut value = HeaderValue::from_str(&value.render(scope)?).map_err(|_| {
                ItemError::fatal(format!("cannot use the header `{name}`: its value has characters that no header can have"))
            })?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        let trace = scope.trace_context().to_string();
        if let Ok(trace) = HeaderValue::from_str(&trace) {
            headers.entry("traceparent").or_insert(trace);
        }
        Ok(Exchange {
            shows: if self.url.shows_secret(scope) {
                self.shows.without_values()
            } else {
                self.shows
            },
            url,
            headers,
            client: web_client(self.timeout, false)?,
            runtime: runtime()?,
            timeout: self.timeout,
            max_attempts: self.max_attempts,
            wait_max: self.wait_max,
            stop: scope.stop().clone(),
        })
    }
}

/// The exchanges of a step execution.
pub(super) struct Exchange {
    pub(super) url: Url,
    shows: Shows,
    headers: HeaderMap,
    client: Client,
    runtime: &'static Runtime,
    timeout: Duration,
    max_attempts: u32,
    wait_max: Duration,
    stop: StopToken,
}

/// An answer with a status of success.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Exchange {
    /// Sends the request that `complete` completes, until it is answered with success. `sends_items` says whether its content is
    /// items.
    ///
    /// # Errors
    ///
    /// After the last attempt, or when the server refuses the request: of kind `data.refused` when it refuses items, else
    /// `http.refused`.
    pub(super) fn send(
        &self,
        method: &Method,
        url: &Url,
        sends_items: bool,
        complete: &dyn Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, ItemError> {
        let answer = self.answer(method, url, complete)?;
        self.accepted(method, url, sends_items, answer)
    }

    /// As [`send`](Self::send) of an item; `None` when the server does not know it.
    pub(super) fn find(
        &self,
        method: &Method,
        url: &Url,
        complete: &dyn Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Option<Answer>, ItemError> {
        let answer = self.answer(method, url, complete)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.accepted(method, url, true, answer).map(Some)
    }

    /// Sends the request until its answer is not temporary.
    fn answer(
        &self,
        method: &Method,
        url: &Url,
        complete: &dyn Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, ItemError> {
        let what = self.what(method, url);
        let (mut attempt, mut is_unanswered) = (1, false);
        loop {
            let request = self.client.request(method.clone(), url.clone());
            let request = request.headers(self.headers.clone()).timeout(self.timeout);
            let (error, wanted) = match self.once(complete(request), is_read(method))? {
                // After an attempt without an answer, a conflict can be with that attempt, which the server still processes.
                Ok(answer)
                    if is_temporary(answer.status) || (is_unanswered && answer.status == 409) =>
                {
                    let error = refused(&what, &answer, ErrorKind::new("io.http"));
                    (error, retry_after(&answer.headers))
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    is_unanswered = true;
                    let what = format!("cannot call {what}");
                    (ItemError::wrap(ErrorKind::new("io.http"), what, error), None)
                }
            };
            if attempt >= self.max_attempts {
                return Err(error);
            }
            if let Some(pause) = wanted.filter(|pause| *pause > self.wait_max) {
                let seconds = pause.as_secs();
                let what = format!("{error}; it asks to wait {seconds} s, more than `wait_max`");
                return Err(ItemError::new(error.kind().clone(), what));
            }
            let grown = BACKOFF.saturating_mul(1 << (attempt - 1).min(10));
            let pause = wanted.unwrap_or(grown.min(BACKOFF_MAX).min(self.wait_max));
            tracing::debug!(%error, attempt, ?pause, "a call is repeated");
            self.wait(pause)?;
            attempt += 1;
        }
    }

    /// Returns `answer` if its status is a success.
    fn accepted(
        &self,
        method: &Method,
        url: &Url,
        sends_items: bool,
        answer: Answer,
    ) -> Result<Answer, ItemError> {
        if answer.status.is_success() {
            return Ok(answer);
        }
        let of_items = sends_items && refuses_content(answer.status);
        let kind = if of_items { "data.refused" } else { "http.refused" };
        Err(refused(&self.what(method, url), &answer, ErrorKind::new(kind)))
    }

    /// Returns the request for messages.
    fn what(&self, method: &Method, url: &Url) -> String {
        format!("{method} {}", self.shown(url))
    }

    /// Returns the URL for messages, without user, password, parameters and values that can be secret.
    pub(super) fn shown(&self, url: &Url) -> String {
        match self.shows {
            Shows::Path { .. } => shown(url),
            Shows::Server => format!("{}/***", url.origin().ascii_serialization()),
            Shows::Nothing => format!("{}://***", url.scheme()),
        }
    }

    /// Waits; a stop request ends it.
    pub(super) fn wait(&self, pause: Duration) -> Result<(), ItemError> {
        self.stop.wait(pause);
        match self.stop.is_requested() {
            false => Ok(()),
            true => Err(stop_requested()),
        }
    }

    /// Sends the request once. The outer error is that of a stop request, which ends a request that only reads: what another one
    /// did
    /// would not be known.
    fn once(
        &self,
        request: RequestBuilder,
        is_read: bool,
    ) -> Result<Result<Answer, Failure>, ItemError> {
        let stopped = async {
            while !is_read || !self.stop.is_requested() {
                tokio::time::sleep(STOP_LOOK).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                answer = answered(request) => Ok(answer),
                () = stopped => Err(stop_requested()),
            }
        })
    }
}

/// Whether a request with this method only reads.
pub(super) fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn answered(request: RequestBuilder) -> Result<Answer, Failure> {
    let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(format!("the answer has more than {ANSWER_BYTES_MAX} bytes").into());
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status, headers, body })
}

fn stop_requested() -> ItemError {
    ItemError::stopped("a stop was requested while a server was called")
}

/// Returns the URL for messages, without user, password and parameters.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

/// Whether the same request can succeed later.
fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Whether the content of the request is at fault, so that another one can be accepted.
fn refuses_content(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 409 | 413 | 415 | 422)
}

fn refused(what: &str, answer: &Answer, kind: ErrorKind) -> ItemError {
    let body = String::from_utf8_lossy(&answer.body);
    let short: String = body.trim().chars().take(SHOWN_MAX).collect();
    let text = if short.is_empty() { String::new() } else { format!(": {short}") };
    ItemError::new(kind, format!("{what} is answered with {}{text}", answer.status))
}

/// Returns how long the server asks to wait: a number of seconds, or a time.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let now = SystemClock::default().now();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// Returns the value at `path` in `json`, such as `data.items`; `None` if there is none. A null is one.
///
/// # Errors
///
/// When `json` is no JSON.
pub(super) fn find<'a>(
    json: &'a [u8],
    path: &str,
) -> Result<Option<&'a RawValue>, serde_json::Error> {
    let mut value: &RawValue = serde_json::from_slice(json)?;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        let Ok(fields) =
            serde_json::from_str::<BTreeMap<std::borrow::Cow<'a, str>, &RawValue>>(value.get())
        else {
            return Ok(None);
        };
        match fields.get(name) {
            Some(inner) => value = inner,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// Returns the text of a JSON text, or the digits of a number.
pub(super) fn text_of(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first()? {
        b'"' => serde_json::from_str(value.get()).ok(),
        b'{' | b'[' | b'n' => None,
        _ => Some(value.get().to_owned()),
    }
}
