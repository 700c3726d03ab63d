//! The work on a unit: processors, futures and writers.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{ErrorKind, ItemError};
use crate::item::{ChunkTransaction, ItemProcessor, ItemWriter, guarded};
use crate::scope::StepScope;
use crate::threads::waker_of_this_thread;

/// A writer that writes its outputs in the transaction of the checkpoint.
pub(super) trait Sink<O>: Send {
    fn open(&mut self, scope: &StepScope) -> Result<(), ItemError>;
    fn write(&mut self, outputs: &[O], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError>;
    fn ended(&mut self, committed: bool) -> Result<(), ItemError>;
}

impl<O, W: ItemWriter<O>> Sink<O> for W {
    fn open(&mut self, scope: &StepScope) -> Result<(), ItemError> {
        if self.prepares() || self.keeps_position() {
            return Err(ItemError::fatal(
                "several lanes cannot share this writer, which keeps a position of its own; write \
                 to the store's database, or to a target that recognises repeated units",
            ));
        }
        ItemWriter::open(self, None, scope).map(drop)
    }

    fn write(&mut self, outputs: &[O], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        ItemWriter::write(self, outputs, chunk)
    }

    fn ended(&mut self, committed: bool) -> Result<(), ItemError> {
        match committed {
            true => self.committed(),
            false => self.rolled_back(),
        }
    }
}

/// The work on the units of a step.
#[doc(hidden)]
pub trait UnitWork<I>: Send + Sync {
    type Output;
    type Ready: ReadyWork<I, Output = Self::Output>;

    /// Prepares the work for one slice of an execution.
    fn ready(&self, scope: &StepScope) -> Result<Self::Ready, ItemError>;
}

/// The work on the units of one slice.
#[doc(hidden)]
pub trait ReadyWork<I> {
    type Output;

    /// Works on one unit; `time_left` limits work that can be cancelled.
    fn run(&self, unit: &I, time_left: Duration) -> Result<Option<Self::Output>, ItemError>;
}

/// One processor for all slices.
#[doc(hidden)]
pub struct Plain<P>(pub(super) Arc<P>);

impl<I, P: ItemProcessor<I>> UnitWork<I> for Plain<P> {
    type Output = P::Output;
    type Ready = Self;

    fn ready(&self, _: &StepScope) -> Result<Self, ItemError> {
        Ok(Self(Arc::clone(&self.0)))
    }
}

impl<I, P: ItemProcessor<I>> ReadyWork<I> for Plain<P> {
    type Output = P::Output;

    #[inline]
    fn run(&self, unit: &I, _: Duration) -> Result<Option<P::Output>, ItemError> {
        self.0.process(unit)
    }
}

/// A processor for each slice.
#[doc(hidden)]
pub struct Made<M>(pub(super) M);

impl<I, P, M> UnitWork<I> for Made<M>
where
    P: ItemProcessor<I>,
    M: Fn(&StepScope) -> Result<P, ItemError> + Send + Sync,
{
    type Output = P::Output;
    type Ready = Plain<P>;

    fn ready(&self, scope: &StepScope) -> Result<Plain<P>, ItemError> {
        Ok(Plain(Arc::new((self.0)(scope)?)))
    }
}

/// A future for each unit.
#[doc(hidden)]
pub struct Awaited<M>(pub(super) Arc<M>);

impl<I, O, F, M> UnitWork<I> for Awaited<M>
where
    F: Future<Output = Result<Option<O>, ItemError>>,
    M: Fn(&I) -> F + Send + Sync,
{
    type Output = O;
    type Ready = Self;

    fn ready(&self, _: &StepScope) -> Result<Self, ItemError> {
        Ok(Self(Arc::clone(&self.0)))
    }
}

impl<I, O, F, M> ReadyWork<I> for Awaited<M>
where
    F: Future<Output = Result<Option<O>, ItemError>>,
    M: Fn(&I) -> F + Send + Sync,
{
    type Output = O;

    #[expect(clippy::disallowed_methods, reason = "a bound on a wait, not a time that is stored")]
    fn run(&self, unit: &I, time_left: Duration) -> Result<Option<O>, ItemError> {
        let mut future = pin!((self.0)(unit));
        let waker = waker_of_this_thread();
        let mut context = Context::from_waker(&waker);
        let begun = std::time::Instant::now();
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result;
            }
            match time_left.checked_sub(begun.elapsed()) {
                Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                _ => {
                    let message = format!("the unit was cancelled after {time_left:.1?}");
                    return Err(ItemError::new(ErrorKind::TIMEOUT, message));
                }
            }
        }
    }
}

/// Work whose results a function of the user gets.
#[doc(hidden)]
pub struct Watched<W, F> {
    pub(super) work: W,
    pub(super) on_unit: Arc<F>,
}

/// [`Watched`] work of one slice.
#[doc(hidden)]
pub struct ReadyWatched<R, F> {
    work: R,
    on_unit: Arc<F>,
    scope: StepScope,
}

impl<I, W, F> UnitWork<I> for Watched<W, F>
where
    W: UnitWork<I>,
    F: Fn(&StepScope, &I, &Result<Option<W::Output>, ItemError>) -> Result<(), ItemError>
        + Send
        + Sync,
{
    type Output = W::Output;
    type Ready = ReadyWatched<W::Ready, F>;

    fn ready(&self, scope: &StepScope) -> Result<Self::Ready, ItemError> {
        let work = self.work.ready(scope)?;
        Ok(ReadyWatched { work, on_unit: Arc::clone(&self.on_unit), scope: scope.clone() })
    }
}

impl<I, R, F> ReadyWork<I> for ReadyWatched<R, F>
where
    R: ReadyWork<I>,
    F: Fn(&StepScope, &I, &Result<Option<R::Output>, ItemError>) -> Result<(), ItemError>,
{
    type Output = R::Output;

    fn run(&self, unit: &I, time_left: Duration) -> Result<Option<R::Output>, ItemError> {
        let result = guarded(|| self.work.run(unit, time_left));
        (self.on_unit)(&self.scope, unit, &result)?;
        result
    }
}
