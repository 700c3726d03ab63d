//! One transaction of the schedule: requests of clients, outcomes of runners and claims of due triggers are
//! decided one after the other on the same rows, and stored together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use batchwright::error::RepositoryError;
use batchwright::event::{Change, Event, Subject};
use batchwright::store::schedule::{ScheduleTransaction, TriggerKey, TriggerRow, TriggerStatus};
use jiff::tz::TimeZone;

use super::condition::{Condition, rule_tag, trigger_tag};
use super::plan::Overlap;
use super::request::{Answer, IDENTIFIER_MAX, LIST_MAX, Request};
use super::rule::{Rule, Rulebook, Runner};
use super::time::{self, Micros};
use super::trigger::{self, Outcome, Refused, SLOTS_KEPT, When};

/// A claimed trigger, or a slot of one, whose runner must be called.
#[derive(Debug, Clone)]
pub(crate) struct Firing {
    pub(crate) key: TriggerKey,
    /// The server that claimed the trigger.
    pub(crate) server: i64,
    /// The planned time.
    pub(crate) slot: Micros,
    /// Number of the attempt, counted from 1.
    pub(crate) attempt: u32,
    /// When it was claimed for this call.
    pub(crate) fired_at: Micros,
    pub(crate) rule: Arc<Rule>,
    /// The zone of the plan, for the runner `job` of a recurring trigger; UTC for all others.
    pub(crate) zone: TimeZone,
}

/// The conditions of a claim.
#[derive(Debug)]
pub(super) struct ClaimConditions<'a> {
    pub(super) server: i64,
    pub(super) rules: &'a Rulebook,
    pub(super) misfire_after: Duration,
    /// Maximum of claimed triggers.
    pub(super) limit: usize,
}

/// The claims of a group, to be used once they are durable.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// Claimed triggers with their stored rows.
    pub(super) firings: Vec<(Firing, TriggerRow)>,
    /// Slots whose runners are asked to stop.
    pub(super) stops: Vec<TriggerKey>,
    /// Triggers whose plans cannot be parsed here, with the problem.
    pub(super) unparsable: Vec<(String, String)>,
    /// Whether more may be due.
    pub(super) more: bool,
}

type StoreResult<T> = Result<T, RepositoryError>;

/// The state of a row in a group.
#[derive(Default)]
struct Known {
    /// `None` when the row does not exist.
    row: Option<TriggerRow>,
    is_changed: bool,
}

/// Returns the event of the state in which a row was written.
pub(super) fn event_of(row: &TriggerRow, now: Micros) -> Event {
    Event {
        at: time::timestamp(now),
        subject: Subject::Trigger {
            identifier: row.key.identifier.as_str().into(),
            slot: time::timestamp(row.slot),
        },
        change: Change::Trigger {
            status: row.status.name(),
            reason: row.reason.clone(),
            due: row.due.filter(|_| !row.stop_requested).map(time::timestamp),
        },
    }
}

/// An open transaction with the rows that it has read or changed.
pub(super) struct Group<'u, 's> {
    tx: &'u mut (dyn ScheduleTransaction + 's),
    now: Micros,
    rows: HashMap<TriggerKey, Known>,
    /// Keys of rows that must be stored.
    changed: Vec<TriggerKey>,
    earliest_due: Option<Micros>,
    rules_changed: bool,
    /// Events of the written rows, if anything observes them.
    events: Option<Vec<Event>>,
}

impl<'u, 's> Group<'u, 's> {
    /// Creates a group that decides on the rows of `keys`, which it reads at once, and on those of `held`,
    /// which the caller has in memory.
    pub(super) fn new(
        tx: &'u mut (dyn ScheduleTransaction + 's),
        now: Micros,
        mut keys: Vec<TriggerKey>,
        held: impl Iterator<Item = TriggerRow>,
    ) -> StoreResult<Self> {
        let known =
            |row: TriggerRow| (row.key.clone(), Known { row: Some(row), is_changed: false });
        let mut rows: HashMap<_, _> = held.map(known).collect();
        keys.retain(|key| !rows.contains_key(key));
        keys.sort_unstable();
        keys.dedup();
        let found = tx.triggers(&keys)?;
        rows.extend(keys.into_iter().map(|key| (key, Known::default())));
        rows.extend(found.into_iter().map(known));
        Ok(Self {
            tx,
            now,
            rows,
            changed: Vec::new(),
            earliest_due: None,
            rules_changed: false,
            events: None,
        })
    }

    /// Collects an event for each row that the group writes, if they `are_observed`; the caller sends them
    /// after the commit.
    pub(super) fn collect_events(&mut self, are_observed: bool) {
        self.events = are_observed.then(Vec::new);
    }

    /// Returns the events of the written rows.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        self.events.take().unwrap_or_default()
    }

    /// Returns the key of the row that `request` decides on.
    pub(super) fn key_of(request: &Request) -> Option<TriggerKey> {
        match request.change() {
            Request::Set { identifier, .. }
            | Request::Unset { identifier }
            | Request::Pause { identifier }
            | Request::Resume { identifier }
            | Request::Skip { identifier, .. }
            | Request::Get { identifier }
            | Request::Fire { identifier, .. } => Some(TriggerKey::of(identifier)),
            _ => None,
        }
    }

    /// Returns the rules after the changes of this group, with their version, unless `version` is current.
    pub(super) fn rules(&mut self, version: Option<i64>) -> StoreResult<Option<(i64, Rulebook)>> {
        let current = self.tx.rules_version()?;
        match version == Some(current) && !self.rules_changed {
            true => Ok(None),
            false => Ok(Some((current, Rulebook::new(rules(self.tx)?)))),
        }
    }

    /// Returns whether this group changed a rule.
    pub(super) fn rules_changed(&self) -> bool {
        self.rules_changed
    }

    /// Returns the earliest due time of the unclaimed rows that this group changed.
    pub(super) fn earliest_due(&self) -> Option<Micros> {
        self.earliest_due
    }

    fn known(&self, key: &TriggerKey) -> Option<TriggerRow> {
        self.rows.get(key)?.row.clone()
    }

    fn put(&mut self, row: TriggerRow) {
        if row.owner == 0 {
            self.earliest_due = [self.earliest_due, row.due].into_iter().flatten().min();
        }
        match self.rows.get_mut(&row.key) {
            Some(known) => {
                if !std::mem::replace(&mut known.is_changed, true) {
                    self.changed.push(row.key.clone());
                }
                known.row = Some(row);
            }
            None => {
                self.changed.push(row.key.clone());
                self.rows.insert(row.key.clone(), Known { row: Some(row), is_changed: true });
            }
        }
    }

    /// Writes the changed rows.
    pub(super) fn flush(&mut self) -> StoreResult<()> {
        if self.changed.is_empty() {
            return Ok(());
        }
        // All servers write in one order, so that two of them do not deadlock.
        self.changed.sort_unstable();
        let rows = self.changed.iter().filter_map(|key| self.rows.get(key)?.row.as_ref());
        let rows: Vec<_> = rows.collect();
        self.tx.save(&rows)?;
        if let Some(events) = &mut self.events {
            events.extend(rows.into_iter().map(|row| event_of(row, self.now)));
        }
        for key in self.changed.drain(..) {
            if let Some(known) = self.rows.get_mut(&key) {
                known.is_changed = false;
                if let Some(row) = &mut known.row {
                    row.version += 1;
                }
            }
        }
        Ok(())
    }

    /// Executes `request`. The outer error is the store's: then nothing of the group is stored.
    pub(super) fn request(&mut self, request: &Request) -> StoreResult<Result<Answer, Refused>> {
        Ok(match request {
            Request::Conditional { condition, change } => {
                return self.conditional(condition, change);
            }
            Request::Set { identifier, when } => {
                if let Err(refused) = valid("identifier", identifier) {
                    return Ok(Err(refused));
                }
                let key = TriggerKey::of(identifier);
                // A new plan of a known trigger may have times that a command has decided. To read them stores earlier changes,
                // after which the row has another version.
                let is_new_plan =
                    |row: TriggerRow| row.plan.is_some() && !trigger::is_same(&row, when);
                let decided = match (when, self.known(&key).is_some_and(is_new_plan)) {
                    (When::Recurring(_), true) => self.slots(identifier)?,
                    _ => Vec::new(),
                };
                match trigger::set(identifier, self.known(&key), when, self.now) {
                    Ok(row) => {
                        let row = trigger::past_decided(row, &decided, self.now);
                        self.put(row);
                        Ok(Answer::Done)
                    }
                    Err(refused) => Err(refused),
                }
            }
            Request::Unset { identifier } => match self.known(&TriggerKey::of(identifier)) {
                None => Err(Refused::no_trigger(identifier)),
                Some(row) => match trigger::unset(&row) {
                    Ok(()) => {
                        // Write earlier changes first, so that a later flush does not restore removed rows.
                        self.flush()?;
                        self.tx.remove(identifier)?;
                        let removed = Event { change: Change::Deleted, ..event_of(&row, self.now) };
                        self.events.iter_mut().for_each(|events| events.push(removed.clone()));
                        let is_recurring = row.plan.is_some();
                        self.rows.insert(row.key, Known::default());
                        if is_recurring {
                            let slots = self.rows.iter_mut();
                            slots
                                .filter(|(key, _)| key.identifier == *identifier)
                                .for_each(|(_, known)| *known = Known::default());
                        }
                        Ok(Answer::Done)
                    }
                    Err(refused) => Err(refused),
                },
            },
            Request::Pause { identifier } => {
                self.change(identifier, |row, _| trigger::pause(row).map(|row| vec![row]))
            }
            Request::Resume { identifier } => {
                let known = self.slots(identifier)?;
                self.change(identifier, |row, now| trigger::resume(row, &known, now))
            }
            Request::Skip { identifier, slot } => {
                let known = self.slots(identifier)?;
                self.change(identifier, |row, now| trigger::skip(row, &known, *slot, now))
            }
            Request::Get { identifier } => match self.known(&TriggerKey::of(identifier)) {
                Some(row) => Ok(Answer::Triggers(vec![row])),
                None => Err(Refused::no_trigger(identifier)),
            },
            Request::History { identifier } => {
                self.flush()?;
                let mut rows = self.tx.triggers(&[TriggerKey::of(identifier)])?;
                if rows.is_empty() {
                    return Ok(Err(Refused::no_trigger(identifier)));
                }
                rows.extend(self.tx.slots(identifier)?);
                Ok(Answer::Triggers(rows))
            }
            Request::List { prefix, limit, after } => {
                self.flush()?;
                // One more than a client may request shows whether there are more.
                Ok(Answer::Triggers(self.tx.list(prefix, after, (*limit).min(LIST_MAX + 1))?))
            }
            Request::SetRule { identifier, pattern, settings } => {
                let checked = valid("rule", identifier).and_then(|()| match pattern.len() {
                    0 => Ok(()),
                    _ => valid("pattern", pattern),
                });
                if let Err(refused) = checked {
                    return Ok(Err(refused));
                }
                self.tx.put_rule(identifier, pattern, &settings.to_json())?;
                self.rules_changed = true;
                Ok(Answer::Done)
            }
            Request::UnsetRule { identifier } => match self.tx.remove_rule(identifier)? {
                true => {
                    self.rules_changed = true;
                    Ok(Answer::Done)
                }
                false => Err(Refused::no_rule(identifier)),
            },
            Request::Rules => Ok(Answer::Rules(rules(self.tx)?)),
            Request::Fire { identifier, slots } => return self.fire_now(identifier, slots),
            Request::Upcoming { limit } => {
                self.flush()?;
                Ok(Answer::Triggers(self.tx.upcoming((*limit).min(LIST_MAX))?))
            }
            Request::Ended { since, limit } => {
                self.flush()?;
                Ok(Answer::Triggers(self.tx.ended(*since, (*limit).min(LIST_MAX))?))
            }
            Request::Servers => Ok(Answer::Servers(self.tx.servers()?)),
        })
    }

    /// Makes a change if its condition is met, and answers with what is stored then. What is the same stays as it is.
    fn conditional(
        &mut self,
        condition: &Condition,
        change: &Request,
    ) -> StoreResult<Result<Answer, Refused>> {
        match change {
            Request::Set { identifier, .. } | Request::Unset { identifier } => {
                let known = self.known(&TriggerKey::of(identifier));
                let is_same = match (&known, change) {
                    (Some(row), Request::Set { when, .. }) => trigger::is_same(row, when),
                    _ => false,
                };
                let tag = known.as_ref().map(trigger_tag);
                let name = format!("trigger `{identifier}`");
                if let Err(refused) = condition.check(&name, tag.as_deref(), is_same) {
                    return Ok(Err(refused));
                }
                // The same once more does not fire a time again that has come, and a plan that waits goes on.
                let keeps = |row: &TriggerRow| {
                    let waits =
                        matches!(row.status, TriggerStatus::Planned | TriggerStatus::Paused);
                    waits || row.plan.is_none()
                };
                let stays = is_same
                    && known.as_ref().is_some_and(keeps)
                    && *condition == Condition::NewOrSame;
                if !stays && let Err(refused) = self.request(change)? {
                    return Ok(Err(refused));
                }
                let stored = self.known(&TriggerKey::of(identifier));
                Ok(Ok(Answer::Triggers(stored.into_iter().collect())))
            }
            Request::SetRule { identifier, .. } | Request::UnsetRule { identifier } => {
                // Two servers must not both find the rule that each of them replaces.
                self.tx.lock_rules()?;
                let find =
                    |rules: Vec<Rule>| rules.into_iter().find(|it| it.identifier == *identifier);
                let known = find(rules(self.tx)?);
                let is_same = match (&known, change) {
                    (Some(known), Request::SetRule { pattern, settings, .. }) => {
                        known.pattern == *pattern && known.settings == *settings
                    }
                    _ => false,
                };
                let tag = known.as_ref().map(rule_tag);
                let name = format!("rule `{identifier}`");
                if let Err(refused) = condition.check(&name, tag.as_deref(), is_same) {
                    return Ok(Err(refused));
                }
                if !is_same && let Err(refused) = self.request(change)? {
                    return Ok(Err(refused));
                }
                Ok(Ok(Answer::Rules(find(rules(self.tx)?).into_iter().collect())))
            }
            _ => {
                let reason = "only a change of a trigger or a rule has a condition";
                Ok(Err(Refused::invalid(reason)))
            }
        }
    }

    /// Makes a trigger, or slots of a recurring one, due now.
    fn fire_now(
        &mut self,
        identifier: &str,
        slots: &[Micros],
    ) -> StoreResult<Result<Answer, Refused>> {
        let Some(row) = self.known(&TriggerKey::of(identifier)) else {
            return Ok(Err(Refused::no_trigger(identifier)));
        };
        let due = match row.plan {
            None if !slots.is_empty() => {
                let reason = format!("trigger `{identifier}` fires once and has no other slots");
                return Ok(Err(Refused::invalid(reason)));
            }
            None => vec![trigger::due_now(row, self.now)],
            Some(_) => {
                let plan = trigger::plan_of(&row);
                let overlaps =
                    plan.is_ok_and(|it| it.is_none_or(|it| it.overlap == Overlap::Allow));
                let now = [self.now];
                let slots = if slots.is_empty() { &now[..] } else { slots };
                let key = |slot: &Micros| TriggerKey::of_slot(identifier, *slot);
                let mut keys: Vec<_> = slots.iter().map(key).collect();
                keys.sort_unstable();
                keys.dedup();
                let slots = self.slots(identifier)?;
                if let Some(refused) = trigger::forgotten(trigger::until(&slots, self.now), &keys) {
                    return Ok(Err(refused));
                }
                // Where slots must not run beside each other, they follow one another.
                let runs = slots.iter().any(|row| row.due.is_some() && !keys.contains(&row.key));
                let known = self.tx.triggers(&keys)?;
                let row = |key: TriggerKey| {
                    let known = known.iter().find(|row| row.key == key).cloned();
                    let slot = key.occurrence;
                    known.unwrap_or_else(|| TriggerRow::planned(key, slot))
                };
                let due = |(index, key): (usize, TriggerKey)| {
                    let mut row = trigger::due_now(row(key), self.now)?;
                    row.due = row.due.filter(|_| overlaps || (index == 0 && !runs));
                    Ok(row)
                };
                keys.into_iter().enumerate().map(due).collect()
            }
        };
        let due: Result<Vec<_>, _> = due.into_iter().collect();
        Ok(due.map(|rows| {
            rows.into_iter().for_each(|row| self.put(row));
            Answer::Done
        }))
    }

    /// Returns the slots of a trigger that have rows of their own.
    fn slots(&mut self, identifier: &str) -> StoreResult<Vec<TriggerRow>> {
        self.flush()?;
        self.tx.slots(identifier)
    }

    fn change(
        &mut self,
        identifier: &str,
        change: impl Fn(TriggerRow, Micros) -> Result<Vec<TriggerRow>, Refused>,
    ) -> Result<Answer, Refused> {
        let known = self.known(&TriggerKey::of(identifier));
        let row = known.ok_or_else(|| Refused::no_trigger(identifier))?;
        for row in change(row, self.now)? {
            self.put(row);
        }
        Ok(Answer::Done)
    }

    /// Stores the outcome of a runner, if this server still owns the row.
    pub(super) fn outcome(&mut self, firing: &Firing, outcome: Outcome) -> StoreResult<()> {
        let known = self.known(&firing.key);
        let ours = |row: &TriggerRow| {
            // A request to stop changes the row too, so compare owner and slot, not the version.
            row.status == TriggerStatus::Triggered
                && row.owner == firing.server
                && row.slot == firing.slot
        };
        let Some(row) = known.filter(ours) else {
            tracing::warn!(
                trigger = firing.key.identifier,
                "the trigger belongs to another server now; the outcome is discarded"
            );
            return Ok(());
        };
        let row = trigger::finish(row, outcome, &firing.rule, self.now);
        log_failure(&row);
        let ended = row.due.is_none();
        self.put(row);
        if ended && firing.key.occurrence >= 0 {
            self.release_next_slot(&firing.key.identifier)?;
        }
        Ok(())
    }

    /// Sets the next waiting slot of `identifier` due, because a slot of the trigger ended.
    fn release_next_slot(&mut self, identifier: &str) -> StoreResult<()> {
        self.flush()?;
        let known = self.tx.slots(identifier)?;
        if let Some(next) = trigger::released(&known, self.now) {
            self.put(next);
        }
        Ok(())
    }

    /// ClaimConditions due triggers. `has_room` returns whether the runner of a rule accepts one more.
    pub(super) fn claim(
        &mut self,
        claims: &ClaimConditions<'_>,
        has_room: &mut dyn FnMut(&Rule) -> bool,
    ) -> StoreResult<Claimed> {
        self.flush()?;
        let due = self.tx.due(self.now, claims.limit)?;
        let mut claimed = Claimed { more: due.len() == claims.limit, ..Claimed::default() };
        let mut begun = Vec::new();
        for row in due {
            match trigger::plan_of(&row) {
                Ok(None) => begun.push(row),
                Ok(Some(plan)) => {
                    let known = self.tx.slots(&row.key.identifier)?;
                    // Coming times that were skipped are no records of the past.
                    let past = trigger::until(&known, self.now).len();
                    if let Some(oldest_kept) = past.checked_sub(SLOTS_KEPT) {
                        let slot = known[oldest_kept].key.occurrence;
                        self.tx.forget_slots(&row.key.identifier, slot)?;
                    }
                    let slots = trigger::slots(row, &plan, &known, self.now, claims.misfire_after);
                    claimed.stops.extend(
                        slots
                            .rows
                            .iter()
                            .filter(|row| row.stop_requested)
                            .map(|row| row.key.clone()),
                    );
                    slots.rows.into_iter().for_each(|row| self.put(row));
                    begun.extend(slots.fire);
                }
                Err(problem) => {
                    let row = trigger::unparsable(row, &problem, self.now);
                    claimed.unparsable.push((row.key.identifier.clone(), problem));
                    self.put(row);
                }
            }
        }
        let mut firings = Vec::with_capacity(begun.len());
        for row in begun {
            // A later slot may just have replaced this one.
            let is_stale = |known: &TriggerRow| {
                known.version != row.version
                    || known.status != TriggerStatus::Planned
                    || known.due.is_none()
            };
            if self.rows.get(&row.key).and_then(|known| known.row.as_ref()).is_some_and(is_stale) {
                continue;
            }
            firings.extend(self.begin(row, claims, has_room)?);
        }
        self.flush()?;
        claimed.firings = firings
            .into_iter()
            .filter_map(|firing| {
                let row = self.rows.remove(&firing.key)?.row?;
                Some((firing, row))
            })
            .collect();
        Ok(claimed)
    }

    /// Returns the zone of a trigger's plan; UTC without a plan.
    fn zone_of(&mut self, identifier: &str) -> StoreResult<TimeZone> {
        let key = TriggerKey::of(identifier);
        let row = match self.known(&key) {
            Some(row) => Some(row),
            None => self.tx.triggers(&[key])?.into_iter().next(),
        };
        let plan = row.and_then(|row| trigger::plan_of(&row).ok().flatten());
        Ok(plan.map_or(TimeZone::UTC, |plan| plan.zone))
    }

    fn begin(
        &mut self,
        mut row: TriggerRow,
        claims: &ClaimConditions<'_>,
        has_room: &mut dyn FnMut(&Rule) -> bool,
    ) -> StoreResult<Option<Firing>> {
        let Some(rule) = claims.rules.find(&row.key.identifier) else {
            let row = trigger::fire(row, None, claims.server, self.now);
            log_failure(&row);
            let key = row.key.clone();
            self.put(row);
            if key.occurrence >= 0 {
                self.release_next_slot(&key.identifier)?;
            }
            return Ok(None);
        };
        if !has_room(rule) {
            row.due = Some(trigger::deferred_until(row.slot, self.now));
            self.put(row);
            return Ok(None);
        }
        let row = trigger::fire(row, Some(rule), claims.server, self.now);
        let (key, rule) = (row.key.clone(), Arc::clone(rule));
        let (server, attempt) = (claims.server, row.attempt + 1);
        // Only a job needs the zone, for a slot parameter that is a date.
        let zone = match rule.settings.runner {
            Runner::Job { .. } if key.occurrence >= 0 => self.zone_of(&key.identifier)?,
            _ => TimeZone::UTC,
        };
        let fired_at = row.fired_at.unwrap_or(self.now);
        let firing = Firing { key, server, slot: row.slot, attempt, fired_at, rule, zone };
        self.put(row);
        Ok(Some(firing))
    }
}

/// Logs a failed attempt.
fn log_failure(row: &TriggerRow) {
    let failed = matches!(row.status, TriggerStatus::Failed | TriggerStatus::Dead);
    let will_retry =
        row.status == TriggerStatus::Planned && row.attempt > 0 && row.reason.is_some();
    if failed || will_retry {
        let (trigger, status, attempt) = (&row.key.identifier, row.status, row.attempt);
        let reason = row.reason.as_deref().unwrap_or_default();
        tracing::warn!(trigger, slot = time::show(row.slot), %status, attempt, reason, "the trigger failed");
    }
}

/// Returns all rules; one that cannot be parsed is logged and left out.
pub(super) fn rules(tx: &mut (dyn ScheduleTransaction + '_)) -> StoreResult<Vec<Rule>> {
    let understood = |row| match Rule::from_row(row) {
        Ok(rule) => Some(rule),
        Err(problem) => {
            tracing::error!(rule = row.identifier, problem, "cannot parse a stored rule");
            None
        }
    };
    Ok(tx.rules()?.iter().filter_map(understood).collect())
}

fn valid(what: &str, text: &str) -> Result<(), Refused> {
    match text.len() {
        0..=IDENTIFIER_MAX => Ok(()),
        length => Err(Refused::invalid(format!(
            "the {what} has {length} bytes; the maximum is {IDENTIFIER_MAX}"
        ))),
    }
}
