//! Object stores that speak S3.

use std::io::{Read, Write as _};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::options::{ReaderOptions, WriteOptions};
use opendal::{HttpTransporter, Metadata, OperationContext, Operator, blocking, services};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::url::PlaceUrl;
use super::{Failure, Found, Opened, Place, failure, runtime, tag_of, web_client};

/// Number of bytes of a part of an upload: 10,000 parts, the maximum, are 156 GiB.
const PART_BYTES: usize = 16 * 1024 * 1024;
/// How often a request is repeated that failed for a reason that may pass.
const RETRIES: usize = 3;
/// Where a server is that the URL names without a region.
const REGION: &str = "us-east-1";

/// A bucket: `s3://ACCESS_KEY:SECRET_KEY@BUCKET/KEY?endpoint=URL&region=REGION`. What the URL lacks is that of the environment
/// (`AWS_…`) and the profiles of the machine.
pub(super) struct Bucket {
    objects: blocking::Operator,
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
        let transport = HttpTransporter::new(ReqwestTransport::new(web_client(timeout)?));
        let layered = built
            .with_context(OperationContext::new().with_http_transport(transport))
            .layer(TimeoutLayer::new().with_timeout(timeout).with_io_timeout(timeout))
            .layer(RetryLayer::new().with_max_times(RETRIES).with_jitter());
        let _runtime = runtime()?.enter();
        let objects = blocking::Operator::new(layered)
            .map_err(|error| ItemError::wrap(ErrorKind::IO, "cannot use an object store", error))?;
        Ok(Self { objects })
    }

    fn stat(&self, path: &str) -> Result<Option<Metadata>, Failure> {
        match self.objects.stat(path) {
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
        let of = self.objects.stat(path)?;
        // An object that is replaced while it is read is an error, not a mixture.
        let options =
            ReaderOptions { if_match: of.etag().map(str::to_owned), ..ReaderOptions::default() };
        let bytes = self.objects.reader_options(path, options)?;
        let bytes = Box::new(bytes.into_std_read(byte..of.content_length())?);
        Ok(Opened { found: Some(found(&of)), bytes })
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, Failure> {
        let listed = self.objects.list(folder)?;
        let files = listed.into_iter().filter(|entry| entry.metadata().is_file());
        Ok(files.map(|entry| entry.name().to_owned()).collect())
    }

    fn put(
        &self,
        path: &str,
        _: &str,
        content: &mut (dyn Read + Send),
        length: u64,
    ) -> Result<(), Failure> {
        // The object appears when the upload is complete.
        let options = WriteOptions { chunk: Some(PART_BYTES), ..WriteOptions::default() };
        let mut object = self.objects.writer_options(path, options)?.into_std_write();
        let sent = std::io::copy(content, &mut object)?;
        if sent != length {
            return Err(failure(format!("{sent} of {length} bytes could be read")));
        }
        object.flush()?;
        Ok(object.close()?)
    }

    fn remove(&self, path: &str) -> Result<(), Failure> {
        Ok(self.objects.delete(path)?)
    }
}
