//! One client: its requests in, its answers out, neither waiting for the other.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::listener::Context;
use super::message::{Decoder, Malformed};
use super::request::{self, Asked};
use crate::scheduler::{Answer, Refused};

/// Bytes that are read at once.
const READ_MAX: usize = 16 * 1024;
/// Messages that are none, after which a client is given up.
const MALFORMED_MAX: u32 = 10;
/// Answers that a client has not read, in bytes: beyond it no more of its requests are read. One that
/// pipelines a million `SET`s before it reads has room.
const UNREAD_MAX: usize = 16 * 1024 * 1024;
/// How long a client may read nothing while answers wait for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers on their way to a client.
#[derive(Default)]
struct Outbox {
    state: Mutex<OutboxState>,
    /// The writer has something to do.
    filled: Notify,
    /// The reader may go on.
    emptied: Notify,
}

#[derive(Default)]
struct OutboxState {
    bytes: Vec<u8>,
    /// Requests whose answers are not here yet.
    pending: usize,
    /// No more requests will come.
    closed: bool,
    /// Nobody reads any more.
    gone: bool,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self) {
        self.state().pending += 1;
    }

    fn put(&self, answer: &str) {
        let mut state = self.state();
        state.pending -= 1;
        if !state.gone {
            state.bytes.extend_from_slice(answer.as_bytes());
        }
        drop(state);
        self.filled.notify_one();
    }

    fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
    }

    /// Waits until there is room for further answers; `false` when nobody reads them any more.
    async fn has_room(&self) -> bool {
        loop {
            let emptied = self.emptied.notified();
            {
                let state = self.state();
                if state.gone {
                    return false;
                }
                if state.bytes.len() < UNREAD_MAX {
                    return true;
                }
            }
            emptied.await;
        }
    }
}

/// Serves a client until it goes, is given up, or the server ends. Everything that was received is answered.
pub(super) async fn serve<S>(stream: S, context: Arc<Context>, end: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut read, write) = tokio::io::split(stream);
    let outbox = Arc::new(Outbox::default());
    let writer = tokio::spawn(write_answers(write, Arc::clone(&outbox)));
    let mut client = Client {
        outbox: Arc::clone(&outbox),
        is_known: context.access.is_open(),
        context,
        with_reasons: false,
        malformed: 0,
    };
    client.read_requests(&mut read, end).await;
    outbox.close();
    let _ = writer.await;
}

struct Client {
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    /// Whether it may ask for anything.
    is_known: bool,
    with_reasons: bool,
    malformed: u32,
}

type Read = Vec<Result<Vec<String>, Malformed>>;

impl Client {
    async fn read_requests<R: AsyncRead + Unpin>(
        &mut self,
        read: &mut R,
        mut end: watch::Receiver<bool>,
    ) {
        let mut decoder = Decoder::default();
        let mut deadline = None;
        loop {
            if !self.outbox.has_room().await {
                return;
            }
            let messages = tokio::select! {
                messages = read_messages(read, &mut decoder) => messages,
                () = at(deadline) => return self.tell(&Malformed {
                    identifier: None,
                    reason: "the message took too long to come whole",
                    is_fatal: true,
                }),
                _ = end.wait_for(|end| *end) => return,
            };
            let Ok(Some(messages)) = messages else {
                return;
            };
            let is_new = !messages.is_empty() || deadline.is_none();
            deadline = match decoder.is_inside() {
                true if is_new => Some(Instant::now() + self.context.message_timeout),
                true => deadline,
                false => None,
            };
            for message in messages {
                // Answers may be much longer than requests.
                if !self.outbox.has_room().await {
                    return;
                }
                match message {
                    Ok(words) => self.ask(words).await,
                    Err(malformed) => {
                        self.tell(&malformed);
                        self.malformed += 1;
                        if malformed.is_fatal || self.malformed >= MALFORMED_MAX {
                            return;
                        }
                    }
                }
                if self.malformed >= MALFORMED_MAX {
                    return;
                }
            }
        }
    }

    fn tell(&self, malformed: &Malformed) {
        let identifier = malformed.identifier.clone().unwrap_or_default();
        self.outbox.expect();
        self.put(&identifier, &Err(Refused::new("malformed", malformed.reason)));
    }

    fn put(&self, identifier: &str, answer: &Result<Answer, Refused>) {
        self.outbox.put(&request::answer(identifier, answer, self.with_reasons));
    }

    /// Follows one message, or sees to it that it is answered later.
    async fn ask(&mut self, mut words: Vec<String>) {
        let size: usize = words.iter().map(String::len).sum();
        let identifier = words.remove(0);
        self.outbox.expect();
        let parsed = match self.is_known || request::is_open(&words) {
            true => request::parse(&words, self.context.now()),
            // Not even whether a request makes sense is told to strangers.
            false => Err(Refused::new("unauthorized", "send AUTH with the token first")),
        };
        let answer = match parsed {
            Ok(Asked::Auth(token)) => match self.context.access.admits(&token) {
                true => {
                    self.is_known = true;
                    Ok(Answer::Done)
                }
                false => {
                    self.malformed += 1;
                    Err(Refused::new("unauthorized", "the token is wrong"))
                }
            },
            Ok(Asked::Hello) => {
                self.with_reasons = true;
                Ok(Answer::Done)
            }
            Ok(Asked::Ping) => Ok(Answer::Done),
            Ok(Asked::Schedule(asked)) => {
                let (outbox, with_reasons) = (Arc::clone(&self.outbox), self.with_reasons);
                let reply = move |answer: Result<Answer, Refused>| {
                    outbox.put(&request::answer(&identifier, &answer, with_reasons));
                };
                let size = size + asked.answer_size();
                return self.context.scheduler.ask_sized(asked, size, Box::new(reply)).await;
            }
            Err(refused) => Err(refused),
        };
        self.put(&identifier, &answer);
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The messages that the next bytes end; `None` at the end of the input. An idle client costs no buffer.
async fn read_messages<R: AsyncRead + Unpin>(
    read: &mut R,
    decoder: &mut Decoder,
) -> std::io::Result<Option<Read>> {
    poll_fn(|task| {
        let mut bytes = [0; READ_MAX];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *read).poll_read(task, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read?,
        }
        let mut rest = buffer.filled();
        if rest.is_empty() {
            return Poll::Ready(Ok(None));
        }
        let mut messages = Vec::new();
        while let Some(message) = decoder.next(&mut rest) {
            let is_fatal = matches!(&message, Err(malformed) if malformed.is_fatal);
            messages.push(message);
            if is_fatal {
                break;
            }
        }
        Poll::Ready(Ok(Some(messages)))
    })
    .await
}

/// Writes answers as they come, several at once.
async fn write_answers<S: AsyncWrite>(mut write: WriteHalf<S>, outbox: Arc<Outbox>) {
    loop {
        let filled = outbox.filled.notified();
        let (bytes, is_last) = {
            let mut state = outbox.state();
            (std::mem::take(&mut state.bytes), state.closed && state.pending == 0)
        };
        if bytes.is_empty() {
            if is_last {
                break;
            }
            filled.await;
            continue;
        }
        // Its place in the outbox is free again only when it is written.
        let written = write_all(&mut write, &bytes).await;
        if written.is_err() {
            break;
        }
        outbox.emptied.notify_one();
    }
    let _ = tokio::time::timeout(WRITE_TIMEOUT, write.shutdown()).await;
    let mut state = outbox.state();
    state.gone = true;
    state.bytes = Vec::new();
    drop(state);
    outbox.emptied.notify_one();
}

/// Writes everything; every bit of progress starts the time-out anew.
async fn write_all<S: AsyncWrite>(
    write: &mut WriteHalf<S>,
    mut bytes: &[u8],
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match tokio::time::timeout(WRITE_TIMEOUT, write.write(bytes)).await {
            Ok(Ok(0)) | Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
            Ok(written) => bytes = &bytes[written?..],
        }
    }
    Ok(())
}
