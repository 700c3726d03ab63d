//! FTP servers, with and without TLS. Each call has its own connection.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use suppaftp::types::{FileType, Mode, Response};
use suppaftp::{
    FtpError, ImplFtpStream, RustlsConnector, RustlsFtpStream, Status, TlsStream, TransferStream,
};

use super::url::PlaceUrl;
use super::{Failure, Found, Opened, Place, failure};

/// A server: `ftp://USER:PASSWORD@HOST:PORT/PATH`. The path is relative to the folder of the user; `//` makes it absolute.
pub(super) struct FtpServer {
    host: String,
    port: u16,
    user: String,
    password: String,
    /// The trusted certificates of `ftps://`, which asks for TLS on the same port.
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
}

impl FtpServer {
    pub(super) fn new(url: &mut PlaceUrl) -> Result<Self, ItemError> {
        let certificates = url.file_option("ca");
        let tls = match url.scheme() {
            "ftps" => Some(Arc::new(trusted(certificates.as_deref())?)),
            _ if certificates.is_some() => return Err(url.wrong(&"`ca` belongs to `ftps://`")),
            _ => None,
        };
        let anonymous = || ("anonymous".to_owned(), None);
        let (user, password) = url.user()?.unwrap_or_else(anonymous);
        Ok(Self {
            host: url.socket_host().to_owned(),
            port: url.port(21),
            user,
            password: password.unwrap_or_default(),
            tls,
            timeout: url.timeout()?,
        })
    }

    fn connect(&self) -> Result<RustlsFtpStream, Failure> {
        let timeout = self.timeout;
        let mut failed = failure("the name of the server has no address");
        let connected = (self.host.as_str(), self.port).to_socket_addrs()?.find_map(|address| {
            connect(address, timeout).inspect_err(|error| failed = failure(error.to_string())).ok()
        });
        let stream = connected.ok_or(failed)?;
        let is_v6 = stream.peer_addr()?.is_ipv6();
        let mut ftp =
            RustlsFtpStream::connect_with_stream(stream)?.passive_stream_builder(move |address| {
                connect(address, timeout).map_err(FtpError::ConnectionError)
            });
        // The data come from the server that was asked, whatever address it names.
        ftp.set_passive_nat_workaround(true);
        ftp.set_mode(if is_v6 { Mode::ExtendedPassive } else { Mode::Passive });
        if let Some(tls) = &self.tls {
            ftp = ftp.into_secure(RustlsConnector::from(Arc::clone(tls)), &self.host)?;
        }
        ftp.login(self.user.as_str(), self.password.as_str())?;
        ftp.transfer_type(FileType::Binary)?;
        Ok(ftp)
    }

    /// Writes `content` to `part`, and returns the number of bytes.
    fn store(
        ftp: &mut RustlsFtpStream,
        part: &str,
        content: &mut (dyn Read + Send),
    ) -> Result<u64, Failure> {
        let mut stream = match ftp.put_with_stream(part) {
            // The folder may be missing.
            Err(error) if refused(&error) => {
                make_folders(ftp, part);
                ftp.put_with_stream(part)?
            }
            stream => stream?,
        };
        let sent = io::copy(content, &mut stream);
        // The server's answer says more than a broken connection.
        stream.finish()?;
        Ok(sent?)
    }
}

fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// Makes the folders of `path`; those that exist are refused by the server, which is no fault.
fn make_folders(ftp: &mut RustlsFtpStream, path: &str) {
    for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
        // What is still missing is seen when the file is written.
        let _ = ftp.mkdir(&path[..at]);
    }
}

/// Returns the trust in the certificates of the PEM file at `path`, or of this machine.
fn trusted(path: Option<&Path>) -> Result<ClientConfig, ItemError> {
    let mut roots = RootCertStore::empty();
    match path {
        Some(path) => {
            let failed = |error: Failure| {
                let what = format!("cannot read the certificates of `{}`", path.display());
                ItemError::wrap(ErrorKind::IO, what, error)
            };
            for one in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))? {
                roots
                    .add(one.map_err(|error| failed(error.into()))?)
                    .map_err(|error| failed(error.into()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config =
        config.map_err(|error| ItemError::wrap(ErrorKind::FATAL, "cannot use TLS", error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Whether the server refuses a file: it does not exist, or may not be used.
fn refused(error: &FtpError) -> bool {
    let FtpError::UnexpectedResponse(Response { status, .. }) = error else { return false };
    matches!(status, Status::FileUnavailable | Status::BadFilename)
}

/// Returns the path as the server gets it.
fn sent(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

fn find(ftp: &mut RustlsFtpStream, path: &str) -> Result<Option<Found>, Failure> {
    let size = match ftp.size(path) {
        Err(error) if refused(&error) => return Ok(None),
        size => size?,
    };
    let modified = match ftp.mdtm(path) {
        Ok(at) => at.and_utc().timestamp().saturating_mul(1_000_000_000),
        // Not every server says the time.
        Err(FtpError::UnexpectedResponse(_) | FtpError::BadResponse) => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(Some(Found { size: size as u64, modified, tag: 0 }))
}

/// Returns the name in a line of `MLSD` if it is that of a file: facts that end with `;`, a space, the name (RFC 3659, 7.2).
fn file_of(line: &str) -> Option<String> {
    let (facts, name) = line.split_once("; ")?;
    let is_file = facts.split(';').any(|fact| fact.eq_ignore_ascii_case("type=file"));
    is_file.then(|| name.to_owned())
}

/// A transfer from the server, with the connection that began it.
struct Download<S: TlsStream> {
    data: Option<TransferStream<S>>,
    /// Number of bytes that must still come.
    left: u64,
    _ftp: ImplFtpStream<S>,
}

impl<S: TlsStream> Read for Download<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(data) = &mut self.data else { return Ok(0) };
        let count = data.read(into)?;
        self.left = self.left.saturating_sub(count as u64);
        if count == 0 && !into.is_empty() {
            // A connection that broke looks like the end of the file.
            let finished = self.data.take().map_or(Ok(()), TransferStream::finish);
            finished.map_err(io::Error::other)?;
            if self.left > 0 {
                let what = format!("the server ended the transfer {} bytes too early", self.left);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
        }
        Ok(count)
    }
}

impl Place for FtpServer {
    fn find(&self, path: &str) -> Result<Option<Found>, Failure> {
        find(&mut self.connect()?, sent(path))
    }

    fn open(&self, path: &str, byte: u64) -> Result<Opened, Failure> {
        let mut ftp = self.connect()?;
        let path = sent(path);
        let found = find(&mut ftp, path)?
            .ok_or_else(|| failure("the server has no such file, or it may not be read"))?;
        let left = found.size.checked_sub(byte);
        let left = left.ok_or_else(|| failure(format!("the file has no byte {byte}")))?;
        if left == 0 {
            return Ok(Opened { found: Some(found), bytes: Box::new(io::empty()) });
        }
        ftp.resume_transfer(usize::try_from(byte)?)?;
        let data = Some(ftp.retr_as_stream(path)?);
        Ok(Opened { found: Some(found), bytes: Box::new(Download { data, left, _ftp: ftp }) })
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, Failure> {
        let mut ftp = self.connect()?;
        let folder = sent(folder).trim_end_matches('/');
        let folder = match folder.is_empty() {
            true => None,
            false => Some(folder),
        };
        match ftp.mlsd(folder) {
            Ok(lines) => Ok(lines.iter().filter_map(|line| file_of(line)).collect()),
            // An older server lists names alone, some with the folder before them.
            Err(FtpError::UnexpectedResponse(Response {
                status: Status::BadCommand | Status::NotImplemented,
                ..
            })) => {
                let name = |line: String| line.rsplit('/').next().unwrap_or_default().to_owned();
                Ok(ftp.nlst(folder)?.into_iter().map(name).collect())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn put(
        &self,
        path: &str,
        part: &str,
        content: &mut (dyn Read + Send),
        length: u64,
    ) -> Result<(), Failure> {
        let mut ftp = self.connect()?;
        let (path, part) = (sent(path), sent(part));
        let count = Self::store(&mut ftp, part, content)?;
        let arrived = find(&mut ftp, part)?.map(|found| found.size);
        if count != length || arrived.is_some_and(|arrived| arrived != length) {
            let arrived = arrived.unwrap_or(count);
            return Err(failure(format!("{arrived} of {length} bytes arrived in `{part}`")));
        }
        match ftp.rename(part, path) {
            // Some servers do not replace a file.
            Err(error) if refused(&error) => {
                ftp.rm(path)?;
                Ok(ftp.rename(part, path)?)
            }
            renamed => Ok(renamed?),
        }
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        let mut ftp = self.connect()?;
        match ftp.rm(sent(path)) {
            Err(error) if refused(&error) && find(&mut ftp, sent(path))?.is_none() => Ok(()),
            removed => Ok(removed?),
        }
    }
}
