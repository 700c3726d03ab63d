//! Object stores that speak S3.

use std::io::Read;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::options::{ReaderOptions, WriteOptions};
use opendal::{HttpTransporter, Metadata, OperationContext, Operator, Writer, blocking, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use tokio::runtime::Runtime;

use super::url::PlaceUrl;
use super::{Failure, Found, Opened, Place, failure, tag_of, web_client};
use crate::transport::runtime::runtime;

/// Least number of bytes of a part of an upload, and largest number of parts.
const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
const PARTS_MAX: u64 = 10_000;
/// Number of bytes read at once.
const PIECE_BYTES: usize = 256 * 1024;
/// How often a request is repeated that failed for a reason that may pass.
const RETRIES: usize = 3;
/// Where a server is that the URL names without a region.
const REGION: &str = "us-east-1";

/// A bucket: `s3://ACCESS_KEY:SECRET_KEY@BUCKET/KEY?endpoint=URL&region=REGION`. What the URL lacks is that of the environment
/// (`AWS_…`) and the profiles of the machine.
pub(super) struct Bucket {
    objects: Operator,
    blocking: blocking::Operator,
    runtime: &'static Runtime,
}

impl Bucket {
    pub(super) fn new(url: &mut PlaceUrl) -> Result<Self, ItemError> {
        let mut service = services::S3::default().bucket(url.host());
        let endpoint = url.option("endpoint");
        let region = url.option("region").or_else(|| endpoint.as_ref().map(|_| REGION.to_owned()));
        if let Some(endpoint) = endpoint {
            service = service.endpoint(&endpoint);
        }
        if let Some(region) = region {
            service = service.region(&region);
        }
        match url.option("style").as_deref() {
            None | Some("path") => {}
            Some("host") => service = service.enable_virtual_host_style(),
            Some(_) => return Err(url.wrong(&"its `style` is neither `path` nor `host`")),
        }
        match url.user()? {
            None => {}
            Some((key, Some(secret))) => {
                service = service.access_key_id(&key).secret_access_key(&secret);
            }
            Some((_, None)) => return Err(url.wrong(&"it has an access key and no secret key")),
        }
        let timeout = url.timeout()?;
        let built = Operator::new(service).map_err(|error| url.wrong(&error))?;
        let transport = HttpTransporter::new(ReqwestTransport::new(web_client(timeout, true)?));
        let layered = built
            .with_context(OperationContext::new().with_http_transport(transport))
            .layer(TimeoutLayer::new().with_timeout(timeout).with_io_timeout(timeout))
            .layer(RetryLayer::new().with_max_times(RETRIES).with_jitter());
        let runtime = runtime()?;
        let _within = runtime.enter();
        let blocking = blocking::Operator::new(layered.clone())
            .map_err(|error| ItemError::wrap(ErrorKind::IO, "cannot use an object store", error))?;
        Ok(Self { objects: layered, blocking, runtime })
    }

    fn stat(&self, path: &str) -> Result<Option<Metadata>, Failure> {
        match self.blocking.stat(key(path)?) {
            Ok(found) if found.is_file() => Ok(Some(found)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
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

impl Place for Bucket {
    fn find(&self, path: &str) -> Result<Option<Found>, Failure> {
        Ok(self.stat(path)?.as_ref().map(found))
    }

    fn open(&self, path: &str, byte: u64) -> Result<Opened, Failure> {
        let path = key(path)?;
        let of = self.blocking.stat(path)?;
        // An object that is replaced while it is read is an error, not a mixture.
        let options =
            ReaderOptions { if_match: of.etag().map(str::to_owned), ..ReaderOptions::default() };
        let bytes = self.blocking.reader_options(path, options)?;
        let bytes = Box::new(bytes.into_std_read(byte..of.content_length())?);
        Ok(Opened { found: Some(found(&of)), bytes })
    }

    fn is_stable(&self) -> bool {
        true
    }

    fn names(&self, folder: &str, prefix: &str) -> Result<Vec<String>, Failure> {
        let begin = format!("{folder}{}", prefix.trim_end());
        let mut names = Vec::new();
        for entry in self.blocking.lister(key(&begin)?)? {
            let entry = entry?;
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
        let mut object = self.runtime.block_on(self.objects.writer_options(key(path)?, options))?;
        let sent = self.send(content, &mut object, length);
        if sent.is_err() {
            // Parts of an upload that is not ended take space and are not listed. The first error is the cause.
            let _ = self.runtime.block_on(object.abort());
        }
        sent
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        Ok(self.blocking.delete(key(path)?)?)
    }
}

impl Bucket {
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
            self.runtime.block_on(object.write(piece))?;
            sent += count as u64;
        }
        if sent != length {
            return Err(failure(format!("{sent} of {length} bytes could be read")));
        }
        self.runtime.block_on(object.close())?;
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
