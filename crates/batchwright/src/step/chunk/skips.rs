//! The skips of a chunk, those of an execution by kind, and the limit that one more of them exceeds.

use std::collections::BTreeMap;

use crate::error::{ErrorKind, ItemError};
use crate::execution::SkipRecord;
use crate::policy::{SkipLimitScope, SkipPolicy};

/// A skip of the current chunk: its record, and its source for the listeners.
pub(super) struct PendingSkip {
    /// 1-based record number within the chunk.
    pub(super) offset: u64,
    pub(super) record: SkipRecord,
    pub(super) source: SkipSource,
}

#[derive(Clone, Copy)]
pub(super) enum SkipSource {
    /// Index of the read failure.
    Read(usize),
    /// Index of the hole.
    Process(usize),
    /// Index of the output; its error is stored separately.
    Write(usize),
}

/// Number of skips of each kind of error in this execution, if the policy has limits for kinds.
pub(super) struct Skips<'a> {
    policy: &'a SkipPolicy,
    counts: BTreeMap<String, u64>,
}

/// A limit of skips that is reached, and the kind to which it applies.
pub(super) struct SpentLimit {
    pub(super) limit: u64,
    pub(super) kind: Option<String>,
}

impl<'a> Skips<'a> {
    /// Returns the skips under `policy`, beginning with `counts`.
    pub(super) fn of(policy: &'a SkipPolicy, counts: BTreeMap<String, u64>) -> Self {
        Self { policy, counts }
    }

    pub(super) fn count(&mut self, error: &ItemError) {
        if !self.policy.limits.is_empty() {
            *self.counts.entry(error.kind().name().to_owned()).or_default() += 1;
        }
    }

    /// Returns the limit that one more skip because of `error` exceeds, after `total` skips of this execution and `earlier` ones
    /// of the instance.
    pub(super) fn spent(
        &self,
        error: &ItemError,
        total: u64,
        earlier: &BTreeMap<String, u64>,
    ) -> Option<SpentLimit> {
        let policy = self.policy;
        let of_earlier = |kind: &str| match policy.scope {
            SkipLimitScope::Execution => 0,
            SkipLimitScope::Instance => skips_of(earlier, kind),
        };
        if of_earlier("") + total >= policy.limit {
            return Some(SpentLimit { limit: policy.limit, kind: None });
        }
        let spent = policy.limits.iter().find(|(kind, limit)| {
            error.kind().is_a(kind) && of_earlier(kind) + skips_of(&self.counts, kind) >= *limit
        });
        spent.map(|(kind, limit)| SpentLimit { limit: *limit, kind: Some(kind.clone()) })
    }
}

/// Returns the number of skips of `kind` and its children; of all kinds if it is empty.
fn skips_of(skips: &BTreeMap<String, u64>, kind: &str) -> u64 {
    let is_a = |name: &str| kind.is_empty() || ErrorKind::new(name.to_owned()).is_a(kind);
    skips.iter().filter(|(name, _)| is_a(name)).map(|(_, count)| count).sum()
}
