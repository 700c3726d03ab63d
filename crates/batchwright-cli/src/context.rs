//! The context of every verb: the store, the jobs and the operator.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use batchwright::clock::StopToken;
use batchwright::execution::ExecutionId;
use batchwright::launch::LaunchOptions;
use batchwright::operator::OperatorError;
use batchwright::testing::CommitPoint;
use batchwright::testing::fault::FaultPlan;
use batchwright::{Job, JobOperator};
use batchwright_jobfile::{JobFolder, PreparedReplay, is_replay};

use crate::Program;
use crate::args::Global;
use crate::error::CliError;
use crate::store::{self, Store};

/// An opened store with the jobs that can run on it.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) operator: JobOperator,
    pub(crate) files: JobFolder,
}

/// An environment variable that keeps the outputs of jobs inside their folders; rehearsals set it.
pub(crate) const INSIDE_ONLY: &str = "BATCHWRIGHT_INSIDE_ONLY";

/// Returns who gives a command, for `triggered_by` and the audit: `cli:maria@host`.
pub(crate) fn who() -> String {
    let system = rustix::system::uname();
    let user =
        ["SUDO_USER", "LOGNAME", "USER"].into_iter().find_map(|name| std::env::var(name).ok());
    let user = user.unwrap_or_else(|| rustix::process::getuid().as_raw().to_string());
    format!("cli:{user}@{}", system.nodename().to_string_lossy())
}

/// Returns the options of a start by this command: who gives it, and its place in a trace, which the variable `TRACEPARENT` names.
pub(crate) fn options() -> LaunchOptions {
    let given = std::env::var("TRACEPARENT").ok().filter(|text| !text.is_empty());
    let trace_parent = given.and_then(|text| {
        let parsed = text.parse();
        parsed.inspect_err(|error| tracing::warn!("TRACEPARENT has no effect: {error}")).ok()
    });
    LaunchOptions { triggered_by: Some(who()), trace_parent, ..LaunchOptions::default() }
}

impl App {
    /// Opens the store of `global`.
    pub(crate) fn open(
        global: &Global,
        program: &Program,
        faults: Option<FaultPlan>,
    ) -> Result<Self, CliError> {
        Self::on(store::open(global.store_url())?, global, program, faults, None)
    }

    /// Stores that a command succeeded.
    pub(crate) fn audit(&self, action: &str, subject: &str) -> Result<(), CliError> {
        Ok(self.operator.audit(&who(), action, subject, None).map_err(OperatorError::from)?)
    }

    /// Opens the store for a verb that starts `job`. When `job` does not exist, for instance in the wrong
    /// folder, no store is created.
    pub(crate) fn launching(
        global: &Global,
        program: &Program,
        faults: Option<FaultPlan>,
        job: &str,
    ) -> Result<Self, CliError> {
        if store::makes_a_file(global.store_url())? {
            Self::unopened(global, program)?.job(job)?;
        }
        Self::open(global, program, faults)
    }

    /// Opens the store for a verb that only reads it; creates no store.
    pub(crate) fn look(
        global: &Global,
        program: &Program,
        faults: Option<FaultPlan>,
    ) -> Result<Self, CliError> {
        Self::on(store::look(global.store_url())?, global, program, faults, None)
    }

    /// Makes the context of a verb that does not use the store.
    pub(crate) fn unopened(global: &Global, program: &Program) -> Result<Self, CliError> {
        Self::on(store::unopened(global.store_url())?, global, program, None, None)
    }

    /// Makes the context on an open store, with a maximum for the executions that run at once.
    pub(crate) fn on(
        store: Store,
        global: &Global,
        program: &Program,
        faults: Option<FaultPlan>,
        running_max: Option<usize>,
    ) -> Result<Self, CliError> {
        let Store { repository, database, .. } = store;
        let mut operator = JobOperator::builder(repository)
            .registry(program.registry.clone())
            .lease_timeout(global.lease);
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
        let inside_only = std::env::var_os(INSIDE_ONLY).is_some();
        let mut files = folders
            .into_iter()
            .fold(JobFolder::default(), JobFolder::and)
            .kinds(program.kinds.clone())
            .inside_only(inside_only);
        if let Some(database) = database {
            files = files.database(database);
        }
        if let Some(plan) = faults {
            files = files.faults(plan);
        }
        Ok(Self { operator: operator.jobs(files.clone()).build(), files })
    }

    /// Whether there are places to look for jobs: a job folder, or jobs of the program.
    pub(crate) fn has_jobs(&self) -> bool {
        !self.files.folders().is_empty() || !self.operator.registry().names().is_empty()
    }

    /// Returns the job that `text` names by the path of its file or by its name.
    pub(crate) fn job(&self, text: &str) -> Result<Arc<Job>, CliError> {
        let path = Path::new(text);
        if path.is_file() || path.extension().is_some_and(|ending| ending == "toml") {
            let job = self.files.load(path)?;
            return Ok(self.operator.explorer().job(job.name())?);
        }
        self.named(text)
    }

    /// Returns the job of that name, from its file in the job folders or from the program's registry.
    pub(crate) fn named(&self, name: &str) -> Result<Arc<Job>, CliError> {
        self.files.find(name, None)?;
        Ok(self.operator.explorer().job(name)?)
    }

    /// Returns the job of execution `id`, from the file that it was read from at its start, else by its name.
    pub(crate) fn job_of(&self, id: ExecutionId) -> Result<Arc<Job>, CliError> {
        let execution = self.operator.explorer().execution(id)?;
        if is_replay(&execution) {
            return Err(CliError::Usage(format!(
                "execution {id} is a replay: `batchwright replay` continues it, with the file of the corrected records"
            )));
        }
        self.files.find(&execution.job, execution.source.as_deref().map(Path::new))?;
        Ok(self.operator.explorer().job_of(&execution)?)
    }

    /// Prepares the replay of the records in the file `from`, which execution `id` skipped.
    pub(crate) fn prepare_replay(
        &self,
        id: ExecutionId,
        from: &Path,
    ) -> Result<PreparedReplay, CliError> {
        Ok(self.files.prepare_replay(&self.operator, id, from)?)
    }

    /// Returns the sorted names of all jobs of the program and the job folders.
    pub(crate) fn names(&self) -> Result<Vec<String>, CliError> {
        self.files.names()?;
        Ok(self.operator.explorer().runnable_names()?)
    }
}

/// Kills the process with SIGKILL if the plan contains this commit.
fn kill_as_planned(plan: &FaultPlan, commits: &AtomicU64, step: &str, point: CommitPoint) {
    // The name of a partition begins with the name of its step and a colon.
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
        // Nothing more may happen until the signal arrives.
        StopToken::default().wait(std::time::Duration::MAX);
    }
}
