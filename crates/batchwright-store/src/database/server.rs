//! What PostgreSQL and MySQL have in common: a URL with a secret in it, and answers that are awaited.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sqlx::error::{DatabaseError, ErrorKind as SqlxKind};
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError};
use sqlx::postgres::PgConnectOptions;
use tokio::runtime::{Builder, Handle, Runtime};

use super::{SqlError, SqlErrorClass};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of one repository unless the URL says `connections=N`: some for steps that run in parallel,
/// one for the heartbeat, one for questions.
const CONNECTIONS_DEFAULT: usize = 6;
/// More than any server allows.
const CONNECTIONS_MAX: usize = 1_000;

/// A database on a server. Shows itself without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerDatabase {
    url: String,
    connections: usize,
}

impl ServerDatabase {
    pub(super) fn postgres(url: &str) -> Result<Self, String> {
        let database = Self::new(url)?;
        database.url.parse::<PgConnectOptions>().map_err(|error| unusable(&error))?;
        Ok(database)
    }

    pub(super) fn mysql(url: &str) -> Result<Self, String> {
        let database = Self::new(url)?;
        database.url.parse::<MySqlConnectOptions>().map_err(|error| unusable(&error))?;
        Ok(database)
    }

    /// Takes `connections=N` out of the URL, which the driver does not know.
    fn new(url: &str) -> Result<Self, String> {
        let Some((base, query)) = url.split_once('?') else {
            return Ok(Self { url: url.to_owned(), connections: CONNECTIONS_DEFAULT });
        };
        let mut connections = CONNECTIONS_DEFAULT;
        let mut rest = Vec::new();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("connections", number)) => {
                    let parsed = number.parse().ok();
                    connections =
                        parsed.filter(|n| (1..=CONNECTIONS_MAX).contains(n)).ok_or_else(|| {
                            format!("`connections={number}`: expected 1 to {CONNECTIONS_MAX}")
                        })?;
                }
                _ => rest.push(pair),
            }
        }
        let url =
            if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        Ok(Self { url, connections })
    }

    /// Connections that a repository may open.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// A parser's complaint may quote the URL, and the URL its password: only the kind of fault is told.
fn unusable(error: &sqlx::Error) -> String {
    let cause = match error {
        sqlx::Error::Configuration(cause) => cause.to_string(),
        other => other.to_string(),
    };
    let safe = !cause.contains('@') && !cause.contains("//");
    format!("the URL cannot be used: {}", if safe { &cause } else { "its form is wrong" })
}

impl fmt::Display for ServerDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without_query = self.url.split('?').next().unwrap_or_default();
        let (scheme, rest) = without_query.split_once("://").unwrap_or(("", without_query));
        match rest.rsplit_once('@') {
            Some((credentials, host)) => {
                let user = credentials.split(':').next().unwrap_or_default();
                write!(f, "{scheme}://{user}@{host}")
            }
            None => write!(f, "{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for ServerDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerDatabase({self})")
    }
}

/// Drives the answers of one connection, on whichever thread asks.
pub(super) struct Driver(Option<Runtime>);

impl Driver {
    pub(super) fn new() -> Result<Self, SqlError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime
            .map(|runtime| Self(Some(runtime)))
            .map_err(|error| SqlError::new(SqlErrorClass::Unavailable, error))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until it is dropped")
    }

    /// Waits for `answer`.
    pub(super) fn wait<T: Send>(&self, answer: impl Future<Output = T> + Send) -> T {
        if Handle::try_current().is_err() {
            return self.runtime().block_on(answer);
        }
        // A caller inside somebody's runtime may not wait there: another thread does it.
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| self.runtime().block_on(answer));
            waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Waits for `answer` on a thread of ours, where there is no other runtime.
    pub(super) fn wait_here<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime().block_on(answer)
    }

    /// A connection, unless it takes too long.
    pub(super) fn connect<C: Send>(
        &self,
        connect: impl Future<Output = Result<C, sqlx::Error>> + Send,
    ) -> Result<C, SqlError> {
        self.wait(async {
            match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
                Ok(connected) => Ok(connected?),
                Err(_) => {
                    let told = format!("no answer within {CONNECT_TIMEOUT:?}");
                    Err(SqlError::new(SqlErrorClass::Unavailable, told))
                }
            }
        })
    }
}

impl Drop for Driver {
    /// Waiting for a runtime to end is not allowed inside another one.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether the connection that reported `error` is good for nothing more.
pub(super) fn breaks(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(told) => class_of(&**told) == SqlErrorClass::Unavailable,
        sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_) => false,
        _ => true,
    }
}

impl From<sqlx::Error> for SqlError {
    fn from(error: sqlx::Error) -> Self {
        let class = match &error {
            sqlx::Error::Database(told) => class_of(&**told),
            sqlx::Error::Encode(_) => SqlErrorClass::Data,
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => SqlErrorClass::Corrupt,
            sqlx::Error::RowNotFound | sqlx::Error::ColumnNotFound(_) => SqlErrorClass::Other,
            _ => SqlErrorClass::Unavailable,
        };
        Self::new(class, error)
    }
}

fn class_of(told: &dyn DatabaseError) -> SqlErrorClass {
    match told.kind() {
        SqlxKind::Other => {}
        _ => return SqlErrorClass::Constraint,
    }
    if let Some(mysql) = told.try_downcast_ref::<MySqlDatabaseError>() {
        return match mysql.number() {
            // Deadlock, and a lock that was not given in time.
            1213 | 1205 => SqlErrorClass::Contention,
            // Shutdown, a killed connection, too many of them.
            1053 | 1927 | 1040 | 1203 | 1317 => SqlErrorClass::Unavailable,
            // Out of range, too long, wrong value, malformed JSON, a constraint of a CHECK.
            1264 | 1406 | 1366 | 1292 | 1265 | 3140 | 4025 | 3819 => SqlErrorClass::Data,
            _ => SqlErrorClass::Other,
        };
    }
    match told.code().as_deref().unwrap_or_default() {
        "40001" | "40P01" | "55P03" => SqlErrorClass::Contention,
        code if code.starts_with("22") => SqlErrorClass::Data,
        code if code.starts_with("23") => SqlErrorClass::Constraint,
        // Lost connections, no room for more, shutdown.
        code if code.starts_with("08") || code.starts_with("53") || code.starts_with("57P") => {
            SqlErrorClass::Unavailable
        }
        _ => SqlErrorClass::Other,
    }
}
