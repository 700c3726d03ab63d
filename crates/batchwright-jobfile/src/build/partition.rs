//! Partitioners of job files: how the input of a step is split.

use std::path::Path;

use batchwright::{
    ByteRanges, FilePartitions, ItemError, NumberRanges, ParameterSchema, Partition, Partitioner,
    StepScope,
};
use batchwright_store::ColumnPartitions;
use toml::Spanned;

use super::csv::delimiter;
use super::{Builder, Built, Make, Problem, constant};
use crate::definition::{self, Bound, By, ColumnRange, Range, Step};
use crate::template::{Known, Template};

/// Default number of partitions.
const GRID_DEFAULT: u32 = 4;
/// Maximum number of partitions.
const GRID_MAX: u32 = 100_000;

/// Returns the names of the values of each partition.
pub(super) fn names_of(partition: &definition::Partition) -> &'static [&'static str] {
    match partition.by.get_ref() {
        By::Range(_) => &["key", "min", "max"],
        By::Column(_) => &["key", "where", "min", "max"],
        By::Files(_) => &["key", "path"],
        By::Bytes(_) => &["key", "start", "end"],
    }
}

/// Returns the byte range of the current partition, if the step is partitioned by bytes.
pub(super) fn byte_range(scope: &StepScope) -> Result<Option<(u64, u64)>, ItemError> {
    let Some(partition) = scope.partition() else { return Ok(None) };
    match partition.values.has("start") {
        true => Ok(Some((partition.values.get("start")?, partition.values.get("end")?))),
        false => Ok(None),
    }
}

/// A partitioner that is made when the step runs, because its settings may contain parameters.
struct Late<P>(Make<P>);

impl<P: Partitioner> Partitioner for Late<P> {
    fn partitions(&self, scope: &StepScope) -> Result<Vec<Partition>, ItemError> {
        (self.0)(scope)?.partitions(scope)
    }
}

type Cut = Box<dyn Partitioner>;

impl Builder<'_> {
    pub(super) fn partitioner(
        &self,
        partition: &Spanned<definition::Partition>,
        step: &Step,
        schema: &ParameterSchema,
    ) -> Built<Cut> {
        let definition::Partition { grid, by, .. } = partition.get_ref();
        if let Some(grid) = grid
            && !(1..=GRID_MAX).contains(grid.get_ref())
        {
            return Err(Problem::at(grid, format!("`grid` is between 1 and {GRID_MAX}")));
        }
        let count = grid.as_ref().map_or(GRID_DEFAULT, |grid| *grid.get_ref());
        // The partitioner runs before any partition exists.
        let known = &Known { schema, partition: None };
        match by.get_ref() {
            By::Range(Range { min, max }) => {
                let (min, max) = (self.bound(min, by, known)?, self.bound(max, by, known)?);
                let make: Make<NumberRanges> = Box::new(move |scope| {
                    Ok(NumberRanges { min: min(scope)?, max: max(scope)?, grid: count })
                });
                Ok(Box::new(Late(make)))
            }
            By::Column(ColumnRange { table, column, url }) => {
                let database = match url {
                    Some(url) => self.database(url, known)?,
                    None => constant(self.own_database(table)?),
                };
                let (table, column) = (self.template(table, known)?, column.get_ref().clone());
                let make: Make<ColumnPartitions> = Box::new(move |scope| {
                    let (database, table) = (database(scope)?, table.render(scope)?);
                    Ok(ColumnPartitions { database, table, column: column.clone(), grid: count })
                });
                Ok(Box::new(Late(make)))
            }
            By::Files(pattern) => {
                if let Some(grid) = grid {
                    let message = "each file is one partition; remove `grid`";
                    return Err(Problem::at(grid, message));
                }
                let path = self.path(pattern, known)?;
                let make: Make<FilePartitions> = Box::new(move |scope| {
                    let path = path(scope)?;
                    let pattern = path.file_name().unwrap_or_default().to_string_lossy();
                    let folder = path.parent().filter(|one| !one.as_os_str().is_empty());
                    Ok(FilePartitions::new(folder.unwrap_or(Path::new(".")), pattern))
                });
                Ok(Box::new(Late(make)))
            }
            By::Bytes(path) => {
                let reader = step.reader.as_ref().map(Spanned::get_ref);
                let kind = reader.map_or("", |reader| reader.kind.get_ref().as_str());
                let path_of = self.path(path, known)?;
                let read = reader.and_then(|reader| reader.path.as_ref()).map(Spanned::get_ref);
                if read.is_some_and(|read| read != path.get_ref()) {
                    return Err(Problem::at(
                        path,
                        "the path of the reader must be the file that is partitioned",
                    ));
                }
                match kind {
                    "csv" => {
                        let is_special = reader.is_some_and(|one| {
                            one.comment.is_some()
                                || one.escape.is_some()
                                || one.quote.is_some()
                                || one.trim
                        });
                        if is_special {
                            return Err(Problem::at(
                                path,
                                "a file with `comment`, `escape`, `quote` or `trim` has no byte partitions",
                            ));
                        }
                        let header = reader.and_then(|one| one.header).unwrap_or(true);
                        let between = delimiter(reader.and_then(|one| one.delimiter.as_ref()))?;
                        let make: Make<ByteRanges> = Box::new(move |scope| {
                            let ranges = ByteRanges::csv(path_of(scope)?, count);
                            Ok(ranges.delimiter(between).header(header))
                        });
                        Ok(Box::new(Late(make)))
                    }
                    "jsonl" | "lines" => {
                        let make: Make<ByteRanges> =
                            Box::new(move |scope| Ok(ByteRanges::lines(path_of(scope)?, count)));
                        Ok(Box::new(Late(make)))
                    }
                    _ => Err(Problem::at(
                        path,
                        "only a reader of type csv, jsonl or lines can be partitioned by bytes",
                    )),
                }
            }
        }
    }

    fn bound(&self, bound: &Bound, by: &Spanned<By>, known: &Known<'_>) -> Built<Make<i64>> {
        match bound {
            Bound::Literal(number) => {
                let number = *number;
                Ok(Box::new(move |_| Ok(number)))
            }
            Bound::Text(text) => {
                let template =
                    Template::parse(text, known).map_err(|problem| Problem::at(by, problem))?;
                let text = text.clone();
                Ok(Box::new(move |scope| {
                    template.render(scope)?.parse().map_err(|_| {
                        ItemError::fatal(format!("use `{text}` as a bound: it is no whole number"))
                    })
                }))
            }
        }
    }
}
