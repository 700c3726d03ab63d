//! Carries chunks from the reader to the commit: on the step's thread alone, with a reader ahead, or with several threads
//! that process.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::fill::{Filled, Filler};
use super::process::{Processed, Processing};
use super::settle::{Settled, Settler};
use crate::clock::StopToken;
use crate::error::{ItemError, StepError};
use crate::execution::ExitStatus;
use crate::item::{Encoder, ItemProcessor, ItemReader, ItemWriter, guarded};
use crate::step::StepEnd;
use crate::threads::{lock, start};

/// The threads of a step beside its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Threads {
    /// Number of chunks that the reader, on a thread of its own, may be ahead; 0 reads on the thread that processes.
    pub(super) ahead: usize,
    /// Number of threads that process chunks; 1 processes on the step's own thread.
    pub(super) processing: usize,
}

/// The vectors of a settled chunk, to be reused. Their content is dropped by the thread that uses them again: memory that one
/// thread allocates and another frees is slow.
pub(super) struct RecycledBuffers<I, O> {
    pub(super) items: Vec<I>,
    pub(super) outputs: Vec<O>,
    pub(super) bytes: Vec<u8>,
    /// Number of the thread that processed the chunk.
    pub(super) maker: usize,
}

impl<I, O> Default for RecycledBuffers<I, O> {
    fn default() -> Self {
        Self { items: Vec::new(), outputs: Vec::new(), bytes: Vec::new(), maker: 0 }
    }
}

/// Carries the step forward until the input ends, a stop is requested, or a failure is not tolerated.
pub(super) fn carry_on<R, P, W>(
    threads: Threads,
    parts: &StopToken,
    filler: &mut Filler<'_, R, P::Output>,
    processing: &Processing<'_, R::Item, P>,
    settler: &mut Settler<'_, '_, R::Item, P::Output, W>,
) -> Result<StepEnd, StepError>
where
    R: ItemReader,
    P: ItemProcessor<R::Item>,
    W: ItemWriter<P::Output>,
{
    match threads {
        Threads { ahead: 0, processing: 1 } => carry(settler, |_, spare| {
            let spare = processing.reclaim(spare);
            processing.process(filler.fill(spare.items), spare.outputs)
        }),
        Threads { processing: 1, .. } => {
            read_ahead(threads.ahead, parts, filler, processing, settler)
        }
        _ => process_in_parallel(threads, parts, filler, processing, settler),
    }
}

/// The main loop of a chunk step: takes chunk after chunk, in order, and settles each (write, save, commit).
fn carry<'r, 'a, I, O, W: ItemWriter<O>>(
    settler: &mut Settler<'r, 'a, I, O, W>,
    mut next: impl FnMut(&Settler<'r, 'a, I, O, W>, RecycledBuffers<I, O>) -> Processed<I, O>,
) -> Result<StepEnd, StepError> {
    let mut spare = RecycledBuffers::default();
    loop {
        if settler.stop_requested()? {
            return Ok(StepEnd::Stopped);
        }
        let mut chunk = next(settler, spare);
        let exhausted = chunk.exhausts_input();
        match settler.settle(&mut chunk)? {
            Settled::Committed => {}
            Settled::Interrupted => return Ok(StepEnd::Stopped),
        }
        if exhausted {
            return Ok(StepEnd::Completed(ExitStatus::completed()));
        }
        spare = chunk.recycle();
    }
}

/// Runs the reader on a thread of its own, up to `depth` chunks ahead.
fn read_ahead<R, P, W>(
    depth: usize,
    parts: &StopToken,
    filler: &mut Filler<'_, R, P::Output>,
    processing: &Processing<'_, R::Item, P>,
    settler: &mut Settler<'_, '_, R::Item, P::Output, W>,
) -> Result<StepEnd, StepError>
where
    R: ItemReader,
    P: ItemProcessor<R::Item>,
    W: ItemWriter<P::Output>,
{
    thread::scope(|threads| {
        let (sender, chunks) = sync_channel(depth - 1);
        let (recycler, recycled) = channel::<Vec<R::Item>>();
        // Without the thread there is no sender, so the first chunk is the one of `reader_gone`.
        start(threads, "batchwright reader", move || {
            loop {
                let chunk = filler.fill(recycled.try_recv().unwrap_or_default());
                let is_last = chunk.is_last();
                if sender.send(chunk).is_err() || is_last {
                    return;
                }
            }
        });
        let ended = carry(settler, |_, spare| {
            let spare = processing.reclaim(spare);
            let _ = recycler.send(spare.items);
            processing.process(chunks.recv().unwrap_or_else(|_| reader_gone()), spare.outputs)
        });
        stop_unless_complete(parts, &ended);
        ended
        // `chunks` is dropped here, so a reader that is still ahead fails to send and returns.
    })
}

/// Size of outputs from which no more chunks are joined, in bytes.
const JOINED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A filled chunk, and the sender of its result.
type Task<I, O> = (Filled<I>, Sender<Processed<I, O>>);
/// What the threads that process call for the next chunk.
type Next<'n, I, O> = dyn Fn() -> Option<Task<I, O>> + Send + Sync + 'n;

/// The chunks that were processed, in reading order.
struct Results<I, O> {
    /// A receiver for each chunk.
    ordered: Receiver<Receiver<Processed<I, O>>>,
    /// The receiver of the next chunk, when it was not ready.
    next: Option<Receiver<Processed<I, O>>>,
    /// The next chunk, when it could not be joined to the one before.
    held: Option<Processed<I, O>>,
}

impl<I, O> Results<I, O> {
    /// Waits for the next chunk; `None` when its thread has ended.
    fn wait(&mut self) -> Option<Processed<I, O>> {
        if let Some(chunk) = self.held.take() {
            return Some(chunk);
        }
        let next = self.next.take().or_else(|| self.ordered.recv().ok())?;
        next.recv().ok()
    }

    /// Appends to `chunk` those that follow it and are ready, up to `max` chunks in all.
    fn join(&mut self, chunk: &mut Processed<I, O>, max: usize, pools: &Pools<I, O>) {
        let has_room = |chunk: &Processed<I, O>| {
            let size = chunk.encoded.as_ref().map_or(0, Vec::len);
            chunk.chunks < max as u64 && size < JOINED_BYTES_MAX
        };
        while self.held.is_none() && chunk.is_plain() && !chunk.exhausts_input() && has_room(chunk)
        {
            let Some(next) = self.next.take().or_else(|| self.ordered.try_recv().ok()) else {
                return;
            };
            match next.try_recv() {
                Ok(ready) if ready.is_plain() => {
                    let spare = chunk.append(ready);
                    pools.give(spare.maker, spare);
                }
                Ok(ready) => self.held = Some(ready),
                // It is waited for later, also when its thread has ended.
                Err(_) => {
                    self.next = Some(next);
                    return;
                }
            }
        }
    }
}

/// A filler that numbers its chunks by the order of the receivers of their results. The bound of that channel is the bound of
/// the chunks in progress.
struct Ordered<'f, 'a, R: ItemReader, O> {
    filler: &'f mut Filler<'a, R, O>,
    ordered: SyncSender<Receiver<Processed<R::Item, O>>>,
    is_over: bool,
}

impl<R: ItemReader, O> Ordered<'_, '_, R, O> {
    /// Returns the next chunk; `None` after the last one, and when the step has ended.
    fn next(&mut self, spare: Vec<R::Item>) -> Option<Task<R::Item, O>> {
        if self.is_over {
            return None;
        }
        // If reading panics, no chunk follows the lost one.
        self.is_over = true;
        let chunk = self.filler.fill(spare);
        let (sent, result) = channel();
        let is_wanted = self.ordered.send(result).is_ok();
        self.is_over = chunk.is_last() || !is_wanted;
        is_wanted.then_some((chunk, sent))
    }
}

/// The vectors of settled chunks, and the encoders, for the threads that process.
struct Pools<I, O> {
    /// Vectors for the items and outputs of each thread, and of the reader's.
    spare: Vec<Mutex<Vec<RecycledBuffers<I, O>>>>,
    /// One for each thread, once the writer has them.
    encoders: Mutex<Vec<Encoder<O>>>,
}

impl<I, O> Pools<I, O> {
    fn of(threads: usize) -> Self {
        let spare = (0..=threads).map(|_| Mutex::new(Vec::new())).collect();
        Self { spare, encoders: Mutex::new(Vec::new()) }
    }

    fn take(&self, thread: usize) -> RecycledBuffers<I, O> {
        lock(&self.spare[thread]).pop().unwrap_or_default()
    }

    fn give(&self, thread: usize, spare: RecycledBuffers<I, O>) {
        lock(&self.spare[thread]).push(spare);
    }
}

/// Processes chunks on several threads, which also encode them; chunks are settled in reading order. The same threads read and
/// decode blocks; records that are read one by one have a thread of their own.
fn process_in_parallel<R, P, W>(
    Threads { ahead, processing: count }: Threads,
    parts: &StopToken,
    filler: &mut Filler<'_, R, P::Output>,
    processing: &Processing<'_, R::Item, P>,
    settler: &mut Settler<'_, '_, R::Item, P::Output, W>,
) -> Result<StepEnd, StepError>
where
    R: ItemReader,
    P: ItemProcessor<R::Item>,
    W: ItemWriter<P::Output>,
{
    let bound = ahead.max(count);
    let (ordered, results) = sync_channel(bound);
    let mut results = Results { ordered: results, next: None, held: None };
    let in_blocks = filler.in_blocks;
    let mut source = Ordered { filler, ordered, is_over: false };
    let pools = &Pools::of(count);
    thread::scope(|threads| {
        let next: Arc<Next<'_, R::Item, P::Output>> = if in_blocks {
            let source = Mutex::new(source);
            Arc::new(move || lock(&source).next(Vec::new()))
        } else {
            let (sender, tasks) = channel();
            start(threads, "batchwright reader", move || {
                while let Some(task) = source.next(pools.take(count).items) {
                    let _ = sender.send(task);
                }
            });
            let tasks = Mutex::new(tasks);
            Arc::new(move || lock(&tasks).recv().ok())
        };
        let work = |thread| {
            let next = Arc::clone(&next);
            start(threads, "batchwright processor", move || {
                process_chunks(thread, &*next, processing, pools);
            })
        };
        let started = (0..count).filter_map(work).count();
        // Without a thread that takes chunks, none comes.
        drop(next);
        let (mut encodes, may_join) = (false, settler.may_join());
        let ended = carry(settler, |settler, spare| {
            if !encodes {
                lock(&pools.encoders).extend((0..started).map_while(|_| settler.encoder()));
                encodes = !lock(&pools.encoders).is_empty();
            }
            recycle(processing.reclaim(spare), in_blocks, pools);
            let mut chunk =
                results.wait().unwrap_or_else(|| processing.process(reader_gone(), Vec::new()));
            if may_join {
                results.join(&mut chunk, bound, pools);
            }
            chunk
        });
        stop_unless_complete(parts, &ended);
        // Ends the threads, which may wait for a place.
        drop(results);
        ended
    })
}

/// Gives the vectors of a chunk back to the thread that made it, and items that were read one by one to the reader's.
fn recycle<I, O>(mut spare: RecycledBuffers<I, O>, in_blocks: bool, pools: &Pools<I, O>) {
    let maker = spare.maker;
    if !in_blocks {
        let items = std::mem::take(&mut spare.items);
        pools.give(pools.spare.len() - 1, RecycledBuffers { items, ..RecycledBuffers::default() });
    }
    pools.give(maker, spare);
}

fn process_chunks<I, P: ItemProcessor<I>>(
    thread: usize,
    next: &Next<'_, I, P::Output>,
    processing: &Processing<'_, I, P>,
    pools: &Pools<I, P::Output>,
) {
    let mut encoder: Option<Encoder<P::Output>> = None;
    while let Some((mut chunk, result)) = next() {
        let RecycledBuffers { mut items, outputs, mut bytes, .. } = pools.take(thread);
        if chunk.block.is_some() {
            items.clear();
            chunk.items = items;
            processing.decode(&mut chunk);
        }
        let mut done = processing.process(chunk, outputs);
        done.maker = thread;
        if encoder.is_none() {
            encoder = lock(&pools.encoders).pop();
        }
        if let Some(encode) = &mut encoder {
            let (clock, begun) = (processing.retries.clock, processing.retries.clock.elapsed());
            bytes.clear();
            // Outputs that cannot be encoded are left to the writer, which tells why.
            let encoded = guarded(|| match done.outputs.is_empty() {
                true => Ok(()),
                false => encode(&done.outputs, &mut bytes),
            });
            done.encoded = encoded.is_ok().then_some(bytes);
            done.took += clock.elapsed().saturating_sub(begun);
        }
        if result.send(done).is_err() {
            return;
        }
    }
}

/// Requests the reader and the processors to stop, which may wait for what is not needed any more.
fn stop_unless_complete(parts: &StopToken, ended: &Result<StepEnd, StepError>) {
    if !matches!(ended, Ok(StepEnd::Completed(_))) {
        parts.request();
    }
}

/// Returns a failed chunk in place of the one that a lost reader thread did not send.
fn reader_gone<I>() -> Filled<I> {
    Filled::failed(ItemError::fatal("the reader's thread ended early or could not be started"))
}
