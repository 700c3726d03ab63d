//! The command line: verbs, options and arguments.

use std::path::PathBuf;
use std::time::Duration;

use batchwright::clock::parse_duration;
use batchwright::launch::RecoverMode;
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

/// The store when neither the command line, the environment nor the configuration names one.
const STORE_DEFAULT: &str = "sqlite://batchwright.db";

impl Global {
    /// The URL of the store.
    pub(crate) fn store_url(&self) -> &str {
        self.store.as_deref().unwrap_or(STORE_DEFAULT)
    }

    /// Whether the store is in memory, so that it ends with this process.
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
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Store of the executions: `sqlite://FILE[?synchronous=normal]`,
    /// `postgres://USER:PASSWORD@HOST/DATABASE`, `mysql://…` (MariaDB too), or `memory:`. Default:
    /// `store.url` of the configuration, else `sqlite://batchwright.db`.
    #[arg(
        long,
        global = true,
        env = "BATCHWRIGHT_STORE",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) store: Option<String>,
    /// Folder of job files (`*.toml`); repeatable. Default: `jobs`, if it exists.
    #[arg(long, global = true, env = "BATCHWRIGHT_JOBS", value_name = "DIR")]
    pub(crate) jobs: Vec<PathBuf>,
    /// Configuration file (TOML). Default: the nearest `batchwright.toml` in this folder and its parents.
    #[arg(long, global = true, env = "BATCHWRIGHT_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Output format.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Format of the log on standard error.
    #[arg(long, global = true, env = "BATCHWRIGHT_LOG_FORMAT", value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
    /// Log only errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Verbose logging (-v info, -vv debug).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Time without a heartbeat after which another process may take over an execution.
    #[arg(
        long,
        global = true,
        env = "BATCHWRIGHT_LEASE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub(crate) lease: Duration,
    /// Time that a running chunk has to finish after SIGTERM or SIGINT.
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

/// Output format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object in each line, with its time, and with job and execution where there are.
    Json,
}

/// The formats of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Readable text.
    #[default]
    Text,
    /// One JSON document; for lists, one JSON object per line.
    Json,
    /// SVG image; only for `graph`.
    Svg,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job in the foreground until it ends.
    Run(RunArgs),
    /// Queue an execution for a server that shares the store, and return at once.
    Start(StartArgs),
    /// Restart a failed or stopped execution from its checkpoint, as a new execution.
    Restart(RestartArgs),
    /// Run the next instance of a job, with parameters computed from its `[next]` table.
    Next(RunArgs),
    /// Ask an execution, or all that match, to stop at the next chunk boundary.
    #[command(
        after_help = "Examples:\n  batchwright stop 42 --wait\n  batchwright stop --filter \"job:import\" --dry-run\n  batchwright stop --filter status:running"
    )]
    Stop(StopArgs),
    /// Mark an execution as abandoned, so that it is never restarted.
    Abandon(ExecutionArgs),
    /// Close executions whose owner is dead, so that they can be restarted.
    Recover(RecoverArgs),
    /// List the jobs from job files, from the program and from the history.
    Jobs,
    /// List the instances of a job, newest first.
    Instances(InstancesArgs),
    /// List executions, newest first.
    Executions(ExecutionsArgs),
    /// Show an execution and its steps.
    Show(ExecutionArgs),
    /// Show the progress of an execution until it ends; a signal ends the command, not the execution.
    Watch(ExecutionArgs),
    /// Show what runs on the whole terminal, with keys to stop and restart.
    #[cfg(feature = "top")]
    Top,
    /// List who gave which command, newest first.
    Audit(AuditArgs),
    /// Write an execution and the other attempts of its instance to one file, to be attached to a report or opened with `view`.
    #[command(
        after_help = "Values of secret parameters are masked, also where messages and checkpoints quote them as they are. Messages, contexts and skipped records are exported as they are stored; `--without-records` leaves the records out, but messages may quote values of them. Executions that its steps started are exported by themselves, and lanes of progressive executions are left out.\n\nExample:\n  batchwright export 42 --to import.batch\n  batchwright view import.batch"
    )]
    Export(ExportArgs),
    /// Show the dashboard of a file that `export` wrote, until a signal arrives; nothing can be changed there.
    View(ViewArgs),
    /// List the records that an execution skipped, or export them for correction.
    Skips(SkipsArgs),
    /// Replay skipped records that were corrected: through the processors and the writer of their step, each once.
    #[command(
        after_help = "Example:\n  batchwright skips 42 --export rejected.jsonl\n  (correct the fields of `record`, delete the lines to give up)\n  batchwright replay 42 --from rejected.jsonl"
    )]
    Replay(ReplayArgs),
    /// Work on an open progressive execution until it ends; a signal leaves it open.
    Drive(DriveArgs),
    /// Check a job and its parameters as `run` does before the first step, without running it.
    Validate(ValidateArgs),
    /// Print the flow of a job as a Graphviz graph, JSON or SVG.
    Graph(GraphArgs),
    /// Test restarts of a job: kill it at every commit, restart it and compare its output.
    Rehearse(RehearseArgs),
    /// Delete ended instances with all their executions; needs `--older-than`, `--keep` or both.
    Purge(PurgeArgs),
    /// Run the server: fire triggers and run queued executions until a signal arrives.
    Serve(ServeArgs),
    /// Run the server with its dashboard for development; a folder without jobs gets a sample project.
    Dev(DevArgs),
    /// Manage triggers: when something runs.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Manage rules: what runs when a trigger fires.
    #[command(subcommand)]
    Rule(RuleCommand),
    /// Check whether the store is available.
    Health,
    /// Print the completion script of a shell.
    Completions {
        /// Shell to print the completion script for.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
    /// Print the JSON Schema of job files, for editors and generators.
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct DriveArgs {
    /// Number of the execution, or name of a job for its newest execution.
    pub(crate) execution: String,
    /// Maximum number of lanes to work on at once. Default: all lanes of the execution.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) lanes: Option<u32>,
    /// Hide the progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Listen address of the line protocol. Default: `kcp.listen` of the configuration, else 127.0.0.1:5678.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Listen address of the REST API. Default: `http.listen` of the configuration, else 127.0.0.1:5680.
    #[arg(long, env = "BATCHWRIGHT_HTTP", value_name = "ADDRESS:PORT")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// Allow the REST API without a token on an address that other hosts can reach.
    #[arg(long)]
    pub(crate) insecure: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Listen address of the dashboard and the REST API.
    #[arg(
        long,
        env = "BATCHWRIGHT_HTTP",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:5680"
    )]
    pub(crate) http: std::net::SocketAddr,
    /// Listen address of the line protocol.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5678")]
    pub(crate) listen: std::net::SocketAddr,
    /// Write no sample project.
    #[arg(long)]
    pub(crate) empty: bool,
}

/// The verbs of triggers.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Create or replace a trigger: once (`"2026-11-22 06:30:00"`, in UTC) or recurring
    /// (`cron "0 30 2 * * *" tz Europe/Berlin misfire all`, `every 90s overlap skip`).
    #[command(
        after_help = "Options after `cron EXPRESSION` or `every DURATION`: tz ZONE, except DAYS, from TIME, until TIME, \
                      jitter DURATION, misfire skip|once|all, misfire-cap N, misfire-age DURATION, \
                      overlap allow|skip|queue|replace, queue N"
    )]
    Set {
        /// Name of the trigger.
        identifier: String,
        /// Time in UTC, or `cron EXPRESSION` or `every DURATION` with options.
        #[arg(required = true, value_name = "WHEN")]
        when: Vec<String>,
    },
    /// Remove a trigger.
    Unset(TriggerArgs),
    /// List triggers, sorted by name.
    List {
        /// List only triggers whose name begins with this text.
        #[arg(default_value = "")]
        prefix: String,
        /// Maximum number of rows.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// List only triggers after this name: the next page of a list.
        #[arg(long, default_value = "", value_name = "TRIGGER")]
        after: String,
    },
    /// Show a trigger and its past slots, with the reason for each skipped slot.
    History(TriggerArgs),
    /// Fire a trigger now, beside its plan.
    #[command(
        after_help = "Example: batchwright schedule fire nightly --slot 2026-11-28T02:30:00Z --slot 2026-11-29T02:30:00Z"
    )]
    Fire {
        /// Name of the trigger.
        identifier: String,
        /// Planned time of a recurring trigger for which it fires, such as a past one; repeatable. Default: now.
        #[arg(long = "slot", value_name = "TIME")]
        slots: Vec<String>,
    },
    /// Pause a trigger, so that it does not fire.
    Pause(TriggerArgs),
    /// Resume a paused trigger.
    Resume(TriggerArgs),
    /// Skip a coming time of a recurring trigger: it does not fire for that time.
    #[command(
        after_help = "Example: batchwright schedule skip nightly --slot 2026-12-24T02:30:00Z"
    )]
    Skip {
        /// Name of the trigger.
        identifier: String,
        /// The time, one of the plan's. Default: the next one.
        #[arg(long, value_name = "TIME")]
        slot: Option<String>,
    },
    /// Describe in words when a trigger fires, and print its next times.
    Explain {
        /// Name of a stored trigger, or `cron …` or `every …` with options.
        #[arg(required = true, value_name = "TRIGGER|WHEN")]
        words: Vec<String>,
        /// Number of times to print.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
        count: u64,
    },
    /// Import rules and triggers from the data folder of Kairoi.
    ImportKairoi {
        /// Folder of Kairoi's log files. Kairoi must not be running.
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
    /// Create or replace a rule: `mail app.mail. shell /opt/mail.sh`. The longest matching pattern wins.
    #[command(
        after_help = "Runners: shell COMMAND, amqp DSN EXCHANGE ROUTING_KEY, http URL [SECRET], job NAME [PARAMETERS]; \
                      options of each: retry N, backoff DURATION; of shell, http and job also timeout DURATION"
    )]
    Set {
        /// Name of the rule.
        identifier: String,
        /// Prefix of the trigger names that the rule applies to; empty for all triggers.
        pattern: String,
        /// Runner with its arguments and options.
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
    /// Path of a job file or name of a job.
    pub(crate) job: String,
    /// Parameters: `NAME=VALUE` or `NAME:TYPE=VALUE`; a leading `-` marks a non-identifying parameter.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Path of a job file or name of a job.
    pub(crate) job: String,
    /// Parameters: `NAME=VALUE` or `NAME:TYPE=VALUE`; a leading `-` marks a non-identifying parameter.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Parameters as JSON, or `@FILE` (`@-` is standard input).
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) params_json: Option<String>,
    /// Refuse to restart an existing instance.
    #[arg(long)]
    pub(crate) new_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Number of the execution, as `executions` shows it, or name of a job for its newest execution.
    pub(crate) execution: String,
    /// New values of non-identifying parameters.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Queue the restart for a server that shares the store, and return at once.
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LaunchArgs {
    /// Parameters as JSON, or `@FILE` (`@-` is standard input).
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) params_json: Option<String>,
    /// Refuse to restart an existing instance.
    #[arg(long)]
    pub(crate) new_only: bool,
    /// What to do when the newest execution is still running.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub(crate) recover: Recover,
    /// Fault plan for tests, which makes chosen items fail: JSON, or `@FILE`.
    #[arg(long, value_name = "PLAN")]
    pub(crate) inject: Option<String>,
    /// Hide the progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
    /// Restart although the job's definition has changed since the last execution.
    #[arg(long)]
    pub(crate) accept_changed_definition: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Recover {
    /// Refuse.
    Strict,
    /// Take over when the lease has expired or the owner was a process of this host that has ended.
    #[default]
    Detect,
    /// Take over even if the lease is alive.
    Force,
}

impl Command {
    /// Whether the verb runs executions, or drives them.
    pub(crate) fn runs(&self) -> bool {
        matches!(
            self,
            Self::Run(_)
                | Self::Next(_)
                | Self::Restart(_)
                | Self::Replay(_)
                | Self::Drive(_)
                | Self::Recover(_)
                | Self::Serve(_)
                | Self::Dev(_)
        )
    }
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
    /// Number of an execution, or name of a job for its newest execution.
    #[arg(value_name = "EXECUTION|JOB", required_unless_present = "filter")]
    pub(crate) target: Option<String>,
    /// Stop all running executions that match these conditions, as `executions --filter` has them.
    #[arg(long, value_name = "CONDITIONS", conflicts_with = "target")]
    pub(crate) filter: Option<String>,
    /// List what would be stopped; stop nothing.
    #[arg(long, requires = "filter", conflicts_with = "target")]
    pub(crate) dry_run: bool,
    /// Wait until what was stopped has ended.
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// List only commands since this time: a duration ago (`24h`), a day in UTC, or a time in RFC 3339.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Maximum number of rows.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
    /// List only commands before this number: the next page of a list.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) before: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecutionArgs {
    /// Number of the execution, as `executions` shows it, or name of a job for its newest execution.
    pub(crate) execution: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Number of the execution, as `executions` shows it, or name of a job for its newest execution.
    pub(crate) execution: String,
    /// File to write; it must not exist. Default: `execution-NUMBER.batch`.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<std::path::PathBuf>,
    /// Leave the contents of skipped records out.
    #[arg(long)]
    pub(crate) without_records: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// File that `export` wrote.
    pub(crate) file: std::path::PathBuf,
    /// Listen address of the dashboard; with port 0, the system chooses one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub(crate) http: std::net::SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct SkipsArgs {
    /// Number of the execution, as `executions` shows it, or name of a job for its newest execution.
    pub(crate) execution: String,
    /// Only records that this step skipped.
    #[arg(long, value_name = "STEP")]
    pub(crate) step: Option<String>,
    /// Only records with an error of this kind or a child of it, such as `data` or `data.parse`.
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// Maximum number of rows. Default: all.
    #[arg(long, conflicts_with = "export")]
    pub(crate) limit: Option<usize>,
    /// Write all records to this new file, a JSON object on each line, for `replay`.
    #[arg(long, value_name = "FILE")]
    pub(crate) export: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Number of the execution that skipped the records, or name of a job for its newest execution.
    pub(crate) execution: String,
    /// File of the corrected records, as `skips --export` writes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// New values of non-identifying parameters.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Number of one execution, or name of a job for its newest execution. Default: all executions whose owner is dead.
    pub(crate) execution: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InstancesArgs {
    /// Name of the job.
    pub(crate) job: String,
    /// Maximum number of rows.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
    /// List only instances older than this one: the next page of a list.
    #[arg(long, value_name = "INSTANCE")]
    pub(crate) before: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecutionsArgs {
    /// List only executions of this job.
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// List only executions with this status; repeatable.
    #[arg(long, value_parser = status)]
    pub(crate) status: Vec<batchwright::BatchStatus>,
    /// List only executions that match these conditions: `status:failed,stale since:24h until:DAY instance:N by:schedule
    /// param.NAME:TEXT`.
    #[arg(long, value_name = "CONDITIONS")]
    pub(crate) filter: Option<String>,
    /// Maximum number of rows.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
    /// List only executions before this number: the next page of a list.
    #[arg(long, value_name = "EXECUTION")]
    pub(crate) before: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Path of a job file or name of a job.
    pub(crate) job: String,
    /// Parameters: `NAME=VALUE` or `NAME:TYPE=VALUE`; without parameters only the job is checked.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Parameters as JSON, or `@FILE` (`@-` is standard input).
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) params_json: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// Path of a job file or name of a job.
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct RehearseArgs {
    /// Path of a job file.
    pub(crate) job: PathBuf,
    /// Parameters: `NAME=VALUE` or `NAME:TYPE=VALUE`.
    #[arg(value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Kill at N randomly drawn commit boundaries instead of at every one.
    #[arg(long, value_name = "N")]
    pub(crate) kills: Option<usize>,
    /// Seed of the random draw.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Allow the job to use databases and absolute paths outside the scratch folder.
    #[arg(long)]
    pub(crate) allow_outside: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Delete only instances whose executions all ended at least this long ago: `90d`, `12h`.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) older_than: Option<Duration>,
    /// Keep the newest N instances of each job.
    #[arg(long, value_name = "N")]
    pub(crate) keep: Option<usize>,
    /// Delete only instances of this job.
    #[arg(long)]
    pub(crate) job: Option<String>,
    /// Delete only instances whose newest execution has this status; repeatable. `failed` and `stopped` also need
    /// `--include-restartable`.
    #[arg(long, value_parser = status)]
    pub(crate) status: Vec<batchwright::BatchStatus>,
    /// Also delete failed and stopped instances, which can then no longer be restarted.
    #[arg(long)]
    pub(crate) include_restartable: bool,
    /// List what would be deleted without deleting it.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn status(text: &str) -> Result<batchwright::BatchStatus, String> {
    batchwright::BatchStatus::from_name(text).ok_or_else(|| {
        let known: Vec<_> = batchwright::BatchStatus::ALL.iter().map(|one| one.name()).collect();
        format!("there is no status `{text}`; there are: {}", known.join(", ").to_lowercase())
    })
}

/// Prefix of a non-identifying parameter, put in place of its dash before clap parses the arguments.
pub(crate) const NON_IDENTIFYING: char = '\u{1}';

/// Replaces the dash of a non-identifying parameter (`-limit=10`) with [`NON_IDENTIFYING`], so that it is not
/// parsed as an option.
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
