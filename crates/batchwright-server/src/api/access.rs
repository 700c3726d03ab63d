//! Access control: tokens and roles, host names, and origins of pages.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::oidc::Oidc;
use super::rate::{Key, Rate};
use super::session::Sessions;
use super::{OidcSettings, Problem};

/// The role of a token; each role includes the previous ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May read.
    Viewer,
    /// May start, stop and drive executions, and plan triggers.
    Operator,
    /// May change rules, which run programs.
    Admin,
}

impl Role {
    /// Returns the role `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "viewer" => Some(Self::Viewer),
            "operator" => Some(Self::Operator),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// A bearer token, stored as its hash, with its role.
#[derive(Clone)]
pub struct Token {
    /// Name of the caller. Tokens with one name are one caller and share its `Idempotency-Key`s.
    pub name: String,
    /// The role of the caller.
    pub role: Role,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
}

impl Token {
    /// Creates the token `secret` of a caller. Only its hash is kept.
    pub fn of(name: impl Into<String>, role: Role, secret: &str) -> Self {
        Self { name: name.into(), role, sha256: Sha256::digest(secret).into() }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// The rules of access to the API.
#[derive(Debug, Clone)]
pub struct AccessRules {
    /// The accepted tokens; without any, and without OpenID Connect, every client that reaches the server may do everything.
    pub tokens: Vec<Token>,
    /// Host names of the server in addition to `localhost` and IP addresses.
    pub hosts: Vec<String>,
    /// Origins of other pages that may use the API, such as `https://example.org`.
    pub origins: Vec<String>,
    /// Maximum size of a body, in bytes.
    pub body_max: usize,
    /// Whether callers without a token may only read. Default: `false`, they may do everything.
    pub read_only: bool,
    /// Most requests of each caller in a second; further ones are refused (429). Default: no limit.
    pub rate: Option<NonZeroU32>,
    /// Sign-in of people by OpenID Connect.
    pub oidc: Option<OidcSettings>,
}

impl Default for AccessRules {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            hosts: Vec::new(),
            origins: Vec::new(),
            body_max: 1024 * 1024,
            read_only: false,
            rate: None,
            oidc: None,
        }
    }
}

/// The address from which a request comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// The rules of access, and the sessions of people who signed in.
pub(super) struct Gate {
    pub(super) rules: AccessRules,
    pub(super) sessions: Sessions,
    pub(super) rate: Option<Rate>,
    pub(super) oidc: Option<Oidc>,
}

/// Refuses requests that the rules do not allow.
pub(super) async fn check(
    State(gate): State<Arc<Gate>>,
    mut request: Request,
    next: Next,
) -> Response {
    let rules = &gate.rules;
    let origin = rules.named_origin(request.headers());
    // Any other OPTIONS needs a token like other requests.
    let is_preflight = request.method() == Method::OPTIONS
        && origin.is_some()
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let admitted = gate.admit(request.method(), request.uri(), request.headers(), is_preflight);
    let path = request.uri().path();
    // What needs no token and changes nothing is the same for everyone.
    let is_text = is_public(path) && path != "/v1/openapi.json" && !path.starts_with("/sign-in/");
    let is_free = is_preflight || request.method().is_safe() && is_text;
    let limited = gate.rate.as_ref().filter(|_| !is_free).map(|rate| {
        let name = admitted.as_ref().ok().map(|caller| caller.name.as_str());
        let name = name.filter(|name| !name.is_empty()).map(|name| Key::Name(name.to_owned()));
        let peer = request.extensions().get::<Peer>().map(|Peer(address)| *address);
        rate.take(name.unwrap_or_else(|| Key::of(peer)))
    });
    let mut response = match (admitted, limited.transpose()) {
        (_, Err(problem)) => problem.into_response(),
        // A browser sends the preflight without the page's token.
        (Ok(_), _) if is_preflight => preflight(),
        (Ok(caller), Ok(fields)) => {
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(Arc::clone(&gate));
            let mut response = next.run(request).await;
            response.headers_mut().extend(fields.unwrap_or_default());
            response
        }
        (Err(problem), Ok(fields)) => {
            let mut response = problem.into_response();
            response.headers_mut().extend(fields.unwrap_or_default());
            response
        }
    };
    let headers = response.headers_mut();
    if !rules.origins.is_empty() {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = "etag, location, link, ratelimit, ratelimit-policy, retry-after, idempotency-replayed, x-needs-batch, x-request-id";
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
    }
    response
}

/// Returns the answer to a preflight: the methods and headers that an allowed page may send.
fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, idempotency-key, if-match, if-none-match, last-event-id, prefer, traceparent, x-batch-owner, x-request-id",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The name of the token's caller; empty when no token is required.
    pub(super) name: String,
    pub(super) role: Role,
    /// The word that each form of a session sends back.
    pub(super) form_key: Option<Arc<str>>,
}

impl Caller {
    /// The caller of a server that needs no token, or of an application that decides itself about access.
    const ANYONE: Self = Self { name: String::new(), role: Role::Admin, form_key: None };

    /// A person who signed in.
    pub(super) fn signed_in(name: &str, role: Role, form_key: Arc<str>) -> Self {
        Self { name: name.to_owned(), role, form_key: Some(form_key) }
    }

    /// Returns the caller that [`check`] has found.
    pub(super) fn of(extensions: &axum::http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or(Self::ANYONE)
    }

    /// Returns the caller as the store has it: `api:nightly`.
    pub(super) fn named(&self) -> String {
        self.named_by("api")
    }

    /// Returns the caller as the store has it, with the kind of its program: `dashboard:maria`.
    pub(super) fn named_by(&self, kind: &str) -> String {
        match &*self.name {
            "" => kind.to_owned(),
            name => format!("{kind}:{name}"),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions))
    }
}

impl Gate {
    fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        is_preflight: bool,
    ) -> Result<Caller, Problem> {
        let rules = &self.rules;
        rules.check_length(headers)?;
        // Health checks reveal nothing about jobs, and load balancers send them without a host name.
        if !is_sign_of_life(uri.path()) {
            rules.check_host(uri, headers)?;
        }
        if let Err(problem) = rules.check_origin(method, headers) {
            tracing::warn!(
                origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()),
                %method,
                path = uri.path(),
                "a page of another origin was refused"
            );
            return Err(problem);
        }
        if is_preflight {
            return Ok(Caller::ANYONE);
        }
        if rules.is_open() || is_public(uri.path()) {
            let caller = self.sessions.caller(headers).unwrap_or(Caller::ANYONE);
            return match rules.read_only && rules.is_open() {
                true => allowed(Caller { role: Role::Viewer, ..caller }, method, uri.path()),
                false => Ok(caller),
            };
        }
        let caller = match headers.contains_key(header::AUTHORIZATION) {
            true => rules.caller_of_token(headers)?,
            false => self.caller_of_session(method, uri.path(), headers)?,
        };
        allowed(caller, method, uri.path())
    }

    /// Returns the caller of a session. A session is for pages: of the API it may read only, because the forms of the pages prove
    /// that a request comes from them, and requests to the API do not.
    fn caller_of_session(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Caller, Problem> {
        let caller = self.sessions.caller(headers).filter(|_| method.is_safe() || is_page(path));
        caller.ok_or_else(|| unauthorized("a token is required: `Authorization: Bearer TOKEN`"))
    }
}

/// Returns the caller if its role suffices.
fn allowed(caller: Caller, method: &Method, path: &str) -> Result<Caller, Problem> {
    let (needed, role) = (needed(method, path), caller.role);
    if role >= needed {
        return Ok(caller);
    }
    let detail = format!("the request requires the role {needed}; the caller has the role {role}");
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

impl AccessRules {
    /// Whether every client may do everything.
    pub(super) fn is_open(&self) -> bool {
        self.tokens.is_empty() && self.oidc.is_none()
    }

    /// Returns the origin of the requesting page, if it is one of the allowed ones.
    fn named_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let is_named = self.origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
        is_named.then(|| origin.clone())
    }

    /// Refuses a body whose announced length is too large, before it arrives.
    fn check_length(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        match length.and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length > self.body_max as u64 => Err(Problem::too_large()),
            _ => Ok(()),
        }
    }

    /// Refuses foreign host names, so that a page cannot reach this machine by resolving its own name to it
    /// (DNS rebinding).
    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let mut named = headers.get_all(header::HOST).iter();
        let host = named.next().and_then(|host| host.to_str().ok());
        let host = uri.authority().map(|authority| authority.as_str()).or(host);
        let refused =
            |detail: &str| Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", detail));
        let Some(host) = host else { return refused("the request has no host name") };
        if named.next().is_some() || !self.is_ours(host) {
            return refused(
                "the host name of the request is not one of this server's; `http.hosts` lists them",
            );
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = match host.parse::<SocketAddr>() {
            Ok(_) => return true,
            // An IPv6 address in brackets contains colons.
            Err(_) if host.ends_with(']') => host,
            Err(_) => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Refuses requests of foreign pages, which must not use a server that their reader can reach.
    fn check_origin(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        let refused = || {
            let detail =
                "pages of other origins are refused; `http.origins` lists the allowed origins";
            Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail))
        };
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        if let Some(origin) = text(header::ORIGIN) {
            let host = text(header::HOST).unwrap_or_default();
            let is_same = origin.split_once("://").is_some_and(|(_, own)| own == host);
            if !is_same && !self.origins.iter().any(|known| known == origin) {
                return refused();
            }
        } else if !method.is_safe()
            && let Some(site) = text(HeaderName::from_static("sec-fetch-site"))
            && !matches!(site, "same-origin" | "none")
        {
            return refused();
        }
        Ok(())
    }

    fn caller_of_token(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let word = given.and_then(|given| given.split_once(' '));
        let Some((_, token)) = word.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            return Err(unauthorized("a token is required: `Authorization: Bearer TOKEN`"));
        };
        let Some(token) = self.token(token.trim()) else {
            return Err(unauthorized("the token is unknown"));
        };
        Ok(Caller { name: token.name.clone(), role: token.role, form_key: None })
    }

    /// Finds a token in constant time: it compares every known hash completely.
    pub(super) fn token(&self, token: &str) -> Option<&Token> {
        let given: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for known in &self.tokens {
            if bool::from(known.sha256.ct_eq(&given)) {
                found = Some(known);
            }
        }
        found
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        .header(header::WWW_AUTHENTICATE, "Bearer".to_owned())
}

pub(super) fn is_sign_of_life(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Returns whether `path` needs no token: health checks, and pages that a browser loads before it can send a
/// token. None of them reveals anything about jobs.
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/docs" | "/v1/openapi.json" | "/sign-in")
        || path.starts_with("/sign-in/")
        || path.starts_with("/assets/")
        || path.starts_with("/errors/")
        || path == "/book"
        || path.starts_with("/book/")
}

/// Returns whether the request is `POST /v1/jobs/JOB/validate`; rules and triggers may be called `validate`,
/// too.
fn only_checks(method: &Method, path: &str) -> bool {
    let mut parts = path.strip_prefix("/v1/jobs/").unwrap_or_default().split('/');
    *method == Method::POST && parts.nth(1) == Some("validate") && parts.next().is_none()
}

/// Returns whether `path` is one of the dashboard, and not of the API.
pub(super) fn is_page(path: &str) -> bool {
    !path.starts_with("/v1/") && path != "/metrics" && !is_public(path)
}

fn needed(method: &Method, path: &str) -> Role {
    match () {
        () if method.is_safe() || only_checks(method, path) || path == "/sign-out" => Role::Viewer,
        () if path.starts_with("/v1/rules") || path.starts_with("/rules") => Role::Admin,
        () if path.starts_with("/executions/") && path.ends_with("/context") => Role::Admin,
        () => Role::Operator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(tokens: &[(&str, Role)]) -> Gate {
        let token = |(text, role): &(&str, Role)| Token {
            name: "t".to_owned(),
            role: *role,
            sha256: Sha256::digest(text).into(),
        };
        let tokens = tokens.iter().map(token).collect();
        let hosts = vec!["batch.example".to_owned()];
        let rules = AccessRules { tokens, hosts, ..AccessRules::default() };
        let clock = Arc::new(batchwright::clock::SystemClock::default());
        Gate { rules, sessions: Sessions::new(clock), rate: None, oidc: None }
    }

    fn code(rules: &Gate, method: &str, path: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        map.insert(header::HOST, "localhost:5680".parse().unwrap());
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        match rules.admit(&method, &path.parse().unwrap(), &map, false) {
            Ok(_) => "ok".to_owned(),
            Err(problem) => problem.code().to_owned(),
        }
    }

    #[test]
    fn only_names_of_ours_and_addresses_are_answered() {
        let rules = rules(&[]);
        for (host, expected) in [
            ("localhost", "ok"),
            ("LOCALHOST:80", "ok"),
            ("127.0.0.1:5680", "ok"),
            ("[::1]:5680", "ok"),
            ("[::1]", "ok"),
            ("batch.example:1", "ok"),
            ("evil.example", "wrong_host"),
            ("localhost.evil.example", "wrong_host"),
            ("127.0.0.1.evil.example:5680", "wrong_host"),
            ("", "wrong_host"),
        ] {
            assert_eq!(code(&rules, "GET", "/v1/jobs", &[("host", host)]), expected, "{host}");
        }
    }

    #[test]
    fn a_page_elsewhere_is_refused() {
        let rules = rules(&[]);
        for (headers, expected) in [
            (vec![("origin", "http://localhost:5680")], "ok"),
            (vec![("origin", "http://evil.example")], "foreign_origin"),
            (vec![("origin", "null")], "foreign_origin"),
            (vec![("sec-fetch-site", "cross-site")], "foreign_origin"),
            (vec![("sec-fetch-site", "same-site")], "foreign_origin"),
            (vec![("sec-fetch-site", "same-origin")], "ok"),
        ] {
            assert_eq!(code(&rules, "POST", "/v1/jobs/a/executions", &headers), expected);
        }
        assert_eq!(code(&rules, "GET", "/v1/jobs", &[("sec-fetch-site", "cross-site")]), "ok");
    }

    #[test]
    fn every_role_may_what_it_is_for_and_no_more() {
        let rules = rules(&[("v", Role::Viewer), ("o", Role::Operator), ("a", Role::Admin)]);
        for (token, method, path, expected) in [
            ("Bearer v", "GET", "/v1/jobs", "ok"),
            ("Bearer v", "POST", "/v1/executions/1/stop", "forbidden"),
            ("Bearer o", "POST", "/v1/executions/1/stop", "ok"),
            ("Bearer o", "PUT", "/v1/rules/r", "forbidden"),
            ("Bearer a", "PUT", "/v1/rules/r", "ok"),
            ("Bearer x", "GET", "/v1/jobs", "unauthorized"),
            ("Basic v", "GET", "/v1/jobs", "unauthorized"),
            ("Bearer ", "GET", "/v1/jobs", "unauthorized"),
        ] {
            let headers = [("authorization", token)];
            assert_eq!(code(&rules, method, path, &headers), expected, "{token} {method} {path}");
        }
        assert_eq!(code(&rules, "GET", "/v1/jobs", &[]), "unauthorized");
        assert_eq!(code(&rules, "GET", "/healthz", &[]), "ok");
    }

    #[test]
    fn a_session_is_for_pages_and_reads_the_api_only() {
        let rules = rules(&[("v", Role::Viewer)]);
        let cookie = |role| format!("batchwright_session={}", rules.sessions.begin("maria", role));
        let (viewer, operator) = (cookie(Role::Viewer), cookie(Role::Operator));
        for (cookie, method, path, expected) in [
            (&viewer, "GET", "/v1/jobs", "ok"),
            (&viewer, "GET", "/executions", "ok"),
            (&viewer, "POST", "/executions/1/stop", "forbidden"),
            (&viewer, "POST", "/sign-out", "ok"),
            (&operator, "POST", "/executions/1/stop", "ok"),
            (&operator, "POST", "/v1/executions/1/stop", "unauthorized"),
            (&operator, "POST", "/rules/r", "forbidden"),
        ] {
            assert_eq!(
                code(&rules, method, path, &[("cookie", cookie)]),
                expected,
                "{method} {path}"
            );
        }
        let headers = [("cookie", &*operator), ("authorization", "Bearer x")];
        assert_eq!(
            code(&rules, "GET", "/executions", &headers),
            "unauthorized",
            "the token counts"
        );
    }
}
