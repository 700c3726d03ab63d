//! The example `18_pages_to_postgres`: a reader of an HTTP API and a sink with the program's own connections have each
//! row once, although the program is killed again and again.

mod common;

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use batchwright_testkit::{Service, needs};
use common::example;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::watch;

const PAGES: u32 = 60;
const PAGE_SIZE: u32 = 7;
/// The program is killed this often right after a commit of the sink.
const KILLS_AFTER_COMMIT: u32 = 12;
/// At the first request of each of these pages the program is killed.
const DEADLY: [u32; 5] = [0, 9, 17, 33, 59];

#[derive(Clone, Default)]
struct Pages {
    /// Number of requests for each page.
    asked: Arc<Mutex<HashMap<u32, u32>>>,
    /// Number of pages that are held back until the program dies.
    held: Arc<AtomicU32>,
    /// How often the test has looked at the commits of the sink.
    looks: watch::Sender<u64>,
}

async fn orders(
    State(pages): State<Pages>,
    Query(query): Query<HashMap<String, u32>>,
) -> Json<Value> {
    let page = query["page"];
    let count = {
        let mut asked = pages.asked.lock().unwrap();
        *asked.entry(page).and_modify(|count| *count += 1).or_insert(1)
    };
    if count == 1 && DEADLY.contains(&page) {
        pages.held.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    }
    // No page is sent before the test has looked once more, so that no program ends between two looks.
    let mut looks = pages.looks.subscribe();
    for _ in 0..2 {
        let _ = looks.changed().await;
    }
    let ids = page * PAGE_SIZE..(page + 1) * PAGE_SIZE;
    let orders: Vec<Value> = ids.map(|id| json!({"id": id, "amount": id * 10})).collect();
    let next = (page + 1 < PAGES).then_some(page + 1);
    Json(json!({"orders": orders, "next": next}))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_is_there_once_although_the_program_is_killed() {
    let Some(url) = needs(Service::Postgres) else { return };
    let pool = PgPool::connect(&url).await.unwrap();
    for table in ["orders", "order_commit"] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP TABLE IF EXISTS {table}")))
            .execute(&pool)
            .await
            .unwrap();
    }
    let pages = Pages::default();
    let app = Router::new().route("/orders", get(orders)).with_state(pages.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/orders", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.db");
    let (asking, runtime) = (pool.clone(), tokio::runtime::Handle::current());
    let committed = move || {
        let newest = sqlx::query_scalar("SELECT max(sequence) FROM order_commit");
        // The table does not exist before the program's first start.
        let newest = runtime.block_on(newest.fetch_one(&asking));
        newest.ok().and_then(|newest: Option<i64>| newest).unwrap_or(0)
    };
    let kills = tokio::task::spawn_blocking(move || {
        let (mut held, mut after_commit) = (0, 0);
        loop {
            let mut program = Command::new(example("18_pages_to_postgres"));
            program.arg(&address).arg(&url).arg(&store).stdout(Stdio::piped());
            let mut running = program.spawn().unwrap();
            let before = committed();
            loop {
                if running.try_wait().unwrap().is_some() {
                    let output = running.wait_with_output().unwrap();
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    assert_eq!(text.trim(), "COMPLETED");
                    return (held, after_commit);
                }
                if pages.held.load(Ordering::SeqCst) > held {
                    held += 1;
                    break;
                }
                let is_after_commit = committed() > before;
                pages.looks.send_modify(|looks| *looks += 1);
                // Between the commit of the sink and that of the store, as far as a test can meet it.
                if after_commit < KILLS_AFTER_COMMIT && is_after_commit {
                    after_commit += 1;
                    break;
                }
            }
            running.kill().unwrap();
            running.wait().unwrap();
        }
    });
    assert_eq!(kills.await.unwrap(), (DEADLY.len() as u32, KILLS_AFTER_COMMIT));
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("SELECT id, amount FROM orders ORDER BY id").fetch_all(&pool).await.unwrap();
    let expected: Vec<(i64, i64)> =
        (0..i64::from(PAGES * PAGE_SIZE)).map(|id| (id, id * 10)).collect();
    assert_eq!(rows, expected);
}
