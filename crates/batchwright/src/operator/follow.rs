//! The events of one execution as a stream that ends with the execution.

use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use super::{AsyncOperator, OperatorError};
use crate::event::{Event, EventStream, Subject};
use crate::execution::ExecutionId;
use crate::runtime::runtime;

/// Events that wait for a reader of the stream.
const EVENTS_MAX: usize = 1_000;
/// How often the store is asked, which knows what other processes do.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl AsyncOperator {
    /// Returns the events of an execution: its present status, and then every change, to the end of the execution. Of an
    /// execution of another process, the changes of its status are seen, within a second.
    ///
    /// A reader that is slower than the events misses some, and then gets the present status again.
    ///
    /// # Errors
    ///
    /// The execution does not exist, the store fails, or the system refuses a thread.
    pub fn follow(
        &self,
        id: ExecutionId,
    ) -> impl Future<Output = Result<EventStream, OperatorError>> + Send + use<> {
        let this = self.clone();
        async move {
            // Subscribes before it looks, so that no change is between the two.
            let events = this.operator.events().stream(EVENTS_MAX);
            let now = this.status_of(id).await?;
            let (sender, receiver) = tokio::sync::mpsc::channel(EVENTS_MAX);
            let runtime = runtime().map_err(|_| OperatorError::NoResult)?;
            runtime.spawn(this.forward(id, now, events, sender));
            Ok(EventStream::new(receiver))
        }
    }

    async fn status_of(&self, id: ExecutionId) -> Result<Event, OperatorError> {
        let execution = self.call(move |operator| operator.explorer().execution(id)).await?;
        let subject = Subject::Execution { id, job: execution.job.as_str().into() };
        Ok(Event::of_status(self.operator.clock().now(), subject, execution.status, None))
    }

    /// Sends the events of an execution until it has ended or its stream is dropped.
    async fn forward(
        self,
        id: ExecutionId,
        now: Event,
        mut events: EventStream,
        sender: Sender<Event>,
    ) {
        let mut status = now.status().map(|(status, _)| status);
        let mut next = Some(now);
        loop {
            if let Some(event) = next.take() {
                let ended = is_end(&event);
                if sender.send(event).await.is_err() || ended {
                    return;
                }
            }
            match timeout(LOOK_INTERVAL, events.next()).await {
                Ok(Some(event)) if event.execution() == Some(id) => {
                    if event.step().is_none()
                        && let Some((new, _)) = event.status()
                    {
                        status = Some(new);
                    }
                    next = Some(event);
                }
                Ok(Some(_)) => {}
                // Events were missed, or another process may run the execution.
                missed => {
                    if missed.is_ok() {
                        events = self.operator.events().stream(EVENTS_MAX);
                        status = None;
                    }
                    if sender.is_closed() {
                        return;
                    }
                    if let Ok(now) = self.status_of(id).await {
                        let new = now.status().map(|(status, _)| status);
                        next = (new != status).then_some(now);
                        status = new;
                    }
                }
            }
        }
    }
}

fn is_end(event: &Event) -> bool {
    matches!(event.subject, Subject::Execution { .. })
        && event.status().is_some_and(|(status, _)| !status.is_running())
}
