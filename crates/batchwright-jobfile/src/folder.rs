//! Folders of job files as a source of jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use batchwright::Job;
use batchwright::operator::Refusal;
use batchwright::registry::JobSource;
use batchwright::testing::fault::FaultPlan;
use batchwright_items::{ItemKind, KindRegistry};
use batchwright_store::Database;

use crate::sql::SqlKind;
use crate::{JobFileError, Settings, Source};

/// A source of the jobs that the files `*.toml` of one or more folders define.
///
/// A file is compiled when its job is needed for the first time, and again when the file, or a job file that it uses, has
/// changed. A broken file is reported by one warning and hides no other job; when a job is not found, the error names the
/// broken files. A name that two files define is refused.
/// Clones share the compiled jobs.
///
/// ```
/// use std::sync::Arc;
/// use batchwright::{JobOperator, JobParameters, MemoryRepository};
/// use batchwright_jobfile::JobFolder;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let jobs = folder.path();
/// # std::fs::write(jobs.join("count.toml"), r#"
/// # name = "count"
/// # steps = [{ name = "count", reader = { type = "sequence", count = 3 }, writer = { type = "none" } }]
/// # "#)?;
/// let repository = Arc::new(MemoryRepository::new());
/// let operator = JobOperator::builder(repository).jobs(JobFolder::new(jobs)).build();
/// let execution = operator.run("count", JobParameters::new())?;
/// # assert_eq!(execution.status, batchwright::BatchStatus::Completed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct JobFolder {
    folders: Vec<PathBuf>,
    settings: Settings,
    files: Arc<Mutex<Files>>,
}

/// The files that were read so far.
#[derive(Default)]
struct Files {
    by_path: BTreeMap<PathBuf, File>,
    /// Files outside of the folders that were [loaded](JobFolder::load) by their path.
    named: BTreeSet<PathBuf>,
    compiled: u64,
}

/// A job file as it was when it was read.
struct File {
    /// The file and the job files that it uses, each with its state when it was read.
    read: Vec<(PathBuf, Option<Stamp>)>,
    name: Result<String, JobFileError>,
    /// What was read, until it is compiled.
    source: Option<Source>,
    job: Option<Result<Arc<Job>, JobFileError>>,
    /// Whether the error was reported.
    reported: bool,
}

/// The metadata that shows whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            inode: file.ino(),
            size: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

impl JobFolder {
    /// Creates a source of the job files of `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self::default().and(folder)
    }

    /// Adds the job files of `folder`.
    #[must_use]
    pub fn and(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.push(folder.into());
        self
    }

    /// Sets the database of the store, which `sql` parts without a `url` use. Default: such parts are refused.
    #[must_use]
    pub fn database(mut self, database: Database) -> Self {
        self.settings.database = Some(database);
        self.changed()
    }

    /// Adds all kinds of `kinds` to those that job files can name.
    #[must_use]
    pub fn kinds(mut self, kinds: KindRegistry) -> Self {
        self.settings.own = self.settings.own.and(kinds);
        self.changed()
    }

    /// Lets job files name `kind` as the type of a reader, a writer, a processor or a step.
    #[must_use]
    pub fn kind(mut self, kind: impl ItemKind + 'static) -> Self {
        self.settings.own = self.settings.own.with(kind);
        self.changed()
    }

    /// Forgets what was compiled with other settings; clones with the former settings keep it.
    fn changed(mut self) -> Self {
        let sql = SqlKind { own: self.settings.database.clone() };
        self.settings.kinds = KindRegistry::builtin().with(sql).and(self.settings.own.clone());
        self.files = Arc::default();
        self
    }

    /// Returns the kinds that job files can name.
    pub fn known_kinds(&self) -> &KindRegistry {
        &self.settings.kinds
    }

    /// Returns the JSON Schema of the job files of this folder, with the kinds that they can name.
    pub fn json_schema(&self) -> serde_json::Value {
        crate::json_schema(&self.settings.kinds)
    }

    /// Injects the faults of `plan` into the steps.
    #[must_use]
    pub fn faults(mut self, plan: FaultPlan) -> Self {
        self.settings.faults = Some(plan);
        self.changed()
    }

    /// Sets whether outputs outside of the job file's folder and of the store are refused, as a rehearsal requires.
    #[must_use]
    pub fn inside_only(mut self, inside_only: bool) -> Self {
        self.settings.inside_only = inside_only;
        self.changed()
    }

    /// Returns the folders, in the order in which they were given.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Returns how many times a job file was compiled.
    pub fn compiled(&self) -> u64 {
        self.files().compiled
    }

    /// Returns the job of the file at `path`. From then on [`find`](Self::find) finds the job by its name.
    ///
    /// # Errors
    ///
    /// All problems of the file.
    pub fn load(&self, path: &Path) -> Result<Arc<Job>, JobFileError> {
        let mut files = self.files();
        let job = files.compile(path, &self.settings)?;
        files.named.insert(path.to_owned());
        Ok(job)
    }

    /// Returns the job `name`, or `None` if no file defines it. The file `origin` comes first, if it defines the job; then
    /// the files that were [loaded](Self::load) by their paths; then the files of the folders.
    ///
    /// # Errors
    ///
    /// All problems of the file; or when two files define the name, or a folder cannot be read.
    pub fn find(
        &self,
        name: &str,
        origin: Option<&Path>,
    ) -> Result<Option<Arc<Job>>, JobFileError> {
        let mut files = self.files();
        if let Some(origin) = origin.filter(|origin| origin.is_file())
            && files.name(origin)? == name
        {
            return files.compile(origin, &self.settings).map(Some);
        }
        let named: Vec<PathBuf> = files.named.iter().cloned().collect();
        if let Some(path) = files.one_with(name, named)? {
            return files.compile(&path, &self.settings).map(Some);
        }
        match files.one_with(name, self.paths()?)? {
            Some(path) => files.compile(&path, &self.settings).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the names of all jobs, sorted.
    ///
    /// # Errors
    ///
    /// When a folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, JobFileError> {
        let paths = self.paths()?;
        let mut files = self.files();
        let paths = files.all(paths);
        let names: BTreeSet<_> = paths.iter().filter_map(|path| files.name_or_warn(path)).collect();
        Ok(names.into_iter().collect())
    }

    /// Returns the refusal of a job that no file defines, with the jobs and the broken files that there are.
    fn no_such_job(&self, name: &str) -> Result<Refusal, JobFileError> {
        let paths = self.paths()?;
        let mut files = self.files();
        let (mut known, mut broken) = (BTreeSet::new(), Vec::new());
        for path in files.all(paths) {
            match files.name(&path) {
                Ok(name) => _ = known.insert(name),
                Err(error) => broken.push(error.to_string()),
            }
        }
        broken.dedup();
        let known = known.into_iter().collect();
        Ok(Refusal::NoSuchJob { name: name.to_owned(), known, broken })
    }

    /// Returns the job files of the folders, sorted within each folder.
    fn paths(&self) -> Result<Vec<PathBuf>, JobFileError> {
        let mut all = Vec::new();
        for folder in &self.folders {
            let failed = |error| JobFileError::folder(folder, error);
            let mut paths = Vec::new();
            for entry in fs::read_dir(folder).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.extension().is_some_and(|ending| ending == "toml") {
                    paths.push(path);
                }
            }
            paths.sort_unstable();
            all.extend(paths);
        }
        Ok(all)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// Returns the file at `path`, which is read again if it has changed.
    fn file(&mut self, path: &Path) -> &mut File {
        let current = |file: &File| file.read.iter().all(|(path, seen)| Stamp::of(path) == *seen);
        if !self.by_path.get(path).is_some_and(current) {
            self.by_path.insert(path.to_owned(), File::read(path));
        }
        self.by_path.get_mut(path).expect("the file was inserted above")
    }

    fn name(&mut self, path: &Path) -> Result<String, JobFileError> {
        self.file(path).name.clone()
    }

    /// Returns the name. A broken file has none; it is reported by one warning until it changes.
    fn name_or_warn(&mut self, path: &Path) -> Option<String> {
        let file = self.file(path);
        match &file.name {
            Ok(name) => Some(name.clone()),
            Err(error) => {
                if !std::mem::replace(&mut file.reported, true) {
                    tracing::warn!("{}", batchwright::report(error));
                }
                None
            }
        }
    }

    /// Returns `paths` and the files that were loaded by their paths. Deleted files are forgotten.
    fn all(&mut self, mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
        self.by_path.retain(|path, _| path.exists());
        paths.extend(self.named.iter().cloned());
        paths
    }

    /// Returns the only one of `paths` whose file defines the job `name`.
    ///
    /// # Errors
    ///
    /// When two files define it, or the file that seems to define it is broken.
    fn one_with(
        &mut self,
        name: &str,
        paths: Vec<PathBuf>,
    ) -> Result<Option<PathBuf>, JobFileError> {
        let mut found: Option<PathBuf> = None;
        let mut broken = Vec::new();
        for path in paths {
            match self.name(&path) {
                Ok(other) if other == name => {}
                Ok(_) => continue,
                Err(error) => {
                    broken.push((path, error));
                    continue;
                }
            }
            match &found {
                Some(first) if !is_same_file(first, &path) => {
                    let other = first.display();
                    let message =
                        format!("`{other}` defines job `{name}` as well; rename one of them");
                    return Err(JobFileError::of_file(&path, message));
                }
                _ => found = Some(path),
            }
        }
        if found.is_none() {
            // The broken file is the error itself, or a part of the refusal of the job.
            let its_own = broken.into_iter().find(|(path, _)| seeming_name(path) == name);
            return its_own.map_or(Ok(None), |(_, error)| Err(error));
        }
        for (path, _) in broken {
            self.name_or_warn(&path);
        }
        Ok(found)
    }

    fn compile(&mut self, path: &Path, settings: &Settings) -> Result<Arc<Job>, JobFileError> {
        let file = self.file(path);
        if let Some(source) = file.source.take() {
            // A kind of the program may panic: that is an error of the file, and no end of the server.
            let compiled = catch_unwind(AssertUnwindSafe(|| source.compile(settings)));
            let (job, used) = compiled.unwrap_or_else(|payload| {
                let reason = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let reason = reason.or_else(|| payload.downcast_ref::<String>().cloned());
                let reason = reason.unwrap_or_else(|| "no reason is known".to_owned());
                (Err(JobFileError::of_file(path, format!("a kind panicked: {reason}"))), Vec::new())
            });
            file.read.extend(used);
            file.job = Some(job.map(Arc::new));
            self.compiled += 1;
        }
        let file = &self.by_path[path];
        file.job.clone().expect("a file without a source is compiled")
    }
}

impl File {
    fn read(path: &Path) -> Self {
        // The stamp is taken first, so that a change during reading is noticed the next time.
        let read = vec![(path.to_owned(), Stamp::of(path))];
        let (name, source, job) = match Source::read(path) {
            Ok(source) => (Ok(source.name().to_owned()), Some(source), None),
            Err(error) => (Err(error.clone()), None, Some(Err(error))),
        };
        Self { read, name, source, job, reported: false }
    }
}

/// Returns the name of the job that a broken file seems to define: its first line `name = "…"`, else the name of the file.
fn seeming_name(path: &Path) -> String {
    let text = crate::read(path).unwrap_or_default();
    let before_tables = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    let value = before_tables.filter_map(|line| line.split_once('=')).find_map(|(key, value)| {
        let value = value.trim().trim_start_matches(['"', '\'']);
        (key.trim() == "name")
            .then(|| value.split(['"', '\'']).next().unwrap_or_default().to_owned())
    });
    value.unwrap_or_else(|| {
        path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
    })
}

/// Returns whether both paths lead to the same file.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

impl JobSource for JobFolder {
    fn job(&self, name: &str, origin: Option<&str>) -> Result<Arc<Job>, Refusal> {
        match self.find(name, origin.map(Path::new)) {
            Ok(Some(job)) => Ok(job),
            Ok(None) => Err(self.no_such_job(name).unwrap_or_else(|error| unreadable(&error))),
            Err(error @ JobFileError::Folder { .. }) => Err(unreadable(&error)),
            Err(error) => {
                Err(Refusal::InvalidDefinition { job: name.to_owned(), reason: error.to_string() })
            }
        }
    }

    fn names(&self) -> Result<Vec<String>, Refusal> {
        JobFolder::names(self).map_err(|error| unreadable(&error))
    }
}

fn unreadable(error: &JobFileError) -> Refusal {
    Refusal::JobsUnreadable { reason: error.to_string() }
}

impl std::fmt::Debug for JobFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobFolder").field("folders", &self.folders).finish_non_exhaustive()
    }
}
