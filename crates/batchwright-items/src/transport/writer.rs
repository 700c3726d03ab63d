//! Writers of bytes: a format's encoder and the sink below it.

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{
    ChunkTransaction, Encoder, Ending, FileOutput, ItemWriter, PreparedCommit,
};
use batchwright::scope::StepScope;

use super::sink::ByteSink;
use super::source::ByteSource;

/// An encoder of items into bytes: one for each format.
pub trait Encode<T>: Send {
    /// Appends `items` to `bytes`; `first` means that the output is still empty. For an output that ends
    /// without items, `encode` is called once with no items and with `first`.
    ///
    /// # Errors
    ///
    /// The write attempt fails; none of its bytes reach the output.
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError>;

    /// Whether the bytes of items do not depend on the items before them, once the output has begun: then clones of the encoder
    /// encode several chunks at once. Default: `false`.
    fn is_independent(&self) -> bool {
        false
    }

    /// Reads from `begun`, which an earlier execution wrote, what the rest of the output must conform to.
    ///
    /// # Errors
    ///
    /// The step fails; nothing was written.
    fn resume(&mut self, begun: Arc<dyn ByteSource>) -> Result<(), ItemError> {
        let _ = begun;
        Ok(())
    }
}

/// A writer that encodes items with `E` into the sink `S`.
#[derive(Debug, Clone)]
pub struct EncodedWriter<E, S> {
    sink: S,
    pub(crate) encode: E,
    bytes: Vec<u8>,
}

/// A writer that encodes items with `E` into a file.
pub type FileWriter<E> = EncodedWriter<E, FileOutput>;

impl<E> FileWriter<E> {
    /// Creates a writer of the file at `path`, in a format of your own.
    pub fn encoding(path: impl Into<PathBuf>, encode: E) -> Self {
        Self::to(FileOutput::new(path), encode)
    }
}

impl<E, S> EncodedWriter<E, S> {
    /// Creates a writer to `sink`.
    pub fn to(sink: S, encode: E) -> Self {
        Self { sink, encode, bytes: Vec::new() }
    }
}

impl<T, E: Encode<T> + Clone + 'static, S: ByteSink> ItemWriter<T> for EncodedWriter<E, S> {
    type Position = S::Position;

    fn open(
        &mut self,
        position: Option<S::Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.sink.open(position, scope)?;
        if self.sink.length() > 0
            && let Some(begun) = self.sink.begun()
        {
            self.encode.resume(begun)?;
        }
        Ok(None)
    }

    fn write(&mut self, items: &[T], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.bytes.clear();
        self.encode.encode(items, self.sink.length() == 0, &mut self.bytes)?;
        self.sink.append(&self.bytes)
    }

    fn encodes(&self) -> bool {
        true
    }

    fn encoder(&self) -> Option<Encoder<T>> {
        if self.sink.length() == 0 || !self.encode.is_independent() {
            return None;
        }
        let mut encode = self.encode.clone();
        Some(Box::new(move |items, bytes| encode.encode(items, false, bytes)))
    }

    fn write_encoded(
        &mut self,
        _: &[T],
        bytes: &[u8],
        _: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        self.sink.append(bytes)
    }

    fn position(&mut self) -> Result<S::Position, ItemError> {
        self.sink.position()
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.sink.committed();
        Ok(())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.sink.rolled_back()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        if ending == Ending::Complete && self.sink.begun().is_some() && self.sink.length() == 0 {
            // The beginning of an output without items, such as a header line.
            self.bytes.clear();
            self.encode.encode(&[], true, &mut self.bytes)?;
            self.sink.append(&self.bytes)?;
        }
        self.sink.close(ending)
    }
}
