//! A running server, and a client that is nothing but a socket.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::common::{Place, until};

/// How long a test waits for an answer before it fails.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A `batchwright serve` in a folder.
pub struct Serving {
    pub child: Child,
    pub address: String,
    /// Where the REST API is; empty where there is none.
    pub http: String,
    last_word: Arc<Mutex<String>>,
}

impl Serving {
    /// Starts one and waits until it listens.
    pub fn start(place: &Place) -> Self {
        Self::start_with(place, &[])
    }

    pub fn start_with(place: &Place, more: &[&str]) -> Self {
        let fixed = ["serve", "--listen", "127.0.0.1:0"];
        let arguments = [&fixed, more].concat();
        Self::of(&mut place.command(&arguments))
    }

    /// The server that `command` starts.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let last_word = Arc::new(Mutex::new(String::new()));
        let (mut line, mut http) = (String::new(), String::new());
        let address = loop {
            line.clear();
            let count = stderr.read_line(&mut line).unwrap();
            last_word.lock().unwrap().push_str(&line);
            assert!(count > 0, "the server ended: {}", last_word.lock().unwrap());
            if let Some((_, address)) = line.trim_end().split_once("http=") {
                http = address.to_owned();
            }
            if let Some((_, address)) = line.trim_end().split_once("address=") {
                break address.to_owned();
            }
        };
        let log = Arc::clone(&last_word);
        std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).unwrap_or(0) > 0 {
                log.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        Self { child, address, http, last_word }
    }

    /// Returns what the server has written to stderr so far.
    pub fn last_word(&self) -> String {
        self.last_word.lock().unwrap().clone()
    }

    pub fn client(&self) -> Kcp {
        Kcp::connect(&self.address)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns the exit code.
    pub fn end(self) -> i32 {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    /// Waits for the end; returns the exit code.
    pub fn ended(mut self) -> i32 {
        let status = self.child.wait().unwrap();
        status.code().unwrap_or(-1)
    }

    /// Bytes of resident memory.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Waits until trigger `identifier` has that status.
    #[track_caller]
    pub fn until_status(&self, identifier: &str, status: &str) {
        let client = std::cell::RefCell::new(self.client());
        until(&format!("{identifier} {status}; {}", self.last_word()), || {
            client.borrow_mut().ask(&format!("1 GET {identifier}")).contains(&format!(" {status} "))
        });
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A socket.
pub struct Kcp {
    pub stream: TcpStream,
    read: BufReader<TcpStream>,
}

impl Kcp {
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        let read = BufReader::new(stream.try_clone().unwrap());
        Self { stream, read }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, without its end; empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.read.read_until(b'\n', &mut line).unwrap();
        String::from_utf8(line).unwrap().trim_end_matches('\n').to_owned()
    }

    /// Sends a line, returns the answer.
    pub fn ask(&mut self, request: &str) -> String {
        self.send(format!("{request}\n"));
        self.line()
    }

    /// Sends a line that must be answered `OK`.
    #[track_caller]
    pub fn done(&mut self, request: &str) {
        let answer = self.ask(request);
        assert!(answer.ends_with(" OK"), "{request}: {answer}");
    }

    /// Everything until the server closes the connection; the answers, in no order.
    pub fn rest(&mut self) -> Vec<String> {
        let mut text = String::new();
        // A reset is a close with something unread.
        let _ = self.read.read_to_string(&mut text);
        text.lines().map(str::to_owned).collect()
    }
}

/// A trigger and its slots, as `schedule history` tells them.
pub fn history(place: &Place, trigger: &str) -> Vec<serde_json::Value> {
    let message = place.run(&["schedule", "history", trigger, "--format", "json"]).expect(0).out;
    message.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `count` seconds from now, as `SET` takes it.
pub fn in_seconds(count: i64) -> String {
    at_millis(count * 1000)
}

/// So many milliseconds from now, as RFC 3339.
pub fn at_millis(millis: i64) -> String {
    let clock = batchwright::clock::SystemClock::default();
    let now = batchwright::clock::Clock::now(&clock);
    (now + jiff::SignedDuration::from_millis(millis)).to_string()
}

/// The answer to a GET of `path`: status line, headers and body as they came.
pub fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Sends a request with a JSON body; returns status and body of the answer.
pub fn ask(serving: &Serving, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    ask_with(serving, method, path, "", body)
}

/// Sends a request with further lines in its head, each with its end.
pub fn ask_with(
    serving: &Serving,
    method: &str,
    path: &str,
    lines: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let mut socket = TcpStream::connect(&serving.http).unwrap();
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n{lines}\
         content-length: {}\r\n\r\n{body}",
        serving.http,
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}
