//! Rows of the scheduler: triggers, rules, servers. It holds no rules of its own: when what fires is decided
//! by the server, one unit of work at a time.

mod rows;

use batchwright::RepositoryError;

use crate::database::{
    Database, Dialect, Session, Sql, SqlError, SqlErrorClass, SqlSession, SqlValue,
};
use crate::repository::StoreOptions;
use rows::Statements;

/// `occurrence` in the row of a trigger itself.
pub const TRIGGER: i64 = -1;

/// What has become of a trigger, or of one slot of a recurring one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TriggerStatus {
    /// Fires when it is due.
    Planned,
    /// A server fires it.
    Triggered,
    /// Its runner did what it was asked.
    Executed,
    /// Its runner failed, and no attempt is left.
    Failed,
    /// Its runner failed at every attempt of its rule: somebody must look.
    Dead,
    /// Does not fire until it is resumed.
    Paused,
    /// A slot that did not fire; its reason says why.
    Skipped,
    /// A recurring trigger whose end has come.
    Ended,
}

impl TriggerStatus {
    /// All of them.
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

    /// The word for it, in rows and on the wire.
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

    /// The status of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

impl std::fmt::Display for TriggerStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Which row: a trigger, or one slot of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TriggerKey {
    /// Name of the trigger.
    pub identifier: String,
    /// [`TRIGGER`], or the slot in microseconds.
    pub occurrence: i64,
}

impl TriggerKey {
    /// The row of the trigger itself.
    pub fn of(identifier: impl Into<String>) -> Self {
        Self { identifier: identifier.into(), occurrence: TRIGGER }
    }

    /// The row of one slot of a recurring trigger.
    pub fn of_slot(identifier: impl Into<String>, slot: i64) -> Self {
        Self { identifier: identifier.into(), occurrence: slot }
    }
}

/// A trigger, or one slot of a recurring one. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerRow {
    /// Which one.
    pub key: TriggerKey,
    /// What has become of it.
    pub status: TriggerStatus,
    /// The time that it is planned for.
    pub slot: i64,
    /// When it must be looked at: the slot, or later when it is tried again. `None`: nothing is to be done.
    pub due: Option<i64>,
    /// The server that fires it; 0: nobody.
    pub owner: i64,
    /// Attempts of its runner that failed.
    pub attempt: u32,
    /// Raised with every change; 0: not stored yet.
    pub version: i64,
    /// When its runner was called last.
    pub fired_at: Option<i64>,
    /// When that ended.
    pub ended_at: Option<i64>,
    /// Whether its runner is asked to stop.
    pub stop_requested: bool,
    /// The rule of a recurring trigger, as JSON text.
    pub plan: Option<String>,
    /// The rule whose runner was called.
    pub rule: Option<String>,
    /// Why it failed or did not fire.
    pub reason: Option<String>,
    /// The end of what its runner said.
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

/// Prefix of identifiers → what is done when one fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRow {
    /// Its name.
    pub identifier: String,
    /// Identifiers that begin so.
    pub pattern: String,
    /// The runner, as JSON text. May hold secrets.
    pub runner: String,
    /// Of two rules with one pattern the one with the higher number holds.
    pub sequence: i64,
}

/// A server that fires triggers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    /// Its number, never used twice.
    pub id: i64,
    /// Its process, as [`ProcessIdentity`](batchwright::ProcessIdentity) writes it.
    pub identity: String,
    /// Until when it is taken to live.
    pub lease_until: i64,
}

/// The part of a store that the scheduler keeps its triggers in: SQLite or PostgreSQL.
pub struct ScheduleStore {
    database: Database,
    statements: Statements,
    session: Option<SqlSession>,
}

impl ScheduleStore {
    /// The triggers in `database`, whose tables [`SqlRepository::open`](crate::SqlRepository::open) made.
    /// On SQLite its commits always survive a power cut.
    ///
    /// # Errors
    ///
    /// MySQL keeps no triggers; a database that cannot be reached.
    pub fn open(database: &Database, options: &StoreOptions) -> Result<Self, RepositoryError> {
        let dialect = database.dialect();
        if dialect == Dialect::MySql {
            let reason = "the scheduler keeps its triggers in SQLite or PostgreSQL, not in MySQL";
            return Err(RepositoryError::unavailable("open the schedule", reason));
        }
        let database = database.clone().durability(batchwright::Durability::Power);
        let session = connect(&database).map_err(|error| error.in_store("open the schedule"))?;
        let statements = Statements::new(dialect, &options.prefix);
        Ok(Self { database, statements, session: Some(session) })
    }

    /// Begins a unit of work. Dropping it without [`commit`](ScheduleUnit::commit) undoes it.
    ///
    /// # Errors
    ///
    /// When the database does not answer: nothing happened.
    pub fn begin(&mut self) -> Result<ScheduleUnit<'_>, RepositoryError> {
        let failed = |error: SqlError| error.in_store("begin");
        let mut session = self.session().map_err(failed)?;
        session.begin().map_err(failed)?;
        Ok(ScheduleUnit {
            statements: &self.statements,
            home: &mut self.session,
            session: Some(session),
        })
    }

    /// A number that changes when another connection changed a SQLite file. On a server it is `None`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn file_version(&mut self) -> Result<Option<i64>, RepositoryError> {
        if self.database.dialect() != Dialect::Sqlite {
            return Ok(None);
        }
        self.look(&Sql::native("PRAGMA data_version"), |row| row.read("data_version"))
    }

    /// When the next row is due that nobody fires. Locks nothing.
    ///
    /// # Errors
    ///
    /// When the database does not answer.
    pub fn next_due(&mut self) -> Result<Option<i64>, RepositoryError> {
        let sql = self.statements.next_due.clone();
        Ok(self.look(&sql, |row| row.read::<Option<i64>>("due"))?.flatten())
    }

    /// The first row of a question, outside of any transaction.
    fn look<T>(
        &mut self,
        sql: &Sql,
        map: fn(&crate::SqlRow<'_>) -> Result<T, SqlError>,
    ) -> Result<Option<T>, RepositoryError> {
        let failed = |error: SqlError| error.in_store("look at the store");
        let mut session = self.session().map_err(failed)?;
        let found = session.one(sql, &[], map);
        self.session = Some(session).filter(|session| !session.is_broken());
        found.map_err(failed)
    }

    /// The connection; a new one, when the last one broke.
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

/// Rows to read and write, all or nothing.
pub struct ScheduleUnit<'a> {
    statements: &'a Statements,
    /// Where the connection goes when it is still good.
    home: &'a mut Option<SqlSession>,
    session: Option<SqlSession>,
}

type Stored<T> = Result<T, RepositoryError>;

#[expect(clippy::missing_errors_doc, reason = "each fails with what the store reports, no more")]
impl ScheduleUnit<'_> {
    fn session(&mut self) -> &mut dyn Session {
        &mut **self.session.as_mut().expect("a connection until the end")
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

    /// The rows of `keys` that there are, in no order. On a server they stay ours until the end.
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

    /// At most `limit` rows that nobody fires and whose time has come by `now`, the oldest first. On a server
    /// those that another server has in its hands are left out.
    pub fn due(&mut self, now: i64, limit: usize) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        let values = [now.into(), count(limit)];
        self.many(&statements.due, &values, statements.reading())
    }

    /// When the next row is due that nobody fires.
    pub fn next_due(&mut self) -> Stored<Option<i64>> {
        let found =
            self.many(&self.statements.next_due, &[], |row| row.read::<Option<i64>>("due"))?;
        Ok(found.into_iter().next().flatten())
    }

    /// The time of the database's own clock, in microseconds since 1970; `None` where it is this machine's.
    pub fn clock(&mut self) -> Stored<Option<i64>> {
        let found = self.many(&self.statements.clock, &[], |row| row.read::<Option<i64>>("now"))?;
        Ok(found.into_iter().next().flatten())
    }

    /// Recurring triggers that nobody fires, at most `limit` behind `after`, in the order of their names.
    pub fn recurring(&mut self, after: &str, limit: usize) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        let after = statements.escaped(after);
        let values = [after.as_ref().into(), count(limit)];
        self.many(&statements.recurring, &values, statements.reading())
    }

    /// Removes slots of `identifier` that ended and lie behind `now`: only a clock that was ahead could reach them.
    /// One that was fired within the next hour stays, so that a clock that is set back a little fires nothing twice.
    pub fn forget_future_slots(&mut self, identifier: &str, now: i64) -> Stored<()> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        let beyond = now + 3_600_000_000;
        let values = [identifier.as_ref().into(), now.into(), beyond.into()];
        self.change(&statements.forget_future, &values).map(drop)
    }

    /// Makes retries due at `now` that wait beyond `latest`: no retry waits so long.
    pub fn bring_forward(&mut self, now: i64, latest: i64) -> Stored<()> {
        self.change(&self.statements.bring_forward, &[now.into(), latest.into()]).map(drop)
    }

    /// All slots of a trigger that are stored, the oldest first.
    pub fn slots(&mut self, identifier: &str) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        self.many(&statements.slots, &[identifier.as_ref().into()], statements.reading())
    }

    /// At most `limit` triggers whose identifiers begin with `prefix` and come after `after`, in their order.
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
    /// [`RepositoryError::Conflict`] when another server changed one of them since it was read: nothing of this
    /// unit may be kept.
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

    /// Removes at most `limit` rows that ended before `before`, and those behind the `keep` newest ones; returns
    /// how many there were.
    pub fn forget_ended(&mut self, before: i64, keep: usize, limit: usize) -> Stored<u64> {
        let statements = self.statements;
        let boundary =
            self.many(&statements.boundary, &[count(keep)], |row| row.read("ended_at"))?;
        let before = boundary.into_iter().next().map_or(before, |at: i64| before.max(at + 1));
        self.change(&statements.forget_ended, &[before.into(), count(limit)])
    }

    /// All rules.
    pub fn rules(&mut self) -> Stored<Vec<RuleRow>> {
        let statements = self.statements;
        let map = match statements.dialect {
            Dialect::Sqlite => rows::rule,
            Dialect::Postgres | Dialect::MySql => rows::escaped_rule,
        };
        self.many(&statements.rules, &[], map)
    }

    /// The number that every change of a rule raises.
    pub fn rules_version(&mut self) -> Stored<i64> {
        let found =
            self.many(&self.statements.rules_version, &[], |row| row.read("rules_version"))?;
        Ok(found.into_iter().next().unwrap_or(0))
    }

    /// Stores a rule in place of the one of that name; it is the newest then.
    pub fn put_rule(&mut self, identifier: &str, pattern: &str, runner: &str) -> Stored<()> {
        let statements = self.statements;
        self.change(&statements.raise_rules_version, &[])?;
        let (identifier, pattern) = (statements.escaped(identifier), statements.escaped(pattern));
        let values = [identifier.as_ref().into(), pattern.as_ref().into(), runner.into()];
        self.change(&statements.put_rule, &values).map(drop)
    }

    /// Removes a rule; returns whether there was one.
    pub fn remove_rule(&mut self, identifier: &str) -> Stored<bool> {
        let statements = self.statements;
        self.change(&statements.raise_rules_version, &[])?;
        let identifier = statements.escaped(identifier);
        Ok(self.change(&statements.remove_rule, &[identifier.as_ref().into()])? > 0)
    }

    /// All servers, those included that died.
    pub fn servers(&mut self) -> Stored<Vec<ServerRow>> {
        self.many(&self.statements.servers, &[], |row| {
            Ok(ServerRow {
                id: row.read("id")?,
                identity: row.read("identity")?,
                lease_until: row.read("lease_until")?,
            })
        })
    }

    /// A new server; returns its number.
    pub fn insert_server(&mut self, identity: &str, lease_until: i64) -> Stored<i64> {
        let statements = self.statements;
        let values = [identity.into(), lease_until.into()];
        let inserted = self.session().insert(&statements.insert_server, &values);
        inserted.map_err(|error| error.in_store("write the schedule"))
    }

    /// Extends the lease of a server; `false` when another one declared it dead.
    pub fn renew_server(&mut self, id: i64, lease_until: i64) -> Stored<bool> {
        let values = [id.into(), lease_until.into()];
        Ok(self.change(&self.statements.renew_server, &values)? > 0)
    }

    /// Removes a server whose lease ended by `now` (or whatever it says, for one that is known to be gone): what
    /// it was firing is planned again. `false`: it lives, or somebody else was quicker.
    pub fn remove_server(&mut self, id: i64, lease_until_max: i64) -> Stored<bool> {
        let statements = self.statements;
        if self.change(&statements.remove_server, &[id.into(), lease_until_max.into()])? == 0 {
            return Ok(false);
        }
        self.change(&statements.take_over, &[id.into()])?;
        Ok(true)
    }

    /// What server `id` is firing.
    pub fn owned(&mut self, id: i64) -> Stored<Vec<TriggerRow>> {
        let statements = self.statements;
        self.many(&statements.owned, &[id.into()], statements.reading())
    }

    /// What server `id` is firing and asked to stop.
    pub fn stop_requests(&mut self, id: i64) -> Stored<Vec<TriggerKey>> {
        let statements = self.statements;
        let asked = self.many(&statements.stop_requests, &[id.into()], statements.reading())?;
        Ok(asked.into_iter().map(|row| row.key).collect())
    }

    /// Plans again what its owner does not fire.
    pub fn give_back(&mut self, row: &TriggerRow) -> Stored<()> {
        let mut row = row.clone();
        row.status = TriggerStatus::Planned;
        row.owner = 0;
        self.save(&[&row])
    }

    /// Makes everything durable, or nothing.
    ///
    /// # Errors
    ///
    /// The outcome is *unknown* when the database went away: read again before deciding.
    pub fn commit(mut self) -> Stored<()> {
        let mut session = self.session.take().expect("a connection until the end");
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

impl Drop for ScheduleUnit<'_> {
    fn drop(&mut self) {
        if let Some(mut session) = self.session.take()
            && session.roll_back().is_ok()
            && !session.is_broken()
        {
            *self.home = Some(session);
        }
    }
}

impl std::fmt::Debug for ScheduleUnit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScheduleUnit").finish_non_exhaustive()
    }
}

/// A connection. On a server nobody is waited for endlessly: a server of ours that lost its power in the middle of
/// a transaction must not hold up the others.
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

/// What a row may hold that no status has.
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
        let mut unit = store.begin().unwrap();
        unit.save(&[&row]).unwrap();
        unit.commit().unwrap();
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
