//! Object stores that speak S3.

use batchwright::ItemError;
use opendal::services::S3;

use super::object_store::ObjectStore;
use super::url::PlaceUrl;

/// Where a server is that the URL names without a region.
const REGION: &str = "us-east-1";

/// Returns a bucket: `s3://ACCESS_KEY:SECRET_KEY@BUCKET/KEY?endpoint=URL&region=REGION`. What the URL lacks is that of the
/// environment (`AWS_…`) and the profiles of the machine.
pub(super) fn bucket(url: &mut PlaceUrl) -> Result<ObjectStore, ItemError> {
    let mut service = S3::default().bucket(url.host());
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
    ObjectStore::new(url, service)
}
