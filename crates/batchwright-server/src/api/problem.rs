//! Error answers as problem documents (RFC 9457).

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use batchwright::BatchStatus;
use batchwright::error::RepositoryError;
use batchwright::execution::{ExecutionId, Failure};
use batchwright::operator::{OperatorError, Refusal, RunError};
use batchwright::progressive::SliceError;
use batchwright::report;
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::base::Base;
use super::command::Verb;
use crate::scheduler::Refused;

pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// The request that has a problem.
pub(super) struct Occurrence {
    pub(super) instance: String,
    pub(super) request_id: String,
    pub(super) trace_id: Option<String>,
}

/// An error answer.
#[derive(Debug, Clone)]
pub struct Problem(Box<Details>);

/// A problem document (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Details {
    /// Address of the page that explains the code: `/errors/CODE`.
    #[serde(rename = "type")]
    kind: String,
    /// The HTTP status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What failed, and what to do.
    detail: String,
    /// The stable error code.
    code: String,
    /// The execution that caused the refusal, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<i64>,
    /// The number that the lane's next request must have, for `wrong_seq`.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<u64>,
    /// The path of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// The number of the request, which its `X-Request-Id` and the log of the server have.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// The trace of the request, if its `traceparent` names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    /// The status of the execution that refused a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_status: Option<BatchStatus>,
    /// The commands that this status allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_actions: Option<Vec<Verb>>,
    /// All problems, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
    #[serde(skip)]
    headers: Vec<(HeaderName, String)>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind: format!("/errors/{code}"),
            title: status.canonical_reason().unwrap_or("Problem").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            execution: None,
            expected: None,
            instance: None,
            request_id: None,
            trace_id: None,
            current_status: None,
            allowed_actions: None,
            errors: Vec::new(),
            headers: Vec::new(),
        }))
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "usage", detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(super) fn method_not_allowed() -> Self {
        let detail =
            "this address does not accept the method; the Allow header lists the accepted ones";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "usage", detail)
    }

    pub(super) fn too_large() -> Self {
        let detail = "the body is larger than `http.body_max`";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    pub(super) fn internal() -> Self {
        let detail = "the server failed; see its log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// Returns the answer of a progressive execution that failed.
    pub(super) fn of_failure(failure: &Failure) -> Self {
        let mut problem =
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, &failure.code, failure.message.as_str());
        "The execution failed".clone_into(&mut problem.0.title);
        problem
    }

    /// Returns the document as JSON.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&*self.0).unwrap_or_default()
    }

    /// Returns the problem with the address of its page under `base`.
    pub(super) fn under(mut self, base: &Base) -> Self {
        self.0.kind = base.join(&self.0.kind);
        self
    }

    /// Returns the stable error code.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    pub(super) fn title(&self) -> &str {
        &self.0.title
    }

    pub(super) fn status(&self) -> u16 {
        self.0.status
    }

    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(super) fn errors(&self) -> &[String] {
        &self.0.errors
    }

    /// Asks the client to retry after `seconds`.
    pub(super) fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, seconds.to_string())
    }

    pub(super) fn header(mut self, name: HeaderName, value: String) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Adds the request that has the problem.
    pub(super) fn of_request(mut self, request: Occurrence) -> Self {
        self.0.instance = Some(request.instance);
        self.0.request_id = Some(request.request_id);
        self.0.trace_id = request.trace_id;
        self
    }

    /// Adds what the execution allows, for a command that it refused.
    pub(super) fn of_status(mut self, status: BatchStatus, allowed: Vec<Verb>) -> Self {
        self.0.current_status = Some(status);
        self.0.allowed_actions = Some(allowed);
        self
    }

    fn of_execution(mut self, execution: ExecutionId) -> Self {
        self.0.execution = Some(execution.0);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let status = StatusCode::from_u16(self.0.status);
        let headers = std::mem::take(&mut self.0.headers);
        let mut response =
            (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(&*self.0)).into_response();
        let target = response.headers_mut();
        target.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                target.insert(name, value);
            }
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<OperatorError> for Problem {
    fn from(error: OperatorError) -> Self {
        match &error {
            OperatorError::Refused(refusal) => Self::from(refusal),
            OperatorError::Repository(_)
            | OperatorError::Run(RunError::Repository { .. } | RunError::NoOutcome { .. }) => {
                unavailable(&error)
            }
            OperatorError::Run(ended) => {
                let status = match ended {
                    RunError::Deleted { .. } => StatusCode::NOT_FOUND,
                    _ => StatusCode::CONFLICT,
                };
                Self::new(status, ended.code(), report(ended))
            }
            _ => Self::internal(),
        }
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let status = match refusal {
            Refusal::NoSuchJob { .. }
            | Refusal::NoSuchExecution { .. }
            | Refusal::NoSuchInstance { .. }
            | Refusal::NeverStarted { .. } => StatusCode::NOT_FOUND,
            Refusal::InvalidParameters { .. } => StatusCode::BAD_REQUEST,
            Refusal::WrongOwner { .. } => StatusCode::FORBIDDEN,
            Refusal::InvalidDefinition { .. }
            | Refusal::KeyReused { .. }
            | Refusal::NoIncrementer { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::CONFLICT,
        };
        let detail = format!("{}; {}", report(refusal), refusal.advice());
        let mut problem = Self::new(status, refusal.code(), detail);
        match refusal {
            Refusal::InvalidParameters { problems } => {
                problem.0.errors.clone_from(problems);
                problem
            }
            Refusal::AlreadyRunning { execution, .. }
            | Refusal::AlreadyComplete { execution }
            | Refusal::Abandoned { execution }
            | Refusal::NotRestartable { execution, .. }
            | Refusal::ChangedDefinition { execution }
            | Refusal::NotRunning { execution, .. }
            | Refusal::NotAbandonable { execution, .. }
            | Refusal::RequestRepeated { execution }
            | Refusal::KeyReused { execution }
            | Refusal::LeaseAlive { execution, .. } => problem.of_execution(*execution),
            Refusal::NotMostRecent { newest, .. } => problem.of_execution(*newest),
            _ => problem,
        }
    }
}

impl From<RepositoryError> for Problem {
    fn from(error: RepositoryError) -> Self {
        OperatorError::from(error).into()
    }
}

fn unavailable(error: &OperatorError) -> Problem {
    if let OperatorError::Repository(RepositoryError::LeaseLost { execution }) = error {
        let detail = "another process runs this execution; this one stored nothing more";
        return Problem::new(StatusCode::CONFLICT, "stale_lease", detail).of_execution(*execution);
    }
    tracing::warn!(error = %report(error), "the store failed");
    let detail = "the store is unavailable at the moment; committed work is kept";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail).retry_after(1)
}

impl From<SliceError> for Problem {
    fn from(error: SliceError) -> Self {
        let detail = report(&error);
        let code = error.code();
        let new = |status| Self::new(status, code, detail.clone());
        match error {
            SliceError::Operator(error) => error.into(),
            SliceError::NoSuchLane { .. } => new(StatusCode::NOT_FOUND),
            SliceError::LaneBusy { .. } => new(StatusCode::CONFLICT).retry_after(1),
            SliceError::WrongSeq { expected, .. } => {
                let mut problem = new(StatusCode::CONFLICT);
                problem.0.expected = Some(expected);
                problem
            }
            SliceError::NotProgressive { execution } => {
                new(StatusCode::CONFLICT).of_execution(execution)
            }
            SliceError::Finished { execution, .. } => {
                let link = format!("</v1/executions/{execution}/response>; rel=\"result\"");
                new(StatusCode::GONE).of_execution(execution).header(header::LINK, link)
            }
            _ => new(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused.code {
            Refused::NOT_FOUND => (StatusCode::NOT_FOUND, "no_such_trigger"),
            Refused::BUSY => (StatusCode::CONFLICT, "trigger_busy"),
            Refused::CHANGED => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            Refused::UNCONDITIONAL => (StatusCode::PRECONDITION_REQUIRED, "precondition_required"),
            "unavailable" => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
            _ => (StatusCode::BAD_REQUEST, "usage"),
        };
        Self::new(status, code, refused.message)
    }
}

/// Marks a response whose error status is intended and stays as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verbatim;

/// Converts every other error answer, such as those of axum itself, into a problem document.
pub(super) async fn every_error_is_one(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_problem = kind.is_some_and(|kind| kind.as_bytes() == PROBLEM_JSON.as_bytes());
    if !is_error || is_problem || response.extensions().get::<Verbatim>().is_some() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    /// Longest text of axum that is kept, in bytes; its texts are single sentences.
    const TEXT_BYTES_MAX: usize = 4096;
    let text = axum::body::to_bytes(body, TEXT_BYTES_MAX).await.unwrap_or_default();
    let code = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::NOT_FOUND => "not_found",
        status if status.is_server_error() => "internal",
        _ => "usage",
    };
    let detail = match String::from_utf8_lossy(&text) {
        text if text.is_empty() => status.canonical_reason().unwrap_or("").to_owned(),
        text => text.into_owned(),
    };
    let problem = Problem::new(status, code, detail);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    parts.extensions.insert(problem.clone());
    let body = problem.into_response().into_body();
    Response::from_parts(parts, Body::new(body))
}

/// Documents for every operation that it may answer with a problem document.
pub(super) fn document(document: &mut OpenApi) {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    schemas.insert("Problem".to_owned(), <Details as PartialSchema>::schema());
    let content =
        ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem")))).build();
    let response = ResponseBuilder::new()
        .description("The request failed")
        .content(PROBLEM_JSON, content)
        .build();
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        for operation in operations.into_iter().filter_map(Option::as_mut) {
            let responses = &mut operation.responses.responses;
            responses.insert("default".to_owned(), RefOr::T(response.clone()));
        }
    }
}
