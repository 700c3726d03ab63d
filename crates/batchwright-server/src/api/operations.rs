//! Operations: one command for many executions, which this server gives one after another, with progress, results and a cancel.
//!
//! An operation lives in the memory of its server: what it has done is stored with the executions and in the audit, and what it has
//! not done is found by the same search again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use batchwright::execution::ExecutionId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Caller;
use super::body::{Asked, Body, NoQuery};
use super::command::Verb;
use super::page::{PageQuery, cursor, cut, limit, page};
use super::session::random_word;
use super::{Api, Problem, commanding};

/// Most executions of one operation.
pub(super) const EXECUTIONS_MAX: usize = 10_000;
/// Most operations that are under way at once.
const RUNNING_MAX: usize = 8;
/// Most operations that are kept, and most results of those that have ended; what ended first is forgotten first.
const KEPT_MAX: usize = 50;
const RESULTS_MAX: usize = 100_000;
/// How long an operation waits before it tries again what a busy server or an unavailable store refused.
const PAUSE: Duration = Duration::from_secs(1);
/// How often an operation gives a command that an unavailable store refuses.
const STORE_TRIES: usize = 60;
/// How long the end of the server waits for its operations, and how often it looks.
const END_GRACE: Duration = Duration::from_secs(5);
const END_INTERVAL: Duration = Duration::from_millis(10);
/// Longest search, in bytes.
const FILTER_BYTES_MAX: usize = 4_096;
/// Executions that the audit names.
const AUDITED_MAX: usize = 20;
/// Executions that the answer to a dry run lists.
const LISTED_MAX: usize = 500;

/// The operations of this server. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Operations {
    /// Oldest first.
    kept: Arc<Mutex<VecDeque<Arc<Operation>>>>,
}

/// What an operation is to do.
pub(super) struct Order {
    pub(super) verb: Verb,
    /// The executions, and whether the search has found more than an operation takes.
    pub(super) ids: Vec<ExecutionId>,
    pub(super) has_more: bool,
    /// The search that found the executions; `None` when they were named.
    pub(super) filter: Option<String>,
}

/// A command for many executions.
pub(super) struct Operation {
    id: String,
    who: String,
    order: Order,
    created_at: Timestamp,
    is_cancelled: AtomicBool,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    results: Vec<OperationResult>,
    refused: usize,
    end: Option<(OperationStatus, Timestamp)>,
}

/// The state of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OperationStatus {
    /// It goes through its executions.
    Running,
    /// It went through all of them.
    Completed,
    /// It was cancelled before it went through all of them.
    Cancelled,
    /// Its server ended before it went through all of them.
    Interrupted,
}

impl OperationStatus {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// An operation as it is now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OperationView {
    pub(super) id: String,
    pub(super) action: Verb,
    /// Who began it.
    pub(super) by: String,
    /// The search that found its executions; `null` when they were named.
    pub(super) filter: Option<String>,
    pub(super) status: OperationStatus,
    /// Number of its executions.
    pub(super) total: usize,
    /// Whether the search found more executions than one operation takes: begin another one for the rest.
    pub(super) has_more: bool,
    /// Number of executions for which the command was given.
    pub(super) done: usize,
    /// Number of those that refused it.
    pub(super) refused: usize,
    #[schema(value_type = String, format = DateTime)]
    pub(super) created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) ended_at: Option<Timestamp>,
}

/// What became of the command for one execution.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct OperationResult {
    pub(super) execution: ExecutionId,
    /// The execution that a restart began.
    pub(super) started: Option<ExecutionId>,
    /// The stable code of the refusal; `null` when the command was accepted.
    pub(super) code: Option<String>,
    /// Why it was refused.
    pub(super) detail: Option<String>,
}

impl Operation {
    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_running(&self) -> bool {
        self.done().end.is_none()
    }

    fn must_end(&self, api: &Api) -> Option<OperationStatus> {
        match () {
            () if self.is_cancelled.load(Ordering::SeqCst) => Some(OperationStatus::Cancelled),
            () if api.stop.is_requested() => Some(OperationStatus::Interrupted),
            () => None,
        }
    }

    pub(super) fn view(&self) -> OperationView {
        let done = self.done();
        OperationView {
            id: self.id.clone(),
            action: self.order.verb,
            by: self.who.clone(),
            filter: self.order.filter.clone(),
            status: done.end.map_or(OperationStatus::Running, |(status, _)| status),
            total: self.order.ids.len(),
            has_more: self.order.has_more,
            done: done.results.len(),
            refused: done.refused,
            created_at: self.created_at,
            ended_at: done.end.map(|(_, at)| at),
        }
    }

    /// Returns at most `limit` results that `is_wanted` accepts, from the index `begin` on.
    pub(super) fn results(
        &self,
        begin: usize,
        limit: usize,
        is_wanted: impl Fn(&OperationResult) -> bool,
    ) -> Vec<OperationResult> {
        let done = self.done();
        done.results.iter().skip(begin).filter(|it| is_wanted(it)).take(limit).cloned().collect()
    }

    fn add(&self, execution: ExecutionId, given: Result<ExecutionId, Problem>) {
        let mut done = self.done();
        let result = match given {
            Ok(id) => {
                let started = Some(id).filter(|id| *id != execution);
                OperationResult { execution, started, code: None, detail: None }
            }
            Err(problem) => {
                done.refused += 1;
                let (code, detail) = (problem.code().to_owned(), problem.detail().to_owned());
                let (code, detail) = (Some(code), Some(detail));
                OperationResult { execution, started: None, code, detail }
            }
        };
        done.results.push(result);
    }

    /// Gives the command for one execution after another.
    async fn go_through(self: Arc<Self>, api: Api) {
        let audited = self.in_turn(&api, |own, api| {
            let (action, subject, detail) = own.described();
            api.operator().audit(&own.who, action, &subject, Some(&detail))?;
            Ok(ExecutionId(0))
        });
        let mut end = match audited.await {
            Ok(Ok(_)) => None,
            Ok(Err(problem)) => {
                let (operation, error) = (&self.id, problem.detail());
                tracing::error!(operation, error, "an operation is missing in the audit");
                None
            }
            Err(ended) => Some(ended),
        };
        for id in &self.order.ids {
            if end.is_some() {
                break;
            }
            let id = *id;
            match self.in_turn(&api, move |own, api| own.give(api, id)).await {
                Ok(given) => self.add(id, given),
                Err(ended) => end = Some(ended),
            }
        }
        let end = end.unwrap_or(OperationStatus::Completed);
        let now = api.operator().clock().now();
        self.done().end = Some((end, now));
        let view = self.view();
        let (operation, action, status) = (&view.id, view.action.name(), end.name());
        tracing::info!(
            operation,
            action,
            status,
            view.done,
            view.refused,
            view.total,
            "an operation ended"
        );
    }

    /// Does `work` in a turn of its own, again while the server is busy, and for a minute while the store is unavailable: a command
    /// that was given before the answer was lost is then refused. The outer error is the end of the operation, before `work`.
    async fn in_turn(
        self: &Arc<Self>,
        api: &Api,
        work: impl Fn(&Self, &Api) -> Result<ExecutionId, Problem> + Clone + Send + 'static,
    ) -> Result<Result<ExecutionId, Problem>, OperationStatus> {
        let mut tries = 0;
        loop {
            let (api, own, work) = (api.clone(), Arc::clone(self), work.clone());
            let given = commanding(move || match own.must_end(&api) {
                Some(ended) => Ok(Err(ended)),
                None => work(&own, &api).map(Ok),
            });
            let problem = match given.await {
                Ok(Ok(id)) => return Ok(Ok(id)),
                Ok(Err(ended)) => return Err(ended),
                Err(problem) => problem,
            };
            let is_store = problem.code() == "store_unavailable";
            tries += usize::from(is_store);
            if !is_store && problem.code() != "overloaded" || tries >= STORE_TRIES {
                return Ok(Err(problem));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn give(&self, api: &Api, id: ExecutionId) -> Result<ExecutionId, Problem> {
        let (verb, now) = (self.order.verb, api.operator().clock().now());
        // A recover of an execution that has ended, or has an owner, would change nothing.
        if verb == Verb::Recover && !api.operator().explorer().execution(id)?.is_stale(now) {
            let detail =
                format!("execution {id} has an owner, or has ended; there is nothing to recover");
            return Err(Problem::new(StatusCode::CONFLICT, "not_running", detail));
        }
        api.give(&self.who, verb, id)
    }

    /// Returns what the audit has about the operation.
    fn described(&self) -> (&'static str, String, String) {
        let Order { verb, ids, filter, .. } = &self.order;
        let noun = if ids.len() == 1 { "execution" } else { "executions" };
        let named = || {
            let ids: Vec<_> = ids.iter().take(AUDITED_MAX).map(ToString::to_string).collect();
            ids.join(", ")
        };
        let detail = filter.clone().unwrap_or_else(named);
        (verb.name(), format!("operation {}: {} {noun}", self.id, ids.len()), detail)
    }

    /// Returns when it ended, by its clock, and its number of results; `None` while it is running.
    fn ended(&self) -> Option<(Timestamp, usize)> {
        let done = self.done();
        done.end.map(|(_, at)| (at, done.results.len()))
    }
}

impl Operations {
    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Operation>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an operation, for which the oldest one that ended is forgotten.
    fn keep(&self, operation: Arc<Operation>) -> Result<(), Problem> {
        let mut kept = self.kept();
        if kept.iter().filter(|one| one.is_running()).count() >= RUNNING_MAX {
            let detail = format!("{RUNNING_MAX} operations are under way; try again later");
            let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
            return Err(busy.retry_after(5));
        }
        loop {
            let ended = || kept.iter().enumerate().filter_map(|(at, one)| Some((one.ended()?, at)));
            let results: usize = ended().map(|((_, results), _)| results).sum();
            let first = ended().min().map(|(_, at)| at);
            match first {
                Some(at) if kept.len() >= KEPT_MAX || results > RESULTS_MAX => {
                    kept.remove(at);
                }
                _ => break,
            }
        }
        kept.push_back(operation);
        Ok(())
    }

    /// Returns the operations that are kept, newest first.
    pub(super) fn all(&self) -> Vec<OperationView> {
        self.kept().iter().rev().map(|one| one.view()).collect()
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Operation>, Problem> {
        let found = self.kept().iter().find(|one| one.id == id).cloned();
        found.ok_or_else(|| {
            let detail = format!(
                "this server has no operation `{id}`: a server keeps its newest {KEPT_MAX}, until it ends; the audit says what they did"
            );
            Problem::not_found(detail)
        })
    }
}

impl Api {
    /// Returns the executions that an operation would take: those of `named`, or those that the search `filter` finds.
    pub(super) fn order(
        &self,
        verb: Verb,
        filter: Option<String>,
        named: Option<Vec<ExecutionId>>,
    ) -> Result<Order, Problem> {
        if filter.as_ref().is_some_and(|words| words.len() > FILTER_BYTES_MAX) {
            let detail = format!("a search has at most {FILTER_BYTES_MAX} bytes");
            return Err(Problem::invalid(detail));
        }
        let (mut ids, has_more) = match (&filter, named) {
            (Some(words), None) => self.matching(verb, words, EXECUTIONS_MAX)?,
            (None, Some(ids)) if ids.len() > EXECUTIONS_MAX => {
                let detail = format!("an operation takes at most {EXECUTIONS_MAX} executions");
                return Err(Problem::invalid(detail));
            }
            (None, Some(ids)) => (ids, false),
            (Some(_), Some(_)) => {
                return Err(Problem::invalid("give `filter` or `executions`, not both"));
            }
            (None, None) => {
                return Err(Problem::invalid("`filter` or `executions` is missing"));
            }
        };
        // A second command for one execution would be refused, or restart what has just failed again.
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(Order { verb, ids, has_more, filter })
    }

    /// Begins an operation for `who`, within the runtime of the caller. It goes on also when the caller is dropped.
    pub(super) fn begin(&self, who: String, order: Order) -> Result<Arc<Operation>, Problem> {
        if order.verb == Verb::Restart {
            self.check_worker()?;
        }
        let operation = Arc::new(Operation {
            id: random_word().chars().filter(char::is_ascii_alphanumeric).take(12).collect(),
            who,
            order,
            created_at: self.operator().clock().now(),
            is_cancelled: AtomicBool::new(false),
            done: Mutex::default(),
        });
        self.operations.keep(Arc::clone(&operation))?;
        tokio::spawn(Arc::clone(&operation).go_through(self.clone()));
        Ok(operation)
    }

    /// Cancels an operation for `who`; what it has done stays.
    pub(super) fn cancel(&self, who: String, id: &str) -> Result<Arc<Operation>, Problem> {
        let operation = self.operations.find(id)?;
        let was_cancelled = operation.is_cancelled.swap(true, Ordering::SeqCst);
        if operation.is_running() && !was_cancelled {
            let (api, subject) = (self.clone(), format!("operation {}", operation.id));
            let audited = commanding(move || {
                api.audit(&who, "cancel", &subject, None);
                Ok(())
            });
            let id = operation.id.clone();
            // Also when the client leaves meanwhile.
            tokio::spawn(async move {
                if let Err(problem) = audited.await {
                    let error = problem.detail();
                    tracing::error!(
                        id,
                        error,
                        "the cancel of an operation is missing in the audit"
                    );
                }
            });
        }
        Ok(operation)
    }

    /// Waits until the operations of this server have ended, once its end is requested.
    pub(crate) async fn operations_end(&self) {
        let ended = async {
            while self.operations.kept().iter().any(|one| one.is_running()) {
                tokio::time::sleep(END_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(END_GRACE, ended).await;
    }
}

/// The body of a new operation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OperationBody {
    action: Verb,
    /// A search, as `executions --filter` takes it: `job:import status:failed since:24h`. Either this or `executions`.
    #[serde(default)]
    filter: Option<String>,
    /// The executions, at most 10,000.
    #[serde(default)]
    #[schema(value_type = Option<Vec<i64>>)]
    executions: Option<Vec<ExecutionId>>,
    /// `true`: only counts and lists the executions.
    #[serde(default)]
    dry_run: bool,
}

/// What an operation would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DryRun {
    action: Verb,
    /// Number of executions for which the command would be given.
    total: usize,
    /// Whether the search found more executions than one operation takes.
    has_more: bool,
    /// The first 500 of them.
    executions: Vec<ExecutionId>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OperationList {
    items: Vec<OperationView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ResultList {
    items: Vec<OperationResult>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// Gives one command for many executions, one after another: those that a search finds and for which the command makes sense, or
/// those that are named. The operation goes on when the client leaves, and ends with its server. Results are complete once it has
/// ended.
#[utoipa::path(post, path = "/v1/operations", tag = "operations", request_body = OperationBody,
    responses((status = 202, body = OperationView, headers(("location" = String))), (status = 200, body = DryRun)))]
pub(super) async fn begin(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Body(body): Body<OperationBody>,
) -> Result<Response, Problem> {
    let OperationBody { action, filter, executions, dry_run } = body;
    // A variable without a value in a script must not stop all work.
    if filter.as_ref().is_some_and(|words| words.trim().is_empty()) {
        let detail = "`filter` has no condition; `status:running` stops everything";
        return Err(Problem::invalid(detail));
    }
    let looked = api.clone();
    // The search may read very many rows: it takes a place of the commands, not of the pages.
    let order = commanding(move || looked.order(action, filter, executions)).await?;
    if dry_run {
        let Order { verb, ids, has_more, .. } = order;
        let executions = ids.iter().take(LISTED_MAX).copied().collect();
        let found = DryRun { action: verb, total: ids.len(), has_more, executions };
        return Ok(Json(found).into_response());
    }
    let begun = api.begin(caller.named(), order)?.view();
    let location = format!("/v1/operations/{}", begun.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(begun)).into_response())
}

/// Lists the operations that this server keeps, newest first.
#[utoipa::path(get, path = "/v1/operations", operation_id = "list_operations",
    tag = "operations", responses((status = 200, body = OperationList)))]
pub(super) async fn list(State(api): State<Api>, _: NoQuery) -> Json<OperationList> {
    Json(OperationList { items: api.operations.all() })
}

/// Returns an operation as it is now.
#[utoipa::path(get, path = "/v1/operations/{id}", operation_id = "show_operation",
    tag = "operations", params(("id" = String, Path)),
    responses((status = 200, body = OperationView)))]
pub(super) async fn show(
    State(api): State<Api>,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<Json<OperationView>, Problem> {
    Ok(Json(api.operations.find(&id)?.view()))
}

/// Lists what became of the command for each execution, in the order in which it was given.
#[utoipa::path(get, path = "/v1/operations/{id}/results", tag = "operations", params(("id" = String, Path), PageQuery),
    responses((status = 200, body = ResultList)))]
pub(super) async fn results(
    State(api): State<Api>,
    Path(id): Path<String>,
    Asked(asked): Asked<PageQuery>,
) -> Result<Response, Problem> {
    let limit = limit(asked.limit)?;
    let begin = cursor::<usize>(asked.cursor.as_deref())?.unwrap_or(0);
    let mut items = api.operations.find(&id)?.results(begin, limit + 1, |_| true);
    let next_cursor = cut(&mut items, limit, |_| begin + limit);
    let path = format!("/v1/operations/{id}/results");
    let list = ResultList { items, next_cursor };
    Ok(page(&list, &path, limit, [], list.next_cursor.as_deref()))
}

/// Cancels the operation: it gives the command for no further execution. What it has done stays.
#[utoipa::path(post, path = "/v1/operations/{id}/cancel", tag = "operations", params(("id" = String, Path)),
    responses((status = 202, body = OperationView)))]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let cancelled = api.cancel(caller.named(), &id)?.view();
    Ok((StatusCode::ACCEPTED, Json(cancelled)).into_response())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use batchwright::clock::StopToken;
    use batchwright::{JobOperator, MemoryRepository};

    use super::super::{COMMANDING, COMMANDING_MAX};
    use super::*;
    use crate::scheduler::JobStarter;

    fn api(stop: &StopToken) -> Api {
        let operator = JobOperator::builder(Arc::new(MemoryRepository::new())).build();
        Api::new(JobStarter::new(operator), None, stop.clone())
    }

    fn order(ids: std::ops::Range<i64>) -> Order {
        let ids = ids.map(ExecutionId).collect();
        Order { verb: Verb::Stop, ids, has_more: false, filter: None }
    }

    async fn end_of(operation: &Operation) -> OperationView {
        while operation.is_running() {
            tokio::task::yield_now().await;
        }
        operation.view()
    }

    /// While all places for commands are taken, no operation gives one: what ends it comes before its first command.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_cancelled_or_interrupted_gives_no_further_command() {
        let stop = StopToken::default();
        let api = api(&stop);
        let completed = api.begin("me".to_owned(), order(1..4)).unwrap();
        let completed = end_of(&completed).await;
        assert_eq!(completed.status, OperationStatus::Completed);
        assert_eq!((completed.done, completed.refused), (3, 3), "there are no such executions");

        let places = COMMANDING.acquire_many(COMMANDING_MAX as u32).await.unwrap();
        let cancelled = api.begin("me".to_owned(), order(1..100)).unwrap();
        let interrupted = api.begin("me".to_owned(), order(1..100)).unwrap();
        cancelled.is_cancelled.store(true, Ordering::SeqCst);
        stop.request();
        drop(places);
        for (operation, status) in
            [(cancelled, OperationStatus::Cancelled), (interrupted, OperationStatus::Interrupted)]
        {
            let ended = end_of(&operation).await;
            assert_eq!((ended.status, ended.done), (status, 0));
            assert!(ended.ended_at.is_some());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn few_are_under_way_at_once_and_the_oldest_that_ended_is_forgotten() {
        let api = api(&StopToken::default());
        let first = api.begin("me".to_owned(), order(0..0)).unwrap();
        end_of(&first).await;
        for _ in 1..KEPT_MAX {
            end_of(&api.begin("me".to_owned(), order(0..0)).unwrap()).await;
        }
        assert!(api.operations.find(&first.id).is_ok());
        end_of(&api.begin("me".to_owned(), order(0..0)).unwrap()).await;
        assert!(api.operations.find(&first.id).is_err());
        let mut begun = Vec::new();
        for _ in 0..RUNNING_MAX {
            begun.push(api.begin("me".to_owned(), order(1..1_000_000)).unwrap());
        }
        let refused = api.begin("me".to_owned(), order(1..2)).err().unwrap();
        assert_eq!((refused.status(), refused.code()), (503, "overloaded"));
        for one in begun {
            api.cancel("me".to_owned(), &one.id).unwrap();
            assert_eq!(end_of(&one).await.status, OperationStatus::Cancelled);
        }
    }
}
