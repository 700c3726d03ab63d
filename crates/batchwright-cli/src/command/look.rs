//! `jobs`, `instances`, `executions`, `show`, `audit`: read the store without changing it.

use std::collections::BTreeMap;

use batchwright::execution::{ExecutionId, ExecutionSummary, InstanceId};
use batchwright::query::{ExecutionFilter, ExecutionSearch, Found, InstancePage};
use serde::Serialize;

use super::launch::target;
use crate::args::{AuditArgs, ExecutionArgs, ExecutionsArgs, Global, InstancesArgs};
use crate::context::App;
use crate::error::{self, CliError};
use crate::output;

#[derive(Serialize)]
struct JobView {
    name: String,
    registered: bool,
    instances: u64,
    executions: u64,
}

/// Lists all jobs.
pub(super) fn jobs(app: &App, global: &Global) -> Result<u8, CliError> {
    let mut names: BTreeMap<String, bool> = app
        .operator
        .explorer()
        .job_names()?
        .into_iter()
        .map(|one| (one.name, one.registered))
        .collect();
    names.extend(app.names()?.into_iter().map(|name| (name, true)));
    let mut views = Vec::new();
    for (name, registered) in names {
        let queries = app.operator.queries();
        let instances = queries.instance_count(&name)?;
        let executions = queries.execution_count(&ExecutionFilter::of_job(&name))?;
        views.push(JobView { name, registered, instances, executions });
    }
    output::list(global.format, &views, ["JOB", "INSTANCES", "EXECUTIONS", "HERE"], |view| {
        let here = if view.registered { "yes" } else { "history only" };
        [
            view.name.clone(),
            view.instances.to_string(),
            view.executions.to_string(),
            here.to_owned(),
        ]
    })?;
    Ok(error::OK)
}

/// Lists the instances of a job.
pub(super) fn instances(app: &App, global: &Global, args: &InstancesArgs) -> Result<u8, CliError> {
    let page = InstancePage {
        before: args.before.map(InstanceId),
        offset: 0,
        limit: args.limit.saturating_add(1),
    };
    if app.operator.queries().instance_count(&args.job)? == 0 {
        // A known job without instances has an empty list; an unknown job is an error.
        app.job(&args.job)?;
    }
    let mut instances = app.operator.queries().instances(&args.job, page)?;
    let has_more = instances.len() > args.limit;
    instances.truncate(args.limit);
    output::list(global.format, &instances, ["INSTANCE", "JOB", "CREATED", "KEY"], |one| {
        let created = format!("{:.0}", one.created_at);
        [one.id.to_string(), one.job.clone(), created, one.key[..12].to_owned()]
    })?;
    if let Some(last) = instances.last().filter(|_| has_more) {
        output::more(instances.len(), &format!("--before {}", last.id));
    }
    Ok(error::OK)
}

/// Lists executions.
pub(super) fn executions(
    app: &App,
    global: &Global,
    args: &ExecutionsArgs,
) -> Result<u8, CliError> {
    let now = app.operator.clock().now();
    let search = ExecutionSearch::parse(args.filter.as_deref().unwrap_or_default(), now);
    let search = search.map_err(|problem| CliError::Usage(format!("--filter: {problem}")))?;
    let filter = ExecutionFilter {
        job: args.job.clone(),
        statuses: args.status.clone(),
        ..ExecutionFilter::default()
    };
    let before = args.before.map(ExecutionId);
    let found = match search.and(&filter) {
        Some(search) => search.find(app.operator.queries(), before, args.limit, now)?,
        None => Found::default(),
    };
    let summaries = app.operator.explorer().summaries(&found.executions)?;
    let header = ["EXECUTION", "JOB", "STATUS", "EXIT", "SKIPPED", "CREATED", "PARAMETERS"];
    output::list(global.format, &summaries, header, |one| {
        let status =
            if one.stale { format!("{} (stale)", one.status) } else { one.status.to_string() };
        let parameters: Vec<_> =
            one.parameters.iter().map(|(name, one)| format!("{name}={}", one.value)).collect();
        [
            one.id.to_string(),
            one.job.clone(),
            status,
            one.exit.code.clone(),
            skips_of(one).to_string(),
            format!("{:.0}", one.created_at),
            parameters.join(" "),
        ]
    })?;
    if let Some(next) = found.next {
        output::more(summaries.len(), &format!("--before {next}, or another --limit"));
    }
    Ok(error::OK)
}

/// Returns how many records an execution skipped. A partitioned step has the sum of its partitions, once they have ended.
fn skips_of(one: &ExecutionSummary) -> u64 {
    let sum = |is_part: bool| -> u64 {
        let steps = one.steps.iter().filter(|step| step.partition.is_some() == is_part);
        steps.map(|step| step.counters.skips()).sum()
    };
    sum(false).max(sum(true))
}

/// Lists the commands that were given.
pub(super) fn audit(app: &App, global: &Global, args: &AuditArgs) -> Result<u8, CliError> {
    let now = app.operator.clock().now();
    if args.since.as_ref().is_some_and(|time| time.contains(char::is_whitespace)) {
        let what = "--since: a time has no blanks: `24h`, `2026-11-30`, `2026-11-30T02:30:00Z`";
        return Err(CliError::Usage(what.to_owned()));
    }
    let words = args.since.as_ref().map(|time| format!("since:{time}")).unwrap_or_default();
    let search = ExecutionSearch::parse(&words, now);
    let search = search.map_err(|problem| CliError::Usage(format!("--since: {problem}")))?;
    let since = search.filter().since;
    let mut entries = app.operator.queries().audit(args.before, args.limit.saturating_add(1))?;
    entries.retain(|one| since.is_none_or(|since| one.at >= since));
    let has_more = entries.len() > args.limit;
    entries.truncate(args.limit);
    output::list(global.format, &entries, ["TIME", "WHO", "COMMAND", "FOR", "DETAIL"], |one| {
        let detail = one.detail.clone().unwrap_or_default();
        [format!("{:.0}", one.at), one.who.clone(), one.action.clone(), one.subject.clone(), detail]
    })?;
    if let Some(last) = entries.last().filter(|_| has_more) {
        output::more(entries.len(), &format!("--before {}, or another --limit", last.id));
    }
    Ok(error::OK)
}

/// Shows one execution.
pub(super) fn show(app: &App, global: &Global, args: &ExecutionArgs) -> Result<u8, CliError> {
    let summary = app.operator.explorer().summary(target(app, &args.execution)?)?;
    output::document(global.format, &summary, |summary| {
        let mut text = summary.to_string();
        for (name, one) in &summary.parameters {
            let role = if one.identifying { "" } else { " (not identifying)" };
            let (name, value) = (batchwright::text::shown(name), one.value.to_string());
            text.push_str(&format!(
                "\n  parameter {name} = {}{role}",
                batchwright::text::shown(&value)
            ));
        }
        text.push_str(&output::step_lines(summary));
        for warning in &summary.warnings {
            text.push_str(&format!("\n  warning: {}", batchwright::text::shown(warning)));
        }
        text
    })?;
    Ok(error::OK)
}
