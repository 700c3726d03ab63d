//! Lists come in pages: at most so many entries, and a cursor to where the next page begins.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::Problem;

/// Entries of a page when nothing is said.
const LIMIT_DEFAULT: usize = 50;
/// Entries of a page, at most.
const LIMIT_MAX: usize = 500;

/// Which part of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Entries of a page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500)]
    pub(super) limit: Option<usize>,
    /// Where the page begins, from the page before.
    pub(super) cursor: Option<String>,
}

pub(super) fn limit(given: Option<usize>) -> Result<usize, Problem> {
    match given {
        None => Ok(LIMIT_DEFAULT),
        Some(limit @ 1..=LIMIT_MAX) => Ok(limit),
        Some(_) => Err(Problem::invalid(format!("limit is a number from 1 to {LIMIT_MAX}"))),
    }
}

/// The last entry of the page before, from what a client was given for it.
pub(super) fn cursor<T: DeserializeOwned>(given: Option<&str>) -> Result<Option<T>, Problem> {
    let Some(text) = given else { return Ok(None) };
    let told = || Problem::invalid("this cursor was not given by this server");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| told())?;
    serde_json::from_slice(&bytes).map(Some).map_err(|_| told())
}

/// Cuts the one entry more off that was asked for, and gives the cursor behind the last one that stays. `place`
/// tells where an entry stands in the list.
pub(super) fn cut<T, K: Serialize>(
    items: &mut Vec<T>,
    limit: usize,
    place: impl Fn(&T) -> K,
) -> Option<String> {
    let is_cut = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| is_cut)?;
    Some(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&place(last)).unwrap_or_default()))
}

/// A page of the list at `path`, with the way to the next one. `asked` is what else was asked for, by name.
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

/// `text` as it may stand in a query.
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
