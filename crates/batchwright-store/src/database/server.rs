//! The common parts of PostgreSQL and MySQL: the URL with its password, and waiting for asynchronous answers.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError};
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgErrorPosition};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{SqlError, SqlErrorClass, class};

/// Maximum time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Default maximum of connections of one repository, without `connections=N` in the URL: some for steps that
/// run in parallel, one for the heartbeat, one for queries.
const CONNECTIONS_DEFAULT: usize = 6;
/// Upper bound of `connections=N`, more than any server allows.
const CONNECTIONS_MAX: usize = 1_000;

/// A database on a server. `Display` and `Debug` omit the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerDatabase {
    url: String,
    /// The URL without its password.
    shown: String,
    connections: usize,
    /// Whether the server is reached through a pool such as PgBouncer in transaction mode, so that no state
    /// may be left in a session.
    pooled: bool,
}

impl ServerDatabase {
    pub(super) fn postgres(url: &str) -> Result<Self, String> {
        let mut database = Self::new(url)?;
        let options: PgConnectOptions = database.url.parse().map_err(|_| unusable("postgres"))?;
        if database.pooled && options.get_options().is_some() {
            let what = "`options` cannot be used with a pool, which keeps no settings of a session";
            return Err(what.to_owned());
        }
        let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
        let base = options.get_database().unwrap_or(user);
        database.shown = format!("postgres://{user}@{host}:{port}/{base}");
        Ok(database)
    }

    pub(super) fn mysql(url: &str) -> Result<Self, String> {
        let mut database = Self::new(url)?;
        if database.pooled {
            return Err("`pgbouncer` and `statement-cache` are options of PostgreSQL".to_owned());
        }
        let options: MySqlConnectOptions = database.url.parse().map_err(|_| unusable("mysql"))?;
        let (user, host, port) = (options.get_username(), options.get_host(), options.get_port());
        let base = options.get_database().unwrap_or_default();
        database.shown = format!("mysql://{user}@{host}:{port}/{base}");
        Ok(database)
    }

    /// Removes the options from the URL that the driver does not know: `connections=N`, `pgbouncer=true`,
    /// `statement-cache=0`.
    fn new(url: &str) -> Result<Self, String> {
        let mut database = Self {
            url: url.to_owned(),
            shown: String::new(),
            connections: CONNECTIONS_DEFAULT,
            pooled: false,
        };
        let Some((base, query)) = url.split_once('?') else { return Ok(database) };
        let mut rest = Vec::new();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("connections", number)) => {
                    let parsed = number.parse().ok();
                    database.connections =
                        parsed.filter(|n| (1..=CONNECTIONS_MAX).contains(n)).ok_or_else(|| {
                            format!("`connections` is a number from 1 to {CONNECTIONS_MAX}")
                        })?;
                }
                Some(("pgbouncer", "true") | ("statement-cache", "0")) => database.pooled = true,
                Some(("pgbouncer", "false")) => database.pooled = false,
                Some(("pgbouncer", _)) => {
                    return Err("`pgbouncer` is `true` or `false`".to_owned());
                }
                Some(("statement-cache", _)) => {
                    return Err(
                        "`statement-cache` takes only 0, which keeps no prepared statements"
                            .to_owned(),
                    );
                }
                _ => rest.push(pair),
            }
        }
        database.url =
            if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        Ok(database)
    }

    /// Returns the maximum number of connections of a repository.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// Whether the server is reached through a pool, so that no state may be left in a session.
    pub(super) fn is_pooled(&self) -> bool {
        self.pooled
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// Returns the message about a URL that cannot be parsed. It repeats neither the URL nor the parser's error,
/// because both may contain the password.
fn unusable(scheme: &str) -> String {
    format!(
        "the URL cannot be parsed; its form is {scheme}://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for `@` and the like in a password"
    )
}

impl fmt::Display for ServerDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for ServerDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerDatabase({self})")
    }
}

/// The runtime of one connection, which runs on the calling thread.
pub(super) struct Driver(Option<Runtime>);

impl Driver {
    pub(super) fn new() -> Result<Self, SqlError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime
            .map(|runtime| Self(Some(runtime)))
            .map_err(|error| SqlError::new(SqlErrorClass::Unavailable, error))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("the runtime exists until the driver is dropped")
    }

    /// Waits for `answer`.
    pub(super) fn wait<T: Send>(&self, answer: impl Future<Output = T> + Send) -> T {
        if Handle::try_current().is_err() {
            return self.runtime().block_on(answer);
        }
        // A caller inside another runtime must not block that runtime, so a new thread waits.
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| self.runtime().block_on(answer));
            waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Waits for `answer` on a thread of this crate, which runs inside no other runtime.
    pub(super) fn wait_here<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime().block_on(answer)
    }

    /// Opens a connection; fails after [`CONNECT_TIMEOUT`].
    pub(super) fn connect<C: Send>(
        &self,
        connect: impl Future<Output = Result<C, sqlx::Error>> + Send,
    ) -> Result<C, SqlError> {
        self.wait(async {
            match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
                Ok(connected) => Ok(connected?),
                Err(_) => {
                    let message = format!("no answer within {CONNECT_TIMEOUT:?}");
                    Err(SqlError::new(SqlErrorClass::Unavailable, message))
                }
            }
        })
    }
}

impl Drop for Driver {
    /// Shuts the runtime down without waiting, because waiting is not allowed inside another runtime.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether the connection that reported `error` can no longer be used.
pub(super) fn breaks(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => class_of(&**error) == SqlErrorClass::Unavailable,
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
            sqlx::Error::Database(error) => class_of(&**error),
            sqlx::Error::Encode(_) => SqlErrorClass::Data,
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => SqlErrorClass::Corrupt,
            sqlx::Error::RowNotFound | sqlx::Error::ColumnNotFound(_) => SqlErrorClass::Other,
            _ => SqlErrorClass::Unavailable,
        };
        match &error {
            sqlx::Error::Database(error) => Self::new(class, words(&**error)),
            _ => Self::new(class, error),
        }
    }
}

fn class_of(error: &dyn DatabaseError) -> SqlErrorClass {
    if let Some(mysql) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return class::of_mysql(mysql.number(), mysql.message());
    }
    class::of_postgres(error.code().as_deref().unwrap_or_default())
}

/// Returns the message of the server with its code, without the place in the server's source that the driver
/// adds.
fn words(error: &dyn DatabaseError) -> String {
    if let Some(postgres) = error.try_downcast_ref::<PgDatabaseError>() {
        let mut text = postgres.message().to_owned();
        if let Some(detail) = postgres.detail() {
            text.push_str(&format!(" ({detail})"));
        }
        if let Some(PgErrorPosition::Original(at)) = postgres.position() {
            text.push_str(&format!(", at character {at} of the statement"));
        }
        return format!("{text} [{}]", postgres.code());
    }
    match error.try_downcast_ref::<MySqlDatabaseError>() {
        Some(mysql) => format!("{} [{}]", mysql.message(), mysql.number()),
        None => error.message().to_owned(),
    }
}
