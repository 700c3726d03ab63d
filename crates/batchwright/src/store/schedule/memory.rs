//! The schedule in memory, for tests and for programs whose triggers end with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    RuleRow, ScheduleStore, ScheduleTransaction, ServerRow, StoreResult, TRIGGER, TriggerKey,
    TriggerRow, TriggerStatus,
};
use crate::error::RepositoryError;

/// An hour in microseconds.
const HOUR: i64 = 3_600_000_000;

/// The schedule in memory. Clones share it. One transaction runs at a time; the first write of each copies all
/// rows.
#[derive(Clone, Default)]
pub struct MemorySchedule {
    state: Arc<Mutex<Arc<State>>>,
}

#[derive(Clone, Default)]
struct State {
    triggers: BTreeMap<TriggerKey, TriggerRow>,
    rules: BTreeMap<String, RuleRow>,
    rules_version: i64,
    servers: BTreeMap<i64, ServerRow>,
    /// The number of the newest server; numbers are never used twice.
    newest_server: i64,
}

impl State {
    fn next_due(&self) -> Option<i64> {
        self.triggers.values().filter(|row| row.owner == 0).filter_map(|row| row.due).min()
    }
}

impl MemorySchedule {
    /// Returns an empty schedule.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MemorySchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySchedule").finish_non_exhaustive()
    }
}

impl ScheduleStore for MemorySchedule {
    fn begin(&mut self) -> Result<Box<dyn ScheduleTransaction + '_>, RepositoryError> {
        let committed = self.lock();
        let state = Arc::clone(&committed);
        Ok(Box::new(Transaction { committed, state }))
    }

    fn open_another(&self) -> Result<Box<dyn ScheduleStore>, RepositoryError> {
        Ok(Box::new(self.clone()))
    }

    fn change_number(&mut self) -> Result<Option<i64>, RepositoryError> {
        // The executions are in another store.
        Ok(None)
    }

    fn next_due(&mut self) -> Result<Option<i64>, RepositoryError> {
        Ok(self.lock().next_due())
    }
}

struct Transaction<'a> {
    committed: MutexGuard<'a, Arc<State>>,
    state: Arc<State>,
}

impl Transaction<'_> {
    fn state(&mut self) -> &mut State {
        Arc::make_mut(&mut self.state)
    }

    /// Returns the rows for which `is_wanted` is true, in the order of their keys.
    fn rows(&self, is_wanted: impl Fn(&TriggerRow) -> bool) -> Vec<TriggerRow> {
        self.state.triggers.values().filter(|row| is_wanted(row)).cloned().collect()
    }
}

/// Whether the row is done and no longer planned.
fn has_ended(row: &TriggerRow) -> bool {
    row.due.is_none() && row.ended_at.is_some()
}

impl ScheduleTransaction for Transaction<'_> {
    fn triggers(&mut self, keys: &[TriggerKey]) -> StoreResult<Vec<TriggerRow>> {
        Ok(keys.iter().filter_map(|key| self.state.triggers.get(key).cloned()).collect())
    }

    fn due(&mut self, now: i64, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let mut due = self.rows(|row| row.owner == 0 && row.due.is_some_and(|due| due <= now));
        due.sort_by_key(|row| row.due);
        due.truncate(limit);
        Ok(due)
    }

    fn next_due(&mut self) -> StoreResult<Option<i64>> {
        Ok(self.state.next_due())
    }

    fn clock(&mut self) -> StoreResult<Option<i64>> {
        Ok(None)
    }

    fn recurring(&mut self, after: &str, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let may_fire = [TriggerStatus::Planned, TriggerStatus::Failed];
        let mut found = self.rows(|row| {
            row.key.occurrence == TRIGGER
                && row.plan.is_some()
                && row.owner == 0
                && may_fire.contains(&row.status)
                && *row.key.identifier > *after
        });
        found.truncate(limit);
        Ok(found)
    }

    fn forget_future_slots(&mut self, identifier: &str, now: i64) -> StoreResult<()> {
        self.state().triggers.retain(|key, row| {
            let is_skipped = row.status == TriggerStatus::Skipped;
            let is_future = key.occurrence > now && (is_skipped || key.occurrence > now + HOUR);
            let is_after = has_ended(row) && row.ended_at >= Some(key.occurrence);
            !(key.identifier == identifier && is_future && is_after)
        });
        Ok(())
    }

    fn reset_late_retries(&mut self, now: i64, latest: i64) -> StoreResult<()> {
        for row in self.state().triggers.values_mut() {
            let waits_too_long = row.due.is_some_and(|due| due > row.slot && due > latest);
            if row.owner == 0 && row.plan.is_none() && waits_too_long {
                row.due = Some(now);
                row.version += 1;
            }
        }
        Ok(())
    }

    fn slots(&mut self, identifier: &str) -> StoreResult<Vec<TriggerRow>> {
        Ok(self.rows(|row| row.key.identifier == identifier && row.key.occurrence >= 0))
    }

    fn ended(&mut self, since: i64, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let mut found = self.rows(|row| row.ended_at.is_some_and(|at| at >= since));
        found.sort_by_key(|row| std::cmp::Reverse(row.ended_at));
        found.truncate(limit);
        found.iter_mut().for_each(|row| row.output = None);
        Ok(found)
    }

    fn upcoming(&mut self, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let mut found = self.due(i64::MAX, limit)?;
        found.iter_mut().for_each(|row| row.output = None);
        Ok(found)
    }

    fn list(&mut self, prefix: &str, after: &str, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let mut found = self.rows(|row| {
            let identifier = &*row.key.identifier;
            row.key.occurrence == TRIGGER && identifier.starts_with(prefix) && identifier > after
        });
        found.truncate(limit);
        // As in a database, lists do not contain the output of the runners.
        found.iter_mut().for_each(|row| row.output = None);
        Ok(found)
    }

    fn save(&mut self, rows: &[&TriggerRow]) -> StoreResult<()> {
        for row in rows {
            let stored = self.state.triggers.get(&row.key).map_or(0, |stored| stored.version);
            if stored != row.version {
                return Err(RepositoryError::Conflict { what: "triggers".to_owned() });
            }
            let saved = TriggerRow { version: row.version + 1, ..(*row).clone() };
            self.state().triggers.insert(row.key.clone(), saved);
        }
        Ok(())
    }

    fn remove(&mut self, identifier: &str) -> StoreResult<()> {
        self.state().triggers.retain(|key, _| key.identifier != identifier);
        Ok(())
    }

    fn forget_slots(&mut self, identifier: &str, slot: i64) -> StoreResult<()> {
        self.state().triggers.retain(|key, row| {
            let is_old = (0..slot).contains(&key.occurrence);
            !(key.identifier == identifier && is_old && has_ended(row))
        });
        Ok(())
    }

    fn forget_ended(&mut self, before: i64, keep: usize, limit: usize) -> StoreResult<u64> {
        let triggers = || self.state.triggers.values().filter(|row| row.key.occurrence == TRIGGER);
        let mut ended: Vec<i64> = triggers().filter_map(|row| row.ended_at).collect();
        ended.sort_unstable_by(|one, other| other.cmp(one));
        let before = ended.get(keep).map_or(before, |at| before.max(at + 1));
        let is_final = |status| {
            use TriggerStatus::{Dead, Ended, Executed, Failed, Skipped};
            [Executed, Failed, Dead, Skipped, Ended].contains(&status)
        };
        let mut old: Vec<_> = triggers()
            .filter_map(|row| row.ended_at.map(|at| (at, row)))
            .filter(|(at, row)| *at < before && is_final(row.status))
            .map(|(at, row)| (at, row.key.clone()))
            .collect();
        old.sort();
        old.truncate(limit);
        for (_, key) in &old {
            self.state().triggers.remove(key);
        }
        Ok(old.len() as u64)
    }

    fn rules(&mut self) -> StoreResult<Vec<RuleRow>> {
        Ok(self.state.rules.values().cloned().collect())
    }

    fn rules_version(&mut self) -> StoreResult<i64> {
        Ok(self.state.rules_version)
    }

    fn lock_rules(&mut self) -> StoreResult<()> {
        // One transaction at a time.
        Ok(())
    }

    fn put_rule(&mut self, identifier: &str, pattern: &str, runner: &str) -> StoreResult<()> {
        let state = self.state();
        state.rules_version += 1;
        let rule = RuleRow {
            identifier: identifier.to_owned(),
            pattern: pattern.to_owned(),
            runner: runner.to_owned(),
            sequence: state.rules_version,
        };
        state.rules.insert(identifier.to_owned(), rule);
        Ok(())
    }

    fn remove_rule(&mut self, identifier: &str) -> StoreResult<bool> {
        let state = self.state();
        state.rules_version += 1;
        Ok(state.rules.remove(identifier).is_some())
    }

    fn servers(&mut self) -> StoreResult<Vec<ServerRow>> {
        Ok(self.state.servers.values().cloned().collect())
    }

    fn insert_server(&mut self, identity: &str, lease_until: i64) -> StoreResult<i64> {
        let state = self.state();
        state.newest_server += 1;
        let id = state.newest_server;
        state.servers.insert(id, ServerRow { id, identity: identity.to_owned(), lease_until });
        Ok(id)
    }

    fn renew_server(&mut self, id: i64, lease_until: i64) -> StoreResult<bool> {
        let Some(server) = self.state().servers.get_mut(&id) else { return Ok(false) };
        server.lease_until = lease_until;
        Ok(true)
    }

    fn remove_server(&mut self, id: i64, lease_until_max: i64) -> StoreResult<bool> {
        let is_dead = |server: &ServerRow| server.lease_until <= lease_until_max;
        if !self.state.servers.get(&id).is_some_and(is_dead) {
            return Ok(false);
        }
        let state = self.state();
        state.servers.remove(&id);
        for row in state.triggers.values_mut().filter(|row| row.owner == id && row.due.is_some()) {
            row.owner = 0;
            row.status = TriggerStatus::Planned;
            row.version += 1;
        }
        Ok(true)
    }

    fn owned(&mut self, id: i64) -> StoreResult<Vec<TriggerRow>> {
        Ok(self.rows(|row| row.owner == id && row.due.is_some()))
    }

    fn stop_requests(&mut self, id: i64) -> StoreResult<Vec<TriggerKey>> {
        let asked = self.rows(|row| row.owner == id && row.due.is_some() && row.stop_requested);
        Ok(asked.into_iter().map(|row| row.key).collect())
    }

    fn commit(mut self: Box<Self>) -> StoreResult<()> {
        if !Arc::ptr_eq(&self.committed, &self.state) {
            *self.committed = Arc::clone(&self.state);
        }
        Ok(())
    }
}
