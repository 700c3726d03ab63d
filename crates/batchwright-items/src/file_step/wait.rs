//! The kind `wait_for`.

use std::path::PathBuf;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::error::ErrorKind;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{Keys, Problem, Text, duration};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::files_of;
use crate::transport::modified;

/// The kind `wait_for`.
pub(crate) struct WaitKind;

/// Waits until a file exists and does not grow any more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WaitKeys {
    /// The file, or a pattern in the name of which at least one file must match: `*` matches any characters, `?` one.
    path: Text,
    /// The time after which the step fails, such as `2h`; a restart waits as long again.
    timeout: Text,
    /// How long neither the files nor their sizes and times of modification may change. Default: `2s`; `0s` accepts a file at once.
    stable: Option<Text>,
    /// Time between two looks. Default: `1s`.
    every: Option<Text>,
}

impl ItemKind for WaitKind {
    fn name(&self) -> &'static str {
        "wait_for"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().tasklet::<WaitKeys>().step_restarts("It waits again, as long.")
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let WaitKeys { path, timeout, stable, every } = keys.parse()?;
        let or = |text: Option<&Text>, default| text.map_or(Ok(default), duration);
        let wait = Wait {
            path: cx.path(&path)?,
            timeout: duration(&timeout)?,
            stable: or(stable.as_ref(), Duration::from_secs(2))?,
            every: or(every.as_ref(), Duration::from_secs(1))?,
        };
        if wait.every.is_zero() {
            return Err(keys.problem_at("every", "the time between two looks must be above zero"));
        }
        if wait.timeout < wait.stable {
            let message = "`timeout` must not be shorter than `stable`, which is `2s` by default";
            return Err(keys.problem_at("timeout", message));
        }
        Ok(Box::new(wait))
    }
}

struct Wait {
    path: Make<PathBuf>,
    timeout: Duration,
    stable: Duration,
    every: Duration,
}

impl Tasklet for Wait {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope();
        let path = (self.path)(scope)?;
        let clock = SystemClock::default();
        let begun = clock.elapsed();
        let (mut seen, mut since) = (Vec::new(), begun);
        loop {
            let found = look(&path)?;
            let now = clock.elapsed();
            if found != seen {
                (seen, since) = (found, now);
            }
            let (waited, unchanged) = (now - begun, now - since);
            if !seen.is_empty() && unchanged >= self.stable {
                return Ok(Flow::Finished);
            }
            if waited >= self.timeout {
                let what = if seen.is_empty() { "does not exist" } else { "still changes" };
                return Err(ItemError::new(
                    ErrorKind::new("io.timeout"),
                    format!("`{}` {what} after {:?}", path.display(), self.timeout),
                ));
            }
            let rest = if seen.is_empty() { self.every } else { self.stable - unchanged };
            let pause = self.every.min(rest).min(self.timeout - waited);
            scope.stop().wait(pause);
            if scope.stop().is_requested() {
                return Err(ItemError::stopped("a stop was requested while a file was awaited"));
            }
        }
    }
}

/// Returns the files of `path` with their sizes and times of modification.
fn look(path: &std::path::Path) -> Result<Vec<(PathBuf, u64, i64)>, ItemError> {
    let mut seen = Vec::new();
    for file in files_of(path)? {
        // A file that was removed in this moment is not there.
        if let Ok(found) = std::fs::metadata(&file) {
            seen.push((file, found.len(), modified(&found)));
        }
    }
    Ok(seen)
}
