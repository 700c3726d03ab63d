//! An application that has the API among its own routes: the example `17_axum_service`.

#[path = "../examples/17_axum_service.rs"]
#[allow(dead_code, reason = "`main` is not called")]
mod service;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use batchwright::clock::StopToken;
use batchwright::{JobOperator, MemoryRepository};
use batchwright_server::api::{AccessRules, Api, Role, Token};
use batchwright_server::{JobStarter, Server};
use batchwright_testkit::{Service, needs};
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt as _;

const BODY_MAX: usize = 1 << 20;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).unwrap().to_str().unwrap()
    }
}

async fn ask(app: &Router, method: &str, path: &str, json: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(json.to_owned()))
        .unwrap();
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, BODY_MAX).await.unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Starts the service on a store of its own.
async fn started() -> ((tempfile::TempDir, watch::Sender<bool>), Server, Router) {
    // The example names the folder of its job files relative to the repository.
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let operator = service::jobs(folder.path().join("jobs.db").to_str().unwrap()).unwrap();
    let server = Server::builder(operator.clone()).serve().await.unwrap();
    let (end, ending) = watch::channel(false);
    let app = service::routes(operator, &server, ending);
    ((folder, end), server, app)
}

#[tokio::test]
async fn a_handler_starts_a_job_and_its_progress_is_streamed_to_the_end() {
    let (_folder, server, app) = started().await;
    let started = ask(&app, "POST", "/imports", r#"{"count": 500}"#).await;
    assert_eq!((started.status, &*started.body), (StatusCode::ACCEPTED, "1"));
    // The answer ends when the execution does.
    let progress = ask(&app, "GET", "/imports/1/progress", "").await;
    let sent: Vec<&str> = progress.body.split("\n\n").filter(|event| !event.is_empty()).collect();
    let [.., last, end] = &sent[..] else { panic!("{}", progress.body) };
    assert!(last.contains("COMPLETED") && !last.contains("step"), "{}", progress.body);
    assert!(end.starts_with("event: end"), "{}", progress.body);
    let steps = ask(&app, "GET", "/batch/v1/executions/1/steps", "").await;
    assert_eq!(steps.json()["items"][0]["read"], 500, "{}", steps.body);
    let shown = ask(&app, "GET", "/batch/v1/executions/1", "").await.json();
    assert_eq!(shown["status"], "COMPLETED", "{shown}");
    assert_eq!(ask(&app, "GET", "/imports/9/progress", "").await.status, StatusCode::NOT_FOUND);
    let again = ask(&app, "POST", "/imports", r#"{"count": 500}"#).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.body);
    server.shutdown().await;
}

#[tokio::test]
async fn every_address_in_an_answer_of_the_nested_api_is_one_that_the_application_serves() {
    let (_folder, server, app) = started().await;
    let jobs = ask(&app, "GET", "/batch/v1/jobs", "").await.json();
    let names: Vec<&str> =
        jobs["items"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["import", "import-oui"], "code and job files");

    let one = r#"{"parameters": {"count": 1}}"#;
    let accepted = ask(&app, "POST", "/batch/v1/jobs/import/executions", one).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{}", accepted.body);
    let location = accepted.header(header::LOCATION);
    assert_eq!(location, "/batch/v1/executions/1");
    assert_eq!(ask(&app, "GET", location, "").await.status, StatusCode::OK);

    let mut ids = Vec::new();
    for first in 2..4 {
        let body = format!(r#"{{"parameters": {{"count": {first}}}}}"#);
        let next = ask(&app, "POST", "/batch/v1/jobs/import/executions", &body).await;
        ids.push(next.status);
    }
    assert_eq!(ids, [StatusCode::ACCEPTED; 2]);
    let page = ask(&app, "GET", "/batch/v1/executions?limit=1", "").await;
    let link = page.header(header::LINK);
    let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    assert!(next.starts_with("/batch/v1/executions?"), "{link}");
    assert_eq!(ask(&app, "GET", next, "").await.status, StatusCode::OK);

    for (method, path, status) in [
        ("GET", "/batch/v1/executions/99", StatusCode::NOT_FOUND),
        ("GET", "/batch/v1/executions/x", StatusCode::BAD_REQUEST),
        ("POST", "/batch/v1/jobs/import/executions", StatusCode::CONFLICT),
        ("PATCH", "/batch/v1/jobs", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = ask(&app, method, path, one).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        let problem = answer.json();
        let page = problem["type"].as_str().unwrap();
        assert!(page.starts_with("/batch/errors/"), "{path}: {page}");
        assert_eq!(ask(&app, "GET", page, "").await.status, StatusCode::OK, "{page}");
    }
    // Addresses that are not the API's belong to the application.
    let unknown = ask(&app, "GET", "/elsewhere", "").await;
    assert_eq!((unknown.status, &*unknown.body), (StatusCode::NOT_FOUND, ""));
    server.shutdown().await;
}

#[tokio::test]
async fn the_pages_of_the_nested_api_find_each_other() {
    let (_folder, server, app) = started().await;
    let described = ask(&app, "GET", "/batch/v1/openapi.json", "").await.json();
    assert_eq!(described["servers"][0]["url"], "/batch");
    let book = ask(&app, "GET", "/batch/book", "").await;
    let first = book.header(header::LOCATION);
    let mut links = vec![first.to_owned(), "/batch/docs".to_owned()];
    let mut seen = std::collections::HashSet::new();
    while let Some(link) = links.pop() {
        if !seen.insert(link.clone()) {
            continue;
        }
        let page = ask(&app, "GET", &link, "").await;
        assert_eq!(page.status, StatusCode::OK, "{link}");
        let base = reqwest::Url::parse("http://localhost").unwrap().join(&link).unwrap();
        let attributes = ["href=\"", "src=\""];
        for found in attributes.iter().flat_map(|start| page.body.split(start).skip(1)) {
            let url = base.join(found.split('"').next().unwrap()).unwrap();
            if url.host_str() == Some("localhost") {
                assert!(url.path().starts_with("/batch/"), "{link}: {url}");
                links.push(url.path().to_owned());
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    server.shutdown().await;
}

/// Without `at`, the API takes the path that `nest` has removed; `guarded` asks for its tokens there, too.
#[tokio::test]
async fn a_guarded_api_under_a_path_finds_its_path_and_asks_for_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let operator = service::jobs(folder.path().join("jobs.db").to_str().unwrap()).unwrap();
    let server = Server::builder(operator).serve().await.unwrap();
    let tokens = vec![Token::of("viewer", Role::Viewer, "secret")];
    let rules = AccessRules { tokens, ..AccessRules::default() };
    let app =
        Router::new().nest("/deep", Router::new().nest("/batch", server.api().guarded(rules)));
    let refused = ask(&app, "GET", "/deep/batch/v1/jobs", "").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.json()["type"], "/deep/batch/errors/unauthorized");
    assert!(refused.json()["instance"].as_str().unwrap().starts_with("/deep/batch/v1/"));
    assert!(refused.json()["request_id"].is_string());
    // Pages that need no token are found under the path, and only there.
    assert_eq!(ask(&app, "GET", "/deep/batch/docs", "").await.status, StatusCode::OK);
    assert_eq!(ask(&app, "GET", "/deep/batch/healthz", "").await.status, StatusCode::OK);
    assert_eq!(ask(&app, "GET", "/docs", "").await.status, StatusCode::NOT_FOUND);
    server.shutdown().await;
}

#[test]
fn a_path_that_is_none_is_refused() {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let api = Api::new(JobStarter::new(operator), None, StopToken::default());
    for path in ["batch", "", "/a b", "/b?c=d", "/ü"] {
        let api = api.clone();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(api.at(path))));
        assert!(panic.is_err(), "{path}");
    }
}

/// The requests that schemathesis makes of the document reach the nested API. What they find in the API itself is
/// tested with the command.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_in_the_nested_api() {
    let Some(program) = needs(Service::Schemathesis) else { return };
    let (folder, server, app) = started().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let document = format!("http://{}/batch/v1/openapi.json", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let checked = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new(program);
        command.current_dir(folder.0.path()).args(["run", &document, "--no-color", "--seed", "7"]);
        command.args(["--phases", "examples,coverage", "--continue-on-failure"]);
        // Most jobs, executions and triggers that it names do not exist.
        command.args(["--exclude-checks", "positive_data_acceptance"]).output().unwrap()
    });
    let checked = checked.await.unwrap();
    let (out, errors) = (&checked.stdout, &checked.stderr);
    let texts = [out, errors].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(checked.status.success(), "{}", texts.concat());
    server.shutdown().await;
}
