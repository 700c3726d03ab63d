//! Everything that the service reads from others, under random inputs: the line protocol, plans, rules and times, and
//! the requests of the REST API. `cargo xtask fuzz` runs these tests by time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use batchwright::clock::StopToken;
use batchwright::parameters::{ParameterDeclaration, ParameterType};
use batchwright::progressive::{FinalResponse, NumberedUnits, ProgressiveStep};
use batchwright::{ChunkStepBuilder, Job, JobOperator, ListWriter, MemoryRepository, Sequence};
use batchwright_server::api::{AccessRules, Api};
use batchwright_server::kcp::{Decoder, encode};
use batchwright_server::{Exclusion, JobStarter, Plan, RuleSettings, When, Worker, explain};
use batchwright_testkit::fuzz::{Rng, run};
use serde_json::{Value, json};
use tower::ServiceExt as _;

#[test]
fn any_bytes_are_answered_the_same_in_any_pieces() {
    const PIECES: [&[u8]; 14] = [
        b" ",
        b"\n",
        b"\"",
        b"\\",
        b"\\\"",
        b"\r\n",
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xa4",
        b"SET",
        b"a",
        b"1 PING\n",
        b"\"2099-01-01 00:00:00\"",
    ];
    run("line protocol", 20_000, |rng| {
        let bytes = rng.bytes(&PIECES, 200);
        let (mut whole, mut decoder) = (&bytes[..], Decoder::default());
        let at_once: Vec<_> = std::iter::from_fn(|| decoder.next(&mut whole)).collect();
        let is_inside = decoder.is_inside();
        let mut decoder = Decoder::default();
        let (mut rest, mut in_pieces) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let (mut piece, later) = rest.split_at((1 + rng.below(9)).min(rest.len()));
            in_pieces.extend(std::iter::from_fn(|| decoder.next(&mut piece)));
            rest = later;
        }
        assert_eq!(at_once, in_pieces, "{bytes:?}");
        assert_eq!(is_inside, decoder.is_inside(), "{bytes:?}");
        for message in at_once.into_iter().flatten() {
            let again = encode(&message);
            let read = Decoder::default().next(&mut again.as_bytes());
            assert_eq!(read, Some(Ok(message)), "{bytes:?}");
        }
    });
}

/// Fields of cron expressions.
const FIELDS: &[&str] = &[
    "*",
    "*",
    "*",
    "0",
    "5",
    "15",
    "59",
    "60",
    "23",
    "24",
    "31",
    "32",
    "12",
    "13",
    "7",
    "8",
    "*/5",
    "*/7",
    "5/15",
    "0-30/10",
    "1-5",
    "5-1",
    "MON-FRI",
    "FRI-MON",
    "SUN",
    "JAN",
    "1,15",
    "L",
    "LW",
    "L-3",
    "15W",
    "1#2",
    "5L",
    "?",
    "",
    "-1",
    "*/0",
    "99999999999",
    "1/",
    "/2",
    "mon",
    "0,59",
];
const CRONS: &[&str] = &[
    "@daily",
    "@midnight",
    "@every 90s",
    "@every",
    "@hourly",
    "@yearly",
    "@reboot",
    "0 30 2 * * *",
];
const TIMES: &[&str] = &[
    "2026-11-22 06:30:00",
    "2026-11-22T06:30:00Z",
    "2027-03-28T02:30:00.25+02:00",
    "1970-01-01T00:00:00Z",
    "9999-12-31 23:59:59",
    "9999-12-31T23:59:59.999999Z",
    "2026-02-29 00:00:00",
    "2026-11-22",
    "now",
    "",
];
const LENGTHS: &[&str] = &[
    "90s",
    "5m",
    "1d",
    "100ms",
    "99ms",
    "1h 30m",
    "36500d",
    "40000d",
    "1 month",
    "-1s",
    "0.1s",
    "PT1H",
    "1.5h",
    "1ns",
    "",
    "1us",
    "12345678s 123456789ns",
];
const ZONES: &[&str] = &[
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Mars/Olympus",
    "+02:00",
    "",
];
const DAYS: &[&str] = &[
    "2026-12-24",
    "2026-12-24..2027-01-01",
    "12-25",
    "02-29",
    "12-24..01-02",
    "2027-01-01..2026-01-01",
    "..",
    "01-01..12-31",
    "",
    "9999-12-31",
    "-009999-01-01",
    "2026-12-24,12-25",
];
const POLICIES: &[&str] =
    &["skip", "once", "all", "allow", "queue", "replace", "3", "0", "10000", "10001", "1000", "-1"];

/// Returns the words of a random plan.
fn plan_words(rng: &mut Rng) -> Vec<String> {
    let text = |rng: &mut Rng, choices: &[&str]| match rng.below(8) {
        0 => {
            let valid = rng.of(choices);
            rng.mutated_text(valid, choices)
        }
        _ => rng.of(choices).to_owned(),
    };
    let mut words = match rng.below(4) {
        0 => vec!["every".to_owned(), text(rng, LENGTHS)],
        1 => vec!["cron".to_owned(), text(rng, CRONS)],
        _ => {
            let count = rng.of(&[5, 5, 6, 6, 4, 7]);
            let fields: Vec<String> = (0..count)
                .map(|_| match rng.below(6) {
                    0 => [text(rng, FIELDS), text(rng, FIELDS)].join(","),
                    _ => rng.of(FIELDS).to_owned(),
                })
                .collect();
            vec!["cron".to_owned(), fields.join(" ")]
        }
    };
    for _ in 0..rng.below(4) {
        let (name, values) = rng.of(&[
            ("tz", ZONES),
            ("tz", ZONES),
            ("except", DAYS),
            ("from", TIMES),
            ("until", TIMES),
            ("anchor", TIMES),
            ("jitter", LENGTHS),
            ("misfire", POLICIES),
            ("misfire-cap", POLICIES),
            ("misfire-age", LENGTHS),
            ("overlap", POLICIES),
            ("queue", POLICIES),
        ]);
        words.extend([name.to_owned(), text(rng, values)]);
    }
    match rng.one_in(10) {
        true => rng.mutated(&words, |rng| vec![rng.of(POLICIES).to_owned()]),
        false => words,
    }
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

#[test]
fn a_plan_is_made_again_from_its_words_and_its_slots_follow_each_other() {
    run("plans", 2_000, |rng| {
        let words = plan_words(rng);
        // From 2020 to 2080, and the last days that a time can name.
        let now = match rng.below(10) {
            0 => 253_402_300_799_000_000 - i64::try_from(rng.below(3)).unwrap() * DAY,
            _ => (18_262 + i64::try_from(rng.below(22_000)).unwrap()) * DAY + 1_234_567,
        };
        let Ok(plan) = Plan::parse(&words, now) else { return };
        let again = Plan::parse(&plan.words(), now);
        assert_eq!(again.as_ref(), Ok(&plan), "{words:?} at {now}");

        let first = plan.first(now).unwrap();
        assert!(first >= now, "{words:?} at {now}: {first}");
        let (mut slot, mut slots) = (first, vec![first]);
        for _ in 0..5 {
            assert_eq!(plan.next(slot - 1), Some(slot), "{words:?} at {now}");
            let delay = plan.delay("name", slot);
            assert!((0..=i64::try_from(plan.jitter.as_micros()).unwrap()).contains(&delay));
            assert!(plan.from.is_none_or(|from| slot >= from), "{words:?} at {now}");
            assert!(plan.until.is_none_or(|until| slot <= until), "{words:?} at {now}");
            let Some(next) = plan.next(slot) else { break };
            assert!(next > slot, "{words:?} at {now}: {next} follows {slot}");
            slot = next;
            slots.push(slot);
        }

        let later = first + i64::try_from(rng.below(600)).unwrap() * 1_000_000;
        let due = plan.due(first, later, Duration::from_secs(60));
        assert!(due.fire.is_sorted() && due.fire.iter().all(|slot| (first..=later).contains(slot)));
        assert!(due.next.is_none_or(|next| due.fire.iter().all(|slot| *slot < next)), "{words:?}");
        if later - first < 60_000_000 {
            let known: Vec<i64> = slots.iter().copied().filter(|slot| *slot <= later).collect();
            assert!(due.fire.starts_with(&known), "{words:?} at {now}: {:?} {known:?}", due.fire);
        }
        let explained = explain("name", &plan, &[], now, 3);
        assert_eq!(explained.next.len(), slots.len().min(3), "{words:?} at {now}: {explained:?}");
        assert!(!explained.rule.is_empty() && !explained.policies.is_empty());
    });
}

#[test]
fn a_time_or_a_day_that_is_accepted_means_the_same_when_it_is_shown() {
    run("times", 20_000, |rng| {
        let valid = rng.of(TIMES);
        let text = rng.mutated_text(valid, TIMES);
        if let Ok(when) = When::parse(&text) {
            let [shown] = &when.words()[..] else { panic!("{text:?} has several words") };
            assert_eq!(When::parse(shown), Ok(when.clone()), "{text:?} {shown:?}");
        }
        let valid = rng.of(DAYS);
        let text = rng.mutated_text(valid, DAYS);
        if let Ok(days) = text.parse::<Exclusion>() {
            assert_eq!(days.to_string().parse(), Ok(days), "{text:?}");
        }
    });
}

/// Words of rules.
const RULE_WORDS: &[&str] = &[
    "shell",
    "amqp",
    "http",
    "job",
    "retry",
    "backoff",
    "timeout",
    "3",
    "101",
    "30s",
    "1ns",
    "./report",
    "-c",
    "amqp://me:hush@localhost:5672/%2f",
    "amqps://h",
    "https://me:hush@localhost/x?token=hush",
    "http://[::1]:80/",
    "ftp://x/",
    "{}",
    "{\"pin\":\"hush\"}",
    "[1]",
    "e",
    "",
    "\0",
    "://",
    "http://",
    "amqp://",
];
const RULES: &[&[&str]] = &[
    &["shell", "./report", "retry", "3", "backoff", "1s", "timeout", "5m"],
    &["amqp", "amqp://me:hush@localhost:5672/%2f", "e", "k", "retry", "3"],
    &["http", "https://me:hush@localhost/x?token=hush", "hush", "timeout", "30s"],
    &["job", "load", "{\"pin\":\"hush\",\"n\":[1,{\"a\":null}]}", "retry", "2"],
];

#[test]
fn a_rule_is_stored_as_it_was_parsed_and_shows_no_secret() {
    run("rules", 10_000, |rng| {
        let valid: Vec<String> = rng.of(RULES).iter().map(|word| (*word).to_owned()).collect();
        let words = rng.mutated(&valid, |rng| {
            let word = rng.of(RULE_WORDS);
            vec![if rng.one_in(2) { word.to_owned() } else { rng.mutated_text(word, RULE_WORDS) }]
        });
        let Ok(rule) = RuleSettings::parse(&words) else { return };
        let stored = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<RuleSettings>(&stored).unwrap(), rule, "{words:?}");
        let shown = rule.words();
        if shown[0] == "shell" {
            assert_eq!(RuleSettings::parse(&shown), Ok(rule), "{words:?}");
        }
    });
}

fn operator() -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let count = ChunkStepBuilder::new("count")
        .reader(Sequence::to(3))
        .writer(ListWriter::new(Arc::default()))
        .build();
    let mut job = Job::builder("count").step(count);
    for kind in ParameterType::ALL {
        job = job.parameter(ParameterDeclaration::new(kind.name(), kind));
    }
    operator.registry().register(job.build().unwrap()).unwrap();
    let units = ProgressiveStep::builder("units")
        .units(NumberedUnits::new(4))
        .process(|unit: &u64| Ok(Some(*unit)))
        .reduce(
            |sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit),
            |left, right| Ok(left + right),
        )
        .respond(|sum, _| FinalResponse::json(&json!({ "sum": sum })))
        .lanes(4)
        .build();
    operator.registry().register(Job::builder("few").step(units).build().unwrap()).unwrap();
    operator
}

/// The requests that are changed: method, address and body.
fn requests() -> Vec<(&'static str, &'static str, Value)> {
    let typed = json!({"value": 3, "type": "integer", "identifying": false});
    let given = json!({"string": "a", "integer": typed, "float": 1.5, "boolean": true, "date": "2026-11-28",
        "timestamp": "2026-11-28T06:30:00Z"});
    let start = json!({"parameters": given, "new_only": false, "accept_changed_definition": true});
    let plan = json!({"plan": ["cron", "0 2 * * *", "tz", "Europe/Berlin", "jitter", "30s"]});
    let open = json!({"parameters": {}, "new_only": false, "lanes": 2, "target_ms": 100, "driver": "client"});
    vec![
        ("POST", "/v1/jobs/count/executions", start.clone()),
        ("POST", "/v1/jobs/count/validate", start.clone()),
        ("POST", "/v1/jobs/count/next", start),
        ("POST", "/v1/progressive/few", open),
        ("POST", "/v1/executions/2/lanes/LANE/slices", json!({"seq": 1})),
        ("POST", "/v1/executions/1/stop", json!({})),
        ("POST", "/v1/executions/1/restart", json!({"accept_changed_definition": true})),
        ("POST", "/v1/executions/1/abandon", json!({})),
        ("POST", "/v1/executions/1/recover", json!({"force": true})),
        ("PUT", "/v1/triggers/a", json!({"at": "2026-11-22 06:30:00"})),
        ("PUT", "/v1/triggers/b", plan),
        (
            "PUT",
            "/v1/rules/r",
            json!({"pattern": "a.", "runner": ["shell", "./report", "retry", "3"]}),
        ),
        (
            "GET",
            "/v1/executions?limit=5&status=COMPLETED&since=2026-11-22T00:00:00Z&job=count",
            json!({}),
        ),
        ("GET", "/v1/executions/1/steps", json!({})),
        ("GET", "/v1/jobs/count?format=svg", json!({})),
        ("GET", "/v1/jobs/count/instances?limit=2&cursor=1", json!({})),
    ]
}

/// Pieces of JSON bodies and of addresses.
const JSON_PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\\ud800\"",
    "\"a\":1,",
    "\"parameters\":{},",
    "\"lanes\":0",
    "\"lanes\":4294967295",
    "\"target_ms\":18446744073709551615",
    "\"driver\":\"server\"",
    "{\"value\":null}",
    "\u{feff}",
    "%2e%2e",
    "%00",
    "%ff",
    "&",
    "=",
    "?",
    "cursor=",
    "/",
    "..",
];

/// Returns a random request.
fn request(rng: &mut Rng, lane: &str) -> Option<(String, Request<Body>)> {
    let all = requests();
    let (method, path, body) = &all[rng.below(all.len())];
    let path = path.replace("LANE", lane);
    let path = if rng.one_in(5) { rng.mutated_text(&path, JSON_PIECES) } else { path };
    let body = body.to_string();
    let body = match rng.below(12) {
        0 => body.into_bytes(),
        1 => rng.bytes(JSON_PIECES, 40),
        2 => format!("{{\"parameters\":{}", rng.of(&["[", "{\"a\":"]).repeat(50_000)).into_bytes(),
        3 if rng.one_in(10) => vec![b' '; 2 * 1024 * 1024],
        4 => rng.mutated_bytes(body.as_bytes(), JSON_PIECES),
        _ => rng.mutated_text(&body, JSON_PIECES).into_bytes(),
    };
    let kind = rng.of(&[
        "application/json",
        "application/json",
        "application/json; charset=utf-8",
        "text/plain",
    ]);
    let what =
        format!("{method} {path} {}", String::from_utf8_lossy(&body[..body.len().min(2_000)]));
    let mut request = Request::builder().method(*method).uri(path);
    request = request.header("host", "localhost").header("content-type", kind);
    for name in ["idempotency-key", "x-batch-owner", "accept", "prefer"] {
        if rng.one_in(8) {
            request = request.header(name, rng.text(&["a", "b", "text/html", "\"", " "], 4));
        }
    }
    // Some mutations are no address, or no header: a client cannot send them.
    Some((what, request.body(Body::from(body)).ok()?))
}

/// Checks that an error answer is a problem document, and returns the JSON of the answer.
async fn checked(what: &str, response: Response<Body>) -> Value {
    let (status, kind) = (response.status(), response.headers().get("content-type").cloned());
    assert!(status.as_u16() < 500, "{what}: {status}");
    let body = to_bytes(response.into_body(), 16 * 1024 * 1024).await.unwrap();
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.as_u16() >= 400 {
        assert_eq!(kind.unwrap(), "application/problem+json", "{what}: {status}");
        assert_eq!(document["status"], status.as_u16(), "{what}: {document}");
        for name in ["type", "title", "detail", "code"] {
            let text = document[name].as_str().unwrap_or_default();
            assert!(!text.is_empty() && text.len() < 10_000, "{what}: `{name}` of {document}");
        }
    }
    document
}

async fn ask(api: &Router, what: &str, request: Request<Body>) -> Value {
    checked(what, api.clone().oneshot(request).await.unwrap()).await
}

#[test]
fn every_request_has_an_answer_and_every_refusal_is_a_problem_document() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    run("requests", 25, |rng| {
        let (jobs, stop) = (JobStarter::new(operator()), StopToken::default());
        let worker =
            Worker::new(jobs.clone(), Duration::from_secs(30)).spawn(stop.clone()).unwrap();
        let api = Api::new(jobs, None, stop.clone()).guarded(AccessRules::default());
        runtime.block_on(async {
            let simple = |method: &str, path: &str| {
                let request =
                    Request::builder().method(method).uri(path).header("host", "localhost");
                request.body(Body::empty()).unwrap()
            };
            // Execution 2 exists: the first number is that of its instance.
            let opened = ask(&api, "open", simple("POST", "/v1/progressive/few")).await;
            let lane = opened["lanes"][0]["id"].as_str().unwrap().to_owned();
            for _ in 0..40 {
                let Some((what, request)) = request(rng, &lane) else { continue };
                ask(&api, &what, request).await;
            }
            let jobs = ask(&api, "jobs", simple("GET", "/v1/jobs")).await;
            assert_eq!(jobs["items"].as_array().map(Vec::len), Some(2), "{jobs}");
        });
        stop.request();
        worker.join().unwrap();
    });
}
