//! Accepts clients: as many as there is room for, on addresses that are safe.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use batchwright::Clock;
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

/// Wait when no connection can be accepted: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the end of the server waits for clients to read their answers.
const END_GRACE: Duration = Duration::from_secs(5);
/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where clients are listened to.
#[derive(Debug, Clone)]
pub struct KcpSettings {
    /// The address.
    pub listen: SocketAddr,
    /// Clients at once; further ones are told so.
    pub connections_max: usize,
    /// How long a message may take from its first byte to its last.
    pub message_timeout: Duration,
    /// Who may ask.
    pub access: Access,
    /// Certificate and key; without it nothing is encrypted.
    pub tls: Option<Tls>,
    /// Listen on an address that others can reach although it is open or not encrypted.
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

/// Who may ask: everybody, or who knows the token. Only its hash is kept.
#[derive(Clone, Default)]
pub struct Access(Option<[u8; 32]>);

impl Access {
    /// Only who sends `AUTH` with `token`.
    pub fn token(token: &str) -> Self {
        Self(Some(Sha256::digest(token).into()))
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Takes the same time for every token.
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

/// Messages of more than 16 KiB at once, of up to 1 MiB each.
const LONG_MESSAGES_MAX: usize = 64;
/// Long answers that are under way or not read yet, together, in KiB.
pub(super) const LONG_ANSWERS_KIB: u32 = 128 * 1024;

/// What every connection works with.
pub(super) struct Context {
    pub(super) scheduler: Scheduler,
    pub(super) access: Access,
    pub(super) message_timeout: Duration,
    /// Places of messages that are long.
    pub(super) long_messages: Arc<Semaphore>,
    /// Places of answers that are long, in KiB.
    pub(super) long_answers: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

impl Context {
    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_microsecond()
    }
}

/// A bound address.
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
    /// A sentence: the address is not safe, or cannot be had; certificate or key cannot be read.
    pub(crate) async fn bind(
        settings: &KcpSettings,
        scheduler: Scheduler,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let address = settings.listen;
        let is_safe = settings.tls.is_some() && !settings.access.is_open();
        if !address.ip().is_loopback() && !is_safe && !settings.insecure {
            return Err(format!(
                "{address} can be reached by others: it needs kcp.tls_certificate, kcp.tls_key and kcp.token_file, \
                 or kcp.insecure = true"
            ));
        }
        let tls = settings.tls.as_ref().map(acceptor).transpose()?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| format!("listen on {address}: {error}"))?;
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

    /// The address that was bound.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves clients until `end`; what they asked before it is answered.
    pub(crate) async fn serve(self, mut end: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.connections_max));
        let mut clients = JoinSet::new();
        let mut is_refusing = false;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                // Those that have ended are forgotten.
                Some(_) = clients.join_next() => continue,
                _ = end.wait_for(|end| *end) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if !std::mem::replace(&mut is_refusing, true) {
                        tracing::warn!(%error, "no client can be accepted");
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
                            Ok(Err(error)) => tracing::debug!(%error, "a client failed at TLS"),
                            Err(_) => tracing::debug!("a client was too slow at TLS"),
                        }
                        drop(place);
                    });
                }
            }
        }
        // Those who do not read their answers are not waited for any longer.
        let ending = async { while clients.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_GRACE, ending).await;
    }
}

async fn refuse(mut stream: TcpStream, connections_max: usize) {
    let told = format!("the server has its {connections_max} connections");
    let message = encode(&["", "ERROR", "limit", &told]);
    let telling = stream.write_all(message.as_bytes());
    let _ = tokio::time::timeout(ACCEPT_PAUSE, telling).await;
}

/// What speaks TLS with that certificate.
pub(crate) fn acceptor(files: &Tls) -> Result<TlsAcceptor, String> {
    let shown = |path: &std::path::Path| path.display().to_string();
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| {
            format!("read the certificate `{}`: {error}", shown(&files.certificate))
        })?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| format!("read the key `{}`: {error}", shown(&files.key)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("use TLS: {error}"))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| format!("use the certificate `{}`: {error}", shown(&files.certificate)))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
