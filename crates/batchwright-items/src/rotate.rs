//! A writer of one file after another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::item::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use batchwright::policy::Completion;
use batchwright::scope::StepScope;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// When a file is full: after the chunk in which one of these is reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rotation {
    /// Number of items.
    pub items: Option<u64>,
    /// Number of bytes, as they are in the file.
    pub bytes: Option<u64>,
    /// The time since the file was begun.
    pub time: Option<Duration>,
}

/// A writer of one file after another: when a file is full, the next chunk begins another one.
///
/// A full file gets its name once the first chunk of the next one is committed, so that others can take it while the step goes on.
/// A restart continues the file of its checkpoint; a full one that was taken meanwhile is not missed.
///
/// ```no_run
/// use batchwright_items::format::json_lines::JsonLinesWriter;
/// use batchwright_items::rotate::{RotatingWriter, Rotation};
///
/// let rotation = Rotation { items: Some(1_000_000), ..Rotation::default() };
/// let writer = RotatingWriter::new(rotation, |number, _| {
///     Ok(JsonLinesWriter::new(format!("orders-{number:06}.jsonl")))
/// });
/// # fn takes(_: impl batchwright::item::ItemWriter<u64>) {}
/// # takes(writer);
/// ```
pub struct RotatingWriter<M, W, P> {
    rotation: Rotation,
    chunk_items: usize,
    make: M,
    scope: Option<StepScope>,
    clock: SystemClock,
    /// The writer of the last file; `None` before the first write after an attempt that failed.
    current: Option<W>,
    state: State,
    /// Where the current file is, in the position that was asked for last and in that of the last commit.
    asked: Option<P>,
    committed: Option<P>,
    committed_state: State,
    /// The writer of the file before, which is full, and the end of it; until the current file has a commit.
    full: Option<(W, Option<P>)>,
    /// The writer of the last file that got its name; until the next commit.
    named: Option<W>,
}

/// What is written to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The number of the file, from 1.
    number: u64,
    items: u64,
    begun: Timestamp,
}

/// The position in a series of files.
#[derive(Debug, Serialize, Deserialize)]
#[doc(hidden)]
pub struct RotatedPosition<P> {
    #[serde(flatten)]
    file: State,
    at: Option<P>,
    /// The end of the file before, which may not have its name yet.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    before: Option<P>,
}

fn none<P>() -> Option<P> {
    None
}

impl<M, W, P> RotatingWriter<M, W, P>
where
    M: Fn(u64, &StepScope) -> Result<W, ItemError> + Send,
{
    /// Creates a writer of files, each of which `make` makes by its number; the first one has the number 1.
    pub fn new(rotation: Rotation, make: M) -> Self {
        let clock = SystemClock::default();
        let state = State { number: 1, items: 0, begun: Timestamp::UNIX_EPOCH };
        Self {
            rotation,
            chunk_items: Completion::ITEMS_DEFAULT,
            make,
            scope: None,
            clock,
            current: None,
            state,
            asked: None,
            committed: None,
            committed_state: state,
            full: None,
            named: None,
        }
    }
}

impl<M, W, P> RotatingWriter<M, W, P> {
    /// Sets the number of items in a chunk if the step sets none. Default 1000.
    #[must_use]
    pub fn chunk_items(mut self, items: usize) -> Self {
        self.chunk_items = items;
        self
    }
}

/// The length in the position of an output, which is that of a file of this machine or of another place.
#[derive(Deserialize)]
#[serde(untagged)]
enum Length {
    Here { length: u64 },
    There { file: Box<Length> },
    Counted { output: Box<Length> },
}

impl Length {
    fn bytes(&self) -> u64 {
        match self {
            Self::Here { length } => *length,
            Self::There { file: inner } | Self::Counted { output: inner } => inner.bytes(),
        }
    }
}

impl<M, W, P: Serialize> RotatingWriter<M, W, P> {
    /// Whether the current file is full.
    fn is_full(&self) -> bool {
        let Rotation { items, bytes, time } = self.rotation;
        let since = || self.clock.now().duration_since(self.state.begun);
        self.state.items > 0
            && (items.is_some_and(|max| self.state.items >= max)
                || bytes.is_some_and(|max| self.length() >= max)
                || time.is_some_and(|max| since().unsigned_abs() >= max))
    }

    /// The length of the current file at the last commit.
    fn length(&self) -> u64 {
        let json = serde_json::to_string(&self.committed);
        match json.as_deref().map(serde_json::from_str::<Length>) {
            Ok(Ok(length)) => length.bytes(),
            _ => 0,
        }
    }
}

impl<M, W, P> RotatingWriter<M, W, P>
where
    M: Fn(u64, &StepScope) -> Result<W, ItemError> + Send,
{
    fn made<T>(&self, number: u64) -> Result<(W, StepScope), ItemError>
    where
        W: ItemWriter<T>,
    {
        let scope = self.scope.clone();
        let scope =
            scope.ok_or_else(|| ItemError::fatal("cannot write before the writer is opened"))?;
        let writer = (self.make)(number, &scope)?;
        match writer.prepares() {
            false => Ok((writer, scope)),
            true => Err(ItemError::fatal(
                "cannot rotate what is written to another database than the store",
            )),
        }
    }

    /// Forgets the last file that got its name.
    fn forget<T>(&mut self) -> Result<(), ItemError>
    where
        W: ItemWriter<T, Position = P>,
    {
        match (self.named.take(), &self.scope) {
            (Some(named), Some(scope)) => named.forget(scope),
            _ => Ok(()),
        }
    }

    /// Gives the file before `file`, which ends at `end`, its name, unless it has it or had it. `file` was continued up to `at`.
    fn name<T>(&mut self, end: P, file: &State, at: Option<&P>) -> Result<(), ItemError>
    where
        W: ItemWriter<T, Position = P>,
    {
        let (mut writer, scope) = self.made::<T>(file.number.saturating_sub(1))?;
        let is_named = writer.is_named(&end, &scope).or_else(|missing| {
            // The last file of a step gets its name after the one before it.
            let last = self.made::<T>(file.number)?.0;
            match at.map(|at| last.is_named(at, &scope)) {
                Some(Ok(true)) => Ok(true),
                _ => Err(missing),
            }
        });
        if !is_named? {
            writer.open(Some(end), &scope)?;
            writer.close(Ending::Full)?;
        }
        self.named = Some(writer);
        Ok(())
    }
}

impl<T, M, W, P> ItemWriter<T> for RotatingWriter<M, W, P>
where
    M: Fn(u64, &StepScope) -> Result<W, ItemError> + Send,
    W: ItemWriter<T, Position = P>,
    P: Serialize + DeserializeOwned + Clone + Send,
{
    type Position = RotatedPosition<P>;

    fn open(
        &mut self,
        position: Option<RotatedPosition<P>>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.scope = Some(scope.clone());
        let begun = State { number: 1, items: 0, begun: self.clock.now() };
        let RotatedPosition { file, at, before } =
            position.unwrap_or(RotatedPosition { file: begun, at: None, before: None });
        if let Some(end) = before {
            self.name::<T>(end, &file, at.as_ref())?;
        }
        // The process may have died before it forgot these files.
        let known = file.number - u64::from(self.named.is_some());
        for number in known.saturating_sub(2).max(1)..known {
            self.made::<T>(number)?.0.forget(scope)?;
        }
        let (mut writer, scope) = self.made::<T>(file.number)?;
        writer.open(at.clone(), &scope)?;
        self.current = Some(writer);
        (self.state, self.committed_state) = (file, file);
        (self.asked, self.committed, self.full) = (at.clone(), at, None);
        Ok(None)
    }

    fn write(&mut self, items: &[T], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        let begins = self.full.is_none() && self.is_full();
        if begins && let Some(full) = self.current.take() {
            self.full = Some((full, self.committed.clone()));
            let number = self.state.number + 1;
            self.state = State { number, items: 0, begun: self.clock.now() };
        }
        if self.current.is_none() {
            let (mut writer, scope) = self.made::<T>(self.state.number)?;
            writer.open(None, &scope)?;
            self.current = Some(writer);
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        current.write(items, chunk)?;
        self.state.items += items.len() as u64;
        Ok(())
    }

    fn chunk_items(&self) -> usize {
        self.chunk_items
    }

    fn position(&mut self) -> Result<RotatedPosition<P>, ItemError> {
        self.asked = self.current.as_mut().map(ItemWriter::position).transpose()?;
        let before = self.full.as_ref().and_then(|(_, end)| end.clone());
        Ok(RotatedPosition { file: self.state, at: self.asked.clone(), before })
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        (self.committed, self.committed_state) = (self.asked.clone(), self.state);
        if let Some(current) = &mut self.current {
            current.committed()?;
        }
        // No restart asks for it any more.
        self.forget::<T>()?;
        if let Some((mut full, _)) = self.full.take() {
            full.close(Ending::Full)?;
            self.named = Some(full);
        }
        Ok(())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.state = self.committed_state;
        match self.full.take() {
            None => self.current.as_mut().map_or(Ok(()), ItemWriter::rolled_back),
            // The file that this attempt began is begun again when it is needed.
            Some((full, _)) => {
                let begun = self.current.replace(full);
                begun.map_or(Ok(()), |mut begun| begun.close(Ending::Unused))
            }
        }
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        let full = self.full.take().map_or(Ok(()), |(mut full, _)| full.close(ending));
        let current = self.current.take().map_or(Ok(()), |mut current| current.close(ending));
        full.and(current)?;
        // While the last file has no name, the stored position asks for the one before it.
        if matches!(ending, Ending::Complete | Ending::Full) {
            self.forget::<T>()?;
        }
        (self.named, self.scope) = (None, None);
        Ok(())
    }
}

/// The number of the file that is written, which its name has: `${file.number}`.
#[derive(Debug, Clone, Default)]
pub struct FileNumber(Arc<Numbered>);

#[derive(Debug, Default)]
struct Numbered {
    number: AtomicU64,
    names_output: AtomicBool,
}

impl FileNumber {
    /// Whether the path of an output has the number.
    pub fn names_output(&self) -> bool {
        self.0.names_output.load(Ordering::Relaxed)
    }

    /// Sets the number for the names that are made next.
    pub fn set(&self, number: u64) {
        self.0.number.store(number, Ordering::Relaxed);
    }

    pub(crate) fn name_output(&self) {
        self.0.names_output.store(true, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.number.load(Ordering::Relaxed)
    }
}
