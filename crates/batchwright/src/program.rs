//! Runs programs: the commands of command steps and the scripts of the scheduler.
//!
//! Each program leads a process group of its own, which is ended with it after a time-out or a stop. The
//! program gets no standard input and none of the environment variables that are meant for Batchwright alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

use crate::clock::{Clock, StopToken};

/// Prefixes of the environment variables that a program does not get: they contain the store's password, or
/// belong to the protocol between the service manager and this process.
const OURS: [&str; 4] = ["BATCHWRIGHT_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_"];
/// Time between two checks of a running program for its time-out and for a stop.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long output is read after the program ended: a remaining child process of it may keep the pipe open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);
/// Maximum number of bytes of a line that are passed on at once; a longer line is passed on in pieces.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// The process groups that run now, to be killed by [`kill_all`].
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A program to run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    name: String,
    dir: Option<PathBuf>,
    timeout: Option<Duration>,
    grace: Duration,
    output_max: usize,
    kills_rest: bool,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended<R> {
    /// The exit status of the program.
    pub status: ExitStatus,
    /// What ended the program.
    pub cause: Cause<R>,
    /// The last part of its output, standard output and standard error in their order, in whole characters.
    pub output: String,
}

/// What ended a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause<R> {
    /// The program ended by itself.
    Itself,
    /// The time-out ended it.
    Timeout,
    /// The caller ended it for this reason.
    Asked(R),
}

impl Program {
    /// Returns the program `name`, which is found in `PATH` unless it contains a `/`. The program has no
    /// time-out and a grace period of 10 s, and the last 2,000 bytes of its output are kept.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        let mut command = Command::new(name);
        for (variable, _) in std::env::vars_os() {
            let shown = variable.to_string_lossy();
            if OURS.iter().any(|ours| shown.starts_with(ours)) {
                command.env_remove(&variable);
            }
        }
        Self {
            command,
            name: name.to_string_lossy().into_owned(),
            dir: None,
            timeout: None,
            grace: Duration::from_secs(10),
            output_max: 2_000,
            kills_rest: false,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable, even one that the program would not get otherwise.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working folder. Default: the working folder of this process.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Sets the time after which the process group is ended. Default: none.
    #[must_use]
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the time between `SIGTERM` and `SIGKILL`. Default 10 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the number of bytes of output that are kept. Default 2,000.
    #[must_use]
    pub fn output_max(mut self, bytes: usize) -> Self {
        self.output_max = bytes;
        self
    }

    /// Sets whether the remaining processes of the group are killed also when the program ends by itself.
    /// Default: they continue to run.
    #[must_use]
    pub fn kills_rest(mut self, yes: bool) -> Self {
        self.kills_rest = yes;
        self
    }

    /// Runs the program and blocks until it has ended.
    ///
    /// `asked` is called about every 20 ms, or more often while output arrives. Its first reason ends the
    /// process group as the time-out does: with `SIGTERM`, then with `SIGKILL` when the program has ended or
    /// the grace period is over. `line` is called with each line of output.
    ///
    /// # Errors
    ///
    /// When the program cannot be started; the error names the program or its missing folder. When a system
    /// call about the running program fails; the process group is killed then.
    pub fn run<R>(
        mut self,
        clock: &dyn Clock,
        mut asked: impl FnMut() -> Option<R>,
        mut line: impl FnMut(&str),
    ) -> io::Result<Ended<R>> {
        let (timeout, grace) = (self.timeout, self.grace);
        let kills_rest = self.kills_rest;
        let (mut running, mut output) = self.start()?;
        let started = clock.elapsed();
        let mut ending: Option<(Duration, Cause<R>)> = None;
        loop {
            output.take(CHECK_INTERVAL, running.end.as_ref().map(AsFd::as_fd), &mut line)?;
            if running.has_ended()? {
                break;
            }
            let now = clock.elapsed();
            match &ending {
                None => {
                    let is_late = || timeout.is_some_and(|limit| now - started >= limit);
                    let cause =
                        asked().map(Cause::Asked).or_else(|| is_late().then_some(Cause::Timeout));
                    if let Some(cause) = cause {
                        running.signal(Signal::TERM);
                        ending = Some((now, cause));
                    }
                }
                Some((since, _)) if now - *since >= grace => running.signal(Signal::KILL),
                Some(_) => {}
            }
        }
        if ending.is_some() || kills_rest {
            // The program has ended and is not reaped: no other process or group can have its number.
            running.signal(Signal::KILL);
        }
        let ended = clock.elapsed();
        while output.is_open() && clock.elapsed() - ended < DRAIN_TIMEOUT {
            output.take(CHECK_INTERVAL, None, &mut line)?;
        }
        let status = running.reap()?;
        let cause = ending.map_or(Cause::Itself, |(_, cause)| cause);
        Ok(Ended { status, cause, output: output.tail() })
    }

    fn start(&mut self) -> io::Result<(Running, Output)> {
        if let Some(dir) = &self.dir {
            if !dir.is_dir() {
                let message = format!("the working folder `{}` does not exist", dir.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            self.command.current_dir(dir);
        }
        let (read, write) = io::pipe()?;
        self.command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
        self.command.process_group(0);
        let child = {
            let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            let child = self.command.spawn().map_err(|error| {
                io::Error::new(error.kind(), format!("cannot start `{}`: {error}", self.name))
            })?;
            running.insert(child.id().cast_signed());
            child
        };
        // The command keeps the write end of the pipe, which would keep the pipe open after the program
        // ended.
        self.command = Command::new(Path::new(""));
        let output = Output {
            from: Some(read),
            line: Vec::new(),
            kept: Vec::new(),
            kept_max: self.output_max,
        };
        // Not before Linux 5.3: there the end is noticed by the next check.
        let end = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        Ok((Running { child, end, reaped: false }, output))
    }
}

impl<R> Ended<R> {
    /// Returns the exit status as text: `exit code 3`, `ended by signal 9`.
    pub fn status_text(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        }
    }
}

/// Sends `SIGKILL` to every running process group, for a process that exits without waiting for them.
pub fn kill_all() {
    for group in &*RUNNING.lock().unwrap_or_else(PoisonError::into_inner) {
        if let Some(group) = Pid::from_raw(*group) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A started program. Dropping it before it is reaped kills its process group.
struct Running {
    child: Child,
    /// Readable once the program has ended.
    end: Option<OwnedFd>,
    reaped: bool,
}

impl Running {
    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to the process group; a group that has ended is no error.
    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group(), signal);
    }

    /// Returns whether the program has ended. It stays unreaped, so that no other process gets its number.
    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.group()), options)?.is_some())
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let status = self.child.wait();
        running.remove(&self.child.id().cast_signed());
        self.reaped = true;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            let _ = self.reap();
        }
    }
}

/// The output of a program: passes on its lines and keeps its last part.
struct Output {
    from: Option<PipeReader>,
    line: Vec<u8>,
    kept: Vec<u8>,
    kept_max: usize,
}

impl Output {
    fn is_open(&self) -> bool {
        self.from.is_some()
    }

    /// Reads available output, waiting for it, or until `end` is readable, for at most `timeout`.
    fn take(
        &mut self,
        timeout: Duration,
        end: Option<BorrowedFd<'_>>,
        line: &mut impl FnMut(&str),
    ) -> io::Result<()> {
        let own = self.from.as_ref().map(AsFd::as_fd);
        let mut awaited: Vec<_> = own
            .into_iter()
            .chain(end)
            .map(|one| PollFd::from_borrowed_fd(one, PollFlags::IN))
            .collect();
        if awaited.is_empty() {
            StopToken::default().wait(timeout);
            return Ok(());
        }
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut awaited, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let has_output = own.is_some() && !awaited[0].revents().is_empty();
        let Some(from) = self.from.as_mut().filter(|_| has_output) else { return Ok(()) };
        let mut piece = [0; LINE_BYTES_MAX];
        let count = match from.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            read => read?,
        };
        if count == 0 {
            self.from = None;
            if !self.line.is_empty() {
                line(String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end());
            }
            return Ok(());
        }
        for byte in &piece[..count] {
            self.line.push(*byte);
            if *byte == b'\n' || self.line.len() >= LINE_BYTES_MAX {
                line(String::from_utf8_lossy(&self.line).trim_end());
                self.line.clear();
            }
        }
        self.kept.extend_from_slice(&piece[..count]);
        if self.kept.len() > 4 * self.kept_max.max(LINE_BYTES_MAX) {
            self.kept.drain(..self.kept.len() - self.kept_max);
        }
        Ok(())
    }

    /// Returns the last kept bytes as whole characters, with U+2400 for each NUL and without white space at
    /// the end.
    fn tail(&self) -> String {
        let from = self.kept.len().saturating_sub(self.kept_max);
        let text = String::from_utf8_lossy(&self.kept[from..]);
        let text = if from > 0 { text.trim_start_matches('\u{fffd}') } else { &*text };
        text.trim_end().replace('\0', "\u{2400}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn sh(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    fn run(program: Program) -> Ended<()> {
        program.run(&SystemClock::default(), || None, |_| {}).unwrap()
    }

    #[test]
    fn a_timeout_is_one_whatever_the_program_makes_of_its_signal() {
        let program = sh("trap 'exit 0' TERM; while :; do sleep 0.05; done");
        let ended = run(program.timeout(Some(Duration::from_millis(200))));
        assert_eq!(ended.cause, Cause::Timeout);
        assert!(ended.status.success());
    }

    #[test]
    fn a_member_of_the_group_that_ignores_the_signal_is_killed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let number = dir.path().join("pid");
        let script = "sh -c 'trap \"\" TERM; echo $$ > \"$0.new\"; mv \"$0.new\" \"$0\"; while :; do sleep 0.05; done' \"$0\" & wait";
        let program = sh(script).args([&number]);
        // The stop is requested when the member runs.
        let asked = || number.exists().then_some("stop");
        let ended = program.run(&SystemClock::default(), asked, |_| {}).unwrap();
        assert_eq!(ended.cause, Cause::Asked("stop"));
        let member = std::fs::read_to_string(&number).unwrap();
        let stat = format!("/proc/{}/stat", member.trim());
        let lives = || {
            std::fs::read_to_string(&stat).is_ok_and(|text| {
                !text.rsplit(')').next().unwrap_or_default().trim().starts_with('Z')
            })
        };
        for _ in 0..500 {
            if !lives() {
                return;
            }
            StopToken::default().wait(Duration::from_millis(10));
        }
        panic!("the member of the group was not killed");
    }

    #[test]
    fn what_was_said_is_kept_although_a_program_is_left_behind() {
        let ended = run(sh("echo before; sleep 60 & echo after").kills_rest(false));
        assert_eq!(ended.output, "before\nafter");
        let group = ended.status;
        assert!(group.success());
    }

    #[test]
    fn a_program_that_closed_its_output_is_awaited_and_can_be_stopped() {
        let ended = run(sh("exec >&- 2>&-; sleep 0.1; exit 3"));
        assert_eq!((ended.status.code(), ended.cause), (Some(3), Cause::Itself));
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        let program = sh("exec >&- 2>&-; touch \"$0\"; sleep 60").args([&closed]);
        let asked = || closed.exists().then_some("stop");
        let ended = program.run(&SystemClock::default(), asked, |_| {}).unwrap();
        assert_eq!((ended.status.signal(), ended.cause), (Some(15), Cause::Asked("stop")));
    }

    #[test]
    fn the_end_of_a_long_output_is_kept_in_whole_characters() {
        let program =
            sh("i=0; while [ $i -lt 3000 ]; do printf 'ää'; i=$((i+1)); done; printf 'end'");
        let ended = run(program.output_max(100));
        assert!(ended.output.len() <= 100 && ended.output.ends_with("äend"), "{}", ended.output);
        assert!(!ended.output.contains('\u{fffd}'));
    }

    #[test]
    fn what_is_ours_alone_is_not_in_its_environment() {
        let ended = run(sh("env").env("BATCHWRIGHT_TRIGGER", "t"));
        // The test itself may run with such variables; the program gets only the one that was set for it.
        let ours: Vec<_> =
            ended.output.lines().filter(|line| line.starts_with("BATCHWRIGHT_")).collect();
        assert!(ours.is_empty() || ours == ["BATCHWRIGHT_TRIGGER=t"], "{ours:?}");
    }

    #[test]
    fn a_missing_folder_and_a_missing_program_are_named() {
        let folder = sh("true").dir("/no-such-folder");
        let error = folder.run(&SystemClock::default(), || None::<()>, |_| {}).unwrap_err();
        assert!(error.to_string().contains("working folder `/no-such-folder`"), "{error}");
        let program = Program::new("no-such-program");
        let error = program.run(&SystemClock::default(), || None::<()>, |_| {}).unwrap_err();
        assert!(error.to_string().contains("start `no-such-program`"), "{error}");
    }
}
