//! Writers that are made of others: `many`, `rotate` and `route`.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{Choice, Choose, CompositeWriter, ItemWriter, NoWriter};
use batchwright::parameters::ParameterSchema;
use batchwright::scope::StepScope;
use batchwright_items::rotate::{FileNumber, RotatingWriter, Rotation};
use batchwright_items::{At, BoxedWriter, Keys, Make, Problem, Record, Text, duration};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use crate::definition::Writer;
use crate::expression::{Expression, Parameters, Scope, declared, parameters};

/// Writes each record to every one of several writers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ManyKeys {
    /// The writers.
    writers: Vec<At<Writer>>,
}

/// Writes one file after another: when a file is full, the next chunk begins another one. A full file gets its name once the first
/// chunk of the next one is committed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RotateKeys {
    /// The writer of each file, whose path has the number of the file: `${file.number}`, with six digits, or with a format as
    /// `${file.number|%03d}`.
    writer: At<Writer>,
    /// A file is full after the chunk in which it has this many items. Default: no limit.
    items: Option<NonZeroU64>,
    /// A file is full after the chunk in which it has this many bytes. Default: no limit.
    bytes: Option<NonZeroU64>,
    /// A file is full when it was begun this long ago. Default: no limit.
    time: Option<Text>,
}

/// Writes each record to the writer of the first route whose condition is true.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RouteKeys {
    /// The routes, in the order in which their conditions are evaluated.
    routes: Vec<At<Route>>,
    /// The writer of the records without a route. Default: such a record is an error of kind `data.no_route`.
    otherwise: Option<At<Writer>>,
}

/// A route.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Route {
    /// The condition, an expression.
    when: Text,
    /// The writer.
    writer: At<Writer>,
}

/// The writers of this crate, by the names of their types.
pub(crate) const WRITERS: [&str; 3] = ["many", "rotate", "route"];

/// Returns the JSON Schemas of the keys of the writers of this crate.
pub(crate) fn schemas() -> [(&'static str, Schema); 3] {
    [
        ("many", schema_for!(ManyKeys)),
        ("rotate", schema_for!(RotateKeys)),
        ("route", schema_for!(RouteKeys)),
    ]
}

/// Builds the writer of type `kind`, whose members `build` builds; returns `None` if this crate has no writer of this type.
pub(super) fn writer(
    kind: &str,
    keys: Keys<'_>,
    schema: &ParameterSchema,
    build: impl Fn(&At<Writer>, Option<FileNumber>) -> Result<Make<BoxedWriter>, Problem>,
) -> Option<Result<Make<BoxedWriter>, Problem>> {
    let many = || {
        let ManyKeys { writers } = keys.parse()?;
        let members = writers.iter().map(|one| build(one, None).map(member));
        let mut members = members.collect::<Result<Vec<_>, Problem>>()?;
        let last =
            members.pop().ok_or_else(|| keys.problem("`writers` has at least one writer"))?;
        Ok(members.into_iter().rev().fold(last, both))
    };
    let route = || {
        let RouteKeys { routes, otherwise } = keys.parse()?;
        if routes.is_empty() {
            return Err(keys.problem_at("routes", "`routes` has at least one route"));
        }
        let is_last = otherwise.is_none();
        let last: Make<BoxedWriter> = match &otherwise {
            Some(writer) => member(build(writer, None)?),
            None => Box::new(|_| Ok(BoxedWriter::new(NoWriter::default()))),
        };
        let names = declared(schema);
        routes.iter().enumerate().rev().try_fold(last, |rest, (index, route)| {
            let Route { when, writer } = route.get_ref();
            let when = Expression::compile(when.get_ref(), schema)
                .map_err(|problem| Problem::at(when, problem))?;
            let must_match = is_last && index + 1 == routes.len();
            let (writer, names) = (member(build(writer, None)?), names.clone());
            Ok(Box::new(move |scope: &StepScope| {
                let parameters = parameters(scope.parameters(), &names);
                let choice = Condition { when: when.clone(), parameters, must_match };
                let writer = CompositeWriter::choosing_by(choice, writer(scope)?, rest(scope)?);
                Ok(BoxedWriter::new(writer))
            }) as Make<BoxedWriter>)
        })
    };
    match kind {
        "many" => Some(many()),
        "rotate" => Some(rotate(keys, &build)),
        "route" => Some(route()),
        _ => None,
    }
}

/// Builds the writer `rotate`.
fn rotate(
    keys: Keys<'_>,
    build: impl Fn(&At<Writer>, Option<FileNumber>) -> Result<Make<BoxedWriter>, Problem>,
) -> Result<Make<BoxedWriter>, Problem> {
    let RotateKeys { writer, items, bytes, time } = keys.parse()?;
    let time = time.as_ref().map(duration).transpose()?;
    let rotation = Rotation { items: items.map(Into::into), bytes: bytes.map(Into::into), time };
    if items.is_none() && bytes.is_none() && time.is_none() {
        return Err(keys.problem("`rotate` needs `items`, `bytes` or `time`"));
    }
    let number = FileNumber::default();
    let make: Arc<dyn Fn(&StepScope) -> _ + Send + Sync> =
        Arc::from(build(&writer, Some(number.clone()))?);
    // Others have no files, or several.
    if WRITERS.contains(&writer.get_ref().kind.get_ref().as_str()) || !number.names_output() {
        let message = "the writer is one of files, and its `path` has `${file.number}`";
        return Err(Problem::at(&writer, message));
    }
    // The names of a writer are made when it is made, by one thread at a time.
    let number = Arc::new(Mutex::new(number));
    Ok(Box::new(move |scope| {
        let (make, number) = (Arc::clone(&make), Arc::clone(&number));
        let make = move |current, scope: &StepScope| {
            let number = number.lock().unwrap_or_else(PoisonError::into_inner);
            number.set(current);
            make(scope)
        };
        let items = make(1, scope)?.chunk_items();
        Ok(BoxedWriter::new(RotatingWriter::new(rotation, make).chunk_items(items)))
    }))
}

/// Makes a writer that passes each record to `first` and to `rest`.
fn both(rest: Make<BoxedWriter>, first: Make<BoxedWriter>) -> Make<BoxedWriter> {
    Box::new(move |scope| Ok(BoxedWriter::new(CompositeWriter::new(first(scope)?, rest(scope)?))))
}

/// Makes a writer that can be one of several.
fn member(make: Make<BoxedWriter>) -> Make<BoxedWriter> {
    Box::new(move |scope| {
        let writer = make(scope)?;
        // A checkpoint would keep its records as JSON, which has fewer types than records.
        match writer.prepares() {
            false => Ok(writer),
            true => Err(ItemError::fatal(
                "cannot write to another database than the store as one of several writers: give that writer a step of its own",
            )),
        }
    })
}

/// The condition of a route.
struct Condition {
    when: Expression,
    parameters: Parameters,
    /// Whether a record that no condition accepts is an error.
    must_match: bool,
}

impl Choose<Record> for Condition {
    fn choose(&self, item: &Record) -> Result<Choice, ItemError> {
        let sight =
            Scope { item: Some(item), parameters: &self.parameters, steps: &[], context: None };
        match self.when.is_true(sight)? {
            true => Ok(Choice::First),
            false if self.must_match => Err(ItemError::new(
                ErrorKind::new("data.no_route"),
                "cannot write the record: no route accepts it, and there is no `otherwise`",
            )),
            false => Ok(Choice::Second),
        }
    }
}
