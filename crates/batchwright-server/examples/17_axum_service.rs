//! A web application with jobs: it starts them from a handler, shows their progress, serves the REST API under
//! `/batch`, and stops at the end of a chunk.
//!
//!     cargo run -p batchwright-server --example 17_axum_service
//!     curl http://127.0.0.1:8081/imports --json '{"count": 100000}'
//!     curl -N http://127.0.0.1:8081/imports/1/progress
//!     open http://127.0.0.1:8081/batch/docs

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use batchwright::execution::ExecutionId;
use batchwright::item::DeliveryWriter;
use batchwright::operator::OperatorError;
use batchwright::{ChunkStepBuilder, Job, JobOperator, JobParameters, Sequence};
use batchwright_jobfile::JobFolder;
use batchwright_server::Server;
use batchwright_server::api::AccessRules;
use batchwright_store::SqlRepository;
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What the handlers share.
#[derive(Clone)]
struct Service {
    operator: JobOperator,
    /// Becomes true when the service ends.
    ending: watch::Receiver<bool>,
}

#[derive(Deserialize)]
struct Import {
    count: i64,
}

/// Starts a job and answers at once. The same parameters name the same instance: once it is complete, a further start is
/// refused.
async fn start(
    State(service): State<Service>,
    Json(import): Json<Import>,
) -> Result<(StatusCode, String), (StatusCode, String)> {
    let parameters = JobParameters::new().with("count", import.count);
    match service.operator.asynchronous().start("import", parameters).await {
        Ok(started) => Ok((StatusCode::ACCEPTED, started.id().to_string())),
        Err(OperatorError::Refused(why)) => Err((StatusCode::CONFLICT, why.to_string())),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

/// Sends every change of an execution as a server-sent event, until the execution or the service ends.
async fn progress(
    State(service): State<Service>,
    Path(id): Path<i64>,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, StatusCode> {
    let events = service.operator.asynchronous().follow(ExecutionId(id)).await;
    let events = events.map_err(|error| match error {
        OperatorError::Refused(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    })?;
    let mut ending = service.ending.clone();
    let ended = async move { drop(ending.wait_for(|ending| *ending).await) };
    let changes = events.take_until(Box::pin(ended)).map(|event| Event::default().json_data(event));
    // A browser connects again after the end of a stream, unless its page closes it at this event.
    let end = Event::default().event("end").data("");
    Ok(Sse::new(changes.chain(stream::iter([Ok(end)]))).keep_alive(KeepAlive::default()))
}

/// The job `import`, and the job files of `examples/oui`.
pub(crate) fn jobs(database: &str) -> Result<JobOperator, Box<dyn std::error::Error>> {
    let repository = Arc::new(SqlRepository::sqlite(database)?);
    let files = JobFolder::new("examples/oui").database(repository.database().clone());
    let operator = JobOperator::builder(repository).jobs(files).build();
    let step = ChunkStepBuilder::new("load")
        .reader_with(|scope| Ok(Sequence::to(scope.parameters().integer("count")?.try_into()?)))
        .process(|number| Ok(Some(number * 2)))
        .writer(DeliveryWriter::call(|_: &[u64], _| Ok(())))
        .chunk_size(100)
        .build();
    operator.registry().register(Job::builder("import").step(step).build()?)?;
    Ok(operator)
}

/// The routes of the application, and those of Batchwright under `/batch`.
pub(crate) fn routes(
    operator: JobOperator,
    server: &Server,
    ending: watch::Receiver<bool>,
) -> Router {
    Router::new()
        .route("/imports", post(start))
        .route("/imports/{id}/progress", get(progress))
        .with_state(Service { operator, ending })
        .nest("/batch", server.api().at("/batch").guarded(AccessRules::default()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let operator = jobs("target/17_axum_service.db")?;
    // Runs queued executions, also those of a server that died, and closes what else it left as failed.
    let server = Server::builder(operator.clone()).serve().await?;
    let (end, ending) = watch::channel(false);
    let application = routes(operator, &server, ending);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut terminated = signal(SignalKind::terminate())?;
    let ended = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
        end.send_replace(true);
        // Running jobs stop at the end of their chunk; a restart continues them there.
        server.shutdown().await;
    };
    axum::serve(listener, application).with_graceful_shutdown(ended).await?;
    Ok(())
}
