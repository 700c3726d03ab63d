//! Azure Blob Storage.

use batchwright::ItemError;
use opendal::services::Azblob;

use super::object_store::ObjectStore;
use super::url::PlaceUrl;

/// Returns a container: `az://ACCOUNT:KEY@CONTAINER/NAME`. Without a key, the credentials are those of the environment
/// (`AZURE_…`) and of the machine.
pub(super) fn container(url: &mut PlaceUrl) -> Result<ObjectStore, ItemError> {
    let Some((account, key)) = url.user()? else {
        return Err(url.wrong(&"it has no account: az://ACCOUNT@CONTAINER/NAME"));
    };
    let endpoint = url.option("endpoint");
    let endpoint = endpoint.unwrap_or_else(|| format!("https://{account}.blob.core.windows.net"));
    let mut service =
        Azblob::default().container(url.host()).endpoint(&endpoint).account_name(&account);
    if let Some(key) = key {
        service = service.account_key(&key);
    }
    ObjectStore::new(url, service)
}
