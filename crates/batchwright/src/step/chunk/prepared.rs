//! A commit that a sink has and the store has not: the process died between the two.

use super::checkpoint::Checkpoint;
use crate::error::{ItemError, ItemErrorText, RepositoryError, StepError};
use crate::execution::{Counters, SkipRecord};
use crate::item::{ChunkTransaction, PreparedCommit};
use crate::scope::StepScope;
use crate::step::{Commit, StepRun};

/// Returns the commit that a sink stores with its own: the sequence number, the checkpoint, the change of the counters, the skips,
/// and what changed in the contexts.
pub(super) fn prepared_of(
    scope: &StepScope,
    sequence: u64,
    checkpoint: &str,
    counters: Counters,
    skips: &[SkipRecord],
) -> PreparedCommit {
    PreparedCommit {
        sequence,
        checkpoint: checkpoint.to_owned(),
        counters,
        skips: skips.to_vec(),
        step_context: scope.context().change_json(),
        job_context: scope.job().context().change_json(),
    }
}

/// Compares the last commit in a sink with the repository's. When the sink has one commit more, because the
/// process died between the two commits, completes that commit in the repository.
pub(super) fn finish_prepared(
    run: &mut StepRun<'_>,
    checkpoint: &Checkpoint,
    prepared: PreparedCommit,
) -> Result<Checkpoint, StepError> {
    let scope = run.scope.clone();
    if prepared.sequence == checkpoint.sequence {
        return Ok(checkpoint.clone());
    }
    if prepared.sequence != checkpoint.sequence + 1 {
        let (ours, theirs) = (checkpoint.sequence, prepared.sequence);
        let error = ItemError::fatal(format!(
            "cannot continue after commit {ours}: the sink is at commit {theirs}; check whether one of them was replaced or \
             restored from a backup"
        ));
        let (step, source) = (scope.step().to_owned(), ItemErrorText(error));
        return Err(StepError::Component { step, part: "writer", action: "open", source });
    }
    let reached =
        Checkpoint::parse(&prepared.checkpoint).map_err(|source| run.commit_failed(source))?;
    for (context, json) in
        [(scope.context(), &prepared.step_context), (scope.job().context(), &prepared.job_context)]
    {
        json.as_deref().map_or(Ok(()), |json| context.adopt(json)).map_err(|error| {
            let what = format!("the context in a sink: {error}");
            run.commit_failed(RepositoryError::Corrupt { what })
        })?;
    }
    let mut counters = run.step.counters;
    counters += prepared.counters;
    let transaction = ChunkTransaction::new(run.store(), &scope, prepared.sequence);
    let commit = Commit {
        counters,
        checkpoint: &prepared.checkpoint,
        skips: &prepared.skips,
        progress: None,
        times: None,
    };
    run.commit(transaction, commit).map_err(|source| run.commit_failed(source))?;
    for skip in prepared.skips {
        *run.prepared_skips.entry(skip.kind).or_default() += 1;
    }
    Ok(reached)
}
