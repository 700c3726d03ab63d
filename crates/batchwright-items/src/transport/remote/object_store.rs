//! Object stores: what those of all vendors have in common.

use std::error::Error as _;
use std::io::{self, Read};
use std::time::Duration;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use opendal::layers::{RetryEvent, RetryInterceptor, RetryLayer, TimeoutLayer};
use opendal::options::{ReaderOptions, WriteOptions};
use opendal::{Builder, HttpTransporter, Metadata, OperationContext, Operator, Writer, blocking};
use opendal_http_transport_reqwest::ReqwestTransport;
use tokio::runtime::Runtime;

use super::url::PlaceUrl;
use super::{Failure, Found, Opened, Place, failure, tag_of, web_client};
use crate::transport::runtime;

/// Least number of bytes of a part of an upload, and largest number of parts.
const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
const PARTS_MAX: u64 = 10_000;
/// Number of bytes read at once.
const PIECE_BYTES: usize = 256 * 1024;
/// How often a request is repeated that failed for a reason that may pass.
const RETRIES: usize = 3;
/// The time before the first repetition, which doubles each time; up to as much again is added at random.
const RETRY_AFTER: Duration = Duration::from_millis(300);
/// A bucket or a container of an object store.
pub(super) struct ObjectStore {
    objects: Operator,
    blocking: blocking::Operator,
    runtime: &'static Runtime,
    /// Whether the store decompresses objects that say that they are compressed.
    decompresses: bool,
}

/// Says nothing about the requests that are repeated: their addresses may have the signature of a token.
struct Quiet;

impl RetryInterceptor for Quiet {
    fn intercept(&self, _: RetryEvent<'_>) {
        tracing::debug!("a request to an object store is repeated");
    }
}

/// The error of a store, whose addresses have no options: these may be the signature of a token.
///
/// opendal writes the first cause of an error only; what an HTTP client was waiting for is in a deeper one.
fn censored(error: opendal::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(known) = cause {
        let shown = known.to_string();
        if !text.contains(&shown) {
            text = format!("{text}: {shown}");
        }
        cause = known.source();
    }
    failure(without_options(&text))
}

fn without_options(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("://").and_then(|at| Some(at + rest[at..].find('?')?)) {
        // The address ends before its options do if a blank comes first.
        let at = rest.find("://").unwrap_or_default();
        if rest[at..begin].contains(char::is_whitespace) {
            let (first, second) = rest.split_at(at + 3);
            shown.push_str(first);
            rest = second;
            continue;
        }
        shown.push_str(&rest[..begin]);
        // A token may have any other character, such as a comma.
        let ends = |character: char| character.is_whitespace() || character == '"';
        let options = &rest[begin..];
        rest = &options[options.find(ends).unwrap_or(options.len())..];
    }
    shown + rest
}

/// Bytes whose errors are [`censored`].
struct Censored<R>(R);

impl<R: Read> Read for Censored<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0
            .read(into)
            .map_err(|error| io::Error::new(error.kind(), without_options(&error.to_string())))
    }
}

impl ObjectStore {
    /// Creates a client of the bucket that `service` has, whose calls fail after the time that `url` allows.
    pub(super) fn new(url: &mut PlaceUrl, service: impl Builder) -> Result<Self, ItemError> {
        let timeout = url.timeout()?;
        let built = Operator::new(service).map_err(|error| url.wrong(&error))?;
        // The client allows more than the layer does, so that it is the layer that ends a request, and repeats it.
        let client = web_client(timeout.saturating_mul(2), true)?;
        let transport = HttpTransporter::new(ReqwestTransport::new(client));
        let objects = built
            .with_context(OperationContext::new().with_http_transport(transport))
            .layer(TimeoutLayer::new().with_timeout(timeout).with_io_timeout(timeout))
            .layer(
                RetryLayer::new()
                    .with_max_times(RETRIES)
                    .with_min_delay(RETRY_AFTER)
                    .with_jitter()
                    .with_notify(Quiet),
            );
        let runtime = runtime()?;
        let _within = runtime.enter();
        let blocking = blocking::Operator::new(objects.clone())
            .map_err(|error| ItemError::wrap(ErrorKind::IO, "cannot use an object store", error))?;
        Ok(Self { objects, blocking, runtime, decompresses: false })
    }

    /// Refuses objects that the store decompresses, because parts of them cannot be read.
    #[cfg(feature = "gcs")]
    pub(super) fn decompressing(mut self) -> Self {
        self.decompresses = true;
        self
    }

    fn stat(&self, path: &str) -> Result<Option<Metadata>, Failure> {
        match self.blocking.stat(key(path)?) {
            Ok(found) if found.is_file() => Ok(Some(found)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(censored(error)),
        }
    }
}

fn found(of: &Metadata) -> Found {
    let modified = of.last_modified().map(jiff::Timestamp::from);
    Found {
        size: of.content_length(),
        modified: modified.map_or(0, |at| at.as_millisecond().saturating_mul(1_000_000)),
        tag: of.etag().map_or(0, tag_of),
    }
}

impl Place for ObjectStore {
    fn find(&self, path: &str) -> Result<Option<Found>, Failure> {
        Ok(self.stat(path)?.as_ref().map(found))
    }

    fn open(&self, path: &str, byte: u64) -> Result<Opened, Failure> {
        let path = key(path)?;
        let of = self.blocking.stat(path).map_err(censored)?;
        if self.decompresses && of.content_encoding().is_some_and(|encoding| encoding != "identity")
        {
            return Err(failure(
                "its `Content-Encoding` lets the store change its bytes; store it without one, with the extension of its compression",
            ));
        }
        // An object that is replaced while it is read is an error, not a mixture.
        let options =
            ReaderOptions { if_match: of.etag().map(str::to_owned), ..ReaderOptions::default() };
        let bytes = self.blocking.reader_options(path, options).map_err(censored)?;
        let bytes = bytes.into_std_read(byte..of.content_length()).map_err(censored)?;
        let bytes = Box::new(Censored(bytes));
        Ok(Opened { found: Some(found(&of)), bytes })
    }

    fn is_stable(&self) -> bool {
        true
    }

    fn names(&self, folder: &str, prefix: &str) -> Result<Vec<String>, Failure> {
        let begin = format!("{folder}{}", prefix.trim_end());
        let mut names = Vec::new();
        for entry in self.blocking.lister(key(&begin)?).map_err(censored)? {
            let entry = entry.map_err(censored)?;
            if entry.metadata().is_file() {
                names.push(entry.name().to_owned());
            }
        }
        Ok(names)
    }

    fn put(
        &self,
        path: &str,
        _: &str,
        content: &mut (dyn Read + Send),
        length: u64,
    ) -> Result<(), Failure> {
        let part = length.div_ceil(PARTS_MAX).max(PART_BYTES_MIN);
        let options =
            WriteOptions { chunk: Some(usize::try_from(part)?), ..WriteOptions::default() };
        // The object appears when the upload is complete.
        let writer = self.objects.writer_options(key(path)?, options);
        let mut object = self.runtime.block_on(writer).map_err(censored)?;
        let sent = self.send(content, &mut object, length);
        if sent.is_err() {
            // Parts of an upload that is not ended take space and are not listed. The first error is the cause.
            let _ = self.runtime.block_on(object.abort());
        }
        sent
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        self.blocking.delete(key(path)?).map_err(censored)
    }
}

impl ObjectStore {
    fn send(
        &self,
        content: &mut (dyn Read + Send),
        object: &mut Writer,
        length: u64,
    ) -> Result<(), Failure> {
        let mut sent = 0;
        loop {
            // The content may come from another place: it is read outside of the runtime.
            let mut piece = vec![0; PIECE_BYTES];
            let count = content.read(&mut piece)?;
            if count == 0 {
                break;
            }
            piece.truncate(count);
            self.runtime.block_on(object.write(piece)).map_err(censored)?;
            sent += count as u64;
        }
        if sent != length {
            return Err(failure(format!("{sent} of {length} bytes could be read")));
        }
        self.runtime.block_on(object.close()).map_err(censored)?;
        Ok(())
    }
}

/// Returns the key of an object, unless the library would use another one.
fn key(path: &str) -> Result<&str, Failure> {
    let key = path.strip_prefix('/').unwrap_or(path);
    match key.contains("//") || key.starts_with('/') || key.trim() != key {
        true => {
            Err(failure(format!("the key {key:?} begins or ends with a blank or contains `//`")))
        }
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_addresses_are_not_shown() {
        for (text, shown) in [
            (
                "at http://h/c/a?spr=https,http&sig=x%2F, called: send",
                "at http://h/c/a called: send",
            ),
            ("https://h/a?sig=x", "https://h/a"),
            (
                "http://h/a is there? yes, \"http://h/b?x=1\"",
                "http://h/a is there? yes, \"http://h/b\"",
            ),
            ("no address? none", "no address? none"),
        ] {
            assert_eq!(without_options(text), shown);
        }
    }
}
