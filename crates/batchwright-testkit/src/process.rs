//! Child processes that end with the test, and facts that are waited for.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Waits for a fact. The bound only keeps a broken test from hanging for ever.
#[track_caller]
pub fn until(what: &str, mut fact: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if fact() {
            return;
        }
        // Not `sleep`, which the lints keep out of the product.
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("never came true: {what}");
}

/// A child that ends with the test.
#[derive(Debug)]
pub struct Process {
    /// The process.
    pub child: Child,
    /// What its first line said behind its last space: an address.
    pub said: String,
}

impl Process {
    /// Starts `command`, and waits for the first line on its standard output that `is_it`.
    pub fn start(command: &mut Command, is_it: impl Fn(&str) -> bool) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !is_it(&line) {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "{command:?} ended at once");
        }
        // Nobody reads the rest: a full pipe must not stop it.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let said = line.split_whitespace().last().unwrap_or_default().to_owned();
        Self { child, said }
    }

    /// `kill -9`.
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

/// An address that nobody listens on.
#[must_use]
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
