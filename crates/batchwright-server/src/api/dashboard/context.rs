//! The contexts of an execution: what its job and its steps have kept, and a form that corrects that of the job.

use axum::response::Response;
use batchwright::context::ExecutionContext;
use batchwright::execution::{JobExecution, StepExecution};
use maud::{Markup, html};

use super::super::Problem;
use super::super::access::Role;
use super::super::body::Id;
use super::form::Fields;
use super::parts::cut;
use super::view::View;

/// Letters of a context that are shown, and most contexts of steps.
const LETTERS_SHOWN: usize = 20_000;
const STEPS_SHOWN: usize = 20;
/// Longest context that a form takes: it sends it twice, with up to three bytes for each, and a request has 1 MiB.
const BYTES_MAX: usize = 64 * 1024;

/// The contexts of the steps that have one, by the name of the step.
pub(super) type StepContexts = Vec<(String, String)>;

/// Returns the contexts of the steps that have one.
pub(super) fn of_steps(steps: &[StepExecution]) -> StepContexts {
    let kept = steps.iter().filter(|step| !step.context.is_empty());
    kept.take(STEPS_SHOWN).map(|step| (step.name.clone(), step.context.to_json())).collect()
}

/// The section of the execution's page; nothing when no context has a value and none can be given one.
pub(super) fn section(
    view: &View,
    row: &JobExecution,
    is_newest: bool,
    steps: &StepContexts,
) -> Markup {
    let may_change = row.status.is_restartable() && is_newest && view.may(Role::Admin);
    let text = row.context.to_json();
    html! {
        @if !row.context.is_empty() || !steps.is_empty() || may_change {
            section aria-labelledby="contexts" {
                h2 #contexts { "Contexts" }
                @if row.context.is_empty() { p.empty { "The context of the job is empty." } }
                @else { h3 { "Of the job" } pre tabindex="0" { (cut(&text, LETTERS_SHOWN)) } }
                @if may_change && text.len() <= BYTES_MAX { (form(view, row, &text)) }
                @for (step, text) in steps { h3 { "Of step " (step) } pre tabindex="0" { (cut(text, LETTERS_SHOWN)) } }
            }
        }
    }
}

fn form(view: &View, row: &JobExecution, text: &str) -> Markup {
    html! {
        details.ask {
            summary.button { "Change the context of the job…" }
            div { (view.form(&format!("/executions/{}/context", row.id), &html! {
                p { "The execution that restarts this one reads it. The code of the job decides what its values mean: a wrong one can repeat or lose work." }
                input type="hidden" name="before" value=(text);
                label for="context" { "A JSON object" }
                textarea #context name="context" rows="8" spellcheck="false" { "\n" (text) }
                button.danger { "Replace" }
            })) }
        }
    }
}

/// Replaces the context of the job; only if it still is the one that the person has seen.
pub(super) async fn replace(view: View, Id(id): Id, fields: Fields) -> Result<Response, Problem> {
    let parsed = |name: &str| {
        let text = fields.text(name);
        if text.len() > BYTES_MAX {
            return Err(Problem::invalid(format!(
                "a context of more than {BYTES_MAX} bytes is not changed by a form"
            )));
        }
        ExecutionContext::from_json(text).map_err(|error| {
            Problem::invalid(format!("the context is no JSON object: {error}; nothing was changed"))
        })
    };
    let (before, context) = (parsed("before")?, parsed("context")?);
    view.give(move |view| {
        let changed = view.operator().replace_context(id, &before, &context)?;
        let detail =
            format!("{} → {}", cut(&before.to_json(), 500), cut(&changed.context.to_json(), 500));
        view.api.audit(&view.who(), "set context", &format!("execution {id}"), Some(&detail));
        Ok(format!("/executions/{id}"))
    })
    .await
}
