//! Sign-in of people by OpenID Connect: authorization code with PKCE. Source: OpenID Connect Core 1.0, section 3.1; RFC 7636.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::clock::Clock;
use batchwright::report;
use hmac::{Hmac, KeyInit as _, Mac as _};
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreJwsSigningAlgorithm as Alg, CoreProviderMetadata,
};
use openidconnect::{
    AsyncHttpClient, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret, CsrfToken,
    EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope,
    SignatureVerificationError, TokenResponse,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::OidcSettings;
use super::identity::{BACK, Departure, Person};
use super::session::random_word;

/// How long a sign-in may take.
const SIGN_IN_TIME: Duration = Duration::from_secs(10 * 60);
/// How long a provider that did not answer is not asked again: while an older answer is known, and before the first one.
const FAILED_TIME: Duration = Duration::from_secs(30);
const FAILED_FIRST: Duration = Duration::from_secs(5);
/// Longest page to show after the sign-in, in bytes: a cookie is small.
const NEXT_MAX: usize = 1_000;
/// How long the description of the provider is used.
const DESCRIPTION_TIME: Duration = Duration::from_secs(60 * 60);
/// After an unknown key, how old a description must be to be read again.
const DESCRIPTION_MIN: Duration = Duration::from_secs(60);
/// Most bytes of an answer of the provider.
const ANSWER_MAX: usize = 1024 * 1024;
/// Time-out of a request to the provider.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How far the clocks of the provider and of this machine may differ.
const SKEW: Duration = Duration::from_secs(60);
/// The accepted signatures: those with a public key.
const ALGORITHMS: [Alg; 9] = [
    Alg::RsaSsaPkcs1V15Sha256,
    Alg::RsaSsaPkcs1V15Sha384,
    Alg::RsaSsaPkcs1V15Sha512,
    Alg::RsaSsaPssSha256,
    Alg::RsaSsaPssSha384,
    Alg::RsaSsaPssSha512,
    Alg::EcdsaP256Sha256,
    Alg::EcdsaP384Sha384,
    Alg::EdDsa,
];

type Client = CoreClient<
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// The sign-ins by one provider.
pub(super) struct Oidc {
    settings: OidcSettings,
    redirect: RedirectUrl,
    http: Http,
    clock: Arc<dyn Clock>,
    /// What the provider says about itself, and when that was read.
    description: Mutex<Description>,
    /// Signs what browsers keep.
    key: String,
}

/// What is known about the provider.
#[derive(Default)]
struct Description {
    read: Option<(Duration, CoreProviderMetadata)>,
    /// When it did not answer, and why.
    failed: Option<(Duration, String)>,
}

/// A sign-in between the way to the provider and the way back. The browser keeps it, signed, so that sign-ins that are begun and
/// never ended cost this server nothing. The provider takes each code once.
#[derive(Serialize, Deserialize)]
struct Pending {
    state: String,
    nonce: String,
    verifier: String,
    next: String,
    /// By the monotonic clock of this process, in milliseconds.
    ends_at: u128,
}

/// Why a sign-in failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignInError {
    #[error("the provider `{issuer}` cannot be used: {reason}")]
    Provider { issuer: String, reason: String },
    #[error(
        "the sign-in was not begun in this browser, or took longer than ten minutes; begin again"
    )]
    Unknown,
    #[error("the provider refused the sign-in: {0}")]
    Refused(String),
    #[error("the provider's proof cannot be accepted: {0}")]
    Proof(String),
    #[error("`{name}` has none of the groups that may use this server")]
    NoRole { name: String },
}

impl SignInError {
    /// Whether the provider, and not the person, is the reason.
    pub(super) fn is_of_provider(&self) -> bool {
        matches!(self, Self::Provider { .. })
    }
}

impl Oidc {
    /// # Errors
    ///
    /// A sentence about the settings.
    pub(super) fn new(settings: OidcSettings, clock: Arc<dyn Clock>) -> Result<Self, String> {
        IssuerUrl::new(settings.issuer.clone())
            .map_err(|error| format!("http.oidc.issuer is no URL: {error}"))?;
        let redirect = format!("{}{BACK}", settings.address.trim_end_matches('/'));
        let redirect = RedirectUrl::new(redirect)
            .map_err(|error| format!("http.oidc.address is no URL: {error}"))?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                format!("cannot create the HTTP client: {}", batchwright::report(&error))
            })?;
        let (description, key) = (Mutex::default(), random_word());
        Ok(Self { settings, redirect, http: Http(client), clock, description, key })
    }

    /// Whether browsers reach this server by HTTPS.
    pub(super) fn is_encrypted(&self) -> bool {
        self.settings.address.starts_with("https://")
    }

    /// Begins a sign-in that leads to the page `next`.
    pub(super) async fn begin(&self, next: &str) -> Result<Departure, SignInError> {
        let client = self.client(Duration::MAX).await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = CoreAuthenticationFlow::AuthorizationCode;
        let scopes = self.settings.scopes.iter().cloned().map(Scope::new);
        let (url, state, nonce) = client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .add_scopes(scopes)
            .set_pkce_challenge(challenge)
            .url();
        let one = Pending {
            state: state.into_secret(),
            nonce: nonce.into_secret(),
            verifier: verifier.into_secret(),
            next: if next.len() > NEXT_MAX { "/".to_owned() } else { next.to_owned() },
            ends_at: (self.clock.elapsed() + SIGN_IN_TIME).as_millis(),
        };
        let text = serde_json::to_vec(&one).map_err(|error| self.failed(error.to_string()))?;
        let text = URL_SAFE_NO_PAD.encode(text);
        Ok(Departure { url: url.to_string(), word: format!("{text}.{}", self.signed(&text)) })
    }

    /// Returns the signature of what a browser keeps.
    fn signed(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(signature(self.key.as_bytes(), text.as_bytes()))
    }

    /// Returns the sign-in that the browser has kept.
    fn kept(&self, word: &str) -> Option<Pending> {
        let (text, given) = word.split_once('.')?;
        if !bool::from(self.signed(text).as_bytes().ct_eq(given.as_bytes())) {
            return None;
        }
        let one: Pending = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        (one.ends_at > self.clock.elapsed().as_millis()).then_some(one)
    }

    /// Ends the sign-in of the browser that brings `word`, with the `query` that the provider has sent with it. Each sign-in ends
    /// once.
    pub(super) async fn end(
        &self,
        word: &str,
        query: &BTreeMap<String, String>,
    ) -> Result<Person, SignInError> {
        let one = self.kept(word).ok_or(SignInError::Unknown)?;
        let given = |name: &str| query.get(name).map_or("", String::as_str);
        // A refusal need not have the state; the browser has the word of this sign-in.
        if !given("error").is_empty() {
            let reason = batchwright::text::shown(given("error")).into_owned();
            return Err(SignInError::Refused(reason.chars().take(200).collect()));
        }
        if !bool::from(given("state").as_bytes().ct_eq(one.state.as_bytes())) {
            return Err(SignInError::Unknown);
        }
        let client = self.client(Duration::MAX).await?;
        let failed = |error: &dyn std::error::Error| self.failed(report(error));
        let answer = client
            .exchange_code(AuthorizationCode::new(given("code").to_owned()))
            .map_err(|error| failed(&error))?
            .set_pkce_verifier(PkceCodeVerifier::new(one.verifier))
            .request_async(&self.http)
            .await
            .map_err(|error| match &error {
                RequestTokenError::ServerResponse(answer) => {
                    SignInError::Refused(answer.error().as_ref().to_owned())
                }
                error => failed(error),
            })?;
        let token = answer.id_token();
        let token = token.ok_or_else(|| SignInError::Proof("there is no ID token".to_owned()))?;
        let nonce = Nonce::new(one.nonce);
        match self.verify(&client, token, &nonce) {
            // The provider has new keys.
            Err(ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey,
            )) => {
                let client = self.client(DESCRIPTION_MIN).await?;
                self.verify(&client, token, &nonce)
            }
            verified => verified,
        }
        .map_err(|error| SignInError::Proof(report(&error)))?;
        // The text is what the signature is of.
        let payload =
            token.to_string().split('.').nth(1).and_then(|it| URL_SAFE_NO_PAD.decode(it).ok());
        let claims = payload.and_then(|it| serde_json::from_slice::<Value>(&it).ok());
        let claims = claims.ok_or_else(|| SignInError::Proof("it has no claims".to_owned()))?;
        let name = self.settings.name_of(&claims);
        match self.settings.role_of(&claims) {
            Some(role) => Ok(Person { name, role, next: one.next }),
            None => Err(SignInError::NoRole { name }),
        }
    }

    fn verify(
        &self,
        client: &Client,
        token: &openidconnect::core::CoreIdToken,
        nonce: &Nonce,
    ) -> Result<(), ClaimsVerificationError> {
        let now = SystemTime::from(self.clock.now());
        let verifier = client
            .id_token_verifier()
            .set_allowed_algs(ALGORITHMS)
            .set_time_fn(move || (now - SKEW).into())
            .set_issue_time_verifier_fn(move |issued| {
                match SystemTime::from(issued) <= now + SKEW {
                    true => Ok(()),
                    false => Err("it was issued in the future".to_owned()),
                }
            });
        token.claims(&verifier, nonce).map(drop)
    }

    /// Returns a client for the provider, whose description may have the age `age_max`.
    async fn client(&self, age_max: Duration) -> Result<Client, SignInError> {
        let metadata = self.description(age_max).await?;
        let id = ClientId::new(self.settings.client_id.clone());
        let secret = self.settings.client_secret.as_ref().map(|it| it.expose().to_owned());
        Ok(CoreClient::from_provider_metadata(metadata, id, secret.map(ClientSecret::new))
            .set_redirect_uri(self.redirect.clone()))
    }

    /// Returns what the provider says about itself. While it does not answer, an older answer counts.
    async fn description(&self, age_max: Duration) -> Result<CoreProviderMetadata, SignInError> {
        let now = self.clock.elapsed();
        {
            let mut known = self.known();
            let old = known.read.clone();
            if let Some((read, metadata)) = &old
                && now.saturating_sub(*read) < age_max.min(DESCRIPTION_TIME)
            {
                return Ok(metadata.clone());
            }
            let hold = if old.is_some() { FAILED_TIME } else { FAILED_FIRST };
            if let Some((at, reason)) = &known.failed
                && now.saturating_sub(*at) < hold
            {
                let failed = || self.failed(reason.clone());
                return old.map(|(_, metadata)| metadata).ok_or_else(failed);
            }
            // Meanwhile the others use the old one.
            if old.is_some() {
                known.failed = Some((now, "it is being asked".to_owned()));
            }
        }
        let issuer = IssuerUrl::new(self.settings.issuer.clone());
        let issuer = issuer.map_err(|error| self.failed(error.to_string()))?;
        let read = CoreProviderMetadata::discover_async(issuer, &self.http).await;
        let mut known = self.known();
        let now = self.clock.elapsed();
        match read {
            Ok(metadata) => {
                *known = Description { read: Some((now, metadata.clone())), failed: None };
                Ok(metadata)
            }
            Err(error) => {
                let reason = report(&error);
                known.failed = Some((now, reason.clone()));
                let old = known.read.as_ref().map(|(_, metadata)| metadata.clone());
                old.ok_or_else(|| self.failed(reason))
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Description> {
        self.description.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, reason: String) -> SignInError {
        SignInError::Provider { issuer: self.settings.issuer.clone(), reason }
    }
}

fn signature(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length is allowed");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// The client of the provider. It follows no redirect and reads no endless answer.
struct Http(reqwest::Client);

#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the answer is longer than 1 MiB")]
    TooLong,
}

impl Http {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut answer = self.0.execute(reqwest::Request::try_from(request)?).await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(HttpError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = HttpResponse::new(body);
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}
