//! The line protocol through real sockets: every row of the contract that says what ours does.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::net::Shutdown;
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright_server::kcp::Decoder;
use batchwright_testkit::{Service, needs};
use common::{Place, SimRng, until};
use serving::{Kcp, Serving, in_seconds};

const FAR: &str = "\"2099-01-01 00:00:00\"";
const PAST: &str = "\"2001-01-01 00:00:00\"";

/// A server whose rule appends identifiers to `out`.
fn recording() -> (Place, Serving) {
    let place = Place::new();
    let out = place.path("out");
    let script = place.write("record.sh", format!("printf '%s\\n' \"$1\" >> {}\n", out.display()));
    let serving = Serving::start(&place);
    serving.client().done(&format!("1 RULE SET all \"\" shell {}", script.display()));
    (place, serving)
}

fn recorded(place: &Place) -> Vec<String> {
    let text = std::fs::read_to_string(place.path("out")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_trigger_of_the_past_fires_at_once_and_one_of_the_future_waits() {
    let (place, serving) = recording();
    let mut client = serving.client();
    client.done(&format!("1 SET far {FAR}"));
    client.done(&format!("2 SET past {PAST}"));
    serving.until_status("past", "executed");
    assert_eq!(recorded(&place), ["past"]);
    assert_eq!(client.ask("3 GET far"), "3 OK far planned \"2099-01-01 00:00:00\" \"\"");
}

#[test]
fn setting_again_follows_the_status() {
    let place = Place::new();
    let gate = place.path("gate");
    std::fs::write(&gate, "").unwrap();
    let script = format!(
        "echo \"$1\" >> {}/out; while [ -e {} ]; do sleep 0.01; done; exit 3\n",
        place.root().display(),
        gate.display()
    );
    let script = place.write("slow.sh", script);
    let serving = Serving::start(&place);
    let mut client = serving.client();
    client.done(&format!("1 RULE SET all \"\" shell {}", script.display()));
    // planned → new time
    client.done(&format!("2 SET a {FAR}"));
    client.done(&format!("3 SET a {PAST}"));
    until("it fires", || recorded(&place) == ["a"]);
    // triggered → ERROR, and nothing else of it either
    for request in ["SET a \"2099-01-01 00:00:00\"", "UNSET a", "PAUSE a"] {
        assert_eq!(client.ask(&format!("4 {request}")), "4 ERROR", "{request}");
    }
    std::fs::remove_file(&gate).unwrap();
    // failed → planned
    serving.until_status("a", "failed");
    client.done(&format!("5 SET a {FAR}"));
    assert!(client.ask("6 GET a").contains("planned"));
    client.done("7 UNSET a");
    assert_eq!(client.ask("8 GET a"), "8 ERROR");
}

#[test]
fn the_longest_rule_wins_then_the_newest_and_without_one_a_trigger_fails() {
    let place = Place::new();
    let script = |name: &str| {
        let text = format!("echo {name}:$1 >> {}\n", place.path("out").display());
        place.write(&format!("{name}.sh"), text).display().to_string()
    };
    let serving = Serving::start(&place);
    let mut client = serving.client();
    client.done(&format!("1 SET orphan {PAST}"));
    serving.until_status("orphan", "failed");
    for (rule, pattern) in
        [("any", "\"\""), ("old", "app."), ("new", "app."), ("deep", "app.mail.")]
    {
        client.done(&format!("2 RULE SET {rule} {pattern} shell {}", script(rule)));
    }
    for trigger in ["app.mail.1", "app.1", "x"] {
        client.done(&format!("3 SET {trigger} {PAST}"));
        serving.until_status(trigger, "executed");
    }
    assert_eq!(recorded(&place), ["deep:app.mail.1", "new:app.1", "any:x"]);
    client.done("4 RULE UNSET new");
    client.done(&format!("5 SET app.2 {PAST}"));
    serving.until_status("app.2", "executed");
    assert_eq!(recorded(&place).last().unwrap(), "old:app.2");
    assert_eq!(client.ask("6 RULE UNSET new"), "6 ERROR");
}

#[test]
fn answers_carry_the_identifier_as_an_argument() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    assert_eq!(client.ask("\"my id\" PING"), "\"my id\" OK");
    assert_eq!(client.ask("\"a\\\"b\\\\\" PING"), "\"a\\\"b\\\\\" OK");
    assert_eq!(client.ask("back\\slash PING"), "back\\slash OK");
    assert_eq!(client.ask("\"\" PING"), "\"\" OK");
    assert_eq!(client.ask("  spaced   PING  "), "spaced OK");
    assert_eq!(client.ask("terminal PING\r"), "terminal OK");
}

#[test]
fn identifiers_may_hold_line_feeds_tabs_nul_and_every_letter() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    for identifier in ["a\nb", "a\tb", "a\0b", "ä😀", "\\0", "'; DROP TABLE bw_trigger; --", ""]
    {
        let quoted = format!("\"{}\"", identifier.replace('\\', "\\\\"));
        client.done(&format!("1 SET {quoted} {FAR}"));
        client.send(format!("2 UNSET {quoted}\n"));
        assert_eq!(client.line(), "2 OK", "{identifier:?}");
    }
}

#[test]
fn what_is_no_message_is_told_and_the_next_line_is_heard() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    client.done("h HELLO 2");
    for (wrong, answer) in [
        ("", "\"\" ERROR malformed"),
        ("7", "7 ERROR malformed"),
        ("7 \"bad \\x escape\" PING", "7 ERROR malformed"),
    ] {
        assert!(client.ask(wrong).starts_with(answer), "{wrong:?}");
    }
    client.send(b"8 SET \xff\xfe \"2099-01-01 00:00:00\"\n");
    assert!(client.line().starts_with("8 ERROR malformed"));
    client.done("9 PING");
    assert_eq!(client.ask("10 LIST \"\" 10"), "10 OK", "nothing was stored");
}

#[test]
fn requests_that_are_wrong_are_refused_and_the_connection_stays() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    for wrong in [
        "NOPE",
        "SET a",
        "SET a tomorrow",
        "SET a \"2026-13-01 00:00:00\"",
        "SET a \"10000-01-01 00:00:00\"",
        "SET a cron \"0 0 31 2 *\"",
        "SET a cron \"* * * *\"",
        "SET a every 90s tz Nowhere/Land",
        "RULE SET r p",
        "RULE SET r p pigeon x",
        "RULE SET r p shell -c",
        "RULE SET r p amqp nonsense e k",
        "GET a",
        "UNSET a",
        "LIST \"\" 0",
        "LIST \"\" 1001",
    ] {
        assert_eq!(client.ask(&format!("1 {wrong}")), "1 ERROR", "{wrong}");
    }
    client.done("2 SET last \"9999-12-31 23:59:59\"");
    client.done("3 SET exact 2099-01-01T00:00:00.25+02:00");
}

#[test]
fn after_ten_bad_messages_what_is_pending_is_answered_and_the_connection_closed() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    let sets: String = (0..500).map(|n| format!("{n} SET t{n} {FAR}\n")).collect();
    client.send(format!("{sets}{}", "bad\n".repeat(10)));
    client.send("late PING\n");
    let answers = client.rest();
    assert_eq!(answers.iter().filter(|line| line.ends_with(" OK")).count(), 500);
    assert_eq!(answers.iter().filter(|line| line.ends_with(" ERROR")).count(), 10);
}

#[test]
fn a_message_over_the_limit_ends_the_connection_and_costs_no_memory() {
    let (_place, serving) = recording();
    let before = serving.memory();
    for _ in 0..20 {
        let mut client = serving.client();
        client.send("ok PING\n");
        client.send("big SET \"");
        let chunk = vec![b'a'; 256 * 1024];
        for _ in 0..6 {
            if std::io::Write::write_all(&mut client.stream, &chunk).is_err() {
                break;
            }
        }
        let answers = client.rest();
        assert_eq!(answers.first().map(String::as_str), Some("ok OK"));
    }
    let more = serving.memory().saturating_sub(before);
    assert!(more < 64 * 1024 * 1024, "{more} bytes more");
    serving.client().done("1 PING");
}

#[test]
fn a_half_closed_connection_is_answered_whole() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    let sets: String = (0..2_000).map(|n| format!("{n} SET t{n} {FAR}\n")).collect();
    client.send(sets);
    client.stream.shutdown(Shutdown::Write).unwrap();
    let answers = client.rest();
    assert_eq!(answers.len(), 2_000);
    assert!(answers.iter().all(|line| line.ends_with(" OK")));
}

#[test]
fn characters_that_are_cut_in_two_are_whole() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    let message = format!("1 SET \"ä😀é\" {FAR}\n");
    for byte in message.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.line(), "1 OK");
    assert!(client.ask("2 LIST \"\" 10").starts_with("2 OK ä😀é planned"));
}

#[test]
fn lists_come_in_order_and_page_by_page() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    for name in ["b.2", "a.1", "b.10", "b.1", "c"] {
        client.done(&format!("1 SET {name} {FAR}"));
    }
    let names = |line: String| -> Vec<String> {
        let words: Vec<_> = line.split(' ').collect();
        words.iter().filter(|word| word.contains("b.")).map(|word| (*word).to_owned()).collect()
    };
    assert_eq!(names(client.ask("2 LIST b. 2")), ["b.1", "b.10"]);
    assert_eq!(names(client.ask("3 LIST b. 2 b.10")), ["b.2"]);
    assert_eq!(client.ask("4 LIST b. 2 b.2"), "4 OK");
}

#[test]
fn reasons_are_told_to_those_who_asked_for_them() {
    let (_place, serving) = recording();
    let mut client = serving.client();
    assert_eq!(client.ask("1 GET nothing"), "1 ERROR");
    client.done("2 HELLO 2");
    assert_eq!(client.ask("3 GET nothing"), "3 ERROR not_found \"there is no trigger `nothing`\"");
}

#[test]
fn a_recurring_trigger_fires_again_and_again_and_can_be_paused() {
    let (place, serving) = recording();
    let mut client = serving.client();
    client.done("1 SET tick every 100ms");
    until("it fires three times", || recorded(&place).len() >= 3);
    client.done("2 PAUSE tick");
    assert!(client.ask("3 GET tick").contains(" paused "));
    // What had been claimed before the pause may still come; then nothing more does.
    let history = || place.run(&["schedule", "history", "tick", "--format", "json"]).expect(0).out;
    until("nothing runs", || !history().contains("triggered"));
    let before = recorded(&place).len();
    StopToken::default().wait(Duration::from_millis(400));
    assert_eq!(recorded(&place).len(), before);
    client.done("4 RESUME tick");
    until("it fires again", || recorded(&place).len() > before);
    assert!(history().contains("paused from"), "{}", history());
}

#[test]
fn a_token_is_asked_for_before_anything_is_told() {
    let place = Place::new();
    place.write("token", "open sesame\n");
    place.write("batchwright.toml", "[kcp]\ntoken_file = \"token\"\n");
    let serving = Serving::start(&place);
    let mut stranger = serving.client();
    stranger.done("1 HELLO 2");
    for request in ["PING", "GET a", "NOPE", "SET a \"2099-01-01 00:00:00\"", "LIST \"\" 1"] {
        let answer = stranger.ask(&format!("2 {request}"));
        assert!(answer.starts_with("2 ERROR unauthorized"), "{request}: {answer}");
    }
    let guesses = "3 AUTH wrong\n".repeat(10);
    stranger.send(guesses);
    assert_eq!(stranger.rest().len(), 10, "then it is closed");
    let mut friend = serving.client();
    friend.done("1 AUTH \"open sesame\"");
    friend.done("2 PING");
    assert!(!serving.last_word().contains("sesame"));
}

#[test]
fn an_address_that_others_reach_needs_tls_and_a_token() {
    let place = Place::new();
    let refused = place.run(&["serve", "--listen", "0.0.0.0:0"]).expect(69);
    assert!(refused.err.contains("token"), "{}", refused.err);
}

#[test]
fn more_clients_than_allowed_are_told_so() {
    let place = Place::new();
    place.write("batchwright.toml", "[kcp]\nconnections_max = 2\n");
    let serving = Serving::start(&place);
    let (mut first, mut second) = (serving.client(), serving.client());
    first.done("1 PING");
    second.done("1 PING");
    let message = serving.client().rest().concat();
    assert!(message.starts_with("\"\" ERROR limit"), "{message}");
    drop(first);
    until("there is room again", || {
        let mut third = Kcp::connect(&serving.address);
        third.send("1 PING\n");
        third.line() == "1 OK"
    });
}

#[test]
fn ten_thousand_idle_clients_are_held_and_one_more_is_served() {
    if needs(Service::ManyFiles).is_none() {
        return;
    }
    let (_place, serving) = recording();
    let before = serving.memory();
    let mut held = Vec::new();
    for _ in 0..10_000 {
        held.push(std::net::TcpStream::connect(&serving.address).unwrap());
    }
    let mut client = serving.client();
    client.done("1 PING");
    let each = serving.memory().saturating_sub(before) / 10_000;
    assert!(each < 16 * 1024, "{each} bytes a client");
}

#[test]
fn a_client_that_dribbles_is_given_up_and_holds_up_nobody() {
    let place = Place::new();
    place.write("batchwright.toml", "[kcp]\nmessage_timeout = \"1s\"\n");
    let serving = Serving::start(&place);
    let (mut slow, mut quick) = (serving.client(), serving.client());
    slow.done("1 PING");
    let mut sent = 0;
    for byte in b"2 SET \"a very long name that comes byte by byte and never ends".iter().cycle() {
        if std::io::Write::write_all(&mut slow.stream, &[*byte]).is_err() || sent > 600 {
            break;
        }
        sent += 1;
        quick.done("1 PING");
        StopToken::default().wait(Duration::from_millis(20));
    }
    assert!(sent < 600, "it was listened to without end");
    // An idle connection is no slow one.
    StopToken::default().wait(Duration::from_millis(1_200));
    quick.done("2 PING");
}

#[test]
fn a_client_that_never_reads_holds_up_nobody_and_costs_a_bounded_amount() {
    let (_place, serving) = recording();
    let before = serving.memory();
    let address = serving.address.clone();
    let deaf = std::net::TcpStream::connect(&address).unwrap();
    deaf.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut writing = deaf.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        let batch = "a-rather-long-identifier-of-a-request PING\n".repeat(10_000);
        let mut sent = 0_u64;
        // Until nothing more is taken.
        while std::io::Write::write_all(&mut writing, batch.as_bytes()).is_ok() && sent < 300 {
            sent += 1;
        }
        sent
    });
    let mut client = serving.client();
    for number in 0..200 {
        client.done(&format!("{number} SET t{number} {FAR}"));
    }
    let batches = flood.join().unwrap();
    assert!(batches < 300, "it was read without end");
    let more = serving.memory().saturating_sub(before);
    assert!(more < 96 * 1024 * 1024, "{more} bytes");
    client.done("1 PING");
}

#[test]
fn any_bytes_get_an_answer_or_a_clean_close() {
    let (_place, serving) = recording();
    let mut rng = SimRng(7);
    let pieces: [&[u8]; 16] = [
        b"1",
        b" ",
        b"\n",
        b"\"",
        b"\\",
        b"SET",
        b"RULE",
        b"LIST",
        b"\r\n",
        b"\0",
        b"\xff",
        b"a b",
        b"\"2099-01-01 00:00:00\"",
        b"every 90s",
        b"shell",
        b"\t",
    ];
    for _ in 0..300 {
        let mut client = serving.client();
        let bytes: Vec<u8> = (0..rng.below(60))
            .flat_map(|_| pieces[usize::try_from(rng.below(16)).unwrap()].to_vec())
            .collect();
        let _ = std::io::Write::write_all(&mut client.stream, &bytes);
        let _ = client.stream.shutdown(Shutdown::Write);
        // Identifiers may hold line feeds: the answers are read as the messages that they are.
        let answers = client.rest().join("\n") + "\n";
        let (mut rest, mut decoder) =
            (answers.trim_start_matches('\n').as_bytes(), Decoder::default());
        while let Some(answer) = decoder.next(&mut rest) {
            let words = answer.unwrap();
            assert!(["OK", "ERROR"].contains(&words[1].as_str()), "{words:?} to {bytes:?}");
        }
        assert!(!decoder.is_inside(), "a torn answer to {bytes:?}");
    }
    serving.client().done("1 PING");
}

#[test]
fn a_server_that_ends_answers_what_it_was_asked() {
    let (place, serving) = recording();
    let mut client = serving.client();
    let sets: String = (0..3_000).map(|n| format!("{n} SET t{n:04} {FAR}\n")).collect();
    client.send(sets);
    client.line();
    assert_eq!(serving.end(), 0);
    let answered = client.rest().iter().filter(|line| line.ends_with(" OK")).count() + 1;
    let listed = place.run(&["schedule", "list", "--limit", "1000", "--format", "json"]).expect(0);
    assert!(listed.out.lines().count() >= answered.min(1_000));
}

#[test]
fn a_date_in_seconds_fires_at_its_second() {
    let (place, serving) = recording();
    let due = in_seconds(1);
    serving.client().done(&format!("1 SET soon {due}"));
    assert_eq!(recorded(&place).len(), 0);
    serving.until_status("soon", "executed");
    let row = place.run(&["schedule", "history", "soon", "--format", "json"]).expect(0).json();
    assert!(row["fired_at"].as_str() >= row["slot"].as_str(), "{row}");
}
