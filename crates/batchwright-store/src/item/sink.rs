//! A target database other than the store's, with a copy of the checkpoint in it: if a crash separates the
//! two commits, the restart completes the missing one.

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::execution::Counters;
use batchwright::item::PreparedCommit;
use batchwright::scope::StepScope;
use batchwright::store::Durability;

use crate::database::{Database, Dialect, Sql, SqlError, SqlSession};

/// The open target database.
pub(super) struct Sink {
    database: Database,
    session: SqlSession,
    key: CheckpointKey,
    save: Sql,
    writing: bool,
}

/// The key of a row of `batchwright_checkpoint`.
struct CheckpointKey {
    store: String,
    instance: i64,
    step: String,
    execution: i64,
    /// The step execution that began this round: a rerun of a completed step has a new one.
    round: i64,
}

impl Sink {
    /// Opens `database`, takes over the checkpoint of this step's instance in it, and returns the last commit
    /// that the checkpoint contains.
    pub(super) fn open(
        database: &Database,
        scope: &StepScope,
    ) -> Result<(Self, PreparedCommit), ItemError> {
        let failed = |error: SqlError| error.of_item(format!("cannot open `{database}`"));
        let durability = match scope.durability() {
            Durability::Power => Durability::Power,
            Durability::Process | Durability::None => Durability::Process,
        };
        let database = &database.clone().durability(durability);
        // Opened like a store (write-ahead log), because rows may be read from the same file while others are
        // written, and because the database contains the checkpoint.
        let session = database.connect_store().map_err(failed)?;
        let key = CheckpointKey {
            store: scope.store_id().to_owned(),
            instance: scope.job().instance_id().0,
            step: scope.sink_name().to_owned(),
            execution: scope.job().execution_id().0,
            round: scope.round().0,
        };
        let save = Sql::new(
            database.dialect(),
            "UPDATE batchwright_checkpoint SET prepared = ?5
             WHERE store = ?1 AND instance = ?2 AND step = ?3 AND execution = ?4",
        );
        let mut sink = Self { database: database.clone(), session, key, save, writing: false };
        let held = sink.take_over().map_err(failed)?;
        let held = match held.ok_or_else(ItemError::lease_lost)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| {
                ItemError::wrap(ErrorKind::FATAL, "cannot parse the checkpoint in the sink", error)
            })?,
            None => PreparedCommit {
                sequence: 0,
                checkpoint: String::new(),
                counters: Counters::default(),
                skips: Vec::new(),
                step_context: None,
                job_context: None,
            },
        };
        Ok((sink, held))
    }

    /// Writes this execution into the row of the checkpoint, so that an older execution can commit nothing
    /// more.
    ///
    /// Returns `None` if the row already contains a newer execution, so that this one must end.
    fn take_over(&mut self) -> Result<Option<Option<String>>, SqlError> {
        let dialect = self.database.dialect();
        self.make_table(dialect)?;
        self.session.begin()?;
        let taken = self.take_row(dialect);
        match &taken {
            Ok(_) => self.session.commit()?,
            Err(_) => self.session.roll_back()?,
        }
        taken
    }

    fn make_table(&mut self, dialect: Dialect) -> Result<(), SqlError> {
        let (name, text) = match dialect {
            Dialect::MySql => ("VARCHAR(255) COLLATE utf8mb4_bin", "LONGTEXT"),
            Dialect::Sqlite | Dialect::Postgres => ("TEXT", "TEXT"),
        };
        let table = format!(
            "CREATE TABLE IF NOT EXISTS batchwright_checkpoint (
                 store     {name} NOT NULL,
                 instance  BIGINT NOT NULL,
                 step      {name} NOT NULL,
                 execution BIGINT NOT NULL,
                 round     BIGINT NOT NULL,
                 prepared  {text},
                 PRIMARY KEY (store, instance, step)
             )"
        );
        match dialect {
            // PostgreSQL fails when two sessions create the same table at once, so a lock serialises them.
            Dialect::Postgres => {
                self.session.begin()?;
                self.session.run(&format!(
                    "SELECT pg_advisory_xact_lock(hashtext('batchwright_checkpoint')); {table}"
                ))?;
                self.session.commit()
            }
            Dialect::Sqlite => {
                self.session.begin()?;
                self.session.run(&table)?;
                self.session.commit()
            }
            Dialect::MySql => self.session.run(&table),
        }
    }

    fn take_row(&mut self, dialect: Dialect) -> Result<Option<Option<String>>, SqlError> {
        let CheckpointKey { store, instance, step, execution, round } = &self.key;
        let mine =
            [store.into(), (*instance).into(), step.into(), (*execution).into(), (*round).into()];
        let insert = match dialect {
            Dialect::MySql => {
                "INSERT IGNORE INTO batchwright_checkpoint VALUES (?1, ?2, ?3, ?4, ?5, NULL)"
            }
            Dialect::Sqlite | Dialect::Postgres => {
                "INSERT INTO batchwright_checkpoint VALUES (?1, ?2, ?3, ?4, ?5, NULL) ON CONFLICT DO NOTHING"
            }
        };
        self.session.execute(&Sql::new(dialect, insert), &mine)?;
        let find = Sql::new(
            dialect,
            "SELECT execution, round, prepared FROM batchwright_checkpoint
             WHERE store = ?1 AND instance = ?2 AND step = ?3{lock}",
        );
        let found = self.session.one(&find, &mine[..3], |row| {
            let prepared: Option<String> = row.read("prepared")?;
            Ok((row.read::<i64>("execution")?, row.read::<i64>("round")?, prepared))
        })?;
        let Some((_, held, prepared)) = found.filter(|(holder, ..)| holder <= execution) else {
            return Ok(None);
        };
        // The commits of an earlier round do not belong to this one.
        let is_mine = held == *round;
        let reset = if is_mine { "" } else { ", prepared = NULL" };
        let take = format!(
            "UPDATE batchwright_checkpoint SET execution = ?4, round = ?5{reset}
             WHERE store = ?1 AND instance = ?2 AND step = ?3"
        );
        self.session.execute(&Sql::new(dialect, &take), &mine)?;
        Ok(Some(prepared.filter(|_| is_mine)))
    }

    /// Returns the connection in a transaction; begins one if needed.
    pub(super) fn session(&mut self) -> Result<&mut SqlSession, ItemError> {
        if !self.writing {
            let failed = |error: SqlError| error.of_item("cannot begin a transaction in the sink");
            if let Err(error) = self.session.begin() {
                if self.database.dialect() == Dialect::Sqlite && !self.session.is_broken() {
                    return Err(failed(error));
                }
                // The server may have restarted; it has rolled back uncommitted work.
                self.session = self.database.reconnect_store().map_err(failed)?;
                self.session.begin().map_err(failed)?;
            }
            self.writing = true;
        }
        Ok(&mut self.session)
    }

    pub(super) fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        self.session()?;
        let text = serde_json::to_string(commit).map_err(|error| {
            ItemError::wrap(ErrorKind::FATAL, "cannot store the checkpoint", error)
        })?;
        let CheckpointKey { store, instance, step, execution, .. } = &self.key;
        let values =
            [store.into(), (*instance).into(), step.into(), (*execution).into(), text.into()];
        let saved = self
            .session
            .execute(&self.save, &values)
            .map_err(|error| error.of_item("cannot store the checkpoint in the sink"))?;
        if saved == 0 {
            return Err(ItemError::lease_lost());
        }
        match self.session.commit() {
            Ok(()) => {
                self.writing = false;
                Ok(())
            }
            // A constraint that is checked at commit, or a deadlock: nothing was stored, and `roll_back`
            // follows.
            Err(error) if error.is_refusal() => Err(error.of_item("cannot commit in the sink")),
            // The outcome of the commit is unknown: there is no further attempt, and the restart reads the
            // checkpoint in the sink.
            Err(error) => Err(ItemError::commit_unknown(error)),
        }
    }

    pub(super) fn roll_back(&mut self) -> Result<(), ItemError> {
        if std::mem::take(&mut self.writing)
            && let Err(error) = self.session.roll_back()
        {
            // The server rolls back when the connection is lost; the next transaction opens a new connection.
            tracing::debug!(%error, "roll back in the sink failed");
        }
        Ok(())
    }
}
