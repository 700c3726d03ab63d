//! The init process of a container, which inherits the orphans of all other processes and must reap them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

/// Acts as the init process of a container when this process has the id 1: starts this program again as its
/// child, forwards signals to it, reaps orphans, and returns the child's exit code. Returns `None` in any
/// other process. Call it before any thread starts.
///
/// # Errors
///
/// When the system refuses the signal handlers or the child process: nothing was started.
pub fn run_as_init() -> io::Result<Option<u8>> {
    if std::process::id() != 1 {
        return Ok(None);
    }
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // A separate process group, because a signal of the terminal would otherwise reach the child twice.
    let child = command.args(arguments).process_group(0).spawn()?;
    let child = Pid::from_child(&child);
    for signal in signals.forever() {
        if signal != SIGCHLD {
            if let Some(signal) = Signal::from_named_raw(signal) {
                let _ = kill_process(child, signal);
            }
            continue;
        }
        // One SIGCHLD may report several ended processes.
        while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
            if ended == child {
                let code = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => code,
                    (None, Some(signal)) => 128 + signal,
                    (None, None) => 1,
                };
                return Ok(Some(u8::try_from(code).unwrap_or(1)));
            }
        }
    }
    Ok(Some(1))
}
