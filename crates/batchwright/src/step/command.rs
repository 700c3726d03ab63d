//! Steps that run a program: an argument vector without a shell, in a process group of its own.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus as ProcessStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::{Factory, Step, StepEnd, StepOptions, StepRun, StepScope, guarded};
use crate::error::{ErrorKind, ItemError, ItemErrorText, StepError};
use crate::execution::ExitStatus;

/// Output of the program that is kept, in bytes: enough to see why it failed.
const TAIL_BYTES_MAX: usize = 2_000;
/// Longest piece of a line that is passed on at once, in bytes; an endless line comes in pieces.
const LINE_BYTES_MAX: u64 = 8 * 1024;
/// How often a running program is checked against its time-out and against stops.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Time for the last output to arrive after the program ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// What an exit code of the program means for the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitCodeMeaning {
    /// The step completed, with this exit status.
    Completed(ExitStatus),
    /// The step failed with this kind of error.
    Failed(ErrorKind),
}

/// A step that runs a program. Exit code 0 completes it, every other one fails it with the tail of
/// the output.
///
/// Time-out and stop end the whole process group: first `SIGTERM`, after the grace period `SIGKILL`.
pub struct CommandStep {
    name: String,
    options: StepOptions,
    argv: Factory<Vec<String>>,
    dir: Option<Factory<PathBuf>>,
    env: Vec<(String, Factory<String>)>,
    timeout: Option<Duration>,
    grace: Duration,
    meanings: Vec<(i32, ExitCodeMeaning)>,
}

impl CommandStep {
    /// Runs `argv[0]` with the rest as its arguments; no shell looks at them.
    pub fn new<S: Into<String>>(
        name: impl Into<String>,
        argv: impl IntoIterator<Item = S>,
    ) -> Self {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        Self::with(name, move |_| Ok(argv.clone()))
    }

    /// As [`new`](Self::new), with an argument vector made for each step execution.
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
            timeout: None,
            grace: Duration::from_secs(10),
            meanings: Vec::new(),
        }
    }

    /// Start limit, rerun of a completed step, listeners.
    #[must_use]
    pub fn options(mut self, options: StepOptions) -> Self {
        self.options = options;
        self
    }

    /// Working directory. Default: that of this process.
    #[must_use]
    pub fn dir(self, dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        self.dir_with(move |_| Ok(dir.clone()))
    }

    /// As [`dir`](Self::dir), made for each step execution.
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

    /// As [`env`](Self::env), with a value made for each step execution.
    #[must_use]
    pub fn env_with(
        mut self,
        name: impl Into<String>,
        value: impl Fn(&StepScope) -> Result<String, ItemError> + Send + Sync + 'static,
    ) -> Self {
        self.env.push((name.into(), Arc::new(value)));
        self
    }

    /// Ends the program, and fails the step, after `timeout`. Default: never.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Time between `SIGTERM` and `SIGKILL`. Default 10 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// What `code` means, instead of the default.
    #[must_use]
    pub fn exit_code(mut self, code: i32, meaning: ExitCodeMeaning) -> Self {
        self.meanings.push((code, meaning));
        self
    }

    fn spawn(&self, scope: &StepScope) -> Result<Child, ItemError> {
        let argv = (self.argv)(scope)?;
        let [program, arguments @ ..] = &argv[..] else {
            return Err(ItemError::data("run a command: its argument vector is empty"));
        };
        let mut command = Command::new(program);
        command.args(arguments);
        for (name, value) in &self.env {
            command.env(name, value(scope)?);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir(scope)?);
        }
        command
            .spawn()
            .map_err(|error| ItemError::wrap(ErrorKind::IO, format!("start `{program}`"), error))
    }

    /// Waits for the end of the program, ending it itself on time-out or stop.
    fn supervise(&self, run: &StepRun<'_>, program: &Running) -> Result<Ended, ItemError> {
        let started = run.clock().elapsed();
        let mut signalled: Option<(Duration, Reason)> = None;
        let mut killed = false;
        loop {
            match program.ended.recv_timeout(CHECK_INTERVAL) {
                Ok(status) => {
                    let status = status?;
                    return Ok(Ended { status, reason: signalled.map(|(_, reason)| reason) });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(ItemError::fatal("wait for the command: its waiter is gone"));
                }
            }
            let now = run.clock().elapsed();
            match signalled {
                Some((since, _)) if !killed && now - since >= self.grace => {
                    program.signal(Signal::KILL);
                    killed = true;
                }
                Some(_) => {}
                None => {
                    let reason = if run.stop_requested() {
                        Reason::Stop
                    } else if self.timeout.is_some_and(|limit| now - started >= limit) {
                        Reason::Timeout
                    } else {
                        continue;
                    };
                    program.signal(Signal::TERM);
                    signalled = Some((now, reason));
                }
            }
        }
    }

    fn judge(&self, ended: Ended, tail: &str) -> Result<StepEnd, ItemError> {
        let said = |what: String| match tail.trim_end() {
            "" => what,
            tail => format!("{what}; its last output:\n{tail}"),
        };
        match ended.reason {
            Some(Reason::Stop) => return Ok(StepEnd::Stopped),
            Some(Reason::Timeout) => {
                let limit = self.timeout.unwrap_or_default();
                let what = format!("finish the command within {limit:?}");
                return Err(ItemError::new(ErrorKind::new("command.timeout"), said(what)));
            }
            None => {}
        }
        let Some(code) = ended.status.code() else {
            let signal = ended.status.signal().unwrap_or_default();
            let what = format!("finish the command: it was ended by signal {signal}");
            return Err(ItemError::new(ErrorKind::new("command.signal"), said(what)));
        };
        match self.meanings.iter().find(|(known, _)| *known == code).map(|(_, meaning)| meaning) {
            Some(ExitCodeMeaning::Completed(exit)) => Ok(StepEnd::Completed(exit.clone())),
            Some(ExitCodeMeaning::Failed(kind)) => {
                let what = format!("finish the command: it ended with exit code {code}");
                Err(ItemError::new(kind.clone(), said(what)))
            }
            None if code == 0 => Ok(StepEnd::Completed(ExitStatus::completed())),
            None => {
                let what = format!("finish the command: it ended with exit code {code}");
                Err(ItemError::new(ErrorKind::new("command.exit"), said(what)))
            }
        }
    }

    fn perform(&self, run: &StepRun<'_>) -> Result<StepEnd, ItemError> {
        let program = Running::new(guarded(|| self.spawn(&run.scope))?)?;
        let ended = self.supervise(run, &program);
        // Whatever the program left behind in its group must not outlive the step.
        program.signal(Signal::KILL);
        self.judge(ended?, &program.tail())
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

#[derive(Debug, Clone, Copy)]
enum Reason {
    Stop,
    Timeout,
}

struct Ended {
    status: ProcessStatus,
    reason: Option<Reason>,
}

/// A started program: a thread waits for it, one for each of its two outputs keeps the tail.
struct Running {
    group: Pid,
    ended: Receiver<std::io::Result<ProcessStatus>>,
    drained: Receiver<()>,
    tail: Arc<Mutex<VecDeque<u8>>>,
}

impl Running {
    fn new(mut child: Child) -> Result<Self, ItemError> {
        let group = Pid::from_child(&child);
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let (drained_sender, drained) = channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
            child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        ];
        for output in outputs.into_iter().flatten() {
            let (tail, done) = (Arc::clone(&tail), drained_sender.clone());
            std::thread::Builder::new().name("command output".to_owned()).spawn(move || {
                collect(output, &tail);
                let _ = done.send(());
            })?;
        }
        let (sender, ended) = channel();
        std::thread::Builder::new().name("command".to_owned()).spawn(move || {
            let _ = sender.send(child.wait());
        })?;
        Ok(Self { group, ended, drained, tail })
    }

    /// To the whole group; that it may be gone already is no error.
    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }

    fn tail(&self) -> String {
        for _ in 0..2 {
            let _ = self.drained.recv_timeout(DRAIN_TIMEOUT);
        }
        let kept = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept.iter().copied().collect::<Vec<_>>()).into_owned()
    }
}

fn collect(output: impl Read, tail: &Mutex<VecDeque<u8>>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut output).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
        tracing::info!(target: "batchwright::command", "{}", String::from_utf8_lossy(&line).trim_end());
        let mut kept = tail.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(line.drain(..));
        let excess = kept.len().saturating_sub(TAIL_BYTES_MAX);
        kept.drain(..excess);
    }
}
