//! Who gave which command.

use axum::extract::Query;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::super::Problem;
use super::operation;
use super::parts::{clock, table};
use super::schedule::trigger_path;
use super::view::View;

/// Rows of a page.
const ROWS: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// The number of the last entry of the page before.
    before: Option<i64>,
}

pub(super) async fn page(view: View, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    view.write(move |view| {
        let mut entries = view.operator().queries().audit(asked.before, ROWS + 1)?;
        let has_more = entries.len() > ROWS;
        entries.truncate(ROWS);
        let content = html! {
            h1 { "Audit" }
            p.hint { "Commands of people and programs. What a schedule, a queue or a step starts is in the executions." }
            @if entries.is_empty() { p.empty { "No command was given yet." } } @else {
                (table("Commands", &["Time", "Who", "Command", "For", "Detail"], &html! { @for one in &entries { tr { td { (clock(one.at)) } td { (one.who) } td { b { (one.action) } } td { (subject(view, &one.subject)) } td { (one.detail.as_deref().unwrap_or("")) } } } }))
                @if has_more { @if let Some(last) = entries.last() { div.pager { a.button rel="next" href=(view.url(&format!("/audit?before={}", last.id))) { "Older" } } } }
            }
        };
        Ok(("Audit".to_owned(), content))
    })
    .await
}

fn subject(view: &View, subject: &str) -> Markup {
    let path = match subject.split_once(' ') {
        Some(("execution", id)) => Some(format!("/executions/{id}")),
        Some(("operation", rest)) => rest.split(':').next().map(operation::path),
        Some(("trigger", identifier)) => Some(trigger_path(identifier)),
        _ => None,
    };
    html! { @match path { Some(path) => a href=(view.url(&path)) { (subject) }, None => (subject) } }
}
