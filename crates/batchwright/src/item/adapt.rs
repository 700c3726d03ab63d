//! Readers and writers made from iterators and functions, and processors one after another.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ChunkTransaction, ItemProcessor, ItemReader, ItemWriter, forward_writer};
use crate::error::ItemError;
use crate::scope::StepScope;

/// A reader of an iterator. Its position is the number of items that were read.
///
/// ```
/// use batchwright::item::{IteratorReader, NoWriter};
/// use batchwright::ChunkStepBuilder;
///
/// let lines = ["a", "b", "c"];
/// let step = ChunkStepBuilder::new("print")
///     .reader(IteratorReader::new(move |read| Ok(lines.into_iter().skip(read).map(Ok))))
///     .writer(NoWriter::new())
///     .build();
/// ```
#[derive(Debug)]
pub struct IteratorReader<F, I> {
    make: F,
    items: Option<I>,
    read: usize,
}

impl<F, I, T> IteratorReader<F, I>
where
    F: Fn(usize) -> Result<I, ItemError>,
    I: Iterator<Item = Result<T, ItemError>>,
{
    /// Creates a reader of the iterator that `make` returns. `make` gets the number of items that earlier
    /// executions have read and the iterator must leave out: after a restart it must yield the same items in the
    /// same order as before, without the first ones.
    pub fn new(make: F) -> Self {
        Self { make, items: None, read: 0 }
    }
}

/// A clone has not been opened.
impl<F: Clone, I> Clone for IteratorReader<F, I> {
    fn clone(&self) -> Self {
        Self { make: self.make.clone(), items: None, read: 0 }
    }
}

impl<F, I, T> ItemReader for IteratorReader<F, I>
where
    F: Fn(usize) -> Result<I, ItemError> + Send,
    I: Iterator<Item = Result<T, ItemError>> + Send,
    T: Send + Sync,
{
    type Item = T;
    type Position = usize;

    fn open(&mut self, position: Option<usize>, _: &StepScope) -> Result<(), ItemError> {
        self.read = position.unwrap_or(0);
        self.items = Some((self.make)(self.read)?);
        Ok(())
    }

    #[inline]
    fn read(&mut self) -> Result<Option<T>, ItemError> {
        let next = self.items.as_mut().and_then(Iterator::next);
        self.read += usize::from(next.is_some());
        next.transpose()
    }

    fn position(&self) -> usize {
        self.read
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.items = None;
        Ok(())
    }
}

/// A reader made from a function that reads the item at a position and advances the position.
///
/// ```
/// use batchwright::item::{FunctionReader, NoWriter};
/// use batchwright::ChunkStepBuilder;
///
/// // The position is the number of the next page, from 0.
/// let step = ChunkStepBuilder::new("pages")
///     .reader(FunctionReader::new(|page: &mut u32| {
///         if *page == 3 {
///             return Ok(None);
///         }
///         *page += 1;
///         Ok(Some(format!("page {page}")))
///     }))
///     .writer(NoWriter::new())
///     .build();
/// ```
#[derive(Debug, Clone)]
pub struct FunctionReader<P, F> {
    function: F,
    position: P,
}

impl<P: Default, F> FunctionReader<P, F> {
    /// Creates a reader that calls `function` for each item. The function returns `None` at the end of the input. It
    /// gets the position of the last committed item after a restart, and `P::default()` at the first start. A
    /// failed call must advance the position too, because the item may be skipped; a call that returns `None` must
    /// not. Keep all state in the position: each execution uses a clone of `function`.
    pub fn new<T>(function: F) -> Self
    where
        F: FnMut(&mut P) -> Result<Option<T>, ItemError>,
    {
        Self { function, position: P::default() }
    }
}

impl<P, F, T> ItemReader for FunctionReader<P, F>
where
    P: Serialize + DeserializeOwned + Default + Clone + Send + 'static,
    F: FnMut(&mut P) -> Result<Option<T>, ItemError> + Send,
    T: Send + Sync,
{
    type Item = T;
    type Position = P;

    fn open(&mut self, position: Option<P>, _: &StepScope) -> Result<(), ItemError> {
        self.position = position.unwrap_or_default();
        Ok(())
    }

    #[inline]
    fn read(&mut self) -> Result<Option<T>, ItemError> {
        (self.function)(&mut self.position)
    }

    fn position(&self) -> P {
        self.position.clone()
    }
}

/// Two processors, one after the other: an item that the first filters out does not reach the second.
#[derive(Debug, Clone)]
#[doc(hidden)]
pub struct ProcessorChain<A, B> {
    first: A,
    second: B,
}

impl<A, B> ProcessorChain<A, B> {
    /// Creates a processor that passes the outputs of `first` to `second`.
    pub fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

impl<I, A, B> ItemProcessor<I> for ProcessorChain<A, B>
where
    A: ItemProcessor<I>,
    B: ItemProcessor<A::Output>,
{
    type Output = B::Output;

    #[inline]
    fn process(&self, item: &I) -> Result<Option<B::Output>, ItemError> {
        match self.first.process(item)? {
            Some(between) => self.second.process(&between),
            None => Ok(None),
        }
    }

    fn processes_all(&self) -> bool {
        self.first.processes_all() || self.second.processes_all()
    }

    fn process_all(
        &self,
        items: &[I],
        is_last: &dyn Fn(&ItemError) -> bool,
    ) -> Vec<Result<Option<B::Output>, ItemError>> {
        let mut between = Vec::with_capacity(items.len());
        let first = self.first.process_all(items, is_last);
        let first: Vec<Result<bool, ItemError>> = first
            .into_iter()
            .map(|result| result.map(|output| output.map(|one| between.push(one)).is_some()))
            .collect();
        let mut second = self.second.process_all(&between, is_last).into_iter();
        let result = |first| match first {
            // The second processor has ended early.
            Ok(true) => second.next(),
            Ok(false) => Some(Ok(None)),
            Err(error) => Some(Err(error)),
        };
        first.into_iter().map_while(result).collect()
    }
}

/// A writer of lists, whose elements another writer writes: for processors that make several outputs of one input.
///
/// An input with all its outputs is one item for the step: it is counted, retried and skipped as a whole. The
/// elements are cloned once for each write.
#[derive(Debug, Clone)]
pub struct FlatWriter<W>(W);

impl<W> FlatWriter<W> {
    /// Creates a writer that passes the elements of lists to `writer`.
    pub fn new(writer: W) -> Self {
        Self(writer)
    }
}

impl<T: Clone, W: ItemWriter<T>> ItemWriter<Vec<T>> for FlatWriter<W> {
    fn write(
        &mut self,
        items: &[Vec<T>],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        match items.concat() {
            elements if elements.is_empty() => Ok(()),
            elements => self.0.write(&elements, chunk),
        }
    }

    forward_writer!(0);
}
