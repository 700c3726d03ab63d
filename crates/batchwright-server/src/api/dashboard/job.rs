//! One job: how its executions went, its flow, and a form that starts it.

use std::sync::Arc;

use axum::extract::{Path, Query};
use axum::response::Response;
use batchwright::error::RepositoryError;
use batchwright::execution::{ExecutionId, ExecutionSummary};
use batchwright::launch::{Launch, LaunchOptions, RequestKey};
use batchwright::operator::Refusal;
use batchwright::parameters::{Parameter, ParameterDeclaration, ParameterSchema, ParameterType};
use batchwright::query::{ExecutionFilter, InstancePage, Queries};
use batchwright::store::schedule::TriggerRow;
use batchwright::{Job, JobParameters};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::Problem;
use super::super::access::Role;
use super::super::idempotency;
use super::super::page::percent;
use super::super::session::random_word;
use super::chart::Measure;
use super::form::Fields;
use super::parts::{cut, executions, job_path, number, table};
use super::view::View;
use super::{chart, schedule};
use crate::scheduler::{Request, Rulebook, Runner, Scheduler};

/// Executions of the chart.
const TREND: usize = 50;
/// Executions of the list.
const LISTED: usize = 20;
/// Next fires of the job, and fires of all jobs among which they are looked for.
const FIRES: usize = 10;
const FIRES_READ: usize = 1_000;
/// Most parameters of a job that declares none.
const OPEN_MAX: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// The execution whose parameters the form has.
    from: Option<i64>,
}

pub(super) async fn page(
    view: View,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let fires = match view.api.scheduler() {
        Ok(scheduler) => Some(next_fires(scheduler, &name).await),
        Err(_) => None,
    };
    view.write(move |view| {
        let (explorer, queries) = (view.operator().explorer(), view.operator().queries());
        let job = match explorer.job(&name) {
            Ok(job) => Some(job),
            Err(Refusal::NoSuchJob { .. }) if has_instances(queries, &name)? => None,
            Err(refusal) => return Err(Problem::from(&refusal)),
        };
        let rows = queries.executions(&ExecutionFilter::of_job(&name).limit(TREND))?;
        let list = explorer.summaries(&rows)?;
        let given = match asked.from {
            Some(id) => explorer.parameters(ExecutionId(id))?,
            None => JobParameters::new(),
        };
        let content = content(view, &name, job.as_ref(), &list, &given, fires.as_ref());
        Ok((format!("Job {name}"), content))
    })
    .await
}

/// Returns the next fires of the triggers that start the job, of those that are due next.
async fn next_fires(scheduler: &Scheduler, job: &str) -> Result<Vec<TriggerRow>, Problem> {
    let rules = scheduler.read(Request::Rules).await?.rules();
    let upcoming = scheduler.read(Request::Upcoming { limit: FIRES_READ }).await?;
    let book = Rulebook::new(rules);
    let starts_it = |row: &TriggerRow| {
        let rule = book.find(&row.key.identifier);
        rule.is_some_and(
            |rule| matches!(&rule.settings.runner, Runner::Job { name, .. } if name == job),
        )
    };
    Ok(upcoming.triggers().into_iter().filter(starts_it).take(FIRES).collect())
}

fn has_instances(queries: &dyn Queries, job: &str) -> Result<bool, RepositoryError> {
    Ok(!queries.instances(job, InstancePage::first(1))?.is_empty())
}

fn content(
    view: &View,
    name: &str,
    job: Option<&Arc<Job>>,
    list: &[ExecutionSummary],
    given: &JobParameters,
    fires: Option<&Result<Vec<TriggerRow>, Problem>>,
) -> Markup {
    html! {
        nav.crumbs aria-label="Path" { a href=(view.url("/jobs")) { "Jobs" } }
        h1 { (name) }
        @match job {
            None => p.notice { "This server has the history of the job only and cannot start it." },
            Some(job) => {
                @if !job.description().is_empty() { p { (job.description()) } }
                @if view.may(Role::Operator) { (launch_form(view, job, given)) } @else { (declared(job)) }
            }
        }
        @if let Some(fires) = fires {
            section aria-labelledby="fires" {
                h2 #fires { "Next fires" }
                @match fires {
                    Err(problem) => p.empty { (problem.detail()) },
                    Ok(fires) if fires.is_empty() => p.empty { "None of the next " (number(FIRES_READ as u64)) " fires starts this job. " a href=(view.url("/schedule")) { "Schedule" } },
                    Ok(fires) => (schedule::fires(view, fires, None)),
                }
            }
        }
        div.beside {
            section aria-labelledby="durations" { h2 #durations { "Durations" } (chart::trend(view, list, Measure::Duration)) }
            section aria-labelledby="counts" { h2 #counts { "Written items" } (chart::trend(view, list, Measure::Written)) }
        }
        section aria-labelledby="newest" {
            h2 #newest { "Newest executions" }
            @if list.is_empty() { p.empty { "The job was never started." } } @else {
                (executions(view, &list[..list.len().min(LISTED)], false, false))
                p { a href=(view.url(&format!("/executions?q={}", percent(&format!("job:{name}"))))) { "All executions of this job" } }
            }
        }
        @if let Some(job) = job {
            section.wide aria-labelledby="flow" {
                h2 #flow { "Flow" }
                @let steps = job.step_names().collect::<Vec<_>>().join(", ");
                p.picture { img src=(view.url(&format!("/v1/jobs/{}?format=svg", percent(name)))) alt=(format!("the steps of the job: {steps}")); }
            }
        }
    }
}

/// The parameters that the job declares, for those who may not start it.
fn declared(job: &Job) -> Markup {
    let schema = job.parameters();
    html! {
        @if !schema.declared.is_empty() {
            section aria-labelledby="parameters" {
                h2 #parameters { "Parameters" }
                (table("Parameters", &["Name", "Type", "Default", "Description"], &html! { @for one in &schema.declared {
                    tr {
                        td { code { (one.name) } }
                        td { (one.kind) @if one.required { ", required" } @if one.identifying { ", identifying" } }
                        td { @if let Some(default) = Field::of(one, &JobParameters::new()).default { (cut(&default, 200)) } }
                        td { (one.description) }
                    }
                } }))
            }
        }
    }
}

/// A form from the parameters that the job declares, and the same start as a command line and as a request.
fn launch_form(view: &View, job: &Job, given: &JobParameters) -> Markup {
    let schema = job.parameters();
    let name = job.name();
    html! {
        section.launch aria-labelledby="start" {
            h2 #start { "Start" }
            form method="post" action=(view.url(&format!("{}/start", job_path(name)))) data-launch=(name) {
                (view.form_key())
                input type="hidden" name="request" value=(random_word());
                @let omitted = omitted(given);
                @if !omitted.is_empty() {
                    p.notice { "Give these again, because they are secret or long: " (cut(&omitted.join(", "), 500)) "." }
                }
                div.fields {
                    @for declared in &schema.declared {
                        @let field = Field::of(declared, given);
                        div {
                            label for=(field.id) { (declared.name) @if declared.required { span.required title="required" { " *" } } }
                            (field.input())
                            p.hint { (declared.kind) @if declared.identifying { ", identifying" } @if let Some(default) = &field.default { ", default " b { (default) } } @if !declared.description.is_empty() { ". " (declared.description) } }
                        }
                    }
                    @if schema.open { (open_fields(schema, given)) }
                }
                label.box { input type="checkbox" name="new_only"; "only if this instance never ran" }
                button.primary { "Start " (name) }
            }
            details.as-command {
                summary { "The same as a command" }
                p { "On the command line:" } pre tabindex="0" data-as-command="" { "batchwright start " (name) }
                p { "With curl:" } pre tabindex="0" data-as-curl="" { "curl -X POST \"$SERVER/v1/jobs/" (percent(name)) "/executions\" -H 'content-type: application/json' -d '{\"parameters\": {}}'" }
            }
        }
    }
}

fn open_fields(schema: &ParameterSchema, given: &JobParameters) -> Markup {
    let others = given.iter().filter(|(name, _)| schema.find(name).is_none());
    let lines = others.filter_map(|(name, one)| {
        let (value, kind) = (plain(name, one)?, one.value.kind());
        let role = if one.identifying { "" } else { "-" };
        Some(format!("{role}{name}:{kind}={value}\n"))
    });
    html! {
        div {
            label for="others" { "Other parameters" }
            textarea #others name="others" rows="3" spellcheck="false" placeholder="name=value, -name:integer=1" data-others="" { (lines.collect::<String>()) }
            p.hint { "One in a line, as on the command line: " code { "name=value" } ", " code { "name:integer=1" } ", " code { "-name=value" } " if it does not identify the instance." }
        }
    }
}

/// Longest value that a form repeats, in bytes.
const REPEATED_BYTES_MAX: usize = 4_096;

/// Returns the value of a parameter for a form; `None` for one that the person gives again: a secret one, which is never sent to a
/// browser, and one that a field cannot hold.
fn plain(name: &str, parameter: &Parameter) -> Option<String> {
    let value = parameter.value.to_string();
    let fits = value.len() <= REPEATED_BYTES_MAX && !value.contains(['\n', '\r']);
    (fits && parameter.shown_as(name) == *parameter).then_some(value)
}

/// Returns the names of the parameters that a form does not repeat.
fn omitted(given: &JobParameters) -> Vec<&str> {
    let omitted = given.iter().filter(|(name, one)| plain(name, one).is_none());
    omitted.map(|(name, _)| name).collect()
}

/// The field of a parameter that the job declares.
struct Field<'a> {
    declared: &'a ParameterDeclaration,
    id: String,
    value: Option<String>,
    default: Option<String>,
}

impl<'a> Field<'a> {
    fn of(declared: &'a ParameterDeclaration, given: &JobParameters) -> Self {
        let value = given.get(&declared.name).and_then(|one| plain(&declared.name, one));
        let default = declared.default.clone().map(|value| {
            let default = Parameter { secret: declared.secret, ..Parameter::new(value, true) };
            default.shown_as(&declared.name).value.to_string()
        });
        Self { declared, id: format!("p-{}", declared.name), value, default }
    }

    fn input(&self) -> Markup {
        let Self { declared, id, value, default } = self;
        let name = format!("p.{}", declared.name);
        let needed = declared.required && default.is_none();
        let (kind, type_name, pattern) = match declared.kind {
            ParameterType::Boolean => {
                return boolean(id, &name, value.as_deref(), default.as_deref());
            }
            _ if declared.secret => ("password", "secret", None),
            ParameterType::Date => ("date", "date", None),
            ParameterType::Integer => ("text", "integer", Some("(\\+|-)?[0-9]+")),
            ParameterType::Float => ("text", "float", None),
            ParameterType::String | ParameterType::Timestamp => ("text", "string", None),
        };
        html! {
            input #(id) type=(kind) name=(name) value=[value.as_deref()] required[needed] placeholder=[default.as_deref()]
                pattern=[pattern] autocomplete="off" data-type=(type_name);
        }
    }
}

fn boolean(id: &str, name: &str, value: Option<&str>, default: Option<&str>) -> Markup {
    html! {
        select #(id) name=(name) data-type="boolean" {
            option value="" { (default.unwrap_or("")) }
            @for choice in ["true", "false"] { option value=(choice) selected[value == Some(choice)] { (choice) } }
        }
    }
}

/// Starts the job, and shows the execution. A form that is sent twice starts one.
pub(super) async fn start(
    view: View,
    Path(name): Path<String>,
    fields: Fields,
) -> Result<Response, Problem> {
    let mut given: Map<String, Value> = Map::new();
    for (parameter, value) in fields.with_prefix("p.").filter(|(_, value)| !value.is_empty()) {
        given.insert(parameter.to_owned(), value.into());
    }
    let lines: Vec<_> = fields.text("others").lines().filter(|it| !it.trim().is_empty()).collect();
    if lines.len() > OPEN_MAX {
        let detail = format!("a form has at most {OPEN_MAX} other parameters, not {}", lines.len());
        return Err(Problem::invalid(detail));
    }
    for line in lines {
        let (parameter, value) = other(line)?;
        given.insert(parameter, value);
    }
    let (new_only, request) = (fields.is_set("new_only"), fields.text("request").to_owned());
    view.give(move |view| {
        view.api.check_worker()?;
        let job = view.api.job(&name)?;
        let fingerprint = idempotency::digest(&[
            name.as_bytes(),
            format!("{} {new_only}", Value::Object(given.clone())).as_bytes(),
        ]);
        let key = RequestKey { key: request, fingerprint };
        let request = Some(key).filter(|key| RequestKey::is_valid(&key.key));
        let parameters = super::super::jobs::parameters(&job, given)?;
        let options = LaunchOptions {
            new_only,
            request: request.clone(),
            triggered_by: Some(view.who()),
            ..LaunchOptions::default()
        };
        let launch = Launch::start(name, parameters).options(options);
        let start = || Ok(view.operator().enqueue(&launch)?.id);
        let (started, _) = idempotency::started(&view.api, request.as_ref(), start)?;
        Ok(format!("/executions/{started}"))
    })
    .await
}

/// Parses a parameter that the job does not declare: `name=value`, `name:type=value`, with `-` before it if it is not identifying.
fn other(line: &str) -> Result<(String, Value), Problem> {
    let wrong = || {
        Problem::invalid(format!(
            "`{line}` is no parameter; parameters are written as `name=value`"
        ))
    };
    let (name, value) = line.split_once('=').ok_or_else(wrong)?;
    let (name, identifying) = match name.trim_start().strip_prefix('-') {
        Some(name) => (name, false),
        None => (name, true),
    };
    let (name, kind) = name.split_once(':').unwrap_or((name, "string"));
    let name = name.trim();
    if name.is_empty() || ParameterType::from_name(kind).is_none() {
        return Err(wrong());
    }
    let value = serde_json::json!({"value": value, "type": kind, "identifying": identifying});
    Ok((name.to_owned(), value))
}
