//! A folder, the real binary, and facts to wait for.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use batchwright::clock::StopToken;

pub use batchwright::testing::SimRng;

pub use batchwright_testkit::process::until;
use serde_json::Value;

/// A new folder in which the binary runs.
pub struct Place {
    dir: tempfile::TempDir,
    store: Option<String>,
}

/// What a finished command left.
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// stdout as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {:?} / {}", self.out, self.err))
    }

    /// Fails the test unless the command ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

impl Place {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), store: None }
    }

    /// A folder whose commands use the store at `url`.
    pub fn on(url: &str) -> Self {
        Self { store: Some(url.to_owned()), ..Self::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).unwrap()
    }

    /// The names of the unfinished outputs that are to become `name`.
    pub fn parts_of(&self, name: &str) -> Vec<String> {
        std::fs::read_dir(self.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|file| file.starts_with(&format!("{name}.")) && file.ends_with(".part"))
            .collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_batchwright"));
        command.args(arguments).current_dir(self.dir.path()).env_remove("BATCHWRIGHT_STORE");
        // Servers of tests that run side by side must not meet at the default address.
        command.env("BATCHWRIGHT_HTTP", "127.0.0.1:0");
        if let Some(store) = &self.store {
            command.env("BATCHWRIGHT_STORE", store);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        done(self.command(arguments).output().unwrap())
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// The execution `id` as JSON.
    pub fn show(&self, id: i64) -> Value {
        self.run(&["show", &id.to_string(), "--format", "json"]).expect(0).json()
    }

    /// Number of the newest execution, if there is one.
    pub fn newest(&self) -> Option<i64> {
        let list = self.run(&["executions", "--limit", "1", "--format", "json"]).expect(0);
        list.out
            .lines()
            .next()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_i64().unwrap())
    }

    /// The numbers in column `n` of `table`, in the order of insertion.
    pub fn numbers(&self, database: &str, table: &str) -> Vec<i64> {
        let connection = rusqlite::Connection::open(self.path(database)).unwrap();
        let mut rows =
            connection.prepare(&format!("SELECT n FROM {table} ORDER BY rowid")).unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

pub fn done(output: Output) -> Done {
    use std::os::unix::process::ExitStatusExt;
    Done {
        code: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0)),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `job.toml` of `place` until it is complete, and kills each process after the time that `life` says for it: the instant is
/// what is random, and nothing is waited for. Returns the number of kills.
pub fn run_with_kills(place: &Place, mut life: impl FnMut(u64) -> u64) -> usize {
    let (mut kills, mut last) = (0, None);
    for number in 0.. {
        let mut child = match last {
            None => place.spawn(&["run", "job.toml"]),
            Some(id) => place.spawn(&["restart", &i64::to_string(&id)]),
        };
        StopToken::default().wait(Duration::from_millis(life(number)));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        let status = child.wait().unwrap();
        kills += usize::from(ended.is_none());
        if let Some(code) = status.code() {
            let newest = place.show(place.newest().unwrap());
            assert_eq!(code, 0, "a run without a kill must complete: {newest:#}");
            break;
        }
        place.run(&["recover"]).expect(0);
        last = place.newest();
        if last.is_some_and(|id| place.show(id)["status"] == "COMPLETED") {
            break;
        }
    }
    kills
}
