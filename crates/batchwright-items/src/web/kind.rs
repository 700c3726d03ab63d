//! The kind `http`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use batchwright::step::Tasklet;
use reqwest::Method;
use schemars::JsonSchema;
use serde::Deserialize;

use super::exchange::{Common, Requests};
use super::processor::{Asks, Enrich, Marked, Unknown};
use super::reader::{ApiReader, Pages, Paging};
use super::step::Call;
use super::writer::ApiSender;
use crate::key::{At, Keys, Problem, Text, duration};
use crate::kind::{BoxedProcessor, BuildContext, ItemKind, KindSchema, Make, MakeReader};
use crate::reader::Reads;
use crate::sent::{self, SendingWriter};
use crate::writer::BoxedWriter;

/// The kind `http`.
pub(crate) struct WebKind;

/// Reads the items of a list that a web server sends as JSON, page by page.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// The URL, with `http://` or `https://`; user and password in it are sent as basic authentication.
    url: Text,
    /// Headers of each request, by their names.
    #[serde(default)]
    headers: BTreeMap<String, Text>,
    /// The place of the list in the answer, such as `data.items`. Default: the answer is the list.
    items: Option<String>,
    /// Whether an answer without the list is an empty page; otherwise it is an error. Default: false.
    #[serde(default)]
    items_optional: bool,
    /// How the next page is found. Default: there is one page.
    page: Option<At<PageKeys>>,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
    /// Attempts at a request that fails, or is answered with 408, 425, 429, 500, 502, 503 or 504. Default: 5.
    max_attempts: Option<NonZeroU32>,
    /// The longest wait that the server may ask for by `Retry-After`. Default: `5m`.
    wait_max: Option<Text>,
}

/// How the next page is found: exactly one of `cursor`, `next`, `link`, `number` and `offset`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct PageKeys {
    /// The place of a cursor in the answer; without one the page is the last.
    cursor: Option<String>,
    /// The parameter of the URL that gets the cursor.
    parameter: Option<String>,
    /// The place of the URL of the next page in the answer; without one the page is the last.
    next: Option<String>,
    /// Whether the header `Link` has the URL of the next page (`rel="next"`).
    #[serde(default)]
    link: bool,
    /// The parameter of the URL that gets the number of the page; a page without items is the last.
    number: Option<String>,
    /// The number of the first page. Default: 1.
    first: Option<u64>,
    /// The parameter of the URL that gets the number of items before the page; a page without items is the last.
    offset: Option<String>,
    /// Number of items of a full page: with `number` and `offset`, a page with fewer is the last.
    size: Option<u64>,
    /// The parameter of the URL that gets `size`.
    size_parameter: Option<String>,
}

/// Sends items as JSON to a web server. Each request has the header `Idempotency-Key`, which is the same when it is sent again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// The URL, with `http://` or `https://`; user and password in it are sent as basic authentication.
    url: Text,
    /// `POST`, `PUT` or `PATCH`. Default: `POST`.
    method: Option<Text>,
    /// Headers of each request, by their names.
    #[serde(default)]
    headers: BTreeMap<String, Text>,
    /// Whether each chunk is one request with the list of its items; otherwise each item is a request. Default: false.
    #[serde(default)]
    list: bool,
    /// The name of the list in an object, for `list`. Default: the list is the body.
    list_name: Option<String>,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
    /// Attempts at a request that fails, or is answered with 408, 425, 429, 500, 502, 503 or 504. Default: 5.
    max_attempts: Option<NonZeroU32>,
    /// The longest wait that the server may ask for by `Retry-After`. Default: `5m`.
    wait_max: Option<Text>,
}

/// Asks a web server about each item, and adds fields of its answer, JSON. An answer of 404, and a field in the URL that is null or
/// empty, mean an item that the server does not know.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProcessorKeys {
    /// The URL, with `http://` or `https://`; `{FIELD}` in it is the value of a field of the item.
    url: At<String>,
    /// `GET`, or `POST`, whose body is the item. Default: `GET`.
    method: Option<Text>,
    /// Headers of each request, by their names.
    #[serde(default)]
    headers: BTreeMap<String, Text>,
    /// The fields that the item gets: places in the answer, such as `address.city`, by their names.
    set: BTreeMap<String, String>,
    /// What happens to an item that the server does not know: `fail` (kind `data.missing`), `null` (null fields) or `drop` (it
    /// counts as filtered). Default: `fail`.
    missing: Option<At<Unknown>>,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
    /// Attempts at a request that fails, or is answered with 408, 425, 429, 500, 502, 503 or 504. Default: 5.
    max_attempts: Option<NonZeroU32>,
    /// The longest wait that the server may ask for by `Retry-After`. Default: `5m`.
    wait_max: Option<Text>,
}

/// Calls a web server. Requests other than `GET` have the header `Idempotency-Key`, the same for all calls of the step.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StepKeys {
    /// The URL, with `http://` or `https://`; user and password in it are sent as basic authentication.
    url: Text,
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`. Default: `GET`.
    method: Option<Text>,
    /// Headers of the request, by their names.
    #[serde(default)]
    headers: BTreeMap<String, Text>,
    /// The body of the request; its type is `application/json`.
    body: Option<Text>,
    /// What the answer, JSON, must have: texts by places such as `job.state`.
    #[serde(default)]
    expect: BTreeMap<String, Text>,
    /// The time between calls until the answer is as expected. Default: one call.
    poll: Option<Text>,
    /// The time after which a step that polls fails, such as `2h`.
    within: Option<Text>,
    /// What of the answer is kept in the step's context: places by names.
    #[serde(default)]
    save: BTreeMap<String, String>,
    /// Time after which an unanswered request fails. Default: `30s`.
    timeout: Option<Text>,
    /// Attempts at a request that fails, or is answered with 408, 425, 429, 500, 502, 503 or 504. Default: 5.
    max_attempts: Option<NonZeroU32>,
    /// The longest wait that the server may ask for by `Retry-After`. Default: `5m`.
    wait_max: Option<Text>,
}

/// The common keys of `$keys`.
macro_rules! requests {
    ($keys:expr, $cx:expr) => {{
        let keys = $keys;
        let common = Common {
            url: &keys.url,
            headers: &keys.headers,
            timeout: keys.timeout.as_ref(),
            max_attempts: keys.max_attempts,
            wait_max: keys.wait_max.as_ref(),
        };
        Requests::of(&common, $cx)
    }};
}

impl ItemKind for WebKind {
    fn name(&self) -> &'static str {
        "http"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts("By page: the page of the position is fetched again, and others of its items than before are refused. Exact if the server's pages stay the same.")
            .writer::<WriterKeys>()
            .writer_restarts("At least once. Requests that are sent again have the same `Idempotency-Key`, so exact with a server that heeds it; with `list` not after a skip.")
            .processor::<ProcessorKeys>()
            .tasklet::<StepKeys>()
            .step_restarts("It calls again, with the same `Idempotency-Key`.")
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let parsed: ReaderKeys = keys.parse()?;
        let paging = parsed.page.as_ref().map_or(Ok(Paging::None), paging)?;
        let page = parsed.page.as_ref().map(|page| page.get_ref());
        let pages = Arc::new(Pages {
            requests: requests!(&parsed, cx)?,
            items: parsed.items.clone().unwrap_or_default(),
            items_optional: parsed.items_optional,
            paging,
            size: page.and_then(|page| page.size),
            size_parameter: page.and_then(|page| page.size_parameter.clone()),
        });
        Ok(MakeReader::new(move |_| Ok(Reads::records(ApiReader::new(Arc::clone(&pages))))))
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let parsed: WriterKeys = keys.parse()?;
        if parsed.list_name.is_some() && !parsed.list {
            return Err(keys.problem_at("list_name", "`list_name` needs `list = true`"));
        }
        if cx.inside_only {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        let requests = requests!(&parsed, cx)?;
        let method = method(parsed.method.as_ref(), &[Method::POST, Method::PUT, Method::PATCH])?;
        let (as_list, list_name) = (parsed.list, parsed.list_name);
        let connect: sent::Connect<ApiSender> = Arc::new(move |scope| {
            let (method, list_name) = (method.clone(), list_name.clone());
            Ok(ApiSender { method, as_list, list_name, exchange: requests.exchange(scope)? })
        });
        Ok(Box::new(move |_| Ok(BoxedWriter::new(SendingWriter::new(Arc::clone(&connect))))))
    }

    fn processor(
        &self,
        keys: Keys<'_>,
        cx: &BuildContext<'_>,
    ) -> Result<Make<BoxedProcessor>, Problem> {
        let parsed: ProcessorKeys = keys.parse()?;
        let method = method(parsed.method.as_ref(), &[Method::GET, Method::POST])?;
        if cx.inside_only && method != Method::GET {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        if parsed.set.is_empty() {
            return Err(keys.problem_at("set", "`set` has at least one field"));
        }
        let marked = Marked::of(parsed.url.get_ref());
        let (marked, text) = marked.map_err(|what| Problem::at(&parsed.url, what))?;
        let common = Common {
            url: &At(toml::Spanned::new(parsed.url.span(), text)),
            headers: &parsed.headers,
            timeout: parsed.timeout.as_ref(),
            max_attempts: parsed.max_attempts,
            wait_max: parsed.wait_max.as_ref(),
        };
        let requests = Requests::of(&common, cx)?;
        let unknown = parsed.missing.map_or_else(Unknown::default, At::into_inner);
        let asks = Arc::new(Asks { method, set: parsed.set, unknown });
        Ok(Box::new(move |scope| {
            let (asks, exchange) = (Arc::clone(&asks), requests.exchange(scope)?);
            let url = marked.parts(&exchange.url)?;
            let (identity, calls) = (sent::identity(scope), AtomicU64::new(0));
            Ok(Box::new(Enrich { asks, exchange, url, identity, calls }) as BoxedProcessor)
        }))
    }

    fn is_independent(&self) -> bool {
        true
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let parsed: StepKeys = keys.parse()?;
        let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let method = method(parsed.method.as_ref(), &methods)?;
        if cx.inside_only && method != Method::GET {
            return Err(keys.problem(BuildContext::sends_outside()));
        }
        if parsed.poll.is_some() && method != Method::GET {
            let what = "`poll` needs `GET`: a server answers the same `Idempotency-Key` with the same answer";
            return Err(keys.problem_at("poll", what));
        }
        let poll = match (&parsed.poll, &parsed.within) {
            (None, None) => None,
            (Some(every), Some(within)) => {
                let every: Duration = duration(every)?;
                if every.is_zero() {
                    return Err(
                        keys.problem_at("poll", "the time between calls must be above zero")
                    );
                }
                Some((every, duration(within)?))
            }
            _ => return Err(keys.problem("`poll` and `within` need each other")),
        };
        let expect = parsed.expect.iter();
        let expect = expect.map(|(path, wanted)| Ok((path.clone(), cx.template(wanted)?)));
        Ok(Box::new(Call {
            requests: requests!(&parsed, cx)?,
            method,
            body: parsed.body.as_ref().map(|body| cx.template(body)).transpose()?,
            expect: expect.collect::<Result<_, Problem>>()?,
            poll,
            save: parsed.save,
        }))
    }
}

/// Returns the method that `written` names; the first of `known` if there is none.
fn method(written: Option<&Text>, known: &[Method]) -> Result<Method, Problem> {
    let Some(written) = written else { return Ok(known[0].clone()) };
    known.iter().find(|method| method.as_str() == written.get_ref()).cloned().ok_or_else(|| {
        let names: Vec<_> = known.iter().map(Method::as_str).collect();
        let message =
            format!("there is no method `{}`; there are: {}", written.get_ref(), names.join(", "));
        Problem::at(written, message)
    })
}

fn paging(page: &At<PageKeys>) -> Result<Paging, Problem> {
    let PageKeys { cursor, parameter, next, link, number, first, offset, size, size_parameter } =
        page.get_ref();
    let problem = |message: &str| Err(Problem::at(page, message));
    if parameter.is_some() != cursor.is_some() {
        return problem("`cursor` and `parameter` need each other");
    }
    if first.is_some() && number.is_none() {
        return problem("`first` needs `number`");
    }
    if size_parameter.is_some() && size.is_none() {
        return problem("`size_parameter` needs `size`");
    }
    if *size == Some(0) {
        return problem("`size` is above zero");
    }
    Ok(match (cursor, next, *link, number, offset) {
        (Some(path), None, false, None, None) => {
            Paging::Cursor { path: path.clone(), parameter: parameter.clone().unwrap_or_default() }
        }
        (None, Some(path), false, None, None) => Paging::Next(path.clone()),
        (None, None, true, None, None) => Paging::Link,
        (None, None, false, Some(parameter), None) => {
            Paging::Number { parameter: parameter.clone(), first: first.unwrap_or(1) }
        }
        (None, None, false, None, Some(parameter)) => Paging::Offset(parameter.clone()),
        _ => {
            return problem(
                "a page has exactly one of `cursor`, `next`, `link`, `number` and `offset`",
            );
        }
    })
}
