//! One Rust type for all writers of records: every step of a job file has the same type, whatever it writes.

use std::marker::PhantomData;

use batchwright::ItemError;
use batchwright::item::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;

use crate::reader::{Position, pack, unpack};
use crate::record::Record;

/// A writer of records, without type parameters.
///
/// The methods are those of [`ItemWriter`]; the position is JSON. [`BoxedWriter::new`] makes a `RecordWriter` from any
/// `ItemWriter<Record>`.
pub trait RecordWriter: Send {
    /// As [`ItemWriter::open`].
    ///
    /// # Errors
    ///
    /// As [`ItemWriter::open`], or when the position is not one of this writer.
    fn open(
        &mut self,
        position: Option<Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError>;

    /// As [`ItemWriter::write`].
    ///
    /// # Errors
    ///
    /// As [`ItemWriter::write`].
    fn write(
        &mut self,
        items: &[Record],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError>;

    /// As [`ItemWriter::position`].
    ///
    /// # Errors
    ///
    /// As [`ItemWriter::position`].
    fn position(&mut self) -> Result<Position, ItemError>;

    /// As [`ItemWriter::keeps_position`].
    fn keeps_position(&self) -> bool;

    /// As [`ItemWriter::prepares`].
    fn prepares(&self) -> bool;

    /// As [`ItemWriter::prepare`].
    ///
    /// # Errors
    ///
    /// As [`ItemWriter::prepare`].
    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError>;

    /// As [`ItemWriter::committed`].
    ///
    /// # Errors
    ///
    /// As [`ItemWriter::committed`].
    fn committed(&mut self) -> Result<(), ItemError>;

    /// As [`ItemWriter::rolled_back`].
    ///
    /// # Errors
    ///
    /// As [`ItemWriter::rolled_back`].
    fn rolled_back(&mut self) -> Result<(), ItemError>;

    /// As [`ItemWriter::close`].
    ///
    /// # Errors
    ///
    /// As [`ItemWriter::close`].
    fn close(&mut self, ending: Ending) -> Result<(), ItemError>;
}

/// A [`RecordWriter`] made from an [`ItemWriter`].
struct Writes<W>(W, PhantomData<fn(Record)>);

impl<W: ItemWriter<Record>> RecordWriter for Writes<W> {
    fn open(
        &mut self,
        position: Option<Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.0.open(unpack(position)?, scope)
    }

    fn write(
        &mut self,
        items: &[Record],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        self.0.write(items, chunk)
    }

    fn position(&mut self) -> Result<Position, ItemError> {
        self.0.position().map(|position| pack(&position))
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
}

/// A boxed [`RecordWriter`], which can be the writer of a step.
pub struct BoxedWriter(Box<dyn RecordWriter>);

impl BoxedWriter {
    /// Boxes `writer`.
    pub fn new(writer: impl ItemWriter<Record> + 'static) -> Self {
        Self(Box::new(Writes(writer, PhantomData)))
    }
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

    fn write(
        &mut self,
        items: &[Record],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        self.0.write(items, chunk)
    }

    fn position(&mut self) -> Result<Position, ItemError> {
        self.0.position()
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
}
