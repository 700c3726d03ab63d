//! In place of sign-in by OpenID Connect, in a build without the feature `oidc`.

use std::collections::BTreeMap;
use std::sync::Arc;

use batchwright::clock::Clock;

use super::OidcSettings;
use super::identity::{Departure, Person};

/// No value exists.
pub(super) enum Oidc {}

#[derive(Debug, thiserror::Error)]
pub(super) enum SignInError {}

impl SignInError {
    pub(super) fn is_of_provider(&self) -> bool {
        match *self {}
    }
}

impl Oidc {
    pub(super) fn new(_: OidcSettings, _: Arc<dyn Clock>) -> Result<Self, String> {
        Err("http.oidc: this program was built without the feature `oidc`".to_owned())
    }

    pub(super) fn is_encrypted(&self) -> bool {
        match *self {}
    }

    pub(super) async fn begin(&self, _: &str) -> Result<Departure, SignInError> {
        match *self {}
    }

    pub(super) async fn end(
        &self,
        _: &str,
        _: &BTreeMap<String, String>,
    ) -> Result<Person, SignInError> {
        match *self {}
    }
}
