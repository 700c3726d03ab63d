//! Where the paths of job files lead: to files of this machine, and to those of other places.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::FileOutput;

#[cfg(feature = "remote")]
use crate::paths::no_file;
use crate::paths::{files_of, folder_of, is_pattern, some_files_of};
use crate::transport::{
    ByteSource, Compression, EncodedWriter, FileSource, InputIdentity, Output, decompressed,
    scheme_of,
};
#[cfg(feature = "remote")]
use crate::transport::{RemoteFile, RemoteOutput};

/// A file, or files by a pattern in the name.
#[derive(Clone)]
pub(crate) enum Location {
    /// Of this machine.
    File(PathBuf),
    /// Of another place.
    #[cfg(feature = "remote")]
    Remote(RemoteFile),
}

impl Location {
    /// Returns the location of `text`, which is a URL or a path relative to `folder`.
    ///
    /// # Errors
    ///
    /// When a URL is wrong.
    pub(crate) fn parse(text: &str, folder: &Path) -> Result<Self, ItemError> {
        match scheme_of(text) {
            None => Ok(Self::File(folder.join(text))),
            #[cfg(feature = "remote")]
            Some(_) => RemoteFile::parse(text, folder).map(Self::Remote),
            #[cfg(not(feature = "remote"))]
            Some(scheme) => Err(ItemError::fatal(crate::transport::unknown(scheme))),
        }
    }

    /// Returns the location for messages and positions, without user and password.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            #[cfg(feature = "remote")]
            Self::Remote(file) => file.shown(),
        }
    }

    /// Returns the location for records and positions: of a file within `folder` its path there, of another one its absolute
    /// path, so
    /// that it does not depend on where the job was started.
    pub(crate) fn shown_from(&self, folder: &Path) -> String {
        match self {
            Self::File(path) => {
                let absolute =
                    |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
                let (path, folder) = (absolute(path), absolute(here));
                path.strip_prefix(&folder).unwrap_or(&path).display().to_string()
            }
            #[cfg(feature = "remote")]
            Self::Remote(file) => file.shown(),
        }
    }

    /// Whether the location names one file.
    pub(crate) fn is_one(&self) -> bool {
        match self {
            Self::File(path) => !is_pattern(path) || path.is_file(),
            #[cfg(feature = "remote")]
            Self::Remote(file) => !file.is_pattern(),
        }
    }

    /// Returns the files that the pattern matches, sorted by their names.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read, or there is no file unless `may_be_none`.
    pub(crate) fn matches(&self, may_be_none: bool) -> Result<Vec<Self>, ItemError> {
        match self {
            Self::File(path) => {
                let files = if may_be_none { files_of(path)? } else { some_files_of(path)? };
                Ok(files.into_iter().map(Self::File).collect())
            }
            #[cfg(feature = "remote")]
            Self::Remote(file) => {
                let pattern = batchwright::partition::FilePartitions::new("", file.name());
                let prefix = file.name().split('*').next().unwrap_or_default();
                let mut names = file.names_beside(prefix)?;
                names.retain(|name| pattern.selects(name));
                names.sort_unstable();
                match names.is_empty() && !may_be_none {
                    true => Err(no_file(&format!("no file matches `{}`", file.shown()))),
                    false => Ok(names.iter().map(|name| Self::Remote(file.beside(name))).collect()),
                }
            }
        }
    }

    /// Returns the name of the file.
    ///
    /// # Errors
    ///
    /// When there is none, or it is not UTF-8.
    pub(crate) fn name(&self) -> Result<String, ItemError> {
        let name = match self {
            Self::File(path) => path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
            #[cfg(feature = "remote")]
            Self::Remote(file) => file.name(),
        };
        match name {
            "" => {
                let what = format!("cannot use `{}`: it has no file name in UTF-8", self.shown());
                Err(ItemError::fatal(what))
            }
            name => Ok(name.to_owned()),
        }
    }

    /// Whether the location is that of a folder: it ends with `/`, or the folder exists on this machine.
    pub(crate) fn is_folder(&self) -> bool {
        match self {
            Self::File(path) => {
                path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir()
            }
            #[cfg(feature = "remote")]
            Self::Remote(file) => file.name().is_empty(),
        }
    }

    /// Returns the file called `name` in the folder; a location that is no folder is that of the file itself.
    pub(crate) fn file_within(&self, name: &str) -> Self {
        match self {
            Self::File(path) if self.is_folder() => Self::File(path.join(name)),
            #[cfg(feature = "remote")]
            Self::Remote(file) if self.is_folder() => Self::Remote(file.beside(name)),
            file => file.clone(),
        }
    }

    /// Returns the file called `name` in the same folder.
    pub(crate) fn beside(&self, name: &str) -> Self {
        match self {
            Self::File(path) => Self::File(folder_of(path).join(name)),
            #[cfg(feature = "remote")]
            Self::Remote(file) => Self::Remote(file.beside(name)),
        }
    }

    /// Returns what identifies the content of the file as it is now; `None` if there is no file.
    pub(crate) fn find(&self) -> Result<Option<InputIdentity>, ItemError> {
        match self {
            Self::File(path) if !path.is_file() => Ok(None),
            Self::File(path) => Ok(FileSource::beside_output(path).open()?.identity),
            #[cfg(feature = "remote")]
            Self::Remote(file) => file.find(),
        }
    }

    /// Removes the file.
    pub(crate) fn remove(&self) -> Result<(), ItemError> {
        match self {
            Self::File(path) => std::fs::remove_file(path).map_err(|error| {
                let what = format!("cannot remove `{}`", path.display());
                ItemError::wrap(ErrorKind::IO, what, error)
            }),
            #[cfg(feature = "remote")]
            Self::Remote(file) => file.remove(),
        }
    }

    /// Returns the bytes of the file.
    pub(crate) fn content(&self) -> Arc<dyn ByteSource> {
        match self {
            Self::File(path) => Arc::new(FileSource::new(path)),
            #[cfg(feature = "remote")]
            Self::Remote(file) => Arc::new(file.clone()),
        }
    }

    /// Returns what is the same for all names of the file that are known to be the same.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            #[cfg(feature = "remote")]
            Self::Remote(file) => file.identity(),
        }
    }

    /// Refuses a file that cannot be written or removed.
    #[cfg_attr(not(feature = "remote"), expect(clippy::unnecessary_wraps, reason = "files can be"))]
    pub(crate) fn check_writable(&self, action: &str) -> Result<(), ItemError> {
        match self {
            Self::File(_) => {
                let _ = action;
                Ok(())
            }
            #[cfg(feature = "remote")]
            Self::Remote(file) => file.check_writable(action),
        }
    }

    /// Returns the content, decompressed if the name says so.
    pub(crate) fn source(&self) -> Arc<dyn ByteSource> {
        let compression = Compression::of(Path::new(&self.shown()));
        decompressed(self.content(), compression)
    }

    /// Returns a writer of what `encode` encodes, compressed if the name says so.
    pub(crate) fn writer<E>(self, encode: E) -> EncodedWriter<E, Output> {
        let compression = Compression::of(Path::new(&self.shown()));
        let output = match self {
            Self::File(path) => Output::File(Box::new(FileOutput::new(path))),
            #[cfg(feature = "remote")]
            Self::Remote(file) => Output::Remote(Box::new(RemoteOutput::new(file))),
        };
        EncodedWriter::to(output, encode).compressed(compression)
    }
}
