//! Readers and writers of lists in memory, and a writer that discards its items.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use super::{ItemReader, ItemWriter, PreparedCommit, Total};
use crate::error::ItemError;
use crate::item::ChunkTransaction;
use crate::scope::StepScope;

/// A reader that yields clones of the elements of a list.
#[derive(Debug, Clone)]
pub struct ListReader<T> {
    items: Arc<[T]>,
    next: usize,
}

impl<T> ListReader<T> {
    /// Creates a reader of `items`, in their order.
    pub fn new(items: impl Into<Arc<[T]>>) -> Self {
        Self { items: items.into(), next: 0 }
    }
}

impl<T: Clone + Send + Sync> ItemReader for ListReader<T> {
    type Item = T;
    type Position = usize;

    fn open(&mut self, position: Option<usize>, _: &StepScope) -> Result<(), ItemError> {
        self.next = position.unwrap_or(0);
        if self.next > self.items.len() {
            let (next, len) = (self.next, self.items.len());
            return Err(ItemError::data(format!(
                "cannot resume after item {next} of a list of {len}"
            )));
        }
        Ok(())
    }

    #[inline]
    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let item = self.items.get(self.next).cloned();
        self.next += usize::from(item.is_some());
        Ok(item)
    }

    fn position(&self) -> usize {
        self.next
    }

    fn total(&self) -> Option<Total> {
        Some(Total::Items(self.items.len() as u64))
    }

    fn done(&self) -> u64 {
        self.next as u64
    }
}

/// A writer that appends clones of the outputs to a shared list, one committed chunk at a time.
#[derive(Debug)]
pub struct ListWriter<T> {
    items: Arc<Mutex<Vec<T>>>,
}

impl<T> ListWriter<T> {
    /// Creates a writer to `items`; the outputs of a rolled-back chunk never appear there.
    pub fn new(items: Arc<Mutex<Vec<T>>>) -> Self {
        Self { items }
    }
}

impl<T> Clone for ListWriter<T> {
    fn clone(&self) -> Self {
        Self { items: Arc::clone(&self.items) }
    }
}

impl<T: Clone + Send + Sync + 'static> ItemWriter<T> for ListWriter<T> {
    type Position = ();

    fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        Ok(None)
    }

    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        let (list, written) = (Arc::clone(&self.items), items.to_vec());
        chunk.on_commit(move || {
            list.lock().unwrap_or_else(PoisonError::into_inner).extend(written);
        });
        Ok(())
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }
}

/// A writer that discards its items: for measurements and for steps whose work is in the processor.
#[derive(Debug)]
pub struct NoWriter<T>(PhantomData<fn(T)>);

impl<T> NoWriter<T> {
    /// Creates a writer that discards its items.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for NoWriter<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for NoWriter<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> ItemWriter<T> for NoWriter<T> {
    type Position = ();

    fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        Ok(None)
    }

    fn write(&mut self, items: &[T], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        std::hint::black_box(items);
        Ok(())
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }
}
