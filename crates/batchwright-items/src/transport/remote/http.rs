//! Web servers: their files are read, not written.

use std::io::{self, Read};
use std::time::Duration;

use batchwright::ItemError;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED,
    RANGE,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use tokio::runtime::Runtime;

use super::url::PlaceUrl;
use super::{Failure, Found, Opened, Place, failure, tag_of, web_client};
use crate::transport::runtime;

/// The time without progress after which a call fails. (Options of a URL belong to the server.)
const TIMEOUT: Duration = Duration::from_secs(30);

/// What asks web servers.
pub(super) struct Web {
    pub(super) client: Client,
    pub(super) user: Option<(String, Option<String>)>,
    pub(super) runtime: &'static Runtime,
}

impl Web {
    /// Sends `request` and waits for the beginning of the answer.
    pub(super) fn request(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let request = self.authorized(request);
        let answer = self.runtime.block_on(async { request.send().await });
        Ok(answer.map_err(reqwest::Error::without_url)?)
    }

    pub(super) fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        // A compressed answer would have other positions.
        let request = request.header(ACCEPT_ENCODING, "identity");
        match &self.user {
            Some((user, password)) => request.basic_auth(user, password.as_ref()),
            None => request,
        }
    }

    fn find(&self, url: &Url) -> Result<Option<Found>, Failure> {
        let response = self.request(self.client.head(url.clone()))?;
        match response.status() {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status if status.is_success() => {
                let size = text(response.headers(), CONTENT_LENGTH)
                    .and_then(|length| length.parse().ok())
                    .ok_or_else(|| failure("the server does not say how long the file is"))?;
                Ok(Some(found(response.headers(), size)))
            }
            status => Err(answers(status)),
        }
    }

    /// Opens the file at `url` at `byte`.
    pub(super) fn open(&self, url: &Url, byte: u64) -> Result<Opened, Failure> {
        let mut request = self.client.get(url.clone());
        if byte > 0 {
            request = request.header(RANGE, format!("bytes={byte}-"));
        }
        let response = self.request(request)?;
        let headers = response.headers();
        let (skipped, found) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let length = length_of_range(headers, byte).ok_or_else(|| {
                    failure("the server sends another part than it was asked for")
                })?;
                (0, Some(found(headers, length)))
            }
            // A server without ranges sends the whole.
            StatusCode::OK => {
                let length = text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
                (byte, length.map(|length| found(headers, length)))
            }
            // There is nothing after the end.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let Some(found) = self.find(url)?.filter(|found| found.size == byte) else {
                    return Err(failure(format!("the file has no byte {byte}")));
                };
                return Ok(Opened { found: Some(found), bytes: Box::new(io::empty()) });
            }
            status => return Err(answers(status)),
        };
        let mut bytes =
            Box::new(Body { response, runtime: self.runtime, piece: bytes::Bytes::new() });
        let passed = io::copy(&mut (&mut bytes).take(skipped), &mut io::sink())?;
        match passed == skipped {
            true => Ok(Opened { found, bytes }),
            false => Err(failure(format!("the file has no byte {byte}"))),
        }
    }
}

/// The error of an answer that is none of those that are expected.
pub(super) fn answers(status: StatusCode) -> Failure {
    failure(format!("the server answers {status}"))
}

/// A file of a web server: `https://USER:PASSWORD@HOST/PATH`.
pub(super) struct WebServer {
    web: Web,
    url: Url,
}

impl WebServer {
    pub(super) fn new(url: &mut PlaceUrl) -> Result<Self, ItemError> {
        let (client, user, runtime) = (web_client(TIMEOUT, true)?, url.user()?, runtime()?);
        Ok(Self { web: Web { client, user, runtime }, url: url.whole() })
    }
}

/// The body of an answer.
struct Body {
    response: Response,
    runtime: &'static Runtime,
    piece: bytes::Bytes,
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let next = self.runtime.block_on(async { self.response.chunk().await });
            match next.map_err(|error| io::Error::other(error.without_url()))? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.piece.len());
        into[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Returns the file that `headers` describe, of `size` bytes.
fn found(headers: &HeaderMap, size: u64) -> Found {
    found_of(size, text(headers, LAST_MODIFIED), text(headers, ETAG))
}

/// Returns the file of `size` bytes with a time and a tag.
pub(super) fn found_of(size: u64, modified: Option<&str>, tag: Option<&str>) -> Found {
    let modified = modified
        .and_then(|text| jiff::fmt::rfc2822::parse(text).ok())
        .map_or(0, |at| at.timestamp().as_second().saturating_mul(1_000_000_000));
    // Only a strong tag means the same bytes. Some servers quote it only in headers.
    let tag = tag.filter(|tag| !tag.starts_with("W/")).map(|tag| tag.trim_matches('"'));
    Found { size, modified, tag: tag.map_or(0, tag_of) }
}

/// Returns the length of the whole content, from `bytes FIRST-LAST/LENGTH`, if the range is from `byte` to its end.
fn length_of_range(headers: &HeaderMap, byte: u64) -> Option<u64> {
    let (range, length) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (last, length): (u64, u64) = (last.parse().ok()?, length.parse().ok()?);
    (first.parse() == Ok(byte) && last.checked_add(1) == Some(length)).then_some(length)
}

impl Place for WebServer {
    fn find(&self, _: &str) -> Result<Option<Found>, Failure> {
        self.web.find(&self.url)
    }

    fn open(&self, _: &str, byte: u64) -> Result<Opened, Failure> {
        self.web.open(&self.url, byte)
    }

    fn is_stable(&self) -> bool {
        true
    }

    fn only_read(&self) -> Option<&'static str> {
        Some("files of web servers are only read")
    }

    fn names(&self, _: &str, _: &str) -> Result<Vec<String>, Failure> {
        Err(failure("a web server has no folders to look into; name the file"))
    }

    fn put(&self, _: &str, _: &str, _: &mut (dyn Read + Send), _: u64) -> Result<(), Failure> {
        Err(failure("files of web servers are only read"))
    }

    fn remove(&self, _: &str) -> Result<(), Failure> {
        Err(failure("files of web servers are only read"))
    }
}
