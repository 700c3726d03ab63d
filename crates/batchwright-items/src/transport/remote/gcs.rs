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
    let credential = url.file_option("credential");
    if let Some(path) = &credential {
        // The library takes other credentials, maybe of someone else, when it cannot use a file.
        let read = fs::read(path).map_err(|error| error.to_string());
        let parsed = read.and_then(|text| {
            serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(&text)
                .map_err(|_| "it is no JSON object".to_owned())
        });
        parsed.map_err(|what| url.wrong(&format!("its `credential` cannot be read: {what}")))?;
        let path = path.to_str().ok_or_else(|| url.wrong(&"its `credential` is not UTF-8"))?;
        service = service.credential_path(path).disable_config_load().disable_vm_metadata();
    }
    match url.option("anonymous").as_deref() {
        None | Some("false") => {}
        Some("true") if credential.is_some() => {
            return Err(url.wrong(&"it has a `credential` and is `anonymous`"));
        }
        Some("true") => service = service.skip_signature(),
        Some(_) => return Err(url.wrong(&"its `anonymous` is neither `true` nor `false`")),
    }
    ObjectStore::new(url, service).map(ObjectStore::decompressing)
}
