//! The HTTP listener, with limits on connections, request heads and time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use batchwright::clock::{StopToken, SystemClock};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::access::Peer;
use super::oidc::Oidc;
use super::{AccessRules, Api};
use crate::kcp::{Tls, acceptor};

/// Wait after a connection could not be accepted, such as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Timeout for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of the head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the server accepts clients that the system has connected already.
const LAST_ACCEPT: Duration = Duration::from_millis(100);
/// How long such a client has for its request.
const LAST_REQUEST: Duration = Duration::from_millis(500);
/// How long the end of the server waits for pending answers.
const END_GRACE: Duration = Duration::from_secs(5);

/// The settings of the REST API.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The clients and pages that are accepted.
    pub access: AccessRules,
    /// Certificate and key; `None` for unencrypted connections.
    pub tls: Option<Tls>,
    /// Whether to listen without tokens on an address that other hosts can reach.
    pub insecure: bool,
    /// Maximum of connections at once; further ones get only the health checks.
    pub connections_max: usize,
    /// An address of its own for `/metrics`, with the same rules of access; `None`: `/metrics` is at `listen`.
    pub metrics: Option<SocketAddr>,
}

impl HttpSettings {
    /// Listens on `listen` with the defaults of everything else: no tokens, no TLS, 1,000 connections at once.
    pub fn new(listen: SocketAddr) -> Self {
        let (access, connections_max) = (AccessRules::default(), HTTP_CONNECTIONS_DEFAULT);
        Self { listen, access, tls: None, insecure: false, connections_max, metrics: None }
    }

    /// Returns the settings of the listener for the metrics, if they have one of their own.
    pub(crate) fn of_metrics(&self) -> Option<Self> {
        Some(Self { listen: self.metrics?, metrics: None, ..self.clone() })
    }
}

/// Connections at once when no other number is configured.
pub(crate) const HTTP_CONNECTIONS_DEFAULT: usize = 1_000;

/// Additional connections that get only the health checks.
const RESERVED_PLACES: usize = 32;

/// A bound listener.
pub(crate) struct HttpListener {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    access: AccessRules,
    connections_max: usize,
}

impl HttpListener {
    /// Binds the address.
    ///
    /// # Errors
    ///
    /// A sentence: the address is not protected or cannot be bound, or certificate or key cannot be read.
    pub(crate) async fn bind(settings: &HttpSettings) -> Result<Self, String> {
        let address = settings.listen;
        let is_open = settings.access.is_open();
        if !address.ip().is_loopback() && is_open && !settings.insecure {
            return Err(format!(
                "cannot listen on {address}: other hosts can reach it, so it needs http.tokens or http.oidc, or http.insecure = true (--insecure)"
            ));
        }
        if let Some(oidc) = settings.access.oidc.clone() {
            Oidc::new(oidc, Arc::new(SystemClock::default()))?;
        }
        let tls = settings.tls.as_ref().map(acceptor).transpose()?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        let (access, connections_max) = (settings.access.clone(), settings.connections_max);
        Ok(Self { listener, tls, access, connections_max })
    }

    /// Returns the bound address.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves all routes of `api` until `end`; then requests `stop` and answers the pending requests.
    pub(crate) async fn serve(self, api: Api, stop: StopToken, end: watch::Receiver<bool>) {
        let (signs_of_life, router) = (api.signs_of_life(), api.whole(self.access.clone()));
        self.serve_routes(router, signs_of_life, stop, end).await;
    }

    /// Serves the metrics and the health checks of `api`, and nothing else.
    pub(crate) async fn serve_metrics(self, api: Api, stop: StopToken, end: watch::Receiver<bool>) {
        let (signs_of_life, router) = (api.signs_of_life(), api.only_metrics(self.access.clone()));
        self.serve_routes(router, signs_of_life, stop, end).await;
    }

    async fn serve_routes(
        self,
        router: Router,
        signs_of_life: Router,
        stop: StopToken,
        mut end: watch::Receiver<bool>,
    ) {
        let places = Arc::new(Semaphore::new(self.connections_max));
        let reserved = Arc::new(Semaphore::new(RESERVED_PLACES));
        let (mut clients, served_until) = (JoinSet::new(), end.clone());
        let serve = |stream: TcpStream, clients: &mut JoinSet<()>| {
            let _ = stream.set_nodelay(true);
            let Ok(peer) = stream.peer_addr() else { return };
            let peer = Peer(peer.ip());
            // When streams or incomplete requests take all connections, the health checks still answer.
            let (place, router) = match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => (place, router.clone()),
                Err(_) => match Arc::clone(&reserved).try_acquire_owned() {
                    Ok(place) => (place, signs_of_life.clone()),
                    Err(_) => return,
                },
            };
            let end = served_until.clone();
            match &self.tls {
                None => {
                    clients.spawn(async move {
                        connection(stream, peer, router, end).await;
                        drop(place);
                    });
                }
                Some(tls) => {
                    let handshake = tls.accept(stream);
                    clients.spawn(async move {
                        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                            Ok(Ok(stream)) => connection(stream, peer, router, end).await,
                            Ok(Err(error)) => {
                                tracing::debug!(%error, "the TLS handshake of a client failed")
                            }
                            Err(_) => tracing::debug!("the TLS handshake of a client timed out"),
                        }
                        drop(place);
                    });
                }
            }
        };
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = end.wait_for(|end| *end) => break,
            };
            while clients.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => serve(stream, &mut clients),
                Err(error) => pause_after(&error).await,
            }
        }
        // Clients that the system has already connected are served, too.
        let last = async {
            while let Ok((stream, _)) = self.listener.accept().await {
                serve(stream, &mut clients);
            }
        };
        let _ = tokio::time::timeout(LAST_ACCEPT, last).await;
        drop(self.listener);
        stop.request();
        let ending = async { while clients.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_GRACE, ending).await;
    }
}

/// Waits after a client could not be accepted.
async fn pause_after(error: &std::io::Error) {
    tracing::debug!(%error, "cannot accept a client");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves one client until it disconnects or the server ends. The future of a request is dropped when its
/// client disconnects.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    mut end: watch::Receiver<bool>,
) {
    let is_used = Arc::new(AtomicBool::new(false));
    let used = Arc::clone(&is_used);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        used.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let served = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ending = async {
        let _ = end.wait_for(|end| *end).await;
        // A client that has just connected has a moment for its request, which would otherwise be closed unread.
        if !is_used.load(Ordering::Relaxed) {
            tokio::time::sleep(LAST_REQUEST).await;
        }
    };
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = ending => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke");
    }
}
