//! The kind `transfer`.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Placing, copy_bytes, place, within_bounds};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::location::Location;
use crate::transport::{InputIdentity, OpenSource};

/// The kind `transfer`.
pub(crate) struct TransferKind;

/// Transfers files to, from and between other places. Each appears complete under its name. With `remove`, each original is
/// removed once its copy is complete: a restart finishes what was begun, and leaves alone what arrived meanwhile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TransferKeys {
    /// The file, or files by a pattern in the name: `*` matches any characters, `?` one (not in a URL). A path or a URL.
    from: Text,
    /// The new path or URL, or a folder, which ends with `/`; a pattern needs a folder.
    to: Text,
    /// Whether the originals are removed. Default: false.
    #[serde(default)]
    remove: bool,
    /// Whether existing files are replaced. Default: true.
    replace: Option<bool>,
    /// Whether there may be no file. Default: false, and the step fails.
    #[serde(default)]
    optional: bool,
}

impl ItemKind for TransferKind {
    fn name(&self) -> &'static str {
        "transfer"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .tasklet::<TransferKeys>()
            .step_restarts("Exact: what was planned is finished; at most one file is copied again, and no original is removed that was not copied.")
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let TransferKeys { from, to, remove, replace, optional } = keys.parse()?;
        // A rehearsal must not remove a file outside of its folder either.
        let from = if remove { cx.output_location(&from)? } else { cx.location(&from)? };
        let (to, replace) = (cx.output_location(&to)?, replace.unwrap_or(true));
        Ok(Box::new(Transfer { from, to, remove, replace, optional }))
    }
}

struct Transfer {
    from: Make<Location>,
    to: Make<Location>,
    remove: bool,
    replace: bool,
    optional: bool,
}

/// What is left to do; stored in the step's context. It has no URLs, which may contain passwords.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    /// The names of the files in their folder; with `remove`, each as it was when the step began.
    files: Vec<(String, Option<InputIdentity>)>,
    done: usize,
    state: State,
}

/// What was done with the next file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Planned,
    /// It may be copied: what has the name of the copy by now is the copy.
    Begun,
    /// Its original is still to be removed.
    Copied,
}

/// The name in the step's context under which the plan is stored.
const PLAN: &str = "files";

impl Tasklet for Transfer {
    /// Each call does one thing, so that a restart knows what was done.
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        let (from, to) = ((self.from)(&scope)?, (self.to)(&scope)?);
        if !scope.context().has(PLAN) {
            scope.context().put(PLAN, &self.plan(&from, &to, &scope)?)?;
            return Ok(Flow::Continue);
        }
        let mut plan: Plan = scope.context().get(PLAN)?;
        let Some((name, planned)) = plan.files.get(plan.done) else { return Ok(Flow::Finished) };
        let original = from.beside(name);
        plan.state = match plan.state {
            // Only then is an existing file known to be none of ours.
            State::Planned if !self.replace => {
                let copy = to.file_within(name);
                if copy.find()?.is_some() {
                    return Err(exists(&copy));
                }
                State::Begun
            }
            State::Planned | State::Begun => {
                self.copy(&original, planned.as_ref(), &to.file_within(name), &scope)?;
                if self.remove { State::Copied } else { State::Planned }
            }
            State::Copied => {
                remove_original(&original, planned.as_ref())?;
                State::Planned
            }
        };
        if plan.state == State::Planned {
            plan.done += 1;
            call.contribute(1, 1);
        }
        let is_done = plan.done == plan.files.len();
        scope.context().put(PLAN, &plan)?;
        Ok(if is_done { Flow::Finished } else { Flow::Continue })
    }
}

impl Transfer {
    fn plan(&self, from: &Location, to: &Location, scope: &StepScope) -> Result<Plan, ItemError> {
        let found = match from.is_one() {
            true if self.optional && from.find()?.is_none() => Vec::new(),
            true => vec![from.clone()],
            false => from.matches(self.optional)?,
        };
        if !from.is_one() && !to.is_folder() {
            return Err(ItemError::fatal(format!(
                "cannot use `{}`: a pattern needs a folder to put the files into; end it with `/`",
                to.shown()
            )));
        }
        let found = within_bounds(found, Path::new(&from.shown()))?;
        let mut files = Vec::with_capacity(found.len());
        for file in found {
            if scope.stop().is_requested() {
                return Err(ItemError::stopped("a stop was requested while files were looked up"));
            }
            let name = file.name()?;
            let copy = to.file_within(&name);
            copy.check_writable("write")?;
            if copy.identity() == file.identity() {
                return Err(ItemError::fatal(format!(
                    "cannot write `{}`: it is the file itself",
                    copy.shown()
                )));
            }
            if !self.replace && copy.find()?.is_some() {
                return Err(exists(&copy));
            }
            let planned = match self.remove {
                true => Some(removable(&file)?),
                false => None,
            };
            files.push((name, planned));
        }
        Ok(Plan { files, done: 0, state: State::Planned })
    }

    /// Copies the file: a restart copies it again. An original that will be removed must be the one of the plan.
    fn copy(
        &self,
        original: &Location,
        planned: Option<&InputIdentity>,
        to: &Location,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        let source = original.content();
        let OpenSource { mut bytes, identity, length, held: _held } = source.open_at(0)?;
        if planned.is_some() && planned != identity.as_ref() {
            return Err(changed(original));
        }
        if !self.replace
            && let Some(existing) = to.find()?
        {
            // An earlier attempt has made it: there was none when the copy began.
            return match length == Some(existing.size) {
                true => Ok(()),
                false => Err(exists(to)),
            };
        }
        let mut bytes = Unchanged { bytes: &mut bytes, original, identity };
        let shown = original.shown();
        let shown = Path::new(&shown);
        match to {
            Location::File(path) => {
                let modified = identity.and_then(|identity| u64::try_from(identity.modified).ok());
                let modified = modified
                    .filter(|nanos| *nanos > 0)
                    .map(|nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
                let placing = Placing { modified, keeps_existing: !self.replace };
                place(path, scope, &placing, |part| {
                    let count = copy_bytes((shown, &mut bytes), part, scope.stop())?;
                    match length.is_none_or(|length| length == count) {
                        true => Ok(()),
                        false => Err(changed(original)),
                    }
                })?;
            }
            #[cfg(feature = "remote")]
            Location::Remote(file) => {
                let length = length.ok_or_else(|| {
                    ItemError::fatal(format!(
                        "cannot transfer `{}`: its length is unknown; transfer it to this machine first",
                        original.shown()
                    ))
                })?;
                file.put(scope, &mut bytes, length)?;
            }
        }
        Ok(())
    }
}

/// Returns what identifies the original, which can be removed and known from another file of its name.
fn removable(file: &Location) -> Result<InputIdentity, ItemError> {
    file.check_writable("remove")?;
    let found = file.find()?.ok_or_else(|| changed(file))?;
    match found.modified == 0 && found.inode == 0 {
        false => Ok(found),
        true => Err(ItemError::fatal(format!(
            "cannot remove `{}` after it is copied: its server tells no time of modification, by which another file of the name would be known",
            file.shown()
        ))),
    }
}

/// Removes the original of a copy, unless it was removed already or another file has its name by now.
fn remove_original(original: &Location, planned: Option<&InputIdentity>) -> Result<(), ItemError> {
    match original.find()? {
        None => Ok(()),
        Some(found) if planned == Some(&found) => original.remove(),
        Some(_) => {
            let name = original.shown();
            tracing::warn!(target: "batchwright::output", "{name} is left: it was changed after it was copied");
            Ok(())
        }
    }
}

/// The bytes of an original, which is still the same at their end; otherwise the end is an error, and nothing gets the name of
/// the copy.
struct Unchanged<'a> {
    bytes: &'a mut (dyn Read + Send),
    original: &'a Location,
    identity: Option<InputIdentity>,
}

impl Read for Unchanged<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(into)?;
        // A place checks its own files.
        if let (0, Location::File(_)) = (count, self.original)
            && !into.is_empty()
        {
            let now = self.original.find().map_err(|error| io::Error::other(error.into_boxed()))?;
            if now != self.identity {
                return Err(io::Error::other("the file was changed while it was copied"));
            }
        }
        Ok(count)
    }
}

fn exists(to: &Location) -> ItemError {
    ItemError::fatal(format!(
        "cannot write `{}`: it exists; remove it, or set `replace = true`",
        to.shown()
    ))
}

fn changed(original: &Location) -> ItemError {
    ItemError::new(
        ErrorKind::IO,
        format!("cannot transfer `{}`: it was removed or changed meanwhile", original.shown()),
    )
}
