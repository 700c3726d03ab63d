//! A server of scripted jobs in a separate process, and clients for it.
//!
//! The test program is the server, too: when started with `BATCHWRIGHT_SERVE` it serves until it is killed.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::policy::Completion;
use batchwright::progressive::{FinalResponse, NumberedUnits, OnFailed, ProgressiveStep};
use batchwright::scope::StepScope;
use batchwright::{ItemError, Job, JobOperator};
use batchwright_server::Server;
use batchwright_server::api::{AccessRules, HttpSettings, Role, Token};
use batchwright_store::SqlRepository;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Process, until};

/// Variable with the folder that a child process serves.
const SERVE: &str = "BATCHWRIGHT_SERVE";
/// Variable with the lease of the server, in milliseconds.
const LEASE: &str = "BATCHWRIGHT_TEST_LEASE";
/// Variable that makes the server require tokens.
const TOKENS: &str = "BATCHWRIGHT_TEST_TOKENS";
/// Most attempts of a unit.
pub const ATTEMPTS: u32 = 3;
/// Units in a chunk of job `chunks`.
pub const CHUNK: u64 = 50;

/// Returns the function that processes a unit: it appends the unit's number to the file `effects`, then
/// follows the script. `sleep=MS` applies to all units; `fail=N`, `panic=N`, `abort=N`, `hang=N` and `gate=N`
/// to one unit each.
fn process(
    scope: &StepScope,
) -> Result<impl Fn(&u64) -> Result<Option<u64>, ItemError> + use<>, ItemError> {
    let folder = PathBuf::from(std::env::var(SERVE)?);
    let script = scope.parameters().string("script")?.to_owned();
    let sleep = word(&script, "sleep").unwrap_or(0);
    let mut effects = OpenOptions::new().create(true).append(true).open(folder.join("effects"))?;
    effects.flush()?;
    let file = Arc::new(effects);
    Ok(move |unit: &u64| {
        (&*file).write_all(format!("{unit}\n").as_bytes())?;
        let is = |name: &str| word(&script, name) == Some(*unit);
        if is("gate") {
            while !folder.join("gate").exists() {
                StopToken::default().wait(Duration::from_millis(2));
            }
        }
        if is("fail") {
            return Err(ItemError::data("this unit always fails"));
        }
        assert!(!is("panic"), "this unit always fails");
        if is("abort") {
            std::process::abort();
        }
        if is("hang") {
            StopToken::default().wait(Duration::from_secs(3600));
        }
        if sleep > 0 {
            StopToken::default().wait(Duration::from_millis(sleep));
        }
        Ok(Some(*unit))
    })
}

fn word(script: &str, name: &str) -> Option<u64> {
    script.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Returns a job that sums the numbers of its units.
fn job(name: &str, units: u64, completion: Completion, on_failed: OnFailed) -> Job {
    let step = ProgressiveStep::builder("units")
        .units(NumberedUnits::new(units))
        .process_with(process)
        .reduce(
            |sum: Option<u64>, unit| Ok(sum.unwrap_or(0) + unit),
            |left, right| Ok(left + right),
        )
        .respond(|sum, units| {
            FinalResponse::json(&json!({"sum": sum, "units": units}))
                .map(|response| response.status(201).header("x-of", "the job"))
        })
        .lanes(8)
        .target(Duration::from_secs(1))
        .completion(completion)
        .max_attempts(ATTEMPTS)
        .on_failed(on_failed)
        .unit_timeout(Duration::from_millis(500))
        .build();
    Job::builder(name).step(step).build().unwrap()
}

/// Serves if this process was started as a server. A test of every program that starts servers calls this
/// function.
pub fn serve_if_asked() {
    let Ok(folder) = std::env::var(SERVE) else { return };
    let folder = Path::new(&folder);
    let lease = std::env::var(LEASE).map_or(30_000, |millis| millis.parse().unwrap());
    let lease = Duration::from_millis(lease);
    let repository = Arc::new(SqlRepository::sqlite(folder.join("store.db")).unwrap());
    let operator = JobOperator::builder(repository).lease_timeout(lease).build();
    for (name, units, completion) in [
        ("few", 16, Completion::default()),
        ("single", 100, Completion::items(1)),
        ("chunks", 2_000, Completion::items(CHUNK as usize)),
        ("many", 20_000, Completion::default()),
    ] {
        let job = job(name, units, completion, OnFailed::Continue);
        operator.registry().register(job).unwrap();
    }
    let strict = job("strict", 10, Completion::default(), OnFailed::Fail);
    operator.registry().register(strict).unwrap();
    let token = |name: &str, role| Token {
        name: name.to_owned(),
        role,
        sha256: Sha256::digest(name).into(),
    };
    let tokens = match std::env::var_os(TOKENS) {
        Some(_) => vec![
            token("the-viewer", Role::Viewer),
            token("the-operator", Role::Operator),
            token("the-admin", Role::Admin),
        ],
        None => Vec::new(),
    };
    let http = HttpSettings {
        listen: std::env::args()
            .next_back()
            .and_then(|last| last.parse().ok())
            .unwrap_or_else(|| std::env::var("BATCHWRIGHT_TEST_ADDRESS").unwrap().parse().unwrap()),
        access: AccessRules { tokens, ..AccessRules::default() },
        tls: None,
        insecure: false,
        connections_max: 100,
        metrics: None,
    };
    let server = Server::builder(operator).http(http).start().unwrap();
    println!("serving {}", server.http_address().unwrap());
    server.supervise(&StopToken::default());
}

/// A folder with a store, the effects of its units, and a server.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub server: Process,
    pub address: String,
}

impl Place {
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Self::serve(folder.path(), "127.0.0.1:0", settings);
        let address = server.last_word.clone();
        Self { folder, server, address }
    }

    /// Starts one more server on the same store.
    pub fn serve(folder: &Path, address: &str, settings: &[(&str, &str)]) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "serves_when_it_is_asked_to", "--nocapture"]);
        command.env(SERVE, folder).env("BATCHWRIGHT_TEST_ADDRESS", address);
        command.envs(settings.iter().copied());
        command.stderr(std::process::Stdio::null());
        Process::start(&mut command, |line| line.contains("serving "))
    }

    /// Returns the settings of a server with this lease, in milliseconds.
    pub fn lease(millis: &str) -> [(&str, &str); 1] {
        [(LEASE, millis)]
    }

    /// Returns the settings of a server that requires tokens.
    pub fn tokens() -> [(&'static str, &'static str); 1] {
        [(TOKENS, "yes")]
    }

    /// Kills the server with `kill -9` and starts a new one at the same address.
    pub fn kill_and_serve(&mut self) {
        self.server.kill();
        self.server = Self::serve(self.folder.path(), &self.address, &[]);
    }

    /// Returns how often `unit` ran.
    pub fn runs(&self, unit: u64) -> usize {
        let line = unit.to_string();
        self.effects().iter().filter(|found| **found == line).count()
    }

    pub fn effects(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("effects")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn open_gate(&self) {
        std::fs::write(self.folder.path().join("gate"), "").unwrap();
    }

    pub fn http(&self) -> Http {
        Http { address: self.address.clone(), headers: Vec::new() }
    }

    /// Opens an execution of `job` whose units follow `script`.
    pub fn open(&self, job: &str, script: &str, lanes: u32) -> Opened {
        let body = json!({"parameters": {"script": script}, "lanes": lanes});
        let response = self.http().post(&format!("/v1/progressive/{job}"), &body);
        assert_eq!(response.status, 201, "{}", response.text());
        Opened::of(&response.json())
    }
}

/// An open execution.
#[derive(Debug, Clone)]
pub struct Opened {
    pub id: i64,
    pub lanes: Vec<String>,
}

impl Opened {
    pub fn of(response: &Value) -> Self {
        let lanes = response["lanes"].as_array().unwrap().iter();
        let lanes = lanes.map(|lane| lane["id"].as_str().unwrap().to_owned()).collect();
        Self { id: response["execution"].as_i64().unwrap(), lanes }
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/v1/executions/{}/{rest}", self.id)
    }

    pub fn slice(&self, lane: usize) -> String {
        self.path(&format!("lanes/{}/slices", self.lanes[lane]))
    }
}

/// A client on plain sockets, with one connection per request.
#[derive(Debug, Clone)]
pub struct Http {
    pub address: String,
    pub headers: Vec<(String, String)>,
}

/// A response.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl HttpResponse {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }
}

impl Http {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn get(&self, path: &str) -> HttpResponse {
        self.ask("GET", path, None).unwrap()
    }

    pub fn delete(&self, path: &str) -> HttpResponse {
        self.ask("DELETE", path, None).unwrap()
    }

    pub fn post(&self, path: &str, body: &Value) -> HttpResponse {
        self.ask("POST", path, Some(body)).unwrap()
    }

    /// Sends a request without waiting for its answer.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<TcpStream> {
        let mut socket = TcpStream::connect(&self.address)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !self.headers.iter().any(|(name, _)| name == "host") {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str("content-type: application/json\r\n");
        }
        head.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        socket.write_all(head.as_bytes())?;
        Ok(socket)
    }

    pub fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<HttpResponse> {
        read(self.send(method, path, body)?)
    }
}

/// Reads an answer to the end of its connection.
pub fn read(mut socket: TcpStream) -> std::io::Result<HttpResponse> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| std::io::Error::other("the answer was cut short"))?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let response = HttpResponse { status, head, body: bytes[end + 4..].to_vec() };
    match response.header("content-length").map(|length| length.parse() == Ok(response.body.len()))
    {
        Some(false) => Err(std::io::Error::other("the answer was cut short")),
        _ => Ok(response),
    }
}

/// Drives a lane to its end; returns its answers.
pub fn drive_lane(http: &Http, opened: &Opened, lane: usize) -> Vec<Value> {
    let (mut seq, mut answers) = (1, Vec::new());
    loop {
        let Ok(response) = http.ask("POST", &opened.slice(lane), Some(&json!({ "seq": seq })))
        else {
            // The server is unavailable: send the same request again.
            StopToken::default().wait(Duration::from_millis(20));
            continue;
        };
        let answer = response.json();
        match (response.status, answer["code"].as_str()) {
            (200, _) => {}
            (409, Some("wrong_seq")) => {
                seq = answer["expected"].as_u64().unwrap();
                continue;
            }
            (409 | 503, _) => {
                StopToken::default().wait(Duration::from_millis(20));
                continue;
            }
            (410, _) => return answers,
            other => panic!("{other:?}: {answer}"),
        }
        seq = answer["next_seq"].as_u64().unwrap();
        let outcome = answer["outcome"].as_str().unwrap().to_owned();
        answers.push(answer);
        if outcome == "wait" {
            StopToken::default().wait(Duration::from_millis(50));
        }
        if outcome == "final" || outcome == "done" {
            return answers;
        }
    }
}

/// Drives all lanes at once; returns the answers of each.
pub fn drive(http: &Http, opened: &Opened) -> Vec<Vec<Value>> {
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..opened.lanes.len())
            .map(|lane| scope.spawn(move || drive_lane(http, opened, lane)))
            .collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect()
    })
}

/// Waits until no slice of the execution runs.
pub fn until_idle(http: &Http, opened: &Opened) -> Value {
    let mut last = Value::Null;
    until("no slice runs", || {
        last = http.get(&opened.path("lanes")).json();
        last["lanes"].as_array().unwrap().iter().all(|lane| lane["live"] == false)
    });
    last
}
