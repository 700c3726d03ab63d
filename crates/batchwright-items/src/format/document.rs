//! Documents: files of one value whose elements are the records, such as a JSON array or an XML file.

use std::path::PathBuf;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{Block, ItemReader, Total};
use batchwright::scope::StepScope;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::raw::{RAW_BYTES_KEPT, RECORD_BYTES_MAX, RawRecord, RawRecords};
use crate::key::At;
use crate::transport::input::{Input, Mark};
use crate::transport::{ByteSource, IfChanged, InputIdentity, file};

/// A format whose files are documents: it finds the elements that are records, and decodes them.
pub trait Document: Send + Sync + 'static {
    /// The item of an element.
    type Item: Send + Sync + 'static;
    /// What a restart must know beside the byte.
    type Place: Clone + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Consumes what precedes the next element, and finds its end; `None` at the end of the document. An element has at most
    /// `bytes_max` bytes. Without an element, `place` stays unchanged.
    ///
    /// # Errors
    ///
    /// Of a kind that is never skipped: the document is not well-formed, and no further element can be found.
    #[doc(hidden)]
    fn find(
        &self,
        place: &mut Self::Place,
        input: &mut Input,
        bytes_max: usize,
    ) -> Result<Option<Found>, ItemError>;

    /// Returns the item of `element`; called from several threads at once.
    ///
    /// # Errors
    ///
    /// The element counts as failed. The reader adds its location and its bytes.
    fn decode(&self, place: &Self::Place, element: &[u8]) -> Result<Self::Item, ItemError>;
}

/// An element that was found.
#[doc(hidden)]
#[derive(Debug)]
pub enum Found {
    /// It is the first bytes of the input that are not consumed, this many.
    Element(usize),
    /// It is too long and was consumed: its first bytes, and the offset of the first one.
    TooLong(Vec<u8>, u64),
}

/// An element whose end is searched. One that is too long is consumed on the way, so that it needs no memory; what is known of it
/// does not depend on the sizes of the reads.
#[derive(Debug)]
pub(super) struct Growing {
    /// Offset of its first byte.
    begin: u64,
    /// Bytes of the element that are not consumed.
    pub(super) at: usize,
    /// The first bytes of an element that is consumed.
    raw: Option<Vec<u8>>,
}

impl Growing {
    /// An element that begins where `input` is.
    pub(super) fn begin(input: &Input) -> Self {
        Self { begin: input.byte(), at: 0, raw: None }
    }

    /// Adds the next `length` bytes.
    pub(super) fn pass(&mut self, length: usize, input: &mut Input, bytes_max: usize) {
        self.at += length;
        if self.at > bytes_max.max(RAW_BYTES_KEPT) {
            self.raw.get_or_insert_with(|| input.rest()[..RAW_BYTES_KEPT].to_vec());
            input.consume(self.at);
            self.at = 0;
        }
    }

    /// Returns the element, whose last bytes were added.
    pub(super) fn found(self, input: &mut Input, bytes_max: usize) -> Found {
        let Self { begin, at, raw } = self;
        if at <= bytes_max && raw.is_none() {
            return Found::Element(at);
        }
        let raw = raw.unwrap_or_else(|| input.rest()[..at.min(RAW_BYTES_KEPT)].to_vec());
        input.consume(at);
        Found::TooLong(raw, begin)
    }
}

/// Returns the error of a document in which no further element can be found.
pub(super) fn malformed(what: &str) -> ItemError {
    ItemError::fatal(format!("cannot read the document: {what}"))
}

/// A position in a document: the bytes and elements consumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentPosition<P> {
    /// Bytes consumed.
    pub byte: u64,
    /// Elements consumed.
    pub element: u64,
    /// What the format must know beside the byte.
    pub place: P,
    /// Identity of the file; `None` for a pipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputIdentity>,
}

/// A reader of the elements of a document, one after another, without holding the document in memory.
///
/// An element that cannot be decoded, or is too long, is one failed record. A document that is not well-formed around its
/// elements, or that ends too early, fails the step.
pub struct DocumentReader<D: Document> {
    source: Arc<dyn ByteSource>,
    document: Arc<D>,
    bytes_max: usize,
    may_have_changed: bool,
    open: Option<Opened<D::Place>>,
    /// Size of the last block, which the next one will have too.
    block_bytes: usize,
}

impl<D: Document> std::fmt::Debug for DocumentReader<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = self.source.shown();
        f.debug_struct("DocumentReader").field("source", &source).finish_non_exhaustive()
    }
}

struct Opened<P> {
    input: Input,
    place: P,
    elements: u64,
    /// The position after the last element, once there is no further one.
    last: Option<Mark>,
    /// Whether there is none because the search for one failed.
    is_broken: bool,
}

/// A clone has not been opened.
impl<D: Document> Clone for DocumentReader<D> {
    fn clone(&self) -> Self {
        Self {
            bytes_max: self.bytes_max,
            may_have_changed: self.may_have_changed,
            ..Self::sharing(Arc::clone(&self.source), Arc::clone(&self.document))
        }
    }
}

impl<D: Document> DocumentReader<D> {
    /// Creates a reader of the document at `path`.
    pub fn of(path: impl Into<PathBuf>, document: D) -> Self {
        Self::sharing(file(path), Arc::new(document))
    }

    pub(super) fn sharing(source: Arc<dyn ByteSource>, document: Arc<D>) -> Self {
        Self {
            source,
            document,
            bytes_max: RECORD_BYTES_MAX,
            may_have_changed: false,
            open: None,
            block_bytes: 0,
        }
    }

    /// Reads from `source` instead of the file.
    #[must_use]
    pub fn from_source(mut self, source: Arc<dyn ByteSource>) -> Self {
        self.source = source;
        self
    }

    /// Sets the maximum length of an element, in bytes; a longer one is an error of kind `data.too_long`. Default 1 MiB.
    #[must_use]
    pub fn record_bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Lets a restart continue at the stored byte although the file is no longer the one of the checkpoint.
    /// Default: such a restart is refused.
    #[must_use]
    pub fn may_have_changed(mut self) -> Self {
        self.may_have_changed = true;
        self
    }

    /// Sets what a job file gives.
    pub(super) fn with_keys(
        mut self,
        element_bytes_max: Option<usize>,
        if_changed: Option<&At<IfChanged>>,
    ) -> Self {
        self.bytes_max = element_bytes_max.unwrap_or(self.bytes_max);
        self.may_have_changed = IfChanged::continues(if_changed);
        self
    }
}

/// Elements, and what decodes them.
struct DocumentBlock<D: Document> {
    elements: RawRecords,
    document: Arc<D>,
    /// Places, each with the index of the first element that it is of; the first one is that of the beginning.
    places: Vec<(usize, D::Place)>,
}

impl<D: Document> Block<D::Item> for DocumentBlock<D> {
    fn records(&self) -> usize {
        self.elements.left()
    }

    fn is_last(&self) -> bool {
        self.elements.is_last
    }

    fn decode(&mut self, take: &mut dyn FnMut(D::Item)) -> Result<(), ItemError> {
        let Self { elements, document, places } = self;
        loop {
            let index = elements.consumed();
            let Some(RawRecord { line, .. }) = elements.next()? else { return Ok(()) };
            let after = places.partition_point(|(first, _)| *first <= index);
            let item = document.decode(&places[after - 1].1, line.bytes);
            take(item.map_err(|error| blamed(error, line.number, line.byte, line.bytes))?);
        }
    }
}

/// Returns `error` with the location and the first bytes of an element.
fn blamed(error: ItemError, element: u64, byte: u64, raw: &[u8]) -> ItemError {
    let raw = &raw[..raw.len().min(RAW_BYTES_KEPT)];
    error.at(format!("element {element}, byte {byte}")).with_raw(raw)
}

impl<P: Clone> Opened<P> {
    /// Passes the next element, with its number and its byte, to `take`; `None` at the end. The element is then consumed.
    fn next<D: Document<Place = P>, T>(
        &mut self,
        document: &D,
        bytes_max: usize,
        take: impl FnOnce(&P, &[u8], u64, u64) -> Result<T, ItemError>,
    ) -> Result<Option<T>, ItemError> {
        let Self { input, place, elements, last, is_broken } = self;
        if last.is_some() {
            return match is_broken {
                true => Err(ItemError::fatal("cannot read on after a failure within the document")),
                false => Ok(None),
            };
        }
        let mark = input.mark();
        let found = document.find(place, input, bytes_max).map_err(|error| {
            *is_broken = true;
            let at = format!("after element {elements}, byte {}", input.byte());
            // What follows cannot be found, whatever a policy tolerates.
            match *error.kind() == ErrorKind::FATAL {
                true => error.at(at),
                false => {
                    let what = "cannot read the document";
                    ItemError::wrap(ErrorKind::FATAL, what, error.into_boxed()).at(at)
                }
            }
        });
        if !matches!(found, Ok(Some(_))) {
            *last = Some(mark);
        }
        match found? {
            None => Ok(None),
            Some(Found::Element(length)) => {
                *elements += 1;
                let taken = take(place, &input.rest()[..length], *elements, input.byte());
                input.consume(length);
                taken.map(Some)
            }
            Some(Found::TooLong(raw, begin)) => {
                *elements += 1;
                let what = format!("cannot read the element: it is longer than {bytes_max} bytes");
                Err(blamed(ItemError::new(ErrorKind::TOO_LONG, what), *elements, begin, &raw))
            }
        }
    }
}

impl<D: Document> ItemReader for DocumentReader<D> {
    type Item = D::Item;
    type Position = DocumentPosition<D::Place>;

    fn open(&mut self, position: Option<Self::Position>, _: &StepScope) -> Result<(), ItemError> {
        let mut input = Input::open(Arc::clone(&self.source))?;
        let (place, elements) = match position {
            None => {
                input.pass_over_mark()?;
                if matches!(input.rest(), [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..]) {
                    return Err(malformed("it is UTF-16; convert it to UTF-8"));
                }
                (D::Place::default(), 0)
            }
            Some(DocumentPosition { byte, element, .. }) if element > byte => {
                let what = "interpret the stored position: it counts more elements than bytes";
                return Err(ItemError::fatal(what));
            }
            Some(DocumentPosition { byte, element, place, input: made_with }) => {
                input.go_to(byte, made_with, self.may_have_changed)?;
                (place, element)
            }
        };
        self.open = Some(Opened { input, place, elements, last: None, is_broken: false });
        Ok(())
    }

    fn read(&mut self) -> Result<Option<D::Item>, ItemError> {
        let Self { open, document, bytes_max, .. } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        open.next(&**document, *bytes_max, |place, element, number, byte| {
            let item = document.decode(place, element);
            item.map_err(|error| blamed(error, number, byte, element))
        })
    }

    fn reads_blocks(&self) -> bool {
        true
    }

    fn read_block(&mut self, records: usize) -> Result<Box<dyn Block<D::Item>>, ItemError> {
        let Self { open, document, bytes_max, block_bytes, .. } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed file"))?;
        let mut elements = RawRecords::with_capacity(*block_bytes);
        let mut places = vec![(0, open.place.clone())];
        while elements.left() < records {
            let next = open.next(&**document, *bytes_max, |place, element, number, byte| {
                if places.last().is_some_and(|(_, last)| last != place) {
                    places.push((elements.left(), place.clone()));
                }
                elements.push(element, number, byte);
                Ok(())
            });
            match next {
                Ok(Some(())) => {}
                Ok(None) => {
                    elements.is_last = true;
                    break;
                }
                Err(error) if *error.kind() == ErrorKind::TOO_LONG => elements.push_failed(error),
                Err(error) => {
                    elements.push_failed(error);
                    break;
                }
            }
        }
        *block_bytes = elements.size();
        Ok(Box::new(DocumentBlock { elements, document: Arc::clone(document), places }))
    }

    fn position(&self) -> Self::Position {
        match &self.open {
            None => {
                DocumentPosition { byte: 0, element: 0, place: D::Place::default(), input: None }
            }
            Some(Opened { input, place, elements, last, .. }) => {
                let (byte, identity) = match last {
                    None => (input.byte(), input.identity()),
                    Some(mark) => input.byte_and_identity(mark),
                };
                let (element, place) = (*elements, place.clone());
                DocumentPosition { byte, element, place, input: identity }
            }
        }
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn total(&self) -> Option<Total> {
        self.open.as_ref()?.input.length().map(Total::Bytes)
    }

    fn done(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.input.byte())
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.open = None;
        Ok(())
    }
}
