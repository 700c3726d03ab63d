//! A reader that shows its next item before it is read.

use super::{Acknowledge, ItemReader, Total};
use crate::error::ItemError;
use crate::scope::StepScope;

/// A reader that can show its next item: for records that span several items, such as an order with its lines.
///
/// ```
/// use batchwright::item::{ItemReader, ListReader, PeekableReader};
/// use batchwright::scope::StepScope;
/// use batchwright::ItemError;
///
/// /// Reads the runs of equal numbers.
/// #[derive(Clone)]
/// struct Runs(PeekableReader<ListReader<u32>>);
///
/// impl ItemReader for Runs {
///     type Item = Vec<u32>;
///     type Position = <ListReader<u32> as ItemReader>::Position;
///
///     fn open(&mut self, position: Option<Self::Position>, scope: &StepScope) -> Result<(), ItemError> {
///         self.0.open(position, scope)
///     }
///
///     fn read(&mut self) -> Result<Option<Vec<u32>>, ItemError> {
///         let Some(first) = self.0.read()? else { return Ok(None) };
///         let mut run = vec![first];
///         while self.0.peek() == Some(&first) {
///             run.extend(self.0.read()?);
///         }
///         Ok(Some(run))
///     }
///
///     fn position(&self) -> Self::Position {
///         self.0.position()
///     }
/// }
///
/// let mut runs = Runs(PeekableReader::new(ListReader::new(vec![1, 1, 2, 3, 3])));
/// let bench = batchwright::testing::StepBench::new();
/// assert_eq!(bench.read_all(&mut runs, None), [vec![1, 1], vec![2], vec![3, 3]]);
/// ```
pub struct PeekableReader<R: ItemReader> {
    reader: R,
    peeked: Option<Peeked<R>>,
}

/// An item that was shown and not read yet, or the error of a record that will be read next.
struct Peeked<R: ItemReader> {
    item: Result<R::Item, ItemError>,
    /// The position before the item.
    position: R::Position,
    done: u64,
}

impl<R: ItemReader> PeekableReader<R> {
    /// Creates a reader of the items of `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, peeked: None }
    }

    /// Returns the next item without reading it; `None` at the end of the input, and when the next record cannot be read:
    /// the next [`read`](ItemReader::read) returns its error.
    pub fn peek(&mut self) -> Option<&R::Item> {
        if self.peeked.is_none() {
            let (position, done) = (self.reader.position(), self.reader.done());
            let item = self.reader.read().transpose()?;
            self.peeked = Some(Peeked { item, position, done });
        }
        self.peeked.as_ref()?.item.as_ref().ok()
    }
}

impl<R: ItemReader + std::fmt::Debug> std::fmt::Debug for PeekableReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeekableReader").field("reader", &self.reader).finish_non_exhaustive()
    }
}

/// A clone has not been opened.
impl<R: ItemReader + Clone> Clone for PeekableReader<R> {
    fn clone(&self) -> Self {
        Self::new(self.reader.clone())
    }
}

impl<R: ItemReader<Position: Clone>> ItemReader for PeekableReader<R> {
    type Item = R::Item;
    type Position = R::Position;

    fn open(&mut self, position: Option<R::Position>, scope: &StepScope) -> Result<(), ItemError> {
        self.peeked = None;
        self.reader.open(position, scope)
    }

    fn read(&mut self) -> Result<Option<R::Item>, ItemError> {
        match self.peeked.take() {
            Some(peeked) => peeked.item.map(Some),
            None => self.reader.read(),
        }
    }

    fn position(&self) -> R::Position {
        match &self.peeked {
            Some(peeked) => peeked.position.clone(),
            None => self.reader.position(),
        }
    }

    fn rereads(&self) -> bool {
        self.reader.rereads()
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        self.reader.pass_over()
    }

    fn reads_ahead(&self) -> bool {
        self.reader.reads_ahead()
    }

    fn total(&self) -> Option<Total> {
        self.reader.total()
    }

    fn done(&self) -> u64 {
        self.peeked.as_ref().map_or_else(|| self.reader.done(), |peeked| peeked.done)
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<R::Position>>> {
        self.reader.acknowledger()
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.peeked = None;
        self.reader.close()
    }
}
