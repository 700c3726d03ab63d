//! Readers of all files that match a pattern.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::ItemError;
use batchwright::item::{FromInput, ItemReader, SeriesReader};
use batchwright::scope::StepScope;

use crate::key::{Problem, Text};
use crate::kind::{BuildContext, MakeReader};
use crate::location::Location;
use crate::paths::no_file;
use crate::reader::{BoxedReader, Position, Reads};
use crate::record::{Names, Record};
use crate::transport::ByteSource;
use crate::value::Value;

/// Makes the reader of the file at `path`, which `one` makes, or of all files that match it, in the order of their names. The field
/// `field` gets the path of the file as the job file would write it, or its URL; `fields` are those of its records, if they are
/// known.
pub(crate) fn of_files(
    cx: &BuildContext<'_>,
    path: &Text,
    field: Option<&str>,
    fields: Option<Vec<String>>,
    one: impl Fn(Arc<dyn ByteSource>, &StepScope) -> Result<BoxedReader, ItemError>
    + Send
    + Sync
    + 'static,
) -> Result<MakeReader, Problem> {
    let location = cx.location(path)?;
    let field: Option<Arc<str>> = field.map(Arc::from);
    let all = fields.map(|fields| fields.into_iter().chain(field.as_deref().map(str::to_owned)));
    let all = all.map(Iterator::collect);
    let (one, folder) = (Arc::new(one), cx.folder.to_owned());
    let made = MakeReader::new(move |scope| {
        let location = location(scope)?;
        let is_one = location.is_one();
        if is_one && field.is_none() {
            return one(location.source(), scope);
        }
        if !is_one && scope.partition().is_some_and(|partition| partition.values.has("start")) {
            return Err(ItemError::fatal(format!(
                "cannot divide `{}` by bytes: it is the pattern of several files",
                location.shown()
            )));
        }
        let files = if is_one { vec![location] } else { location.matches(false)? };
        let files: Vec<(String, Location)> =
            files.into_iter().map(|file| (file.shown_from(&folder), file)).collect();
        let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        let files: HashMap<String, Location> = files.into_iter().collect();
        let (one, scope, seen) = (Arc::clone(&one), scope.clone(), Arc::new(Mutex::new(None)));
        let fields = Arc::clone(&seen);
        let series = SeriesReader::new(names, move |name| {
            let file = files.get(name).ok_or_else(|| no_file(&format!("`{name}` is unknown")))?;
            let inner = one(file.source(), &scope)?;
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
