//! JSON lines: one value a line.

use std::marker::PhantomData;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    Ending, FileOutput, FilePosition, ItemReader, ItemWriter, LineInput, LinePosition,
    PreparedCommit, Total,
};
use crate::error::{ErrorKind, ItemError};
use crate::step::{ChunkTransaction, StepScope};

/// Yields a `T` for every line that is not blank.
#[derive(Debug)]
pub struct JsonLinesReader<T> {
    input: LineInput,
    item: PhantomData<fn() -> T>,
}

impl<T> JsonLinesReader<T> {
    /// The values of the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { input: LineInput::new(path), item: PhantomData }
    }

    /// Longest line, in bytes. Default 1 MiB.
    #[must_use]
    pub fn line_bytes_max(self, bytes: usize) -> Self {
        Self { input: self.input.line_bytes_max(bytes), item: PhantomData }
    }
}

impl<T> Clone for JsonLinesReader<T> {
    fn clone(&self) -> Self {
        Self { input: self.input.clone(), item: PhantomData }
    }
}

impl<T: DeserializeOwned + Send + Sync> ItemReader for JsonLinesReader<T> {
    type Item = T;
    type Position = LinePosition;

    fn open(&mut self, position: Option<LinePosition>, _: &StepScope) -> Result<(), ItemError> {
        self.input.open(position)
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        loop {
            let Some(line) = self.input.next_line()? else { return Ok(None) };
            if line.bytes.trim_ascii().is_empty() {
                continue;
            }
            return serde_json::from_slice(line.bytes).map(Some).map_err(|error| {
                line.blame(ItemError::wrap(ErrorKind::PARSE, "read the line as JSON", error))
            });
        }
    }

    fn position(&self) -> LinePosition {
        self.input.position()
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn total(&self) -> Option<Total> {
        self.input.total()
    }

    fn done(&self) -> u64 {
        self.input.position().byte
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.input.close();
        Ok(())
    }
}

/// Writes each output as a line of JSON.
#[derive(Debug, Clone)]
pub struct JsonLinesWriter {
    file: FileOutput,
    line: Vec<u8>,
}

impl JsonLinesWriter {
    /// Into the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { file: FileOutput::new(path), line: Vec::new() }
    }
}

impl<T: Serialize + Send + Sync> ItemWriter<T> for JsonLinesWriter {
    type Position = FilePosition;

    fn open(
        &mut self,
        position: Option<FilePosition>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.file.open(position, scope).map(|()| None)
    }

    fn write(&mut self, items: &[T], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        self.line.clear();
        for item in items {
            serde_json::to_writer(&mut self.line, item)
                .map_err(|error| ItemError::wrap(ErrorKind::DATA, "write as JSON", error))?;
            self.line.push(b'\n');
        }
        self.file.append(&self.line)
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
        self.file.close(ending)
    }
}
