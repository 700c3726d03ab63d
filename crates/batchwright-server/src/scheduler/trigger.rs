//! The life cycle of a trigger as pure functions: from a row and an event to the next row.
//!
//! ```text
//!              SET                    due                runner succeeded
//!   (nothing) ─────▶ planned ─────────────────▶ triggered ─────────────▶ executed
//!                    │  ▲  ▲                     │  │                      │
//!              pause │  │  └──── retry ──────────┘  └─▶ failed, dead ──────┤
//!                    ▼  │ resume                         no attempt left   │ SET
//!                   paused               planned ◀─────────────────────────┘
//! ```
//!
//! A recurring trigger stays `planned` with its next slot; each due slot gets its own row, which follows this
//! life cycle or is `skipped`.

use std::time::Duration;

use batchwright::store::schedule::{TriggerKey, TriggerRow, TriggerStatus};

use super::plan::{Overlap, Plan};
use super::rule::Rule;
use super::time::{self, Micros};

/// Slots of a recurring trigger that are kept.
pub(super) const SLOTS_KEPT: usize = 100;

/// When a trigger fires.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// Once, at this time in microseconds since 1970; a time in the past fires at once.
    At(i64),
    /// At each slot of a plan.
    Recurring(Box<Plan>),
}

impl From<jiff::Timestamp> for When {
    fn from(at: jiff::Timestamp) -> Self {
        Self::At(at.as_microsecond())
    }
}

/// Times that no clock of a computer can have become the first or the last one that can be stored.
impl From<std::time::SystemTime> for When {
    fn from(at: std::time::SystemTime) -> Self {
        let micros = match at.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => {
                i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros)
            }
        };
        Self::At(micros)
    }
}

impl When {
    /// Parses a time: `2026-11-22 06:30:00` in UTC, or RFC 3339.
    ///
    /// # Errors
    ///
    /// A sentence when `text` is not a time.
    pub fn parse(text: &str) -> Result<Self, String> {
        time::parse(text).map(Self::At)
    }

    /// Returns the words for `SET`. A time in whole seconds has the form that Kairoi's server accepts.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::At(at) if at % 1_000_000 == 0 => vec![time::show(*at)],
            Self::At(at) => vec![time::show_exact(*at)],
            Self::Recurring(plan) => plan.words(),
        }
    }
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// A stable code: `busy`, `not_found`, `changed`, `unconditional`, `invalid`, `limit`, `unauthorized`, `unavailable`.
    pub code: &'static str,
    /// The reason, and what to do.
    pub message: String,
}

impl Refused {
    /// The named trigger or rule does not exist.
    pub const NOT_FOUND: &str = "not_found";
    /// The trigger is being fired.
    pub const BUSY: &str = "busy";
    /// The trigger or rule is not the one that the client has seen.
    pub const CHANGED: &str = "changed";
    /// The change would replace a trigger or rule, and the client does not say which one it has seen.
    pub const UNCONDITIONAL: &str = "unconditional";

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

/// Whether a `SET` gives the trigger the plan or the time that it has.
pub(super) fn is_same(row: &TriggerRow, when: &When) -> bool {
    match when {
        When::At(slot) => row.plan.is_none() && row.slot == *slot,
        When::Recurring(plan) => {
            plan_of(row).ok().flatten().is_some_and(|known| known.is_same(plan))
        }
    }
}

/// Returns the row after a `SET`.
pub(super) fn set(
    identifier: &str,
    row: Option<TriggerRow>,
    when: &When,
    now: Micros,
) -> Result<TriggerRow, Refused> {
    let (slot, plan) = match when {
        When::At(slot) => (*slot, None),
        When::Recurring(plan) => {
            let first = plan.first(now).ok_or_else(|| Refused::invalid("the plan never fires"))?;
            (first, Some(plan))
        }
    };
    // Setting the same plan again keeps its next slot.
    if let (Some(plan), Some(row)) = (plan, &row)
        && matches!(row.status, TriggerStatus::Planned | TriggerStatus::Paused)
        && plan_of(row).ok().flatten().is_some_and(|known| known.is_same(plan))
    {
        return Ok(row.clone());
    }
    let mut set = TriggerRow::planned(TriggerKey::of(identifier), slot);
    set.due = Some(slot + plan.map_or(0, |plan| plan.delay(identifier, slot)));
    set.plan = plan.map(|plan| crate::message::line(&plan.words()));
    let Some(row) = row else { return Ok(set) };
    match row.status {
        TriggerStatus::Triggered => return Err(Refused::busy(identifier)),
        // A paused trigger stays paused until it is resumed.
        TriggerStatus::Paused => {
            set.status = TriggerStatus::Paused;
            set.due = None;
        }
        _ => {}
    }
    set.version = row.version;
    Ok(set)
}

/// Checks that a trigger may be removed.
pub(super) fn unset(row: &TriggerRow) -> Result<(), Refused> {
    match row.status {
        TriggerStatus::Triggered => Err(Refused::busy(&row.key.identifier)),
        _ => Ok(()),
    }
}

/// Returns the slots of `known`, the oldest first, whose times have come.
pub(super) fn until(known: &[TriggerRow], now: Micros) -> &[TriggerRow] {
    &known[..known.partition_point(|row| row.key.occurrence <= now)]
}

/// Refuses slots that are older than the oldest one that is recorded, when older records were removed: whether they were executed
/// is not known.
pub(super) fn forgotten(known: &[TriggerRow], keys: &[TriggerKey]) -> Option<Refused> {
    let oldest = known.first().filter(|_| known.len() >= SLOTS_KEPT)?;
    let key = keys.iter().find(|key| key.occurrence < oldest.key.occurrence)?;
    Some(Refused::invalid(format!(
        "the records of trigger `{}` begin with {}, so it is not known whether it was executed for {}; start its job instead",
        key.identifier,
        time::show(oldest.key.occurrence),
        time::show(key.occurrence)
    )))
}

/// Returns the row of a trigger that fires once, or of a slot, due now. What was executed, or is being fired, stays as it is.
pub(super) fn due_now(mut row: TriggerRow, now: Micros) -> Result<TriggerRow, Refused> {
    match row.status {
        TriggerStatus::Triggered => return Err(Refused::busy(&row.key.identifier)),
        TriggerStatus::Executed => {
            let (identifier, slot) = (&row.key.identifier, time::show(row.slot));
            return Err(Refused::invalid(format!(
                "trigger `{identifier}` was executed for {slot}; restart or start its job instead"
            )));
        }
        TriggerStatus::Planned
        | TriggerStatus::Failed
        | TriggerStatus::Dead
        | TriggerStatus::Paused
        | TriggerStatus::Skipped
        | TriggerStatus::Ended => {}
    }
    row.status = TriggerStatus::Planned;
    row.due = Some(now);
    row.attempt = 0;
    row.ended_at = None;
    row.reason = None;
    Ok(row)
}

/// Returns the row after a pause.
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
                "trigger `{identifier}` is {status} and cannot be paused"
            )))
        }
    }
}

/// Returns the rows after a resume: slots that passed during the pause do not fire, and one skipped row
/// records them. `known` are the slots with rows of their own.
pub(super) fn resume(
    mut row: TriggerRow,
    known: &[TriggerRow],
    now: Micros,
) -> Result<Vec<TriggerRow>, Refused> {
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
    let has_row = |at: Micros| known.iter().any(|one| one.key.occurrence == at);
    let mut missed = Some(row.slot);
    while let Some(at) = missed.filter(|at| *at < now && has_row(*at)) {
        missed = plan.next(at);
    }
    if let Some(first) = missed.filter(|at| *at < now) {
        let reason = format!("paused from {} to {}", time::show(first), time::show(now));
        rows.push(skipped(&row.key.identifier, first, now, reason));
    }
    let next = first_open(&plan, known, plan.first(now.max(row.slot)));
    move_on(&mut row, &plan, next, now);
    rows.push(row);
    Ok(rows)
}

/// A second in microseconds.
const SECOND: Micros = 1_000_000;

/// Returns the rows after a skip of `slot`, a coming time: a skipped row records it. `known` are the slots with rows of their own.
pub(super) fn skip(
    mut row: TriggerRow,
    known: &[TriggerRow],
    slot: Micros,
    now: Micros,
) -> Result<Vec<TriggerRow>, Refused> {
    let identifier = row.key.identifier.clone();
    let refused = |reason: &str| {
        let slot = time::show(slot);
        Err(Refused::invalid(format!("trigger `{identifier}` cannot skip {slot}: {reason}")))
    };
    let Some(plan) = plan_of(&row).map_err(Refused::invalid)? else {
        return refused("it fires once; pause or remove it");
    };
    if row.status != TriggerStatus::Planned {
        return refused(&format!("it is {}", row.status));
    }
    // A time that the jitter delays has not fired yet.
    let is_delayed = |at: Micros| at == row.slot && row.due.is_some_and(|due| due > now);
    if slot <= now && !is_delayed(slot) {
        return refused("that time has come");
    }
    if known.len() - until(known, now).len() >= SLOTS_KEPT {
        return refused("so many coming times were skipped already; pause the trigger instead");
    }
    // Times are shown without fractions of a second, which those of `every` have.
    let within = if slot % SECOND == 0 { SECOND } else { 1 };
    let Some(slot) = plan.next(slot - 1).filter(|at| *at < slot + within) else {
        return refused("its plan does not fire at that time");
    };
    if let Some(one) = known.iter().find(|one| one.key.occurrence == slot) {
        return refused(&format!("it is {} for that time already", one.status));
    }
    let skipped = skipped(&identifier, slot, now, "skipped by a command".to_owned());
    if row.slot != slot {
        return Ok(vec![skipped]);
    }
    let next = first_open(&plan, known, plan.next(slot));
    move_on(&mut row, &plan, next, now);
    Ok(vec![skipped, row])
}

/// Returns the next time of a trigger that no command has decided. `rows` are its row and those of its slots.
pub(super) fn next_time(rows: &[TriggerRow], now: Micros) -> Result<Micros, Refused> {
    let own = rows.iter().find(|row| row.key.occurrence == batchwright::store::schedule::TRIGGER);
    let plan = own.map(plan_of).transpose().map_err(Refused::invalid)?.flatten();
    let delayed = own.filter(|row| {
        let has_row = rows.iter().any(|one| one.key.occurrence == row.slot);
        row.status == TriggerStatus::Planned && row.due.is_some_and(|due| due > now) && !has_row
    });
    let next = plan.and_then(|plan| match delayed {
        Some(row) => Some(row.slot),
        None => first_open(&plan, rows, plan.next(now)),
    });
    let once = || Refused::invalid("the trigger has no plan, or its plan has no further time");
    next.ok_or_else(once)
}

/// Whether a command has decided what becomes of `slot` before its time: it was skipped, or fired early.
pub(super) fn is_decided(known: &[TriggerRow], slot: Micros) -> bool {
    let of_slot = |one: &&TriggerRow| one.key.occurrence == slot;
    known.iter().find(of_slot).is_some_and(|one| one.ended_at.is_some_and(|ended| ended < slot))
}

/// Returns `next`, or the first time after it that no command has decided.
fn first_open(plan: &Plan, known: &[TriggerRow], mut next: Option<Micros>) -> Option<Micros> {
    while let Some(decided) = next.filter(|at| is_decided(known, *at)) {
        next = plan.next(decided);
    }
    next
}

/// Returns the row of a trigger that was planned anew with the first of its times that no command has decided.
pub(super) fn past_decided(mut row: TriggerRow, known: &[TriggerRow], now: Micros) -> TriggerRow {
    if let Some(plan) = plan_of(&row).ok().flatten()
        && is_decided(known, row.slot)
    {
        let is_paused = row.status == TriggerStatus::Paused;
        let next = first_open(&plan, known, Some(row.slot));
        move_on(&mut row, &plan, next, now);
        if is_paused && row.status == TriggerStatus::Planned {
            (row.status, row.due) = (TriggerStatus::Paused, None);
        }
    }
    row
}

/// Returns the plan of a trigger; `None` for one that fires once.
///
/// # Errors
///
/// A sentence when the stored plan cannot be parsed.
pub fn plan_of(row: &TriggerRow) -> Result<Option<Plan>, String> {
    let Some(text) = &row.plan else { return Ok(None) };
    let words = crate::message::words(text).map_err(|error| error.to_string())?;
    // A stored interval contains its `from` or `anchor`, so the time passed here is not used.
    Plan::read(&words, 0).map(Some)
}

/// Advances a recurring trigger to `next`, or ends it.
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

/// Returns the row of a slot that did not fire.
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

/// Returns the row of a trigger whose plan cannot be parsed here, because a newer program wrote it or this
/// host lacks a time zone. The trigger waits, because another or a later server may parse its plan.
pub(super) fn unparsable(mut row: TriggerRow, problem: &str, now: Micros) -> TriggerRow {
    row.reason = Some(format!("its plan cannot be parsed here: {problem}"));
    row.due = Some(deferred_until(row.slot, now));
    row
}

/// Returns the row of a recurring trigger with the slot that its plan has now; `None` when it has that slot.
/// The stored slot may be wrong after a clock that was ahead or a change of the zone's rules. A slot that
/// fired does not fire again, because its own row stays. `known` are the slots with rows of their own: one that a command has
/// skipped or fired before its time is not the next one.
pub(super) fn replanned(
    mut row: TriggerRow,
    plan: &Plan,
    known: &[TriggerRow],
    now: Micros,
) -> Option<TriggerRow> {
    let waits = row.status == TriggerStatus::Planned;
    // A due slot, or one delayed by its jitter, is left to the claim.
    if waits && row.slot <= now {
        return None;
    }
    let next = first_open(plan, known, plan.next(now))?;
    if waits && next == row.slot {
        return None;
    }
    move_on(&mut row, plan, Some(next), now);
    Some(row)
}

/// Returns the row of a trigger, or of a slot, whose runner the server `owner` calls now.
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
            // `due` stays while the trigger fires: other servers find the triggers of a dead server by it.
        }
        None => {
            let reason = "no rule matches the name of the trigger";
            end(&mut row, TriggerStatus::Failed, now, Some(reason.to_owned()));
        }
    }
    row
}

/// The decision about the due slots of a recurring trigger.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Slots {
    /// Rows to store: the trigger's own, and slots that wait or are skipped.
    pub(super) rows: Vec<TriggerRow>,
    /// Slots to fire now.
    pub(super) fire: Vec<TriggerRow>,
}

/// Decides about the due slots of `row`; `known` are the rows of its slots so far.
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
        // A slot fires once, even if the trigger reaches it again.
        if exists(slot) {
            continue;
        }
        let new = TriggerRow::planned(TriggerKey::of_slot(&identifier, slot), slot);
        let Some(earlier) = open.last().filter(|_| plan.overlap != Overlap::Allow) else {
            open.push(new.clone());
            decided.fire.push(new);
            continue;
        };
        let waiting = open.iter().filter(|one| one.due.is_none()).count();
        match plan.overlap {
            Overlap::Queue(length) if waiting < length => {
                open.push(waits(new.clone()));
                decided.rows.push(waits(new));
            }
            Overlap::Queue(_) => {
                let reason = format!("overlap queue: the queue is full, {waiting} slots wait");
                decided.rows.push(skipped(&identifier, slot, now, reason));
            }
            Overlap::Skip => {
                let earlier = time::show(earlier.slot);
                let reason = format!("overlap skip: the slot of {earlier} has not ended");
                decided.rows.push(skipped(&identifier, slot, now, reason));
            }
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
    move_on(&mut row, plan, first_open(plan, known, due.next), now);
    decided.rows.push(row);
    decided
}

/// Returns whether a slot has not ended.
fn is_open(row: &TriggerRow) -> bool {
    matches!(row.status, TriggerStatus::Planned | TriggerStatus::Triggered)
}

/// Returns a slot that waits until an earlier one ends.
fn waits(mut row: TriggerRow) -> TriggerRow {
    row.due = None;
    row
}

/// Replaces the open slots: waiting ones do not fire, running ones are asked to stop.
fn replace(open: &mut Vec<TriggerRow>, decided: &mut Slots, reason: &str, now: Micros) {
    for mut one in std::mem::take(open) {
        // A row that this same transaction already decided must not be stored twice.
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

/// Returns the slot of `known` that fires next: the oldest waiting one, unless one still runs.
pub(super) fn released(known: &[TriggerRow], now: Micros) -> Option<TriggerRow> {
    let mut open = known.iter().filter(|row| is_open(row));
    if open.clone().any(|row| row.due.is_some()) {
        return None;
    }
    let mut next = open.next()?.clone();
    next.due = Some(now);
    Some(next)
}

/// The outcome of a runner's call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The call succeeded, with the end of its output.
    Executed(Option<String>),
    /// The call failed.
    Failed {
        /// The reason.
        reason: String,
        /// The end of its output.
        output: Option<String>,
        /// Whether another attempt may help.
        retryable: bool,
        /// The shortest wait before another attempt that the target requests.
        not_before: Option<Duration>,
    },
    /// The call did not run, or ended with this server: the trigger fires again.
    Released,
    /// The target is unavailable, for this reason: the trigger fires again later.
    Postponed(String),
}

impl Outcome {
    /// Returns a failure without output.
    pub(crate) fn failed(reason: impl Into<String>, retryable: bool) -> Self {
        Self::Failed { reason: reason.into(), output: None, retryable, not_before: None }
    }
}

/// Returns the row after its runner ended.
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

/// Returns when a trigger without room at its target is claimed again: the longer it has waited, the later,
/// so that many waiting triggers cost little.
pub(super) fn deferred_until(slot: Micros, now: Micros) -> Micros {
    now + ((now - slot) / 4).clamp(1_000_000, 30_000_000)
}

#[cfg(test)]
mod tests;
