//! The schedule: what fires next, what fired, the triggers and the rules.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Redirect, Response};
use batchwright::store::schedule::{TRIGGER, TriggerRow, TriggerStatus};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::super::access::Role;
use super::super::page::percent;
use super::super::{Problem, blocking};
use super::form::Fields;
use super::overview::Triggers;
use super::parts::{ago, clock, cut, duration, exact, job_path, micros, table, trigger_status};
use super::view::View;
use crate::kcp;
use crate::message::words;
use crate::scheduler::{
    Condition, LIST_MAX, Plan, Request, Rule, RuleSettings, Rulebook, Runner, When, plan_of,
};

/// Rows of a page of triggers.
const ROWS: usize = 100;
/// Rows of what fires next and what fired.
const FIRES: usize = 20;
/// Weeks of the calendar, from Monday on: so many before the present one, and all.
const WEEKS_BEFORE: i64 = 3;
const WEEKS: i64 = 6;
const DAY_MICROS: i64 = 86_400_000_000;
/// Most future fires of a trigger in the calendar.
const PLANNED_MAX: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Only triggers whose names begin with this.
    prefix: String,
    /// The name of the last trigger of the page before.
    after: String,
}

/// Returns the path of a trigger's page.
pub(super) fn trigger_path(identifier: &str) -> String {
    format!("/schedule/{}", percent(identifier))
}

pub(super) async fn page(view: View, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let facts = Triggers::read(&view.api, view.now, FIRES).await;
    if let Some(problem) = &facts.problem {
        return Ok(view.layout("Schedule", &html! { h1 { "Schedule" } p.notice { (problem) } }));
    }
    let scheduler = view.api.scheduler()?;
    let list =
        Request::List { prefix: asked.prefix.clone(), limit: ROWS + 1, after: asked.after.clone() };
    let triggers = scheduler.read(list).await?.triggers();
    let since = first_day(view.now) * DAY_MICROS;
    let mut past = scheduler.read(Request::Ended { since, limit: LIST_MAX }).await?.triggers();
    past.retain(|row| row.key.identifier.starts_with(&asked.prefix));
    let now = view.now;
    // The times of a plan that fires every minute are many.
    let (triggers, days) = blocking(move || {
        let days = calendar(&past, &triggers, now);
        Ok((triggers, days))
    })
    .await?;
    let content = content(&view, &asked, &facts, &triggers, &days);
    Ok(view.layout("Schedule", &content))
}

fn content(
    view: &View,
    asked: &Asked,
    facts: &Triggers,
    triggers: &[TriggerRow],
    days: &[Day],
) -> Markup {
    let rules = Rulebook::new(facts.rules.clone());
    let shown = &triggers[..triggers.len().min(ROWS)];
    html! {
        h1 { "Schedule" }
        section.wide aria-labelledby="calendar" { h2 #calendar { "Calendar" } (days_table(days)) p.hint { "✓ executed, ✕ failed, – skipped, … planned. Days in UTC. What fired: the newest records, at most 100 of a trigger. What will fire: the triggers listed below, the next " (PLANNED_MAX) " times of each; " b { "+" } " marks days with further ones." } }
        section aria-labelledby="next" {
            h2 #next { "Next fires" }
            @if facts.next.is_empty() { p.empty { "Nothing is planned." } } @else { (fires(view, &facts.next, Some(&rules))) }
        }
        section aria-labelledby="fired" {
            h2 #fired { "Fired in the last 24 hours" }
            @if facts.ended.is_empty() { p.empty { "Nothing fired." } } @else { (ended(view, &facts.ended)) }
        }
        section aria-labelledby="triggers" {
            h2 #triggers { "Triggers" }
            form.search role="search" action=(view.url("/schedule")) {
                label for="prefix" { "Names that begin with" } input #prefix type="search" name="prefix" value=(asked.prefix); button { "Show" }
            }
            @if shown.is_empty() { p.empty { "No trigger" @if !asked.prefix.is_empty() { " has a name that begins with " code { (asked.prefix) } } "." } }
            @else { (triggers_table(view, shown, &rules)) }
            @if triggers.len() > ROWS {
                @if let Some(last) = shown.last() { div.pager { a.button rel="next" href=(view.url(&format!("/schedule?prefix={}&after={}", percent(&asked.prefix), percent(&last.key.identifier)))) { "Further triggers" } } }
            }
            @if view.may(Role::Operator) { (set_form(view)) }
        }
        (rules_section(view, &facts.rules))
    }
}

/// Returns the first day of the calendar, in days since 1970: a Monday.
fn first_day(now: Timestamp) -> i64 {
    let today = now.as_microsecond().div_euclid(DAY_MICROS);
    // 1 January 1970 was a Thursday.
    let weekday = (today + 3).rem_euclid(7);
    today - weekday - WEEKS_BEFORE * 7
}

/// The fires of a day in UTC.
struct Day {
    begin: Timestamp,
    is_today: bool,
    executed: usize,
    failed: usize,
    skipped: usize,
    planned: usize,
    /// Whether more is planned than was counted.
    has_more: bool,
}

/// Counts what fired in the past days and what the shown triggers will fire in the coming ones.
fn calendar(past: &[TriggerRow], triggers: &[TriggerRow], now: Timestamp) -> Vec<Day> {
    let today = now.as_microsecond().div_euclid(DAY_MICROS);
    let first = first_day(now);
    let mut days: Vec<Day> = (first..first + WEEKS * 7)
        .map(|day| Day {
            begin: Timestamp::from_microsecond(day * DAY_MICROS).unwrap_or_default(),
            is_today: day == today,
            executed: 0,
            failed: 0,
            skipped: 0,
            planned: 0,
            has_more: false,
        })
        .collect();
    let index = |at: i64| usize::try_from(at.div_euclid(DAY_MICROS) - first).ok();
    for row in past {
        let Some(day) = index(row.slot).and_then(|index| days.get_mut(index)) else { continue };
        match row.status {
            TriggerStatus::Executed => day.executed += 1,
            TriggerStatus::Failed | TriggerStatus::Dead => day.failed += 1,
            TriggerStatus::Skipped => day.skipped += 1,
            TriggerStatus::Planned
            | TriggerStatus::Triggered
            | TriggerStatus::Paused
            | TriggerStatus::Ended => {}
        }
    }
    let end = (first + WEEKS * 7) * DAY_MICROS;
    let skipped: HashSet<_> = past
        .iter()
        .filter(|row| row.status == TriggerStatus::Skipped)
        .map(|row| (&*row.key.identifier, row.slot))
        .collect();
    for row in triggers.iter().filter(|row| row.status == TriggerStatus::Planned) {
        let plan = plan_of(row).ok().flatten();
        let (mut slot, mut counted) = (Some(row.slot), 0);
        while let Some(at) = slot.filter(|at| *at < end && counted < PLANNED_MAX) {
            counted += 1;
            let is_planned = !skipped.contains(&(&*row.key.identifier, at));
            if let Some(day) = index(at).and_then(|index| days.get_mut(index))
                && is_planned
            {
                day.planned += 1;
            }
            slot = plan.as_ref().and_then(|plan| plan.next(at));
        }
        let uncounted = slot.filter(|at| *at < end).and_then(index);
        if let Some(index) = uncounted {
            days.iter_mut().skip(index).for_each(|day| day.has_more = true);
        }
    }
    days
}

impl Day {
    fn fires(&self) -> usize {
        self.executed + self.failed + self.skipped + self.planned
    }
}

fn days_table(days: &[Day]) -> Markup {
    let most = days.iter().map(Day::fires).max().unwrap_or(0).max(1);
    // The more fires, the darker: four levels.
    let heat = |day: &Day| format!("heat-{}", (day.fires() * 4).div_ceil(most));
    html! {
        div.scroll tabindex="0" role="region" aria-label="Calendar" { table.calendar {
            caption.hidden { "Fires of each day in UTC: past outcomes and coming fires" }
            thead { tr { @for day in days.iter().take(7) { th scope="col" { (day.begin.strftime("%a")) } } } }
            tbody { @for week in days.chunks(7) { tr { @for day in week {
                td.(heat(day)).today[day.is_today].bad[day.failed > 0] title=(exact(day.begin)) {
                span.day aria-current=[day.is_today.then_some("date")] { (day.begin.strftime("%d %b")) }
                @if day.executed > 0 { span.status.completed { span aria-hidden="true" { "✓" } (day.executed) span.hidden { " executed" } } }
                @if day.failed > 0 { span.status.failed { span aria-hidden="true" { "✕" } (day.failed) span.hidden { " failed" } } }
                @if day.skipped > 0 { span.status.abandoned { span aria-hidden="true" { "–" } (day.skipped) span.hidden { " skipped" } } }
                @if day.planned > 0 || day.has_more { span.status.starting { span aria-hidden="true" { "…" } (day.planned) @if day.has_more { "+" } span.hidden { " planned" } } }
                }
            } } } }
        } }
    }
}

/// What a rule runs, with a link to its job.
pub(super) fn runs(view: &View, rule: Option<&Rule>) -> Markup {
    html! {
        @match rule.map(|rule| &rule.settings) {
            None => span.hint { "no rule" },
            Some(RuleSettings { runner: Runner::Job { name, .. }, .. }) => a href=(view.url(&job_path(name))) { (name) },
            Some(settings) => code { (cut(kcp::encode(&settings.words()).trim_end(), 60)) },
        }
    }
}

/// The rows that fire next, and what `rules` run for them.
pub(super) fn fires(view: &View, rows: &[TriggerRow], rules: Option<&Rulebook>) -> Markup {
    let headings = ["Trigger"].into_iter().chain(rules.map(|_| "Runs"));
    let headings: Vec<_> = headings.chain(["Fires", "Planned for", "Note"]).collect();
    html! {
        (table("Next fires", &headings, &html! { @for row in rows {
                tr {
                    td { a href=(view.url(&trigger_path(&row.key.identifier))) { (row.key.identifier) } }
                    @if let Some(rules) = rules { td { (runs(view, rules.find(&row.key.identifier).map(Arc::as_ref))) } }
                    td { @if let Some(due) = row.due { (ago(micros(due), view.now)) } }
                    td { (clock(micros(row.slot))) }
                    td { @if row.attempt > 0 { "after " (row.attempt) " failed attempts: " (cut(row.reason.as_deref().unwrap_or(""), 120)) } @else if row.key.occurrence == TRIGGER && row.plan.is_none() { "once" } }
                }
            } }))
    }
}

/// The rows that ended.
pub(super) fn ended(view: &View, rows: &[TriggerRow]) -> Markup {
    html! {
        (table("What fired", &["Trigger", "Status", "Planned for", ">Late by", ">Took", "Result"], &html! { @for row in rows {
                tr {
                    td { a href=(view.url(&trigger_path(&row.key.identifier))) { (row.key.identifier) } }
                    td { (trigger_status(row.status.name())) }
                    td { (clock(micros(row.slot))) }
                    td.right { @if let Some(fired) = row.fired_at { (between(row.slot, fired)) } }
                    td.right { @if let Some((fired, ended)) = row.fired_at.zip(row.ended_at) { (between(fired, ended)) } }
                    td { (cut(row.reason.as_deref().unwrap_or(""), 160)) }
                }
            } }))
    }
}

/// Returns the time between two times in microseconds.
fn between(from: i64, to: i64) -> String {
    duration(
        std::time::Duration::from_micros(to.saturating_sub(from).max(0).unsigned_abs())
            .as_secs_f64(),
    )
}

fn triggers_table(view: &View, rows: &[TriggerRow], rules: &Rulebook) -> Markup {
    html! {
        (table("Triggers", &["Trigger", "Runs", "Status", "Plan", "Next", "Note"], &html! { @for row in rows {
                tr {
                    td { a href=(view.url(&trigger_path(&row.key.identifier))) { (row.key.identifier) } }
                    td { (runs(view, rules.find(&row.key.identifier).map(Arc::as_ref))) }
                    td { (trigger_status(row.status.name())) }
                    td { @if let Some(plan) = &row.plan { code { (cut(plan, 60)) } } @else { "once" } }
                    @let planned = Some(row.slot).filter(|_| row.status == TriggerStatus::Planned);
                    td { @if let Some(at) = row.due.or(planned) { (ago(micros(at), view.now)) } }
                    td { (cut(row.reason.as_deref().unwrap_or(""), 100)) }
                }
            } }))
    }
}

fn set_form(view: &View) -> Markup {
    html! {
        details.ask {
            summary.button { "Plan a trigger…" }
            div { (view.form("/schedule", &html! {
                label for="name" { "Name" } input #name name="name" required maxlength="255" spellcheck="false";
                label for="when" { "When" } input #when name="when" required spellcheck="false" placeholder="cron \"30 2 * * *\" tz Europe/Berlin" aria-describedby="when-hint";
                p #when-hint.hint { "A time such as " code { "2026-12-01 02:30:00" } " (UTC), or a plan in the words of " code { "batchwright schedule set" } ": " code { "cron \"30 2 * * *\" tz Europe/Berlin" } ", " code { "every 15m" } "." }
                label { input type="checkbox" name="replace" value="yes"; " Replace the trigger of that name, if there is one" }
                button.primary { "Plan" }
            })) }
        }
    }
}

/// Returns a change that replaces what exists only if the form says so.
fn unless_replaced(fields: &Fields, change: Request) -> Request {
    match fields.text("replace") {
        "yes" => change,
        _ => Request::Conditional { condition: Condition::NewOrSame, change: Box::new(change) },
    }
}

/// Plans a trigger.
pub(super) async fn set(view: View, fields: Fields) -> Result<Response, Problem> {
    let (identifier, text) = (fields.text("name").trim().to_owned(), fields.text("when").trim());
    let when = when(text, view.now)?;
    let set = unless_replaced(&fields, Request::Set { identifier: identifier.clone(), when });
    view.api.command_as(&view.who(), set).await?;
    Ok(Redirect::to(&trigger_path(&identifier)).into_response())
}

/// Parses a time, or a plan in words.
fn when(text: &str, now: Timestamp) -> Result<When, Problem> {
    if let Ok(at) = When::parse(text) {
        return Ok(at);
    }
    let words = words(text).map_err(|error| Problem::invalid(error.to_string()))?;
    let plan = Plan::parse(&words, now.as_microsecond()).map_err(Problem::invalid)?;
    Ok(When::Recurring(Box::new(plan)))
}

fn rules_section(view: &View, rules: &[Rule]) -> Markup {
    let is_admin = view.may(Role::Admin);
    html! {
        section aria-labelledby="rules" {
            h2 #rules { "Rules" }
            p.hint { "A rule says what runs when a trigger fires; the longest pattern that the name of the trigger begins with counts." }
            @if rules.is_empty() { p.empty { "There is no rule: every trigger fails." } } @else {
                (table("Rules", &["Rule", "Triggers that begin with", "Runs", ">"], &html! { @for rule in rules {
                        tr {
                            td { (rule.identifier) }
                            td { code { (rule.pattern) } }
                            td { code { (kcp::encode(&rule.settings.words()).trim_end()) } }
                            td.right { @if is_admin { (view.asking(&format!("/rules/{}/unset", percent(&rule.identifier)), "Remove", "Triggers that only this rule applies to will fail.", "danger")) } }
                        }
                    } }))
            }
            @if is_admin {
                details.ask {
                    summary.button { "Set a rule…" }
                    div { (view.form("/rules", &html! {
                        label for="rule" { "Name" } input #rule name="name" required maxlength="255" spellcheck="false";
                        label for="pattern" { "Triggers that begin with" } input #pattern name="pattern" spellcheck="false";
                        label for="runner" { "Runs" } input #runner name="runner" required spellcheck="false" placeholder="job import-orders" aria-describedby="runner-hint";
                        p #runner-hint.hint { "In the words of " code { "batchwright rule set" } ": " code { "job NAME" } ", " code { "shell /path/of/program" } ", " code { "http https://example.org/hook" } "." }
                        label { input type="checkbox" name="replace" value="yes"; " Replace the rule of that name, if there is one" }
                        button.primary { "Set" }
                    })) }
                }
            }
        }
    }
}

/// Sets a rule.
pub(super) async fn set_rule(view: View, fields: Fields) -> Result<Response, Problem> {
    let identifier = fields.text("name").trim().to_owned();
    let pattern = fields.text("pattern").trim().to_owned();
    let words =
        words(fields.text("runner")).map_err(|error| Problem::invalid(error.to_string()))?;
    let settings = RuleSettings::parse(&words).map_err(Problem::invalid)?;
    let set = unless_replaced(&fields, Request::SetRule { identifier, pattern, settings });
    view.api.command_as(&view.who(), set).await?;
    Ok(Redirect::to("/schedule").into_response())
}

/// Removes a rule.
pub(super) async fn unset_rule(
    view: View,
    Path(identifier): Path<String>,
    _: Fields,
) -> Result<Response, Problem> {
    view.api.command_as(&view.who(), Request::UnsetRule { identifier }).await?;
    Ok(Redirect::to("/schedule").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::store::schedule::TriggerKey;

    #[test]
    fn the_calendar_has_what_fired_and_what_will_fire() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let micros = |text: &str| text.parse::<Timestamp>().unwrap().as_microsecond();
        let mut fired = TriggerRow::planned(TriggerKey::of("a"), micros("2026-11-29T02:30:00Z"));
        fired.status = TriggerStatus::Executed;
        let mut failed = TriggerRow::planned(TriggerKey::of("a"), micros("2026-11-30T02:30:00Z"));
        failed.status = TriggerStatus::Dead;
        let mut daily = TriggerRow::planned(TriggerKey::of("a"), micros("2026-12-01T02:30:00Z"));
        daily.plan = Some("cron \"30 2 * * *\"".to_owned());
        let once = TriggerRow::planned(TriggerKey::of("b"), micros("2026-12-01T00:00:00Z"));
        let far = TriggerRow::planned(TriggerKey::of("c"), micros("2027-12-01T00:00:00Z"));
        let days = calendar(&[fired, failed], &[daily, once, far], now);
        // Six weeks from a Monday on.
        assert_eq!((days.len(), days[0].begin), (42, "2026-11-09T00:00:00Z".parse().unwrap()));
        assert_eq!((days[20].executed, days[21].failed, days[21].is_today), (1, 1, true));
        assert_eq!((days[21].planned, days[22].planned), (0, 2));
        assert!(days[23..].iter().all(|day| day.planned == 1));
    }
}
