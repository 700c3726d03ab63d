//! Replays of skipped records by the API.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use batchwright::execution::{ExecutionId, ExecutionSummary};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::access::Caller;
use super::body::{Asked, Body, Id, NoQuery};
use super::page::{PageQuery, cursor, cut, limit, page};
use super::{Api, Problem, blocking};
use crate::replay::ReplayRefused;

impl From<ReplayRefused> for Problem {
    fn from(refused: ReplayRefused) -> Self {
        match refused {
            ReplayRefused::Operator(error) => error.into(),
            ReplayRefused::Records(message) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "usage", message)
            }
        }
    }
}

impl Api {
    /// Returns the records of `execution` that no replay has written.
    pub(super) fn open_skips(
        &self,
        execution: ExecutionId,
        from: usize,
        limit: usize,
    ) -> Result<Vec<Box<RawValue>>, Problem> {
        let replays = self.replays.as_ref().ok_or_else(no_replays)?;
        Ok(replays.open(self.operator(), execution, from, limit)?)
    }

    /// Starts a replay for `who` and returns its execution.
    pub(super) fn start_replay(
        &self,
        execution: ExecutionId,
        records: &[Box<RawValue>],
        who: String,
    ) -> Result<ExecutionId, Problem> {
        let replays = self.replays.as_ref().ok_or_else(no_replays)?;
        Ok(replays.replay(self.operator(), execution, records, who)?)
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
#[utoipa::path(get, path = "/v1/executions/{id}/replay", tag = "executions", params(("id" = i64, Path), PageQuery),
    responses((status = 200, body = OpenSkips)))]
pub(super) async fn open(
    State(api): State<Api>,
    Id(id): Id,
    Asked(asked): Asked<PageQuery>,
) -> Result<Response, Problem> {
    blocking(move || {
        let limit = limit(asked.limit)?;
        let begin = cursor::<usize>(asked.cursor.as_deref())?.unwrap_or(0);
        let mut items = api.open_skips(id, begin, limit + 1)?;
        let next_cursor = cut(&mut items, limit, |_| begin + limit);
        let path = format!("/v1/executions/{id}/replay");
        let list = OpenSkips { items, next_cursor };
        Ok(page(&list, &path, limit, [], list.next_cursor.as_deref()))
    })
    .await
}

/// The body of a replay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayBody {
    /// The records as the list has them, with corrected fields in `record`.
    #[schema(value_type = Vec<std::collections::HashMap<String, serde_json::Value>>)]
    records: Vec<Box<RawValue>>,
}

/// Sends corrected records through the processors and the writer of the step that skipped them, in an execution of its own. Records
/// that a replay has written are left out, so a request that is sent twice writes nothing twice.
#[utoipa::path(post, path = "/v1/executions/{id}/replay", tag = "executions", params(("id" = i64, Path)),
    request_body = ReplayBody,
    responses((status = 202, body = ExecutionSummary, headers(("location" = String)))))]
pub(super) async fn replay(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Id(id): Id,
    Body(ReplayBody { records }): Body<ReplayBody>,
) -> Result<Response, Problem> {
    blocking(move || {
        let started = api.start_replay(id, &records, caller.named())?;
        api.audit(&caller, "replay", &format!("{} records of execution {id}", records.len()));
        api.accepted(started)
    })
    .await
}
