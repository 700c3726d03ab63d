//! The shell runner: calls `sh COMMAND IDENTIFIER` in a separate process group.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use batchwright::clock::SystemClock;
use batchwright::program::{Cause, Program};
use tokio::sync::oneshot;

use super::OUTPUT_MAX;
use crate::scheduler::dispatch::{Shared, Stop};
use crate::scheduler::group::Firing;
use crate::scheduler::time;
use crate::scheduler::trigger::Outcome;

/// Time between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// Most characters of the script's last line in the reason of a failure.
const LAST_LINE_MAX: usize = 200;

/// Runs the script. Its exit status decides, except that a timeout always is a failure. A trigger whose
/// script is ended with this server fires again, unless the script still succeeds.
pub(crate) async fn run(
    shared: &Shared,
    firing: &Firing,
    command: &str,
    stop: impl Future<Output = Stop>,
) -> Outcome {
    let failed = |reason: String| Outcome::failed(reason, true);
    let timeout = firing.rule.settings.timeout();
    let program = Program::new("sh")
        .args([command, &*firing.key.identifier])
        .env("BATCHWRIGHT_TRIGGER", &firing.key.identifier)
        .env("BATCHWRIGHT_SLOT", time::show_exact(firing.slot))
        .env("BATCHWRIGHT_ATTEMPT", firing.attempt.to_string())
        .env("TRACEPARENT", shared.trace(firing).to_string())
        .timeout(Some(timeout))
        .grace(TERM_GRACE)
        .output_max(OUTPUT_MAX);
    let asked = Arc::new(OnceLock::new());
    // The script ends when this future is dropped.
    let _ask_on_drop = AskOnDrop(Arc::clone(&asked));
    let (send, mut ended) = oneshot::channel();
    let requested = Arc::clone(&asked);
    // Not a thread of the runtime, because dropping the runtime would wait for the script.
    let started = std::thread::Builder::new().name("script".to_owned()).spawn(move || {
        let clock = SystemClock::default();
        let _ = send.send(program.run(&clock, || requested.get().copied(), |_| {}));
    });
    if let Err(error) = started {
        return failed(format!("cannot start a thread for `sh {command}`: {error}"));
    }
    let ended = tokio::select! {
        ended = &mut ended => ended,
        stop = stop => {
            let _ = asked.set(stop);
            ended.await
        }
    };
    let ended = match ended {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => return failed(error.to_string()),
        Err(_) => return failed(format!("the thread of `sh {command}` panicked")),
    };
    let status = match ended.output.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => {
            let line: String = line.trim().chars().take(LAST_LINE_MAX).collect();
            format!("{}: {}", ended.status_text(), batchwright::text::shown(&line))
        }
        None => ended.status_text(),
    };
    let output = Some(ended.output).filter(|output| !output.is_empty());
    let failure = |reason| Outcome::Failed {
        reason,
        output: output.clone(),
        retryable: true,
        not_before: None,
    };
    match ended.cause {
        Cause::Timeout => failure(format!("timed out after {}", time::show_duration(timeout))),
        Cause::Itself | Cause::Asked(Stop::Shutdown | Stop::Lost) if ended.status.success() => {
            Outcome::Executed(output)
        }
        Cause::Asked(Stop::Shutdown | Stop::Lost | Stop::No) => Outcome::Released,
        Cause::Itself | Cause::Asked(Stop::Replaced) => failure(status),
    }
}

struct AskOnDrop(Arc<OnceLock<Stop>>);

impl Drop for AskOnDrop {
    fn drop(&mut self) {
        let _ = self.0.set(Stop::Lost);
    }
}
