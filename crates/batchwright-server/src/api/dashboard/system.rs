//! The server: its checks, its operations, its store and version.

use axum::response::Response;
use maud::{Markup, html};

use super::super::Problem;
use super::super::health::{self, Check};
use super::operation;
use super::view::View;

pub(super) async fn page(view: View) -> Result<Response, Problem> {
    let checks = health::checks(&view.api).await;
    Ok(view.layout("System", &content(&view, &checks)))
}

/// Returns what people see of a check: when it is well, and when it is not.
fn words(check: &'static str) -> (&'static str, &'static str) {
    match check {
        "store" => ("store answers", "store does not answer"),
        "worker" => ("worker runs", "no worker runs"),
        "not_ending" => ("not shutting down", "shutting down"),
        "not_drained" => ("takes work", "drained"),
        "scheduler" => ("scheduler fires", "scheduler does not fire"),
        "clock" => ("clock agrees with the database", "clock is off"),
        "plans" => ("plans are readable", "a plan is unreadable"),
        name => (name, name),
    }
}

fn content(view: &View, checks: &[Check]) -> Markup {
    html! {
        h1 { "System" }
        section aria-labelledby="checks" {
            h2 #checks { "Checks" }
            ul.checks { @for check in checks { li {
                @let (well, ill) = words(check.name);
                @if check.ok { span.status.completed { span aria-hidden="true" { "✓" } (well) } }
                @else { span.status.failed { span aria-hidden="true" { "✕" } (ill) } }
            } } }
        }
        @let operations = view.api.operations.all();
        @if !operations.is_empty() {
            section aria-labelledby="operations" {
                h2 #operations { "Operations of this server" }
                (operation::table_of(view, &operations))
            }
        }
        section aria-labelledby="about" {
            h2 #about { "This server" }
            dl.facts {
                div { dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) } }
                div { dt { "Store" } dd { code { (view.operator().store_id()) } } }
                div { dt { "Time" } dd { (super::parts::exact(view.now)) } }
                div { dt { "API" } dd { a href=(view.url("/docs")) { "documentation" } " " a href=(view.url("/v1/openapi.json")) { "OpenAPI" } " " a href=(view.url("/book")) { "book" } } }
                div { dt { "Feeds" } dd { a href=(view.url("/failures.atom")) { "failures (Atom)" } " " a href=(view.url("/schedule.ics")) { "coming fires (iCal)" } } }
            }
        }
    }
}
