//! Two executions side by side.

use std::collections::{BTreeSet, HashMap};

use axum::extract::Query;
use axum::response::Response;
use batchwright::execution::{ExecutionId, ExecutionSummary, StepSummary};
use maud::{Markup, html};
use serde::Deserialize;

use super::super::Problem;
use super::parts::{cut, duration, number, seconds, status, status_words, took};
use super::view::View;

/// Writes one fact of a step.
type Shown<'a> = &'a dyn Fn(&StepSummary) -> String;

/// Most steps that are compared.
const STEPS_MAX: usize = 80;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    a: i64,
    b: i64,
}

pub(super) async fn page(view: View, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    view.write(move |view| {
        let explorer = view.operator().explorer();
        let rows =
            [explorer.execution(ExecutionId(asked.a))?, explorer.execution(ExecutionId(asked.b))?];
        let both = explorer.summaries(&rows)?;
        let definition = rows.each_ref().map(|row| row.fingerprint.clone().unwrap_or_default());
        let title = format!("Executions {} and {}", asked.a, asked.b);
        Ok((title, content(view, &both[0], &both[1], &definition)))
    })
    .await
}

fn content(
    view: &View,
    a: &ExecutionSummary,
    b: &ExecutionSummary,
    definition: &[String; 2],
) -> Markup {
    let names: BTreeSet<&String> = a.parameters.keys().chain(b.parameters.keys()).collect();
    let value = |of: &ExecutionSummary, name: &str| {
        of.parameters.get(name).map(|one| cut(&one.value.to_string(), 500)).unwrap_or_default()
    };
    let exit = |of: &ExecutionSummary| of.exit.code.clone();
    let failure = |of: &ExecutionSummary| {
        of.failure
            .as_ref()
            .map(|one| format!("{}: {}", one.code, cut(&one.message, 300)))
            .unwrap_or_default()
    };
    let (steps, is_cut) = pairs(&a.steps, &b.steps);
    let by =
        |of: &ExecutionSummary| of.triggered_by.clone().unwrap_or_else(|| "application".to_owned());
    html! {
        nav.crumbs aria-label="Path" { a href=(view.url("/executions")) { "Executions" } }
        h1 { "Compare executions" }
        @if a.job != b.job { p.notice { "These are executions of different jobs." } }
        section { div.scroll tabindex="0" role="region" aria-label="Comparison" { table.list.compare {
            thead { tr { th { "" } @for one in [a, b] { th { a href=(view.url(&format!("/executions/{}", one.id))) { (one.job) " " (one.id) } } } } }
            tbody {
                tr.differs[a.status != b.status] { th scope="row" { "Status" } td { (status(a.status, a.stale)) } td { (status(b.status, b.stale)) } }
                tr { th scope="row" { "Took" } td { (took(a, view.now)) } td { (took(b, view.now)) } }
                (line("Exit", &exit(a), &exit(b)))
                (line("Failure", &failure(a), &failure(b)))
                (line("Started by", &by(a), &by(b)))
                (line("Definition", &cut(&definition[0], 16), &cut(&definition[1], 16)))
                @for name in names { (line(&format!("Parameter {name}"), &value(a, name), &value(b, name))) }
            }
        } } }
        section aria-labelledby="steps" { h2 #steps { "Steps" } div.scroll tabindex="0" role="region" aria-label="Counters of both" { table.list.compare {
            thead { tr { th { "Step" } th { "Counter" } @for one in [a, b] { th.right { a href=(view.url(&format!("/executions/{}", one.id))) { (one.job) " " (one.id) } } } } }
            tbody { @for (left, right) in steps { (step(view, left, right)) } }
        } } @if is_cut { p.hint { (STEPS_MAX) " steps and partitions: first those that differ." } } }
    }
}

fn line(name: &str, left: &str, right: &str) -> Markup {
    html! { tr.differs[left != right] { th scope="row" { (name) } td.value { (left) } td.value { (right) } } }
}

/// A step of one execution beside that of the other.
type Pair<'a> = (Option<&'a StepSummary>, Option<&'a StepSummary>);

/// Returns the steps of both executions, those with one name and partition beside each other, and whether some are left out: of
/// very many, those that are the same.
fn pairs<'a>(a: &'a [StepSummary], b: &'a [StepSummary]) -> (Vec<Pair<'a>>, bool) {
    type Key<'a> = (&'a str, Option<&'a str>);
    fn key(step: &StepSummary) -> Key<'_> {
        (&*step.name, step.partition.as_deref())
    }
    // A step that ran more than once is its last run.
    fn by_key(list: &[StepSummary]) -> HashMap<Key<'_>, &StepSummary> {
        list.iter().map(|step| (key(step), step)).collect()
    }
    let (left, right) = (by_key(a), by_key(b));
    let both = a.iter().map(|step| (Some(step), right.get(&key(step)).copied()));
    let added = b.iter().filter(|step| !left.contains_key(&key(step)));
    let mut pairs: Vec<_> = both.chain(added.map(|step| (None, Some(step)))).collect();
    let is_cut = pairs.len() > STEPS_MAX;
    if is_cut {
        let is_same = |(left, right): &Pair<'_>| {
            left.zip(*right).is_some_and(|(left, right)| {
                (left.status, left.counters, &left.exit, &left.failure)
                    == (right.status, right.counters, &right.exit, &right.failure)
            })
        };
        pairs.sort_by_key(is_same);
        pairs.truncate(STEPS_MAX);
    }
    (pairs, is_cut)
}

fn step(view: &View, left: Option<&StepSummary>, right: Option<&StepSummary>) -> Markup {
    let Some(any) = left.or(right) else { return html! {} };
    let time = |of: &StepSummary| duration(seconds(of.started_at, of.ended_at.unwrap_or(view.now)));
    let counters: [(&str, Shown<'_>); 6] = [
        ("status", &|of| status_words(of.status, false).2.to_owned()),
        ("took", &time),
        ("read", &|of| number(of.counters.read)),
        ("written", &|of| number(of.counters.write)),
        ("skipped", &|of| number(of.counters.skips())),
        ("filtered", &|of| number(of.counters.filter)),
    ];
    let ran_in_both = left.is_some() && right.is_some();
    let cell = |of: Option<&StepSummary>, what: Shown<'_>, is_first: bool| {
        html! {
            @if let Some(of) = of { td.right { (what(of)) } }
            @else if is_first { td.right.hint rowspan="6" { "did not run" } }
        }
    };
    html! {
        @for (index, (name, what)) in counters.into_iter().enumerate() {
            @let is_first = index == 0;
            @let differs = match ran_in_both { true => left.map(what) != right.map(what) && name != "took", false => is_first };
            tr.differs[differs] {
                @if is_first { th scope="rowgroup" rowspan="6" { (any.name) @if let Some(partition) = &any.partition { " " (partition) } } }
                td { (name) } (cell(left, what, is_first)) (cell(right, what, is_first))
            }
        }
    }
}
