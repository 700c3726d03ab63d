//! The limit of requests of each caller: so many in a second, in a burst or evenly. Algorithm: the generic cell rate algorithm
//! (ITU-T I.371); header fields: draft-ietf-httpapi-ratelimit-headers-10.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use batchwright::clock::Clock;

use super::Problem;

/// Most callers that are remembered; those whose limit is whole again are forgotten first, and further ones share one limit.
const CALLERS_MAX: usize = 10_000;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Those of a caller that is known by its token or its session.
    Name(String),
    /// Those of everyone else at an address, if that is known.
    Address(Option<IpAddr>),
}

/// Counts the requests of each caller.
pub(super) struct Rate {
    per_second: NonZeroU32,
    clock: Arc<dyn Clock>,
    /// When the limit of each caller is whole again.
    whole_at: Mutex<HashMap<Key, Duration>>,
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    /// Requests that are allowed now.
    requests: u32,
    /// How long until the limit is whole again, or, when the request is refused, until one is allowed.
    wait: Duration,
}

impl Key {
    /// Those who are not known, at `address`. A network of IPv6 has as many addresses as its owner likes, and is one.
    pub(super) fn of(address: Option<IpAddr>) -> Self {
        Self::Address(address.map(|address| match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(network.into())
            }
            address => address,
        }))
    }
}

impl Rate {
    pub(super) fn new(per_second: NonZeroU32, clock: Arc<dyn Clock>) -> Self {
        Self { per_second, clock, whole_at: Mutex::default() }
    }

    /// Counts a request of `caller`. Returns the header fields of the answer.
    ///
    /// # Errors
    ///
    /// The caller has used up its limit.
    pub(super) fn take(&self, mut caller: Key) -> Result<HeaderMap, Problem> {
        let now = self.clock.elapsed();
        let mut callers = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= CALLERS_MAX && !callers.contains_key(&caller) {
            callers.retain(|_, whole_at| *whole_at > now);
            if callers.len() >= CALLERS_MAX {
                caller = Key::Address(None);
            }
        }
        let whole_at = callers.get(&caller).copied().unwrap_or_default();
        match take(whole_at, now, self.per_second) {
            Ok((whole_at, left)) => {
                callers.insert(caller, whole_at);
                Ok(self.fields(left))
            }
            Err(left) => {
                let per_second = self.per_second;
                let detail = format!("more than {per_second} requests a second (`http.rate`)");
                let seconds = left.wait.as_secs_f64().ceil() as u64;
                let problem =
                    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail);
                let fields = self.fields(left);
                let problem = fields.iter().fold(problem, |problem, (name, value)| {
                    problem.header(name.clone(), value.to_str().unwrap_or_default().to_owned())
                });
                Err(problem.retry_after(seconds.max(1)))
            }
        }
    }

    fn fields(&self, left: Left) -> HeaderMap {
        let seconds = left.wait.as_secs_f64().ceil();
        let fields = [
            (POLICY, format!("\"caller\";q={};w=1", self.per_second)),
            (LEFT, format!("\"caller\";r={};t={seconds}", left.requests)),
        ];
        let value =
            |(name, text): (HeaderName, String)| Some((name, HeaderValue::from_str(&text).ok()?));
        fields.into_iter().filter_map(value).collect()
    }
}

/// Takes a request at `now` from a limit that is whole at `whole_at`: returns when it is whole then, and what is left.
fn take(
    whole_at: Duration,
    now: Duration,
    per_second: NonZeroU32,
) -> Result<(Duration, Left), Left> {
    let each = Duration::from_secs(1) / per_second.get();
    let burst = each * per_second.get();
    let next = whole_at.max(now) + each;
    let debt = next - now;
    if debt > burst {
        return Err(Left { requests: 0, wait: debt - burst });
    }
    let requests = (burst - debt).as_nanos() / each.as_nanos().max(1);
    Ok((next, Left { requests: u32::try_from(requests).unwrap_or(u32::MAX), wait: debt }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::testing::SimClock;

    #[test]
    fn a_caller_may_ask_so_often_in_a_second_and_not_more() {
        let clock = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        let rate = Rate::new(NonZeroU32::new(4).unwrap(), Arc::new(clock.clone()));
        let count = |caller: &Key| (0..10).filter(|_| rate.take(caller.clone()).is_ok()).count();
        let nightly = Key::Name("nightly".to_owned());
        assert_eq!(count(&nightly), 4);
        assert_eq!(count(&Key::Name("other".to_owned())), 4, "each has its own");
        for address in ["192.0.2.1", "192.0.2.2"] {
            assert_eq!(count(&Key::Address(address.parse().ok())), 4, "and each address");
        }
        clock.advance(Duration::from_millis(500));
        assert_eq!(count(&nightly), 2, "half of it is back");
        clock.advance(Duration::from_secs(3600));
        assert_eq!(count(&nightly), 4, "and never more than all of it");
    }

    #[test]
    fn a_network_of_ipv6_is_one_caller_and_an_address_of_ipv4_is_itself() {
        let key = |text: &str| Key::of(text.parse().ok());
        assert_eq!(key("2001:db8::1"), key("2001:db8::2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        // A listener for both kinds sees addresses of IPv4 within those of IPv6.
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("::ffff:192.0.2.1"), key("::ffff:192.0.2.2"));
    }

    #[test]
    fn very_many_callers_take_bounded_memory_and_none_is_without_a_limit() {
        let rate = Rate::new(NonZeroU32::MIN, Arc::new(SimClock::at(jiff::Timestamp::UNIX_EPOCH)));
        let take = |number: usize| rate.take(Key::Name(number.to_string())).is_ok();
        assert_eq!((0..CALLERS_MAX).filter(|number| take(*number)).count(), CALLERS_MAX);
        assert!(take(CALLERS_MAX) && !take(CALLERS_MAX + 1), "further ones share one");
        assert!(rate.whole_at.lock().unwrap().len() <= CALLERS_MAX + 1);
    }

    #[test]
    fn what_is_left_and_how_long_to_wait_is_in_the_answer() {
        let two = NonZeroU32::new(2).unwrap();
        let (whole_at, left) = take(Duration::ZERO, Duration::from_secs(9), two).unwrap();
        assert_eq!(left, Left { requests: 1, wait: Duration::from_millis(500) });
        let (whole_at, left) = take(whole_at, Duration::from_secs(9), two).unwrap();
        assert_eq!(left, Left { requests: 0, wait: Duration::from_secs(1) });
        let refused = take(whole_at, Duration::from_secs(9), two).unwrap_err();
        assert_eq!(refused, Left { requests: 0, wait: Duration::from_millis(500) });
    }
}
