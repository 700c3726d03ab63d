//! A reader of a channel.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use super::ItemReader;
use crate::error::ItemError;
use crate::scope::StepScope;

/// A reader of what a channel delivers, until all its senders are dropped.
///
/// A channel delivers an item once. A step that fails or stops after its first commit is therefore refused at its
/// restart: start a new instance, from a source that has the items.
///
/// ```
/// use std::sync::mpsc;
/// use batchwright::item::{ChannelReader, NoWriter};
/// use batchwright::ChunkStepBuilder;
///
/// let (sender, receiver) = mpsc::channel();
/// std::thread::spawn(move || (0..1_000).try_for_each(|n| sender.send(n)));
/// let step = ChunkStepBuilder::new("numbers")
///     .reader(ChannelReader::new(receiver))
///     .writer(NoWriter::<i32>::new())
///     .build();
/// ```
#[derive(Debug)]
pub struct ChannelReader<T> {
    receiver: Arc<Mutex<Receiver<T>>>,
    read: u64,
}

impl<T> ChannelReader<T> {
    /// Creates a reader of `receiver`, which its clones share.
    pub fn new(receiver: Receiver<T>) -> Self {
        Self { receiver: Arc::new(Mutex::new(receiver)), read: 0 }
    }
}

impl<T> Clone for ChannelReader<T> {
    fn clone(&self) -> Self {
        Self { receiver: Arc::clone(&self.receiver), read: 0 }
    }
}

impl<T: Send + Sync> ItemReader for ChannelReader<T> {
    type Item = T;
    type Position = u64;

    fn open(&mut self, position: Option<u64>, _: &StepScope) -> Result<(), ItemError> {
        match position.unwrap_or(0) {
            0 => Ok(()),
            read => Err(ItemError::fatal(format!(
                "cannot continue after item {read}: a channel delivers each item once, so those of the failed chunk cannot be read again; \
                 start a new instance from a source that has them"
            ))),
        }
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let next = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
        self.read += u64::from(next.is_some());
        Ok(next)
    }

    fn position(&self) -> u64 {
        self.read
    }
}
