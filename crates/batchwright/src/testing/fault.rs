//! Fault injection: chosen items fail, fail temporarily or are delayed; chosen commits kill the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::StopToken;
use crate::error::{ErrorKind, ItemError};
use crate::item::{
    Acknowledge, ChunkTransaction, ItemProcessor, ItemReader, ItemWriter, Total, forward_writer,
};
use crate::scope::StepScope;

/// The faults of a run. Items are numbered from 1 in reading order over the step's whole input.
///
/// A fault plan is never part of an instance's identity.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultPlan {
    /// Records that cannot be read.
    pub read: BTreeSet<u64>,
    /// Items that cannot be processed.
    pub process: BTreeSet<u64>,
    /// Items that fail every write attempt that contains them.
    pub write: BTreeSet<u64>,
    /// Records whose read fails this many times, without advancing, and then succeeds.
    pub read_flaky: BTreeMap<u64, u32>,
    /// Items whose processing fails this many times and then succeeds.
    pub process_flaky: BTreeMap<u64, u32>,
    /// Items that fail this many write attempts that contain them and then succeed.
    pub write_flaky: BTreeMap<u64, u32>,
    /// Items whose processing fails with a fatal error: neither retried nor skipped.
    pub fatal_process: BTreeSet<u64>,
    /// Items whose writing fails with a fatal error: neither retried nor skipped.
    pub fatal_write: BTreeSet<u64>,
    /// Items that are filtered out.
    pub filter: BTreeSet<u64>,
    /// The step that the plan applies to; `None` applies it to all steps.
    pub step: Option<String>,
    /// Delay of each call.
    pub delay_ms: Delays,
    /// The commit at which the process ends as with `kill -9`.
    pub kill: Kill,
}

/// Delays of calls, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delays {
    /// Before each read.
    pub read: u64,
    /// Before each processing of an item.
    pub process: u64,
    /// Before each write of a chunk, before its transaction opens.
    pub write: u64,
}

/// The commit at which the process ends, counted in commits of steps in this execution, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kill {
    /// Just before this commit.
    pub before_commit: Option<u64>,
    /// Just after this commit.
    pub after_commit: Option<u64>,
}

impl FaultPlan {
    /// Returns the plan for step `name`: this plan, or an empty one.
    pub fn for_step(&self, name: &str) -> Self {
        match &self.step {
            Some(step) if step != name => Self::default(),
            _ => self.clone(),
        }
    }

    /// Whether items fail, are filtered or take longer; a plan that only ends the process leaves them as they are.
    pub fn concerns_items(&self) -> bool {
        let only_kill = Self { step: self.step.clone(), kill: self.kill, ..Self::default() };
        *self != only_kill
    }
}

/// An item with its number in reading order.
pub trait Numbered {
    /// Returns the number, from 1.
    fn number(&self) -> u64;

    /// Sets the number; called by the reader.
    fn set_number(&mut self, number: u64);
}

/// A number is its own number, for sequences.
impl Numbered for u64 {
    fn number(&self) -> u64 {
        *self
    }

    fn set_number(&mut self, _: u64) {}
}

fn injected(what: &str, number: u64) -> ItemError {
    ItemError::new(
        ErrorKind::new("data.injected"),
        format!("cannot {what} item {number}: injected fault"),
    )
}

fn fatal(what: &str, number: u64) -> ItemError {
    ItemError::fatal(format!("cannot {what} item {number}: injected fatal fault"))
}

/// Delays like slow user code: a stop request does not cut the delay short.
fn delay(millis: u64) {
    if millis > 0 {
        StopToken::default().wait(Duration::from_millis(millis));
    }
}

/// Takes one of the failures left for `number`; returns whether there was one.
fn flickers(left: &mut BTreeMap<u64, u32>, number: u64) -> bool {
    match left.get_mut(&number) {
        Some(count @ 1..) => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

/// A reader that fails to read chosen records.
#[derive(Debug, Clone)]
pub struct FaultyReader<R> {
    inner: R,
    plan: FaultPlan,
    flaky: BTreeMap<u64, u32>,
    number: u64,
}

/// A position of a [`FaultyReader`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[doc(hidden)]
pub struct FaultyPosition<P> {
    /// Position of the inner reader.
    pub inner: P,
    /// Number of records consumed.
    pub number: u64,
}

impl<P: 'static> FaultyPosition<P> {
    /// Returns what acknowledges by `inner`.
    pub fn acknowledger(inner: Box<dyn Acknowledge<P>>) -> Box<dyn Acknowledge<Self>> {
        Box::new(Acknowledging(inner))
    }
}

struct Acknowledging<P>(Box<dyn Acknowledge<P>>);

impl<P> Acknowledge<FaultyPosition<P>> for Acknowledging<P> {
    fn acknowledge(&mut self, position: FaultyPosition<P>) -> Result<(), ItemError> {
        self.0.acknowledge(position.inner)
    }

    fn position_after(
        &self,
        position: Option<FaultyPosition<P>>,
        records: u64,
    ) -> FaultyPosition<P> {
        let before = position.as_ref().map_or(0, |position| position.number);
        let inner = self.0.position_after(position.map(|position| position.inner), records);
        FaultyPosition { inner, number: before + records }
    }
}

impl<R> FaultyReader<R> {
    /// Adds the read faults of `plan` to `inner`.
    pub fn new(inner: R, plan: &FaultPlan) -> Self {
        Self { inner, plan: plan.clone(), flaky: plan.read_flaky.clone(), number: 0 }
    }
}

impl<R> FaultyReader<R> {
    /// Returns the reader inside.
    pub fn inner(&self) -> &R {
        &self.inner
    }
}

impl<R: ItemReader<Item: Numbered>> ItemReader for FaultyReader<R> {
    type Item = R::Item;
    type Position = FaultyPosition<R::Position>;

    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        self.number = position.as_ref().map_or(0, |position| position.number);
        self.inner.open(position.map(|position| position.inner), scope)
    }

    fn read(&mut self) -> Result<Option<R::Item>, ItemError> {
        delay(self.plan.delay_ms.read);
        let number = self.number + 1;
        if flickers(&mut self.flaky, number) {
            return Err(injected("read", number));
        }
        let bad = self.plan.read.contains(&number);
        if bad && self.rereads() {
            // A reader that rereads must not advance on any failed read.
            return Err(injected("read", number));
        }
        let read = self.inner.read();
        if matches!(read, Ok(None)) {
            return Ok(None);
        }
        self.number = number;
        if bad {
            return Err(injected("read", number));
        }
        read.map(|item| {
            item.map(|mut item| {
                item.set_number(number);
                item
            })
        })
    }

    fn position(&self) -> Self::Position {
        FaultyPosition { inner: self.inner.position(), number: self.number }
    }

    fn rereads(&self) -> bool {
        !self.plan.read_flaky.is_empty()
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        self.number += 1;
        self.inner.read().map(drop)
    }

    fn reads_ahead(&self) -> bool {
        self.inner.reads_ahead()
    }

    fn total(&self) -> Option<Total> {
        self.inner.total()
    }

    fn done(&self) -> u64 {
        self.inner.done()
    }

    fn acknowledger(&self) -> Option<Box<dyn Acknowledge<Self::Position>>> {
        self.inner.acknowledger().map(FaultyPosition::acknowledger)
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.inner.close()
    }
}

/// A processor that fails, or filters, chosen items before `inner` processes them.
#[derive(Debug, Clone)]
pub struct FaultyProcessor<P> {
    inner: P,
    plan: FaultPlan,
    flaky: Arc<Mutex<BTreeMap<u64, u32>>>,
}

impl<P> FaultyProcessor<P> {
    /// Adds the process faults of `plan` to `inner`.
    pub fn new(inner: P, plan: &FaultPlan) -> Self {
        let flaky = Arc::new(Mutex::new(plan.process_flaky.clone()));
        Self { inner, plan: plan.clone(), flaky }
    }
}

impl<I: Numbered, P: ItemProcessor<I>> ItemProcessor<I> for FaultyProcessor<P> {
    type Output = P::Output;

    fn process(&self, item: &I) -> Result<Option<P::Output>, ItemError> {
        let number = item.number();
        delay(self.plan.delay_ms.process);
        if self.plan.fatal_process.contains(&number) {
            return Err(fatal("process", number));
        }
        // Without such faults no lock is taken.
        let flickered = !self.plan.process_flaky.is_empty()
            && flickers(&mut self.flaky.lock().unwrap_or_else(PoisonError::into_inner), number);
        if flickered || self.plan.process.contains(&number) {
            return Err(injected("process", number));
        }
        if self.plan.filter.contains(&number) {
            return Ok(None);
        }
        self.inner.process(item)
    }
}

/// A writer that fails at chosen items, after writing the items before them.
#[derive(Debug, Clone)]
pub struct FaultyWriter<W> {
    inner: W,
    plan: FaultPlan,
    flaky: BTreeMap<u64, u32>,
}

impl<W> FaultyWriter<W> {
    /// Adds the write faults of `plan` to `inner`.
    pub fn new(inner: W, plan: &FaultPlan) -> Self {
        Self { inner, plan: plan.clone(), flaky: plan.write_flaky.clone() }
    }

    fn fault(&mut self, number: u64) -> Option<ItemError> {
        if flickers(&mut self.flaky, number) {
            return Some(injected("write", number));
        }
        if self.plan.fatal_write.contains(&number) {
            return Some(fatal("write", number));
        }
        self.plan.write.contains(&number).then(|| injected("write", number))
    }
}

impl<O: Numbered, W: ItemWriter<O>> ItemWriter<O> for FaultyWriter<W> {
    fn write(&mut self, items: &[O], chunk: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        delay(self.plan.delay_ms.write);
        for (index, item) in items.iter().enumerate() {
            if let Some(fault) = self.fault(item.number()) {
                if index > 0 {
                    self.inner.write(&items[..index], chunk)?;
                }
                return Err(fault);
            }
        }
        self.inner.write(items, chunk)
    }

    forward_writer!(inner);
}
