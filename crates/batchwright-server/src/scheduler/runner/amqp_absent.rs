//! The AMQP runner of a program that was built without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use batchwright::parameters::MASK;
use tokio::sync::mpsc;

use crate::scheduler::dispatch::Shared;
use crate::scheduler::group::Firing;
use crate::scheduler::trigger::Outcome;

const ABSENT: &str = "this program was built without AMQP; enable the feature `amqp`";

pub(crate) fn check_dsn(_: &str) -> Result<(), String> {
    Err(ABSENT.to_owned())
}

pub(crate) fn redacted(_: &str) -> String {
    MASK.to_owned()
}

/// Fails the triggers of rules that a program with AMQP has stored.
pub(crate) async fn publish_all(
    shared: Arc<Shared>,
    _: String,
    mut work: mpsc::UnboundedReceiver<Firing>,
    waiting: Arc<AtomicUsize>,
) {
    while let Some(firing) = work.recv().await {
        waiting.fetch_sub(1, Ordering::Relaxed);
        shared.report(vec![(firing, Outcome::failed(ABSENT.to_owned(), true))]);
    }
}
