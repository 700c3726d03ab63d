//! The dead-letter file: one JSON object a line for every skipped record, each exactly once.

use std::path::Path;

use serde::Serialize;

use super::{Ending, FileOutput, FilePosition};
use crate::error::{ErrorKind, ItemError, ItemErrorText};
use crate::execution::{ExecutionId, SkipRecord};
use crate::scope::StepScope;

/// The open dead-letter file of a step; it grows with the commits that make the skips durable.
#[derive(Debug)]
pub(crate) struct DeadLetterFile {
    file: FileOutput,
}

/// A line of the dead-letter file.
#[derive(Serialize)]
struct DeadLetter<'a> {
    execution: ExecutionId,
    #[serde(flatten)]
    skip: &'a SkipRecord,
    /// The record's bytes in hexadecimal, when they are not valid UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_hex: Option<String>,
}

impl DeadLetterFile {
    /// Creates the file, or continues it at `position`.
    pub(crate) fn open(
        path: &Path,
        position: Option<FilePosition>,
        scope: &StepScope,
    ) -> Result<Self, ItemError> {
        let mut file = FileOutput::named_always(path);
        file.open(position, scope)?;
        Ok(Self { file })
    }

    pub(crate) fn append(
        &mut self,
        skip: &SkipRecord,
        raw: Option<&[u8]>,
        execution: ExecutionId,
    ) -> Result<(), ItemError> {
        let raw_hex = raw.filter(|raw| std::str::from_utf8(raw).is_err());
        let letter = DeadLetter { execution, skip, raw_hex: raw_hex.map(crate::text::hex) };
        let mut line = serde_json::to_vec(&letter).map_err(|error| {
            ItemError::wrap(ErrorKind::FATAL, "cannot write a dead letter", error)
        })?;
        line.push(b'\n');
        self.file.append(&line)
    }

    pub(crate) fn position(&mut self) -> Result<FilePosition, ItemError> {
        self.file.position()
    }

    pub(crate) fn committed(&mut self) {
        self.file.committed();
    }

    pub(crate) fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.file.rolled_back()
    }

    pub(crate) fn close(mut self, ending: Ending) -> Result<(), ItemError> {
        self.file.close(ending)
    }
}

impl Drop for DeadLetterFile {
    /// Gives the file its final name when the step fails; after [`close`](Self::close) this does nothing.
    fn drop(&mut self) {
        // An empty file must not replace an existing one of the final name.
        if self.file.committed_length() == 0 {
            return;
        }
        if let Err(error) = self.file.close(Ending::Incomplete) {
            tracing::warn!(
                error = %ItemErrorText(error),
                "the dead-letter file could not get its final name"
            );
        }
    }
}
