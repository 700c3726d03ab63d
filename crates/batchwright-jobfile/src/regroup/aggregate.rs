//! The processor `aggregate`: one record for all records of a key.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright_items::{Keys, Names, Problem, Record, Value, first_duplicate};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::groups::Groups;
use super::{Clean, Regroup, key_of};
use crate::expression::order;
use crate::lookup::kept;

/// Maximum number of groups in memory without `groups_max`.
const GROUPS_MAX: usize = 1_000_000;

/// Makes one record of all records with the same values of some fields: it has these fields and those of `set`. The groups leave
/// after the last record, in the order of their first records, unless the input is sorted; after a restart, the records before
/// its position are read again for them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AggregateKeys {
    /// The fields whose values a group has in common, compared as text. Default: none, which makes one record of all.
    #[serde(default)]
    by: Vec<String>,
    /// The further fields of the output.
    set: BTreeMap<String, Fold>,
    /// Whether the records are sorted by `by`, in ascending or descending order, as expressions compare values. Then one group
    /// is in memory, and records in another order fail the step. Default: false.
    #[serde(default)]
    sorted: bool,
    /// Maximum number of groups in memory; more are kept in a temporary file. Default: 1,000,000.
    groups_max: Option<NonZeroUsize>,
}

/// How a field of the output comes from those of the records; nulls do not count.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
#[schemars(inline)]
enum Fold {
    /// The exact sum of the field.
    Sum(String),
    /// The minimum of the field.
    Min(String),
    /// The maximum of the field.
    Max(String),
    /// The number of records in which the field is not null; with `*`, of all.
    Count(String),
    /// The first value of the field.
    First(String),
    /// The last value of the field.
    Last(String),
}

impl Fold {
    fn field(&self) -> &str {
        let (Self::Sum(field)
        | Self::Min(field)
        | Self::Max(field)
        | Self::Count(field)
        | Self::First(field)
        | Self::Last(field)) = self;
        field
    }

    fn counts_all(&self) -> bool {
        matches!(self, Self::Count(field) if field == "*")
    }

    /// Returns the value before any record.
    fn zero(&self) -> Value {
        match self {
            Self::Count(_) => Value::Integer(0),
            _ => Value::Null,
        }
    }

    /// Returns the value after one more record with `value`.
    fn add(&self, so_far: &Value, value: &Value) -> Result<Value, Fault> {
        if let (Self::Count(_), Value::Integer(count)) = (self, so_far) {
            let counts = self.counts_all() || !matches!(value, Value::Null);
            return Ok(Value::Integer(count + i64::from(counts)));
        }
        Ok(match (self, so_far, value) {
            (_, _, Value::Null) => so_far.clone(),
            (Self::Sum(_), so_far, value) => sum(so_far, value)?,
            (Self::Last(_), _, value) | (_, Value::Null, value) => kept(value.clone()),
            (Self::Min(_), so_far, value)
                if order(value, so_far).map_err(Fault::Record)? == Ordering::Less =>
            {
                kept(value.clone())
            }
            (Self::Max(_), so_far, value)
                if order(value, so_far).map_err(Fault::Record)? == Ordering::Greater =>
            {
                kept(value.clone())
            }
            (_, so_far, _) => so_far.clone(),
        })
    }
}

/// Why a value cannot be added.
enum Fault {
    /// The value is at fault, so its record is bad.
    Record(String),
    /// The result cannot be kept.
    Group(String),
}

/// Returns the exact sum of numbers; with a binary fraction among them it is one too.
fn sum(so_far: &Value, value: &Value) -> Result<Value, Fault> {
    if let Value::Float(number) = so_far {
        return float_sum(*number, value);
    }
    if let Value::Float(_) = value {
        let number = decimal(so_far)?.to_f64().unwrap_or(f64::NAN);
        return float_sum(number, value);
    }
    let (one, two) = (decimal(so_far)?, decimal(value)?);
    let whole = one.checked_add(two).filter(|sum| *sum - one == two && *sum - two == one);
    let whole = whole.ok_or_else(|| Fault::Group(TOO_LONG.to_owned()))?;
    Ok(match i64::try_from(whole) {
        Ok(number) if whole.scale() == 0 => Value::Integer(number),
        _ => Value::Decimal(whole),
    })
}

const TOO_LONG: &str = "the sum has more than 28 digits";

/// Returns the number that `value` is; a null is zero.
fn decimal(value: &Value) -> Result<Decimal, Fault> {
    let text = match value {
        Value::Null => return Ok(Decimal::ZERO),
        Value::Integer(number) => return Ok((*number).into()),
        Value::Decimal(number) => return Ok(*number),
        Value::Field(text) => &**text,
        Value::Number(json) => json.get(),
        value => return Err(no_number(value)),
    };
    exact(text).ok_or_else(|| match text.parse::<f64>().is_ok_and(f64::is_finite) {
        true => {
            Fault::Record(format!("`{text}` has more than 28 digits, and is no binary fraction"))
        }
        false => no_number(value),
    })
}

/// Returns the number that `text` is, with all its digits.
fn exact(text: &str) -> Option<Decimal> {
    let Some((base, exponent)) = text.split_once(['e', 'E']) else {
        return Decimal::from_str_exact(text).ok();
    };
    let base = Decimal::from_str_exact(base).ok()?.normalize();
    let exponent: i32 = exponent.parse().ok()?;
    if base.is_zero() {
        return Some(base);
    }
    let scale = i32::try_from(base.scale()).ok()?.checked_sub(exponent)?;
    match u32::try_from(scale) {
        Ok(scale) => Decimal::try_from_i128_with_scale(base.mantissa(), scale).ok(),
        Err(_) => {
            let power = 10_i128.checked_pow(scale.unsigned_abs())?;
            Decimal::try_from_i128_with_scale(base.mantissa().checked_mul(power)?, 0).ok()
        }
    }
}

fn float_sum(so_far: f64, value: &Value) -> Result<Value, Fault> {
    let number = match value {
        Value::Float(number) => *number,
        value => decimal(value)?.to_f64().unwrap_or(f64::NAN),
    };
    match (so_far + number).is_finite() {
        true => Ok(Value::Float(so_far + number)),
        false => Err(Fault::Group("the sum is no finite number".to_owned())),
    }
}

fn no_number(value: &Value) -> Fault {
    let text: String = value.to_string().chars().take(60).collect();
    Fault::Record(format!("`{text}` is no number"))
}

#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    pub(super) by: Arc<[Arc<str>]>,
    set: Arc<[(Arc<str>, Fold)]>,
    names: Names,
    sorted: bool,
    pub(super) groups_max: usize,
}

impl Aggregate {
    pub(super) fn build(keys: Keys<'_>) -> Result<Self, Problem> {
        let AggregateKeys { by, set, sorted, groups_max } = keys.parse()?;
        if sorted && by.is_empty() {
            return Err(keys.problem_at("sorted", "a sorted input needs `by`"));
        }
        let by: Arc<[Arc<str>]> = by.iter().map(|name| Arc::from(name.as_str())).collect();
        let set: Arc<[(Arc<str>, Fold)]> =
            set.into_iter().map(|(name, fold)| (Arc::from(name), fold)).collect();
        let names: Names =
            by.iter().chain(set.iter().map(|(name, _)| name)).map(Arc::clone).collect();
        if let Some(name) = first_duplicate(&names) {
            return Err(keys.problem(format!("the field `{name}` is there twice")));
        }
        Ok(Self {
            by,
            set,
            names,
            sorted,
            groups_max: groups_max.map_or(GROUPS_MAX, NonZeroUsize::get),
        })
    }

    pub(super) fn start(&self) -> Box<dyn Regroup> {
        match self.sorted {
            true => Box::new(Run { settings: self.clone(), group: None, order: Vec::new() }),
            false => Box::new(Groups::new(self.clone())),
        }
    }

    pub(super) fn needed(&self) -> Vec<(&'static str, &str)> {
        let by = self.by.iter().map(|name| ("`by`", &**name));
        let set = self.set.iter().filter(|(_, fold)| !fold.counts_all());
        by.chain(set.map(|(_, fold)| ("`set`", fold.field()))).collect()
    }

    pub(super) fn fields(&self) -> BTreeSet<&str> {
        self.names.iter().map(|name| &**name).collect()
    }

    /// Begins the group of `record`.
    pub(super) fn group(&self, record: &Record) -> Result<Group, ItemError> {
        let value = |name: &Arc<str>| record.required("aggregate", name).cloned().map(kept);
        let by = self.by.iter().map(value).collect::<Result<_, _>>()?;
        Ok(Group { by, values: self.set.iter().map(|(_, fold)| fold.zero()).collect() })
    }

    /// Returns the values of a group that gets `record`.
    pub(super) fn add(&self, values: &[Value], record: &Record) -> Result<Vec<Value>, ItemError> {
        let add = |((name, fold), so_far): (&(Arc<str>, Fold), &Value)| {
            let value = match fold.counts_all() {
                true => &Value::Null,
                false => record.required("aggregate", fold.field())?,
            };
            fold.add(so_far, value).map_err(|fault| match fault {
                Fault::Record(why) => ItemError::data(format!("cannot aggregate `{name}`: {why}")),
                Fault::Group(why) => ItemError::fatal(format!("cannot aggregate `{name}`: {why}")),
            })
        };
        self.set.iter().zip(values).map(add).collect()
    }

    pub(super) fn output(&self, group: Group) -> Record {
        let Group { mut by, mut values } = group;
        by.append(&mut values);
        Record::new(Arc::clone(&self.names), by)
    }
}

/// The records of one key so far.
pub(super) struct Group {
    /// The values of the fields `by`.
    pub(super) by: Vec<Value>,
    pub(super) values: Vec<Value>,
}

/// The current group of a sorted input.
struct Run {
    settings: Aggregate,
    group: Option<(String, Group)>,
    order: Vec<Known>,
}

/// What the groups so far show of the order of a field.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Known {
    /// Whether values grow.
    ascending: Option<bool>,
    /// Whether nulls come before values.
    nulls_first: Option<bool>,
}

impl Run {
    /// Refuses a group that comes after `before` in another order than the groups so far.
    fn check_order(&mut self, before: &Group, next: &Group) -> Result<(), ItemError> {
        self.order.resize(next.by.len(), Known::default());
        for (index, (one, two)) in before.by.iter().zip(&next.by).enumerate() {
            let name = &self.settings.by[index];
            let wrong = |why: &str| {
                let what = format!(
                    "cannot aggregate: the records are not sorted by `{name}`: `{two}` comes after `{one}`{why}"
                );
                ItemError::fatal(what)
            };
            let known = &mut self.order[index];
            let (learned, found) = match (is_null(one), is_null(two)) {
                (true, true) => continue,
                (true, false) => (&mut known.nulls_first, true),
                (false, true) => (&mut known.nulls_first, false),
                (false, false) => match compared(one, two) {
                    Some(Ordering::Equal) if one.to_string() == two.to_string() => continue,
                    Some(Ordering::Equal) => return Err(wrong(", the same value in another form")),
                    None => return Err(wrong(", and they cannot be compared")),
                    Some(found) => (&mut known.ascending, found == Ordering::Less),
                },
            };
            return match *learned {
                Some(known) if known != found => Err(wrong("")),
                _ => {
                    *learned = Some(found);
                    Ok(())
                }
            };
        }
        Ok(())
    }
}

/// Whether the value is null, or an empty field of a source without types.
fn is_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Field(text) => text.is_empty(),
        _ => false,
    }
}

/// Returns the order of two values, as expressions compare them, and of days, times and conditions.
fn compared(one: &Value, two: &Value) -> Option<Ordering> {
    match (one, two) {
        (Value::Boolean(one), Value::Boolean(two)) => Some(one.cmp(two)),
        (Value::Date(one), Value::Date(two)) => Some(one.cmp(two)),
        (Value::Time(one), Value::Time(two)) => Some(one.cmp(two)),
        (Value::Timestamp(one), Value::Timestamp(two)) => Some(one.cmp(two)),
        _ => order(one, two).ok(),
    }
}

impl Regroup for Run {
    fn take(
        &mut self,
        record: &Record,
        outputs: &mut VecDeque<Record>,
    ) -> Result<Clean, ItemError> {
        let key = key_of(record, &self.settings.by, "aggregate")?;
        if let Some((known, group)) = &mut self.group
            && *known == key
        {
            group.values = self.settings.add(&group.values, record)?;
            return Ok(Clean::No);
        }
        let mut next = self.settings.group(record)?;
        next.values = self.settings.add(&next.values, record)?;
        if let Some((_, before)) = self.group.take() {
            self.check_order(&before, &next)?;
            outputs.push_back(self.settings.output(before));
        }
        self.group = Some((key, next));
        Ok(Clean::Before)
    }

    fn end(&mut self, outputs: &mut VecDeque<Record>) -> Result<(), ItemError> {
        outputs.extend(self.group.take().map(|(_, group)| self.settings.output(group)));
        Ok(())
    }

    fn note(&self) -> String {
        serde_json::to_string(&self.order).unwrap_or_default()
    }

    fn recall(&mut self, note: &str) {
        self.order = serde_json::from_str(note).unwrap_or_default();
    }

    fn is_clean_before(&self) -> bool {
        true
    }
}
