//! What every verb works with: the store, the jobs, the operator.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::testing::FaultPlan;
use batchwright::{CommitPoint, ExecutionId, Job, JobOperator, JobRegistry, Refusal, StopToken};

use batchwright_server::JobStarter;

use crate::args::Global;
use crate::error::CliError;
use crate::job_file::{self, BuildContext};
use crate::store::{self, Store};

/// An opened store with the jobs that can run on it.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) operator: JobOperator,
    registry: JobRegistry,
    folders: Vec<PathBuf>,
    build: BuildContext,
    /// What was told of broken job files.
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl App {
    /// Opens the store of `global`.
    pub(crate) fn open(
        global: &Global,
        registry: &JobRegistry,
        faults: Option<FaultPlan>,
    ) -> Result<Self, CliError> {
        Self::on(store::open(global.store_url())?, global, registry, faults, None)
    }

    /// The same for a verb that begins work of `job`. A job that is not there, in the wrong folder, leaves no store.
    pub(crate) fn launching(
        global: &Global,
        registry: &JobRegistry,
        faults: Option<FaultPlan>,
        job: &str,
    ) -> Result<Self, CliError> {
        if store::makes_a_file(global.store_url())? {
            Self::unopened(global, registry)?.job(job)?;
        }
        Self::open(global, registry, faults)
    }

    /// The same for a verb that only looks: it makes no store.
    pub(crate) fn look(
        global: &Global,
        registry: &JobRegistry,
        faults: Option<FaultPlan>,
    ) -> Result<Self, CliError> {
        Self::on(store::look(global.store_url())?, global, registry, faults, None)
    }

    /// The same for a verb that asks the store nothing.
    pub(crate) fn unopened(global: &Global, registry: &JobRegistry) -> Result<Self, CliError> {
        Self::on(store::unopened(global.store_url())?, global, registry, None, None)
    }

    /// The same on a store that is open, with a bound for the executions that run at once.
    pub(crate) fn on(
        store: Store,
        global: &Global,
        registry: &JobRegistry,
        faults: Option<FaultPlan>,
        running_max: Option<usize>,
    ) -> Result<Self, CliError> {
        let Store { repository, database, .. } = store;
        let mut operator =
            JobOperator::builder(repository).registry(registry.clone()).lease_timeout(global.lease);
        if let Some(running_max) = running_max {
            operator = operator.running_jobs_max(running_max);
        }
        if let Some(plan) = faults.clone() {
            let commits = AtomicU64::new(0);
            operator = operator
                .commit_hook(move |_, step, point| kill_as_planned(&plan, &commits, step, point));
        }
        let folders = match &global.jobs[..] {
            [] => [PathBuf::from("jobs")].into_iter().filter(|folder| folder.is_dir()).collect(),
            named => named.to_vec(),
        };
        let inside_only = std::env::var_os(job_file::INSIDE_ONLY).is_some();
        let build = BuildContext { database, faults, inside_only };
        let (operator, registry) = (operator.build(), registry.clone());
        Ok(Self { operator, registry, folders, build, told: Arc::default() })
    }

    /// Whether jobs are looked for here: in a folder, or among those of the program.
    pub(crate) fn has_jobs(&self) -> bool {
        !self.folders.is_empty() || !self.registry.names().is_empty()
    }

    /// What a server starts jobs by: these, as their files stand when a job is asked for.
    pub(crate) fn starter(&self) -> JobStarter {
        let (finder, lister) = (self.clone(), self.clone());
        let find = move |name: &str, source: Option<&str>| {
            finder.job_from(name, source).map(drop).map_err(|error| batchwright::report(&error))
        };
        let names = move || {
            lister.names().unwrap_or_else(|error| {
                let error = batchwright::report(&error);
                tracing::warn!(%error, "the job folders were not read");
                Vec::new()
            })
        };
        JobStarter::new(self.operator.clone(), find).names(names)
    }

    /// The job that `text` means: the path of a job file, or the name of a job.
    pub(crate) fn job(&self, text: &str) -> Result<Arc<Job>, CliError> {
        let path = Path::new(text);
        if path.is_file() || path.extension().is_some_and(|ending| ending == "toml") {
            return self.load(path);
        }
        self.named(text)
    }

    /// The job of that name: registered, or in the job folders as it stands there now.
    pub(crate) fn named(&self, name: &str) -> Result<Arc<Job>, CliError> {
        match self.find(name)? {
            Some(path) => self.load(&path),
            None if self.registry.has(name) => Ok(self.registry.job(name)?),
            None => {
                let known = self.names()?;
                Err(Refusal::NoSuchJob { name: name.to_owned(), known }.into())
            }
        }
    }

    /// The job of execution `id`: registered, where it was read from then, or in the job folders.
    pub(crate) fn job_of(&self, id: ExecutionId) -> Result<Arc<Job>, CliError> {
        let execution = self.operator.execution(id)?;
        self.job_from(&execution.job, execution.source.as_deref())
    }

    /// The job of that name: where it was read from, registered, or in the job folders.
    pub(crate) fn job_from(&self, name: &str, source: Option<&str>) -> Result<Arc<Job>, CliError> {
        if let Some(source) = source.map(Path::new)
            && source.is_file()
        {
            let job = job_file::load(source, &self.build)?;
            if job.name() == name {
                let built = Arc::new(job.clone());
                self.registry.replace_of_source(job);
                return Ok(built);
            }
        }
        self.named(name)
    }

    /// Builds the job of a file and puts it where the operator finds it by name.
    fn load(&self, path: &Path) -> Result<Arc<Job>, CliError> {
        let job = job_file::load(path, &self.build)?;
        let name = job.name().to_owned();
        self.registry.replace(job);
        Ok(self.registry.job(&name)?)
    }

    /// The file in the job folders that describes job `name`.
    fn find(&self, name: &str) -> Result<Option<PathBuf>, CliError> {
        for path in self.files()? {
            match job_file::name(&path) {
                Ok(found) if found == name => return Ok(Some(path)),
                Ok(_) => {}
                Err(error) => self.tell_broken(&error),
            }
        }
        Ok(None)
    }

    /// A broken file hides no other job, and is told once: a server looks at it with every request.
    fn tell_broken(&self, error: &job_file::JobFileError) {
        let told = batchwright::report(error);
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(told.clone()) {
            tracing::warn!("{told}");
        }
    }

    fn files(&self) -> Result<Vec<PathBuf>, CliError> {
        let mut files = Vec::new();
        for folder in &self.folders {
            let entries = std::fs::read_dir(folder).map_err(|error| {
                CliError::Usage(format!("read the job folder `{}`: {error}", folder.display()))
            })?;
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|ending| ending == "toml") {
                    files.push(path);
                }
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// Names of all jobs that can run here, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, CliError> {
        let mut names = self.registry.names();
        for path in self.files()? {
            match job_file::name(&path) {
                Ok(name) => names.push(name),
                Err(error) => self.tell_broken(&error),
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

/// Ends the process as `kill -9` would, when the plan says so of this commit.
fn kill_as_planned(plan: &FaultPlan, commits: &AtomicU64, step: &str, point: CommitPoint) {
    // A partition belongs to its step.
    let is = |wanted: &String| {
        step.strip_prefix(wanted.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    if plan.step.as_ref().is_some_and(|wanted| !is(wanted)) {
        return;
    }
    let (number, planned) = match point {
        CommitPoint::Before => (commits.load(Ordering::SeqCst) + 1, plan.kill.before_commit),
        CommitPoint::After => (commits.fetch_add(1, Ordering::SeqCst) + 1, plan.kill.after_commit),
    };
    if planned == Some(number) {
        let me = rustix::process::getpid();
        let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        // The signal is on its way; nothing more may happen until it arrives.
        StopToken::default().wait(std::time::Duration::MAX);
    }
}
