//! Databases for tests: every test has its own, also on real servers.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use batchwright_store::sqlx::{self, AssertSqlSafe, Connection as _, Row as _};
use batchwright_store::{Database, SqlRepository, SqliteDatabase, StoreOptions};
use batchwright_testkit::{Service, needs};

/// The kind of database that a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    MySql,
}

impl Kind {
    /// Whether such a database is available. If not, the test counts as skipped and must return.
    #[track_caller]
    pub(crate) fn is_there(self) -> bool {
        match self.service() {
            None => true,
            Some(service) => needs(service).is_some(),
        }
    }

    fn service(self) -> Option<Service> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(Service::Postgres),
            Self::MySql => Some(Service::MariaDb),
        }
    }
}

/// Returns the available servers; a missing one counts as skipped.
#[track_caller]
pub(crate) fn servers() -> Vec<Kind> {
    // A loop instead of a closure, so that `track_caller` reports the test.
    let mut servers = Vec::new();
    for kind in [Kind::Postgres, Kind::MySql] {
        if kind.is_there() {
            servers.push(kind);
        }
    }
    servers
}

/// Returns SQLite and the available servers.
#[track_caller]
pub(crate) fn all() -> Vec<Kind> {
    [vec![Kind::Sqlite], servers()].concat()
}

/// A database for one test, removed on drop.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    name: String,
    runtime: tokio::runtime::Runtime,
    _dir: Option<tempfile::TempDir>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

fn server(kind: Kind) -> String {
    kind.service().and_then(needs).expect("the test asks `is_there` first")
}

impl Place {
    pub(crate) fn new(kind: Kind) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if kind == Kind::Sqlite {
            let dir = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", dir.path().join("a.db").display());
            return Self { kind, url, name: String::new(), runtime, _dir: Some(dir) };
        }
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("bw_test_{}_{number}", std::process::id());
        let base = server(kind);
        let url = format!("{}/{name}", base.rsplit_once('/').unwrap().0);
        let place = Self { kind, url, name, runtime, _dir: None };
        place.on(&base, &format!("CREATE DATABASE {}", place.name));
        place
    }

    /// Returns the URL of the database with `query` appended.
    pub(crate) fn url_with(&self, query: &str) -> String {
        format!("{}?{query}", self.url)
    }

    /// Returns the URL without encryption, which takes longer than the work of most tests.
    pub(crate) fn quick_url(&self) -> String {
        match self.kind {
            Kind::Sqlite => self.url.clone(),
            Kind::Postgres => self.url_with("sslmode=disable"),
            Kind::MySql => self.url_with("ssl-mode=DISABLED"),
        }
    }

    pub(crate) fn database(&self) -> Database {
        Database::parse(&self.quick_url()).unwrap()
    }

    pub(crate) fn repository(&self) -> Arc<SqlRepository> {
        let options = StoreOptions {
            durability: batchwright::store::Durability::Process,
            ..StoreOptions::default()
        };
        Arc::new(SqlRepository::open(self.database(), &options).unwrap())
    }

    /// Runs statements.
    pub(crate) fn run(&self, text: &str) {
        match self.kind {
            Kind::Sqlite => self.sqlite().connect().unwrap().execute_batch(text).unwrap(),
            _ => self.on(&self.url, text),
        }
    }

    fn sqlite(&self) -> SqliteDatabase {
        SqliteDatabase::at(self.url.strip_prefix("sqlite://").unwrap())
    }

    fn on(&self, url: &str, text: &str) {
        let text = sqlx::raw_sql(AssertSqlSafe(text));
        self.runtime.block_on(async {
            match self.kind {
                Kind::Postgres => {
                    let mut c = sqlx::PgConnection::connect(url).await.unwrap();
                    text.execute(&mut c).await.unwrap();
                }
                _ => {
                    let mut c = sqlx::MySqlConnection::connect(url).await.unwrap();
                    text.execute(&mut c).await.unwrap();
                }
            }
        });
    }

    /// Returns the first column of every row, which must be an integer.
    pub(crate) fn numbers(&self, query: &str) -> Vec<i64> {
        match self.kind {
            Kind::Sqlite => {
                let connection = self.sqlite().connect_read_only().unwrap();
                let mut statement = connection.prepare(query).unwrap();
                statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
            }
            Kind::Postgres => self.runtime.block_on(async {
                let mut c = sqlx::PgConnection::connect(&self.url).await.unwrap();
                let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut c).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }),
            Kind::MySql => self.runtime.block_on(async {
                let mut c = sqlx::MySqlConnection::connect(&self.url).await.unwrap();
                let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut c).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kind == Kind::Sqlite || std::thread::panicking() {
            return;
        }
        let server = server(self.kind);
        if self.kind == Kind::Postgres {
            // Not `WITH (FORCE)`: it fails when an autovacuum worker is running, which it may not end. A
            // plain `DROP` ends that worker and waits for the connections of this test.
            let ours = format!("datname = '{}' AND usename = current_user", self.name);
            self.on(
                &server,
                &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}"),
            );
        }
        self.on(&server, &format!("DROP DATABASE {}", self.name));
    }
}
