//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use batchwright::RecoverMode;
use batchwright::parse_duration;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Restartable batch jobs with exact checkpoints.
#[derive(Debug, Parser)]
#[command(
    name = "batchwright",
    version,
    propagate_version = true,
    after_help = "Examples:\n  batchwright run jobs/import.toml date=2026-11-21\n  batchwright executions --status failed\n  batchwright restart 42\n  batchwright stop import --wait"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where executions are kept unless the command or the configuration says so.
const STORE_DEFAULT: &str = "sqlite://batchwright.db";

impl Global {
    /// The URL of the store.
    pub(crate) fn store_url(&self) -> &str {
        self.store.as_deref().unwrap_or(STORE_DEFAULT)
    }

    /// Whether the store is gone with this process.
    pub(crate) fn is_memory(&self) -> bool {
        self.store_url() == "memory:"
    }

    /// Whether the store is on a server.
    pub(crate) fn is_server(&self) -> bool {
        !self.store_url().starts_with("sqlite:") && !self.is_memory()
    }
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where executions are kept: `sqlite://FILE[?synchronous=normal]`, `postgres://USER:PASSWORD@HOST/DATABASE`,
    /// `mysql://…` (MariaDB too), or `memory:`. Default: `store.url` of the configuration, else
    /// `sqlite://batchwright.db`.
    #[arg(
        long,
        global = true,
        env = "BATCHWRIGHT_STORE",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) store: Option<String>,
    /// Folder of job files (`*.toml`); may be given again. Default: `jobs`, when it exists.
    #[arg(long, global = true, env = "BATCHWRIGHT_JOBS", value_name = "DIR")]
    pub(crate) jobs: Vec<PathBuf>,
    /// Configuration (TOML). Default: the nearest `batchwright.toml` in this folder and those around it.
    #[arg(long, global = true, env = "BATCHWRIGHT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What stdout carries.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Only errors on stderr.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// More talk on stderr; twice for still more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Silence after which another process may take over what this one runs.
    #[arg(
        long,
        global = true,
        env = "BATCHWRIGHT_LEASE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub(crate) lease: Duration,
    /// Time that SIGTERM and SIGINT leave to a running chunk.
    #[arg(
        long,
        global = true,
        env = "BATCHWRIGHT_GRACE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub(crate) grace: Duration,
}

/// What stdout carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One document, or one object a line for lists.
    Json,
    /// A picture: of `graph` alone.
    Svg,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job in the foreground until it ends.
    Run(RunArgs),
    /// Hand an execution to whichever server shares the store, and return at once.
    Start(StartArgs),
    /// Continue a failed or stopped execution from its checkpoint, in a new one.
    Restart(RestartArgs),
    /// Run the next instance of a job, by its `[next]`.
    Next(RunArgs),
    /// Ask an execution (or the newest of a job) to stop at its next chunk boundary.
    Stop(StopArgs),
    /// Give an execution up: it is never restarted.
    Abandon(ExecutionArgs),
    /// Close executions whose owner is dead, so that they can be restarted.
    Recover(RecoverArgs),
    /// List the jobs: of job files, built in, and in the history.
    Jobs,
    /// List the instances of a job, newest first.
    Instances(InstancesArgs),
    /// List executions, newest first.
    Executions(ExecutionsArgs),
    /// Show an execution and its steps.
    Show(ExecutionArgs),
    /// List the records that an execution skipped.
    Skips(ExecutionArgs),
    /// Carry an open progressive execution forward until it ends; a signal leaves it open.
    Drive(DriveArgs),
    /// Check everything that `run` checks before the first step, without running.
    Validate(ValidateArgs),
    /// Draw the job's flow.
    Graph(GraphArgs),
    /// Prove that a job restarts: kill it at every commit, restart it, compare what it leaves.
    Rehearse(RehearseArgs),
    /// Delete instances that have ended, with all their executions.
    Purge(PurgeArgs),
    /// Fire triggers, and carry executions forward that were handed over, until a signal ends it.
    Serve(ServeArgs),
    /// Triggers: when something is done.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Rules: what is done when a trigger fires.
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Tell whether the store can be used.
    Health,
    /// Print the completion script of a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct DriveArgs {
    /// Number of the execution, or the name of a job, which means its newest one.
    pub(crate) execution: String,
    /// Lanes to work on at once. Default: all that it has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) lanes: Option<u32>,
    /// Show no progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where clients of the line protocol are listened to, in place of what the configuration says.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Where clients of the REST API are listened to, in place of what the configuration says.
    #[arg(long, env = "BATCHWRIGHT_HTTP", value_name = "ADDRESS:PORT")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// Listen for the REST API on an address that others can reach although it asks for no token.
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// The verbs of triggers.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Plan a trigger: once (`"2026-11-22 06:30:00"`, in UTC), or again and again
    /// (`cron "0 30 2 * * *" tz Europe/Berlin misfire all`, `every 90s overlap skip`).
    #[command(
        after_help = "Words behind `cron EXPRESSION` or `every DURATION`: tz ZONE, except DAYS, from TIME, until TIME, \
                      jitter DURATION, misfire skip|once|all, misfire-cap N, misfire-age DURATION, \
                      overlap allow|skip|queue|replace, queue N"
    )]
    Set {
        /// Name of the trigger.
        identifier: String,
        /// When.
        #[arg(required = true, value_name = "WHEN")]
        when: Vec<String>,
    },
    /// Remove a trigger.
    Unset(TriggerArgs),
    /// List triggers in the order of their names.
    List {
        /// Only those that begin so.
        #[arg(default_value = "")]
        prefix: String,
        /// At most so many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// Only those behind this one.
        #[arg(long, default_value = "", value_name = "TRIGGER")]
        after: String,
    },
    /// Show a trigger and its past slots, those that were skipped with the reason.
    History(TriggerArgs),
    /// Keep a trigger from firing.
    Pause(TriggerArgs),
    /// Let a paused trigger fire again.
    Resume(TriggerArgs),
    /// Print when a trigger fires, in words; of a stored one, or of the words of one.
    Explain {
        /// Name of a trigger, or `cron …`, `every …` with their words.
        #[arg(required = true, value_name = "TRIGGER|WHEN")]
        words: Vec<String>,
        /// So many fires.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
        count: u64,
    },
    /// Take over rules and triggers from Kairoi's data folder.
    ImportKairoi {
        /// The folder of its log files. Kairoi must not be running.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TriggerArgs {
    /// Name of the trigger.
    pub(crate) identifier: String,
}

/// The verbs of rules.
#[derive(Debug, Subcommand)]
pub(crate) enum RuleCommand {
    /// Store a rule: `mail app.mail. shell /opt/mail.sh`. The longest pattern that an identifier begins with wins.
    #[command(
        after_help = "Runners: shell COMMAND, amqp DSN EXCHANGE ROUTING_KEY, http URL [SECRET], job NAME [PARAMETERS]; \
                      behind each: retry N, backoff DURATION, timeout DURATION"
    )]
    Set {
        /// Name of the rule.
        identifier: String,
        /// Identifiers that begin so; an empty one means all.
        pattern: String,
        /// What is done.
        #[arg(required = true, value_name = "RUNNER")]
        runner: Vec<String>,
    },
    /// Remove a rule.
    Unset {
        /// Name of the rule.
        identifier: String,
    },
    /// List the rules.
    List,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Path of a job file, or name of a job.
    pub(crate) job: String,
    /// `NAME=VALUE` or `NAME:TYPE=VALUE`; a leading `-` marks one that does not identify the instance.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Path of a job file, or name of a job.
    pub(crate) job: String,
    /// `NAME=VALUE` or `NAME:TYPE=VALUE`; a leading `-` marks one that does not identify the instance.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Parameters as JSON, or `@FILE` (`@-` is standard input).
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) params_json: Option<String>,
    /// Refuse to become a restart.
    #[arg(long)]
    pub(crate) new_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Number of the execution, as `executions` shows it, or the name of a job, which means its newest one.
    pub(crate) execution: String,
    /// Parameters that do not identify the instance, with their new values.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Hand it to whichever server shares the store, and return at once.
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    /// Parameters as JSON, or `@FILE` (`@-` is standard input).
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) params_json: Option<String>,
    /// Refuse to become a restart.
    #[arg(long)]
    pub(crate) new_only: bool,
    /// What to do when the newest execution is running: refuse, take over from a dead owner, or take
    /// over anyway.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub(crate) recover: Recover,
    /// Make chosen items fail, for rehearsals: JSON, or `@FILE`.
    #[arg(long, value_name = "PLAN")]
    pub(crate) inject: Option<String>,
    /// No progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
    /// Go on although the job's definition changed since the last execution.
    #[arg(long)]
    pub(crate) accept_changed_definition: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Recover {
    /// Refuse.
    Strict,
    /// Take over when the lease has expired or the owner was a process of this host that is gone.
    #[default]
    Detect,
    /// Take over whatever the lease says.
    Force,
}

impl From<Recover> for RecoverMode {
    fn from(mode: Recover) -> Self {
        match mode {
            Recover::Strict => Self::Strict,
            Recover::Detect => Self::Detect,
            Recover::Force => Self::Force,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Number of an execution, or name of a job.
    #[arg(value_name = "EXECUTION|JOB")]
    pub(crate) target: String,
    /// Return when it has stopped.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExecutionArgs {
    /// Number of the execution, as `executions` shows it, or the name of a job, which means its newest one.
    pub(crate) execution: String,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Only this execution; without it, all that need it.
    pub(crate) execution: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InstancesArgs {
    /// Name of the job.
    pub(crate) job: String,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
    /// Only instances older than this one.
    #[arg(long, value_name = "INSTANCE")]
    pub(crate) before: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecutionsArgs {
    /// Only of this job.
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// Only with this status; may be given again.
    #[arg(long, value_parser = status)]
    pub(crate) status: Vec<batchwright::BatchStatus>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
    /// Only those before this number: the next page of a list that was cut.
    #[arg(long, value_name = "EXECUTION")]
    pub(crate) before: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Path of a job file, or name of a job.
    pub(crate) job: String,
    /// `NAME=VALUE` or `NAME:TYPE=VALUE`; without any, only the job itself is checked.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Parameters as JSON, or `@FILE` (`@-` is standard input).
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) params_json: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// Path of a job file, or name of a job.
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct RehearseArgs {
    /// Path of a job file.
    pub(crate) job: PathBuf,
    /// `NAME=VALUE` or `NAME:TYPE=VALUE`.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Kill at so many places, drawn from all, instead of at all of them.
    #[arg(long, value_name = "N")]
    pub(crate) kills: Option<usize>,
    /// What the places are drawn by.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Let the job reach databases and absolute paths that lie outside of the scratch folder.
    #[arg(long)]
    pub(crate) allow_outside: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// All of whose executions ended at least so long ago: `90d`, `12h`.
    #[arg(long, value_parser = parse_duration, required_unless_present = "keep")]
    pub(crate) older_than: Option<Duration>,
    /// Behind so many newer instances of their job.
    #[arg(long, value_name = "INSTANCES")]
    pub(crate) keep: Option<usize>,
    /// Only of this job.
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// Only with this status; may be given again.
    #[arg(long, value_parser = status)]
    pub(crate) status: Vec<batchwright::BatchStatus>,
    /// Instances that failed or were stopped too, which then cannot be restarted.
    #[arg(long)]
    pub(crate) include_restartable: bool,
    /// Only tell what would be deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn status(text: &str) -> Result<batchwright::BatchStatus, String> {
    batchwright::BatchStatus::from_name(text).ok_or_else(|| {
        let known: Vec<_> = batchwright::BatchStatus::ALL.iter().map(|one| one.name()).collect();
        format!("there is no status `{text}`; there are: {}", known.join(", ").to_lowercase())
    })
}

/// In front of a parameter that does not identify the instance, once options were told apart from it.
pub(crate) const NON_IDENTIFYING: char = '\u{1}';

/// `-limit=10` is a parameter and not an option: its dash becomes [`NON_IDENTIFYING`].
pub(crate) fn with_marked_parameters(
    arguments: impl Iterator<Item = String>,
) -> impl Iterator<Item = String> {
    arguments.map(|argument| {
        match argument.strip_prefix('-').and_then(|rest| rest.split_once('=')) {
            Some((name, _))
                if name.starts_with(|first: char| first.is_alphabetic() || first == '_') =>
            {
                format!("{NON_IDENTIFYING}{}", &argument[1..])
            }
            _ => argument,
        }
    })
}
