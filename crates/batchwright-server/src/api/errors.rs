//! The pages that explain the codes of problems, where `type` leads.

use axum::extract::Path;
use axum::http::header;
use axum::response::IntoResponse;
use include_dir::{Dir, include_dir};

use super::Problem;

static PAGES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/errors");

/// The page of `code`: Markdown, which is read as it is.
pub(super) async fn page(Path(code): Path<String>) -> Result<impl IntoResponse, Problem> {
    let page = text(&code).ok_or_else(|| Problem::not_found("there is no such code"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], page))
}

pub(super) fn text(code: &str) -> Option<&'static str> {
    let is_code = code.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    let page = PAGES.get_file(format!("{code}.md")).filter(|_| is_code);
    page.and_then(|file| file.contents_utf8())
}
