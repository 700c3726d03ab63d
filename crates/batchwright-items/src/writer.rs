//! One Rust type for all writers of records: every step of a job file has the same type, whatever it writes.

use batchwright::ItemError;
use batchwright::item::{ChunkTransaction, Encoder, Ending, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;

use crate::reader::{Position, pack, unpack};
use crate::record::Record;

/// A boxed writer of records whose position is JSON, which can be the writer of a step.
pub struct BoxedWriter(Box<dyn ItemWriter<Record, Position = Position>>);

impl BoxedWriter {
    /// Boxes `writer`.
    pub fn new(writer: impl ItemWriter<Record> + 'static) -> Self {
        Self(Box::new(JsonPosition(writer)))
    }
}

/// Defines the methods of [`ItemWriter`] that do not concern positions by the writer in the field `0`.
macro_rules! forward_writer {
    () => {
        fn write(
            &mut self,
            items: &[Record],
            chunk: &mut ChunkTransaction<'_>,
        ) -> Result<(), ItemError> {
            self.0.write(items, chunk)
        }

        fn chunk_items(&self) -> usize {
            self.0.chunk_items()
        }

        fn encodes(&self) -> bool {
            self.0.encodes()
        }

        fn encoder(&self) -> Option<Encoder<Record>> {
            self.0.encoder()
        }

        fn write_encoded(
            &mut self,
            items: &[Record],
            bytes: &[u8],
            chunk: &mut ChunkTransaction<'_>,
        ) -> Result<(), ItemError> {
            self.0.write_encoded(items, bytes, chunk)
        }

        fn keeps_position(&self) -> bool {
            self.0.keeps_position()
        }

        fn prepares(&self) -> bool {
            self.0.prepares()
        }

        fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
            self.0.prepare(commit)
        }

        fn committed(&mut self) -> Result<(), ItemError> {
            self.0.committed()
        }

        fn rolled_back(&mut self) -> Result<(), ItemError> {
            self.0.rolled_back()
        }

        fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
            self.0.close(ending)
        }
    };
}

/// A writer with its position as JSON.
struct JsonPosition<W>(W);

impl<W: ItemWriter<Record>> ItemWriter<Record> for JsonPosition<W> {
    type Position = Position;

    fn open(
        &mut self,
        position: Option<Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.0.open(unpack(position)?, scope)
    }

    fn position(&mut self) -> Result<Position, ItemError> {
        self.0.position().map(|position| pack(&position))
    }

    fn is_named(&self, position: &Position, scope: &StepScope) -> Result<bool, ItemError> {
        let position = unpack(Some(position.clone()))?;
        position.map_or(Ok(false), |position| self.0.is_named(&position, scope))
    }

    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        self.0.forget(scope)
    }

    forward_writer!();
}

impl ItemWriter<Record> for BoxedWriter {
    type Position = Position;

    fn open(
        &mut self,
        position: Option<Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.0.open(position, scope)
    }

    fn position(&mut self) -> Result<Position, ItemError> {
        self.0.position()
    }

    fn is_named(&self, position: &Position, scope: &StepScope) -> Result<bool, ItemError> {
        self.0.is_named(position, scope)
    }

    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        self.0.forget(scope)
    }

    forward_writer!();
}
