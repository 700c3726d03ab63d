//! A reader of a channel.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ItemReader;
use crate::clock::StopToken;
use crate::error::{ErrorKind, ItemError};
use crate::scope::StepScope;

/// A reader of what a channel delivers, until all its senders are dropped.
///
/// A channel delivers an item once. A step that fails or stops after it received items that it did not commit is therefore
/// refused at its restart: start a new instance, from a source that has the items.
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
    shared: Arc<Mutex<Shared<T>>>,
    read: u64,
    stop: StopToken,
}

/// The channel that all clones read.
#[derive(Debug)]
struct Shared<T> {
    receiver: Receiver<T>,
    /// Number of items that left the channel.
    received: u64,
}

/// Time between two looks at the stop token, which wakes no receiver.
const LOOK: Duration = Duration::from_millis(20);

impl<T> ChannelReader<T> {
    /// Creates a reader of `receiver`, which its clones share.
    pub fn new(receiver: Receiver<T>) -> Self {
        let shared = Arc::new(Mutex::new(Shared { receiver, received: 0 }));
        Self { shared, read: 0, stop: StopToken::default() }
    }

    fn shared(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for ChannelReader<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), read: 0, stop: StopToken::default() }
    }
}

impl<T: Send + Sync> ItemReader for ChannelReader<T> {
    type Item = T;
    type Position = u64;

    fn open(&mut self, position: Option<u64>, scope: &StepScope) -> Result<(), ItemError> {
        self.stop = scope.stop().clone();
        self.read = position.unwrap_or(0);
        let received = self.shared().received;
        if received == self.read {
            return Ok(());
        }
        let read = self.read;
        Err(ItemError::fatal(format!(
            "cannot continue after item {read}: {received} items have left this channel, which delivers each once; start a new \
             instance from a source that has them"
        )))
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let next = {
            let mut shared = self.shared();
            let next = loop {
                match shared.receiver.recv_timeout(LOOK) {
                    Err(RecvTimeoutError::Timeout) if self.stop.is_requested() => {
                        let what = "a stop was requested while the reader waited for its channel";
                        return Err(ItemError::new(ErrorKind::STOPPED, what));
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    next => break next.ok(),
                }
            };
            shared.received += u64::from(next.is_some());
            next
        };
        self.read += u64::from(next.is_some());
        Ok(next)
    }

    fn position(&self) -> u64 {
        self.read
    }
}
