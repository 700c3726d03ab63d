//! Typed events for every change of state: sent to subscribers within the process and, for jobs and steps,
//! written to the store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use crate::execution::{BatchStatus, Counters, ExecutionId, StepExecutionId};

/// A change in an execution.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Time of the change.
    pub at: Timestamp,
    /// Execution that changed.
    pub execution: ExecutionId,
    /// Name of its job.
    pub job: Arc<str>,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
}

/// The kind of a change, with its details.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Change {
    /// The job execution has a new status.
    Job {
        /// The new status.
        status: BatchStatus,
        /// Details: `recovered: …`, `stop requested`.
        note: Option<String>,
    },
    /// A step execution has a new status.
    Step {
        /// Number of the step execution.
        id: StepExecutionId,
        /// Name of the step.
        name: Arc<str>,
        /// The new status.
        status: BatchStatus,
    },
    /// A chunk was committed. Not stored.
    ChunkCommitted {
        /// Number of the step execution.
        id: StepExecutionId,
        /// Name of the step.
        name: Arc<str>,
        /// Counters of the step execution so far.
        counters: Counters,
        /// Position and total of the reader, when the reader knows its total.
        progress: Option<Progress>,
    },
    /// An attempt at a chunk was rolled back. Not stored.
    ChunkRolledBack {
        /// Number of the step execution.
        id: StepExecutionId,
        /// Name of the step.
        name: Arc<str>,
        /// Error that caused the rollback.
        error: String,
    },
}

/// Progress of a step through its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Items or bytes that the reader has consumed.
    pub done: u64,
    /// Items or bytes in total.
    pub total: u64,
    /// Unit of both numbers.
    pub unit: ProgressUnit,
}

/// The unit of [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgressUnit {
    /// Items.
    Items,
    /// Bytes of the input.
    Bytes,
}

/// An event in the store.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventRecord {
    /// Time of the event.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    #[serde(serialize_with = "crate::execution::millis")]
    pub at: Timestamp,
    /// Execution that changed.
    pub execution: ExecutionId,
    /// Name of the step, for an event of a step.
    pub step: Option<String>,
    /// The new status.
    pub status: BatchStatus,
    /// Details, such as `stop requested`.
    pub note: Option<String>,
}

impl Event {
    /// Returns the stored form; `None` for events that are not stored.
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

/// The registry of event subscribers. Clones share the subscribers.
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
    /// Calls `observer` with every event, on the thread that emits it; the call must be short.
    pub fn observe(&self, observer: impl Fn(&Event) + Send + Sync + 'static) {
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        lock(&self.inner.observers).push(Box::new(observer));
    }

    /// Returns a stream of all events from now on.
    ///
    /// The stream buffers up to `capacity` events. When the buffer is full, the stream ends; the subscriber
    /// then subscribes again and reads what it missed from the store.
    pub fn subscribe(&self, capacity: usize) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(capacity.max(1));
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        lock(&self.inner.streams).push(sender);
        receiver
    }

    /// Sends the event that `event` creates to all subscribers; without subscribers `event` is not called.
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
        events.emit(|| unreachable!("no subscriber is left"));
    }
}
