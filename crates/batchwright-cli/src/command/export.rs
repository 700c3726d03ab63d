//! `export` and `view`: an execution as one file, and the dashboard of such a file.
//!
//! The file is a store in SQLite with the attempts of one instance: the dashboard, the verbs of this command and any tool for
//! SQLite read it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use batchwright::audit::AuditEntry;
use batchwright::clock::StopToken;
use batchwright::error::RepositoryError;
use batchwright::execution::{ExecutionId, JobExecution, JobInstance, StepExecutionId};
use batchwright::operator::OperatorError;
use batchwright::query::ExecutionFilter;
use batchwright::store::JobRepository as _;
use batchwright::{JobOperator, JobParameters};
use batchwright_server::api::HttpSettings;
use batchwright_server::{Server, Shutdown};
use batchwright_store::SqlRepository;
use batchwright_store::rusqlite::{Connection, OpenFlags, params};
use serde_json::json;

use super::launch::target;
use crate::args::{ExportArgs, Global, ViewArgs};
use crate::context::{App, who};
use crate::error::{self, CliError};
use crate::output;

/// Attempts of the instance that are exported, the newest ones.
const ATTEMPTS_MAX: usize = 100;
/// Entries of the audit that are read to find those about the execution.
const AUDIT_READ_MAX: usize = 10_000;
/// The table with what the file is.
const ABOUT: &str = "export";

/// Writes an execution, with the other attempts of its instance, to a file.
pub(super) fn export(app: &App, global: &Global, args: &ExportArgs) -> Result<u8, CliError> {
    let id = target(app, &args.execution)?;
    let one = app.operator.explorer().execution(id)?;
    let to = args.to.clone().unwrap_or_else(|| PathBuf::from(format!("execution-{id}.batch")));
    if to.exists() {
        let what = format!("`{}` exists; name another file with `--to`", to.display());
        return Err(CliError::Usage(what));
    }
    // A file that is not whole never has the name of one that is.
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let part = to.with_file_name(format!(".{name}.part"));
    remove(&part)?;
    let written = write(app, &one, &part, !args.without_records);
    let written = written.and_then(|count| {
        std::fs::rename(&part, &to)?;
        Ok(count)
    });
    if written.is_err() {
        remove(&part)?;
    }
    let attempts = written?;
    let result = json!({"file": to, "execution": id, "attempts": attempts});
    output::document(global.format, &result, |_| {
        let file = to.display();
        format!(
            "wrote execution {id} and what its instance did before, {attempts} in all, to {file}\nOpen it: batchwright view {file}"
        )
    })?;
    Ok(error::OK)
}

/// Removes a store in SQLite, if it is there.
fn remove(path: &Path) -> std::io::Result<()> {
    for end in ["", "-wal", "-shm"] {
        let file = format!("{}{end}", path.display());
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes the store of the export to `path`; returns the number of attempts.
fn write(
    app: &App,
    one: &JobExecution,
    path: &Path,
    with_records: bool,
) -> Result<usize, CliError> {
    let queries = app.operator.queries();
    let filter = ExecutionFilter::of_instance(one.instance_id).limit(ATTEMPTS_MAX);
    let mut attempts = queries.executions(&filter)?;
    attempts.reverse();
    let store = SqlRepository::sqlite(path)?;
    let numbers = Numbers::of(path)?;
    let begun = attempts.first().map_or(one.created_at, |first| first.created_at);
    numbers.next("job_instance", one.instance_id.0)?;
    let mut tx = store.begin()?;
    let instance: JobInstance = tx.insert_instance(&one.job, &one.parameters.key(), begun)?;
    tx.commit()?;
    for attempt in &attempts {
        numbers.next("job_execution", attempt.id.0)?;
        let mut tx = store.begin()?;
        let row = JobExecution {
            instance_id: instance.id,
            parameters: shown(&attempt.parameters),
            ..attempt.clone()
        };
        let id = tx.insert_execution(&row)?;
        tx.commit()?;
        let steps = queries.steps(id)?;
        for step in &steps {
            numbers.next("step_execution", step.id.0)?;
            let mut tx = store.begin()?;
            tx.insert_step(step)?;
            tx.commit()?;
        }
        let mut tx = store.begin()?;
        let number = |name: &str| steps.iter().rfind(|step| step.name == name).map(|it| it.id);
        for mut skip in queries.skips(id)? {
            if !with_records {
                skip.content = None;
            }
            let step = number(&skip.step).unwrap_or(StepExecutionId(0));
            tx.insert_skips(step, &[skip])?;
        }
        for event in queries.events(id)? {
            tx.insert_event(&event)?;
        }
        for entry in audit_of(app, id)? {
            tx.insert_audit(&entry)?;
        }
        tx.commit()?;
    }
    drop(store);
    numbers.finish(app, one.id)?;
    Ok(attempts.len())
}

/// Returns the parameters as they are shown: secret values are masked.
fn shown(parameters: &JobParameters) -> JobParameters {
    let mut shown = JobParameters::new();
    for (name, one) in parameters.iter() {
        shown.insert(name, one.shown_as(name));
    }
    shown
}

/// Returns the commands about execution `id`, the oldest first.
fn audit_of(app: &App, id: ExecutionId) -> Result<Vec<AuditEntry>, RepositoryError> {
    let subject = format!("execution {id}");
    let mut found = app.operator.queries().audit(None, AUDIT_READ_MAX)?;
    found.retain(|entry| entry.subject == subject);
    found.reverse();
    Ok(found)
}

/// Gives the rows of the export the numbers that they have in their own store.
struct Numbers {
    file: Connection,
}

impl Numbers {
    fn of(path: &Path) -> Result<Self, CliError> {
        Ok(Self { file: Connection::open(path).map_err(broken)? })
    }

    /// Lets the next row of `table` have `number`.
    fn next(&self, table: &str, number: i64) -> Result<(), CliError> {
        let table = format!("bw_{table}");
        let forget = "DELETE FROM sqlite_sequence WHERE name = ?1";
        self.file.execute(forget, [&table]).map_err(broken)?;
        let set = "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)";
        self.file.execute(set, params![table, number - 1]).map_err(broken)?;
        Ok(())
    }

    /// Writes what the file is, and makes it one file without a journal.
    fn finish(self, app: &App, id: ExecutionId) -> Result<(), CliError> {
        let create = format!("CREATE TABLE {ABOUT} (name TEXT PRIMARY KEY, content TEXT)");
        self.file.execute(&create, []).map_err(broken)?;
        let about = [
            ("execution", id.to_string()),
            ("exported_at", app.operator.clock().now().to_string()),
            ("exported_by", who()),
            ("store", app.operator.store_id().to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        for (name, content) in about {
            let insert = format!("INSERT INTO {ABOUT} VALUES (?1, ?2)");
            self.file.execute(&insert, [name, &content]).map_err(broken)?;
        }
        self.file.pragma_update(None, "journal_mode", "DELETE").map_err(broken)
    }
}

fn broken(error: batchwright_store::rusqlite::Error) -> CliError {
    OperatorError::from(RepositoryError::unavailable("write the export", error)).into()
}

/// Shows the dashboard of an export until a signal arrives. The file stays as it is.
pub(super) fn view(global: &Global, args: &ViewArgs) -> Result<u8, CliError> {
    let id = exported(&args.file)?;
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("export.db");
    std::fs::copy(&args.file, &copy)?;
    let operator = JobOperator::new(std::sync::Arc::new(SqlRepository::sqlite(&copy)?));
    let stop = StopToken::default();
    let asked = stop.clone();
    let shutdown = Shutdown::listen(global.grace, move || asked.request())?;
    let server =
        Server::builder(operator).http(HttpSettings::new(args.http)).read_only().start()?;
    if let Some(http) = server.http_address() {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "Execution {id}: http://{http}/executions/{id}")?;
        stdout.flush()?;
    }
    server.supervise(&stop);
    server.stop();
    shutdown.done();
    Ok(error::OK)
}

/// Returns the number of the execution that `file` is an export of.
fn exported(file: &Path) -> Result<String, CliError> {
    let wrong = |why: String| {
        let file = file.display();
        CliError::Usage(format!("`{file}` is no export of an execution: {why}"))
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(file, flags);
    let opened = opened.map_err(|error| wrong(error.to_string()))?;
    let select = format!("SELECT content FROM {ABOUT} WHERE name = 'execution'");
    let found = opened.query_row(&select, [], |row| row.get(0));
    found.map_err(|error| wrong(error.to_string()))
}
