//! Files in other places: object stores, web servers, FTP and SSH servers.
//!
//! A path that is a URL names a file of a [`Place`]. A reader reads it from any byte; a writer writes to this machine first,
//! see [`RemoteOutput`].

#[cfg(not(any(feature = "objects", feature = "http", feature = "ftp", feature = "sftp")))]
compile_error!("the feature `remote` belongs to others: choose `s3`, `http`, `ftp` or `sftp`");

#[cfg(feature = "azure")]
mod azure;
#[cfg(feature = "ftp")]
mod ftp;
#[cfg(feature = "gcs")]
mod gcs;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "objects")]
mod object_store;
mod output;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "sftp")]
mod sftp;
mod url;
#[cfg(feature = "webdav")]
mod webdav;
mod whole;

pub(crate) use output::{RemoteOutput, RemotePosition};

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::item::{OpenPath, PathUse};
use batchwright::scope::{StepScope, StepStart};

use super::scheme::unknown;
use super::source::{ByteSource, InputIdentity, OpenSource};
use crate::paths::token;
use url::PlaceUrl;
use whole::{Check, Whole};

/// A server or a bucket. Every call has a bounded time without progress, after which it fails.
pub(crate) trait Place: Send + Sync {
    /// Returns the file at `path`; `None` if there is none.
    fn find(&self, path: &str) -> Result<Option<Found>, Failure>;

    /// Opens the file at `path` at `byte`.
    fn open(&self, path: &str, byte: u64) -> Result<Opened, Failure>;

    /// Whether a file that is open stays as it was, also when another one gets its name.
    fn is_stable(&self) -> bool {
        false
    }

    /// Why files of the place cannot be written or removed; `None` if they can.
    fn only_read(&self) -> Option<&'static str> {
        None
    }

    /// Returns the names of the files in `folder` that begin with `prefix`, and maybe others, in any order.
    fn names(&self, folder: &str, prefix: &str) -> Result<Vec<String>, Failure>;

    /// Writes the `length` bytes of `content` to `path`, whose name they get only when they are complete; an existing file is
    /// replaced. Folders are made. `part` is the name beside `path` for places that need another one meanwhile.
    fn put(
        &self,
        path: &str,
        part: &str,
        content: &mut (dyn Read + Send),
        length: u64,
    ) -> Result<(), Failure>;

    /// Removes the file at `path`, which may be removed already.
    fn remove(&self, path: &str) -> Result<(), Failure>;
}

/// Why a place could not do what it was asked to.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A file in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Length, in bytes.
    pub(crate) size: u64,
    /// Time of the last modification, in nanoseconds since 1970; 0 if the place does not say it.
    pub(crate) modified: i64,
    /// Hash of the tag that changes with the content; 0 if the place has none.
    pub(crate) tag: u64,
}

impl From<Found> for InputIdentity {
    fn from(Found { size, modified, tag }: Found) -> Self {
        Self { size, modified, inode: tag, before: 0 }
    }
}

/// An opened file of a place.
pub(crate) struct Opened {
    /// The file, unless its size is unknown.
    found: Option<Found>,
    bytes: Box<dyn Read + Send>,
}

/// A file in a place.
#[derive(Clone)]
pub(crate) struct RemoteFile {
    place: Arc<dyn Place>,
    /// The path in the place, without escapes.
    path: String,
    /// The URL up to the path, without user, password and options.
    place_shown: Arc<str>,
    /// Distinguishes the place from others.
    place_identity: Arc<str>,
    /// Whether the name is a pattern.
    is_pattern: bool,
    folder: Arc<Path>,
}

impl RemoteFile {
    /// Returns the file of `url`. Files named in the URL are relative to `folder`, and outputs grow there.
    ///
    /// # Errors
    ///
    /// When the URL is wrong, or this program does not contain the kind of place.
    pub(crate) fn parse(url: &str, folder: &Path) -> Result<Self, ItemError> {
        let mut url = PlaceUrl::parse(url, folder)?;
        let place: Arc<dyn Place> = match url.scheme() {
            #[cfg(feature = "s3")]
            "s3" => Arc::new(s3::bucket(&mut url)?),
            #[cfg(feature = "gcs")]
            "gs" => Arc::new(gcs::bucket(&mut url)?),
            #[cfg(feature = "azure")]
            "az" => Arc::new(azure::container(&mut url)?),
            #[cfg(feature = "http")]
            "http" | "https" => Arc::new(http::WebServer::new(&mut url)?),
            #[cfg(feature = "ftp")]
            "ftp" | "ftps" => Arc::new(ftp::FtpServer::new(&mut url)?),
            #[cfg(feature = "sftp")]
            "sftp" => Arc::new(sftp::SshServer::new(&mut url)?),
            #[cfg(feature = "webdav")]
            "webdav" | "webdavs" => Arc::new(webdav::DavServer::new(&mut url)?),
            scheme => return Err(ItemError::fatal(unknown(scheme))),
        };
        url.all_used()?;
        Ok(Self {
            place,
            path: url.path().to_owned(),
            place_shown: url.place_shown().into(),
            place_identity: url.place_identity().into(),
            is_pattern: url.is_pattern()?,
            folder: folder.into(),
        })
    }

    /// Returns the URL without user, password and options.
    pub(crate) fn shown(&self) -> String {
        format!("{}{}", self.place_shown, self.path)
    }

    /// Returns the name of the file.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Returns what is the same for all URLs of the file that differ in what is secret or how long they wait. (A place may know
    /// the file under other names too.)
    pub(crate) fn identity(&self) -> String {
        format!("{}{}", self.place_identity, self.path)
    }

    /// Whether the name is a pattern.
    pub(crate) fn is_pattern(&self) -> bool {
        self.is_pattern
    }

    /// Refuses a file that cannot be written or removed.
    pub(crate) fn check_writable(&self, action: &str) -> Result<(), ItemError> {
        let what = match self.place.only_read() {
            Some(what) => what,
            None if self.name().is_empty() => "it is a folder",
            None if self.is_pattern => "it is a pattern",
            None => return Ok(()),
        };
        Err(ItemError::fatal(format!("cannot {action} `{}`: {what}", self.shown())))
    }

    /// Keeps other parts of this process from using the file in a way that excludes this one.
    pub(crate) fn claim(&self, wanted: PathUse) -> Result<OpenPath, ItemError> {
        OpenPath::claim(Path::new(&self.identity()), wanted).map_err(|_| {
            let file = self.shown();
            ItemError::fatal(format!(
                "cannot use `{file}`: it is another input or output that is open; give each its own path"
            ))
        })
    }

    /// Returns the path of the folder, with its last `/`.
    fn folder_path(&self) -> &str {
        self.path.strip_suffix(self.name()).unwrap_or_default()
    }

    /// Returns the file called `name` in the same folder.
    pub(crate) fn beside(&self, name: &str) -> Self {
        let path = format!("{}{name}", self.folder_path());
        Self { path, is_pattern: false, ..self.clone() }
    }

    /// Returns the names of the files in the folder that begin with `prefix`, and maybe others.
    pub(crate) fn names_beside(&self, prefix: &str) -> Result<Vec<String>, ItemError> {
        let folder = self.folder_path();
        self.place.names(folder, prefix).map_err(|error| {
            let what = format!("cannot read the folder `{}{folder}`", self.place_shown);
            ItemError::wrap(ErrorKind::IO, what, error)
        })
    }

    /// Returns what identifies the content of the file as it is now; `None` if there is no file.
    pub(crate) fn find(&self) -> Result<Option<InputIdentity>, ItemError> {
        let found = self.place.find(&self.path).map_err(|error| self.failed("read", error))?;
        Ok(found.map(InputIdentity::from))
    }

    /// Writes the `length` bytes of `content`, which replace an existing file.
    pub(crate) fn put(
        &self,
        scope: &StepScope,
        content: &mut (dyn Read + Send),
        length: u64,
    ) -> Result<(), ItemError> {
        // Of this execution alone: a former owner may still write to its own.
        let token = format!(".{}.{}-", self.name(), token(scope));
        let part = format!("{}{token}{}.part", self.folder_path(), scope.id());
        let mut content = Stoppable { bytes: content, stop: scope.stop() };
        let written = self.place.put(&self.path, &part, &mut content, length);
        if written.is_err() && scope.stop().is_requested() {
            return Err(ItemError::stopped("a stop was requested while a file was sent"));
        }
        written.map_err(|error| self.failed("write", error))?;
        if scope.start() != StepStart::Fresh {
            self.remove_former_parts(&token, &part);
        }
        Ok(())
    }

    /// Removes what earlier executions left when they died. The file is there, so a failure is no failure of the step.
    fn remove_former_parts(&self, token: &str, own: &str) {
        let removed = self.names_beside(token).and_then(|names| {
            let former = names.iter().filter(|name| name.starts_with(token));
            let former = former.map(|name| self.beside(name)).filter(|file| file.path != own);
            former.map(|file| file.remove()).collect::<Result<Vec<()>, _>>()
        });
        if let Err(error) = removed {
            let file = self.shown();
            tracing::warn!(target: "batchwright::output", "a part of {file} may be left: {error}");
        }
    }

    /// Removes the file, which may be removed already.
    pub(crate) fn remove(&self) -> Result<(), ItemError> {
        self.place.remove(&self.path).map_err(|error| self.failed("remove", error))
    }

    /// Returns the bytes from `byte` on, also while this process has the output of that name open.
    fn content_from(&self, byte: u64) -> Result<Box<dyn Read + Send>, ItemError> {
        let opened = self.place.open(&self.path, byte);
        opened.map(|opened| opened.bytes).map_err(|error| self.failed("open", error))
    }

    /// Returns a check that the file is still the one that was `found`.
    fn unchanged(&self, found: Found) -> Check {
        let file = self.clone();
        Box::new(move || match file.place.find(&file.path).map_err(io::Error::other)? {
            Some(now) if now == found => Ok(()),
            _ => Err(io::Error::other("the file was changed while it was read")),
        })
    }

    fn failed(&self, action: &str, error: Failure) -> ItemError {
        ItemError::wrap(ErrorKind::IO, format!("cannot {action} `{}`", self.shown()), error)
    }
}

impl ByteSource for RemoteFile {
    fn shown(&self) -> String {
        Self::shown(self)
    }

    fn open_at(&self, byte: u64) -> Result<OpenSource, ItemError> {
        let opened = self.place.open(&self.path, byte);
        let Opened { found, bytes } = opened.map_err(|error| self.failed("open", error))?;
        let (identity, length) = (found.map(InputIdentity::from), found.map(|found| found.size));
        let check = found.filter(|_| !self.place.is_stable()).map(|found| self.unchanged(found));
        let bytes =
            Box::new(Whole::new(bytes, length.map(|length| length.saturating_sub(byte)), check));
        let held = Some(Box::new(self.claim(PathUse::Input)?) as Box<dyn Send>);
        Ok(OpenSource { bytes, identity, length, held })
    }
}

/// Bytes that end with an error when a stop is requested.
struct Stoppable<'a> {
    bytes: &'a mut (dyn Read + Send),
    stop: &'a StopToken,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.stop.is_requested() {
            false => self.bytes.read(into),
            true => Err(io::Error::other("a stop was requested")),
        }
    }
}

/// Returns a client of web servers, whose calls fail after `timeout` without progress; it asks where it is `redirected` to, or not.
#[cfg(any(feature = "objects", feature = "http"))]
pub(crate) fn web_client(
    timeout: std::time::Duration,
    redirected: bool,
) -> Result<reqwest::Client, ItemError> {
    // The cryptography of all TLS of this program. An error means that the program has chosen it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::Client::builder().connect_timeout(timeout).read_timeout(timeout);
    if !redirected {
        client = client.redirect(reqwest::redirect::Policy::none());
    }
    client.build().map_err(|error| {
        ItemError::wrap(ErrorKind::IO, "cannot make a client of web servers", error)
    })
}

/// Returns a hash of the tag of a content, which is never 0.
#[cfg(any(feature = "objects", feature = "http"))]
fn tag_of(tag: &str) -> u64 {
    batchwright::item::stable_hash(tag.as_bytes()).max(1)
}

/// The error of a server that does not answer.
#[cfg(any(feature = "ftp", feature = "sftp", feature = "webdav"))]
fn silent(timeout: std::time::Duration) -> Failure {
    failure(format!("the server does not answer within {} s", timeout.as_secs_f64()))
}

/// An error of a place in one sentence.
fn failure(what: impl Into<String>) -> Failure {
    what.into().into()
}
