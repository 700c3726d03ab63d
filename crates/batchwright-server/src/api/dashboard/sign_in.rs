//! Signing in with a token, and signing out.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::super::access::Gate;
use super::super::base::Base;
use super::super::problem::Verbatim;
use super::super::session::set_cookie;
use super::super::{Api, Problem};
use super::form::Fields;
use super::view::plain_page;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    next: String,
}

/// Shows the form.
pub(super) async fn page(Extension(base): Extension<Base>, Query(asked): Query<Asked>) -> Response {
    plain_page(&base, "Sign in", &form(&base, &asked.next, None))
}

fn form(base: &Base, next: &str, problem: Option<&str>) -> Markup {
    html! {
        h1 { img src=(base.join("/assets/icon.svg")) alt="" width="28" height="28"; "Sign in to Batchwright" }
        @if let Some(problem) = problem {
            p.notice.bad role="alert" { (problem) }
        }
        form.stack method="post" action=(base.join("/sign-in")) {
            input type="hidden" name="next" value=(next);
            label for="token" { "Token" }
            input #token type="password" name="token" autocomplete="current-password" required autofocus;
            p.hint { "One of the tokens of " code { "http.tokens" } " in the configuration of the server." }
            button { "Sign in" }
        }
    }
}

/// Begins a session for the owner of a token.
pub(super) async fn sign_in(
    Extension(gate): Extension<Arc<Gate>>,
    Extension(base): Extension<Base>,
    State(api): State<Api>,
    request: Request,
) -> Result<Response, Problem> {
    let headers = request.headers().clone();
    let given = Fields::read(request, &api).await?;
    let next = given.text("next");
    let Some(token) = gate.rules.token(given.text("token").trim()) else {
        tracing::warn!("a sign-in with an unknown token was refused");
        let mut response =
            plain_page(&base, "Sign in", &form(&base, next, Some("This token is unknown.")));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response.extensions_mut().insert(Verbatim);
        return Ok(response);
    };
    let secret = gate.sessions.begin(&token.name, token.role);
    let cookie = set_cookie(&secret, &base.0, is_encrypted(&headers));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(inner(next))).into_response())
}

/// Returns `next` if it is a path of this server.
fn inner(next: &str) -> &str {
    let is_inner = next.starts_with('/')
        && !next.starts_with("//")
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_inner { next } else { "/" }
}

/// Whether the browser uses TLS, also to a proxy before this server: it sends the origin of its page with a form.
fn is_encrypted(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

/// Ends the session.
pub(super) async fn sign_out(
    Extension(gate): Extension<Arc<Gate>>,
    Extension(base): Extension<Base>,
    headers: HeaderMap,
    _: Fields,
) -> Result<Response, Problem> {
    gate.sessions.end(&headers);
    let cookie = set_cookie("", &base.0, is_encrypted(&headers));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/sign-in")).into_response())
}

#[cfg(test)]
mod tests {
    use super::inner;

    #[test]
    fn a_sign_in_leads_to_pages_of_this_server_only() {
        for (next, expected) in [
            ("/executions?q=job:a", "/executions?q=job:a"),
            ("", "/"),
            ("https://evil.example/", "/"),
            ("//evil.example/", "/"),
            ("/\\evil.example", "/"),
            ("/a\r\nset-cookie: x", "/"),
        ] {
            assert_eq!(inner(next), expected, "{next:?}");
        }
    }
}
