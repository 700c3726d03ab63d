//! Asynchronous readers: of pages, and of streams.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::StopToken;
use crate::error::{ErrorKind, ItemError};
use crate::item::{ItemReader, Total};
use crate::runtime::{STOP_GRACE, wait};
use crate::scope::StepScope;

/// Most items of a stream that are taken at once while it has some ready.
const READY_MAX: usize = 256;

/// A page of an input.
#[derive(Debug, Clone)]
pub struct Page<T, P> {
    /// The items, in order. An empty page is not the end of the input.
    pub items: Vec<T>,
    /// The position of the next page; `None`: this page is the last one.
    pub next: Option<P>,
}

/// An input of pages that are read asynchronously: an HTTP API, a database.
///
/// The checkpoint is the position of the page and the number of its items that are committed. After a restart
/// the page is read again, without those items: the page at a position must stay the same.
///
/// [`ChunkStepBuilder::async_reader`](crate::ChunkStepBuilder::async_reader) has an example.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an asynchronous item reader",
    note = "implement `AsyncItemReader`, or use `StreamReader` for a stream"
)]
pub trait AsyncItemReader: Send {
    /// The type of an item.
    type Item: Send + Sync;
    /// The position of a page: a number, a cursor, the last key.
    type Position: Serialize + DeserializeOwned + Clone + Send + 'static;

    /// Prepares for reading; `scope` has the parameters. Default: nothing.
    ///
    /// # Errors
    ///
    /// The step fails and stays restartable; nothing was read.
    fn open(&mut self, scope: &StepScope) -> impl Future<Output = Result<(), ItemError>> {
        let _ = scope;
        async { Ok(()) }
    }

    /// Reads the page at `position`; `None`: the first page.
    ///
    /// # Errors
    ///
    /// No item was consumed: a retry reads the page again. A page cannot be skipped.
    fn read_page(
        &mut self,
        position: Option<&Self::Position>,
    ) -> impl Future<Output = Result<Page<Self::Item, Self::Position>, ItemError>>;

    /// Returns the number of items of all pages, for progress. Called after `open`, which may find it out. Default: unknown.
    fn total(&self) -> Option<u64> {
        None
    }

    /// Releases connections. Called once for every `open`, also after a failure. Default: nothing.
    ///
    /// # Errors
    ///
    /// The step fails.
    fn close(&mut self) -> impl Future<Output = Result<(), ItemError>> {
        async { Ok(()) }
    }
}

/// The position in an input of pages.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[doc(hidden)]
pub struct PagePosition<P> {
    /// The position of the page; `None`: the first page.
    page: Option<P>,
    /// Number of items of the page that were consumed.
    items: usize,
    /// Number of items of the pages before it.
    #[serde(default)]
    before: u64,
}

impl<P> PagePosition<P> {
    /// The position of the first item.
    fn first() -> Self {
        Self { page: None, items: 0, before: 0 }
    }
}

/// A reader that drives an [`AsyncItemReader`].
#[derive(Debug)]
pub struct AsyncReader<R: AsyncItemReader> {
    reader: R,
    stop: StopToken,
    position: PagePosition<R::Position>,
    /// Items of the page that are not consumed yet.
    items: std::vec::IntoIter<R::Item>,
    /// The position of the next page, once the page at `position` was read.
    next: Option<Option<R::Position>>,
}

impl<R: AsyncItemReader> AsyncReader<R> {
    /// Creates a reader of the pages of `reader`.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            stop: StopToken::default(),
            position: PagePosition::first(),
            items: Vec::new().into_iter(),
            next: None,
        }
    }

    /// Reads the first page at the position of the checkpoint, without the items that were consumed before.
    fn read_first(&mut self) -> Result<(), ItemError> {
        let page = self.position.page.as_ref();
        let read = wait(&self.stop, Duration::ZERO, self.reader.read_page(page))??;
        let (count, consumed) = (read.items.len(), self.position.items);
        if count < consumed {
            return Err(ItemError::new(
                ErrorKind::INPUT_CHANGED,
                format!("the page has {count} items, but {consumed} of it were read before"),
            ));
        }
        self.items = read.items.into_iter();
        self.items.by_ref().take(consumed).for_each(drop);
        self.next = Some(read.next);
        Ok(())
    }

    /// Reads the pages from `page` on, up to one with items. The position changes only then, so that a failed read, and
    /// the one that finds the end, leave it.
    fn read_next(&mut self, mut page: R::Position) -> Result<(), ItemError> {
        loop {
            let read = wait(&self.stop, Duration::ZERO, self.reader.read_page(Some(&page)))??;
            match (read.items.is_empty(), read.next) {
                (true, Some(next)) => page = next,
                (true, None) => {
                    self.next = Some(None);
                    return Ok(());
                }
                (false, next) => {
                    let before = self.done();
                    self.position = PagePosition { page: Some(page), items: 0, before };
                    (self.items, self.next) = (read.items.into_iter(), Some(next));
                    return Ok(());
                }
            }
        }
    }
}

/// A clone has not been opened.
impl<R: AsyncItemReader + Clone> Clone for AsyncReader<R> {
    fn clone(&self) -> Self {
        Self::new(self.reader.clone())
    }
}

impl<R: AsyncItemReader> ItemReader for AsyncReader<R> {
    type Item = R::Item;
    type Position = PagePosition<R::Position>;

    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        self.stop = scope.stop().clone();
        self.position = position.unwrap_or_else(PagePosition::first);
        self.items = Vec::new().into_iter();
        self.next = None;
        wait(&self.stop, Duration::ZERO, self.reader.open(scope))?
    }

    #[inline]
    fn read(&mut self) -> Result<Option<R::Item>, ItemError> {
        loop {
            if let Some(item) = self.items.next() {
                self.position.items += 1;
                return Ok(Some(item));
            }
            match &self.next {
                Some(None) => return Ok(None),
                Some(Some(next)) => self.read_next(next.clone())?,
                None => self.read_first()?,
            }
        }
    }

    fn position(&self) -> Self::Position {
        self.position.clone()
    }

    fn rereads(&self) -> bool {
        true
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        Err(ItemError::fatal("cannot skip a page that cannot be read: the next one is unknown"))
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn total(&self) -> Option<Total> {
        self.reader.total().map(Total::Items)
    }

    fn done(&self) -> u64 {
        self.position.before + self.position.items as u64
    }

    fn close(&mut self) -> Result<(), ItemError> {
        wait(&self.stop, STOP_GRACE, self.reader.close())?
    }
}

/// A reader of a stream. Its position is the number of items that were read.
///
/// ```
/// use batchwright::item::{NoWriter, StreamReader};
/// use batchwright::ChunkStepBuilder;
/// use futures_util::{StreamExt, stream};
///
/// let step = ChunkStepBuilder::new("print")
///     .reader(StreamReader::new(|read| stream::iter(0..1_000).skip(read).map(Ok)))
///     .writer(NoWriter::<i32>::new())
///     .build();
/// ```
pub struct StreamReader<F, S, T> {
    make: F,
    stream: Option<Pin<Box<S>>>,
    /// Items that the stream had ready.
    ready: VecDeque<Result<T, ItemError>>,
    read: usize,
    stop: StopToken,
}

impl<F, S, T> StreamReader<F, S, T>
where
    F: Fn(usize) -> S,
    S: Stream<Item = Result<T, ItemError>>,
{
    /// Creates a reader of the stream that `make` returns. `make` gets the number of items that earlier
    /// executions have read and the stream must leave out: after a restart it must yield the same items in the
    /// same order as before, without the first ones.
    pub fn new(make: F) -> Self {
        let (ready, stop) = (VecDeque::new(), StopToken::default());
        Self { make, stream: None, ready, read: 0, stop }
    }
}

impl<F, S, T> std::fmt::Debug for StreamReader<F, S, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamReader").field("read", &self.read).finish_non_exhaustive()
    }
}

/// A clone has not been opened.
impl<F: Clone, S, T> Clone for StreamReader<F, S, T> {
    fn clone(&self) -> Self {
        let (ready, stop) = (VecDeque::new(), StopToken::default());
        Self { make: self.make.clone(), stream: None, ready, read: 0, stop }
    }
}

impl<F, S, T> ItemReader for StreamReader<F, S, T>
where
    F: Fn(usize) -> S + Send,
    S: Stream<Item = Result<T, ItemError>> + Send,
    T: Send + Sync,
{
    type Item = T;
    type Position = usize;

    fn open(&mut self, position: Option<usize>, scope: &StepScope) -> Result<(), ItemError> {
        self.stop = scope.stop().clone();
        self.read = position.unwrap_or(0);
        self.ready.clear();
        // A function that makes a stream may need the runtime.
        let (make, read) = (&self.make, self.read);
        let stream = wait(&self.stop, Duration::ZERO, async { make(read) })?;
        self.stream = Some(Box::pin(stream));
        Ok(())
    }

    #[inline]
    fn read(&mut self) -> Result<Option<T>, ItemError> {
        if self.ready.is_empty() {
            self.take_ready()?;
        }
        let next = self.ready.pop_front();
        self.read += usize::from(next.is_some());
        next.transpose()
    }

    fn position(&self) -> usize {
        self.read
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.drop_stream()
    }
}

impl<F, S, T> StreamReader<F, S, T>
where
    S: Stream<Item = Result<T, ItemError>>,
{
    /// Drops the stream within the runtime, which its sockets and timers need.
    fn drop_stream(&mut self) -> Result<(), ItemError> {
        let stream = self.stream.take();
        wait(&self.stop, STOP_GRACE, async { drop(stream) })
    }

    /// Waits for an item, and takes those that are ready after it. None remains ready at the end of the stream.
    fn take_ready(&mut self) -> Result<(), ItemError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let ready = &mut self.ready;
        let mut is_over = false;
        wait(
            &self.stop,
            Duration::ZERO,
            poll_fn(|context| {
                while ready.len() < READY_MAX {
                    match stream.as_mut().poll_next(context) {
                        Poll::Ready(Some(item)) => ready.push_back(item),
                        Poll::Ready(None) => {
                            is_over = true;
                            return Poll::Ready(());
                        }
                        Poll::Pending if ready.is_empty() => return Poll::Pending,
                        Poll::Pending => return Poll::Ready(()),
                    }
                }
                Poll::Ready(())
            }),
        )?;
        if is_over {
            self.drop_stream()?;
        }
        Ok(())
    }
}
