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

/// A writer that passes each item to two writers, or to the one that a function chooses.
///
/// The composite is exact if each of its writers is, also for files, the store, and other databases at once. The store
/// commits first, with the items that another database has yet to commit; then the other database commits. When the
/// process dies between the two, the restart writes these items to the other database again. So the checkpoint has the
/// items of one chunk as JSON, but only if one of the writers is a sink that [prepares](ItemWriter::prepares).
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
    /// Whether a writer commits in a database of its own; known after `open`.
    has_other_database: bool,
    /// Number of chunks that were written.
    chunks: u64,
    /// The items of the chunk, for the writers that commit after the store.
    items: Vec<serde_json::Value>,
}

/// The choice of a [`CompositeWriter`] whose writers get all items.
#[derive(Debug, Clone, Copy)]
pub struct Everything;

/// A function that chooses the writers of an item.
pub trait Choose<T> {
    /// Returns the writers that get `item`.
    fn choose(&self, item: &T) -> Choice;
}

impl<T> Choose<T> for Everything {
    #[inline]
    fn choose(&self, _: &T) -> Choice {
        Choice::Both
    }
}

impl<T, F: Fn(&T) -> Choice> Choose<T> for F {
    #[inline]
    fn choose(&self, item: &T) -> Choice {
        self(item)
    }
}

impl<A, B> CompositeWriter<A, B> {
    /// Creates a writer that passes each item to `first` and to `second`.
    pub fn new(first: A, second: B) -> Self {
        Self {
            first,
            second,
            choose: Everything,
            has_other_database: false,
            chunks: 0,
            items: Vec::new(),
        }
    }

    /// Creates a writer that passes each item to the writers that `choose` returns. After a restart, `choose` must
    /// return the same for the same item.
    pub fn choosing<T, F: Fn(&T) -> Choice>(
        choose: F,
        first: A,
        second: B,
    ) -> CompositeWriter<A, B, F> {
        CompositeWriter {
            first,
            second,
            choose,
            has_other_database: false,
            chunks: 0,
            items: Vec::new(),
        }
    }
}

/// The position of a [`CompositeWriter`].
#[derive(Debug, Serialize, Deserialize)]
pub struct CompositePosition<A, B> {
    first: A,
    second: B,
    #[serde(default, skip_serializing_if = "is_zero")]
    chunks: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    items: Vec<serde_json::Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<A, B, F> CompositeWriter<A, B, F> {
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
        let choices: Vec<Choice> = items.iter().map(|item| self.choose.choose(item)).collect();
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
            sequence: self.chunks,
            checkpoint: String::new(),
            counters: Counters::default(),
            skips: Vec::new(),
            step_context: None,
            job_context: None,
        }
    }

    /// Whether a writer that has committed `held` lacks the chunk that the store has.
    fn lacks(&self, held: Option<&PreparedCommit>) -> Result<bool, ItemError> {
        match held.map(|held| held.sequence) {
            None => Ok(false),
            Some(sequence) if sequence == self.chunks => Ok(false),
            Some(sequence) if sequence + 1 == self.chunks => Ok(true),
            Some(sequence) => Err(ItemError::fatal(format!(
                "cannot continue after chunk {}: the other database is at chunk {sequence}; check whether one of them \
                 was replaced or restored from a backup",
                self.chunks
            ))),
        }
    }
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
            Some(CompositePosition { first, second, chunks, items }) => {
                (self.chunks, self.items) = (chunks, items);
                (Some(first), Some(second))
            }
            None => (None, None),
        };
        // Two writers may use one database, which keeps one commit for each step name.
        let held_first = self.first.open(first, scope)?;
        let held_second = self.second.open(second, &scope.of_second_writer())?;
        self.has_other_database = self.first.prepares() || self.second.prepares();
        let lacking = (self.lacks(held_first.as_ref())?, self.lacks(held_second.as_ref())?);
        if lacking == (false, false) {
            return Ok(None);
        }
        let items: Vec<T> = std::mem::take(&mut self.items)
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>()?;
        let mut chunk = ChunkTransaction::without_store(scope, self.chunks);
        let mut other = ChunkTransaction::without_store(scope, self.chunks);
        self.pass(
            &items,
            |writer, items| if lacking.0 { writer.write(items, &mut chunk) } else { Ok(()) },
            |writer, items| if lacking.1 { writer.write(items, &mut other) } else { Ok(()) },
        )?;
        let commit = self.commit();
        if lacking.0 {
            self.first.prepare(&commit)?;
        }
        if lacking.1 {
            self.second.prepare(&commit)?;
        }
        Ok(None)
    }

    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        if self.has_other_database {
            self.items = items.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
            self.chunks += 1;
        }
        let chunk = std::cell::RefCell::new(chunk);
        self.pass(
            items,
            |writer, items| writer.write(items, &mut chunk.borrow_mut()),
            |writer, items| writer.write(items, &mut chunk.borrow_mut()),
        )
    }

    fn position(&mut self) -> Result<Self::Position, ItemError> {
        let (first, second) = (self.first.position()?, self.second.position()?);
        Ok(CompositePosition { first, second, chunks: self.chunks, items: self.items.clone() })
    }

    /// Commits in the other databases, after the store.
    fn committed(&mut self) -> Result<(), ItemError> {
        if !self.items.is_empty() {
            let commit = self.commit();
            if self.first.prepares() {
                self.first.prepare(&commit)?;
            }
            if self.second.prepares() {
                self.second.prepare(&commit)?;
            }
            self.items.clear();
        }
        self.first.committed()?;
        self.second.committed()
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        if !self.items.is_empty() {
            self.items.clear();
            self.chunks -= 1;
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
