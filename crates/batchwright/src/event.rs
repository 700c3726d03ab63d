//! Events: every change of state as one type, sent to observers within the process after its commit and, for the
//! status of executions and steps, stored.
//!
//! ```
//! use std::sync::Arc;
//! use batchwright::event::{
//!     Change, ChunkTimes, Event, EventStream, Events, Observer, Progress, ProgressUnit, Subject,
//! };
//! use batchwright::{Job, JobOperator, JobParameters, MemoryRepository, TaskletStep};
//!
//! /// Prints what changed.
//! struct Log;
//!
//! impl Observer for Log {
//!     fn observe(&self, event: &Event) {
//!         let place = match &event.subject {
//!             Subject::Execution { id, job } => format!("{job} {id}"),
//!             Subject::Step { execution, step, .. } => format!("{execution} {step}"),
//!             _ => String::new(),
//!         };
//!         match &event.change {
//!             Change::Status { status, .. } => println!("{place}: {status}"),
//!             Change::ChunkCommitted { progress: Some(Progress { done, total, unit }), .. } => {
//!                 let unit = if *unit == ProgressUnit::Bytes { "bytes" } else { "items" };
//!                 println!("{place}: {done} of {total:?} {unit}");
//!             }
//!             Change::ChunkCommitted { times: Some(ChunkTimes { write, .. }), .. } => {
//!                 println!("{place}: a chunk was in the writer for {write:?}");
//!             }
//!             _ => {}
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let operator = JobOperator::builder(Arc::new(MemoryRepository::new())).observer(Log).build();
//! let events: &Events = operator.events();
//! let received = events.subscribe(100);
//! let stream: EventStream = events.stream(100); // for asynchronous code
//! operator.registry().register(Job::builder("job").step(TaskletStep::call("step", || ())).build()?)?;
//! operator.run("job", JobParameters::new())?;
//! assert_eq!(received.try_iter().filter(|event| event.status().is_some()).count(), 6);
//! # drop(stream);
//! # Ok(())
//! # }
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::error::ErrorKind;
use crate::execution::{BatchStatus, Counters, ExecutionId, Phase, StepExecutionId, TraceContext};
pub use crate::execution::{Progress, ProgressUnit};
use crate::threads::lock;

/// A change: what changed, when, and how.
///
/// Status changes of executions and steps are also stored; the store returns them as the same type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Time of the change.
    pub at: Timestamp,
    /// What changed.
    pub subject: Subject,
    /// The change.
    pub change: Change,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A job execution.
    Execution {
        /// Its number.
        id: ExecutionId,
        /// The name of its job.
        job: Arc<str>,
    },
    /// A step of a job execution.
    Step {
        /// The number of the job execution.
        execution: ExecutionId,
        /// The name of its job.
        job: Arc<str>,
        /// The name of the step, for a partition followed by its key.
        step: Arc<str>,
    },
    /// A trigger, or one slot of a recurring trigger.
    Trigger {
        /// The name of the trigger.
        identifier: Arc<str>,
        /// The planned time.
        slot: Timestamp,
    },
}

/// The kind of a change, with its details.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// The execution or step has a new status. Stored.
    Status {
        /// The new status.
        status: BatchStatus,
        /// Details: `recovered: …`, `stop requested`.
        note: Option<String>,
    },
    /// A chunk was committed.
    ChunkCommitted {
        /// Number of the step execution.
        id: StepExecutionId,
        /// Counters of the step execution so far.
        counters: Counters,
        /// Position and total of the reader, when the reader knows its total.
        progress: Option<Progress>,
        /// How long its phases took; `None` for the commit of a tasklet, and for one that a restart completes because only the sink
        /// had it.
        times: Option<ChunkTimes>,
    },
    /// A read, the processing of an item, or the writing of a chunk failed and is tried again.
    Retried {
        /// Number of the step execution.
        id: StepExecutionId,
        /// What failed.
        phase: Phase,
        /// The kind of the error.
        kind: ErrorKind,
        /// Number of the failed attempts.
        failed: u32,
    },
    /// An attempt at a chunk was rolled back.
    ChunkRolledBack {
        /// Number of the step execution.
        id: StepExecutionId,
        /// Error that caused the rollback.
        error: String,
    },
    /// A lane of a progressive execution began a slice.
    SliceBegan {
        /// The rank of the lane.
        lane: u32,
    },
    /// A lane of a progressive execution ended a slice: with an answer, because its worker hangs, or because its
    /// client disconnected.
    SliceEnded {
        /// The rank of the lane.
        lane: u32,
        /// Duration of the slice.
        took: Duration,
    },
    /// The trigger has a new state in the schedule. Not sent for the triggers that a server takes over from a
    /// dead one; their next firing is.
    Trigger {
        /// The name of its status: `planned`, `triggered`, `executed` …
        status: &'static str,
        /// Why it failed or did not fire.
        reason: Option<String>,
        /// When it was, or is, due: its planned time, that of a retry, or that of a firing by hand.
        due: Option<Timestamp>,
    },
    /// A call of the trigger's runner ended: of a script, a request, a message or a job.
    RunnerEnded {
        /// The kind of the runner: `shell`, `http`, `amqp`, `job`.
        runner: &'static str,
        /// The name of the call, for people: `sh SCRIPT`, `POST`, `send QUEUE`, `run JOB`.
        call: Arc<str>,
        /// Number of the attempt, counted from 1.
        attempt: u32,
        /// The span of the call, which what it calls gets as its parent.
        trace: TraceContext,
        /// Duration of the call; of a message, until the broker has confirmed all that were sent with it.
        took: Duration,
        /// `executed` or `failed`.
        outcome: &'static str,
        /// Why it failed.
        reason: Option<String>,
    },
    /// The execution was deleted by a purge, or the trigger by a request.
    Deleted,
}

/// How long the phases of a chunk took.
///
/// A chunk may be read and processed on other threads while the one before it is written: the sum can be more than the time between
/// two commits. Chunks that are committed together have one sum; when outputs are committed one by one, the first commit has the
/// times of reading and processing. What reader and writer do after the commit is in none of the phases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ChunkTimes {
    /// In the reader, with failed attempts and the waits between them.
    pub read: Duration,
    /// In the processors, with failed attempts and the waits between them, and encoding outputs apart from the writer.
    pub process: Duration,
    /// In the writer, with failed attempts and the waits between them, and preparing its commit.
    pub write: Duration,
    /// In the commit of the store, with the wait for a connection.
    pub commit: Duration,
}

impl ChunkTimes {
    /// Returns the time of all phases.
    pub fn total(&self) -> Duration {
        self.read + self.process + self.write + self.commit
    }
}

impl Event {
    /// Returns the event of a new status, which stores keep.
    pub fn of_status(
        at: Timestamp,
        subject: Subject,
        status: BatchStatus,
        note: Option<String>,
    ) -> Self {
        Self { at, subject, change: Change::Status { status, note } }
    }

    /// Returns the job execution that the event is about.
    pub fn execution(&self) -> Option<ExecutionId> {
        match self.subject {
            Subject::Execution { id, .. } => Some(id),
            Subject::Step { execution, .. } => Some(execution),
            Subject::Trigger { .. } => None,
        }
    }

    /// Returns the name of the job that the event is about.
    pub fn job(&self) -> Option<&str> {
        match &self.subject {
            Subject::Execution { job, .. } | Subject::Step { job, .. } => Some(job),
            Subject::Trigger { .. } => None,
        }
    }

    /// Returns the name of the step that the event is about.
    pub fn step(&self) -> Option<&str> {
        match &self.subject {
            Subject::Step { step, .. } => Some(step),
            Subject::Execution { .. } | Subject::Trigger { .. } => None,
        }
    }

    /// Returns the new status and its note; `None` for the events that are not stored.
    pub fn status(&self) -> Option<(BatchStatus, Option<&str>)> {
        match &self.change {
            Change::Status { status, note } => Some((*status, note.as_deref())),
            _ => None,
        }
    }
}

/// Receives each event after the commit that made it true.
pub trait Observer: Send + Sync {
    /// Receives an event, on the thread that made the change: the call must be short. It may use the operator.
    /// A panic is logged, and changes nothing else.
    ///
    /// The events of one thread arrive in their order. Those of two threads that change one execution, such
    /// as a stop and the end of the execution, may arrive in either order; the stored history has the order.
    fn observe(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Observer for F {
    fn observe(&self, event: &Event) {
        self(event);
    }
}

/// The observers of an operator. Clones share them.
#[derive(Clone, Default)]
pub struct Events {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    count: AtomicUsize,
    /// Replaced as a whole, so that an observer is called without the lock: it may use the operator.
    observers: Mutex<Arc<[Arc<dyn Observer>]>>,
    streams: Mutex<Vec<EventSender>>,
}

/// Sends an event to one stream; `false`: the stream has ended.
type EventSender = Box<dyn Fn(&Event) -> bool + Send>;

impl Events {
    /// Adds an observer.
    pub fn observe(&self, observer: impl Observer + 'static) {
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        let mut observers = lock(&self.inner.observers);
        let new: Arc<dyn Observer> = Arc::new(observer);
        *observers = observers.iter().cloned().chain([new]).collect();
    }

    /// Returns a stream of all events from now on.
    ///
    /// The stream buffers up to `capacity` events. When the buffer is full, the stream ends; the subscriber
    /// then subscribes again and reads what it missed from the store.
    pub fn subscribe(&self, capacity: usize) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(capacity.max(1));
        self.add_stream(Box::new(move |event| sender.try_send(event.clone()).is_ok()));
        receiver
    }

    /// Returns a stream of all events from now on, for asynchronous code. It ends as that of
    /// [`subscribe`](Self::subscribe) does.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use batchwright::{JobOperator, MemoryRepository};
    ///
    /// # async fn print(operator: JobOperator) {
    /// let mut events = operator.events().stream(1_000);
    /// while let Some(event) = events.next().await {
    ///     println!("{event:?}");
    /// }
    /// # }
    /// ```
    #[cfg(feature = "async")]
    pub fn stream(&self, capacity: usize) -> EventStream {
        let (sender, receiver) = tokio::sync::mpsc::channel(capacity.max(1));
        self.add_stream(Box::new(move |event| sender.try_send(event.clone()).is_ok()));
        EventStream::new(receiver)
    }

    fn add_stream(&self, sender: EventSender) {
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        lock(&self.inner.streams).push(sender);
    }

    /// Returns whether there is an observer or a stream.
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.inner.count.load(Ordering::Relaxed) > 0
    }

    /// Sends the event that `event` creates to all observers; without observers `event` is not called. The
    /// change must be committed.
    pub fn emit(&self, event: impl FnOnce() -> Event) {
        if !self.is_observed() {
            return;
        }
        let event = event();
        let observers = Arc::clone(&lock(&self.inner.observers));
        for observer in &*observers {
            let observed = catch_unwind(AssertUnwindSafe(|| observer.observe(&event)));
            if observed.is_err() {
                tracing::error!("an observer of events panicked");
            }
        }
        lock(&self.inner.streams).retain(|send| {
            let is_open = send(&event);
            if !is_open {
                self.inner.count.fetch_sub(1, Ordering::SeqCst);
            }
            is_open
        });
    }
}

/// A stream of events; see [`Events::stream`].
#[cfg(feature = "async")]
#[derive(Debug)]
pub struct EventStream {
    receiver: tokio::sync::mpsc::Receiver<Event>,
}

#[cfg(feature = "async")]
impl EventStream {
    pub(crate) fn new(receiver: tokio::sync::mpsc::Receiver<Event>) -> Self {
        Self { receiver }
    }

    /// Returns the next event, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

#[cfg(feature = "async")]
impl futures_core::Stream for EventStream {
    type Item = Event;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Event>> {
        self.receiver.poll_recv(context)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("subscribers", &self.inner.count).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: i64) -> Event {
        Event {
            at: Timestamp::UNIX_EPOCH,
            subject: Subject::Execution { id: ExecutionId(id), job: "j".into() },
            change: Change::Status { status: BatchStatus::Started, note: None },
        }
    }

    #[test]
    fn a_subscriber_that_falls_behind_is_told_by_the_end_of_its_stream() {
        let events = Events::default();
        let stream = events.subscribe(2);
        for id in 1..=3 {
            events.emit(|| event(id));
        }
        assert_eq!(stream.iter().count(), 2, "two were held, then the stream ended");
        events.emit(|| unreachable!("no subscriber is left"));
    }

    #[test]
    fn an_observer_that_panics_changes_nothing_for_the_others() {
        let events = Events::default();
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&seen);
        events.observe(|_: &Event| panic!("on purpose"));
        events.observe(move |_: &Event| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        events.emit(|| event(1));
        events.emit(|| event(2));
        assert_eq!(seen.load(Ordering::SeqCst), 2);
    }
}
