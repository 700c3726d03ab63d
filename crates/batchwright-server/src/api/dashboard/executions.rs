//! The list of executions: a search in words, and commands for several at once.

use axum::extract::Query;
use axum::response::{IntoResponse, Redirect, Response};
use batchwright::execution::ExecutionId;
use batchwright::query::{ExecutionSearch, Found};
use maud::{Markup, html};
use serde::Deserialize;

use super::super::access::Role;
use super::super::command::Verb;
use super::super::operations::{EXECUTIONS_MAX, Order};
use super::super::page::percent;
use super::super::{Problem, commanding};
use super::form::Fields;
use super::operation;
use super::parts::{count_of, executions, number};
use super::view::View;

/// Rows of a page.
const ROWS: usize = 50;
/// Executions that a count shows.
const SHOWN: usize = 20;

/// Searches that are one click away.
const SEARCHES: [(&str, &str); 6] = [
    ("All", ""),
    ("Running", "status:running"),
    ("Failed, 24 h", "status:failed since:24h"),
    ("Stopped", "status:stopped"),
    ("Stale", "status:stale"),
    ("By schedule", "by:schedule"),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// The words of the search.
    q: String,
    /// The number of the last execution of the page before.
    before: Option<i64>,
}

pub(super) async fn page(view: View, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    view.write(move |view| {
        let (found, problem, is_live) = match ExecutionSearch::parse(&asked.q, view.now) {
            Ok(search) => {
                let found = find(view, &search, asked.before.map(ExecutionId))?;
                // A search that reads many rows is not repeated by itself.
                (found, None, search.is_exact() || asked.q == "status:stale")
            }
            Err(problem) => (Found::default(), Some(problem), false),
        };
        let content = content(view, &asked, &found, problem.as_deref())?;
        let content = html! { (content) @if !is_live { span data-still="" hidden {} } };
        Ok(("Executions".to_owned(), content))
    })
    .await
}

fn find(
    view: &View,
    search: &ExecutionSearch,
    before: Option<ExecutionId>,
) -> Result<Found, Problem> {
    Ok(search.find(view.operator().queries(), before, ROWS, view.now)?)
}

fn content(
    view: &View,
    asked: &Asked,
    found: &Found,
    problem: Option<&str>,
) -> Result<Markup, Problem> {
    let list = view.operator().explorer().summaries(&found.executions)?;
    let jobs = view.api.job_names.read(view.operator())?;
    let is_operator = view.may(Role::Operator);
    Ok(html! {
        h1 { "Executions" }
        form.search role="search" action=(view.url("/executions")) {
            label.hidden for="q" { "Search" }
            input #q type="search" name="q" value=(asked.q) list="words" autocomplete="off" spellcheck="false" placeholder="job:import status:failed since:24h param.date:2026-11" aria-describedby="grammar";
            datalist #words {
                @for job in jobs.iter().take(100) { option value=(format!("job:{job}")) {} }
                @for word in ["status:failed", "status:running", "status:stale", "since:24h", "by:schedule"] { option value=(word) {} }
            }
            button { "Search" }
        }
        @if let Some(problem) = problem { p.notice.bad role="alert" { (problem) } }
        p #grammar.hint { "Conditions, separated by blanks: " code { "job:" } " " code { "status:" } " " code { "since:" } " " code { "until:" } " " code { "instance:" } " " code { "by:" } " " code { "param.NAME:" } }
        nav.views aria-label="Searches" {
            @for (name, words) in SEARCHES {
                a href=(view.url(&address(words, None))) aria-current=[(asked.q == words).then_some("true")] { (name) }
            }
        }
        @if list.is_empty() {
            p.empty { @if asked.q.is_empty() { "No job was started yet. " a href=(view.url("/jobs")) { "Start one" } "." } @else { "No execution matches." } }
        } @else {
            (executions(view, &list, true, is_operator))
            div.pager {
                span { (count_of(list.len(), "execution")) " shown" }
                @if asked.before.is_some() { a.button href=(view.url(&address(&asked.q, None))) { "Newest" } }
                @if let Some(next) = found.next { a.button rel="next" href=(view.url(&address(&asked.q, Some(next)))) { "Older" } }
            }
            @if is_operator { (bulk_form(view, asked)) }
        }
    })
}

fn address(words: &str, before: Option<ExecutionId>) -> String {
    let before = before.map(|id| format!("&before={id}")).unwrap_or_default();
    format!("/executions?q={}{before}", percent(words))
}

fn bulk_form(view: &View, asked: &Asked) -> Markup {
    html! {
        form #bulk.bulk method="post" action=(view.url("/executions/bulk")) {
            (view.form_key())
            input type="hidden" name="q" value=(asked.q);
            label.box { input type="checkbox" name="dry_run" checked; "count first, change nothing" }
            label { "Command for "  select name="scope" { option value="selected" { "the selected ones" } option value="all" { "everything that matches the search" } } }
            @for (verb, label) in [("stop", "Stop"), ("restart", "Restart"), ("recover", "Recover")] {
                button name="verb" value=(verb) { (label) }
            }
            button.danger name="verb" value="abandon" { "Abandon" }
        }
    }
}

/// Counts the executions of a command for several, or begins an operation that gives it.
pub(super) async fn bulk(view: View, fields: Fields) -> Result<Response, Problem> {
    let verb = Verb::from_name(fields.text("verb"))?;
    let named = fields.all("id").map(|id| id.parse().map(ExecutionId));
    let named = named.collect::<Result<Vec<_>, _>>();
    let named = named.map_err(|_| Problem::invalid("an execution has no number"))?;
    let words = fields.text("q").to_owned();
    let api = view.api.clone();
    let (filter, named) = match fields.text("scope") {
        "all" => (Some(words.clone()), None),
        _ => (None, Some(named)),
    };
    let order = commanding(move || api.order(verb, filter, named)).await?;
    // What is for all executions of the store is counted first.
    let is_for_all = order.filter.as_ref().is_some_and(|words| words.trim().is_empty());
    if order.ids.is_empty() || is_for_all || fields.is_set("dry_run") {
        let title = format!("{} executions", verb.name());
        return view.write(move |view| Ok((title, counted(view, &words, &order)))).await;
    }
    let begun = view.api.begin(view.who(), order)?;
    Ok(Redirect::to(&operation::path(&begun.view().id)).into_response())
}

fn counted(view: &View, words: &str, order: &Order) -> Markup {
    let (verb, ids) = (order.verb.name(), &order.ids);
    html! {
        span data-still="" hidden {}
        h1 { "Check before you " (verb) }
        @if ids.is_empty() {
            p.empty { "No execution is selected, or none of those that match can be changed by " b { (verb) } "." }
        } @else {
            p { "The command " b { (verb) } " would be given for " b { (count_of(ids.len(), "execution")) } ". Nothing was changed." }
            p.hint { @for id in ids.iter().take(SHOWN) { (view.execution(*id)) " " } @if ids.len() > SHOWN { "…" } }
            @if order.has_more { p.notice { "At most " (number(EXECUTIONS_MAX as u64)) " executions at once, the newest; for the rest, give the command again with " code { "until:" } " and the present time in the search." } }
            (view.form("/executions/bulk", &html! {
                input type="hidden" name="q" value=(words);
                // Exactly those that were counted.
                @for id in ids { input type="hidden" name="id" value=(id); }
                button.danger name="verb" value=(verb) { (verb) " " (count_of(ids.len(), "execution")) }
            }))
        }
        p { a href=(view.url(&address(words, None))) { "Back to the list" } }
    }
}
