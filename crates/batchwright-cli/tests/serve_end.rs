//! SIGTERM to a server that is being used.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Place, until};
use rustix::process::Signal;
use serde_json::json;
use serving::{Serving, ask};

/// Number of items of a chunk.
const CHUNK: u64 = 10;

const JOB: &str = r#"
name = "long"

[parameters]
number = { type = "integer" }

[[steps]]
name = "count"
chunk = 10
reader = { type = "sequence", count = 1000000000 }
writer = { type = "jsonl", path = "out-${params.number}.jsonl" }
"#;

/// Sends a request on a connection of its own; `None` when the server did not take the connection.
fn send(address: &str, head: &str, lines: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let text = format!(
        "{head} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{lines}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Some(String::from_utf8(answer).unwrap()),
        // The system had queued the connection, and the server never took it.
        Err(_) if answer.is_empty() => None,
        Err(error) => panic!("{head}: cut after {} bytes: {error}", answer.len()),
    }
}

/// Reads one answer, whose length its head tells, from a connection that may stay open.
fn next_answer(stream: &mut TcpStream) -> String {
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !is_whole(&String::from_utf8_lossy(&answer)) {
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "cut: {:?}",
            String::from_utf8_lossy(&answer)
        );
        answer.extend(byte);
    }
    String::from_utf8(answer).unwrap()
}

/// Whether all of the body that the head announces has come.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    match head.split_once("content-length: ") {
        Some((_, length)) => length.lines().next() == Some(&body.len().to_string()),
        None => head.contains("chunked") && body.ends_with("0\r\n\r\n"),
    }
}

#[test]
fn sigterm_cuts_no_request_and_stops_executions_at_a_chunk() {
    let place = Place::new();
    place.write("long.toml", JOB);
    let serving = Serving::start_with(&place, &["--jobs", ".", "--http", "127.0.0.1:0"]);
    let http = serving.http.clone();
    let (ends, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let code = std::thread::scope(|threads| {
        // Requests that wait for the end of their executions.
        let waiting: Vec<_> = (1..=3)
            .map(|number| {
                let http = &http;
                threads.spawn(move || {
                    let body = json!({"parameters": {"number": number}}).to_string();
                    let head = "POST /v1/jobs/long/executions";
                    send(http, head, "Prefer: wait=60\r\n", &body).expect("an answer")
                })
            })
            .collect();
        until("three executions write", || {
            (1..=3).all(|id| {
                let shown = ask(&serving, "GET", &format!("/v1/executions/{id}"), None).1;
                shown["steps"][0]["commit"].as_u64() >= Some(2)
            })
        });
        // Requests that never pause.
        for path in ["/", "/v1/executions", "/metrics", "/v1/executions/1/events"] {
            let (http, ends, answered) = (&http, &ends, &answered);
            threads.spawn(move || {
                while !ends.load(Ordering::SeqCst) {
                    match send(http, &format!("GET {path}"), "", "") {
                        Some(answer) if is_whole(&answer) => {
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Some(answer) => panic!("{path}: cut: {answer}"),
                        None => {}
                    }
                }
            });
        }
        // One whose client uses its connection again, and one whose body comes slowly.
        let mut kept = TcpStream::connect(&http).unwrap();
        let mut slow = TcpStream::connect(&http).unwrap();
        let body = json!({"parameters": {"number": 9}}).to_string();
        let (first, second) = body.split_at(10);
        let head = |line: &str, length: usize| {
            format!(
                "{line} HTTP/1.1\r\nhost: {http}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            )
        };
        slow.write_all(head("POST /v1/jobs/long/validate", body.len()).as_bytes()).unwrap();
        slow.write_all(first.as_bytes()).unwrap();
        for _ in 0..3 {
            kept.write_all(head("GET /healthz", 0).as_bytes()).unwrap();
            assert!(next_answer(&mut kept).starts_with("HTTP/1.1 200 "));
        }
        until("they are answered", || answered.load(Ordering::SeqCst) > 20);
        serving.signal(Signal::TERM);
        until("the end has begun", || serving.last_word().contains("ending"));
        slow.write_all(second.as_bytes()).unwrap();
        assert!(next_answer(&mut slow).starts_with("HTTP/1.1 200 "), "a request that had begun");
        let code = serving.ended();
        ends.store(true, Ordering::SeqCst);
        for answer in waiting {
            let answer = answer.join().unwrap();
            assert!(answer.starts_with("HTTP/1.1 202 ") && is_whole(&answer), "{answer}");
        }
        code
    });
    assert_eq!(code, 0, "the server ends by itself");
    for id in 1..=3 {
        let shown = place.show(id);
        assert_eq!(shown["status"], "STOPPED");
        let step = &shown["steps"][0];
        let (written, commits) =
            (step["write"].as_u64().unwrap(), step["commit"].as_u64().unwrap());
        assert_eq!(written, commits * CHUNK, "whole chunks");
        assert_eq!(shown["failure"], json!(null), "a stop is no failure");
    }
}

#[test]
fn the_end_of_the_grace_period_ends_a_server_whose_step_does_not_end() {
    let place = Place::new();
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    place.write(
        "endless.toml",
        format!(
            "name = \"endless\"\n[[steps]]\nname = \"s\"\ntype = \"sql\"\nurl = \"sqlite://other.db\"\nsql = \"{endless}\"\n"
        ),
    );
    let arguments = ["--jobs", ".", "--http", "127.0.0.1:0", "--grace", "1s"];
    let serving = Serving::start_with(&place, &arguments);
    ask(&serving, "POST", "/v1/jobs/endless/executions", Some(json!({})));
    until("it runs", || {
        ask(&serving, "GET", "/v1/executions/1", None).1["steps"][0]["status"] == "STARTED"
    });
    serving.signal(Signal::TERM);
    until("the grace period is over", || serving.last_word().contains("the grace period is over"));
    assert_eq!(serving.ended(), 143);
    // As after a crash: another process closes the execution, and it can be restarted.
    place.run(&["recover", "1"]).expect(0);
    assert_eq!(place.show(1)["status"], "FAILED");
}

#[test]
fn a_server_goes_on_after_sighup_and_logs_what_runs_after_sigusr1() {
    let place = Place::new();
    place.write("long.toml", JOB);
    let serving = Serving::start_with(&place, &["--jobs", ".", "--http", "127.0.0.1:0"]);
    let body = json!({"parameters": {"number": 1}});
    ask(&serving, "POST", "/v1/jobs/long/executions", Some(body));
    until("it runs", || ask(&serving, "GET", "/v1/executions/1", None).1["status"] == "STARTED");
    serving.signal(Signal::HUP);
    until("SIGHUP is in the log", || serving.last_word().contains("SIGHUP: job files"));
    for (count, signal) in [(1, Signal::USR1), (2, Signal::QUIT)] {
        serving.signal(signal);
        until("the execution is in the log", || {
            let log = serving.last_word();
            log.lines().filter(|line| line.contains("job=long status=\"STARTED\"")).count() == count
        });
    }
    assert_eq!(serving.end(), 0, "SIGTERM ends it as before");
    assert_eq!(place.show(1)["status"], "STOPPED");
}

#[test]
fn clients_that_the_system_has_connected_are_answered_at_the_end() {
    let place = Place::new();
    let serving = Serving::start_with(&place, &["--http", "127.0.0.1:0"]);
    serving.signal(Signal::STOP);
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(&serving.http).unwrap();
            let text = format!(
                "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                serving.http
            );
            stream.write_all(text.as_bytes()).unwrap();
            stream
        })
        .collect();
    serving.signal(Signal::TERM);
    serving.signal(Signal::CONT);
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && is_whole(&answer), "{answer:?}");
    }
}
