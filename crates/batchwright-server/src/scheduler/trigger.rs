//! The life of a trigger, as pure functions: a row and what happens to it in, the row as it is then out.
//!
//! ```text
//!              SET                    due                runner said yes
//!   (nothing) ─────▶ planned ─────────────────▶ triggered ─────────────▶ executed
//!                    │  ▲  ▲                     │  │                      │
//!              pause │  │  └──── retry ──────────┘  └─▶ failed, dead ──────┤
//!                    ▼  │ resume                         no attempt left   │ SET
//!                   paused               planned ◀─────────────────────────┘
//! ```
//!
//! A recurring trigger stays `planned` with its next slot; each slot that comes has a row of its own, which
//! lives as above or is `skipped`.

use std::time::Duration;

use batchwright_store::{TriggerKey, TriggerRow, TriggerStatus};

use super::plan::{Overlap, Plan};
use super::rule::Rule;
use super::time::{self, Micros};

/// Slots of a recurring trigger that are remembered.
pub(super) const SLOTS_KEPT: usize = 100;

/// When a trigger fires.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// Once; in the past: at once. Microseconds since 1970.
    At(i64),
    /// Again and again.
    Recurring(Box<Plan>),
}

impl When {
    /// A time: `2026-11-22 06:30:00` in UTC, or RFC 3339.
    ///
    /// # Errors
    ///
    /// A sentence when it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        time::parse(text).map(Self::At)
    }

    /// As `SET` takes it. Kairoi's server understands whole seconds.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::At(at) if at % 1_000_000 == 0 => vec![time::show(*at)],
            Self::At(at) => vec![time::show_exact(*at)],
            Self::Recurring(plan) => plan.words(),
        }
    }
}

/// Why a request was not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// A stable word: `busy`, `not_found`, `invalid`, `limit`, `unauthorized`, `unavailable`.
    pub code: &'static str,
    /// What it was, and what to do.
    pub message: String,
}

impl Refused {
    /// What was named is not there.
    pub const NOT_FOUND: &str = "not_found";
    /// The trigger is being fired.
    pub const BUSY: &str = "busy";

    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("invalid", message)
    }

    fn busy(identifier: &str) -> Self {
        Self::new(Self::BUSY, format!("trigger `{identifier}` is being fired"))
    }

    pub(crate) fn no_trigger(identifier: &str) -> Self {
        Self::new(Self::NOT_FOUND, format!("there is no trigger `{identifier}`"))
    }

    pub(crate) fn no_rule(identifier: &str) -> Self {
        Self::new(Self::NOT_FOUND, format!("there is no rule `{identifier}`"))
    }
}

/// The row after a `SET`.
pub(super) fn set(
    identifier: &str,
    row: Option<TriggerRow>,
    when: &When,
    now: Micros,
) -> Result<TriggerRow, Refused> {
    let (slot, plan) = match when {
        When::At(slot) => (*slot, None),
        When::Recurring(plan) => {
            let first = plan.first(now).ok_or_else(|| Refused::invalid("it never fires"))?;
            (first, Some(plan))
        }
    };
    // The same plan again is no change: its next slot stays.
    if let (Some(plan), Some(row)) = (plan, &row)
        && matches!(row.status, TriggerStatus::Planned | TriggerStatus::Paused)
        && plan_of(row).ok().flatten().is_some_and(|known| known.is_same(plan))
    {
        return Ok(row.clone());
    }
    let mut set = TriggerRow::planned(TriggerKey::of(identifier), slot);
    set.due = Some(slot + plan.map_or(0, |plan| plan.delay(identifier, slot)));
    set.plan = plan.map(|plan| crate::kcp::line(&plan.words()));
    let Some(row) = row else { return Ok(set) };
    match row.status {
        TriggerStatus::Triggered => return Err(Refused::busy(identifier)),
        // Who paused it says when it goes on.
        TriggerStatus::Paused => {
            set.status = TriggerStatus::Paused;
            set.due = None;
        }
        _ => {}
    }
    set.version = row.version;
    Ok(set)
}

/// Whether a trigger may be removed.
pub(super) fn unset(row: &TriggerRow) -> Result<(), Refused> {
    match row.status {
        TriggerStatus::Triggered => Err(Refused::busy(&row.key.identifier)),
        _ => Ok(()),
    }
}

/// The row after a pause.
pub(super) fn pause(mut row: TriggerRow) -> Result<TriggerRow, Refused> {
    match row.status {
        TriggerStatus::Planned => {
            row.status = TriggerStatus::Paused;
            row.due = None;
            Ok(row)
        }
        TriggerStatus::Paused => Ok(row),
        TriggerStatus::Triggered => Err(Refused::busy(&row.key.identifier)),
        status => {
            let identifier = &row.key.identifier;
            Err(Refused::invalid(format!(
                "trigger `{identifier}` is {status}: nothing is to be paused"
            )))
        }
    }
}

/// The rows after a resume: slots that passed in between did not fire, and the first of them says so.
pub(super) fn resume(mut row: TriggerRow, now: Micros) -> Result<Vec<TriggerRow>, Refused> {
    if row.status != TriggerStatus::Paused {
        let (identifier, status) = (&row.key.identifier, row.status);
        return Err(Refused::invalid(format!("trigger `{identifier}` is {status}, not paused")));
    }
    let Some(plan) = plan_of(&row).map_err(Refused::invalid)? else {
        row.status = TriggerStatus::Planned;
        row.due = Some(row.slot);
        return Ok(vec![row]);
    };
    let mut rows = Vec::new();
    if row.slot < now {
        let told = format!("paused from {} to {}", time::show(row.slot), time::show(now));
        rows.push(skipped(&row.key.identifier, row.slot, now, told));
    }
    let next = plan.first(now.max(row.slot));
    move_on(&mut row, &plan, next, now);
    rows.push(row);
    Ok(rows)
}

/// The plan of a trigger; `None` for one that fires once.
///
/// # Errors
///
/// A sentence when what is stored cannot be understood.
pub fn plan_of(row: &TriggerRow) -> Result<Option<Plan>, String> {
    let Some(text) = &row.plan else { return Ok(None) };
    let words = crate::kcp::words(text).map_err(|error| error.to_string())?;
    // An interval that is stored has its beginning with it.
    Plan::read(&words, 0).map(Some)
}

/// A recurring trigger waits for `next`, or has come to its end.
fn move_on(row: &mut TriggerRow, plan: &Plan, next: Option<Micros>, now: Micros) {
    match next {
        Some(next) => {
            row.status = TriggerStatus::Planned;
            row.reason = None;
            row.ended_at = None;
            row.slot = next;
            row.due = Some(next + plan.delay(&row.key.identifier, next));
        }
        None => {
            row.status = TriggerStatus::Ended;
            row.due = None;
            row.ended_at = Some(now);
        }
    }
}

/// A slot that did not fire.
fn skipped(identifier: &str, slot: Micros, now: Micros, reason: String) -> TriggerRow {
    let mut row = TriggerRow::planned(TriggerKey::of_slot(identifier, slot), slot);
    end(&mut row, TriggerStatus::Skipped, now, Some(reason));
    row
}

fn end(row: &mut TriggerRow, status: TriggerStatus, now: Micros, reason: Option<String>) {
    row.status = status;
    row.due = None;
    row.owner = 0;
    row.ended_at = Some(now);
    row.reason = reason;
}

/// The row of a trigger whose plan cannot be understood here: a newer program wrote it, or this host lacks something.
/// Another server, or a later one, may understand it; nothing ends for what we do not know.
pub(super) fn puzzled(mut row: TriggerRow, problem: &str, now: Micros) -> TriggerRow {
    row.reason = Some(format!("its plan cannot be understood here: {problem}"));
    row.due = Some(deferred_until(row.slot, now));
    row
}

/// The row of a recurring trigger with the slot that its plan has now; `None`: it has it. A clock that was ahead, or
/// rules of a zone that have changed, leave a later slot behind. A slot that fired does not fire again: its row stays.
pub(super) fn replanned(mut row: TriggerRow, plan: &Plan, now: Micros) -> Option<TriggerRow> {
    let waits = row.status == TriggerStatus::Planned;
    // Due, or delayed by its jitter: the claim decides.
    if waits && row.slot <= now {
        return None;
    }
    let next = plan.next(now)?;
    if waits && next == row.slot {
        return None;
    }
    move_on(&mut row, plan, Some(next), now);
    Some(row)
}

/// The row of a trigger, or of a slot, whose runner is called now by server `owner`.
pub(super) fn fire(
    mut row: TriggerRow,
    rule: Option<&Rule>,
    owner: i64,
    now: Micros,
) -> TriggerRow {
    row.fired_at = Some(now);
    match rule {
        Some(rule) => {
            row.status = TriggerStatus::Triggered;
            row.owner = owner;
            row.ended_at = None;
            row.rule = Some(rule.identifier.clone());
            // While it is fired `due` stays: what a dead server was firing is found by it.
        }
        None => {
            let told = "no rule has a pattern that its identifier begins with";
            end(&mut row, TriggerStatus::Failed, now, Some(told.to_owned()));
        }
    }
    row
}

/// What becomes of a recurring trigger whose slot has come.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Slots {
    /// Rows to store: the trigger's own, and slots that wait or were skipped.
    pub(super) rows: Vec<TriggerRow>,
    /// Slots to fire now.
    pub(super) fire: Vec<TriggerRow>,
}

/// Decides about the slots of `row` that are due; `known` are the rows of its slots so far.
pub(super) fn slots(
    mut row: TriggerRow,
    plan: &Plan,
    known: &[TriggerRow],
    now: Micros,
    misfire_after: Duration,
) -> Slots {
    let identifier = row.key.identifier.clone();
    let due = plan.due(row.slot, now, misfire_after);
    let mut decided = Slots::default();
    let exists = |slot: Micros| known.iter().any(|one| one.key.occurrence == slot);
    if let Some((first, _, reason)) = due.skipped
        && !exists(first)
    {
        decided.rows.push(skipped(&identifier, first, now, reason));
    }
    let mut open: Vec<TriggerRow> = known.iter().filter(|one| is_open(one)).cloned().collect();
    for slot in due.fire {
        // A slot fires once, whatever brought the trigger back to it.
        if exists(slot) {
            continue;
        }
        let new = TriggerRow::planned(TriggerKey::of_slot(&identifier, slot), slot);
        let Some(earlier) = open.last().filter(|_| plan.overlap != Overlap::Allow) else {
            open.push(new.clone());
            decided.fire.push(new);
            continue;
        };
        let told = |what: &str| {
            format!("overlap {what}: the slot of {} still runs", time::show(earlier.slot))
        };
        let waiting = open.iter().filter(|one| one.due.is_none()).count();
        match plan.overlap {
            Overlap::Queue(length) if waiting < length => {
                open.push(waits(new.clone()));
                decided.rows.push(waits(new));
            }
            Overlap::Queue(_) => {
                decided.rows.push(skipped(&identifier, slot, now, told("queue, which is full")));
            }
            Overlap::Skip => decided.rows.push(skipped(&identifier, slot, now, told("skip"))),
            Overlap::Replace => {
                let replaced = format!("replaced by the slot of {}", time::show(slot));
                replace(&mut open, &mut decided, &replaced, now);
                if open.is_empty() {
                    decided.fire.push(new.clone());
                    open.push(new);
                } else {
                    open.push(waits(new.clone()));
                    decided.rows.push(waits(new));
                }
            }
            Overlap::Allow => {}
        }
    }
    move_on(&mut row, plan, due.next, now);
    decided.rows.push(row);
    decided
}

/// Whether a slot is still to end.
fn is_open(row: &TriggerRow) -> bool {
    matches!(row.status, TriggerStatus::Planned | TriggerStatus::Triggered)
}

/// A slot that waits until another one has ended.
fn waits(mut row: TriggerRow) -> TriggerRow {
    row.due = None;
    row
}

/// What is open gives way: waiting slots do not fire, running ones are asked to stop.
fn replace(open: &mut Vec<TriggerRow>, decided: &mut Slots, reason: &str, now: Micros) {
    for mut one in std::mem::take(open) {
        // Decided a moment ago, in this very unit of work: it is not to be stored twice.
        decided.rows.retain(|row| row.key != one.key);
        let was_to_fire = decided.fire.iter().position(|row| row.key == one.key);
        if let Some(index) = was_to_fire {
            decided.fire.remove(index);
        }
        match one.status {
            TriggerStatus::Triggered => {
                one.stop_requested = true;
                one.reason = Some(reason.to_owned());
                open.push(one.clone());
            }
            _ => end(&mut one, TriggerStatus::Skipped, now, Some(reason.to_owned())),
        }
        decided.rows.push(one);
    }
}

/// The slot that fires next when all that is open are `known`: the oldest that waits, unless one still runs.
pub(super) fn released(known: &[TriggerRow], now: Micros) -> Option<TriggerRow> {
    let mut open = known.iter().filter(|row| is_open(row));
    if open.clone().any(|row| row.due.is_some()) {
        return None;
    }
    let mut next = open.next()?.clone();
    next.due = Some(now);
    Some(next)
}

/// How a call of a runner ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did what it was asked; the end of what it said.
    Executed(Option<String>),
    /// It failed.
    Failed {
        /// Why.
        reason: String,
        /// The end of what it said.
        output: Option<String>,
        /// Whether another attempt may help.
        retryable: bool,
        /// How long it asks not to be called again.
        not_before: Option<Duration>,
    },
    /// It did not run, or was ended with this server: it is to fire again.
    Released,
    /// What it goes to is away, for this reason: it is to fire again, in a while.
    Postponed(String),
}

impl Outcome {
    /// It failed and said nothing.
    pub(crate) fn failed(reason: impl Into<String>, retryable: bool) -> Self {
        Self::Failed { reason: reason.into(), output: None, retryable, not_before: None }
    }
}

/// The row after its runner ended.
pub(super) fn finish(
    mut row: TriggerRow,
    outcome: Outcome,
    rule: &Rule,
    now: Micros,
) -> TriggerRow {
    row.owner = 0;
    let stopped = row.stop_requested;
    match outcome {
        Outcome::Executed(output) => {
            row.output = output;
            end(&mut row, TriggerStatus::Executed, now, None);
        }
        Outcome::Failed { output, .. } if stopped => {
            row.output = output;
            let reason = row.reason.take();
            end(&mut row, TriggerStatus::Failed, now, reason);
        }
        Outcome::Failed { reason, output, retryable, not_before } => {
            row.output = output;
            row.attempt = row.attempt.saturating_add(1);
            let retries = rule.settings.retries();
            if retryable && row.attempt <= retries {
                row.status = TriggerStatus::Planned;
                let wait = rule.settings.wait(row.attempt, not_before);
                row.due = Some(now + time::micros_of(wait));
                row.ended_at = Some(now);
                row.reason = Some(reason);
            } else {
                let dead = retryable && retries > 0;
                let status = if dead { TriggerStatus::Dead } else { TriggerStatus::Failed };
                end(&mut row, status, now, Some(reason));
            }
        }
        Outcome::Released => {
            row.status = TriggerStatus::Planned;
            row.due = Some(row.slot);
        }
        Outcome::Postponed(reason) => {
            row.reason = Some(reason);
            row.status = TriggerStatus::Planned;
            row.due = Some(deferred_until(row.slot, now));
        }
    }
    row
}

/// When a trigger is looked at again whose runner has too much to do: the longer it has waited the later, so
/// that many of them cost little.
pub(super) fn deferred_until(slot: Micros, now: Micros) -> Micros {
    now + ((now - slot) / 4).clamp(1_000_000, 30_000_000)
}

#[cfg(test)]
mod tests;
