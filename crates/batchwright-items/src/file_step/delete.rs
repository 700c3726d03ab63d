//! The kind `delete`.

use std::path::PathBuf;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{failed, modified, remove};
use crate::files::files_of;
use crate::key::{Keys, Problem, Text, duration};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};

/// The kind `delete`.
pub(crate) struct DeleteKind;

/// Deletes files. Files that do not exist are no error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteKeys {
    /// The file, or files by a pattern in the name: `*` matches any characters, `?` one.
    path: Text,
    /// Deletes only files that were not modified for this long, such as `30d`, when the step begins.
    older_than: Option<Text>,
    /// Number of newest files that are kept. Default: 0.
    #[serde(default)]
    keep: usize,
}

impl ItemKind for DeleteKind {
    fn name(&self) -> &'static str {
        "delete"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().tasklet::<DeleteKeys>()
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let DeleteKeys { path, older_than, keep } = keys.parse()?;
        let older_than = older_than.as_ref().map(duration).transpose()?;
        Ok(Box::new(Delete { path: cx.output_path(&path)?, older_than, keep }))
    }
}

struct Delete {
    path: Make<PathBuf>,
    older_than: Option<Duration>,
    keep: usize,
}

/// The name in the step's context under which the plan is stored.
const PLAN: &str = "files";

impl Tasklet for Delete {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        if !scope.context().has(PLAN) {
            // A restart deletes these files, and not those that are old by then.
            let path = (self.path)(&scope)?;
            scope.context().put(PLAN, &self.plan(&path, now())?)?;
            return Ok(Flow::Continue);
        }
        let planned: Vec<PathBuf> = scope.context().get(PLAN)?;
        for path in &planned {
            remove(path)?;
        }
        call.contribute(planned.len() as u64, planned.len() as u64);
        Ok(Flow::Finished)
    }
}

impl Delete {
    fn plan(&self, path: &std::path::Path, now: i64) -> Result<Vec<PathBuf>, ItemError> {
        let mut files = Vec::new();
        for path in files_of(path)? {
            let found = std::fs::metadata(&path).map_err(|error| failed("read", &path, error))?;
            files.push((modified(&found), path));
        }
        // The newest first; of two files of one time, the name decides.
        files.sort_by(|one, other| other.cmp(one));
        let age =
            self.older_than.map_or(0, |age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let is_old =
            |modified: i64| self.older_than.is_none() || modified <= now.saturating_sub(age);
        let old = files.into_iter().skip(self.keep).filter(|(modified, _)| is_old(*modified));
        Ok(old.map(|(_, path)| path).collect())
    }
}

/// Returns the time in nanoseconds since 1970.
fn now() -> i64 {
    i64::try_from(SystemClock::default().now().as_nanosecond()).unwrap_or(i64::MAX)
}
