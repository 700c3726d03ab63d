//! What the drivers of PostgreSQL and MySQL share: they wait for asynchronous answers, and class errors.

use std::future::Future;
use std::time::Duration;

use sqlx::error::DatabaseError;
#[cfg(feature = "mysql")]
use sqlx::mysql::MySqlDatabaseError;
#[cfg(feature = "postgres")]
use sqlx::postgres::{PgDatabaseError, PgErrorPosition};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{SqlError, SqlErrorClass, class};

/// Maximum time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
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
    #[cfg(feature = "mysql")]
    if let Some(mysql) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return class::of_mysql(mysql.number(), mysql.message());
    }
    class::of_state(error.code().as_deref().unwrap_or_default())
}

/// Returns the message of the server with its code, without the place in the server's source that the driver
/// adds.
fn words(error: &dyn DatabaseError) -> String {
    #[cfg(feature = "postgres")]
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
    #[cfg(feature = "mysql")]
    if let Some(mysql) = error.try_downcast_ref::<MySqlDatabaseError>() {
        return format!("{} [{}]", mysql.message(), mysql.number());
    }
    error.message().to_owned()
}
