//! The store of an operator with its observers: an event is sent after the commit that makes it true.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::error::RepositoryError;
use crate::event::{Event, Events};
use crate::store::{JobRepository, Transaction};

/// A store, with the observers of what is committed to it.
#[derive(Clone)]
pub(crate) struct ObservedStore {
    repository: Arc<dyn JobRepository>,
    events: Events,
}

impl ObservedStore {
    pub(crate) fn new(repository: Arc<dyn JobRepository>, events: Events) -> Self {
        Self { repository, events }
    }

    /// Begins a transaction; dropping it without [`commit`](Tx::commit) rolls it back.
    pub(crate) fn begin(&self) -> Result<Tx<'_>, RepositoryError> {
        Ok(Tx { tx: self.repository.begin()?, events: &self.events, recorded: Vec::new() })
    }

    pub(crate) fn repository(&self) -> &Arc<dyn JobRepository> {
        &self.repository
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }
}

/// Everything but transactions: those begin with [`ObservedStore::begin`].
impl Deref for ObservedStore {
    type Target = dyn JobRepository;

    fn deref(&self) -> &Self::Target {
        &*self.repository
    }
}

/// A transaction that sends its events after its commit.
pub(crate) struct Tx<'a> {
    tx: Box<dyn Transaction + 'a>,
    events: &'a Events,
    recorded: Vec<Event>,
}

impl<'a> Tx<'a> {
    /// Stores an event, which observers receive after the commit.
    pub(crate) fn record(&mut self, event: Event) -> Result<(), RepositoryError> {
        self.tx.insert_event(&event)?;
        self.after_commit(|| event);
        Ok(())
    }

    /// Sends an event to the observers after the commit, without storing it.
    pub(crate) fn after_commit(&mut self, event: impl FnOnce() -> Event) {
        if self.events.is_observed() {
            self.recorded.push(event());
        }
    }

    pub(crate) fn commit(self) -> Result<(), RepositoryError> {
        self.commit_silently()?.send();
        Ok(())
    }

    /// Commits, and returns the events to send: for a caller that must first release a lock.
    pub(crate) fn commit_silently(self) -> Result<Recorded<'a>, RepositoryError> {
        let Self { tx, events, recorded } = self;
        tx.commit()?;
        Ok(Recorded { events, recorded })
    }
}

/// The events of a committed transaction.
#[must_use = "send the events"]
pub(crate) struct Recorded<'a> {
    events: &'a Events,
    recorded: Vec<Event>,
}

impl Recorded<'_> {
    pub(crate) fn send(self) {
        let Self { events, recorded } = self;
        recorded.into_iter().for_each(|event| events.emit(|| event));
    }
}

impl<'a> Deref for Tx<'a> {
    type Target = dyn Transaction + 'a;

    fn deref(&self) -> &Self::Target {
        &*self.tx
    }
}

impl DerefMut for Tx<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.tx
    }
}
