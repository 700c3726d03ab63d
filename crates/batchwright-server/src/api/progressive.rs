//! The requests of progressive execution: long work in short requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::BatchStatus;
use batchwright::clock::parse_duration;
use batchwright::execution::ExecutionId;
use batchwright::launch::LaunchOptions;
use batchwright::operator::{OperatorError, Refusal};
use batchwright::progressive::{
    DisconnectSignal, OnDisconnect, OpenOptions, SliceOrder, SliceOutcome, UnitProgress,
};
use batchwright::store::StoredResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::base::Base;
use super::body::{Asked, Body, Id, NoQuery, OwnerHeader, accepts, owner_token};
use super::idempotency::{KeyHeader, Keyed, once};
use super::jobs::ParameterInput;
use super::problem::{PROBLEM_JSON, Verbatim};
use super::{Api, Arrived, Problem, blocking, on_thread, stream};

/// Longest wait of a request for the final response.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// How often a waiting request polls the store.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Value of `Retry-After` while there is no final response.
const RETRY_AFTER_SECONDS: u64 = 1;

/// The body that opens a progressive execution.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OpenBody {
    /// Plain values, or `{value, type, identifying}`.
    #[schema(value_type = std::collections::HashMap<String, ParameterInput>)]
    parameters: Map<String, Value>,
    /// Refuse to restart a failed or stopped instance.
    new_only: bool,
    /// Number of lanes, at most as many as the job has.
    #[schema(minimum = 1, maximum = 1024)]
    lanes: Option<u32>,
    /// Target duration of a slice, in milliseconds.
    #[schema(minimum = 1, maximum = 3_600_000)]
    target_ms: Option<u64>,
    /// `client`: clients drive the execution; `server`: servers drive it and clients only wait.
    driver: Driver,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Driver {
    #[default]
    Client,
    Server,
}

/// The state of a progressive execution for its drivers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Opened {
    /// Number of the execution.
    execution: ExecutionId,
    /// Status of the execution.
    status: BatchStatus,
    /// The lanes; each accepts one request at a time.
    lanes: Vec<LaneView>,
    /// Maximum of useful requests at once.
    max_concurrency: usize,
    /// Target duration of a slice, in milliseconds.
    target_ms: u64,
    /// Total number of units, if known.
    units_total: Option<u64>,
}

/// The state of a lane.
#[derive(Debug, Serialize, ToSchema)]
struct LaneView {
    /// Identifier of the lane.
    id: String,
    /// Number of the lane within the execution.
    rank: u32,
    /// Number of the lane's next request.
    next_seq: u64,
    /// Number of ended slices.
    slices: u64,
    /// Duration of the last slice, in milliseconds.
    last_slice_ms: u64,
    /// Whether a slice of the lane runs at the moment.
    live: bool,
}

/// Returns a duration in milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Api {
    /// Opens an execution of `job`, or joins the open or complete execution with these parameters, and
    /// returns its state for drivers.
    pub(crate) fn open_or_join(
        &self,
        job: &str,
        parameters: Map<String, Value>,
        open: &OpenOptions,
    ) -> Result<Opened, Problem> {
        let known = self.job(job)?;
        let parameters = super::jobs::parameters(&known, parameters)?;
        let opened =
            self.operator().progressive().open(job, parameters, &LaunchOptions::default(), open);
        let id = match opened {
            Ok(execution) => execution.id,
            Err(OperatorError::Refused(
                Refusal::AlreadyRunning { execution, .. } | Refusal::AlreadyComplete { execution },
            )) => execution,
            Err(error) => return Err(error.into()),
        };
        self.opened(id, open.owner_token.as_deref())
    }

    fn opened(&self, id: ExecutionId, token: Option<&str>) -> Result<Opened, Problem> {
        let (execution, state) = self.operator().progressive().progressive_state(id, token)?;
        let now = self.operator().clock().now();
        let lanes: Vec<_> = state
            .lanes
            .iter()
            .map(|lane| LaneView {
                id: lane.id.clone(),
                rank: lane.rank,
                next_seq: lane.seq + 1,
                slices: lane.slices,
                last_slice_ms: millis(lane.last_slice),
                live: lane.is_live(now),
            })
            .collect();
        Ok(Opened {
            execution: id,
            status: execution.status,
            max_concurrency: lanes.len(),
            lanes,
            target_ms: millis(state.row.target),
            units_total: state.row.units_total,
        })
    }
}

impl Opened {
    pub(crate) fn execution(&self) -> ExecutionId {
        self.execution
    }
}

/// Opens an execution of a progressive job, or restarts its failed or stopped instance.
///
/// A token in `X-Batch-Owner` is required in all further requests about the execution.
#[utoipa::path(post, path = "/v1/progressive/{job}", operation_id = "open_progressive",
    tag = "progressive", params(("job" = String, Path),
    OwnerHeader,
    KeyHeader),
    request_body = Option<OpenBody>, responses((status = 201, body = Opened, headers(("location" = String)))))]
pub(super) async fn open(
    State(api): State<Api>,
    _: NoQuery,
    Path(name): Path<String>,
    headers: HeaderMap,
    Keyed { body, key, origin }: Keyed<OpenBody>,
) -> Result<Response, Problem> {
    if body.lanes == Some(0) {
        return Err(Problem::invalid("lanes must be at least 1"));
    }
    let target = target(body.target_ms)?;
    let token = owner_token(&headers)?;
    let shown = token.clone();
    let open = move |api: &Api, request| {
        let open = OpenOptions {
            lanes: body.lanes,
            target,
            owner_token: token,
            repeats: false,
            is_server_driven: body.driver == Driver::Server,
        };
        let options = LaunchOptions { new_only: body.new_only, request, ..origin.options() };
        let given = super::jobs::parameters(&*api.job(&name)?, body.parameters)?;
        Ok(api.operator().progressive().open(&name, given, &options, &open)?.id)
    };
    let answer = move |api: &Api, id| {
        let opened = api.opened(id, shown.as_deref())?;
        let location = format!("/v1/executions/{id}");
        Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(opened)).into_response())
    };
    once(api, key, open, answer).await
}

/// Returns the state of an open execution for its drivers, such as one that reconnects.
#[utoipa::path(get, path = "/v1/executions/{id}/lanes", tag = "progressive", params(("id" = i64, Path),
    OwnerHeader), responses((status = 200, body = Opened)))]
pub(super) async fn lanes(
    State(api): State<Api>,
    _: NoQuery,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Json<Opened>, Problem> {
    blocking(move || Ok(Json(api.opened(id, owner_token(&headers)?.as_deref())?))).await
}

/// Checks the target duration of a slice that a client requests.
fn target(ms: Option<u64>) -> Result<Option<Duration>, Problem> {
    match ms {
        Some(0 | 3_600_001..) => {
            Err(Problem::invalid("target_ms must be a number from 1 to 3600000"))
        }
        ms => Ok(ms.map(Duration::from_millis)),
    }
}

/// A request for a slice.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SliceBody {
    /// Number of the request on its lane. The number of the last answered request returns the same answer
    /// again, the next number runs a slice.
    #[schema(minimum = 1)]
    seq: u64,
    /// What the slice does when its client disconnects.
    #[serde(default)]
    on_disconnect: OnDisconnect,
    /// Target duration of this slice in milliseconds, instead of the execution's target.
    #[schema(minimum = 1, maximum = 3_600_000)]
    target_ms: Option<u64>,
}

/// The final response of an execution within the answer to a slice.
#[derive(Debug, Serialize, ToSchema)]
struct ResponseView {
    /// HTTP status of the response.
    status: u16,
    /// Headers of the response.
    headers: BTreeMap<String, String>,
    /// The body, if it is UTF-8 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in Base64, if it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl From<StoredResponse> for ResponseView {
    fn from(stored: StoredResponse) -> Self {
        let StoredResponse { status, headers, body, .. } = stored;
        let (body, body_base64) = match String::from_utf8(body) {
            Ok(text) => (Some(text), None),
            Err(other) => (None, Some(STANDARD.encode(other.as_bytes()))),
        };
        Self { status, headers: headers.into_iter().collect(), body, body_base64 }
    }
}

/// The answer to a request for a slice.
#[derive(Debug, Serialize, ToSchema)]
struct Answer {
    /// What to do next: `continue` at once, `wait` before the next request, stop after `done` or `final`.
    outcome: SliceOutcome,
    /// Number of the next request on this lane.
    next_seq: u64,
    /// How long to wait before the next request, for `wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// Progress of the whole execution.
    progress: UnitProgress,
    /// The final response, with `final`, until it is acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<ResponseView>,
}

/// Notifies the slice when its client has disconnected.
struct Waiting {
    client: DisconnectSignal,
    then: OnDisconnect,
    answered: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            self.client.set(self.then);
        }
    }
}

/// Runs a slice of the execution on one lane, until its target duration is reached or the work is done.
#[utoipa::path(post, path = "/v1/executions/{id}/lanes/{lane}/slices", tag = "progressive",
    params(("id" = i64, Path), ("lane" = String, Path, pattern = "^[0-9a-f]{32}$"),
        OwnerHeader),
    request_body = SliceBody, responses((status = 200, body = Answer)))]
pub(super) async fn slice(
    State(api): State<Api>,
    _: NoQuery,
    (Extension(Arrived(arrived)), Extension(base)): (Extension<Arrived>, Extension<Base>),
    Id(id): Id,
    Path((_, lane)): Path<(String, String)>,
    headers: HeaderMap,
    Body(body): Body<SliceBody>,
) -> Result<Response, Problem> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if lane.len() != 32 || !lane.bytes().all(is_hex) {
        let detail = "the id of a lane must be the 32 lower-case hexadecimal digits that the server returned";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "malformed_lane", detail));
    }
    if body.seq == 0 {
        return Err(Problem::invalid("seq must be at least 1"));
    }
    let target = target(body.target_ms)?;
    let Ok(place) = Arc::clone(&api.slices).try_acquire_owned() else {
        let detail = "the server runs its maximum of slices; try again later";
        let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
        return Err(busy.retry_after(1));
    };
    let client = DisconnectSignal::default();
    let mut waiting = Waiting { client: client.clone(), then: body.on_disconnect, answered: false };
    let order = SliceOrder {
        owner_token: owner_token(&headers)?,
        target,
        client,
        stop: api.stop.clone(),
        ..SliceOrder::new(id, lane, body.seq, arrived)
    };
    let answer = on_thread(move || {
        let execution = api.operator().explorer().execution(id)?;
        api.operator().explorer().job_of(&execution).map_err(|refusal| Problem::from(&refusal))?;
        let runtime = tokio::runtime::Handle::current();
        let answer = api.operator().progressive().slice(&order, |work| {
            // A separate thread with its own permit: a unit that hangs forever delays no other slice.
            let worker = move || {
                let (_place, _runtime) = (place, runtime.enter());
                work();
            };
            let spawned = thread::Builder::new().name("batchwright slice".to_owned()).spawn(worker);
            if let Err(error) = spawned {
                tracing::error!(%error, "cannot start a thread for a slice");
            }
        })?;
        let answer: batchwright::progressive::SliceAnswer =
            serde_json::from_str(&answer).map_err(|_| Problem::internal())?;
        let response = match answer.outcome {
            SliceOutcome::Final => stored_response(&api, &base, id, order.owner_token.as_deref())?,
            _ => None,
        };
        let batchwright::progressive::SliceAnswer { outcome, next_seq, retry_after_ms, progress } =
            answer;
        let response = response.filter(|one| !one.is_acknowledged).map(ResponseView::from);
        Ok(Json(Answer { outcome, next_seq, retry_after_ms, progress, response }).into_response())
    })
    .await;
    waiting.answered = true;
    answer
}

/// Returns the progress of the execution. With `Accept: text/event-stream` or `application/x-ndjson` the
/// answer is a stream that ends with the execution.
#[utoipa::path(get, path = "/v1/executions/{id}/progress", tag = "progressive", params(("id" = i64, Path),
    OwnerHeader), responses((status = 200, content(
        (UnitProgress = "application/json"), (String = "text/event-stream"), (String = "application/x-ndjson")))))]
pub(super) async fn progress(
    State(api): State<Api>,
    _: NoQuery,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let token = owner_token(&headers)?;
    let (looked, shown) = (api.clone(), token.clone());
    let now = blocking(move || {
        Ok(looked.operator().progressive().units_progress(id, shown.as_deref())?)
    })
    .await?;
    if accepts(&headers, "text/event-stream") {
        // A browser reconnects whenever a stream ends; only status 204 stops it.
        let has_end = headers.get("last-event-id").is_some_and(|last| last == stream::END);
        if has_end && !now.status.is_running() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        return Ok(stream::progress_events(api, id, token));
    }
    if accepts(&headers, "application/x-ndjson") {
        return Ok(stream::progress_lines(api, id, token));
    }
    Ok(Json(now).into_response())
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    /// How long to wait for the response, such as `30s`; at most two minutes.
    #[param(value_type = Option<String>, pattern = "^[1-9][0-9]{0,3}(ms|s|m)$")]
    wait: Option<String>,
}

/// Returns the final response with the status, headers and body that the job assembled, or 202 with the
/// progress while there is none.
#[utoipa::path(get, path = "/v1/executions/{id}/response", tag = "progressive", params(("id" = i64, Path), WaitQuery,
    OwnerHeader),
    responses((status = 200, description = "The response that the job assembled, with the status that the job chose"),
        (status = 202, body = UnitProgress)))]
pub(super) async fn response(
    State(api): State<Api>,
    Extension(base): Extension<Base>,
    Id(id): Id,
    Asked(asked): Asked<WaitQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wait = match asked.wait.as_deref().map(parse_duration) {
        None => Duration::ZERO,
        Some(Ok(wait)) => wait.min(WAIT_MAX),
        Some(Err(problem)) => return Err(Problem::invalid(format!("wait: {problem}"))),
    };
    let token = owner_token(&headers)?;
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let (looked, base, shown) = (api.clone(), base.clone(), token.clone());
        let (found, progress) = blocking(move || {
            let operator = looked.operator();
            let found = stored_response(&looked, &base, id, shown.as_deref())?;
            Ok((found, operator.progressive().units_progress(id, shown.as_deref())?))
        })
        .await?;
        if let Some(found) = found {
            return verbatim(found);
        }
        if !progress.status.is_running() {
            let detail = format!("the execution is {} and has no response", progress.status);
            return Err(Problem::new(StatusCode::GONE, "execution_finished", detail));
        }
        if tokio::time::Instant::now() >= deadline || api.stop.is_requested() {
            let retry = [(header::RETRY_AFTER, RETRY_AFTER_SECONDS)];
            return Ok((StatusCode::ACCEPTED, retry, Json(progress)).into_response());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the final response of an execution; that of a failed one is the problem document of its failure.
fn stored_response(
    api: &Api,
    base: &Base,
    id: ExecutionId,
    token: Option<&str>,
) -> Result<Option<StoredResponse>, Problem> {
    let Some(stored) = api.operator().progressive().response(id, token)? else { return Ok(None) };
    let failure = api.operator().explorer().execution(id)?.failure;
    let Some(failure) = failure.filter(|_| !stored.is_acknowledged) else {
        return Ok(Some(stored));
    };
    let problem = Problem::of_failure(&failure).under(base);
    let headers = vec![("content-type".to_owned(), PROBLEM_JSON.to_owned())];
    Ok(Some(StoredResponse { headers, body: problem.to_json(), ..stored }))
}

fn verbatim(stored: StoredResponse) -> Result<Response, Problem> {
    if stored.is_acknowledged {
        let detail = "the response was acknowledged, or has expired";
        return Err(Problem::new(StatusCode::GONE, "response_acknowledged", detail));
    }
    let mut response = Response::new(axum::body::Body::from(stored.body));
    *response.status_mut() = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
    response.extensions_mut().insert(Verbatim);
    for (name, value) in stored.headers {
        let name = HeaderName::try_from(name).ok();
        // The server sets the headers of the connection itself.
        let name = name.filter(|name| {
            !matches!(
                *name,
                header::CONTENT_LENGTH | header::TRANSFER_ENCODING | header::CONNECTION
            )
        });
        if let (Some(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

/// Acknowledges the final response: its body is deleted.
#[utoipa::path(delete, path = "/v1/executions/{id}/response", tag = "progressive", params(("id" = i64, Path),
    OwnerHeader), responses((status = 204)))]
pub(super) async fn acknowledge(
    State(api): State<Api>,
    _: NoQuery,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    blocking(move || {
        let token = owner_token(&headers)?;
        if api.operator().progressive().response(id, token.as_deref())?.is_none() {
            return Err(Problem::not_found(format!("execution {id} has no response")));
        }
        // A second acknowledgement changes nothing.
        api.operator().progressive().acknowledge(id, token.as_deref())?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
