//! A writer made of two writers.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use crate::error::ItemError;
use crate::execution::Counters;
use crate::scope::StepScope;

/// Which writers of a [`CompositeWriter`] get an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The first one.
    First,
    /// The second one.
    Second,
    /// Both.
    Both,
    /// None: the item is committed without being written.
    Neither,
}

/// A writer that passes each item to two writers, or to the one that a function chooses. More than two are nested.
///
/// The composite is exact if each of its writers is, also for files, the store, and other databases at once. The store
/// commits first, together with the items that another database has yet to commit; then the other database commits. When
/// the process dies between the two, the restart writes these items to the other database again. This has a price, which
/// only composites with another database pay:
///
/// * Every checkpoint has the items of its chunk as JSON. An item must come back from its JSON as it was: without numbers
///   that are not finite, and without fields that serde skips.
/// * A constraint that the other database checks only at its commit is checked after that of the store. Its refusal fails
///   the step, and each restart, until the data or the constraint is changed.
/// * Each writer has a transaction of its own. Two writers to the same other database do not see each other's rows, and on
///   SQLite the second one would wait for the first one for ever: use one writer there.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use batchwright::item::CompositeWriter;
/// use batchwright::{ChunkStepBuilder, ListWriter, Sequence};
///
/// let (one, two) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
/// let both = CompositeWriter::new(ListWriter::new(one), ListWriter::new(two));
/// let step = ChunkStepBuilder::new("copy").reader(Sequence::to(3)).writer(both).build();
/// ```
#[derive(Debug, Clone)]
pub struct CompositeWriter<A, B, F = Everything> {
    first: A,
    second: B,
    choose: F,
    /// Set by `open`.
    scope: Option<StepScope>,
    /// The chunk that was written last, for the writers that commit after the store.
    last: Chunk,
    /// Whether `last` is not committed yet.
    is_pending: bool,
}

/// A chunk, as another database commits it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Chunk {
    /// Its number among the chunks that were written, from 1.
    number: u64,
    /// The number of its commit in the store, which is part of its idempotency keys.
    sequence: u64,
    /// Its items as JSON.
    items: Vec<serde_json::Value>,
}

/// The choice of a [`CompositeWriter`] whose writers get all items.
#[derive(Debug, Clone, Copy)]
#[doc(hidden)]
pub struct Everything;

/// What chooses the writers of an item: a function, or a type of your own.
#[doc(hidden)]
pub trait Choose<T> {
    /// Returns the writers that get `item`.
    ///
    /// # Errors
    ///
    /// The write of the item fails.
    fn choose(&self, item: &T) -> Result<Choice, ItemError>;
}

impl<T> Choose<T> for Everything {
    #[inline]
    fn choose(&self, _: &T) -> Result<Choice, ItemError> {
        Ok(Choice::Both)
    }
}

impl<T, F: Fn(&T) -> Choice> Choose<T> for F {
    #[inline]
    fn choose(&self, item: &T) -> Result<Choice, ItemError> {
        Ok(self(item))
    }
}

impl<A, B> CompositeWriter<A, B> {
    /// Creates a writer that passes each item to `first` and to `second`.
    pub fn new(first: A, second: B) -> Self {
        CompositeWriter::of(Everything, first, second)
    }

    /// Creates a writer that passes each item to the writers that `choose` returns. After a restart, `choose` must
    /// return the same for the same item.
    pub fn choosing<T, F: Fn(&T) -> Choice>(
        choose: F,
        first: A,
        second: B,
    ) -> CompositeWriter<A, B, F> {
        CompositeWriter::of(choose, first, second)
    }

    /// As [`choosing`](Self::choosing), with a choice that can fail.
    #[doc(hidden)]
    pub fn choosing_by<F>(choose: F, first: A, second: B) -> CompositeWriter<A, B, F> {
        CompositeWriter::of(choose, first, second)
    }
}

/// The position of a [`CompositeWriter`].
#[derive(Debug, Serialize, Deserialize)]
#[doc(hidden)]
pub struct CompositePosition<A, B> {
    first: A,
    second: B,
    /// `None` unless a writer commits in another database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Chunk>,
}

impl<A, B, F> CompositeWriter<A, B, F> {
    fn of(choose: F, first: A, second: B) -> Self {
        Self { first, second, choose, scope: None, last: Chunk::default(), is_pending: false }
    }

    /// Passes to each writer the items that it gets.
    fn pass<T: Clone>(
        &mut self,
        items: &[T],
        mut to_first: impl FnMut(&mut A, &[T]) -> Result<(), ItemError>,
        mut to_second: impl FnMut(&mut B, &[T]) -> Result<(), ItemError>,
    ) -> Result<(), ItemError>
    where
        F: Choose<T>,
    {
        let choices = items.iter().map(|item| self.choose.choose(item));
        let choices = choices.collect::<Result<Vec<Choice>, ItemError>>()?;
        if choices.iter().all(|choice| *choice == Choice::Both) {
            to_first(&mut self.first, items)?;
            return to_second(&mut self.second, items);
        }
        let of = |one: Choice| -> Vec<T> {
            let gets = |choice: Choice| choice == one || choice == Choice::Both;
            let chosen = items.iter().zip(&choices).filter(|(_, choice)| gets(**choice));
            chosen.map(|(item, _)| item.clone()).collect()
        };
        let (first, second) = (of(Choice::First), of(Choice::Second));
        if !first.is_empty() {
            to_first(&mut self.first, &first)?;
        }
        match second.is_empty() {
            true => Ok(()),
            false => to_second(&mut self.second, &second),
        }
    }

    /// The commit of the last chunk, as a sink with a database of its own stores it.
    fn commit(&self) -> PreparedCommit {
        PreparedCommit {
            sequence: self.last.number,
            checkpoint: String::new(),
            counters: Counters::default(),
            skips: Vec::new(),
            step_context: None,
            job_context: None,
        }
    }

    /// Whether a writer whose sink has committed `held` lacks the last chunk.
    fn lacks(&self, prepares: bool, held: Option<&PreparedCommit>) -> Result<bool, ItemError> {
        let (ours, theirs) = (self.last.number, held.map_or(0, |held| held.sequence));
        match prepares && theirs != ours {
            false => Ok(false),
            true if theirs + 1 == ours => Ok(true),
            true => Err(ItemError::fatal(format!(
                "cannot continue after chunk {ours}: the other database is at chunk {theirs}; check whether one of them was \
                 replaced or restored from a backup"
            ))),
        }
    }

    /// Writes the last chunk, which the store has, to the writers that lack it, if any, and commits it there.
    fn catch_up<T>(&mut self, first_lacks: bool, second_lacks: bool) -> Result<(), ItemError>
    where
        T: Clone + DeserializeOwned,
        A: ItemWriter<T>,
        B: ItemWriter<T>,
        F: Choose<T>,
    {
        match first_lacks || second_lacks {
            true => self.write_again(first_lacks, second_lacks).map_err(behind_store),
            false => Ok(()),
        }
    }

    fn write_again<T>(&mut self, to_first: bool, to_second: bool) -> Result<(), ItemError>
    where
        T: Clone + DeserializeOwned,
        A: ItemWriter<T>,
        B: ItemWriter<T>,
        F: Choose<T>,
    {
        let Some(scope) = self.scope.clone() else { return Ok(()) };
        let items = self.last.items.iter().cloned().map(serde_json::from_value);
        let items = items.collect::<Result<Vec<T>, _>>()?;
        let (one, two) = (scope.of_member(1), scope.of_member(2));
        let mut first_chunk = ChunkTransaction::without_store(&one, self.last.sequence);
        let mut second_chunk = ChunkTransaction::without_store(&two, self.last.sequence);
        self.pass(
            &items,
            |writer, items| if to_first { writer.write(items, &mut first_chunk) } else { Ok(()) },
            |writer, items| if to_second { writer.write(items, &mut second_chunk) } else { Ok(()) },
        )?;
        let commit = self.commit();
        if to_first {
            self.first.prepare(&commit)?;
        }
        if to_second {
            self.second.prepare(&commit)?;
        }
        Ok(())
    }
}

/// Says that the store has a chunk that another database refuses.
fn behind_store(error: ItemError) -> ItemError {
    if error.is_stop() || !error.is_definite() {
        return error;
    }
    let kind = error.kind().clone();
    let message = "cannot commit in the other database what the store has committed; change the data or the constraint there, \
                   then restart";
    ItemError::wrap(kind, message, error.into_boxed())
}

impl<T, A, B, F> ItemWriter<T> for CompositeWriter<A, B, F>
where
    T: Clone + Serialize + DeserializeOwned,
    A: ItemWriter<T>,
    B: ItemWriter<T>,
    F: Choose<T> + Send,
{
    type Position = CompositePosition<A::Position, B::Position>;

    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        let (first, second) = match position {
            Some(CompositePosition { first, second, last }) => {
                self.last = last.unwrap_or_default();
                (Some(first), Some(second))
            }
            None => (None, None),
        };
        self.scope = Some(scope.clone());
        let held_first = self.first.open(first, &scope.of_member(1))?;
        let held_second = self.second.open(second, &scope.of_member(2))?;
        let first_lacks = self.lacks(self.first.prepares(), held_first.as_ref())?;
        let second_lacks = self.lacks(self.second.prepares(), held_second.as_ref())?;
        self.catch_up(first_lacks, second_lacks)?;
        Ok(None)
    }

    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        if self.first.prepares() || self.second.prepares() {
            self.last.items = items.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
            self.last.sequence = chunk.sequence();
            self.last.number += 1;
            self.is_pending = true;
        }
        let chunk = std::cell::RefCell::new(chunk);
        self.pass(
            items,
            |writer, items| chunk.borrow_mut().of_member(1, |chunk| writer.write(items, chunk)),
            |writer, items| chunk.borrow_mut().of_member(2, |chunk| writer.write(items, chunk)),
        )
    }

    /// What suits the writer with the larger chunks.
    fn chunk_items(&self) -> usize {
        self.first.chunk_items().max(self.second.chunk_items())
    }

    fn position(&mut self) -> Result<Self::Position, ItemError> {
        let (first, second) = (self.first.position()?, self.second.position()?);
        let last = (self.first.prepares() || self.second.prepares()).then(|| self.last.clone());
        Ok(CompositePosition { first, second, last })
    }

    /// Commits in the other databases, after the store.
    fn committed(&mut self) -> Result<(), ItemError> {
        if std::mem::take(&mut self.is_pending) {
            let commit = self.commit();
            let first_lacks = refuses(&mut self.first, &commit)?;
            let second_lacks = refuses(&mut self.second, &commit)?;
            self.catch_up(first_lacks, second_lacks)?;
        }
        self.first.committed()?;
        self.second.committed()
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        if std::mem::take(&mut self.is_pending) {
            self.last.items.clear();
            self.last.number -= 1;
        }
        let first = self.first.rolled_back();
        self.second.rolled_back().and(first)
    }

    fn keeps_position(&self) -> bool {
        let other_database = self.first.prepares() || self.second.prepares();
        other_database || self.first.keeps_position() || self.second.keeps_position()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        let first = self.first.close(ending);
        self.second.close(ending).and(first)
    }
}

/// Commits in the database of `writer`, if it has one. Returns whether the database refused for certain, such as after a
/// deadlock; the writer is rolled back then, so that the chunk can be written again. After any other error the restart
/// finds out what was committed.
fn refuses<T, W: ItemWriter<T>>(
    writer: &mut W,
    commit: &PreparedCommit,
) -> Result<bool, ItemError> {
    if !writer.prepares() {
        return Ok(false);
    }
    match writer.prepare(commit) {
        Ok(()) => Ok(false),
        Err(error) if error.is_definite() => writer.rolled_back().map(|()| true),
        Err(error) => Err(error),
    }
}
