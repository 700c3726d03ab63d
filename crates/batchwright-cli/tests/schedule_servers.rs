//! Two servers on one PostgreSQL: each slot fires once, none is lost, whichever server dies or sleeps, and whenever.

mod common;
#[path = "../../batchwright-store/tests/common/mod.rs"]
mod databases;
#[path = "common/serving.rs"]
mod serving;

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::clock::{Clock, StopToken, SystemClock};
use batchwright_testkit::{Service, needs};
use common::{Place, until};
use databases::Kind;
use rustix::process::Signal;
use serving::{Serving, ask, history};

/// Time between two slots, in milliseconds.
const INTERVAL_MS: i64 = 250;

fn now_ms() -> i64 {
    SystemClock::default().now().as_millisecond()
}

fn wait_until(millis: i64) {
    while now_ms() < millis {
        StopToken::default().wait(Duration::from_micros(100));
    }
}

/// How often each slot ran, by what the script wrote.
fn effects(place: &Place) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for line in std::fs::read_to_string(place.path("out")).unwrap_or_default().lines() {
        *seen.entry(line.to_owned()).or_default() += 1;
    }
    seen
}

/// A store on PostgreSQL with a rule that writes down slots.
fn shared() -> Option<(databases::Place, Place)> {
    if !Kind::Postgres.is_there() {
        return None;
    }
    let database = databases::Place::new(Kind::Postgres);
    let place = Place::on(&database.quick_url());
    let text = format!("echo \"$BATCHWRIGHT_SLOT\" >> {}\n", place.path("out").display());
    let script = place.write("run.sh", text);
    place.run(&["rule", "set", "all", "", "shell", script.to_str().unwrap()]).expect(0);
    Some((database, place))
}

fn server(place: &Place) -> Serving {
    Serving::start_with(place, &["--lease", "1s"])
}

#[test]
fn each_slot_fires_once_whatever_happens_to_one_of_two_servers() {
    let Some((_database, place)) = shared() else { return };
    let beginning = (now_ms() / 1_000 + 3) * 1_000;
    let from =
        SystemClock::default().now() + jiff::SignedDuration::from_millis(beginning - now_ms());
    let from = from.round(jiff::Unit::Second).unwrap().to_string();
    let plan = [
        "schedule",
        "set",
        "tick",
        "every",
        "250ms",
        "misfire",
        "all",
        "misfire-cap",
        "1000",
        "from",
        &from,
    ];
    place.run(&plan).expect(0);
    let first = history(&place, "tick")[0]["slot"].as_str().unwrap().to_owned();
    let first: i64 = format!("{}Z", first.replace(' ', "T"))
        .parse::<jiff::Timestamp>()
        .unwrap()
        .as_millisecond();
    let survivor = server(&place);
    let mut killed = 0;
    let mut slot = first;
    for offset in [-1, 0, 1].repeat(4) {
        let victim = server(&place);
        // Far enough that both have seen the slot coming.
        slot = first + ((now_ms() - first) / INTERVAL_MS + 3) * INTERVAL_MS;
        wait_until(slot + offset);
        victim.kill();
        killed += 1;
    }
    for _ in 0..2 {
        let sleeper = server(&place);
        slot = first + ((now_ms() - first) / INTERVAL_MS + 3) * INTERVAL_MS;
        wait_until(slot - 1);
        sleeper.signal(Signal::STOP);
        StopToken::default().wait(Duration::from_millis(2_500));
        sleeper.signal(Signal::CONT);
        until("it noticed", || sleeper.last_word().contains("lease of this server was lost"));
        killed += 1;
        sleeper.end();
    }
    place.run(&["schedule", "pause", "tick"]).expect(0);
    let is_over = || history(&place, "tick").iter().all(|row| row["status"] != "triggered");
    until("nothing runs any more", is_over);
    let last = slot;
    let seen = effects(&place);
    let expected = (0..).map(|n| first + n * INTERVAL_MS).take_while(|slot| *slot <= last);
    let mut missing = Vec::new();
    for slot in expected {
        let name = jiff::Timestamp::from_millisecond(slot).unwrap().to_string();
        if !seen.contains_key(&name) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "lost: {missing:?} of {}", seen.len());
    // A slot whose server died between its effect and the note of it may run once more: once a crash.
    let twice: usize = seen.values().map(|times| times - 1).sum();
    assert!(twice <= killed * 2, "{twice} ran again after {killed} deaths: {seen:?}");
    // In the store each slot is one row, and ended well.
    let stored = history(&place, "tick");
    let ended: Vec<_> = stored.iter().skip(1).collect();
    assert!(ended.len() >= 50, "{}", ended.len());
    assert!(ended.iter().all(|row| row["status"] == "executed"), "{ended:?}");
    assert_eq!(survivor.end(), 0);
}

#[test]
fn two_servers_fire_a_thousand_triggers_once_each() {
    let Some((_database, place)) = shared() else { return };
    let text = format!("echo \"$1\" >> {}\n", place.path("out").display());
    place.write("run.sh", text);
    let (one, two) = (server(&place), server(&place));
    let due = serving::at_millis(2_000);
    for serving in [&one, &two] {
        let mut client = serving.client();
        let sets: String = (0..1_000).map(|n| format!("{n} SET t{n:04} {due}\n")).collect();
        client.send(sets);
        (0..1_000).for_each(|_| assert!(client.line().ends_with(" OK")));
    }
    until("all ran", || effects(&place).len() == 1_000);
    one.until_status("t0999", "executed");
    assert!(effects(&place).values().all(|times| *times == 1));
    assert_eq!((one.end(), two.end()), (0, 0));
}

/// A job with one command.
fn job(name: &str, script: &str) -> String {
    format!(
        "name = \"{name}\"\n[[steps]]\nname = \"work\"\ntype = \"command\"\nargv = [\"sh\", \"-c\", \"{script}\"]\n"
    )
}

#[test]
fn a_slot_starts_one_instance_and_a_failed_one_is_restartable_while_the_next_runs() {
    if !Kind::Postgres.is_there() {
        return;
    }
    let database = databases::Place::new(Kind::Postgres);
    let place = Place::on(&database.quick_url());
    let fail = place.path("fail");
    place.write("jobs/nightly.toml", job("nightly", &format!("test ! -e {}", fail.display())));
    place.run(&["rule", "set", "nightly", "night", "job", "nightly"]).expect(0);
    let (one, two) = (server(&place), server(&place));
    place.write("fail", "");
    place.run(&["schedule", "set", "night", "every", "500ms", "misfire", "all"]).expect(0);
    let executions = || {
        let message =
            place.run(&["executions", "--limit", "1000", "--format", "json"]).expect(0).out;
        message
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<serde_json::Value>>()
    };
    until("some failed", || {
        executions().iter().filter(|one| one["status"] == "FAILED").count() >= 3
    });
    std::fs::remove_file(place.path("fail")).unwrap();
    until("some completed", || {
        executions().iter().filter(|one| one["status"] == "COMPLETED").count() >= 3
    });
    // Restarted by hand, while later slots run.
    let failed = executions().into_iter().rfind(|one| one["status"] == "FAILED").unwrap();
    place.run(&["restart", &failed["id"].to_string()]).expect(0);
    place.run(&["schedule", "pause", "night"]).expect(0);
    until("nothing runs", || {
        executions().iter().all(|one| one["status"] == "FAILED" || one["status"] == "COMPLETED")
    });
    // One instance a slot: no two executions of one slot but the restart.
    let mut slots: BTreeMap<String, usize> = BTreeMap::new();
    for one in executions() {
        let shown = place.show(one["id"].as_i64().unwrap());
        assert_eq!(shown["parameters"]["trigger"]["value"], "night", "{shown}");
        *slots.entry(shown["parameters"]["slot"]["value"].to_string()).or_default() += 1;
    }
    assert_eq!(slots.values().filter(|count| **count > 1).count(), 1, "{slots:?}");
    assert!(slots.len() >= 6);
    let history = history(&place, "night");
    assert_eq!(history.len() - 1, slots.len(), "each slot that fired has its instance");
    assert_eq!((one.end(), two.end()), (0, 0));
}

#[test]
fn what_was_handed_over_is_carried_forward_by_the_server_that_lives() {
    if !Kind::Postgres.is_there() {
        return;
    }
    let database = databases::Place::new(Kind::Postgres);
    let place = Place::on(&database.quick_url());
    place.write("gate", "");
    let gate = place.path("gate");
    let script = format!("while [ -e {} ]; do sleep 0.05; done", gate.display());
    place.write("jobs/slow.toml", job("slow", &script));
    let one = server(&place);
    place.run(&["start", "slow"]).expect(0);
    until("it runs", || place.show(1)["status"] == "STARTED");
    let two = server(&place);
    one.kill();
    until("the other one continues it", || {
        place.newest() == Some(2) && place.show(2)["status"] == "STARTED"
    });
    assert_eq!(place.show(1)["failure"]["code"], "recovered");
    std::fs::remove_file(place.path("gate")).unwrap();
    until("it ends", || place.show(2)["status"] == "COMPLETED");
    assert_eq!(two.end(), 0);
}

/// The library that gives a process another clock.
fn faketime() -> Option<std::path::PathBuf> {
    needs(Service::Faketime)?;
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let library = |folder: std::fs::DirEntry| folder.path().join("faketime/libfaketimeMT.so.1");
    Some(folders.map(library).find(|path| path.is_file()).expect("it belongs to `faketime`"))
}

#[test]
fn a_server_whose_clock_is_a_day_off_says_so_and_slots_fire_once_at_the_time_of_the_database() {
    let Some(library) = faketime() else { return };
    for off in ["+1d", "-1d"] {
        if !Kind::Postgres.is_there() {
            return;
        }
        let database = databases::Place::new(Kind::Postgres);
        let place = Place::on(&database.quick_url());
        // Who fired is the parent of the script.
        let text = format!("echo \"$BATCHWRIGHT_SLOT $PPID\" >> {}\n", place.path("out").display());
        let script = place.write("run.sh", text);
        place.run(&["rule", "set", "all", "", "shell", script.to_str().unwrap()]).expect(0);
        let right = server(&place);
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--lease", "1s"];
        let mut command = place.command(&arguments);
        command.env("LD_PRELOAD", &library).env("FAKETIME", off);
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let wrong = Serving::of(&mut command);

        place.run(&["schedule", "set", "t", "every", "250ms", "misfire", "all"]).expect(0);
        until("both had the time", || effects(&place).len() > 8);
        let ready = |server: &Serving| serving::get(&server.http, "/readyz");
        until("the wrong one is unready", || ready(&wrong).starts_with("HTTP/1.1 503"));
        assert!(ready(&right).starts_with("HTTP/1.1 200"), "{}", ready(&right));
        assert!(wrong.last_word().contains("clock"), "{}", wrong.last_word());
        place.run(&["schedule", "pause", "t"]).expect(0);
        for (fired, count) in effects(&place) {
            let (slot, by) = fired.split_once(' ').unwrap();
            assert_eq!(count, 1, "{off}: {slot} fired once");
            assert_eq!(
                by,
                right.child.id().to_string(),
                "{off}: by the server whose clock is right"
            );
            let slot: jiff::Timestamp = slot.parse().unwrap();
            let away = (slot.as_millisecond() - now_ms()).abs();
            assert!(away < 600_000, "{off}: {slot} is of today");
        }
        assert_eq!((right.end(), wrong.end()), (0, 0));
    }
}

#[test]
fn a_drained_server_begins_nothing_and_another_one_takes_over() {
    let Some((_database, place)) = shared() else { return };
    let job = "name = \"wait\"\n[[steps]]\nname = \"sleep\"\ntype = \"command\"\nargv = [\"sleep\", \"0\"]\n";
    place.write("wait.toml", job);
    let start =
        || Serving::start_with(&place, &["--lease", "1s", "--jobs", ".", "--http", "127.0.0.1:0"]);
    let drained = start();
    let (status, server) = ask(&drained, "POST", "/v1/server/drain", None);
    assert_eq!((status, &server["drained"]), (200, &true.into()), "{server}");
    assert_eq!(ask(&drained, "GET", "/readyz", None).0, 503);
    let (status, started) =
        ask(&drained, "POST", "/v1/jobs/wait/executions", Some(serde_json::json!({})));
    assert_eq!(status, 202, "{started}");
    place.run(&["schedule", "set", "now", &serving::at_millis(300)]).expect(0);
    let due = now_ms() + 300;
    wait_until(due + 1_500);
    assert_eq!(history(&place, "now")[0]["status"], "planned", "it is due and is not fired");
    let path = format!("/v1/executions/{}", started["id"]);
    assert_eq!(ask(&drained, "GET", &path, None).1["status"], "STARTING");
    let other = start();
    until("the other one runs the job", || {
        ask(&other, "GET", &path, None).1["status"] == "COMPLETED"
    });
    other.until_status("now", "executed");
    assert_eq!(effects(&place).len(), 1);
    assert_eq!(other.end(), 0);
    place.run(&["schedule", "set", "later", &serving::at_millis(0)]).expect(0);
    let (_, server) = ask(&drained, "POST", "/v1/server/resume", None);
    assert_eq!(server["drained"], false);
    drained.until_status("later", "executed");
    assert_eq!(ask(&drained, "GET", "/readyz", None).0, 200);
}
