//! The kinds `copy` and `move`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::item::{OpenPath, PathUse};
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{copy_bytes, failed, modified, place, remove, sync_folder};
use crate::files::{files_of, is_pattern, some_files_of};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};

/// The kind `copy`.
pub(crate) struct CopyKind;

/// The kind `move`.
pub(crate) struct MoveKind;

/// Copies files. Each appears complete under its name, with the time of modification of the original.
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

/// Moves files, each once: a restart finishes what was begun, and leaves alone what arrived meanwhile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MoveKeys {
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
        "copy"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().tasklet::<CopyKeys>()
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let CopyKeys { from, to, replace, optional } = keys.parse()?;
        let (from, to) = (cx.path(&from)?, cx.output_path(&to)?);
        let replace = replace.unwrap_or(true);
        Ok(Box::new(Transfer { from, to, replace, optional, removes: false }))
    }
}

impl ItemKind for MoveKind {
    fn name(&self) -> &'static str {
        "move"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().tasklet::<MoveKeys>()
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let MoveKeys { from, to, replace, optional } = keys.parse()?;
        let (from, to) = (cx.output_path(&from)?, cx.output_path(&to)?);
        let replace = replace.unwrap_or(true);
        Ok(Box::new(Transfer { from, to, replace, optional, removes: true }))
    }
}

/// Copies files, and removes the originals if it moves them.
struct Transfer {
    from: Make<PathBuf>,
    to: Make<PathBuf>,
    replace: bool,
    optional: bool,
    removes: bool,
}

/// A file to transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Planned {
    from: PathBuf,
    to: PathBuf,
    size: u64,
    /// Time of the last modification, in nanoseconds since 1970.
    modified: i64,
}

impl Planned {
    /// Whether the file at `path` is the planned one.
    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path)
            .is_ok_and(|found| found.len() == self.size && modified(&found) == self.modified)
    }
}

/// The name in the step's context under which the plan is stored.
const PLAN: &str = "files";

impl Tasklet for Transfer {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        if !scope.context().has(PLAN) {
            scope.context().put(PLAN, &self.plan(&scope)?)?;
            return Ok(Flow::Continue);
        }
        let planned: Vec<Planned> = scope.context().get(PLAN)?;
        for one in &planned {
            self.transfer(one, &scope)?;
        }
        call.contribute(planned.len() as u64, planned.len() as u64);
        Ok(Flow::Finished)
    }
}

impl Transfer {
    fn plan(&self, scope: &StepScope) -> Result<Vec<Planned>, ItemError> {
        let (from, to) = ((self.from)(scope)?, (self.to)(scope)?);
        let files = if self.optional { files_of(&from)? } else { some_files_of(&from)? };
        let is_folder = to.as_os_str().as_encoded_bytes().ends_with(b"/") || to.is_dir();
        if is_pattern(&from) && !is_folder {
            return Err(ItemError::fatal(format!(
                "cannot use `{}`: a pattern needs a folder to put the files into; end it with `/`",
                to.display()
            )));
        }
        let mut planned = Vec::with_capacity(files.len());
        for from in files {
            let name = from.file_name().unwrap_or_default();
            let to = if is_folder { to.join(name) } else { to.clone() };
            if !self.replace && to.exists() {
                return Err(ItemError::fatal(format!(
                    "cannot write `{}`: it exists; remove it, or set `replace = true`",
                    to.display()
                )));
            }
            let found = fs::metadata(&from).map_err(|error| failed("read", &from, error))?;
            planned.push(Planned { from, to, size: found.len(), modified: modified(&found) });
        }
        Ok(planned)
    }

    fn transfer(&self, planned: &Planned, scope: &StepScope) -> Result<(), ItemError> {
        let Planned { from, to, .. } = planned;
        if !planned.is_at(from) {
            // An earlier attempt has moved the file; another one may have its name by now.
            return match planned.is_at(to) {
                true => Ok(()),
                false => Err(ItemError::new(
                    batchwright::error::ErrorKind::IO,
                    format!(
                        "cannot find `{}` any more: it was removed or changed since the step began",
                        from.display()
                    ),
                )),
            };
        }
        let _claim = OpenPath::claim(from, PathUse::Input)?;
        if self.removes && rename(from, to)? {
            return Ok(());
        }
        let mut original = File::open(from).map_err(|error| failed("read", from, error))?;
        let found = original.metadata().map_err(|error| failed("read", from, error))?;
        place(to, found.modified().ok(), |part| {
            let copied = copy_bytes((from, &mut original), part, scope.stop())?;
            part.set_permissions(found.permissions())
                .map_err(|error| failed("write", to, error))?;
            match copied == planned.size && planned.is_at(from) {
                true => Ok(()),
                false => Err(ItemError::new(
                    batchwright::error::ErrorKind::IO,
                    format!("cannot copy `{}`: it changed meanwhile", from.display()),
                )),
            }
        })?;
        if self.removes {
            remove(from)?;
        }
        Ok(())
    }
}

/// Renames a file; `false` when the two places are on different file systems.
fn rename(from: &Path, to: &Path) -> Result<bool, ItemError> {
    let folder = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).to_owned()
    };
    let (old, new) = (folder(from), folder(to));
    fs::create_dir_all(&new).map_err(|error| failed("create the folder", &new, error))?;
    match fs::rename(from, to) {
        Ok(()) => {
            sync_folder(&new)?;
            sync_folder(&old)?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => Ok(false),
        Err(error) => Err(failed("move", from, error)),
    }
}
