//! `dev`: a running server with its dashboard, from an empty folder.

use std::io::Write as _;
use std::path::Path;

use batchwright::launch::{Launch, LaunchOptions};
use batchwright::{JobOperator, JobParameters};
use batchwright_server::{Plan, Request, RuleSettings, When};

use super::schedule::ask;
use super::serve::serve_after;
use crate::Program;
use crate::args::{DevArgs, Global, ServeArgs};
use crate::context::{App, who};
use crate::error::CliError;
use crate::store;

/// The files of the sample project.
const SAMPLE: [(&str, &str); 5] = [
    ("jobs/load-orders.toml", include_str!("../../assets/dev/jobs/load-orders.toml")),
    ("jobs/month-end.toml", include_str!("../../assets/dev/jobs/month-end.toml")),
    ("jobs/send-report.toml", include_str!("../../assets/dev/jobs/send-report.toml")),
    ("jobs/rate-customers.toml", include_str!("../../assets/dev/jobs/rate-customers.toml")),
    ("data/orders.csv", include_str!("../../assets/dev/data/orders.csv")),
];
/// The rules of the sample project: name, pattern, runner.
const RULES: [(&str, &str, &[&str]); 1] = [("orders", "orders", &["job", "load-orders"])];
/// The triggers of the sample project: name and plan.
const TRIGGERS: [(&str, &[&str]); 1] = [("orders-daily", &["cron", "30 2 * * *"])];
/// The jobs that are started, so that there is something to see.
const STARTED: [&str; 4] = ["load-orders", "send-report", "month-end", "rate-customers"];

/// Writes a sample project into a folder without jobs, and runs the server with its dashboard.
pub(super) fn dev(global: Global, program: &Program, args: &DevArgs) -> Result<u8, CliError> {
    let is_new = global.jobs.is_empty()
        && !Path::new("jobs").exists()
        && program.registry.names().is_empty()
        && store::makes_a_file(global.store_url())?;
    if is_new && !args.empty {
        write_sample(Path::new("."))?;
        prepare(&global, program)?;
    }
    let listen = ServeArgs { listen: Some(args.listen), http: Some(args.http), insecure: false };
    serve_after(global, program, &listen, true, |server| {
        let mut stdout = std::io::stdout();
        if is_new && !args.empty {
            writeln!(stdout, "Wrote a sample project: the folders jobs and data.")?;
        }
        if let Some(http) = server.http_address() {
            writeln!(stdout, "Dashboard: http://{http}/")?;
        }
        Ok(stdout.flush()?)
    })
}

/// Writes the files of the sample project; existing ones stay as they are.
fn write_sample(folder: &Path) -> Result<(), CliError> {
    for (name, text) in SAMPLE {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::File::create_new(&path) {
            Ok(mut file) => file.write_all(text.as_bytes())?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sets rules and triggers of the sample project, and queues its first executions.
fn prepare(global: &Global, program: &Program) -> Result<(), CliError> {
    let app = App::open(global, program, None)?;
    let now = app.operator.clock().now().as_microsecond();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let wrong = |problem: String| CliError::Usage(problem);
    let mut requests = Vec::new();
    for (identifier, pattern, runner) in RULES {
        let settings = RuleSettings::parse(&words(runner)).map_err(wrong)?;
        let (identifier, pattern) = (identifier.to_owned(), pattern.to_owned());
        requests.push(Request::SetRule { identifier, pattern, settings });
    }
    for (identifier, plan) in TRIGGERS {
        let plan = Plan::parse(&words(plan), now).map_err(wrong)?;
        let when = When::Recurring(Box::new(plan));
        requests.push(Request::Set { identifier: identifier.to_owned(), when });
    }
    ask(global, &requests)?;
    for job in STARTED {
        queue(&app.operator, job)?;
    }
    Ok(())
}

fn queue(operator: &JobOperator, job: &str) -> Result<(), CliError> {
    let options = LaunchOptions { triggered_by: Some(who()), ..LaunchOptions::default() };
    operator.enqueue(&Launch::start(job, JobParameters::new()).options(options))?;
    Ok(())
}
