//! The server, its store, and the processes that run executions.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use batchwright::execution::JobExecution;
use batchwright::query::ExecutionFilter;
use batchwright::store::schedule::ServerRow;
use maud::{Markup, html};

use super::super::Problem;
use super::super::access::Role;
use super::super::health::{self, Check};
use super::form::Fields;
use super::operation;
use super::parts::{ago, count_of, micros, table};
use super::view::View;
use crate::scheduler::{Answer, Request};

/// Most running executions that are grouped by their owners.
const RUNNING_MAX: usize = 1_000;

pub(super) async fn page(view: View) -> Result<Response, Problem> {
    let servers = match &view.api.scheduler {
        Some(scheduler) => match scheduler.read(Request::Servers).await {
            Ok(Answer::Servers(servers)) => servers,
            // The checks of the page say that the scheduler does not answer.
            Ok(Answer::Done | Answer::Triggers(_) | Answer::Rules(_)) | Err(_) => Vec::new(),
        },
        None => Vec::new(),
    };
    let checks = health::checks(&view.api).await;
    view.write(move |view| {
        let filter = ExecutionFilter::default().running().limit(RUNNING_MAX);
        let running = view.operator().queries().executions(&filter)?;
        Ok(("System".to_owned(), content(view, &checks, &servers, &running)))
    })
    .await
}

/// Whether this server begins work, and the command that changes it.
fn work(view: &View) -> Markup {
    let server = view.api.server();
    let rest = format!(
        "{} and {} go on",
        count_of(server.running, "execution"),
        count_of(server.firing, "trigger")
    );
    html! {
        @if server.drained { p.notice { "Drained: it claims no execution and fires no trigger. " @if server.running + server.firing == 0 { "Nothing runs any more; the process can be ended." } @else { (rest) "." } } }
        @if view.may(Role::Operator) {
            @if server.drained { (view.button("/system/resume", "Begin work again")) }
            @else { (view.asking("/system/drain", "Drain", "This server then claims no execution and fires no trigger; what runs goes on, and other servers of the store take over. Its check of readiness fails meanwhile.", "plain")) }
        }
    }
}

/// Drains this server, or lets it begin work again.
pub(super) async fn command(
    view: View,
    Path(verb): Path<String>,
    _: Fields,
) -> Result<Response, Problem> {
    let is_drained = match verb.as_str() {
        "drain" => true,
        "resume" => false,
        _ => return Err(Problem::not_found("this address does not exist")),
    };
    view.api.set_drained(view.who(), is_drained).await?;
    Ok(Redirect::to("/system").into_response())
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

fn content(
    view: &View,
    checks: &[Check],
    servers: &[ServerRow],
    running: &[JobExecution],
) -> Markup {
    let mut owners: BTreeMap<&str, Vec<&JobExecution>> = BTreeMap::new();
    for one in running {
        owners.entry(one.owner.as_deref().unwrap_or("queued")).or_default().push(one);
    }
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
        section aria-labelledby="processes" {
            h2 #processes { "Processes that run executions" }
            @if owners.is_empty() { p.empty { "No execution runs." } } @else {
                (table("Processes", &["Process", "Runs", "Lease ends"], &html! { @for (owner, list) in &owners {
                        tr {
                            td { code { (owner) } }
                            td { (count_of(list.len(), "execution")) ": " @for one in list.iter().take(10) { (view.execution(one.id)) " " } }
                            @let until = list.iter().filter_map(|one| one.lease_until).min();
                            td { @if let Some(until) = until { (ago(until, view.now)) } }
                        }
                    } }))
            }
        }
        section aria-labelledby="servers" {
            h2 #servers { "Servers that fire triggers" }
            @if servers.is_empty() { p.empty { "None." } } @else {
                (table("Servers", &["Server", "Process", "Lease ends"], &html! { @for server in servers {
                        @let until = micros(server.lease_until);
                        tr { td { (server.id) } td { code { (server.identity) } } td { (ago(until, view.now)) } }
                    } }))
            }
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
            (work(view))
        }
    }
}
