//! Many inputs as one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ItemReader, stable_hash};
use crate::error::{ErrorKind, ItemError};
use crate::scope::StepScope;

/// A reader of several inputs, such as the files of a folder, one after another. Each item has the name of its input
/// and its number in it; so has the location of an error.
///
/// The inputs must have the same order at a restart. Inputs may be added after the one that was being read; an input that
/// appeared or vanished before it fails the step, because its records would be lost or read twice.
///
/// ```no_run
/// use batchwright::item::{FromInput, NoWriter, SeriesReader};
/// use batchwright::ChunkStepBuilder;
/// use batchwright_items::format::csv::CsvReader;
///
/// let step = ChunkStepBuilder::new("orders")
///     .reader_with(|_| {
///         let mut paths: Vec<String> = std::fs::read_dir("orders")?
///             .map(|entry| Ok(entry?.path().display().to_string()))
///             .collect::<Result<_, std::io::Error>>()?;
///         paths.sort();
///         Ok(SeriesReader::new(paths, |path| Ok(CsvReader::<(u32, String)>::new(path))))
///     })
///     .process(|FromInput { input, number, item }| Ok(Some(format!("{input}:{number}: {}", item.1))))
///     .writer(NoWriter::new())
///     .build();
/// ```
pub struct SeriesReader<F, R: ItemReader> {
    inputs: Vec<Arc<str>>,
    make: F,
    /// Index of the input that is being read; the number of inputs at the end.
    index: usize,
    /// Hash of the names before it.
    before: u64,
    /// The open input.
    current: Option<R>,
    /// Number of records that were read from it.
    read: u64,
    /// Whether the last read opened or closed an input.
    is_between: bool,
    /// The position after the last record, while later inputs are looked through for the next one.
    last: Option<SeriesPosition<R::Position>>,
    scope: Option<StepScope>,
}

/// An item of a [`SeriesReader`], with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromInput<T> {
    /// Name of the input.
    pub input: Arc<str>,
    /// Number of the record in the input, from 1; records that could not be read count too.
    pub number: u64,
    /// The item.
    pub item: T,
}

/// A position in a series of inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[doc(hidden)]
pub struct SeriesPosition<P> {
    /// Index of the input, from 0.
    index: usize,
    /// Name of the input; `None` if there was none.
    input: Option<Arc<str>>,
    /// Hash of the names before it.
    before: u64,
    /// Number of records that were read from it.
    read: u64,
    /// Position in it; `None` before it is opened.
    position: Option<P>,
}

impl<F, R: ItemReader> SeriesReader<F, R> {
    fn unopened(inputs: Vec<Arc<str>>, make: F) -> Self {
        Self {
            inputs,
            make,
            index: 0,
            before: 0,
            current: None,
            read: 0,
            is_between: false,
            last: None,
            scope: None,
        }
    }
}

impl<F, R> SeriesReader<F, R>
where
    F: Fn(&str) -> Result<R, ItemError>,
    R: ItemReader<Position: Clone>,
{
    /// Creates a reader of the inputs with the names `inputs`, in this order; `make` creates the reader of one.
    pub fn new<N: Into<Arc<str>>>(inputs: impl IntoIterator<Item = N>, make: F) -> Self {
        let inputs = inputs.into_iter().map(Into::into).collect();
        Self::unopened(inputs, make)
    }

    /// Opens the input at the current index, if there is one.
    fn open_current(&mut self, position: Option<R::Position>) -> Result<(), ItemError> {
        let Some(input) = self.inputs.get(self.index) else { return Ok(()) };
        let Some(scope) = &self.scope else {
            return Err(ItemError::fatal("cannot read a series of inputs before it is opened"));
        };
        let opened = (self.make)(input).and_then(|mut reader| {
            match reader.open(position, scope) {
                Ok(()) => Ok(reader),
                Err(error) => {
                    // The first error is the cause.
                    let _ = reader.close();
                    Err(error)
                }
            }
        });
        self.current = Some(opened.map_err(|error| {
            // Skipping a record would not help.
            let is_data = error.kind().is_a(ErrorKind::DATA.name());
            let kind = if is_data { ErrorKind::FATAL } else { error.kind().clone() };
            ItemError::wrap(kind, format!("cannot open the input `{input}`"), error.into_boxed())
        })?);
        Ok(())
    }

    /// Returns a hash of the names before `index`.
    fn hash_before(&self, index: usize) -> u64 {
        self.inputs.iter().take(index).fold(0, |hash, name| hash_after(hash, name))
    }

    /// Refuses a position in another series.
    fn check(&self, position: &SeriesPosition<R::Position>) -> Result<(), ItemError> {
        let SeriesPosition { index, input, before, .. } = position;
        let is_same = input.is_none() || self.inputs.get(*index) == input.as_ref();
        if is_same && position.index <= self.inputs.len() && self.hash_before(*index) == *before {
            return Ok(());
        }
        let at = match input {
            Some(input) => format!("at the input `{input}`"),
            None => format!("after {index} inputs"),
        };
        let what = format!("cannot continue {at}: inputs before it appeared or vanished");
        Err(ItemError::new(ErrorKind::INPUT_CHANGED, what))
    }
}

/// Returns the hash of the names of `before` and `name`.
fn hash_after(before: u64, name: &str) -> u64 {
    stable_hash(&[&before.to_le_bytes(), name.as_bytes()].concat())
}

/// A clone has not been opened.
impl<F: Clone, R: ItemReader> Clone for SeriesReader<F, R> {
    fn clone(&self) -> Self {
        Self::unopened(self.inputs.clone(), self.make.clone())
    }
}

impl<F, R: ItemReader> std::fmt::Debug for SeriesReader<F, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeriesReader")
            .field("inputs", &self.inputs)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl<F, R> ItemReader for SeriesReader<F, R>
where
    F: Fn(&str) -> Result<R, ItemError> + Send,
    R: ItemReader<Position: Clone>,
{
    type Item = FromInput<R::Item>;
    type Position = SeriesPosition<R::Position>;

    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        self.scope = Some(scope.clone());
        let within = match position {
            None => None,
            Some(position) => {
                self.check(&position)?;
                (self.index, self.read) = (position.index, position.read);
                position.position
            }
        };
        self.before = self.hash_before(self.index);
        self.open_current(within)
    }

    fn read(&mut self) -> Result<Option<Self::Item>, ItemError> {
        while let Some(input) = self.inputs.get(self.index) {
            self.is_between = self.current.is_none();
            let Some(reader) = &mut self.current else {
                self.open_current(None)?;
                continue;
            };
            match reader.read() {
                Ok(Some(item)) => {
                    self.read += 1;
                    self.last = None;
                    return Ok(Some(FromInput {
                        input: Arc::clone(input),
                        number: self.read,
                        item,
                    }));
                }
                Ok(None) => {
                    self.last = Some(self.position());
                    let closed = self.current.take().map_or(Ok(()), |mut one| one.close());
                    self.before = hash_after(self.before, input);
                    (self.index, self.read) = (self.index + 1, 0);
                    self.is_between = true;
                    closed?;
                }
                Err(error) => {
                    if !reader.rereads() {
                        self.read += 1;
                        self.last = None;
                    }
                    let location = match error.location() {
                        Some(location) => format!("{input}, {location}"),
                        None => input.to_string(),
                    };
                    return Err(error.at(location));
                }
            }
        }
        Ok(None)
    }

    fn position(&self) -> Self::Position {
        if let Some(last) = &self.last {
            return last.clone();
        }
        SeriesPosition {
            index: self.index,
            input: self.inputs.get(self.index).cloned(),
            before: self.before,
            read: self.read,
            position: self.current.as_ref().map(ItemReader::position),
        }
    }

    fn rereads(&self) -> bool {
        // An input that cannot be opened has consumed no record.
        self.is_between || self.current.as_ref().is_some_and(ItemReader::rereads)
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        if self.is_between {
            return Err(ItemError::fatal("cannot skip an input that cannot be opened or closed"));
        }
        self.read += 1;
        self.last = None;
        self.current.as_mut().map_or(Ok(()), ItemReader::pass_over)
    }

    fn reads_ahead(&self) -> bool {
        self.current.as_ref().is_some_and(ItemReader::reads_ahead)
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.current.take().map_or(Ok(()), |mut reader| reader.close())
    }
}
