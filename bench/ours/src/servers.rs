//! Fast hand-written loaders for a server: one connection, and one transaction with one statement for every
//! thousand rows.

use futures_util::TryFutureExt;
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, MySql, QueryBuilder};

use crate::work::{CHUNK, Outcome, Task, Trade, Valued, timed};

type Failure = Box<dyn std::error::Error>;

/// Returns the URL of a test server.
pub(crate) fn url(work: &str) -> String {
    let (variable, usual) = match work {
        "mariadb" => (
            "BATCHWRIGHT_TEST_MYSQL",
            "mysql://batchwright:batchwright@127.0.0.1:3306/batchwright?ssl-mode=DISABLED",
        ),
        _ => (
            "BATCHWRIGHT_TEST_POSTGRES",
            "postgres://batchwright:batchwright@localhost:5432/batchwright?sslmode=disable",
        ),
    };
    std::env::var(variable).unwrap_or_else(|_| usual.to_owned())
}

pub(crate) const TABLE: &str = "DROP TABLE IF EXISTS bench_valued; CREATE TABLE bench_valued \
    (id BIGINT PRIMARY KEY, account VARCHAR(20), symbol VARCHAR(20), value DOUBLE PRECISION)";

pub(crate) fn run(work: &str, task: &Task) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match work {
        "csv-postgres" => {
            let mut connection = runtime.block_on(postgres())?;
            timed(|| runtime.block_on(unnest(task, &mut connection)))
        }
        "csv-postgres-copy" => {
            let mut connection = runtime.block_on(postgres())?;
            timed(|| runtime.block_on(copy(task, &mut connection)))
        }
        "csv-mariadb" => {
            let mut connection = runtime.block_on(mariadb())?;
            timed(|| runtime.block_on(multi_row(task, &mut connection)))
        }
        other => Err(format!("the loop has no workload `{other}`").into()),
    }
}

async fn postgres() -> Result<PgConnection, Failure> {
    let mut connection = PgConnection::connect(&url("postgres")).await?;
    connection.execute(sqlx::raw_sql(TABLE)).await?;
    Ok(connection)
}

async fn mariadb() -> Result<MySqlConnection, Failure> {
    let mut connection = MySqlConnection::connect(&url("mariadb")).await?;
    connection.execute(sqlx::raw_sql(TABLE)).await?;
    Ok(connection)
}

/// Returns the next chunk of the input.
fn chunk(
    trades: &mut csv::DeserializeRecordsIter<'_, std::fs::File, Trade>,
) -> Result<Vec<Valued>, csv::Error> {
    trades.take(CHUNK).map(|trade| trade.map(|trade| Valued::of(&trade))).collect()
}

async fn unnest(task: &Task, connection: &mut PgConnection) -> Result<(), Failure> {
    let mut input = csv::ReaderBuilder::new().buffer_capacity(64 * 1024).from_path(&task.input)?;
    let mut trades = input.deserialize();
    loop {
        let rows = chunk(&mut trades)?;
        if rows.is_empty() {
            return Ok(());
        }
        let (mut ids, mut accounts, mut symbols, mut values) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for Valued { id, account, symbol, value } in rows {
            ids.push(id as i64);
            accounts.push(account);
            symbols.push(symbol);
            values.push(value);
        }
        let mut transaction = connection.begin().await?;
        sqlx::query(
            "INSERT INTO bench_valued SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::float8[])",
        )
        .bind(ids)
        .bind(accounts)
        .bind(symbols)
        .bind(values)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
    }
}

async fn copy(task: &Task, connection: &mut PgConnection) -> Result<(), Failure> {
    use std::fmt::Write as _;
    let mut input = csv::ReaderBuilder::new().buffer_capacity(64 * 1024).from_path(&task.input)?;
    let mut trades = input.deserialize();
    let mut text = String::new();
    loop {
        let rows = chunk(&mut trades)?;
        if rows.is_empty() {
            return Ok(());
        }
        text.clear();
        for Valued { id, account, symbol, value } in rows {
            writeln!(text, "{id}\t{account}\t{symbol}\t{value}")?;
        }
        let mut transaction = connection.begin().await?;
        let mut sink = transaction.copy_in_raw("COPY bench_valued FROM STDIN").await?;
        sink.send(text.as_bytes()).await?;
        sink.finish().await?;
        transaction.commit().await?;
    }
}

async fn multi_row(task: &Task, connection: &mut MySqlConnection) -> Result<(), Failure> {
    let mut input = csv::ReaderBuilder::new().buffer_capacity(64 * 1024).from_path(&task.input)?;
    let mut trades = input.deserialize();
    loop {
        let rows = chunk(&mut trades)?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut query = QueryBuilder::<MySql>::new("INSERT INTO bench_valued ");
        query.push_values(rows, |mut row, Valued { id, account, symbol, value }| {
            row.push_bind(id as i64).push_bind(account).push_bind(symbol).push_bind(value);
        });
        let mut transaction = connection.begin().await?;
        query.build().execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
}

/// Runs `text` on a server.
pub(crate) fn on_server(work: &str, text: &str) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let statements = sqlx::raw_sql(AssertSqlSafe(text));
    runtime.block_on(async {
        match work {
            "mariadb" => {
                let mut connection = MySqlConnection::connect(&url(work)).await?;
                statements.execute(&mut connection).map_ok(drop).await
            }
            _ => {
                let mut connection = PgConnection::connect(&url(work)).await?;
                statements.execute(&mut connection).map_ok(drop).await
            }
        }
    })?;
    Ok(())
}
