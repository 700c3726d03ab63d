//! The processor `deduplicate`: the first record of each key.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright_items::{Keys, Problem, Record};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Clean, Regroup, key_of};

/// Maximum number of keys without `keys_max`.
const KEYS_MAX: usize = 10_000_000;
/// Number of bytes of a digest that are kept.
const DIGEST_BYTES: usize = 16;

/// Keeps the first record of each key and drops the others. A digest of each key, 16 bytes, is in memory; after a restart the
/// records before its position are read again for them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeduplicateKeys {
    /// The fields whose values are the key, compared as text.
    by: Vec<String>,
    /// Maximum number of keys; more fail the step. Default: 10,000,000.
    keys_max: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Deduplicate {
    by: Arc<[Arc<str>]>,
    keys_max: usize,
}

impl Deduplicate {
    pub(super) fn build(keys: Keys<'_>) -> Result<Self, Problem> {
        let DeduplicateKeys { by, keys_max } = keys.parse()?;
        if by.is_empty() {
            return Err(keys.problem_at("by", "`by` has at least one name"));
        }
        let by = by.iter().map(|name| Arc::from(name.as_str())).collect();
        Ok(Self { by, keys_max: keys_max.unwrap_or(KEYS_MAX) })
    }

    pub(super) fn start(&self) -> Box<dyn Regroup> {
        Box::new(Seen { settings: self.clone(), keys: HashSet::new() })
    }

    pub(super) fn needed(&self) -> Vec<(&'static str, &str)> {
        self.by.iter().map(|name| ("`by`", &**name)).collect()
    }
}

struct Seen {
    settings: Deduplicate,
    keys: HashSet<[u8; DIGEST_BYTES]>,
}

impl Regroup for Seen {
    fn take(
        &mut self,
        record: &Record,
        outputs: &mut VecDeque<Record>,
    ) -> Result<Clean, ItemError> {
        let key = key_of(record, &self.settings.by, "compare")?;
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&Sha256::digest(key.as_bytes())[..DIGEST_BYTES]);
        if self.keys.insert(digest) {
            if self.keys.len() > self.settings.keys_max {
                return Err(ItemError::fatal(format!(
                    "cannot find duplicates: there are more than {} keys (`keys_max`)",
                    self.settings.keys_max
                )));
            }
            outputs.push_back(record.clone());
        }
        Ok(Clean::No)
    }
}
