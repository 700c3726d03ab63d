//! `export` and `view`: an execution as one file, and the dashboard of such a file.
//!
//! The file is a store in SQLite with the attempts of one instance: the dashboard, the verbs of this command and any tool for
//! SQLite read it.

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use batchwright::audit::AuditEntry;
use batchwright::clock::{Clock, StopToken, SystemClock};
use batchwright::context::ExecutionContext;
use batchwright::error::RepositoryError;
use batchwright::event::Change;
use batchwright::execution::{ExecutionId, JobExecution, SkipRecord, StepExecution};
use batchwright::operator::OperatorError;
use batchwright::parameters::{MASK, ParameterType};
use batchwright::query::ExecutionFilter;
use batchwright::store::{Durability, JobRepository as _};
use batchwright::{JobOperator, JobParameters};
use batchwright_server::api::HttpSettings;
use batchwright_server::{Server, Shutdown};
use batchwright_store::rusqlite::{Connection, OpenFlags, params};
use batchwright_store::{SqlRepository, SqliteDatabase, StoreOptions};
use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::subscriber::NoSubscriber;

use super::launch::target;
use crate::args::{ExportArgs, Global, ViewArgs};
use crate::context::{App, who};
use crate::error::{self, CliError};
use crate::output;

/// Attempts of the instance that are exported: the execution and the newest other ones.
const ATTEMPTS_MAX: usize = 100;
/// Entries of the audit that are read to find those about the executions.
const AUDIT_READ_MAX: usize = 10_000;
/// The table with what the file is.
const ABOUT: &str = "export";
/// Shortest secret that is looked for in texts: shorter ones are in any text.
const SECRET_BYTES_MIN: usize = 4;

/// What was written.
struct Written {
    attempts: usize,
    /// Attempts that the store has and the file has not.
    left_out: u64,
}

/// Writes an execution, with the other attempts of its instance, to a file.
pub(super) fn export(app: &App, global: &Global, args: &ExportArgs) -> Result<u8, CliError> {
    let id = target(app, &args.execution)?;
    let one = app.operator.explorer().execution(id)?;
    let to = args.to.clone().unwrap_or_else(|| PathBuf::from(format!("execution-{id}.batch")));
    let place = match to.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let exists = || {
        let what = format!("`{}` exists; name another file with `--to`", to.display());
        CliError::Usage(what)
    };
    if to.exists() {
        return Err(exists());
    }
    let refused = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(),
        _ => {
            let file = to.display();
            let what = format!("cannot write `{file}`: {error}; name another file with `--to`");
            CliError::Usage(what)
        }
    };
    // The name is given to the whole file; of two exports to one name, one is refused.
    let folder = tempfile::tempdir_in(place).map_err(refused)?;
    let part = folder.path().join("part");
    let written = write(app, &one, &part, !args.without_records)?;
    let part = tempfile::TempPath::try_from_path(&part).map_err(refused)?;
    part.persist_noclobber(&to).map_err(|error| refused(error.error))?;
    let Written { attempts, left_out } = written;
    let is_running = one.status.is_running();
    let result = json!({
        "file": to, "execution": id, "attempts": attempts, "left_out": left_out, "running": is_running,
    });
    output::document(global.format, &result, |_| {
        let file = to.display();
        let mut text = format!("wrote execution {id} to {file}");
        if attempts > 1 {
            text.push_str(&format!(", with the other attempts of its instance, {attempts} in all"));
        }
        if left_out > 0 {
            text.push_str(&format!("; {left_out} older ones are left out"));
        }
        if is_running {
            text.push_str("; it was running, and the file has it as it was then");
        }
        format!("{text}\nOpen it: batchwright view {file}")
    })?;
    Ok(error::OK)
}

/// Writes the store of the export to `path`.
fn write(
    app: &App,
    one: &JobExecution,
    path: &Path,
    with_records: bool,
) -> Result<Written, CliError> {
    let queries = app.operator.queries();
    let filter = ExecutionFilter::of_instance(one.instance_id).limit(ATTEMPTS_MAX);
    let mut attempts = queries.executions(&filter)?;
    if !attempts.iter().any(|attempt| attempt.id == one.id) {
        attempts.pop();
        attempts.push(one.clone());
    }
    attempts.reverse();
    let left_out = queries.execution_count(&filter)?.saturating_sub(attempts.len() as u64);
    let mask = Mask::of(app, &attempts)?;
    let options = StoreOptions { durability: Durability::Process, ..StoreOptions::default() };
    let database = SqliteDatabase::at(path).into();
    // Its log speaks of a new store, which this is not.
    let store = tracing::subscriber::with_default(NoSubscriber::default(), || {
        SqlRepository::open(database, &options)
    })?;
    let mut copy = Copy { store: &store, file: Connection::open(path).map_err(broken)? };
    copy.next("job_instance", one.instance_id.0)?;
    let mut tx = store.begin()?;
    let begun = attempts.first().map_or(one.created_at, |first| first.created_at);
    // The key of the instance is a hash of its parameters, from which a short secret could be guessed.
    let key = format!("{}/{}", app.operator.store_id(), one.instance_id);
    tx.insert_instance(&one.job, &key, begun)?;
    tx.commit()?;
    let audit = queries.audit(None, AUDIT_READ_MAX)?;
    for attempt in &attempts {
        copy.attempt(app, attempt, &audit, with_records, &mask)?;
    }
    let Copy { file, .. } = copy;
    drop(store);
    finish(&file, app, one.id)?;
    Ok(Written { attempts: attempts.len(), left_out })
}

/// Removes the values of secret parameters. They are removed before a row is written, so that they are nowhere in the file.
struct Mask {
    /// The longest first, because one may begin with another.
    secrets: Vec<String>,
}

impl Mask {
    /// Returns the mask of the secrets that the attempts have, also of those that a step passes to another job.
    fn of(app: &App, attempts: &[JobExecution]) -> Result<Self, CliError> {
        let mut secrets = BTreeSet::new();
        for attempt in attempts {
            for (name, one) in attempt.parameters.iter() {
                let is_text = one.value.kind() == ParameterType::String;
                if one.secret || is_text && one.shown_as(name).value != one.value {
                    secrets.insert(one.value.to_string());
                }
            }
            for step in app.operator.queries().steps(attempt.id)? {
                let checkpoint = step.checkpoint.as_deref().map(serde_json::from_str);
                if let Some(Ok(json)) = checkpoint {
                    secrets_within(&json, &mut secrets);
                }
            }
        }
        let mut secrets: Vec<_> =
            secrets.into_iter().filter(|it| it.len() >= SECRET_BYTES_MIN).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self { secrets })
    }

    fn text(&self, text: &mut String) {
        for secret in &self.secrets {
            if text.contains(secret) {
                *text = text.replace(secret, MASK);
            }
        }
    }

    /// Masks the texts within a JSON value, and the values that say that they are secret.
    fn json(&self, json: &mut Value) {
        match json {
            Value::String(text) => self.text(text),
            Value::Array(list) => list.iter_mut().for_each(|value| self.json(value)),
            Value::Object(fields) => {
                let is_secret = fields.get("secret") == Some(&Value::Bool(true));
                for (name, value) in fields {
                    match is_secret && name == "value" {
                        true => *value = Value::from(MASK),
                        false => self.json(value),
                    }
                }
            }
            _ => {}
        }
    }

    /// Masks the texts of a JSON document. One that is no JSON is a text.
    fn document(&self, text: &mut String) {
        match serde_json::from_str(text) {
            Ok(mut json) => {
                self.json(&mut json);
                *text = json.to_string();
            }
            Err(_) => self.text(text),
        }
    }

    fn context(&self, context: &ExecutionContext) -> Result<ExecutionContext, CliError> {
        let mut text = context.to_json();
        self.document(&mut text);
        ExecutionContext::from_json(&text).map_err(|error| {
            RepositoryError::Corrupt { what: format!("a context: {error}") }.into()
        })
    }

    fn execution(&self, one: &JobExecution) -> Result<JobExecution, CliError> {
        let mut masked = JobExecution { context: self.context(&one.context)?, ..one.clone() };
        masked.parameters = JobParameters::new();
        for (name, parameter) in one.parameters.iter() {
            masked.parameters.insert(name, parameter.shown_as(name));
        }
        self.text(&mut masked.exit.message);
        masked.warnings.iter_mut().for_each(|warning| self.text(warning));
        masked.failure.iter_mut().for_each(|failure| self.text(&mut failure.message));
        masked.flow.decisions.values_mut().for_each(|result| self.text(result));
        Ok(masked)
    }

    fn step(&self, one: &StepExecution) -> Result<StepExecution, CliError> {
        let mut masked = StepExecution { context: self.context(&one.context)?, ..one.clone() };
        self.text(&mut masked.exit.message);
        masked.failure.iter_mut().for_each(|failure| self.text(&mut failure.message));
        masked.checkpoint.iter_mut().for_each(|checkpoint| self.document(checkpoint));
        Ok(masked)
    }

    fn skip(&self, skip: &mut SkipRecord) {
        self.text(&mut skip.message);
        skip.location.iter_mut().for_each(|location| self.text(location));
        skip.content.iter_mut().for_each(|content| self.document(content));
    }
}

/// Collects the secret values within the JSON of a checkpoint, such as the parameters for the job of a step.
fn secrets_within(json: &Value, secrets: &mut BTreeSet<String>) {
    match json {
        Value::Object(fields) => {
            if fields.get("secret") == Some(&Value::Bool(true)) {
                match fields.get("value") {
                    Some(Value::String(text)) => drop(secrets.insert(text.clone())),
                    Some(other) => drop(secrets.insert(other.to_string())),
                    None => {}
                }
            }
            fields.values().for_each(|value| secrets_within(value, secrets));
        }
        Value::Array(list) => list.iter().for_each(|value| secrets_within(value, secrets)),
        _ => {}
    }
}

/// Copies rows into the store of the export, with the numbers that they have in their own store.
struct Copy<'a> {
    store: &'a SqlRepository,
    /// The same file, to choose numbers.
    file: Connection,
}

impl Copy<'_> {
    /// Lets the next row of `table` have `number`.
    fn next(&self, table: &str, number: i64) -> Result<(), CliError> {
        let table = format!("bw_{table}");
        let forget = "DELETE FROM sqlite_sequence WHERE name = ?1";
        self.file.execute(forget, [&table]).map_err(broken)?;
        let set = "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)";
        self.file.execute(set, params![table, number - 1]).map_err(broken)?;
        Ok(())
    }

    fn attempt(
        &mut self,
        app: &App,
        attempt: &JobExecution,
        audit: &[AuditEntry],
        with_records: bool,
        mask: &Mask,
    ) -> Result<(), CliError> {
        let (queries, id) = (app.operator.queries(), attempt.id);
        self.next("job_execution", id.0)?;
        let row = mask.execution(attempt)?;
        let mut tx = self.store.begin()?;
        tx.insert_execution(&row)?;
        tx.commit()?;
        // What refers to steps comes first: a running execution may begin one in between.
        let (mut skips, events) = (queries.skips(id)?, queries.events(id)?);
        let steps = queries.steps(id)?;
        self.steps(&steps, mask)?;
        let numbers: HashMap<_, _> = steps.iter().map(|step| (&*step.name, step.id)).collect();
        let mut tx = self.store.begin()?;
        for skip in &mut skips {
            if !with_records {
                skip.content = None;
            }
            mask.skip(skip);
            let step = numbers.get(&*skip.step).ok_or_else(|| {
                let what = format!("a skip of execution {id} names the step `{}`", skip.step);
                CliError::from(RepositoryError::Corrupt { what })
            })?;
            tx.insert_skips(*step, std::slice::from_ref(skip))?;
        }
        for mut event in events {
            if let Change::Status { note: Some(note), .. } = &mut event.change {
                mask.text(note);
            }
            tx.insert_event(&event)?;
        }
        let subject = format!("execution {id}");
        let is_about = |entry: &&AuditEntry| {
            entry.subject == subject || entry.subject.ends_with(&format!(" of {subject}"))
        };
        for entry in audit.iter().rev().filter(is_about) {
            let mut entry = entry.clone();
            entry.detail.iter_mut().for_each(|detail| mask.text(detail));
            tx.insert_audit(&entry)?;
        }
        Ok(tx.commit()?)
    }

    /// Inserts the steps; those with numbers that follow each other in one transaction.
    fn steps(&self, steps: &[StepExecution], mask: &Mask) -> Result<(), CliError> {
        let follows = |one: &StepExecution, next: &StepExecution| one.id.0 + 1 == next.id.0;
        for run in steps.chunk_by(follows) {
            self.next("step_execution", run[0].id.0)?;
            let mut tx = self.store.begin()?;
            for step in run {
                tx.insert_step(&mask.step(step)?)?;
            }
            tx.commit()?;
        }
        Ok(())
    }
}

/// Writes what the file is, lets nothing run in it, and makes it one file without a journal.
fn finish(file: &Connection, app: &App, id: ExecutionId) -> Result<(), CliError> {
    let about = [
        ("execution", id.to_string()),
        ("exported_at", app.operator.clock().now().to_string()),
        ("exported_by", who()),
        ("store", app.operator.store_id().to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let create = format!("CREATE TABLE {ABOUT} (name TEXT PRIMARY KEY, content TEXT)");
    file.execute(&create, []).map_err(broken)?;
    for (name, content) in about {
        let insert = format!("INSERT INTO {ABOUT} VALUES (?1, ?2)");
        file.execute(&insert, [name, &content]).map_err(broken)?;
    }
    for change in ["INSERT", "UPDATE"] {
        let refuse = format!(
            "CREATE TRIGGER {ABOUT}_{change} BEFORE {change} ON bw_job_execution \
             BEGIN SELECT RAISE(ABORT, 'this is an export of an execution, in which nothing runs'); END"
        );
        file.execute(&refuse, []).map_err(broken)?;
    }
    file.pragma_update(None, "journal_mode", "DELETE").map_err(broken)
}

fn broken(error: batchwright_store::rusqlite::Error) -> CliError {
    OperatorError::from(RepositoryError::unavailable("write the export", error)).into()
}

/// A clock that shows the time of the export: what ran then runs, and is not lost.
#[derive(Debug)]
struct ExportClock {
    at: Timestamp,
    system: SystemClock,
}

impl Clock for ExportClock {
    fn now(&self) -> Timestamp {
        self.at
    }

    fn elapsed(&self) -> Duration {
        self.system.elapsed()
    }

    fn wait(&self, duration: Duration, stop: &StopToken) {
        self.system.wait(duration, stop);
    }
}

/// Shows the dashboard of an export until a signal arrives. The file stays as it is.
pub(super) fn view(global: &Global, args: &ViewArgs) -> Result<u8, CliError> {
    let About { execution: id, at, by } = exported(&args.file)?;
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("export.db");
    std::fs::copy(&args.file, &copy)?;
    let store = Arc::new(SqlRepository::sqlite(&copy)?);
    let clock = ExportClock { at, system: SystemClock::default() };
    let operator = JobOperator::builder(store).clock(clock).build();
    let stop = StopToken::default();
    let asked = stop.clone();
    let shutdown = Shutdown::listen_in_terminal(global.grace, move || asked.request())?;
    let server =
        Server::builder(operator).http(HttpSettings::new(args.http)).read_only().start()?;
    if let Some(http) = server.http_address() {
        let mut stdout = std::io::stdout();
        let text = format!(
            "Execution {id}: http://{http}/executions/{id}\nAs it was at {at:.0}, exported by {by}; nothing can be changed here.\n"
        );
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
    }
    server.supervise(&stop);
    server.stop();
    shutdown.done();
    Ok(error::OK)
}

/// What a file says about itself.
struct About {
    execution: String,
    at: Timestamp,
    by: String,
}

/// Returns what `file` is an export of.
fn exported(file: &Path) -> Result<About, CliError> {
    let wrong = |why: String| {
        let file = file.display();
        CliError::Usage(format!("`{file}` is no export of an execution: {why}"))
    };
    if !file.is_file() {
        return Err(CliError::Usage(format!("there is no file `{}`", file.display())));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(file, flags);
    let opened = opened.map_err(|error| wrong(error.to_string()))?;
    let look = |name: &str| {
        let select = format!("SELECT content FROM {ABOUT} WHERE name = ?1");
        let found = opened.query_row(&select, [name], |row| row.get::<_, String>(0));
        found.map_err(|error| wrong(error.to_string()))
    };
    let at = look("exported_at")?.parse().map_err(|_| wrong("its time is no time".to_owned()))?;
    Ok(About { execution: look("execution")?, at, by: look("exported_by")? })
}
