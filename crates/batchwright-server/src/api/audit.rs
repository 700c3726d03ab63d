//! Who gave which command.

use axum::extract::State;
use axum::response::Response;
use batchwright::audit::AuditEntry;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::Asked;
use super::page::{cursor, cut, limit, page};
use super::{Api, Problem, blocking};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Only commands given at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Maximum number of entries of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// The `next_cursor` of the previous page.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditList {
    items: Vec<AuditEntry>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// Lists the commands of people and programs, newest first: who gave which command for what, with the command line, the API or the
/// dashboard.
#[utoipa::path(get, path = "/v1/audit", operation_id = "list_audit",
    tag = "audit", params(AuditQuery), responses((status = 200, body = AuditList)))]
pub(super) async fn list(
    State(api): State<Api>,
    Asked(asked): Asked<AuditQuery>,
) -> Result<Response, Problem> {
    let limit = limit(asked.limit)?;
    let before = cursor::<i64>(asked.cursor.as_deref())?;
    blocking(move || {
        let mut items = api.operator().queries().audit(before, limit + 1)?;
        let mut next_cursor = cut(&mut items, limit, |last| last.id);
        // The clocks of several processes differ: one older entry does not end the list.
        items.retain(|entry| asked.since.is_none_or(|since| entry.at >= since));
        if items.is_empty() {
            next_cursor = None;
        }
        let asked = [("since", asked.since.map(|at| at.to_string()))];
        let list = AuditList { items, next_cursor };
        Ok(page(&list, "/v1/audit", limit, asked, list.next_cursor.as_deref()))
    })
    .await
}
