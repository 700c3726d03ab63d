//! A task that web requests carry forward, and its client: `cargo run -p batchwright-server --example 25_progressive_client`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use batchwright::clock::StopToken;
use batchwright::progressive::{FinalResponse, NumberedUnits, ProgressiveStep};
use batchwright::{Job, JobOperator, MemoryRepository};
use batchwright_server::JobStarter;
use batchwright_server::api::{AccessRules, Api};
use batchwright_server::progressive::client::BatchClient;
use batchwright_server::progressive::{NeedsBatch, NeedsBatchLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The task counts its units.
    let task = ProgressiveStep::builder("count")
        .units(NumberedUnits::with(|scope| Ok(scope.parameters().integer("units")?.try_into()?)))
        .process(|unit: &u64| Ok(Some(*unit)))
        .reduce(|count: Option<u64>, _| Ok(count.unwrap_or(0) + 1), |left, right| Ok(left + right))
        .respond(|count, _| Ok(FinalResponse::new("text/plain", format!("{count:?}"))))
        .target(Duration::from_millis(50))
        .build();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(Job::builder("count").step(task).build()?)?;

    // A handler answers that it needs the task.
    let api = Api::new(JobStarter::new(operator), None, StopToken::default());
    let count = || async { NeedsBatch::new("count").with("units", 200_000) };
    let application = Router::new()
        .route("/count", post(count).layer(NeedsBatchLayer::new(api.clone())))
        .merge(api.guarded(AccessRules::default()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/count", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, application).await });

    // The client sends an ordinary request, and drives the task until its response is there.
    let client =
        BatchClient::new()?.on_progress(|progress| println!("{} units", progress.units_done));
    let answer = client.send(client.http().post(url).build()?).await?;
    println!("{}", answer.text());
    assert_eq!(answer.text(), "Some(200000)");
    Ok(())
}
