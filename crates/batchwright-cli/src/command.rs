//! The verbs.

mod dev;
mod drive;
mod export;
mod graph;
mod history;
mod launch;
mod look;
mod rehearse;
mod rule;
mod schedule;
mod serve;
mod skips;
mod stop;
#[cfg(feature = "top")]
mod top;
mod watch;

use std::io::Write;

use batchwright::report;
use batchwright_jobfile::JobFolder;
use clap::CommandFactory;
use serde_json::json;

use crate::Program;
use crate::args::{Cli, Command, Format, Global};
use crate::context::App;
use crate::error::{self, CliError};
use crate::{output, project, store};

/// Runs the verb of `cli` and returns its exit code.
pub(crate) fn execute(cli: Cli, program: &Program) -> Result<u8, CliError> {
    let Cli { mut global, command } = cli;
    project::resolve(&mut global)?;
    if let Command::Serve(args) = &command {
        // The log level of a server is in its configuration, which `serve` reads.
        return serve::serve(global, program, args);
    }
    if let Command::Dev(args) = &command {
        return dev::dev(global, program, args);
    }
    output::init_log(&global, None, command.runs());
    if global.format == Format::Svg && !matches!(command, Command::Graph(_)) {
        return Err(CliError::Usage("`--format svg` works only with `graph`".to_owned()));
    }
    let look = || App::look(&global, program, None);
    match command {
        Command::Run(args) => launch::run(&global, program, &args),
        Command::Next(args) => launch::next(&global, program, &args),
        Command::Restart(args) => launch::restart(&global, program, &args),
        Command::Start(args) => {
            let app = App::launching(&global, program, None, &args.job)?;
            launch::start(&app, &global, &args)
        }
        Command::Validate(args) => {
            launch::validate(&App::unopened(&global, program)?, &global, &args)
        }
        Command::Stop(args) => stop::stop(&look()?, &global, &args),
        Command::Abandon(args) => history::abandon(&look()?, &global, &args),
        Command::Recover(args) => history::recover(&look()?, &global, &args),
        Command::Purge(args) => history::purge(&look()?, &global, &args),
        Command::Jobs => look::jobs(&look()?, &global),
        Command::Instances(args) => look::instances(&look()?, &global, &args),
        Command::Executions(args) => look::executions(&look()?, &global, &args),
        Command::Show(args) => look::show(&look()?, &global, &args),
        Command::Watch(args) => watch::watch(&look()?, &global, &args),
        #[cfg(feature = "top")]
        Command::Top => top::top(&look()?),
        Command::Audit(args) => look::audit(&look()?, &global, &args),
        Command::Export(args) => export::export(&look()?, &global, &args),
        Command::View(args) => export::view(&global, &args),
        Command::Drive(args) => drive::drive(&look()?, &global, &args),
        Command::Skips(args) => skips::skips(&look()?, &global, &args),
        Command::Replay(args) => launch::replay(&global, program, &args),
        Command::Graph(args) => graph::graph(&App::unopened(&global, program)?, &global, &args),
        Command::Rehearse(args) => rehearse::rehearse(&global, &args),
        Command::Serve(_) | Command::Dev(_) => Ok(error::OK),
        Command::Schedule(command) => schedule::schedule(&global, &command),
        Command::Rule(command) => rule::rule(&global, program, &command),
        Command::Health => health(&global, program),
        Command::Completions { shell } => {
            let (mut command, name) = (Cli::command(), "batchwright");
            // Generated in memory first: the generator panics when the reader of stdout closes the pipe.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, name, &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(error::OK)
        }
        Command::Schema => {
            let schema = JobFolder::default().kinds(program.kinds.clone()).json_schema();
            writeln!(std::io::stdout(), "{schema:#}")?;
            Ok(error::OK)
        }
        Command::Man => {
            clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
            Ok(error::OK)
        }
    }
}

/// Opens the store and reads the names of its jobs, to check that it is available.
fn health(global: &Global, program: &Program) -> Result<u8, CliError> {
    let checked = store::is_there(global.store_url()).and_then(|is_there| match is_there {
        true => Ok(App::open(global, program, None)?.operator.explorer().job_names()?),
        false => Err(CliError::Usage(format!(
            "the store `{}` does not exist yet; `serve` and `run` create it",
            store::shown(global.store_url())?
        ))),
    });
    let (status, detail, code) = match &checked {
        Ok(names) => ("ok", format!("{} jobs known", names.len()), error::OK),
        Err(problem) => ("unavailable", report(problem), error::STORE),
    };
    let health = json!({"status": status, "checks": [{"name": "store", "status": status, "detail": detail}]});
    output::document(global.format, &health, |_| format!("{status}: {detail}"))?;
    Ok(code)
}
