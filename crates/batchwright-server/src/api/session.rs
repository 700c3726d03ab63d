//! Sessions of people: a cookie from a sign-in, in place of the token of a program.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use batchwright::clock::Clock;
use sha2::{Digest, Sha256};

use super::access::{Caller, Role};

/// Name of the cookie.
const COOKIE: &str = "batchwright_session";
/// How long a session lasts.
const SESSION_TIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Most sessions at once; a further one ends the oldest.
const SESSIONS_MAX: usize = 10_000;

/// The sessions of a server. They end with it.
pub(super) struct Sessions {
    clock: Arc<dyn Clock>,
    /// By the hash of the secret in the cookie.
    live: Mutex<HashMap<[u8; 32], Session>>,
}

#[derive(Debug, Clone)]
struct Session {
    caller: Caller,
    ends_at: Duration,
}

impl Sessions {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, live: Mutex::default() }
    }

    /// Begins a session, and returns the secret of its cookie. A sign-in never continues a session that exists, so that a cookie
    /// that another person has set is worth nothing.
    pub(super) fn begin(&self, name: &str, role: Role) -> String {
        let (secret, now) = (random_word(), self.clock.elapsed());
        let caller = Caller::signed_in(name, role, random_word().into());
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, session| session.ends_at > now);
        if live.len() >= SESSIONS_MAX
            && let Some(oldest) = live.iter().min_by_key(|(_, it)| it.ends_at).map(|(key, _)| *key)
        {
            live.remove(&oldest);
        }
        live.insert(
            Sha256::digest(&secret).into(),
            Session { caller, ends_at: now + SESSION_TIME },
        );
        secret
    }

    /// Returns who signed in with the cookie of `headers`.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let key: [u8; 32] = Sha256::digest(cookie(headers)?).into();
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let session = live.get(&key).filter(|session| session.ends_at > self.clock.elapsed())?;
        Some(session.caller.clone())
    }

    /// Ends the session of the cookie of `headers`.
    pub(super) fn end(&self, headers: &HeaderMap) {
        if let Some(secret) = cookie(headers) {
            let key: [u8; 32] = Sha256::digest(secret).into();
            self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }
}

/// Returns the secret of the session's cookie.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    cookie_named(headers, COOKIE)
}

/// Returns the value of the cookie `name`.
pub(super) fn cookie_named<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).into_iter();
    let mut pairs = cookies.filter_map(|value| value.to_str().ok()).flat_map(|it| it.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// Returns the header that stores `secret` in the browser for the pages under `path`; an empty secret removes it.
pub(super) fn set_cookie(secret: &str, path: &str, is_encrypted: bool) -> String {
    let path = if path.is_empty() { "/" } else { path };
    let secure = if is_encrypted { "; Secure" } else { "" };
    let age = if secret.is_empty() { "; Max-Age=0" } else { "" };
    format!("{COOKIE}={secret}; Path={path}; HttpOnly; SameSite=Strict{secure}{age}")
}

/// Returns 256 random bits as text.
pub(crate) fn random_word() -> String {
    let mut bytes = [0_u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        // The system's generator blocks until it is ready; it fails only on systems without it.
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the system has no random numbers: {error}"),
        }
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::clock::SystemClock;

    fn headers(cookies: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, cookies.parse().unwrap())])
    }

    #[test]
    fn a_session_is_known_by_its_cookie_until_it_ends() {
        let sessions = Sessions::new(Arc::new(SystemClock::default()));
        let (first, second) =
            (sessions.begin("maria", Role::Operator), sessions.begin("maria", Role::Viewer));
        assert!(first != second && first.len() == 43);
        let known = |cookies: &str| sessions.caller(&headers(cookies)).map(|it| (it.name, it.role));
        let cookie = format!("other=1; {COOKIE}={first}");
        assert_eq!(known(&cookie), Some(("maria".to_owned(), Role::Operator)));
        assert_eq!(known(&format!("{COOKIE}={second}")), Some(("maria".to_owned(), Role::Viewer)));
        for wrong in ["", "x", &first[1..], &format!("{first}x")] {
            assert_eq!(known(&format!("{COOKIE}={wrong}")), None, "{wrong}");
        }
        sessions.end(&headers(&cookie));
        assert_eq!(known(&cookie), None, "a cookie that is sent again after the sign-out");
    }
}
