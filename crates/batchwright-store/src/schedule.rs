//! The schedule in a database: triggers, rules and servers.

mod rows;

use batchwright::error::RepositoryError;
use batchwright::store::schedule::{
    RuleRow, ScheduleStore, ScheduleTransaction, ServerRow, TriggerKey, TriggerRow,
};

use crate::database::{
    Database, Dialect, Session, Sql, SqlError, SqlErrorClass, SqlSession, SqlValue,
};
use crate::repository::StoreOptions;
use rows::Statements;

/// The schedule in a store on SQLite or PostgreSQL: triggers, rules and servers.
pub struct SqlSchedule {
    database: Database,
    options: StoreOptions,
    statements: Statements,
    session: Option<SqlSession>,
}

impl SqlSchedule {
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
        Ok(Self { database, options: options.clone(), statements, session: Some(session) })
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

impl ScheduleStore for SqlSchedule {
    fn begin(&mut self) -> Result<Box<dyn ScheduleTransaction + '_>, RepositoryError> {
        let failed = |error: SqlError| error.in_store("begin a transaction");
        let mut session = self.session().map_err(failed)?;
        session.begin().map_err(failed)?;
        Ok(Box::new(SqlScheduleTransaction {
            statements: &self.statements,
            home: &mut self.session,
            session: Some(session),
            only_reads: false,
        }))
    }

    fn begin_reading(&mut self) -> Result<Box<dyn ScheduleTransaction + '_>, RepositoryError> {
        let failed = |error: SqlError| error.in_store("begin a transaction");
        let mut session = self.session().map_err(failed)?;
        match self.database.dialect() {
            Dialect::Sqlite => session.run("BEGIN DEFERRED").map_err(failed)?,
            Dialect::Postgres | Dialect::MySql => {
                session.begin().map_err(failed)?;
                session.run("SET TRANSACTION READ ONLY").map_err(failed)?;
            }
        }
        Ok(Box::new(SqlScheduleTransaction {
            statements: &self.statements,
            home: &mut self.session,
            session: Some(session),
            only_reads: true,
        }))
    }

    fn open_another(&self) -> Result<Box<dyn ScheduleStore>, RepositoryError> {
        Ok(Box::new(Self::open(&self.database, &self.options)?))
    }

    fn change_number(&mut self) -> Result<Option<i64>, RepositoryError> {
        if self.database.dialect() != Dialect::Sqlite {
            return Ok(None);
        }
        self.look(&Sql::native("PRAGMA data_version"), |row| row.read("data_version"))
    }

    fn next_due(&mut self) -> Result<Option<i64>, RepositoryError> {
        let sql = self.statements.next_due.clone();
        Ok(self.look(&sql, |row| row.read::<Option<i64>>("due"))?.flatten())
    }
}

impl std::fmt::Debug for SqlSchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlSchedule").field("database", &self.database).finish_non_exhaustive()
    }
}

/// A transaction on the schedule.
struct SqlScheduleTransaction<'a> {
    statements: &'a Statements,
    /// Where the connection returns to if it still works.
    home: &'a mut Option<SqlSession>,
    session: Option<SqlSession>,
    /// Whether it takes no locks.
    only_reads: bool,
}

type StoreResult<T> = Result<T, RepositoryError>;

impl SqlScheduleTransaction<'_> {
    fn session(&mut self) -> &mut dyn Session {
        &mut **self.session.as_mut().expect("the connection is open until the transaction ends")
    }

    fn many<T>(
        &mut self,
        sql: &Sql,
        values: &[SqlValue<'_>],
        map: fn(&crate::SqlRow<'_>) -> Result<T, SqlError>,
    ) -> StoreResult<Vec<T>> {
        self.session().many(sql, values, map).map_err(|error| error.in_store("read the schedule"))
    }

    fn change(&mut self, sql: &Sql, values: &[SqlValue<'_>]) -> StoreResult<u64> {
        let changed = self.session().execute(sql, values);
        changed.map_err(|error| error.in_store("write the schedule"))
    }
}

impl ScheduleTransaction for SqlScheduleTransaction<'_> {
    fn triggers(&mut self, keys: &[TriggerKey]) -> StoreResult<Vec<TriggerRow>> {
        let statements = self.statements;
        let trigger = if self.only_reads { &statements.trigger_read } else { &statements.trigger };
        match statements.dialect {
            Dialect::Sqlite => {
                let mut found = Vec::with_capacity(keys.len());
                for key in keys {
                    let values = [key.identifier.as_str().into(), key.occurrence.into()];
                    found.append(&mut self.many(trigger, &values, rows::trigger)?);
                }
                Ok(found)
            }
            Dialect::Postgres | Dialect::MySql => {
                let keys = rows::keys_as_json(keys);
                self.many(trigger, &[keys.into()], rows::escaped_trigger)
            }
        }
    }

    fn due(&mut self, now: i64, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let statements = self.statements;
        let values = [now.into(), count(limit)];
        self.many(&statements.due, &values, statements.reading())
    }

    fn next_due(&mut self) -> StoreResult<Option<i64>> {
        let found =
            self.many(&self.statements.next_due, &[], |row| row.read::<Option<i64>>("due"))?;
        Ok(found.into_iter().next().flatten())
    }

    fn clock(&mut self) -> StoreResult<Option<i64>> {
        let found = self.many(&self.statements.clock, &[], |row| row.read::<Option<i64>>("now"))?;
        Ok(found.into_iter().next().flatten())
    }

    fn recurring(&mut self, after: &str, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let statements = self.statements;
        let after = statements.escaped(after);
        let values = [after.as_ref().into(), count(limit)];
        self.many(&statements.recurring, &values, statements.reading())
    }

    fn forget_future_slots(&mut self, identifier: &str, now: i64) -> StoreResult<()> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        let beyond = now + 3_600_000_000;
        let values = [identifier.as_ref().into(), now.into(), beyond.into()];
        self.change(&statements.forget_future, &values).map(drop)
    }

    fn reset_late_retries(&mut self, now: i64, latest: i64) -> StoreResult<()> {
        self.change(&self.statements.reset_late_retries, &[now.into(), latest.into()]).map(drop)
    }

    fn slots(&mut self, identifier: &str) -> StoreResult<Vec<TriggerRow>> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        let slots = if self.only_reads { &statements.slots_read } else { &statements.slots };
        self.many(slots, &[identifier.as_ref().into()], statements.reading())
    }

    fn ended(&mut self, since: i64, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let statements = self.statements;
        self.many(&statements.ended, &[since.into(), count(limit)], statements.reading())
    }

    fn upcoming(&mut self, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let statements = self.statements;
        self.many(&statements.upcoming, &[count(limit)], statements.reading())
    }

    fn list(&mut self, prefix: &str, after: &str, limit: usize) -> StoreResult<Vec<TriggerRow>> {
        let statements = self.statements;
        let prefix = statements.escaped(prefix);
        let from = statements.escaped(after);
        let end = rows::end_of_prefix(&prefix);
        let values =
            [prefix.as_ref().into(), end.as_deref().into(), from.as_ref().into(), count(limit)];
        self.many(&statements.list, &values, statements.reading())
    }

    fn save(&mut self, rows: &[&TriggerRow]) -> StoreResult<()> {
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

    fn remove(&mut self, identifier: &str) -> StoreResult<()> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        self.change(&statements.remove, &[identifier.as_ref().into()]).map(drop)
    }

    fn forget_slots(&mut self, identifier: &str, slot: i64) -> StoreResult<()> {
        let statements = self.statements;
        let identifier = statements.escaped(identifier);
        self.change(&statements.forget_slots, &[identifier.as_ref().into(), slot.into()]).map(drop)
    }

    fn forget_ended(&mut self, before: i64, keep: usize, limit: usize) -> StoreResult<u64> {
        let statements = self.statements;
        let boundary =
            self.many(&statements.boundary, &[count(keep)], |row| row.read("ended_at"))?;
        let before = boundary.into_iter().next().map_or(before, |at: i64| before.max(at + 1));
        self.change(&statements.forget_ended, &[before.into(), count(limit)])
    }

    fn rules(&mut self) -> StoreResult<Vec<RuleRow>> {
        let statements = self.statements;
        let map = match statements.dialect {
            Dialect::Sqlite => rows::rule,
            Dialect::Postgres | Dialect::MySql => rows::escaped_rule,
        };
        self.many(&statements.rules, &[], map)
    }

    fn rules_version(&mut self) -> StoreResult<i64> {
        let found =
            self.many(&self.statements.rules_version, &[], |row| row.read("rules_version"))?;
        Ok(found.into_iter().next().unwrap_or(0))
    }

    fn lock_rules(&mut self) -> StoreResult<()> {
        self.change(&self.statements.lock_rules, &[]).map(drop)
    }

    fn put_rule(&mut self, identifier: &str, pattern: &str, runner: &str) -> StoreResult<()> {
        let statements = self.statements;
        self.change(&statements.raise_rules_version, &[])?;
        let (identifier, pattern) = (statements.escaped(identifier), statements.escaped(pattern));
        let values = [identifier.as_ref().into(), pattern.as_ref().into(), runner.into()];
        self.change(&statements.put_rule, &values).map(drop)
    }

    fn remove_rule(&mut self, identifier: &str) -> StoreResult<bool> {
        let statements = self.statements;
        self.change(&statements.raise_rules_version, &[])?;
        let identifier = statements.escaped(identifier);
        Ok(self.change(&statements.remove_rule, &[identifier.as_ref().into()])? > 0)
    }

    fn servers(&mut self) -> StoreResult<Vec<ServerRow>> {
        self.many(&self.statements.servers, &[], |row| {
            Ok(ServerRow {
                id: row.read("id")?,
                identity: row.read("identity")?,
                lease_until: row.read("lease_until")?,
            })
        })
    }

    fn insert_server(&mut self, identity: &str, lease_until: i64) -> StoreResult<i64> {
        let statements = self.statements;
        let values = [identity.into(), lease_until.into()];
        let inserted = self.session().insert(&statements.insert_server, &values);
        inserted.map_err(|error| error.in_store("write the schedule"))
    }

    fn renew_server(&mut self, id: i64, lease_until: i64) -> StoreResult<bool> {
        let values = [id.into(), lease_until.into()];
        Ok(self.change(&self.statements.renew_server, &values)? > 0)
    }

    fn remove_server(&mut self, id: i64, lease_until_max: i64) -> StoreResult<bool> {
        let statements = self.statements;
        if self.change(&statements.remove_server, &[id.into(), lease_until_max.into()])? == 0 {
            return Ok(false);
        }
        self.change(&statements.take_over, &[id.into()])?;
        Ok(true)
    }

    fn owned(&mut self, id: i64) -> StoreResult<Vec<TriggerRow>> {
        let statements = self.statements;
        self.many(&statements.owned, &[id.into()], statements.reading())
    }

    fn stop_requests(&mut self, id: i64) -> StoreResult<Vec<TriggerKey>> {
        let statements = self.statements;
        let asked = self.many(&statements.stop_requests, &[id.into()], statements.reading())?;
        Ok(asked.into_iter().map(|row| row.key).collect())
    }

    fn commit(mut self: Box<Self>) -> StoreResult<()> {
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

impl Drop for SqlScheduleTransaction<'_> {
    fn drop(&mut self) {
        if let Some(mut session) = self.session.take()
            && session.roll_back().is_ok()
            && !session.is_broken()
        {
            *self.home = Some(session);
        }
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

    fn store() -> (tempfile::TempDir, SqlSchedule) {
        let folder = tempfile::tempdir().unwrap();
        let repository = SqlRepository::sqlite(folder.path().join("s.db")).unwrap();
        let store = SqlSchedule::open(repository.database(), &StoreOptions::default()).unwrap();
        (folder, store)
    }

    #[test]
    fn the_columns_are_those_of_the_table() {
        let (folder, _store) = store();
        let database = Database::parse(&format!("sqlite://{}/s.db", folder.path().display()));
        let found = database.unwrap().columns_of("bw_trigger").unwrap();
        assert_eq!(found, COLUMNS);
    }
}
