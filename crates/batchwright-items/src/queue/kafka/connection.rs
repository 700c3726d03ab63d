//! A connection to a broker: one request at a time.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::error::ErrorKind;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::error::ParseResponseErrorCode as _;
use kafka_protocol::messages::{
    RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{
    Decodable as _, Encodable as _, HeaderVersion as _, Request, StrBytes,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::scram::{Scram, ScramHash};
use crate::queue::keys::{failed, silent};

/// Maximum size of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How a program says who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Scram(ScramHash),
}

impl Mechanism {
    pub(super) const NAMES: &'static str = "plain, scram-sha-256, scram-sha-512";

    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "plain" => Self::Plain,
            "scram-sha-256" => Self::Scram(ScramHash::Sha256),
            "scram-sha-512" => Self::Scram(ScramHash::Sha512),
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Scram(ScramHash::Sha256) => "SCRAM-SHA-256",
            Self::Scram(ScramHash::Sha512) => "SCRAM-SHA-512",
        }
    }
}

/// A user with a password.
pub(super) struct Login {
    pub(super) mechanism: Mechanism,
    pub(super) user: String,
    pub(super) password: String,
}

/// What all connections to a cluster have in common.
pub(super) struct Settings {
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) login: Option<Login>,
    pub(super) timeout: Duration,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// When the answer to a request must be complete, in milliseconds of the clock.
#[derive(Clone, Default)]
struct Deadline {
    clock: SystemClock,
    millis: Arc<AtomicU64>,
}

impl Deadline {
    fn begin(&self, timeout: Duration) {
        let at = self.clock.elapsed() + timeout;
        self.millis.store(u64::try_from(at.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn left(&self) -> std::io::Result<Duration> {
        let at = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        match at.saturating_sub(self.clock.elapsed()) {
            Duration::ZERO => Err(std::io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

/// A socket whose reads and writes end at a deadline together.
struct Timed {
    stream: TcpStream,
    deadline: Deadline,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(Some(self.deadline.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(Some(self.deadline.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// A connection. After a failure it is not used any more.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// The address, for messages.
    shown: String,
    timeout: Duration,
    deadline: Deadline,
    number: i32,
}

impl Connection {
    pub(super) fn open(host: &str, port: u16, settings: &Settings) -> Result<Self, ItemError> {
        let shown = format!("{host}:{port}");
        let timeout = settings.timeout;
        let deadline = Deadline::default();
        deadline.begin(timeout);
        let stream = connect(host, port, settings, &deadline)
            .map_err(|error| broken("connect", &shown, timeout, error))?;
        let mut connection = Self { stream, shown, timeout, deadline, number: 0 };
        if let Some(login) = &settings.login {
            connection.log_in(login)?;
        }
        Ok(connection)
    }

    /// Sends `request` in its `version`, and returns the answer.
    pub(super) fn call<R: Request>(
        &mut self,
        action: &str,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ItemError> {
        let answer = self.exchange(version, request);
        answer.map_err(|error| broken(action, &self.shown, self.timeout, error))
    }

    fn exchange<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Failure> {
        self.deadline.begin(self.timeout);
        self.number = self.number.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.number)
            .with_client_id(Some(StrBytes::from_static_str("batchwright")));
        let mut bytes = BytesMut::new();
        bytes.put_i32(0);
        header.encode(&mut bytes, R::header_version(version))?;
        request.encode(&mut bytes, version)?;
        let length = i32::try_from(bytes.len() - 4)?;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&bytes)?;
        self.stream.flush()?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        if length > ANSWER_BYTES_MAX {
            return Err(format!("its answer has {length} bytes: it is no broker of Kafka").into());
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
        if header.correlation_id != self.number {
            return Err("its answer is one to another request".into());
        }
        let response = R::Response::decode(&mut answer, version)?;
        match answer.has_remaining() {
            false => Ok(response),
            true => Err("its answer has more bytes than it should".into()),
        }
    }

    fn log_in(&mut self, login: &Login) -> Result<(), ItemError> {
        const ACTION: &str = "log in";
        let mechanism = login.mechanism.name();
        let request =
            SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = self.call(ACTION, 1, &request)?;
        if answer.error_code.is_err() {
            let known: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
            let what = format!("it does not know {mechanism}, but {}", known.join(", "));
            return Err(failed(ACTION, &self.shown, what));
        }
        match login.mechanism {
            Mechanism::Plain => {
                let text = format!("\0{}\0{}", login.user, login.password);
                self.authenticate(text).map(drop)
            }
            Mechanism::Scram(hash) => {
                let wrong = |this: &Self, what: String| failed(ACTION, &this.shown, what);
                let scram = Scram::begin(hash, &login.user, &nonce());
                let first = self.authenticate(scram.first_message())?;
                let (last, expected) = scram
                    .last_message(&first, &login.password)
                    .map_err(|what| wrong(self, what))?;
                match self.authenticate(last)? == expected {
                    true => Ok(()),
                    false => Err(wrong(self, "the broker does not know the password".to_owned())),
                }
            }
        }
    }

    fn authenticate(&mut self, text: String) -> Result<String, ItemError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(text.into());
        let answer = self.call("log in", 0, &request)?;
        if let Some(error) = answer.error_code.err() {
            let what = answer.error_message.map_or_else(|| error.to_string(), |it| it.to_string());
            return Err(failed("log in", &self.shown, what));
        }
        String::from_utf8(answer.auth_bytes.to_vec())
            .map_err(|error| failed("log in", &self.shown, error))
    }
}

fn connect(
    host: &str,
    port: u16,
    settings: &Settings,
    deadline: &Deadline,
) -> Result<Box<dyn Stream>, Failure> {
    let mut last: Failure = "its name has no address".into();
    for address in (host.trim_matches(['[', ']']), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, deadline.left()?) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let stream = Timed { stream, deadline: deadline.clone() };
                let Some(tls) = &settings.tls else { return Ok(Box::new(stream)) };
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
                let connection = ClientConnection::new(Arc::clone(tls), name)?;
                return Ok(Box::new(StreamOwned::new(connection, stream)));
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// The error of a connection that is broken, or silent.
fn broken(action: &str, shown: &str, timeout: Duration, error: Failure) -> ItemError {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    let io = error.downcast_ref::<std::io::Error>();
    match io.is_some_and(|error| matches!(error.kind(), TimedOut | WouldBlock)) {
        true => silent(action, shown, timeout),
        false => failed(action, shown, error),
    }
}

/// Returns a text that was not there before.
fn nonce() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The keys of the states are from the random numbers of the system.
    let random = || std::hash::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// The error of a request that a broker refuses with `code`.
pub(super) fn refused(action: &str, broker: &str, code: i16) -> ItemError {
    let what = code.err().map_or_else(|| format!("code {code}"), |error| error.to_string());
    ItemError::new(ErrorKind::IO, format!("cannot {action} at {broker}: {what}"))
}
