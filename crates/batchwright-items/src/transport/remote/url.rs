//! The URLs of files in other places.
#![allow(dead_code, reason = "a program with some of the places uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::parse_duration;
use batchwright::item::stable_hash;
use percent_encoding::percent_decode_str;
use url::Url;

/// The time without progress after which a call fails, unless the URL has a `timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A parsed URL: `scheme://user:password@host:port/path?option=value`.
pub(super) struct PlaceUrl {
    url: Url,
    path: String,
    options: BTreeMap<String, String>,
    folder: PathBuf,
}

impl PlaceUrl {
    /// Parses `text`; errors do not repeat it, because it may contain a password.
    pub(super) fn parse(text: &str, folder: &Path) -> Result<Self, ItemError> {
        let scheme = text.split("://").next().unwrap_or_default();
        let wrong = |what: &dyn std::fmt::Display| {
            ItemError::fatal(format!("cannot read the URL with `{scheme}://`: {what}"))
        };
        if text.contains(char::is_control) {
            return Err(wrong(&"it contains a control character"));
        }
        // Seen here, because the parser resolves it.
        let path = text.split(['?', '#']).next().unwrap_or_default();
        if path.split('/').skip(3).any(|part| decoded(part).is_ok_and(|part| part == ".."))
            || path.contains('\\')
        {
            return Err(wrong(&"its path contains `..` or `\\`"));
        }
        let url = Url::parse(text).map_err(|error| wrong(&error))?;
        if url.host_str().unwrap_or_default().is_empty() {
            return Err(wrong(&"it names no server or bucket"));
        }
        if url.fragment().is_some() {
            return Err(wrong(&"it contains `#`; write `%23` in a name"));
        }
        let path = decoded(url.path()).map_err(|what| wrong(&what))?;
        if path.split('/').any(|part| part == "..") || path.contains('\\') {
            return Err(wrong(&"its path contains `..` or `\\`"));
        }
        if url.username().is_empty() && url.password().is_some() {
            return Err(wrong(&"it has a password and no user"));
        }
        let mut options = BTreeMap::new();
        // What follows the path of a web server's file belongs to the file.
        let pairs = (!scheme.starts_with("http")).then(|| url.query_pairs());
        for (name, value) in pairs.into_iter().flatten() {
            if options.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(wrong(&format!("the option `{name}` is there twice")));
            }
        }
        Ok(Self { url, path, options, folder: folder.to_owned() })
    }

    pub(super) fn scheme(&self) -> &str {
        self.url.scheme()
    }

    pub(super) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Returns the host as a name for sockets: an IPv6 address without brackets.
    pub(super) fn socket_host(&self) -> &str {
        self.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self, default: u16) -> u16 {
        self.url.port().unwrap_or(default)
    }

    /// Returns the path without escapes, from its first `/`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the URL without user, password, path and options.
    pub(super) fn place_shown(&self) -> String {
        let port = self.url.port().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}", self.scheme(), self.host())
    }

    /// Returns what distinguishes the place from others, whether the port is written or not: server and port, and a hash of the
    /// user and the options but the time.
    pub(super) fn place_identity(&self) -> String {
        let url = &self.url;
        let options: Vec<_> = url.query_pairs().filter(|(name, _)| name != "timeout").collect();
        let port = url.port_or_known_default().or(match self.scheme() {
            "sftp" => Some(22),
            "ftps" if options.iter().any(|(name, value)| name == "tls" && value == "implicit") => {
                Some(990)
            }
            _ => Some(21),
        });
        let hash = stable_hash(format!("{} {options:?}", url.username()).as_bytes());
        format!("{}://{}:{} {hash:016x} ", self.scheme(), self.host(), port.unwrap_or_default())
    }

    /// Whether the name is a pattern, which contains `*` without an escape.
    pub(super) fn is_pattern(&self) -> Result<bool, ItemError> {
        let name = self.url.path().rsplit('/').next().unwrap_or_default();
        let decoded = self.path.rsplit('/').next().unwrap_or_default();
        match name.contains('*') {
            false => Ok(false),
            true if decoded.contains('?')
                || decoded.matches('*').count() > name.matches('*').count() =>
            {
                Err(self.wrong(&"a pattern cannot contain an escaped `*` or `?`"))
            }
            true => Ok(true),
        }
    }

    /// Returns the user and the password.
    pub(super) fn user(&self) -> Result<Option<(String, Option<String>)>, ItemError> {
        if self.url.username().is_empty() {
            return Ok(None);
        }
        let part = |text: &str| decoded(text).map_err(|what| self.wrong(&what));
        Ok(Some((part(self.url.username())?, self.url.password().map(part).transpose()?)))
    }

    /// Takes the value of an option.
    pub(super) fn option(&mut self, name: &str) -> Option<String> {
        self.options.remove(name)
    }

    /// Takes an option that is the path of a file of this machine.
    pub(super) fn file_option(&mut self, name: &str) -> Option<PathBuf> {
        self.option(name).map(|path| self.folder.join(path))
    }

    /// Takes the option `timeout`: the time without progress after which a call fails.
    pub(super) fn timeout(&mut self) -> Result<Duration, ItemError> {
        match self.option("timeout") {
            None => Ok(TIMEOUT),
            Some(text) => match parse_duration(&text) {
                Ok(time) if !time.is_zero() => Ok(time),
                Ok(_) => Err(self.wrong(&"its `timeout` must be above zero")),
                Err(what) => Err(self.wrong(&format!("its `timeout`: {what}"))),
            },
        }
    }

    /// Refuses options that nothing has taken.
    pub(super) fn all_used(&self) -> Result<(), ItemError> {
        match self.options.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.wrong(&format!("it has no option `{name}`"))),
        }
    }

    /// Returns the URL as it is sent to a web server, without user and password.
    pub(super) fn whole(&self) -> Url {
        let mut url = self.url.clone();
        // Neither fails for a URL with a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url
    }

    /// Returns the error for a URL that is wrong in the way of `what`.
    pub(super) fn wrong(&self, what: &dyn std::fmt::Display) -> ItemError {
        let place = self.place_shown();
        ItemError::fatal(format!("cannot use the URL of `{place}`: {what}"))
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| "an escape with `%` is not UTF-8".to_owned())?;
    match decoded.contains(char::is_control) {
        // A line end would begin another command of FTP.
        true => Err("it contains a control character".to_owned()),
        false => Ok(decoded.into_owned()),
    }
}
