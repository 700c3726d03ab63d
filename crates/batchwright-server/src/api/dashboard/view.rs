//! What every page has: the request's caller and base, layout, links and forms.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use batchwright::JobOperator;
use batchwright::execution::ExecutionId;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

use super::super::access::{Caller, Role};
use super::super::base::Base;
use super::super::{Api, Problem, blocking, commanding};

/// What pages may load and do: nothing from elsewhere, no inline script or style, no frame around them.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// The headers of every page.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// The pages of the navigation.
const PAGES: [(&str, &str); 8] = [
    ("/", "Overview"),
    ("/executions", "Executions"),
    ("/jobs", "Jobs"),
    ("/schedule", "Schedule"),
    ("/progressive", "Progressive"),
    ("/workers", "Workers"),
    ("/audit", "Audit"),
    ("/system", "System"),
];

/// The request of a page.
#[derive(Clone)]
pub(super) struct View {
    pub(super) api: Api,
    pub(super) caller: Caller,
    pub(super) now: Timestamp,
    base: Base,
    path: String,
}

impl FromRequestParts<Api> for View {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Self::Rejection> {
        Ok(Self {
            api: api.clone(),
            caller: Caller::of(&parts.extensions),
            now: api.operator().clock().now(),
            base: parts.extensions.get::<Base>().cloned().unwrap_or_default(),
            path: parts.uri.path().to_owned(),
        })
    }
}

impl View {
    pub(super) fn operator(&self) -> &JobOperator {
        self.api.operator()
    }

    /// Returns who gives a command, as the store has it.
    pub(super) fn who(&self) -> String {
        self.caller.named_by("dashboard")
    }

    /// Stores a command that succeeded.
    pub(super) fn audit(&self, action: &str, subject: &str) {
        self.api.audit(&self.who(), action, subject, None);
    }

    pub(super) fn may(&self, role: Role) -> bool {
        self.caller.role >= role
    }

    /// Returns `path` as the browser sees it.
    pub(super) fn url(&self, path: &str) -> String {
        self.base.join(path)
    }

    /// Writes a page on a thread that may block on the store.
    pub(super) async fn write(
        self,
        page: impl FnOnce(&Self) -> Result<(String, Markup), Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        blocking(move || {
            let (title, content) = page(&self)?;
            Ok(self.layout(&title, &content))
        })
        .await
    }

    /// Gives a command on a thread that may block on the store, and shows the page whose path it returns.
    pub(super) async fn give(
        self,
        command: impl FnOnce(&Self) -> Result<String, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let path = commanding(move || command(&self)).await?;
        Ok(Redirect::to(&path).into_response())
    }

    /// Returns `content` as a page.
    pub(super) fn layout(&self, title: &str, content: &Markup) -> Response {
        let first = self.path.split('/').nth(1).unwrap_or_default();
        let first = match first {
            "compare" | "operations" => "executions",
            first => first,
        };
        let is_current = |path: &str| path.trim_start_matches('/') == first;
        let markup = document(
            &self.base,
            title,
            &html! {
                header.top {
                    a.brand href=(self.url("/")) { img src=(self.url("/assets/icon.svg")) alt="" width="22" height="22"; "Batchwright" }
                    nav aria-label="Main" {
                        @for (path, name) in PAGES {
                            a href=(self.url(path)) aria-current=[is_current(path).then_some("page")] { (name) }
                        }
                    }
                    div.who {
                        button.quiet type="button" data-palette="" hidden title="Go to a page or run a command (Ctrl-K)" { "Go to…" kbd { "Ctrl K" } }
                        button.quiet type="button" data-theme-switch="" hidden { "Theme" }
                        @if self.caller.form_key.is_some() {
                            span title=(format!("role {}", self.caller.role)) { (self.caller.name) }
                            (self.form("/sign-out", &html! { button.quiet { "Sign out" } }))
                        }
                    }
                }
                main #main tabindex="-1" { (content) }
            },
        );
        (HEADERS, Html(markup.into_string())).into_response()
    }

    /// Returns a link to an execution.
    pub(super) fn execution(&self, id: ExecutionId) -> Markup {
        html! { a href=(self.url(&format!("/executions/{id}"))) { (id) } }
    }

    /// Returns a form that sends its fields to `path`.
    pub(super) fn form(&self, path: &str, fields: &Markup) -> Markup {
        html! {
            form method="post" action=(self.url(path)) {
                (self.form_key())
                (fields)
            }
        }
    }

    /// Returns the hidden field without which a form is refused.
    pub(super) fn form_key(&self) -> Markup {
        html! { input type="hidden" name="form_key" value=(self.api.form_key_of(&self.caller)); }
    }

    /// Returns a button that gives a command at once.
    pub(super) fn button(&self, path: &str, label: &str) -> Markup {
        self.form(path, &html! { button { (label) } })
    }

    /// Returns a button that gives a command after its question is answered; works without scripts.
    pub(super) fn asking(&self, path: &str, label: &str, question: &str, class: &str) -> Markup {
        html! {
            details.ask {
                summary.button.(class) { (label) "…" }
                div {
                    p { (question) }
                    (self.form(path, &html! { button.(class) { (label) } }))
                }
            }
        }
    }
}

fn document(base: &Base, title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Batchwright" }
                link rel="icon" href=(base.join("/assets/icon.svg"));
                link rel="stylesheet" href=(base.join("/assets/dashboard.css"));
                link rel="alternate" type="application/atom+xml" title="Failures" href=(base.join("/failures.atom"));
                script src=(base.join("/assets/dashboard.js")) defer {}
            }
            body data-base=(base.0) {
                a.skip-link href="#main" { "Skip to content" }
                (body)
            }
        }
    }
}

/// Returns a page without navigation.
pub(super) fn plain_page(base: &Base, title: &str, content: &Markup) -> Response {
    let markup = document(base, title, &html! { main #main.plain { (content) } });
    (HEADERS, Html(markup.into_string())).into_response()
}

/// Returns the page of an error, with those of `headers` that belong to it.
pub(super) fn problem_page(base: &Base, problem: &Problem, headers: &HeaderMap) -> Response {
    let content = html! {
        h1 { (problem.title()) }
        p { (problem.detail()) }
        @if !problem.errors().is_empty() {
            ul { @for error in problem.errors() { li { (error) } } }
        }
        p { a href=(base.join(&format!("/errors/{}", problem.code()))) { "About the error " code { (problem.code()) } } }
        p { a.button href=(base.join("/")) { "Overview" } }
    };
    let mut response = plain_page(base, problem.title(), &content);
    *response.status_mut() = StatusCode::from_u16(problem.status()).unwrap_or_default();
    for name in [header::RETRY_AFTER, header::ALLOW, header::WWW_AUTHENTICATE] {
        if let Some(value) = headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
