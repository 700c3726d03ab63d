//! A writer to a sink of the crate `futures`.

use std::future::{Future, poll_fn};
use std::pin::Pin;

use futures_sink::Sink;

use crate::error::ItemError;
use crate::item::{AsyncItemWriter, ChunkTransaction, Ending};

/// A writer to a [`Sink`]: a codec over a socket, a channel, a producer of messages.
///
/// The sink is flushed at the end of each chunk, before the store commits. It receives each chunk at least once: after
/// an error it is dropped, and a new one gets the whole chunk again.
///
/// ```
/// use batchwright::item::SinkWriter;
/// use batchwright::{ChunkStepBuilder, ItemError, Sequence};
/// use futures_util::sink;
///
/// let step = ChunkStepBuilder::new("send")
///     .reader(Sequence::to(100))
///     .async_writer(SinkWriter::new(async || Ok(sink::drain())))
///     .build();
/// ```
pub struct SinkWriter<F, S> {
    make: F,
    sink: Option<Pin<Box<S>>>,
}

impl<F, S> SinkWriter<F, S>
where
    F: AsyncFn() -> Result<S, ItemError>,
{
    /// Creates a writer to the sink that `make` returns.
    pub fn new(make: F) -> Self {
        Self { make, sink: None }
    }
}

impl<F, S> std::fmt::Debug for SinkWriter<F, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SinkWriter").field("is_open", &self.sink.is_some()).finish_non_exhaustive()
    }
}

/// A clone has not been opened.
impl<F: Clone, S> Clone for SinkWriter<F, S> {
    fn clone(&self) -> Self {
        Self { make: self.make.clone(), sink: None }
    }
}

impl<O, F, S> AsyncItemWriter<O> for SinkWriter<F, S>
where
    O: Clone,
    F: AsyncFn() -> Result<S, ItemError> + Send,
    S: Sink<O, Error: Into<ItemError>> + Send,
{
    async fn write(&mut self, items: &[O], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        // After an error, or a stop that drops this call, the sink is not used any more.
        let mut sink = match self.sink.take() {
            Some(sink) => sink,
            None => Box::pin((self.make)().await?),
        };
        for item in items {
            poll_fn(|context| sink.as_mut().poll_ready(context)).await.map_err(Into::into)?;
            sink.as_mut().start_send(item.clone()).map_err(Into::into)?;
        }
        poll_fn(|context| sink.as_mut().poll_flush(context)).await.map_err(Into::into)?;
        self.sink = Some(sink);
        Ok(())
    }

    fn close(&mut self, _: Ending) -> impl Future<Output = Result<(), ItemError>> {
        let sink = self.sink.take();
        async move {
            let Some(mut sink) = sink else { return Ok(()) };
            poll_fn(|context| sink.as_mut().poll_close(context)).await.map_err(Into::into)
        }
    }
}
