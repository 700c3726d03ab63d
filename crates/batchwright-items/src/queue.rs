//! Queues of brokers: messages that are read, acknowledged once they are committed, and sent.

#[cfg(feature = "amqp")]
mod amqp;
mod body;
mod keys;
#[cfg(feature = "nats")]
mod nats;
mod reader;
#[cfg(feature = "redis")]
mod redis;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

#[cfg(feature = "amqp")]
pub(crate) use amqp::AmqpKind;
use batchwright::ItemError;
#[cfg(feature = "nats")]
pub(crate) use nats::NatsKind;

#[cfg(feature = "redis")]
pub(crate) use self::redis::RedisKind;

/// A message of a queue.
pub(crate) struct Message<T> {
    /// What the broker, or the sender, identifies the message by. Only such a message is recognized when it comes again.
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
    Fields(Vec<(String, Vec<u8>)>),
}

/// A connection to a queue. Its calls fail when the broker does not answer in time.
pub(crate) trait Broker: Send + Sync + 'static {
    /// What a message is acknowledged by.
    type Tag: Send + 'static;

    /// Whether no two messages of the queue have the same id.
    const IDS_ARE_UNIQUE: bool;

    /// Returns the next messages, at most `max`; none when there are none now.
    ///
    /// # Errors
    ///
    /// When the broker cannot be reached, or refuses.
    fn fetch(&self, max: usize) -> Result<Vec<Message<Self::Tag>>, ItemError>;

    /// Whether messages were delivered to others than the reader, which has `held`, and may be delivered again.
    ///
    /// # Errors
    ///
    /// As [`fetch`](Self::fetch).
    fn is_held_elsewhere(&self, held: usize) -> Result<bool, ItemError> {
        let _ = held;
        Ok(false)
    }

    /// Removes messages from the queue. Their tags come in the order in which they were fetched.
    ///
    /// # Errors
    ///
    /// As [`fetch`](Self::fetch).
    fn acknowledge(&self, tags: Vec<Self::Tag>) -> Result<(), ItemError>;

    /// Gives messages back to the queue, in the order in which they were fetched.
    ///
    /// # Errors
    ///
    /// As [`fetch`](Self::fetch).
    fn give_back(&self, tags: Vec<Self::Tag>) -> Result<(), ItemError>;

    /// Ends the connection, after all acknowledgements arrived.
    ///
    /// # Errors
    ///
    /// As [`fetch`](Self::fetch).
    fn close(&self) -> Result<(), ItemError>;
}
