//! The overview: what runs, what failed, what comes next, and what needs a decision.

use axum::response::Response;
use batchwright::BatchStatus;
use batchwright::execution::{ExecutionSummary, JobExecution};
use batchwright::query::ExecutionFilter;
use batchwright::store::schedule::{TRIGGER, TriggerRow, TriggerStatus};
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::super::access::Role;
use super::super::{Api, Problem};
use super::outcomes::{Counted, PERIOD};
use super::parts::{ago, count_of, cut, executions, job_path, micros, number};
use super::view::View;
use super::{chart, parts, schedule};
use crate::scheduler::{Request, Rule, Rulebook};

/// Most rows of each list of the page.
const ROWS_MAX: usize = 20;
/// Most running executions that are counted one by one.
const RUNNING_MAX: usize = 500;
/// Hours of the chart.
const HOURS: u32 = 24;
/// How old a failure may be to need a decision still.
const FAILED_WITHIN: SignedDuration = SignedDuration::from_hours(24 * 7);
/// How late a trigger may be before it counts as late.
const LATE_AFTER_MICROS: i64 = 5_000_000;

/// What the schedule says for the page; empty without a scheduler.
#[derive(Default)]
pub(super) struct Triggers {
    /// Why the schedule is not shown.
    pub(super) problem: Option<String>,
    pub(super) next: Vec<TriggerRow>,
    pub(super) ended: Vec<TriggerRow>,
    pub(super) rules: Vec<Rule>,
}

impl Triggers {
    /// Reads the schedule. A page with more than the schedule is shown also without it.
    pub(super) async fn read(api: &Api, now: Timestamp, limit: usize) -> Self {
        match Self::read_all(api, now, limit).await {
            Ok(triggers) => triggers,
            Err(problem) => Self { problem: Some(problem.detail().to_owned()), ..Self::default() },
        }
    }

    async fn read_all(api: &Api, now: Timestamp, limit: usize) -> Result<Self, Problem> {
        let scheduler = api.scheduler()?;
        let since = (now - SignedDuration::from_hours(24)).as_microsecond();
        let next = scheduler.read(Request::Upcoming { limit }).await?.triggers();
        let mut ended = scheduler.read(Request::Ended { since, limit }).await?.triggers();
        // A coming time that was skipped has not fired.
        ended
            .retain(|row| row.status != TriggerStatus::Skipped || row.slot <= now.as_microsecond());
        let rules = scheduler.read(Request::Rules).await?.rules();
        Ok(Self { problem: None, next, ended, rules })
    }

    fn late(&self, now: Timestamp) -> usize {
        let latest = now.as_microsecond() - LATE_AFTER_MICROS;
        self.next.iter().filter(|row| row.due.is_some_and(|due| due < latest)).count()
    }

    fn failed(&self) -> impl Iterator<Item = &TriggerRow> {
        let is_failed =
            |row: &&TriggerRow| matches!(row.status, TriggerStatus::Failed | TriggerStatus::Dead);
        self.ended.iter().filter(is_failed)
    }
}

/// What the store says for the page.
struct Facts {
    rows: Vec<JobExecution>,
    /// How many run, also those beyond the rows.
    running_count: u64,
    /// Those that the page shows.
    running: Vec<ExecutionSummary>,
    failed: Vec<ExecutionSummary>,
    outcomes: Counted,
}

impl Facts {
    fn read(view: &View) -> Result<Self, Problem> {
        let queries = view.operator().queries();
        let explorer = view.operator().explorer();
        let running =
            queries.executions(&ExecutionFilter::default().running().limit(RUNNING_MAX))?;
        let filter = ExecutionFilter {
            since: view.now.checked_sub(FAILED_WITHIN).ok(),
            newest_of_instance: true,
            ..ExecutionFilter::default().status(BatchStatus::Failed).limit(ROWS_MAX)
        };
        let failed = explorer.summaries(&queries.executions(&filter)?)?;
        // Periods of whole hours, the last of which is the present one.
        let period = i64::from(PERIOD);
        let first = view.now.as_second().div_euclid(period) + 1 - i64::from(HOURS);
        let since = Timestamp::from_second(first * period).unwrap_or_default();
        let outcomes = view.api.outcomes.count(view.operator(), since)?;
        let running_count = match running.len() {
            RUNNING_MAX.. => queries.execution_count(&ExecutionFilter::default().running())?,
            count => count as u64,
        };
        let shown = explorer.summaries(&running[..running.len().min(ROWS_MAX)])?;
        Ok(Self { rows: running, running_count, running: shown, failed, outcomes })
    }

    fn count(&self, is_one: impl Fn(&JobExecution) -> bool) -> u64 {
        self.rows.iter().filter(|one| is_one(one)).count() as u64
    }

    fn failures(&self) -> u64 {
        let failed = self.outcomes.counts.iter().filter(|one| one.status == BatchStatus::Failed);
        failed.map(|one| one.count).sum()
    }
}

pub(super) async fn page(view: View) -> Result<Response, Problem> {
    let triggers = Triggers::read(&view.api, view.now, 200).await;
    view.write(move |view| {
        let facts = Facts::read(view)?;
        Ok(("Overview".to_owned(), content(view, &facts, &triggers)))
    })
    .await
}

fn content(view: &View, facts: &Facts, triggers: &Triggers) -> Markup {
    let queued = facts.count(|one| one.started_at.is_none());
    let stale = facts.count(|one| one.is_stale(view.now));
    let running = facts.running_count.saturating_sub(stale + queued);
    let next = triggers.next.iter().find_map(|row| row.due).map(micros);
    html! {
        h1 { "Overview" }
        @if view.api.jobs.is_drained() {
            p.notice { "This server is drained: it begins no execution and fires no trigger. " a href=(view.url("/workers")) { "Workers" } }
        }
        ul.numbers {
            (figure(view, "Running", &number(running), "/executions?q=status:running", ""))
            (figure(view, "Failed in 24 h", &number(facts.failures()), "/executions?q=status:failed+since:24h", if facts.failures() > 0 { "bad" } else { "" }))
            (figure(view, "Stale", &number(stale), "/executions?q=status:stale", if stale > 0 { "bad" } else { "" }))
            (figure(view, "Queued", &number(queued), "/executions?q=status:starting", ""))
            (figure(view, "Late triggers", &number(triggers.late(view.now) as u64), "/schedule", if triggers.late(view.now) > 0 { "bad" } else { "" }))
            li { a href=(view.url("/schedule")) { span { "Next fire" } b { @match next { Some(at) => (ago(at, view.now)), None => "none" } } } }
        }
        section.wide aria-labelledby="outcomes" {
            h2 #outcomes { "Executions of the last 24 hours" }
            // What has changed since they were counted is shown with the next load.
            @if facts.outcomes.is_outdated { span data-poll="" hidden {} }
            (chart::outcomes(&facts.outcomes.counts, HOURS, facts.outcomes.since, PERIOD))
        }
        (problems(view, facts, triggers))
        section aria-labelledby="running" {
            h2 #running { "Running" }
            @if facts.running.is_empty() {
                p.empty { "Nothing runs. " a href=(view.url("/jobs")) { "Start a job" } " or look at " a href=(view.url("/executions")) { "what ran" } "." }
            } @else {
                (executions(view, &facts.running, true, false))
                @if facts.rows.len() > ROWS_MAX {
                    p { a href=(view.url("/executions?q=status:running")) { "All running executions" } }
                }
                @if view.may(Role::Operator) { (stop_all(view)) }
            }
        }
        section aria-labelledby="next" {
            h2 #next { "Next fires" }
            @if let Some(problem) = &triggers.problem { p.empty { (problem) } }
            @else if triggers.next.is_empty() { p.empty { "Nothing is planned. " a href=(view.url("/schedule")) { "Plan a trigger" } "." } }
            @else {
                @let rules = Rulebook::new(triggers.rules.clone());
                (schedule::fires(view, &triggers.next[..triggers.next.len().min(ROWS_MAX)], Some(&rules)))
            }
        }
    }
}

/// The command that stops everything.
fn stop_all(view: &View) -> Markup {
    html! {
        details.ask {
            summary.button.plain { "Stop all…" }
            div {
                p { "Every running execution of the store stops at its next chunk boundary and can be restarted from there." }
                (view.form("/executions/bulk", &html! {
                    input type="hidden" name="scope" value="all";
                    input type="hidden" name="q" value="status:running";
                    button.danger name="verb" value="stop" { "Stop all" }
                }))
            }
        }
    }
}

fn figure(view: &View, name: &str, value: &str, path: &str, class: &str) -> Markup {
    html! { li.(class) { a href=(view.url(path)) { span { (name) } b { (value) } } } }
}

/// The list of what needs a decision, each with the command beside it.
fn problems(view: &View, facts: &Facts, triggers: &Triggers) -> Markup {
    let stale: Vec<_> =
        facts.rows.iter().filter(|one| one.is_stale(view.now)).take(ROWS_MAX).collect();
    let is_operator = view.may(Role::Operator);
    let count = facts.failed.len() + stale.len() + triggers.failed().count();
    html! {
        section.problems aria-labelledby="problems" {
            h2 #problems { "Needs a decision" @if count > 0 { span.badge { (count) } } }
            @if count == 0 { p.empty { "Nothing. Failures of the last 7 days that were not restarted, lost executions and failed triggers appear here." } }
            ul {
                @for one in stale {
                    li #(format!("stale-{}", one.id)) {
                        (parts::status(one.status, true))
                        div { a href=(view.url(&format!("/executions/{}", one.id))) { "Execution " (one.id) } " of " a href=(view.url(&job_path(&one.job))) { (one.job) }
                            p.hint { "Its owner " (one.owner.as_deref().unwrap_or("is unknown")) " has not renewed its lease. Recover it, then restart it." } }
                        @if is_operator { (view.button(&format!("/executions/{}/recover", one.id), "Recover")) }
                    }
                }
                @for one in &facts.failed {
                    li #(format!("failed-{}", one.id)) {
                        (parts::status(one.status, false))
                        div {
                            a href=(view.url(&format!("/executions/{}", one.id))) { "Execution " (one.id) } " of " a href=(view.url(&job_path(&one.job))) { (one.job) } ", " (ago(one.ended_at.unwrap_or(one.created_at), view.now))
                            @if let Some(failure) = &one.failure { p.hint { (parts::cause(&failure.code, &failure.message, 200)) } }
                        }
                        @if is_operator && !view.api.is_summary_of_replay(one) { (view.button(&format!("/executions/{}/restart", one.id), "Restart")) }
                    }
                }
                @for row in triggers.failed().take(ROWS_MAX) {
                    li #(format!("trigger-{}-{}", row.key.identifier.replace(' ', "-"), row.slot)) {
                        (parts::trigger_status(row.status.name()))
                        div {
                            a href=(view.url(&schedule::trigger_path(&row.key.identifier))) { "Trigger " (row.key.identifier) } " for " (parts::clock(micros(row.slot)))
                            p.hint { (parts::prose(&cut(row.reason.as_deref().unwrap_or_default(), 200))) }
                        }
                        @if is_operator {
                            (view.form(&format!("{}/fire", schedule::trigger_path(&row.key.identifier)), &html! {
                                @if row.key.occurrence != TRIGGER { input type="hidden" name="slot" value=(format!("{}", micros(row.slot))); }
                                button { "Fire again" }
                            }))
                        }
                    }
                }
            }
            @if facts.failed.len() == ROWS_MAX { p { a href=(view.url("/executions?q=status:failed")) { "All failures" } ", the newest " (count_of(ROWS_MAX, "one")) " are listed here." } }
        }
    }
}
