//! The requests about executions.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use batchwright::event::Event;
use batchwright::execution::{ExecutionId, ExecutionSummary, InstanceId, SkipRecord, StepSummary};
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::operator::OperatorError;
use batchwright::query::{ExecutionFilter, ExecutionSearch, Found};
use batchwright::{BatchStatus, JobOperator};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::access::Caller;
use super::body::{Asked, Id, NoQuery, accepts};
use super::command::Verb;
use super::condition::unless_known;
use super::idempotency::{KeyHeader, Keyed, once};
use super::jobs::ParameterInput;
use super::page::{PageQuery, cursor, cursor_of, cut, limit, page};
use super::wait::{PreferHeader, wait};
use super::{Api, Problem, blocking, stream};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// A search in words, as `executions --filter` takes it: `job:import status:failed since:24h param.date:2026-11`; the other
    /// conditions must be true, too.
    filter: Option<String>,
    /// Only executions of this job.
    job: Option<String>,
    /// Only executions with this status; several are separated by commas.
    #[param(value_type = Option<String>, pattern = "^(STARTING|STARTED|STOPPING|STOPPED|COMPLETED|FAILED|ABANDONED|UNKNOWN)(,(STARTING|STARTED|STOPPING|STOPPED|COMPLETED|FAILED|ABANDONED|UNKNOWN))*$")]
    status: Option<String>,
    /// `true`: only executions whose owner is lost; `false`: only the others.
    stale: Option<bool>,
    /// Only executions accepted at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Only executions accepted before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Maximum number of entries of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// The `next_cursor` of the previous page.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExecutionList {
    items: Vec<ExecutionSummary>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// Lists executions, newest first.
#[utoipa::path(get, path = "/v1/executions", operation_id = "list_executions", tag = "executions", params(ListQuery),
    responses((status = 200, body = ExecutionList)))]
pub(super) async fn list(
    State(api): State<Api>,
    Asked(asked): Asked<ListQuery>,
) -> Result<Response, Problem> {
    let mut statuses = Vec::new();
    for word in asked.status.iter().flat_map(|words| words.split(',')) {
        let known = || {
            let known: Vec<_> = BatchStatus::ALL.iter().map(|status| status.name()).collect();
            Problem::invalid(format!(
                "unknown status `{word}`; expected one of {}",
                known.join(", ")
            ))
        };
        statuses.push(BatchStatus::from_name(word.trim()).ok_or_else(known)?);
    }
    let filter = ExecutionFilter {
        job: asked.job.clone(),
        statuses,
        since: asked.since,
        until: asked.until,
        ..ExecutionFilter::default()
    };
    listed(api, "/v1/executions".to_owned(), filter, asked).await
}

/// Lists the executions of an instance, newest first.
#[utoipa::path(get, path = "/v1/instances/{id}/executions", tag = "executions", params(("id" = i64, Path),
    PageQuery),
    responses((status = 200, body = ExecutionList)))]
pub(super) async fn of_instance(
    State(api): State<Api>,
    Id(ExecutionId(id)): Id,
    Asked(PageQuery { limit, cursor }): Asked<PageQuery>,
) -> Result<Response, Problem> {
    let asked = ListQuery { limit, cursor, ..ListQuery::default() };
    let instance = InstanceId(id);
    let known = api.clone();
    blocking(move || {
        let found = known.operator().queries().instance(instance)?;
        found.map(drop).ok_or_else(|| Problem::not_found(format!("instance {id} does not exist")))
    })
    .await?;
    let path = format!("/v1/instances/{id}/executions");
    listed(api, path, ExecutionFilter::of_instance(instance), asked).await
}

async fn listed(
    api: Api,
    path: String,
    mut filter: ExecutionFilter,
    asked: ListQuery,
) -> Result<Response, Problem> {
    let limit = limit(asked.limit)?;
    let before = cursor::<i64>(asked.cursor.as_deref())?.map(ExecutionId);
    blocking(move || {
        let now = api.operator().clock().now();
        let words = asked.filter.as_deref().unwrap_or_default();
        let mut search = Some(ExecutionSearch::parse(words, now).map_err(Problem::invalid)?);
        if let Some(wanted) = asked.stale {
            search = search.and_then(|search| search.stale(wanted));
            // Only a running one can be stale.
            if wanted && filter.statuses.is_empty() {
                filter = filter.running();
            }
        }
        let found = match search.and_then(|search| search.and(&filter)) {
            Some(search) => search.find(api.operator().queries(), before, limit, now)?,
            None => Found::default(),
        };
        let Found { executions: items, next } = found;
        let next_cursor = next.map(|id| cursor_of(&id.0));
        let summaries = api.operator().explorer().summaries(&items)?;
        let asked = [
            ("filter", asked.filter),
            ("job", asked.job),
            ("status", asked.status),
            ("stale", asked.stale.map(|stale| stale.to_string())),
            ("since", asked.since.map(|at| at.to_string())),
            ("until", asked.until.map(|at| at.to_string())),
        ];
        let list = ExecutionList { items: summaries, next_cursor };
        Ok(page(&list, &path, limit, asked, list.next_cursor.as_deref()))
    })
    .await
}

/// Returns an execution with its steps; 304 without a body when `If-None-Match` has its `ETag`.
#[utoipa::path(get, path = "/v1/executions/{id}", operation_id = "show_execution", tag = "executions", params(("id" = i64, Path)),
    responses((status = 200, body = ExecutionSummary, headers(("etag" = String))), (status = 304)))]
pub(super) async fn show(
    State(api): State<Api>,
    _: NoQuery,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    blocking(move || Ok(unless_known(&headers, &api.operator().explorer().summary(id)?))).await
}

/// Asks the execution to stop at its next chunk boundary.
#[utoipa::path(post, path = "/v1/executions/{id}/stop", tag = "executions", params(("id" = i64, Path)),
    responses((status = 202, body = ExecutionSummary, headers(("location" = String)))))]
pub(super) async fn stop(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Id(id): Id,
) -> Result<Response, Problem> {
    blocking(move || api.accepted(api.give(&caller.named(), Verb::Stop, id)?)).await
}

/// The body of a restart.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RestartBody {
    /// Changes to parameters that are not identifying.
    #[schema(value_type = std::collections::HashMap<String, ParameterInput>)]
    parameters: serde_json::Map<String, serde_json::Value>,
    /// Restart even if the definition of the job has changed since.
    accept_changed_definition: bool,
}

/// Restarts the execution with a new one of the same instance, which a worker of this store runs.
#[utoipa::path(post, path = "/v1/executions/{id}/restart", tag = "executions", params(("id" = i64, Path),
    KeyHeader, PreferHeader),
    request_body = Option<RestartBody>,
    responses((status = 202, body = ExecutionSummary, headers(("location" = String))),
    (status = 200, body = ExecutionSummary, headers(("location" = String)))))]
pub(super) async fn restart(
    State(api): State<Api>,
    _: NoQuery,
    Id(id): Id,
    headers: HeaderMap,
    Keyed { body, key, origin }: Keyed<RestartBody>,
) -> Result<Response, Problem> {
    let restart = move |api: &Api, request| {
        api.check_worker()?;
        api.refuse_replay(id)?;
        let execution = api.operator().explorer().execution(id)?;
        api.operator().explorer().job_of(&execution).map_err(|refusal| Problem::from(&refusal))?;
        let job = api.job(&execution.job)?;
        let overrides = super::jobs::parameters(&job, body.parameters)?;
        let options = LaunchOptions {
            accept_changed_definition: body.accept_changed_definition,
            request,
            ..origin.options()
        };
        let launch = Launch::restart(id).parameters(overrides).options(options);
        let started = api.operator().enqueue(&launch).map_err(Problem::from);
        Ok(started.map_err(|problem| api.with_allowed(problem, id))?.id)
    };
    let restarted = once(api.clone(), key, restart, Api::accepted).await?;
    wait(&api, &headers, restarted).await
}

/// Abandons the execution: it is never restarted.
#[utoipa::path(post, path = "/v1/executions/{id}/abandon", tag = "executions", params(("id" = i64, Path)),
    responses((status = 200, body = ExecutionSummary)))]
pub(super) async fn abandon(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Id(id): Id,
) -> Result<Json<ExecutionSummary>, Problem> {
    blocking(move || {
        api.give(&caller.named(), Verb::Abandon, id)?;
        Ok(Json(api.operator().explorer().summary(id)?))
    })
    .await
}

/// Recovers the execution when its owner is lost, so that it can be restarted.
#[utoipa::path(post, path = "/v1/executions/{id}/recover", tag = "executions", params(("id" = i64, Path)),
    responses((status = 200, body = ExecutionSummary)))]
pub(super) async fn recover(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Id(id): Id,
) -> Result<Json<ExecutionSummary>, Problem> {
    blocking(move || {
        api.give(&caller.named(), Verb::Recover, id)?;
        Ok(Json(api.operator().explorer().summary(id)?))
    })
    .await
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StepList {
    items: Vec<StepSummary>,
}

/// Lists the steps of the execution in the order in which they began.
#[utoipa::path(get, path = "/v1/executions/{id}/steps", tag = "executions", params(("id" = i64, Path)),
    responses((status = 200, body = StepList)))]
pub(super) async fn steps(
    State(api): State<Api>,
    _: NoQuery,
    Id(id): Id,
) -> Result<Json<StepList>, Problem> {
    blocking(move || Ok(Json(StepList { items: api.operator().explorer().step_summaries(id)? })))
        .await
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SkipList {
    items: Vec<SkipRecord>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// Lists the records that the execution skipped, in the order of their commits.
#[utoipa::path(get, path = "/v1/executions/{id}/skips", tag = "executions", params(("id" = i64, Path),
    PageQuery),
    responses((status = 200, body = SkipList)))]
pub(super) async fn skips(
    State(api): State<Api>,
    Id(id): Id,
    Asked(asked): Asked<PageQuery>,
) -> Result<Response, Problem> {
    blocking(move || {
        let limit = limit(asked.limit)?;
        let begin = cursor::<usize>(asked.cursor.as_deref())?.unwrap_or(0);
        api.operator().explorer().execution(id)?;
        let mut items = api.operator().queries().skips_page(id, begin, limit + 1)?;
        let next_cursor = cut(&mut items, limit, |_| begin + limit);
        let path = format!("/v1/executions/{id}/skips");
        let list = SkipList { items, next_cursor };
        Ok(page(&list, &path, limit, [], list.next_cursor.as_deref()))
    })
    .await
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventList {
    items: Vec<EventRecord>,
}

/// The new status of an execution or step.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventRecord {
    /// Time of the event.
    #[schema(value_type = String, format = DateTime)]
    at: String,
    /// Execution that changed.
    execution: ExecutionId,
    /// Name of its job.
    job: String,
    /// Name of the step, for an event of a step.
    step: Option<String>,
    /// The new status.
    status: BatchStatus,
    /// Details, such as `stop requested`.
    note: Option<String>,
}

impl EventRecord {
    /// Returns the record of a stored event.
    pub(super) fn of(event: &Event) -> Option<Self> {
        let (status, note) = event.status()?;
        Some(Self {
            at: format!("{:.3}", event.at),
            execution: event.execution()?,
            job: event.job()?.to_owned(),
            step: event.step().map(str::to_owned),
            status,
            note: note.map(str::to_owned),
        })
    }

    /// Returns the stored events of an execution, oldest first.
    pub(super) fn all(operator: &JobOperator, id: ExecutionId) -> Result<Vec<Self>, Problem> {
        let events = operator.queries().events(id).map_err(OperatorError::from)?;
        Ok(events.iter().filter_map(Self::of).collect())
    }
}

/// Lists the status changes of the execution and its steps, oldest first. With `Accept: text/event-stream`
/// the answer is a stream that ends with the execution.
#[utoipa::path(get, path = "/v1/executions/{id}/events", operation_id = "execution_events",
    tag = "executions", params(("id" = i64, Path)),
    responses((status = 200, content((EventList = "application/json"), (String = "text/event-stream")))))]
pub(super) async fn events(
    State(api): State<Api>,
    _: NoQuery,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let looked = api.clone();
    let (items, ended) = blocking(move || {
        let ended = !looked.operator().explorer().execution(id)?.status.is_running();
        Ok((EventRecord::all(looked.operator(), id)?, ended))
    })
    .await?;
    if accepts(&headers, "text/event-stream") {
        let last_id = headers.get("last-event-id").and_then(|last| last.to_str().ok());
        let is_complete = last_id.and_then(|last| last.parse().ok()) >= Some(items.len());
        // A browser reconnects whenever a stream ends; only status 204 stops it.
        if ended && is_complete {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        return Ok(stream::events(api, id, &headers).into_response());
    }
    Ok(Json(EventList { items }).into_response())
}
