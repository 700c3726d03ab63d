//! Acknowledged is durable: `kill -9`, torn tails, full disks and read-only stores lose nothing that was
//! answered `OK`, and what was being fired fires again.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use batchwright::clock::StopToken;
use common::{Place, SimRng, until};
use serving::{Kcp, Serving};

const FAR: &str = "\"2099-01-01 00:00:00\"";
const KILLS: usize = 20;

/// All triggers that the store holds.
fn stored(place: &Place) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut after = String::new();
    loop {
        let list = ["schedule", "list", "--limit", "1000", "--format", "json", "--after", &after];
        let page = place.run(&list).expect(0).out;
        let before = found.len();
        for line in page.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            after = row["identifier"].as_str().unwrap().to_owned();
            found.insert(after.clone());
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Pipelines `SET`s without end from `clients` connections; returns what was acknowledged before
/// the server ended.
fn flood(address: &str, round: usize, clients: usize) -> Vec<std::thread::JoinHandle<Vec<String>>> {
    (0..clients)
        .map(|client| {
            let mut kcp = Kcp::connect(address);
            std::thread::spawn(move || {
                let mut writing = kcp.stream.try_clone().unwrap();
                let prefix = format!("r{round}.c{client}");
                let sending = std::thread::spawn({
                    let prefix = prefix.clone();
                    move || {
                        for number in 0.. {
                            let set = format!("{number} SET {prefix}.{number:06} {FAR}\n");
                            if writing.write_all(set.as_bytes()).is_err() {
                                return;
                            }
                        }
                    }
                });
                let answers = kcp.rest();
                sending.join().unwrap();
                let acknowledged = answers.iter().filter_map(|line| line.strip_suffix(" OK"));
                acknowledged
                    .map(|number| format!("{prefix}.{:06}", number.parse::<u64>().unwrap()))
                    .collect()
            })
        })
        .collect()
}

#[test]
fn what_was_acknowledged_survives_twenty_kills_and_torn_tails() {
    let place = Place::new();
    let seed = std::env::var("SIM_SEED").map_or(3, |seed| seed.parse().unwrap());
    let mut rng = SimRng(seed);
    let mut acknowledged = BTreeSet::new();
    for round in 0..KILLS {
        let serving = Serving::start(&place);
        let clients = flood(&serving.address, round, 4);
        StopToken::default().wait(Duration::from_millis(50 + rng.below(250)));
        serving.kill();
        for client in clients {
            acknowledged.extend(client.join().unwrap());
        }
        // As a power cut in the middle of a write leaves it: a torn frame, or blocks of zeros.
        if let Ok(mut log) =
            std::fs::File::options().append(true).open(place.path("batchwright.db-wal"))
        {
            match rng.below(3) {
                0 => log.write_all(&vec![0; usize::try_from(rng.below(9_000)).unwrap()]).unwrap(),
                1 => {
                    let torn: Vec<u8> = (0..rng.below(6_000)).map(|n| (n % 251) as u8).collect();
                    log.write_all(&torn).unwrap();
                }
                _ => {}
            }
        }
    }
    let found = stored(&place);
    let lost: Vec<_> = acknowledged.difference(&found).take(5).collect();
    assert!(lost.is_empty(), "seed {seed}: of {} acknowledged lost {lost:?}", acknowledged.len());
    assert!(acknowledged.len() > 1_000, "only {} were acknowledged", acknowledged.len());
}

#[test]
fn what_was_being_fired_fires_once_more_after_a_crash() {
    let place = Place::new();
    let (out, gate) = (place.path("out"), place.write("gate", ""));
    let script = format!(
        "echo \"$1\" >> {}; case $1 in slow*) while [ -e {} ]; do sleep 0.02; done;; esac\n",
        out.display(),
        gate.display()
    );
    let script = place.write("run.sh", script);
    let fired = || std::fs::read_to_string(&out).unwrap_or_default();
    let times = |name: &str| fired().lines().filter(|line| *line == name).count();
    let serving = Serving::start(&place);
    let mut client = serving.client();
    client.done(&format!("1 RULE SET all \"\" shell {}", script.display()));
    for number in 0..8 {
        client.done(&format!("2 SET quick{number} \"2001-01-01 00:00:00\""));
        client.done(&format!("3 SET slow{number} \"2001-01-01 00:00:00\""));
    }
    until("all were begun", || fired().lines().count() == 16);
    for number in 0..8 {
        serving.until_status(&format!("quick{number}"), "executed");
    }
    // The second server dies too, while it fires them again.
    serving.kill();
    let serving = Serving::start(&place);
    until("all were begun again", || (0..8).all(|number| times(&format!("slow{number}")) == 2));
    serving.kill();
    std::fs::remove_file(&gate).unwrap();
    let serving = Serving::start(&place);
    for number in 0..8 {
        serving.until_status(&format!("slow{number}"), "executed");
        assert_eq!(times(&format!("slow{number}")), 3, "once more for each crash");
        assert_eq!(times(&format!("quick{number}")), 1);
    }
}

#[test]
fn a_full_disk_is_told_to_clients_and_costs_nothing_that_was_acknowledged() {
    let place = Place::new();
    // A limit on the size of files simulates a full disk.
    let program = env!("CARGO_BIN_EXE_batchwright");
    let line =
        format!("trap '' XFSZ; ulimit -S -f 2048; exec {program} serve --listen 127.0.0.1:0");
    let serving = Serving::of(
        std::process::Command::new("bash").args(["-c", &line]).current_dir(place.root()),
    );
    let mut client = serving.client();
    client.done("h HELLO 2");
    let mut acknowledged = Vec::new();
    let refused = (0..1_000_000)
        .find_map(|number| {
            let name = format!("{number:06}{}", "x".repeat(900));
            let answer = client.ask(&format!("{number} SET {name} {FAR}"));
            match answer.ends_with(" OK") {
                true => {
                    acknowledged.push(name);
                    None
                }
                false => Some(answer),
            }
        })
        .unwrap();
    assert!(refused.contains("ERROR unavailable"), "{refused}");
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    // Everything that was acknowledged can still be read.
    assert!(client.ask(&format!("g GET {}", acknowledged[0])).contains(" OK "));
    // There is room again: the same server goes on by itself.
    let pid = rustix::process::Pid::from_raw(serving.child.id().cast_signed());
    let none = rustix::process::Rlimit { current: None, maximum: None };
    rustix::process::prlimit(pid, rustix::process::Resource::Fsize, none).unwrap();
    until("it takes triggers again", || {
        let mut client = serving.client();
        client.send(format!("1 SET z {FAR}\n"));
        client.line() == "1 OK"
    });
    serving.kill();
    let found = stored(&place);
    assert!(acknowledged.iter().all(|name| found.contains(name)));
    assert!(found.contains("z"));
}

#[test]
fn a_store_that_cannot_be_written_is_refused_at_the_start() {
    let place = Place::new();
    place.run(&["schedule", "set", "a", "2099-01-01 00:00:00"]).expect(0);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&place.path("batchwright.db"), 0o444);
    mode(place.root(), 0o555);
    let mut command = place.command(&["serve", "--listen", "127.0.0.1:0"]);
    if rustix::process::getuid().is_root() {
        // Root may write everything.
        command.uid(65_534);
    }
    let refused = common::done(command.stdout(Stdio::piped()).output().unwrap());
    mode(place.root(), 0o755);
    mode(&place.path("batchwright.db"), 0o644);
    let refused = match refused.code {
        7 | 69 => refused,
        _ => refused.expect(69),
    };
    assert!(
        refused.err.contains("readonly") || refused.err.contains("unable to open"),
        "{}",
        refused.err
    );
    assert_eq!(stored(&place).len(), 1);
}
