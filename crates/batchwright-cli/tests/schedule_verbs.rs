//! The verbs of the scheduler and what its runners do, through the real binary.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;

use common::{Place, until};
use serde_json::{Value, json};
use serving::{Serving, ask, history};

#[test]
fn triggers_and_rules_are_kept_without_a_server() {
    let place = Place::new();
    place.run(&["schedule", "set", "a", "2099-01-01 00:00:00"]).expect(0);
    place.run(&["schedule", "set", "b", "cron", "0 30 2 * * *", "tz", "Europe/Berlin"]).expect(0);
    place.run(&["rule", "set", "r", "app.", "shell", "/bin/true", "retry", "3"]).expect(0);
    let listed = place.run(&["schedule", "list"]).expect(0).out;
    assert!(listed.contains("cron \"0 30 2 * * *\" tz Europe/Berlin"), "{listed}");
    assert!(place.run(&["rule", "list"]).expect(0).out.contains("shell /bin/true retry 3"));
    place.run(&["schedule", "pause", "b"]).expect(0);
    assert!(place.run(&["schedule", "list", "b"]).expect(0).out.contains("paused"));
    place.run(&["schedule", "resume", "b"]).expect(0);
    place.run(&["schedule", "unset", "b"]).expect(0);
    place.run(&["rule", "unset", "r"]).expect(0);
    for (missing, code) in [
        (&["schedule", "unset", "b"][..], 2),
        (&["schedule", "pause", "nothing"], 2),
        (&["rule", "unset", "r"], 2),
        (&["schedule", "set", "a", "tomorrow"], 2),
        (&["schedule", "set", "a", "cron", "nonsense"], 2),
        (&["rule", "set", "r", "p", "shell", "-c"], 2),
    ] {
        let message = place.run(missing).expect(code);
        assert!(message.err.starts_with("error["), "{}", message.err);
    }
}

#[test]
fn coming_times_of_a_trigger_are_skipped() {
    let place = Place::new();
    place.run(&["schedule", "set", "yearly", "cron", "0 0 0 1 1 *"]).expect(0);
    let next = || -> String {
        let listed = place.run(&["schedule", "list", "--format", "json"]).expect(0).json();
        listed["slot"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned()
    };
    let first = next();
    let skipped = place.run(&["schedule", "skip", "yearly"]).expect(0).out;
    assert!(skipped.contains("does not fire for") && skipped.contains(&first[..10]), "{skipped}");
    let second = next();
    assert!(second > first, "{second}");
    let skip = |slot: &str, reason: &str| {
        let refused = place.run(&["schedule", "skip", "yearly", "--slot", slot]).expect(2).err;
        assert!(refused.contains(reason), "{refused}");
    };
    skip(&first, "it is skipped for that time already");
    skip("2100-01-02 00:00:00", "does not fire at that time");
    skip("2026-01-01 00:00:00", "that time has come");
    // A later time than the next one, and what a new plan has of these.
    place.run(&["schedule", "skip", "yearly", "--slot", "2100-01-01 00:00:00"]).expect(0);
    assert_eq!(next(), second);
    place.run(&["schedule", "set", "yearly", "cron", "0 0 0 1 1 *", "overlap", "skip"]).expect(0);
    assert_eq!(next(), second);
    let explained = place.run(&["schedule", "explain", "yearly", "--count", "3"]).expect(0).out;
    assert!(explained.contains(&second[..4]), "{explained}");
    let (fires, not) = explained.split_once("But not for").unwrap_or_else(|| panic!("{explained}"));
    assert!(!fires.contains(&first[..10]) && not.contains(&first[..10]), "{explained}");
    // A server plans anew when it starts; the times stay skipped.
    let serving = Serving::start(&place);
    let (status, shown) = ask(&serving, "POST", "/v1/triggers/yearly/skip", Some(json!({})));
    assert_eq!(status, 200, "{shown}");
    let history = place.run(&["schedule", "history", "yearly"]).expect(0).out;
    assert_eq!(history.matches("skipped by a command").count(), 3, "{history}");
    assert!(next() > second);
    // Two plans of one trigger at once, with a skip between them.
    place.run(&["schedule", "set", "fast", "cron", "0 0 0 1 1 *"]).expect(0);
    let early = place.run(&["schedule", "fire", "fast", "--slot", &first]);
    early.expect(0);
    place.run(&["schedule", "set", "once", "2099-01-01 00:00:00"]).expect(0);
    let once = place.run(&["schedule", "skip", "once"]).expect(2).err;
    assert!(once.contains("no plan"), "{once}");
}

#[test]
fn a_recurring_trigger_is_fired_for_past_slots() {
    let place = Place::new();
    place.run(&["schedule", "set", "nightly", "cron", "0 30 2 * * *"]).expect(0);
    let slots = ["--slot", "2026-11-28T02:30:00Z", "--slot", "2026-11-29 02:30:00"];
    place.run(&[&["schedule", "fire", "nightly"], &slots[..]].concat()).expect(0);
    let history = place.run(&["schedule", "history", "nightly"]).expect(0).out;
    assert!(
        history.contains("2026-11-28 02:30:00") && history.contains("2026-11-29 02:30:00"),
        "{history}"
    );
    place.run(&["schedule", "fire", "other"]).expect(2);
    let wrong = place.run(&["schedule", "fire", "nightly", "--slot", "yesterday"]).expect(2).err;
    assert!(wrong.contains("`yesterday`"), "{wrong}");
    place.run(&["schedule", "set", "once", "2099-01-01 00:00:00"]).expect(0);
    let refused =
        place.run(&["schedule", "fire", "once", "--slot", "2026-11-28T02:30:00Z"]).expect(2).err;
    assert!(refused.contains("fires once"), "{refused}");
    place.run(&["schedule", "fire", "once"]).expect(0);
}

#[test]
fn a_schedule_in_memory_is_refused() {
    let place = Place::on("memory:");
    let message = place.run(&["schedule", "set", "a", "2099-01-01 00:00:00"]).expect(2);
    assert!(message.err.contains("memory:"), "{}", message.err);
}

#[test]
fn explain_tells_the_rule_the_next_fires_and_the_changes_of_the_clock() {
    let place = Place::new();
    let words =
        ["schedule", "explain", "--count", "2", "cron", "0 30 2 * * *", "tz", "Europe/Berlin"];
    let message = place.run(&words).expect(0).out;
    assert!(message.contains("At 02:30 (Europe/Berlin)"), "{message}");
    assert!(message.matches("02:30:00 CE").count() >= 2, "{message}");
    assert!(
        message.contains("forward from 02:00 to 03:00; it fires at 03:00:00 CEST"),
        "{message}"
    );
    assert!(message.contains("back from 03:00 to 02:00; it fires at 02:30:00 CEST"), "{message}");
    let every = place.run(&["schedule", "explain", "--count", "1", "every", "1h"]).expect(0).out;
    let now = batchwright::clock::Clock::now(&batchwright::clock::SystemClock::default());
    let hour = (now + jiff::SignedDuration::from_hours(1)).strftime("%Y-%m-%d %H:").to_string();
    assert!(every.contains(&hour), "the first fire is after the first hour: {every}");
    let json = place.run(&[&words[..], &["--format", "json"]].concat()).expect(0).json();
    assert_eq!(json["next"].as_array().unwrap().len(), 2);
}

/// As Kairoi writes its log.
fn kairoi_record(identifier: &str, nanos: i64, status: u8) -> Vec<u8> {
    let length = u16::try_from(identifier.len()).unwrap().to_be_bytes();
    let record =
        [&[0][..], &length, identifier.as_bytes(), &nanos.to_be_bytes(), &[status]].concat();
    [&u32::try_from(record.len()).unwrap().to_be_bytes()[..], &record].concat()
}

#[test]
fn a_data_folder_of_kairoi_is_taken_over_its_torn_tail_told() {
    let place = Place::new();
    let far = 4_070_908_800_000_000_000;
    let mut log =
        [kairoi_record("a", far, 0), kairoi_record("b", far, 2), kairoi_record("c", far, 1)]
            .concat();
    log.extend_from_slice(&kairoi_record("torn", far, 0)[..9]);
    place.write("kairoi/logfile", log);
    let message =
        place.run(&["schedule", "import-kairoi", "kairoi", "--format", "json"]).expect(1).json();
    assert_eq!((&message["triggers"], &message["ended"]), (&2.into(), &1.into()));
    assert!(message["problems"][0].as_str().unwrap().contains("ends inside a record"), "{message}");
    assert_eq!(history(&place, "a")[0]["slot"], "2099-01-01 00:00:00");
    place.run(&["schedule", "import-kairoi", "nowhere"]).expect(2);
}

#[test]
fn a_wrong_configuration_is_told_with_its_place() {
    let place = Place::new();
    place.write("batchwright.toml", "[kcp]\nlisen = \"127.0.0.1:0\"\n");
    let message = place.run(&["serve"]).expect(78);
    assert!(message.err.contains("lisen") && message.err.contains("line 2"), "{}", message.err);
    place.run(&["serve", "--config", "there-is-none.toml"]).expect(78);
}

#[test]
fn an_address_that_is_taken_and_a_store_that_keeps_no_triggers_are_told() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let message = place.run(&["serve", "--listen", &address]).expect(69);
    assert!(message.err.contains(&address), "{}", message.err);
    // The schedule is free again: no lease is left that another server would wait for.
    assert_eq!(Serving::start(&place).end(), 0);
}

#[test]
fn systemd_is_told_when_the_server_is_ready_and_when_it_ends() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.path("notify")).unwrap();
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", place.path("notify"));
    let serving = Serving::of(&mut command);
    let heard = || {
        let mut bytes = [0; 1024];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    assert!(heard().contains("READY=1"));
    assert!(heard().contains("STATUS=0 executions run, 0 triggers are being fired"));
    assert_eq!(serving.end(), 0);
    while !heard().contains("STOPPING=1") {}
}

#[test]
fn what_a_month_of_down_time_missed_follows_the_policy_of_each_trigger() {
    let place = Place::new();
    let out = place.path("out");
    let script =
        place.write("run.sh", format!("echo \"$1 $BATCHWRIGHT_SLOT\" >> {}\n", out.display()));
    place.run(&["rule", "set", "all", "", "shell", script.to_str().unwrap()]).expect(0);
    for policy in ["skip", "once", "all"] {
        let name = format!("m.{policy}");
        place.run(&["schedule", "set", &name, "cron", "0 6 * * *", "misfire", policy]).expect(0);
    }
    // As if nothing had run for thirty days.
    let database = rusqlite::Connection::open(place.path("batchwright.db")).unwrap();
    let month = 30 * 86_400_000_000_i64;
    database.execute("UPDATE bw_trigger SET slot = slot - ?1, due = due - ?1", [month]).unwrap();
    let serving = Serving::start(&place);
    let fired = |name: &str| {
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        text.lines().filter(|line| line.starts_with(&format!("{name} "))).count()
    };
    until("the missed ones ran", || fired("m.all") == 30 && fired("m.once") == 1);
    let skip = history(&place, "m.skip");
    assert_eq!(fired("m.skip"), 0);
    assert_eq!(skip.len(), 2, "{skip:?}");
    assert_eq!(skip[1]["status"], "skipped");
    assert!(skip[1]["reason"].as_str().unwrap().contains("missed"), "{skip:?}");
    assert!(history(&place, "m.once").iter().any(|row| row["status"] == "skipped"));
    assert_eq!(history(&place, "m.all").len(), 31);
    assert_eq!(serving.end(), 0);
}

#[test]
fn a_script_that_fails_is_tried_again_and_then_somebody_must_look() {
    let place = Place::new();
    let script =
        place.write("fail.sh", "echo \"attempt $BATCHWRIGHT_ATTEMPT\"; echo broken >&2; exit 3\n");
    let serving = Serving::start(&place);
    let mut client = serving.client();
    client.done(&format!("1 RULE SET r \"\" shell {} retry 2 backoff 50ms", script.display()));
    client.done("2 SET a \"2001-01-01 00:00:00\"");
    serving.until_status("a", "dead");
    let row = history(&place, "a").remove(0);
    assert_eq!(row["attempts"], 3);
    assert_eq!(row["reason"], "exit code 3: broken");
    assert_eq!(row["output"], "attempt 3\nbroken");
}

#[test]
fn a_script_that_takes_too_long_is_ended_with_all_that_it_started() {
    let place = Place::new();
    let script = place
        .write("slow.sh", format!("sleep 600 & echo $! > {}; wait\n", place.path("pid").display()));
    let serving = Serving::start(&place);
    let mut client = serving.client();
    client.done(&format!("1 RULE SET r \"\" shell {} timeout 300ms", script.display()));
    client.done("2 SET a \"2001-01-01 00:00:00\"");
    serving.until_status("a", "failed");
    assert!(history(&place, "a")[0]["reason"].as_str().unwrap().contains("timed out after"));
    let pid = place.read("pid").trim().to_owned();
    until("its child has ended", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
}

#[test]
fn a_slot_that_runs_gives_way_to_the_next_one() {
    let place = Place::new();
    let script = place.write("slow.sh", "sleep 600\n");
    let serving = Serving::start(&place);
    let mut client = serving.client();
    client.done(&format!("1 RULE SET r \"\" shell {}", script.display()));
    client.done("2 SET a every 400ms overlap replace");
    until("two gave way", || {
        history(&place, "a")
            .iter()
            .filter(|row| {
                row["reason"].as_str().is_some_and(|reason| reason.starts_with("replaced by"))
            })
            .count()
            >= 2
    });
    client.done("3 PAUSE a");
    assert_eq!(serving.end(), 0, "what runs is ended with the server");
}

/// A request as it came.
struct Heard {
    head: String,
    body: String,
}

/// Answers one request after the other with `statuses`, and tells what it heard.
fn webhook(statuses: &'static [&'static str]) -> (String, mpsc::Receiver<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (tell, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let mut read = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                read.read_line(&mut head).unwrap();
            }
            let length = head.to_lowercase();
            let length = length
                .split("content-length: ")
                .nth(1)
                .unwrap()
                .lines()
                .next()
                .unwrap()
                .parse()
                .unwrap();
            let mut body = vec![0; length];
            read.read_exact(&mut body).unwrap();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
            )
            .unwrap();
            tell.send(Heard { head, body: String::from_utf8(body).unwrap() }).unwrap();
        }
    });
    (url, heard)
}

#[test]
fn a_webhook_is_signed_and_tried_again_unless_the_request_itself_is_wrong() {
    let place = Place::new();
    let serving = Serving::start(&place);
    let mut client = serving.client();
    let (url, heard) = webhook(&["503 Busy", "200 Fine"]);
    client.done(&format!("1 RULE SET r again http {url} secret retry 3 backoff 50ms"));
    client.done("2 SET again.ä \"2001-01-01 00:00:00\"");
    serving.until_status("again.ä", "executed");
    let (first, second) = (heard.recv().unwrap(), heard.recv().unwrap());
    let header = |of: &Heard, name: &str| {
        let line = of.head.lines().find(|line| line.to_lowercase().starts_with(name)).unwrap();
        line.split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(header(&first, "webhook-id"), "again.%C3%A4/2001-01-01T00:00:00Z");
    assert_eq!(header(&first, "webhook-id"), header(&second, "webhook-id"));
    assert!(header(&first, "webhook-signature").starts_with("v1,"));
    let traces = [&first, &second].map(|one| header(one, "traceparent"));
    assert!(traces[0].len() == 55 && traces[0] != traces[1], "each call is a span: {traces:?}");
    let body: Value = serde_json::from_str(&second.body).unwrap();
    assert_eq!((&body["trigger"], &body["attempt"]), (&"again.ä".into(), &2.into()));
    let (url, heard) = webhook(&["404 Nothing"]);
    client.done(&format!("3 RULE SET w wrong http {url}"));
    client.done("4 SET wrong \"2001-01-01 00:00:00\"");
    serving.until_status("wrong", "failed");
    heard.recv().unwrap();
    let row = history(&place, "wrong").remove(0);
    assert_eq!((&row["attempts"], &row["output"]), (&1.into(), &"body".into()));
    assert!(row["reason"].as_str().unwrap().contains("404"));
}

#[test]
fn a_job_that_was_handed_over_runs_and_goes_on_after_a_graceful_end() {
    let place = Place::new();
    let (begun, gate) = (place.path("begun"), place.write("gate", ""));
    place.write(
        "jobs/slow.toml",
        format!(
            "name = \"slow\"\n[[steps]]\nname = \"work\"\ntype = \"command\"\n\
             argv = [\"sh\", \"-c\", \"touch {}; while [ -e {} ]; do sleep 0.02; done\"]\n",
            begun.display(),
            gate.display()
        ),
    );
    let serving = Serving::start(&place);
    place.run(&["start", "slow"]).expect(0);
    until("it runs", || begun.exists());
    assert_eq!(serving.end(), 0);
    assert_eq!(place.show(1)["status"], "STOPPED");
    std::fs::remove_file(&gate).unwrap();
    let serving = Serving::start(&place);
    until("the next server ends it", || {
        place.newest() == Some(2) && place.show(2)["status"] == "COMPLETED"
    });
    assert_eq!(serving.end(), 0);
}

#[test]
fn past_slots_run_one_after_another_where_slots_must_not_overlap() {
    let place = Place::new();
    let server = serving::Serving::start(&place);
    let log = place.path("log");
    let text = format!("echo begin >> {0}\nsleep 0.2\necho end >> {0}\n", log.display());
    let script = place.write("script.sh", text);
    place.run(&["rule", "set", "r", "nightly", "shell", script.to_str().unwrap()]).expect(0);
    place.run(&["schedule", "set", "nightly", "cron", "0 30 2 * * *", "overlap", "skip"]).expect(0);
    let slots = [
        "--slot",
        "2026-11-26T02:30:00Z",
        "--slot",
        "2026-11-27T02:30:00Z",
        "--slot",
        "2026-11-28T02:30:00Z",
    ];
    place.run(&[&["schedule", "fire", "nightly"], &slots[..]].concat()).expect(0);
    until("three slots were executed", || {
        let history = place.run(&["schedule", "history", "nightly"]).expect(0).out;
        history.matches("executed").count() == 3
    });
    assert_eq!(place.read("log"), "begin\nend\n".repeat(3), "one after another");
    drop(server);
}
