//! Pages of lists: a limited number of entries, and a cursor for the next page.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::Problem;

/// Default number of entries of a page.
const LIMIT_DEFAULT: usize = 50;
/// Largest number of entries of a page.
const LIMIT_MAX: usize = 500;

/// A part of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Maximum number of entries of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500)]
    pub(super) limit: Option<usize>,
    /// The `next_cursor` of the previous page.
    pub(super) cursor: Option<String>,
}

pub(super) fn limit(given: Option<usize>) -> Result<usize, Problem> {
    match given {
        None => Ok(LIMIT_DEFAULT),
        Some(limit @ 1..=LIMIT_MAX) => Ok(limit),
        Some(_) => Err(Problem::invalid(format!("limit must be a number from 1 to {LIMIT_MAX}"))),
    }
}

/// Decodes a cursor: the position of the last entry of the previous page.
pub(super) fn cursor<T: DeserializeOwned>(given: Option<&str>) -> Result<Option<T>, Problem> {
    let Some(text) = given else { return Ok(None) };
    let wrong = || Problem::invalid("the cursor is not one that this server returned");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    serde_json::from_slice(&bytes).map(Some).map_err(|_| wrong())
}

/// Removes the extra entry that was requested, and returns the cursor after the last remaining one. `place`
/// returns the position of an entry in the list.
pub(super) fn cut<T, K: Serialize>(
    items: &mut Vec<T>,
    limit: usize,
    place: impl Fn(&T) -> K,
) -> Option<String> {
    let is_cut = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| is_cut)?;
    Some(cursor_of(&place(last)))
}

/// Returns the cursor after the entry at `place`.
pub(super) fn cursor_of(place: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(place).unwrap_or_default())
}

/// Returns a page of the list at `path` with a link to the next page. `asked` are the other query parameters.
pub(super) fn page<const N: usize>(
    list: &impl Serialize,
    path: &str,
    limit: usize,
    asked: [(&str, Option<String>); N],
    next_cursor: Option<&str>,
) -> Response {
    let body = Json(list).into_response();
    let Some(cursor) = next_cursor else { return body };
    let mut query = format!("limit={limit}&");
    for (name, value) in asked {
        if let Some(value) = value {
            query.push_str(&format!("{name}={}&", percent(&value)));
        }
    }
    let link = format!("<{path}?{query}cursor={cursor}>; rel=\"next\"");
    ([(header::LINK, link)], body).into_response()
}

/// Returns `text` percent-encoded for a query.
pub(super) fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
