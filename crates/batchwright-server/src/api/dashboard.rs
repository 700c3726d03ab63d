//! The dashboard: pages that the server writes, with forms that work without scripts.
//!
//! Each page is one file with its handlers. `view` has what every page has: layout, links, forms; `parts` what several pages show.

mod audit;
mod chart;
mod compare;
mod context;
mod correct;
mod execution;
mod executions;
mod feeds;
mod form;
mod job;
mod jobs;
mod names;
mod operation;
mod outcomes;
mod overview;
mod parts;
mod progressive;
mod schedule;
mod sign_in;
mod skips;
mod system;
mod trigger;
mod view;
mod workers;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use super::access::is_page;
use super::base::Base;
use super::body::accepts;
use super::identity::BACK;
use super::page::percent;
use super::{Api, Problem};

pub(super) use names::JobNames;
pub(super) use outcomes::Outcomes;

const STYLE: &str = include_str!("../../assets/dashboard.css");
const SCRIPT: &str = include_str!("../../assets/dashboard.js");
const ICON: &str = include_str!("../../assets/icon.svg");

/// Returns the routes of the pages.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(overview::page))
        .route("/executions", get(executions::page))
        .route("/executions/bulk", post(executions::bulk))
        .route("/executions/{id}", get(execution::page))
        .route("/executions/{id}/{verb}", post(execution::command))
        .route("/executions/{id}/context", post(context::replace))
        .route("/executions/{id}/skips", get(skips::page))
        .route("/executions/{id}/skips.jsonl", get(skips::export))
        .route("/executions/{id}/correct", get(correct::page).post(correct::replay))
        .route("/operations/{id}", get(operation::page))
        .route("/operations/{id}/cancel", post(operation::cancel))
        .route("/compare", get(compare::page))
        .route("/jobs", get(jobs::page))
        .route("/jobs/{job}", get(job::page))
        .route("/jobs/{job}/start", post(job::start))
        .route("/schedule", get(schedule::page).post(schedule::set))
        .route("/schedule/{id}", get(trigger::page))
        .route("/schedule/{id}/{verb}", post(trigger::command))
        .route("/rules", post(schedule::set_rule))
        .route("/rules/{id}/unset", post(schedule::unset_rule))
        .route("/audit", get(audit::page))
        .route("/system", get(system::page))
        .route("/progressive", get(progressive::page))
        .route("/workers", get(workers::page))
        .route("/workers/{verb}", post(workers::command))
        .route("/failures.atom", get(feeds::failures))
        .route("/schedule.ics", get(feeds::calendar))
        .route("/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/sign-in/oidc", get(sign_in::by_provider))
        .route(BACK, get(sign_in::back))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/assets/dashboard.css", get(|| asset("text/css; charset=utf-8", STYLE)))
        .route("/assets/dashboard.js", get(|| asset("text/javascript; charset=utf-8", SCRIPT)))
        .route("/assets/icon.svg", get(|| asset("image/svg+xml", ICON)))
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=3600")], text)
}

/// Shows errors to people as pages, and leads those who must sign in to the page for it.
pub(super) async fn errors_as_pages(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let wants_page = is_for_people(request.headers()) && !path.starts_with("/v1/");
    if !wants_page {
        return next.run(request).await;
    }
    let is_get = request.method() == Method::GET;
    let target = request.uri().path_and_query().map_or("/", |it| it.as_str()).to_owned();
    let base = request.extensions().get::<Base>().cloned().unwrap_or_default();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    if response.status() == StatusCode::UNAUTHORIZED && is_get && is_page(&path) {
        return Redirect::to(&format!("/sign-in?next={}", percent(&target))).into_response();
    }
    view::problem_page(&base, &problem, response.headers())
}

fn is_for_people(headers: &HeaderMap) -> bool {
    accepts(headers, "text/html")
}
