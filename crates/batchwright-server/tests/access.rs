//! Access rules and limits of the REST API.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::serving::{Http, Place, read};
use serde_json::json;

/// Starts the servers of the other tests; not a test itself.
#[test]
fn serves_when_it_is_asked_to() {
    common::serving::serve_if_asked();
}

fn bearer(http: &Http, token: &str) -> Http {
    http.clone().with("authorization", &format!("Bearer {token}"))
}

#[test]
fn without_a_token_only_signs_of_life_are_told() {
    let place = Place::with(&Place::tokens());
    let http = place.http();
    assert_eq!(http.get("/healthz").status, 200);
    for path in ["/v1/jobs", "/v1/executions/1/progress", "/v1/nothing"] {
        let refused = http.get(path);
        assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"), "{path}");
        assert_eq!(refused.header("www-authenticate").as_deref(), Some("Bearer"));
    }
    assert_eq!(bearer(&http, "the-wrong-one").get("/v1/jobs").status, 401);
    assert_eq!(bearer(&http, "the-viewer").get("/v1/jobs").status, 200);
}

#[test]
fn a_role_may_what_it_is_for() {
    let place = Place::with(&Place::tokens());
    let http = place.http();
    let open = json!({"parameters": {"script": ""}});
    let code = |response: common::serving::HttpResponse| response.code();
    assert_eq!(code(bearer(&http, "the-viewer").post("/v1/progressive/few", &open)), "forbidden");
    assert_eq!(bearer(&http, "the-operator").post("/v1/progressive/few", &open).status, 201);
    let rule = json!({"pattern": "", "runner": ["shell", "true"]});
    let put = |token| bearer(&http, token).ask("PUT", "/v1/rules/r", Some(&rule)).unwrap();
    assert_eq!(code(put("the-operator")), "forbidden");
    // A validation needs only the role viewer; a rule or trigger named `validate` gives no such access.
    let viewer = bearer(&http, "the-viewer");
    assert_eq!(viewer.post("/v1/jobs/few/validate", &open).status, 200);
    for (method, path) in [
        ("PUT", "/v1/rules/validate"),
        ("PUT", "/v1/triggers/validate"),
        ("DELETE", "/v1/triggers/validate"),
        ("POST", "/v1/progressive/validate"),
        ("POST", "/v1/jobs/validate/executions"),
        ("POST", "/v1/jobs/few/next"),
    ] {
        let refused = viewer.ask(method, path, Some(&rule)).unwrap();
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (403, "forbidden"),
            "{method} {path}"
        );
    }
    // Contexts decide what a restart does.
    let change = "/executions/1/context";
    assert_eq!(code(bearer(&http, "the-operator").post(change, &json!({}))), "forbidden");
    // The role suffices, but this server has no scheduler.
    assert_eq!(code(put("the-admin")), "not_found");
}

#[test]
fn pages_elsewhere_and_names_that_are_not_ours_are_refused() {
    let place = Place::start();
    let http = place.http();
    let open = json!({"parameters": {"script": ""}});
    let with = |name: &str, value: &str| http.clone().with(name, value);
    let rebound = with("host", "evil.example").get("/v1/jobs");
    assert_eq!((rebound.status, rebound.code().as_str()), (421, "wrong_host"));
    for (name, value) in
        [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")]
    {
        let refused = with(name, value).post("/v1/progressive/few", &open);
        assert_eq!((refused.status, refused.code().as_str()), (403, "foreign_origin"), "{name}");
        assert!(refused.header("access-control-allow-origin").is_none());
    }
    let own = format!("http://{}", place.address);
    assert_eq!(with("origin", &own).post("/v1/progressive/few", &open).status, 201);
}

#[test]
fn a_body_of_ten_gigabytes_is_refused_before_it_is_sent() {
    let place = Place::start();
    let mut socket = TcpStream::connect(&place.address).unwrap();
    let head = format!(
        "POST /v1/progressive/few HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         content-length: 10000000000\r\n\r\n",
        place.address
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let count = socket.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn a_body_without_a_length_is_read_no_further_than_its_bound() {
    let place = Place::start();
    let mut socket = TcpStream::connect(&place.address).unwrap();
    let head = format!(
        "POST /v1/progressive/few HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n",
        place.address
    );
    socket.write_all(head.as_bytes()).unwrap();
    let piece = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    // Ten gigabytes, if the server accepted them.
    let sent = (0..160_000).take_while(|_| socket.write_all(piece.as_bytes()).is_ok()).count();
    assert!(sent < 1_000, "the server accepted {sent} pieces");
    assert_eq!(place.http().get("/healthz").status, 200);
}

#[test]
fn a_client_that_dribbles_its_headers_is_cut_off() {
    let place = Place::start();
    let mut socket = TcpStream::connect(&place.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").unwrap();
    // The client sends nothing more, so the server closes the connection.
    let mut rest = Vec::new();
    let ended = socket.read_to_end(&mut rest);
    assert!(ended.is_ok(), "the server still waits: {ended:?}");
    let response = String::from_utf8_lossy(&rest);
    assert!(rest.is_empty() || response.starts_with("HTTP/1.1 408"), "{response}");
}

#[test]
fn what_is_malformed_is_told_and_loses_nothing() {
    let place = Place::start();
    let http = place.http();
    for (method, path, expected) in [
        ("GET", "/v1/executions/x", 400),
        ("GET", "/v1/executions/99999999999999999999", 400),
        ("GET", "/v1/executions/-1", 404),
        ("GET", "/v1/executions?limit=0", 400),
        ("GET", "/v1/executions?limit=501", 400),
        ("GET", "/v1/executions?cursor=nonsense", 400),
        ("GET", "/v1/executions?status=ASLEEP", 400),
        ("GET", "/v1/executions?since=yesterday", 400),
        ("GET", "/v1/executions?statsu=FAILED", 400),
        ("GET", "/v1/jobs/nope", 404),
        ("GET", "/v1/jobs/few?format=png", 400),
        ("GET", "/v1/triggers", 404),
        ("GET", "/v1/executions/1/response?wait=soon", 400),
        ("PATCH", "/v1/jobs", 405),
        ("POST", "/v1/jobs", 405),
        ("GET", "/v1/../etc/passwd", 404),
        ("GET", "/assets/../Cargo.toml", 404),
    ] {
        let response = http.ask(method, path, None).unwrap();
        assert_eq!(response.status, expected, "{method} {path}: {}", response.text());
        let kind = response.header("content-type");
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{method} {path}");
        assert!(
            !response.code().is_empty() && response.json()["status"] == expected,
            "{method} {path}"
        );
    }
    for body in
        ["{", "[]", "{\"lanes\":0}", "{\"target_ms\":0}", "{\"lens\":1}", "{\"parameters\":1}"]
    {
        let head = format!(
            "POST /v1/progressive/few HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            place.address,
            body.len()
        );
        let mut socket = TcpStream::connect(&place.address).unwrap();
        socket.write_all(head.as_bytes()).unwrap();
        assert_eq!(read(socket).unwrap().status, 400, "{body}");
    }
    let text = http.clone().with("content-type", "text/plain");
    assert_eq!(text.post("/v1/progressive/few", &json!({"lanes": 1})).status, 415);
    let none = http.get("/v1/executions").json();
    assert_eq!(none["items"], json!([]));
}

#[test]
fn what_a_problem_is_can_be_read_where_its_type_leads() {
    let place = Place::start();
    let problem = place.http().get("/v1/executions/77").json();
    assert_eq!(problem["type"], "/errors/no_such_execution");
    let page = place.http().get(problem["type"].as_str().unwrap());
    assert_eq!(page.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
    let text = String::from_utf8(page.body).unwrap();
    assert!(text.starts_with("# `no_such_execution`"), "{text}");
    for none in
        ["/errors/nothing", "/errors/README", "/errors/..%2FREADME", "/errors/", "/errors/%2e%2e"]
    {
        assert_eq!(place.http().get(none).status, 404, "{none}");
    }
}

#[test]
fn each_request_has_a_number_and_each_refusal_says_what_is_possible() {
    let place = Place::start();
    let http = place.http();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let given = http.clone().with("x-request-id", "night-7").with("traceparent", trace);
    let missing = given.get("/v1/executions/99");
    assert_eq!(missing.header("x-request-id").as_deref(), Some("night-7"));
    let problem = missing.json();
    assert_eq!(
        (&problem["instance"], &problem["request_id"], &problem["trace_id"]),
        (
            &json!("/v1/executions/99"),
            &json!("night-7"),
            &json!("4bf92f3577b34da6a3ce929d0e0e4736")
        )
    );
    let list = http.clone().with("x-request-id", "a b").get("/v1/jobs");
    let number = list.header("x-request-id").unwrap();
    assert!(number.len() > 10 && number != "a b", "{number}");
    assert_eq!(list.header("cache-control").as_deref(), Some("no-store"));
    let opened = http.post("/v1/progressive/few", &json!({"parameters": {"script": ""}})).json();
    let refused = http.post(&format!("/v1/executions/{}/abandon", opened["execution"]), &json!({}));
    assert_eq!(refused.status, 409);
    let problem = refused.json();
    assert_eq!(
        (&problem["current_status"], &problem["allowed_actions"]),
        (&json!("STARTED"), &json!(["stop"])),
        "{problem}"
    );
    // Of an instance only the newest execution goes on.
    let id = opened["execution"].as_i64().unwrap();
    assert_eq!(http.post(&format!("/v1/executions/{id}/stop"), &json!({})).status, 202);
    let stopped = || http.get(&format!("/v1/executions/{id}")).json()["status"] == "STOPPED";
    common::until("the execution is stopped", stopped);
    http.post("/v1/progressive/few", &json!({"parameters": {"script": ""}}));
    let refused = http.post(&format!("/v1/executions/{id}/abandon"), &json!({})).json();
    assert_eq!(
        (&refused["current_status"], &refused["allowed_actions"]),
        (&json!("STOPPED"), &json!([])),
        "{refused}"
    );
}

#[test]
fn the_book_is_served_to_whoever_reaches_the_server() {
    let place = Place::start();
    let first = place.http().get("/book");
    assert_eq!(
        (first.status, first.header("location").as_deref()),
        (303, Some("/book/introduction"))
    );
    let page = place.http().get("/book/job-files");
    assert_eq!(page.header("content-type").as_deref(), Some("text/html; charset=utf-8"));
    let text = String::from_utf8(page.body).unwrap();
    assert!(
        text.contains("<h1>Job files</h1>") && text.contains("name = \"import-orders\""),
        "{text}"
    );
    assert_eq!(place.http().get("/book/..%2FREADME").status, 404);
}

#[test]
fn the_same_key_starts_one_thing() {
    let mut place = Place::start();
    let keyed = place.http().with("idempotency-key", "k1");
    let open = json!({"parameters": {"script": "a"}});
    let first = keyed.post("/v1/progressive/few", &open);
    let again = keyed.post("/v1/progressive/few", &open);
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(again.header("idempotency-replayed").as_deref(), Some("true"));
    let other = keyed.post("/v1/progressive/few", &json!({"parameters": {"script": "b"}}));
    assert_eq!((other.status, other.code().as_str()), (422, "key_reused"));
    // Without a key the request is refused because of the open execution.
    let second = place.http().post("/v1/progressive/few", &open);
    assert_eq!((second.status, second.code().as_str()), (409, "already_running"));
    assert_eq!(second.json()["execution"], first.json()["execution"]);

    // The key survives a dead server and the end of the execution.
    place.kill_and_serve();
    let execution = first.json()["execution"].as_i64().unwrap();
    place.http().post(&format!("/v1/executions/{execution}/stop"), &json!({}));
    let keyed = place.http().with("idempotency-key", "k1");
    let again = keyed.post("/v1/progressive/few", &open);
    assert_eq!((again.status, again.json()["execution"].as_i64()), (201, Some(execution)));
    assert_eq!(again.header("idempotency-replayed").as_deref(), Some("true"));
    // A restart needs a separate key.
    let keyed = place.http().with("idempotency-key", "k2");
    let restart = format!("/v1/executions/{execution}/restart");
    let (first, again) = (keyed.post(&restart, &json!({})), keyed.post(&restart, &json!({})));
    assert_eq!((first.status, again.status), (202, 202), "{}", first.json());
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_ne!(first.json()["id"].as_i64(), Some(execution));
}

#[test]
fn each_caller_has_keys_of_its_own() {
    let place = Place::with(&Place::tokens());
    let keyed = place.http().with("idempotency-key", "k");
    let ask = |token: &str, script: &str| {
        let open = json!({"parameters": {"script": script}});
        bearer(&keyed, token).post("/v1/progressive/few", &open)
    };
    let first = ask("the-operator", "a");
    // Blanks before the token do not change the caller.
    assert_eq!(ask(" the-operator", "a").header("idempotency-replayed").as_deref(), Some("true"));
    let second = ask("the-admin", "b");
    assert_eq!((first.status, second.status), (201, 201));
    assert_ne!(first.json()["execution"], second.json()["execution"]);
    assert_eq!(ask("the-admin", "a").code(), "key_reused");
}

#[test]
fn the_same_key_at_the_same_time_starts_one_thing() {
    const ROUNDS: usize = 20;
    let place = Place::start();
    for round in 0..ROUNDS {
        let keyed = place.http().with("idempotency-key", &format!("k{round}"));
        let open = json!({"parameters": {"script": format!("round {round}")}});
        let together = std::sync::Barrier::new(4);
        let ask = || {
            together.wait();
            let answer = keyed.clone().post("/v1/progressive/few", &open);
            (answer.status, answer.json()["execution"].as_i64())
        };
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(answers[0].1.is_some(), "{answers:?}");
        assert!(answers.iter().all(|one| *one == (201, answers[0].1)), "{answers:?}");
    }
    let all = place.http().get("/v1/executions?limit=500").json();
    assert_eq!(all["items"].as_array().unwrap().len(), ROUNDS);
}

#[test]
fn an_address_that_others_can_reach_needs_tokens() {
    use batchwright::{JobOperator, MemoryRepository};
    use batchwright_server::Server;
    use batchwright_server::api::HttpSettings;
    use std::sync::Arc;

    let start = |insecure| {
        let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
        let listen = "0.0.0.0:0".parse().unwrap();
        let http = HttpSettings { insecure, ..HttpSettings::new(listen) };
        Server::builder(operator).http(http).start()
    };
    let response = start(false).unwrap_err().to_string();
    assert!(response.contains("http.tokens") && response.contains("0.0.0.0"), "{response}");
    start(true).unwrap().stop();
}
