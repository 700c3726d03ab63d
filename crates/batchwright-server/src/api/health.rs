//! Signs of life.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use batchwright::ExecutionFilter;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, Problem, blocking};

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` or `unavailable`.
    status: &'static str,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Check {
    name: &'static str,
    ok: bool,
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
pub(super) async fn live() -> Json<Health> {
    Json(Health { status: "ok", checks: Vec::new() })
}

/// The store answers, the scheduler works, and the server is not about to end.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, body = Health),
    (status = 503, body = Health)))]
pub(super) async fn ready(State(api): State<Api>) -> Result<(StatusCode, Json<Health>), Problem> {
    let asked = api.clone();
    let store = blocking(move || {
        let one = ExecutionFilter::default().limit(1);
        Ok(asked.operator().queries().executions(&one).is_ok())
    })
    .await?;
    let mut checks = vec![
        Check { name: "store", ok: store },
        Check { name: "not_ending", ok: !api.stop.is_requested() },
    ];
    if let Some(scheduler) = &api.scheduler {
        let ok = scheduler.is_alive() && scheduler.vitals().ready.load(Ordering::Relaxed);
        checks.push(Check { name: "scheduler", ok });
    }
    let is_well = checks.iter().all(|check| check.ok);
    let (code, status) = match is_well {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    Ok((code, Json(Health { status, checks })))
}
