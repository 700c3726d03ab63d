//! A server within a program that has its own asynchronous runtime.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::event::{Change, Event};
use batchwright::execution::ExecutionId;
use batchwright::launch::Launch;
use batchwright::query::ExecutionFilter;
use batchwright::store::schedule::MemorySchedule;
use batchwright::{
    BatchStatus, ChunkStepBuilder, Job, JobOperator, JobParameters, ListWriter, MemoryRepository,
    Sequence,
};
use batchwright_server::api::{Api, HttpSettings};
use batchwright_server::{Config, JobStarter, Request, RuleSettings, Server, When, Worker};
use batchwright_store::SqlRepository;
use batchwright_testkit::process::until;

const LEASE: Duration = Duration::from_secs(30);

fn jobs(folder: &std::path::Path) -> (JobOperator, JobStarter) {
    let repository = Arc::new(SqlRepository::sqlite(folder.join("store.db")).unwrap());
    let operator = JobOperator::builder(repository).lease_timeout(LEASE).build();
    let step = ChunkStepBuilder::new("count")
        .reader(Sequence::to(5))
        .writer(ListWriter::new(Arc::default()))
        .build();
    operator.registry().register(Job::builder("count").step(step).build().unwrap()).unwrap();
    (operator.clone(), JobStarter::new(operator))
}

/// Starts a server, connects, waits for a queued execution, and stops, as a handler or `main` of the program
/// does.
async fn starts_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (operator, _) = jobs(folder.path());
    let http = HttpSettings::new("127.0.0.1:0".parse().unwrap());
    let server = Server::builder(operator.clone()).http(http).start().unwrap();
    let address = server.http_address().unwrap();
    let queued = operator.enqueue(&Launch::start("count", JobParameters::new())).unwrap();
    tokio::task::spawn_blocking(move || {
        std::net::TcpStream::connect(address).unwrap();
        until("the server runs the execution", || {
            operator.explorer().execution(queued.id).unwrap().status == BatchStatus::Completed
        });
    })
    .await
    .unwrap();
    server.stop();
    assert!(std::net::TcpStream::connect(address).is_err(), "the server still listens");
}

#[test]
fn a_server_starts_and_stops_within_a_runtime_of_one_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(starts_and_stops());
}

#[test]
fn a_server_starts_and_stops_within_a_runtime_of_many_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(starts_and_stops());
}

#[test]
fn a_server_that_is_dropped_within_a_runtime_stops() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (operator, _) = jobs(folder.path());
        drop(Server::builder(operator).start().unwrap());
    });
}

/// Sends a request to an API that a program serves by itself.
async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let request =
        format!("{request}\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap()
}

#[test]
fn an_api_without_a_worker_takes_no_start_and_says_so() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (operator, jobs) = jobs(folder.path());
        let router = Api::new(jobs.clone(), None, StopToken::default()).router();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });

        let start = "POST /v1/jobs/count/executions HTTP/1.1";
        let refused = ask(address, start).await;
        assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("no_worker"), "{refused}");
        assert!(operator.explorer().execution(ExecutionId(1)).is_err(), "nothing was stored");
        let ready = ask(address, "GET /readyz HTTP/1.1").await;
        assert!(ready.contains(r#"{"name":"worker","ok":false}"#), "{ready}");

        let stop = StopToken::default();
        let worker = Worker::new(jobs, LEASE).spawn(stop.clone()).unwrap();
        let accepted = ask(address, start).await;
        assert!(accepted.starts_with("HTTP/1.1 202"), "{accepted}");
        tokio::task::spawn_blocking(move || {
            until("the worker runs the execution", || {
                operator.explorer().execution(ExecutionId(1)).unwrap().status
                    == BatchStatus::Completed
            });
            stop.request();
            worker.join().unwrap();
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_server_fires_the_triggers_of_a_schedule_in_memory() {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let step = ChunkStepBuilder::new("count")
        .reader(Sequence::to(5))
        .writer(ListWriter::new(Arc::default()))
        .build();
    operator.registry().register(Job::builder("count").step(step).build().unwrap()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shown = Arc::clone(&seen);
    operator.events().observe(move |event: &Event| {
        if let Change::Trigger { status, .. } = event.change {
            shown.lock().unwrap().push(status);
        }
    });
    let configured = Config::parse("[kcp]\nlisten = \"127.0.0.1:0\"", "/".as_ref()).unwrap();
    let server = Server::builder(operator.clone())
        .scheduler(configured.scheduler.unwrap(), MemorySchedule::new())
        .start()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let scheduler = server.scheduler().unwrap();
    let settings = RuleSettings::parse(&["job", "count"]).unwrap();
    let (identifier, pattern) = ("rule".to_owned(), "t".to_owned());
    let rule = Request::SetRule { identifier, pattern, settings };
    runtime.block_on(scheduler.ask(rule)).unwrap();
    let set = Request::Set { identifier: "t".to_owned(), when: When::At(0) };
    runtime.block_on(scheduler.ask(set)).unwrap();
    until("the trigger starts its job", || {
        let filter = ExecutionFilter::of_job("count").status(BatchStatus::Completed);
        operator.queries().execution_count(&filter).unwrap() == 1
    });
    until("the outcome is stored", || seen.lock().unwrap().last() == Some(&"executed"));
    assert_eq!(*seen.lock().unwrap(), ["planned", "triggered", "executed"]);
    server.stop();
}
