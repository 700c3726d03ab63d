//! Connections to the store: a few, taken and given back.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use batchwright::RepositoryError;

use crate::database::{Session, SqlError, SqlSession};

/// How long somebody waits for a connection that others hold.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens a connection; told whether it is the first of all.
type Connect = Box<dyn Fn(bool) -> Result<SqlSession, SqlError> + Send + Sync>;

/// At most so many connections. Those that broke are replaced when the next one is needed.
pub(super) struct Pool {
    connect: Connect,
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    idle: Vec<SqlSession>,
    /// Connections that may still be opened.
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

    /// A connection for the caller alone, until it is dropped.
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
                let told = format!("all connections were busy for {TAKE_TIMEOUT:?}");
                return Err(RepositoryError::unavailable("connect", told));
            }
        }
    }
}

/// A connection that goes back when it is dropped; or only its place, when it broke.
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

    /// Gives the connection up.
    pub(super) fn discard(&mut self) {
        self.session = None;
    }

    /// Whether it was opened for the caller: when that one fails, another would too.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The connection for the writers of this crate.
    pub(super) fn as_any(&mut self) -> &mut dyn std::any::Any {
        self.session.as_mut().expect("a connection that is in use")
    }
}

impl Deref for Pooled<'_> {
    type Target = dyn Session;

    fn deref(&self) -> &Self::Target {
        &**self.session.as_ref().expect("a connection that is in use")
    }
}

impl DerefMut for Pooled<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut **self.session.as_mut().expect("a connection that is in use")
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
