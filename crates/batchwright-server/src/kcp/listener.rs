//! Accepts clients of the line protocol: a bounded number, on protected or local addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use batchwright::clock::Clock;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{connection, encode};
use crate::scheduler::Scheduler;

/// Wait after a connection could not be accepted, such as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the end of the server waits for clients to read their answers.
const END_GRACE: Duration = Duration::from_secs(5);
/// Timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of the line protocol.
#[derive(Debug, Clone)]
pub struct KcpSettings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Maximum of clients at once; further clients get the error `limit`.
    pub connections_max: usize,
    /// How long a message may take from its first byte to its last.
    pub message_timeout: Duration,
    /// The clients that are accepted.
    pub access: Access,
    /// Certificate and key; `None` for unencrypted connections.
    pub tls: Option<Tls>,
    /// Whether to listen on an address that other hosts can reach although it is unencrypted or needs no
    /// token.
    pub insecure: bool,
}

/// Certificate and key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The chain of certificates.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The access rule: all clients, or those that send the token. Only the hash of the token is kept.
#[derive(Clone, Default)]
pub struct Access(Option<[u8; 32]>);

impl Access {
    /// Accepts only clients that send `AUTH` with `token`.
    pub fn token(token: &str) -> Self {
        Self(Some(Sha256::digest(token).into()))
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether `token` is right; the comparison takes the same time for every token.
    pub(super) fn admits(&self, token: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(token).into();
        self.0.is_none_or(|wanted| wanted.ct_eq(&given).into())
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_open() { "open" } else { "by token" })
    }
}

/// Maximum of messages of more than 16 KiB at once, of up to 1 MiB each.
const LONG_MESSAGES_MAX: usize = 64;
/// Total size, in KiB, of long answers that are pending or unread.
pub(super) const LONG_ANSWERS_KIB: u32 = 128 * 1024;

/// The context that all connections share.
pub(super) struct Context {
    pub(super) scheduler: Scheduler,
    pub(super) access: Access,
    pub(super) message_timeout: Duration,
    /// Permits of long messages.
    pub(super) long_messages: Arc<Semaphore>,
    /// Permits of long answers, one per KiB.
    pub(super) long_answers: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

impl Context {
    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_microsecond()
    }
}

/// A bound listener.
pub(crate) struct Listener {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    connections_max: usize,
    context: Arc<Context>,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    ///
    /// A sentence: the address is not protected or cannot be bound, or certificate or key cannot be read.
    pub(crate) async fn bind(
        settings: &KcpSettings,
        scheduler: Scheduler,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let address = settings.listen;
        let is_safe = settings.tls.is_some() && !settings.access.is_open();
        if !address.ip().is_loopback() && !is_safe && !settings.insecure {
            return Err(format!(
                "cannot listen on {address}: other hosts can reach it, so it needs kcp.tls_certificate, kcp.tls_key and kcp.token_file, \
                 or kcp.insecure = true"
            ));
        }
        let tls = settings.tls.as_ref().map(acceptor).transpose()?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        let (access, message_timeout) = (settings.access.clone(), settings.message_timeout);
        let long_messages = Arc::new(Semaphore::new(LONG_MESSAGES_MAX));
        let long_answers = Arc::new(Semaphore::new(LONG_ANSWERS_KIB as usize));
        let context =
            Context { scheduler, access, message_timeout, long_messages, long_answers, clock };
        Ok(Self {
            listener,
            tls,
            connections_max: settings.connections_max,
            context: Arc::new(context),
        })
    }

    /// Returns the bound address.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves clients until `end`; earlier requests are still answered.
    pub(crate) async fn serve(self, mut end: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.connections_max));
        let mut clients = JoinSet::new();
        let mut is_refusing = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                // Remove ended clients.
                Some(_) = clients.join_next() => continue,
                _ = end.wait_for(|end| *end) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if !std::mem::replace(&mut is_refusing, true) {
                        tracing::warn!(%error, "cannot accept a client");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            is_refusing = false;
            let _ = stream.set_nodelay(true);
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                clients.spawn(refuse(stream, self.connections_max));
                continue;
            };
            let (context, end) = (Arc::clone(&self.context), end.clone());
            match &self.tls {
                None => {
                    clients.spawn(async move {
                        connection::serve(stream, context, end).await;
                        drop(place);
                    });
                }
                Some(tls) => {
                    let handshake = tls.accept(stream);
                    clients.spawn(async move {
                        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                            Ok(Ok(stream)) => connection::serve(stream, context, end).await,
                            Ok(Err(error)) => {
                                tracing::debug!(%error, "the TLS handshake of a client failed")
                            }
                            Err(_) => tracing::debug!("the TLS handshake of a client timed out"),
                        }
                        drop(place);
                    });
                }
            }
        }
        // Clients that do not read their answers delay the end by at most the grace time.
        let ending = async { while clients.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_GRACE, ending).await;
    }
}

async fn refuse(mut stream: TcpStream, connections_max: usize) {
    let reason = format!("the server has reached its limit of {connections_max} connections");
    let message = encode(&["", "ERROR", "limit", &reason]);
    let sending = stream.write_all(message.as_bytes());
    let _ = tokio::time::timeout(ACCEPT_PAUSE, sending).await;
}

/// Returns a TLS acceptor with the certificate and key of `files`.
pub(crate) fn acceptor(files: &Tls) -> Result<TlsAcceptor, String> {
    let shown = |path: &std::path::Path| path.display().to_string();
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| {
            format!("cannot read the certificate `{}`: {error}", shown(&files.certificate))
        })?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| format!("cannot read the key `{}`: {error}", shown(&files.key)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot use TLS: {error}"))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| {
            format!("cannot use the certificate `{}`: {error}", shown(&files.certificate))
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
