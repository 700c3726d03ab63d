//! A server that runs the job files of a folder: `cargo run -p batchwright-server --example 14_job_files`.

use std::sync::Arc;

use batchwright::JobOperator;
use batchwright::clock::StopToken;
use batchwright_jobfile::JobFolder;
use batchwright_server::{Server, api::HttpSettings};
use batchwright_store::SqlRepository;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let repository = Arc::new(SqlRepository::sqlite("target/14_job_files.db")?);
    let jobs = JobFolder::new("examples/oui").database(repository.database().clone());
    let operator = JobOperator::builder(repository).jobs(jobs).build();
    println!("jobs: {:?}", operator.explorer().runnable_names()?);
    let server =
        Server::builder(operator).http(HttpSettings::new("127.0.0.1:0".parse()?)).start()?;
    println!("serving http://{}", server.http_address().ok_or("no address")?);
    let stop = StopToken::default();
    stop.request(); // A service requests it when a signal arrives.
    server.supervise(&stop);
    server.stop();
    Ok(())
}
