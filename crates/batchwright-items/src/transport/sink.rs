//! Where the bytes of an output go to.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::item::{Ending, FileOutput, FilePosition};
use batchwright::scope::StepScope;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::source::{ByteSource, FileSource};

/// A sink of bytes that a restart finds as they were at the last checkpoint. Every format writes to every sink.
pub trait ByteSink: Send {
    /// The position that a checkpoint stores.
    type Position: Serialize + DeserializeOwned + Send + Sync;

    /// Opens the sink, and removes what was appended after `position`.
    ///
    /// # Errors
    ///
    /// When the sink cannot be opened, or is not the one of the position.
    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<(), ItemError>;

    /// Returns the number of bytes that were appended so far, by all executions.
    fn length(&self) -> u64;

    /// Returns the bytes that were appended so far, by all executions, if they can be read.
    fn begun(&self) -> Option<Arc<dyn ByteSource>>;

    /// Appends `bytes`.
    ///
    /// # Errors
    ///
    /// The chunk is rolled back.
    fn append(&mut self, bytes: &[u8]) -> Result<(), ItemError>;

    /// Makes the appended bytes as durable as the checkpoint will be, and returns the position after them.
    ///
    /// # Errors
    ///
    /// The chunk is rolled back.
    fn position(&mut self) -> Result<Self::Position, ItemError>;

    /// Learns that the checkpoint with the last position is committed.
    fn committed(&mut self);

    /// Removes what was appended after the last committed position.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn rolled_back(&mut self) -> Result<(), ItemError>;

    /// Closes the sink; a complete one becomes visible to others. What was appended after the last position belongs to a complete
    /// output: its end, such as a closing bracket. A restart that finds such an output incomplete removes it like other bytes.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn close(&mut self, ending: Ending) -> Result<(), ItemError>;

    /// Whether the output that ends at `position`, which was closed as [`Ending::Full`] or is to be, is complete and visible, or
    /// was and was taken. Default: `false`.
    #[doc(hidden)]
    fn is_named(&self, position: &Self::Position, scope: &StepScope) -> Result<bool, ItemError> {
        let _ = (position, scope);
        Ok(false)
    }

    /// Removes what [`is_named`](Self::is_named) knows an output by that was taken. Default: nothing.
    #[doc(hidden)]
    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        let _ = scope;
        Ok(())
    }
}

impl ByteSink for FileOutput {
    type Position = FilePosition;

    fn open(&mut self, position: Option<FilePosition>, scope: &StepScope) -> Result<(), ItemError> {
        Self::open(self, position, scope)
    }

    fn length(&self) -> u64 {
        Self::length(self)
    }

    fn begun(&self) -> Option<Arc<dyn ByteSource>> {
        let growing = self.growing()?;
        Some(Arc::new(FileSource::beside_output(growing)))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ItemError> {
        Self::append(self, bytes)
    }

    fn position(&mut self) -> Result<FilePosition, ItemError> {
        Self::position(self)
    }

    fn committed(&mut self) {
        Self::committed(self);
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        Self::rolled_back(self)
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        Self::close(self, ending)
    }

    fn is_named(&self, position: &FilePosition, scope: &StepScope) -> Result<bool, ItemError> {
        Self::is_named(self, position, scope)
    }

    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        Self::forget(self, scope)
    }
}
