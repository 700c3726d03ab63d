//! The runners: what a fired trigger calls.

#[cfg_attr(not(feature = "amqp"), path = "runner/amqp_absent.rs")]
pub(crate) mod amqp;
#[cfg_attr(not(feature = "http"), path = "runner/http_absent.rs")]
pub(crate) mod http;
pub(crate) mod job;
pub(crate) mod shell;
#[cfg(any(feature = "amqp", feature = "http"))]
pub(crate) mod signature;

pub use job::JobStarter;

/// Bytes of a runner's output that are kept, from its end.
const OUTPUT_MAX: usize = 4_096;

/// Returns a URL for display: its target, without the parts that may be secret.
pub(crate) fn redacted(url: &str) -> String {
    match url.starts_with("amqp") {
        true => amqp::redacted(url),
        false => http::redacted(url),
    }
}

/// Returns the last [`OUTPUT_MAX`] bytes of a text as whole characters; `None` when it is empty.
fn tail(bytes: &[u8]) -> Option<String> {
    let from = bytes.len().saturating_sub(OUTPUT_MAX);
    let text = String::from_utf8_lossy(&bytes[from..]);
    let text = text.trim_start_matches('\u{fffd}').trim_end();
    (!text.is_empty()).then(|| text.replace('\0', "\u{2400}"))
}
