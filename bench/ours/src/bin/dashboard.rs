//! Measures the pages of a running server, for `cargo xtask bench dashboard`: `dashboard ADDRESS PID`.

use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;

/// Requests for each page.
const REQUESTS: usize = 200;
/// Open pages that listen to changes.
const VIEWERS: usize = 500;
/// Requests a second beside a running job.
const REQUESTS_A_SECOND: u32 = 200;
/// Runs of the job alone and beside the viewers, in turns.
const ROUNDS: usize = 5;
/// Items of the job.
const ITEMS: u64 = 30_000_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PAGES: [&str; 18] = [
    "/",
    "/executions",
    "/executions?q=status:failed",
    "/executions?q=status:failed+since:24h",
    "/executions?q=job:job-7",
    "/executions?q=job:job-7+status:failed",
    "/executions?q=since:24h",
    // Nothing matches, so that each looks at as many executions as a search does at most.
    "/executions?q=by:nothing",
    "/executions?q=param.none:1",
    "/executions/500000",
    "/jobs",
    "/jobs/job-7",
    "/schedule",
    "/progressive",
    "/workers",
    "/audit",
    "/system",
    "/v1/executions?limit=50",
];

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, pid] = &arguments[..] else {
        return Err("usage: dashboard ADDRESS PID".into());
    };
    // The client has no cryptography of its own, and needs it also where it encrypts nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let base = format!("http://{address}");
        pages(&base).await?;
        beside_a_job(&base, pid).await
    })
}

#[expect(clippy::disallowed_methods, reason = "measuring is the purpose")]
fn now() -> Instant {
    Instant::now()
}

/// Prints how long each page takes, one request after another.
async fn pages(base: &str) -> Result<(), Failure> {
    let client = Client::new();
    println!("| page | first byte, p95 | whole, p50 | whole, p95 | kB |\n|---|---|---|---|---|");
    for page in PAGES {
        let (mut first, mut whole, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..REQUESTS {
            let begin = now();
            let request = client.get(format!("{base}{page}")).header("accept", "text/html");
            let mut response = request.send().await?.error_for_status()?;
            let mut size = response.chunk().await?.map_or(0, |chunk| chunk.len());
            first.push(begin.elapsed());
            while let Some(chunk) = response.chunk().await? {
                size += chunk.len();
            }
            whole.push(begin.elapsed());
            bytes = size;
        }
        let [first, middle, whole] =
            [at(&mut first, 95), at(&mut whole, 50), at(&mut whole, 95)].map(millis);
        println!("| `{page}` | {first} ms | {middle} ms | {whole} ms | {} |", bytes / 1_000);
    }
    Ok(())
}

fn at(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

/// Runs a job alone and beside viewers and requests, in turns; prints the ratio of the medians, and the memory.
async fn beside_a_job(base: &str, pid: &str) -> Result<(), Failure> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let mut memory = (0, 0);
    // The baseline is the memory before the first viewer.
    for round in 0..ROUNDS {
        alone.push(run_job(base, round * 2).await?);
        if round == 0 {
            memory.0 = resident_kib(pid)?;
        }
        let viewers = tokio::spawn(watch(base.to_owned()));
        let requests = tokio::spawn(request_often(base.to_owned()));
        tokio::time::sleep(Duration::from_secs(2)).await;
        beside.push(run_job(base, round * 2 + 1).await?);
        memory.1 = resident_kib(pid)?.max(memory.1);
        if viewers.is_finished() {
            return Err(format!("a viewer's stream ended: {:?}", viewers.await).into());
        }
        viewers.abort();
        requests.abort();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (alone, beside) = (at(&mut alone, 50), at(&mut beside, 50));
    println!(
        "\na job of {ITEMS} items: {:.2} s alone, {:.2} s beside {VIEWERS} viewers and {REQUESTS_A_SECOND} requests/s: {:.3}",
        alone.as_secs_f64(),
        beside.as_secs_f64(),
        beside.as_secs_f64() / alone.as_secs_f64()
    );
    println!("memory: {} MiB, with the viewers {} MiB", memory.0 / 1024, memory.1 / 1024);
    Ok(())
}

/// Starts the job, waits for its end, and returns how long it ran.
async fn run_job(base: &str, number: usize) -> Result<Duration, Failure> {
    let client = Client::new();
    let body = serde_json::json!({"parameters": {"run": number, "count": ITEMS}});
    let start = client.post(format!("{base}/v1/jobs/count/executions")).body(body.to_string());
    let started = start.header("content-type", "application/json").send().await?;
    let started: Value = serde_json::from_str(&started.error_for_status()?.text().await?)?;
    let address = format!("{base}/v1/executions/{}", started["id"]);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let one: Value = serde_json::from_str(&client.get(&address).send().await?.text().await?)?;
        let time =
            |name: &str| one[name].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        if let Some((began, ended)) = time("started_at").zip(time("ended_at")) {
            if one["status"] != "COMPLETED" {
                return Err(format!("the job ended {}", one["status"]).into());
            }
            return Ok(ended.duration_since(began).unsigned_abs());
        }
    }
}

/// Holds the streams of the viewers open.
async fn watch(base: String) -> Result<(), reqwest::Error> {
    let client = Client::new();
    let listen = |_| {
        let request = client.get(format!("{base}/v1/events"));
        async move {
            let mut stream = request.send().await?;
            while stream.chunk().await?.is_some() {}
            Ok::<_, reqwest::Error>(())
        }
    };
    futures_util::future::try_join_all((0..VIEWERS).map(listen)).await.map(drop)
}

async fn request_often(base: String) {
    let client = Client::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / REQUESTS_A_SECOND);
    loop {
        ticks.tick().await;
        let request = client.get(format!("{base}/executions")).header("accept", "text/html");
        tokio::spawn(async move {
            if let Ok(response) = request.send().await {
                let _ = response.bytes().await;
            }
        });
    }
}

/// Returns the memory of the server that is in use.
fn resident_kib(pid: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?)
}
