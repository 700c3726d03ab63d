//! A pool of connections to the store.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use batchwright::error::RepositoryError;

use crate::database::{Session, SqlError, SqlSession};

/// Maximum time to wait for a connection that other threads hold.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// A function that opens a connection; its argument is whether the database was never reached before.
type Connect = Box<dyn Fn(bool) -> Result<SqlSession, SqlError> + Send + Sync>;

/// A pool with a maximum number of connections. Broken connections are replaced when the next one is needed.
pub(super) struct Pool {
    connect: Connect,
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    idle: Vec<SqlSession>,
    /// Number of connections that may still be opened.
    left: usize,
    /// Whether the database was ever reached.
    reached: bool,
}

impl Pool {
    pub(super) fn new(
        connections_max: usize,
        connect: impl Fn(bool) -> Result<SqlSession, SqlError> + Send + Sync + 'static,
    ) -> Self {
        let state = State { idle: Vec::new(), left: connections_max, reached: false };
        Self { connect: Box::new(connect), state: Mutex::new(state), returned: Condvar::new() }
    }

    /// Returns a connection for exclusive use until it is dropped.
    pub(super) fn take(&self) -> Result<Pooled<'_>, RepositoryError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(session) = state.idle.pop() {
                return Ok(Pooled { pool: self, session: Some(session), fresh: false });
            }
            if state.left > 0 {
                state.left -= 1;
                let first = !state.reached;
                drop(state);
                let place = Pooled { pool: self, session: None, fresh: true };
                let session = (self.connect)(first).map_err(|error| error.in_store("connect"))?;
                self.state.lock().unwrap_or_else(PoisonError::into_inner).reached = true;
                return Ok(place.with(session));
            }
            let waited = self.returned.wait_timeout(state, TAKE_TIMEOUT);
            let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = next;
            if timeout.timed_out() && state.idle.is_empty() && state.left == 0 {
                let message = format!("all connections were busy for {TAKE_TIMEOUT:?}");
                return Err(RepositoryError::unavailable("connect", message));
            }
        }
    }
}

/// A connection that returns to the pool on drop; of a broken connection only its place returns.
pub(crate) struct Pooled<'a> {
    pool: &'a Pool,
    session: Option<SqlSession>,
    fresh: bool,
}

impl Pooled<'_> {
    fn with(mut self, session: SqlSession) -> Self {
        self.session = Some(session);
        self
    }

    /// Closes the connection instead of returning it to the pool.
    pub(super) fn discard(&mut self) {
        self.session = None;
    }

    /// Whether the connection was opened for the caller. If a fresh connection fails, another one would fail
    /// too.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Returns the connection for the writers of this crate.
    pub(super) fn as_any(&mut self) -> &mut dyn std::any::Any {
        self.session.as_mut().expect("a pooled connection that is not discarded")
    }
}

impl Deref for Pooled<'_> {
    type Target = dyn Session;

    fn deref(&self) -> &Self::Target {
        &**self.session.as_ref().expect("a pooled connection that is not discarded")
    }
}

impl DerefMut for Pooled<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut **self.session.as_mut().expect("a pooled connection that is not discarded")
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        let session = self.session.take().filter(|session| !session.is_broken());
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        match session {
            Some(session) => state.idle.push(session),
            None => state.left += 1,
        }
        drop(state);
        self.pool.returned.notify_one();
    }
}
