//! The processes that run executions, what each carries, what waits and why, and whether this server begins work.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use batchwright::BatchStatus;
use batchwright::execution::JobExecution;
use batchwright::query::ExecutionFilter;
use batchwright::store::owner::{Liveness, ProcessIdentity};
use batchwright::store::schedule::ServerRow;
use jiff::Timestamp;
use maud::{Markup, html};

use super::super::Problem;
use super::super::access::Role;
use super::form::Fields;
use super::parts::{ago, count_of, cut, job_path, micros, number, table};
use super::view::View;
use crate::scheduler::{Answer, Request};

/// Most running executions that are grouped by their owners.
const RUNNING_MAX: usize = 1_000;
/// Executions that begin, and those that wait, of one look.
const STARTING_READ: usize = 200;
/// Most waiting executions, and executions of a process, that are listed.
const SHOWN: usize = 20;

/// The executions that no process has begun.
struct Waiting {
    count: u64,
    /// The oldest ones, the newest of them first.
    oldest: Vec<JobExecution>,
}

pub(super) async fn page(view: View) -> Result<Response, Problem> {
    let servers = match &view.api.scheduler {
        Some(scheduler) => match scheduler.read(Request::Servers).await {
            Ok(Answer::Servers(servers)) => servers,
            // The checks of the system's page say that the scheduler does not answer.
            Ok(Answer::Done | Answer::Triggers(_) | Answer::Rules(_)) | Err(_) => Vec::new(),
        },
        None => Vec::new(),
    };
    view.write(move |view| {
        let queries = view.operator().queries();
        // Apart from those that wait, of which there may be very many.
        let begun =
            ExecutionFilter::default().status(BatchStatus::Started).status(BatchStatus::Stopping);
        let mut running = queries.executions(&begun.limit(RUNNING_MAX))?;
        let starting = ExecutionFilter::default().status(BatchStatus::Starting);
        let count = queries.execution_count(&starting)?;
        // The oldest ones are next.
        let offset = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(STARTING_READ);
        let starting = ExecutionFilter { offset, ..starting.limit(STARTING_READ) };
        let (taken, waiting): (Vec<_>, Vec<_>) =
            queries.executions(&starting)?.into_iter().partition(|one| one.owner.is_some());
        let waiting_count = count.saturating_sub(taken.len() as u64);
        running.extend(taken);
        let names = view.operator().explorer().runnable_names();
        let jobs = names.map_err(|refusal| Problem::from(&refusal))?;
        let waiting = Waiting { count: waiting_count, oldest: waiting };
        Ok(("Workers".to_owned(), content(view, &servers, &running, &waiting, &jobs)))
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
        @if !server.drained { p { "It runs " (count_of(server.running, "execution")) " and fires " (count_of(server.firing, "trigger")) "." } }
        @if view.may(Role::Operator) {
            @if server.drained { (view.button("/workers/resume", "Begin work again")) }
            @else { (view.asking("/workers/drain", "Drain", "This server then claims no execution and fires no trigger; what runs goes on, and other servers of the store take over. Its check of readiness fails meanwhile.", "plain")) }
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
    Ok(Redirect::to("/workers").into_response())
}

fn content(
    view: &View,
    servers: &[ServerRow],
    running: &[JobExecution],
    waiting: &Waiting,
    jobs: &[String],
) -> Markup {
    let mut owners: BTreeMap<&str, Vec<&JobExecution>> = BTreeMap::new();
    for one in running {
        if let Some(owner) = &one.owner {
            owners.entry(owner).or_default().push(one);
        }
    }
    html! {
        h1 { "Workers" }
        section aria-labelledby="this" { h2 #this { "This server" } (work(view)) }
        section aria-labelledby="processes" {
            h2 #processes { "Processes that run executions" }
            @if owners.is_empty() { p.empty { "No execution runs." } } @else {
                (table("Processes", &["Process", "State", "Runs", "Lease ends"], &html! { @for (owner, list) in &owners {
                    @let until = list.iter().filter_map(|one| one.lease_until).min();
                    tr {
                        td { (process(owner)) }
                        td { (liveness(owner, until, view.now)) }
                        td.wide { (count_of(list.len(), "execution")) ": " @for one in list.iter().take(SHOWN) { (view.execution(one.id)) " " } @if list.len() > SHOWN { "…" } }
                        td { @if let Some(until) = until { (ago(until, view.now)) } }
                    }
                } }))
            }
            @if running.len() >= RUNNING_MAX { p.hint { "Of the newest " (number(RUNNING_MAX as u64)) " running executions." } }
        }
        section aria-labelledby="waiting" {
            h2 #waiting { "Waiting" @if waiting.count > 0 { span.badge { (number(waiting.count)) } } }
            @if waiting.oldest.is_empty() { p.empty { "No execution waits for a worker." } } @else {
                (table("Waiting executions", &["Execution", "Job", "Accepted", "Why it waits"], &html! { @for one in waiting.oldest.iter().rev().take(SHOWN) {
                    tr {
                        td { (view.execution(one.id)) }
                        td { a href=(view.url(&job_path(&one.job))) { (one.job) } }
                        td { (ago(one.created_at, view.now)) }
                        td { (why(view, one, jobs)) }
                    }
                } }))
            }
        }
        section aria-labelledby="servers" {
            h2 #servers { "Servers that fire triggers" }
            @if servers.is_empty() { p.empty { "None." } } @else {
                (table("Servers", &["Server", "Process", "State", "Lease ends"], &html! { @for server in servers {
                    @let until = micros(server.lease_until);
                    tr {
                        td { (server.id) }
                        td { (process(&server.identity)) }
                        td { (liveness(&server.identity, Some(until), view.now)) }
                        td { (ago(until, view.now)) }
                    }
                } }))
            }
        }
    }
}

/// Why a queued execution has not begun, as far as this server knows.
fn why(view: &View, one: &JobExecution, jobs: &[String]) -> &'static str {
    if !jobs.contains(&one.job) {
        "this server does not have the job; a server or worker that has it must run"
    } else if view.api.jobs.is_drained() {
        "this server is drained and begins nothing"
    } else if !view.api.has_worker() {
        "this program has no worker"
    } else {
        "a worker takes it as soon as one is free"
    }
}

/// Returns host and process number of an owner; the whole identity on hover.
fn process(owner: &str) -> Markup {
    let mut parts = owner.split('/');
    let (host, number) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default());
    html! { code title=(owner) { (cut(host, 60)) @if !number.is_empty() { " " (number) } } @if owner == ProcessIdentity::current().to_string() { " " span.hint { "this process" } } }
}

/// Whether a process is alive: one of this host by its number and start, one of another host by its lease.
fn liveness(owner: &str, lease_until: Option<Timestamp>, now: Timestamp) -> Markup {
    let is_dead = ProcessIdentity::liveness_of(owner) == Liveness::Dead;
    let (class, sign, word) = match lease_until {
        _ if is_dead => ("failed", "✕", "Dead"),
        Some(until) if until < now => ("stale", "!", "Lease over"),
        _ => ("running", "▸", "Alive"),
    };
    html! { span.status.(class) { span aria-hidden="true" { (sign) } (word) } }
}
