//! Progressive steps of job files.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::progressive::{ItemUnits, OnFailed, ProgressiveStep};
use batchwright::testing::fault::{FaultyProcessor, FaultyWriter};
use batchwright_items::{At, Known, Problem, Record, Text, Value, duration};
use serde_json::Value as Json;

use super::{Builder, Built, completion};
use crate::definition::{Processor, Reduce, Step};
use crate::regroup::REGROUPINGS;

/// The result of `reduce`: a value for each name.
type Reduced = BTreeMap<String, Json>;

impl Builder<'_> {
    fn refuse_queue(&self, step: &Step, known: &Known<'_>) -> Built<()> {
        let Some(reader) = &step.reader else { return Ok(()) };
        match self.reader(reader, known)?.is_queue {
            false => Ok(()),
            true => Err(Problem::at(
                reader,
                "a progressive step cannot read a queue, or what has another order each time, because it reads its input several times",
            )),
        }
    }

    pub(super) fn progressive(&self, step: &Step, known: &Known<'_>) -> Built<ProgressiveStep> {
        let name = step.name.get_ref().clone();
        // The processor and the writer are wrapped with an empty plan too: a unit costs more than the wrapper.
        let faults = self.faults(&name).unwrap_or_default();
        let other = faults.clone();
        refuse_regrouping(step)?;
        self.refuse_queue(step, known)?;
        let (make_reader, make_stages) = self.reader_and_stages(step, known)?;
        let make_writer = match &step.writer {
            Some(writer) => {
                let (span, part) = (writer.span(), writer.get_ref());
                let keys = self.keys("writer", &part.kind, &part.keys, &span);
                let kind = part.kind.get_ref().as_str();
                if !matches!(kind, "sql" | "none") || keys.text("url").is_some() {
                    let message = "a progressive step can write only to tables of the store's own database, because lanes write concurrently";
                    return Err(Problem::at(&part.kind, message));
                }
                Some(self.writer(writer, known)?)
            }
            None => None,
        };
        let units = ItemUnits::new(make_reader);
        let reduce: Vec<(String, Reduce)> = step
            .reduce
            .iter()
            .flatten()
            .map(|(name, reduce)| (name.clone(), reduce.get_ref().clone()))
            .collect();
        let others = reduce.clone();
        let mut builder = ProgressiveStep::builder(name)
            .units(units)
            .process_with(move |scope| Ok(FaultyProcessor::new(make_stages(scope)?, &faults)))
            .reduce(
                move |result: Option<Reduced>, record: &Record| fold(result, record, &reduce),
                move |left, right| combine(left, right, &others),
            );
        if let Some(make_writer) = make_writer {
            builder = builder
                .writer_with(move |scope| Ok(FaultyWriter::new(make_writer(scope)?, &other)));
        }
        if let Some(lanes) = &step.lanes {
            builder = builder.lanes(at_least_one(lanes, "lanes", 1024)?);
        }
        if let Some(target) = &step.target {
            builder = builder.target(positive(target)?);
        }
        if let Some(attempts) = &step.max_attempts {
            builder = builder.max_attempts(at_least_one(attempts, "max_attempts", 1000)?);
        }
        if let Some(timeout) = &step.unit_timeout {
            builder = builder.unit_timeout(positive(timeout)?);
        }
        if let Some(word) = &step.on_failed {
            builder = builder.on_failed(match word.get_ref().as_str() {
                "continue" => OnFailed::Continue,
                "fail" => OnFailed::Fail,
                other => {
                    let message =
                        format!("there is no policy `{other}`; there are: continue, fail");
                    return Err(Problem::at(word, message));
                }
            });
        }
        if let Some(chunk) = &step.chunk {
            builder = builder.completion(completion(chunk)?);
        }
        Ok(builder.build())
    }
}

/// Refuses processors that change the number of items: a unit has one output.
fn refuse_regrouping(step: &Step) -> Built<()> {
    let regroups =
        |one: &&At<Processor>| REGROUPINGS.contains(&one.get_ref().kind.get_ref().as_str());
    match step.processors.iter().find(regroups) {
        None => Ok(()),
        Some(processor) => {
            let kind = processor.get_ref().kind.get_ref();
            let message = format!("a progressive step cannot have the processor `{kind}`");
            Err(Problem::at(processor, message))
        }
    }
}

fn positive(text: &Text) -> Built<Duration> {
    let length = duration(text)?;
    match length.is_zero() {
        true => Err(Problem::at(text, "expected a time above zero")),
        false => Ok(length),
    }
}

fn at_least_one(number: &At<u32>, key: &str, max: u32) -> Built<u32> {
    match *number.get_ref() {
        found if (1..=max).contains(&found) => Ok(found),
        _ => Err(Problem::at(number, format!("`{key}` is between 1 and {max}"))),
    }
}

fn fold(
    result: Option<Reduced>,
    record: &Record,
    reduce: &[(String, Reduce)],
) -> Result<Reduced, ItemError> {
    let mut result = result.unwrap_or_default();
    for (name, how) in reduce {
        let (Reduce::Sum(field) | Reduce::Min(field) | Reduce::Max(field) | Reduce::Count(field)) =
            how;
        let value = record.get(field);
        if matches!(how, Reduce::Count(_)) {
            let counts = field.is_empty() || !matches!(value, None | Some(Value::Null));
            add(&mut result, name, how, Json::from(u64::from(counts)))?;
            continue;
        }
        let number = match value {
            None => {
                let known: Vec<_> = record.names().iter().map(|name| format!("`{name}`")).collect();
                let known = known.join(", ");
                let message = format!(
                    "cannot reduce `{name}`: there is no field `{field}`; there are: {known}"
                );
                return Err(ItemError::data(message));
            }
            Some(Value::Null) => continue,
            Some(Value::Integer(number)) => Json::from(*number),
            Some(Value::Float(number)) => Json::from(*number),
            Some(other) => {
                let text = other.to_string();
                let parsed = serde_json::from_str::<serde_json::Number>(text.trim());
                let error = || {
                    ItemError::data(format!(
                        "cannot reduce `{name}`: `{text}` in `{field}` is no number"
                    ))
                };
                Json::Number(parsed.map_err(|_| error())?)
            }
        };
        add(&mut result, name, how, number)?;
    }
    Ok(result)
}

fn combine(
    mut left: Reduced,
    right: Reduced,
    reduce: &[(String, Reduce)],
) -> Result<Reduced, ItemError> {
    for (name, value) in right {
        if let Some((_, how)) = reduce.iter().find(|(known, _)| *known == name) {
            add(&mut left, &name, how, value)?;
        }
    }
    Ok(left)
}

/// Adds `value` to the result called `name`.
fn add(result: &mut Reduced, name: &str, how: &Reduce, value: Json) -> Result<(), ItemError> {
    let Some(before) = result.get_mut(name) else {
        result.insert(name.to_owned(), value);
        return Ok(());
    };
    let whole = before.as_i64().zip(value.as_i64());
    let float = |number: &Json| number.as_f64().unwrap_or(f64::NAN);
    *before = match (how, whole) {
        (Reduce::Sum(_) | Reduce::Count(_), Some((a, b))) => match a.checked_add(b) {
            Some(sum) => Json::from(sum),
            // The overflowing unit depends on the order of the lanes, so the error is fatal and skips no
            // unit.
            None => {
                return Err(ItemError::fatal(format!(
                    "cannot reduce `{name}`: the sum is too large"
                )));
            }
        },
        (Reduce::Sum(_) | Reduce::Count(_), None) => Json::from(float(before) + float(&value)),
        (Reduce::Min(_), _) if float(&value) < float(before) => value,
        (Reduce::Max(_), _) if float(&value) > float(before) => value,
        (Reduce::Min(_) | Reduce::Max(_), _) => return Ok(()),
    };
    Ok(())
}
