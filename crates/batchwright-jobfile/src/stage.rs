//! The processors of a step: `filter`, `map`, `reject`, and those of registered kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::ItemProcessor;
use batchwright::parameters::ParameterSchema;
use batchwright::scope::StepScope;
use batchwright::testing::fault::Numbered as _;
use batchwright_items::{BoxedProcessor, Keys, Make, Names, Problem, Record, Text, Value};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use crate::expression::{Expression, Parameters, Scope, parameters};

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
pub(crate) const STAGES: [&str; 3] = ["filter", "map", "reject"];

/// Returns the JSON Schemas of the keys of the processors of this crate.
pub(crate) fn schemas() -> [(&'static str, Schema); 3] {
    [
        ("filter", schema_for!(FilterKeys)),
        ("map", schema_for!(MapKeys)),
        ("reject", schema_for!(RejectKeys)),
    ]
}

/// Builds the processor of type `kind`, or returns `None` if this crate has no processor of this type.
pub(super) fn stage(
    kind: &str,
    keys: Keys<'_>,
    schema: &ParameterSchema,
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
        Ok(Stage::Map { set, keep, drop: names(&drop) })
    };
    Some(match kind {
        "filter" => filter(),
        "reject" => reject(),
        "map" => map(),
        _ => return None,
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
    Map { set: Vec<(Arc<str>, Expression)>, keep: Option<Names>, drop: Vec<Arc<str>> },
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
            Stage::Map { set, .. } => set.iter().map(|(_, expression)| expression).collect(),
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
        let Stage::Map { set, keep, drop } = stage else { continue };
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

/// All processors of a step, as one processor.
pub(super) struct Stages {
    stages: Arc<[Stage]>,
    /// The processor of each stage of a registered kind.
    made: Vec<Option<BoxedProcessor>>,
    parameters: Parameters,
}

impl ItemProcessor<Record> for Stages {
    type Output = Record;

    fn process(&self, item: &Record) -> Result<Option<Record>, ItemError> {
        let mut record = item.clone();
        for (stage, made) in self.stages.iter().zip(&self.made) {
            let sight = self.sight(&record);
            match stage {
                Stage::Filter(when) => {
                    if !when.is_true(sight)? {
                        return Ok(None);
                    }
                }
                Stage::Reject { when, message } => {
                    if when.is_true(sight)? {
                        let kind = ErrorKind::new("data.rejected");
                        return Err(ItemError::new(kind, format!("rejected: {message}")));
                    }
                }
                Stage::Map { set, keep, drop } => {
                    record = map(&record, sight, set, keep.as_ref(), drop)?;
                }
                Stage::Kind(_) => {
                    let processor = made.as_ref().expect("made with the stages");
                    match processor.process(&record)? {
                        Some(mut output) => {
                            // Faults are planned by the number of the record.
                            output.set_number(record.number());
                            record = output;
                        }
                        None => return Ok(None),
                    }
                }
            }
        }
        Ok(Some(record))
    }
}

impl Stages {
    /// Makes the processors of one step execution.
    pub(super) fn new(
        stages: &Arc<[Stage]>,
        scope: &StepScope,
        declared: &[String],
    ) -> Result<Self, ItemError> {
        let make = |stage: &Stage| match stage {
            Stage::Kind(make) => make(scope).map(Some),
            _ => Ok(None),
        };
        let made = stages.iter().map(make).collect::<Result<_, _>>()?;
        let parameters = parameters(scope.parameters(), declared);
        Ok(Self { stages: Arc::clone(stages), made, parameters })
    }

    fn sight<'a>(&'a self, item: &'a Record) -> Scope<'a> {
        Scope { item: Some(item), parameters: &self.parameters, steps: &[], context: None }
    }
}

/// Sets fields by expressions over the original record, then removes the fields of `drop` or all fields except those
/// of `keep`.
fn map(
    record: &Record,
    sight: Scope<'_>,
    set: &[(Arc<str>, Expression)],
    keep: Option<&Names>,
    drop: &[Arc<str>],
) -> Result<Record, ItemError> {
    let mut names: Vec<Arc<str>> = record.names().to_vec();
    let mut values: Vec<Value> = record.values().to_vec();
    for (name, expression) in set {
        let value = expression.evaluate(sight)?;
        if matches!(value, Value::List(_)) {
            return Err(expression.failed("a field cannot be a list"));
        }
        match names.iter().position(|known| known == name) {
            Some(index) => values[index] = value,
            None => {
                names.push(Arc::clone(name));
                values.push(value);
            }
        }
    }
    if let Some(keep) = keep {
        let find = |required: &Arc<str>| {
            names.iter().position(|name| name == required).ok_or_else(|| {
                ItemError::data(format!("cannot keep field `{required}`: the item has none"))
            })
        };
        let chosen: Result<Vec<_>, _> =
            keep.iter().map(|name| find(name).map(|index| values[index].clone())).collect();
        return Ok(record.with(Arc::clone(keep), chosen?));
    }
    if drop.is_empty() {
        return Ok(record.with(names.into(), values));
    }
    let kept = names.into_iter().zip(values).filter(|(name, _)| !drop.contains(name));
    let (names, values): (Vec<_>, Vec<_>) = kept.unzip();
    Ok(record.with(names.into(), values))
}
