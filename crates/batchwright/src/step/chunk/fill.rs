//! Reading: fills chunks, collects failed reads, and records the reader's position.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::checkpoint::to_json;
use super::process::Fault;
use super::retries::Retries;
use super::{Hooks, Settings};
use crate::error::{ErrorKind, ItemError};
use crate::event::{Progress, ProgressUnit};
use crate::execution::Phase;
use crate::item::{Block, ItemReader, Total, guarded};
use crate::retry::FailedAttempts;

/// A chunk as read: its items, its failed reads, and the reader's position after it.
pub(super) struct Filled<I> {
    pub(super) items: Vec<I>,
    /// The records of the chunk, if they are not decoded yet; `items` and `failures` are empty then.
    pub(super) block: Option<Box<dyn Block<I>>>,
    /// Number of items read; `items` is shorter after its items became outputs unchanged.
    pub(super) count: usize,
    pub(super) failures: Vec<ReadFailure>,
    pub(super) end: End,
    /// JSON of the reader's position after the last record.
    pub(super) position: String,
    /// Number of records discarded because an earlier execution resolved them.
    pub(super) dropped: u64,
    pub(super) progress: Option<Progress>,
    /// How long reading took, with the decoding.
    pub(super) took: Duration,
}

/// A record that could not be read, after `before` items of the chunk.
pub(super) struct ReadFailure {
    pub(super) before: usize,
    /// 1-based record number within the chunk.
    pub(super) record: u64,
    pub(super) error: ItemError,
}

/// The reason why reading a chunk ended.
pub(super) enum End {
    /// The chunk is full.
    Full,
    /// The input is exhausted.
    Exhausted,
    /// A failure is not tolerated.
    Failed(ItemError),
    /// A listener failed.
    Listener(&'static str, ItemError),
}

impl<I> Filled<I> {
    pub(super) fn failed(error: ItemError) -> Self {
        Self { end: End::Failed(error), ..Self::empty(Vec::new()) }
    }

    fn empty(items: Vec<I>) -> Self {
        Self {
            items,
            block: None,
            count: 0,
            failures: Vec::new(),
            end: End::Full,
            position: String::new(),
            dropped: 0,
            progress: None,
            took: Duration::ZERO,
        }
    }

    /// Whether no chunk follows this one.
    pub(super) fn is_last(&self) -> bool {
        !matches!(self.end, End::Full)
    }

    /// Returns the number of records consumed, including discarded and failed ones.
    pub(super) fn records(&self) -> u64 {
        self.dropped + (self.count + self.failures.len()) as u64
    }

    /// Returns the 1-based record number, within the chunk, of item `index`.
    pub(super) fn record_of_item(&self, index: usize) -> u64 {
        let failed = self.failures.partition_point(|failure| failure.before <= index);
        self.dropped + (index + failed) as u64 + 1
    }
}

/// A filler of chunks from a reader.
pub(super) struct Filler<'a, R: ItemReader, O> {
    reader: &'a mut R,
    settings: &'a Settings,
    hooks: &'a Hooks<R::Item, O>,
    retries: Retries<'a>,
    /// Number of records to discard first, because an earlier execution resolved them.
    drop: u64,
    consecutive_failures: u64,
    /// JSON of the reader's position after the first of the consecutive failures.
    failing_at: String,
    /// Time at which the first record of the chunk was consumed.
    begun: Option<Duration>,
    total: Option<Total>,
    /// Whether chunks are read as blocks, which other threads decode.
    pub(super) in_blocks: bool,
}

/// The end of a run of successful reads.
enum ReadEnd {
    Full,
    Exhausted,
    Failed(ItemError),
    Listener(&'static str, ItemError),
}

impl<'a, R: ItemReader, O> Filler<'a, R, O> {
    pub(super) fn new(
        reader: &'a mut R,
        settings: &'a Settings,
        hooks: &'a Hooks<R::Item, O>,
        retries: Retries<'a>,
        drop: u64,
        in_blocks: bool,
    ) -> Self {
        let total = reader.total();
        Self {
            reader,
            settings,
            hooks,
            retries,
            drop,
            consecutive_failures: 0,
            failing_at: String::new(),
            begun: None,
            total,
            in_blocks,
        }
    }

    /// Reads the next chunk into `items`. The old content, left by a settled chunk, is dropped here, on the
    /// thread that allocated it: memory that one thread allocates and another frees is slow.
    pub(super) fn fill(&mut self, mut items: Vec<R::Item>) -> Filled<R::Item> {
        items.clear();
        let begun = self.retries.clock.elapsed();
        self.begun = None;
        let mut filled = Filled::empty(items);
        filled.end = match self.throw_away_resolved(&mut filled) {
            Some(end) => end,
            None if filled.dropped == 0 && self.in_blocks => self.read_block(&mut filled),
            None => self.fill_until_end(&mut filled),
        };
        filled.count = filled.items.len();
        if !matches!(filled.end, End::Failed(_) | End::Listener(..)) {
            let (reader, position) = (&*self.reader, &mut filled.position);
            let noted = guarded(|| to_json(&reader.position(), position));
            if let Err(error) = noted {
                filled.end = End::Failed(error);
            }
            filled.progress = self.progress();
        }
        filled.took = self.retries.clock.elapsed().saturating_sub(begun);
        filled
    }

    fn progress(&self) -> Option<Progress> {
        let (total, unit) = match self.total? {
            Total::Items(total) => (total, ProgressUnit::Items),
            Total::Bytes(total) => (total, ProgressUnit::Bytes),
        };
        Some(Progress { done: self.reader.done(), total, unit })
    }

    /// Discards the records that an interrupted scan resolved, failed or not; no counter includes them.
    fn throw_away_resolved(&mut self, filled: &mut Filled<R::Item>) -> Option<End> {
        while self.drop > 0 {
            let reader = &mut *self.reader;
            let policy = &self.settings.skip;
            let passed = guarded(|| match reader.read() {
                // Only a failure that could be skipped then can be discarded now.
                Err(error) if !policy.tolerates(Phase::Read, &error) => Err(error),
                Err(_) if reader.rereads() => reader.pass_over().map(|()| true),
                read => Ok(!matches!(read, Ok(None))),
            });
            match passed {
                Ok(true) => {}
                Ok(false) => return Some(End::Exhausted),
                Err(error) => return Some(End::Failed(error)),
            }
            self.drop -= 1;
            filled.dropped += 1;
        }
        None
    }

    /// Reads a chunk as a block. After a block that ends early, and after a failure, the reader goes on record by record.
    fn read_block(&mut self, filled: &mut Filled<R::Item>) -> End {
        let (reader, size) = (&mut *self.reader, self.settings.completion().items.get());
        let read = guarded(|| {
            let block = reader.read_block(size)?;
            let (records, is_last) = (block.records(), block.is_last());
            Ok((block, records, is_last))
        });
        match read {
            Ok((block, records, is_last)) => {
                filled.block = Some(block);
                self.in_blocks = records >= size;
                if is_last { End::Exhausted } else { End::Full }
            }
            // The state of the reader after a panic is unknown.
            Err(error) if *error.kind() == ErrorKind::PANIC => End::Failed(error),
            Err(error) => {
                self.in_blocks = false;
                self.give_up(error, filled).unwrap_or_else(|| self.fill_until_end(filled))
            }
        }
    }

    fn fill_until_end(&mut self, filled: &mut Filled<R::Item>) -> End {
        filled.items.reserve(self.settings.completion().items.get().min(ITEMS_RESERVED_MAX));
        let mut failed = FailedAttempts::default();
        loop {
            let before = filled.items.len();
            // A chunk ends after a number of consumed records, including failed ones.
            let size = self.settings.completion().items.get() - filled.failures.len();
            let end = catch_unwind(AssertUnwindSafe(|| self.read_on(&mut filled.items, size)));
            if filled.items.len() > before {
                self.consecutive_failures = 0;
                failed = FailedAttempts::default();
            }
            let error = match end {
                Ok(ReadEnd::Full) => return End::Full,
                Ok(ReadEnd::Exhausted) => return End::Exhausted,
                Ok(ReadEnd::Listener(call, error)) => return End::Listener(call, error),
                Ok(ReadEnd::Failed(error)) => error,
                // The state of the reader after a panic is unknown.
                Err(payload) => return End::Failed(ItemError::from_panic(&*payload)),
            };
            for listener in self.hooks.item.iter().rev() {
                if let Err(error) = guarded(|| listener.on_read_error(self.retries.scope, &error)) {
                    return End::Listener("on_read_error", error);
                }
            }
            if self.reader.rereads() {
                match self.retries.wait_for_next(Phase::Read, &mut failed, &error) {
                    Ok(true) => continue,
                    Ok(false) => failed = FailedAttempts::default(),
                    Err(Fault::Listener(call, error)) => return End::Listener(call, error),
                    Err(Fault::Item(stopped)) => return End::Failed(stopped),
                }
            }
            if let Some(end) = self.give_up(error, filled) {
                return end;
            }
        }
    }

    /// Records a failed read. Returns an end when the failure is not tolerated or certainly exceeds the limit, or
    /// when the chunk is full or its time has passed.
    fn give_up(&mut self, error: ItemError, filled: &mut Filled<R::Item>) -> Option<End> {
        let policy = &self.settings.skip;
        if !policy.tolerates(Phase::Read, &error) {
            return Some(End::Failed(error));
        }
        self.consecutive_failures += 1;
        let mut position = String::new();
        if self.consecutive_failures == 1
            || self.consecutive_failures > policy.consecutive_reads_max
        {
            let noted = guarded(|| to_json(&self.reader.position(), &mut position));
            if let Err(error) = noted {
                return Some(End::Failed(error));
            }
        }
        if self.consecutive_failures == 1 {
            self.failing_at = position;
        } else if self.consecutive_failures > policy.consecutive_reads_max {
            // A reader whose position advances reads invalid records; one whose position stays the same is
            // broken.
            if position != self.failing_at {
                self.consecutive_failures = 0;
                return self.give_up(error, filled);
            }
            let count = self.consecutive_failures;
            let what =
                format!("the reader failed {count} times in a row at the same position: {error}");
            return Some(End::Failed(ItemError::fatal(what)));
        }
        let (before, record) = (filled.items.len(), filled.record_of_item(filled.items.len()));
        filled.failures.push(ReadFailure { before, record, error });
        if self.reader.rereads()
            && let Err(error) = guarded(|| self.reader.pass_over())
        {
            return Some(End::Failed(error));
        }
        let is_full =
            filled.items.len() + filled.failures.len() >= self.settings.completion().items.get();
        let too_many = filled.failures.len() as u64 > policy.limit;
        let is_late =
            self.settings.completion().within.is_some_and(|within| self.elapsed() >= within);
        (is_full || too_many || is_late).then_some(End::Full)
    }

    /// Returns the time since the first record of the chunk was consumed.
    fn elapsed(&mut self) -> Duration {
        let now = self.retries.clock.elapsed();
        now.saturating_sub(*self.begun.get_or_insert(now))
    }

    /// Starts the time of the chunk, if this is its first record.
    fn note_record(&mut self) {
        self.elapsed();
    }

    /// Reads items until there are `size`, the input ends, or a read fails.
    fn read_on(&mut self, items: &mut Vec<R::Item>, size: usize) -> ReadEnd {
        if !self.hooks.item.is_empty() || self.hooks.until.is_some() {
            return self.read_on_watched(items, size);
        }
        let Some(within) = self.settings.completion().within else {
            return read_full(self.reader, items, size);
        };
        self.read_on_timed(items, size, within)
    }

    fn read_on_timed(
        &mut self,
        items: &mut Vec<R::Item>,
        size: usize,
        within: Duration,
    ) -> ReadEnd {
        while items.len() < size {
            if self.begun.is_some() && self.elapsed() >= within {
                break;
            }
            match self.reader.read() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => return ReadEnd::Exhausted,
                Err(error) => return ReadEnd::Failed(error),
            }
            self.note_record();
        }
        ReadEnd::Full
    }

    fn read_on_watched(&mut self, items: &mut Vec<R::Item>, size: usize) -> ReadEnd {
        while items.len() < size {
            if let Some(within) = self.settings.completion().within
                && self.begun.is_some()
                && self.elapsed() >= within
            {
                break;
            }
            for listener in &self.hooks.item {
                if let Err(error) = guarded(|| listener.before_read(self.retries.scope)) {
                    return ReadEnd::Listener("before_read", error);
                }
            }
            let item = match self.reader.read() {
                Ok(Some(item)) => item,
                Ok(None) => return ReadEnd::Exhausted,
                Err(error) => return ReadEnd::Failed(error),
            };
            self.note_record();
            for listener in self.hooks.item.iter().rev() {
                if let Err(error) = guarded(|| listener.after_read(self.retries.scope, &item)) {
                    return ReadEnd::Listener("after_read", error);
                }
            }
            let last = self.hooks.until.as_ref().is_some_and(|until| until(&item));
            items.push(item);
            if last {
                break;
            }
        }
        ReadEnd::Full
    }
}

/// Reads until `items` has `size` elements. A separate function, so that the compiler sees that `reader` and
/// `items` do not alias and keeps the counters of a small reader in registers.
#[inline(never)]
fn read_full<R: ItemReader>(reader: &mut R, items: &mut Vec<R::Item>, size: usize) -> ReadEnd {
    while items.len() < size {
        match reader.read() {
            Ok(Some(item)) => items.push(item),
            Ok(None) => return ReadEnd::Exhausted,
            Err(error) => return ReadEnd::Failed(error),
        }
    }
    ReadEnd::Full
}

/// Maximum number of items reserved in advance; a larger chunk grows as it fills.
const ITEMS_RESERVED_MAX: usize = 100_000;
