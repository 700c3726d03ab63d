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
    } else {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (key, token) =
            (variable("AZURE_STORAGE_ACCOUNT_KEY"), variable("AZURE_STORAGE_SAS_TOKEN"));
        if (key.is_some() || token.is_some())
            && variable(ACCOUNT).is_some_and(|other| other != account)
        {
            // The library would sign with them, and send a token to an account that is not its own.
            let what =
                format!("the environment has the credentials of another account ({ACCOUNT})");
            return Err(url.wrong(&what));
        }
        if let Some(key) = key {
            service = service.account_key(&key);
        } else if let Some(token) = token {
            service = service.sas_token(&token);
        }
    }
    ObjectStore::new(url, service)
}
