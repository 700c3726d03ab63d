//! Stores the rows of the scheduler: triggers, rules and servers. The server decides what fires when; this
//! module only reads and writes rows, one transaction at a time.

mod rows;

use batchwright::error::RepositoryError;

use crate::database::{
    Database, Dialect, Session, Sql, SqlError, SqlErrorClass, SqlSession, SqlValue,
};
use crate::repository::StoreOptions;
use rows::Statements;

/// The `occurrence` in the row of a trigger itself.
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
    /// The runner failed, and no attempt is left.
    Failed,
    /// The runner failed at every attempt of its rule; the trigger needs an operator.
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
    /// When the row is due: at the slot, or later for a retry. `None` if nothing is left to do.
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
    /// The process of the server, as [`ProcessIdentity`](batchwright::owner::ProcessIdentity) writes it.
    pub identity: String,
    /// Until when the server counts as alive, in microseconds since 1970.
    pub lease_until: i64,
}

/// The schedule in a store on SQLite or PostgreSQL: triggers, rules and servers.
pub struct ScheduleStore {
    database: Database,
    statements: Statements,
    session: Option<SqlSession>,
}

impl ScheduleStore {
    /// Opens the schedule in `database`, whose tables [`SqlRepository::open`](crate::SqlRepository::open)
    /// creates. On SQLite its commits always survive a power cut.
    ///
    /// # Errors
    ///
    /// Fails on MySQL, which is not supported, and if the database cannot be reached.
    pub fn open(database: &Database, options: &StoreOptions) -> Result<Self, RepositoryError> {
        let dialect = database.dialect();
        if dialect == Dialect::MySql {
            let reason = "the scheduler needs a store on SQLite or PostgreSQL, not on MySQL";
            return Err(RepositoryError::unavailable("open the schedule", reason));
        }
        let database = database.clone().durability(batchwright::store::Durability::Power);
        let session = connect(&database).map_err(|error| error.in_store("open the schedule"))?;
        let statements = Statements::new(dialect, &options.prefix);
        Ok(Self { database, statements, session: Some(session) })
    }

    /// Begins a transaction. Dropping it without [`commit`](ScheduleTransaction::commit) rolls it back.
    ///
    /// # Errors
    ///
    /// Fails if the database does not answer; nothing is changed then.
    pub fn begin(&mut self) -> Result<ScheduleTransaction<'_>, RepositoryError> {
        let failed = |error: SqlError| error.in_store("begin");
        let mut session = self.session().map_err(failed)?;
        session.begin().map_err(failed)?;
        Ok(ScheduleTransaction {
            statements: &self.statements,
            home: &mut self.session,
            session: Some(session),
        })
    }

    /// Returns a number that changes when another connection changes the SQLite file; `None` on a server.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read.
    pub fn file_version(&mut self) -> Result<Option<i64>, RepositoryError> {
        if self.database.dialect() != Dialect::Sqlite {
            return Ok(None);
        }
        self.look(&Sql::native("PRAGMA data_version"), |row| row.read("data_version"))
    }

    /// Returns when the next row without an owner is due. Takes no locks.
    ///
    /// # Errors
    ///
    /// Fails if the database does not answer.
    pub fn next_due(&mut self) -> Result<Option<i64>, RepositoryError> {
        let sql = self.statements.next_due.clone();
        Ok(self.look(&sql, |row| row.read::<Option<i64>>("due"))?.flatten())
    }

    /// Returns the first row of a query, outside any transaction.
    fn look<T>(
        &mut self,
        sql: &Sql,
        map: fn(&crate::SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Option<T>, RepositoryError> {
        let failed = |error: SqlError| error.in_store("read the schedule");
        let mut session = self.session().map_err(failed)?;
        let found = session.one(sql, &[], map);
        self.session = Some(session).filter(|session| !session.is_broken());
        found.map_err(failed)
    }

    /// Takes the connection, or opens a new one if there is none or the last one broke.
    fn session(&mut self) -> Result<SqlSession, SqlError> {
        match self.session.take() {
            Some(session) => Ok(session),
            None => connect(&self.database),
        }
    }
}

impl std::fmt::Debug for ScheduleStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScheduleStore").field("database", &self.database).finish_non_exhaustive()
    }
}

/// A transaction on the schedule.
pub struct ScheduleTransaction<'a> {
    statements: &'a Statements,
    /// Where the connection returns to if it still works.
    home: &'a mut Option<SqlSession>,
    session: Option<SqlSession>,
}

type Stored<T> = Result<T, RepositoryError>;

#[expect(clippy::missing_errors_doc, reason = "each fails with what the store reports, no more")]
impl ScheduleTransaction<'_> {
    fn session(&mut self) -> &mut dyn Session {
        &mut **self.session.as_mut().expect("the connection is open until the transaction ends")
    }

    fn many<T>(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        map: fn(&crate::SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Stored<Vec<T>> {
        self.session().many(sql, values, map).map_err(|error| error.in_store("read the schedule"))
    }

    fn change(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> Stored<u64> {
        let changed = self.session().execute(sql, values);
        changed.map_err(|error| error.in_store("write the schedule"))
    }

    /// Returns the existing rows of `keys` in no particular order. On a server they are locked until the end
    /// of the transaction.
    pub fn triggers(&mut self, keys: &[TriggerKey]) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        match statements.dialect {
            Dialect::Sqlite => {
                let mut found = Vec::with_capacity(keys.len());
                for key in keys {
                    let values = [key.identifier.as_str().into(), key.occurrence.into()];
                    found.append(&mut self.many(&statements.trigger, &values, rows::trigger)?);
                }
                Ok(found)
            }
            Dialect::Postgres | Dialect::MySql => {
                let keys = rows::keys_as_json(keys);
                self.many(&statements.trigger, &[keys.into()], rows::escaped_trigger)
            }
        }
    }

    /// Returns at most `limit` rows without an owner that are due by `now`, the oldest first. On a database
    /// server, rows that another transaction has locked are left out.
    pub fn due(&mut self, now: i64, limit: usize) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        let values = [now.into(), count(limit)];
        self.many(&statements.due, &values, statements.reading())
    }

    /// Returns when the next row without an owner is due.
    pub fn next_due(&mut self) -> Stored<Option<i64>> {
        let found =
            self.many(&self.statements.next_due, &[], |row| row.read::<Option<i64>>("due"))?;
        Ok(found.into_iter().next().flatten())
    }

    /// Returns the time of the database server's clock, in microseconds since 1970; `None` on SQLite, which
    /// uses this machine's clock.
    pub fn clock(&mut self) -> Stored<Option<i64>> {
        let found = self.many(&self.statements.clock, &[], |row| row.read::<Option<i64>>("now"))?;
        Ok(found.into_iter().next().flatten())
    }

    /// Returns at most `limit` recurring triggers without an owner whose names come after `after`, sorted by
    /// name.
    pub fn recurring(&mut self, after: &str, limit: usize) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        let after = statements.escaped(after);
        let values = [after.as_ref().into(), count(limit)];
        self.many(&statements.recurring, &values, statements.reading())
    }

    /// Removes ended slots of `identifier` after `now`, which can only come from a clock that was ahead. A
    /// fired slot within the next hour is kept, so that nothing fires twice when the clock is set back a
    /// little.
    pub fn forget_future_slots(&mut self, identifier: &str, now: i64) -> Stored<()> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        let beyond = now + 3_600_000_000;
        let values = [identifier.as_ref().into(), now.into(), beyond.into()];
        self.change(&statements.forget_future, &values).map(drop)
    }

    /// Makes retries due at `now` that wait longer than until `latest`, which no retry does with a correct
    /// clock.
    pub fn bring_forward(&mut self, now: i64, latest: i64) -> Stored<()> {
        self.change(&self.statements.bring_forward, &[now.into(), latest.into()]).map(drop)
    }

    /// Returns all stored slots of a trigger, the oldest first.
    pub fn slots(&mut self, identifier: &str) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        self.many(&statements.slots, &[identifier.as_ref().into()], statements.reading())
    }

    /// Returns at most `limit` triggers whose identifiers begin with `prefix` and come after `after`, sorted.
    pub fn list(&mut self, prefix: &str, after: &str, limit: usize) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        let prefix = statements.escaped(prefix);
        let from = statements.escaped(after);
        let end = rows::end_of_prefix(&prefix);
        let values =
            [prefix.as_ref().into(), end.as_deref().into(), from.as_ref().into(), count(limit)];
        self.many(&statements.list, &values, statements.reading())
    }

    /// Stores `rows`, each with its version raised by one.
    ///
    /// # Errors
    ///
    /// Returns [`RepositoryError::Conflict`] if another server changed one of the rows since it was read; the
    /// transaction must then be dropped.
    pub fn save(&mut self, rows: &[&TriggerRow]) -> Stored<()> {
        let statements = self.statements;
        let changed = match statements.dialect {
            Dialect::Sqlite => {
                let mut changed = 0;
                for row in rows {
                    let sql = if row.version == 0 { &statements.insert } else { &statements.save };
                    changed += self.change(sql, &rows::values(row))?;
                }
                changed
            }
            Dialect::Postgres | Dialect::MySql => {
                self.change(&statements.save, &[rows::rows_as_json(rows).into()])?
            }
        };
        match changed == rows.len() as u64 {
            true => Ok(()),
            false => Err(RepositoryError::Conflict { what: "triggers".to_owned() }),
        }
    }

    /// Removes a trigger with all its slots.
    pub fn remove(&mut self, identifier: &str) -> Stored<()> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        self.change(&statements.remove, &[identifier.as_ref().into()]).map(drop)
    }

    /// Removes the slots of a trigger that ended or were skipped and are older than `slot`.
    pub fn forget_slots(&mut self, identifier: &str, slot: i64) -> Stored<()> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        self.change(&statements.forget_slots, &[identifier.as_ref().into(), slot.into()]).map(drop)
    }

    /// Removes at most `limit` rows that ended before `before` or are not among the `keep` newest ended ones;
    /// returns the number of removed rows.
    pub fn forget_ended(&mut self, before: i64, keep: usize, limit: usize) -> Stored<u64> {
        let statements = self.statements;
        let boundary =
            self.many(&statements.boundary, &[count(keep)], |row| row.read("ended_at"))?;
        let before = boundary.into_iter().next().map_or(before, |at: i64| before.max(at + 1));
        self.change(&statements.forget_ended, &[before.into(), count(limit)])
    }

    /// Returns all rules.
    pub fn rules(&mut self) -> Stored<Vec<RuleRow>> {
        let statements = self.statements;
        let map = match statements.dialect {
            Dialect::Sqlite => rows::rule,
            Dialect::Postgres | Dialect::MySql => rows::escaped_rule,
        };
        self.many(&statements.rules, &[], map)
    }

    /// Returns the number that every change of a rule raises.
    pub fn rules_version(&mut self) -> Stored<i64> {
        let found =
            self.many(&self.statements.rules_version, &[], |row| row.read("rules_version"))?;
        Ok(found.into_iter().next().unwrap_or(0))
    }

    /// Inserts or replaces a rule, which becomes the newest.
    pub fn put_rule(&mut self, identifier: &str, pattern: &str, runner: &str) -> Stored<()> {
        let statements = self.statements;
        self.change(&statements.raise_rules_version, &[])?;
        let (identifier, pattern) = (statements.escaped(identifier), statements.escaped(pattern));
        let values = [identifier.as_ref().into(), pattern.as_ref().into(), runner.into()];
        self.change(&statements.put_rule, &values).map(drop)
    }

    /// Removes a rule; returns whether it existed.
    pub fn remove_rule(&mut self, identifier: &str) -> Stored<bool> {
        let statements = self.statements;
        self.change(&statements.raise_rules_version, &[])?;
        let identifier = statements.escaped(identifier);
        Ok(self.change(&statements.remove_rule, &[identifier.as_ref().into()])? > 0)
    }

    /// Returns all servers, including dead ones.
    pub fn servers(&mut self) -> Stored<Vec<ServerRow>> {
        self.many(&self.statements.servers, &[], |row| {
            Ok(ServerRow {
                id: row.read("id")?,
                identity: row.read("identity")?,
                lease_until: row.read("lease_until")?,
            })
        })
    }

    /// Inserts a server; returns its number.
    pub fn insert_server(&mut self, identity: &str, lease_until: i64) -> Stored<i64> {
        let statements = self.statements;
        let values = [identity.into(), lease_until.into()];
        let inserted = self.session().insert(&statements.insert_server, &values);
        inserted.map_err(|error| error.in_store("write the schedule"))
    }

    /// Extends the lease of a server; returns `false` if another server has declared it dead.
    pub fn renew_server(&mut self, id: i64, lease_until: i64) -> Stored<bool> {
        let values = [id.into(), lease_until.into()];
        Ok(self.change(&self.statements.renew_server, &values)? > 0)
    }

    /// Removes a server whose lease ended by `lease_until_max`, and plans its triggers again. For a server
    /// that is known to be dead, pass a maximum beyond its lease.
    ///
    /// Returns `false` if the server is alive or another server has already removed it.
    pub fn remove_server(&mut self, id: i64, lease_until_max: i64) -> Stored<bool> {
        let statements = self.statements;
        if self.change(&statements.remove_server, &[id.into(), lease_until_max.into()])? == 0 {
            return Ok(false);
        }
        self.change(&statements.take_over, &[id.into()])?;
        Ok(true)
    }

    /// Returns the rows that server `id` is firing.
    pub fn owned(&mut self, id: i64) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        self.many(&statements.owned, &[id.into()], statements.reading())
    }

    /// Returns the rows that server `id` is firing and that are asked to stop.
    pub fn stop_requests(&mut self, id: i64) -> Stored<Vec<TriggerKey>> {
        let statements = self.statements;
        let asked = self.many(&statements.stop_requests, &[id.into()], statements.reading())?;
        Ok(asked.into_iter().map(|row| row.key).collect())
    }

    /// Plans a row again that its owner does not fire.
    pub fn give_back(&mut self, row: &TriggerRow) -> Stored<()> {
        let mut row = row.clone();
        row.status = TriggerStatus::Planned;
        row.owner = 0;
        self.save(&[&row])
    }

    /// Commits the transaction.
    ///
    /// # Errors
    ///
    /// The outcome is *unknown* if the connection was lost; read the rows again before deciding.
    pub fn commit(mut self) -> Stored<()> {
        let mut session =
            self.session.take().expect("the connection is open until the transaction ends");
        let committed = session.commit();
        if committed.is_err() && session.roll_back().is_err() {
            return committed.map_err(|error| error.in_store("commit"));
        }
        if !session.is_broken() {
            *self.home = Some(session);
        }
        committed.map_err(|error| error.in_store("commit"))
    }
}

impl Drop for ScheduleTransaction<'_> {
    fn drop(&mut self) {
        if let Some(mut session) = self.session.take()
            && session.roll_back().is_ok()
            && !session.is_broken()
        {
            *self.home = Some(session);
        }
    }
}

impl std::fmt::Debug for ScheduleTransaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScheduleTransaction").finish_non_exhaustive()
    }
}

/// Opens a connection. On PostgreSQL it has time-outs, so that a Batchwright server that loses power within a
/// transaction does not block the others.
fn connect(database: &Database) -> Result<SqlSession, SqlError> {
    let mut session = database.connect_store()?;
    if database.dialect() == Dialect::Postgres && !database.is_pooled() {
        session.run(
            "SET lock_timeout = '5s'; SET statement_timeout = '30s'; \
             SET idle_in_transaction_session_timeout = '10s'; SET tcp_user_timeout = '20s'",
        )?;
    }
    Ok(session)
}

fn count(number: usize) -> SqlValue<'static> {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

/// An error about a row with an unknown status.
fn unknown_status(name: &str) -> SqlError {
    SqlError::new(SqlErrorClass::Corrupt, format!("a trigger has the status `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::rows::COLUMNS;
    use super::*;
    use crate::SqlRepository;

    fn store() -> (tempfile::TempDir, ScheduleStore) {
        let folder = tempfile::tempdir().unwrap();
        let repository = SqlRepository::sqlite(folder.path().join("s.db")).unwrap();
        let store = ScheduleStore::open(repository.database(), &StoreOptions::default()).unwrap();
        (folder, store)
    }

    #[test]
    fn a_unit_that_is_dropped_leaves_nothing() {
        let (_folder, mut store) = store();
        let row = TriggerRow::planned(TriggerKey::of("a"), 5);
        store.begin().unwrap().save(&[&row]).unwrap();
        assert_eq!(store.begin().unwrap().triggers(&[TriggerKey::of("a")]).unwrap(), []);
    }

    #[test]
    fn a_row_that_somebody_else_changed_is_not_written_over() {
        let (_folder, mut store) = store();
        let row = TriggerRow::planned(TriggerKey::of("a"), 5);
        let mut tx = store.begin().unwrap();
        tx.save(&[&row]).unwrap();
        tx.commit().unwrap();
        let stale = TriggerRow { version: 5, ..row.clone() };
        for wrong in [row, stale] {
            let error = store.begin().unwrap().save(&[&wrong]).unwrap_err();
            assert!(matches!(error, RepositoryError::Conflict { .. }), "{error}");
        }
    }

    #[test]
    fn the_columns_are_those_of_the_table() {
        let (folder, _store) = store();
        let database = Database::parse(&format!("sqlite://{}/s.db", folder.path().display()));
        let found = database.unwrap().columns_of("bw_trigger").unwrap();
        assert_eq!(found, COLUMNS);
    }
}
