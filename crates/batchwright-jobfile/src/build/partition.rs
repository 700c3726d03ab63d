//! Partitioners of job files: how the input of a step is split.

use std::path::{Path, PathBuf};

use batchwright::ItemError;
use batchwright::parameters::ParameterSchema;
use batchwright::partition::{ByteRanges, FilePartitions, NumberRanges, Partitioner};
use batchwright::scope::{Partition, StepScope};
use batchwright_items::transport::Compression;
use batchwright_items::{At, ByteSplit, Known, Make, Problem, Template, Text};
use batchwright_store::{ColumnPartitions, Database};

use super::{Builder, Built};
use crate::definition::{self, Bound, By, ColumnRange, Range, Step};
use crate::sql::{NO_TABLES, database};

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

/// A partitioner that is made when the step runs, because its settings may contain parameters.
struct DeferredPartitioner<P>(Make<P>);

impl<P: Partitioner> Partitioner for DeferredPartitioner<P> {
    fn partitions(&self, scope: &StepScope) -> Result<Vec<Partition>, ItemError> {
        (self.0)(scope)?.partitions(scope)
    }
}

type BoxedPartitioner = Box<dyn Partitioner>;

impl Builder<'_> {
    pub(super) fn partitioner(
        &self,
        partition: &At<definition::Partition>,
        step: &Step,
        schema: &ParameterSchema,
    ) -> Built<BoxedPartitioner> {
        let definition::Partition { grid, by, .. } = partition.get_ref();
        if let Some(grid) = grid
            && !(1..=GRID_MAX).contains(grid.get_ref())
        {
            return Err(Problem::at(grid, format!("`grid` is between 1 and {GRID_MAX}")));
        }
        let count = grid.as_ref().map_or(GRID_DEFAULT, |grid| *grid.get_ref());
        // The partitioner runs before any partition exists.
        let known = &Known { schema, partition: None, file_number: None };
        match by.get_ref() {
            By::Range(Range { min, max }) => {
                let (min, max) = (self.bound(min, by, known)?, self.bound(max, by, known)?);
                let make: Make<NumberRanges> = Box::new(move |scope| {
                    Ok(NumberRanges { min: min(scope)?, max: max(scope)?, grid: count })
                });
                Ok(Box::new(DeferredPartitioner(make)))
            }
            By::Column(ColumnRange { table, column, url }) => {
                let database: Make<Database> = match (url, &self.settings.database) {
                    (Some(url), _) => database(url, &self.cx(known))?,
                    (None, Some(own)) => {
                        let own = own.clone();
                        Box::new(move |_| Ok(own.clone()))
                    }
                    (None, None) => return Err(Problem::at(table, NO_TABLES)),
                };
                let table = self.cx(known).template(table)?;
                let column = column.get_ref().clone();
                let make: Make<ColumnPartitions> = Box::new(move |scope| {
                    let (database, table) = (database(scope)?, table.render(scope)?);
                    Ok(ColumnPartitions { database, table, column: column.clone(), grid: count })
                });
                Ok(Box::new(DeferredPartitioner(make)))
            }
            By::Files(pattern) => {
                if let Some(grid) = grid {
                    let message = "each file is one partition; remove `grid`";
                    return Err(Problem::at(grid, message));
                }
                let path = self.cx(known).path(pattern)?;
                let of_job = self.folder.to_owned();
                let make: Make<FilesOfJob> = Box::new(move |scope| {
                    let path = path(scope)?;
                    let pattern = path.file_name().unwrap_or_default().to_string_lossy();
                    let folder = path.parent().filter(|one| !one.as_os_str().is_empty());
                    let folder = folder.unwrap_or(Path::new("."));
                    let within = folder.strip_prefix(&of_job).unwrap_or(folder).to_owned();
                    Ok(FilesOfJob { files: FilePartitions::new(folder, pattern), within })
                });
                Ok(Box::new(DeferredPartitioner(make)))
            }
            By::Bytes(path) => self.bytes(path, step, count, known),
        }
    }

    /// Divides a file by bytes, as the kind of the reader says.
    fn bytes(
        &self,
        path: &Text,
        step: &Step,
        count: u32,
        known: &Known<'_>,
    ) -> Built<BoxedPartitioner> {
        let reader = super::required(&step.reader, "reader", &step.name)?;
        let (span, part) = (reader.span(), reader.get_ref());
        let found = self.settings.kinds.find("reader", part.kind.get_ref());
        let found = found.map_err(|message| Problem::at(&part.kind, message))?;
        let ByteSplit { path: read, make } =
            found.byte_split(self.keys("reader", &part.kind, &part.keys, &span))?;
        if read.get_ref() != path.get_ref() {
            let message = "the path of the reader must be the file that is partitioned";
            return Err(Problem::at(path, message));
        }
        let path = self.cx(known).path(path)?;
        let make: Make<ByteRanges> = Box::new(move |scope| {
            let path = path(scope)?;
            match Compression::of(&path) {
                None => Ok(make(path, count)),
                Some(_) => Err(ItemError::fatal(format!(
                    "cannot divide `{}` by bytes: a compressed file is read as a whole",
                    path.display()
                ))),
            }
        });
        Ok(Box::new(DeferredPartitioner(make)))
    }

    fn bound(&self, bound: &Bound, by: &At<By>, known: &Known<'_>) -> Built<Make<i64>> {
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
                        ItemError::fatal(format!(
                            "cannot use `{text}` as a bound: it is no whole number"
                        ))
                    })
                }))
            }
        }
    }
}

/// A partition for each file, whose `path` is relative to the folder of the job file, as all paths of the job are.
struct FilesOfJob {
    files: FilePartitions,
    within: PathBuf,
}

impl Partitioner for FilesOfJob {
    fn partitions(&self, _: &StepScope) -> Result<Vec<Partition>, ItemError> {
        let of_name = |name: String| {
            let path = self.within.join(&name);
            // The name is UTF-8, and so is the text of the job file.
            Ok(Partition::new(&name).with("path", &path.to_string_lossy())?)
        };
        self.files.names()?.into_iter().map(of_name).collect()
    }
}
