//! A writer that sends each record as a message of its own.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use batchwright::policy::Completion;
use batchwright::scope::StepScope;
use serde::{Deserialize, Serialize};

use super::{identity, key};
use crate::record::Record;

/// A message that is sent. It has the same key when it is sent again.
pub(crate) struct Outgoing<'a> {
    #[cfg_attr(
        not(any(feature = "amqp", feature = "http", feature = "kafka", feature = "nats")),
        expect(dead_code, reason = "messages of Redis have no keys")
    )]
    pub(crate) key: String,
    pub(crate) body: Vec<u8>,
    #[cfg_attr(
        not(any(feature = "amqp", feature = "http", feature = "kafka", feature = "redis")),
        expect(dead_code, reason = "messages of NATS are only their bodies")
    )]
    pub(crate) record: &'a Record,
}

/// What sends messages.
pub(crate) trait Sender: Send {
    /// Sends `messages`, and waits until the broker has all of them.
    ///
    /// # Errors
    ///
    /// When the broker cannot be reached, or refuses a message. It may have any of the messages.
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError>;

    /// Ends the connection. Default: nothing.
    fn close(&mut self) {}

    /// Returns the number of items in a chunk if the step sets none. Default 1000.
    fn chunk_items() -> usize
    where
        Self: Sized,
    {
        Completion::ITEMS_DEFAULT
    }
}

/// Makes a connection for a step.
pub(crate) type Connect<S> = Arc<dyn Fn(&StepScope) -> Result<S, ItemError> + Send + Sync>;

/// A writer that sends each record as a message of JSON.
pub(crate) struct SendingWriter<S> {
    connect: Connect<S>,
    sender: Option<S>,
    scope: Option<StepScope>,
    identity: String,
    numbers: Numbers,
}

impl<S: Sender> SendingWriter<S> {
    pub(crate) fn new(connect: Connect<S>) -> Self {
        Self {
            connect,
            sender: None,
            scope: None,
            identity: String::new(),
            numbers: Numbers::default(),
        }
    }

    /// Sends `messages`, over a new connection if the last one failed: an answer to what was sent before could be taken for
    /// another.
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError> {
        let Some(scope) = &self.scope else {
            return Err(ItemError::fatal("cannot send before the writer is opened"));
        };
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => (self.connect)(scope)?,
        };
        let sent = sender.send(messages);
        if sent.as_ref().err().is_none_or(|error| error.kind().is_a(ErrorKind::DATA.name())) {
            self.sender = Some(sender);
        }
        sent
    }
}

impl<S: Sender> ItemWriter<Record> for SendingWriter<S> {
    type Position = Sent;

    fn open(
        &mut self,
        position: Option<Sent>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.sender = Some((self.connect)(scope)?);
        self.scope = Some(scope.clone());
        self.identity = identity(scope);
        self.numbers = Numbers::after(position);
        Ok(None)
    }

    fn write(&mut self, items: &[Record], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        if items.is_empty() {
            return Ok(());
        }
        let messages = items.iter().zip(self.numbers.next()..).map(|(record, number)| {
            let body = serde_json::to_vec(record)
                .map_err(|error| ItemError::wrap(ErrorKind::DATA, "cannot write as JSON", error))?;
            let key = numbered_key(&self.identity, number, &body);
            Ok(Outgoing { key, body, record })
        });
        let messages = messages.collect::<Result<_, ItemError>>()?;
        self.send(messages)?;
        self.numbers.add(items.len());
        Ok(())
    }

    fn position(&mut self) -> Result<Sent, ItemError> {
        Ok(self.numbers.position())
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.numbers.commit();
        Ok(())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.numbers.roll_back();
        Ok(())
    }

    fn close(&mut self, _: Ending) -> Result<(), ItemError> {
        if let Some(mut sender) = self.sender.take() {
            sender.close();
        }
        Ok(())
    }

    fn chunk_items(&self) -> usize {
        S::chunk_items()
    }
}

/// Returns the key of the thing `number` with the content `body` that the output `identity` sends.
fn numbered_key(identity: &str, number: u64, body: &[u8]) -> String {
    key(&[format!("{identity}\n{number}\n").as_bytes(), body])
}

/// Number of items that were sent: the position of a writer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Sent {
    items: u64,
}

/// Counts the items that a writer sends.
#[derive(Debug, Default)]
struct Numbers {
    committed: u64,
    sent: u64,
}

impl Numbers {
    /// Counts from `position` on.
    fn after(position: Option<Sent>) -> Self {
        let items = position.unwrap_or_default().items;
        Self { committed: items, sent: items }
    }

    /// Returns the number of the next item; the first is 0.
    fn next(&self) -> u64 {
        self.sent
    }

    fn add(&mut self, items: usize) {
        self.sent += items as u64;
    }

    fn position(&self) -> Sent {
        Sent { items: self.sent }
    }

    fn commit(&mut self) {
        self.committed = self.sent;
    }

    fn roll_back(&mut self) {
        self.sent = self.committed;
    }
}
