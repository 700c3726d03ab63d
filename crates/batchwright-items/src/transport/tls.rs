//! Trust in the certificates of servers.

use std::path::Path;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Returns the trust in the certificates of the PEM file at `path`, or of this machine.
pub(crate) fn trusted(path: Option<&Path>) -> Result<ClientConfig, ItemError> {
    let mut roots = RootCertStore::empty();
    match path {
        Some(path) => {
            let failed = |error: Failure| {
                let what = format!("cannot read the certificates of `{}`", path.display());
                ItemError::wrap(ErrorKind::IO, what, error)
            };
            for one in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))? {
                roots
                    .add(one.map_err(|error| failed(error.into()))?)
                    .map_err(|error| failed(error.into()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config =
        config.map_err(|error| ItemError::wrap(ErrorKind::FATAL, "cannot use TLS", error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
