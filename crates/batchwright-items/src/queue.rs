//! Queues of brokers: messages that are read, acknowledged once they are committed, and sent.

#[cfg(feature = "amqp")]
mod amqp;
mod body;
#[cfg(feature = "acknowledge")]
mod held;
#[cfg(feature = "kafka")]
mod kafka;
mod keys;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "acknowledge")]
mod reader;
#[cfg(feature = "acknowledge")]
mod reader_keys;
#[cfg(feature = "acknowledge")]
mod recent;
#[cfg(feature = "redis")]
mod redis;
#[cfg(all(test, feature = "acknowledge"))]
mod tests;

#[cfg(feature = "acknowledge")]
use std::sync::Arc;

#[cfg(feature = "amqp")]
pub(crate) use amqp::AmqpKind;
#[cfg(feature = "acknowledge")]
use batchwright::ItemError;
#[cfg(feature = "kafka")]
pub(crate) use kafka::KafkaKind;
#[cfg(feature = "nats")]
pub(crate) use nats::NatsKind;
#[cfg(feature = "acknowledge")]
use recent::Key;

#[cfg(feature = "redis")]
pub(crate) use self::redis::RedisKind;

/// A message of a queue.
#[cfg(feature = "acknowledge")]
pub(crate) struct Message<T> {
    /// What a message that is delivered again is recognized by; a message without it is not.
    key: Option<Key>,
    /// The id that the step can see.
    id: Option<Arc<str>>,
    /// Whether it was delivered before.
    redelivered: bool,
    /// What the message is acknowledged by.
    tag: T,
    content: Content,
}

/// The content of a message.
pub(crate) enum Content {
    Body(Vec<u8>),
    #[cfg(feature = "redis")]
    Fields(Vec<(Vec<u8>, Vec<u8>)>),
}

/// A connection to a queue. Its calls fail when the broker does not answer in time; after a failure it is not used any more,
/// because what the broker did is not known.
#[cfg(feature = "acknowledge")]
pub(crate) trait Broker: Send + Sync + 'static {
    /// What a message is acknowledged by.
    type Tag: Clone + Send + 'static;

    /// Whether no two messages of the queue have the same key, so that a message with a known key is delivered again.
    const KEYS_ARE_UNIQUE: bool;

    /// Returns what distinguishes the queue from another one of its name, whose messages have the same keys.
    fn identity(&self) -> Option<Arc<str>> {
        None
    }

    /// Acknowledges messages that an earlier execution committed: `read` messages in all, of which those with the keys
    /// `committed` may be unacknowledged. Returns whether none of them can be delivered again.
    ///
    /// # Errors
    ///
    /// When the broker cannot be reached, or refuses.
    fn settle(&self, read: u64, committed: &[Key]) -> Result<bool, ItemError> {
        let _ = (read, committed);
        Ok(false)
    }

    /// Returns the number of messages that can be delivered before the first of them is acknowledged; `None` without a limit.
    fn room(&self) -> Option<usize> {
        None
    }

    /// Returns the next messages, at most `max`; none when there are none now.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    fn fetch(&self, max: usize) -> Result<Vec<Message<Self::Tag>>, ItemError>;

    /// Keeps the messages that the reader has `held` for it; called while it reads and waits.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    fn extend(&self, held: &dyn Fn() -> Vec<Self::Tag>) -> Result<(), ItemError> {
        let _ = held;
        Ok(())
    }

    /// Whether messages can still come that others hold, such as an execution that died; called while the queue has none. The
    /// reader has `held` messages.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    fn can_come(&self, held: usize) -> Result<bool, ItemError> {
        let _ = held;
        Ok(false)
    }

    /// Removes messages from the queue, which has done so when this returns. Their tags come in the order in which they were
    /// fetched.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    fn acknowledge(&self, tags: Vec<Self::Tag>) -> Result<(), ItemError>;

    /// Gives messages back to the queue: those that the step has `read`, which may be committed without its knowledge, and the
    /// `unread` ones after them, each in the order in which they were fetched.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    fn give_back(&self, read: Vec<Self::Tag>, unread: Vec<Self::Tag>) -> Result<(), ItemError>;

    /// Ends the connection.
    ///
    /// # Errors
    ///
    /// As [`settle`](Self::settle).
    fn close(&self) -> Result<(), ItemError>;
}
