//! Asynchronous processors: several items of a chunk at once, in one wait.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::clock::StopToken;
use crate::error::ItemError;
use crate::item::ItemProcessor;
use crate::runtime::{STOP_GRACE, wait};

/// A processor that calls an asynchronous function for several items of a chunk at once. The outputs keep the
/// order of the inputs.
#[derive(Debug, Clone)]
pub struct AsyncProcessor<F> {
    function: F,
    in_flight: usize,
    stop: StopToken,
}

impl<F> AsyncProcessor<F> {
    /// Creates a processor with at most `in_flight` calls at once; zero counts as one. A stop request gives
    /// the calls five seconds.
    pub fn new(in_flight: usize, function: F, stop: StopToken) -> Self {
        Self { function, in_flight: in_flight.max(1), stop }
    }
}

impl<I, O, F> ItemProcessor<I> for AsyncProcessor<F>
where
    O: Send + Sync,
    F: AsyncFn(&I) -> Result<Option<O>, ItemError> + Send + Sync,
{
    type Output = O;

    fn process(&self, item: &I) -> Result<Option<O>, ItemError> {
        wait(&self.stop, STOP_GRACE, (self.function)(item))?
    }

    fn processes_all(&self) -> bool {
        true
    }

    fn process_all(
        &self,
        items: &[I],
        is_last: &dyn Fn(&ItemError) -> bool,
    ) -> Vec<Result<Option<O>, ItemError>> {
        let mut done = Vec::with_capacity(items.len());
        let calls = items.iter().map(|item| (self.function)(item));
        let mut window = Window::new(calls, self.in_flight);
        let all = poll_fn(|context| window.poll(context, &mut done, is_last));
        if let Err(error) = wait(&self.stop, STOP_GRACE, all) {
            done.push(Err(error));
        }
        done
    }
}

/// The calls in progress, in the order of their items.
struct Window<C, Fut: Future> {
    calls: C,
    running: VecDeque<Slot<Fut>>,
    /// Slots whose memory the next calls use.
    free: Vec<Slot<Fut>>,
    size: usize,
}

/// A call: its future, or its result once that is known.
struct Slot<Fut: Future> {
    future: Pin<Box<Option<Fut>>>,
    result: Option<Fut::Output>,
}

impl<T, C, Fut> Window<C, Fut>
where
    C: Iterator<Item = Fut>,
    Fut: Future<Output = Result<T, ItemError>>,
{
    fn new(calls: C, size: usize) -> Self {
        Self { calls, running: VecDeque::new(), free: Vec::new(), size }
    }

    /// Begins calls, and moves the results of the first ones to `done`. Ready when no call remains, or after an
    /// error that `is_last`.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        done: &mut Vec<Fut::Output>,
        is_last: &dyn Fn(&ItemError) -> bool,
    ) -> Poll<()> {
        for slot in &mut self.running {
            slot.poll(context);
        }
        loop {
            while let Some(result) = self.running.front_mut().and_then(|slot| slot.result.take()) {
                let ended = matches!(&result, Err(error) if is_last(error));
                done.push(result);
                if ended {
                    return Poll::Ready(());
                }
                self.free.extend(self.running.pop_front());
            }
            if self.running.len() == self.size {
                return Poll::Pending;
            }
            let Some(call) = self.calls.next() else {
                return if self.running.is_empty() { Poll::Ready(()) } else { Poll::Pending };
            };
            let free = self.free.pop();
            let mut slot = free.unwrap_or_else(|| Slot { future: Box::pin(None), result: None });
            slot.future.set(Some(call));
            slot.poll(context);
            self.running.push_back(slot);
        }
    }
}

impl<T, Fut: Future<Output = Result<T, ItemError>>> Slot<Fut> {
    /// Polls the future, if there is one. A panic is the result of its call alone.
    fn poll(&mut self, context: &mut Context<'_>) {
        let Some(future) = self.future.as_mut().as_pin_mut() else { return };
        let polled = catch_unwind(AssertUnwindSafe(|| future.poll(context)));
        self.result = match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(result)) => Some(result),
            Err(panic) => Some(Err(ItemError::from_panic(&*panic))),
        };
        self.future.set(None);
    }
}
