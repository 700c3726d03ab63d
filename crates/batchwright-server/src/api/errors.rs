//! The pages that explain the error codes; the `type` of a problem links to them.

use axum::extract::Path;
use axum::http::header;
use axum::response::IntoResponse;
use include_dir::{Dir, include_dir};

use super::Problem;

static PAGES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/errors");

/// Returns the page of `code` as plain Markdown.
pub(super) async fn page(Path(code): Path<String>) -> Result<impl IntoResponse, Problem> {
    let page = text(&code).ok_or_else(|| Problem::not_found("this error code does not exist"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], page))
}

pub(super) fn text(code: &str) -> Option<&'static str> {
    let is_code = code.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    let page = PAGES.get_file(format!("{code}.md")).filter(|_| is_code);
    page.and_then(|file| file.contents_utf8())
}
