//! The load generator of the scheduler: plain sockets that speak KCP, to Batchwright's server or any other.
//!
//! Every figure is measured from outside: answers counted on the socket, messages received from RabbitMQ,
//! lines that scripts write into a pipe, `/proc` of the server.

#![expect(clippy::disallowed_methods, reason = "a load generator measures real time")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};

const EXCHANGE: &str = "batchwright-bench";
const QUEUE: &str = "batchwright-bench";
/// A year in which nothing fires.
const FAR: &str = "2099-01-01 00:00:00";

/// Number of scripts that run at once, the server's default.
const SCRIPTS_AT_ONCE: usize = 16;

/// Returns the URL of the RabbitMQ under load: that of the tests, or one on this machine.
fn broker() -> String {
    let named = std::env::var("BATCHWRIGHT_TEST_RABBITMQ");
    named.unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The server under load, in its own folder.
struct Server {
    child: Child,
    address: String,
    folder: PathBuf,
    program: PathBuf,
    store: Option<String>,
}

impl Server {
    /// Starts `program` on an empty store in `folder`, or on the store at the URL.
    fn start(program: &Path, folder: &Path, store: Option<String>) -> Result<Self> {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder)?;
        let (child, address) = launch(program, folder, store.as_deref())?;
        let program = program.to_owned();
        Ok(Self { child, address, folder: folder.to_owned(), program, store })
    }

    /// Starts a server of Kairoi in a folder beside `folder`, at a port that is free now.
    fn kairoi(program: &Path, folder: &Path) -> Result<Self> {
        let folder = folder.join("kairoi");
        std::fs::create_dir_all(&folder)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let configuration = folder.join("configuration.toml");
        std::fs::write(
            &configuration,
            format!("[log]\nlevel = \"off\"\n[controller]\nlisten = \"{address}\"\n"),
        )?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&configuration).current_dir(&folder);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (child, program) = (quiet.spawn()?, program.to_owned());
        let mut server = Self { child, address, folder, program, store: None };
        while server.client().is_err() {
            if server.child.try_wait()?.is_some() {
                return Err("Kairoi ended before it listened".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Kills the server, starts it again, and returns the time until it answers.
    fn restart(&mut self) -> Result<Duration> {
        self.kill()?;
        let began = Instant::now();
        (self.child, self.address) = launch(&self.program, &self.folder, self.store.as_deref())?;
        Client::connect(&self.address)?.ask("PING")?;
        Ok(began.elapsed())
    }

    fn client(&self) -> Result<Client> {
        Client::connect(&self.address)
    }

    /// Returns the resident memory in bytes: all of it, and the anonymous part.
    fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0) * 1024
        };
        Ok((of("VmRSS:"), of("RssAnon:")))
    }

    /// Returns the size of the files in the folder, in bytes.
    fn stored(&self) -> Result<u64> {
        let files = std::fs::read_dir(&self.folder)?;
        files.map(|file| Ok(file?.metadata()?.len())).sum()
    }

    /// Returns the processor time in ticks of a hundredth of a second.
    fn ticks(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn launch(program: &Path, folder: &Path, store: Option<&str>) -> Result<(Child, String)> {
    let mut command = Command::new(program);
    command.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]).current_dir(folder);
    if let Some(store) = store {
        command.args(["--store", store]);
    }
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut stderr = BufReader::new(child.stderr.take().ok_or("no stderr")?);
    let mut line = String::new();
    loop {
        line.clear();
        if stderr.read_line(&mut line)? == 0 {
            return Err("the server ended before it listened".into());
        }
        if let Some((_, address)) = line.trim_end().split_once("address=") {
            let address = address.to_owned();
            thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
            return Ok((child, address));
        }
    }
}

/// One client connection.
struct Client {
    write: TcpStream,
    read: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> Result<Self> {
        let write = TcpStream::connect(address)?;
        write.set_nodelay(true)?;
        let read = BufReader::with_capacity(64 * 1024, write.try_clone()?);
        Ok(Self { write, read })
    }

    /// Sends one request and waits for its answer.
    fn ask(&mut self, request: &str) -> Result<()> {
        self.write.write_all(format!("0 {request}\n").as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<()> {
        let mut line = String::new();
        self.read.read_line(&mut line)?;
        match line.trim_end().ends_with(" OK") {
            true => Ok(()),
            false => Err(format!("answered `{}`", line.trim_end()).into()),
        }
    }

    /// Sends all `requests` and counts the answers, which may arrive before the last request is sent.
    fn pipeline(&mut self, requests: &str, count: usize) -> Result<()> {
        let mut write = self.write.try_clone()?;
        thread::scope(|scope| {
            let writing = scope.spawn(move || write.write_all(requests.as_bytes()));
            for _ in 0..count {
                self.answer()?;
            }
            writing.join().map_err(|_| "the writer panicked")??;
            Ok(())
        })
    }
}

/// The order of identifiers.
#[derive(Clone, Copy)]
enum Names {
    /// Ascending, like a counter.
    Ordered,
    /// Spread over the index, like UUIDs.
    Scattered,
}

fn name(names: Names, prefix: &str, number: usize) -> String {
    match names {
        Names::Ordered => format!("{prefix}.{number:09}"),
        // A bijection, so that no two are the same.
        Names::Scattered => {
            let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            format!("{prefix}.{mixed:016x}")
        }
    }
}

fn requests(names: Names, prefix: &str, range: std::ops::Range<usize>, time: &str) -> String {
    let set = |number: usize| format!("{number} SET {} \"{time}\"\n", name(names, prefix, number));
    range.map(set).collect()
}

/// Runs `work` once per client on its own connection, which makes `each` requests; returns the requests per
/// second of all `clients`.
fn together(
    server: &Server,
    clients: usize,
    each: usize,
    work: impl Fn(&mut Client, usize) -> Result<()> + Sync,
) -> Result<f64> {
    let one = &|client: usize| work(&mut server.client()?, client);
    let began = Instant::now();
    thread::scope(|scope| {
        let running: Vec<_> = (0..clients)
            .map(|client| scope.spawn(move || one(client).map_err(|error| error.to_string())))
            .collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().map_err(|_| "a client panicked".to_owned())?)
    })?;
    Ok((each * clients) as f64 / began.elapsed().as_secs_f64())
}

/// Returns the `SET`s per second of `clients` that wait for each answer.
fn one_at_a_time(server: &Server, clients: usize, count: usize) -> Result<f64> {
    let each = count / clients;
    together(server, clients, each, |connection, client| {
        (0..each).try_for_each(|number| {
            connection.ask(&format!("SET one.{clients}.{client}.{number} \"{FAR}\""))
        })
    })
}

/// Returns the `SET`s per second of `clients` that send all their requests at once.
fn pipelined(
    server: &Server,
    clients: usize,
    count: usize,
    prefix: &str,
    names: Names,
) -> Result<f64> {
    let each = count / clients;
    together(server, clients, each, |connection, client| {
        let range = client * each..(client + 1) * each;
        connection.pipeline(&requests(names, prefix, range, FAR), each)
    })
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn rfc3339(at: Duration) -> String {
    // Civil time by the days-from-civil arithmetic of the proleptic Gregorian calendar.
    let (days, rest) = (at.as_secs() / 86_400, at.as_secs() % 86_400);
    let z = i64::try_from(days).unwrap_or(0) + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60,
        at.subsec_micros()
    )
}

fn percentiles(mut samples: Vec<f64>) -> (f64, f64) {
    samples.sort_by(f64::total_cmp);
    let at = |part: f64| samples[((samples.len() - 1) as f64 * part) as usize];
    (at(0.5), at(0.99))
}

/// Declares a durable exchange bound to a durable, empty queue.
async fn declare(channel: &lapin::Channel) -> Result<()> {
    let none = FieldTable::default;
    let _ = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await;
    let _ = channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Fanout, durable, none()).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(QUEUE.into(), durable, none()).await?;
    channel
        .queue_bind(QUEUE.into(), EXCHANGE.into(), "".into(), QueueBindOptions::default(), none())
        .await?;
    Ok(())
}

/// Receives `count` identifiers from the queue, with the times of their arrival.
async fn consume(
    count: usize,
    anew: bool,
    started: std::sync::mpsc::Sender<()>,
) -> Result<Vec<(String, Duration)>> {
    let connection = Connection::connect(&broker(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let none = FieldTable::default;
    if anew {
        declare(&channel).await?;
    }
    channel.basic_qos(2_000, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(QUEUE.into(), "bench".into(), options, none()).await?;
    started.send(())?;
    let mut seen = BTreeMap::new();
    let mut received = 0;
    while seen.len() < count {
        let delivery = consumer.next().await.ok_or("the broker closed the connection")??;
        received += 1;
        let identifier = String::from_utf8(delivery.data.clone())?;
        seen.entry(identifier).or_insert_with(now);
        if received % 500 == 0 || seen.len() == count {
            let all = BasicAckOptions { multiple: true };
            channel.basic_ack(delivery.delivery_tag, all).await?;
        }
    }
    Ok(seen.into_iter().collect())
}

/// Starts a consumer on its own thread and returns when it listens.
fn consumer(count: usize) -> Result<Consumer> {
    consumer_of(count, true)
}

type Consumer = thread::JoinHandle<std::result::Result<Vec<(String, Duration)>, String>>;

fn consumer_of(count: usize, anew: bool) -> Result<Consumer> {
    let (started, listening) = std::sync::mpsc::channel();
    let running = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(consume(count, anew, started)).map_err(|error| error.to_string())
    });
    listening.recv_timeout(Duration::from_secs(10)).map_err(|_| "RabbitMQ does not answer")?;
    Ok(running)
}

fn rule(server: &Server, words: &str) -> Result<()> {
    server.client()?.ask(&format!("RULE SET bench fire. {words}"))
}

/// Returns the milliseconds between due and received, p50 and p99, of `count` triggers spread over `spread`.
fn broker_lag(server: &Server, count: usize, spread: Duration) -> Result<(f64, f64)> {
    rule(server, &format!("amqp {} {EXCHANGE} key", broker()))?;
    let received = consumer(count)?;
    let begin = now() + Duration::from_secs(2);
    let due = |number: usize| begin + spread.mul_f64(number as f64 / count as f64);
    let mut client = server.client()?;
    let sets: String =
        (0..count).map(|n| format!("{n} SET fire.lag.{n} {}\n", rfc3339(due(n)))).collect();
    client.pipeline(&sets, count)?;
    let received = received.join().map_err(|_| "the consumer panicked")??;
    let lag = |(identifier, at): &(String, Duration)| {
        let number: usize = identifier.rsplit('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        at.as_secs_f64() * 1e3 - due(number).as_secs_f64() * 1e3
    };
    Ok(percentiles(received.iter().map(lag).collect()))
}

/// The result of a burst.
struct Burst {
    /// Messages per second in the queue, from due to the last one.
    rate: f64,
    /// Milliseconds that a concurrent `SET` took, p50 and p99.
    set: (f64, f64),
}

/// Returns the number of messages that wait in the queue.
async fn waiting(channel: &lapin::Channel) -> Result<u32> {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let queue = channel.queue_declare(QUEUE.into(), passive, FieldTable::default()).await?;
    Ok(queue.message_count())
}

/// Fires `count` triggers due at once while another client sets one trigger after the other; checks that the
/// message of each trigger is in the queue.
fn broker_burst(server: &Server, count: usize) -> Result<Burst> {
    rule(server, &format!("amqp {} {EXCHANGE} key", broker()))?;
    // Declares the exchange and an empty queue.
    drop(consumer(0)?.join());
    let lead = Duration::from_secs(3 + count as u64 / 30_000);
    let due = Duration::from_secs(now().as_secs()) + lead;
    let time = rfc3339(due);
    let mut client = server.client()?;
    let sets: String = (0..count).map(|n| format!("{n} SET fire.burst.{n} {time}\n")).collect();
    client.pipeline(&sets, count)?;
    if now() > due {
        return Err("the triggers were due before all were set".into());
    }
    let done = Arc::new(AtomicBool::new(false));
    let (finished, address) = (Arc::clone(&done), server.address.clone());
    let probing = thread::spawn(move || {
        let mut client = Client::connect(&address).map_err(|error| error.to_string())?;
        thread::sleep(due.saturating_sub(now()));
        let mut took = Vec::new();
        while !finished.load(Ordering::Relaxed) {
            let began = Instant::now();
            client
                .ask(&format!("SET probe.{} \"{FAR}\"", took.len()))
                .map_err(|error| error.to_string())?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
            thread::sleep(Duration::from_millis(5));
        }
        Ok::<_, String>(took)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let last = runtime.block_on(async {
        let connection = Connection::connect(&broker(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        while (waiting(&channel).await? as usize) < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, Box<dyn std::error::Error>>(now())
    })?;
    done.store(true, Ordering::Relaxed);
    let took = probing.join().map_err(|_| "the probe panicked")??;
    let received = consumer_of(count, false)?.join().map_err(|_| "the consumer panicked")??;
    if received.len() != count {
        return Err("messages are missing".into());
    }
    let rate = count as f64 / last.saturating_sub(due).as_secs_f64();
    Ok(Burst { rate, set: percentiles(took) })
}

/// A script that writes its argument into a pipe of this process.
struct Script {
    path: PathBuf,
    lines: BufReader<File>,
    /// Keeps the pipe open between two scripts.
    _write: File,
}

impl Script {
    fn in_folder(folder: &Path) -> Result<Self> {
        let (pipe, path) = (folder.join("pipe"), folder.join("script.sh"));
        let _ = std::fs::remove_file(&pipe);
        Command::new("mkfifo").arg(&pipe).status()?;
        let pipe = std::fs::canonicalize(&pipe)?;
        std::fs::write(&path, format!("echo \"$1\" > {}\n", pipe.display()))?;
        let (read, write) = open_pipe(&pipe)?;
        let path = std::fs::canonicalize(&path)?;
        Ok(Self { path, lines: BufReader::new(read), _write: write })
    }

    /// Returns the milliseconds between due and received, p50 and p99, of `count` scripts.
    fn lag(self, count: usize, due: impl Fn(usize) -> Duration) -> Result<(f64, f64)> {
        let mut lag = Vec::new();
        for line in self.lines.lines().take(count) {
            let at = now();
            let number: usize = line?.rsplit('.').next().ok_or("no number")?.parse()?;
            lag.push(at.as_secs_f64() * 1e3 - due(number).as_secs_f64() * 1e3);
        }
        Ok(percentiles(lag))
    }
}

/// Returns the milliseconds between due and the script's first command, p50 and p99, of `count` triggers spread over `spread`.
fn shell_lag(server: &Server, count: usize, spread: Duration) -> Result<(f64, f64)> {
    let script = Script::in_folder(&server.folder)?;
    rule(server, &format!("shell {}", script.path.display()))?;
    let begin = Duration::from_secs(now().as_secs() + 3);
    let due = |number: usize| begin + spread.mul_f64(number as f64 / count as f64);
    // Whole seconds in the form that all servers of the protocol know.
    let time = |at: Duration| match at.subsec_nanos() {
        0 => format!("\"{}\"", rfc3339(at)[..19].replace('T', " ")),
        _ => rfc3339(at),
    };
    let sets: String =
        (0..count).map(|n| format!("{n} SET fire.shell.{n} {}\n", time(due(n)))).collect();
    server.client()?.pipeline(&sets, count)?;
    script.lag(count, due)
}

/// Returns what `count` scripts take that nothing but threads start, as many at once as the server starts: milliseconds since the
/// first, p50 and p99.
fn bare_scripts(folder: &Path, count: usize) -> Result<(f64, f64)> {
    let script = Script::in_folder(folder)?;
    let (next, path) = (&AtomicUsize::new(0), &script.path.clone());
    let begin = now();
    thread::scope(|threads| {
        for _ in 0..SCRIPTS_AT_ONCE {
            threads.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let mut command = Command::new("sh");
                    let command = command.arg(path).arg(format!("fire.shell.{number}"));
                    let _ = command.stdin(Stdio::null()).output();
                }
            });
        }
        script.lag(count, |_| begin)
    })
}

fn open_pipe(pipe: &Path) -> Result<(File, File)> {
    let both = File::options().read(true).write(true).open(pipe)?;
    Ok((File::open(pipe)?, both))
}

/// Returns the share of a core that the server uses while `clients` are idle.
fn idle(server: &Server, clients: usize, seconds: u64) -> Result<f64> {
    let connect = |_| TcpStream::connect(&server.address);
    let held = (0..clients).map(connect).collect::<std::io::Result<Vec<_>>>()?;
    thread::sleep(Duration::from_secs(2));
    let before = server.ticks()?;
    thread::sleep(Duration::from_secs(seconds));
    let used = server.ticks()? - before;
    drop(held);
    Ok(used as f64 / 100.0 / seconds as f64)
}

/// Prints the rows of the scripts. The program that `BATCHWRIGHT_BENCH_KAIROI` names does the same work in turns.
fn shell_rows(server: &Server, row: &dyn Fn(&str, String)) -> Result<()> {
    let shown = |(p50, p99)| format!("{p50:.0} / {p99:.0} ms");
    let spread = shell_lag(server, 1_000, Duration::from_secs(1))?;
    row("lag, 1,000 over one second, shell", shown(spread));
    let kairoi = std::env::var_os("BATCHWRIGHT_BENCH_KAIROI");
    let beside = kairoi.map(|program| Server::kairoi(program.as_ref(), &server.folder));
    let beside = beside.transpose()?;
    let (mut bare, mut together, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        bare.push(bare_scripts(&server.folder, 1_000)?);
        together.push(shell_lag(server, 1_000, Duration::ZERO)?);
        if let Some(beside) = &beside {
            others.push(shell_lag(beside, 1_000, Duration::ZERO)?);
        }
    }
    let median = |figures: &[(f64, f64)]| {
        let half = |of: fn(&(f64, f64)) -> f64| percentiles(figures.iter().map(of).collect()).0;
        (half(|both| both.0), half(|both| both.1))
    };
    row("lag, 1,000 due in the same second, shell", shown(median(&together)));
    row("the same scripts, started by nothing but threads", shown(median(&bare)));
    if !others.is_empty() {
        row("the same, started by Kairoi", shown(median(&others)));
    }
    Ok(())
}

/// Prints the whole table. With `quick` this takes half a minute and the large rows are smaller.
fn table(program: &Path, folder: &Path, quick: bool) -> Result<()> {
    let scale = if quick { 10 } else { 1 };
    let program = std::fs::canonicalize(program)?;
    let row = |work: &str, figure: String| println!("| {work} | {figure} |");
    println!("| work | figure |\n|---|---|");

    let server = Server::start(&program, folder, None)?;
    row(
        "durable SET, 1 client, one at a time",
        format!("{:.0} /s", one_at_a_time(&server, 1, 20_000 / scale)?),
    );
    row(
        "durable SET, 16 clients, one at a time",
        format!("{:.0} /s", one_at_a_time(&server, 16, 160_000 / scale)?),
    );
    for clients in [1, 16] {
        let rate = pipelined(&server, clients, 10_000, &format!("p{clients}"), Names::Ordered)?;
        row(&format!("durable SET, pipelined, {clients} clients, 10,000"), format!("{rate:.0} /s"));
    }
    drop(server);

    for (names, order) in [(Names::Ordered, "ordered"), (Names::Scattered, "scattered")] {
        let mut server = Server::start(&program, folder, None)?;
        let (mut planned, mut all, mut held) = (0, 0, (0, 0, 0));
        for target in [100_000, 1_000_000 / scale.min(5)] {
            pipelined(&server, 1, target - planned, &format!("fill{planned}"), names)?;
            all += target - planned + 30_000;
            planned = target;
            let rates = (0..3)
                .map(|n| pipelined(&server, 1, 10_000, &format!("more{planned}.{n}"), names))
                .collect::<Result<Vec<_>>>()?;
            let (rate, _) = percentiles(rates);
            row(&format!("pipelined, {target} planned, {order} names"), format!("{rate:.0} /s"));
            let ready = server.restart()?;
            // After the restart no memory is free for later, and the log of the store is in the file.
            let (rss, anonymous) = server.memory()?;
            let now = (all as u64, rss, server.stored()?);
            let each = |bytes: u64, before: u64| {
                bytes.saturating_sub(before) as f64 / (now.0 - held.0) as f64
            };
            row(
                &format!("at {target}, {order} names: memory"),
                format!(
                    "{:.0} MB resident, {:.0} MB of it its own",
                    rss as f64 / 1e6,
                    anonymous as f64 / 1e6
                ),
            );
            if held.0 > 0 {
                row(
                    &format!("a trigger more, {order} names"),
                    format!(
                        "{:.0} B of memory, {:.0} B of disk",
                        each(rss, held.1),
                        each(now.2, held.2)
                    ),
                );
            }
            held = now;
            row(
                &format!("ready again with {target}, {order} names"),
                format!("{:.0} ms", ready.as_secs_f64() * 1e3),
            );
        }
    }

    let server = Server::start(&program, folder, None)?;
    let (p50, p99) = broker_lag(&server, 1_000, Duration::from_secs(30 / scale as u64))?;
    row("lag, 1,000 over 30 s to RabbitMQ", format!("{p50:.1} / {p99:.1} ms"));
    drop(server);
    let server = Server::start(&program, folder, None)?;
    shell_rows(&server, &row)?;
    drop(server);
    for count in [10_000, 100_000 / scale.min(5)] {
        let server = Server::start(&program, folder, None)?;
        let burst = broker_burst(&server, count)?;
        row(&format!("{count} due at once to RabbitMQ"), format!("{:.0} /s", burst.rate));
        row("a SET meanwhile, p50 / p99", format!("{:.1} / {:.1} ms", burst.set.0, burst.set.1));
    }

    let server = Server::start(&program, folder, None)?;
    for clients in [0, 100, 10_000] {
        let part = idle(&server, clients, 20 / (scale as u64).min(4))?;
        row(&format!("idle, {clients} clients"), format!("{:.2} % of a core", part * 100.0));
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    // Ten thousand clients need as many file descriptors.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        [program, folder] => table(Path::new(program), Path::new(folder), false),
        [program, folder, "set16"] => {
            let server = Server::start(Path::new(program), Path::new(folder), None);
            server.and_then(|server| {
                println!("{:.0}", one_at_a_time(&server, 16, 160_000)?);
                Ok(())
            })
        }
        [program, folder, "lag"] => {
            let server = Server::start(Path::new(program), Path::new(folder), None);
            server.and_then(|server| {
                println!("{:?}", broker_lag(&server, 1_000, Duration::from_secs(15))?);
                Ok(())
            })
        }
        [program, folder, "shell"] => {
            let server = Server::start(Path::new(program), Path::new(folder), None);
            server.and_then(|server| {
                shell_rows(&server, &|work, figure| println!("| {work} | {figure} |"))
            })
        }
        [program, folder, "burst"] => {
            let server = Server::start(Path::new(program), Path::new(folder), None);
            server.and_then(|server| {
                let burst = broker_burst(&server, 100_000)?;
                println!("{:.0} {:?}", burst.rate, burst.set);
                Ok(())
            })
        }
        [program, folder, "quick"] => table(Path::new(program), Path::new(folder), true),
        _ => Err("usage: scheduler PROGRAM FOLDER [quick]".into()),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scheduler: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
