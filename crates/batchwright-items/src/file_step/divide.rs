//! The kind `divide`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KnownFile, PLANNED_MAX, Placing, absolute, failed, place, remove_all};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::{files_of, folder_of, is_pattern, no_file};
use crate::transport::Compression;

/// Number of bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;
/// Maximum size of a header, in bytes.
const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// The kind `divide`.
pub(crate) struct DivideKind;

/// Divides a text file into parts of whole lines.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DivideKeys {
    /// The file, which is not compressed.
    from: Text,
    /// The parts, such as `parts/orders-*.csv`: the `*` becomes the number of the part, `00001` and so on. Files that have such
    /// names are not replaced, but refused.
    to: Text,
    /// Number of lines of a part, without the header.
    lines: Option<NonZeroU64>,
    /// Number of bytes of a part, without the header: it ends with the line that reaches them.
    bytes: Option<NonZeroU64>,
    /// Whether the first line is a header, with which each part begins. Default: false.
    #[serde(default)]
    header: bool,
    /// Whether a line end between double quotes ends no line, as in a CSV file. Default: false.
    #[serde(default)]
    quoted: bool,
    /// Whether the file remains. Default: true.
    keep: Option<bool>,
}

impl ItemKind for DivideKind {
    fn name(&self) -> &'static str {
        "divide"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().tasklet::<DivideKeys>().step_restarts(
            "Exact: at the next part. Another file is refused. The file is removed after the store knows that its last part is there.",
        )
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let DivideKeys { from, to, lines, bytes, header, quoted, keep } = keys.parse()?;
        if lines.is_some() == bytes.is_some() {
            return Err(keys.problem("a `divide` has either `lines` or `bytes`"));
        }
        let size = Size { lines: lines.map(Into::into), bytes: bytes.map(Into::into) };
        let (from, to) = (cx.output_path(&from)?, cx.output_path(&to)?);
        Ok(Box::new(Divide { from, to, size, header, quoted, keep: keep.unwrap_or(true) }))
    }
}

/// The size of a part; one of both.
#[derive(Debug, Clone, Copy)]
struct Size {
    lines: Option<u64>,
    bytes: Option<u64>,
}

struct Divide {
    from: Make<PathBuf>,
    to: Make<PathBuf>,
    size: Size,
    header: bool,
    quoted: bool,
    keep: bool,
}

/// How far the step is; stored in its context.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    file: KnownFile,
    /// The path of the parts, with `*` for their number.
    to: PathBuf,
    /// Number of bytes that are in parts.
    byte: u64,
    parts: u64,
    is_divided: bool,
}

/// The name in the step's context under which its progress is stored.
const PROGRESS: &str = "divide";

impl Tasklet for Divide {
    fn call(&self, call: &mut TaskletCall<'_, '_>) -> Result<Flow, ItemError> {
        let scope = call.scope().clone();
        if !scope.context().has(PROGRESS) {
            scope.context().put(PROGRESS, &self.plan(&scope)?)?;
            return Ok(Flow::Continue);
        }
        let mut progress: Progress = scope.context().get(PROGRESS)?;
        if progress.is_divided {
            remove_all(std::slice::from_ref(&progress.file))?;
            return Ok(Flow::Finished);
        }
        let number = progress.parts + 1;
        let to = numbered(&progress.to, number)?;
        let mut taken = Taken::default();
        if to.symlink_metadata().is_ok() {
            // An earlier attempt wrote it before the process died; another file is not replaced.
            let mut same = Same::with(&to)?;
            taken = self.write_part(&progress, &mut same, scope.stop())?;
            same.end()?;
        } else {
            let placing = Placing { keeps_existing: true, ..Placing::default() };
            place(&to, &scope, &placing, |part| {
                taken = self.write_part(&progress, part, scope.stop())?;
                Ok(())
            })?;
        }
        call.contribute(taken.lines, taken.lines);
        progress.byte += taken.bytes;
        progress.parts = number;
        progress.is_divided = progress.byte >= progress.file.size;
        let is_done = progress.is_divided && self.keep;
        scope.context().put(PROGRESS, &progress)?;
        Ok(if is_done { Flow::Finished } else { Flow::Continue })
    }
}

/// What a part took of the file, the header included.
#[derive(Debug, Default)]
struct Taken {
    bytes: u64,
    lines: u64,
}

impl Divide {
    fn plan(&self, scope: &StepScope) -> Result<Progress, ItemError> {
        let (from, to) = (absolute(&(self.from)(scope)?)?, absolute(&(self.to)(scope)?)?);
        let stars = to.file_name().map_or(0, |name| name.to_string_lossy().matches('*').count());
        if stars != 1 || to.to_string_lossy().contains('?') {
            return Err(ItemError::fatal(format!(
                "cannot name the parts `{}`: the name of a part has one `*`, and no `?`",
                to.display()
            )));
        }
        for path in [&from, &to] {
            if Compression::of(path).is_some() {
                return Err(ItemError::fatal(format!(
                    "cannot divide `{}` into `{}`: the file and its parts are not compressed",
                    from.display(),
                    to.display()
                )));
            }
        }
        let known =
            if is_pattern(&from) { Vec::new() } else { KnownFile::all(vec![from.clone()], true)? };
        let Some(file) = known.into_iter().next() else {
            return Err(no_file(&format!("`{}`", from.display())));
        };
        // Parts of another run would be taken for some of this one.
        let found = if folder_of(&to).is_dir() { files_of(&to)? } else { Vec::new() };
        if let Some(other) = found.first() {
            return Err(is_there(&from, other));
        }
        if self.size.bytes.is_some_and(|bytes| file.size / bytes >= PLANNED_MAX as u64) {
            return Err(too_many(&to));
        }
        Ok(Progress { file, to, byte: 0, parts: 0, is_divided: false })
    }

    /// Writes the part after `progress`.
    fn write_part(
        &self,
        progress: &Progress,
        part: &mut dyn Write,
        stop: &StopToken,
    ) -> Result<Taken, ItemError> {
        let path = &*progress.file.path;
        let unreadable = |error| failed("read", path, error);
        let file = File::open(path).map_err(unreadable)?;
        let mut reader = BufReader::with_capacity(READ_BYTES, file);
        let mut taken = Taken::default();
        let mut header = Header::default();
        if self.header {
            let one = Size { lines: Some(1), bytes: None };
            let line = self.copy_lines((path, &mut reader), one, &mut header, stop)?;
            part.write_all(&header.0)?;
            if progress.byte == 0 {
                taken.bytes = line.bytes;
            }
        }
        reader.seek(SeekFrom::Start(progress.byte + taken.bytes)).map_err(unreadable)?;
        let lines = self.copy_lines((path, &mut reader), self.size, part, stop)?;
        taken = Taken { bytes: taken.bytes + lines.bytes, lines: lines.lines };
        match progress.file.is_there()? {
            true => Ok(taken),
            false => Err(ItemError::new(
                ErrorKind::INPUT_CHANGED,
                format!("cannot divide `{}`: it changed since the step began", path.display()),
            )),
        }
    }

    /// Copies lines up to `size`.
    fn copy_lines(
        &self,
        (path, reader): (&Path, &mut BufReader<File>),
        size: Size,
        part: &mut dyn Write,
        stop: &StopToken,
    ) -> Result<Taken, ItemError> {
        let (mut taken, mut is_within_quotes, mut is_ended) = (Taken::default(), false, true);
        loop {
            if stop.is_requested() {
                return Err(ItemError::stopped("a stop was requested while a file was divided"));
            }
            let bytes = reader.fill_buf().map_err(|error| failed("read", path, error))?;
            let mut end = None;
            for at in memchr::memchr2_iter(b'\n', b'"', bytes) {
                if bytes[at] == b'"' {
                    // A doubled quote is two changes.
                    is_within_quotes ^= self.quoted;
                } else if !is_within_quotes {
                    taken.lines += 1;
                    let is_full = size.lines.is_some_and(|lines| taken.lines >= lines)
                        || size.bytes.is_some_and(|size| taken.bytes + at as u64 + 1 >= size);
                    if is_full {
                        end = Some(at + 1);
                        break;
                    }
                }
            }
            let count = end.unwrap_or(bytes.len());
            if count == 0 {
                // The last line may have no end.
                taken.lines += u64::from(!is_ended);
                return Ok(taken);
            }
            part.write_all(&bytes[..count])?;
            is_ended = bytes[count - 1] == b'\n' && !is_within_quotes;
            reader.consume(count);
            taken.bytes += count as u64;
            if end.is_some() {
                return Ok(taken);
            }
        }
    }
}

/// The error of a part that another run made.
fn is_there(from: &Path, part: &Path) -> ItemError {
    let (from, part) = (from.display(), part.display());
    let what = format!("cannot divide `{from}`: there is a file with the name of a part, `{part}`");
    ItemError::new(ErrorKind::IO, what)
}

fn too_many(to: &Path) -> ItemError {
    let to = to.display();
    ItemError::fatal(format!(
        "cannot divide into `{to}`: there would be more than {PLANNED_MAX} parts"
    ))
}

/// A header, which each part has.
#[derive(Default)]
struct Header(Vec<u8>);

impl Write for Header {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > HEADER_BYTES_MAX {
            let what = format!("the header is longer than {HEADER_BYTES_MAX} bytes");
            return Err(io::Error::other(what));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compares what is written with a file that is there.
struct Same {
    path: PathBuf,
    file: BufReader<File>,
}

impl Same {
    fn with(path: &Path) -> Result<Self, ItemError> {
        let file = File::open(path).map_err(|error| failed("read", path, error))?;
        Ok(Self { path: path.to_owned(), file: BufReader::with_capacity(READ_BYTES, file) })
    }

    /// Refuses a file that goes on.
    fn end(mut self) -> Result<(), ItemError> {
        match self.file.fill_buf()?.is_empty() {
            true => Ok(()),
            false => Err(self.differs().into()),
        }
    }

    fn differs(&self) -> io::Error {
        let path = self.path.display();
        io::Error::other(format!(
            "cannot write `{path}`: there is another file with the name of the part"
        ))
    }
}

impl Write for Same {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let there = self.file.fill_buf()?;
        let count = there.len().min(bytes.len());
        if count == 0 && !bytes.is_empty() || there[..count] != bytes[..count] {
            return Err(self.differs());
        }
        self.file.consume(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the path of the part with `number`.
fn numbered(to: &Path, number: u64) -> Result<PathBuf, ItemError> {
    if number > PLANNED_MAX as u64 {
        return Err(too_many(to));
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    Ok(to.with_file_name(name.replace('*', &format!("{number:05}"))))
}
