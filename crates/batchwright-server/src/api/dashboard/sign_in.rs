//! Signing in with a token, and signing out.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::super::access::Gate;
use super::super::base::Base;
use super::super::identity::{Departure, Person};
use super::super::oidc::SignInError;
use super::super::page::percent;
use super::super::problem::Verbatim;
use super::super::session::{cookie_named, set_cookie};
use super::super::{Api, Problem};
use super::form::Fields;
use super::view::plain_page;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    next: String,
}

/// Shows the form.
pub(super) async fn page(
    Extension(gate): Extension<Arc<Gate>>,
    Extension(base): Extension<Base>,
    Query(asked): Query<Asked>,
) -> Response {
    plain_page(&base, "Sign in", &form(&gate, &base, &asked.next, None))
}

fn form(gate: &Gate, base: &Base, next: &str, problem: Option<&str>) -> Markup {
    let way = base.join(&format!("/sign-in/oidc?next={}", percent(next)));
    html! {
        h1 { img src=(base.join("/assets/icon.svg")) alt="" width="28" height="28"; "Sign in to Batchwright" }
        @if let Some(problem) = problem {
            p.notice.bad role="alert" { (problem) }
        }
        @if gate.oidc.is_some() {
            p { a.button.wide href=(way) { "Sign in with your account" } }
        }
        @if gate.oidc.is_none() || !gate.rules.tokens.is_empty() { form.stack method="post" action=(base.join("/sign-in")) {
            input type="hidden" name="next" value=(next);
            label for="token" { "Token" }
            input #token type="password" name="token" autocomplete="current-password" required autofocus;
            p.hint { "One of the tokens of " code { "http.tokens" } " in the configuration of the server." }
            button { "Sign in" }
        } }
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
            plain_page(&base, "Sign in", &form(&gate, &base, next, Some("This token is unknown.")));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response.extensions_mut().insert(Verbatim);
        return Ok(response);
    };
    let secret = gate.sessions.begin(&token.name, token.role);
    let cookie = set_cookie(&secret, &base.0, is_encrypted(&headers));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(inner(next))).into_response())
}

/// The cookie of a sign-in on its way to the provider and back.
const ON_THE_WAY: &str = "batchwright_sign_in";

/// Sends the browser to the provider.
pub(super) async fn by_provider(
    Extension(gate): Extension<Arc<Gate>>,
    Extension(base): Extension<Base>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let oidc = gate.oidc.as_ref().ok_or_else(no_provider)?;
    match oidc.begin(inner(&asked.next)).await {
        Ok(Departure { url, word }) => {
            let cookie = way_cookie(&base, &word, oidc.is_encrypted());
            Ok(([(header::SET_COOKIE, cookie)], Redirect::to(&url)).into_response())
        }
        Err(error) => Ok(failed(&gate, &base, &error)),
    }
}

/// Begins a session for the person whom the provider sends back.
pub(super) async fn back(
    Extension(gate): Extension<Arc<Gate>>,
    Extension(base): Extension<Base>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let oidc = gate.oidc.as_ref().ok_or_else(no_provider)?;
    let word = cookie_named(&headers, ON_THE_WAY).unwrap_or_default();
    let Person { name, role, next } = match oidc.end(word, &query).await {
        Ok(person) => person,
        Err(error) => return Ok(failed(&gate, &base, &error)),
    };
    tracing::info!(name, %role, "signed in by OpenID Connect");
    let secret = gate.sessions.begin(&name, role);
    let target = base.join(&next);
    // A redirect would belong to the page of the provider, and browsers send no strict cookie with it.
    let content = html! {
        meta http-equiv="refresh" content={"0;url=" (target)};
        p { "You are signed in. " a href=(target) { "Go on" } }
    };
    let mut response = plain_page(&base, "Signed in", &content);
    let cookies = [
        set_cookie(&secret, &base.0, oidc.is_encrypted()),
        way_cookie(&base, "", oidc.is_encrypted()),
    ];
    for cookie in cookies.iter().filter_map(|it| it.parse().ok()) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

fn no_provider() -> Problem {
    Problem::not_found("this server has no sign-in by OpenID Connect: `http.oidc` is not set")
}

fn failed(gate: &Gate, base: &Base, error: &SignInError) -> Response {
    let reason = batchwright::report(error);
    tracing::warn!(reason, "a sign-in by OpenID Connect failed");
    let problem = format!("The sign-in failed: {reason}.");
    let mut response = plain_page(base, "Sign in", &form(gate, base, "", Some(&problem)));
    *response.status_mut() = match error.is_of_provider() {
        true => StatusCode::BAD_GATEWAY,
        false => StatusCode::UNAUTHORIZED,
    };
    response.extensions_mut().insert(Verbatim);
    response
}

/// The cookie with the word of a sign-in. The provider's page leads back to this server, so it is not a strict one.
fn way_cookie(base: &Base, word: &str, is_encrypted: bool) -> String {
    let secure = if is_encrypted { "; Secure" } else { "" };
    let age = if word.is_empty() { 0 } else { 600 };
    let path = base.join("/sign-in");
    format!("{ON_THE_WAY}={word}; Path={path}; Max-Age={age}; HttpOnly; SameSite=Lax{secure}")
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
