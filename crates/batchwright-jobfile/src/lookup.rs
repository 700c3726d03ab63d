//! The processor `lookup`: fields of other records, found by a key.

use std::collections::HashMap;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::ItemReader;
use batchwright::scope::StepScope;
use batchwright_items::{
    At, BoxedReader, Keys, Make, MakeReader, Names, Problem, Record, Value, first_duplicate,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::definition::Reader;

/// Maximum number of rows without `rows_max`.
const ROWS_MAX: usize = 1_000_000;

/// Adds fields of a row that is found by a key. All rows are read, and kept in memory, when the step begins.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookupKeys {
    /// The reader of the rows.
    from: At<Reader>,
    /// The field of the record whose value is searched.
    on: String,
    /// The field of the rows that it is compared with, as text. Default: the same name as `on`.
    key: Option<String>,
    /// The fields of the row that the record gets.
    fields: Vec<String>,
    /// What happens to a record without a row: `fail` (an error of kind `data.missing`), `null` (the fields are null) or `drop`.
    /// Default: `fail`.
    #[serde(default)]
    missing: Missing,
    /// Maximum number of rows; more fail the step. Default: 1,000,000.
    rows_max: Option<usize>,
}

/// What happens to a record without a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Missing {
    #[default]
    Fail,
    Null,
    Drop,
}

/// A lookup as the job file describes it.
pub(super) struct Lookup {
    from: Make<BoxedReader>,
    pub(super) on: Arc<str>,
    key: String,
    pub(super) fields: Names,
    missing: Missing,
    rows_max: usize,
}

/// A lookup with its rows, for one step execution.
pub(super) struct Rows {
    lookup: Arc<Lookup>,
    /// The values of `fields`, by the text of the key.
    values: HashMap<String, Arc<[Value]>>,
}

/// Builds the lookup; `build` builds its reader.
pub(super) fn lookup(
    keys: Keys<'_>,
    build: impl Fn(&At<Reader>) -> Result<MakeReader, Problem>,
) -> Result<Lookup, Problem> {
    let LookupKeys { from, on, key, fields, missing, rows_max } = keys.parse()?;
    let MakeReader { make, fields: known, is_queue } = build(&from)?;
    if is_queue {
        return Err(Problem::at(
            &from,
            "a lookup cannot read a queue, or what has another order when it is read again",
        ));
    }
    let key = key.unwrap_or_else(|| on.clone());
    if fields.is_empty() {
        return Err(keys.problem_at("fields", "`fields` has at least one name"));
    }
    if let Some(name) = first_duplicate(&fields) {
        return Err(keys.problem_at("fields", format!("`{name}` is there twice")));
    }
    if fields.contains(&on) {
        let what = format!("`{on}` cannot be one of `fields`: the record has it already");
        return Err(keys.problem_at("fields", what));
    }
    let missing_one =
        |known: &[String]| fields.iter().chain([&key]).find(|one| !known.contains(one)).cloned();
    if let Some(name) = known.as_deref().and_then(missing_one) {
        return Err(Problem::at(&from, format!("the rows have no field `{name}`")));
    }
    let fields: Vec<Arc<str>> = fields.iter().map(|name| Arc::from(name.as_str())).collect();
    let (fields, rows_max) = (fields.into(), rows_max.unwrap_or(ROWS_MAX));
    Ok(Lookup { from: make, on: on.into(), key, fields, missing, rows_max })
}

impl Lookup {
    /// Reads all rows.
    pub(super) fn read(self: &Arc<Self>, scope: &StepScope) -> Result<Rows, ItemError> {
        let failed = |error: ItemError| {
            if error.is_stop() {
                return error;
            }
            let what = format!("cannot read the rows to look up `{}` in", self.on);
            ItemError::wrap(ErrorKind::FATAL, what, error.into_boxed())
        };
        // Each partition needs all rows.
        let scope = &scope.without_partition();
        let mut reader = (self.from)(scope)?;
        reader.open(None, scope).map_err(failed)?;
        let mut values = HashMap::new();
        while let Some(row) = reader.read().map_err(failed)? {
            if scope.stop().is_requested() {
                return Err(ItemError::stopped("a stop was requested while rows were read"));
            }
            let value = |name: &str| {
                row.get(name).cloned().ok_or_else(|| {
                    ItemError::fatal(format!(
                        "cannot look up `{}`: a row has no field `{name}`",
                        self.on
                    ))
                })
            };
            // A null is equal to nothing.
            let key = match value(&self.key)? {
                Value::Null => continue,
                key => key.to_string(),
            };
            if values.len() == self.rows_max {
                return Err(ItemError::fatal(format!(
                    "cannot look up `{}`: there are more than {} rows (`rows_max`)",
                    self.on, self.rows_max
                )));
            }
            let kept = |name: &Arc<str>| value(name).map(kept);
            let row = self.fields.iter().map(kept).collect::<Result<_, _>>()?;
            if values.insert(key.clone(), row).is_some() {
                return Err(ItemError::fatal(format!(
                    "cannot look up `{}`: two rows have `{}` = `{key}`",
                    self.on, self.key
                )));
            }
        }
        reader.close().map_err(failed)?;
        Ok(Rows { lookup: Arc::clone(self), values })
    }
}

/// Returns the value without the buffer of its record, of which a text is a part.
pub(super) fn kept(value: Value) -> Value {
    match value {
        Value::Text(text) => Value::text(&text),
        Value::Field(text) => Value::Field((*text).into()),
        Value::List(values) => Value::List(values.iter().cloned().map(kept).collect()),
        Value::Map(fields) => Value::Map(
            fields.iter().map(|(name, value)| (Arc::clone(name), kept(value.clone()))).collect(),
        ),
        other => other,
    }
}

impl Rows {
    /// Returns the record with the fields of its row; `None` when it is dropped.
    pub(super) fn apply(&self, record: &Record) -> Result<Option<Record>, ItemError> {
        let Lookup { on, fields, missing, .. } = &*self.lookup;
        let key = record.required("look up", on)?;
        let found = match key {
            Value::Null => None,
            key => self.values.get(&key.to_string()).cloned(),
        };
        let row = match (found, missing) {
            (Some(row), _) => row,
            (None, Missing::Null) => fields.iter().map(|_| Value::Null).collect(),
            (None, Missing::Drop) => return Ok(None),
            (None, Missing::Fail) => {
                let what = format!("cannot look up `{on}`: no row has `{key}`");
                return Err(ItemError::new(ErrorKind::new("data.missing"), what));
            }
        };
        if let Some(name) = fields.iter().find(|name| record.get(name).is_some()) {
            return Err(ItemError::data(format!(
                "cannot add field `{name}` of a row: the item has a field of this name"
            )));
        }
        let names = record.names().iter().chain(fields.iter()).cloned().collect();
        Ok(Some(record.with(names, record.values().iter().chain(&*row).cloned().collect())))
    }
}
