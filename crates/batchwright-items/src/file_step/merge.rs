//! The kind `merge`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    FILES_PER_CALL, KnownFile, Placing, absolute, copy_bytes, failed, place, remove_all,
    within_bounds,
};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::some_files_of;
use crate::transport::Compression;

/// The kind `merge`.
pub(crate) struct MergeKind;

/// Merges files into one, in the order of their names, and removes them then. Their bytes are joined as they are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MergeKeys {
    /// The files, by a pattern in the name: `*` matches any characters, `?` one.
    from: Text,
    /// The merged file.
    to: Text,
    /// Whether the files are text that begins with the same header line, which the merged file has once. Default: false.
    #[serde(default)]
    header: bool,
    /// Whether the merged files remain. Default: false.
    #[serde(default)]
    keep: bool,
}

impl ItemKind for MergeKind {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .tasklet::<MergeKeys>()
            .step_restarts("Exact: what was planned is finished. The parts are removed after the store knows that the merged file is there.")
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let MergeKeys { from, to, header, keep } = keys.parse()?;
        Ok(Box::new(Merge { from: cx.output_path(&from)?, to: cx.output_path(&to)?, header, keep }))
    }
}

struct Merge {
    from: Make<PathBuf>,
    to: Make<PathBuf>,
    header: bool,
    keep: bool,
}

/// How far the step is; stored in its context.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    parts: Vec<KnownFile>,
    to: PathBuf,
    is_merged: bool,
    /// Number of parts that are removed.
    removed: usize,
}

/// The name in the step's context under which its progress is stored.
const PROGRESS: &str = "merge";

impl Tasklet for Merge {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        if !scope.context().has(PROGRESS) {
            scope.context().put(PROGRESS, &self.plan(&scope)?)?;
            return Ok(Flow::Continue);
        }
        let mut progress: Progress = scope.context().get(PROGRESS)?;
        if progress.is_merged {
            let parts = progress.parts.iter().skip(progress.removed).take(FILES_PER_CALL);
            let parts: Vec<_> = parts.cloned().collect();
            remove_all(&parts)?;
            progress.removed += parts.len();
        } else {
            let Progress { parts, to, .. } = &progress;
            place(to, &scope, &Placing::default(), |merged| {
                self.merge(parts, merged, scope.stop())
            })?;
            call.contribute(parts.len() as u64, 1);
            // The parts are removed once the store knows that they are merged.
            progress.is_merged = true;
        }
        let is_done = progress.is_merged && (self.keep || progress.removed == progress.parts.len());
        scope.context().put(PROGRESS, &progress)?;
        Ok(if is_done { Flow::Finished } else { Flow::Continue })
    }
}

impl Merge {
    fn plan(&self, scope: &StepScope) -> Result<Progress, ItemError> {
        let (from, to) = ((self.from)(scope)?, absolute(&(self.to)(scope)?)?);
        let mut parts = KnownFile::all(within_bounds(some_files_of(&from)?, &from)?, true)?;
        // The result of an earlier run is no part.
        let merged = KnownFile::at(&to)?;
        parts.retain(|part| !merged.as_ref().is_some_and(|merged| merged.is_same_file(part)));
        if parts.is_empty() {
            return Err(ItemError::new(
                ErrorKind::IO,
                format!("cannot begin: only the merged file matches `{}`", from.display()),
            ));
        }
        let compression = Compression::of(&to);
        let paths = || parts.iter().map(|part| &*part.path);
        if let Some(other) = paths().find(|path| Compression::of(path) != compression) {
            return Err(ItemError::fatal(format!(
                "cannot merge `{}` into `{}`: both must have the same compression",
                other.display(),
                to.display()
            )));
        }
        if self.header && compression.is_some() {
            return Err(ItemError::fatal(format!(
                "cannot merge into `{}`: header lines are found in files that are not compressed",
                to.display()
            )));
        }
        Ok(Progress { parts, to, is_merged: false, removed: 0 })
    }

    fn merge(
        &self,
        parts: &[KnownFile],
        merged: &mut File,
        stop: &StopToken,
    ) -> Result<(), ItemError> {
        let mut header: Option<Vec<u8>> = None;
        for known in parts {
            let part = &*known.path;
            let file = File::open(part).map_err(|error| failed("read", part, error))?;
            let mut reader = BufReader::new(file);
            if self.header {
                let line = first_line(&mut reader, part)?;
                match &header {
                    None => {
                        merged.write_all(&line)?;
                        header = Some(line);
                    }
                    // An empty file has no header.
                    Some(header) if line.is_empty() || *header == line => {}
                    Some(header) => {
                        return Err(ItemError::data(format!(
                            "cannot merge `{}`: its header is `{}`, and that of the files before is `{}`",
                            part.display(),
                            String::from_utf8_lossy(&line).trim_end(),
                            String::from_utf8_lossy(header).trim_end()
                        )));
                    }
                }
            }
            copy_bytes((part, &mut reader), merged, stop)?;
            if self.header {
                end_line(merged)?;
            }
            if !known.is_there()? {
                return Err(ItemError::new(
                    ErrorKind::IO,
                    format!("cannot merge `{}`: it changed since the step began", part.display()),
                ));
            }
        }
        Ok(())
    }
}

/// Maximum length of a header line, in bytes.
const HEADER_BYTES_MAX: u64 = 1024 * 1024;

fn first_line(reader: &mut BufReader<File>, part: &Path) -> Result<Vec<u8>, ItemError> {
    let mut line = Vec::new();
    let read = reader.by_ref().take(HEADER_BYTES_MAX).read_until(b'\n', &mut line);
    read.map_err(|error| failed("read", part, error))?;
    if line.len() as u64 == HEADER_BYTES_MAX {
        return Err(ItemError::data(format!(
            "cannot merge `{}`: its header is longer than {HEADER_BYTES_MAX} bytes",
            part.display()
        )));
    }
    if !line.is_empty() && !line.ends_with(b"\n") {
        line.push(b'\n');
    }
    Ok(line)
}

/// Ends the last line, so that the next file begins with a new one.
fn end_line(merged: &mut File) -> Result<(), ItemError> {
    let length = merged.stream_position()?;
    if length == 0 {
        return Ok(());
    }
    let mut last = [0];
    std::os::unix::fs::FileExt::read_exact_at(merged, &mut last, length - 1)?;
    if last != *b"\n" {
        merged.seek(SeekFrom::End(0))?;
        merged.write_all(b"\n")?;
    }
    Ok(())
}
