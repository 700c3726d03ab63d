//! The processor `aggregate`: one record for all records of a key.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright_items::{Keys, Names, Problem, Record, Value, first_duplicate};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Clean, Regroup, key_of};
use crate::expression::{order, sum};
use crate::lookup::kept;

/// Maximum number of groups in memory without `groups_max`.
const GROUPS_MAX: usize = 1_000_000;

/// Makes one record of all records with the same values of some fields: it has these fields and those of `set`. The groups are
/// in memory and leave
/// after the last record, in the order of their first records, unless the input is sorted; after a restart, the records before
/// its position are read
/// again for them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AggregateKeys {
    /// The fields whose values a group has in common, compared as text. Default: none, which makes one record of all.
    #[serde(default)]
    by: Vec<String>,
    /// The further fields of the output.
    set: BTreeMap<String, Fold>,
    /// Whether the records are sorted by `by`, in ascending or descending order, as expressions compare values. Then one group
    /// is in memory, and
    /// records in another order fail the step. Default: false.
    #[serde(default)]
    sorted: bool,
    /// Maximum number of groups in memory; more fail the step. Default: 1,000,000.
    groups_max: Option<usize>,
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
    fn add(&self, so_far: &Value, value: &Value) -> Result<Value, String> {
        if let (Self::Count(_), Value::Integer(count)) = (self, so_far) {
            let counts = self.counts_all() || !matches!(value, Value::Null);
            return Ok(Value::Integer(count + i64::from(counts)));
        }
        Ok(match (self, so_far, value) {
            (_, _, Value::Null) => so_far.clone(),
            // Zero plus the value is a number, or the error of a value that is none.
            (Self::Sum(_), Value::Null, value) => sum(&Value::Integer(0), value)?,
            (Self::Sum(_), so_far, value) => sum(so_far, value)?,
            (Self::Last(_), _, value) | (_, Value::Null, value) => kept(value.clone()),
            (Self::Min(_), so_far, value) if order(value, so_far)? == Ordering::Less => {
                kept(value.clone())
            }
            (Self::Max(_), so_far, value) if order(value, so_far)? == Ordering::Greater => {
                kept(value.clone())
            }
            (_, so_far, _) => so_far.clone(),
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    by: Arc<[Arc<str>]>,
    set: Arc<[(Arc<str>, Fold)]>,
    names: Names,
    sorted: bool,
    groups_max: usize,
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
        Ok(Self { by, set, names, sorted, groups_max: groups_max.unwrap_or(GROUPS_MAX) })
    }

    pub(super) fn start(&self) -> Box<dyn Regroup> {
        match self.sorted {
            true => Box::new(Run { settings: self.clone(), group: None, order: Vec::new() }),
            false => Box::new(Groups {
                settings: self.clone(),
                numbers: HashMap::new(),
                groups: Vec::new(),
            }),
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
    fn group(&self, record: &Record) -> Result<Group, ItemError> {
        let value = |name: &Arc<str>| record.required("aggregate", name).cloned().map(kept);
        let by = self.by.iter().map(value).collect::<Result<_, _>>()?;
        Ok(Group { by, values: self.set.iter().map(|(_, fold)| fold.zero()).collect() })
    }

    /// Returns the values of a group that gets `record`.
    fn add(&self, values: &[Value], record: &Record) -> Result<Vec<Value>, ItemError> {
        let add = |((name, fold), so_far): (&(Arc<str>, Fold), &Value)| {
            let value = match fold.counts_all() {
                true => &Value::Null,
                false => record.required("aggregate", fold.field())?,
            };
            fold.add(so_far, value)
                .map_err(|problem| ItemError::data(format!("cannot aggregate `{name}`: {problem}")))
        };
        self.set.iter().zip(values).map(add).collect()
    }

    fn output(&self, group: Group) -> Record {
        let Group { mut by, mut values } = group;
        by.append(&mut values);
        Record::new(Arc::clone(&self.names), by)
    }
}

/// The records of one key so far.
struct Group {
    /// The values of the fields `by`.
    by: Vec<Value>,
    values: Vec<Value>,
}

/// All groups of an input in any order.
struct Groups {
    settings: Aggregate,
    /// The indices of groups, by their keys.
    numbers: HashMap<String, usize>,
    groups: Vec<Group>,
}

impl Regroup for Groups {
    fn take(&mut self, record: &Record, _: &mut VecDeque<Record>) -> Result<Clean, ItemError> {
        let key = key_of(record, &self.settings.by, "aggregate")?;
        let Some(number) = self.numbers.get(&key) else {
            let mut group = self.settings.group(record)?;
            group.values = self.settings.add(&group.values, record)?;
            if self.groups.len() >= self.settings.groups_max {
                return Err(ItemError::fatal(format!(
                    "cannot aggregate: there are more than {} groups (`groups_max`); sort the input and set `sorted`",
                    self.settings.groups_max
                )));
            }
            self.numbers.insert(key, self.groups.len());
            self.groups.push(group);
            return Ok(Clean::No);
        };
        let group = &mut self.groups[*number];
        group.values = self.settings.add(&group.values, record)?;
        Ok(Clean::No)
    }

    fn end(&mut self, outputs: &mut VecDeque<Record>) {
        let groups = std::mem::take(&mut self.groups);
        outputs.extend(groups.into_iter().map(|group| self.settings.output(group)));
    }
}

/// The current group of a sorted input.
struct Run {
    settings: Aggregate,
    group: Option<(String, Group)>,
    /// The order of each of the fields `by`, once it is known.
    order: Vec<Option<Ordering>>,
}

impl Run {
    /// Refuses a group that comes after `before` in another order than the groups so far.
    fn check_order(&mut self, before: &Group, next: &Group) -> Result<(), ItemError> {
        self.order.resize(next.by.len(), None);
        for (index, (one, two)) in before.by.iter().zip(&next.by).enumerate() {
            // Where nulls belong depends on who sorted.
            if matches!(one, Value::Null) != matches!(two, Value::Null) {
                return Ok(());
            }
            let unsorted = || {
                let name = &self.settings.by[index];
                ItemError::fatal(format!(
                    "cannot aggregate: the records are not sorted by `{name}`: `{two}` comes after `{one}`"
                ))
            };
            match (order(one, two).unwrap_or(Ordering::Equal), self.order[index]) {
                (Ordering::Equal, _) => {}
                (found, Some(known)) if found != known => return Err(unsorted()),
                (found, _) => {
                    self.order[index] = Some(found);
                    return Ok(());
                }
            }
        }
        Ok(())
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

    fn end(&mut self, outputs: &mut VecDeque<Record>) {
        outputs.extend(self.group.take().map(|(_, group)| self.settings.output(group)));
    }

    fn is_clean_before(&self) -> bool {
        true
    }
}
