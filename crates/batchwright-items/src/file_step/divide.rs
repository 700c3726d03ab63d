//! The kind `divide`.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::scope::StepScope;
use batchwright::step::{Flow, Tasklet, TaskletCall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::merge::first_line;
use super::{KnownFile, PLANNED_MAX, Placing, absolute, failed, place, remove_all};
use crate::key::{Keys, Problem, Text};
use crate::kind::{BuildContext, ItemKind, KindSchema, Make};
use crate::paths::{files_of, folder_of, is_pattern, no_file};
use crate::transport::Compression;

/// Number of bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// The kind `divide`.
pub(crate) struct DivideKind;

/// Divides a text file into parts of whole lines.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DivideKeys {
    /// The file, which is not compressed.
    from: Text,
    /// The parts, such as `parts/orders-*.csv`: the `*` becomes the number of the part, `0001` and so on. No file has such a name
    /// yet.
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
        let mut taken = Taken::default();
        place(&numbered(&progress.to, number)?, &scope, &Placing::default(), |part| {
            taken = self.write_part(&progress, part, scope.stop())?;
            Ok(())
        })?;
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
        if folder_of(&to).is_dir()
            && let Some(other) = files_of(&to)?.iter().find(|found| **found != from)
        {
            return Err(ItemError::new(
                ErrorKind::IO,
                format!(
                    "cannot divide `{}`: there is a part already, `{}`",
                    from.display(),
                    other.display()
                ),
            ));
        }
        Ok(Progress { file, to, byte: 0, parts: 0, is_divided: false })
    }

    /// Writes the part after `progress`.
    fn write_part(
        &self,
        progress: &Progress,
        part: &mut File,
        stop: &StopToken,
    ) -> Result<Taken, ItemError> {
        let path = &*progress.file.path;
        let unreadable = |error| failed("read", path, error);
        let file = File::open(path).map_err(unreadable)?;
        let mut reader = BufReader::with_capacity(READ_BYTES, file);
        let mut taken = Taken::default();
        if self.header {
            part.write_all(&first_line(&mut reader, path)?)?;
            if progress.byte == 0 {
                taken.bytes = reader.stream_position().map_err(unreadable)?;
            }
        }
        reader.seek(SeekFrom::Start(progress.byte + taken.bytes)).map_err(unreadable)?;
        self.copy_lines((path, &mut reader), part, &mut taken, stop)?;
        match progress.file.is_there()? {
            true => Ok(taken),
            false => Err(ItemError::new(
                ErrorKind::INPUT_CHANGED,
                format!("cannot divide `{}`: it changed since the step began", path.display()),
            )),
        }
    }

    /// Copies the lines of one part.
    fn copy_lines(
        &self,
        (path, reader): (&Path, &mut BufReader<File>),
        part: &mut File,
        taken: &mut Taken,
        stop: &StopToken,
    ) -> Result<(), ItemError> {
        let (mut copied, mut is_within_quotes) = (0, false);
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
                    let Size { lines, bytes: size } = self.size;
                    let is_full = lines.is_some_and(|lines| taken.lines >= lines)
                        || size.is_some_and(|size| copied + at as u64 + 1 >= size);
                    if is_full {
                        end = Some(at + 1);
                        break;
                    }
                }
            }
            let count = end.unwrap_or(bytes.len());
            part.write_all(&bytes[..count])?;
            reader.consume(count);
            copied += count as u64;
            taken.bytes += count as u64;
            if end.is_some() || count == 0 {
                return Ok(());
            }
        }
    }
}

/// Returns the path of the part with `number`.
fn numbered(to: &Path, number: u64) -> Result<PathBuf, ItemError> {
    if number > PLANNED_MAX as u64 {
        return Err(ItemError::fatal(format!(
            "cannot divide into `{}`: there would be more than {PLANNED_MAX} parts",
            to.display()
        )));
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    Ok(to.with_file_name(name.replace('*', &format!("{number:04}"))))
}
