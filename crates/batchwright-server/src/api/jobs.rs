//! The requests about jobs: lists, definitions, starts.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use batchwright::execution::{ExecutionId, ExecutionSummary, InstanceId, JobInstance};
use batchwright::launch::{Launch, LaunchOptions, RequestKey};
use batchwright::operator::Refusal;
use batchwright::parameters::{Parameter, ParameterType};
use batchwright::query::{ExecutionFilter, InstancePage};
use batchwright::{Job, JobParameters};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

use super::body::{Asked, Body, NoQuery};
use super::condition::unless_known;
use super::idempotency::{KeyHeader, Keyed, Origin, once};
use super::page::{PageQuery, cursor, cut, limit, page, percent};
use super::wait::{PreferHeader, wait};
use super::{Api, Problem, blocking};

/// An entry of the list of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobEntry {
    /// Name of the job.
    name: String,
    /// Whether the job can be started here; otherwise only its history is stored.
    registered: bool,
    /// Number of stored instances.
    instances: u64,
    /// Number of stored executions.
    executions: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobList {
    items: Vec<JobEntry>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// Lists jobs in the order of their names: those that can be started here, and those that have only a stored history.
#[utoipa::path(get, path = "/v1/jobs", operation_id = "list_jobs", tag = "jobs", params(PageQuery),
    responses((status = 200, body = JobList)))]
pub(super) async fn list(
    State(api): State<Api>,
    Asked(asked): Asked<PageQuery>,
) -> Result<Response, Problem> {
    let limit = limit(asked.limit)?;
    let after = cursor::<String>(asked.cursor.as_deref())?;
    blocking(move || {
        let named = api.operator().explorer().job_names()?.into_iter();
        let names: BTreeMap<String, bool> = named.map(|one| (one.name, one.registered)).collect();
        let rest = names.into_iter().filter(|(name, _)| after.as_ref().is_none_or(|it| name > it));
        let mut names: Vec<_> = rest.take(limit + 1).collect();
        let next_cursor = cut(&mut names, limit, |(last, _)| last.clone());
        let queries = api.operator().queries();
        let mut items = Vec::with_capacity(names.len());
        for (name, registered) in names {
            let instances = queries.instance_count(&name)?;
            let executions = queries.execution_count(&ExecutionFilter::of_job(&name))?;
            items.push(JobEntry { name, registered, instances, executions });
        }
        let list = JobList { items, next_cursor };
        Ok(page(&list, "/v1/jobs", limit, [], list.next_cursor.as_deref()))
    })
    .await
}

/// A parameter that a job declares.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ParameterView {
    name: String,
    #[serde(rename = "type")]
    kind: ParameterType,
    required: bool,
    identifying: bool,
    /// Whether its value is never shown.
    secret: bool,
    description: String,
    /// The value if none is given.
    #[schema(value_type = Value)]
    default: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobView {
    name: String,
    description: String,
    /// Whether the job can be started here; otherwise only its history is stored.
    registered: bool,
    parameters: Vec<ParameterView>,
    /// Whether the job accepts parameters that it does not declare.
    open_parameters: bool,
    restartable: bool,
    /// Names of the steps.
    steps: Vec<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct FormatQuery {
    /// `dot` or `svg`: returns the flow as a Graphviz graph or as a picture.
    #[param(value_type = Option<String>, pattern = "^(dot|svg)$")]
    format: Option<String>,
}

/// Returns the definition and parameters of a job, or its flow as DOT or SVG.
#[utoipa::path(get, path = "/v1/jobs/{job}", operation_id = "show_job",
    tag = "jobs", params(("job" = String, Path), FormatQuery), responses(
    (status = 200, content((JobView = "application/json"), (String = "text/vnd.graphviz"), (String = "image/svg+xml")))
))]
pub(super) async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Asked(asked): Asked<FormatQuery>,
) -> Result<Response, Problem> {
    blocking(move || {
        let drawn = asked.format.as_deref();
        let job = match api.job(&name) {
            Ok(job) => job,
            Err(problem) => {
                if drawn.is_some() || api.operator().queries().instance_count(&name)? == 0 {
                    return Err(problem);
                }
                let (parameters, steps) = (Vec::new(), Vec::new());
                let remembered = JobView {
                    name,
                    description: String::new(),
                    registered: false,
                    parameters,
                    open_parameters: false,
                    restartable: false,
                    steps,
                };
                return Ok(unless_known(&headers, &remembered));
            }
        };
        match drawn {
            None => Ok(unless_known(&headers, &view(&job))),
            Some("dot") => {
                Ok(([(header::CONTENT_TYPE, "text/vnd.graphviz")], job.to_dot()).into_response())
            }
            Some("svg") => {
                Ok(([(header::CONTENT_TYPE, "image/svg+xml")], job.to_svg()).into_response())
            }
            Some(_) => Err(Problem::invalid("format must be `dot` or `svg`")),
        }
    })
    .await
}

fn view(job: &Job) -> JobView {
    let parameters = job.parameters().declared.iter().map(|one| {
        let default = one.default.clone().map(|value| {
            let default = Parameter::new(value, one.identifying);
            Parameter { secret: one.secret, ..default }.shown_as(&one.name)
        });
        ParameterView {
            name: one.name.clone(),
            kind: one.kind,
            required: one.required,
            identifying: one.identifying,
            secret: one.secret,
            description: one.description.clone(),
            default: default.and_then(|one| serde_json::to_value(one).ok()?.get("value").cloned()),
        }
    });
    JobView {
        name: job.name().to_owned(),
        description: job.description().to_owned(),
        registered: true,
        parameters: parameters.collect(),
        open_parameters: job.parameters().open,
        restartable: job.is_restartable(),
        steps: job.step_names().map(str::to_owned).collect(),
    }
}

/// A given parameter: a plain value of the type that the job declares, or an object with value, type and
/// role.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the OpenAPI document: jobs parse their parameters themselves")]
pub(super) enum ParameterInput {
    Text(String),
    Number(f64),
    Boolean(bool),
    Typed(TypedInput),
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for the OpenAPI document")]
pub(super) struct TypedInput {
    #[schema(value_type = Value)]
    value: Value,
    #[serde(rename = "type")]
    kind: Option<ParameterType>,
    identifying: Option<bool>,
    /// Whether the value is never shown.
    #[serde(default)]
    secret: bool,
}

/// The body of a start.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StartBody {
    /// Plain values, or `{value, type, identifying}`.
    #[schema(value_type = std::collections::HashMap<String, ParameterInput>)]
    parameters: Map<String, Value>,
    /// Refuse to restart a failed or stopped instance.
    new_only: bool,
    /// Start even if the definition of the job has changed since the last execution.
    accept_changed_definition: bool,
}

/// Most parameters of one start.
const PARAMETERS_MAX: usize = 1_000;

/// Parses `given` as the job declares its parameters.
pub(super) fn parameters(job: &Job, given: Map<String, Value>) -> Result<JobParameters, Problem> {
    if given.len() > PARAMETERS_MAX {
        let count = given.len();
        let detail = format!("a start accepts at most {PARAMETERS_MAX} parameters, not {count}");
        return Err(Problem::invalid(detail));
    }
    let parsed = job.parameters().parameters(given);
    parsed.map_err(|problems| Problem::from(&Refusal::InvalidParameters { problems }))
}

/// Starts the job, or restarts its failed or stopped instance; a worker of this store runs the execution.
#[utoipa::path(post, path = "/v1/jobs/{job}/executions", tag = "jobs", params(("job" = String, Path),
    KeyHeader, PreferHeader),
    request_body = Option<StartBody>, responses((status = 202, body = ExecutionSummary, headers(("location" = String))),
    (status = 200, body = ExecutionSummary, headers(("location" = String)))))]
pub(super) async fn start(
    State(api): State<Api>,
    _: NoQuery,
    Path(name): Path<String>,
    headers: HeaderMap,
    Keyed { body, key, origin }: Keyed<StartBody>,
) -> Result<Response, Problem> {
    let start = move |api: &Api, request| {
        api.check_worker()?;
        let (given, options) = api.launch(&name, body, request, origin)?;
        Ok(api.operator().enqueue(&Launch::start(name, given).options(options))?.id)
    };
    let started = once(api.clone(), key, start, Api::accepted).await?;
    wait(&api, &headers, started).await
}

/// Starts the next instance of the job's sequence; a worker of this store runs the execution.
#[utoipa::path(post, path = "/v1/jobs/{job}/next", tag = "jobs", params(("job" = String, Path),
    KeyHeader, PreferHeader),
    request_body = Option<StartBody>, responses((status = 202, body = ExecutionSummary, headers(("location" = String))),
    (status = 200, body = ExecutionSummary, headers(("location" = String)))))]
pub(super) async fn next(
    State(api): State<Api>,
    _: NoQuery,
    Path(name): Path<String>,
    headers: HeaderMap,
    Keyed { body, key, origin }: Keyed<StartBody>,
) -> Result<Response, Problem> {
    let next = move |api: &Api, request| {
        api.check_worker()?;
        let (given, options) = api.launch(&name, body, request, origin)?;
        let launch = Launch::next(name).parameters(given).options(options);
        Ok(api.operator().enqueue(&launch)?.id)
    };
    let started = once(api.clone(), key, next, Api::accepted).await?;
    wait(&api, &headers, started).await
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Validated {
    /// The typed parameters, including defaults.
    #[schema(value_type = std::collections::HashMap<String, Object>)]
    parameters: Map<String, Value>,
}

/// Validates the parameters of a start without starting.
#[utoipa::path(post, path = "/v1/jobs/{job}/validate", tag = "jobs", params(("job" = String, Path)),
    request_body = Option<StartBody>, responses((status = 200, body = Validated)))]
pub(super) async fn validate(
    State(api): State<Api>,
    _: NoQuery,
    Path(name): Path<String>,
    Body(body): Body<StartBody>,
) -> Result<Json<Validated>, Problem> {
    blocking(move || {
        let job = api.job(&name)?;
        let given = parameters(&job, body.parameters)?;
        let complete = job.accept(given).map_err(|refusal| Problem::from(&refusal))?;
        let parameters = complete.iter().filter_map(|(name, parameter)| {
            let shown = serde_json::to_value(parameter.shown_as(name)).ok()?;
            Some((name.to_owned(), shown))
        });
        Ok(Json(Validated { parameters: parameters.collect() }))
    })
    .await
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceList {
    items: Vec<JobInstance>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

/// Lists the instances of the job, newest first.
#[utoipa::path(get, path = "/v1/jobs/{job}/instances", tag = "jobs", params(("job" = String, Path),
    PageQuery),
    responses((status = 200, body = InstanceList)))]
pub(super) async fn instances(
    State(api): State<Api>,
    Path(name): Path<String>,
    Asked(asked): Asked<PageQuery>,
) -> Result<Response, Problem> {
    blocking(move || {
        let limit = limit(asked.limit)?;
        let before = cursor::<i64>(asked.cursor.as_deref())?.map(InstanceId);
        if api.operator().queries().instance_count(&name)? == 0 {
            api.job(&name)?;
        }
        let one_more = InstancePage { before, offset: 0, limit: limit + 1 };
        let mut items = api.operator().queries().instances(&name, one_more)?;
        let next_cursor = cut(&mut items, limit, |last| last.id.0);
        let path = format!("/v1/jobs/{}/instances", percent(&name));
        let list = InstanceList { items, next_cursor };
        Ok(page(&list, &path, limit, [], list.next_cursor.as_deref()))
    })
    .await
}

impl Api {
    /// Returns job `name` after `find` has registered it.
    pub(super) fn job(&self, name: &str) -> Result<Arc<Job>, Problem> {
        self.operator().explorer().job(name).map_err(|refusal| Problem::from(&refusal))
    }

    /// Returns parameters and options of `body` for job `name`.
    pub(super) fn launch(
        &self,
        name: &str,
        body: StartBody,
        request: Option<RequestKey>,
        origin: Origin,
    ) -> Result<(JobParameters, LaunchOptions), Problem> {
        let StartBody { parameters: given, new_only, accept_changed_definition } = body;
        let options =
            LaunchOptions { new_only, accept_changed_definition, request, ..origin.options() };
        Ok((parameters(&*self.job(name)?, given)?, options))
    }

    pub(super) fn accepted(&self, id: ExecutionId) -> Result<Response, Problem> {
        let location = format!("/v1/executions/{id}");
        let summary = self.operator().explorer().summary(id)?;
        Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(summary)).into_response())
    }
}
