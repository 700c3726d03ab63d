//! The signature of a message, by the convention of [Standard Webhooks](https://www.standardwebhooks.com).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Returns the signature of a message: `v1,` and the HMAC-SHA256 of `id.timestamp.body` as base64.
///
/// A secret with the prefix `whsec_` is base64 after it; any other is used as it is.
pub(crate) fn signature(secret: &str, id: &str, timestamp: i64, body: &str) -> String {
    let decoded = secret.strip_prefix("whsec_").and_then(|coded| BASE64.decode(coded).ok());
    let key = decoded.unwrap_or_else(|| secret.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC accepts a key of any length");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}
