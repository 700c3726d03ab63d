//! The REST API of `serve`: progressive jobs of job files, `drive`, and schemathesis against the whole of it.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use batchwright_testkit::{Service, needs};
use common::{Place, until};
use serde_json::{Value, json};
use serving::{Serving, ask, ask_with, get};

const SUM: &str = r#"
name = "sum"

[parameters]
count = { type = "integer", default = 1000 }
run = { type = "integer", default = 1 }

[next]
run = { increment = 1 }

[[steps]]
name = "add"
type = "progressive"
reader = { type = "sequence", count = "${params.count}" }
writer = { type = "sql", table = "numbers", columns = ["n"] }
lanes = 3
target = "200ms"
chunk = 100

[[steps.processors]]
type = "filter"
when = "item.n % 10 != 0"

[steps.reduce]
total = { sum = "n" }
rows = { count = "n" }
"#;

fn place() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("jobs")).unwrap();
    place.write("jobs/sum.toml", SUM);
    place.run(&["jobs"]).expect(0);
    let database = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    database.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)", []).unwrap();
    place
}

fn rows(place: &Place) -> i64 {
    let database = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    database.query_row("SELECT count(*) FROM numbers", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_start_waits_for_the_end_if_the_client_prefers_that() {
    let place = place();
    let steps = "[[steps]]\nname = \"sleep\"\ntype = \"command\"\nargv = [\"sleep\", \"${params.seconds}\"]\n";
    let parameters = "name = \"nap\"\n[parameters]\nseconds = { type = \"string\" }\n";
    place.write("jobs/nap.toml", format!("{parameters}{steps}"));
    let serving = Serving::start(&place);
    let start = |seconds: &str, wait: &str| {
        let body = json!({"parameters": {"seconds": seconds}});
        ask_with(&serving, "POST", "/v1/jobs/nap/executions", wait, Some(body))
    };
    let (status, ended) = start("0.3", "prefer: wait=30\r\n");
    assert_eq!((status, &ended["status"]), (200, &json!("COMPLETED")));
    let (status, running) = start("30", "prefer: wait=1\r\n");
    assert_eq!((status, &running["status"]), (202, &json!("STARTED")));
    let (status, _) = ask(&serving, "POST", "/v1/executions/2/stop", None);
    assert_eq!(status, 202);
}

#[test]
fn executions_are_listed_by_a_search_in_words() {
    let place = place();
    for run in 1..=3 {
        place.run(&["run", "sum", "count=10", &format!("run={run}")]).expect(0);
        rusqlite::Connection::open(place.path("batchwright.db"))
            .unwrap()
            .execute("DELETE FROM numbers", [])
            .unwrap();
    }
    let serving = Serving::start(&place);
    let ids = |query: &str| -> Vec<i64> {
        let (status, page) = ask(&serving, "GET", &format!("/v1/executions?{query}"), None);
        assert_eq!(status, 200, "{query}: {page}");
        let items = page["items"].as_array().unwrap();
        items.iter().map(|one| one["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(ids("filter=job:sum%20param.run:2%20since:24h"), [2]);
    assert_eq!(ids("filter=status:failed"), [0; 0]);
    // The other conditions must be true, too.
    assert_eq!(ids("filter=param.run:2&status=COMPLETED,FAILED"), [2]);
    assert_eq!(ids("filter=status:completed&status=FAILED"), [0; 0]);
    assert_eq!(ids("filter=job:sum&job=other"), [0; 0]);
    assert_eq!(ids("stale=true"), [0; 0]);
    // One that is lost: its lease is over, and its process has ended.
    let database = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    let lost = "UPDATE bw_job_execution SET status = ?1, owner = ?2, lease_until = 1 WHERE id = 2";
    database.execute(lost, ["STARTED", "h/b/1/1/n"]).unwrap();
    assert_eq!(ids("stale=true"), [2]);
    assert_eq!(ids("filter=status:stale"), [2]);
    assert_eq!(ids("filter=status:completed&stale=true"), [0; 0]);
    assert_eq!(ids("filter=status:stale&stale=false"), [0; 0]);
    assert_eq!(ids("stale=false"), [3, 1]);
    database.execute("UPDATE bw_job_execution SET status = 'COMPLETED' WHERE id = 2", []).unwrap();
    assert_eq!(ids("stale=false"), [3, 2, 1]);
    let path = "/v1/executions?filter=by:cli&limit=2";
    let (_, page) = ask(&serving, "GET", path, None);
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(ids(&format!("filter=by:cli&limit=2&cursor={cursor}")), [1]);
    let (status, problem) = ask(&serving, "GET", "/v1/executions?filter=jobs:sum", None);
    assert_eq!((status, &problem["code"]), (400, &json!("usage")), "{problem}");
}

#[test]
fn a_progressive_job_runs_in_the_foreground_like_any_other() {
    let place = place();
    let summary = place.run(&["--format", "json", "run", "sum"]).expect(0).json();
    assert_eq!(summary["status"], "COMPLETED");
    let step = &summary["steps"][0];
    assert_eq!(
        (&step["read"], &step["write"], &step["filter"]),
        (&json!(1000), &json!(900), &json!(100))
    );
    assert_eq!(rows(&place), 900);
    place.run(&["run", "sum"]).expect(3);
}

/// On a terminal, which `script` provides, a bar shows the progress of the units; it disappears at the end.
#[test]
fn the_units_of_a_progressive_job_are_shown_on_a_terminal() {
    let place = place();
    let command = format!("{} run sum count=20000", env!("CARGO_BIN_EXE_batchwright"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let shown = script.current_dir(place.root()).env("TERM", "xterm").output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("%  "), "{shown}");
    assert!(shown.contains("left (by items)"), "{shown}");
    assert!(shown.contains("COMPLETED, 20000 read"), "{shown}");
}

#[test]
fn what_cannot_be_reduced_fails_the_execution_whatever_the_lanes() {
    let place = place();
    let job = |reduce: &str, lanes: u32| {
        format!(
            "name = \"r\"\nparameters = {{ run = {{ type = \"integer\" }} }}\n[[steps]]\nname = \"s\"\n\
             type = \"progressive\"\nlanes = {lanes}\nreader = {{ type = \"list\", items = [{{ n = 9000000000000000000 }}, \
             {{ n = 9000000000000000000 }}] }}\n[steps.reduce]\n{reduce}\n"
        )
    };
    for (run, (reduce, lanes, message)) in [
        ("total = { sum = \"m\" }", 1, "there is no field `m`; there are: `n`"),
        ("total = { sum = \"n\" }", 1, "the sum is too large"),
        ("total = { sum = \"n\" }", 2, "the sum is too large"),
    ]
    .into_iter()
    .enumerate()
    {
        place.write("jobs/r.toml", job(reduce, lanes));
        let ended = place.run(&["run", "r", &format!("run={run}")]).expect(1);
        assert!(ended.out.contains(message), "{} {}", ended.out, ended.err);
    }
}

const GATED: &str = r#"
name = "gated"

[parameters]
run = { type = "integer", default = 1 }

[next]
run = { increment = 1 }

[[steps]]
name = "wait"
type = "command"
argv = ["sh", "-c", "until [ -e gate ]; do sleep 0.05; done"]
"#;

#[test]
fn the_next_instance_is_gone_on_with_when_its_server_died() {
    let place = place();
    place.write("jobs/gated.toml", GATED);
    let serving = Serving::start(&place);
    let (status, next) = ask(&serving, "POST", "/v1/jobs/gated/next", None);
    assert_eq!(status, 202, "{next}");
    let status_of = |serving: &Serving, id: &Value| {
        let (_, message) = ask(serving, "GET", &format!("/v1/executions/{id}"), None);
        message["status"].as_str().unwrap_or_default().to_owned()
    };
    until("it runs", || status_of(&serving, &next["id"]) == "STARTED");
    serving.kill();
    let serving = Serving::start(&place);
    // Beside the job file, where its programs run.
    place.write("jobs/gate", "");
    let of_instance = format!("/v1/instances/{}/executions", next["instance_id"]);
    until("its instance is complete", || {
        let (_, all) = ask(&serving, "GET", &of_instance, None);
        all["items"][0]["status"] == "COMPLETED"
    });
}

const SECRET: &str = r#"
name = "secret"

[parameters]
pin = { type = "integer", secret = true, default = 815815 }
run = { type = "integer", default = 1 }

[next]
run = { increment = 1 }

[[steps]]
name = "say"
type = "command"
argv = ["true", "${params.pin}"]
"#;

/// Gives its secret to jobs that know it as one, and that do not.
const PARENT: &str = r#"
name = "parent"

[parameters]
code = { secret = true }

[[steps]]
name = "open"
type = "job"
job = "open.toml"
parameters = { copy = "${params.code}" }

[[steps]]
name = "known"
type = "job"
job = "secret.toml"
parameters = { pin = "${params.code}" }
"#;

const OPEN: &str = r#"
name = "open"
open_parameters = true

[[steps]]
name = "say"
type = "command"
argv = ["true"]
"#;

#[test]
fn two_clients_that_edit_the_same_trigger_or_rule_undo_nothing() {
    let place = place();
    let serving = Serving::start(&place);
    let rule = |text: &str| json!({"pattern": "t", "runner": ["shell", text]});
    let trigger = |words: [&str; 2]| json!({"plan": words});
    let plans: [(&str, Value, Value); 3] = [
        ("/v1/rules/r", rule("a.sh"), rule("b.sh")),
        ("/v1/triggers/t", trigger(["cron", "0 0 4 * * *"]), trigger(["cron", "0 0 5 * * *"])),
        ("/v1/triggers/u", trigger(["every", "15m"]), trigger(["every", "16m"])),
    ];
    for (path, first, second) in plans {
        let put = |body: &Value, lines: &str| {
            let (status, answer) = ask_with(&serving, "PUT", path, lines, Some(body.clone()));
            (status, answer["code"].as_str().unwrap_or_default().to_owned())
        };
        let tag = || {
            let head = get(&serving.http, path).to_lowercase();
            let line = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
            line.trim().to_owned()
        };
        let refused = |status, code: &str| (status, code.to_owned());
        let done = || (200, String::new());
        assert_eq!(put(&first, "if-match: *\r\n"), refused(412, "precondition_failed"));
        assert_eq!(put(&first, "if-none-match: *\r\n"), done(), "{path}");
        assert_eq!(put(&first, "if-none-match: *\r\n"), refused(412, "precondition_failed"));
        let first_tag = tag();
        assert_eq!(put(&first, ""), done(), "the same once more");
        assert_eq!(tag(), first_tag, "which changes nothing");
        assert_eq!(put(&second, ""), refused(428, "precondition_required"));
        let seen = tag();
        assert_eq!(put(&second, &format!("if-match: \"0\", {seen}\r\n")), done());
        let lost = put(&first, &format!("if-match: {seen}\r\n"));
        assert_eq!(lost, refused(412, "precondition_failed"), "the other one came first");
        assert_eq!(put(&first, &format!("if-match: W/{}\r\n", tag())).0, 412, "a weak tag");
        assert_eq!(put(&first, "if-match: nonsense\r\n"), refused(400, "usage"));
        assert_eq!(put(&first, "if-match: *\r\n"), done(), "whatever it is");
        let delete = |lines: &str| ask_with(&serving, "DELETE", path, lines, None).0;
        assert_eq!(delete(&format!("if-match: \"{}\"\r\n", "0".repeat(16))), 412);
        assert_eq!(delete(&format!("if-match: {}\r\n", tag())), 204);
    }
    // What cannot run is refused, whatever the condition.
    let wrong = json!({"pattern": "", "runner": ["job", "no-such-job"]});
    let (status, refused) = ask(&serving, "PUT", "/v1/rules/wrong", Some(wrong));
    assert!(status == 400 && refused.to_string().contains("no-such-job"), "{status} {refused}");
    assert_eq!(ask(&serving, "GET", "/v1/rules/wrong", None).0, 404);
    assert_eq!(serving.end(), 0);
}

/// Returns the operation of `begun` at its end.
fn ended(serving: &Serving, begun: &Value) -> Value {
    let path = format!("/v1/operations/{}", begun["id"].as_str().unwrap());
    let mut now = Value::Null;
    until("the operation ends", || {
        now = ask(serving, "GET", &path, None).1;
        now["status"] != "running"
    });
    now
}

#[test]
fn a_command_for_many_is_an_operation_that_says_what_became_of_each() {
    let place = place();
    let parameters = "name = \"fail\"\n[parameters]\nrun = { type = \"integer\" }\n";
    let step = "[[steps]]\nname = \"s\"\ntype = \"command\"\nargv = [\"false\"]\n";
    place.write("jobs/fail.toml", format!("{parameters}{step}"));
    for run in ["run=1", "run=2", "run=3"] {
        place.run(&["run", "fail", run]).expect(1);
    }
    let serving = Serving::start(&place);
    let begin = |body: Value| ask(&serving, "POST", "/v1/operations", Some(body));
    let (status, counted) =
        begin(json!({"action": "restart", "filter": "job:fail", "dry_run": true}));
    assert_eq!(
        (status, &counted["total"], &counted["executions"]),
        (200, &json!(3), &json!([3, 2, 1]))
    );
    let (status, begun) = begin(json!({"action": "restart", "filter": "job:fail"}));
    assert_eq!((status, &begun["total"]), (202, &json!(3)), "{begun}");
    let restarted = ended(&serving, &begun);
    assert_eq!(
        (&restarted["status"], &restarted["done"], &restarted["refused"]),
        (&json!("completed"), &json!(3), &json!(0))
    );
    let path = format!("/v1/operations/{}/results", begun["id"].as_str().unwrap());
    let (_, page) = ask(&serving, "GET", &format!("{path}?limit=2"), None);
    assert_eq!(page["items"][1]["execution"], 2);
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, rest) = ask(&serving, "GET", &format!("{path}?limit=2&cursor={cursor}"), None);
    assert_eq!(rest["items"][0]["started"], 6, "{rest}");
    // What cannot be done is in the results, and ends nothing.
    until("the restarts have ended", || {
        let failed = ask(&serving, "GET", "/v1/executions?status=FAILED", None).1;
        failed["items"].as_array().unwrap().len() == 6
    });
    let (_, begun) = begin(json!({"action": "abandon", "executions": [6, 99, 6, 1]}));
    let abandoned = ended(&serving, &begun);
    let counts = ["total", "done", "refused"].map(|name| &abandoned[name]);
    assert_eq!(counts, [3, 3, 2]);
    let path = format!("/v1/operations/{}/results", begun["id"].as_str().unwrap());
    let (_, results) = ask(&serving, "GET", &path, None);
    assert_eq!(results["items"][1]["code"], "no_such_execution", "{results}");
    let log = serving.last_word();
    assert!(log.contains("the execution failed execution=6 job=\"fail\""), "{log}");
    // What has an owner, or has ended, is not recovered.
    let (_, begun) = begin(json!({"action": "recover", "executions": [2, 3]}));
    assert_eq!(ended(&serving, &begun)["refused"], 2);
    let (_, list) = ask(&serving, "GET", "/v1/operations", None);
    assert_eq!(list["items"][2]["action"], "restart");
    let (_, page) = ask(&serving, "GET", "/v1/audit?limit=1&since=2026-01-01T00:00:00Z", None);
    assert_eq!(
        (&page["items"][0]["action"], &page["items"][0]["who"]),
        (&json!("recover"), &json!("api"))
    );
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, rest) = ask(&serving, "GET", &format!("/v1/audit?cursor={cursor}"), None);
    assert!(rest["items"].as_array().unwrap().len() > 5, "{rest}");
    let (_, none) = ask(&serving, "GET", "/v1/audit?since=2100-01-01T00:00:00Z", None);
    assert_eq!(none, json!({"items": [], "next_cursor": null}));
    let audit = place.run(&["audit"]).expect(0).out;
    assert!(audit.contains("3 executions") && audit.contains("job:fail"), "{audit}");
    // What is no order begins nothing.
    for (body, status) in [
        (json!({"action": "restart", "filter": " "}), 400),
        (json!({"action": "restart"}), 400),
        (json!({"action": "restart", "filter": "job:fail", "executions": [1]}), 400),
        (json!({"action": "explode", "filter": "job:fail"}), 400),
        (json!({"action": "stop", "filter": "jobs:fail"}), 400),
        (json!({"action": "stop", "executions": (0..10_001).collect::<Vec<_>>()}), 400),
    ] {
        assert_eq!(begin(body.clone()).0, status, "{body}");
    }
    assert_eq!(ask(&serving, "GET", "/v1/operations/none", None).0, 404);
    assert_eq!(ask(&serving, "POST", "/v1/operations/none/cancel", None).0, 404);
}

/// Reads a stream of events up to the first frame that `is_last` accepts; returns the head and all frames.
fn listen(serving: &Serving, lines: &str, is_last: impl Fn(&str) -> bool) -> (String, Vec<String>) {
    let mut socket = TcpStream::connect(&serving.http).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = format!("GET /v1/events HTTP/1.1\r\nhost: {}\r\n{lines}\r\n", serving.http);
    socket.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(socket);
    let (mut head, mut frames, mut frame) = (String::new(), Vec::new(), String::new());
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).unwrap();
    }
    if !head.starts_with("HTTP/1.1 200") {
        return (head, frames);
    }
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended: {frames:?}");
        match line.trim_end() {
            "" if !frame.is_empty() => {
                frames.push(std::mem::take(&mut frame));
                if frames.last().is_some_and(|frame| is_last(frame)) {
                    return (head, frames);
                }
            }
            line => frame.push_str(&format!("{line}\n")),
        }
    }
}

/// Returns the numbers of the changes in `frames`.
fn numbers(frames: &[String]) -> Vec<i64> {
    let number = |frame: &String| {
        frame.lines().find_map(|line| line.strip_prefix("id:"))?.trim().parse().ok()
    };
    frames.iter().filter_map(number).collect()
}

#[test]
fn changes_by_other_processes_are_streamed_and_continued_by_their_number() {
    let place = place();
    let step = "[[steps]]\nname = \"s\"\ntype = \"command\"\nargv = [\"true\"]\n";
    place.write("jobs/quick.toml", format!("name = \"quick\"\nopen_parameters = true\n{step}"));
    let serving = Serving::start(&place);
    let is_end =
        |frame: &str| frame.contains("\"status\":\"COMPLETED\"") && frame.contains("\"step\":null");
    let (head, first) = std::thread::scope(|threads| {
        let listening = threads.spawn(|| listen(&serving, "", is_end));
        // What was before the stream began is on no stream: executions follow until it has seen one.
        for run in 1.. {
            place.run(&["run", "quick", &format!("run={run}")]).expect(0);
            if listening.is_finished() {
                break;
            }
        }
        listening.join().unwrap()
    });
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert!(head.contains("x-accel-buffering: no"), "{head}");
    let seen = numbers(&first);
    assert!(seen.len() > 3 && seen.is_sorted(), "{first:?}");
    // A client that has lost its connection goes on after the last change that it has seen.
    let last = seen[2];
    let id = format!("last-event-id: {last}\r\n");
    let (_, rest) = listen(&serving, &id, is_end);
    let continued: Vec<_> = numbers(&rest).into_iter().filter(|id| *id > last).collect();
    assert_eq!(continued[..seen.len() - 3], seen[3..], "nothing is missing");
    // One that has missed too many is refused, and reads the lists.
    let database = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    let many = "INSERT INTO bw_event (execution_id, step, status, note, at) WITH RECURSIVE n(i) AS
        (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100) SELECT 1, NULL, 'STARTED', NULL, 0 FROM n";
    database.execute(many, []).unwrap();
    let (head, _) = listen(&serving, &id, is_end);
    assert!(head.starts_with("HTTP/1.1 410"), "{head}");
}

#[test]
fn a_caller_that_asks_too_often_is_refused_and_health_is_answered() {
    let place = place();
    place.write("batchwright.toml", "[http]\nrate = 1\n");
    let serving = Serving::start(&place);
    let mut refused = String::new();
    until("two requests come in one second", || {
        refused = get(&serving.http, "/v1/jobs").to_lowercase();
        refused.starts_with("http/1.1 429 ")
    });
    for line in ["retry-after: 1\r", "ratelimit-policy: \"caller\";q=1;w=1\r", "too_many_requests"]
    {
        assert!(refused.contains(line), "{line}: {refused}");
    }
    assert!(get(&serving.http, "/readyz").starts_with("HTTP/1.1 200 "));
    assert_eq!(serving.end(), 0);
}

#[test]
fn what_a_client_has_is_not_sent_again_and_lists_have_pages() {
    let place = place();
    for name in ["a", "b", "c"] {
        let text = "\n[[steps]]\nname = \"say\"\ntype = \"command\"\nargv = [\"true\"]\n";
        place.write(&format!("jobs/{name}.toml"), format!("name = \"{name}\"{text}"));
    }
    place.run(&["run", "a"]).expect(0);
    let serving = Serving::start(&place);
    for path in ["/v1/executions/1", "/v1/jobs/a"] {
        let head = get(&serving.http, path);
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        let known = |tag: &str| {
            ask_with(&serving, "GET", path, &format!("if-none-match: {tag}\r\n"), None).0
        };
        assert_eq!((known(&tag), known("\"other\"")), (304, 200), "{path}");
        assert_eq!(known(&format!("W/{tag}")), 304, "a proxy that compresses weakens tags");
    }
    for name in ["x", "y", "z"] {
        let rule = json!({"pattern": name, "runner": ["shell", "a.sh"]});
        assert_eq!(ask(&serving, "PUT", &format!("/v1/rules/{name}"), Some(rule)).0, 200);
    }
    for (path, field) in [("/v1/jobs", "name"), ("/v1/rules", "identifier")] {
        let all = ask(&serving, "GET", path, None).1["items"].clone();
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let (_, page) = ask(&serving, "GET", &format!("{path}?limit=2{cursor}"), None);
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 2 && items.iter().all(|it| it[field].is_string()));
            seen.extend(items.iter().cloned());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(Value::Array(seen), all, "{path}");
    }
    assert_eq!(serving.end(), 0);
}

#[test]
fn the_value_of_a_secret_parameter_is_shown_nowhere() {
    let place = place();
    place.write("jobs/secret.toml", SECRET);
    place.write("jobs/parent.toml", PARENT);
    place.write("jobs/open.toml", OPEN);
    let serving = Serving::start(&place);
    let mut message = Vec::new();
    let rule = |pin: &str| json!({"pattern": "t", "runner": ["job", "secret", pin]});
    let wrong = rule("{\"pin\":\"x471147\"}");
    let (status, refused) = ask(&serving, "PUT", "/v1/rules/r", Some(wrong));
    assert_eq!(status, 400, "{refused}");
    message.push(refused.to_string());
    let right = rule("{\"pin\":471147}");
    assert_eq!(ask(&serving, "PUT", "/v1/rules/r", Some(right)).0, 200);
    let now = json!({"at": "2026-01-01T00:00:00Z"});
    assert_eq!(ask(&serving, "PUT", "/v1/triggers/t", Some(now)).0, 200);
    serving.until_status("t", "executed");
    for arguments in [
        &["run", "secret", "pin=471147", "-v"][..],
        &["--format", "json", "run", "secret", "-pin=471147"],
        &["--format", "json", "run", "secret", "pin:string=471147"],
        &["run", "secret", "-pin=x471147"],
        &["next", "secret", "-pin=471147"],
        &["run", "parent", "-code=x471147"],
        &["run", "parent", "-code=***"],
        &["instances", "secret"],
        &["rule", "list"],
        &["schedule", "history", "t"],
        &["validate", "secret", "-pin=471147"],
        &["executions"],
        &["show", "1"],
        &["--format", "json", "show", "1"],
        &["jobs"],
    ] {
        let done = place.run(arguments);
        message.push(format!("{}: {} {}", arguments[0], done.out, done.err));
    }
    let start = Some(json!({"parameters": {"pin": 471147}}));
    for (method, path, body) in [
        ("POST", "/v1/jobs/secret/validate", start.clone()),
        ("POST", "/v1/jobs/secret/validate", Some(json!({"parameters": {"pin": "x471147"}}))),
        ("POST", "/v1/jobs/secret/executions", start),
        ("GET", "/v1/jobs/secret", None),
        ("GET", "/v1/executions", None),
        ("GET", "/v1/executions/1", None),
        ("GET", "/v1/executions/1/events", None),
        ("GET", "/v1/jobs/secret/instances", None),
        ("GET", "/v1/rules", None),
        ("GET", "/v1/rules/r", None),
        ("GET", "/v1/triggers", None),
        ("GET", "/v1/triggers/t", None),
    ] {
        let (status, answer) = ask(&serving, method, path, body);
        message.push(format!("{method} {path}: {status} {answer}"));
    }
    message.push(serving.last_word());
    let message = message.join("\n");
    assert!(!message.contains("471147") && !message.contains("815815"), "{message}");
    assert!(message.contains("pin=***") && message.contains(r#""value":"***""#), "{message}");
    assert!(message.contains("copy=***"), "{message}");
    assert!(
        message.contains("parameter `code` is `***`, the mask of a secret; give the value itself"),
        "{message}"
    );
    assert!(message.contains("use parameter `pin`: its value is not of type integer"), "{message}");
}

#[test]
fn drive_carries_an_open_execution_forward_without_a_server() {
    let place = place();
    let serving = Serving::start(&place);
    let body = json!({"parameters": {"count": 2000}});
    let (status, opened) = ask(&serving, "POST", "/v1/progressive/sum", Some(body));
    assert_eq!(status, 201, "{opened}");
    assert_eq!(opened["units_total"], 2000);
    let path = format!("/v1/executions/{}/lanes/", opened["execution"]);
    let lane = opened["lanes"][0]["id"].as_str().unwrap();
    let slice = json!({"seq": 1, "target_ms": 1});
    let (_, answer) = ask(&serving, "POST", &format!("{path}{lane}/slices"), Some(slice));
    assert_eq!(answer["outcome"], "continue");
    serving.kill();
    let id = opened["execution"].to_string();
    let driven = place.run(&["--format", "json", "drive", &id, "--lanes", "2"]).expect(0).json();
    assert_eq!(driven["status"], "COMPLETED");
    assert_eq!(rows(&place), 1800);
    place.run(&["drive", "99"]).expect(2);
}

#[test]
fn a_server_takes_what_was_handed_over_to_it() {
    let place = place();
    let serving = Serving::start(&place);
    let message = place.run(&["--format", "json", "start", "sum"]).expect(0).json();
    assert_eq!(message["status"], "STARTED");
    let path = format!("/v1/executions/{}/response", message["id"]);
    let mut response = Value::Null;
    until("a server drives it", || {
        let (status, body) = ask(&serving, "GET", &path, None);
        response = body;
        status == 200
    });
    let total: u64 = (1..=1000).filter(|n| n % 10 != 0).sum();
    let result = json!({"rows": 900, "total": total});
    assert_eq!(response, json!({"units_done": 1000, "units_failed": 0, "result": result}));
    assert_eq!(serving.end(), 0);
}

/// What is not in the document: names of things that are there, a cursor that was given, and which operations may
/// refuse what the document allows, because jobs, rules and plans say more.
fn known(execution: &Value, lane: &str, operation: &str) -> String {
    format!(
        r#"
[parameters]
"path.job" = "echo"
"path.id" = {execution}
"path.lane" = "{lane}"
"query.cursor" = "NQ"
"query.wait" = "10ms"

[[operations]]
include-name = ["POST /v1/progressive/{{job}}", "POST /v1/jobs/{{job}}/next"]
parameters = {{ "path.job" = "sum" }}
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = [
    "POST /v1/jobs/{{job}}/executions",
    "POST /v1/jobs/{{job}}/validate",
    "POST /v1/executions/{{id}}/restart",
    "POST /v1/executions/{{id}}/replay",
    "POST /v1/operations",
]
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

# To JSON Schema 7.0 is an integer.
[[operations]]
include-name = "POST /v1/executions/{{id}}/lanes/{{lane}}/slices"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

# What has ended has no response, and says so.
[[operations]]
include-name = "GET /v1/executions/{{id}}/response"
checks = {{ positive_data_acceptance = {{ expected-statuses = ["2xx", 404, 410] }} }}

[[operations]]
include-name = "GET /v1/executions"
parameters = {{ "query.filter" = "status:failed since:24h" }}

[[operations]]
include-name = ["GET /v1/triggers", "GET /v1/jobs", "GET /v1/rules"]
parameters = {{ "query.cursor" = "ImEi" }}

[[operations]]
include-name = [
    "GET /v1/operations/{{id}}",
    "GET /v1/operations/{{id}}/results",
    "POST /v1/operations/{{id}}/cancel",
]
parameters = {{ "path.id" = "{operation}" }}

[[operations]]
include-name = "GET /v1/triggers/{{id}}"
parameters = {{ "path.id" = "t" }}

[[operations]]
include-name = ["PUT /v1/triggers/{{id}}", "DELETE /v1/triggers/{{id}}"]
parameters = {{ "path.id" = "t" }}
checks = {{ positive_data_acceptance = {{ enabled = false }} }}

[[operations]]
include-name = "GET /v1/rules/{{id}}"
parameters = {{ "path.id" = "r" }}

[[operations]]
include-name = ["PUT /v1/rules/{{id}}", "DELETE /v1/rules/{{id}}"]
parameters = {{ "path.id" = "r" }}
checks = {{ positive_data_acceptance = {{ enabled = false }} }}
"#
    )
}

#[test]
fn schemathesis_finds_nothing_in_any_operation_with_data_that_it_allows_or_not() {
    schemathesis("examples,coverage,fuzzing");
}

/// Alone: links that it infers from the answers of the other phases lead to other operations than they name.
#[test]
fn schemathesis_finds_nothing_when_it_goes_from_one_operation_to_the_next() {
    schemathesis("stateful");
}

fn schemathesis(phases: &str) {
    let Some(program) = needs(Service::Schemathesis) else { return };
    let place = place();
    place.write("jobs/echo.toml", "name = \"echo\"\nopen_parameters = true\n[[steps]]\nname = \"say\"\ntype = \"command\"\nargv = [\"true\"]\n");
    let serving = Serving::start(&place);
    let (_, opened) = ask(&serving, "POST", "/v1/progressive/sum", Some(json!({})));
    let (execution, lane) = (&opened["execution"], opened["lanes"][0]["id"].as_str().unwrap());
    ask(&serving, "PUT", "/v1/rules/r", Some(json!({"pattern": "t", "runner": ["job", "echo"]})));
    ask(&serving, "PUT", "/v1/triggers/t", Some(json!({"plan": "0 4 * * *"})));
    let nothing = json!({"action": "stop", "executions": []});
    let (_, operation) = ask(&serving, "POST", "/v1/operations", Some(nothing));
    let operation = operation["id"].as_str().unwrap();
    let config = place.write("schemathesis.toml", known(execution, lane, operation));
    let document = format!("http://{}/v1/openapi.json", serving.http);
    let checked = Command::new(&program)
        .current_dir(place.root())
        .arg("--config-file")
        .arg(config)
        .args(["run", &document, "--no-color", "--max-examples", "15", "--seed", "7"])
        .args(["--phases", phases, "--continue-on-failure"])
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let last_word = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{last_word}{}", String::from_utf8_lossy(&checked.stderr));
    assert!(!serving.last_word().contains("panicked"), "{}", serving.last_word());
}

/// A change of the API is seen in the change of this file. `BLESS=1` writes it anew.
#[test]
fn the_document_is_the_one_that_is_kept_with_the_sources() {
    let place = place();
    let serving = Serving::start(&place);
    let (_, document) = ask(&serving, "GET", "/v1/openapi.json", None);
    assert!(document["paths"].as_object().unwrap().len() > 25);
    let calls = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|it| it.as_object().unwrap().values());
    let mut names: Vec<_> = calls.filter_map(|call| call["operationId"].as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|two| two[0] != two[1]), "a name is used twice: {names:?}");
    let message = serde_json::to_string_pretty(&document).unwrap() + "\n";
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&kept, &message).unwrap();
    }
    assert!(std::fs::read_to_string(&kept).unwrap() == message, "docs/openapi.json is another one");
}
