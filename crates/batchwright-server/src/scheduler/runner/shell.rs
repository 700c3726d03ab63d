//! `sh COMMAND IDENTIFIER`: a script, in a process group of its own.

use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::OUTPUT_MAX;
use crate::scheduler::dispatch::Stop;
use crate::scheduler::group::Firing;
use crate::scheduler::time;
use crate::scheduler::trigger::Outcome;

/// Time between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long the output of a script that has ended is waited for: somebody it started may hold it.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// Runs the script. Its exit status decides; a script that is ended with this server fires again.
pub(crate) async fn run(
    firing: &Firing,
    command: &str,
    stop: impl Future<Output = Stop>,
) -> Outcome {
    let failed = |reason: String| Outcome::failed(reason, true);
    let (mut child, output) = match spawn(firing, command) {
        Ok(spawned) => spawned,
        Err(error) => return failed(format!("start `sh {command}`: {error}")),
    };
    let reading = tokio::spawn(read_tail(output));
    let timeout = firing.rule.settings.timeout();
    let (status, stopped) = tokio::select! {
        status = child.wait() => (status, None),
        stop = stop => (end(&mut child).await, Some(stop)),
        () = tokio::time::sleep(timeout) => (end(&mut child).await, Some(Stop::No)),
    };
    let output = match tokio::time::timeout(OUTPUT_GRACE, reading).await {
        Ok(Ok(read)) => super::tail(&read),
        _ => None,
    };
    let status = match status {
        Ok(status) => status,
        Err(error) => return failed(format!("wait for `sh {command}`: {error}")),
    };
    match stopped {
        _ if status.success() => Outcome::Executed(output),
        Some(Stop::Shutdown | Stop::Lost) => Outcome::Released,
        Some(Stop::No) => {
            let reason = format!("did not end within {}", time::show_duration(timeout));
            Outcome::Failed { reason, output, retryable: true }
        }
        Some(Stop::Replaced) | None => {
            Outcome::Failed { reason: told(status), output, retryable: true }
        }
    }
}

fn spawn(firing: &Firing, command: &str) -> std::io::Result<(Child, pipe::Receiver)> {
    let (read, write) = std::io::pipe()?;
    let child = Command::new("sh")
        .arg(command)
        .arg(&firing.key.identifier)
        .env("BATCHWRIGHT_TRIGGER", &firing.key.identifier)
        .env("BATCHWRIGHT_SLOT", time::show_exact(firing.slot))
        .env("BATCHWRIGHT_ATTEMPT", firing.attempt.to_string())
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, pipe::Receiver::from_owned_fd(read.into())?))
}

/// Reads everything, keeps the end.
async fn read_tail(mut from: pipe::Receiver) -> Vec<u8> {
    let mut kept = Vec::new();
    loop {
        match from.read_buf(&mut kept).await {
            Ok(0) | Err(_) => return kept,
            Ok(_) if kept.len() > 4 * OUTPUT_MAX => {
                kept.drain(..kept.len() - OUTPUT_MAX);
            }
            Ok(_) => {}
        }
    }
}

/// Asks the whole group to end, and then makes it.
async fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let signal = |signal: Signal| {
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
    };
    signal(Signal::TERM);
    if let Ok(status) = tokio::time::timeout(TERM_GRACE, child.wait()).await {
        return status;
    }
    signal(Signal::KILL);
    child.wait().await
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}
