//! One client of the line protocol: requests and answers are transferred independently of each other.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::listener::{Context, LONG_ANSWERS_KIB};
use super::request::{self, Asked};
use crate::message::{Decoder, MESSAGE_MAX, Malformed};
use crate::scheduler::{Answer, Refused};

/// Bytes of one read.
const READ_MAX: usize = 16 * 1024;
/// Malformed messages after which the connection is closed.
const MALFORMED_MAX: u32 = 10;
/// Unread answers of a client, in bytes, beyond which its requests are not read. A client that pipelines a
/// million `SET`s before it reads an answer stays below.
const UNREAD_MAX: usize = 16 * 1024 * 1024;
/// Longest message of an unauthenticated client, in bytes, and its most arguments.
const STRANGER_MAX: (usize, usize) = (4 * 1024, 8);
/// How long a message of an unauthenticated client may take from its first byte to its last.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most arguments of a message; a plan has up to forty.
const ARGUMENTS_MAX: usize = 64;
/// Length in bytes above which a message needs one of the permits for long messages.
const LONG_MESSAGE: usize = 16 * 1024;
/// How long a client may read nothing while answers wait.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers that wait for a client.
#[derive(Default)]
struct Outbox {
    state: Mutex<OutboxState>,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes the reader.
    emptied: Notify,
}

#[derive(Default)]
struct OutboxState {
    bytes: Vec<u8>,
    /// Permits of the long answers in `bytes`, released when they are written.
    places: Vec<OwnedSemaphorePermit>,
    /// Number of bytes that are being written.
    writing: usize,
    /// Number of requests that are not answered yet.
    pending: usize,
    /// Whether no more requests follow.
    closed: bool,
    /// Whether the writer has ended, so that answers are discarded.
    writer_ended: bool,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self) {
        self.state().pending += 1;
    }

    fn put(&self, answer: &str, place: Option<OwnedSemaphorePermit>) {
        let mut state = self.state();
        state.pending -= 1;
        if !state.writer_ended {
            state.bytes.extend_from_slice(answer.as_bytes());
            state.places.extend(place);
        }
        drop(state);
        self.filled.notify_one();
    }

    fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
    }

    /// Waits until there is room for further answers; `false` when the writer has ended.
    async fn has_room(&self) -> bool {
        loop {
            let emptied = self.emptied.notified();
            {
                let state = self.state();
                if state.writer_ended {
                    return false;
                }
                if state.bytes.len() + state.writing < UNREAD_MAX {
                    return true;
                }
            }
            emptied.await;
        }
    }
}

/// Serves a client until it disconnects, breaks the protocol, or the server ends. Every received request is
/// answered.
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
        is_first: true,
    };
    client.read_requests(&mut read, end).await;
    outbox.close();
    let _ = writer.await;
}

struct Client {
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    /// Whether the client is authenticated, or needs no token.
    is_known: bool,
    with_reasons: bool,
    malformed: u32,
    /// Whether no message has been received yet.
    is_first: bool,
}

/// Returns whether `message` is a line of HTTP. A web page of any origin can make a browser send an HTTP
/// request here, and commands in its body: none of its lines may be executed.
fn is_http(message: &Result<Vec<String>, Malformed>, is_first: bool) -> bool {
    const METHODS: [&str; 10] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"];
    let (first, last) = match message {
        Ok(words) => (words.first().map(String::as_str), words.last().map(String::as_str)),
        Err(malformed) => (malformed.identifier.as_deref(), None),
    };
    let is_host = |word: &str| word.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("host:"));
    first.is_some_and(|word| is_host(word) || is_first && METHODS.contains(&word))
        || last.is_some_and(|word| is_first && word.starts_with("HTTP/"))
}

impl Client {
    async fn read_requests<R: AsyncRead + Unpin>(
        &mut self,
        read: &mut R,
        mut end: watch::Receiver<bool>,
    ) {
        let mut decoder = Decoder::default();
        let mut deadline = None;
        let mut long_message = None;
        loop {
            if !self.outbox.has_room().await {
                return;
            }
            let bytes = tokio::select! {
                bytes = read_bytes(read) => bytes,
                () = at(deadline) => return self.report(&Malformed {
                    identifier: None,
                    reason: "the message took too long to arrive",
                    is_fatal: true,
                }),
                _ = end.wait_for(|end| *end) => return,
            };
            let Ok(Some(bytes)) = bytes else {
                return;
            };
            let (mut rest, mut ended_one) = (&bytes[..], false);
            // Messages are executed one by one, because an AUTH changes the limits of the next.
            while let Some(message) = self.next_message(&mut decoder, &mut rest) {
                ended_one = true;
                if is_http(&message, std::mem::take(&mut self.is_first)) {
                    tracing::warn!(
                        "a client spoke HTTP to the line protocol, which a web page can make a browser do: \
                         its connection was closed and nothing was executed"
                    );
                    return;
                }
                // Answers may be much longer than requests.
                if !self.outbox.has_room().await {
                    return;
                }
                match message {
                    Ok(words) => self.ask(words).await,
                    Err(malformed) => {
                        self.report(&malformed);
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
            let is_new = ended_one || deadline.is_none();
            deadline = match decoder.is_inside() {
                true if is_new => Some(Instant::now() + self.message_timeout()),
                true => deadline,
                false => None,
            };
            if decoder.length() <= LONG_MESSAGE {
                long_message = None;
            } else if long_message.is_none() {
                let place = Arc::clone(&self.context.long_messages).acquire_owned();
                long_message = tokio::select! {
                    place = place => place.ok(),
                    () = at(deadline) => return,
                };
            }
        }
    }

    fn next_message(
        &self,
        decoder: &mut Decoder,
        rest: &mut &[u8],
    ) -> Option<Result<Vec<String>, Malformed>> {
        let (bytes_max, arguments_max) = match self.is_known {
            true => (MESSAGE_MAX, ARGUMENTS_MAX),
            false => STRANGER_MAX,
        };
        decoder.bound(bytes_max, arguments_max);
        decoder.next(rest)
    }

    fn message_timeout(&self) -> Duration {
        match self.is_known {
            true => self.context.message_timeout,
            false => self.context.message_timeout.min(STRANGER_TIMEOUT),
        }
    }

    fn report(&self, malformed: &Malformed) {
        let identifier = malformed.identifier.clone().unwrap_or_default();
        self.outbox.expect();
        self.put(&identifier, &Err(Refused::new("malformed", malformed.reason)));
    }

    fn put(&self, identifier: &str, answer: &Result<Answer, Refused>) {
        self.outbox.put(&request::answer(identifier, answer, self.with_reasons), None);
    }

    /// Executes one message, or sends it to the scheduler, which answers later.
    async fn ask(&mut self, mut words: Vec<String>) {
        let size: usize = words.iter().map(String::len).sum();
        let identifier = words.remove(0);
        self.outbox.expect();
        let parsed = match self.is_known || request::is_open(&words) {
            true => request::parse(&words, self.context.now()),
            // An unauthenticated client does not even learn whether its request is valid.
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
                let answer_size = asked.answer_size();
                // A long answer holds its permits until it is written, which limits clients that do not read.
                let place = match u32::try_from(answer_size / 1024).unwrap_or(u32::MAX) {
                    0 => None,
                    weight => {
                        let weight = weight.min(LONG_ANSWERS_KIB);
                        let places = Arc::clone(&self.context.long_answers);
                        places.acquire_many_owned(weight).await.ok()
                    }
                };
                let reply = move |answer: Result<Answer, Refused>| {
                    outbox.put(&request::answer(&identifier, &answer, with_reasons), place);
                };
                let size = size + answer_size;
                return self.context.scheduler.ask_sized(asked, size, Box::new(reply)).await;
            }
            Err(refused) => {
                // Unknown requests count towards the limit of malformed messages.
                self.malformed += u32::from(refused.code == "unknown");
                Err(refused)
            }
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

/// Reads the next bytes; `None` at the end of the input. An idle client holds no buffer.
async fn read_bytes<R: AsyncRead + Unpin>(read: &mut R) -> std::io::Result<Option<Vec<u8>>> {
    poll_fn(|task| {
        let mut bytes = [0; READ_MAX];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *read).poll_read(task, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read?,
        }
        let bytes = buffer.filled();
        Poll::Ready(Ok((!bytes.is_empty()).then(|| bytes.to_vec())))
    })
    .await
}

/// Writes answers as they come, several at once.
async fn write_answers<S: AsyncWrite>(mut write: WriteHalf<S>, outbox: Arc<Outbox>) {
    loop {
        let filled = outbox.filled.notified();
        let (bytes, places, is_last) = {
            let mut state = outbox.state();
            let bytes = std::mem::take(&mut state.bytes);
            state.writing = bytes.len();
            let places = std::mem::take(&mut state.places);
            (bytes, places, state.closed && state.pending == 0)
        };
        if bytes.is_empty() {
            if is_last {
                break;
            }
            filled.await;
            continue;
        }
        // Release the room in the outbox only after the write.
        let written = write_all(&mut write, &bytes).await;
        drop((bytes, places));
        outbox.state().writing = 0;
        if written.is_err() {
            break;
        }
        outbox.emptied.notify_one();
    }
    let _ = tokio::time::timeout(WRITE_TIMEOUT, write.shutdown()).await;
    let mut state = outbox.state();
    state.writer_ended = true;
    state.bytes = Vec::new();
    state.places = Vec::new();
    drop(state);
    outbox.emptied.notify_one();
}

/// Writes all bytes; each progress restarts the timeout.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_http_are_known_and_requests_are_not_taken_for_them() {
        let words = |text: &str| Ok(text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for line in
            ["POST / HTTP/1.1", "GET /x HTTP/1.0", "1 SET a HTTP/1.1", "Host: localhost:5678"]
        {
            assert!(is_http(&words(line), true), "{line}");
        }
        assert!(is_http(&words("host: x"), false), "a header may come later");
        let malformed = |identifier: &str| {
            Err(Malformed { identifier: Some(identifier.to_owned()), reason: "", is_fatal: false })
        };
        assert!(is_http(&malformed("Host:localhost"), false));
        assert!(is_http(&malformed("POST"), true));
        for line in ["1 SET a b", "x GET a", "get PING"] {
            assert!(!is_http(&words(line), true), "{line}");
        }
        assert!(!is_http(&words("POST GET a"), false), "only the first line can be a request");
    }
}
