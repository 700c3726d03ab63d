//! Processing: turns the inputs of a chunk into outputs, and records filtered and failed inputs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::fill::{End, Filled, ReadFailure};
use super::pipeline::RecycledBuffers;
use super::retries::Retries;
use super::{Hooks, Settings};
use crate::error::ItemError;
use crate::execution::Phase;
use crate::item::{ItemProcessor, guarded};
use crate::retry::{BreakerState, CircuitBreaker, FailedAttempts};

/// A chunk as processed, with everything needed to account for each of its inputs.
pub(super) struct Processed<I, O> {
    pub(super) filled: Filled<I>,
    pub(super) outputs: Vec<O>,
    /// The bytes of the outputs, if they were encoded already.
    pub(super) encoded: Option<Vec<u8>>,
    /// Number of the thread that processed the chunk.
    pub(super) maker: usize,
    /// How long processing took, with the encoding.
    pub(super) took: Duration,
    /// Number of chunks of the input that this one consists of.
    pub(super) chunks: u64,
    /// Inputs without an output, in order.
    pub(super) holes: Vec<Hole>,
    /// The record, 1-based within the chunk, at which processing ended early, and the reason.
    pub(super) failure: Option<(u64, Fault)>,
}

/// An input without an output.
pub(super) struct Hole {
    pub(super) index: usize,
    /// The failure of a skipped input; `None` when the input was filtered out.
    pub(super) skipped: Option<Skipped>,
}

/// The failure of an input that is skipped.
pub(super) struct Skipped {
    /// 1-based record number within the chunk.
    pub(super) record: u64,
    pub(super) error: ItemError,
}

/// A failure within a chunk.
pub(super) enum Fault {
    /// The reader, processor or writer failed.
    Item(ItemError),
    /// A listener failed; never tolerated.
    Listener(&'static str, ItemError),
}

impl<I, O> Processed<I, O> {
    /// Whether the input ends with this chunk.
    pub(super) fn exhausts_input(&self) -> bool {
        matches!(self.filled.end, End::Exhausted)
    }

    /// Returns the 1-based record number, within the chunk, of output `index`.
    pub(super) fn record_of_output(&self, index: usize) -> u64 {
        let mut input = index;
        for hole in &self.holes {
            if hole.index > input {
                break;
            }
            input += 1;
        }
        self.filled.record_of_item(input)
    }

    /// Whether the chunk may be written and committed together with others: its outputs are encoded, and nothing failed.
    pub(super) fn is_plain(&self) -> bool {
        self.encoded.is_some()
            && self.failure.is_none()
            && matches!(self.filled.end, End::Full | End::Exhausted)
            && self.filled.failures.is_empty()
            && self.filled.dropped == 0
            && self.holes.iter().all(|hole| hole.skipped.is_none())
    }

    /// Appends the chunk that follows, and returns its vectors. Both are [plain](Self::is_plain).
    pub(super) fn append(&mut self, mut next: Self) -> RecycledBuffers<I, O> {
        let inputs = self.filled.count;
        let holes = next.holes.drain(..);
        self.holes.extend(holes.map(|hole| Hole { index: inputs + hole.index, ..hole }));
        self.outputs.append(&mut next.outputs);
        if let (Some(bytes), Some(more)) = (&mut self.encoded, &next.encoded) {
            bytes.extend_from_slice(more);
        }
        // A chunk without records, at the end of the input, has no commit of its own either.
        self.chunks += if next.filled.count > 0 { next.chunks } else { 0 };
        let filled = &mut next.filled;
        self.filled.items.append(&mut filled.items);
        self.filled.count += filled.count;
        self.filled.took += filled.took;
        self.took += next.took;
        self.filled.position = std::mem::take(&mut filled.position);
        self.filled.progress = filled.progress;
        self.filled.end = std::mem::replace(&mut filled.end, End::Full);
        next.recycle()
    }

    /// Returns the vectors, with their content, for reuse.
    pub(super) fn recycle(self) -> RecycledBuffers<I, O> {
        let Self { filled, outputs, encoded, maker, .. } = self;
        let bytes = encoded.unwrap_or_default();
        RecycledBuffers { items: filled.items, outputs, bytes, maker }
    }
}

/// The parts and settings of processing, shared by all threads that process.
pub(super) struct Processing<'a, I, P: ItemProcessor<I>> {
    pub(super) processor: &'a P,
    pub(super) settings: &'a Settings,
    pub(super) hooks: &'a Hooks<I, P::Output>,
    pub(super) retries: Retries<'a>,
}

impl<I, P: ItemProcessor<I>> Processing<'_, I, P> {
    /// Gives outputs that were passed through back as inputs. Nothing is dropped: the thread that uses a vector again drops
    /// its content.
    pub(super) fn reclaim(
        &self,
        spare: RecycledBuffers<I, P::Output>,
    ) -> RecycledBuffers<I, P::Output> {
        match self.processor.pass_back(spare.outputs) {
            Ok(items) => RecycledBuffers { items, outputs: Vec::new(), ..spare },
            Err(outputs) => RecycledBuffers { outputs, ..spare },
        }
    }

    /// Decodes the records of a block into the vector of `filled`, up to a failure that is not tolerated or certainly exceeds
    /// the limit.
    pub(super) fn decode(&self, filled: &mut Filled<I>) {
        let Some(mut block) = filled.block.take() else { return };
        let (policy, clock) = (&self.settings.skip, self.retries.clock);
        let begun = clock.elapsed();
        loop {
            let (items, left) = (&mut filled.items, block.records());
            let take = &mut |item| items.push(item);
            let decoded = catch_unwind(AssertUnwindSafe(|| block.decode(take)));
            let error = match decoded {
                Ok(Ok(())) => break,
                Ok(Err(error)) if block.records() >= left => {
                    let what = format!("a block did not consume the record that failed: {error}");
                    filled.end = End::Failed(ItemError::fatal(what));
                    break;
                }
                Ok(Err(error)) if policy.tolerates(Phase::Read, &error) => error,
                Ok(Err(error)) => {
                    filled.end = End::Failed(error);
                    break;
                }
                Err(payload) => {
                    filled.end = End::Failed(ItemError::from_panic(&*payload));
                    break;
                }
            };
            let before = items.len();
            let record = filled.record_of_item(before);
            filled.failures.push(ReadFailure { before, record, error });
            if filled.failures.len() as u64 > policy.limit {
                break;
            }
        }
        filled.count = filled.items.len();
        filled.took += clock.elapsed().saturating_sub(begun);
    }

    /// Processes `filled` into `outputs`, whose old content is dropped. A chunk that was not read completely will fail
    /// and is not processed.
    pub(super) fn process(
        &self,
        filled: Filled<I>,
        mut outputs: Vec<P::Output>,
    ) -> Processed<I, P::Output> {
        outputs.clear();
        let mut chunk = Processed {
            filled,
            outputs,
            encoded: None,
            maker: 0,
            took: Duration::ZERO,
            chunks: 1,
            holes: Vec::new(),
            failure: None,
        };
        let readable = !matches!(chunk.filled.end, End::Failed(_) | End::Listener(..));
        if !readable || chunk.filled.items.is_empty() {
            return chunk;
        }
        let begun = self.retries.clock.elapsed();
        for listener in &self.hooks.chunk {
            let call = || listener.before_chunk(self.retries.scope, &chunk.filled.items);
            if let Err(error) = guarded(call) {
                let first = chunk.filled.record_of_item(0);
                chunk.failure = Some((first, Fault::Listener("before_chunk", error)));
                return chunk;
            }
        }
        match self.processor.pass_through(std::mem::take(&mut chunk.filled.items)) {
            Ok(outputs) => chunk.outputs = outputs,
            Err(items) => {
                chunk.filled.items = items;
                self.process_each(&mut chunk);
            }
        }
        chunk.took = self.retries.clock.elapsed().saturating_sub(begun);
        chunk
    }

    fn process_each(&self, chunk: &mut Processed<I, P::Output>) {
        let Processed { filled, outputs, holes, failure, .. } = chunk;
        let items = &filled.items[..];
        outputs.reserve(items.len());
        let mut all = self.process_all(items);
        let mut skips = 0;
        // Every input becomes an output or a hole, so their number is the index of the next item, also after
        // a panic: one panic guard covers the run instead of one for each item.
        while outputs.len() + holes.len() < items.len() {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                if let Some(all) = &mut all {
                    return run(items, outputs, holes, |item| {
                        let first = all.next().unwrap_or_else(|| self.call(item));
                        first.map_err(Fault::Item)
                    });
                }
                match self.hooks.item.is_empty() && self.settings.breaker.is_none() {
                    true => run(items, outputs, holes, |item| {
                        self.processor.process(item).map_err(Fault::Item)
                    }),
                    false => run(items, outputs, holes, |item| self.attempt(item)),
                }
            }));
            let fault = match ended {
                Ok(Ok(())) => return,
                Ok(Err(fault)) => fault,
                Err(payload) => Fault::Item(ItemError::from_panic(&*payload)),
            };
            let at = outputs.len() + holes.len();
            match self.try_again(&items[at], fault) {
                Ok(Some(output)) => outputs.push(output),
                Ok(None) => holes.push(Hole { index: at, skipped: None }),
                Err(Fault::Item(error)) if self.settings.skip.tolerates(Phase::Process, &error) => {
                    let record = filled.record_of_item(at);
                    holes.push(Hole { index: at, skipped: Some(Skipped { record, error }) });
                    skips += 1;
                    if skips > self.settings.skip.limit {
                        // The limit is certainly exceeded; settling reports the right record.
                        return;
                    }
                }
                Err(fault) => {
                    *failure = Some((filled.record_of_item(at), fault));
                    return;
                }
            }
        }
    }

    /// Returns the results of the first attempts at all items, if the processor makes them at once. With
    /// listeners of items there are none: they are called for one item after another.
    fn process_all(
        &self,
        items: &[I],
    ) -> Option<std::vec::IntoIter<Result<Option<P::Output>, ItemError>>> {
        if !self.processor.processes_all() || !self.hooks.item.is_empty() {
            return None;
        }
        let is_last = |error: &ItemError| {
            !self.settings.skip.tolerates(Phase::Process, error)
                && self.retries.policy.next(1, Duration::ZERO, error).is_none()
        };
        // Only one item tries a circuit that is half open.
        let clock = self.retries.clock;
        let tries = |breaker: &CircuitBreaker| breaker.state(clock) == BreakerState::HalfOpen;
        let items =
            if self.settings.breaker.as_ref().is_some_and(tries) { &items[..1] } else { items };
        let work = || self.processor.process_all(items, &is_last);
        let all = guarded(|| match &self.settings.breaker {
            None => Ok(work()),
            Some(breaker) => breaker.call_all(self.retries.clock, work),
        });
        Some(all.unwrap_or_else(|error| vec![Err(error)]).into_iter())
    }

    fn attempt(&self, item: &I) -> Result<Option<P::Output>, Fault> {
        if self.hooks.item.is_empty() {
            return self.call(item).map_err(Fault::Item);
        }
        self.attempt_watched(item)
    }

    /// Calls the processor, unless the circuit breaker of the step is open.
    fn call(&self, item: &I) -> Result<Option<P::Output>, ItemError> {
        match &self.settings.breaker {
            None => self.processor.process(item),
            Some(breaker) => breaker.call(self.retries.clock, || self.processor.process(item)),
        }
    }

    fn attempt_watched(&self, item: &I) -> Result<Option<P::Output>, Fault> {
        for listener in &self.hooks.item {
            guarded(|| listener.before_process(self.retries.scope, item))
                .map_err(|error| Fault::Listener("before_process", error))?;
        }
        let result = guarded(|| self.call(item));
        for listener in self.hooks.item.iter().rev() {
            let (call, notified) = match &result {
                Ok(output) => (
                    "after_process",
                    guarded(|| listener.after_process(self.retries.scope, item, output.as_ref())),
                ),
                Err(error) => (
                    "on_process_error",
                    guarded(|| listener.on_process_error(self.retries.scope, item, error)),
                ),
            };
            notified.map_err(|error| Fault::Listener(call, error))?;
        }
        result.map_err(Fault::Item)
    }

    /// Makes the further attempts at an item whose first attempt ended with `fault`.
    fn try_again(&self, item: &I, mut fault: Fault) -> Result<Option<P::Output>, Fault> {
        let mut failed = FailedAttempts::default();
        loop {
            let error = match fault {
                Fault::Item(error) => error,
                fault => return Err(fault),
            };
            if !self.retries.wait_for_next(Phase::Process, &mut failed, &error)? {
                return Err(Fault::Item(error));
            }
            let next = catch_unwind(AssertUnwindSafe(|| self.attempt(item)));
            fault = match next {
                Ok(Ok(output)) => return Ok(output),
                Ok(Err(fault)) => fault,
                Err(payload) => Fault::Item(ItemError::from_panic(&*payload)),
            };
        }
    }
}

/// Attempts the remaining items, up to the first fault. Each `attempt` has a loop of its own, so that the
/// check for listeners does not run for every item. A separate function, so that the compiler sees that its
/// vectors do not alias.
#[inline(never)]
fn run<I, O>(
    items: &[I],
    outputs: &mut Vec<O>,
    holes: &mut Vec<Hole>,
    mut attempt: impl FnMut(&I) -> Result<Option<O>, Fault>,
) -> Result<(), Fault> {
    for item in &items[outputs.len() + holes.len()..] {
        match attempt(item)? {
            Some(output) => outputs.push(output),
            None => holes.push(Hole { index: outputs.len() + holes.len(), skipped: None }),
        }
    }
    Ok(())
}
