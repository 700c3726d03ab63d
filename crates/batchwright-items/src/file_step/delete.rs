//! The kind `delete`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FILES_PER_CALL, KnownFile, PLANNED_MAX, remove_all};
use crate::key::{Keys, Problem, Text, duration};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::files_of;

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
        KindSchema::default()
            .tasklet::<DeleteKeys>()
            .step_restarts("Exact: what was planned is finished, and nothing else is removed.")
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

/// The files to delete; stored in the step's context.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    files: Vec<KnownFile>,
    done: usize,
    /// Whether there are more than fit into one plan.
    is_part: bool,
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
        let mut plan: Plan = scope.context().get(PLAN)?;
        let batch: Vec<_> =
            plan.files.iter().skip(plan.done).take(FILES_PER_CALL).cloned().collect();
        remove_all(&batch)?;
        plan.done += batch.len();
        call.contribute(batch.len() as u64, batch.len() as u64);
        match plan.done == plan.files.len() {
            true if plan.is_part => scope.context().remove(PLAN),
            true => return Ok(Flow::Finished),
            false => scope.context().put(PLAN, &plan)?,
        }
        Ok(Flow::Continue)
    }
}

impl Delete {
    fn plan(&self, path: &Path, now: i64) -> Result<Plan, ItemError> {
        let mut files = KnownFile::all(files_of(path)?, false)?;
        // The newest first; of two files of one time, the name decides.
        files.sort_by(|one, other| (other.modified, &other.path).cmp(&(one.modified, &one.path)));
        let age =
            self.older_than.map_or(0, |age| i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
        let oldest = now.saturating_sub(age);
        let is_old = |file: &KnownFile| self.older_than.is_none() || file.modified <= oldest;
        let mut files: Vec<_> = files.into_iter().skip(self.keep).filter(is_old).collect();
        let is_part = files.len() > PLANNED_MAX;
        // The oldest of them first.
        files.reverse();
        files.truncate(PLANNED_MAX);
        Ok(Plan { files, done: 0, is_part })
    }
}

/// Returns the time in nanoseconds since 1970.
fn now() -> i64 {
    i64::try_from(SystemClock::default().now().as_nanosecond()).unwrap_or(i64::MAX)
}
