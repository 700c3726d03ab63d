//! Progressive executions: their units, their lanes, and whether slices end in time.

use axum::response::Response;
use batchwright::BatchStatus;
use batchwright::execution::{ExecutionId, JobExecution};
use batchwright::operator::{OperatorError, Refusal};
use batchwright::progressive::{SliceError, UnitProgress};
use batchwright::query::ExecutionFilter;
use batchwright::store::ProgressiveState;
use maud::{Markup, html};

use super::super::Problem;
use super::parts::{ago, count_of, duration, job_path, number, rate, status, table};
use super::view::View;

/// Most executions that the page lists; each needs statements of its own.
const ROWS: usize = 20;
/// Running executions among which they are looked for.
const RUNNING_MAX: usize = 500;
/// Most lanes that are listed.
const LANES_SHOWN: usize = 100;

/// What the store says of a progressive execution.
pub(super) struct Progress {
    units: UnitProgress,
    state: ProgressiveState,
}

impl Progress {
    /// Returns the progress of an execution; `None` when it is not progressive, or for the owner of its token only.
    pub(super) fn read(view: &View, id: ExecutionId) -> Result<Option<Self>, Problem> {
        match view.operator().progressive().progressive_state(id, None) {
            Ok((execution, state)) => {
                Ok(Some(Self { units: UnitProgress::of(&execution, &state), state }))
            }
            Err(
                SliceError::NotProgressive { .. }
                | SliceError::Operator(OperatorError::Refused(Refusal::WrongOwner { .. })),
            ) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn units(&self) -> Markup {
        let units = &self.units;
        let ended = units.units_done + units.units_failed;
        html! {
            @if let Some(total) = units.units_total { progress value=(ended) max=(total.max(1)) aria-label="Share of units that ended" {} (number(ended)) " of " (number(total)) }
            @else { (number(ended)) " of an unknown number" }
            @if units.units_failed > 0 { ", " (number(units.units_failed)) " failed" }
            @if units.status.is_running() && units.units_per_second > 0.0 { span.figures { " " (rate(units.units_per_second)) } }
            @if let Some(eta) = units.eta_ms { span.hint title="by the speed of the lanes" { " about " (duration(std::time::Duration::from_millis(eta).as_secs_f64())) " left" } }
        }
    }

    /// The section of the execution's page.
    pub(super) fn section(&self, view: &View) -> Markup {
        let lanes = &self.state.lanes;
        html! {
            section aria-labelledby="units" {
                h2 #units { "Units" }
                p.progress { (self.units()) }
                (table("Lanes", &["Lane", "State", ">Slices", ">Last slice", "Against the target", "Held by"], &html! { @for lane in lanes.iter().take(LANES_SHOWN) {
                    @let is_live = lane.is_live(view.now);
                    tr {
                        td { (lane.rank) }
                        td { @if is_live { "a slice runs" } @else if self.units.status.is_running() { "waits for a request" } @else { "ended" } }
                        td.right { (number(lane.slices)) }
                        td.right { @if lane.slices > 0 { (duration(lane.last_slice.as_secs_f64())) } }
                        td.progress { @if lane.slices > 0 { (self.against_target(lane.last_slice)) } }
                        td { @if is_live { code { (lane.owner.as_deref().unwrap_or("")) } } }
                    }
                } }))
                @if lanes.len() > LANES_SHOWN { p.hint { "The first " (LANES_SHOWN) " of " (count_of(lanes.len(), "lane")) "." } }
            }
        }
    }

    /// How long a slice took beside the target.
    fn against_target(&self, slice: std::time::Duration) -> Markup {
        let target = self.state.row.target;
        let is_over = slice > target;
        html! {
            meter min="0" max=(target.as_millis()) high=(target.as_millis()) value=(slice.min(target).as_millis()) aria-label="share of the target" {}
            span.figures { "target " (duration(target.as_secs_f64())) @if is_over { ", " b { "missed" } } }
        }
    }
}

pub(super) async fn page(view: View) -> Result<Response, Problem> {
    view.write(|view| {
        let begun =
            ExecutionFilter::default().status(BatchStatus::Started).status(BatchStatus::Stopping);
        let running = view.operator().queries().executions(&begun.limit(RUNNING_MAX))?;
        let is_cut = running.len() == RUNNING_MAX;
        // A progressive execution has no owner: its lanes have one each.
        let ours = |one: &JobExecution| one.owner.is_none() && one.started_at.is_some();
        let open: Vec<_> = running.into_iter().filter(ours).collect();
        let mut rows = Vec::new();
        for one in open.iter().take(ROWS) {
            rows.push((one, Progress::read(view, one.id)?));
        }
        Ok(("Progressive".to_owned(), content(view, &rows, open.len(), is_cut)))
    })
    .await
}

fn content(
    view: &View,
    rows: &[(&JobExecution, Option<Progress>)],
    open: usize,
    is_cut: bool,
) -> Markup {
    html! {
        h1 { "Progressive executions" }
        @if rows.is_empty() {
            p.empty { "None is open. A job with a step of type " code { "progressive" } " is done in slices by short requests: " a href=(view.url("/book/progressive")) { "the book" } "." }
        } @else {
            (table("Progressive executions", &["Execution", "Job", "Status", "Units", "Lanes", "Longest last slice", "Accepted"], &html! { @for (one, progress) in rows { tr {
                td { (view.execution(one.id)) }
                td { a href=(view.url(&job_path(&one.job))) { (one.job) } }
                td { (status(one.status, false)) }
                @match progress {
                    None => td colspan="3" { span.hint { "It has an owner's token: its progress is for its owner." } },
                    Some(progress) => {
                        td.wide { (progress.units()) }
                        td { (lanes_of(view, progress)) }
                        td { (slices_of(progress)) }
                    }
                }
                td { (ago(one.created_at, view.now)) }
            } } }))
            @if is_cut { p.hint { "Of the newest " (number(RUNNING_MAX as u64)) " running executions." } }
            @if open > rows.len() { p.hint { "The newest " (rows.len()) " of " (number(open as u64)) "." } }
        }
    }
}

fn lanes_of(view: &View, progress: &Progress) -> Markup {
    let lanes = &progress.state.lanes;
    let live = lanes.iter().filter(|lane| lane.is_live(view.now)).count();
    html! { (live) " of " (lanes.len()) " at work, " @if progress.state.row.is_server_driven { "driven by servers" } @else { "driven by clients" } }
}

fn slices_of(progress: &Progress) -> Markup {
    let took = progress.state.lanes.iter().filter(|lane| lane.slices > 0);
    let longest = took.map(|lane| lane.last_slice).max();
    html! { @match longest { None => span.hint { "none yet" }, Some(longest) => { (duration(longest.as_secs_f64())) " " (progress.against_target(longest)) } } }
}
