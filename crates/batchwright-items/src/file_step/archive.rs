//! The kind `archive`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::Deserialize;
use zip::write::SimpleFileOptions;

use super::{Placing, copy_bytes, failed, place, within_bounds};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::some_files_of;
use crate::transport::Compression;

/// The kind `archive`.
pub(crate) struct ArchiveKind;

/// Puts files into an archive, which appears when it is complete. The files remain.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ArchiveKeys {
    /// The file, or files by a pattern in the name: `*` matches any characters, `?` one.
    from: Text,
    /// The archive. Its extension decides about its kind: `.zip`, `.tar`, `.tgz`, or `.tar` with that of a compression, as in
    /// `.tar.zst`.
    to: Text,
}

impl ItemKind for ArchiveKind {
    fn name(&self) -> &'static str {
        "archive"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default()
            .tasklet::<ArchiveKeys>()
            .step_restarts("The archive is made again, of the files that are there then.")
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let ArchiveKeys { from, to } = keys.parse()?;
        Ok(Box::new(Archive { from: cx.path(&from)?, to: cx.output_path(&to)? }))
    }
}

/// What an archive is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveForm {
    Zip,
    Tar(Option<Compression>),
}

impl ArchiveForm {
    /// Returns the form that the name of the archive tells.
    pub(super) fn of(path: &Path) -> Result<Self, ItemError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let compression = Compression::of(path);
        let stem = match compression {
            Some(_) => name.rsplit_once('.').map_or("", |(stem, _)| stem),
            None => &*name,
        };
        match (stem, compression) {
            (stem, None) if stem.ends_with(".zip") => Ok(Self::Zip),
            (stem, None) if stem.ends_with(".tgz") => Ok(Self::Tar(Some(Compression::Gzip))),
            (stem, compression) if stem.ends_with(".tar") => Ok(Self::Tar(compression)),
            _ => Err(ItemError::fatal(format!(
                "cannot use `{}` as an archive: its name ends neither with `.zip` nor with `.tar`, `.tgz` or `.tar` and a compression",
                path.display()
            ))),
        }
    }
}

struct Archive {
    from: Make<PathBuf>,
    to: Make<PathBuf>,
}

impl Tasklet for Archive {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        let (from, to) = ((self.from)(&scope)?, (self.to)(&scope)?);
        let form = ArchiveForm::of(&to)?;
        let mut files = within_bounds(some_files_of(&from)?, &from)?;
        // The result of an earlier run is no part of the next one.
        files.retain(|file| *file != to);
        if files.is_empty() {
            return Err(ItemError::new(
                ErrorKind::IO,
                format!("cannot begin: only the archive matches `{}`", from.display()),
            ));
        }
        place(&to, &scope, &Placing::default(), |archive| match form {
            ArchiveForm::Zip => zip_of(&files, archive, &scope),
            ArchiveForm::Tar(None) => tar_of(&files, archive, &scope).map(drop),
            ArchiveForm::Tar(Some(compression)) => {
                compression.check()?;
                let members = Members { compression, content: Vec::new(), file: archive };
                tar_of(&files, members, &scope)?.end().map_err(|error| failed("write", &to, error))
            }
        })?;
        call.contribute(files.len() as u64, 1);
        Ok(Flow::Finished)
    }
}

/// Returns the name that a file has in the archive.
fn name_of(path: &Path) -> Result<&str, ItemError> {
    path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        ItemError::fatal(format!("cannot archive `{}`: its name is not UTF-8", path.display()))
    })
}

fn zip_of(files: &[PathBuf], archive: &mut File, scope: &StepScope) -> Result<(), ItemError> {
    let mut zip = zip::ZipWriter::new(archive);
    for path in files {
        let broken = |error: zip::result::ZipError| failed("archive", path, error.into());
        let mut file = File::open(path).map_err(|error| failed("open", path, error))?;
        // Sizes above 4 GiB need the larger form, whose place is reserved before they are known.
        zip.start_file(name_of(path)?, SimpleFileOptions::default().large_file(true))
            .map_err(broken)?;
        copy_bytes((path, &mut file), &mut zip, scope.stop())?;
    }
    zip.finish()
        .map(drop)
        .map_err(|error| ItemError::wrap(ErrorKind::IO, "cannot end the archive", error))
}

fn tar_of<W: Write>(files: &[PathBuf], into: W, scope: &StepScope) -> Result<W, ItemError> {
    let mut tar = tar::Builder::new(into);
    for path in files {
        let in_file = |error| failed("archive", path, error);
        let file = File::open(path).map_err(|error| failed("open", path, error))?;
        let found = file.metadata().map_err(in_file)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&found, tar::HeaderMode::Deterministic);
        header.set_mtime(found.modified().ok().and_then(since_1970).unwrap_or_default());
        // A file that grows or shrinks meanwhile is an error, not a damaged archive.
        let mut content = Exact { file, left: found.len(), stop: scope.stop() };
        tar.append_data(&mut header, name_of(path)?, &mut content).map_err(in_file)?;
    }
    tar.into_inner()
        .map_err(|error| ItemError::wrap(ErrorKind::IO, "cannot end the archive", error))
}

fn since_1970(time: std::time::SystemTime) -> Option<u64> {
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// The content of a file of a known length.
struct Exact<'a> {
    file: File,
    left: u64,
    stop: &'a StopToken,
}

impl io::Read for Exact<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_requested() {
            return Err(io::Error::other("a stop was requested"));
        }
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = io::Read::by_ref(&mut self.file).take(most as u64).read(into)?;
        self.left -= count as u64;
        match count == 0 && most > 0 {
            true => Err(io::Error::other("it became shorter meanwhile")),
            false => Ok(count),
        }
    }
}

/// Number of bytes that are compressed as one member.
const MEMBER_BYTES: usize = 4 * 1024 * 1024;

/// A file of compressed members, which every program reads as one content.
struct Members<'a> {
    compression: Compression,
    content: Vec<u8>,
    file: &'a mut File,
}

impl Members<'_> {
    fn compress(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let compressed = self.compression.compress(&self.content, &mut bytes);
        compressed.map_err(|error| io::Error::other(error.into_boxed()))?;
        self.content.clear();
        self.file.write_all(&bytes)
    }

    fn end(mut self) -> io::Result<()> {
        if self.content.is_empty() { Ok(()) } else { self.compress() }
    }
}

impl Write for Members<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.extend_from_slice(bytes);
        if self.content.len() >= MEMBER_BYTES {
            self.compress()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
