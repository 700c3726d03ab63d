//! The reader of a queue.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, StopToken, SystemClock};
use batchwright::item::{Acknowledge, ItemReader};
use batchwright::scope::StepScope;
use serde::{Deserialize, Serialize};

use super::body::Decode;
use super::{Broker, Message};
use crate::record::Record;

/// Number of messages that are fetched together.
const FETCHED_MAX: usize = 500;
/// The time between two looks at an empty queue.
const LOOK: Duration = Duration::from_millis(100);

/// When a reader ends, and what it makes of messages.
#[derive(Debug, Clone)]
pub(super) struct ReaderSettings {
    /// How long it waits for a message of an empty queue.
    pub(super) wait: Duration,
    /// Maximum number of messages.
    pub(super) limit: Option<u64>,
    pub(super) decode: Decode,
}

/// The position in a queue.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct QueuePosition {
    /// Number of messages that were read.
    read: u64,
    /// The ids of those that may be delivered again, because they are not acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unacknowledged: Vec<Arc<str>>,
}

/// Makes a connection for a step, at the position of a number of messages.
pub(super) type Connect<B> = Arc<dyn Fn(&StepScope, u64) -> Result<B, ItemError> + Send + Sync>;

/// A reader of the messages of a queue. What is read is held until the commit acknowledges it.
pub(super) struct QueueReader<B: Broker> {
    connect: Connect<B>,
    settings: ReaderSettings,
    broker: Option<Arc<B>>,
    held: Arc<Mutex<Held<B::Tag>>>,
    fetched: VecDeque<Message<B::Tag>>,
    /// How many messages with an id were committed before this opening, and can be delivered again.
    committed: HashMap<Arc<str>, usize>,
    read: u64,
    /// Whether the last read failed before it had a message.
    is_without_message: bool,
    stop: StopToken,
}

/// The messages that were read and not acknowledged.
struct Held<T> {
    /// In the order in which they were read.
    messages: VecDeque<HeldMessage<T>>,
    /// The ids of messages that were committed before the opening, and perhaps not acknowledged.
    before: Vec<Arc<str>>,
    /// Number of messages up to the last commit.
    committed: u64,
}

struct HeldMessage<T> {
    number: u64,
    id: Option<Arc<str>>,
    tag: T,
}

impl<T> Held<T> {
    /// Returns the position after `read` messages.
    fn position(&self, read: u64) -> QueuePosition {
        let held = self.messages.iter().take_while(|message| message.number <= read);
        let ids = held.filter_map(|message| message.id.as_ref());
        QueuePosition { read, unacknowledged: self.before.iter().chain(ids).cloned().collect() }
    }
}

fn lock<T>(held: &Mutex<Held<T>>) -> MutexGuard<'_, Held<T>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Broker> QueueReader<B> {
    pub(super) fn new(connect: Connect<B>, settings: ReaderSettings) -> Self {
        let held = Held { messages: VecDeque::new(), before: Vec::new(), committed: 0 };
        Self {
            connect,
            settings,
            broker: None,
            held: Arc::new(Mutex::new(held)),
            fetched: VecDeque::new(),
            committed: HashMap::new(),
            read: 0,
            is_without_message: false,
            stop: StopToken::default(),
        }
    }

    fn broker(&self) -> Result<&Arc<B>, ItemError> {
        let unopened = || ItemError::fatal("cannot read a queue before the reader is opened");
        self.broker.as_ref().ok_or_else(unopened)
    }

    /// Returns the next message; `None` when the queue stays empty.
    fn next(&mut self) -> Result<Option<Message<B::Tag>>, ItemError> {
        let left = self.settings.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.read));
        if left == 0 {
            return Ok(None);
        }
        let max = usize::try_from(left).unwrap_or(FETCHED_MAX).min(FETCHED_MAX);
        let clock = SystemClock::default();
        let begun = clock.elapsed();
        while self.fetched.is_empty() {
            if self.stop.is_requested() {
                return Err(ItemError::stopped("a stop was requested while a queue was read"));
            }
            let broker = Arc::clone(self.broker()?);
            self.fetched = broker.fetch(max)?.into();
            if !self.fetched.is_empty() {
                break;
            }
            let held = lock(&self.held).messages.len();
            let is_over = clock.elapsed() - begun >= self.settings.wait;
            if is_over && !broker.is_held_elsewhere(held)? {
                return Ok(None);
            }
            self.stop.wait(LOOK);
        }
        Ok(self.fetched.pop_front())
    }

    /// Returns `message` unless it was committed before, or is read again within this opening.
    fn unknown(&mut self, message: Message<B::Tag>) -> Result<Option<Message<B::Tag>>, ItemError> {
        let Some(id) = message.id.clone().filter(|_| message.redelivered) else {
            return Ok(Some(message));
        };
        if let Some(count) = self.committed.get_mut(&id).filter(|count| **count > 0) {
            // Others with the same id were not committed.
            *count -= usize::from(!B::IDS_ARE_UNIQUE);
            self.broker()?.acknowledge(vec![message.tag])?;
            return Ok(None);
        }
        if B::IDS_ARE_UNIQUE {
            let mut held = lock(&self.held);
            let known = held.messages.iter_mut().find(|held| held.id.as_ref() == Some(&id));
            if let Some(known) = known {
                known.tag = message.tag;
                return Ok(None);
            }
        }
        Ok(Some(message))
    }
}

impl<B: Broker> ItemReader for QueueReader<B> {
    type Item = Record;
    type Position = QueuePosition;

    fn open(
        &mut self,
        position: Option<QueuePosition>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        let QueuePosition { read, unacknowledged } = position.unwrap_or_default();
        self.stop = scope.stop().clone();
        self.read = read;
        for id in &unacknowledged {
            *self.committed.entry(Arc::clone(id)).or_default() += 1;
        }
        {
            let mut held = lock(&self.held);
            held.before = unacknowledged;
            held.committed = read;
        }
        self.broker = Some(Arc::new((self.connect)(scope, read)?));
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        loop {
            self.is_without_message = true;
            let Some(message) = self.next()? else { return Ok(None) };
            let Some(message) = self.unknown(message)? else { continue };
            self.is_without_message = false;
            self.read += 1;
            let Message { id, tag, content, .. } = message;
            let record = self.settings.decode.record(content, id.as_deref());
            let number = self.read;
            lock(&self.held).messages.push_back(HeldMessage { number, id, tag });
            return record.map(Some).map_err(|error| error.at(format!("message {number}")));
        }
    }

    fn position(&self) -> QueuePosition {
        lock(&self.held).position(self.read)
    }

    fn rereads(&self) -> bool {
        // A broker that cannot be reached has consumed no message.
        self.is_without_message
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        Err(ItemError::fatal("cannot skip a message that the broker did not deliver"))
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<QueuePosition>>> {
        let (broker, held) = (Arc::clone(self.broker.as_ref()?), Arc::clone(&self.held));
        Some(Box::new(Acknowledger { broker, held }))
    }

    fn close(&mut self) -> Result<(), ItemError> {
        let Some(broker) = self.broker.take() else { return Ok(()) };
        let mut held = lock(&self.held);
        let committed = held.committed;
        // What was committed and not acknowledged is kept, so that it is recognized.
        let read = held.messages.drain(..).filter(|message| message.number > committed);
        let fetched = self.fetched.drain(..).map(|message| message.tag);
        let tags: Vec<B::Tag> = read.map(|message| message.tag).chain(fetched).collect();
        let given = if tags.is_empty() { Ok(()) } else { broker.give_back(tags) };
        let closed = broker.close();
        given.and(closed)
    }
}

/// Acknowledges messages that are committed.
struct Acknowledger<B: Broker> {
    broker: Arc<B>,
    held: Arc<Mutex<Held<B::Tag>>>,
}

impl<B: Broker> Acknowledge<QueuePosition> for Acknowledger<B> {
    fn acknowledge(&mut self, position: QueuePosition) -> Result<(), ItemError> {
        let tags: Vec<B::Tag> = {
            let mut held = lock(&self.held);
            held.committed = position.read;
            let count = held.messages.partition_point(|message| message.number <= position.read);
            held.messages.drain(..count).map(|message| message.tag).collect()
        };
        if tags.is_empty() { Ok(()) } else { self.broker.acknowledge(tags) }
    }

    fn position_after(&self, position: Option<QueuePosition>, records: u64) -> QueuePosition {
        let read = position.map_or(0, |position| position.read);
        lock(&self.held).position(read + records)
    }
}
