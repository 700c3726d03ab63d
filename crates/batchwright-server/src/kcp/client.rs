//! The client of the line protocol: asynchronous and pipelined, with automatic reconnection. It also works
//! with Kairoi's server.
//!
//! ```no_run
//! use batchwright_server::kcp::client::Client;
//! use batchwright_server::{RuleSettings, When};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("tcp://127.0.0.1:5678")?;
//! client.set_rule("mail", "app.mail.", RuleSettings::parse(&["shell", "/opt/mail.sh"])?).await?;
//! client.set("app.mail.7", When::parse("2026-11-22 06:30:00")?).await?;
//!
//! // Many at a time: one round trip, one result each.
//! let many = (0..1_000).map(|n| (format!("app.mail.{n}"), When::At(1_800_000_000_000_000)));
//! for result in client.set_many(many).await {
//!     result?;
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;

use super::{Decoder, encode};
use crate::scheduler::{RuleSettings, Secret, When};

/// Instructions that wait for the connection; beyond that, senders wait.
const WAITING_MAX: usize = 10_000;
/// Instructions that are written together.
const BATCH_MAX: usize = 1_000;
/// First and longest wait before the next attempt to connect.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The address of the server, and how to connect to it.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// `HOST:PORT`.
    pub address: String,
    /// Token for authentication, sent first.
    pub token: Option<Secret>,
    /// Encryption with TLS and the accepted certificates; `None` for an unencrypted connection.
    pub tls: Option<ClientTls>,
    /// How long the client tries to connect before instructions fail. Default 10 s.
    pub connect_timeout: Duration,
}

/// The servers that the client trusts.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// The name in the server's certificate.
    pub server_name: String,
    /// PEM file with the certificates of the trusted authorities.
    pub roots: PathBuf,
}

impl ClientSettings {
    /// Returns the settings for the server at `address`, `tcp://HOST:PORT` or `HOST:PORT`, unencrypted and without a
    /// token.
    ///
    /// # Errors
    ///
    /// A sentence when `address` has another form.
    pub fn parse(address: &str) -> Result<Self, String> {
        let place = address.strip_prefix("tcp://").unwrap_or(address).trim_end_matches('/');
        let port = place.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
        match port {
            Some((host, Ok(_))) if !host.is_empty() && !place.contains('/') => Ok(Self::at(place)),
            _ => {
                Err(format!("`{address}` is no address of a server, such as tcp://127.0.0.1:5678"))
            }
        }
    }

    /// Returns the settings for the server at `address` (`HOST:PORT`), unencrypted and without a token.
    pub fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            token: None,
            tls: None,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

/// The result of an instruction: the arguments after `OK`. It does not depend on later fires of the trigger.
pub type InstructionResult = Result<Vec<String>, ClientError>;

/// A refused or unanswered instruction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server answered `ERROR`: nothing was changed. Kairoi's server sends neither code nor message.
    #[error("the server refused the instruction{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused {
        /// A stable code; empty when the server sends none.
        code: String,
        /// The reason; empty when the server sends none.
        message: String,
    },
    /// The server cannot be reached; the instruction was not sent.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The connection broke after the instruction was sent; the server may have executed it. Sending it again
    /// is harmless.
    #[error(
        "the connection broke before the answer arrived; the server may have executed the instruction"
    )]
    Unknown,
}

/// A client. Clones share its connection, which closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    calls: mpsc::Sender<Call>,
}

#[derive(Debug)]
struct Call {
    words: Vec<String>,
    answer: oneshot::Sender<InstructionResult>,
}

impl Client {
    /// Creates a client of the server at `address`, `tcp://HOST:PORT` or `HOST:PORT`; see [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`] when `address` has another form.
    pub fn connect(address: &str) -> Result<Self, ClientError> {
        ClientSettings::parse(address).map(Self::new).map_err(ClientError::Unreachable)
    }

    /// Creates a client, which connects when it has something to send. The connection is served by the Tokio runtime
    /// of the caller, or by a thread of its own where there is none.
    pub fn new(settings: ClientSettings) -> Self {
        let (calls, queue) = mpsc::channel(WAITING_MAX);
        let carried = carry(settings, queue);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(carried)),
            Err(_) => carry_on_thread(carried),
        }
        Self { calls }
    }

    /// Plans a trigger.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn set(&self, identifier: &str, when: impl Into<When>) -> Result<(), ClientError> {
        self.send(set(identifier, &when.into())).await.map(drop)
    }

    /// Plans many triggers in one round trip; returns a result for each, in their order.
    pub async fn set_many(
        &self,
        triggers: impl IntoIterator<Item = (impl AsRef<str>, When)>,
    ) -> Vec<Result<(), ClientError>> {
        let sent = triggers.into_iter().map(|(identifier, when)| set(identifier.as_ref(), &when));
        self.send_many(sent).await.into_iter().map(|result| result.map(drop)).collect()
    }

    /// Stores a rule.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn set_rule(
        &self,
        identifier: &str,
        pattern: &str,
        settings: RuleSettings,
    ) -> Result<(), ClientError> {
        self.send(rule(identifier, pattern, &settings)).await.map(drop)
    }

    /// Stores many rules in one round trip; returns a result for each, in their order.
    pub async fn set_rules(
        &self,
        rules: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>, RuleSettings)>,
    ) -> Vec<Result<(), ClientError>> {
        let sent = rules.into_iter().map(|(identifier, pattern, settings)| {
            rule(identifier.as_ref(), pattern.as_ref(), &settings)
        });
        self.send_many(sent).await.into_iter().map(|result| result.map(drop)).collect()
    }

    /// Sends one instruction by its words (`["UNSET", "app.mail.7"]`); returns the arguments after `OK`.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub async fn send(&self, words: Vec<String>) -> InstructionResult {
        let (answer, answered) = oneshot::channel();
        if self.calls.send(Call { words, answer }).await.is_err() {
            return Err(ClientError::Unknown);
        }
        answered.await.unwrap_or(Err(ClientError::Unknown))
    }

    /// Sends instructions one after the other without waiting for answers in between.
    pub async fn send_many(
        &self,
        instructions: impl IntoIterator<Item = Vec<String>>,
    ) -> Vec<InstructionResult> {
        let mut answers = Vec::new();
        for words in instructions {
            let (answer, answered) = oneshot::channel();
            let sent = self.calls.send(Call { words, answer }).await;
            answers.push(async move {
                match sent {
                    Ok(()) => answered.await.unwrap_or(Err(ClientError::Unknown)),
                    Err(_) => Err(ClientError::Unknown),
                }
            });
        }
        join_all(answers).await
    }
}

/// Serves the connection of a client outside of a runtime. Without a thread, the client's calls fail.
fn carry_on_thread(carried: impl Future<Output = ()> + Send + 'static) {
    let started = std::thread::Builder::new().name("batchwright client".to_owned()).spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(carried),
            Err(error) => tracing::error!(%error, "cannot start the runtime of a client"),
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "cannot start the thread of a client");
    }
}

/// A client for code that is not asynchronous. Its calls block the thread; they panic within an asynchronous runtime,
/// where [`Client`] serves.
///
/// ```no_run
/// use std::time::Duration;
/// use batchwright_server::kcp::client::BlockingClient;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = BlockingClient::connect("tcp://127.0.0.1:5678")?;
/// client.set("app.mail.7", std::time::SystemTime::now() + Duration::from_secs(60))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct BlockingClient {
    client: Client,
}

impl BlockingClient {
    /// Creates a client of the server at `address`; see [`Client::connect`].
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub fn connect(address: &str) -> Result<Self, ClientError> {
        Client::connect(address).map(|client| Self { client })
    }

    /// Creates a client; see [`Client::new`].
    pub fn new(settings: ClientSettings) -> Self {
        Self { client: Client::new(settings) }
    }

    /// Plans a trigger.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn set(&self, identifier: &str, when: impl Into<When>) -> Result<(), ClientError> {
        self.send(set(identifier, &when.into())).map(drop)
    }

    /// Stores a rule.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn set_rule(
        &self,
        identifier: &str,
        pattern: &str,
        settings: &RuleSettings,
    ) -> Result<(), ClientError> {
        self.send(rule(identifier, pattern, settings)).map(drop)
    }

    /// Sends one instruction by its words; see [`Client::send`].
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn send(&self, words: Vec<String>) -> InstructionResult {
        let (answer, answered) = oneshot::channel();
        if self.client.calls.blocking_send(Call { words, answer }).is_err() {
            return Err(ClientError::Unknown);
        }
        answered.blocking_recv().unwrap_or(Err(ClientError::Unknown))
    }
}

fn set(identifier: &str, when: &When) -> Vec<String> {
    let mut words = vec!["SET".to_owned(), identifier.to_owned()];
    words.extend(when.words());
    words
}

fn rule(identifier: &str, pattern: &str, settings: &RuleSettings) -> Vec<String> {
    let mut words: Vec<_> =
        ["RULE", "SET", identifier, pattern].into_iter().map(str::to_owned).collect();
    words.extend(settings.wire_words());
    words
}

/// Instructions without an answer yet.
type Pending = Arc<Mutex<HashMap<String, oneshot::Sender<InstructionResult>>>>;

fn lock(pending: &Pending) -> MutexGuard<'_, HashMap<String, oneshot::Sender<InstructionResult>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends instructions to the server, over one connection after another, until all clients are dropped.
async fn carry(settings: ClientSettings, mut queue: mpsc::Receiver<Call>) {
    let mut calls = Vec::new();
    while queue.recv_many(&mut calls, BATCH_MAX).await > 0 {
        match connect(&settings).await {
            Ok(stream) => exchange(stream, &settings, &mut calls, &mut queue).await,
            Err(error) => {
                for call in calls.drain(..) {
                    let _ = call.answer.send(Err(ClientError::Unreachable(error.to_string())));
                }
            }
        }
    }
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to the server, with retries until the timeout of the settings.
async fn connect(settings: &ClientSettings) -> io::Result<Box<dyn Stream>> {
    let mut pause = RETRY_MIN;
    let trying = async {
        loop {
            match connect_once(settings).await {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                Err(_) => tokio::time::sleep(pause).await,
                connected => return connected,
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    };
    match tokio::time::timeout(settings.connect_timeout, trying).await {
        Ok(connected) => connected,
        // One more attempt returns the actual error instead of a timeout.
        Err(_) => tokio::time::timeout(RETRY_MAX, connect_once(settings))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    }
}

async fn connect_once(settings: &ClientSettings) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(&settings.address).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = &settings.tls else { return Ok(Box::new(stream)) };
    let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
    let mut roots = RootCertStore::empty();
    let shown = tls.roots.display();
    let certificates = CertificateDer::pem_file_iter(&tls.roots)
        .map_err(|error| wrong(format!("cannot read the certificates `{shown}`: {error}")))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(format!("`{shown}`: {error}")))?;
        roots.add(certificate).map_err(|error| wrong(format!("`{shown}`: {error}")))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(tls.server_name.clone())
        .map_err(|error| wrong(format!("`{}`: {error}", tls.server_name)))?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// Sends `calls` and the calls of `queue` until the connection breaks or all clients are dropped.
async fn exchange(
    stream: Box<dyn Stream>,
    settings: &ClientSettings,
    calls: &mut Vec<Call>,
    queue: &mut mpsc::Receiver<Call>,
) {
    let (mut read, mut write) = tokio::io::split(stream);
    let pending = Pending::default();
    let answers = Arc::clone(&pending);
    let mut reading = tokio::spawn(async move {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = read.read(&mut bytes).await {
            let mut rest = &bytes[..count];
            while let Some(message) = decoder.next(&mut rest) {
                // A malformed message answers no instruction.
                if let Ok(message) = message {
                    answer(&answers, message);
                }
            }
        }
    });
    let mut greeting = encode(&["hello", "HELLO", "2"]);
    if let Some(token) = &settings.token {
        greeting.push_str(&encode(&["auth", "AUTH", token.expose()]));
    }
    let mut number = 0_u64;
    loop {
        let mut message = std::mem::take(&mut greeting);
        for call in calls.drain(..) {
            let identifier = number.to_string();
            number += 1;
            let mut words = vec![identifier.clone()];
            words.extend(call.words);
            message.push_str(&encode(&words));
            lock(&pending).insert(identifier, call.answer);
        }
        let written = tokio::select! {
            written = write.write_all(message.as_bytes()) => written.is_ok(),
            _ = &mut reading => break,
        };
        if !written {
            // Answers that arrived before the connection broke still count.
            let _ = tokio::time::timeout(RETRY_MAX, &mut reading).await;
            break;
        }
        let count = tokio::select! {
            count = queue.recv_many(calls, BATCH_MAX) => count,
            _ = &mut reading => break,
        };
        if count == 0 {
            // Wait for the pending answers before the connection closes.
            let _ = write.shutdown().await;
            let _ = (&mut reading).await;
            break;
        }
    }
    reading.abort();
    for (_, waiting) in lock(&pending).drain() {
        let _ = waiting.send(Err(ClientError::Unknown));
    }
}

fn answer(pending: &Pending, message: Vec<String>) {
    let mut words = message.into_iter();
    let Some(identifier) = words.next() else { return };
    let Some(waiting) = lock(pending).remove(&identifier) else { return };
    let result = match words.next().as_deref() {
        Some("OK") => Ok(words.collect()),
        _ => Err(ClientError::Refused {
            code: words.next().unwrap_or_default(),
            message: words.next().unwrap_or_default(),
        }),
    };
    let _ = waiting.send(result);
}
