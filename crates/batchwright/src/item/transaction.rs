//! The transaction of a chunk as its writer sees it.

use std::any::{Any, TypeId};

use crate::error::{ItemError, RepositoryError};
use crate::lifecycle::{ObservedStore, Tx};
use crate::scope::StepScope;

/// The transaction of one chunk, as its writer sees it. The transaction opens at its first use.
pub struct ChunkTransaction<'a> {
    /// `None` outside of a chunk.
    store: Option<&'a ObservedStore>,
    tx: Option<Tx<'a>>,
    on_commit: Vec<Box<dyn FnOnce() + Send>>,
    scope: &'a StepScope,
    sequence: u64,
    /// The place of the writer in a composite: `+2`.
    member: String,
    /// Why the store could not begin a transaction; not the fault of any item.
    broken: Option<RepositoryError>,
}

impl<'a> ChunkTransaction<'a> {
    pub(crate) fn new(store: &'a ObservedStore, scope: &'a StepScope, sequence: u64) -> Self {
        Self { store: Some(store), ..Self::without_store(scope, sequence) }
    }

    /// Creates the transaction of a chunk that the store has committed before: it can write to no store.
    pub(crate) fn without_store(scope: &'a StepScope, sequence: u64) -> Self {
        let (on_commit, member) = (Vec::new(), String::new());
        Self { store: None, tx: None, on_commit, scope, sequence, member, broken: None }
    }

    /// Returns the store's own transaction as a `T`, for writers that use the store's database: their writes
    /// commit together with the checkpoint or not at all.
    ///
    /// # Errors
    ///
    /// When the store has no such resource, or cannot begin a transaction.
    pub fn resource<T: Any>(&mut self) -> Result<&mut T, ItemError> {
        let step = self.scope.step().to_owned();
        if let Err(error) = self.tx() {
            let failure = ItemError::fatal(crate::error::report(&error));
            self.broken = Some(error);
            return Err(failure);
        }
        self.tx()?.resource(TypeId::of::<T>()).downcast_mut::<T>().ok_or_else(|| {
            ItemError::fatal(format!(
                "cannot write to the store's own database in step `{step}`: this store has no `{}`",
                std::any::type_name::<T>()
            ))
        })
    }

    /// Runs `action` right after the commit; a rollback discards it.
    pub fn on_commit(&mut self, action: impl FnOnce() + Send + 'static) {
        self.on_commit.push(Box::new(action));
    }

    /// Returns a permanent key of this chunk: the same after a restart, different for every other chunk of
    /// every instance (a rerun of a completed step restarts the numbers). For sinks that can refuse a key
    /// they already have.
    pub fn idempotency_key(&self) -> String {
        let (job, step) = (self.scope.job(), self.scope.sink_name());
        let (store, member) = (self.scope.store_id(), &self.member);
        format!("{store}/{}/{step}{member}/{}", job.instance_id(), self.sequence)
    }

    /// Returns the number of the commit among all commits of the step in this instance.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Runs `write` for member `number` of a composite writer, with idempotency keys of its own.
    pub(crate) fn of_member<T>(&mut self, number: u8, write: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.member.len();
        self.member.push_str(&format!("+{number}"));
        let result = write(self);
        self.member.truncate(length);
        result
    }

    /// Whether something is to be committed in the store besides the checkpoint.
    pub(crate) fn is_used(&self) -> bool {
        self.tx.is_some() || !self.on_commit.is_empty()
    }

    /// Returns the transaction, and begins it at the first call.
    pub(crate) fn tx(&mut self) -> Result<&mut Tx<'a>, RepositoryError> {
        let tx = match self.tx.take() {
            Some(tx) => tx,
            None => {
                let what = || "a writer used the store's transaction after its commit".to_owned();
                let store = self.store.ok_or_else(|| RepositoryError::Corrupt { what: what() })?;
                store.begin()?
            }
        };
        Ok(self.tx.insert(tx))
    }

    /// Rolls back what was written.
    pub(crate) fn roll_back(&mut self) {
        self.tx = None;
        self.on_commit.clear();
    }

    /// Takes the store's own failure, which caused the error that the user's part returned.
    pub(crate) fn broken(&mut self) -> Option<RepositoryError> {
        self.broken.take()
    }

    pub(crate) fn commit(mut self) -> Result<(), RepositoryError> {
        if let Some(tx) = self.tx.take() {
            tx.commit()?;
        }
        for action in self.on_commit.drain(..) {
            action();
        }
        Ok(())
    }
}

impl std::fmt::Debug for ChunkTransaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkTransaction")
            .field("key", &self.idempotency_key())
            .field("open", &self.tx.is_some())
            .finish_non_exhaustive()
    }
}
