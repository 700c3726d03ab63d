//! The rows of the scheduler: triggers, rules and servers, and the traits of the store that keeps them.

mod memory;

pub use memory::MemorySchedule;

use crate::error::RepositoryError;

type StoreResult<T> = Result<T, RepositoryError>;

/// The value of [`TriggerKey::occurrence`] in the row of a trigger, in contrast to the row of one of its slots.
pub const TRIGGER: i64 = -1;

/// The status of a trigger, or of one slot of a recurring trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TriggerStatus {
    /// The trigger fires when it is due.
    Planned,
    /// A server is firing the trigger.
    Triggered,
    /// The runner succeeded.
    Executed,
    /// The runner failed and is not called again: its rule has no retries, the error cannot be retried, a stop was
    /// requested, or no rule matches.
    Failed,
    /// The runner failed at every attempt that the retries of its rule allow; the trigger needs an operator.
    Dead,
    /// The trigger does not fire until it is resumed.
    Paused,
    /// The slot did not fire; `reason` contains why.
    Skipped,
    /// The recurring trigger has reached its end.
    Ended,
}

impl TriggerStatus {
    /// All statuses.
    pub const ALL: [Self; 8] = [
        Self::Planned,
        Self::Triggered,
        Self::Executed,
        Self::Failed,
        Self::Dead,
        Self::Paused,
        Self::Skipped,
        Self::Ended,
    ];

    /// Returns the name of the status in rows and protocols.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Triggered => "triggered",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Paused => "paused",
            Self::Skipped => "skipped",
            Self::Ended => "ended",
        }
    }

    /// Returns the status of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

impl std::fmt::Display for TriggerStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The key of a row: a trigger, or one slot of a recurring trigger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TriggerKey {
    /// Name of the trigger.
    pub identifier: String,
    /// [`TRIGGER`], or the slot in microseconds.
    pub occurrence: i64,
}

impl TriggerKey {
    /// The key of the trigger itself.
    pub fn of(identifier: impl Into<String>) -> Self {
        Self { identifier: identifier.into(), occurrence: TRIGGER }
    }

    /// The key of one slot of a recurring trigger.
    pub fn of_slot(identifier: impl Into<String>, slot: i64) -> Self {
        Self { identifier: identifier.into(), occurrence: slot }
    }
}

/// A trigger, or one slot of a recurring trigger. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerRow {
    /// The key of the row.
    pub key: TriggerKey,
    /// The status.
    pub status: TriggerStatus,
    /// The planned time.
    pub slot: i64,
    /// When the row is due: at the slot, or later for a retry. `None` while the row waits for no time: it has
    /// ended, is paused, or waits for an earlier slot.
    pub due: Option<i64>,
    /// The number of the server that fires the trigger; 0 means none.
    pub owner: i64,
    /// Number of failed attempts of the runner.
    pub attempt: u32,
    /// Raised with every change; 0 means not stored yet.
    pub version: i64,
    /// When the runner was last called.
    pub fired_at: Option<i64>,
    /// When that call ended.
    pub ended_at: Option<i64>,
    /// Whether the runner is asked to stop.
    pub stop_requested: bool,
    /// The recurrence of a recurring trigger, as JSON text.
    pub plan: Option<String>,
    /// The rule whose runner was called.
    pub rule: Option<String>,
    /// Why the trigger failed or did not fire.
    pub reason: Option<String>,
    /// The end of the runner's output.
    pub output: Option<String>,
}

impl TriggerRow {
    /// A new row, planned for `slot`.
    pub fn planned(key: TriggerKey, slot: i64) -> Self {
        Self {
            key,
            status: TriggerStatus::Planned,
            slot,
            due: Some(slot),
            owner: 0,
            attempt: 0,
            version: 0,
            fired_at: None,
            ended_at: None,
            stop_requested: false,
            plan: None,
            rule: None,
            reason: None,
            output: None,
        }
    }
}

/// A rule: a prefix of identifiers and the runner for their triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRow {
    /// The name of the rule.
    pub identifier: String,
    /// Prefix of the identifiers that the rule applies to.
    pub pattern: String,
    /// The runner, as JSON text. May contain secrets.
    pub runner: String,
    /// Of two rules with the same pattern, the one with the higher number applies.
    pub sequence: i64,
}

/// A server that fires triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    /// The number of the server, never used twice.
    pub id: i64,
    /// The process of the server, as [`ProcessIdentity`](crate::execution::owner::ProcessIdentity) writes it.
    pub identity: String,
    /// Until when the server counts as alive, in microseconds since 1970.
    pub lease_until: i64,
}

/// The schedule in a store: triggers, rules and servers. Each implementation must pass
/// `testing::conformance_of_schedule` (feature `testing`).
pub trait ScheduleStore: Send {
    /// Begins a transaction. Dropping it without [`commit`](ScheduleTransaction::commit) rolls it back.
    ///
    /// # Errors
    ///
    /// When the store does not answer: nothing is changed.
    fn begin(&mut self) -> Result<Box<dyn ScheduleTransaction + '_>, RepositoryError>;

    /// Begins a transaction that only reads: it takes no lock that a writer waits for, where the database allows that.
    /// Default: [`begin`](Self::begin).
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    fn begin_reading(&mut self) -> Result<Box<dyn ScheduleTransaction + '_>, RepositoryError> {
        self.begin()
    }

    /// Opens another connection to the same schedule.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    fn open_another(&self) -> Result<Box<dyn ScheduleStore>, RepositoryError>;

    /// Returns a number that changes when another connection changes anything in the store of the schedule, its
    /// executions included: a server looks for queued executions only when the number changes. `None` when
    /// there is no such number.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    fn change_number(&mut self) -> Result<Option<i64>, RepositoryError>;

    /// Returns when the next row without an owner is due. Takes no locks.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    fn next_due(&mut self) -> Result<Option<i64>, RepositoryError>;
}

/// A transaction on the schedule: reads and writes rows, all or nothing. The scheduler decides what fires when.
#[expect(clippy::missing_errors_doc, reason = "every method returns the error of the store")]
pub trait ScheduleTransaction {
    /// Returns the existing rows of `keys` in no particular order. On a database server they are locked until
    /// the end of the transaction.
    fn triggers(&mut self, keys: &[TriggerKey]) -> StoreResult<Vec<TriggerRow>>;

    /// Returns at most `limit` rows without an owner that are due by `now`, the oldest first. On a database
    /// server, rows that another transaction has locked are left out.
    fn due(&mut self, now: i64, limit: usize) -> StoreResult<Vec<TriggerRow>>;

    /// Returns when the next row without an owner is due.
    fn next_due(&mut self) -> StoreResult<Option<i64>>;

    /// Returns the time of the database server's clock, in microseconds since 1970; `None` on SQLite, which
    /// uses this machine's clock.
    fn clock(&mut self) -> StoreResult<Option<i64>>;

    /// Returns at most `limit` recurring triggers without an owner whose names come after `after`, sorted by
    /// name.
    fn recurring(&mut self, after: &str, limit: usize) -> StoreResult<Vec<TriggerRow>>;

    /// Removes slots of `identifier` after `now` that ended at their times or later, which can only come from a clock that was
    /// ahead. A fired slot within the next hour is kept, so that nothing fires twice when the clock is set back a
    /// little. A slot that ended before its time was skipped, or fired, by a command, and is kept.
    fn forget_future_slots(&mut self, identifier: &str, now: i64) -> StoreResult<()>;

    /// Makes each retry that is due after `latest` due at `now`. Only a clock that was ahead produces such a
    /// retry.
    fn reset_late_retries(&mut self, now: i64, latest: i64) -> StoreResult<()>;

    /// Returns all stored slots of a trigger, the oldest first.
    fn slots(&mut self, identifier: &str) -> StoreResult<Vec<TriggerRow>>;

    /// Returns at most `limit` triggers and slots that ended at `since` or later, the newest first. Takes no locks.
    fn ended(&mut self, since: i64, limit: usize) -> StoreResult<Vec<TriggerRow>>;

    /// Returns at most `limit` rows without an owner that will be due, the next first. Takes no locks.
    fn upcoming(&mut self, limit: usize) -> StoreResult<Vec<TriggerRow>>;

    /// Returns at most `limit` triggers whose identifiers begin with `prefix` and come after `after`, sorted.
    fn list(&mut self, prefix: &str, after: &str, limit: usize) -> StoreResult<Vec<TriggerRow>>;

    /// Stores `rows`, each with its version raised by one.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Conflict`] when another server changed one of the rows since it was read; the
    /// transaction must then be dropped.
    fn save(&mut self, rows: &[&TriggerRow]) -> StoreResult<()>;

    /// Removes a trigger with all its slots.
    fn remove(&mut self, identifier: &str) -> StoreResult<()>;

    /// Removes the slots of a trigger that ended or were skipped and are older than `slot`.
    fn forget_slots(&mut self, identifier: &str, slot: i64) -> StoreResult<()>;

    /// Removes at most `limit` triggers that ended before `before` or are not among the `keep` newest ended ones; returns the
    /// number of removed rows. Slots stay: they tell that their times were executed, and [`forget_slots`](Self::forget_slots)
    /// bounds them.
    fn forget_ended(&mut self, before: i64, keep: usize, limit: usize) -> StoreResult<u64>;

    /// Returns all rules.
    fn rules(&mut self) -> StoreResult<Vec<RuleRow>>;

    /// Returns the number that every change of a rule raises.
    fn rules_version(&mut self) -> StoreResult<i64>;

    /// Lets no other transaction change a rule until the end of this one, and this one find the latest rules.
    fn lock_rules(&mut self) -> StoreResult<()>;

    /// Inserts or replaces a rule, which becomes the newest.
    fn put_rule(&mut self, identifier: &str, pattern: &str, runner: &str) -> StoreResult<()>;

    /// Removes a rule; returns whether it existed.
    fn remove_rule(&mut self, identifier: &str) -> StoreResult<bool>;

    /// Returns all servers, including dead ones.
    fn servers(&mut self) -> StoreResult<Vec<ServerRow>>;

    /// Inserts a server; returns its number.
    fn insert_server(&mut self, identity: &str, lease_until: i64) -> StoreResult<i64>;

    /// Extends the lease of a server; returns `false` if another server has declared it dead.
    fn renew_server(&mut self, id: i64, lease_until: i64) -> StoreResult<bool>;

    /// Removes a server whose lease ended by `lease_until_max`, and plans its triggers again. For a server
    /// that is known to be dead, pass a maximum beyond its lease.
    ///
    /// Returns `false` if the server is alive or another server has already removed it.
    fn remove_server(&mut self, id: i64, lease_until_max: i64) -> StoreResult<bool>;

    /// Returns the rows that server `id` is firing.
    fn owned(&mut self, id: i64) -> StoreResult<Vec<TriggerRow>>;

    /// Returns the rows that server `id` is firing and that are asked to stop.
    fn stop_requests(&mut self, id: i64) -> StoreResult<Vec<TriggerKey>>;

    /// Plans a row again that its owner does not fire.
    fn give_back(&mut self, row: &TriggerRow) -> StoreResult<()> {
        self.save(&[&TriggerRow { status: TriggerStatus::Planned, owner: 0, ..row.clone() }])
    }

    /// Commits the transaction.
    ///
    /// # Errors
    ///
    /// The outcome is *unknown* when the connection was lost; read the rows again before deciding.
    fn commit(self: Box<Self>) -> StoreResult<()>;
}
