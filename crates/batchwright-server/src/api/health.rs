//! The health checks of the server.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use batchwright::query::ExecutionFilter;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::NoQuery;
use super::problem::Verbatim;
use super::{Api, Problem, blocking, on_thread};
use crate::metrics::next_fires;

/// How long the store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` or `unavailable`.
    status: &'static str,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
}

/// Reports that the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
pub(super) async fn live() -> Json<Health> {
    Json(Health { status: "ok", checks: Vec::new() })
}

/// Reports whether the store answers, a worker runs, the scheduler works, and the server is neither ending nor drained.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, body = Health),
    (status = 503, body = Health)))]
pub(super) async fn ready(State(api): State<Api>) -> Response {
    let checks = checks(&api).await;
    let is_well = checks.iter().all(|check| check.ok);
    let (code, status) = match is_well {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    (code, axum::Extension(Verbatim), Json(Health { status, checks })).into_response()
}

/// Returns the metrics of this server as OpenMetrics text: what it did since its start, and what the store says now.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, content((String = "application/openmetrics-text")))))]
pub(super) async fn metrics(State(api): State<Api>, _: NoQuery) -> Result<Response, Problem> {
    if api.has_own_metrics {
        return Err(Problem::not_found(
            "the metrics are at an address of their own: `http.metrics`",
        ));
    }
    let upcoming = next_fires(api.scheduler.as_ref()).await;
    let text = blocking(move || {
        api.metrics.text(&upcoming).map_err(|error| {
            tracing::warn!(error, "the metrics cannot be read");
            let detail = "the store is unavailable at the moment";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail)
                .retry_after(1)
        })
    });
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text.await?).into_response())
}

/// Checks what the server needs to work.
pub(super) async fn checks(api: &Api) -> Vec<Check> {
    let asked = api.clone();
    // Without a turn: a server that is merely busy is well.
    let look = on_thread(move || {
        let one = ExecutionFilter::default().limit(1);
        Ok(asked.operator().queries().executions(&one).is_ok())
    });
    // A store that does not answer in time counts as unavailable.
    let store = tokio::time::timeout(STORE_TIMEOUT, look).await;
    let store = matches!(store, Ok(Ok(true)));
    let mut checks = vec![
        Check { name: "store", ok: store },
        Check { name: "worker", ok: api.has_worker() },
        Check { name: "not_ending", ok: !api.stop.is_requested() },
        Check { name: "not_drained", ok: !api.jobs.is_drained() },
    ];
    if let Some(scheduler) = &api.scheduler {
        let ok = scheduler.is_alive() && scheduler.status().ready.load(Ordering::Relaxed);
        checks.push(Check { name: "scheduler", ok });
        let status = scheduler.status();
        checks.push(Check { name: "clock", ok: !status.clock_off.load(Ordering::Relaxed) });
        checks.push(Check { name: "plans", ok: status.unparsable.load(Ordering::Relaxed) == 0 });
    }
    checks
}
