//! SSH servers, by SFTP. Each call has its own connection.

use std::io::{self, Read, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use batchwright::ItemError;
use russh::client::{self, AuthResult, Handle};
use russh::keys::{
    PrivateKeyWithHashAlg, PublicKeyOrCertificate, check_known_hosts_path, load_secret_key,
};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::fs::{File, Metadata};
use russh_sftp::client::{Config as SftpConfig, RawSftpSession, SftpSession};
use russh_sftp::protocol::{Packet, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use super::url::PlaceUrl;
use super::{Failure, Found, Opened, Place, failure};
use crate::transport::runtime;

/// Number of bytes sent at once.
const PIECE_BYTES: usize = 256 * 1024;
/// The renaming that replaces an existing file: an extension that OpenSSH has had since 2008.
const POSIX_RENAME: &str = "posix-rename@openssh.com";

/// A server: `sftp://USER:PASSWORD@HOST:PORT/PATH?key=FILE&known_hosts=FILE`. The path is absolute; `/~/` is the folder of the
/// user.
pub(super) struct SshServer {
    host: String,
    port: u16,
    user: String,
    password: Option<String>,
    key: Option<PathBuf>,
    known_hosts: PathBuf,
    timeout: Duration,
    runtime: &'static Runtime,
}

impl SshServer {
    pub(super) fn new(url: &mut PlaceUrl) -> Result<Self, ItemError> {
        let key = url.file_option("key");
        let known_hosts = match url.file_option("known_hosts") {
            Some(path) => path,
            None => std::env::home_dir()
                .map(|home| home.join(".ssh/known_hosts"))
                .ok_or_else(|| url.wrong(&"there is no home folder; give `known_hosts`"))?,
        };
        let (user, password) = url.user()?.ok_or_else(|| url.wrong(&"it names no user"))?;
        if key.is_none() && password.is_none() {
            return Err(url.wrong(&"it has neither a password nor the option `key`"));
        }
        Ok(Self {
            host: url.socket_host().to_owned(),
            port: url.port(22),
            user,
            password,
            key,
            known_hosts,
            timeout: url.timeout()?,
            runtime: runtime()?,
        })
    }

    /// Runs `work` in a session, within the time that a call has without progress.
    fn run<T>(&self, work: impl AsyncFnOnce(&Session) -> Result<T, Failure>) -> Result<T, Failure> {
        self.runtime.block_on(async {
            let session = within(self.timeout, self.connect()).await?;
            work(&session).await
        })
    }

    async fn connect(&self) -> Result<Session, Failure> {
        let config = client::Config {
            // A step may read slowly: the server is asked whether it is there.
            keepalive_interval: Some(self.timeout / 2),
            nodelay: true,
            ..client::Config::default()
        };
        let check = HostKey {
            host: self.host.clone(),
            port: self.port,
            known_hosts: self.known_hosts.clone(),
        };
        let to = (self.host.as_str(), self.port);
        let mut ssh =
            client::connect(Arc::new(config), to, check).await.map_err(|error| error.0)?;
        self.sign_in(&mut ssh).await?;
        let channel = ssh.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        let config = self.sftp_config();
        let files = SftpSession::new_with_config(channel.into_stream(), config).await?;
        Ok(Session { files, ssh })
    }

    fn sftp_config(&self) -> SftpConfig {
        SftpConfig { request_timeout_secs: self.timeout.as_secs().max(1), ..SftpConfig::default() }
    }

    async fn sign_in(&self, ssh: &mut Handle<HostKey>) -> Result<(), Failure> {
        let user = self.user.as_str();
        let result = match &self.key {
            Some(path) => {
                // With a key, the password is that of the key.
                let key = load_secret_key(path, self.password.as_deref())
                    .map_err(|error| failure(format!("the key `{}`: {error}", path.display())))?;
                let hash = ssh.best_supported_rsa_hash().await?.flatten();
                let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
                ssh.authenticate_publickey(user, key).await?
            }
            None => {
                let password = self.password.as_deref().unwrap_or_default();
                ssh.authenticate_password(user, password).await?
            }
        };
        match result {
            AuthResult::Success => Ok(()),
            AuthResult::Failure { .. } => {
                Err(failure("the server refuses the user, the password or the key"))
            }
        }
    }

    /// Gives the file `from` the name `to`, which may be that of another file.
    async fn rename(&self, session: &Session, from: &str, to: &str) -> Result<(), Failure> {
        let channel = session.ssh.channel_open_session().await?;
        channel.request_subsystem(true, "sftp").await?;
        let raw = RawSftpSession::new_with_config(channel.into_stream(), self.sftp_config());
        if raw.init().await?.extensions.contains_key(POSIX_RENAME) {
            let mut names = Vec::new();
            for name in [from, to] {
                names.extend(u32::try_from(name.len())?.to_be_bytes());
                names.extend(name.as_bytes());
            }
            return match raw.extended(POSIX_RENAME, names).await? {
                Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
                Packet::Status(status) => Err(failure(status.error_message)),
                _ => Err(failure("the server answers a renaming with something else")),
            };
        }
        // The plain renaming does not replace: the old file keeps another name until the new one is there.
        if stat(session, to).await?.is_none() {
            return Ok(session.files.rename(from, to).await?);
        }
        let old = format!("{from}.old");
        session.files.rename(to, &old).await?;
        if let Err(error) = session.files.rename(from, to).await {
            session.files.rename(&old, to).await?;
            return Err(error.into());
        }
        Ok(session.files.remove_file(old).await?)
    }

    async fn create(&self, session: &Session, path: &str) -> Result<File, Failure> {
        match session.files.create(path).await {
            Err(error) if is_missing(&error) => {
                make_folders(session, path).await;
                Ok(session.files.create(path).await?)
            }
            file => Ok(file?),
        }
    }

    /// Writes `content` to `part`, and returns the number of bytes.
    fn write(
        &self,
        session: &Session,
        part: &str,
        content: &mut (dyn Read + Send),
    ) -> Result<u64, Failure> {
        let (runtime, timeout) = (self.runtime, self.timeout);
        let mut file = runtime.block_on(within(timeout, self.create(session, part)))?;
        let (mut piece, mut sent) = (vec![0; PIECE_BYTES], 0);
        loop {
            // The content may come from another place: it is read outside of the runtime.
            let count = content.read(&mut piece)?;
            if count == 0 {
                break;
            }
            let written = async { Ok(file.write_all(&piece[..count]).await?) };
            runtime.block_on(within(timeout, written))?;
            sent += count as u64;
        }
        let ended = async {
            file.flush().await?;
            // Only if the server can.
            file.sync_all().await?;
            Ok(file.close().await?)
        };
        runtime.block_on(within(timeout, ended))?;
        Ok(sent)
    }
}

/// A connection with its files.
struct Session {
    files: SftpSession,
    ssh: Handle<HostKey>,
}

/// The check of the server's key: only a known one is accepted.
struct HostKey {
    host: String,
    port: u16,
    known_hosts: PathBuf,
}

/// An error of the connection.
#[derive(Debug)]
struct SshError(Failure);

impl From<russh::Error> for SshError {
    fn from(error: russh::Error) -> Self {
        Self(error.into())
    }
}

impl client::Handler for HostKey {
    type Error = SshError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, SshError> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else {
            return Err(SshError(failure("the server has a certificate, and no key to compare")));
        };
        let Self { host, port, known_hosts } = self;
        let path = known_hosts.display();
        match check_known_hosts_path(host, *port, key, &known_hosts) {
            Ok(true) => Ok(true),
            Ok(false) => Err(SshError(failure(format!(
                "the key of the server is not in `{path}`; compare it, and add it with `ssh-keyscan`"
            )))),
            Err(error) => {
                Err(SshError(failure(format!("the key of the server and `{path}`: {error}"))))
            }
        }
    }
}

/// Waits for `work` at most `timeout`.
async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(timeout, work).await.map_err(|_| super::silent(timeout))?
}

fn is_missing(error: &SftpError) -> bool {
    matches!(error, SftpError::Status(status) if status.status_code == StatusCode::NoSuchFile)
}

async fn stat(session: &Session, path: &str) -> Result<Option<Found>, Failure> {
    match session.files.metadata(path).await {
        Ok(found) if found.file_type().is_dir() => Ok(None),
        Ok(found) => Ok(Some(found_of(&found))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn found_of(metadata: &Metadata) -> Found {
    let modified = metadata.mtime.map_or(0, i64::from).saturating_mul(1_000_000_000);
    Found { size: metadata.len(), modified, tag: 0 }
}

/// Makes the folders of `path`; those that exist are refused by the server, which is no fault.
async fn make_folders(session: &Session, path: &str) {
    for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
        // What is still missing is seen when the file is written.
        let _ = session.files.create_dir(&path[..at]).await;
    }
}

/// Returns the path as the server gets it.
fn sent(path: &str) -> &str {
    path.strip_prefix("/~/").unwrap_or(path)
}

/// A file that is being read, with its connection.
struct Download {
    file: File,
    timeout: Duration,
    runtime: &'static Runtime,
    _session: Session,
}

impl Read for Download {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Self { file, timeout, runtime, .. } = self;
        let read = async { Ok(file.read(into).await?) };
        runtime.block_on(within(*timeout, read)).map_err(io::Error::other)
    }
}

impl Place for SshServer {
    fn find(&self, path: &str) -> Result<Option<Found>, Failure> {
        self.run(async |session| stat(session, sent(path)).await)
    }

    fn open(&self, path: &str, byte: u64) -> Result<Opened, Failure> {
        let (timeout, runtime) = (self.timeout, self.runtime);
        runtime.block_on(within(timeout, async {
            let session = self.connect().await?;
            let mut file = session.files.open(sent(path)).await?;
            let found = found_of(&file.metadata().await?);
            file.seek(SeekFrom::Start(byte)).await?;
            let bytes = Box::new(Download { file, timeout, runtime, _session: session });
            Ok(Opened { found: Some(found), bytes })
        }))
    }

    fn names(&self, folder: &str, _: &str) -> Result<Vec<String>, Failure> {
        self.run(async |session| {
            let folder = match sent(folder) {
                "" => ".",
                folder => folder,
            };
            let mut names = Vec::new();
            for entry in session.files.read_dir(folder).await? {
                // A link may lead to a file.
                let is_file = match entry.file_type() {
                    kind if kind.is_symlink() => {
                        let path =
                            format!("{}/{}", folder.trim_end_matches('/'), entry.file_name());
                        stat(session, &path).await?.is_some()
                    }
                    kind => kind.is_file(),
                };
                if is_file {
                    names.push(entry.file_name());
                }
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
        let session = self.runtime.block_on(within(self.timeout, self.connect()))?;
        let count = self.write(&session, part, content)?;
        self.runtime.block_on(within(self.timeout, async {
            let arrived = stat(&session, part).await?.map_or(0, |found| found.size);
            if count != length || arrived != length {
                return Err(failure(format!("{arrived} of {length} bytes arrived in `{part}`")));
            }
            self.rename(&session, part, path).await
        }))
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        self.run(async |session| match session.files.remove_file(sent(path)).await {
            Err(error) if is_missing(&error) => Ok(()),
            removed => Ok(removed?),
        })
    }
}
