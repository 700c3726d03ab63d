//! Files by a pattern in their names, and readers of all of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{FromInput, ItemReader, SeriesReader};
use batchwright::partition::FilePartitions;
use batchwright::scope::StepScope;

use crate::key::{Problem, Text};
use crate::kind::{BuildContext, MakeReader};
use crate::reader::{BoxedReader, Position, Reads};
use crate::record::{Names, Record};
use crate::value::Value;

/// Whether the last part of `path` is a pattern: `*` matches any characters, `?` one.
pub(crate) fn is_pattern(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(['*', '?']))
}

/// Returns the folder of the file at `path`.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// Returns the files that `path` names or matches, sorted by their names; a folder that does not exist has none.
pub(crate) fn files_of(path: &Path) -> Result<Vec<PathBuf>, ItemError> {
    if !is_pattern(path) {
        return match std::fs::metadata(path) {
            Ok(found) => Ok(if found.is_file() { vec![path.to_owned()] } else { Vec::new() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(unreadable(path, error)),
        };
    }
    let folder = folder_of(path);
    match folder.try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(&folder, error)),
    }
    let pattern = path.file_name().unwrap_or_default().to_string_lossy();
    let names = FilePartitions::new(&folder, pattern).names()?;
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Returns the files of `path`, or an error when there is none.
pub(crate) fn some_files_of(path: &Path) -> Result<Vec<PathBuf>, ItemError> {
    let files = files_of(path)?;
    match files.is_empty() {
        false => Ok(files),
        true if is_pattern(path) => Err(no_file(&format!("no file matches `{}`", path.display()))),
        true if path.is_dir() => {
            Err(no_file(&format!("`{}` is a folder; add a pattern, such as `*`", path.display())))
        }
        true => Err(no_file(&format!("`{}` does not exist", path.display()))),
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> ItemError {
    ItemError::wrap(ErrorKind::IO, format!("cannot read `{}`", path.display()), error)
}

fn no_file(what: &str) -> ItemError {
    ItemError::new(ErrorKind::IO, format!("cannot begin: {what}"))
}

/// Makes the reader of the file at `path`, which `one` makes, or of all files that match it, in the order of their names. The field
/// `field` gets the path of the file; `fields` are those of its records, if they are known.
pub(crate) fn of_files(
    cx: &BuildContext<'_>,
    path: &Text,
    field: Option<&str>,
    fields: Option<Vec<String>>,
    one: impl Fn(PathBuf, &StepScope) -> Result<BoxedReader, ItemError> + Send + Sync + 'static,
) -> Result<MakeReader, Problem> {
    let path = cx.path(path)?;
    let field: Option<Arc<str>> = field.map(Arc::from);
    let all = fields.map(|fields| fields.into_iter().chain(field.as_deref().map(str::to_owned)));
    let all = all.map(Iterator::collect);
    let one = Arc::new(one);
    let made = MakeReader::new(move |scope| {
        let path = path(scope)?;
        let is_one = !is_pattern(&path) || path.is_file();
        if is_one && field.is_none() {
            return one(path, scope);
        }
        if !is_one && scope.partition().is_some_and(|partition| partition.values.has("start")) {
            return Err(ItemError::fatal(format!(
                "cannot divide `{}` by bytes: it is the pattern of several files",
                path.display()
            )));
        }
        let files = if is_one { vec![path] } else { some_files_of(&path)? };
        let names = files.iter().map(|path| path.display().to_string());
        let (one, scope, seen) = (Arc::clone(&one), scope.clone(), Arc::new(Mutex::new(None)));
        let fields = Arc::clone(&seen);
        let series = SeriesReader::new(names.collect::<Vec<_>>(), move |path| {
            let inner = one(PathBuf::from(path), &scope)?;
            Ok(Checked { inner, fields: Arc::clone(&fields) })
        });
        let tagged = Tagged { series, field: field.clone(), names: None };
        Ok(Reads::with_fields(tagged, move |tagged| {
            let fields = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Ok(fields.map(|mut fields: Vec<String>| {
                fields.extend(tagged.field.as_deref().map(str::to_owned));
                fields
            }))
        }))
    });
    Ok(MakeReader { fields: all, ..made })
}

/// A reader whose fields are checked when it is opened.
struct Checked {
    inner: BoxedReader,
    /// The fields of the file that was opened last.
    fields: Arc<Mutex<Option<Vec<String>>>>,
}

impl ItemReader for Checked {
    type Item = Record;
    type Position = Position;

    fn open(&mut self, position: Option<Position>, scope: &StepScope) -> Result<(), ItemError> {
        self.inner.open(position, scope)?;
        let fields = self.inner.fields()?;
        *self.fields.lock().unwrap_or_else(PoisonError::into_inner) = fields;
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        self.inner.read()
    }

    fn position(&self) -> Position {
        self.inner.position()
    }

    crate::reader::forward_reader!(inner);
}

/// A reader of files whose records have the path of their file.
struct Tagged<F> {
    series: SeriesReader<F, Checked>,
    field: Option<Arc<str>>,
    /// The names of the last record, and the same with the field for the path.
    names: Option<(Names, Names)>,
}

impl<F> Tagged<F> {
    fn tag(
        &mut self,
        FromInput { input, item, .. }: FromInput<Record>,
    ) -> Result<Record, ItemError> {
        let Some(field) = &self.field else { return Ok(item) };
        let names = match &self.names {
            Some((known, tagged)) if Arc::ptr_eq(known, item.names()) => Arc::clone(tagged),
            _ => {
                if item.names().contains(field) {
                    return Err(ItemError::fatal(format!(
                        "cannot add the path of the file as `{field}`: `{input}` has a field of that name"
                    )));
                }
                let tagged: Names =
                    item.names().iter().cloned().chain([Arc::clone(field)]).collect();
                self.names = Some((Arc::clone(item.names()), Arc::clone(&tagged)));
                tagged
            }
        };
        let path = Value::text(&input);
        Ok(item.with(names, item.values().iter().cloned().chain([path]).collect()))
    }
}

impl<F: Fn(&str) -> Result<Checked, ItemError> + Send> ItemReader for Tagged<F> {
    type Item = Record;
    type Position = <SeriesReader<F, Checked> as ItemReader>::Position;

    fn open(
        &mut self,
        position: Option<Self::Position>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        self.series.open(position, scope)
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        match self.series.read()? {
            Some(item) => self.tag(item).map(Some),
            None => Ok(None),
        }
    }

    fn position(&self) -> Self::Position {
        self.series.position()
    }

    crate::reader::forward_reader!(series);
}
