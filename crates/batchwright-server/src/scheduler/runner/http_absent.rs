//! The HTTP runner of a program that was built without it.

use batchwright::parameters::MASK;

use crate::scheduler::dispatch::{Shared, Stop};
use crate::scheduler::group::Firing;
use crate::scheduler::rule::Secret;
use crate::scheduler::trigger::Outcome;

const ABSENT: &str = "this program was built without webhooks; enable the feature `http`";

/// The client of webhooks.
#[derive(Clone)]
pub(crate) struct Client;

pub(crate) fn client() -> Result<Client, String> {
    Ok(Client)
}

pub(crate) fn check_url(_: &str) -> Result<(), String> {
    Err(ABSENT.to_owned())
}

pub(crate) fn redacted(_: &str) -> String {
    MASK.to_owned()
}

pub(crate) fn host(_: &str) -> String {
    String::new()
}

/// Fails the trigger of a rule that a program with webhooks has stored.
pub(crate) async fn call(
    _: &Shared,
    _: &Firing,
    _: &Secret,
    _: Option<&Secret>,
    _: impl Future<Output = Stop>,
) -> Outcome {
    Outcome::failed(ABSENT.to_owned(), true)
}
