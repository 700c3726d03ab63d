//! What a fired trigger does.

pub(crate) mod amqp;
pub(crate) mod http;
pub(crate) mod job;
pub(crate) mod shell;

pub use job::JobStarter;

/// The end of what a runner said that is kept, in bytes.
const OUTPUT_MAX: usize = 4_096;

/// A URL as people may see it: where it leads, without what may be secret in it.
pub(crate) fn redacted(url: &str) -> String {
    match url.starts_with("amqp") {
        true => amqp::redacted(url),
        false => http::redacted(url),
    }
}

/// The last [`OUTPUT_MAX`] bytes of a text, whole characters; `None` when there is none.
fn tail(bytes: &[u8]) -> Option<String> {
    let from = bytes.len().saturating_sub(OUTPUT_MAX);
    let text = String::from_utf8_lossy(&bytes[from..]);
    let text = text.trim_start_matches('\u{fffd}').trim_end();
    (!text.is_empty()).then(|| text.replace('\0', "\u{2400}"))
}
