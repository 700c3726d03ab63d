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
#[doc(hidden)]
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
        let all = async {
            // Dropped within the runtime, which the futures of sockets and timers need.
            let calls = items.iter().map(|item| (self.function)(item));
            let mut window = Window::new(calls, self.in_flight);
            poll_fn(|context| window.poll(context, &mut done, is_last)).await;
        };
        if let Err(error) = wait(&self.stop, STOP_GRACE, all) {
            done.push(Err(error));
        }
        done
    }
}

/// The calls in progress, in the order of their items.
struct Window<C, Fut: Future> {
    calls: C,
    running: VecDeque<Call<Fut>>,
    /// The memory of the next call's future; a future that has ended may still be in it.
    next: Pin<Box<Option<Fut>>>,
    size: usize,
}

/// A call: its future, until its result is known.
enum Call<Fut: Future> {
    Running(Pin<Box<Option<Fut>>>),
    Ended(Fut::Output),
}

impl<T, C, Fut> Window<C, Fut>
where
    C: Iterator<Item = Fut>,
    Fut: Future<Output = Result<T, ItemError>>,
{
    fn new(calls: C, size: usize) -> Self {
        Self { calls, running: VecDeque::new(), next: Box::pin(None), size }
    }

    /// Begins calls, and moves the results of the first ones to `done`. Ready when no call remains, or after an
    /// error that `is_last`.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        done: &mut Vec<Fut::Output>,
        is_last: &dyn Fn(&ItemError) -> bool,
    ) -> Poll<()> {
        for call in &mut self.running {
            if let Call::Running(future) = call
                && let Poll::Ready(result) = poll(future, context)
            {
                *call = Call::Ended(result);
            }
        }
        loop {
            while let Some(Call::Ended(_)) = self.running.front() {
                let Some(Call::Ended(result)) = self.running.pop_front() else { continue };
                if push(done, result, is_last) {
                    return Poll::Ready(());
                }
            }
            if self.running.len() == self.size {
                return Poll::Pending;
            }
            if self.running.is_empty() {
                match self.run_ready(context, done, is_last) {
                    Ready::Last => return Poll::Ready(()),
                    Ready::Waits => self.queue_next(),
                }
                continue;
            }
            let called = catch_unwind(AssertUnwindSafe(|| self.calls.next()));
            let call = match called {
                Ok(Some(call)) => call,
                Ok(None) => return Poll::Pending,
                Err(panic) => {
                    let result = Err(ItemError::from_panic(&*panic));
                    self.running.push_back(Call::Ended(result));
                    continue;
                }
            };
            self.next.set(Some(call));
            match poll(&mut self.next, context) {
                Poll::Ready(result) => self.running.push_back(Call::Ended(result)),
                Poll::Pending => self.queue_next(),
            }
        }
    }

    fn queue_next(&mut self) {
        let future = std::mem::replace(&mut self.next, Box::pin(None));
        self.running.push_back(Call::Running(future));
    }

    /// Makes calls one after another while none has to wait: without the queue, and without memory for each call.
    fn run_ready(
        &mut self,
        context: &mut Context<'_>,
        done: &mut Vec<Fut::Output>,
        is_last: &dyn Fn(&ItemError) -> bool,
    ) -> Ready {
        loop {
            // The result of a call is in `done` before the next one begins, so a panic is that of the next one.
            let ended = catch_unwind(AssertUnwindSafe(|| {
                for call in self.calls.by_ref() {
                    self.next.set(Some(call));
                    let Some(future) = self.next.as_mut().as_pin_mut() else { continue };
                    match future.poll(context) {
                        Poll::Ready(result) => {
                            if push(done, result, is_last) {
                                return Ready::Last;
                            }
                        }
                        Poll::Pending => return Ready::Waits,
                    }
                }
                Ready::Last
            }));
            match ended {
                Ok(ended) => return ended,
                Err(panic) => {
                    if push(done, Err(ItemError::from_panic(&*panic)), is_last) {
                        return Ready::Last;
                    }
                }
            }
        }
    }
}

/// Why no further call could be made at once.
enum Ready {
    /// There is none, or the last one failed.
    Last,
    /// The next one waits.
    Waits,
}

/// Adds a result, and returns whether it is the last one.
fn push<T>(
    done: &mut Vec<Result<T, ItemError>>,
    result: Result<T, ItemError>,
    is_last: &dyn Fn(&ItemError) -> bool,
) -> bool {
    let ended = matches!(&result, Err(error) if is_last(error));
    done.push(result);
    ended
}

/// Polls a future. A panic is the result of its call alone.
#[inline]
fn poll<T, Fut: Future<Output = Result<T, ItemError>>>(
    future: &mut Pin<Box<Option<Fut>>>,
    context: &mut Context<'_>,
) -> Poll<Result<T, ItemError>> {
    let Some(future) = future.as_mut().as_pin_mut() else { return Poll::Pending };
    catch_unwind(AssertUnwindSafe(|| future.poll(context)))
        .unwrap_or_else(|panic| Poll::Ready(Err(ItemError::from_panic(&*panic))))
}
