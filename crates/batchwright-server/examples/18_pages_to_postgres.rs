//! Reads an HTTP API page by page, and writes to PostgreSQL through the application's own connections, each row once,
//! also after `kill -9`.
//!
//!     18_pages_to_postgres http://127.0.0.1:8082/orders postgres://user@localhost/db store.db

use std::error::Error;
use std::sync::Arc;

use batchwright::item::{
    AsyncItemReader, AsyncItemWriter, AsyncWriter, ChunkTransaction, Ending, Page, PreparedCommit,
};
use batchwright::retry::RetryPolicy;
use batchwright::scope::StepScope;
use batchwright::{ChunkStepBuilder, ItemError, Job, JobOperator, JobParameters};
use batchwright_store::SqlRepository;
use serde::Deserialize;
use sqlx::{PgPool, PgTransaction};

#[derive(Deserialize)]
struct Order {
    id: i64,
    amount: i64,
}

/// `GET URL?page=N` answers with a page of orders and the number of the next one.
#[derive(Clone)]
struct Orders {
    http: reqwest::Client,
    url: String,
}

#[derive(Deserialize)]
struct Answer {
    orders: Vec<Order>,
    next: Option<u32>,
}

impl AsyncItemReader for Orders {
    type Item = Order;
    type Position = u32;

    async fn read_page(&mut self, page: Option<&u32>) -> Result<Page<Order, u32>, ItemError> {
        let url = format!("{}?page={}", self.url, page.unwrap_or(&0));
        let answer = self.http.get(url).send().await?.error_for_status()?.json::<Answer>().await?;
        Ok(Page { items: answer.orders, next: answer.next })
    }
}

/// Commits each chunk together with the engine's record of it, in the row of this step.
struct OrderTable {
    pool: PgPool,
    step: String,
    tx: Option<PgTransaction<'static>>,
}

impl OrderTable {
    async fn tx(&mut self) -> Result<&mut PgTransaction<'static>, ItemError> {
        if self.tx.is_none() {
            self.tx = Some(self.pool.begin().await?);
        }
        self.tx.as_mut().ok_or_else(|| ItemError::fatal("there is no transaction"))
    }
}

impl AsyncItemWriter<Order> for OrderTable {
    async fn open(&mut self, scope: &StepScope) -> Result<Option<PreparedCommit>, ItemError> {
        let (store, instance) = (scope.store_id(), scope.job().instance_id());
        self.step = format!("{store}/{instance}/{}/{}", scope.sink_name(), scope.round());
        let found: Option<String> =
            sqlx::query_scalar("SELECT commit FROM order_commit WHERE step = $1")
                .bind(&self.step)
                .fetch_optional(&self.pool)
                .await?;
        Ok(found.map(|json| serde_json::from_str(&json)).transpose()?)
    }

    async fn write(
        &mut self,
        orders: &[Order],
        _: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        let ids: Vec<i64> = orders.iter().map(|order| order.id).collect();
        let amounts: Vec<i64> = orders.iter().map(|order| order.amount).collect();
        let tx = self.tx().await?;
        sqlx::query("INSERT INTO orders SELECT * FROM unnest($1::bigint[], $2::bigint[])")
            .bind(ids)
            .bind(amounts)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        let (step, sequence) = (self.step.clone(), i64::try_from(commit.sequence)?);
        let json = serde_json::to_string(commit)?;
        let tx = self.tx().await?;
        // The number refuses a process that was taken for dead and still commits.
        let stored = sqlx::query(
            "INSERT INTO order_commit (step, sequence, commit) VALUES ($1, $2, $3)
             ON CONFLICT (step) DO UPDATE SET sequence = $2, commit = $3 WHERE order_commit.sequence = $2 - 1",
        );
        let stored = stored.bind(step).bind(sequence).bind(json).execute(&mut **tx).await?;
        if stored.rows_affected() == 0 {
            return Err(ItemError::lease_lost());
        }
        match self.tx.take() {
            Some(tx) => tx.commit().await.map_err(ItemError::commit_unknown),
            None => Ok(()),
        }
    }

    async fn rolled_back(&mut self) -> Result<(), ItemError> {
        match self.tx.take() {
            Some(tx) => Ok(tx.rollback().await?),
            None => Ok(()),
        }
    }

    fn prepares(&self) -> bool {
        true
    }

    async fn close(&mut self, _: Ending) -> Result<(), ItemError> {
        self.rolled_back().await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, database, store] = &arguments[..] else {
        return Err("the arguments are: the address of the orders, the database, the store".into());
    };
    // This workspace builds reqwest without a provider of TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pool = PgPool::connect(database).await?;
    for table in [
        "CREATE TABLE IF NOT EXISTS orders (id BIGINT NOT NULL, amount BIGINT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS order_commit (step TEXT PRIMARY KEY, sequence BIGINT NOT NULL, commit TEXT NOT NULL)",
    ] {
        sqlx::query(table).execute(&pool).await?;
    }
    let orders = Orders { http: reqwest::Client::new(), url: url.clone() };
    let step = ChunkStepBuilder::new("load")
        .async_reader(orders)
        .writer_with(move |_| {
            Ok(AsyncWriter::new(OrderTable { pool: pool.clone(), step: String::new(), tx: None }))
        })
        .chunk_size(20)
        .retry(RetryPolicy::attempts(3))
        .build();
    let operator = JobOperator::new(Arc::new(SqlRepository::sqlite(store)?));
    operator.registry().register(Job::builder("orders").step(step).build()?)?;
    // Closes what a killed process left; `run` continues it.
    operator.recover_all()?;
    let ended = operator.asynchronous().run("orders", JobParameters::new()).await?;
    println!("{}", ended.status);
    Ok(())
}
