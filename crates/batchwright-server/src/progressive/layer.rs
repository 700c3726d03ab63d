//! The server's half: turns `NeedsBatch` into `202` and `X-Needs-Batch`.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use batchwright::progressive::OpenOptions;
use serde_json::{Map, Value};
use tower::{Layer, Service};

use super::NEEDS_BATCH;
use crate::api::{Api, Problem};

/// The answer of a handler whose work is too long for one request. [`NeedsBatchLayer`] opens an execution for
/// it.
///
/// While an execution is open, an equal request (same job, same parameters) joins it. An equal request after
/// the execution is complete opens a new one, unless it [`answers_again`](Self::answers_again).
#[derive(Clone)]
pub struct NeedsBatch {
    job: String,
    parameters: Map<String, Value>,
    owner_token: Option<String>,
    repeats: bool,
}

impl NeedsBatch {
    /// Requests an execution of the progressive job `job`.
    pub fn new(job: impl Into<String>) -> Self {
        Self { job: job.into(), parameters: Map::new(), owner_token: None, repeats: true }
    }

    /// Adds a job parameter.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.parameters.insert(name.into(), value.into());
        self
    }

    /// Answers an equal request after the execution is complete with the stored response again. An
    /// acknowledged response is deleted; a client then gets the error `response_acknowledged`.
    #[must_use]
    pub fn answers_again(mut self) -> Self {
        self.repeats = false;
        self
    }

    /// Restricts the execution to clients that send this token as `X-Batch-Owner`: 1 to 255 visible ASCII
    /// characters.
    #[must_use]
    pub fn owned_by(mut self, token: impl Into<String>) -> Self {
        self.owner_token = Some(token.into());
        self
    }
}

impl std::fmt::Debug for NeedsBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NeedsBatch").field("job", &self.job).finish_non_exhaustive()
    }
}

impl IntoResponse for NeedsBatch {
    /// Returns a response for [`NeedsBatchLayer`]; without that layer, the client gets an error that names
    /// it.
    fn into_response(self) -> Response {
        let message = "this application needs a batch, but it has no NeedsBatchLayer";
        let mut response = (StatusCode::INTERNAL_SERVER_ERROR, message).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Turns the [`NeedsBatch`] of a handler into `202` with the header `X-Needs-Batch`.
#[derive(Debug, Clone)]
pub struct NeedsBatchLayer {
    api: Api,
}

impl NeedsBatchLayer {
    /// Creates a layer that opens executions through `api`.
    pub fn new(api: Api) -> Self {
        Self { api }
    }
}

impl<S> Layer<S> for NeedsBatchLayer {
    type Service = NeedsBatchService<S>;

    fn layer(&self, inner: S) -> NeedsBatchService<S> {
        NeedsBatchService { inner, api: self.api.clone() }
    }
}

/// A service wrapped by [`NeedsBatchLayer`].
#[derive(Debug, Clone)]
pub struct NeedsBatchService<S> {
    inner: S,
    api: Api,
}

impl<S, R> Service<R> for NeedsBatchService<S>
where
    S: Service<R, Response = Response>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (answer, api) = (self.inner.call(request), self.api.clone());
        Box::pin(async move {
            let mut response = answer.await?;
            let Some(needed) = response.extensions_mut().remove::<NeedsBatch>() else {
                return Ok(response);
            };
            Ok(open(api, needed).await.unwrap_or_else(Problem::into_response))
        })
    }
}

async fn open(api: Api, needed: NeedsBatch) -> Result<Response, Problem> {
    crate::api::blocking(move || {
        let NeedsBatch { job, parameters, owner_token, repeats } = needed;
        let options = OpenOptions { owner_token, repeats, ..OpenOptions::default() };
        let opened = api.open_or_join(&job, parameters, &options)?;
        let id = opened.execution();
        let location = api.location(id);
        let mut response =
            (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(opened)).into_response();
        response.headers_mut().insert(NEEDS_BATCH, HeaderValue::from(id.0));
        Ok(response)
    })
    .await
}
