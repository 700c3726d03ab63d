//! A web application that imports an uploaded CSV file of any length with requests of at most two seconds.
//!
//! `POST /import` stores the file and answers that it needs a batch; the page drives the execution, with a
//! progress bar, and shows the final response. After a network failure, a closed tab or a killed server, the
//! import continues where it was.
//!
//!     cargo run --release -p batchwright-server --example 12_csv_import
//!     open http://127.0.0.1:8080
//!
//! Optional arguments: the address, the folder, the milliseconds of a request.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use batchwright::clock::StopToken;
use batchwright::progressive::{FinalResponse, ItemUnits, OnFailed, ProgressiveStep};
use batchwright::scope::StepScope;
use batchwright::{ItemError, Job, JobOperator};
use batchwright_items::format::csv::CsvReader;
use batchwright_server::JobStarter;
use batchwright_server::api::{AccessRules, Api};
use batchwright_server::progressive::{NeedsBatch, NeedsBatchLayer};
use batchwright_store::{Database, SqlMode, SqlRepository, SqlWriter, SqliteDatabase};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Customer {
    id: i64,
    name: String,
    balance: f64,
}

/// The result that the page shows.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Imported {
    rows: u64,
    balance: f64,
}

/// The folder of the uploads and the database.
type Folder = Arc<PathBuf>;

fn upload_path(scope: &StepScope, folder: &Folder) -> Result<PathBuf, ItemError> {
    let upload = scope.parameters().string("upload")?;
    // Any client of the API can send the name of an upload.
    if upload.is_empty() || !upload.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ItemError::fatal(format!(
            "cannot find upload `{upload}`: its name is not hexadecimal"
        )));
    }
    Ok(folder.join(format!("{upload}.csv")))
}

/// Imports an upload: each line a row of `customer`, in the transaction of the checkpoint that counts it.
fn import_job(folder: &Folder, target: Duration) -> Result<Job, batchwright::operator::Refusal> {
    let source = Arc::clone(folder);
    let step = ProgressiveStep::builder("rows")
        .units(ItemUnits::new(move |scope| {
            Ok(CsvReader::<Customer>::new(upload_path(scope, &source)?))
        }))
        .process(|customer: &Customer| {
            let known = customer.name.trim();
            if known.is_empty() {
                return Err(ItemError::data(format!(
                    "cannot import customer {}: the name is empty",
                    customer.id
                )));
            }
            Ok(Some(Customer { name: known.to_owned(), ..customer.clone() }))
        })
        .reduce(
            |sum: Option<Imported>, customer| {
                let sum = sum.unwrap_or_default();
                Ok(Imported { rows: sum.rows + 1, balance: sum.balance + customer.balance })
            },
            |a, b| Ok(Imported { rows: a.rows + b.rows, balance: a.balance + b.balance }),
        )
        .respond(|sum, units| {
            let sum = sum.unwrap_or_default();
            let (rows, failed) = (sum.rows, units.units_failed);
            FinalResponse::json(&serde_json::json!({
                "rows": rows, "failed": failed, "balance": sum.balance.round()
            }))
        })
        .writer(
            SqlWriter::in_store("customer", ["id", "name", "balance"], |row: &Customer, to| {
                to.bind(row.id)?;
                to.bind(row.name.as_str())?;
                to.bind(row.balance)
            })
            // A customer that already exists is updated.
            .mode(SqlMode::Upsert { key: vec!["id".to_owned()] })
            .expect("a known key"),
        )
        .lanes(2)
        .target(target)
        .max_attempts(1)
        .on_failed(OnFailed::Continue)
        .build();
    Job::builder("import").step(step).build()
}

/// Stores the file under a hash of its content: equal uploads at the same time share one import, and a later
/// one starts a new import.
async fn import(State(folder): State<Folder>, body: Bytes) -> Response {
    let upload: String =
        Sha256::digest(&body).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join(format!("{upload}.csv"));
    if let Err(error) = tokio::fs::write(&path, &body).await {
        return (StatusCode::INSUFFICIENT_STORAGE, error.to_string()).into_response();
    }
    NeedsBatch::new("import").with("upload", upload).into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let folder: Folder = Arc::new(arguments.next().unwrap_or_else(|| "imports".to_owned()).into());
    let millis = arguments.next().map_or(Ok(1_800), |millis| millis.parse())?;
    std::fs::create_dir_all(&*folder)?;

    let database = Database::from(SqliteDatabase::at(folder.join("imports.db")));
    let repository = Arc::new(SqlRepository::sqlite(folder.join("imports.db"))?);
    database.run(
        "CREATE TABLE IF NOT EXISTS customer (id INTEGER PRIMARY KEY, name TEXT, balance REAL)",
    )?;
    let operator = JobOperator::new(repository);
    operator.registry().register(import_job(&folder, Duration::from_millis(millis))?)?;

    let jobs = JobStarter::new(operator);
    let api = Api::new(jobs, None, StopToken::default());
    let application = Router::new()
        .route("/", get(|| async { Html(include_str!("12_csv_import.html")) }))
        .route("/import", post(import).layer(NeedsBatchLayer::new(api.clone())))
        .with_state(folder)
        .layer(DefaultBodyLimit::max(256 * 1024 * 1024))
        .merge(api.guarded(AccessRules::default()));
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, application).await?;
    Ok(())
}
