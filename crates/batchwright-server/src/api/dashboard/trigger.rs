//! One trigger: its plan in words, its slots, and commands.

use std::sync::Arc;

use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use batchwright::store::schedule::{TRIGGER, TriggerRow, TriggerStatus};
use jiff::ToSpan;
use maud::{Markup, html};

use super::super::Problem;
use super::super::access::Role;
use super::super::schedule::slot;
use super::form::Fields;
use super::parts::{ago, clock, exact, micros, trigger_status};
use super::schedule::{ended, runs, trigger_path};
use super::view::View;
use crate::scheduler::{Explanation, Plan, Request, Rule, Rulebook, explain, plan_of};

/// Coming fires that the page lists.
const NEXT: usize = 10;
/// Past fires that the page lists.
const PAST: usize = 50;
/// Most slots of one backfill.
const BACKFILL_MAX: usize = 1_000;

pub(super) async fn page(view: View, Path(identifier): Path<String>) -> Result<Response, Problem> {
    let history = Request::History { identifier: identifier.clone() };
    let mut rows = view.api.scheduler()?.read(history).await?.triggers();
    let own = rows.iter().position(|row| row.key.occurrence == TRIGGER);
    let own = own.map(|index| rows.remove(index));
    let Some(own) = own else {
        return Err(Problem::not_found(format!("there is no trigger `{identifier}`")));
    };
    rows.reverse();
    let now = view.now.as_microsecond();
    let plan = plan_of(&own).map_err(Problem::invalid)?;
    let explained = plan.map(|plan| explain(&identifier, &plan, &rows, now, NEXT));
    // What was decided of coming times is beside the next fires.
    rows.retain(|row| row.slot <= now || row.status != TriggerStatus::Skipped);
    let rules = Rulebook::new(view.api.scheduler()?.read(Request::Rules).await?.rules());
    let content =
        content(&view, &own, rules.find(&identifier).map(Arc::as_ref), &rows, explained.as_ref());
    Ok(view.layout(&format!("Trigger {identifier}"), &content))
}

fn content(
    view: &View,
    own: &TriggerRow,
    rule: Option<&Rule>,
    slots: &[TriggerRow],
    explained: Option<&Explanation>,
) -> Markup {
    html! {
        nav.crumbs aria-label="Path" { a href=(view.url("/schedule")) { "Schedule" } }
        div.title {
            h1 { (own.key.identifier) } (trigger_status(own.status.name()))
            @if view.may(Role::Operator) { div.actions { (actions(view, own)) } }
        }
        @if let Some(reason) = &own.reason { p.notice.bad { (reason) } }
        p {
            "Runs " (runs(view, rule))
            @match rule { Some(rule) => { ", by rule " b { (rule.identifier) } "." }, None => ": it will fail. " }
            @if rule.is_none() { a href=(view.url("/schedule#rules")) { "Set a rule" } "." }
        }
        @match explained {
            None => p { "Fires once, at " (clock(micros(own.slot))) ", " (ago(micros(own.slot), view.now)) "." },
            Some(explained) => {
                section aria-labelledby="plan" {
                    h2 #plan { "Plan" }
                    p { (explained.rule) "." @if let Some(plan) = &own.plan { " " code { (plan) } } }
                    p.hint { "Policies: " (explained.policies) "." }
                    @if let Some(overlap) = &explained.overlap { p.notice { (overlap) } }
                }
                section aria-labelledby="next" {
                    h2 #next { "Next fires" }
                    ol { @for at in &explained.next { li { (at) } } }
                    @if !explained.decided.is_empty() { p.hint { "Not for: " (explained.decided.join(", ")) ", skipped or fired early by a command." } }
                }
                @if !explained.clock_changes.is_empty() {
                    section aria-labelledby="changes" { h2 #changes { "Changes of the clock" } ul { @for change in &explained.clock_changes { li { (change) } } } }
                }
            }
        }
        section aria-labelledby="past" {
            h2 #past { "Past fires" }
            @if slots.is_empty() { p.empty { "It has not fired yet." } } @else {
                (ended(view, &slots[..slots.len().min(PAST)]))
            }
            @for row in slots.iter().chain([own]).filter(|row| row.output.is_some()).take(1) {
                h3 { "Output of the newest" } pre tabindex="0" { (row.output.as_deref().unwrap_or_default()) }
            }
        }
    }
}

fn actions(view: &View, own: &TriggerRow) -> Markup {
    let path = |verb: &str| format!("{}/{verb}", trigger_path(&own.key.identifier));
    html! {
        (view.form(&path("fire"), &html! {
            // The time of the page, so that a form that is sent twice fires once.
            @if own.plan.is_some() { input type="hidden" name="slot" value=(view.now); }
            button { "Fire now" }
        }))
        @if own.status == TriggerStatus::Planned {
            (view.button(&path("pause"), "Pause"))
            @if own.plan.is_some() {
                (view.form(&path("skip"), &html! {
                    // The time that the person sees, so that a form that is sent twice skips one.
                    input type="hidden" name="slot" value=(micros(own.slot));
                    button title=(format!("It does not fire for {}", exact(micros(own.slot)))) { "Skip next" }
                }))
            }
        }
        @if own.status == TriggerStatus::Paused { (view.button(&path("resume"), "Resume")) }
        @if own.plan.is_some() { (backfill_form(view, own)) }
        (view.asking(&path("unset"), "Remove", "The trigger and the record of its fires are removed; executions stay.", "danger"))
    }
}

fn backfill_form(view: &View, own: &TriggerRow) -> Markup {
    html! {
        details.ask {
            summary.button { "Backfill…" }
            div { (view.form(&format!("{}/backfill", trigger_path(&own.key.identifier)), &html! {
                p { "Fires for every past time of its plan between two days (in the zone of the plan, both included) for which it was not executed." }
                label for="from" { "From" } input #from type="date" name="from" required;
                label for="to" { "To" } input #to type="date" name="to" required;
                button.primary { "Backfill" }
            })) }
        }
    }
}

/// Gives a command for the trigger, and shows it.
pub(super) async fn command(
    view: View,
    Path((identifier, verb)): Path<(String, String)>,
    fields: Fields,
) -> Result<Response, Problem> {
    let path = trigger_path(&identifier);
    let request = match &*verb {
        "pause" => Request::Pause { identifier },
        "resume" => Request::Resume { identifier },
        "skip" => Request::Skip { identifier, slot: slot(fields.text("slot"))? },
        "unset" => Request::Unset { identifier },
        "fire" => {
            let slots = fields.all("slot").map(slot).collect::<Result<_, _>>()?;
            Request::Fire { identifier, slots }
        }
        "backfill" => {
            let slots = missing(&view, &identifier, &fields).await?;
            Request::Fire { identifier, slots }
        }
        _ => return Err(Problem::invalid(format!("`{verb}` is no command for triggers"))),
    };
    let is_gone = matches!(request, Request::Unset { .. });
    view.api.command_as(&view.who(), request).await?;
    Ok(Redirect::to(if is_gone { "/schedule" } else { &path }).into_response())
}

/// Returns the times of the plan between two days for which the trigger was not executed.
async fn missing(view: &View, identifier: &str, fields: &Fields) -> Result<Vec<i64>, Problem> {
    let history = Request::History { identifier: identifier.to_owned() };
    let rows = view.api.scheduler()?.read(history).await?.triggers();
    let own = rows.iter().find(|row| row.key.occurrence == TRIGGER);
    let plan =
        own.and_then(|row| plan_of(row).transpose()).transpose().map_err(Problem::invalid)?;
    let Some(plan) = plan else {
        return Err(Problem::invalid(format!("trigger `{identifier}` has no plan to backfill")));
    };
    let day = |name: &str, after: i64| {
        let text = fields.text(name);
        let day = text.parse::<jiff::civil::Date>().and_then(|day| day.checked_add(after.days()));
        let begin = day.and_then(|day| day.to_zoned(plan.zone.clone()));
        let begin = begin.map(|begin| begin.timestamp());
        begin.map_err(|_| Problem::invalid(format!("`{text}` is no day such as 2026-11-30")))
    };
    let (from, to) = (day("from", 0)?, day("to", 1)?.min(view.now));
    let slots = past_slots(&plan, from.as_microsecond(), to.as_microsecond());
    let is_open = |slot: &i64| {
        let known = rows.iter().find(|row| row.key.occurrence == *slot);
        known.is_none_or(|row| {
            // What a command has skipped stays so.
            let is_skipped = row.status == TriggerStatus::Skipped && row.ended_at < Some(*slot);
            !matches!(row.status, TriggerStatus::Executed | TriggerStatus::Triggered) && !is_skipped
        })
    };
    let open: Vec<_> = slots.into_iter().filter(is_open).collect();
    match open.len() {
        0 => Err(Problem::invalid(
            "there is no time between these days for which the trigger was not executed",
        )),
        1..=BACKFILL_MAX => Ok(open),
        _ => Err(Problem::invalid(format!(
            "there are more than {BACKFILL_MAX} times between these days; backfill fewer days at once"
        ))),
    }
}

/// Returns the times of `plan` from `from` on and before `to`.
fn past_slots(plan: &Plan, from: i64, to: i64) -> Vec<i64> {
    let mut slots = Vec::new();
    let mut next = plan.next(from - 1);
    while let Some(at) = next.filter(|at| *at < to && slots.len() <= BACKFILL_MAX) {
        slots.push(at);
        next = plan.next(at);
    }
    slots
}
