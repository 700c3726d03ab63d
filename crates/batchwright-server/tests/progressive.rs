//! The rules of progressive execution, tested over HTTP on a server in a separate process.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright_server::progressive::client::BatchClient;
use batchwright_testkit::process::freeze;
use common::serving::{ATTEMPTS, CHUNK, Http, Opened, Place, drive, drive_lane, read, until_idle};
use common::until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Starts the servers of the other tests; not a test itself.
#[test]
fn serves_when_it_is_asked_to() {
    common::serving::serve_if_asked();
}

fn sum(units: u64) -> u64 {
    (0..units).sum()
}

fn response(http: &Http, opened: &Opened) -> Value {
    let answer = http.get(&opened.path("response?wait=60s"));
    assert_eq!(
        (answer.status, answer.header("x-of").as_deref()),
        (201, Some("the job")),
        "{}",
        answer.text()
    );
    answer.json()
}

#[test]
fn a_lane_takes_one_request_at_a_time() {
    let place = Place::start();
    let (http, opened) = (place.http(), place.open("single", "gate=0", 1));
    let first = http.send("POST", &opened.slice(0), Some(&json!({"seq": 1}))).unwrap();
    until("the first unit is in work", || place.runs(0) == 1);
    let busy = http.post(&opened.slice(0), &json!({"seq": 1}));
    assert_eq!((busy.status, busy.code().as_str()), (409, "lane_busy"));
    assert!(busy.header("retry-after").is_some());
    place.open_gate();
    assert_eq!(read(first).unwrap().json()["outcome"], "final");
}

#[test]
fn the_same_request_gets_the_same_bytes_and_any_other_number_is_refused() {
    let place = Place::start();
    let (http, opened) = (place.http(), place.open("single", "sleep=20", 1));
    let first = http.post(&opened.slice(0), &json!({"seq": 1, "target_ms": 200}));
    assert_eq!(first.json()["outcome"], "continue");
    let effects = place.effects().len();
    assert_eq!(http.post(&opened.slice(0), &json!({"seq": 1, "target_ms": 200})).body, first.body);
    assert_eq!(place.effects().len(), effects, "nothing ran");
    for seq in [3, 7] {
        let refused = http.post(&opened.slice(0), &json!({ "seq": seq }));
        assert_eq!((refused.status, refused.code().as_str()), (409, "wrong_seq"));
        assert_eq!(refused.json()["expected"], 2);
    }
}

#[test]
fn two_hundred_races_end_with_one_response_the_same_for_everybody() {
    const LANES: usize = 4;
    let place = Place::start();
    let http = place.http();
    for round in 0..200 {
        let opened = place.open("few", &format!("round={round}"), LANES as u32);
        let barrier = Barrier::new(LANES);
        let answers: Vec<_> = thread::scope(|scope| {
            let race = |lane: usize| {
                barrier.wait();
                let answers = drive_lane(&http, &opened, lane);
                (answers, http.get(&opened.path("response")).body)
            };
            let lanes: Vec<_> = (0..LANES).map(|lane| scope.spawn(move || race(lane))).collect();
            lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
        });
        let (_, first) = &answers[0];
        for (answers, response) in &answers {
            assert_eq!(response, first, "round {round}");
            let last = answers.last().unwrap();
            assert_eq!(last["outcome"], "final", "round {round}: {last}");
            assert_eq!(last["response"]["body"].as_str().unwrap().as_bytes(), first.as_slice());
        }
        let answer: Value = serde_json::from_slice(first).unwrap();
        assert_eq!(answer, json!({"sum": sum(16), "units": {"units_done": 16, "units_failed": 0}}));
        let steps = http.get(&opened.path("steps")).json();
        assert_eq!(
            (&steps["items"][0]["read"], &steps["items"][0]["write"]),
            (&json!(16), &json!(16))
        );
    }
    assert_eq!(place.effects().len(), 200 * 16, "each unit ran once in each round");
}

#[test]
fn lanes_whose_work_fits_a_slice_need_a_request_each() {
    let place = Place::start();
    let (http, opened) = (place.http(), place.open("single", "sleep=5", 8));
    let answers = drive(&http, &opened);
    let requests: Vec<_> = answers.iter().map(Vec::len).collect();
    assert_eq!(requests, [1; 8]);
    assert!(answers.iter().all(|answers| answers[0]["outcome"] == "final"));
}

#[test]
fn the_response_of_a_failed_execution_is_a_problem_document_until_it_is_acknowledged() {
    let place = Place::start();
    let (http, opened) = (place.http(), place.open("strict", "fail=5", 1));
    let answers = drive(&http, &opened);
    let last = answers[0].last().unwrap();
    assert_eq!((&last["outcome"], &last["response"]["status"]), (&json!("final"), &json!(500)));
    let answer = http.get(&opened.path("response?wait=60s"));
    let kind = answer.header("content-type");
    assert_eq!((answer.status, kind.as_deref()), (500, Some("application/problem+json")));
    let problem = answer.json();
    assert_eq!((&problem["code"], &problem["status"]), (&json!("unit_failed"), &json!(500)));
    assert_eq!(last["response"]["body"].as_str(), Some(&*answer.text()));
    assert_eq!(http.delete(&opened.path("response")).status, 204);
    assert_eq!(http.get(&opened.path("response")).status, 410);
}

#[test]
fn units_that_fail_panic_or_hang_have_their_attempts_and_the_others_are_counted() {
    let place = Place::start();
    let (http, opened) = (place.http(), place.open("single", "fail=13 panic=27 hang=42", 4));
    drive(&http, &opened);
    let bad = 13 + 27 + 42;
    let units = json!({"units_done": 97, "units_failed": 3});
    assert_eq!(response(&http, &opened), json!({"sum": sum(100) - bad, "units": units}));
    for unit in 0..100 {
        let expected = if [13, 27, 42].contains(&unit) { ATTEMPTS as usize } else { 1 };
        assert_eq!(place.runs(unit), expected, "unit {unit}");
    }
    let skips = http.get(&opened.path("skips")).json();
    let mut kinds: Vec<_> = skips["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skip| (skip["item"].as_u64().unwrap(), skip["kind"].as_str().unwrap().to_owned()))
        .collect();
    kinds.sort_unstable();
    let expected = [(14, "data"), (28, "panic"), (43, "worker_lost")];
    assert_eq!(kinds, expected.map(|(item, kind)| (item, kind.to_owned())));
}

#[test]
fn a_unit_that_kills_its_server_is_found_and_given_up() {
    for job in ["single", "chunks"] {
        let mut place = Place::start();
        let (http, opened) = (place.http(), place.open(job, "abort=71", 1));
        let units = if job == "single" { 100 } else { 2_000 };
        thread::scope(|scope| {
            let driven = scope.spawn(|| drive(&http, &opened));
            while !driven.is_finished() {
                if place.server.child.try_wait().unwrap().is_some() {
                    place.server = Place::serve(place.folder.path(), &place.address, &[]);
                }
                StopToken::default().wait(Duration::from_millis(10));
            }
        });
        let counts = json!({"units_done": units - 1, "units_failed": 1});
        assert_eq!(
            response(&http, &opened),
            json!({"sum": sum(units) - 71, "units": counts}),
            "{job}"
        );
        // In a chunk the failing unit is unknown at first: one or two more deaths until it runs alone.
        let unknown = if job == "single" { 0..=0 } else { 1..=2 };
        let runs = place.runs(71);
        assert!(unknown.contains(&(runs - ATTEMPTS as usize)), "{job}: {runs}");
    }
}

/// Disconnects the client of a slice with `policy`, and returns the lanes once no slice runs.
fn after_a_lost_client(policy: &str) -> (Place, Opened, Value) {
    let place = Place::start();
    let (http, opened) = (place.http(), place.open("many", "gate=3 sleep=2", 1));
    let body = json!({"seq": 1, "on_disconnect": policy, "target_ms": 5000});
    let socket = http.send("POST", &opened.slice(0), Some(&body)).unwrap();
    until("its unit is in work", || place.runs(3) == 1);
    socket.shutdown(Shutdown::Both).unwrap();
    drop(socket);
    place.open_gate();
    let lanes = until_idle(&http, &opened);
    (place, opened, lanes)
}

#[test]
fn a_slice_whose_client_is_gone_stops_after_its_unit_with_a_stored_answer() {
    let (place, opened, lanes) = after_a_lost_client("clean_stop");
    assert_eq!(lanes["lanes"][0]["next_seq"], 2);
    let answer = place.http().post(&opened.slice(0), &json!({"seq": 1})).json();
    assert_eq!(answer["outcome"], "continue");
    let done = answer["progress"]["units_done"].as_u64().unwrap();
    assert_eq!(done, place.effects().len() as u64, "what was done is committed");
    // Five seconds of units of two milliseconds would be far more units.
    assert!((4..1_000).contains(&done), "{done}");
}

#[test]
fn a_slice_whose_client_wants_nothing_more_drops_what_is_not_committed() {
    let (place, opened, lanes) = after_a_lost_client("halt");
    assert_eq!(lanes["lanes"][0]["next_seq"], 1, "there is no answer");
    let progress = place.http().get(&opened.path("progress")).json();
    let done = progress["units_done"].as_u64().unwrap();
    let effects = place.effects().len() as u64;
    assert!(done < effects && effects < 1_000, "{done} of {effects}");
}

#[test]
fn a_slice_whose_client_does_not_matter_works_on_to_its_end() {
    let (place, opened, lanes) = after_a_lost_client("ignore");
    assert_eq!(lanes["lanes"][0]["next_seq"], 2);
    let took = lanes["lanes"][0]["last_slice_ms"].as_u64().unwrap();
    assert!(took >= 4_000, "{took} ms");
    let progress = place.http().get(&opened.path("progress")).json();
    assert_eq!(progress["units_done"], place.effects().len());
}

#[test]
fn progress_never_goes_back_and_is_streamed_to_the_end() {
    let place = Place::start();
    let (http, opened) = (place.http(), place.open("chunks", "sleep=1", 4));
    let stream = |accept: &str| {
        let http = http.clone().with("accept", accept);
        http.send("GET", &opened.path("progress"), None).unwrap()
    };
    let (lines, events) = (stream("application/x-ndjson"), stream("text/event-stream"));
    let answers = drive(&http, &opened);
    for lane in answers {
        let done = lane.iter().map(|answer| answer["progress"]["units_done"].as_u64().unwrap());
        assert!(done.is_sorted());
    }
    let parsed = |socket: TcpStream| -> Vec<Value> {
        let lines = BufReader::new(socket).lines().map_while(Result::ok);
        let json = |line: String| {
            let line = line.strip_prefix("data: ").unwrap_or(&line).to_owned();
            serde_json::from_str::<Value>(&line).ok().filter(Value::is_object)
        };
        lines.filter_map(json).collect()
    };
    for values in [parsed(lines), parsed(events)] {
        let done: Vec<_> = values.iter().map(|one| one["units_done"].as_u64().unwrap()).collect();
        assert!(done.is_sorted() && done.len() > 2, "{done:?}");
        let last = values.last().unwrap();
        assert_eq!((&last["units_done"], &last["status"]), (&json!(2000), &json!("COMPLETED")));
        assert_eq!(last["units_total"], 2000);
    }
}

#[test]
fn a_lane_is_known_by_its_id_to_its_owner_alone() {
    let place = Place::start();
    let http = place.http();
    let mine = http.clone().with("x-batch-owner", "mine");
    let body = json!({"parameters": {"script": ""}, "lanes": 1});
    let opened = Opened::of(&mine.post("/v1/progressive/few", &body).json());
    let other = place.open("single", "", 1);
    let seq = json!({"seq": 1});
    let code = |answer: common::serving::HttpResponse| (answer.status, answer.code());
    let is = |status: u16, code: &str| (status, code.to_owned());
    for malformed in
        ["x", "../1", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcde"]
    {
        let path = opened.path(&format!("lanes/{}/slices", malformed.replace('/', "%2F")));
        assert_eq!(code(mine.post(&path, &seq)), is(400, "malformed_lane"), "{malformed}");
    }
    let unknown = opened.path("lanes/0123456789abcdef0123456789abcdef/slices");
    assert_eq!(code(mine.post(&unknown, &seq)), is(404, "no_such_lane"));
    let of_another = opened.path(&format!("lanes/{}/slices", other.lanes[0]));
    assert_eq!(code(mine.post(&of_another, &seq)), is(404, "no_such_lane"));
    let wrong = http.clone().with("x-batch-owner", "yours");
    for stranger in [&http, &wrong] {
        assert_eq!(code(stranger.post(&opened.slice(0), &seq)), is(403, "wrong_owner"));
        for what in ["progress", "response", "lanes"] {
            assert_eq!(code(stranger.get(&opened.path(what))), is(403, "wrong_owner"), "{what}");
        }
        assert_eq!(code(stranger.delete(&opened.path("response"))), is(403, "wrong_owner"));
    }
    assert_eq!(mine.post(&opened.slice(0), &seq).json()["outcome"], "final");
    assert_eq!(mine.delete(&opened.path("response")).status, 204);
    assert_eq!(mine.delete(&opened.path("response")).status, 204, "twice is once");
    let missing = mine.post(&opened.slice(0), &json!({"seq": 2}));
    let link = missing.header("link").unwrap();
    assert!(link.contains(&opened.path("response")) && link.contains("result"), "{link}");
    assert_eq!(code(missing), is(410, "execution_finished"));
    assert_eq!(code(mine.get(&opened.path("response"))), is(410, "response_acknowledged"));
}

#[test]
fn a_server_drives_by_itself_what_it_is_asked_to_and_goes_on_after_its_death() {
    let mut place = Place::start();
    let http = place.http();
    let body = json!({"parameters": {"script": "sleep=1"}, "driver": "server"});
    let opened = Opened::of(&http.post("/v1/progressive/chunks", &body).json());
    until("it is under way", || place.effects().len() > 200);
    place.kill_and_serve();
    let units = json!({"units_done": 2000, "units_failed": 0});
    assert_eq!(response(&http, &opened), json!({"sum": sum(2000), "units": units}));
}

#[test]
fn an_execution_that_is_stopped_in_mid_slice_goes_on_when_it_is_restarted() {
    let place = Place::start();
    let (http, opened) = (place.http(), place.open("chunks", "sleep=1", 2));
    thread::scope(|scope| {
        let driven = scope.spawn(|| drive(&http, &opened));
        until("it is under way", || place.effects().len() > 100);
        assert_eq!(
            http.post(&format!("/v1/executions/{}/stop", opened.id), &json!({})).status,
            202
        );
        let answers = driven.join().unwrap();
        assert!(
            answers.iter().all(|lane| lane.last().is_none_or(|last| last["outcome"] == "done"))
        );
    });
    let stopped = http.get(&format!("/v1/executions/{}", opened.id)).json();
    assert_eq!(stopped["status"], "STOPPED");
    let again = place.open("chunks", "sleep=1", 4);
    assert_ne!(again.id, opened.id);
    drive(&http, &again);
    let units = json!({"units_done": 2000, "units_failed": 0});
    assert_eq!(response(&http, &again), json!({"sum": sum(2000), "units": units}));
    assert_eq!(place.effects().len(), 2000, "a stop costs nothing");
}

#[test]
fn kills_in_mid_slice_cost_at_most_a_chunk_for_each_lane() {
    const KILLS: usize = 10;
    const LANES: u32 = 3;
    let mut place = Place::start();
    let (http, opened) = (place.http(), place.open("chunks", "sleep=2", LANES));
    let furthest = AtomicU64::new(0);
    thread::scope(|scope| {
        let driven = scope.spawn(|| drive(&http, &opened));
        let mut random = batchwright::testing::SimRng(11);
        for _ in 0..KILLS {
            let effects = place.effects().len() as u64 + 1 + random.below(150);
            until("units run", || place.effects().len() as u64 >= effects || driven.is_finished());
            place.kill_and_serve();
            let progress = http.get(&opened.path("progress")).json();
            let done = progress["units_done"].as_u64().unwrap();
            let before = furthest.fetch_max(done, Ordering::SeqCst);
            assert!(done >= before, "progress went back from {before} to {done}");
        }
        driven.join().unwrap();
    });
    let units = json!({"units_done": 2000, "units_failed": 0});
    assert_eq!(response(&http, &opened), json!({"sum": sum(2000), "units": units}));
    let over = place.effects().len() as u64 - 2000;
    assert!(over <= KILLS as u64 * u64::from(LANES) * CHUNK, "{over} runs too many");
}

#[test]
fn a_worker_that_wakes_up_after_its_lease_can_commit_nothing() {
    let lease = Place::lease("1000");
    let place = Place::with(&lease);
    let opened = place.open("chunks", "sleep=2", 2);
    let other = Place::serve(place.folder.path(), "127.0.0.1:0", &lease);
    let (asleep, awake) =
        (place.http(), Http { address: other.last_word.clone(), headers: Vec::new() });
    let pid = Pid::from_raw(place.server.child.id().cast_signed()).unwrap();
    let answers = thread::scope(|scope| {
        let sleepers: Vec<_> = (0..2)
            .map(|lane| {
                let body = json!({"seq": 1, "target_ms": 60_000});
                let (asleep, opened) = (&asleep, &opened);
                scope.spawn(move || asleep.post(&opened.slice(lane), &body))
            })
            .collect();
        until("both lanes work", || place.effects().len() > 100);
        // A process frozen within a transaction would hold SQLite's only lock and block all others.
        let store = rusqlite::Connection::open(place.folder.path().join("store.db")).unwrap();
        store.busy_timeout(Duration::from_millis(500)).unwrap();
        freeze(pid);
        while store.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err() {
            kill_process(pid, Signal::CONT).unwrap();
            freeze(pid);
        }
        drive(&awake, &opened);
        kill_process(pid, Signal::CONT).unwrap();
        sleepers.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    for answer in answers {
        let code = answer.code();
        assert!(
            ["stale_lease", "execution_finished"].contains(&code.as_str()),
            "{}",
            answer.text()
        );
    }
    let units = json!({"units_done": 2000, "units_failed": 0});
    assert_eq!(response(&awake, &opened), json!({"sum": sum(2000), "units": units}));
    let over = place.effects().len() as u64 - 2000;
    // Each worker repeats at most its uncommitted chunk and the unit in which it notices the lost lease.
    assert!(over <= 2 * (CHUNK + 1) * 2, "{over} runs too many");
}

/// Starts a proxy that forwards requests to `server` and drops every third answer.
fn lossy_proxy(server: &str) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    let serving = thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (mut client, server) = (client.unwrap(), server.clone());
            thread::spawn(move || {
                let mut request = vec![0; 64 * 1024];
                let mut length = 0;
                loop {
                    let Ok(count @ 1..) = client.read(&mut request[length..]) else { return };
                    length += count;
                    let text = String::from_utf8_lossy(&request[..length]).to_lowercase();
                    let Some(end) = text.find("\r\n\r\n") else { continue };
                    let body = text.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let body: usize = body.map_or(0, |body| body.parse().unwrap());
                    if length >= end + 4 + body {
                        break;
                    }
                }
                let head = String::from_utf8_lossy(&request[..length]).replacen(
                    "HTTP/1.1\r\n",
                    "HTTP/1.1\r\nconnection: close\r\n",
                    1,
                );
                let mut upstream = TcpStream::connect(server).unwrap();
                upstream.write_all(head.as_bytes()).unwrap();
                let mut answer = Vec::new();
                let _ = upstream.read_to_end(&mut answer);
                if number % 3 != 2 {
                    let _ = client.write_all(&answer);
                }
            });
        }
    });
    (address, serving)
}

#[test]
fn a_proxy_that_loses_every_third_answer_changes_nothing() {
    let place = Place::start();
    let opened = place.open("chunks", "sleep=1", 3);
    let (proxy, _serving) = lossy_proxy(&place.address);
    let furthest = std::sync::Arc::new(AtomicU64::new(0));
    let seen = std::sync::Arc::clone(&furthest);
    let client = BatchClient::new().unwrap().on_progress(move |now| {
        seen.fetch_max(now.units_done, Ordering::SeqCst);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let base = format!("http://{proxy}/").parse().unwrap();
    let answer = runtime.block_on(client.drive(&base, opened.id)).unwrap();
    assert_eq!(answer.status.as_u16(), 201);
    let body: Value = answer.json().unwrap();
    assert_eq!(answer.text().parse::<Value>().unwrap(), body);
    let units = json!({"units_done": 2000, "units_failed": 0});
    assert_eq!(body, json!({"sum": sum(2000), "units": units}));
    assert_eq!(place.effects().len(), 2000, "no unit ran twice");
    assert_eq!(furthest.load(Ordering::SeqCst), 2000);
}
