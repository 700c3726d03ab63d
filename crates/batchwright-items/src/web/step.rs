//! The step that calls an API once, or until it answers what is expected.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::error::ErrorKind;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder};

use super::exchange::{Answer, Requests, find, is_read, text_of};
use super::writer::IDEMPOTENCY_KEY;
use crate::sent;
use crate::template::Template;

/// A call, as the job file describes it.
pub(super) struct Call {
    pub(super) requests: Requests,
    pub(super) method: Method,
    pub(super) body: Option<Template>,
    /// What the answer must have, by places.
    pub(super) expect: BTreeMap<String, Template>,
    /// The time between calls until the answer is as expected, and the time after which the step fails.
    pub(super) poll: Option<(Duration, Duration)>,
    /// What of the answer is kept in the step's context: places by names.
    pub(super) save: BTreeMap<String, String>,
}

impl Tasklet for Call {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        let exchange = self.requests.exchange(&scope)?;
        let body = self.body.as_ref().map(|body| body.render(&scope)).transpose()?;
        let expect: BTreeMap<&str, String> = self
            .expect
            .iter()
            .map(|(path, wanted)| Ok((path.as_str(), wanted.render(&scope)?)))
            .collect::<Result<_, ItemError>>()?;
        let key = sent::key(&[sent::identity(&scope).as_bytes()]);
        let complete = |request: RequestBuilder| {
            let request = match is_read(&self.method) {
                true => request,
                false => request.header(IDEMPOTENCY_KEY, format!("\"{key}\"")),
            };
            match &body {
                None => request,
                Some(body) => request.header(CONTENT_TYPE, "application/json").body(body.clone()),
            }
        };
        let clock = SystemClock::default();
        let begun = clock.elapsed();
        loop {
            let answer = exchange.send(&self.method, &exchange.url, false, &complete)?;
            let Some(misfit) = misfit(&answer, &expect) else {
                for (name, path) in &self.save {
                    let found = find(&answer.body, path)
                        .ok()
                        .flatten()
                        .filter(|value| value.get() != "null");
                    let found = found.ok_or_else(|| {
                        ItemError::new(
                            ErrorKind::new("http.answer"),
                            format!("cannot keep `{name}`: the answer has no `{path}`"),
                        )
                    })?;
                    let value: serde_json::Value = serde_json::from_str(found.get())?;
                    scope.context().put(name, &value)?;
                }
                return Ok(Flow::Finished);
            };
            let what = format!("the answer of {} {misfit}", exchange.shown(&exchange.url));
            match self.poll {
                Some((every, within)) if clock.elapsed() - begun + every <= within => {
                    exchange.wait(every)?;
                }
                Some((_, within)) => {
                    let what = format!("{what}, after {within:?}");
                    return Err(ItemError::new(ErrorKind::new("io.timeout"), what));
                }
                None => return Err(ItemError::new(ErrorKind::new("http.answer"), what)),
            }
        }
    }
}

/// Returns in which way the answer is not as expected.
fn misfit(answer: &Answer, expect: &BTreeMap<&str, String>) -> Option<String> {
    expect.iter().find_map(|(path, wanted)| {
        let found = find(&answer.body, path).ok().flatten().and_then(text_of);
        match found {
            Some(found) if found == *wanted => None,
            Some(found) => {
                let short: String = found.chars().take(80).collect();
                Some(format!("has `{path}` = `{short}` and not `{wanted}`"))
            }
            None => Some(format!("has no `{path}`")),
        }
    })
}
