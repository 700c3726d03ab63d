//! The kind `extract`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::partition::FilePartitions;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::Deserialize;

use super::archive::ArchiveForm;
use super::{PIECE_BYTES, PLANNED_MAX, failed, made_folder_of, sync_folder};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::token;
use crate::transport::{FileSource, decompressed};

/// The kind `extract`.
pub(crate) struct ExtractKind;

/// Extracts the files of an archive. They appear when all of them are read and synced; an archive that is damaged, that is too
/// large, or that names a file outside of the folder leaves nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExtractKeys {
    /// The archive: `.zip`, `.tar`, `.tgz`, or `.tar` with the extension of a compression.
    from: Text,
    /// The folder for the files; folders of the archive are made in it.
    to: Text,
    /// A pattern for the names of the files that are extracted: `*` matches any characters, `?` one. Default: all.
    only: Option<String>,
    /// Whether existing files are replaced. Default: true.
    replace: Option<bool>,
    /// Maximum number of bytes of all files together. Default: 10 GiB.
    bytes_max: Option<u64>,
}

/// Maximum number of bytes of all files, unless a job file sets another.
const BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024;

impl ItemKind for ExtractKind {
    fn name(&self) -> &'static str {
        "extract"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .tasklet::<ExtractKeys>()
            .step_restarts("The archive is extracted again; files that an earlier attempt has put in place are replaced by the same.")
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let ExtractKeys { from, to, only, replace, bytes_max } = keys.parse()?;
        Ok(Box::new(Extract {
            from: cx.path(&from)?,
            to: cx.output_path(&to)?,
            only: only.map(|pattern| FilePartitions::new("", pattern)),
            replace: replace.unwrap_or(true),
            bytes_max: bytes_max.unwrap_or(BYTES_MAX),
        }))
    }
}

struct Extract {
    from: Make<PathBuf>,
    to: Make<PathBuf>,
    only: Option<FilePartitions>,
    replace: bool,
    bytes_max: u64,
}

impl Tasklet for Extract {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        let (from, to) = ((self.from)(&scope)?, (self.to)(&scope)?);
        // Beside the files, so that they are renamed and not copied; hidden, so that no pattern matches it.
        let work = to.join(format!(".{}.part", token(&scope)));
        made_folder_of(&work)?;
        clear(&work)?;
        let mut files = Files {
            settings: self,
            archive: &from,
            work: &work,
            scope: &scope,
            names: BTreeSet::new(),
            left: self.bytes_max,
        };
        let done = files.extract().and_then(|()| files.put_in_place(&to));
        let count = files.names.len() as u64;
        clear(&work)?;
        done?;
        call.contribute(count, count);
        Ok(Flow::Finished)
    }
}

fn clear(work: &Path) -> Result<(), ItemError> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", work, error)),
        _ => Ok(()),
    }
}

/// The files of an archive.
struct Files<'a> {
    settings: &'a Extract,
    archive: &'a Path,
    work: &'a Path,
    scope: &'a StepScope,
    /// The names of the files that are extracted, relative to the folder.
    names: BTreeSet<PathBuf>,
    /// Number of bytes that may still come.
    left: u64,
}

impl Files<'_> {
    fn extract(&mut self) -> Result<(), ItemError> {
        match ArchiveForm::of(self.archive)? {
            ArchiveForm::Zip => self.extract_zip(),
            ArchiveForm::Tar(compression) => {
                let source =
                    decompressed(std::sync::Arc::new(FileSource::new(self.archive)), compression);
                self.extract_tar(source.open_at(0)?.bytes)
            }
        }
    }

    fn damaged(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ItemError {
        let what = format!("cannot extract `{}`", self.archive.display());
        ItemError::wrap(ErrorKind::IO, what, error)
    }

    fn refused(&self, name: &str, what: &str) -> ItemError {
        let archive = self.archive.display();
        ItemError::fatal(format!("cannot extract {name:?} of `{archive}`: {what}"))
    }

    fn extract_zip(&mut self) -> Result<(), ItemError> {
        let file = FileSource::new(self.archive).open()?;
        let mut zip = zip::ZipArchive::new(file.file).map_err(|error| self.damaged(error))?;
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(|error| self.damaged(error))?;
            let name = entry.name().map_err(|error| self.damaged(error))?.into_owned();
            if entry.is_dir() {
                continue;
            }
            if entry.is_symlink() {
                return Err(self.refused(&name, "it is a link"));
            }
            self.take(&name, &mut entry)?;
        }
        Ok(())
    }

    fn extract_tar(&mut self, bytes: Box<dyn Read + Send>) -> Result<(), ItemError> {
        let mut tar = tar::Archive::new(bytes);
        for entry in tar.entries().map_err(|error| self.damaged(error))? {
            let mut entry = entry.map_err(|error| self.damaged(error))?;
            let name = String::from_utf8(entry.path_bytes().into_owned());
            let name = name.map_err(|error| self.damaged(error))?;
            match entry.header().entry_type() {
                kind if kind.is_dir() || kind.is_pax_global_extensions() => {}
                kind if kind.is_file() || kind.is_contiguous() => self.take(&name, &mut entry)?,
                _ => return Err(self.refused(&name, "it is a link or a device")),
            }
        }
        Ok(())
    }

    /// Extracts one file.
    fn take(&mut self, name: &str, content: &mut dyn Read) -> Result<(), ItemError> {
        let path = PathBuf::from(name);
        let is_within =
            path.components().all(|one| matches!(one, Component::Normal(_) | Component::CurDir));
        if !is_within || name.contains(['\\', '\0']) || path.file_name().is_none() {
            return Err(self.refused(name, "its path leaves the folder"));
        }
        let path: PathBuf = path.components().filter(|one| *one != Component::CurDir).collect();
        let own = path.file_name().unwrap_or_default().to_string_lossy();
        if self.settings.only.as_ref().is_some_and(|only| !only.selects(&own)) {
            return Ok(());
        }
        if self.names.len() >= PLANNED_MAX {
            let what = format!("the archive has more than {PLANNED_MAX} files");
            return Err(self.refused(name, &what));
        }
        if !self.names.insert(path.clone()) {
            return Err(self.refused(name, "it is there twice"));
        }
        let to = self.work.join(&path);
        made_folder_of(&to)?;
        let in_file = |error| failed("write", &to, error);
        let mut file = File::options().write(true).create_new(true).open(&to).map_err(in_file)?;
        loop {
            if self.scope.stop().is_requested() {
                let what = "a stop was requested while an archive was extracted";
                return Err(ItemError::stopped(what));
            }
            // One byte more than may come shows that there are more.
            let most = PIECE_BYTES.min(self.left.saturating_add(1));
            let count = io::copy(&mut content.take(most), &mut file);
            let count = count.map_err(|error| self.damaged(error))?;
            if count > self.left {
                let what = format!(
                    "the files have more than {} bytes together (`bytes_max`)",
                    self.settings.bytes_max
                );
                return Err(self.refused(name, &what));
            }
            self.left -= count;
            if count < most {
                break;
            }
        }
        file.sync_all().map_err(in_file)
    }

    /// Gives the files their names.
    fn put_in_place(&self, to: &Path) -> Result<(), ItemError> {
        if !self.settings.replace
            && let Some(name) = self.names.iter().find(|name| to.join(name).exists())
        {
            return Err(ItemError::fatal(format!(
                "cannot write `{}`: it exists; remove it, or set `replace = true`",
                to.join(name).display()
            )));
        }
        let mut folders = BTreeSet::new();
        for name in &self.names {
            let target = to.join(name);
            folders.insert(made_folder_of(&target)?);
            fs::rename(self.work.join(name), &target)
                .map_err(|error| failed("rename to", &target, error))?;
        }
        folders.iter().try_for_each(|folder| sync_folder(folder))
    }
}
