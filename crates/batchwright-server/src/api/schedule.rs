//! The requests about triggers and rules.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use batchwright::clock::Clock;
use batchwright::clock::SystemClock;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::access::Caller;
use super::body::{Asked, Body, NoQuery};
use super::condition::{ConditionHeaders, Conditions, with_tag};
use super::page::{PageQuery, cursor, cut, limit, page};
use super::{Api, Problem};
use crate::kcp;
use crate::scheduler::{
    LIST_MAX, Plan, Request, Rule, RuleSettings, TriggerRow, TriggerStatus, When, rule_tag,
    show_time, trigger_tag,
};

/// A trigger, or one slot of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TriggerView {
    identifier: String,
    /// `planned`, `triggered`, `executed`, `failed`, `dead`, `paused`, `skipped` or `ended`.
    status: String,
    /// The planned time, in UTC.
    slot: String,
    /// When the scheduler processes the trigger next.
    due: Option<String>,
    /// The plan of a recurring trigger, as the words of `schedule set`.
    plan: Option<String>,
    /// Number of failed attempts.
    attempts: u32,
    /// The rule that fired the trigger.
    rule: Option<String>,
    fired_at: Option<String>,
    ended_at: Option<String>,
    reason: Option<String>,
    output: Option<String>,
}

impl From<TriggerRow> for TriggerView {
    fn from(row: TriggerRow) -> Self {
        Self {
            identifier: row.key.identifier,
            status: row.status.name().to_owned(),
            slot: show_time(row.slot),
            due: row.due.map(show_time),
            plan: row.plan,
            attempts: row.attempt,
            rule: row.rule,
            fired_at: row.fired_at.map(show_time),
            ended_at: row.ended_at.map(show_time),
            reason: row.reason,
            output: row.output,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TriggerList {
    items: Vec<TriggerView>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TriggersQuery {
    /// Only triggers whose names have this prefix.
    prefix: Option<String>,
    /// Only triggers with this status.
    #[param(value_type = Option<String>, pattern = "^(planned|triggered|executed|failed|dead|paused|skipped|ended)$")]
    status: Option<String>,
    /// Only triggers that are due before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    due_before: Option<jiff::Timestamp>,
    /// Maximum number of entries of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// The `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// Lists triggers in the order of their names.
#[utoipa::path(get, path = "/v1/triggers", tag = "schedule", params(TriggersQuery),
    responses((status = 200, body = TriggerList)))]
pub(super) async fn triggers(
    State(api): State<Api>,
    Asked(asked): Asked<TriggersQuery>,
) -> Result<Response, Problem> {
    let limit = limit(asked.limit)?;
    let status = asked.status.as_deref().map(|word| {
        TriggerStatus::from_name(word)
            .ok_or_else(|| Problem::invalid(format!("unknown status `{word}` of a trigger")))
    });
    let status = status.transpose()?;
    let due = asked.due_before.map(jiff::Timestamp::as_microsecond);
    let prefix = asked.prefix.clone().unwrap_or_default();
    let mut after = cursor::<String>(asked.cursor.as_deref())?.unwrap_or_default();
    let scheduler = api.scheduler()?;
    let mut items = Vec::new();
    // Status and due time are not part of the index, so this reads on until the page is full.
    loop {
        let request = Request::List { prefix: prefix.clone(), limit: LIST_MAX, after };
        let rows = scheduler.read(request).await?.triggers();
        let Some(last) = rows.last().map(|row| row.key.identifier.clone()) else { break };
        let is_last = rows.len() < LIST_MAX;
        items.extend(rows.into_iter().filter(|row| {
            status.is_none_or(|status| row.status == status)
                && due.is_none_or(|before| row.due.is_some_and(|due| due < before))
        }));
        if items.len() > limit || is_last {
            break;
        }
        after = last;
    }
    let next_cursor = cut(&mut items, limit, |row| row.key.identifier.clone());
    let asked = [
        ("prefix", asked.prefix),
        ("status", asked.status),
        ("due_before", asked.due_before.map(|at| at.to_string())),
    ];
    let list = TriggerList { items: items.into_iter().map(Into::into).collect(), next_cursor };
    Ok(page(&list, "/v1/triggers", limit, asked, list.next_cursor.as_deref()))
}

async fn get(api: &Api, identifier: String) -> Result<Response, Problem> {
    let answer = api.scheduler()?.read(Request::Get { identifier: identifier.clone() }).await?;
    one_trigger(answer.triggers(), &identifier)
}

fn one_trigger(rows: Vec<TriggerRow>, identifier: &str) -> Result<Response, Problem> {
    let row = rows.into_iter().next();
    let row = row.map(|row| with_tag(&trigger_tag(&row), &TriggerView::from(row)));
    row.ok_or_else(|| {
        let detail = format!("there is no trigger `{identifier}`");
        Problem::new(StatusCode::NOT_FOUND, "no_such_trigger", detail)
    })
}

/// Returns a trigger. Its `ETag` names its plan or time: a firing does not change it.
#[utoipa::path(get, path = "/v1/triggers/{id}", tag = "schedule", params(("id" = String, Path)),
    responses((status = 200, body = TriggerView, headers(("etag" = String)))))]
pub(super) async fn trigger(
    State(api): State<Api>,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    get(&api, id).await
}

/// When a trigger fires: either `at` or `plan`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TriggerBody {
    /// Once, at this time.
    at: Option<String>,
    /// At each slot of a plan, given in the words of `schedule set`.
    plan: Option<Vec<String>>,
}

/// Plans a trigger. One that exists with another plan is replaced only with its `ETag` as `If-Match`, or with `If-Match: *`.
#[utoipa::path(put, path = "/v1/triggers/{id}", tag = "schedule", params(("id" = String, Path), ConditionHeaders),
    request_body = TriggerBody, responses((status = 200, body = TriggerView, headers(("etag" = String)))))]
pub(super) async fn set_trigger(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
    conditions: Conditions,
    Body(body): Body<TriggerBody>,
) -> Result<Response, Problem> {
    let now = SystemClock::default().now().as_microsecond();
    let when = match (&body.at, &body.plan) {
        (Some(at), None) => When::parse(at).map_err(Problem::invalid)?,
        (None, Some(words)) => {
            When::Recurring(Box::new(Plan::parse(words, now).map_err(Problem::invalid)?))
        }
        _ => return Err(Problem::invalid("a trigger needs either `at` or `plan`")),
    };
    let set = conditions.set(Request::Set { identifier: id.clone(), when });
    let stored = api.command(&caller, set).await?.triggers();
    one_trigger(stored, &id)
}

/// Removes a trigger.
#[utoipa::path(delete, path = "/v1/triggers/{id}", tag = "schedule", params(("id" = String, Path), ConditionHeaders),
    responses((status = 204)))]
pub(super) async fn unset_trigger(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    api.command(&caller, conditions.unset(Request::Unset { identifier: id })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The body of a firing.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FireBody {
    /// The planned times of a recurring trigger for which it fires, such as past ones; none for the present time.
    #[schema(value_type = Vec<String>, format = DateTime)]
    slots: Vec<String>,
}

/// Most slots of one firing.
const SLOTS_MAX: usize = 1_000;

/// Fires a trigger now, beside its plan: a recurring one for each of the given times. A time for which it was executed already
/// is refused, and then nothing fires.
#[utoipa::path(post, path = "/v1/triggers/{id}/fire", tag = "schedule", params(("id" = String, Path)),
    request_body = Option<FireBody>, responses((status = 202, body = TriggerView)))]
pub(super) async fn fire(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
    Body(body): Body<FireBody>,
) -> Result<Response, Problem> {
    if body.slots.len() > SLOTS_MAX {
        return Err(Problem::invalid(format!(
            "a trigger fires for at most {SLOTS_MAX} times at once"
        )));
    }
    let slots = body.slots.iter().map(|text| slot(text)).collect::<Result<_, _>>()?;
    api.command(&caller, Request::Fire { identifier: id.clone(), slots }).await?;
    Ok((StatusCode::ACCEPTED, get(&api, id).await?).into_response())
}

/// Parses a planned time.
pub(super) fn slot(text: &str) -> Result<i64, Problem> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        let at = at.as_microsecond();
        let before =
            || Problem::new(StatusCode::CONFLICT, "usage", format!("`{text}` is before 1970"));
        return (at >= 0).then_some(at).ok_or_else(before);
    }
    match When::parse(text).map_err(Problem::invalid)? {
        When::At(at) => Ok(at),
        When::Recurring(_) => Err(Problem::invalid(format!("`{text}` is no time"))),
    }
}

/// Pauses a trigger: it does not fire until it is resumed.
#[utoipa::path(post, path = "/v1/triggers/{id}/pause", tag = "schedule", params(("id" = String, Path)),
    responses((status = 200, body = TriggerView)))]
pub(super) async fn pause(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    api.command(&caller, Request::Pause { identifier: id.clone() }).await?;
    get(&api, id).await
}

/// Resumes a paused trigger. Times that passed during the pause do not fire.
#[utoipa::path(post, path = "/v1/triggers/{id}/resume", operation_id = "resume_trigger",
    tag = "schedule", params(("id" = String, Path)),
    responses((status = 200, body = TriggerView)))]
pub(super) async fn resume(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    api.command(&caller, Request::Resume { identifier: id.clone() }).await?;
    get(&api, id).await
}

/// The body of a skip.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SkipBody {
    /// The coming time that is skipped; a repeated request then skips no second one. Without it: the next one.
    #[schema(value_type = Option<String>, format = DateTime)]
    slot: Option<String>,
}

/// Skips a coming time of a recurring trigger: it does not fire for that time, which its history records.
#[utoipa::path(post, path = "/v1/triggers/{id}/skip", operation_id = "skip_trigger", tag = "schedule",
    params(("id" = String, Path)), request_body = Option<SkipBody>, responses((status = 200, body = TriggerView)))]
pub(super) async fn skip(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
    Body(body): Body<SkipBody>,
) -> Result<Response, Problem> {
    let skip = match &body.slot {
        Some(text) => Request::Skip { identifier: id.clone(), slot: slot(text)? },
        None => {
            let history = Request::History { identifier: id.clone() };
            let history = api.scheduler()?.read(history).await?;
            Request::skip_next(&id, history, api.operator().clock().now().as_microsecond())?
        }
    };
    api.command(&caller, skip).await?;
    get(&api, id).await
}

/// A rule: the runner of the triggers whose names begin with a pattern.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RuleView {
    identifier: String,
    pattern: String,
    /// The runner and its words, secrets masked.
    runner: String,
}

impl From<&Rule> for RuleView {
    fn from(rule: &Rule) -> Self {
        let runner = kcp::encode(&rule.settings.words());
        Self {
            identifier: rule.identifier.clone(),
            pattern: rule.pattern.clone(),
            runner: runner.trim_end().to_owned(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RuleList {
    items: Vec<RuleView>,
    /// Cursor of the next page; `null` on the last page.
    next_cursor: Option<String>,
}

async fn all_rules(api: &Api) -> Result<Vec<Rule>, Problem> {
    Ok(api.scheduler()?.read(Request::Rules).await?.rules())
}

/// Lists rules in the order of their names.
#[utoipa::path(get, path = "/v1/rules", tag = "schedule", params(PageQuery),
    responses((status = 200, body = RuleList)))]
pub(super) async fn rules(
    State(api): State<Api>,
    Asked(asked): Asked<PageQuery>,
) -> Result<Response, Problem> {
    let limit = limit(asked.limit)?;
    let after = cursor::<String>(asked.cursor.as_deref())?;
    let rules = all_rules(&api).await?;
    let rest = rules.iter().filter(|rule| after.as_ref().is_none_or(|it| rule.identifier > *it));
    let mut items: Vec<RuleView> = rest.map(RuleView::from).collect();
    let next_cursor = cut(&mut items, limit, |last| last.identifier.clone());
    let list = RuleList { items, next_cursor };
    Ok(page(&list, "/v1/rules", limit, [], list.next_cursor.as_deref()))
}

/// Returns a rule.
#[utoipa::path(get, path = "/v1/rules/{id}", tag = "schedule", params(("id" = String, Path)),
    responses((status = 200, body = RuleView, headers(("etag" = String)))))]
pub(super) async fn rule(
    State(api): State<Api>,
    _: NoQuery,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    one_rule(&all_rules(&api).await?, &id)
}

fn one_rule(rules: &[Rule], id: &str) -> Result<Response, Problem> {
    let found = rules.iter().find(|rule| rule.identifier == id);
    found
        .map(|rule| with_tag(&rule_tag(rule), &RuleView::from(rule)))
        .ok_or_else(|| no_such_rule(id))
}

fn no_such_rule(id: &str) -> Problem {
    let detail = format!("there is no rule `{id}`");
    Problem::new(StatusCode::NOT_FOUND, "no_such_rule", detail)
}

/// The body that stores a rule.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleBody {
    /// Prefix of the names of the triggers that the rule applies to.
    pattern: String,
    /// The runner and its words, as in `rule set`: `["shell", "/usr/bin/report"]`.
    runner: Vec<String>,
}

/// Stores a rule. One that exists is replaced by a different one only with its `ETag` as `If-Match`, or with `If-Match: *`.
#[utoipa::path(put, path = "/v1/rules/{id}", tag = "schedule", params(("id" = String, Path), ConditionHeaders),
    request_body = RuleBody, responses((status = 200, body = RuleView, headers(("etag" = String)))))]
pub(super) async fn set_rule(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
    conditions: Conditions,
    Body(body): Body<RuleBody>,
) -> Result<Response, Problem> {
    let settings = RuleSettings::parse(&body.runner).map_err(Problem::invalid)?;
    let (identifier, pattern) = (id.clone(), body.pattern);
    let set = conditions.set(Request::SetRule { identifier, pattern, settings });
    let stored = api.command(&caller, set).await?.rules();
    one_rule(&stored, &id)
}

/// Removes a rule.
#[utoipa::path(delete, path = "/v1/rules/{id}", tag = "schedule", params(("id" = String, Path), ConditionHeaders),
    responses((status = 204)))]
pub(super) async fn unset_rule(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
    Path(id): Path<String>,
    conditions: Conditions,
) -> Result<StatusCode, Problem> {
    let unset = conditions.unset(Request::UnsetRule { identifier: id.clone() });
    let unset = api.command(&caller, unset).await;
    unset.map_err(|problem| match problem.code() {
        "no_such_trigger" => no_such_rule(&id),
        _ => problem,
    })?;
    Ok(StatusCode::NO_CONTENT)
}
