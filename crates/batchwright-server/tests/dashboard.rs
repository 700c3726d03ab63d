//! The pages of the dashboard without a browser: under a path, without a schedule, with hostile and with very much content.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use batchwright::clock::StopToken;
use batchwright::execution::{BatchStatus, Failure};
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::operator::Retention;
use batchwright::store::JobRepository;
use batchwright::{Job, JobOperator, JobParameters, MemoryRepository, TaskletStep};
use batchwright_server::api::{AccessRules, Api, Role, Token};
use batchwright_server::{JobStarter, Worker};
use tower::Service as _;

/// What a browser would take for a script in each place of a page.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;";

/// A page as the client gets it.
struct Page {
    status: StatusCode,
    location: String,
    policy: String,
    body: String,
}

async fn ask(
    app: &Router,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Page {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    for (name, value) in [("accept", "text/html")].iter().chain(headers) {
        request = request.header(*name, *value);
    }
    let form = "application/x-www-form-urlencoded";
    let request = request.header(header::CONTENT_TYPE, form).body(Body::from(body.to_owned()));
    let response: Response = app.clone().call(request.unwrap()).await.unwrap();
    let text = |name: header::HeaderName| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (location, policy) = (text(header::LOCATION), text(header::CONTENT_SECURITY_POLICY));
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Page { status, location, policy, body: String::from_utf8_lossy(&body).into_owned() }
}

async fn get(app: &Router, path: &str) -> Page {
    ask(app, Method::GET, path, &[], "").await
}

/// A job that fails with a hostile message, and one with 600 steps; both have run.
fn operator() -> JobOperator {
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    let failing = TaskletStep::call("step<b>", || -> Result<(), batchwright::ItemError> {
        Err(batchwright::ItemError::new(batchwright::error::ErrorKind::FATAL, HOSTILE))
    });
    let failing = Job::builder("job<i>'\"").description(HOSTILE).step(failing).build().unwrap();
    let mut many = Job::builder("many");
    for number in 0..600 {
        many = many.step(TaskletStep::call(format!("step-{number}"), || ()));
    }
    for job in [failing, many.build().unwrap()] {
        operator.registry().register(job).unwrap();
    }
    let parameters = JobParameters::new().with(HOSTILE, HOSTILE).with("long", "x".repeat(1 << 20));
    let options =
        LaunchOptions { triggered_by: Some(HOSTILE.to_owned()), ..LaunchOptions::default() };
    let launch = Launch::start("job<i>'\"", parameters).options(options);
    let _ = operator.launch(&launch).unwrap().wait();
    operator.run("many", JobParameters::new()).unwrap();
    operator.audit(HOSTILE, HOSTILE, HOSTILE, Some(HOSTILE)).unwrap();
    operator
}

fn api(operator: &JobOperator) -> Api {
    Api::new(JobStarter::new(operator.clone()), None, StopToken::default()).with_dashboard()
}

fn pages() -> Vec<String> {
    let job = "/jobs/job%3Ci%3E%27%22";
    let fixed = [
        "/",
        "/executions",
        "/executions?q=status:failed",
        "/executions/1",
        "/executions/1/skips",
        "/executions/2",
        "/compare?a=1&b=2",
        "/jobs",
        job,
        "/jobs/many",
        "/schedule",
        "/audit",
        "/system",
        "/progressive",
        "/workers",
        "/failures.atom",
        "/schedule.ics",
    ];
    let filled = [
        format!("{job}?from=1"),
        "/executions?q=%3Cscript%3E".to_owned(),
        "/executions/99?q=%3Cscript%3E".to_owned(),
    ];
    fixed.into_iter().map(str::to_owned).chain(filled).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_page_shows_is_a_script() {
    let app = api(&operator()).guarded(AccessRules::default());
    for path in pages() {
        let page = get(&app, &path).await;
        let expected =
            if path.starts_with("/executions/99") { StatusCode::NOT_FOUND } else { StatusCode::OK };
        assert_eq!(page.status, expected, "{path}: {}", page.body);
        let lower = page.body.to_lowercase();
        for part in ["<script>", "<img src=x", "<i>'", "step<b>", "onerror=alert(2)>"] {
            assert!(!lower.contains(part), "{path} contains {part}");
        }
        let is_page = lower.starts_with("<!doctype html>");
        assert_eq!(is_page, page.policy.contains("default-src 'none'"), "{path}");
        assert!(!is_page || !page.policy.contains("unsafe"), "{path}");
        // A long parameter and many steps do not make a long page.
        assert!(page.body.len() < 500_000, "{path} has {} bytes", page.body.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_path_every_address_begins_with_it() {
    let operator = operator();
    let nested = |api: Api| Router::new().nest("/deep/batch", api.guarded(AccessRules::default()));
    for app in [nested(api(&operator)), nested(api(&operator).at("/deep/batch"))] {
        for path in [
            "",
            "/executions",
            "/executions/1",
            "/jobs/many",
            "/schedule",
            "/system",
            "/progressive",
            "/workers",
            "/executions/99",
        ] {
            let page = get(&app, &format!("/deep/batch{path}")).await;
            assert!(page.body.starts_with("<!DOCTYPE html>"), "{path}: {}", page.body);
            let addresses = ["href=\"", "src=\"", "action=\""].into_iter();
            let addresses = addresses.flat_map(|start| page.body.split(start).skip(1));
            for address in addresses.map(|rest| rest.split('"').next().unwrap()) {
                let is_ours = address.starts_with("/deep/batch") || address.starts_with('#');
                assert!(is_ours, "{path}: {address}");
                if address.starts_with('/') && !address.contains("?") && path != "/executions/99" {
                    let plain = address.split('#').next().unwrap();
                    let found = get(&app, plain).await.status;
                    assert!(found != StatusCode::NOT_FOUND, "{path}: {address} is not there");
                }
            }
        }
    }
}

/// The word that the forms of a page send.
fn form_key(page: &Page) -> String {
    let (_, rest) = page.body.split_once("name=\"form_key\" value=\"").expect("a form");
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_needs_the_word_of_a_form_and_the_origin_of_the_server() {
    let operator = operator();
    let app = api(&operator).guarded(AccessRules::default());
    let page = get(&app, "/executions/1").await;
    let key = form_key(&page);
    let abandon = |headers: Vec<(&'static str, &'static str)>, body: String| {
        let app = app.clone();
        async move { ask(&app, Method::POST, "/executions/1/abandon", &headers, &body).await }
    };
    for (headers, body) in [
        (vec![], String::new()),
        (vec![], "form_key=".to_owned()),
        (vec![], format!("form_key={}", "A".repeat(43))),
        (vec![("origin", "http://evil.example")], format!("form_key={key}")),
        (vec![("sec-fetch-site", "cross-site")], format!("form_key={key}")),
    ] {
        let refused = abandon(headers, body).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.body);
    }
    let status =
        || operator.explorer().execution(batchwright::execution::ExecutionId(1)).unwrap().status;
    assert_eq!(status(), batchwright::BatchStatus::Failed, "nothing was changed");
    let done = abandon(vec![("origin", "http://localhost")], format!("form_key={key}")).await;
    assert_eq!((done.status, &*done.location), (StatusCode::SEE_OTHER, "/executions/1"));
    assert_eq!(status(), batchwright::BatchStatus::Abandoned);
    let newest = &operator.queries().audit(None, 1).unwrap()[0];
    assert_eq!(
        (&*newest.who, &*newest.action, &*newest.subject),
        ("dashboard", "abandon", "execution 1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_form_that_is_sent_twice_starts_one_execution() {
    let operator = operator();
    let jobs = JobStarter::new(operator.clone());
    // It only has to exist: what is started stays queued.
    let _worker = Worker::new(jobs.clone(), std::time::Duration::from_secs(30));
    let app =
        Api::new(jobs, None, StopToken::default()).with_dashboard().guarded(AccessRules::default());
    let page = get(&app, "/jobs/many").await;
    let (_, rest) = page.body.split_once("name=\"request\" value=\"").expect("a form");
    let request = rest.split('"').next().unwrap();
    let form = |request: &str, more: &str| {
        format!("form_key={}&request={request}&others=run%3D{more}", form_key(&page))
    };
    let send = |body: String| {
        let app = app.clone();
        async move { ask(&app, Method::POST, "/jobs/many/start", &[], &body).await }
    };
    let first = send(form(request, "1")).await;
    assert_eq!(
        (first.status, &*first.location),
        (StatusCode::SEE_OTHER, "/executions/3"),
        "{}",
        first.body
    );
    let again = send(form(request, "1")).await;
    assert_eq!((again.status, &*again.location), (StatusCode::SEE_OTHER, "/executions/3"));
    let changed = send(form(request, "2")).await;
    assert_eq!(changed.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", changed.body);
    let other = send(form("another", "2")).await;
    assert_eq!(&*other.location, "/executions/4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_new_with_each_sign_in_and_worth_nothing_after_its_end() {
    let tokens = vec![Token::of("maria", Role::Operator, "secret")];
    let app = api(&operator()).guarded(AccessRules { tokens, ..AccessRules::default() });
    let away = get(&app, "/executions?q=job:a").await;
    assert_eq!(
        (away.status, &*away.location),
        (StatusCode::SEE_OTHER, "/sign-in?next=%2Fexecutions%3Fq%3Djob%3Aa")
    );
    let sign_in = |cookie: &'static str| {
        let app = app.clone();
        async move {
            let request = Request::post("/sign-in")
                .header(header::HOST, "localhost")
                .header(header::COOKIE, cookie);
            let form = "application/x-www-form-urlencoded";
            let request = request
                .header(header::CONTENT_TYPE, form)
                .header(header::ORIGIN, "https://localhost");
            let response = app
                .clone()
                .call(request.body(Body::from("token=secret&next=//evil")).unwrap())
                .await
                .unwrap();
            assert_eq!(response.headers()[header::LOCATION], "/");
            response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned()
        }
    };
    let planted = "batchwright_session=planted";
    let set = sign_in(planted).await;
    for part in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    let cookie = set.split(';').next().unwrap().to_owned();
    assert_ne!(cookie, planted);
    assert_eq!(
        ask(&app, Method::GET, "/", &[("cookie", planted)], "").await.status,
        StatusCode::SEE_OTHER
    );
    let page = ask(&app, Method::GET, "/jobs/many", &[("cookie", &cookie)], "").await;
    assert_eq!(page.status, StatusCode::OK);
    let body = format!("form_key={}", form_key(&page));
    let out = ask(&app, Method::POST, "/sign-out", &[("cookie", &cookie)], &body).await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    let replayed = ask(&app, Method::GET, "/jobs", &[("cookie", &cookie)], "").await;
    assert_eq!(replayed.status, StatusCode::SEE_OTHER, "a cookie that was signed out");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_was_purged_is_a_page_that_says_so() {
    let operator = operator();
    let app = api(&operator).guarded(AccessRules::default());
    assert_eq!(get(&app, "/executions/2").await.status, StatusCode::OK);
    let retention = Retention { keep: Some(0), ..Retention::default() };
    operator.purge(&retention, false, |_| {}).unwrap();
    for path in [
        "/executions/2",
        "/executions/2/skips",
        "/compare?a=1&b=2",
        "/executions/x",
        "/executions/99999999999999999999",
    ] {
        let page = get(&app, path).await;
        assert!(page.status.is_client_error(), "{path}: {}", page.status);
        assert!(
            page.body.starts_with("<!DOCTYPE html>") && page.body.contains("/errors/"),
            "{path}: {}",
            page.body
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_steps_and_a_hundred_thousand_partitions_are_pages_of_ordinary_size() {
    let repository = Arc::new(MemoryRepository::new());
    let operator = JobOperator::new(Arc::clone(&repository) as Arc<dyn JobRepository>);
    let job = Job::builder("wide").step(TaskletStep::call("load", || ())).build().unwrap();
    operator.registry().register(job).unwrap();
    let add = |number: i64, rows: std::ops::Range<u32>, is_partition: bool| {
        let parameters = JobParameters::new().with("number", number);
        let id = operator.run("wide", parameters).unwrap().id;
        let step = operator.queries().steps_page(id, 0, 1).unwrap().remove(0);
        let mut tx = repository.begin().unwrap();
        for row in rows.clone() {
            let key = format!("{row:06}");
            let mut one = step.clone();
            (one.name, one.partition) = match is_partition {
                true => (format!("load:{key}"), Some(key)),
                false => (format!("step-{key}"), None),
            };
            // However many were stopped before it, the last one, which failed, is found.
            if is_partition && row % 50 == 0 {
                one.status = BatchStatus::Stopped;
            }
            if row + 1 == rows.end {
                one.status = BatchStatus::Failed;
                one.failure = Some(Failure::new("read_failed", "the last one is broken"));
            }
            tx.insert_step(&one).unwrap();
        }
        tx.commit().unwrap();
    };
    add(1, 0..10_000, false);
    add(2, 0..100_000, true);
    let app = api(&operator).router();
    for path in
        ["/executions/1", "/executions/2", "/executions", "/compare?a=1&b=2", "/jobs/wide", "/"]
    {
        let page = get(&app, path).await;
        let size = page.body.len();
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(size < 150_000, "{path} has {size} bytes");
    }
    for path in ["/executions/1", "/executions/2"] {
        let page = get(&app, path).await.body;
        assert!(page.contains("the last one is broken"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_without_the_dashboard_has_no_pages() {
    let operator = operator();
    let api = Api::new(JobStarter::new(operator), None, StopToken::default());
    let app = Router::new().route("/", axum::routing::get(|| async { "mine" })).merge(api.router());
    assert_eq!(get(&app, "/").await.body, "mine");
    assert_eq!(get(&app, "/executions").await.status, StatusCode::NOT_FOUND);
}
