//! A reader that reads all keys first and the items by their keys.

use std::collections::VecDeque;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ItemReader, Total};
use crate::error::ItemError;
use crate::scope::StepScope;

/// A reader that reads the keys of its items once, at its beginning, and then the items by their keys, some at a time:
/// for a source that is slow or holds locks while a query is open, or whose items come from elsewhere than the keys.
///
/// Its position is the last key. A restart reads the keys after it.
///
/// ```
/// use batchwright::item::{KeyedReader, NoWriter};
/// use batchwright::ChunkStepBuilder;
///
/// let reader = KeyedReader::new(
///     // Sorted, and only those after the last one that was read.
///     |after: Option<&u32>| Ok((after.map_or(1, |last| last + 1)..=1_000).collect()),
///     |keys: &[u32]| Ok(keys.iter().map(|key| Some(format!("customer {key}"))).collect()),
/// );
/// let step = ChunkStepBuilder::new("customers")
///     .reader(reader.batch(100))
///     .writer(NoWriter::new())
///     .build();
/// ```
#[derive(Debug)]
pub struct KeyedReader<K, T, Keys, Items> {
    read_keys: Keys,
    read_items: Items,
    batch: usize,
    keys: VecDeque<K>,
    /// Items of the first keys, in their order.
    items: VecDeque<Option<T>>,
    last: Option<K>,
    total: u64,
    done: u64,
    /// Whether the last read failed for a whole batch, so that no key was consumed.
    batch_failed: bool,
}

impl<K, T, Keys, Items> KeyedReader<K, T, Keys, Items>
where
    Keys: FnMut(Option<&K>) -> Result<Vec<K>, ItemError>,
    Items: FnMut(&[K]) -> Result<Vec<Option<T>>, ItemError>,
{
    /// Default number of items that are read at a time.
    pub const BATCH_DEFAULT: usize = 100;

    /// Creates a reader. `read_keys` returns the keys after the one that it gets, in an order that stays the same;
    /// `read_items` returns the item of each of its keys, in their order, and `None` for a key without an item, which
    /// fails the read of that record with the kind `data`.
    pub fn new(read_keys: Keys, read_items: Items) -> Self {
        Self::unopened(read_keys, read_items, Self::BATCH_DEFAULT)
    }

    /// Sets the number of items that are read at a time; zero counts as one. Default 100.
    #[must_use]
    pub fn batch(mut self, items: usize) -> Self {
        self.batch = items.max(1);
        self
    }

    /// Reads the items of the next keys.
    fn read_batch(&mut self) -> Result<(), ItemError> {
        let count = self.batch.min(self.keys.len());
        let keys = &self.keys.make_contiguous()[..count];
        let items = (self.read_items)(keys)?;
        if items.len() != count {
            let what =
                format!("{count} keys have {} items; return `None` for a missing one", items.len());
            return Err(ItemError::fatal(what));
        }
        self.items = items.into();
        Ok(())
    }
}

impl<K, T, Keys, Items> KeyedReader<K, T, Keys, Items> {
    fn unopened(read_keys: Keys, read_items: Items, batch: usize) -> Self {
        let (keys, items) = (VecDeque::new(), VecDeque::new());
        let (last, total, done) = (None, 0, 0);
        Self { read_keys, read_items, batch, keys, items, last, total, done, batch_failed: false }
    }
}

/// A clone has not been opened.
impl<K, T, Keys: Clone, Items: Clone> Clone for KeyedReader<K, T, Keys, Items> {
    fn clone(&self) -> Self {
        Self::unopened(self.read_keys.clone(), self.read_items.clone(), self.batch)
    }
}

impl<K, T, Keys, Items> ItemReader for KeyedReader<K, T, Keys, Items>
where
    K: Serialize + DeserializeOwned + Clone + Send + 'static,
    T: Send + Sync,
    Keys: FnMut(Option<&K>) -> Result<Vec<K>, ItemError> + Send,
    Items: FnMut(&[K]) -> Result<Vec<Option<T>>, ItemError> + Send,
{
    type Item = T;
    type Position = Option<K>;

    fn open(&mut self, position: Option<Option<K>>, _: &StepScope) -> Result<(), ItemError> {
        self.last = position.flatten();
        self.keys = (self.read_keys)(self.last.as_ref())?.into();
        self.items.clear();
        (self.total, self.done) = (self.keys.len() as u64, 0);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        if self.items.is_empty() {
            let read = if self.keys.is_empty() { Ok(()) } else { self.read_batch() };
            self.batch_failed = read.is_err();
            read?;
        }
        let (Some(item), Some(key)) = (self.items.pop_front(), self.keys.pop_front()) else {
            return Ok(None);
        };
        self.done += 1;
        let item = item.ok_or_else(|| {
            let key = serde_json::to_string(&key).unwrap_or_default();
            ItemError::data(format!("there is no item with the key {key}"))
        });
        self.last = Some(key);
        item.map(Some)
    }

    fn position(&self) -> Option<K> {
        self.last.clone()
    }

    fn rereads(&self) -> bool {
        self.batch_failed
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        Err(ItemError::fatal("cannot skip the items of several keys that cannot be read"))
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn total(&self) -> Option<Total> {
        Some(Total::Items(self.total))
    }

    fn done(&self) -> u64 {
        self.done
    }
}
