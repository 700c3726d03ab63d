//! One operation: how far a command for many executions is, and which executions refused it.

use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::super::Problem;
use super::super::access::Role;
use super::super::command::Verb;
use super::super::operations::{OperationResult, OperationStatus, OperationView};
use super::super::page::percent;
use super::form::Fields;
use super::parts::{ago, clock, count_of, number, prose, table};
use super::view::View;

/// Most refusals, and most accepted commands, that the page shows.
const SHOWN: usize = 100;

/// Returns the path of an operation.
pub(super) fn path(id: &str) -> String {
    format!("/operations/{}", percent(id))
}

pub(super) async fn page(view: View, Path(id): Path<String>) -> Result<Response, Problem> {
    let operation = view.api.operations.find(&id)?;
    let refused = operation.results(0, SHOWN, |it| it.code.is_some());
    let accepted = operation.results(0, SHOWN, |it| it.code.is_none());
    let shown = operation.view();
    view.write(move |view| {
        let title = format!("{} {}", label(shown.action), count_of(shown.total, "execution"));
        Ok((title, content(view, &shown, &refused, &accepted)))
    })
    .await
}

/// Cancels the operation.
pub(super) async fn cancel(
    view: View,
    Path(id): Path<String>,
    _: Fields,
) -> Result<Response, Problem> {
    view.api.cancel(view.who(), &id)?;
    Ok(Redirect::to(&path(&id)).into_response())
}

fn content(
    view: &View,
    shown: &OperationView,
    refused: &[OperationResult],
    accepted: &[OperationResult],
) -> Markup {
    let is_running = shown.status == OperationStatus::Running;
    html! {
        nav.crumbs aria-label="Path" { a href=(view.url("/executions")) { "Executions" } }
        h1 { (label(shown.action)) " " (count_of(shown.total, "execution")) }
        // Its progress is in no stream of changes.
        @if is_running { span data-poll="" hidden {} }
        p {
            (status(shown.status)) " "
            @if is_running { progress max=(shown.total) value=(shown.done) aria-label="executions for which the command was given" {} " " }
            (number(shown.done as u64)) " of " (number(shown.total as u64)) ", " (number(shown.refused as u64)) " refused"
        }
        dl.facts {
            div { dt { "Begun" } dd { (clock(shown.created_at)) " by " (shown.by) } }
            @if let Some(filter) = &shown.filter { div { dt { "Search" } dd { a href=(view.url(&format!("/executions?q={}", percent(filter)))) { code { (filter) } } } } }
            @if let Some(ended) = shown.ended_at { div { dt { "Ended" } dd { (ago(ended, view.now)) } } }
        }
        @if shown.has_more { p.notice { "The search found more executions than one operation takes, the newest. For the rest, give the command again with " code { "until:" (shown.created_at.strftime("%Y-%m-%dT%H:%M:%SZ")) } " in the search." } }
        @if is_running && view.may(Role::Operator) {
            (view.button(&format!("{}/cancel", path(&shown.id)), "Cancel"))
            p.hint { "What it has done stays." }
        }
        @if !refused.is_empty() {
            section aria-labelledby="refused" {
                h2 #refused { "Refused" }
                (table("Refused", &["Execution", "Reason"], &html! {
                    @for one in refused { tr {
                        td { (view.execution(one.execution)) }
                        td { a href=(view.url(&format!("/errors/{}", one.code.as_deref().unwrap_or_default()))) { code { (one.code.as_deref().unwrap_or_default()) } } ": " (prose(one.detail.as_deref().unwrap_or_default())) }
                    } }
                }))
                @if shown.refused > refused.len() { p.hint { "The first " (refused.len()) " are shown; the API has all: " code { "/v1" (path(&shown.id)) "/results" } } }
            }
        }
        @if !accepted.is_empty() {
            section aria-labelledby="accepted" {
                h2 #accepted { "Accepted" }
                p { @for one in accepted {
                    (view.execution(one.execution)) @if let Some(started) = one.started { " → " (view.execution(started)) } " "
                } @if shown.done - shown.refused > accepted.len() { "…" } }
            }
        }
    }
}

/// Returns a table of operations.
pub(super) fn table_of(view: &View, operations: &[OperationView]) -> Markup {
    table(
        "Operations",
        &["Command", "Status", ">Given", ">Refused", "Begun", "By"],
        &html! { @for one in operations { tr {
            td { a href=(view.url(&path(&one.id))) { (label(one.action)) " " (count_of(one.total, "execution")) } }
            td { (status(one.status)) }
            td.right { (number(one.done as u64)) }
            td.right { (number(one.refused as u64)) }
            td { (ago(one.created_at, view.now)) }
            td { (one.by) }
        } } },
    )
}

/// Returns the command as its button has it.
fn label(verb: Verb) -> &'static str {
    match verb {
        Verb::Stop => "Stop",
        Verb::Restart => "Restart",
        Verb::Abandon => "Abandon",
        Verb::Recover => "Recover",
    }
}

fn status(status: OperationStatus) -> Markup {
    let (class, sign, word) = match status {
        OperationStatus::Running => ("running", "▸", "Running"),
        OperationStatus::Completed => ("completed", "✓", "Completed"),
        OperationStatus::Cancelled => ("stopped", "■", "Cancelled"),
        OperationStatus::Interrupted => ("stopped", "■", "Interrupted"),
    };
    html! { span.status.(class) { span aria-hidden="true" { (sign) } (word) } }
}
