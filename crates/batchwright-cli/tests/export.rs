//! An execution as one file, and the dashboard of that file.

mod common;
#[path = "../../batchwright-store/tests/common/mod.rs"]
mod databases;
#[path = "common/serving.rs"]
mod serving;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};

use common::Place;
use databases::Kind;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use serving::get;

const JOB: &str = r#"
name = "import"
[parameters]
day = { type = "date" }
password = { type = "string", identifying = false, secret = true }
[[steps]]
name = "load"
skip = { limit = 1 }
chunk = 2
reader = { type = "csv", path = "in.csv", columns = { id = "integer" }, if_changed = "continue" }
writer = { type = "jsonl", path = "out.jsonl" }
"#;

/// A place whose execution 3 restarted execution 2, which failed; execution 1 is of another instance.
fn place(place: Place) -> Place {
    place.write("import.toml", JOB);
    place.write("in.csv", "id\n1\n2\n3\n");
    let run = |day: &str, code| {
        let day = format!("day={day}");
        place.run(&["run", "import.toml", &day, "-password=open sesame"]).expect(code);
    };
    run("2026-11-29", 0);
    place.write("in.csv", "id\n1\n2\nthree\nx\n");
    std::fs::remove_file(place.path("out.jsonl")).unwrap();
    run("2026-11-30", 1);
    place.write("in.csv", "id\n1\n2\nthree\n4\n");
    place.run(&["restart", "2"]).expect(0);
    place
}

/// The process of `view`, with the address that it prints.
struct View(Child, String);

impl View {
    fn of(place: &Place, file: &str) -> Self {
        let mut child = place.command(&["view", file]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("{line}")).to_owned();
        Self(child, address)
    }

    fn end(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

fn promises(place: &Place) {
    let done = place.run(&["export", "3", "--to", "import.batch"]).expect(0);
    assert!(done.out.contains("batchwright view import.batch"), "{}", done.out);
    let file = place.bytes("import.batch");
    let has = |text: &str| file.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("three") && !has("open sesame"), "a secret must not leave");

    // What the verbs show of the file is what they show of the store.
    let show = |place: &Place, id: &str| -> Value {
        place.run(&["--format", "json", "show", id]).expect(0).json()
    };
    let copy = Place::new();
    copy.write("copy.db", &file);
    let exported = Place::on(&format!("sqlite://{}", copy.path("copy.db").display()));
    for id in ["2", "3"] {
        assert_eq!(show(&exported, id), show(place, id), "execution {id}");
    }
    exported.run(&["show", "1"]).expect(2);

    let before = place.bytes("import.batch");
    let view = View::of(place, "import.batch");
    let page = get(&view.1, "/executions/3");
    for text in ["Execution 3", "three", "Restart of", "cli:"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("Run again with changes"), "nothing can be changed: {page}");
    let mut stream = std::net::TcpStream::connect(&view.1).unwrap();
    let head = "POST /v1/executions/2/restart HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let refused = std::io::read_to_string(stream).unwrap();
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert_eq!(view.end(), Some(0));
    assert_eq!(place.bytes("import.batch"), before, "it is only read");
}

#[test]
fn an_export_has_what_the_store_has_without_secrets_and_opens_as_a_dashboard() {
    promises(&place(Place::new()));
}

#[test]
fn an_execution_in_postgresql_is_exported_with_its_numbers() {
    if !Kind::Postgres.is_there() {
        return;
    }
    let database = databases::Place::new(Kind::Postgres);
    promises(&place(Place::on(&database.quick_url())));
}

const CHILD: &str = r#"
name = "child"
[parameters]
code = { type = "string", secret = true }
[[steps]]
name = "say"
type = "command"
argv = ["sh", "-c", "echo the code is ${params.code} >&2; exit 1"]
"#;

const PARENT: &str = r#"
name = "parent"
[parameters]
key = { type = "string", secret = true }
use_token = { type = "boolean", default = true }
[[steps]]
name = "inner"
type = "job"
job = "child.toml"
parameters = { code = "${params.key}-and-more" }
"#;

#[test]
fn a_secret_that_is_passed_to_another_job_stays_in_its_store() {
    let place = Place::new();
    place.write("child.toml", CHILD);
    place.write("parent.toml", PARENT);
    place.run(&["run", "parent.toml", "key=opensesame"]).expect(1);
    place.run(&["export", "1", "--to", "1.batch"]).expect(0);
    place.run(&["export", "2", "--to", "2.batch"]).expect(0);
    for name in ["1.batch", "2.batch"] {
        let file = place.bytes(name);
        for secret in ["opensesame", "and-more"] {
            let is_there = file.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret} is in {name}");
        }
        let store = format!("sqlite://{}", place.path(name).display());
        // What looks like the name of a secret changes nothing else.
        place.run(&["--store", &store, "show", &name[..1]]).expect(0);
        let started = place.run(&["--store", &store, "abandon", &name[..1]]);
        assert!(started.err.contains("in which nothing runs"), "{}", started.err);
    }
}

#[test]
fn what_ran_when_it_was_exported_runs_in_the_file_for_ever() {
    let place = Place::new();
    place.write(
        "wait.toml",
        CHILD.replace("echo the code is ${params.code} >&2; exit 1", "sleep 60"),
    );
    let mut running = place.spawn(&["run", "wait.toml", "code=none"]);
    common::until("it runs", || place.newest() == Some(1) && place.show(1)["status"] == "STARTED");
    let done = place.run(&["export", "1"]).expect(0);
    assert!(done.out.contains("it was running"), "{}", done.out);
    running.kill().unwrap();
    running.wait().unwrap();
    let view = View::of(&place, "execution-1.batch");
    let one = get(&view.1, "/v1/executions/1");
    assert!(one.contains(r#""status":"STARTED""#) && one.contains(r#""stale":false"#), "{one}");
    assert_eq!(view.end(), Some(0));
}

#[test]
fn an_export_without_records_has_none_and_replaces_no_file() {
    let place = place(Place::new());
    place.run(&["export", "import", "--without-records"]).expect(0);
    let file = place.bytes("execution-3.batch");
    assert!(!file.windows(7).any(|window| window == b"\"three\""));
    let again = place.run(&["export", "3"]).expect(2);
    assert!(again.err.contains("`execution-3.batch` exists"), "{}", again.err);
    assert_eq!(place.bytes("execution-3.batch"), file);
    place.run(&["export", "99"]).expect(2);
    for (other, why) in [
        ("in.csv", "is no export of an execution"),
        ("batchwright.db", "is no export of an execution"),
        ("nothing.batch", "there is no file"),
    ] {
        let refused = place.run(&["view", other]).expect(2);
        assert!(refused.err.contains(why), "{}", refused.err);
    }
    assert!(!place.path("nothing.batch").exists());
    let nowhere = place.run(&["export", "3", "--to", "no/folder.batch"]).expect(2);
    assert!(nowhere.err.contains("cannot write `no/folder.batch`"), "{}", nowhere.err);
}
