//! `rule …`: manages the rules, which select what runs when a trigger fires.

use batchwright_server::{Answer, JobStarter, Request, RuleSettings, kcp};
use serde_json::json;

use super::schedule::{ask, done};
use crate::Program;
use crate::args::{Global, RuleCommand};
use crate::context::App;
use crate::error::{self, CliError};
use crate::output;

/// Runs one of the verbs of rules.
pub(super) fn rule(
    global: &Global,
    program: &Program,
    command: &RuleCommand,
) -> Result<u8, CliError> {
    match command {
        RuleCommand::Set { identifier, pattern, runner } => {
            let settings = RuleSettings::parse(runner)
                .map_err(|problem| CliError::Usage(format!("the rule is invalid: {problem}")))?;
            let app = App::unopened(global, program)?;
            match JobStarter::new(app.operator.clone()).check_rule(&settings) {
                Err(problem) if app.has_jobs() => {
                    return Err(CliError::Usage(format!("the rule is invalid: {problem}")));
                }
                // A server on another host may have the job.
                Err(problem) => tracing::warn!(
                    "the job was not checked, because this machine has no jobs: {problem}"
                ),
                Ok(()) => {}
            }
            let (identifier, pattern) = (identifier.clone(), pattern.clone());
            ask(global, &[Request::SetRule { identifier: identifier.clone(), pattern, settings }])?;
            done(global, &identifier, "stored")
        }
        RuleCommand::Unset { identifier } => {
            ask(global, &[Request::UnsetRule { identifier: identifier.clone() }])?;
            done(global, identifier, "removed")
        }
        RuleCommand::List => {
            let Answer::Rules(rules) = ask(global, &[Request::Rules])? else {
                return Ok(error::OK);
            };
            let data: Vec<_> = rules
                .iter()
                .map(|rule| {
                    let runner = kcp::encode(&rule.settings.words());
                    json!({
                        "identifier": rule.identifier,
                        "pattern": rule.pattern,
                        "runner": runner.trim_end(),
                    })
                })
                .collect();
            output::list(global.format, &data, ["RULE", "PATTERN", "RUNNER"], |rule| {
                let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
                [text("identifier"), text("pattern"), text("runner")]
            })?;
            Ok(error::OK)
        }
    }
}
