//! The scratch folders of rehearsals: copies of the job's folder, each with its own store.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use batchwright_store::Database;
use serde_json::{Value, json};

use super::KillPoint;
use super::outputs::Outputs;
use crate::args::{Global, RehearseArgs};
use crate::error::CliError;

/// Maximum size of the job's folder in bytes: every trial copies it.
const FOLDER_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// File name of a trial's store when the store is a SQLite file.
pub(super) const STORE_FILE: &str = ".rehearsal.db";

/// How a process ended.
pub(super) enum Ended {
    Completed,
    Killed,
    /// The process failed; the text contains its exit code and output.
    Other(String),
}

impl Ended {
    pub(super) fn into_message(self) -> String {
        match self {
            Self::Completed => "it completed".to_owned(),
            Self::Killed => "it was killed".to_owned(),
            Self::Other(text) => text,
        }
    }
}

/// The job to rehearse.
pub(super) struct Scratch {
    folder: PathBuf,
    file: PathBuf,
    parameters: Vec<String>,
    allow_outside: bool,
    /// The server on which each trial gets a database; `None` means a SQLite file in the trial's folder.
    server: Option<String>,
}

impl Scratch {
    pub(super) fn new(global: &Global, args: &RehearseArgs) -> Result<Self, CliError> {
        let failed = |error: std::io::Error| {
            CliError::Usage(format!("cannot read the job file `{}`: {error}", args.job.display()))
        };
        let path = args.job.canonicalize().map_err(failed)?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let size = folder_size(&folder)?;
        if size > FOLDER_BYTES_MAX {
            return Err(CliError::Usage(format!(
                "the folder of the job is too large to be copied: it has {size} bytes, the limit is {FOLDER_BYTES_MAX}"
            )));
        }
        let file = path.file_name().map(PathBuf::from).unwrap_or_default();
        let is_server = global.is_server();
        Ok(Self {
            folder,
            file,
            parameters: args.parameters.clone(),
            allow_outside: args.allow_outside,
            server: is_server.then(|| global.store_url().to_owned()),
        })
    }

    /// Makes a new copy of the folder with a new store.
    pub(super) fn trial(&self) -> Result<Trial<'_>, CliError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("rehearsal-").tempdir()?;
        copy_folder(&self.folder, dir.path())?;
        let store = match &self.server {
            None => format!("sqlite://{STORE_FILE}?synchronous=normal"),
            Some(server) => {
                let number = NUMBER.fetch_add(1, Ordering::SeqCst);
                let name = format!("bw_rehearsal_{}_{number}", std::process::id());
                on_server(server, &format!("CREATE DATABASE {name}"))?;
                with_database(server, &name)
            }
        };
        Ok(Trial { scratch: self, dir, store })
    }
}

/// One copy of the job's folder.
pub(super) struct Trial<'s> {
    scratch: &'s Scratch,
    dir: tempfile::TempDir,
    store: String,
}

impl Trial<'_> {
    /// Runs the job until it ends or is killed at `point`.
    pub(super) fn run(&self, point: Option<KillPoint>) -> Result<Ended, CliError> {
        let mut arguments =
            vec!["run".to_owned(), self.scratch.file.to_string_lossy().into_owned()];
        arguments.extend(self.scratch.parameters.iter().cloned());
        if let Some(KillPoint { commit, after }) = point {
            let key = if after { "after_commit" } else { "before_commit" };
            arguments.push("--inject".to_owned());
            arguments.push(json!({"kill": {key: commit}}).to_string());
        }
        self.process(&arguments).map(|output| ended(&output))
    }

    /// Restarts the newest execution.
    pub(super) fn restart(&self) -> Result<Ended, CliError> {
        let id = self.newest()?["id"].to_string();
        self.process(&["restart".to_owned(), id]).map(|output| ended(&output))
    }

    pub(super) fn recover(&self) -> Result<(), CliError> {
        self.process(&["recover".to_owned()]).map(drop)
    }

    /// The newest execution of the job, as JSON.
    pub(super) fn newest(&self) -> Result<Value, CliError> {
        let list = self.ask(&["executions", "--format", "json"])?;
        // Executions of child jobs are newer than the job's own execution; those have a parent.
        let id = list.lines().find_map(|line| {
            let one: Value = serde_json::from_str(line).ok()?;
            one.get("parent").is_none_or(Value::is_null).then(|| one["id"].to_string())
        });
        let id = id.ok_or_else(|| {
            CliError::Usage("the job never started, so it cannot be rehearsed".to_owned())
        })?;
        let shown = self.ask(&["show", &id, "--format", "json"])?;
        serde_json::from_str(&shown).map_err(|error| {
            CliError::Usage(format!("cannot read an execution of the rehearsal: {error}"))
        })
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, CliError> {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        Ok(String::from_utf8_lossy(&self.process(&arguments)?.stdout).into_owned())
    }

    fn process(&self, arguments: &[String]) -> Result<Output, CliError> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command
            .env("OTEL_SDK_DISABLED", "true")
            .env("BATCHWRIGHT_STORE", &self.store)
            .env_remove("BATCHWRIGHT_JOBS");
        if !self.scratch.allow_outside {
            command.env(crate::context::INSIDE_ONLY, "1");
        }
        Ok(command.output()?)
    }

    /// Returns the outputs of the job.
    pub(super) fn outputs(&self) -> Result<Outputs, CliError> {
        let mut outputs = Outputs::of_folder(self.dir.path())?;
        if self.scratch.server.is_some() {
            let database = Database::parse(&self.store).map_err(CliError::Usage)?;
            outputs.add_database("the store's database", &database)?;
        }
        Ok(outputs)
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(server) = &self.scratch.server {
            let name = database_name(&self.store);
            if let Err(error) = on_server(server, &format!("DROP DATABASE {name}")) {
                tracing::warn!(
                    "the database {name} of a rehearsal was not dropped: {}",
                    batchwright::report(&error)
                );
            }
        }
    }
}

fn ended(output: &Output) -> Ended {
    match output.status.code() {
        Some(0) => Ended::Completed,
        None => Ended::Killed,
        Some(code) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let printed = String::from_utf8_lossy(&output.stdout);
            Ended::Other(format!("exit code {code}: {} {}", errors.trim(), printed.trim()))
        }
    }
}

fn on_server(url: &str, text: &str) -> Result<(), CliError> {
    let database = Database::parse(url).map_err(CliError::Usage)?;
    database
        .run(text)
        .map_err(|error| CliError::Usage(format!("cannot make a store for the rehearsal: {error}")))
}

/// Returns `url` with `name` as its database.
fn with_database(url: &str, name: &str) -> String {
    let (base, query) =
        url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let server = match base.split_once("://").map(|(_, rest)| rest.contains('/')) {
        Some(true) => base.rsplit_once('/').map_or(base, |(server, _)| server),
        _ => base,
    };
    query.map_or(format!("{server}/{name}"), |query| format!("{server}/{name}?{query}"))
}

fn database_name(url: &str) -> &str {
    let base = url.split('?').next().unwrap_or_default();
    base.rsplit('/').next().unwrap_or_default()
}

fn folder_size(folder: &Path) -> Result<u64, CliError> {
    let mut size = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            size += folder_size(&entry.path())?;
        } else if kind.is_file() {
            size += entry.metadata()?.len();
        }
    }
    Ok(size)
}

/// Copies files and folders, except stores of earlier runs, whose executions the copy must not contain.
fn copy_folder(from: &Path, to: &Path) -> Result<(), CliError> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            std::fs::create_dir(&target)?;
            copy_folder(&source, &target)?;
        } else if source.is_file() && entry.file_name() != "batchwright.db" {
            std::fs::copy(&source, &target)?;
            // A job can depend on the time of a file: an archive has it, and a step can keep the newest files.
            let modified = std::fs::metadata(&source)?.modified()?;
            std::fs::File::open(&target)?.set_modified(modified)?;
        }
    }
    Ok(())
}
