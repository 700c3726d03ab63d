//! Readers and writers of any kind for programs: described by the keys of job files, with items of any type.

use std::marker::PhantomData;
use std::path::PathBuf;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{
    Acknowledge, ChunkTransaction, Ending, ItemReader, ItemWriter, PreparedCommit, Total,
};
use batchwright::parameters::ParameterSchema;
use batchwright::scope::StepScope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::DeTable;

use crate::key::{Keys, Problem};
use crate::kind::{BuildContext, ItemKind};
use crate::reader::{BoxedReader, Position};
use crate::record::{into_item, of_item};
use crate::registry::KindRegistry;
use crate::template::Known;
use crate::writer::BoxedWriter;

/// Makes readers and writers of the kinds that job files name, for items of any type: a queue, an API over HTTP, a file in an
/// archive. What the keys mean is in the book, and what a restart does is the same as in a job file.
///
/// ```no_run
/// use batchwright::ChunkStepBuilder;
/// use batchwright_items::{KindRegistry, PartMaker};
///
/// #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
/// struct Order {
///     id: u64,
///     amount: f64,
/// }
///
/// let parts = PartMaker::new(KindRegistry::builtin());
/// let step = ChunkStepBuilder::new("orders")
///     .reader_with(parts.reader::<Order>(
///         r#"
///         type = "redis"
///         server = "redis://127.0.0.1:6379"
///         list = "orders"
///         "#,
///     )?)
///     .writer_with(parts.writer::<Order>("type = \"json\"\npath = \"orders.json\"")?)
///     .build();
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone)]
pub struct PartMaker {
    kinds: KindRegistry,
    folder: PathBuf,
    parameters: ParameterSchema,
}

impl PartMaker {
    /// Makes parts of `kinds`, with paths that are relative to the current folder.
    pub fn new(kinds: KindRegistry) -> Self {
        Self { kinds, folder: PathBuf::new(), parameters: ParameterSchema::default() }
    }

    /// Sets the folder that paths are relative to.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// Declares the parameters of the job, which the keys can use as `${params.NAME}`.
    #[must_use]
    pub fn parameters(mut self, parameters: ParameterSchema) -> Self {
        self.parameters = parameters;
        self
    }

    /// Returns what makes the reader that `keys`, TOML with a `type`, describe. Each record is deserialized into a `T`, as from
    /// JSON.
    ///
    /// # Errors
    ///
    /// When the keys are wrong, or there is no such kind: a sentence with the line.
    pub fn reader<T: DeserializeOwned>(
        &self,
        keys: &str,
    ) -> Result<
        impl Fn(&StepScope) -> Result<KindReader<T>, ItemError> + Send + Sync + use<T>,
        String,
    > {
        let made = self.part(keys, "reader", |kind, keys, cx| kind.reader(keys, cx))?;
        Ok(move |scope: &StepScope| {
            Ok(KindReader {
                inner: (made.make)(scope)?,
                read: 0,
                is_no_item: false,
                item: PhantomData,
            })
        })
    }

    /// Returns what makes the writer that `keys`, TOML with a `type`, describe. Items are written as the records that they are as
    /// JSON.
    ///
    /// # Errors
    ///
    /// As [`reader`](Self::reader).
    pub fn writer<T: Serialize>(
        &self,
        keys: &str,
    ) -> Result<
        impl Fn(&StepScope) -> Result<KindWriter<T>, ItemError> + Send + Sync + use<T>,
        String,
    > {
        let make = self.part(keys, "writer", |kind, keys, cx| kind.writer(keys, cx))?;
        Ok(move |scope: &StepScope| Ok(KindWriter { inner: make(scope)?, item: PhantomData }))
    }

    fn part<P>(
        &self,
        keys: &str,
        what: &'static str,
        make: impl FnOnce(&dyn ItemKind, Keys<'_>, &BuildContext<'_>) -> Result<P, Problem>,
    ) -> Result<P, String> {
        let parsed = DeTable::parse(keys).map_err(|error| error.to_string())?;
        let (span, mut table) = (parsed.span(), parsed.into_inner());
        let kind = table.remove("type");
        let kind = kind.as_ref().and_then(|kind| kind.get_ref().as_str());
        let kind = kind.ok_or_else(|| format!("the keys of a {what} need a `type`"))?;
        let found = self.kinds.find(what, kind)?;
        let known = Known { schema: &self.parameters, partition: None, file_number: None };
        let cx = BuildContext::new(&self.folder, &known, false);
        make(found, Keys::new(what, kind, &span, &table), &cx).map_err(|problem| {
            let begin = problem.span.and_then(|span| keys.get(..span.start));
            let line = begin.map_or(1, |before| before.matches('\n').count() + 1);
            format!("cannot make the {what} of type `{kind}`: line {line}: {}", problem.message)
        })
    }
}

/// A reader of any kind, for items of a type: see [`PartMaker`].
pub struct KindReader<T> {
    inner: BoxedReader,
    /// Number of records that were read since the reader was opened.
    read: u64,
    /// Whether the last record was read and is no `T`: the inner reader has passed it.
    is_no_item: bool,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> ItemReader for KindReader<T> {
    type Item = T;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        (self.read, self.is_no_item) = (0, false);
        self.inner.open(position, scope)?;
        // Refuses an input that lacks what the keys name.
        self.inner.fields().map(drop)
    }

    fn read(&mut self) -> Result<Option<T>, ItemError> {
        self.is_no_item = false;
        let Some(record) = self.inner.read()? else { return Ok(None) };
        self.read += 1;
        into_item::item(&record).map(Some).map_err(|error| {
            self.is_no_item = true;
            ItemError::wrap(ErrorKind::PARSE, "cannot make the item of the record", error)
                .with_raw(serde_json::to_vec(&record).unwrap_or_default())
                .at(format!("record {} of this execution", self.read))
        })
    }

    fn rereads(&self) -> bool {
        !self.is_no_item && self.inner.rereads()
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        match self.is_no_item {
            true => Ok(()),
            false => self.inner.pass_over(),
        }
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

    fn position(&self) -> Position {
        self.inner.position()
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<Position>>> {
        self.inner.acknowledger()
    }
}

/// A writer of any kind, for items of a type: see [`PartMaker`].
pub struct KindWriter<T> {
    inner: BoxedWriter,
    item: PhantomData<fn(T)>,
}

impl<T: Serialize + Send + Sync + 'static> ItemWriter<T> for KindWriter<T> {
    type Position = Position;

    fn open(
        &mut self,
        position: Option<Position>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.inner.open(position, scope)
    }

    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        let records = of_item::records(items, "cannot write an item that is no object")?;
        self.inner.write(&records, chunk)
    }

    fn position(&mut self) -> Result<Position, ItemError> {
        self.inner.position()
    }

    fn chunk_items(&self) -> usize {
        self.inner.chunk_items()
    }

    fn keeps_position(&self) -> bool {
        self.inner.keeps_position()
    }

    fn prepares(&self) -> bool {
        self.inner.prepares()
    }

    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        self.inner.prepare(commit)
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.inner.committed()
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.inner.rolled_back()
    }

    fn is_named(&self, position: &Position, scope: &StepScope) -> Result<bool, ItemError> {
        self.inner.is_named(position, scope)
    }

    fn forget(&self, scope: &StepScope) -> Result<(), ItemError> {
        self.inner.forget(scope)
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        self.inner.close(ending)
    }
}
