//! Creates the tables of a store and migrates older ones.

use batchwright::error::RepositoryError;

use crate::database::{Dialect, Session, Sql, SqlError, SqlErrorClass};

/// A migration: number, name and SQL text. The text is never edited after release.
type Migration = (i64, &'static str, &'static str);

const SQLITE: [Migration; 7] = [
    (1, "init", include_str!("../../migrations/sqlite/0001_init.sql")),
    (2, "flows", include_str!("../../migrations/sqlite/0002_flows.sql")),
    (3, "scheduler", include_str!("../../migrations/sqlite/0003_scheduler.sql")),
    (4, "progressive", include_str!("../../migrations/sqlite/0004_progressive.sql")),
    (5, "requests", include_str!("../../migrations/sqlite/0005_requests.sql")),
    (6, "facts", include_str!("../../migrations/sqlite/0006_facts.sql")),
    (7, "traces", include_str!("../../migrations/sqlite/0007_traces.sql")),
];
const POSTGRES: [Migration; 6] = [
    (2, "init", include_str!("../../migrations/postgres/0002_init.sql")),
    (3, "scheduler", include_str!("../../migrations/postgres/0003_scheduler.sql")),
    (4, "progressive", include_str!("../../migrations/postgres/0004_progressive.sql")),
    (5, "requests", include_str!("../../migrations/postgres/0005_requests.sql")),
    (6, "facts", include_str!("../../migrations/postgres/0006_facts.sql")),
    (7, "traces", include_str!("../../migrations/postgres/0007_traces.sql")),
];
const MYSQL: [Migration; 6] = [
    (2, "init", include_str!("../../migrations/mysql/0002_init.sql")),
    (3, "scheduler", include_str!("../../migrations/mysql/0003_scheduler.sql")),
    (4, "progressive", include_str!("../../migrations/mysql/0004_progressive.sql")),
    (5, "requests", include_str!("../../migrations/mysql/0005_requests.sql")),
    (6, "facts", include_str!("../../migrations/mysql/0006_facts.sql")),
    (7, "traces", include_str!("../../migrations/mysql/0007_traces.sql")),
];

/// The newest schema version of this program. The number is the same for every database; databases that were
/// supported later begin with a later version.
const NEWEST: i64 = 7;

fn migrations(dialect: Dialect) -> &'static [Migration] {
    match dialect {
        Dialect::Sqlite => &SQLITE,
        Dialect::Postgres => &POSTGRES,
        Dialect::MySql => &MYSQL,
    }
}

/// Whether the database has a store of any version.
pub(super) fn is_there(
    session: &mut dyn Session,
    dialect: Dialect,
    prefix: &str,
) -> Result<bool, RepositoryError> {
    let failed = |error: SqlError| error.in_store("open the store");
    Schema { dialect, prefix }.exists(session).map_err(failed)
}

/// Creates the store or migrates it to the newest version; returns its id and whether it is new. Other
/// processes wait meanwhile.
pub(super) fn migrate(
    session: &mut dyn Session,
    dialect: Dialect,
    prefix: &str,
) -> Result<(String, bool), RepositoryError> {
    let failed = |error: SqlError| error.in_store("migrate the store");
    let schema = Schema { dialect, prefix };
    if let Some(id) = schema.current(session).map_err(failed)? {
        return Ok((id, false));
    }
    schema.lock(session).map_err(failed)?;
    let migrated = schema
        .exists(session)
        .map_err(failed)
        .and_then(|existed| Ok((schema.migrate_alone(session)?, !existed)));
    schema.unlock(session, migrated.is_ok()).map_err(failed)?;
    migrated
}

struct Schema<'a> {
    dialect: Dialect,
    prefix: &'a str,
}

impl Schema<'_> {
    fn sql(&self, text: &str) -> Sql {
        Sql::new(self.dialect, &text.replace("{p}", self.prefix))
    }

    fn exists(&self, session: &mut dyn Session) -> Result<bool, SqlError> {
        let exists = match self.dialect {
            Dialect::Sqlite => {
                "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1"
            }
            Dialect::Postgres => {
                "SELECT count(*) FROM pg_class WHERE oid = to_regclass(quote_ident(?1))"
            }
            Dialect::MySql => {
                "SELECT count(*) FROM information_schema.tables \
                 WHERE table_schema = database() AND table_name = ?1"
            }
        };
        let table = format!("{}schema_version", self.prefix);
        let found = session.one(&self.sql(exists), &[table.into()], |row| row.at(0)?.count())?;
        Ok(found.unwrap_or(0) > 0)
    }

    /// Returns the id of the store if it has the newest version, as at every later start.
    fn current(&self, session: &mut dyn Session) -> Result<Option<String>, SqlError> {
        match self.exists(session)? && self.version(session)? == NEWEST {
            true => self.id(session),
            false => Ok(None),
        }
    }

    fn version(&self, session: &mut dyn Session) -> Result<i64, SqlError> {
        let sql = self.sql("SELECT coalesce(max(version), 0) AS version FROM {p}schema_version");
        Ok(session.one(&sql, &[], |row| row.read("version"))?.unwrap_or(0))
    }

    fn id(&self, session: &mut dyn Session) -> Result<Option<String>, SqlError> {
        session.one(&self.sql("SELECT id FROM {p}store"), &[], |row| row.read("id"))
    }

    /// Takes the lock for migrations; other processes wait for it. MySQL commits at every change of a table's
    /// definition, so it uses a named lock instead of a transaction.
    fn lock(&self, session: &mut dyn Session) -> Result<(), SqlError> {
        match self.dialect {
            Dialect::Sqlite => session.run("BEGIN EXCLUSIVE"),
            Dialect::Postgres => {
                session.begin()?;
                session.run(
                    "SET LOCAL lock_timeout = '60s'; \
                     SELECT pg_advisory_xact_lock(hashtext('batchwright migration'))",
                )
            }
            Dialect::MySql => {
                let sql = self.sql("SELECT get_lock('batchwright migration', 60) AS got");
                match session.one(&sql, &[], |row| row.read::<Option<i64>>("got"))?.flatten() {
                    Some(1) => Ok(()),
                    _ => Err(SqlError::new(
                        SqlErrorClass::Unavailable,
                        "another process has been migrating the store for a minute",
                    )),
                }
            }
        }
    }

    fn unlock(&self, session: &mut dyn Session, migrated: bool) -> Result<(), SqlError> {
        match (self.dialect, migrated) {
            (Dialect::MySql, _) => session.run("DO release_lock('batchwright migration')"),
            (_, true) => session.commit(),
            (_, false) => session.roll_back(),
        }
    }

    fn migrate_alone(&self, session: &mut dyn Session) -> Result<String, RepositoryError> {
        let failed = |error: SqlError| error.in_store("migrate the store");
        let text_type = if self.dialect == Dialect::MySql { "VARCHAR(255)" } else { "TEXT" };
        session
            .run(&format!(
                "CREATE TABLE IF NOT EXISTS {}schema_version (
                     version BIGINT PRIMARY KEY, name {text_type} NOT NULL, applied_at {text_type} NOT NULL
                 )",
                self.prefix
            ))
            .map_err(failed)?;
        let found = self.version(session).map_err(failed)?;
        if found > NEWEST {
            return Err(RepositoryError::NewerSchema { found, known: NEWEST });
        }
        for (number, name, text) in migrations(self.dialect).iter().filter(|(n, ..)| *n > found) {
            session.run(&text.replace("{p}", self.prefix)).map_err(failed)?;
            let done = self.sql("INSERT INTO {p}schema_version VALUES (?1, ?2, CURRENT_TIMESTAMP)");
            session.execute(&done, &[(*number).into(), (*name).into()]).map_err(failed)?;
        }
        if let Some(id) = self.id(session).map_err(failed)? {
            return Ok(id);
        }
        let make = match self.dialect {
            Dialect::Sqlite => "lower(hex(randomblob(16)))",
            Dialect::Postgres => "replace(gen_random_uuid()::text, '-', '')",
            Dialect::MySql => "lower(hex(random_bytes(16)))",
        };
        let insert = self.sql(&format!("INSERT INTO {{p}}store VALUES ({make})"));
        session.execute(&insert, &[]).map_err(failed)?;
        self.id(session)
            .map_err(failed)?
            .ok_or_else(|| RepositoryError::Corrupt { what: "the store has no id".to_owned() })
    }
}
