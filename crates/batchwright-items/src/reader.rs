//! One Rust type for all readers of records: every step of a job file has the same type, whatever it reads.

use batchwright::ItemError;
use batchwright::item::{Acknowledge, Block, ItemReader};
use batchwright::scope::StepScope;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::record::Record;

/// A position as JSON.
pub(crate) type Position = Box<RawValue>;

/// A reader of records whose position is JSON. [`Reads`] makes a boxed one from any reader whose items become records.
pub trait RecordReader: ItemReader<Item = Record, Position = Position> {
    /// Checks that the open input has the fields that it must have, and returns all its fields if they are known.
    ///
    /// # Errors
    ///
    /// When a required field is missing. The step then fails before it reads a record.
    fn fields(&self) -> Result<Option<Vec<String>>, ItemError> {
        Ok(None)
    }
}

/// A function that checks the fields of the open input of a reader and returns them.
type FieldsOf<R> = Box<dyn Fn(&R) -> Result<Option<Vec<String>>, ItemError> + Send>;

/// A [`RecordReader`] made from an [`ItemReader`].
pub struct Reads<R> {
    inner: R,
    fields: Option<FieldsOf<R>>,
}

impl<R: ItemReader<Item = Record> + 'static> Reads<R> {
    /// Makes a boxed [`RecordReader`] from a reader of records.
    pub fn records(inner: R) -> BoxedReader {
        BoxedReader::new(Self { inner, fields: None })
    }

    /// As [`records`](Self::records), for an input whose fields are known once it is open.
    pub fn with_fields(
        inner: R,
        fields: impl Fn(&R) -> Result<Option<Vec<String>>, ItemError> + Send + 'static,
    ) -> BoxedReader {
        BoxedReader::new(Self { inner, fields: Some(Box::new(fields)) })
    }
}

impl<R: ItemReader + 'static> Reads<R> {
    /// Makes a boxed [`RecordReader`] from a reader whose items `map` turns into records.
    pub fn mapped<F: Fn(R::Item) -> Record + Send + 'static>(inner: R, map: F) -> BoxedReader {
        Reads::records(Mapped { inner, map })
    }
}

/// Defines the methods of [`ItemReader`] that need no change by the reader in the field `$reader`.
macro_rules! forward_reader {
    ($reader:tt) => {
        fn rereads(&self) -> bool {
            self.$reader.rereads()
        }

        fn pass_over(&mut self) -> Result<(), batchwright::ItemError> {
            self.$reader.pass_over()
        }

        fn reads_ahead(&self) -> bool {
            self.$reader.reads_ahead()
        }

        fn total(&self) -> Option<batchwright::item::Total> {
            self.$reader.total()
        }

        fn done(&self) -> u64 {
            self.$reader.done()
        }

        fn close(&mut self) -> Result<(), batchwright::ItemError> {
            self.$reader.close()
        }
    };
}

/// Defines the methods of [`ItemReader`] that read records by the reader in the field `$reader`.
macro_rules! forward_records {
    ($reader:tt) => {
        fn read(&mut self) -> Result<Option<Record>, ItemError> {
            self.$reader.read()
        }

        fn reads_blocks(&self) -> bool {
            self.$reader.reads_blocks()
        }

        fn read_block(&mut self, records: usize) -> Result<Box<dyn Block<Record>>, ItemError> {
            self.$reader.read_block(records)
        }

        forward_reader!($reader);
    };
}

pub(crate) use forward_reader;

/// A reader whose items become records.
struct Mapped<R, F> {
    inner: R,
    map: F,
}

impl<R: ItemReader, F: Fn(R::Item) -> Record + Send> ItemReader for Mapped<R, F> {
    type Item = Record;
    type Position = R::Position;

    fn open(&mut self, position: Option<R::Position>, scope: &StepScope) -> Result<(), ItemError> {
        self.inner.open(position, scope)
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        Ok(self.inner.read()?.map(&self.map))
    }

    fn position(&self) -> R::Position {
        self.inner.position()
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<R::Position>>> {
        self.inner.acknowledger()
    }

    forward_reader!(inner);
}

impl<R: ItemReader<Item = Record>> ItemReader for Reads<R> {
    type Item = Record;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        self.inner.open(unpack(position)?, scope)
    }

    fn position(&self) -> Position {
        pack(&self.inner.position())
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<Position>>> {
        Some(Box::new(JsonAcknowledge(self.inner.acknowledger()?)))
    }

    forward_records!(inner);
}

impl<R: ItemReader<Item = Record>> RecordReader for Reads<R> {
    fn fields(&self) -> Result<Option<Vec<String>>, ItemError> {
        self.fields.as_ref().map_or(Ok(None), |fields| fields(&self.inner))
    }
}

/// A boxed [`RecordReader`], which can be the reader of a step.
pub struct BoxedReader(Box<dyn RecordReader>);

impl BoxedReader {
    /// Boxes `reader`.
    pub fn new(reader: impl RecordReader + 'static) -> Self {
        Self(Box::new(reader))
    }

    /// As [`RecordReader::fields`].
    ///
    /// # Errors
    ///
    /// As [`RecordReader::fields`].
    pub fn fields(&self) -> Result<Option<Vec<String>>, ItemError> {
        self.0.fields()
    }
}

impl ItemReader for BoxedReader {
    type Item = Record;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        self.0.open(position, scope)
    }

    fn position(&self) -> Position {
        self.0.position()
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<Position>>> {
        self.0.acknowledger()
    }

    forward_records!(0);
}

/// Acknowledges positions that are JSON.
struct JsonAcknowledge<P>(Box<dyn Acknowledge<P>>);

impl<P: serde::Serialize + DeserializeOwned> Acknowledge<Position> for JsonAcknowledge<P> {
    fn acknowledge(&mut self, position: Position) -> Result<(), ItemError> {
        unpack(Some(position))?.map_or(Ok(()), |position| self.0.acknowledge(position))
    }

    fn position_after(&self, position: Option<Position>, records: u64) -> Position {
        // A position that was made here can be parsed.
        pack(&self.0.position_after(unpack(position).unwrap_or_default(), records))
    }
}

pub(crate) fn pack(position: &impl serde::Serialize) -> Position {
    serde_json::value::to_raw_value(position).expect("a position is JSON by its contract")
}

pub(crate) fn unpack<T: DeserializeOwned>(
    position: Option<Position>,
) -> Result<Option<T>, ItemError> {
    let parsed = position.map(|json| serde_json::from_str(json.get())).transpose();
    parsed
        .map_err(|error| ItemError::fatal(format!("cannot interpret the stored position: {error}")))
}
