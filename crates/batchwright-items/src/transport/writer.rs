//! Writers of bytes: a format's encoder and the sink below it.

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{
    ChunkTransaction, Encoder, Ending, FileOutput, ItemWriter, PreparedCommit,
};
use batchwright::policy::Completion;
use batchwright::scope::StepScope;

use super::compression::Compression;
use super::sink::ByteSink;
use super::source::{ByteSource, decompressed};

/// An encoder of items into bytes: one for each format.
pub trait Encode<T>: Send {
    /// Appends `items` to `bytes`; `first` means that the output is still empty. For an output that ends
    /// without items, `encode` is called once with no items and with `first`.
    ///
    /// # Errors
    ///
    /// The write attempt fails; none of its bytes reach the output.
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError>;

    /// Appends the end of a complete output to `bytes`, such as a closing bracket; `first` means that the output is still empty.
    /// `written` is the output so far, if it can be read. Default: nothing.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn finish(
        &mut self,
        first: bool,
        written: Option<Arc<dyn ByteSource>>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ItemError> {
        let _ = (first, written, bytes);
        Ok(())
    }

    /// Returns the number of items in a chunk if the step sets none. Default 1000.
    fn chunk_items(&self) -> usize {
        Completion::ITEMS_DEFAULT
    }

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
    compression: Option<Compression>,
    /// What is compressed.
    content: Vec<u8>,
    /// Whether the sink is open.
    is_open: bool,
}

/// A writer that encodes items with `E` into a file.
pub type FileWriter<E> = EncodedWriter<E, FileOutput>;

impl<E> FileWriter<E> {
    /// Creates a writer of the file at `path`, in a format of your own. The extension decides about
    /// [compression](Self::compressed).
    pub fn encoding(path: impl Into<PathBuf>, encode: E) -> Self {
        let path = path.into();
        let compression = Compression::of(&path);
        Self::to(FileOutput::new(path), encode).compressed(compression)
    }
}

impl<E, S> EncodedWriter<E, S> {
    /// Creates a writer to `sink`.
    pub fn to(sink: S, encode: E) -> Self {
        Self {
            sink,
            encode,
            bytes: Vec::new(),
            compression: None,
            content: Vec::new(),
            is_open: false,
        }
    }

    /// Sets the compression of the bytes: each chunk is a member of its own. Default: that of a file's extension, and none
    /// for other sinks.
    #[must_use]
    pub fn compressed(mut self, compression: Option<Compression>) -> Self {
        self.compression = compression;
        self
    }
}

impl<T, E: Encode<T> + Clone + 'static, S: ByteSink> ItemWriter<T> for EncodedWriter<E, S> {
    type Position = S::Position;

    fn open(
        &mut self,
        position: Option<S::Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        if let Some(compression) = self.compression {
            compression.check()?;
        }
        self.sink.open(position, scope)?;
        self.is_open = true;
        if self.sink.length() > 0
            && let Some(begun) = self.sink.begun()
        {
            self.encode.resume(decompressed(begun, self.compression))?;
        }
        Ok(None)
    }

    fn write(&mut self, items: &[T], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        if items.is_empty() {
            return Ok(());
        }
        let Self { sink, encode, bytes, compression, content, .. } = self;
        bytes.clear();
        encode_compressed(encode, *compression, (items, sink.length() == 0), content, bytes)?;
        sink.append(bytes)
    }

    fn chunk_items(&self) -> usize {
        self.encode.chunk_items()
    }

    fn encodes(&self) -> bool {
        true
    }

    fn encoder(&self) -> Option<Encoder<T>> {
        if self.sink.length() == 0 || !self.encode.is_independent() {
            return None;
        }
        let (mut encode, compression, mut content) =
            (self.encode.clone(), self.compression, Vec::new());
        Some(Box::new(move |items, bytes| {
            encode_compressed(&mut encode, compression, (items, false), &mut content, bytes)
        }))
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
        if std::mem::take(&mut self.is_open) && matches!(ending, Ending::Complete | Ending::Full) {
            let Self { sink, encode, bytes, compression, content, .. } = self;
            let first = sink.length() == 0;
            content.clear();
            if first {
                // The beginning of an output without items, such as a header line.
                encode.encode(&[], true, content)?;
            }
            let written = sink.begun().map(|begun| decompressed(begun, *compression));
            encode.finish(first, written, content)?;
            bytes.clear();
            match compression {
                // A compressed file of zero bytes is none for the programs that read it.
                Some(compression) if first || !content.is_empty() => {
                    compression.compress(content, bytes)?;
                }
                _ => bytes.append(content),
            }
            if !bytes.is_empty() {
                sink.append(bytes)?;
            }
        }
        self.sink.close(ending)
    }

    fn is_named(&self, position: &S::Position, scope: &StepScope) -> Result<bool, ItemError> {
        self.sink.is_named(position, scope)
    }

    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        self.sink.forget(scope)
    }
}

/// Appends `items` to `bytes`, as one member if there is a compression; `first` means that the output is still empty.
fn encode_compressed<T, E: Encode<T>>(
    encode: &mut E,
    compression: Option<Compression>,
    (items, first): (&[T], bool),
    content: &mut Vec<u8>,
    bytes: &mut Vec<u8>,
) -> Result<(), ItemError> {
    let Some(compression) = compression else { return encode.encode(items, first, bytes) };
    content.clear();
    encode.encode(items, first, content)?;
    match content.is_empty() {
        true => Ok(()),
        false => compression.compress(content, bytes),
    }
}
