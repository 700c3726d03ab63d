//! Replays of skipped records by the API.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use batchwright::execution::{ExecutionId, ExecutionSummary};
use batchwright::launch::LaunchOptions;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::body::{Asked, Id, NoQuery};
use super::idempotency::{KeyHeader, Keyed, once};
use super::page::{PageQuery, cursor, cut, limit, page};
use super::wait::{PreferHeader, wait};
use super::{Api, Problem, blocking};
use crate::replay::ReplayRefused;

impl From<ReplayRefused> for Problem {
    fn from(refused: ReplayRefused) -> Self {
        match refused {
            ReplayRefused::Operator(error) => error.into(),
            ReplayRefused::Records(message) => {
                // What may be replayed depends on what the execution skipped, and on earlier replays.
                Self::new(StatusCode::CONFLICT, "usage", message)
            }
        }
    }
}

impl Api {
    /// Refuses a command that a replay must not get.
    pub(super) fn refuse_replay(&self, id: ExecutionId) -> Result<(), Problem> {
        let execution = self.operator().explorer().execution(id)?;
        let mut names = execution.parameters.iter().map(|(name, _)| name);
        match self.is_replay(&execution.job, &mut names) {
            false => Ok(()),
            true => {
                let detail = format!(
                    "execution {id} is a replay: it is not restarted or abandoned; a further replay of the skipped records continues it"
                );
                Err(Problem::new(StatusCode::CONFLICT, "not_restartable", detail))
            }
        }
    }

    fn is_replay(&self, job: &str, parameters: &mut dyn Iterator<Item = &str>) -> bool {
        self.replays.as_ref().is_some_and(|replays| replays.is_replay(job, parameters))
    }

    /// Whether the execution is a replay, which a further replay continues.
    pub(super) fn is_summary_of_replay(&self, one: &ExecutionSummary) -> bool {
        self.is_replay(&one.job, &mut one.parameters.keys().map(String::as_str))
    }

    /// Returns the records of `execution` that no replay has taken, with their indexes among all that it skipped.
    pub(super) fn open_skips(
        &self,
        execution: ExecutionId,
        from: usize,
        limit: usize,
    ) -> Result<Vec<(usize, Box<RawValue>)>, Problem> {
        let replays = self.replays.as_ref().ok_or_else(no_replays)?;
        Ok(replays.open(self.operator(), execution, from, limit)?)
    }

    /// Starts a replay and returns its execution.
    pub(super) fn start_replay(
        &self,
        execution: ExecutionId,
        records: &[Box<RawValue>],
        options: LaunchOptions,
    ) -> Result<ExecutionId, Problem> {
        let replays = self.replays.as_ref().ok_or_else(no_replays)?;
        // A replay runs in this process, and no other one continues it.
        if self.jobs.is_drained() {
            let detail =
                "this server is drained and begins nothing; send the records to another one";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_worker", detail));
        }
        Ok(replays.replay(self.operator(), execution, records, options)?)
    }
}

fn no_replays() -> Problem {
    Problem::not_found("this program offers no replays: its jobs are not those of job files")
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpenSkips {
    /// Objects with `execution`, `step`, `phase`, `item`, `location`, `kind`, `message`, `record` and `content`.
    #[schema(value_type = Vec<std::collections::HashMap<String, serde_json::Value>>)]
    items: Vec<Box<RawValue>>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// Lists the records that the execution skipped and no replay has written, as a replay takes them.
#[utoipa::path(get, path = "/v1/executions/{id}/replay", operation_id = "open_skips",
    tag = "executions", params(("id" = i64, Path), PageQuery),
    responses((status = 200, body = OpenSkips)))]
pub(super) async fn open(
    State(api): State<Api>,
    Id(id): Id,
    Asked(asked): Asked<PageQuery>,
) -> Result<Response, Problem> {
    blocking(move || {
        let limit = limit(asked.limit)?;
        let begin = cursor::<usize>(asked.cursor.as_deref())?.unwrap_or(0);
        let mut found = api.open_skips(id, begin, limit + 1)?;
        // The index among all skipped records: what is replayed meanwhile moves nothing.
        let next_cursor = cut(&mut found, limit, |(index, _)| index + 1);
        let items = found.into_iter().map(|(_, record)| record).collect();
        let path = format!("/v1/executions/{id}/replay");
        let list = OpenSkips { items, next_cursor };
        Ok(page(&list, &path, limit, [], list.next_cursor.as_deref()))
    })
    .await
}

/// A record of the list, with corrected fields. Further fields, such as those of the list, change nothing.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the OpenAPI document")]
struct CorrectedRecord {
    /// The execution that skipped it. Default: any of the instance.
    execution: Option<i64>,
    /// The step that skipped it.
    step: String,
    /// Its number in reading order.
    item: u64,
    /// Its fields.
    #[schema(value_type = std::collections::HashMap<String, Object>)]
    record: serde_json::Value,
}

/// The body of a replay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayBody {
    /// The records as the list has them, with corrected fields in `record`.
    #[schema(value_type = Vec<CorrectedRecord>)]
    records: Vec<Box<RawValue>>,
}

/// Sends corrected records through the processors and the writer of the step that skipped them, in an execution of its own. Records
/// that a replay has written are left out, so a request that is sent twice writes nothing twice.
#[utoipa::path(post, path = "/v1/executions/{id}/replay", tag = "executions", params(("id" = i64, Path),
    KeyHeader, PreferHeader),
    request_body = ReplayBody,
    responses((status = 202, body = ExecutionSummary, headers(("location" = String))),
    (status = 200, body = ExecutionSummary, headers(("location" = String)))))]
pub(super) async fn replay(
    State(api): State<Api>,
    _: NoQuery,
    Id(id): Id,
    headers: HeaderMap,
    Keyed { body, key, origin }: Keyed<ReplayBody>,
) -> Result<Response, Problem> {
    let start = move |api: &Api, request| {
        let by = origin.by.clone();
        let options = LaunchOptions { request, ..origin.options() };
        let started = api.start_replay(id, &body.records, options)?;
        let subject = format!("{} records of execution {id}", body.records.len());
        api.audit(&by, "replay", &subject, None);
        Ok(started)
    };
    let replayed = once(api.clone(), key, start, Api::accepted).await?;
    wait(&api, &headers, replayed).await
}
