//! The kind `checksum`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Digest;

use super::{Placing, copy_bytes, failed, place};
use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::some_files_of;
use crate::template::Template;
use crate::text::hex;

/// The kind `checksum`.
pub(crate) struct ChecksumKind;

/// Verifies the checksums of files, or writes them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChecksumKeys {
    /// The file, or files by a pattern in the name: `*` matches any characters, `?` one.
    path: Text,
    /// What is done. Default: `verify`.
    action: Option<Action>,
    /// The checksum. Default: `sha256`. `ok` is a file that says by its existence that the other one is complete.
    algorithm: Option<Algorithm>,
    /// The digest to verify, in hexadecimal digits.
    digest: Option<At<String>>,
    /// The file with the digest: alone, or as a line `DIGEST  NAME`. Default: the name of the file with the algorithm as a
    /// further extension.
    file: Option<At<String>>,
}

/// What is done with a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Action {
    Verify,
    Write,
}

/// How a checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Algorithm {
    Ok,
    Md5,
    Sha1,
    Sha256,
    Sha512,
    Blake3,
}

impl Algorithm {
    /// Returns the name, which is also the extension of files with checksums.
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }

    /// Returns the digest of `file` in hexadecimal digits.
    fn digest(
        self,
        (path, file): (&Path, &mut File),
        stop: &StopToken,
    ) -> Result<String, ItemError> {
        match self {
            Self::Ok => Ok(String::new()),
            Self::Md5 => digest::<md5::Md5>((path, file), stop),
            Self::Sha1 => digest::<sha1::Sha1>((path, file), stop),
            Self::Sha256 => digest::<sha2::Sha256>((path, file), stop),
            Self::Sha512 => digest::<sha2::Sha512>((path, file), stop),
            #[cfg(feature = "blake3")]
            Self::Blake3 => {
                let mut hasher = blake3::Hasher::new();
                copy_bytes((path, file), &mut hasher, stop)?;
                Ok(hasher.finalize().to_hex().to_string())
            }
            #[cfg(not(feature = "blake3"))]
            Self::Blake3 => Err(ItemError::fatal(
                "this program was built without BLAKE3; enable the feature `blake3`",
            )),
        }
    }
}

fn digest<D: Digest>(
    (path, file): (&Path, &mut File),
    stop: &StopToken,
) -> Result<String, ItemError> {
    /// Hashes what is written.
    struct Hashing<D>(D);

    impl<D: Digest> Write for Hashing<D> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut hashing = Hashing(D::new());
    copy_bytes((path, file), &mut hashing, stop)?;
    Ok(hex(&hashing.0.finalize()))
}

impl ItemKind for ChecksumKind {
    fn name(&self) -> &'static str {
        "checksum"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().tasklet::<ChecksumKeys>().step_restarts(
            "The files are read again from the first one of the call that was not stored.",
        )
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let ChecksumKeys { path, action, algorithm, digest, file } = keys.parse()?;
        let action = action.unwrap_or(Action::Verify);
        let algorithm = algorithm.unwrap_or(Algorithm::Sha256);
        let alone = action == Action::Verify && algorithm != Algorithm::Ok && file.is_none();
        if let Some(digest) = digest.as_ref().filter(|_| !alone) {
            let message =
                "`digest` is only for `action = \"verify\"`, without `file`, and not for `ok`";
            return Err(Problem::at(digest, message));
        }
        let file = match (&file, action) {
            (Some(file), Action::Write) => Some(cx.output_path(file)?),
            (Some(file), Action::Verify) => Some(cx.path(file)?),
            (None, _) => None,
        };
        let digest = digest.as_ref().map(|digest| cx.template(digest)).transpose()?;
        let path = match action {
            // The checksum is written beside the file.
            Action::Write => cx.output_path(&path)?,
            Action::Verify => cx.path(&path)?,
        };
        Ok(Box::new(Checksum { path, action, algorithm, digest, file }))
    }
}

struct Checksum {
    path: Make<PathBuf>,
    action: Action,
    algorithm: Algorithm,
    digest: Option<Template>,
    file: Option<Make<PathBuf>>,
}

impl Tasklet for Checksum {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        let mut files = some_files_of(&(self.path)(&scope)?)?;
        if self.file.is_none() && files.len() > 1 {
            // The files with the checksums of the others.
            let extension = std::ffi::OsStr::new(self.algorithm.name());
            files.retain(|path| path.extension() != Some(extension));
        }
        let known = self.file.as_ref().map(|file| file(&scope)).transpose()?;
        if files.len() > 1 && self.action == Action::Write && known.is_some() {
            return Err(ItemError::fatal(
                "cannot write the checksums of several files into one file; leave out `file`",
            ));
        }
        let digest = self.digest.as_ref().map(|digest| digest.render(&scope)).transpose()?;
        for path in &files {
            let beside = || {
                let mut name = path.clone().into_os_string();
                name.push(format!(".{}", self.algorithm.name()));
                PathBuf::from(name)
            };
            let file = known.clone().unwrap_or_else(beside);
            match self.action {
                Action::Write => self.write(path, &file, &scope)?,
                Action::Verify => self.verify(path, &file, digest.as_deref(), scope.stop())?,
            }
        }
        call.contribute(files.len() as u64, 0);
        Ok(Flow::Finished)
    }
}

impl Checksum {
    fn compute(&self, path: &Path, stop: &StopToken) -> Result<String, ItemError> {
        let mut file = File::open(path).map_err(|error| failed("read", path, error))?;
        self.algorithm.digest((path, &mut file), stop)
    }

    fn write(&self, path: &Path, file: &Path, scope: &StepScope) -> Result<(), ItemError> {
        let digest = self.compute(path, scope.stop())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        place(file, scope, &Placing::default(), |part| match self.algorithm {
            Algorithm::Ok => Ok(()),
            // The form of `sha256sum`.
            _ => writeln!(part, "{digest}  {name}").map_err(|error| failed("write", file, error)),
        })
    }

    fn verify(
        &self,
        path: &Path,
        file: &Path,
        digest: Option<&str>,
        stop: &StopToken,
    ) -> Result<(), ItemError> {
        let expected = match digest {
            Some(digest) => digest.trim().to_owned(),
            None if self.algorithm == Algorithm::Ok => {
                return match file.is_file() {
                    true => Ok(()),
                    false => Err(wrong(path, &format!("`{}` does not exist", file.display()))),
                };
            }
            None => expected_in(file, path)?,
        };
        let found = self.compute(path, stop)?;
        match found.eq_ignore_ascii_case(&expected) {
            true => Ok(()),
            false => {
                let name = self.algorithm.name();
                Err(wrong(path, &format!("its {name} is {found}, and {expected} is expected")))
            }
        }
    }
}

fn wrong(path: &Path, what: &str) -> ItemError {
    ItemError::new(
        ErrorKind::new("data.checksum"),
        format!("the checksum of `{}` is not right: {what}", path.display()),
    )
}

/// Maximum size of a file with checksums, in bytes.
const LIST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Returns the digest of `path` in `list`: its only word, or the first word of the line with the name of the file.
fn expected_in(list: &Path, path: &Path) -> Result<String, ItemError> {
    let mut text = String::new();
    let file = File::open(list).map_err(|error| failed("read", list, error))?;
    let read = file.take(LIST_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| failed("read", list, error))?;
    if text.len() as u64 == LIST_BYTES_MAX {
        return Err(ItemError::data(format!(
            "cannot use `{}`: a list of checksums has at most {LIST_BYTES_MAX} bytes",
            list.display()
        )));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let [line] = lines[..]
        && !line.contains(char::is_whitespace)
    {
        return Ok(line.to_owned());
    }
    // An asterisk before the name marks a binary file.
    let of_file = |line: &&str| {
        let (digest, named) = line.split_once(char::is_whitespace)?;
        let named = named.trim_start().trim_start_matches('*');
        let is_it = Path::new(named).file_name().is_some_and(|one| one == &*name);
        is_it.then(|| digest.to_owned())
    };
    lines.iter().find_map(of_file).ok_or_else(|| {
        wrong(path, &format!("`{}` has no line for a file of that name", list.display()))
    })
}
