//! Job files: from TOML to a job.

mod build;
mod definition;
mod expression;
mod items;
mod record;
mod sql;
mod template;

use std::cell::RefCell;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use batchwright::Job;
use batchwright::testing::FaultPlan;
use batchwright_store::Database;
use toml::Spanned;

use definition::Definition;

/// Largest job file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What is wrong with a job file, and where.
#[derive(Debug, thiserror::Error)]
#[error("use job file `{}`{}", path.display(), problems.join(";"))]
pub(crate) struct JobFileError {
    path: PathBuf,
    /// Each with its place in front.
    problems: Vec<String>,
}

/// Problems of one file that are told; more are counted.
const PROBLEMS_TOLD: usize = 10;

impl JobFileError {
    fn of_file(path: &Path, message: impl Display) -> Self {
        Self { path: path.to_owned(), problems: vec![format!(": {message}")] }
    }

    /// All `problems` of the file with that text, in the order of their places.
    fn located(path: &Path, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        let more = problems.len().saturating_sub(PROBLEMS_TOLD);
        let told = problems.into_iter().take(PROBLEMS_TOLD).map(|problem| {
            let place = problem.span.map(|span| place(text, span.start)).unwrap_or_default();
            format!("{place}: {}", problem.message)
        });
        let more = (more > 0).then(|| format!(" and {more} more"));
        let problems = told.chain(more).enumerate().map(|(index, told)| match index {
            0 => told,
            _ => told.trim_start_matches(',').to_owned(),
        });
        Self { path: path.to_owned(), problems: problems.collect() }
    }
}

/// What is wrong, at which bytes of the file.
#[derive(Debug)]
struct Problem {
    span: Option<std::ops::Range<usize>>,
    message: String,
}

impl Problem {
    fn at<T>(value: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { span: Some(value.span()), message: message.into() }
    }

    fn of_file(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into() }
    }
}

/// What a job file is built with.
#[derive(Clone)]
pub(crate) struct BuildContext {
    /// The store's own database, when it is one that items can live in.
    pub(crate) database: Option<Database>,
    /// Faults of a rehearsal.
    pub(crate) faults: Option<FaultPlan>,
    /// Whether the job must leave everything alone that lies outside of its folder and its store.
    pub(crate) inside_only: bool,
}

/// When it is set, jobs leave everything alone that lies outside: rehearsals set it.
pub(crate) const INSIDE_ONLY: &str = "BATCHWRIGHT_INSIDE_ONLY";

/// Reads, checks and builds the job of the file at `path`.
pub(crate) fn load(path: &Path, context: &BuildContext) -> Result<Job, JobFileError> {
    load_within(path, context, &[])
}

/// As [`load`], for a job that is a part of those in the files `around` it.
fn load_within(
    path: &Path,
    context: &BuildContext,
    around: &[PathBuf],
) -> Result<Job, JobFileError> {
    let text = read(path).map_err(|message| JobFileError::of_file(path, message))?;
    let located = |problems| JobFileError::located(path, &text, problems);
    let definition = parse(&text).map_err(|problem| located(vec![problem]))?;
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let source = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let builder = build::Builder { folder, source, around, context, problems: RefCell::default() };
    builder.job(definition, &text).map_err(located)
}

/// Only the name of the job in the file at `path`, for lists of what there is.
pub(crate) fn name(path: &Path) -> Result<String, JobFileError> {
    let text = read(path).map_err(|message| JobFileError::of_file(path, message))?;
    let definition =
        parse(&text).map_err(|problem| JobFileError::located(path, &text, vec![problem]))?;
    Ok(definition.name.into_inner())
}

fn read(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("it has {length} bytes, at most {FILE_BYTES_MAX} are read"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn parse(text: &str) -> Result<Definition, Problem> {
    toml::from_str(text).map_err(|error| {
        let unknown = error.span().filter(|_| error.message().starts_with("unknown field"));
        let told = unknown.and_then(|at| build::of_unknown(text, &at));
        Problem { span: error.span(), message: told.unwrap_or_else(|| error.message().to_owned()) }
    })
}

/// `, line 3, column 7`
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(", line {line}, column {column}")
}
