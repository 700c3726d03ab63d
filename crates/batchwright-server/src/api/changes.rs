//! The changes of all executions of the store, also those by other processes: one poller reads them for all listeners.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::Event as Frame;
use axum::response::{IntoResponse, Response};
use batchwright::event::Event;
use batchwright::query::ExecutionFilter;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};

use super::body::NoQuery;
use super::executions::EventRecord;
use super::stream::sse;
use super::{Api, Problem, blocking};

/// How often the poller reads the store while there are listeners.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How often listeners are notified that executions are running, whose counters change without an event.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long an event may become visible after one with a higher number, because their transactions overlap.
pub(super) const OVERLAP: Duration = Duration::from_secs(2);
/// Most events of one look, and most events that a listener may have missed.
const EVENTS_MAX: usize = 1_000;

/// How many numbers below the last one that a client has seen are looked at again.
const LATE_MAX: i64 = 100;
/// How soon a client connects again, in milliseconds.
const RETRY_MS: u64 = 3_000;

/// A server-sent event.
#[derive(utoipa::ToSchema)]
#[schema(as = ChangeEvent)]
#[expect(dead_code, reason = "for the OpenAPI document")]
struct Sent {
    /// Number of the change, for `Last-Event-ID`.
    id: Option<String>,
    /// `status` or `progress`.
    event: String,
    /// Of `status` the change as JSON; of `progress` the number of running executions.
    data: String,
}

/// A message to the listeners.
#[derive(Debug, Clone)]
enum Message {
    /// A stored event: its number and its record as JSON.
    Status(i64, Arc<str>),
    /// So many executions are running.
    Progress(u64),
}

impl Message {
    fn sent(&self) -> Frame {
        match self {
            Self::Status(id, json) => {
                Frame::default().id(id.to_string()).event("status").data(json)
            }
            Self::Progress(running) => {
                Frame::default().event("progress").data(format!("{{\"running\":{running}}}"))
            }
        }
    }
}

/// The poller of a server, which works only while there are listeners.
#[derive(Clone)]
pub(super) struct Changes {
    messages: Sender<Message>,
    is_polling: Arc<Mutex<bool>>,
}

impl Default for Changes {
    fn default() -> Self {
        let (messages, _) = channel(EVENTS_MAX);
        Self { messages, is_polling: Arc::default() }
    }
}

impl Changes {
    /// Adds a listener, and begins to poll for the first one.
    fn subscribe(&self, api: &Api) -> Receiver<Message> {
        let mut is_polling = self.is_polling.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.messages.subscribe();
        if !std::mem::replace(&mut *is_polling, true) {
            tokio::spawn(self.clone().poll(api.clone()));
        }
        receiver
    }

    /// Whether the poller is to end, which the next listener begins again.
    fn ends(&self, api: &Api) -> bool {
        let mut is_polling = self.is_polling.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = self.messages.receiver_count() == 0 || api.stop.is_requested();
        *is_polling = !ends;
        ends
    }

    async fn poll(self, api: Api) {
        let mut window: Option<Window> = None;
        let mut progress_at = Duration::ZERO;
        while !self.ends(&api) {
            let now = api.operator().clock().elapsed();
            let asks_progress = now >= progress_at;
            let (looked, floor) = (api.clone(), window.as_ref().map(|window| window.floor));
            let look = blocking(move || {
                let queries = looked.operator().queries();
                let first = match floor {
                    Some(floor) => floor,
                    None => (queries.last_event()? - EVENTS_MAX as i64).max(0),
                };
                let events = queries.events_after(first, EVENTS_MAX)?;
                let running = match asks_progress {
                    true => Some(queries.execution_count(&ExecutionFilter::default().running())?),
                    false => None,
                };
                Ok((events, first, running))
            });
            // A store that does not answer now is asked again.
            if let Ok((events, first, running)) = look.await {
                // Of the first look, only the last seconds are sent: a listener may have begun a little before it.
                let since = match &window {
                    Some(_) => None,
                    None => api.operator().clock().now().checked_sub(OVERLAP).ok(),
                };
                let window = window.get_or_insert_with(|| Window::new(first));
                let fresh = window.fresh(events, now).into_iter();
                for (id, event) in fresh.filter(|(_, it)| since.is_none_or(|since| it.at >= since))
                {
                    if let Some(json) = json_of(&event) {
                        let _ = self.messages.send(Message::Status(id, json));
                    }
                }
                if let Some(running) = running {
                    progress_at = now + PROGRESS_INTERVAL;
                    if running > 0 {
                        let _ = self.messages.send(Message::Progress(running));
                    }
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn json_of(event: &Event) -> Option<Arc<str>> {
    Some(serde_json::to_string(&EventRecord::of(event)?).ok()?.into())
}

/// The numbers of events that were read lately. Events above `floor` are read again, because one of a transaction that commits
/// late may appear between those that were read.
#[derive(Debug)]
struct Window {
    floor: i64,
    seen: BTreeSet<i64>,
    /// The highest number that was read at a time.
    marks: VecDeque<(Duration, i64)>,
}

impl Window {
    fn new(floor: i64) -> Self {
        Self { floor, seen: BTreeSet::new(), marks: VecDeque::new() }
    }

    /// Returns those of `events`, read at `now`, that were not read before.
    fn fresh(&mut self, events: Vec<(i64, Event)>, now: Duration) -> Vec<(i64, Event)> {
        let is_cut = events.len() >= EVENTS_MAX;
        let fresh: Vec<_> = events.into_iter().filter(|(id, _)| self.seen.insert(*id)).collect();
        let highest = self.seen.last().copied().unwrap_or(self.floor);
        self.marks.push_back((now, highest));
        // So many events at once leave no room for waiting for late ones.
        let ages_at = if is_cut { now } else { now.saturating_sub(OVERLAP) };
        while let Some((_, id)) = self.marks.front().copied().filter(|(at, _)| *at <= ages_at) {
            self.floor = self.floor.max(id);
            self.marks.pop_front();
        }
        self.seen = self.seen.split_off(&(self.floor + 1));
        fresh
    }
}

/// Streams the status changes of all executions of the store as server-sent events, after `Last-Event-ID` if it is given: `status`
/// for each change, and `progress` once a second while executions run. A change of the last seconds may come twice; its number
/// tells that. The stream ends with the server.
#[utoipa::path(get, path = "/v1/events", operation_id = "changes", tag = "executions",
    responses((status = 200, content((Sent = "text/event-stream")))))]
pub(super) async fn events(
    State(api): State<Api>,
    _: NoQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // Subscribes before it reads what was missed, so that no change is between the two.
    let receiver = api.changes.subscribe(&api);
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok());
    let missed = match last.and_then(|last| last.parse::<i64>().ok()) {
        None => Vec::new(),
        Some(last) => {
            let looked = api.clone();
            blocking(move || missed_since(&looked, last)).await?
        }
    };
    let known: Arc<BTreeSet<i64>> = Arc::new(missed.iter().map(|(id, _)| *id).collect());
    let missed: VecDeque<Message> = missed
        .iter()
        .filter_map(|(id, event)| Some(Message::Status(*id, json_of(event)?)))
        .collect();
    let messages = stream::unfold((missed, receiver, api), move |(mut missed, mut live, api)| {
        let known = Arc::clone(&known);
        async move {
            if let Some(message) = missed.pop_front() {
                return Some((message.sent(), (missed, live, api)));
            }
            loop {
                let ending = api.ending();
                let received = tokio::select! {
                    received = live.recv() => received,
                    () = ending => return None,
                };
                match received {
                    Ok(Message::Status(id, _)) if known.contains(&id) => {}
                    Ok(message) => return Some((message.sent(), (missed, live, api))),
                    // A listener that is too slow connects again with the number of its last event.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return None,
                }
            }
        }
    });
    let begin = Frame::default().retry(Duration::from_millis(RETRY_MS)).comment("changes");
    Ok(sse(stream::once(async { begin }).chain(messages)).into_response())
}

/// Returns the events that a client has missed since the one with the number `last`.
fn missed_since(api: &Api, last: i64) -> Result<Vec<(i64, Event)>, Problem> {
    let from = last.saturating_sub(LATE_MAX);
    let limit = EVENTS_MAX + usize::try_from(LATE_MAX).unwrap_or(0);
    let mut events = api.operator().queries().events_after(from, limit)?;
    if events.iter().filter(|(id, _)| *id > last).count() >= EVENTS_MAX {
        let detail = "too many changes have happened since; read the lists, and listen without `Last-Event-ID`";
        return Err(Problem::new(StatusCode::GONE, "too_old", detail));
    }
    // An event with a lower number may have become visible after the last one that the client has seen.
    let seen = events.iter().find(|(id, _)| *id == last).map(|(_, event)| event.at);
    let since = seen.and_then(|at| at.checked_sub(OVERLAP).ok());
    let is_missed = |id: i64, at: Timestamp| id > last || since.is_some_and(|since| at >= since);
    events.retain(|(id, event)| *id != last && is_missed(*id, event.at));
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::BatchStatus;
    use batchwright::event::Subject;
    use batchwright::execution::ExecutionId;

    fn event(id: i64) -> (i64, Event) {
        let subject = Subject::Execution { id: ExecutionId(id), job: "j".into() };
        (id, Event::of_status(Timestamp::UNIX_EPOCH, subject, BatchStatus::Started, None))
    }

    fn ids(events: Vec<(i64, Event)>) -> Vec<i64> {
        events.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn an_event_that_appears_late_is_seen_once() {
        let second = Duration::from_secs(1);
        let mut window = Window::new(4);
        assert_eq!(ids(window.fresh(vec![event(5), event(7)], second)), [5, 7]);
        assert_eq!(window.floor, 4, "6 may still appear");
        assert_eq!(ids(window.fresh(vec![event(5), event(6), event(7)], 2 * second)), [6]);
        assert_eq!(ids(window.fresh(vec![event(5), event(6), event(7)], 4 * second)), [0; 0]);
        assert_eq!(window.floor, 7, "no older event is waited for any more");
        assert_eq!(ids(window.fresh(vec![event(8)], 4 * second)), [8]);
        assert!(window.seen.len() == 1 && window.marks.len() <= 2, "{window:?}");
    }

    #[test]
    fn very_many_events_are_read_on_at_once() {
        let mut window = Window::new(0);
        let many: Vec<_> = (1..=EVENTS_MAX as i64).map(event).collect();
        assert_eq!(window.fresh(many, Duration::ZERO).len(), EVENTS_MAX);
        assert_eq!(window.floor, EVENTS_MAX as i64);
    }
}
