//! The chunk bounds, skip policies and retry policies of job files.

use std::time::Duration;

use batchwright::execution::Phase;
use batchwright::policy::{Classifier, Completion, SkipLimitScope, SkipPolicy};
use batchwright::retry::{Backoff, RetryPolicy};
use batchwright_items::{At, Problem, Text, duration};

use super::Built;
use crate::definition::{self, Chunk, ChunkBounds, Retry, Skip};

pub(super) fn completion(spanned: &At<Chunk>) -> Built<Completion> {
    let (items, seconds) = match spanned.get_ref() {
        Chunk::Items(items) => (Some(*items), None),
        Chunk::Bounds(ChunkBounds { items, seconds }) => (*items, *seconds),
    };
    let items = items.unwrap_or(Completion::ITEMS_DEFAULT as u64);
    let items = usize::try_from(items).ok().filter(|items| (1..=10_000_000).contains(items));
    let items =
        items.ok_or_else(|| Problem::at(spanned, "a chunk has between 1 and 10000000 items"))?;
    let completion = Completion::items(items);
    match seconds {
        None => Ok(completion),
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| !time.is_zero())
            .map(|time| completion.within(time))
            .ok_or_else(|| Problem::at(spanned, "the seconds of a chunk must be above zero")),
    }
}

pub(super) fn skip_policy(skip: &At<Skip>) -> Built<SkipPolicy> {
    let Skip { limit, on, scope, .. } = skip.get_ref();
    let mut policy = SkipPolicy::limit(*limit);
    let words = on.as_deref().unwrap_or_default();
    let phase = |word: &str| {
        [Phase::Read, Phase::Process, Phase::Write].into_iter().find(|phase| phase.name() == word)
    };
    let phases: Vec<_> = words.iter().filter_map(|word| phase(word.get_ref())).collect();
    let kinds: Vec<_> = words.iter().filter(|word| phase(word.get_ref()).is_none()).collect();
    if !phases.is_empty() {
        policy = policy.in_phases(phases);
    }
    if !kinds.is_empty() {
        policy = policy.on(classifier(&kinds, Classifier::records())?);
    }
    match scope.as_ref().map(|scope| (scope, scope.get_ref().as_str())) {
        None | Some((_, "execution")) => Ok(policy),
        Some((_, "instance")) => Ok(policy.scope(SkipLimitScope::Instance)),
        Some((scope, other)) => Err(Problem::at(
            scope,
            format!("there is no scope `{other}`; there are: execution, instance"),
        )),
    }
}

/// Returns the classifier of the kinds in `words`; `!kind` excludes a kind from `otherwise`.
fn classifier(words: &[&Text], otherwise: Classifier) -> Built<Classifier> {
    let included = words.iter().any(|word| !word.get_ref().starts_with('!'));
    let start = if included { Classifier::none() } else { otherwise };
    words.iter().try_fold(start, |classifier, word| {
        let text = word.get_ref();
        let (excluded, kind) = match text.strip_prefix('!') {
            Some(kind) => (true, kind),
            None => (false, text.as_str()),
        };
        // User code may have further kinds, but all kinds of job files begin with one of these roots.
        let roots = ["data", "io", "sql", "panic", "fatal", "other"];
        if !roots.contains(&kind.split('.').next().unwrap_or_default()) {
            let known = format!("read, process, write, {}", roots.join(", "));
            return Err(Problem::at(
                word,
                format!("there is no phase or kind `{kind}`; there are: {known}"),
            ));
        }
        Ok(match excluded {
            true => classifier.excluding(kind),
            false => classifier.including(kind),
        })
    })
}

pub(super) fn retry_policy(retry: &At<Retry>) -> Built<RetryPolicy> {
    let Retry { max_attempts, on, backoff, within, or } = retry.get_ref();
    let mut policy = RetryPolicy::attempts(max_attempts.get());
    if let Some(words) = on {
        policy = policy.on(classifier(&words.iter().collect::<Vec<_>>(), Classifier::all())?);
    }
    if let Some(within) = within {
        policy = policy.within(duration(within)?);
    }
    if let Some(backoff) = backoff {
        policy = policy.backoff(wait_between(backoff)?);
    }
    or.iter().try_fold(policy, |policy, other| Ok(policy.or(retry_policy(other)?)))
}

fn wait_between(backoff: &At<definition::Backoff>) -> Built<Backoff> {
    let definition::Backoff { initial, multiplier, min, max, jitter } = backoff.get_ref();
    let (initial, max) = match (initial, min, max) {
        (Some(initial), None, max) => (duration(initial)?, max.as_ref().map(duration).transpose()?),
        (None, Some(min), Some(max)) if multiplier.is_none() && !jitter => {
            let (min, max) = (duration(min)?, duration(max)?);
            if min > max {
                return Err(Problem::at(backoff, "`min` is above `max`"));
            }
            return Ok(Backoff::Uniform { min, max });
        }
        _ => {
            let message = "`backoff` needs `initial` (with `multiplier`, `max`, `jitter`), or `min` and `max`";
            return Err(Problem::at(backoff, message));
        }
    };
    let multiplier = multiplier.unwrap_or(1.0);
    if !(1.0..=1_000.0).contains(&multiplier) {
        return Err(Problem::at(backoff, "a multiplier is between 1 and 1000"));
    }
    let endless = if multiplier > 1.0 { Duration::from_secs(3600) } else { initial };
    let max = max.unwrap_or(endless);
    Ok(Backoff::Exponential { initial, multiplier, max, jitter: *jitter })
}
