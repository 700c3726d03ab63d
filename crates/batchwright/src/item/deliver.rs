//! Writers of one method, for sinks that may see a chunk more than once.

use super::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use crate::error::ItemError;
use crate::scope::StepScope;

/// A sink that receives each chunk at least once: a message queue, a mail server, a service.
///
/// A chunk is delivered before its checkpoint is committed. When the process dies between the two, the restart
/// delivers the chunk again with the same key, so that a sink that remembers keys has it once.
pub trait Deliver<T>: Send {
    /// Delivers `items`. `key` is the same for each delivery of this chunk and different for every other
    /// chunk of every instance.
    ///
    /// # Errors
    ///
    /// The chunk is rolled back; the policies of the step decide what follows.
    fn deliver(&mut self, items: &[T], key: &str) -> Result<(), ItemError>;
}

impl<T, F: FnMut(&[T], &str) -> Result<(), ItemError> + Send> Deliver<T> for F {
    fn deliver(&mut self, items: &[T], key: &str) -> Result<(), ItemError> {
        self(items, key)
    }
}

/// A writer that delivers each chunk to `D`.
#[derive(Debug, Clone)]
pub struct DeliveryWriter<D>(D);

impl<D> DeliveryWriter<D> {
    /// Creates a writer to `sink`.
    pub fn new(sink: D) -> Self {
        Self(sink)
    }

    /// Creates a writer that calls `deliver` with each chunk and its key; see [`Deliver::deliver`]. The types of its
    /// arguments are inferred.
    ///
    /// ```
    /// use batchwright::item::DeliveryWriter;
    /// use batchwright::{ChunkStepBuilder, Sequence};
    ///
    /// let step = ChunkStepBuilder::new("send")
    ///     .reader(Sequence::to(3))
    ///     .writer(DeliveryWriter::call(|numbers: &[u64], key| {
    ///         println!("{key}: {numbers:?}");
    ///         Ok(())
    ///     }))
    ///     .build();
    /// ```
    pub fn call<T>(deliver: D) -> Self
    where
        D: FnMut(&[T], &str) -> Result<(), ItemError>,
    {
        Self(deliver)
    }
}

impl<T, D: Deliver<T>> ItemWriter<T> for DeliveryWriter<D> {
    type Position = ();

    fn open(&mut self, _: Option<()>, _: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        Ok(None)
    }

    fn write(
        &mut self,
        items: &[T],
        transaction: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        self.0.deliver(items, &transaction.idempotency_key())
    }

    fn position(&mut self) -> Result<(), ItemError> {
        Ok(())
    }

    fn close(&mut self, _: Ending) -> Result<(), ItemError> {
        Ok(())
    }
}
