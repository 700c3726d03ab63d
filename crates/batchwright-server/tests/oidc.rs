//! Sign-in by OpenID Connect, with a provider of PyPI, and with one that watches what it is sent.
#![cfg(feature = "oidc")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::clock::StopToken;
use batchwright::{JobOperator, MemoryRepository};
use batchwright_server::api::{AccessRules, Api, OidcSettings, Role};
use batchwright_server::reqwest::{self, Url};
use batchwright_server::{JobStarter, Secret};
use batchwright_testkit::process::{free_address, until};
use batchwright_testkit::{Service, needs};
use sha2::Digest as _;
use tower::Service as _;

fn app(issuer: &str) -> Router {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let oidc = OidcSettings {
        issuer: issuer.to_owned(),
        client_id: "batchwright".to_owned(),
        client_secret: Some(Secret::new("between us")),
        address: "https://localhost".to_owned(),
        scopes: vec!["profile".to_owned()],
        name_claim: "preferred_username".to_owned(),
        role_claim: "groups".to_owned(),
        roles: vec![("ops".to_owned(), Role::Operator)],
    };
    let rules = AccessRules { oidc: Some(oidc), ..AccessRules::default() };
    Api::new(JobStarter::new(operator), None, StopToken::default()).with_dashboard().guarded(rules)
}

/// An answer: status, where it leads, the cookies that it sets, and its text.
struct Answer {
    status: StatusCode,
    location: String,
    cookies: Vec<String>,
    body: String,
}

impl Answer {
    /// Returns the cookie `name` as a browser sends it.
    fn cookie(&self, name: &str) -> String {
        let found = self.cookies.iter().find(|it| it.starts_with(&format!("{name}=")));
        found
            .unwrap_or_else(|| panic!("{name}: {:?}", self.cookies))
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    }
}

async fn get(app: &Router, path: &str, cookie: &str) -> Answer {
    let request = Request::get(path)
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "text/html")
        .header(header::COOKIE, cookie);
    let response = app.clone().call(request.body(Body::empty()).unwrap()).await.unwrap();
    let all = |name| {
        response.headers().get_all(name).into_iter().map(|it| it.to_str().unwrap().to_owned())
    };
    let location = all(header::LOCATION).next().unwrap_or_default();
    let (status, cookies) = (response.status(), all(header::SET_COOKIE).collect());
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer { status, location, cookies, body: String::from_utf8_lossy(&body).into_owned() }
}

/// The provider of PyPI.
struct Provider {
    child: Child,
    issuer: String,
    http: reqwest::Client,
}

impl Provider {
    fn start() -> Option<Self> {
        let python = needs(Service::Tools)?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = free_address();
        let (host, port) = address.split_once(':').unwrap();
        let child = Command::new(python)
            .args(["-W", "ignore", "-m", "oidc_provider_mock", "--host", host, "--port", port])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the provider listens", || std::net::TcpStream::connect(&address).is_ok());
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Some(Self { child, issuer: format!("http://{address}"), http: http.build().unwrap() })
    }

    /// Sets the claims of `alice`.
    async fn set(&self, claims: &str) {
        let request = self.http.put(format!("{}/users/alice", self.issuer));
        let request = request.header("content-type", "application/json").body(claims.to_owned());
        assert!(request.send().await.unwrap().status().is_success());
    }

    /// Signs `alice` in on the page of the provider; returns where it leads, as a path of our server.
    async fn consent(&self, url: &str) -> String {
        let request = self.http.post(url).body("sub=alice");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.send().await.unwrap();
        let location = answer.headers()["location"].to_str().unwrap();
        location.strip_prefix("https://localhost").unwrap().to_owned()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_with_an_account_and_has_the_role_of_its_groups() {
    let Some(provider) = Provider::start() else { return };
    provider.set(r#"{"preferred_username": "alice", "groups": ["staff", "ops"]}"#).await;
    let app = app(&provider.issuer);
    let away = get(&app, "/jobs", "").await;
    assert_eq!(away.location, "/sign-in?next=%2Fjobs", "pages need a sign-in");
    let page = get(&app, &away.location, "").await;
    assert!(
        page.body.contains("/sign-in/oidc?next=%2Fjobs")
            && !page.body.contains("type=\"password\"")
    );
    let begun = get(&app, "/sign-in/oidc?next=%2Fjobs", "").await;
    for part in ["HttpOnly", "SameSite=Lax", "Secure", "Path=/sign-in", "Max-Age=600"] {
        assert!(begun.cookies[0].contains(part), "{:?}", begun.cookies);
    }
    let (way, back) =
        (begun.cookie("batchwright_sign_in"), provider.consent(&begun.location).await);
    let done = get(&app, &back, &way).await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.body);
    assert!(done.body.contains("0;url=/jobs"), "{}", done.body);
    let session = done.cookie("batchwright_session");
    assert!(done.cookies[0].contains("SameSite=Strict") && done.cookies[0].contains("Secure"));
    let jobs = get(&app, "/jobs", &session).await;
    assert!(jobs.status == StatusCode::OK && jobs.body.contains("alice"), "{}", jobs.body);
    // An answer of the provider is worth something once.
    let again = get(&app, &back, &way).await;
    assert_eq!((again.status, again.cookies.len()), (StatusCode::UNAUTHORIZED, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_is_not_for_this_sign_in_is_refused() {
    let Some(provider) = Provider::start() else { return };
    let app = app(&provider.issuer);
    for (claims, reason) in [
        (r#"{"groups": ["guests"]}"#, "has none of the groups"),
        (r#"{"groups": ["ops"], "iss": "https://evil.example"}"#, "cannot be accepted"),
        (r#"{"groups": ["ops"], "aud": ["another"]}"#, "cannot be accepted"),
        (r#"{"groups": ["ops"], "nonce": "another"}"#, "cannot be accepted"),
        (r#"{"groups": ["ops"], "exp": 1}"#, "cannot be accepted"),
    ] {
        provider.set(claims).await;
        let begun = get(&app, "/sign-in/oidc", "").await;
        let back = provider.consent(&begun.location).await;
        let done = get(&app, &back, &begun.cookie("batchwright_sign_in")).await;
        assert_eq!(done.status, StatusCode::UNAUTHORIZED, "{claims}");
        assert!(done.body.contains(reason) && done.cookies.is_empty(), "{claims}: {}", done.body);
    }
    provider.set(r#"{"groups": ["ops"]}"#).await;
    let begun = get(&app, "/sign-in/oidc?next=//evil.example", "").await;
    let way = begun.cookie("batchwright_sign_in");
    let back = provider.consent(&begun.location).await;
    // The browser of another person, or one without a sign-in.
    for cookie in ["", "batchwright_sign_in=x"] {
        assert_eq!(get(&app, &back, cookie).await.status, StatusCode::UNAUTHORIZED, "{cookie}");
    }
    let done = get(&app, &back, &way).await;
    assert!(done.status == StatusCode::OK && done.body.contains("0;url=/\""), "{}", done.body);
    // With a state of another sign-in, and after a refusal.
    for query in ["code=x&state=x", "error=access_denied&error_description=%3Cscript%3E"] {
        let begun = get(&app, "/sign-in/oidc", "").await;
        let path = format!("/sign-in/oidc/back?{query}");
        let done = get(&app, &path, &begun.cookie("batchwright_sign_in")).await;
        assert_eq!(done.status, StatusCode::UNAUTHORIZED, "{query}");
        assert!(!done.body.contains("<script>"), "{}", done.body);
    }
}

/// Serves `/token` by sending the body of its requests to the returned receiver, and refusing them.
fn watching() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    let base = issuer.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut line) = (String::new(), String::new());
            while stream.read_line(&mut line).unwrap() > 2 {
                head.push_str(&std::mem::take(&mut line));
            }
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ");
            let length = length.map_or(0, |(_, it)| it.lines().next().unwrap().parse().unwrap());
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let (status, answer) = match head.split(' ').nth(1).unwrap() {
                "/token" => {
                    sender.send(String::from_utf8(body).unwrap()).unwrap();
                    (400, r#"{"error":"invalid_grant"}"#.to_owned())
                }
                "/jwks" => (200, r#"{"keys":[]}"#.to_owned()),
                _ => {
                    let text = r#"{"issuer":"BASE","authorization_endpoint":"BASE/auth","token_endpoint":"BASE/token",
                        "jwks_uri":"BASE/jwks","response_types_supported":["code"],"subject_types_supported":["public"],
                        "id_token_signing_alg_values_supported":["RS256"]}"#;
                    (200, text.replace("BASE", &base))
                }
            };
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close"
            );
            let text = format!("{head}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            stream.get_mut().write_all(text.as_bytes()).unwrap();
        }
    });
    (issuer, received)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_is_given_back_with_the_proof_that_this_server_asked_for_it() {
    let (issuer, tokens) = watching();
    let app = app(&issuer);
    let begun = get(&app, "/sign-in/oidc", "").await;
    let url: Url = begun.location.parse().unwrap();
    let sent =
        |name: &str| url.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned();
    assert_eq!((&*sent("response_type"), &*sent("code_challenge_method")), ("code", "S256"));
    assert_eq!(sent("redirect_uri"), "https://localhost/sign-in/oidc/back");
    let path = format!("/sign-in/oidc/back?code=the-code&state={}", sent("state"));
    let way = begun.cookie("batchwright_sign_in");
    // What the browser keeps is signed.
    let cut = way.split('.').next().unwrap().to_owned();
    for forged in [way.replace('.', "A."), format!("{way}A"), cut] {
        let refused = get(&app, &path, &forged).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{forged}");
    }
    let done = get(&app, &path, &way).await;
    assert_eq!(done.status, StatusCode::UNAUTHORIZED, "{}", done.body);
    let body = tokens.recv().unwrap();
    let form: Url = format!("http://x/?{body}").parse().unwrap();
    let form =
        |name: &str| form.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned();
    assert_eq!(form("code"), "the-code");
    let hash = URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(form("code_verifier")));
    assert_eq!(hash, sent("code_challenge"));
    assert!(!body.contains("between"), "the secret goes into the header: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_is_named_and_lets_no_person_in() {
    let issuer = format!("http://{}", free_address());
    let answer = get(&app(&issuer), "/sign-in/oidc", "").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(
        answer.body.contains(&issuer) && answer.body.contains("cannot be used"),
        "{}",
        answer.body
    );
    assert!(answer.cookies.is_empty() && !answer.body.contains("between us"));
}
