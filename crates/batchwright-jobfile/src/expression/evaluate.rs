//! Evaluates the tree of an expression.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use batchwright::context::ExecutionContext;
use batchwright::execution::StepExecution;

use super::functions::{Function, part, slice};
use super::syntax::{Case, Comparison, FieldName, Node, Pattern, Range, StepKey};
use super::value::{
    Arithmetic, Evaluated, Number, TEXT_BYTES_MAX, condition, described, equals, order, textual,
    too_long,
};
use batchwright_items::{Record, Value};

/// The values of the parameters by name.
pub(crate) type Parameters = BTreeMap<Arc<str>, Value>;

/// The data that an expression can read.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) item: Option<&'a Record>,
    pub(crate) parameters: &'a Parameters,
    pub(crate) steps: &'a [StepExecution],
    pub(crate) context: Option<&'a ExecutionContext>,
}

/// A value of an expression, or a part of what the expression reads.
pub(super) type Found<'v> = Evaluated<Cow<'v, Value>>;

impl Node {
    /// Evaluates the expression. What it only passes on is borrowed.
    pub(super) fn evaluate<'v>(&'v self, sight: Scope<'v>) -> Found<'v> {
        let value = |node: &'v Node| node.evaluate(sight);
        match self {
            Self::Value(value) => Ok(Cow::Borrowed(value)),
            Self::Field(name) => field(sight, name),
            Self::Parameter(name) => {
                sight.parameters.get(name).map(Cow::Borrowed).ok_or_else(|| {
                    format!(
                        "the parameter `{name}` was not given; ask `params.contains(\"{name}\")` first"
                    )
                })
            }
            Self::OrElse(one, two) => match value(one)? {
                found if matches!(*found, Value::Null) => value(two),
                found => Ok(found),
            },
            Self::If(when, yes, no) => value(if when.is_true(sight)? { yes } else { no }),
            Self::Switch(subject, cases, otherwise) => {
                let subject = value(subject)?;
                for case in cases {
                    if case.fits(&subject, sight)? {
                        return value(&case.result);
                    }
                }
                value(otherwise)
            }
            made => made.make(sight).map(Cow::Owned),
        }
    }

    /// Evaluates the expression as a condition.
    fn is_true(&self, sight: Scope<'_>) -> Evaluated<bool> {
        condition(&*self.evaluate(sight)?)
    }

    /// Evaluates an expression that makes a new value.
    fn make(&self, sight: Scope<'_>) -> Evaluated {
        let value = |node: &'_ Node| node.evaluate(sight).map(Cow::into_owned);
        let is_true = |node: &Node| node.is_true(sight);
        match self {
            Self::HasField(name) => {
                Ok(sight.item.is_some_and(|item| item.get(name).is_some()).into())
            }
            Self::HasParameter(name) => {
                let given = sight.parameters.get(name);
                Ok(given.is_some_and(|value| !matches!(value, Value::Null)).into())
            }
            Self::Step(name, key) => step(sight, name, *key),
            Self::Context(name) => context(sight, name),
            Self::HasContext(name) => {
                Ok(sight.context.is_some_and(|context| context.has(name)).into())
            }
            Self::HasStep(name) => Ok(sight.steps.iter().any(|step| step.name == **name).into()),
            Self::Not(one) => Ok((!is_true(one)?).into()),
            Self::Negate(one) => {
                Arithmetic::Subtract.apply(&Value::Integer(0), &*one.evaluate(sight)?)
            }
            Self::Arithmetic(how, one, two) => {
                how.apply(&*one.evaluate(sight)?, &*two.evaluate(sight)?)
            }
            Self::Compare(how, one, two) => {
                compare(*how, &*one.evaluate(sight)?, &*two.evaluate(sight)?).map(Value::from)
            }
            Self::And(one, two) => Ok((is_true(one)? && is_true(two)?).into()),
            Self::Or(one, two) => Ok((is_true(one)? || is_true(two)?).into()),
            Self::In(one, two) => is_in(&*one.evaluate(sight)?, two, sight).map(Value::from),
            Self::InRange(one, range) => {
                in_range(&*one.evaluate(sight)?, range, sight).map(Value::from)
            }
            Self::Call(function, arguments) => call(function, arguments, sight),
            Self::Index(whole, index) => {
                indexed(&*whole.evaluate(sight)?, &*index.evaluate(sight)?)
            }
            Self::Slice(whole, range) => sliced(&*whole.evaluate(sight)?, range, sight),
            Self::List(nodes) => {
                let values: Evaluated<Vec<Value>> = nodes.iter().map(value).collect();
                Ok(Value::List(values?.into()))
            }
            Self::Join(nodes) => {
                let mut text = String::new();
                for node in nodes {
                    match &*node.evaluate(sight)? {
                        Value::List(_) => return Err("a list is no text".to_owned()),
                        Value::Text(value) | Value::Field(value) => text.push_str(value),
                        value => text.push_str(&value.to_string()),
                    }
                    if text.len() > TEXT_BYTES_MAX {
                        return Err(too_long(text.len()));
                    }
                }
                Ok(Value::Text(text.into()))
            }
            Self::Value(_)
            | Self::Field(_)
            | Self::Parameter(_)
            | Self::OrElse(..)
            | Self::If(..)
            | Self::Switch(..) => self.evaluate(sight).map(Cow::into_owned),
        }
    }
}

impl Case {
    /// Whether a pattern of the case fits `subject`. Every pattern is compared, so that one of another type is an error.
    fn fits(&self, subject: &Value, sight: Scope<'_>) -> Evaluated<bool> {
        let mut fits = false;
        for pattern in &self.patterns {
            fits |= match pattern {
                Pattern::Value(node) => equals(subject, &*node.evaluate(sight)?)?,
                Pattern::Range(range) => in_range(subject, range, sight)?,
            };
        }
        Ok(fits && self.guard.as_ref().map_or(Ok(true), |guard| guard.is_true(sight))?)
    }
}

/// Calls a function. The arguments of most functions need no list.
fn call(function: &Function, arguments: &[Node], sight: Scope<'_>) -> Evaluated {
    let made = match arguments {
        [one] => (function.call)(&[one.evaluate(sight)?]),
        [one, two] => (function.call)(&[one.evaluate(sight)?, two.evaluate(sight)?]),
        more => {
            let more: Result<Vec<_>, String> = more.iter().map(|one| one.evaluate(sight)).collect();
            (function.call)(&more?)
        }
    };
    made.map_err(|problem| format!("{}: {problem}", function.name))
}

fn field<'v>(sight: Scope<'v>, name: &FieldName) -> Found<'v> {
    let Some(item) = sight.item else { return Err("there is no item".to_owned()) };
    match name.find(item) {
        // Days, times and instants are their ISO text here.
        Some(value @ (Value::Date(_) | Value::Time(_) | Value::Timestamp(_))) => {
            Ok(Cow::Owned(Value::text(&value.to_string())))
        }
        Some(value) => Ok(Cow::Borrowed(value)),
        None => {
            let known: Vec<_> = item.names().iter().map(|name| format!("`{name}`")).collect();
            Err(format!("the item has no `{name}`; it has {}", known.join(", ")))
        }
    }
}

fn compare(how: Comparison, one: &Value, two: &Value) -> Evaluated<bool> {
    Ok(match how {
        Comparison::Equal => equals(one, two)?,
        Comparison::Unequal => !equals(one, two)?,
        Comparison::Less => order(one, two)?.is_lt(),
        Comparison::LessOrEqual => order(one, two)?.is_le(),
        Comparison::Greater => order(one, two)?.is_gt(),
        Comparison::GreaterOrEqual => order(one, two)?.is_ge(),
    })
}

/// Whether `one` equals (`==`) a value of a list, or is a part of a text. The values of a list are evaluated
/// only until one is equal.
fn is_in(one: &Value, list: &Node, sight: Scope<'_>) -> Evaluated<bool> {
    if let Node::List(nodes) = list {
        for node in nodes {
            if equals(one, &*node.evaluate(sight)?)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    match (&*list.evaluate(sight)?, textual(one)) {
        (Value::List(values), _) => {
            for value in values.iter() {
                if equals(one, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (whole, Some(part)) => match textual(whole) {
            Some(whole) => Ok(whole.contains(part)),
            None => Err(format!("{} is neither a list nor text", described(whole))),
        },
        (whole, None) => {
            Err(format!("{} cannot be a part of {}", described(one), described(whole)))
        }
    }
}

fn in_range(one: &Value, range: &Range, sight: Scope<'_>) -> Evaluated<bool> {
    let (from, to) = (range.from.evaluate(sight)?, range.to.evaluate(sight)?);
    let below = order(one, &to)?;
    Ok(order(one, &from)?.is_ge() && (below.is_lt() || range.inclusive && below.is_eq()))
}

fn whole_number(value: &Value) -> Evaluated<i64> {
    match Number::of(value)? {
        Number::Integer(number) => Ok(number),
        _ => Err(format!("expected a whole number, found {}", described(value))),
    }
}

/// Returns the part at `index`, which counts from 0, or from the end if it is negative.
fn indexed(whole: &Value, index: &Value) -> Evaluated {
    let at = whole_number(index)?;
    let found = match whole {
        Value::List(values) => place(at, values.len()).and_then(|at| values.get(at)).cloned(),
        other => {
            let text =
                textual(other).ok_or_else(|| format!("{} has no parts", described(other)))?;
            let at = place(at, text.chars().count());
            at.and_then(|at| text.chars().nth(at)).map(|found| Value::from(found.to_string()))
        }
    };
    found.ok_or_else(|| format!("there is no part {at} in {}", described(whole)))
}

fn place(at: i64, length: usize) -> Option<usize> {
    match usize::try_from(at) {
        Ok(at) => Some(at),
        Err(_) => length.checked_sub(usize::try_from(at.unsigned_abs()).ok()?),
    }
}

fn sliced(whole: &Value, range: &Range, sight: Scope<'_>) -> Evaluated {
    let text = textual(whole).ok_or_else(|| format!("{} has no characters", described(whole)))?;
    let from = whole_number(&*range.from.evaluate(sight)?)?;
    let to = whole_number(&*range.to.evaluate(sight)?)?;
    Ok(part(whole, slice(text, from, to.saturating_add(range.inclusive.into()))))
}

fn step(sight: Scope<'_>, name: &str, key: StepKey) -> Evaluated {
    let Some(step) = sight.steps.iter().find(|step| step.name == name) else {
        let ran: Vec<_> = sight.steps.iter().map(|step| format!("`{}`", step.name)).collect();
        return Err(format!("step `{name}` has not run; these have: {}", ran.join(", ")));
    };
    let counters = step.counters;
    let count = match key {
        StepKey::Status => return Ok(Value::text(step.status.name())),
        StepKey::Exit => return Ok(Value::text(&step.exit.code)),
        StepKey::Read => counters.read,
        StepKey::Write => counters.write,
        StepKey::Filter => counters.filter,
        StepKey::ReadSkip => counters.read_skip,
        StepKey::ProcessSkip => counters.process_skip,
        StepKey::WriteSkip => counters.write_skip,
        StepKey::Skips => counters.skips(),
        StepKey::Commit => counters.commit,
        StepKey::Rollback => counters.rollback,
    };
    Ok(Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn context(sight: Scope<'_>, name: &str) -> Evaluated {
    match sight.context {
        Some(context) if context.has(name) => {
            let value: serde_json::Value = context.get(name).map_err(|error| error.to_string())?;
            Ok(value.into())
        }
        _ => Err(format!("the context has no `{name}`; ask `context.contains(\"{name}\")` first")),
    }
}
