//! The REST API: translates requests for the operator and the scheduler, and their answers back, without
//! logic of its own.

mod access;
mod audit;
mod base;
mod body;
mod book;
mod changes;
mod command;
mod condition;
mod dashboard;
mod errors;
mod executions;
mod health;
mod idempotency;
mod identity;
mod jobs;
mod listen;
#[cfg(feature = "oidc")]
mod oidc;
#[cfg(not(feature = "oidc"))]
#[path = "api/oidc_absent.rs"]
mod oidc;
mod operations;
mod page;
mod problem;
mod progressive;
mod rate;
mod replay;
mod request_id;
mod schedule;
mod server;
mod session;
mod stream;
mod wait;

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use batchwright::JobOperator;
use batchwright::clock::StopToken;
use batchwright::execution::ExecutionId;
use tokio::sync::Semaphore;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use access::{AccessRules, Role, Token};
use access::{Caller, Gate};
use base::Base;
use changes::Changes;
pub use identity::OidcSettings;
pub(crate) use listen::HTTP_CONNECTIONS_DEFAULT;
pub(crate) use listen::HttpListener;
pub use listen::HttpSettings;
use oidc::Oidc;
use operations::Operations;
pub use problem::Problem;
use rate::Rate;
use session::Sessions;
pub(crate) use session::random_word;

use crate::metrics::Metrics;
use crate::replay::Replays;
use crate::scheduler::{Answer, JobStarter, Request, Scheduler};

/// Maximum of slices that run at once; further ones get the error `overloaded`.
const SLICES_MAX: usize = 128;

/// How often a waiting response asks whether the server ends.
const END_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The REST API. Clones share its state.
#[derive(Clone)]
pub struct Api {
    jobs: JobStarter,
    scheduler: Option<Scheduler>,
    slices: Arc<Semaphore>,
    /// Requested when the server ends: waiting requests are answered at once, slices end at their next
    /// checkpoint.
    stop: StopToken,
    changes: Changes,
    operations: Operations,
    outcomes: dashboard::Outcomes,
    job_names: dashboard::JobNames,
    metrics: Metrics,
    /// The word that forms send back when their caller has no session: other pages cannot know it.
    form_key: Arc<str>,
    has_dashboard: bool,
    /// Whether the metrics have an address of their own.
    pub(crate) has_own_metrics: bool,
    pub(crate) replays: Option<Arc<dyn Replays>>,
    /// Where clients see the API; `None`: where it is nested.
    base: Option<Base>,
}

impl Api {
    /// Creates the API of the jobs of `jobs`, and of `scheduler`, if there is one.
    pub fn new(jobs: JobStarter, scheduler: Option<Scheduler>, stop: StopToken) -> Self {
        let slices = Arc::new(Semaphore::new(SLICES_MAX));
        let metrics = Metrics::new(&jobs.operator);
        Self {
            jobs,
            scheduler,
            slices,
            stop,
            changes: Changes::default(),
            operations: Operations::default(),
            outcomes: dashboard::Outcomes::default(),
            job_names: dashboard::JobNames::default(),
            metrics,
            form_key: random_word().into(),
            has_dashboard: false,
            has_own_metrics: false,
            replays: None,
            base: None,
        }
    }

    /// Sets the path under which clients see the API, such as `/batch`: the path of `Router::nest`, or the
    /// one that a proxy removes.
    ///
    /// Default: the path that `Router::nest` has removed from the request. `NeedsBatchLayer` serves other
    /// routes than those of the API and needs the path from here.
    ///
    /// # Panics
    ///
    /// When `path` is not the path of an address: it must begin with `/`, and other letters than those of ASCII must be
    /// percent-encoded.
    #[must_use]
    pub fn at(mut self, path: &str) -> Self {
        let parsed = path.parse::<axum::http::uri::PathAndQuery>().ok();
        let is_path =
            parsed.is_some_and(|it| it.path() == path) && path.is_ascii() && path.starts_with('/');
        assert!(is_path, "cannot serve the API at `{path}`: this is not a path such as `/batch`");
        self.base = Some(Base(path.trim_end_matches('/').into()));
        self
    }

    /// Serves the dashboard, too: pages at the root of the routes (`/`, `/executions`, `/jobs`, `/schedule`, …), beside the API.
    /// Default: the API only.
    #[must_use]
    pub fn with_dashboard(mut self) -> Self {
        self.has_dashboard = true;
        self
    }

    /// Offers replays of skipped records. Default: none.
    #[must_use]
    pub fn replays(mut self, replays: impl Replays + 'static) -> Self {
        self.replays = Some(Arc::new(replays));
        self
    }

    /// Returns the word that the forms of a caller send back.
    fn form_key_of<'a>(&'a self, caller: &'a Caller) -> &'a str {
        caller.form_key.as_deref().unwrap_or(&self.form_key)
    }

    /// Returns the address of an execution as clients of the application see it.
    pub(crate) fn location(&self, execution: ExecutionId) -> String {
        self.base.clone().unwrap_or_default().join(&format!("/v1/executions/{execution}"))
    }

    /// Refuses to queue an execution that no worker would run.
    fn check_worker(&self) -> Result<(), Problem> {
        if self.has_worker() {
            return Ok(());
        }
        let reason = "this program has no worker that would run the execution; nothing was started";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Err(Problem::new(status, "no_worker", reason))
    }

    fn has_worker(&self) -> bool {
        self.jobs.workers.load(Ordering::SeqCst) > 0
    }

    /// Returns the routes of the API (`/v1`, `/docs`, `/book`, `/errors`, `/assets`, `/healthz`, `/readyz`),
    /// for a program with further routes: at its root (`merge`), or under a path (`nest`). That program must
    /// protect them itself; see [`guarded`](Self::guarded).
    pub fn router(self) -> Router {
        let (base, has_dashboard) = (self.base.clone(), self.has_dashboard);
        with_pages(self.routes(), has_dashboard)
            .layer(middleware::from_fn_with_state(base, base::apply))
            .layer(middleware::from_fn(request_id::identify))
    }

    /// Returns the routes without the base in their responses.
    fn routes(self) -> Router {
        let arrived = self.jobs.operator.clone();
        let pages = match self.has_dashboard {
            true => dashboard::routes().with_state(self.clone()),
            false => Router::new(),
        };
        let (routes, document) = self.parts();
        let document = Arc::new(document);
        routes
            .merge(pages)
            .route("/v1/openapi.json", get(move |base| described(document, base)))
            .route("/errors/{code}", get(errors::page))
            .route("/book", get(book::first))
            .route("/book/{chapter}", get(book::chapter))
            .route("/book/pictures/{name}", get(book::picture))
            .route("/docs", get(|| async { Html(include_str!("../assets/docs.html")) }))
            .route("/assets/docs.js", get(|| script(include_str!("../assets/docs.js"))))
            .route(
                "/assets/batchwright.js",
                get(|| script(include_str!("../assets/batchwright.js"))),
            )
            .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
            .layer(middleware::from_fn_with_state(arrived, arrive))
    }

    /// Returns only the routes of the health checks, which are served even while all connections are in use.
    pub(crate) fn signs_of_life(&self) -> Router {
        Router::new()
            .route("/healthz", get(health::live))
            .route("/readyz", get(health::ready))
            .fallback(|| async {
                let reason = "the server has reached its limit of connections; try again later";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Problem::new(status, "overloaded", reason)
                    .retry_after(5)
                    .header(header::CONNECTION, "close".to_owned())
            })
            .with_state(self.clone())
            .layer(middleware::from_fn(request_id::identify))
    }

    /// Returns the routes of [`router`](Self::router), protected by `rules`.
    pub fn guarded(self, rules: AccessRules) -> Router {
        self.protected(rules, Router::new())
    }

    /// Returns the routes and `others`, protected by `rules`.
    fn protected(self, rules: AccessRules, others: Router) -> Router {
        let (base, has_dashboard) = (self.base.clone(), self.has_dashboard);
        let routes = self.clone().routes().merge(others);
        let routes = self.gated(rules, routes);
        with_pages(routes, has_dashboard)
            .layer(middleware::from_fn_with_state(base, base::apply))
            .layer(middleware::from_fn(request_id::identify))
    }

    /// Returns `routes`, protected by `rules`.
    fn gated(&self, rules: AccessRules, routes: Router) -> Router {
        let body_max = rules.body_max;
        let sessions = Sessions::new(self.operator().clock());
        let oidc = rules.oidc.clone().map(|it| Oidc::new(it, self.operator().clock()));
        // The listener refuses such settings; an application that serves the routes itself still guards them.
        let oidc = oidc.and_then(|it| it.inspect_err(|error| tracing::error!("{error}")).ok());
        let rate = rules.rate.map(|rate| Rate::new(rate, self.operator().clock()));
        let gate = Arc::new(Gate { rules, sessions, rate, oidc });
        routes
            .layer(DefaultBodyLimit::max(body_max))
            .layer(middleware::from_fn_with_state(gate, access::check))
            .layer(middleware::from_fn(problem::every_error_is_one))
    }

    /// Returns the routes, protected by `rules`, and a problem document for every other address.
    pub(crate) fn whole(self, rules: AccessRules) -> Router {
        self.protected(rules, Router::new().fallback(unknown))
    }

    /// Returns the metrics and the health checks, protected by `rules`, and a problem document for every other address.
    pub(crate) fn only_metrics(mut self, rules: AccessRules) -> Router {
        self.has_own_metrics = false;
        let routes = Router::new()
            .route("/healthz", get(health::live))
            .route("/readyz", get(health::ready))
            .route("/metrics", get(health::metrics))
            .fallback(unknown)
            .with_state(self.clone());
        self.gated(rules, routes).layer(middleware::from_fn(request_id::identify))
    }

    fn parts(self) -> (Router, utoipa::openapi::OpenApi) {
        let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
            .routes(routes!(jobs::list))
            .routes(routes!(jobs::show))
            .routes(routes!(jobs::start))
            .routes(routes!(jobs::next))
            .routes(routes!(jobs::validate))
            .routes(routes!(jobs::instances))
            .routes(routes!(executions::of_instance))
            .routes(routes!(executions::list))
            .routes(routes!(executions::show))
            .routes(routes!(executions::stop))
            .routes(routes!(executions::restart))
            .routes(routes!(executions::abandon))
            .routes(routes!(executions::recover))
            .routes(routes!(executions::steps))
            .routes(routes!(executions::skips))
            .routes(routes!(executions::events))
            .routes(routes!(replay::open, replay::replay))
            .routes(routes!(audit::list))
            .routes(routes!(operations::list, operations::begin))
            .routes(routes!(operations::show))
            .routes(routes!(operations::results))
            .routes(routes!(operations::cancel))
            .routes(routes!(changes::events))
            .routes(routes!(schedule::triggers))
            .routes(routes!(schedule::trigger, schedule::set_trigger, schedule::unset_trigger))
            .routes(routes!(schedule::fire))
            .routes(routes!(schedule::pause))
            .routes(routes!(schedule::resume))
            .routes(routes!(schedule::skip))
            .routes(routes!(schedule::rules))
            .routes(routes!(schedule::rule, schedule::set_rule, schedule::unset_rule))
            .routes(routes!(progressive::open))
            .routes(routes!(progressive::lanes))
            .routes(routes!(progressive::slice))
            .routes(routes!(progressive::progress))
            .routes(routes!(progressive::response, progressive::acknowledge))
            .routes(routes!(server::show))
            .routes(routes!(server::drain))
            .routes(routes!(server::resume))
            .routes(routes!(health::live))
            .routes(routes!(health::ready))
            .routes(routes!(health::metrics))
            .split_for_parts();
        problem::document(&mut document);
        (router.with_state(self), document)
    }

    /// Stores a command that succeeded. That it cannot be stored is logged; the command stays.
    fn audit(&self, who: &str, action: &str, subject: &str, detail: Option<&str>) {
        if let Err(error) = self.operator().audit(who, action, subject, detail) {
            let error = batchwright::report(&error);
            tracing::error!(who, action, subject, error, "a command is missing in the audit");
        }
    }

    /// Waits until the server ends.
    async fn ending(&self) {
        while !self.stop.is_requested() {
            tokio::time::sleep(END_POLL_INTERVAL).await;
        }
    }

    /// Sends a request to the scheduler; a command among them is stored in the audit.
    async fn command(&self, caller: &Caller, request: Request) -> Result<Answer, Problem> {
        self.command_as(&caller.named(), request).await
    }

    async fn command_as(&self, who: &str, request: Request) -> Result<Answer, Problem> {
        let command = request.command();
        let answer = self.scheduler()?.ask(request).await?;
        if let Some(command) = command {
            let (api, who) = (self.clone(), who.to_owned());
            let stored = blocking(move || {
                api.audit(&who, command.action, &command.subject, command.detail.as_deref());
                Ok(())
            });
            let _ = stored.await;
        }
        Ok(answer)
    }

    pub(crate) fn operator(&self) -> &JobOperator {
        &self.jobs.operator
    }

    fn scheduler(&self) -> Result<&Scheduler, Problem> {
        self.scheduler.as_ref().ok_or_else(|| {
            Problem::not_found("this server has no scheduler: `scheduler.enabled` is false")
        })
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// Answers requests for addresses that do not exist.
async fn unknown() -> Problem {
    Problem::not_found("this address does not exist")
}

/// Returns `routes`, whose errors people see as pages.
fn with_pages(routes: Router, has_dashboard: bool) -> Router {
    match has_dashboard {
        true => routes.layer(middleware::from_fn(dashboard::errors_as_pages)),
        false => routes,
    }
}

/// The time at which a request arrived, by the monotonic clock that measures slices.
#[derive(Debug, Clone, Copy)]
struct Arrived(Duration);

async fn arrive(
    axum::extract::State(operator): axum::extract::State<JobOperator>,
    mut request: axum::extract::Request,
    next: middleware::Next,
) -> axum::response::Response {
    request.extensions_mut().insert(Arrived(operator.clock().elapsed()));
    next.run(request).await
}

/// Returns the OpenAPI document of the API at `base`.
async fn described(
    document: Arc<utoipa::openapi::OpenApi>,
    Extension(base): Extension<Base>,
) -> Result<impl IntoResponse, Problem> {
    let mut document = (*document).clone();
    if !base.0.is_empty() {
        document.servers = Some(vec![utoipa::openapi::Server::new(&*base.0)]);
    }
    let text = document.to_json().map_err(|error| {
        tracing::error!(%error, "the OpenAPI document cannot be written");
        Problem::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text))
}

async fn script(text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], text)
}

/// Requests that read the store at once: two for each core, within these bounds. Further ones wait without a thread: each thread
/// and its connection have memory of their own, hundreds of them some gigabytes, and no store answers sooner because more ask.
const READING_BOUNDS: (usize, usize) = (4, 16);
/// Requests that give a command at once. A command may wait for a job, and must not keep pages from being read.
const COMMANDING_MAX: usize = 16;
/// How long a request waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

static READING: LazyLock<Semaphore> = LazyLock::new(|| {
    let (least, most) = READING_BOUNDS;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Semaphore::new((cores * 2).clamp(least, most))
});
static COMMANDING: Semaphore = Semaphore::const_new(COMMANDING_MAX);

/// Runs `work`, which reads the store, on a separate thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    in_turn(&READING, work).await
}

/// Runs `work`, which gives a command, on a separate thread.
async fn commanding<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    in_turn(&COMMANDING, work).await
}

async fn in_turn<T: Send + 'static>(
    places: &'static Semaphore,
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let Ok(Ok(place)) = tokio::time::timeout(TURN_TIMEOUT, places.acquire()).await else {
        let detail = "more requests came than the store answers; try again later";
        let overloaded = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
        return Err(overloaded.retry_after(5));
    };
    on_thread(move || {
        // The place is free when the work ends, also when its client has left.
        let _place = place;
        work()
    })
    .await
}

/// Runs `work`, which has a limit of its own, on a separate thread.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a request failed");
            Err(Problem::internal())
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Batchwright",
        description = "Jobs, executions, the schedule, and progressive execution.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    modifiers(&Bearer),
    security((), ("bearer" = [])),
)]
struct Document;

/// Adds the bearer token to the document.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Condvar, Mutex};

    use super::*;

    /// Those of this test alone.
    static PLACES: Semaphore = Semaphore::const_new(COMMANDING_MAX);

    #[tokio::test(flavor = "multi_thread")]
    async fn however_many_requests_come_few_work_on_the_store_at_once() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let requests: Vec<_> = (0..100)
            .map(|number| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                let gate = Arc::clone(&gate);
                tokio::spawn(in_turn(&PLACES, move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let open = gate.0.lock().unwrap();
                    drop(gate.1.wait_while(open, |is_open| !*is_open).unwrap());
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(number)
                }))
            })
            .collect();
        while running.load(Ordering::SeqCst) < COMMANDING_MAX {
            tokio::task::yield_now().await;
        }
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        for (number, request) in requests.into_iter().enumerate() {
            assert_eq!(request.await.unwrap().ok(), Some(number));
        }
        assert_eq!(most.load(Ordering::SeqCst), COMMANDING_MAX);
    }
}
