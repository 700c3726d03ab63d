//! Job files: jobs as TOML.
//!
//! A [`JobFolder`] is the source of the jobs that the files of a folder describe; give it to
//! [`OperatorBuilder::jobs`](batchwright::operator::OperatorBuilder::jobs). The book describes the language of the
//! files in the chapter "Job files".

mod build;
mod definition;
mod expression;
mod folder;
mod lookup;
mod reader;
mod regroup;
mod regrouped;
mod replay;
mod schema;
mod several;
mod sql;
mod stage;

use std::cell::RefCell;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use batchwright::Job;
use batchwright::testing::fault::FaultPlan;
use batchwright_items::{KindRegistry, Problem};
use batchwright_store::Database;

pub use folder::JobFolder;
use folder::Stamp;
use replay::Replay;
pub use replay::{
    PreparedReplay, ReplayError, Replayed, SkippedRecord, each_skip, is_replay, is_replay_of,
};
pub use schema::json_schema;
use sql::SqlKind;

/// Maximum size of a job file in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a job file, or a folder of job files, cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JobFileError {
    /// A file contains problems.
    #[error("job file `{}`{}", path.display(), problems.join(";"))]
    File {
        /// The file.
        path: PathBuf,
        /// A sentence for each problem, each with its line and column in front.
        problems: Vec<String>,
    },
    /// A folder cannot be read.
    #[error("cannot read the job folder `{}`: {reason}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The reason that the system gives.
        reason: String,
    },
}

/// Maximum number of problems of one file that an error lists; further ones are only counted.
const PROBLEMS_SHOWN: usize = 10;

impl JobFileError {
    fn of_file(path: &Path, message: impl Display) -> Self {
        Self::File { path: path.to_owned(), problems: vec![format!(": {message}")] }
    }

    fn folder(path: &Path, error: std::io::Error) -> Self {
        Self::Folder { path: path.to_owned(), reason: error.to_string() }
    }

    /// An error with all `problems` of the file, in the order of their places in `text`.
    fn located(path: &Path, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        let more = problems.len().saturating_sub(PROBLEMS_SHOWN);
        let shown = problems.into_iter().take(PROBLEMS_SHOWN).map(|problem| {
            let place = problem.span.map(|span| place(text, span.start)).unwrap_or_default();
            format!("{place}: {}", problem.message)
        });
        let more = (more > 0).then(|| format!(" and {more} more"));
        let problems = shown.chain(more).enumerate().map(|(index, problem)| match index {
            0 => problem,
            _ => problem.trim_start_matches(',').to_owned(),
        });
        Self::File { path: path.to_owned(), problems: problems.collect() }
    }
}

/// The settings that job files are built with.
#[derive(Clone)]
struct Settings {
    /// The kinds of the program.
    own: KindRegistry,
    /// The kinds of readers, writers, processors and steps.
    kinds: KindRegistry,
    /// The store's own database, for parts that use it; `None` for a store in memory.
    database: Option<Database>,
    /// The plan of `--inject`, which makes items fail or kills the process.
    faults: Option<FaultPlan>,
    /// Whether the job may write only to its folder and its store.
    inside_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let kinds = KindRegistry::builtin().with(SqlKind { own: None });
        let own = KindRegistry::default();
        Self { own, kinds, database: None, faults: None, inside_only: false }
    }
}

/// A job file that was read and parsed.
struct Source {
    path: PathBuf,
    text: String,
    name: String,
}

/// Job files that a job file uses, each with its state when it was read.
type Used = Vec<(PathBuf, Option<Stamp>)>;

impl Source {
    fn read(path: &Path) -> Result<Self, JobFileError> {
        let text = read(path).map_err(|message| JobFileError::of_file(path, message))?;
        let (definition, _) = definition::parse(&text)
            .map_err(|problem| JobFileError::located(path, &text, vec![problem]))?;
        let name = definition.name.into_inner();
        Ok(Self { path: path.to_owned(), text, name })
    }

    /// The name of the job.
    fn name(&self) -> &str {
        &self.name
    }

    fn compile(self, settings: &Settings) -> (Result<Job, JobFileError>, Used) {
        self.compile_within(settings, &[], None)
    }

    /// Compiles the job that replays `replay`.
    fn compile_replay(self, settings: &Settings, replay: &Replay) -> Result<Job, JobFileError> {
        self.compile_within(settings, &[], Some(replay)).0
    }

    /// Compiles a child job as [`compile`](Self::compile) does; `parents` are the files of its parent jobs.
    fn compile_within(
        self,
        settings: &Settings,
        parents: &[PathBuf],
        replay: Option<&Replay>,
    ) -> (Result<Job, JobFileError>, Used) {
        let Self { path, text, .. } = self;
        let (definition, parts) = match definition::parse(&text) {
            Ok(parsed) => parsed,
            Err(problem) => {
                let error = JobFileError::located(&path, &text, vec![problem]);
                return (Err(error), Vec::new());
            }
        };
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let source = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let (problems, used) = (RefCell::default(), RefCell::default());
        let builder = build::Builder {
            folder,
            source,
            parents,
            settings,
            replay,
            parts,
            problems,
            used,
            reader_uses_partition: Default::default(),
            shared_output: Default::default(),
        };
        let (job, used) = builder.job(definition, &text);
        (job.map_err(|problems| JobFileError::located(&path, &text, problems)), used)
    }
}

fn read(path: &Path) -> Result<String, String> {
    let found = std::fs::metadata(path).map_err(|error| error.to_string())?;
    // Opening a pipe would wait for its writer.
    if !found.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let length = found.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("it has {length} bytes, the limit is {FILE_BYTES_MAX}"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Returns the place of byte `at` in `text`, as `, line 3, column 7`.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(", line {line}, column {column}")
}
