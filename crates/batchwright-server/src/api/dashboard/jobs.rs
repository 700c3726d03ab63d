//! The list of jobs with their last outcomes.

use std::collections::BTreeMap;

use axum::response::Response;
use batchwright::execution::JobExecution;
use maud::{Markup, html};

use super::super::Problem;
use super::parts::{ago, duration, job_path, seconds, status, table};
use super::view::View;

/// What the page says about a job.
#[derive(Default)]
struct Line {
    is_here: bool,
    newest: Option<JobExecution>,
}

pub(super) async fn page(view: View) -> Result<Response, Problem> {
    view.write(|view| {
        let mut lines: BTreeMap<String, Line> = BTreeMap::new();
        for newest in view.operator().queries().newest_of_jobs()? {
            let name = newest.job.clone();
            lines.entry(name).or_default().newest = Some(newest);
        }
        let names = view.operator().explorer().runnable_names();
        for name in names.map_err(|refusal| Problem::from(&refusal))? {
            lines.entry(name).or_default().is_here = true;
        }
        Ok(("Jobs".to_owned(), content(view, &lines)))
    })
    .await
}

fn content(view: &View, lines: &BTreeMap<String, Line>) -> Markup {
    html! {
        h1 { "Jobs" }
        @if lines.is_empty() {
            p.empty { "There are no jobs. Write a job file into the folder " code { "jobs" } "; " a href=(view.url("/book")) { "the book" } " has examples." }
        } @else {
            (table("Jobs", &["Job", "Last execution", "Status", "Accepted", ">Took", "By"], &html! { @for (name, line) in lines {
                    tr {
                        td { a href=(view.url(&job_path(name))) { (name) } @if !line.is_here { " " span.hint { "history only" } } }
                        @match &line.newest {
                            None => { td colspan="5" { span.hint { "never started" } } }
                            Some(one) => {
                                td { (view.execution(one.id)) }
                                td { (status(one.status, one.is_stale(view.now))) }
                                td { (ago(one.created_at, view.now)) }
                                @let end = one.ended_at.unwrap_or(view.now);
                                td.right { @if let Some(began) = one.started_at { (duration(seconds(began, end))) } }
                                td { (one.triggered_by.as_deref().unwrap_or("application")) }
                            }
                        }
                    }
                } }))
        }
    }
}
