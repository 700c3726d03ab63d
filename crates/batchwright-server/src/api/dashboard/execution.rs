//! One execution: what happens, why it failed, and what can be done.

use std::collections::HashSet;

use axum::extract::Path;
use axum::response::Response;
use batchwright::BatchStatus;
use batchwright::error::RepositoryError;
use batchwright::event::Event;
use batchwright::execution::{
    ExecutionId, ExecutionSummary, Failure, JobExecution, SkipRecord, StepExecution, StepSummary,
};
use batchwright::query::{ExecutionFilter, Queries};
use maud::{Markup, html};

use super::super::Problem;
use super::super::access::Role;
use super::super::body::Id;
use super::super::command::Verb;
use super::context::StepContexts;
use super::form::Fields;
use super::parts::{
    ago, clock, cut, duration, job_path, number, prose, seconds, status, table, totals,
};
use super::progressive::Progress;
use super::view::View;
use super::{chart, context, parts, skips};

/// Skips, events and attempts that the page shows; each has a page or a command for all.
const SKIPS_SHOWN: usize = 10;
const EVENTS_SHOWN: usize = 200;
const ATTEMPTS_SHOWN: usize = 20;
/// Steps and partitions in the chart and in the table, and failures of steps.
const STEPS_SHOWN: usize = 150;
const FAILURES_SHOWN: usize = 20;
/// Steps and partitions of one look, and of all looks of a page.
const STEPS_AT_ONCE: usize = 1_000;
const STEPS_READ_MAX: usize = 20_000;
/// Longest value of a parameter that is shown whole, in letters.
const VALUE_SHOWN: usize = 2_000;

/// What the store says for the page.
struct Facts {
    row: JobExecution,
    /// Its steps are those that the page shows.
    summary: ExecutionSummary,
    /// All that were read.
    all_steps: Vec<StepSummary>,
    attempts: Vec<JobExecution>,
    skips: Vec<SkipRecord>,
    events: Vec<Event>,
    /// Of a progressive execution without an owner's token.
    progressive: Option<Progress>,
    /// How long the last execution of the job took that completed.
    usual: Option<f64>,
    step_contexts: StepContexts,
}

impl Facts {
    fn read(view: &View, id: ExecutionId) -> Result<Self, Problem> {
        let (queries, explorer) = (view.operator().queries(), view.operator().explorer());
        let row = explorer.execution(id)?;
        let steps = all_that_counts(queries, id)?;
        let step_contexts = context::of_steps(&steps);
        let mut summary = ExecutionSummary::new(&row, &steps, view.now);
        let all_steps = summary.steps.clone();
        summary.steps = chosen(std::mem::take(&mut summary.steps));
        let of_instance = ExecutionFilter::of_instance(row.instance_id).limit(ATTEMPTS_SHOWN);
        let attempts = queries.executions(&of_instance)?;
        let skips = queries.skips_page(id, 0, SKIPS_SHOWN)?;
        let events = queries.events_page(id, 0, EVENTS_SHOWN + 1)?;
        let completed = ExecutionFilter::of_job(&row.job).status(BatchStatus::Completed).limit(1);
        let usual = match row.status.is_running() {
            true => queries
                .executions(&completed)?
                .first()
                .and_then(|one| Some(seconds(one.started_at?, one.ended_at?))),
            false => None,
        };
        let progressive = Progress::read(view, id)?;
        Ok(Self {
            row,
            summary,
            all_steps,
            attempts,
            skips,
            events,
            progressive,
            usual,
            step_contexts,
        })
    }

    /// Whether no newer execution of the instance exists.
    fn is_newest(&self) -> bool {
        self.attempts.first().is_none_or(|newest| newest.id == self.row.id)
    }
}

/// Returns the first steps and partitions of an execution, of further ones the steps, on which the totals depend, and what is not
/// completed, however late it began.
fn all_that_counts(
    queries: &dyn Queries,
    id: ExecutionId,
) -> Result<Vec<StepExecution>, RepositoryError> {
    let mut kept = queries.steps_page(id, 0, STEPS_AT_ONCE)?;
    let mut read = kept.len();
    let mut is_end = read < STEPS_AT_ONCE;
    while !is_end && read < STEPS_READ_MAX {
        let further = queries.steps_page(id, read, STEPS_AT_ONCE)?;
        (read, is_end) = (read + further.len(), further.len() < STEPS_AT_ONCE);
        kept.extend(further.into_iter().filter(|step| step.partition.is_none()));
    }
    if read >= STEPS_AT_ONCE {
        let open = queries.steps_not_completed(id, STEPS_AT_ONCE)?;
        let known: HashSet<_> = kept.iter().map(|step| step.id).collect();
        kept.extend(open.into_iter().filter(|step| !known.contains(&step.id)));
    }
    Ok(kept)
}

/// Returns the steps and partitions that the page shows, in the order in which they began: of very many, first those that failed,
/// then what else is not completed.
fn chosen(mut steps: Vec<StepSummary>) -> Vec<StepSummary> {
    let rank = |step: &StepSummary| match step.status {
        BatchStatus::Failed => 0,
        BatchStatus::Completed => 2,
        _ => 1,
    };
    steps.sort_by_key(|step| (rank(step), step.id));
    steps.truncate(STEPS_SHOWN);
    steps.sort_by_key(|step| step.id);
    steps
}

pub(super) async fn page(view: View, Id(id): Id) -> Result<Response, Problem> {
    view.write(move |view| {
        let facts = Facts::read(view, id)?;
        Ok((format!("Execution {id} of {}", facts.summary.job), content(view, &facts)))
    })
    .await
}

fn content(view: &View, facts: &Facts) -> Markup {
    let one = &facts.summary;
    let (written, skipped) = totals(&facts.all_steps);
    html! {
        nav.crumbs aria-label="Path" { a href=(view.url("/executions")) { "Executions" } " / " a href=(view.url(&job_path(&one.job))) { (one.job) } }
        div.title {
            h1 { "Execution " (one.id) } (status(one.status, one.stale))
            @if view.may(Role::Operator) { div.actions { (actions(view, facts)) } }
        }
        @if let Some(failure) = &one.failure { (failure_box(view, failure, &facts.all_steps)) }
        @for warning in &one.warnings { p.notice { (warning) } }
        dl.facts {
            div { dt { "Started by" } dd { (one.triggered_by.as_deref().unwrap_or("application")) } }
            div { dt { "Accepted" } dd { (ago(one.created_at, view.now)) } }
            div { dt { "Took" } dd { (parts::took(one, view.now)) } }
            div { dt { @if one.ended_at.is_some() { "Ended" } @else { "Ends" } } dd { (ends(view, facts)) } }
            div { dt { "Written" } dd { (number(written)) } }
            div { dt { "Skipped" } dd { @if skipped > 0 { a href=(view.url(&format!("/executions/{}/skips", one.id))) { (number(skipped)) } } @else { "0" } } }
            div { dt { "Exit" } dd { code { (one.exit.code) } } }
            @if let Some(before) = one.restart_of { div { dt { "Restart of" } dd { (view.execution(before)) } } }
            @if let Some(parent) = one.parent { div { dt { "Within" } dd { a href=(view.url(&format!("/executions/{parent}"))) { "execution " (parent) } } } }
            @if let Some(owner) = &one.owner { div { dt { "Runs in" } dd { code { (owner) } } } }
            @if let Some(fingerprint) = &facts.row.fingerprint { div { dt { "Definition" } dd { code title=(fingerprint) { (cut(fingerprint, 12)) } } } }
        }
        @if let Some(progress) = &facts.progressive { (progress.section(view)) }
        section.wide aria-labelledby="times" {
            h2 #times { "Steps" }
            (chart::gantt(one, facts.all_steps.len() == one.steps.len(), view.now))
            (steps(one, view))
            @if facts.all_steps.len() > STEPS_SHOWN { p.hint { (STEPS_SHOWN) " of more than " (number(facts.all_steps.len() as u64 - 1)) " steps and partitions: first those that failed, then those that are not completed. " code { "GET /v1/executions/" (one.id) "/steps" } " has all." } }
        }
        (skips_section(view, facts, skipped))
        section aria-labelledby="parameters" {
            h2 #parameters { "Parameters" }
            @if one.parameters.is_empty() { p.empty { "None." } } @else {
                (table("Parameters", &["Name", "Value", "Type", "Identifying"], &html! { @for (name, parameter) in &one.parameters {
                        tr { td { code { (name) } } td.value { (cut(&parameter.value.to_string(), VALUE_SHOWN)) } td { (parameter.value.kind()) } td { @if parameter.identifying { "yes" } @else { "no" } } }
                    } }))
            }
        }
        (attempts(view, facts))
        section aria-labelledby="events" {
            h2 #events { "Events" }
            ol.events {
                @for event in facts.events.iter().take(EVENTS_SHOWN) {
                    @if let Some((now, note)) = event.status() {
                        li { (clock(event.at)) " " (status(now, false)) " " @if let Some(step) = event.step() { "step " b { (step) } } @else { "the execution" } @if let Some(note) = note { ": " (note) } }
                    }
                }
            }
            @if facts.events.len() > EVENTS_SHOWN { p.hint { "The first " (EVENTS_SHOWN) "; all by " code { "GET /v1/executions/" (one.id) "/events" } "." } }
        }
        (context::section(view, &facts.row, facts.is_newest(), &facts.step_contexts))
    }
}

/// The commands that the status of the execution allows.
fn actions(view: &View, facts: &Facts) -> Markup {
    let (one, id) = (&facts.summary, facts.summary.id);
    let path = |verb: &str| format!("/executions/{id}/{verb}");
    let is_replay = view.api.is_summary_of_replay(one);
    let is_newest = facts.is_newest();
    html! {
        @if one.stale { (view.button(&path("recover"), "Recover")) }
        @else if one.status.is_running() && one.status != BatchStatus::Stopping {
            (view.asking(&path("stop"), "Stop", "The execution stops at its next chunk boundary and can be restarted from there.", "plain"))
        }
        @if is_replay {
            @let of = one.parameters.get("replay_of_instance").map(|it| it.value.to_string());
            @if let Some(of) = of { a.button href=(view.url(&format!("/executions?q=instance:{of}"))) { "What it replays" } }
        } @else if one.status.is_restartable() && is_newest {
            (view.button(&path("restart"), "Restart"))
            (view.asking(&path("abandon"), "Abandon", "An abandoned execution is never restarted, and its instance does not run again.", "danger"))
        }
        @if !is_replay { a.button href=(view.url(&format!("{}?from={id}", job_path(&one.job)))) { "Run again with changes" } }
    }
}

fn failure_box(view: &View, failure: &Failure, steps: &[StepSummary]) -> Markup {
    html! {
        div.notice.bad role="status" {
            p { a href=(view.url(&format!("/errors/{}", failure.code))) { code { (failure.code) } } ": " (prose(&first_line(&failure.message))) }
            @if failure.message.contains('\n') || failure.message.len() > 300 { details { summary { "Whole message" } pre tabindex="0" { (failure.message) } } }
            @let failed = || steps.iter().filter(|step| step.failure.as_ref().is_some_and(|it| it.message != failure.message));
            @for step in failed().take(FAILURES_SHOWN) {
                @if let Some(cause) = &step.failure { p { "Step " b { (step.name) } @if let Some(partition) = &step.partition { " (" (partition) ")" } ": " (parts::cause(&cause.code, &cause.message, 300)) } }
            }
            @let more = failed().count().saturating_sub(FAILURES_SHOWN);
            @if more > 0 { p { "At least " (number(more as u64)) " further steps and partitions failed." } }
        }
    }
}

fn first_line(message: &str) -> String {
    cut(message.lines().next().unwrap_or_default(), 300)
}

/// When the execution will probably end, and how that is known.
fn ends(view: &View, facts: &Facts) -> Markup {
    let one = &facts.summary;
    let by_rate = one.steps.iter().rev().find(|step| step.status.is_running());
    let by_rate = by_rate.and_then(|step| step.estimate?.ends_at);
    let by_history = facts.usual.zip(one.started_at).and_then(|(usual, began)| {
        let usual = jiff::SignedDuration::try_from_secs_f64(usual).ok()?;
        began.checked_add(usual).ok()
    });
    html! {
        @if let Some(ended) = one.ended_at { (ago(ended, view.now)) }
        @else if let Some(at) = by_rate { @if at < view.now { "overdue since " } (ago(at, view.now)) span.hint title="the running step, if the rest of its input is read as fast" { " by the rate of its step" } }
        @else if let Some(at) = by_history { @if at < view.now { "overdue since " } (ago(at, view.now)) span.hint title="if it takes as long as the last one that completed" { " by the last execution" } }
        @else { span.hint title="no execution of this job has completed, and the input has no known size" { "unknown" } }
    }
}

fn steps(one: &ExecutionSummary, view: &View) -> Markup {
    // The progress of what has ended tells nothing that its counters do not.
    let is_under_way = |step: &StepSummary| {
        step.status.is_running() && (step.progress.is_some() || step.estimate.is_some())
    };
    let has_progress = one.steps.iter().any(is_under_way);
    let headings: Vec<_> = ["Step", "Status"]
        .into_iter()
        .chain(has_progress.then_some("Progress"))
        .chain([">Took", ">Read", ">Filtered", ">Written", ">Skipped", ">Commits", ">Rolled back"])
        .chain(["Exit"])
        .collect();
    html! {
        @if !one.steps.is_empty() {
            (table("Counters of the steps", &headings, &html! { @for step in &one.steps {
                tr {
                    td { (step.name) @if let Some(partition) = &step.partition { " " span.hint { (partition) } } }
                    td { (status(step.status, false)) @if step.handled { span.hint { " handled" } } @if let Some(cause) = &step.failure { " " code.hint title=(cut(&cause.message, 300)) { (cause.code) } } }
                    @if has_progress { td.progress { @if is_under_way(step) { (parts::progress(step, view.now)) } } }
                    td.right { (duration(seconds(step.started_at, step.ended_at.unwrap_or(view.now)))) }
                    @let counters = step.counters;
                    @for count in [counters.read, counters.filter, counters.write] { td.right { (number(count)) } }
                    td.right title=(format!("{} read, {} processed, {} written", counters.read_skip, counters.process_skip, counters.write_skip)) { (number(counters.skips())) }
                    @for count in [counters.commit, counters.rollback] { td.right { (number(count)) } }
                    td { code { (step.exit.code) } }
                }
            } }))
        }
    }
}

fn skips_section(view: &View, facts: &Facts, skipped: u64) -> Markup {
    let all = view.url(&format!("/executions/{}/skips", facts.summary.id));
    html! {
        @if !facts.skips.is_empty() {
            section aria-labelledby="skips" {
                h2 #skips { "Skipped records" span.badge { (number(skipped)) } }
                (skips::records(&facts.skips))
                p {
                    @if skipped > facts.skips.len() as u64 { a.button href=(all) { "All skipped records" } " " }
                    (skips::correct_link(view, facts.summary.id))
                }
            }
        }
    }
}

/// The executions of the same parameters, side by side.
fn attempts(view: &View, facts: &Facts) -> Markup {
    let id = facts.summary.id;
    html! {
        @if facts.attempts.len() > 1 {
            section aria-labelledby="attempts" {
                h2 #attempts { "Attempts of this instance" }
                (table("Attempts", &["Execution", "Status", "Accepted", ">Took", "By", ""], &html! { @for one in &facts.attempts {
                        tr aria-current=[(one.id == id).then_some("true")] {
                            td { (view.execution(one.id)) }
                            td { (status(one.status, one.is_stale(view.now))) }
                            td { (ago(one.created_at, view.now)) }
                            @let took = one.started_at.zip(one.ended_at).map(|(from, to)| duration(seconds(from, to)));
                            td.right { @if let Some(took) = took { (took) } }
                            td { (one.triggered_by.as_deref().unwrap_or("application")) }
                            @let both = format!("/compare?a={}&b={}", one.id.min(id), one.id.max(id));
                            td { @if one.id != id { a href=(view.url(&both)) { "Compare" } } }
                        }
                    } }))
            }
        }
    }
}

/// Gives a command for the execution, and shows it, or the one that restarts it.
pub(super) async fn command(
    view: View,
    Path((id, verb)): Path<(i64, String)>,
    _: Fields,
) -> Result<Response, Problem> {
    let verb = Verb::from_name(&verb)?;
    view.give(move |view| {
        let changed = view.api.give(&view.who(), verb, ExecutionId(id))?;
        Ok(format!("/executions/{changed}"))
    })
    .await
}
