//! `sh COMMAND IDENTIFIER`: a script, in a process group of its own.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use batchwright::SystemClock;
use batchwright::program::{Cause, Program};
use tokio::sync::oneshot;

use super::OUTPUT_MAX;
use crate::scheduler::dispatch::Stop;
use crate::scheduler::group::Firing;
use crate::scheduler::time;
use crate::scheduler::trigger::Outcome;

/// Time between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// Longest piece of a script's last line that its reason shows, in characters.
const LAST_LINE_MAX: usize = 200;

/// Runs the script. Its exit status decides, unless it was ended: after its time-out it failed, whatever it says. A
/// script that is ended with this server fires again, unless it came to a good end all the same.
pub(crate) async fn run(
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
        .timeout(Some(timeout))
        .grace(TERM_GRACE)
        .output_max(OUTPUT_MAX);
    let asked = Arc::new(OnceLock::new());
    // When nobody waits for it any more, the script ends too.
    let _unheard = AskOnDrop(Arc::clone(&asked));
    let (tell, mut ended) = oneshot::channel();
    let heard = Arc::clone(&asked);
    // Not a thread of the runtime: one that is dropped would wait for the script.
    let started = std::thread::Builder::new().name("script".to_owned()).spawn(move || {
        let clock = SystemClock::default();
        let _ = tell.send(program.run(&clock, || heard.get().copied(), |_| {}));
    });
    if let Err(error) = started {
        return failed(format!("start `sh {command}`: no thread: {error}"));
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
        Err(_) => return failed(format!("run `sh {command}`: its thread ended early")),
    };
    let status = match ended.output.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => {
            let line: String = line.trim().chars().take(LAST_LINE_MAX).collect();
            format!("{}: {}", ended.status_text(), batchwright::shown(&line))
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
        Cause::Timeout => failure(format!("did not end within {}", time::show_duration(timeout))),
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
