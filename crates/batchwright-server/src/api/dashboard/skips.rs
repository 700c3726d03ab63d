//! The records that an execution skipped.

use axum::extract::Query;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use batchwright::execution::{ExecutionId, SkipRecord};
use maud::{Markup, html};
use serde::Deserialize;

use super::super::access::Role;
use super::super::body::Id;
use super::super::{Problem, blocking};
use super::parts::{cause, cut, number, table};
use super::view::View;

/// Rows of a page.
const ROWS: usize = 100;
/// Most records of one export.
const EXPORT_MAX: usize = 10_000;
/// Most bytes of one export.
const EXPORT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest record that is shown whole, in letters.
const CONTENT_SHOWN: usize = 500;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Index of the first record of the page.
    from: usize,
}

pub(super) async fn page(
    view: View,
    Id(id): Id,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    view.write(move |view| {
        let execution = view.operator().explorer().execution(id)?;
        let skips = view.operator().queries().skips_page(id, asked.from, ROWS + 1)?;
        let shown = &skips[..skips.len().min(ROWS)];
        let content = html! {
            nav.crumbs aria-label="Path" { a href=(view.url("/executions")) { "Executions" } " / " a href=(view.url(&format!("/executions/{id}"))) { "Execution " (id) " of " (execution.job) } }
            div.title {
                h1 { "Skipped records" }
                @if !shown.is_empty() {
                    div.actions {
                        (correct_link(view, id))
                        a.button download="" href=(view.url(&format!("/executions/{id}/skips.jsonl"))) { "Download as JSON lines" }
                    }
                }
            }
            @if shown.is_empty() { p.empty { "The execution skipped no record." } } @else {
                p.hint { "Records " (number(asked.from as u64 + 1)) " to " (number((asked.from + shown.len()) as u64)) "." }
                @if view.api.replays.is_some() {
                    p.hint { "With the command: " code { "batchwright skips " (id) " --export rejected.jsonl" } ", correct the fields of " code { "record" } ", then " code { "batchwright replay " (id) " --from rejected.jsonl" } "." }
                }
                (records(shown))
                div.pager {
                    @if asked.from > 0 { a.button rel="prev" href=(view.url(&format!("/executions/{id}/skips?from={}", asked.from.saturating_sub(ROWS)))) { "Earlier" } }
                    @if skips.len() > ROWS { a.button rel="next" href=(view.url(&format!("/executions/{id}/skips?from={}", asked.from + ROWS))) { "Later" } }
                }
            }
        };
        Ok((format!("Skipped records of execution {id}"), content))
    })
    .await
}

/// The way to correct and replay the records, for those who may.
pub(super) fn correct_link(view: &View, id: ExecutionId) -> Markup {
    html! {
        @if view.may(Role::Operator) && view.api.replays.is_some() {
            a.button href=(view.url(&format!("/executions/{id}/correct"))) { "Correct and replay" }
        }
    }
}

pub(super) fn records(skips: &[SkipRecord]) -> Markup {
    html! {
        (table("Skipped records", &["Step", "Phase", ">Record", "Location", "Error", "Content"], &html! { @for skip in skips {
                    tr {
                        td { (skip.step) } td { (skip.phase.name()) } td.right { (number(skip.item)) }
                        td { (skip.location.as_deref().unwrap_or("")) }
                        td.wide { (cause(&skip.kind, unplaced(&skip.message, skip.location.as_deref()), CONTENT_SHOWN)) }
                        td.value { @if let Some(content) = &skip.content { code { (cut(content, CONTENT_SHOWN)) } } @else { span.hint { "not kept" } } }
                    }
                } }))
    }
}

/// Returns the message of a record without its place, which has a column of its own.
pub(super) fn unplaced<'a>(message: &'a str, place: Option<&str>) -> &'a str {
    let place = place.map(|place| format!(" ({place})"));
    place.and_then(|place| message.strip_suffix(&*place)).unwrap_or(message)
}

/// Returns the records as JSON lines.
pub(super) async fn export(view: View, Id(id): Id) -> Result<Response, Problem> {
    let text = blocking(move || {
        view.operator().explorer().execution(id)?;
        let (mut text, mut count) = (String::new(), 0);
        loop {
            let skips = view.operator().queries().skips_page(id, count, ROWS)?;
            count += skips.len();
            for line in skips.iter().filter_map(|skip| serde_json::to_string(skip).ok()) {
                text.push_str(&line);
                text.push('\n');
            }
            if skips.len() < ROWS {
                return Ok(text);
            }
            if count > EXPORT_MAX || text.len() > EXPORT_BYTES_MAX {
                return Err(Problem::invalid(format!(
                    "the execution skipped too many records for a page; use `batchwright skips {id} --export FILE`"
                )));
            }
        }
    })
    .await?;
    let name = format!("attachment; filename=\"skips-{id}.jsonl\"");
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, text).into_response())
}
