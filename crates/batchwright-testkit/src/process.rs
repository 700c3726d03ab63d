//! Child processes that end with the test, and waiting for conditions.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Waits until `fact` returns true.
///
/// # Panics
///
/// Panics after 12,000 attempts (about two minutes), so that a broken test does not hang.
#[track_caller]
pub fn until(what: &str, mut fact: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if fact() {
            return;
        }
        // `sleep` is forbidden by the lints.
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("never came true: {what}");
}

/// A child process that ends with the test.
#[derive(Debug)]
pub struct Process {
    /// The process.
    pub child: Child,
    /// The last word of the first matching line of output, such as an address.
    pub last_word: String,
}

impl Process {
    /// Starts `command` and waits for the first line on its standard output for which `is_it` is true.
    pub fn start(command: &mut Command, is_it: impl Fn(&str) -> bool) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !is_it(&line) {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "{command:?} ended at once");
        }
        // The rest of the output is read and dropped, so that a full pipe does not block the process.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let last_word = line.split_whitespace().last().unwrap_or_default().to_owned();
        Self { child, last_word }
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Freezes process `pid` with SIGSTOP, and returns once all its threads have stopped: they go on for a moment after the
/// signal was sent.
pub fn freeze(pid: rustix::process::Pid) {
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let has_stopped = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    until("all threads have stopped", || {
        std::fs::read_dir(&tasks).unwrap().all(|task| has_stopped(task.unwrap()))
    });
}

/// Returns a local address on which no process listens.
#[must_use]
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
