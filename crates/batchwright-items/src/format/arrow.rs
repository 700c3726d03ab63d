//! Files and streams of Apache Arrow.

mod column;
mod kind;
mod messages;
mod value;
mod writer;

pub(crate) use kind::ArrowKind;
pub use writer::{ArrowColumns, ArrowWriter};

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::reader::FileDecoder;
use arrow_schema::DataType;
use batchwright::ItemError;
use batchwright::item::{ItemReader, Total};
use batchwright::scope::StepScope;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::typed::{self, ReaderSettings, reader_settings, undamaged};
use crate::record::{Names, Record, first_duplicate};
use crate::transport::{ByteSource, FileSource, InputIdentity, seekable};
use messages::{Failure, Messages, Place};

/// A reader of the rows of a file of Apache Arrow, or of a stream in a file,
/// <https://arrow.apache.org/docs/format/Columnar.html>.
///
/// One batch of rows is in memory at a time, up to 1 GiB, and the dictionaries. A restart begins with the batch of its position.
/// Lists, maps and structures become lists and objects of JSON.
///
/// ```no_run
/// use batchwright_items::format::arrow::ArrowReader;
///
/// #[derive(serde::Deserialize)]
/// struct Trade {
///     symbol: String,
///     quantity: i64,
/// }
///
/// let trades = ArrowReader::<Trade>::new("trades.arrow").columns(["symbol", "quantity"]);
/// ```
pub struct ArrowReader<T> {
    settings: ReaderSettings<T>,
    open: Option<Opened>,
}

struct Opened {
    messages: Messages,
    decoder: FileDecoder,
    names: Names,
    /// Which ranges are of timestamps without a time zone.
    local: Vec<bool>,
    /// The messages that are not read yet.
    next: usize,
    batch: Option<RecordBatch>,
    /// The batches before [`Self::batch`].
    batches: u64,
    /// The rows of [`Self::batch`] that were read.
    in_batch: usize,
    /// The position after the last row that was read.
    position: ArrowPosition,
}

/// A position in a file of batches: after a number of rows of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[doc(hidden)]
pub struct ArrowPosition {
    batch: u64,
    in_batch: u64,
    rows: u64,
    input: Option<InputIdentity>,
}

impl<T: DeserializeOwned> ArrowReader<T> {
    /// Creates a reader of the file at `path`; each row is deserialized into a `T`, as from JSON.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::decoding(Arc::new(FileSource::new(path)), typed::from::record)
    }
}

reader_settings!(ArrowReader);

impl<T> ArrowReader<T> {
    fn decoding(source: Arc<dyn ByteSource>, decode: fn(Record) -> Result<T, ItemError>) -> Self {
        Self { settings: ReaderSettings::new(source, decode), open: None }
    }

    fn begin(&self) -> Result<Opened, ItemError> {
        let failed = |error: Failure| self.settings.failed(&error);
        let messages = Messages::open(seekable(&self.settings.source)?).map_err(failed)?;
        let schema = Arc::clone(&messages.schema);
        let all: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        if let Some(name) = first_duplicate(&all) {
            return Err(self.settings.failed(&format!("the column `{name}` is there twice")));
        }
        let wanted = self.settings.wanted(&all, "column")?;
        let wanted: Vec<usize> = wanted
            .iter()
            .enumerate()
            .filter_map(|(at, is_wanted)| is_wanted.then_some(at))
            .collect();
        for at in &wanted {
            value::check(schema.field(*at)).map_err(|what| self.settings.failed(&what))?;
        }
        let names = wanted.iter().map(|at| Arc::from(all[*at])).collect();
        let local = self.settings.local(|name| {
            let column = schema.field_with_name(name);
            column.is_ok_and(|column| match column.data_type() {
                DataType::Timestamp(_, zone) => zone.as_ref().is_none_or(|zone| zone.is_empty()),
                _ => false,
            })
        });
        let mut decoder = FileDecoder::new(Arc::clone(&schema), messages.version);
        if self.settings.columns.is_some() {
            decoder = decoder.with_projection(wanted);
        }
        let input = Some(messages.identity);
        let position = ArrowPosition { input, ..ArrowPosition::default() };
        let (next, batches, in_batch) = (0, 0, 0);
        Ok(Opened {
            messages,
            decoder,
            names,
            local,
            next,
            batch: None,
            batches,
            in_batch,
            position,
        })
    }
}

impl Opened {
    /// Reads the next batch; `false` at the end.
    fn next_batch(&mut self) -> Result<bool, Failure> {
        if self.batch.take().is_some() {
            self.batches += 1;
        }
        self.in_batch = 0;
        while let Some(place) = self.messages.blocks.get(self.next).copied() {
            self.next += 1;
            let bytes = self.messages.fetch(&place)?;
            if place.is_dictionary {
                self.decoder.read_dictionary(&place.block, &bytes)?;
                continue;
            }
            let batch = self.decoder.read_record_batch(&place.block, &bytes)?;
            self.batch = Some(batch.ok_or("a batch is empty")?);
            return Ok(true);
        }
        Ok(false)
    }

    /// Goes to the batch `number`, and reads the dictionaries before it.
    fn go_to(&mut self, number: u64) -> Result<(), Failure> {
        while self.batches < number {
            let place = self.messages.blocks.get(self.next).copied();
            let place = place.ok_or("the batch of the checkpoint is not there")?;
            self.next += 1;
            if place.is_dictionary {
                let bytes = self.messages.fetch(&place)?;
                self.decoder.read_dictionary(&place.block, &bytes)?;
            } else {
                self.batches += 1;
            }
        }
        Ok(())
    }

    /// Returns the next row, which is an error of its own if it has a value that cannot be read.
    fn next(&mut self) -> Result<Option<Result<Record, ItemError>>, Failure> {
        loop {
            let row = self.in_batch;
            if let Some(batch) = self.batch.as_ref().filter(|batch| row < batch.num_rows()) {
                self.in_batch += 1;
                self.position.rows += 1;
                (self.position.batch, self.position.in_batch) = match self.in_batch {
                    all if all == batch.num_rows() => (self.batches + 1, 0),
                    some => (self.batches, some as u64),
                };
                let values = batch.columns().iter().zip(self.names.iter()).map(|(column, name)| {
                    value::value(column, row).map_err(|what| {
                        ItemError::parse(format!("cannot read column `{name}`: {what}"))
                    })
                });
                let values = values.collect::<Result<Vec<_>, _>>();
                return Ok(Some(values.map(|all| Record::new(Arc::clone(&self.names), all))));
            }
            if !self.next_batch()? {
                return Ok(None);
            }
        }
    }
}

impl<T> Clone for ArrowReader<T> {
    /// Clones the settings; the clone is not open.
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), open: None }
    }
}

impl<T: Send + Sync + 'static> ItemReader for ArrowReader<T> {
    type Item = T;
    type Position = ArrowPosition;

    fn open(
        &mut self,
        position: Option<ArrowPosition>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        self.settings.stop = scope.stop().clone();
        self.open = None;
        let damaged = |what| self.settings.failed(&what);
        let mut open = undamaged(|| self.begin()).map_err(damaged)??;
        if let Some(position) = position {
            self.settings.check_same(position.input, open.messages.identity)?;
            let found = undamaged(|| -> Result<(), Failure> {
                open.go_to(position.batch)?;
                if position.in_batch > 0 && !open.next_batch()? {
                    return Err("the batch of the checkpoint is not there".into());
                }
                open.in_batch = usize::try_from(position.in_batch)?;
                Ok(())
            });
            found.map_err(damaged)?.map_err(|error| self.settings.failed(&error))?;
            open.position = ArrowPosition { input: open.position.input, ..position };
        }
        self.open = Some(open);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let Self { settings, open } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        let before = open.position;
        loop {
            let next = undamaged(|| open.next()).map_err(|what| settings.failed(&what))?;
            let rows = open.position.rows;
            let at = |error: ItemError| error.at(format!("row {rows}"));
            let Some(record) = next.map_err(|error| at(settings.failed(&error)))? else {
                // Rows that are left out do not move the position at the end.
                open.position = before;
                return Ok(None);
            };
            let record = record.map_err(at)?;
            if settings.accepts(&record, &open.local).map_err(at)? {
                return (settings.decode)(record).map(Some).map_err(at);
            }
        }
    }

    fn position(&self) -> ArrowPosition {
        self.open.as_ref().map_or_else(ArrowPosition::default, |open| open.position)
    }

    fn total(&self) -> Option<Total> {
        self.open.as_ref().map(|open| Total::Bytes(open.messages.length))
    }

    fn done(&self) -> u64 {
        let Some(open) = &self.open else { return 0 };
        let read = open.next.checked_sub(1).and_then(|last| open.messages.blocks.get(last));
        read.map_or(0, Place::end)
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.open = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use batchwright::ChunkStepBuilder;
    use batchwright::item::ListReader;
    use batchwright::testing::TestBench;
    use batchwright_testkit::fuzz::run;
    use serde_json::json;

    use super::*;
    use crate::format::typed::{TypedColumn, ValueType};
    use crate::transport::MemorySource;

    fn file() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.arrow");
        let columns = vec![
            TypedColumn::new("text", ValueType::Text),
            TypedColumn::new("price", ValueType::Decimal { precision: 9, scale: 2 }),
            TypedColumn::new("at", ValueType::Timestamp),
        ];
        let row = |n: i64| json!({ "text": (n % 2 == 0).then_some("x"), "price": n, "at": "2026-11-29T00:00:00Z" });
        let step = ChunkStepBuilder::new("write")
            .reader(ListReader::new((0..9).map(row).collect::<Vec<_>>()))
            .writer(ArrowWriter::new(&path, ArrowColumns::new(columns).unwrap()))
            .chunk_size(3)
            .build();
        assert!(TestBench::of_step(step).run().failure.is_none());
        std::fs::read(path).unwrap()
    }

    #[test]
    fn fuzz_of_files() {
        let whole = file();
        // Without its first and its last bytes it is a stream.
        let stream = whole[8..].to_vec();
        run("files of Arrow", 2_000, |rng| {
            let valid = rng.of(&[&whole, &stream]);
            let bytes = rng.mutated_bytes(valid, &[&[0xff; 4][..], &[0; 8], &[8, 0, 0, 0]]);
            let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new("in.arrow", bytes));
            let reader = ArrowReader::<Record>::decoding(source, Ok);
            let Ok(Ok(mut open)) = undamaged(|| reader.begin()) else { return };
            while let Ok(Ok(Some(_))) = undamaged(|| open.next()) {}
        });
    }
}
