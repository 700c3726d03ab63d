//! Files as outputs: a format's encoder and the exact file below it.

use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::item::{
    ChunkTransaction, Ending, FileOutput, FilePosition, ItemWriter, PreparedCommit,
};
use batchwright::scope::StepScope;

/// An encoder of items into the bytes of a file.
pub trait Encode<T>: Send {
    /// Appends `items` to `bytes`; `first` means that the file is still empty. For a file that ends without
    /// items, `encode` is called once with no items and with `first`.
    ///
    /// # Errors
    ///
    /// The write attempt fails; none of its bytes reach the file.
    fn encode(&mut self, items: &[T], first: bool, bytes: &mut Vec<u8>) -> Result<(), ItemError>;

    /// Reads from `file`, which an earlier execution began, what the rest of the file must conform to.
    ///
    /// # Errors
    ///
    /// The step fails; nothing was written.
    fn resume(&mut self, file: &Path) -> Result<(), ItemError> {
        let _ = file;
        Ok(())
    }
}

/// A writer that encodes items with `E` into a [`FileOutput`]; common to all file formats.
#[derive(Debug, Clone)]
pub struct FileWriter<E> {
    file: FileOutput,
    pub(crate) encode: E,
    bytes: Vec<u8>,
}

impl<E> FileWriter<E> {
    /// Creates a writer of the file at `path`, in a format of your own.
    pub fn encoding(path: impl Into<PathBuf>, encode: E) -> Self {
        Self { file: FileOutput::new(path), encode, bytes: Vec::new() }
    }
}

impl<T, E: Encode<T>> ItemWriter<T> for FileWriter<E> {
    type Position = FilePosition;

    fn open(
        &mut self,
        position: Option<FilePosition>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.file.open(position, scope)?;
        if self.file.length() > 0
            && let Some(growing) = self.file.growing()
        {
            self.encode.resume(growing)?;
        }
        Ok(None)
    }

    fn write(&mut self, items: &[T], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.bytes.clear();
        self.encode.encode(items, self.file.length() == 0, &mut self.bytes)?;
        self.file.append(&self.bytes)
    }

    fn position(&mut self) -> Result<FilePosition, ItemError> {
        self.file.position()
    }

    fn committed(&mut self) {
        self.file.committed();
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.file.rolled_back()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        if ending == Ending::Complete && self.file.growing().is_some() && self.file.length() == 0 {
            // The beginning of a file without items, such as a header line.
            self.bytes.clear();
            self.encode.encode(&[], true, &mut self.bytes)?;
            self.file.append(&self.bytes)?;
        }
        self.file.close(ending)
    }
}
