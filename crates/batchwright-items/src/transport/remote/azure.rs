//! Azure Blob Storage.

use batchwright::ItemError;
use opendal::services::Azblob;

use super::object_store::ObjectStore;
use super::url::PlaceUrl;

/// The variable that names the account of the other variables.
const ACCOUNT: &str = "AZURE_STORAGE_ACCOUNT_NAME";

/// Returns a container: `az://ACCOUNT:KEY@CONTAINER/NAME`. Without a key, the credentials are those of the environment
/// (`AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_SAS_TOKEN`) and of the machine.
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
    } else if let Ok(other) = std::env::var(ACCOUNT)
        && other != account
    {
        // The library would sign with them, and send a token to an account that is not its own.
        let what = format!("the environment has the credentials of another account ({ACCOUNT})");
        return Err(url.wrong(&what));
    } else if let Ok(key) = std::env::var("AZURE_STORAGE_ACCOUNT_KEY") {
        service = service.account_key(&key);
    } else if let Ok(token) = std::env::var("AZURE_STORAGE_SAS_TOKEN") {
        service = service.sas_token(&token);
    }
    ObjectStore::new(url, service)
}
