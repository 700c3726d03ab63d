//! FTP servers, with and without TLS. Each call has its own connection.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use batchwright::ItemError;
use rustls::ClientConfig;
use suppaftp::types::{FileType, Mode, Response};
use suppaftp::{
    FtpError, FtpResult, ImplFtpStream, RustlsConnector, RustlsFtpStream, Status, TlsConnector,
    TlsStream, TransferStream,
};

use super::url::PlaceUrl;
use super::{Failure, Found, Opened, Place, failure};

/// A server: `ftp://USER:PASSWORD@HOST:PORT/PATH`. The path is relative to the folder of the user; `//` makes it absolute.
pub(super) struct FtpServer {
    host: String,
    port: u16,
    user: String,
    password: String,
    tls: Option<Tls>,
    timeout: Duration,
}

/// The TLS of `ftps://`.
struct Tls {
    trusted: Arc<ClientConfig>,
    /// Whether a connection begins with TLS; otherwise it is asked for.
    is_implicit: bool,
}

impl FtpServer {
    pub(super) fn new(url: &mut PlaceUrl) -> Result<Self, ItemError> {
        let certificates = url.file_option("ca");
        let kind = url.option("tls");
        let is_implicit = match kind.as_deref() {
            None | Some("explicit") => false,
            Some("implicit") => true,
            Some(_) => return Err(url.wrong(&"its `tls` is neither `explicit` nor `implicit`")),
        };
        let tls = match url.scheme() {
            "ftps" => {
                let trusted = Arc::new(crate::transport::trusted(certificates.as_deref())?);
                Some(Tls { trusted, is_implicit })
            }
            _ if certificates.is_some() => return Err(url.wrong(&"`ca` belongs to `ftps://`")),
            _ if kind.is_some() => return Err(url.wrong(&"`tls` belongs to `ftps://`")),
            _ => None,
        };
        let anonymous = || ("anonymous".to_owned(), None);
        let (user, password) = url.user()?.unwrap_or_else(anonymous);
        Ok(Self {
            host: url.socket_host().to_owned(),
            port: url.port(if is_implicit { 990 } else { 21 }),
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
        let address = stream.peer_addr()?;
        let is_v6 = address.is_ipv6();
        let ftp = match &self.tls {
            // The library makes a connection of its own, without a limit of time: to an address that has just answered.
            Some(tls) if tls.is_implicit => {
                drop(stream);
                let tls = Bounded(RustlsConnector::from(Arc::clone(&tls.trusted)), timeout);
                let mut ftp = RustlsFtpStream::connect_secure_implicit(address, tls, &self.host)?;
                // The data are encrypted too, for which an explicit connection asks.
                ftp.custom_command("PBSZ 0", &[Status::CommandOk])?;
                ftp.custom_command("PROT P", &[Status::CommandOk])?;
                ftp
            }
            _ => RustlsFtpStream::connect_with_stream(stream)?,
        };
        let mut ftp = ftp.passive_stream_builder(move |address| {
            connect(address, timeout).map_err(FtpError::ConnectionError)
        });
        // The data come from the server that was asked, whatever address it names.
        ftp.set_passive_nat_workaround(true);
        ftp.set_mode(if is_v6 { Mode::ExtendedPassive } else { Mode::Passive });
        if let Some(tls) = self.tls.as_ref().filter(|tls| !tls.is_implicit) {
            ftp = ftp.into_secure(RustlsConnector::from(Arc::clone(&tls.trusted)), &self.host)?;
        }
        ftp.login(self.user.as_str(), self.password.as_str())?;
        ftp.transfer_type(FileType::Binary)?;
        Ok(ftp)
    }

    /// Runs `work` on a connection.
    fn run<T>(
        &self,
        work: impl FnOnce(&mut RustlsFtpStream) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.connect().and_then(|mut ftp| work(&mut ftp)).map_err(|error| self.explained(error))
    }

    /// Returns `error`, in words if the server was silent for too long.
    fn explained(&self, error: Failure) -> Failure {
        let io = match error.downcast_ref::<FtpError>() {
            Some(FtpError::ConnectionError(io)) => Some(io),
            _ => error.downcast_ref::<io::Error>(),
        };
        let silent = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
        match io.is_some_and(|io| silent.contains(&io.kind())) {
            true => super::silent(self.timeout),
            false => error,
        }
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
    bound(&stream, timeout)?;
    Ok(stream)
}

/// Limits the time of each read and write.
fn bound(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))
}

/// TLS over connections whose reads and writes have a limit of time.
#[derive(Debug)]
struct Bounded(RustlsConnector, Duration);

impl TlsConnector for Bounded {
    type Stream = <RustlsConnector as TlsConnector>::Stream;

    fn connect(&self, domain: &str, stream: TcpStream) -> FtpResult<Self::Stream> {
        bound(&stream, self.1).map_err(FtpError::ConnectionError)?;
        self.0.connect(domain, stream)
    }
}

/// Makes the folders of `path`; those that exist are refused by the server, which is no fault.
fn make_folders(ftp: &mut RustlsFtpStream, path: &str) {
    for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
        // What is still missing is seen when the file is written.
        let _ = ftp.mkdir(&path[..at]);
    }
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

/// Returns the size of the file at `path`; `None` if the server does not tell it, as for a file that is not there.
fn size<S: TlsStream>(ftp: &mut ImplFtpStream<S>, path: &str) -> Result<Option<u64>, Failure> {
    match ftp.size(path) {
        Err(error) if refused(&error) => Ok(None),
        size => Ok(Some(size? as u64)),
    }
}

fn find<S: TlsStream>(ftp: &mut ImplFtpStream<S>, path: &str) -> Result<Option<Found>, Failure> {
    let Some(size) = size(ftp, path)? else { return Ok(None) };
    let modified = match ftp.mdtm(path) {
        Ok(at) => at.and_utc().timestamp().saturating_mul(1_000_000_000),
        // Not every server says the time.
        Err(FtpError::UnexpectedResponse(_) | FtpError::BadResponse) => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(Some(Found { size, modified, tag: 0 }))
}

/// Returns the name in a line of `MLSD` if it is that of a file: facts that end with `;`, a space, the name (RFC 3659, 7.2).
fn file_of(line: &str) -> Option<String> {
    let (facts, name) = line.split_once("; ")?;
    let is_file = facts.split(';').any(|fact| fact.eq_ignore_ascii_case("type=file"));
    is_file.then(|| name.to_owned())
}

/// Returns the names in the folder; of an older server, which lists names alone, also those of folders.
fn list(ftp: &mut RustlsFtpStream, folder: &str) -> Result<(Vec<String>, bool), Failure> {
    let folder = folder.trim_end_matches('/');
    let folder = (!folder.is_empty()).then_some(folder);
    match ftp.mlsd(folder) {
        Ok(lines) => Ok((lines.iter().filter_map(|line| file_of(line)).collect(), true)),
        Err(FtpError::UnexpectedResponse(Response {
            status: Status::BadCommand | Status::NotImplemented,
            ..
        })) => {
            // Some have the folder before them.
            let name = |line: String| line.rsplit('/').next().unwrap_or_default().to_owned();
            match ftp.nlst(folder) {
                // Some servers refuse to list an empty folder.
                Err(error) if refused(&error) => Ok((Vec::new(), false)),
                names => Ok((names?.into_iter().map(name).collect(), false)),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives `from` the name `to`, in the two commands of FTP. Returns whether the server accepts the second one.
fn rename(ftp: &mut RustlsFtpStream, from: &str, to: &str) -> Result<bool, Failure> {
    ftp.custom_command(format!("RNFR {from}"), &[Status::RequestFilePending])?;
    let done = [Status::RequestedFileActionOk, Status::CommandOk];
    match ftp.custom_command(format!("RNTO {to}"), &done) {
        Ok(_) => Ok(true),
        Err(error) if refused(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives `part` the name `path`. If the server does not replace a file, the old one gets another name first, and its own again if
/// that does not help.
fn replace(ftp: &mut RustlsFtpStream, part: &str, path: &str) -> Result<(), Failure> {
    if rename(ftp, part, path)? {
        return Ok(());
    }
    let not_renamed = || failure(format!("the server does not give `{part}` the name `{path}`"));
    let old = format!("{part}.old");
    if !rename(ftp, path, &old).map_err(|_| not_renamed())? {
        return Err(not_renamed());
    }
    let renamed = match rename(ftp, part, path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(not_renamed()),
        Err(error) => Err(error),
    };
    match renamed {
        Ok(()) => {
            if let Err(error) = ftp.rm(&old) {
                tracing::warn!(target: "batchwright::output", "`{old}` of the server is left: {error}");
            }
            Ok(())
        }
        Err(error) => {
            // The first error is the cause.
            let _ = rename(ftp, &old, path);
            Err(error)
        }
    }
}

/// A transfer from the server, with the connection that began it.
struct Download<S: TlsStream> {
    data: Option<TransferStream<S>>,
    timeout: Duration,
    _ftp: ImplFtpStream<S>,
}

impl<S: TlsStream> Read for Download<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(data) = &mut self.data else { return Ok(0) };
        let count = data.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::other(super::silent(self.timeout)),
            _ => error,
        })?;
        if count == 0 {
            // A connection that broke looks like the end of the file.
            let finished = self.data.take().map_or(Ok(()), TransferStream::finish);
            finished.map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

impl Place for FtpServer {
    fn find(&self, path: &str) -> Result<Option<Found>, Failure> {
        self.run(|ftp| {
            let path = sent(path);
            let found = find(ftp, path)?;
            if found.is_none() {
                // The same refusal can have another reason.
                let at = path.rfind('/').map_or(0, |at| at + 1);
                let (folder, name) = path.split_at(at);
                let (names, are_files) = match list(ftp, folder) {
                    Err(error) if error.downcast_ref().is_some_and(refused) => (Vec::new(), true),
                    names => names?,
                };
                if are_files && names.iter().any(|one| one == name) {
                    return Err(failure("the server does not tell the size of the file"));
                }
            }
            Ok(found)
        })
    }

    fn open(&self, path: &str, byte: u64) -> Result<Opened, Failure> {
        let mut ftp = self.connect().map_err(|error| self.explained(error))?;
        let begun = begin(&mut ftp, sent(path), byte);
        let (found, data) = begun.map_err(|error| self.explained(error))?;
        let bytes = Box::new(Download { data, timeout: self.timeout, _ftp: ftp });
        Ok(Opened { found: Some(found), bytes })
    }

    fn names(&self, folder: &str, _: &str) -> Result<Vec<String>, Failure> {
        self.run(|ftp| {
            let folder = sent(folder);
            let (mut names, are_files) = list(ftp, folder)?;
            if !are_files {
                let mut failed = None;
                names.retain(|name| match size(ftp, &format!("{folder}{name}")) {
                    Ok(size) => size.is_some(),
                    Err(error) => {
                        failed.get_or_insert(error);
                        false
                    }
                });
                failed.map_or(Ok(()), Err)?;
            }
            Ok(names)
        })
    }

    fn put(
        &self,
        path: &str,
        part: &str,
        content: &mut (dyn Read + Send),
        length: u64,
    ) -> Result<(), Failure> {
        let (path, part) = (sent(path), sent(part));
        self.run(|ftp| {
            let count = Self::store(ftp, part, content)?;
            // A server that only takes files does not tell their sizes.
            let arrived = size(ftp, part)?.unwrap_or(count);
            if count != length || arrived != length {
                return Err(failure(format!("{arrived} of {length} bytes arrived in `{part}`")));
            }
            replace(ftp, part, path)
        })
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        let path = sent(path);
        self.run(|ftp| match ftp.rm(path) {
            Err(error) if refused(&error) && find(ftp, path)?.is_none() => Ok(()),
            removed => Ok(removed?),
        })
    }
}

/// Begins the transfer of the file at `path` from `byte` on.
fn begin<S: TlsStream>(
    ftp: &mut ImplFtpStream<S>,
    path: &str,
    byte: u64,
) -> Result<(Found, Option<TransferStream<S>>), Failure> {
    let found = find(ftp, path)?
        .ok_or_else(|| failure("the server has no such file, or it may not be read"))?;
    if byte >= found.size {
        return Ok((found, None));
    }
    ftp.resume_transfer(usize::try_from(byte)?)?;
    Ok((found, Some(ftp.retr_as_stream(path)?)))
}
