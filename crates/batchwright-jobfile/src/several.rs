//! Writers that are made of several: `many` and `route`.

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{Choice, Choose, CompositeWriter, ItemWriter, NoWriter};
use batchwright::parameters::ParameterSchema;
use batchwright::scope::StepScope;
use batchwright_items::{At, BoxedWriter, Keys, Make, Problem, Record, Text};
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
pub(crate) const WRITERS: [&str; 2] = ["many", "route"];

/// Returns the JSON Schemas of the keys of the writers of this crate.
pub(crate) fn schemas() -> [(&'static str, Schema); 2] {
    [("many", schema_for!(ManyKeys)), ("route", schema_for!(RouteKeys))]
}

/// Builds the writer of type `kind`, whose members `build` builds; returns `None` if this crate has no writer of this type.
pub(super) fn writer(
    kind: &str,
    keys: Keys<'_>,
    schema: &ParameterSchema,
    build: impl Fn(&At<Writer>) -> Result<Make<BoxedWriter>, Problem>,
) -> Option<Result<Make<BoxedWriter>, Problem>> {
    let many = || {
        let ManyKeys { writers } = keys.parse()?;
        let members = writers.iter().map(|one| build(one).map(member));
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
            Some(writer) => member(build(writer)?),
            None => Box::new(|_| Ok(BoxedWriter::new(NoWriter::default()))),
        };
        let names = declared(schema);
        routes.iter().enumerate().rev().try_fold(last, |rest, (index, route)| {
            let Route { when, writer } = route.get_ref();
            let when = Expression::compile(when.get_ref(), schema)
                .map_err(|problem| Problem::at(when, problem))?;
            let must_match = is_last && index + 1 == routes.len();
            let (writer, names) = (member(build(writer)?), names.clone());
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
        "route" => Some(route()),
        _ => None,
    }
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
