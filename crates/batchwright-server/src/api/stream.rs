//! Streams of events and progress, which poll the store while a client listens.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use batchwright::execution::ExecutionId;
use batchwright::progressive::UnitProgress;
use futures_util::stream::{self, Stream, StreamExt};

use super::executions::EventRecord;
use super::{Api, Problem, blocking};

/// How often a stream polls the store.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Most events that one look reads.
const PAGE: usize = 500;
/// How often a silent stream sends a keep-alive comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Name of the event that ends a stream of progress.
pub(super) const END: &str = "end";
/// Headers against proxies that buffer, which would delay the stream.
const UNBUFFERED: [(HeaderName, &str); 2] =
    [(HeaderName::from_static("x-accel-buffering"), "no"), (header::CACHE_CONTROL, "no-cache")];

pub(super) fn sse(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let events = events.map(Ok::<_, Infallible>);
    let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    (UNBUFFERED, stream).into_response()
}

/// Streams the stored events of an execution after `Last-Event-ID`, until the execution ends.
pub(super) fn events(api: Api, id: ExecutionId, headers: &HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok());
    let seen: usize = last.and_then(|last| last.parse().ok()).unwrap_or(0);
    let batches = stream::unfold(Some((api, seen)), move |state| async move {
        let (api, seen) = state?;
        loop {
            let looked = api.clone();
            let found = blocking(move || {
                let ended = !looked.operator().explorer().execution(id)?.status.is_running();
                let page = looked.operator().queries().events_page(id, seen, PAGE)?;
                Ok((page, ended))
            });
            let (page, ended) = found.await.ok()?;
            let numbered = page.iter().zip(seen + 1..);
            let fresh: Vec<Event> = numbered
                .filter_map(|(event, number)| {
                    let data = serde_json::to_string(&EventRecord::of(event)?).ok()?;
                    Some(Event::default().id(number.to_string()).event("change").data(data))
                })
                .collect();
            let (seen, is_all) = (seen + page.len(), page.len() < PAGE);
            if ended && is_all || api.stop.is_requested() {
                return Some((fresh, None));
            }
            if !fresh.is_empty() {
                return Some((fresh, Some((api, seen))));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    });
    sse(batches.flat_map(stream::iter))
}

/// Streams the progress of an execution after each change, until the execution ends.
fn changes(
    api: Api,
    id: ExecutionId,
    token: Option<String>,
) -> impl Stream<Item = UnitProgress> + Send + 'static {
    stream::unfold(Some((api, None::<UnitProgress>)), move |state| {
        let token = token.clone();
        async move {
            let (api, last) = state?;
            loop {
                let (looked, token) = (api.clone(), token.clone());
                let look = blocking(move || {
                    Ok(looked.operator().progressive().units_progress(id, token.as_deref())?)
                });
                let now = look.await.ok()?;
                let is_news = last.as_ref().is_none_or(|last| {
                    (last.status, last.units_done, last.units_failed)
                        != (now.status, now.units_done, now.units_failed)
                });
                if !now.status.is_running() || api.stop.is_requested() {
                    return Some((now, None));
                }
                if is_news {
                    // Send the first at once; limit the rate of the others.
                    if last.is_some() {
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                    return Some((now.clone(), Some((api, Some(now)))));
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    })
}

/// Streams the progress as server-sent events.
pub(super) fn progress_events(api: Api, id: ExecutionId, token: Option<String>) -> Response {
    sse(changes(api, id, token).map(|progress| {
        let data = serde_json::to_string(&progress).unwrap_or_default();
        let event = Event::default().event("progress").data(data);
        if progress.status.is_running() { event } else { event.id(END) }
    }))
}

/// Streams the progress as one JSON object per line.
pub(super) fn progress_lines(api: Api, id: ExecutionId, token: Option<String>) -> Response {
    let lines = changes(api, id, token).map(|progress| {
        let mut line = serde_json::to_vec(&progress).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Problem>(Bytes::from(line))
    });
    let lines = lines.map(|line| line.map_err(|_| std::io::Error::other("no line")));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, UNBUFFERED, Body::from_stream(lines)).into_response()
}
