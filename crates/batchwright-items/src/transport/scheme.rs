//! The schemes of URLs, by which a path leads to another place.

/// Returns the scheme of `text` if it begins like a URL, `scheme://`. (A path of this machine could begin so, but none is
/// written so.)
pub(crate) fn scheme_of(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let mut bytes = scheme.bytes();
    let is_scheme = bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then_some(scheme)
}

/// Returns `value` as a part of a URL's path: all but letters, digits and a few marks is escaped.
pub(crate) fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '-' | '.' | '_' | '~' | '/' | ' ' => text.push(character),
            other if other.is_alphanumeric() => text.push(other),
            other => {
                for byte in other.encode_utf8(&mut [0; 4]).bytes() {
                    text.push_str(&format!("%{byte:02X}"));
                }
            }
        }
    }
    text
}

/// Returns the URL of `template`. A value within it is a part of one name, whatever characters it has; one at its beginning is the
/// beginning of the URL.
///
/// # Errors
///
/// A sentence when the text is no URL, or a value would lead to another folder.
#[cfg(any(feature = "http", feature = "mail", feature = "queue"))]
pub(crate) fn url_with_values(
    template: &crate::template::Template,
    scope: &batchwright::scope::StepScope,
) -> Result<url::Url, String> {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let text = template.render_with(scope, |before, value| match before {
        "" => value,
        _ => utf8_percent_encode(&value, NAME).to_string(),
    });
    let text = text.map_err(|error| error.to_string())?;
    let url = url::Url::parse(&text).map_err(|error| error.to_string())?;
    let rest = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    // Such names are left out, `..` together with the one before it.
    let is_left_out = |name: &str| {
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
        matches!(&*name, "." | "..")
    };
    match path.split('/').any(is_left_out) {
        true => Err("a value leads to another folder".to_owned()),
        false => Ok(url),
    }
}

/// The schemes of URLs, with the features that contain them.
const SCHEMES: [(&str, &str, bool); 10] = [
    ("s3", "s3", cfg!(feature = "s3")),
    ("gs", "gcs", cfg!(feature = "gcs")),
    ("az", "azure", cfg!(feature = "azure")),
    ("http", "http", cfg!(feature = "http")),
    ("https", "http", cfg!(feature = "http")),
    ("ftp", "ftp", cfg!(feature = "ftp")),
    ("ftps", "ftp", cfg!(feature = "ftp")),
    ("sftp", "sftp", cfg!(feature = "sftp")),
    ("webdav", "webdav", cfg!(feature = "webdav")),
    ("webdavs", "webdav", cfg!(feature = "webdav")),
];

/// Refuses a text that begins with the scheme of a URL that this program cannot use.
pub(crate) fn check_scheme(text: &str) -> Result<(), String> {
    match scheme_of(text) {
        Some(scheme) if !SCHEMES.iter().any(|(known, _, is_here)| *is_here && *known == scheme) => {
            Err(unknown(scheme))
        }
        _ => Ok(()),
    }
}

/// Returns the sentence about a scheme that this program cannot use.
pub(crate) fn unknown(scheme: &str) -> String {
    match SCHEMES.iter().find(|(known, ..)| *known == scheme) {
        Some((_, feature, _)) => format!(
            "cannot use a URL with `{scheme}://`: this program was built without the feature `{feature}`"
        ),
        None => format!(
            "cannot use a URL with `{scheme}://`: known are {}",
            SCHEMES.map(|(known, ..)| format!("`{known}://`")).join(", ")
        ),
    }
}

/// Returns the sentence about a URL where only a file of this machine can be.
pub(crate) fn not_local(scheme: &str) -> String {
    format!(
        "cannot use a URL with `{scheme}://` here: only readers, writers and steps of type `transfer` reach other places"
    )
}
