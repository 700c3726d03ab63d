//! The events of one execution as a stream that ends with the execution.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::{AsyncOperator, OperatorError};
use crate::event::{Event, EventStream, Subject};
use crate::execution::ExecutionId;

/// Events that wait for a reader of the stream.
const EVENTS_MAX: usize = 1_000;

impl AsyncOperator {
    /// Returns the events of an execution: its present status, and then every change, to the end of the execution. An
    /// execution of another process has no further event.
    ///
    /// The stream also ends when 1,000 events wait to be read.
    ///
    /// # Errors
    ///
    /// The execution does not exist, or the store fails.
    pub async fn follow(&self, id: ExecutionId) -> Result<ExecutionEvents, OperatorError> {
        // Subscribes before it looks, so that no change is between the two.
        let events = self.operator.events().stream(EVENTS_MAX);
        let now = self.operator.clock().now();
        let execution = self.call(move |operator| operator.explorer().execution(id)).await?;
        let subject = Subject::Execution { id, job: execution.job.as_str().into() };
        let first = Event::of_status(now, subject, execution.status, None);
        let events = execution.status.is_running().then_some(events);
        Ok(ExecutionEvents { id, first: Some(first), events })
    }
}

/// The events of one execution; see [`AsyncOperator::follow`].
#[derive(Debug)]
pub struct ExecutionEvents {
    id: ExecutionId,
    first: Option<Event>,
    /// `None` after the end of the execution.
    events: Option<EventStream>,
}

impl Stream for ExecutionEvents {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        while let Some(events) = &mut self.events {
            let event = ready!(Pin::new(events).poll_next(context));
            let is_end = event.as_ref().is_none_or(|event| {
                matches!(&event.subject, Subject::Execution { id, .. } if *id == self.id)
                    && event.status().is_some_and(|(status, _)| !status.is_running())
            });
            if is_end {
                self.events = None;
            }
            if event.as_ref().is_none_or(|event| event.execution() == Some(self.id)) {
                return Poll::Ready(event);
            }
        }
        Poll::Ready(None)
    }
}
