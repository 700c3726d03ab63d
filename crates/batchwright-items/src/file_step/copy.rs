//! The kinds `copy` and `move`.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{OpenPath, PathUse};
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    FILES_PER_CALL, KnownFile, Placing, absolute, copy_bytes, failed, made_folder_of, place,
    remove, sync_folder, within_bounds,
};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::{files_of, folder_of, is_pattern, some_files_of};
use crate::transport::modified;

/// The kinds `copy` and `move`.
pub(crate) struct CopyKind {
    removes: bool,
}

impl CopyKind {
    /// The kind `copy`.
    pub(crate) const COPY: Self = Self { removes: false };
    /// The kind `move`.
    pub(crate) const MOVE: Self = Self { removes: true };
}

/// Copies or moves files. Each appears complete under its name, with its time of modification. A move takes each once: a
/// restart finishes what was begun, and leaves alone what arrived meanwhile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CopyKeys {
    /// The file, or files by a pattern in the name: `*` matches any characters, `?` one.
    from: Text,
    /// The new path, or a folder, which ends with `/` or exists; a pattern needs a folder.
    to: Text,
    /// Whether existing files are replaced. Default: true.
    replace: Option<bool>,
    /// Whether there may be no file. Default: false, and the step fails.
    #[serde(default)]
    optional: bool,
}

impl ItemKind for CopyKind {
    fn name(&self) -> &'static str {
        if self.removes { "move" } else { "copy" }
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .tasklet::<CopyKeys>()
            .step_restarts("Exact: what was planned is finished, each file once.")
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let CopyKeys { from, to, replace, optional } = keys.parse()?;
        // A rehearsal must not remove a file outside of its folder either.
        let from = if self.removes { cx.output_path(&from)? } else { cx.path(&from)? };
        let (to, replace) = (cx.output_path(&to)?, replace.unwrap_or(true));
        Ok(Box::new(Copying { from, to, replace, optional, removes: self.removes }))
    }
}

/// Copies files, and removes the originals if it moves them.
struct Copying {
    from: Make<PathBuf>,
    to: Make<PathBuf>,
    replace: bool,
    optional: bool,
    removes: bool,
}

/// The files to transfer, and how many are done; stored in the step's context.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    files: Vec<(KnownFile, PathBuf)>,
    done: usize,
}

/// The name in the step's context under which the plan is stored.
const PLAN: &str = "files";

/// Largest difference between the times of a file and its copy, in nanoseconds: some file systems keep only even seconds.
const TIMES_BOUND: u64 = 2_000_000_000;

impl Tasklet for Copying {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        if !scope.context().has(PLAN) {
            scope.context().put(PLAN, &self.plan(&scope)?)?;
            return Ok(Flow::Continue);
        }
        let mut plan: Plan = scope.context().get(PLAN)?;
        let batch = plan.files.iter().skip(plan.done).take(FILES_PER_CALL);
        let mut count = 0;
        for (from, to) in batch.take_while(|_| !scope.stop().is_requested()) {
            match self.removes {
                true => self.move_one(from, to, &scope)?,
                false => self.copy_one(&from.path, to, &scope)?,
            }
            count += 1;
        }
        plan.done += count;
        call.contribute(count as u64, count as u64);
        let is_done = plan.done == plan.files.len();
        scope.context().put(PLAN, &plan)?;
        Ok(if is_done { Flow::Finished } else { Flow::Continue })
    }
}

impl Copying {
    fn plan(&self, scope: &StepScope) -> Result<Plan, ItemError> {
        let (from, to) = ((self.from)(scope)?, (self.to)(scope)?);
        let found = if self.optional { files_of(&from)? } else { some_files_of(&from)? };
        let found = within_bounds(found, &from)?;
        let is_folder = to.as_os_str().as_encoded_bytes().ends_with(b"/") || to.is_dir();
        if is_pattern(&from) && !is_folder {
            return Err(ItemError::fatal(format!(
                "cannot use `{}`: a pattern needs a folder to put the files into; end it with `/`",
                to.display()
            )));
        }
        let to = absolute(&to)?;
        let mut files = Vec::with_capacity(found.len());
        for from in KnownFile::all(found, self.removes)? {
            let name = from.path.file_name().unwrap_or_default();
            let to = if is_folder { to.join(name) } else { to.clone() };
            let existing = KnownFile::at(&to)?;
            if from.path == to {
                return Err(itself(&to));
            }
            if !self.replace && existing.is_some() {
                return Err(exists(&to));
            }
            files.push((from, to));
        }
        Ok(Plan { files, done: 0 })
    }

    fn placing(&self, found: &fs::Metadata) -> Placing {
        Placing { modified: found.modified().ok(), keeps_existing: !self.replace }
    }

    /// Copies the file as it is now: a restart copies it again.
    fn copy_one(&self, from: &Path, to: &Path, scope: &StepScope) -> Result<(), ItemError> {
        let in_from = |error| failed("read", from, error);
        let _claim = OpenPath::claim(from, PathUse::Input)?;
        let mut original = File::open(from).map_err(in_from)?;
        let found = original.metadata().map_err(in_from)?;
        if let Some(existing) = KnownFile::at(to)? {
            if (found.dev(), found.ino()) == (existing.device, existing.inode) {
                return Err(itself(to));
            }
            if !self.replace {
                // An earlier attempt may have made it.
                return match is_copy((found.len(), modified(&found)), &existing) {
                    true => Ok(()),
                    false => Err(exists(to)),
                };
            }
        }
        place(to, scope, &self.placing(&found), |part| {
            let copied = copy_bytes((from, &mut original), part, scope.stop())?;
            part.set_permissions(found.permissions())
                .map_err(|error| failed("write", to, error))?;
            let now = original.metadata().map_err(in_from)?;
            match copied == now.len() && modified(&now) == modified(&found) {
                true => Ok(()),
                false => Err(changed("copy", from)),
            }
        })
    }

    fn move_one(&self, from: &KnownFile, to: &Path, scope: &StepScope) -> Result<(), ItemError> {
        let existing = KnownFile::at(to)?;
        if !from.is_there()? {
            // An earlier attempt has moved the file; another one may have its name by now.
            return match existing.is_some_and(|at| is_copy((from.size, from.modified), &at)) {
                true => Ok(()),
                false => Err(changed("move", &from.path)),
            };
        }
        let _claim = OpenPath::claim(&from.path, PathUse::Input)?;
        made_folder_of(to)?;
        match &existing {
            Some(existing) if from.is_same_file(existing) => {
                // Two names of one file, which an earlier attempt has made or which were there; or one name, by two ways.
                let found = fs::symlink_metadata(to).map_err(|error| failed("read", to, error))?;
                if found.nlink() < 2 {
                    return Err(itself(to));
                }
            }
            Some(_) if !self.replace => return Err(exists(to)),
            _ => match self.rename(&from.path, to) {
                Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                    self.copy_one(&from.path, to, scope)?;
                }
                done => done.map_err(|error| failed("move to", to, error))?,
            },
        }
        if from.is_there()? {
            remove(&from.path)?;
        } else if KnownFile::at(&from.path)?.is_some_and(|now| now.is_same_file(from)) {
            // Bytes that were appended after the copy are only here.
            return Err(changed("move", &from.path));
        }
        sync_folder(&folder_of(to))?;
        sync_folder(&folder_of(&from.path))
    }

    /// Gives the file its new name; if existing files are kept, the old one remains too.
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        if self.replace { fs::rename(from, to) } else { fs::hard_link(from, to) }
    }
}

/// Whether the file `at` has this size, and about this time of modification.
fn is_copy((size, modified): (u64, i64), at: &KnownFile) -> bool {
    at.size == size && at.modified.abs_diff(modified) <= TIMES_BOUND
}

fn itself(to: &Path) -> ItemError {
    ItemError::fatal(format!("cannot write `{}`: it is the file itself", to.display()))
}

fn exists(to: &Path) -> ItemError {
    ItemError::fatal(format!(
        "cannot write `{}`: it exists; remove it, or set `replace = true`",
        to.display()
    ))
}

fn changed(action: &str, from: &Path) -> ItemError {
    ItemError::new(
        ErrorKind::IO,
        format!(
            "cannot {action} `{}`: it was removed or changed since the step began",
            from.display()
        ),
    )
}
