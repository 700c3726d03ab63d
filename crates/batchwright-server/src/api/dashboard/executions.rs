//! The list of executions: a search in words, and commands for several at once.

use axum::extract::Query;
use axum::response::Response;
use batchwright::BatchStatus;
use batchwright::execution::{ExecutionId, JobExecution};
use batchwright::launch::{Launch, LaunchOptions, RecoverMode};
use batchwright::operator::OperatorError;
use batchwright::query::{ExecutionSearch, Found};
use maud::{Markup, html};
use serde::Deserialize;

use super::super::access::Role;
use super::super::page::percent;
use super::super::{Problem, commanding};
use super::form::Fields;
use super::parts::{count_of, executions};
use super::view::View;

/// Rows of a page.
const ROWS: usize = 50;
/// Most executions of one command for several.
const BULK_MAX: usize = 1_000;
/// Most reasons of refusals that are shown.
const REASONS_MAX: usize = 20;

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
        let nothing = Found { executions: Vec::new(), next: None };
        let (found, problem, is_live) = match ExecutionSearch::parse(&asked.q, view.now) {
            Ok(search) => {
                let found = find(view, &search, asked.before.map(ExecutionId))?;
                // A search that reads many rows is not repeated by itself.
                (found, None, search.is_exact() || asked.q == "status:stale")
            }
            Err(problem) => (nothing, Some(problem), false),
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
    let jobs = view.operator().queries().job_names()?;
    let is_operator = view.may(Role::Operator);
    Ok(html! {
        h1 { "Executions" }
        form.search role="search" action=(view.url("/executions")) {
            label for="q" { "Search" }
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
            label { "Command for "  select name="scope" { option value="selected" { "the selected ones" } option value="all" { "everything that matches the search" } } }
            @for (verb, label) in [("stop", "Stop"), ("restart", "Restart"), ("abandon", "Abandon")] {
                button name="verb" value=(verb) { (label) }
            }
            label { input type="checkbox" name="dry_run" checked; "count only" }
        }
    }
}

/// Stops, restarts or abandons several executions, and shows what became of each.
pub(super) async fn bulk(view: View, fields: Fields) -> Result<Response, Problem> {
    let verb = fields.text("verb").to_owned();
    if !["stop", "restart", "abandon"].contains(&&*verb) {
        return Err(Problem::invalid(format!("`{verb}` is no command for executions")));
    }
    let selected = fields.all("id").map(str::parse).collect::<Result<Vec<i64>, _>>();
    let selected = selected.map_err(|_| Problem::invalid("an execution has no number"))?;
    let (all, dry_run) = (fields.text("scope") == "all", fields.is_set("dry_run"));
    let words = fields.text("q").to_owned();
    let worked = view.clone();
    let (ids, results) = commanding(move || {
        let ids = match all {
            false => selected.into_iter().map(ExecutionId).take(BULK_MAX).collect(),
            true => matching(&worked, &words, &verb)?,
        };
        let results = match dry_run {
            true => Vec::new(),
            false => ids.iter().map(|id| (*id, give(&worked, &verb, *id))).collect(),
        };
        Ok((ids, results))
    })
    .await?;
    let verb = fields.text("verb").to_owned();
    let words = fields.text("q").to_owned();
    view.write(move |view| {
        let content = match dry_run {
            true => counted(view, &verb, &words, &ids),
            false => done(view, &verb, &results),
        };
        Ok((format!("{verb} executions"), content))
    })
    .await
}

/// Returns the executions of a search for which the command makes sense, at most [`BULK_MAX`].
fn matching(view: &View, words: &str, verb: &str) -> Result<Vec<ExecutionId>, Problem> {
    let mut search = ExecutionSearch::parse(words, view.now).map_err(Problem::invalid)?;
    let fits = |one: &JobExecution| match verb {
        "stop" => one.status.is_running(),
        _ => one.status.is_restartable(),
    };
    use BatchStatus::{Failed, Started, Starting, Stopped, Stopping};
    let statuses =
        if verb == "stop" { &[Starting, Started, Stopping][..] } else { &[Failed, Stopped] };
    if verb != "stop" {
        search = search.newest_of_instance();
    }
    let Some(search) = search.within(statuses) else { return Ok(Vec::new()) };
    let (mut ids, mut before) = (Vec::new(), None);
    // Pages of the search, until enough of them fit.
    loop {
        let found = search.find(view.operator().queries(), before, BULK_MAX, view.now)?;
        ids.extend(found.executions.iter().filter(|one| fits(one)).map(|one| one.id));
        before = found.next;
        if ids.len() >= BULK_MAX || before.is_none() {
            ids.truncate(BULK_MAX);
            return Ok(ids);
        }
    }
}

/// Gives one command for one execution, as its page does.
pub(super) fn give(view: &View, verb: &str, id: ExecutionId) -> Result<ExecutionId, Problem> {
    let operator = view.operator();
    if matches!(verb, "restart" | "abandon") {
        view.api.refuse_replay(id)?;
    }
    let given = match verb {
        "restart" => {
            view.api.check_worker()?;
            let options =
                LaunchOptions { triggered_by: Some(view.who()), ..LaunchOptions::default() };
            return Ok(operator.enqueue(&Launch::restart(id).options(options))?.id);
        }
        "stop" => operator.stop(id).map(|_| id),
        "abandon" => operator.abandon(id).map(|one| one.id),
        "recover" => operator.recover(id, RecoverMode::Detect).map(|one| one.id),
        _ => return Err(Problem::invalid(format!("`{verb}` is no command for executions"))),
    };
    let id = given.map_err(|error: OperatorError| Problem::from(error))?;
    view.audit(verb, &format!("execution {id}"));
    Ok(id)
}

fn counted(view: &View, verb: &str, words: &str, ids: &[ExecutionId]) -> Markup {
    html! {
        span data-still="" hidden {}
        h1 { "Check before you " (verb) }
        @if ids.is_empty() {
            p.empty { "No execution is selected, or none of those that match can be changed by " b { (verb) } "." }
        } @else {
            p { "The command " b { (verb) } " would be given for " b { (count_of(ids.len(), "execution")) } ". Nothing was changed." }
            p.hint { @for id in ids.iter().take(REASONS_MAX) { (view.execution(*id)) " " } @if ids.len() > REASONS_MAX { "…" } }
            @if ids.len() == BULK_MAX { p.notice { "At most " (BULK_MAX) " executions at once; give the command again for the rest." } }
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

fn done(
    view: &View,
    verb: &str,
    results: &[(ExecutionId, Result<ExecutionId, Problem>)],
) -> Markup {
    let refused: Vec<_> =
        results.iter().filter_map(|(id, result)| Some((id, result.as_ref().err()?))).collect();
    html! {
        span data-still="" hidden {}
        h1 { "Done: " (verb) }
        p { (count_of(results.len() - refused.len(), "execution")) " accepted the command, " (refused.len()) " refused it." }
        ul {
            @for (id, problem) in refused.iter().take(REASONS_MAX) {
                li { a href=(view.url(&format!("/executions/{id}"))) { "Execution " (id) } ": " (problem.detail()) }
            }
        }
        p { a.button href=(view.url("/executions")) { "Executions" } }
    }
}
