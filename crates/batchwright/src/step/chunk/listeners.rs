//! The listeners of a [`ChunkStepBuilder`].

use std::sync::Arc;

use super::{ChunkStepBuilder, Hooks};
use crate::item::{ItemProcessor, ItemReader};
use crate::listener::{ChunkListener, ItemListener, RetryListener, SkipListener, StepListener};

/// The marker of a [`ChunkStepBuilder`] that has no listener of items yet, so that reader and processor can
/// still be set.
#[derive(Debug, Clone, Copy)]
#[doc(hidden)]
pub struct NoListeners;

/// The listeners of a [`ChunkStepBuilder`].
#[doc(hidden)]
pub trait ItemHooks<I, O>: sealed::Sealed {
    #[doc(hidden)]
    fn into_hooks(self) -> Hooks<I, O>;
}

impl<I, O> ItemHooks<I, O> for NoListeners {
    fn into_hooks(self) -> Hooks<I, O> {
        Hooks::default()
    }
}

impl<I, O> ItemHooks<I, O> for Hooks<I, O> {
    fn into_hooks(self) -> Self {
        self
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::NoListeners {}
    impl<I, O> Sealed for super::Hooks<I, O> {}
}

/// A builder that has listeners of items.
#[doc(hidden)]
pub type WithListeners<R, P, W> = ChunkStepBuilder<
    R,
    P,
    W,
    Hooks<<R as ItemReader>::Item, <P as ItemProcessor<<R as ItemReader>::Item>>::Output>,
>;

impl<R, P, W, H> ChunkStepBuilder<R, P, W, H> {
    /// Adds a listener of everything: the step's executions, chunks, items, skips and retries. Reader and processor must
    /// be set; they cannot be changed any more.
    ///
    /// ```
    /// use batchwright::item::NoWriter;
    /// use batchwright::listener::{
    ///     ChunkListener, ItemListener, ListenerResult, RetryListener, SkipListener, StepListener,
    /// };
    /// use batchwright::scope::StepScope;
    /// use batchwright::{ChunkStepBuilder, Sequence};
    ///
    /// struct Log;
    ///
    /// impl StepListener for Log {}
    /// impl ChunkListener<u64, u64> for Log {
    ///     fn after_chunk(&self, scope: &StepScope, _: &[u64]) -> ListenerResult {
    ///         println!("{}: {} written", scope.step(), scope.counters().write);
    ///         Ok(())
    ///     }
    /// }
    /// impl ItemListener<u64, u64> for Log {}
    /// impl SkipListener<u64, u64> for Log {}
    /// impl RetryListener for Log {}
    ///
    /// let step = ChunkStepBuilder::new("numbers")
    ///     .reader(Sequence::to(100))
    ///     .writer(NoWriter::new())
    ///     .listener(Log)
    ///     .build();
    /// ```
    #[must_use]
    pub fn listener<L>(self, listener: L) -> WithListeners<R, P, W>
    where
        R: ItemReader,
        P: ItemProcessor<R::Item>,
        H: ItemHooks<R::Item, P::Output>,
        L: StepListener
            + ChunkListener<R::Item, P::Output>
            + ItemListener<R::Item, P::Output>
            + SkipListener<R::Item, P::Output>
            + RetryListener
            + 'static,
    {
        let listener = Arc::new(listener);
        self.shared_step_listener(listener.clone()).with_hooks(|hooks| {
            hooks.chunk.push(listener.clone());
            hooks.item.push(listener.clone());
            hooks.skip.push(listener.clone());
            hooks.retry.push(listener);
        })
    }

    /// Adds a listener of chunks; see [`listener`](Self::listener).
    #[must_use]
    pub fn chunk_listener(
        self,
        listener: impl ChunkListener<R::Item, P::Output> + 'static,
    ) -> WithListeners<R, P, W>
    where
        R: ItemReader,
        P: ItemProcessor<R::Item>,
        H: ItemHooks<R::Item, P::Output>,
    {
        self.with_hooks(|hooks| hooks.chunk.push(Arc::new(listener)))
    }

    /// Adds a listener of each read, process and write; see [`listener`](Self::listener).
    #[must_use]
    pub fn item_listener(
        self,
        listener: impl ItemListener<R::Item, P::Output> + 'static,
    ) -> WithListeners<R, P, W>
    where
        R: ItemReader,
        P: ItemProcessor<R::Item>,
        H: ItemHooks<R::Item, P::Output>,
    {
        self.with_hooks(|hooks| hooks.item.push(Arc::new(listener)))
    }

    /// Adds a listener of skips; see [`listener`](Self::listener).
    #[must_use]
    pub fn skip_listener(
        self,
        listener: impl SkipListener<R::Item, P::Output> + 'static,
    ) -> WithListeners<R, P, W>
    where
        R: ItemReader,
        P: ItemProcessor<R::Item>,
        H: ItemHooks<R::Item, P::Output>,
    {
        self.with_hooks(|hooks| hooks.skip.push(Arc::new(listener)))
    }

    /// Adds a listener of retries; see [`listener`](Self::listener).
    #[must_use]
    pub fn retry_listener(self, listener: impl RetryListener + 'static) -> WithListeners<R, P, W>
    where
        R: ItemReader,
        P: ItemProcessor<R::Item>,
        H: ItemHooks<R::Item, P::Output>,
    {
        self.with_hooks(|hooks| hooks.retry.push(Arc::new(listener)))
    }

    fn with_hooks(self, add: impl FnOnce(&mut Hooks<R::Item, P::Output>)) -> WithListeners<R, P, W>
    where
        R: ItemReader,
        P: ItemProcessor<R::Item>,
        H: ItemHooks<R::Item, P::Output>,
    {
        let Self { name, options, settings, reader, processor, writer, hooks } = self;
        let mut hooks = hooks.into_hooks();
        add(&mut hooks);
        ChunkStepBuilder { name, options, settings, reader, processor, writer, hooks }
    }
}

impl<I, O> Default for Hooks<I, O> {
    fn default() -> Self {
        Self {
            chunk: Vec::new(),
            item: Vec::new(),
            skip: Vec::new(),
            retry: Vec::new(),
            until: None,
            render_input: None,
            render_output: None,
        }
    }
}
