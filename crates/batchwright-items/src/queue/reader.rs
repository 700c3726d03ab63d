//! The reader of a queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, StopToken, SystemClock};
use batchwright::error::ErrorKind;
use batchwright::item::{Acknowledge, ItemReader};
use batchwright::scope::StepScope;

use super::body::Decode;
use super::held::{Held, QueuePosition};
use super::{Broker, Content, Message};
use crate::kind::MakeReader;
use crate::reader::Reads;
use crate::record::Record;

/// Number of messages that are fetched together: at the first time, and when they are small.
const FETCHED_MIN: usize = 16;
const FETCHED_MAX: usize = 500;
/// The sizes of fetched messages, in bytes, below and above which the next fetch is of more and of fewer.
const BYTES_FEW: usize = 1024 * 1024;
const BYTES_MANY: usize = 8 * 1024 * 1024;
/// The time between two looks at an empty queue, or for room.
const LOOK: Duration = Duration::from_millis(50);
/// How long the reader waits for a commit when the broker delivers no more before it.
const ROOM_WAIT: Duration = Duration::from_secs(600);

/// When a reader ends, and what it makes of messages.
#[derive(Debug, Clone)]
pub(super) struct ReaderSettings {
    /// How long it waits for a message of an empty queue.
    pub(super) wait: Duration,
    /// Maximum number of messages.
    pub(super) limit: Option<u64>,
    pub(super) decode: Decode,
}

/// Makes a connection for a step.
pub(super) type Connect<B> = Arc<dyn Fn(&StepScope) -> Result<B, ItemError> + Send + Sync>;

/// A reader of the messages of a queue. What is read is held until the commit acknowledges it.
pub(super) struct QueueReader<B: Broker> {
    connect: Connect<B>,
    settings: ReaderSettings,
    broker: Option<Arc<B>>,
    held: Arc<Mutex<Held<B::Tag>>>,
    fetched: VecDeque<Message<B::Tag>>,
    /// Number of messages that the next fetch asks for.
    fetch_max: usize,
    read: u64,
    /// Number of messages up to the end of the last chunk.
    chunks_end: AtomicU64,
    /// The failure of the connection, which every further read has.
    failure: Option<(ErrorKind, String)>,
    clock: SystemClock,
    stop: StopToken,
}

fn lock<T>(held: &Mutex<Held<T>>) -> MutexGuard<'_, Held<T>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Broker> QueueReader<B> {
    /// Returns what makes the reader of a queue for each step execution.
    pub(super) fn made(connect: Connect<B>, settings: ReaderSettings) -> MakeReader {
        let make = move |_: &StepScope| {
            Ok(Reads::records(Self::new(Arc::clone(&connect), settings.clone())))
        };
        MakeReader::new(make).queue()
    }

    pub(super) fn new(connect: Connect<B>, settings: ReaderSettings) -> Self {
        Self {
            connect,
            settings,
            broker: None,
            held: Arc::new(Mutex::new(Held::after(&QueuePosition::default()))),
            fetched: VecDeque::new(),
            fetch_max: FETCHED_MIN,
            read: 0,
            chunks_end: AtomicU64::new(0),
            failure: None,
            clock: SystemClock::default(),
            stop: StopToken::default(),
        }
    }

    fn broker(&self) -> Result<Arc<B>, ItemError> {
        let unopened = || ItemError::fatal("cannot read a queue before the reader is opened");
        self.broker.clone().ok_or_else(unopened)
    }

    fn held(&self) -> MutexGuard<'_, Held<B::Tag>> {
        lock(&self.held)
    }

    fn check_stop(&self) -> Result<(), ItemError> {
        match self.stop.is_requested() {
            false => Ok(()),
            true => Err(ItemError::stopped("a stop was requested while a queue was read")),
        }
    }

    /// Returns the next message; `None` when the queue stays empty for the time to wait after `begun`.
    fn next(&mut self, begun: Duration) -> Result<Option<Message<B::Tag>>, ItemError> {
        let left = self.settings.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.read));
        if left == 0 {
            self.acknowledge_rest()?;
            return Ok(None);
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        while self.fetched.is_empty() {
            self.check_stop()?;
            self.fetch(left)?;
            if self.fetched.is_empty() {
                let is_over = self.clock.elapsed() - begun >= self.settings.wait;
                let held = self.held().count();
                if is_over && !self.broker()?.can_come(held)? {
                    return Ok(None);
                }
                // One that comes is enough to go on.
                self.fetch_max = 1;
                self.stop.wait(LOOK);
            }
        }
        Ok(self.fetched.pop_front())
    }

    /// Fetches messages, at most `max`.
    fn fetch(&mut self, max: usize) -> Result<(), ItemError> {
        let broker = self.broker()?;
        broker.extend(&|| self.held().tags())?;
        let max = max.min(self.fetch_max).min(self.room(&*broker)?);
        self.fetched = broker.fetch(max)?.into();
        let bytes: usize = self.fetched.iter().map(|message| message.content.bytes()).sum();
        self.fetch_max = match bytes {
            BYTES_MANY.. => (self.fetch_max / 2).max(1),
            bytes if bytes < BYTES_FEW && self.fetched.len() == max => {
                (self.fetch_max * 2).clamp(FETCHED_MIN, FETCHED_MAX)
            }
            _ => self.fetch_max,
        };
        Ok(())
    }

    /// Waits until the broker can deliver a message, and returns how many.
    fn room(&self, broker: &B) -> Result<usize, ItemError> {
        let Some(room) = broker.room() else { return Ok(usize::MAX) };
        let begun = self.clock.elapsed();
        loop {
            let free = room.saturating_sub(self.held().count());
            if free > 0 {
                return Ok(free);
            }
            // Otherwise chunks before this one are still to be committed.
            let is_one_chunk = self.held().is_all_after(self.chunks_end.load(Ordering::Relaxed));
            if is_one_chunk || self.clock.elapsed() - begun >= ROOM_WAIT {
                return Err(ItemError::new(
                    ErrorKind::IO,
                    format!(
                        "cannot read a queue whose broker delivers no more than {room} messages before an acknowledgement: \
                         a chunk has more"
                    ),
                ));
            }
            broker.extend(&|| self.held().tags())?;
            self.check_stop()?;
            self.stop.wait(LOOK);
        }
    }

    /// Acknowledges messages that an earlier execution committed, as far as the queue delivers them again, and gives others back.
    fn acknowledge_rest(&mut self) -> Result<(), ItemError> {
        let mut others = Vec::new();
        while self.held().expects_committed() {
            self.check_stop()?;
            self.fetch(FETCHED_MAX)?;
            let before = others.len();
            let fetched = std::mem::take(&mut self.fetched);
            let count = fetched.len();
            for message in fetched {
                others.extend(self.unknown(message)?.map(|message| message.tag));
            }
            if count > others.len() - before {
                continue;
            }
            // None of them was known.
            if others.len() > FETCHED_MAX || !self.broker()?.can_come(others.len())? {
                break;
            }
            self.fetch_max = 1;
            self.stop.wait(LOOK);
        }
        match others.is_empty() {
            true => Ok(()),
            false => self.broker()?.give_back(Vec::new(), others),
        }
    }

    /// Returns `message` unless it was committed before, or is read again within this opening.
    fn unknown(&mut self, message: Message<B::Tag>) -> Result<Option<Message<B::Tag>>, ItemError> {
        // A broker can count deliveries wrong, when one of them reached no reader.
        let can_be_known = B::KEYS_ARE_UNIQUE || message.redelivered;
        let Some(key) = message.key.clone().filter(|_| can_be_known) else {
            return Ok(Some(message));
        };
        let broker = self.broker()?;
        if self.held().was_committed_before(&key) {
            broker.acknowledge(vec![message.tag])?;
            self.held().acknowledged_before(&key);
            return Ok(None);
        }
        if !B::KEYS_ARE_UNIQUE {
            return Ok(Some(message));
        }
        let mut held = self.held();
        if held.was_acknowledged(&key) {
            drop(held);
            broker.acknowledge(vec![message.tag])?;
            return Ok(None);
        }
        let Message { id, redelivered, tag, content, .. } = message;
        let tag = held.replace(&key, tag);
        Ok(tag.map(|tag| Message { key: Some(key), id, redelivered, tag, content }))
    }

    /// Returns the next message that is new to the step.
    fn next_unknown(&mut self) -> Result<Option<Message<B::Tag>>, ItemError> {
        let begun = self.clock.elapsed();
        loop {
            let Some(message) = self.next(begun)? else { return Ok(None) };
            if let Some(message) = self.unknown(message)? {
                return Ok(Some(message));
            }
        }
    }

    fn last_failure(&self) -> Option<ItemError> {
        let (kind, message) = self.failure.as_ref()?;
        Some(ItemError::new(kind.clone(), message.clone()))
    }
}

impl Content {
    /// Number of bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Body(body) => body.len(),
            #[cfg(feature = "redis")]
            Self::Fields(fields) => {
                fields.iter().map(|(name, value)| name.len() + value.len()).sum()
            }
        }
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
        let mut position = position.unwrap_or_default();
        self.stop = scope.stop().clone();
        self.read = position.read;
        self.chunks_end = AtomicU64::new(position.read);
        let broker = Arc::new((self.connect)(scope)?);
        self.broker = Some(Arc::clone(&broker));
        let identity = broker.identity();
        if position.identity.is_some() && position.identity != identity {
            tracing::warn!("the queue was created anew: no message of it is known");
            position = QueuePosition { read: position.read, ..QueuePosition::default() };
        }
        position.identity = identity;
        *self.held() = Held::after(&position);
        if broker.settle(position.read, &position.unacknowledged)? {
            self.held().expect_nothing();
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        if let Some(failure) = self.last_failure() {
            return Err(failure);
        }
        let next = self.next_unknown();
        if let Err(error) = &next
            && !error.is_stop()
        {
            self.failure = Some((error.kind().clone(), error.to_string()));
        }
        let Some(Message { key, id, tag, content, .. }) = next? else { return Ok(None) };
        self.read += 1;
        let number = self.read;
        let record = self.settings.decode.record(content, id.as_deref());
        self.held().add(number, key, tag);
        record.map(Some).map_err(|error| error.at(format!("message {number}")))
    }

    fn position(&self) -> QueuePosition {
        self.chunks_end.store(self.read, Ordering::Relaxed);
        self.held().position(self.read)
    }

    fn rereads(&self) -> bool {
        // A broker that fails has consumed no message.
        self.failure.is_some()
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        self.last_failure().map_or(Ok(()), Err)
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
        let read = held.take_uncommitted();
        // What was committed and not acknowledged is kept, so that it is recognized.
        let fetched = std::mem::take(&mut self.fetched).into_iter();
        let unread = fetched.filter(|message| {
            !message.key.as_ref().is_some_and(|key| held.was_committed_before(key))
        });
        let unread: Vec<B::Tag> = unread.map(|message| message.tag).collect();
        if self.failure.is_some() || held.is_broken {
            // The broker does by itself what is possible.
            return Ok(());
        }
        let given = match read.is_empty() && unread.is_empty() {
            true => Ok(()),
            false => broker.give_back(read, unread),
        };
        given.and(broker.close())
    }
}

/// Acknowledges messages that are committed.
struct Acknowledger<B: Broker> {
    broker: Arc<B>,
    held: Arc<Mutex<Held<B::Tag>>>,
}

impl<B: Broker> Acknowledge<QueuePosition> for Acknowledger<B> {
    fn acknowledge(&mut self, position: QueuePosition) -> Result<(), ItemError> {
        let tags = lock(&self.held).begin_acknowledging(position.read);
        let acknowledged = if tags.is_empty() { Ok(()) } else { self.broker.acknowledge(tags) };
        let mut held = lock(&self.held);
        match &acknowledged {
            Ok(()) => held.acknowledged(),
            Err(_) => held.is_broken = true,
        }
        acknowledged
    }

    fn position_after(&self, position: Option<QueuePosition>, records: u64) -> QueuePosition {
        let read = position.map_or(0, |position| position.read);
        lock(&self.held).position(read + records)
    }
}
