//! Google Cloud Storage.

use std::fs;

use batchwright::ItemError;
use opendal::services::Gcs;

use super::object_store::ObjectStore;
use super::url::PlaceUrl;

/// Returns a bucket: `gs://BUCKET/NAME?credential=FILE`. Without a file, the credentials are those of the environment
/// (`GOOGLE_APPLICATION_CREDENTIALS`) and of the machine; `anonymous=true` sends none.
pub(super) fn bucket(url: &mut PlaceUrl) -> Result<ObjectStore, ItemError> {
    let mut service = Gcs::default().bucket(url.host());
    if url.user()?.is_some() {
        return Err(url.wrong(&"it has a user; name the file of a `credential`"));
    }
    if let Some(endpoint) = url.option("endpoint") {
        service = service.endpoint(&endpoint);
    }
    if let Some(path) = url.file_option("credential") {
        // The library ignores a file that it cannot read, and looks for other credentials.
        fs::File::open(&path)
            .map_err(|error| url.wrong(&format!("its `credential` cannot be read: {error}")))?;
        let path = path.to_str().ok_or_else(|| url.wrong(&"its `credential` is not UTF-8"))?;
        service = service.credential_path(path);
    }
    match url.option("anonymous").as_deref() {
        None | Some("false") => {}
        Some("true") => service = service.skip_signature(),
        Some(_) => return Err(url.wrong(&"its `anonymous` is neither `true` nor `false`")),
    }
    ObjectStore::new(url, service)
}
