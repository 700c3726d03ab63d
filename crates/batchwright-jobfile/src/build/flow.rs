//! Flows of job files: steps in order, transitions, splits, decisions and child jobs.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use batchwright::job::{FlowBuilder, JobFlow, TransitionBuilder};
use batchwright::job_step::JobStep;
use batchwright::parameters::ParameterSchema;
use batchwright::partition::PartitionStep;
use batchwright::scope::StepScope;
use batchwright::{ItemError, Job, JobParameters};
use batchwright_items::{At, Known, Problem, Template};

use super::partition::names_of;
use super::{Builder, Built, options, required};
use crate::Source;
use crate::definition::{self, On, Step, refuse_foreign_keys};
use crate::expression::ChosenCode;
use crate::folder::{Stamp, is_same_file};

impl Builder<'_> {
    /// Adds `steps` with their transitions to `flow`.
    pub(super) fn flow(
        &self,
        mut flow: FlowBuilder,
        steps: Vec<At<Step>>,
        schema: &ParameterSchema,
        names: &BTreeSet<String>,
    ) -> Built<FlowBuilder> {
        for step in steps {
            let mut step = step.into_inner();
            let transitions = std::mem::take(&mut step.on);
            let with_step = self.place(flow, step, schema, names).and_then(|mut flow| {
                for on in &transitions {
                    flow = transition(flow.on(on.get_ref().exit.get_ref().clone()), on)?;
                }
                Ok(flow)
            });
            // After a problem an empty flow continues, so that the problems of the other steps are found too.
            flow = self.collect_problem(with_step).unwrap_or_else(|| JobFlow::builder(""));
        }
        Ok(flow)
    }

    fn place(
        &self,
        flow: FlowBuilder,
        mut step: Step,
        schema: &ParameterSchema,
        names: &BTreeSet<String>,
    ) -> Built<FlowBuilder> {
        let name = step.name.get_ref().clone();
        let kind = step.kind.as_ref().map_or("chunk", |kind| kind.get_ref().as_str()).to_owned();
        if let Some(limit) = step.start_limit.as_ref().filter(|limit| *limit.get_ref() == 0) {
            return Err(Problem::at(limit, "a start limit is at least 1"));
        }
        refuse_foreign_keys(&step, &kind)?;
        let partition = step.partition.as_ref().map(|one| names_of(one.get_ref()));
        let known = Known { schema, partition, file_number: None };
        let worker: Arc<dyn batchwright::step::Step> = match kind.as_str() {
            "flow" => {
                required(&step.steps, "steps", &step.name)?;
                let steps = step.steps.take().unwrap_or_default();
                let inner = self.flow(JobFlow::builder(name), steps, schema, names)?;
                return Ok(flow.nested(inner));
            }
            "split" => {
                required(&step.branches, "branches", &step.name)?;
                let mut branches = Vec::new();
                for branch in step.branches.take().into_iter().flatten() {
                    let branch = branch.into_inner();
                    let inner = JobFlow::builder(branch.name.into_inner());
                    branches.push(self.flow(inner, branch.steps, schema, names)?);
                }
                return Ok(flow.split(name, branches));
            }
            "decision" => {
                let text = required(&step.exit, "exit", &step.name)?;
                let chosen = ChosenCode::compile(text.get_ref(), schema, names);
                let chosen = chosen.map_err(|problem| Problem::at(text, problem))?;
                return Ok(flow.decider(name, chosen));
            }
            "command" => Arc::new(self.command(&step, &known)?),
            "job" => Arc::new(self.job_step(&step, &known)?),
            "progressive" => Arc::new(self.progressive(&step, &known)?),
            "chunk" => self.chunk(&step, &known)?,
            _ => Arc::new(self.tasklet(&step, &known)?),
        };
        let Some(partition) = &step.partition else { return Ok(flow.shared_step(worker)) };
        if self.replay.is_some() {
            return Ok(flow.step(PartitionStep::shared(worker, super::replay::partition())));
        }
        self.uses_its_partitions(&step, partition)?;
        let partitioned =
            PartitionStep::shared(worker, self.partitioner(partition, &step, schema)?);
        let mut partitioned = partitioned.threads(match &partition.get_ref().threads {
            Some(threads) => {
                super::bounded(Some(threads), "threads", 1, PartitionStep::THREADS_MAX)?;
                *threads.get_ref()
            }
            None => PartitionStep::THREADS_DEFAULT,
        });
        if partition.get_ref().fail_fast {
            partitioned = partitioned.fail_fast();
        }
        Ok(flow.step(partitioned))
    }

    fn job_step(&self, step: &Step, known: &Known<'_>) -> Built<JobStep> {
        let path = required(&step.job, "job", &step.name)?;
        let child = self
            .child(&self.folder.join(path.get_ref()))
            .map_err(|message| Problem::at(path, message))?;
        let schema = child.parameters().clone();
        let given = step.parameters.as_ref().map(|given| {
            given
                .iter()
                .map(|(name, text)| {
                    if schema.find(name).is_none() && !schema.open {
                        let message = format!("job `{}` has no parameter `{name}`", child.name());
                        return Err(Problem::at(text, message));
                    }
                    Ok((name.clone(), self.cx(known).template(text)?))
                })
                .collect::<Built<Vec<_>>>()
        });
        let given = given.transpose()?;
        let extract = move |scope: &StepScope| extract(scope, &schema, given.as_deref());
        let job_step = JobStep::new(step.name.get_ref().clone(), child);
        Ok(job_step.parameters(extract).options(options(step)?))
    }

    /// Loads the child job of the file at `path`, which must not be one of its own parents.
    fn child(&self, path: &Path) -> Result<Job, String> {
        let path = std::path::absolute(path).map_err(|error| error.to_string())?;
        let parents = [self.parents, std::slice::from_ref(&self.source)].concat();
        if parents.iter().any(|one| is_same_file(one, &path)) {
            return Err(format!("`{}` would run itself", path.display()));
        }
        let stamp = Stamp::of(&path);
        let source = Source::read(&path).map_err(|error| batchwright::report(&error))?;
        let (job, more) = source.compile_within(self.settings, &parents, None);
        let mut used = self.used.borrow_mut();
        for (path, stamp) in [(path, stamp)].into_iter().chain(more) {
            if used.iter().all(|(known, _)| *known != path) {
                used.push((path, stamp));
            }
        }
        job.map_err(|error| batchwright::report(&error))
    }
}

/// Collects the names of `steps` and of the steps nested in them.
pub(super) fn collect_names(steps: &[At<Step>], names: &mut BTreeSet<String>) {
    for step in steps {
        let step = step.get_ref();
        names.insert(step.name.get_ref().clone());
        collect_names(step.steps.as_deref().unwrap_or_default(), names);
        for branch in step.branches.iter().flatten() {
            collect_names(&branch.get_ref().steps, names);
        }
    }
}

impl Builder<'_> {
    /// Refuses partitions that would all read the same, or write to one file.
    fn uses_its_partitions(&self, step: &Step, partition: &At<definition::Partition>) -> Built<()> {
        if let Some(problem) = self.shared_output.take() {
            return Err(problem);
        }
        let dead_letter = step.skip.as_ref().and_then(|skip| skip.get_ref().dead_letter.as_ref());
        if let Some(path) = dead_letter.filter(|path| !names_partition(path.get_ref())) {
            return Err(Problem::at(path, SHARED_OUTPUT));
        }
        let Some(reader) = &step.reader else { return Ok(()) };
        let (span, part) = (reader.span(), reader.get_ref());
        let keys = self.keys("reader", &part.kind, &part.keys, &span);
        let by_bytes = matches!(partition.get_ref().by.get_ref(), definition::By::Bytes(_));
        match by_bytes || self.reader_uses_partition.get() {
            true => Ok(()),
            false => Err(keys.problem(
                "every partition would read the same: use `${partition.…}` in the reader",
            )),
        }
    }
}

/// The problem of an output of a partitioned step.
pub(super) const SHARED_OUTPUT: &str =
    "every partition would write this file: put `${partition.key}` into its name";

/// Whether a path is another one in each partition.
pub(super) fn names_partition(path: &str) -> bool {
    path.contains("${partition.")
}

/// Returns the parameters of a child job: those that the step names, else all of the parent's that the child
/// declares.
fn extract(
    scope: &StepScope,
    schema: &ParameterSchema,
    given: Option<&[(String, Template)]>,
) -> Result<JobParameters, ItemError> {
    let mut parameters = JobParameters::new();
    match given {
        None => {
            for (name, parameter) in scope.parameters().iter() {
                if schema.open || schema.find(name).is_some() {
                    parameters.insert(name, parameter.clone());
                }
            }
        }
        Some(given) => {
            for (name, template) in given {
                let text = template.render(scope)?;
                let parsed = match template.shows_secret(scope) {
                    true => schema.parse_secret(name, &text),
                    false => schema.parse(name, &text, None),
                };
                let parameter = parsed.map_err(|problem| {
                    ItemError::fatal(format!("cannot use parameter `{name}`: {problem}"))
                })?;
                parameters.insert(name.as_str(), parameter);
            }
        }
    }
    Ok(parameters)
}

fn transition(builder: TransitionBuilder<FlowBuilder>, on: &At<On>) -> Built<FlowBuilder> {
    let On { to, end, fail, stop, restart_at, .. } = on.get_ref();
    match (to, end, fail, stop, restart_at) {
        (Some(to), None, None, false, None) => Ok(builder.to(to.get_ref().clone())),
        (None, Some(code), None, false, None) => Ok(builder.end(code.get_ref().clone())),
        (None, None, Some(code), false, None) => Ok(builder.fail(code.get_ref().clone())),
        (None, None, None, true, None) => Ok(builder.stop()),
        (None, None, None, false, Some(step)) => Ok(builder.restart_at(step.get_ref().clone())),
        _ => Err(Problem::at(
            on,
            "a transition needs exactly one target: `to`, `end`, `fail`, `stop = true` or `restart_at`",
        )),
    }
}
