//! Steps that run a program: an argument vector without a shell, in its own process group.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Step, StepEnd, StepOptions, StepRun};
use crate::error::{ErrorKind, ItemError, ItemErrorText, StepError};
use crate::execution::ExitStatus;
use crate::item::{Factory, guarded};
use crate::program::{Cause, Ended, Program};
use crate::retry::RetryPolicy;
use crate::scope::StepScope;

/// Maximum size of the program's output that is kept, in bytes: enough to see why it failed.
const OUTPUT_BYTES_MAX: usize = 2_000;

/// The meaning of a program's exit code for the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitCodeMeaning {
    /// The step completed, with this exit status.
    Completed(ExitStatus),
    /// The step failed with this kind of error.
    Failed(ErrorKind),
}

/// A step that runs a program. Exit code 0 completes the step; every other code fails it with the end of the
/// output.
///
/// A timeout or a stop ends the whole process group: first `SIGTERM`, after the grace period `SIGKILL`.
pub struct CommandStep {
    name: String,
    options: StepOptions,
    argv: Factory<Vec<String>>,
    dir: Option<Factory<PathBuf>>,
    env: Vec<(String, Factory<String>)>,
    grace: Duration,
    meanings: Vec<(i32, ExitCodeMeaning)>,
}

impl CommandStep {
    /// Creates a step that runs `argv[0]` with the rest as its arguments, without a shell.
    pub fn new<S: Into<String>>(
        name: impl Into<String>,
        argv: impl IntoIterator<Item = S>,
    ) -> Self {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        Self::with(name, move |_| Ok(argv.clone()))
    }

    /// Creates a step whose argument vector is made for each step execution.
    pub fn with(
        name: impl Into<String>,
        argv: impl Fn(&StepScope) -> Result<Vec<String>, ItemError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            options: StepOptions::default(),
            argv: Arc::new(argv),
            dir: None,
            env: Vec::new(),
            grace: Duration::from_secs(10),
            meanings: Vec::new(),
        }
    }

    /// Sets start limit, rerun of a completed step, retry, timeout and listeners.
    #[must_use]
    pub fn options(mut self, options: StepOptions) -> Self {
        self.options = options.or(self.options);
        self
    }

    /// Sets the working directory. Default: that of this process.
    #[must_use]
    pub fn dir(self, dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        self.dir_with(move |_| Ok(dir.clone()))
    }

    /// Sets a function that makes the working directory for each step execution.
    #[must_use]
    pub fn dir_with(
        mut self,
        dir: impl Fn(&StepScope) -> Result<PathBuf, ItemError> + Send + Sync + 'static,
    ) -> Self {
        self.dir = Some(Arc::new(dir));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let value = value.into();
        self.env_with(name, move |_| Ok(value.clone()))
    }

    /// Adds a variable whose value is made for each step execution.
    #[must_use]
    pub fn env_with(
        mut self,
        name: impl Into<String>,
        value: impl Fn(&StepScope) -> Result<String, ItemError> + Send + Sync + 'static,
    ) -> Self {
        self.env.push((name.into(), Arc::new(value)));
        self
    }

    /// Sets the time after which the program is ended and the step fails. Default: none.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Sets the failures after which the program runs again; see [`StepOptions::retry`]. Default: none.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry = Some(policy);
        self
    }

    /// Sets the time between `SIGTERM` and `SIGKILL`. Default 10 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the meaning of exit code `code`.
    #[must_use]
    pub fn exit_code(mut self, code: i32, meaning: ExitCodeMeaning) -> Self {
        self.meanings.push((code, meaning));
        self
    }

    fn program(&self, scope: &StepScope) -> Result<Program, ItemError> {
        let argv = (self.argv)(scope)?;
        let [program, arguments @ ..] = &argv[..] else {
            return Err(ItemError::data("cannot run a command: its argument vector is empty"));
        };
        // Processes that the program leaves in its group must not outlive the step.
        let mut made = Program::new(program)
            .args(arguments)
            .grace(self.grace)
            .output_max(OUTPUT_BYTES_MAX)
            .kills_rest(true)
            .env("TRACEPARENT", scope.trace_context().to_string());
        for (name, value) in &self.env {
            made = made.env(name, value(scope)?);
        }
        match &self.dir {
            Some(dir) => Ok(made.dir(dir(scope)?)),
            None => Ok(made),
        }
    }

    fn judge(&self, ended: &Ended<()>, is_late: bool) -> Result<StepEnd, ItemError> {
        let with_output = |what: String| match ended.output.as_str() {
            "" => what,
            output => format!("{what}; its last output:\n{output}"),
        };
        if ended.cause != Cause::Itself {
            if !is_late {
                return Ok(StepEnd::Stopped);
            }
            let limit = self.options.timeout.unwrap_or_default();
            let what = format!("the command timed out after {limit:?}");
            return Err(ItemError::new(ErrorKind::new("command.timeout"), with_output(what)));
        }
        let Some(code) = ended.status.code() else {
            let signal = ended.status.signal().unwrap_or_default();
            let what = format!("the command was ended by signal {signal}");
            return Err(ItemError::new(ErrorKind::new("command.signal"), with_output(what)));
        };
        match self.meanings.iter().find(|(known, _)| *known == code).map(|(_, meaning)| meaning) {
            Some(ExitCodeMeaning::Completed(exit)) => Ok(StepEnd::Completed(exit.clone())),
            Some(ExitCodeMeaning::Failed(kind)) => {
                let what = format!("the command ended with exit code {code}");
                Err(ItemError::new(kind.clone(), with_output(what)))
            }
            None if code == 0 => Ok(StepEnd::Completed(ExitStatus::completed())),
            None => {
                let what = format!("the command ended with exit code {code}");
                Err(ItemError::new(ErrorKind::new("command.exit"), with_output(what)))
            }
        }
    }

    fn perform(&self, run: &StepRun<'_>) -> Result<StepEnd, ItemError> {
        let program = guarded(|| self.program(&run.scope))?;
        let asked = || run.stop_requested().then_some(());
        let line = |line: &str| tracing::info!(target: "batchwright::command", "{line}");
        let ended = program.run(run.clock(), asked, line)?;
        // The step's own token also receives the requests of the job's.
        self.judge(&ended, !run.scope.job().stop().is_requested())
    }
}

impl Step for CommandStep {
    fn name(&self) -> &str {
        &self.name
    }

    fn options(&self) -> &StepOptions {
        &self.options
    }

    fn run(&self, run: &mut StepRun<'_>) -> Result<StepEnd, StepError> {
        self.perform(run).map_err(|error| {
            run.roll_back(&error);
            StepError::Tasklet { step: self.name.clone(), source: ItemErrorText(error) }
        })
    }
}
