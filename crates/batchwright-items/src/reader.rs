//! One Rust type for all readers of records: every step of a job file has the same type, whatever it reads.

use batchwright::ItemError;
use batchwright::item::{ItemReader, Total};
use batchwright::scope::StepScope;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::record::Record;

/// A position as JSON.
pub(crate) type Position = Box<RawValue>;

/// A reader of records, without type parameters.
///
/// The methods are those of [`ItemReader`]; the position is JSON. [`Reads`] makes a `RecordReader` from any reader whose
/// items become records.
pub trait RecordReader: Send {
    /// As [`ItemReader::open`].
    ///
    /// # Errors
    ///
    /// As [`ItemReader::open`], or when the position is not one of this reader.
    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError>;

    /// As [`ItemReader::read`].
    ///
    /// # Errors
    ///
    /// As [`ItemReader::read`].
    fn read(&mut self) -> Result<Option<Record>, ItemError>;

    /// As [`ItemReader::position`].
    fn position(&self) -> Position;

    /// Checks that the open input has the fields that it must have, and returns all its fields if they are known.
    ///
    /// # Errors
    ///
    /// When a required field is missing. The step then fails before it reads a record.
    fn fields(&self) -> Result<Option<Vec<String>>, ItemError> {
        Ok(None)
    }

    /// As [`ItemReader::rereads`].
    fn rereads(&self) -> bool;

    /// As [`ItemReader::pass_over`].
    ///
    /// # Errors
    ///
    /// As [`ItemReader::pass_over`].
    fn pass_over(&mut self) -> Result<(), ItemError>;

    /// As [`ItemReader::reads_ahead`].
    fn reads_ahead(&self) -> bool;

    /// As [`ItemReader::total`].
    fn total(&self) -> Option<Total>;

    /// As [`ItemReader::done`].
    fn done(&self) -> u64;

    /// As [`ItemReader::close`].
    ///
    /// # Errors
    ///
    /// As [`ItemReader::close`].
    fn close(&mut self) -> Result<(), ItemError>;
}

/// A function that checks the fields of the open input of a reader and returns them.
type FieldsOf<R> = Box<dyn Fn(&R) -> Result<Option<Vec<String>>, ItemError> + Send>;

/// A [`RecordReader`] made from an [`ItemReader`].
pub struct Reads<R, F> {
    inner: R,
    map: F,
    fields: Option<FieldsOf<R>>,
}

impl<R> Reads<R, fn(Record) -> Record>
where
    R: ItemReader<Item = Record> + 'static,
{
    /// Makes a boxed [`RecordReader`] from a reader of records.
    pub fn records(inner: R) -> BoxedReader {
        BoxedReader::new(Reads {
            inner,
            map: std::convert::identity as fn(Record) -> Record,
            fields: None,
        })
    }

    /// As [`records`](Self::records), for an input whose fields are known once it is open.
    pub fn with_fields(
        inner: R,
        fields: impl Fn(&R) -> Result<Option<Vec<String>>, ItemError> + Send + 'static,
    ) -> BoxedReader {
        let map = std::convert::identity as fn(Record) -> Record;
        BoxedReader::new(Reads { inner, map, fields: Some(Box::new(fields)) })
    }
}

impl<R, F> Reads<R, F>
where
    R: ItemReader + 'static,
    F: Fn(R::Item) -> Record + Send + 'static,
{
    /// Makes a boxed [`RecordReader`] from a reader whose items `map` turns into records.
    pub fn mapped(inner: R, map: F) -> BoxedReader {
        BoxedReader::new(Self { inner, map, fields: None })
    }
}

impl<R, F> RecordReader for Reads<R, F>
where
    R: ItemReader,
    F: Fn(R::Item) -> Record + Send,
{
    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        self.inner.open(unpack(position)?, scope)
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        Ok(self.inner.read()?.map(&self.map))
    }

    fn position(&self) -> Position {
        pack(&self.inner.position())
    }

    fn fields(&self) -> Result<Option<Vec<String>>, ItemError> {
        self.fields.as_ref().map_or(Ok(None), |fields| fields(&self.inner))
    }

    fn rereads(&self) -> bool {
        self.inner.rereads()
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        self.inner.pass_over()
    }

    fn reads_ahead(&self) -> bool {
        self.inner.reads_ahead()
    }

    fn total(&self) -> Option<Total> {
        self.inner.total()
    }

    fn done(&self) -> u64 {
        self.inner.done()
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.inner.close()
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

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        self.0.read()
    }

    fn position(&self) -> Position {
        self.0.position()
    }

    fn rereads(&self) -> bool {
        self.0.rereads()
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        self.0.pass_over()
    }

    fn reads_ahead(&self) -> bool {
        self.0.reads_ahead()
    }

    fn total(&self) -> Option<Total> {
        self.0.total()
    }

    fn done(&self) -> u64 {
        self.0.done()
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.0.close()
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
