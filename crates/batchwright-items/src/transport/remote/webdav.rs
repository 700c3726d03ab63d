//! Servers that speak WebDAV, RFC 4918.

use std::io::{self, Read};
use std::time::Duration;

use batchwright::ItemError;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::events::Event;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, Client, Method, StatusCode, Url};
use tokio::sync::mpsc;

use super::http::{Web, answers, found_of};
use super::url::PlaceUrl;
use super::{Failure, Found, Opened, Place, failure, silent, web_client};
use crate::transport::runtime;

/// Maximum size of what a server says of a folder, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Number of bytes read and sent at once, and of such pieces that wait.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES: usize = 4;
/// Characters of a path that need no escape.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What is asked about files and folders.
const PROPERTIES: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/><getcontentlength/>\
                          <getlastmodified/><getetag/></prop></propfind>";

/// A server: `webdavs://USER:PASSWORD@HOST/PATH`, or `webdav://` without TLS.
pub(super) struct DavServer {
    web: Web,
    /// For uploads: their time is that of their pieces.
    uploads: Client,
    base: Url,
    timeout: Duration,
}

impl DavServer {
    pub(super) fn new(url: &mut PlaceUrl) -> Result<Self, ItemError> {
        let (timeout, user) = (url.timeout()?, url.user()?);
        let (scheme, port) = if url.scheme() == "webdavs" { ("https", 443) } else { ("http", 80) };
        let base = format!("{scheme}://{}:{}/", url.host(), url.port(port));
        let base = base.parse().map_err(|error| url.wrong(&error))?;
        let (client, runtime) = (web_client(timeout, false)?, runtime()?);
        let uploads = Client::builder().connect_timeout(timeout);
        let uploads = uploads.redirect(reqwest::redirect::Policy::none()).build();
        let uploads = uploads.map_err(|error| url.wrong(&error))?;
        Ok(Self { web: Web { client, user, runtime }, uploads, base, timeout })
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        let path = utf8_percent_encode(path.trim_start_matches('/'), PATH).to_string();
        Ok(self.base.join(&path)?)
    }

    fn method(&self, name: &'static str, path: &str) -> Result<reqwest::RequestBuilder, Failure> {
        Ok(self.web.client.request(Method::from_bytes(name.as_bytes())?, self.url(path)?))
    }

    /// Returns what the server says of `path`, and of what is in it if `depth` is 1; `None` if there is nothing.
    fn properties(&self, path: &str, depth: u8) -> Result<Option<Vec<Entry>>, Failure> {
        let request = self.method("PROPFIND", path)?.header("Depth", depth.to_string());
        let request = request.header("Content-Type", "application/xml").body(PROPERTIES);
        let mut response = self.web.request(request)?;
        match response.status() {
            StatusCode::MULTI_STATUS => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            status => return Err(answers(status)),
        }
        let mut answer = Vec::new();
        while let Some(piece) = self
            .web
            .runtime
            .block_on(async { response.chunk().await })
            .map_err(reqwest::Error::without_url)?
        {
            answer.extend_from_slice(&piece);
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(failure("the server says too much about a folder"));
            }
        }
        entries(&answer).map(Some)
    }

    /// Makes the folders of `path`; those that exist are refused by the server, which is no fault.
    fn make_folders(&self, path: &str) -> Result<(), Failure> {
        // One request instead of one for each folder, when the last one is there.
        let (folder, _) = path.rsplit_once('/').unwrap_or_default();
        if self.properties(folder, 0)?.is_some() {
            return Ok(());
        }
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            // What is still missing is seen when the file is written.
            self.web.request(self.method("MKCOL", &path[..at])?)?;
        }
        Ok(())
    }

    /// Writes `content` to `path`.
    fn write(
        &self,
        path: &str,
        content: &mut (dyn Read + Send),
        length: u64,
    ) -> Result<StatusCode, Failure> {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
        let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        let request = self.uploads.put(self.url(path)?).header(CONTENT_LENGTH, length);
        let request = self.web.authorized(request).body(Body::wrap_stream(pieces));
        let answer = self.web.runtime.spawn(async { request.send().await });
        let (mut piece, mut sent) = (vec![0; PIECE_BYTES], 0);
        loop {
            // The content may come from another place: it is read outside of the runtime.
            let count = match content.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    // The server must not take what was sent for the whole.
                    answer.abort();
                    return Err(error.into());
                }
            };
            sent += count as u64;
            let bytes = Bytes::copy_from_slice(&piece[..count]);
            let timeout = self.timeout;
            let taken = async { tokio::time::timeout(timeout, sender.send(Ok(bytes))).await };
            match self.web.runtime.block_on(taken) {
                Ok(Ok(())) => {}
                // The server has answered already.
                Ok(Err(_)) => break,
                Err(_) => {
                    answer.abort();
                    return Err(silent(self.timeout));
                }
            }
        }
        if sent < length && !sender.is_closed() {
            answer.abort();
            return Err(failure(format!("{sent} of {length} bytes could be read")));
        }
        drop(sender);
        let answered = async { tokio::time::timeout(self.timeout, answer).await };
        let answered = self.web.runtime.block_on(answered);
        let answered = answered.map_err(|_| silent(self.timeout))??;
        let status = answered.map_err(reqwest::Error::without_url)?.status();
        match status.is_success() && sent != length {
            true => Err(failure(format!("the server answers after {sent} of {length} bytes"))),
            false => Ok(status),
        }
    }
}

impl Place for DavServer {
    fn find(&self, path: &str) -> Result<Option<Found>, Failure> {
        let entries = self.properties(path, 0)?.unwrap_or_default();
        Ok(entries.into_iter().next().filter(|entry| !entry.is_folder).map(|entry| entry.found()))
    }

    fn open(&self, path: &str, byte: u64) -> Result<Opened, Failure> {
        // As another question about it is answered: a header may have other tags.
        let found = self.find(path)?.ok_or_else(|| failure("there is no such file"))?;
        Ok(Opened { found: Some(found), ..self.web.open(&self.url(path)?, byte)? })
    }

    fn names(&self, folder: &str, _: &str) -> Result<Vec<String>, Failure> {
        let entries =
            self.properties(folder, 1)?.ok_or_else(|| failure("there is no such folder"))?;
        Ok(entries.into_iter().filter(|entry| !entry.is_folder).map(|entry| entry.name).collect())
    }

    fn put(
        &self,
        path: &str,
        part: &str,
        content: &mut (dyn Read + Send),
        length: u64,
    ) -> Result<(), Failure> {
        self.make_folders(path)?;
        let status = self.write(part, content, length)?;
        if !status.is_success() {
            return Err(answers(status));
        }
        match self.find(part)? {
            Some(found) if found.size == length => {}
            _ => return Err(failure("the server has not stored all bytes")),
        }
        // A folder would be replaced with all that is in it.
        let there = self.properties(path, 0)?.unwrap_or_default();
        if there.first().is_some_and(|entry| entry.is_folder) {
            return Err(failure("there is a folder of that name"));
        }
        let to = self.url(path)?;
        let moved = self.method("MOVE", part)?.header("Destination", to.as_str());
        let moved = self.web.request(moved.header("Overwrite", "T"))?.status();
        match is_done(moved) {
            true => Ok(()),
            false => Err(answers(moved)),
        }
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        match self.web.request(self.method("DELETE", path)?)?.status() {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(()),
            status if is_done(status) => Ok(()),
            status => Err(answers(status)),
        }
    }
}

/// Whether all that was asked for is done. An answer about several files has failures, and an accepted request is not done yet.
fn is_done(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT)
}

/// A file or a folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    name: String,
    is_folder: bool,
    size: u64,
    modified: String,
    tag: String,
}

impl Entry {
    fn found(&self) -> Found {
        let text = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        found_of(self.size, text(&self.modified).as_deref(), text(&self.tag).as_deref())
    }
}

/// What was read of an answer.
#[derive(Default)]
struct Answer {
    entries: Vec<Entry>,
    /// The texts of the elements that are open.
    texts: Vec<String>,
    /// Whether the outermost element is that of such an answer.
    is_whole: bool,
}

impl Answer {
    fn begins(&mut self, element: &str) {
        match element {
            "multistatus" if self.texts.is_empty() => self.is_whole = true,
            "response" => self.entries.push(Entry::default()),
            "collection" => {
                if let Some(entry) = self.entries.last_mut() {
                    entry.is_folder = true;
                }
            }
            _ => {}
        }
        self.texts.push(String::new());
    }

    fn text(&mut self, text: &str) {
        if let Some(last) = self.texts.last_mut() {
            last.push_str(text);
        }
    }

    fn ends(&mut self, element: &str) -> Result<(), Failure> {
        let text = self.texts.pop().unwrap_or_default();
        let text = text.trim();
        let Some(entry) = self.entries.last_mut() else { return Ok(()) };
        match element {
            "href" if entry.name.is_empty() => entry.name = name_of(text)?,
            // A property that a folder has not is there without a value.
            "getcontentlength" if !text.is_empty() => entry.size = text.parse()?,
            // Of the entry itself, and not of its properties: there is no such file.
            "status" if self.texts.len() == 2 && !text.contains(" 200 ") => {
                self.entries.pop();
            }
            "getlastmodified" => text.clone_into(&mut entry.modified),
            "getetag" => text.clone_into(&mut entry.tag),
            _ => {}
        }
        Ok(())
    }
}

/// Returns the entries of the answer `xml`.
fn entries(xml: &[u8]) -> Result<Vec<Entry>, Failure> {
    let mut reader = Reader::from_reader(xml);
    let mut answer = Answer::default();
    loop {
        match reader.read_event()? {
            Event::Start(element) => answer.begins(element.local_name().as_ref()),
            Event::Empty(element) => {
                let name = element.local_name();
                answer.begins(name.as_ref());
                // It has no text.
                answer.texts.pop();
            }
            Event::Text(text) => answer.text(&text.xml10_content()),
            Event::GeneralRef(name) => match name.resolve_char_ref()? {
                Some(character) => answer.text(character.encode_utf8(&mut [0; 4])),
                None => {
                    let text = quick_xml::escape::resolve_predefined_entity(&name);
                    answer.text(text.ok_or_else(|| failure("the server uses an unknown entity"))?);
                }
            },
            Event::End(element) => answer.ends(element.local_name().as_ref())?,
            Event::DocType(_) => return Err(failure("the server sends a document type")),
            Event::Eof if answer.is_whole && answer.texts.is_empty() => return Ok(answer.entries),
            Event::Eof => return Err(failure("the server's answer is cut, or none about files")),
            _ => {}
        }
    }
}

/// Returns the name at the end of a path or a URL.
fn name_of(href: &str) -> Result<String, Failure> {
    let name = href.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    Ok(percent_decode_str(name).decode_utf8()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_servers_are_read_whatever_prefix_they_use() {
        let xml = br#"<?xml version="1.0"?><D:multistatus xmlns:D="DAV:" xmlns:x="urn:x">
            <D:response><D:href>/dav/in/</D:href><D:propstat><D:prop>
              <D:resourcetype><D:collection/></D:resourcetype></D:prop></D:propstat></D:response>
            <D:response><D:href>http://h/dav/in/a%20&amp;%C3%A4.csv</D:href><D:propstat><D:prop><D:resourcetype/>
              <D:getcontentlength x:type="int">12</D:getcontentlength><D:getetag>"t&#45;1"</D:getetag>
              <D:getlastmodified>Sun, 29 Nov 2026 12:00:00 GMT</D:getlastmodified></D:prop></D:propstat></D:response>
            </D:multistatus>"#;
        let entries = entries(xml).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.is_folder).collect::<Vec<_>>(), [true, false]);
        assert_eq!((entries[1].name.as_str(), entries[1].size), ("a &\u{e4}.csv", 12));
        assert_eq!(entries[1].tag, "\"t-1\"");
        let found = entries[1].found();
        assert!(found.modified > 1_700_000_000_000_000_000 && found.tag != 0);
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        assert!(entries(b"<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>").is_err());
        assert!(entries(b"<a><response></b></a>").is_err());
        assert!(
            entries(b"<multistatus><response><href>&evil;</href></response></multistatus>")
                .is_err()
        );
        assert!(entries(b"not xml").is_err() && entries(b"<html></html>").is_err());
        // A listing that is cut has fewer files.
        assert!(entries(b"<multistatus><response><href>/a</href></response>").is_err());
        assert_eq!(entries(b"<multistatus/>").unwrap(), []);
        let absent = b"<multistatus><response><href>/a</href><status>HTTP/1.1 404 Not Found</status></response></multistatus>";
        assert_eq!(entries(absent).unwrap(), []);
        let folder = b"<multistatus><response><href>/a/</href><propstat><prop><getcontentlength></getcontentlength></prop><status>HTTP/1.1 404 Not Found</status></propstat></response></multistatus>";
        assert_eq!(entries(folder).unwrap().len(), 1);
    }
}
