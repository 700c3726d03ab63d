//! Every change of state as a typed event: to subscribers in the process and, for jobs and steps,
//! to the store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::execution::{BatchStatus, Counters, ExecutionId, StepExecutionId};

/// Something that happened to an execution.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// To which execution.
    pub execution: ExecutionId,
    /// Of which job.
    pub job: Arc<str>,
    /// What.
    #[serde(flatten)]
    pub change: Change,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Change {
    /// The job execution has a new status.
    Job {
        /// The new status.
        status: BatchStatus,
        /// More about it: `recovered: …`, `stop requested`.
        note: Option<String>,
    },
    /// A step execution has a new status.
    Step {
        /// Which one.
        id: StepExecutionId,
        /// Name of the step.
        name: Arc<str>,
        /// The new status.
        status: BatchStatus,
    },
    /// A chunk was committed. Not stored.
    ChunkCommitted {
        /// Which step execution.
        id: StepExecutionId,
        /// Name of the step.
        name: Arc<str>,
        /// What the step did so far.
        counters: Counters,
        /// How far the reader is, and how far it has to go, when it knows.
        progress: Option<Progress>,
    },
    /// An attempt at a chunk was abandoned. Not stored.
    ChunkRolledBack {
        /// Which step execution.
        id: StepExecutionId,
        /// Name of the step.
        name: Arc<str>,
        /// Why.
        error: String,
    },
}

/// How far a step is through its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Items or bytes behind the reader.
    pub done: u64,
    /// Items or bytes in all.
    pub total: u64,
    /// What is counted.
    pub unit: ProgressUnit,
}

/// What [`Progress`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgressUnit {
    /// Items.
    Items,
    /// Bytes of the input.
    Bytes,
}

/// A stored event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventRecord {
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    #[serde(serialize_with = "crate::execution::millis")]
    pub at: Timestamp,
    /// To which execution.
    pub execution: ExecutionId,
    /// Name of the step, for an event of a step.
    pub step: Option<String>,
    /// The new status.
    pub status: BatchStatus,
    /// More about it.
    pub note: Option<String>,
}

impl Event {
    /// The form that the store keeps, for events that it keeps.
    pub fn record(&self) -> Option<EventRecord> {
        let (step, status, note) = match &self.change {
            Change::Job { status, note } => (None, *status, note.clone()),
            Change::Step { name, status, .. } => (Some(name.to_string()), *status, None),
            Change::ChunkCommitted { .. } | Change::ChunkRolledBack { .. } => return None,
        };
        Some(EventRecord { at: self.at, execution: self.execution, step, status, note })
    }
}

type Observer = Box<dyn Fn(&Event) + Send + Sync>;

/// Hands events to whoever asked for them. Cloning shares the subscribers.
#[derive(Clone, Default)]
pub struct Events {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    count: AtomicUsize,
    observers: Mutex<Vec<Observer>>,
    streams: Mutex<Vec<SyncSender<Event>>>,
}

impl Events {
    /// Calls `observer` with every event, on the thread on which it happens: keep it short.
    pub fn observe(&self, observer: impl Fn(&Event) + Send + Sync + 'static) {
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        lock(&self.inner.observers).push(Box::new(observer));
    }

    /// A stream of all events from now on.
    ///
    /// It holds up to `capacity` events that were not yet taken. A subscriber that falls further
    /// behind loses its place: the stream ends, and it subscribes again after reading the store.
    pub fn subscribe(&self, capacity: usize) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(capacity.max(1));
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        lock(&self.inner.streams).push(sender);
        receiver
    }

    /// Hands out what `event` makes, if anybody listens.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if self.inner.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let event = event();
        for observer in &*lock(&self.inner.observers) {
            observer(&event);
        }
        lock(&self.inner.streams).retain(|stream| match stream.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.inner.count.fetch_sub(1, Ordering::SeqCst);
                false
            }
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
            execution: ExecutionId(id),
            job: "j".into(),
            change: Change::Job { status: BatchStatus::Started, note: None },
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
        events.emit(|| unreachable!("nobody listens any more"));
    }
}
