//! Writers of bytes: a format's encoder and the sink below it.

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{
    ChunkTransaction, Encoder, Ending, FileOutput, ItemWriter, PreparedCommit,
};
use batchwright::policy::Completion;
use batchwright::scope::StepScope;

use super::compression::Compression;
use super::ends::{After, Counted, EncodedPosition, Ends};
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
    ends: Ends,
    counted: Counted,
    /// As of the last commit.
    committed: Counted,
    /// The scope while the sink is open.
    scope: Option<StepScope>,
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
            ends: Ends::default(),
            counted: Counted::default(),
            committed: Counted::default(),
            scope: None,
        }
    }

    pub(crate) fn ends(mut self, ends: Ends) -> Self {
        self.ends = ends;
        self
    }

    /// Writes what `header` returns before the first item, also before a header line of the format, with its line end. Only for
    /// formats of text in UTF-8, without a byte order mark. An error of it fails the step.
    #[must_use]
    pub fn header_with(
        mut self,
        header: impl Fn(&StepScope) -> Result<String, ItemError> + Send + Sync + 'static,
    ) -> Self {
        self.ends.header = Some(Arc::new(move |scope| header(scope).map(String::into_bytes)));
        self
    }

    /// Writes what `footer` returns after the last item, with its line end; it gets the number of items of the file, those of
    /// earlier executions included. Only for formats of text in UTF-8.
    #[must_use]
    pub fn footer_with(
        mut self,
        footer: impl Fn(&StepScope, u64) -> Result<String, ItemError> + Send + Sync + 'static,
    ) -> Self {
        self.ends.footer =
            Some(Arc::new(move |scope, items| footer(scope, items).map(String::into_bytes)));
        self
    }

    /// Sets the compression of the bytes: each chunk is a member of its own. Default: that of a file's extension, and none
    /// for other sinks.
    #[must_use]
    pub fn compressed(mut self, compression: Option<Compression>) -> Self {
        self.compression = compression;
        self
    }
}

impl<E, S: ByteSink> EncodedWriter<E, S> {
    /// Encodes `items`, the first ones of the output, into `self.content`, after its header.
    fn begin<T>(&mut self, items: &[T]) -> Result<(), ItemError>
    where
        E: Encode<T>,
    {
        let header = self.header()?;
        let Self { encode, content, counted, .. } = self;
        counted.header = header.len() as u64;
        content.clear();
        content.extend_from_slice(&header);
        encode.encode(items, true, content)
    }

    fn header(&self) -> Result<Vec<u8>, ItemError> {
        match (&self.ends.header, &self.scope) {
            // Otherwise it would be the fault of the records.
            (Some(header), Some(scope)) => header(scope).map_err(|error| {
                ItemError::wrap(
                    ErrorKind::FATAL,
                    "cannot write what is before the first record",
                    error.into_boxed(),
                )
            }),
            _ => Ok(Vec::new()),
        }
    }
}

impl<T, E: Encode<T> + Clone + 'static, S: ByteSink> ItemWriter<T> for EncodedWriter<E, S> {
    type Position = EncodedPosition<S::Position>;

    fn open(
        &mut self,
        position: Option<EncodedPosition<S::Position>>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        if let Some(compression) = self.compression {
            compression.check()?;
        }
        let (sink, counted) = position.map(EncodedPosition::into_parts).unzip();
        self.sink.open(sink, scope)?;
        self.scope = Some(scope.clone());
        self.counted = counted.unwrap_or_default();
        self.committed = self.counted;
        if self.ends.footer.is_some() && self.counted.items.is_none() {
            return Err(ItemError::fatal(
                "cannot write a text after the last record: an earlier version, which did not count records, began the output",
            ));
        }
        if self.sink.length() > 0
            && let Some(begun) = self.sink.begun()
        {
            let begun = decompressed(begun, self.compression);
            self.encode.resume(match self.counted.header {
                0 => begun,
                bytes => Arc::new(After { source: begun, bytes }),
            })?;
        }
        Ok(None)
    }

    fn write(&mut self, items: &[T], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        if items.is_empty() {
            return Ok(());
        }
        if self.sink.length() == 0 {
            self.begin(items)?;
            let Self { bytes, compression, content, .. } = self;
            bytes.clear();
            match compression {
                Some(compression) if !content.is_empty() => compression.compress(content, bytes)?,
                _ => bytes.append(content),
            }
        } else {
            let Self { encode, bytes, compression, content, .. } = self;
            bytes.clear();
            encode_compressed(encode, *compression, items, content, bytes)?;
        }
        self.sink.append(&self.bytes)?;
        self.counted.add(items.len());
        Ok(())
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
            encode_compressed(&mut encode, compression, items, &mut content, bytes)
        }))
    }

    fn write_encoded(
        &mut self,
        items: &[T],
        bytes: &[u8],
        _: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        self.sink.append(bytes)?;
        self.counted.add(items.len());
        Ok(())
    }

    fn position(&mut self) -> Result<EncodedPosition<S::Position>, ItemError> {
        Ok(EncodedPosition::new(self.sink.position()?, self.counted))
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.sink.committed();
        self.committed = self.counted;
        Ok(())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.counted = self.committed;
        self.sink.rolled_back()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        if let Some(scope) = self.scope.clone()
            && matches!(ending, Ending::Complete | Ending::Full)
        {
            let first = self.sink.length() == 0;
            self.content.clear();
            if first {
                // The beginning of an output without items, such as a header line.
                self.begin(&[])?;
            }
            let Self { sink, encode, bytes, compression, content, ends, counted, .. } = self;
            let written = sink.begun().map(|begun| decompressed(begun, *compression));
            encode.finish(first, written, content)?;
            if let Some(footer) = &ends.footer {
                content.extend_from_slice(&footer(&scope, counted.items.unwrap_or_default())?);
            }
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
        self.scope = None;
        self.sink.close(ending)
    }

    fn is_named(
        &self,
        position: &EncodedPosition<S::Position>,
        scope: &StepScope,
    ) -> Result<bool, ItemError> {
        self.sink.is_named(position.output(), scope)
    }

    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        self.sink.forget(scope)
    }
}

/// Appends `items`, which are not the first ones, to `bytes`, as one member if there is a compression.
fn encode_compressed<T, E: Encode<T>>(
    encode: &mut E,
    compression: Option<Compression>,
    items: &[T],
    content: &mut Vec<u8>,
    bytes: &mut Vec<u8>,
) -> Result<(), ItemError> {
    let Some(compression) = compression else { return encode.encode(items, false, bytes) };
    content.clear();
    encode.encode(items, false, content)?;
    match content.is_empty() {
        true => Ok(()),
        false => compression.compress(content, bytes),
    }
}
