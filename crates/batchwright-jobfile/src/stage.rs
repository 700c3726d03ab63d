//! The processors of a step: `filter`, `lookup`, `map`, `reject`, and those of registered kinds.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::ItemProcessor;
use batchwright::parameters::ParameterSchema;
use batchwright::scope::StepScope;
use batchwright::testing::fault::Numbered as _;
use batchwright_items::{
    At, BoxedProcessor, Keys, Make, MakeReader, Names, Problem, Record, Text, Value,
};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use crate::definition::Reader;
use crate::expression::{Expression, Parameters, Scope, parameters};
use crate::lookup::{Lookup, LookupKeys, Rows, lookup};
use crate::regroup::{self, Regrouping};

/// Keeps the records for which a condition is true.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FilterKeys {
    /// The condition, an expression.
    when: Text,
}

/// Fails the records for which a condition is true.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RejectKeys {
    /// The condition, an expression.
    when: Text,
    /// The message of the error. Default: the condition.
    message: Option<String>,
}

/// Sets, drops and orders fields.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MapKeys {
    /// Expressions by the names of the fields that they set.
    #[serde(default)]
    set: BTreeMap<String, Text>,
    /// The only fields that stay, in this order.
    keep: Option<Vec<String>>,
    /// Fields that are removed.
    #[serde(default)]
    drop: Vec<String>,
}

/// The processors of this crate, by the names of their types.
pub(crate) const STAGES: [&str; 7] =
    ["aggregate", "deduplicate", "filter", "lookup", "map", "reject", "split"];

/// Returns the JSON Schemas of the keys of the processors of this crate.
pub(crate) fn schemas() -> Vec<(&'static str, Schema)> {
    let mut all = vec![
        ("filter", schema_for!(FilterKeys)),
        ("lookup", schema_for!(LookupKeys)),
        ("map", schema_for!(MapKeys)),
        ("reject", schema_for!(RejectKeys)),
    ];
    all.extend(regroup::schemas());
    all.sort_by_key(|(name, _)| *name);
    all
}

/// Builds the processor of type `kind`, or returns `None` if this crate has no processor of this type; `reader` builds the reader
/// of a lookup.
pub(super) fn stage(
    kind: &str,
    keys: Keys<'_>,
    schema: &ParameterSchema,
    reader: impl Fn(&At<Reader>) -> Result<MakeReader, Problem>,
) -> Option<Result<Stage, Problem>> {
    let compile = |text: &Text| {
        Expression::compile(text.get_ref(), schema).map_err(|problem| Problem::at(text, problem))
    };
    let names =
        |all: &[String]| all.iter().map(|name| Arc::from(name.as_str())).collect::<Vec<_>>();
    let filter = || {
        let FilterKeys { when } = keys.parse()?;
        compile(&when).map(Stage::Filter)
    };
    let reject = || {
        let RejectKeys { when, message } = keys.parse()?;
        let message = message.unwrap_or_else(|| when.get_ref().clone()).into();
        Ok(Stage::Reject { when: compile(&when)?, message })
    };
    let map = || {
        let MapKeys { set, keep, drop } = keys.parse()?;
        if keep.is_some() && !drop.is_empty() {
            return Err(keys.problem("`keep` and `drop` exclude each other"));
        }
        let set = set.iter().map(|(name, text)| Ok((Arc::from(name.as_str()), compile(text)?)));
        let set = set.collect::<Result<_, Problem>>()?;
        let keep = keep.map(|keep| names(&keep).into());
        Ok(Stage::Map(Map { set, keep, drop: names(&drop) }))
    };
    Some(match kind {
        "filter" => filter(),
        "reject" => reject(),
        "map" => map(),
        "lookup" => lookup(keys, reader).map(|lookup| Stage::Lookup(Arc::new(lookup))),
        kind => return Regrouping::build(kind, keys).map(|built| built.map(Stage::Regroup)),
    })
}

/// One processor of a job file.
#[derive(Clone)]
pub(super) enum Stage {
    /// Keeps the records for which the expression is true.
    Filter(Expression),
    /// Fails the records for which the expression is true, with an error of kind `data.rejected`.
    Reject { when: Expression, message: Arc<str> },
    /// Sets, drops and orders fields.
    Map(Map),
    /// Adds fields of a row.
    Lookup(Arc<Lookup>),
    /// Changes the number of records.
    Regroup(Regrouping),
    /// A processor of a registered kind.
    Kind(Arc<Make<BoxedProcessor>>),
}

/// Checks that every field that `stages` use exists in an input with the fields `input`; `None` means that the
/// fields are known only record by record.
///
/// # Errors
///
/// Returns a sentence that names the missing field and the existing ones.
pub(super) fn check_fields(stages: &[Stage], input: Option<&[&str]>) -> Result<(), String> {
    let mut known: Option<BTreeSet<&str>> = input.map(|names| names.iter().copied().collect());
    let unknown = |what: &str, name: &str, known: &BTreeSet<&str>| {
        let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
        Err(format!("{what}: the item has no `{name}`; it has {}", known.join(", ")))
    };
    for stage in stages {
        let expressions: Vec<&Expression> = match stage {
            Stage::Filter(when) | Stage::Reject { when, .. } => vec![when],
            Stage::Map(Map { set, .. }) => set.iter().map(|(_, expression)| expression).collect(),
            Stage::Lookup(lookup) => {
                if let Some(known) = &mut known {
                    if !known.contains(&*lookup.on) {
                        return unknown("`on`", &lookup.on, known);
                    }
                    if let Some(name) = lookup.fields.iter().find(|name| known.contains(&***name)) {
                        return Err(format!("`fields`: the item has `{name}` already"));
                    }
                    known.extend(lookup.fields.iter().map(|name| &**name));
                }
                continue;
            }
            Stage::Regroup(regrouping) => {
                if let Some(known) = &known
                    && let Some((key, name)) =
                        regrouping.needed().into_iter().find(|(_, name)| !known.contains(name))
                {
                    return unknown(key, name, known);
                }
                known = known.and_then(|known| regrouping.fields(known));
                continue;
            }
            // The fields of its outputs are known only record by record.
            Stage::Kind(_) => {
                known = None;
                continue;
            }
        };
        if let Some(known) = &known {
            for expression in expressions {
                if let Some(name) = expression.unknown_field(known) {
                    let what = format!("the expression `{}`", expression.text);
                    return unknown(&what, &name, known);
                }
            }
        }
        let Stage::Map(Map { set, keep, drop }) = stage else { continue };
        if let Some(known) = &mut known {
            known.extend(set.iter().map(|(name, _)| &**name));
            let named = keep.iter().flat_map(|keep| keep.iter()).map(|name| ("`keep`", name));
            let named = named.chain(drop.iter().map(|name| ("`drop`", name)));
            for (what, name) in named {
                if !known.contains(&**name) {
                    return unknown(what, name, known);
                }
            }
            known.retain(|name| !drop.iter().any(|dropped| **dropped == **name));
        }
        if let Some(keep) = keep {
            known = Some(keep.iter().map(|name| &**name).collect());
        }
    }
    Ok(())
}

/// The processors of a step: those that work within its reader, in parts that each end with one that regroups, and the others.
pub(super) struct Divided {
    pub(super) within_reader: Vec<(Arc<[Stage]>, Regrouping)>,
    pub(super) rest: Arc<[Stage]>,
}

/// Divides the processors of a step after each one that regroups.
pub(super) fn divided(stages: &[Stage]) -> Divided {
    let (mut within_reader, mut rest) = (Vec::new(), Vec::new());
    for stage in stages {
        match stage {
            Stage::Regroup(regrouping) => {
                within_reader.push((std::mem::take(&mut rest).into(), regrouping.clone()));
            }
            other => rest.push(other.clone()),
        }
    }
    Divided { within_reader, rest: rest.into() }
}

/// All processors of a step, as one processor.
pub(super) struct Stages {
    processors: Vec<Processor>,
    parameters: Parameters,
    /// By the number of a record less one: whether it went through the processors before.
    is_processed: Arc<[bool]>,
}

/// A processor of one step execution.
enum Processor {
    Filter(Expression),
    Reject(Expression, Arc<str>),
    /// A `map`, and the fields that it returns, found with the first record.
    Map(Map, OnceLock<Fields>),
    Lookup(Rows),
    Kind(BoxedProcessor),
}

impl ItemProcessor<Record> for Stages {
    type Output = Record;

    fn process(&self, item: &Record) -> Result<Option<Record>, ItemError> {
        if !self.is_processed.is_empty() && self.is_processed(item.number()) {
            return Ok(Some(item.clone()));
        }
        let mut record = Cow::Borrowed(item);
        for processor in &self.processors {
            let sight = self.sight(&record);
            match processor {
                Processor::Filter(when) => {
                    if !when.is_true(sight)? {
                        return Ok(None);
                    }
                }
                Processor::Reject(when, message) => {
                    if when.is_true(sight)? {
                        let kind = ErrorKind::new("data.rejected");
                        return Err(ItemError::new(kind, format!("rejected: {message}")));
                    }
                }
                Processor::Map(map, fields) => {
                    record = Cow::Owned(map.apply(&record, sight, fields)?);
                }
                Processor::Lookup(rows) => match rows.apply(&record)? {
                    Some(output) => record = Cow::Owned(output),
                    None => return Ok(None),
                },
                Processor::Kind(processor) => match processor.process(&record)? {
                    Some(mut output) => {
                        // Faults are planned by the number of the record.
                        output.set_number(record.number());
                        record = Cow::Owned(output);
                    }
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(record.into_owned()))
    }

    /// A step without processors does nothing for a record.
    fn pass_through(&self, items: Vec<Record>) -> Result<Vec<Record>, Vec<Record>> {
        if self.processors.is_empty() { Ok(items) } else { Err(items) }
    }

    fn pass_back(&self, outputs: Vec<Record>) -> Result<Vec<Record>, Vec<Record>> {
        self.pass_through(outputs)
    }
}

impl Stages {
    /// Makes the processors of one step execution.
    pub(super) fn new(
        stages: &[Stage],
        scope: &StepScope,
        declared: &[String],
    ) -> Result<Self, ItemError> {
        let make = |stage: &Stage| {
            Ok(match stage {
                Stage::Filter(when) => Processor::Filter(when.clone()),
                Stage::Reject { when, message } => {
                    Processor::Reject(when.clone(), Arc::clone(message))
                }
                Stage::Map(map) => Processor::Map(map.clone(), OnceLock::new()),
                Stage::Lookup(lookup) => Processor::Lookup(lookup.read(scope)?),
                Stage::Regroup(_) => {
                    return Err(ItemError::fatal("cannot regroup records outside of the reader"));
                }
                Stage::Kind(make) => Processor::Kind(make(scope)?),
            })
        };
        let processors = stages.iter().map(make).collect::<Result<_, ItemError>>()?;
        let parameters = parameters(scope.parameters(), declared);
        Ok(Self { processors, parameters, is_processed: Arc::default() })
    }

    /// Lets those records pass unchanged that went through the processors before.
    pub(super) fn after(mut self, is_processed: Arc<[bool]>) -> Self {
        self.is_processed = is_processed;
        self
    }

    fn is_processed(&self, number: u64) -> bool {
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        index.and_then(|index| self.is_processed.get(index)).copied().unwrap_or(false)
    }

    fn sight<'a>(&'a self, item: &'a Record) -> Scope<'a> {
        Scope { item: Some(item), parameters: &self.parameters, steps: &[], context: None }
    }
}

/// A processor that sets fields by expressions over the original record, and then removes the fields of `drop`, or all fields
/// except those of `keep`.
#[derive(Clone)]
pub(super) struct Map {
    pub(super) set: Vec<(Arc<str>, Expression)>,
    pub(super) keep: Option<Names>,
    pub(super) drop: Vec<Arc<str>>,
}

/// The fields that a `map` returns for records with the fields `input`.
struct Fields {
    input: Names,
    names: Names,
    sources: Vec<Source>,
}

/// Where the value of a field comes from.
#[derive(Clone, Copy)]
enum Source {
    /// From the record: the index of the field.
    Record(usize),
    /// From an expression: its index.
    Set(usize),
}

impl Map {
    fn apply(
        &self,
        record: &Record,
        sight: Scope<'_>,
        known: &OnceLock<Fields>,
    ) -> Result<Record, ItemError> {
        let mut set = Vec::with_capacity(self.set.len());
        for (_, expression) in &self.set {
            let value = expression.evaluate(sight)?;
            if matches!(*value, Value::List(_)) {
                return Err(expression.failed("a field cannot be a list"));
            }
            set.push(value.into_owned());
        }
        if known.get().is_none() {
            // Another thread may be first, with a record that has other fields.
            let _ = known.set(self.fields(record.names())?);
        }
        let other;
        let fields = match known.get() {
            Some(fields) if fields.input == *record.names() => fields,
            _ => {
                other = self.fields(record.names())?;
                &other
            }
        };
        let value = |source: &Source| match *source {
            Source::Record(index) => record.values()[index].clone(),
            Source::Set(index) => set[index].clone(),
        };
        Ok(record.with(Arc::clone(&fields.names), fields.sources.iter().map(value).collect()))
    }

    /// Returns the fields for records with the fields `input`.
    fn fields(&self, input: &Names) -> Result<Fields, ItemError> {
        let mut names: Vec<Arc<str>> = input.to_vec();
        let mut sources: Vec<Source> = (0..names.len()).map(Source::Record).collect();
        for (index, (name, _)) in self.set.iter().enumerate() {
            match names.iter().position(|known| known == name) {
                Some(at) => sources[at] = Source::Set(index),
                None => {
                    names.push(Arc::clone(name));
                    sources.push(Source::Set(index));
                }
            }
        }
        let input = Arc::clone(input);
        if let Some(keep) = &self.keep {
            let find = |required: &Arc<str>| {
                let at = names.iter().position(|name| name == required).ok_or_else(|| {
                    ItemError::data(format!("cannot keep field `{required}`: the item has none"))
                })?;
                Ok(sources[at])
            };
            let sources = keep.iter().map(find).collect::<Result<_, ItemError>>()?;
            return Ok(Fields { input, names: Arc::clone(keep), sources });
        }
        let kept = names.into_iter().zip(sources).filter(|(name, _)| !self.drop.contains(name));
        let (names, sources): (Vec<_>, _) = kept.unzip();
        Ok(Fields { input, names: names.into(), sources })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_map_of_several_threads_keeps_the_fields_of_each_record() {
        let keep: Names = Arc::new(["a".into(), "b".into()]);
        let map = Map { set: Vec::new(), keep: Some(keep), drop: Vec::new() };
        let parameters = Parameters::new();
        for _ in 0..200 {
            let (known, start) = (OnceLock::new(), Barrier::new(2));
            std::thread::scope(|threads| {
                for names in [["a", "b"], ["b", "a"]] {
                    let (map, known, start, parameters) = (&map, &known, &start, &parameters);
                    threads.spawn(move || {
                        let values = names.map(Value::text).to_vec();
                        let record = Record::new(names.map(Arc::from).to_vec().into(), values);
                        let (steps, context) = (&[][..], None);
                        let sight = Scope { item: Some(&record), parameters, steps, context };
                        start.wait();
                        let mapped = map.apply(&record, sight, known).unwrap();
                        let texts: Vec<_> = mapped.values().iter().map(Value::to_string).collect();
                        assert_eq!(texts, ["a", "b"]);
                    });
                }
            });
        }
    }
}
