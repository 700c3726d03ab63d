//! Builds a job from its definition.

mod flow;
mod partition;
mod policy;
mod progressive;
mod replay;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use batchwright::error::ErrorKind;
use batchwright::execution::ExitStatus;
use batchwright::job::JobFlow;
use batchwright::listener::Promotion;
use batchwright::parameters::{Parameter, ParameterDeclaration, ParameterSchema, ParameterValue};
use batchwright::scope::StepScope;
use batchwright::step::{CommandStep, ExitCodeMeaning, StepOptions};
use batchwright::testing::fault::{FaultyProcessor, FaultyWriter};
use batchwright::{ChunkStepBuilder, ItemError, Job, JobParameters, TaskletStep};
use batchwright_items::rotate::FileNumber;
use batchwright_items::{
    At, BuildContext, ItemKind, Keys, Known, Make, MakeReader, Problem, Record, Text, duration,
};
use policy::{completion, retry_policy, skip_policy};
use sha2::{Digest, Sha256};

use crate::definition::{
    self, Definition, Next, Parts, Processor, Reader, STEP_TYPES, Step, Writer,
};
use crate::reader::StepReader;
use crate::regrouped::regrouped;
use crate::replay::{Corrections, job_of_replays};
use crate::several::{self, WRITERS};
use crate::stage::{self, Divided, STAGES, Stage, Stages, check_fields};
use crate::{Replay, Settings, Used, expression};

/// Builds the jobs of one file.
pub(super) struct Builder<'a> {
    /// The folder that paths in the file are relative to.
    pub(super) folder: PathBuf,
    pub(super) source: PathBuf,
    /// The files of the parent jobs.
    pub(super) parents: &'a [PathBuf],
    pub(super) settings: &'a Settings,
    /// The records to replay, instead of those of the readers.
    pub(super) replay: Option<&'a Replay>,
    pub(super) parts: Parts<'a>,
    /// The problems found so far.
    pub(super) problems: RefCell<Vec<Problem>>,
    /// The job files that this one uses.
    pub(super) used: RefCell<Used>,
    /// Whether the reader that was built last uses names of its partition.
    pub(super) reader_uses_partition: Cell<bool>,
    /// The problem of a writer of the step whose file all partitions would write.
    pub(super) shared_output: RefCell<Option<Problem>>,
}

type Built<T> = Result<T, Problem>;

impl Builder<'_> {
    /// Builds the job, or returns all problems of its definition.
    pub(super) fn job(
        self,
        definition: Definition,
        text: &str,
    ) -> (Result<Job, Vec<Problem>>, Used) {
        let built = self.whole(definition, text);
        let found = self.problems.into_inner();
        let job = match built {
            Ok(job) if found.is_empty() => Ok(job),
            Ok(_) => Err(found),
            Err(last) => Err(found.into_iter().chain([last]).collect()),
        };
        (job, self.used.into_inner())
    }

    /// Returns the built value; collects its problem, so that further problems can be found.
    fn collect_problem<T>(&self, built: Built<T>) -> Option<T> {
        built.map_err(|problem| self.problems.borrow_mut().push(problem)).ok()
    }

    /// Returns both values; when both have a problem, collects the first and returns the second.
    fn both<A, B>(&self, a: Built<A>, b: Built<B>) -> Built<(A, B)> {
        match (a, b) {
            (Err(one), Err(other)) => {
                self.problems.borrow_mut().push(one);
                Err(other)
            }
            (a, b) => Ok((a?, b?)),
        }
    }

    fn whole(&self, mut definition: Definition, text: &str) -> Built<Job> {
        self.refuse_hidden_kinds()?;
        let mut schema = schema(&definition)?;
        let (mut name, mut fingerprint) = (definition.name.get_ref().clone(), fingerprint(text)?);
        if let Some(replay) = self.replay {
            definition.steps = replay::steps(&mut definition, replay)?;
            definition.next.clear();
            replay::declare(&mut schema, &definition.name)?;
            name = job_of_replays(&name);
            fingerprint.push_str("-replay");
        }
        let mut job = Job::builder(name)
            .description(definition.description.clone())
            .closed_parameters()
            .fingerprint(fingerprint)
            .source(self.source.to_string_lossy());
        for declaration in &schema.declared {
            job = job.parameter(declaration.clone());
        }
        if schema.open {
            job = job.open_parameters();
        }
        // A replay is continued in any case.
        if !definition.restartable && self.replay.is_none() {
            job = job.not_restartable();
        }
        if !definition.next.is_empty() {
            let changes = next_changes(&definition.next, &schema)?;
            job = job.next(move |newest| next_parameters(newest, &changes));
        }
        let mut names = BTreeSet::new();
        flow::collect_names(&definition.steps, &mut names);
        let mut flow = JobFlow::builder("");
        if let Some(replay) = self.replay {
            let lists = replay::lists(&definition.steps, replay);
            flow = flow.step(replay::first_step(lists, replay));
        }
        let flow = self.flow(flow, definition.steps, &schema, &names)?;
        if let Some(last) = self.problems.borrow_mut().pop() {
            return Err(last);
        }
        let job = job.whole_flow(flow);
        job.build().map_err(|refusal| Problem::at(&definition.name, refusal.to_string()))
    }

    /// Refuses kinds of the program that no job file can reach, because their names are types of job files.
    fn refuse_hidden_kinds(&self) -> Built<()> {
        let steps = STEP_TYPES.iter().map(|(name, _)| ("step", *name));
        let processors = STAGES.map(|name| ("processor", name));
        let writers = WRITERS.map(|name| ("writer", name));
        for (part, name) in steps.chain(processors).chain(writers) {
            if self.settings.kinds.find(part, name).is_ok() {
                let message = format!("the program's kind `{name}` has the name of a {part} type");
                return Err(Problem::of_file(message));
            }
        }
        Ok(())
    }

    /// The context of a part whose texts can use the names of `known`.
    fn cx<'k>(&'k self, known: &'k Known<'k>) -> BuildContext<'k> {
        let prefix = self.replay.map(Replay::prefix).unwrap_or_default();
        BuildContext::new(&self.folder, known, self.settings.inside_only).output_prefix(prefix)
    }

    /// The keys of a part, whose table is at the place of `at`.
    fn keys<'k>(
        &'k self,
        what: &'static str,
        kind: &'k Text,
        number: &str,
        span: &'k std::ops::Range<usize>,
    ) -> Keys<'k> {
        Keys::new(what, kind.get_ref(), span, self.parts.keys(number))
    }

    fn command(&self, step: &Step, known: &Known<'_>) -> Built<CommandStep> {
        let cx = self.cx(known);
        let argv = required(&step.argv, "argv", &step.name)?;
        let templates: Vec<_> =
            argv.get_ref().iter().map(|argument| cx.template(argument)).collect::<Built<_>>()?;
        if templates.is_empty() {
            return Err(Problem::at(argv, "a command needs at least a program"));
        }
        let folder = self.folder.clone();
        let make_argv = move |scope: &StepScope| -> Result<Vec<String>, ItemError> {
            let mut argv: Vec<String> =
                templates.iter().map(|one| one.render(scope)).collect::<Result<_, _>>()?;
            // The path of a program is relative to the job file, like every path in it.
            if argv[0].contains('/') {
                let program = std::path::absolute(folder.join(&argv[0]))?;
                argv[0] = program.to_string_lossy().into_owned();
            }
            Ok(argv)
        };
        let mut command =
            CommandStep::with(step.name.get_ref().clone(), make_argv).options(options(step)?);
        command = match &step.dir {
            Some(dir) => command.dir_with(cx.path(dir)?),
            None if self.folder.as_os_str().is_empty() => command.dir("."),
            None => command.dir(&self.folder),
        };
        for (name, value) in step.env.iter().flatten() {
            let value = cx.template(value)?;
            command = command.env_with(name, move |scope| value.render(scope));
        }
        if let Some(timeout) = &step.timeout {
            command = command.timeout(duration(timeout)?);
        }
        if let Some(grace) = &step.grace {
            command = command.grace(duration(grace)?);
        }
        for (code, meaning) in step.exit_codes.iter().flatten() {
            let number = code.parse().map_err(|_| {
                Problem::at(meaning, format!("`{code}` is no exit code; expected a number"))
            })?;
            command = command.exit_code(number, exit_meaning(meaning.get_ref()));
        }
        Ok(command)
    }

    /// A step of a registered type.
    fn tasklet(&self, step: &Step, known: &Known<'_>) -> Built<TaskletStep> {
        let (Some(kind), Some(number)) = (&step.kind, &step.keys) else {
            return Err(Problem::at(&step.name, "the step has no type"));
        };
        let found = self.kind("step", kind, &STEP_TYPES.map(|(name, _)| name))?;
        let span = kind.span();
        let keys = self.keys("step", kind, number, &span);
        let tasklet = found.tasklet(keys, &self.cx(known))?;
        Ok(TaskletStep::of(step.name.get_ref().clone(), tasklet).options(options(step)?))
    }

    fn chunk(&self, step: &Step, known: &Known<'_>) -> Built<Arc<dyn batchwright::step::Step>> {
        let name = step.name.get_ref().clone();
        let faults = self.faults(&name);
        self.shared_output.take();
        let writer = required(&step.writer, "writer", &step.name);
        let (parts, make_writer) = self.both(
            self.reader_and_stages(step, known),
            writer.and_then(|writer| self.writer(writer, known)),
        )?;
        let (make_reader, make_stages) = parts;
        bounded(step.parallelism.as_ref(), "parallelism", 1, ChunkStepBuilder::PARALLELISM_MAX)?;
        bounded(step.read_ahead.as_ref(), "read_ahead", 0, ChunkStepBuilder::READ_AHEAD_MAX)?;
        let mut builder = ChunkStepBuilder::new(name);
        if let Some(chunk) = &step.chunk {
            builder = builder.completion(completion(chunk)?);
        }
        if let Some(threads) = self.threads(step) {
            builder = builder.parallelism(threads);
        }
        if let Some(chunks) = &step.read_ahead {
            builder = builder.read_ahead(*chunks.get_ref());
        }
        if let Some(limit) = &step.start_limit {
            builder = builder.start_limit(*limit.get_ref());
        }
        if step.allow_start_if_complete {
            builder = builder.allow_start_if_complete();
        }
        if let Some(skip) = &step.skip {
            builder = builder.skip(skip_policy(skip)?);
            if let Some(path) = &skip.get_ref().dead_letter {
                builder = builder.dead_letters_with(self.cx(known).output_path(path)?);
            }
        }
        if let Some(retry) = &step.retry {
            builder = builder.retry(retry_policy(retry)?);
        }
        let options = options(step)?;
        if let Some(policy) = options.retry {
            builder = builder.retry_step(policy);
        }
        for listener in options.listeners {
            builder = builder.shared_step_listener(listener);
        }
        let builder = builder.reader_with(make_reader);
        // Without a plan the engine calls the parts directly.
        Ok(match faults {
            None => Arc::new(
                builder
                    .processor_with(make_stages)
                    .writer_with(make_writer)
                    .build()
                    .keep_skipped(as_json, as_json),
            ) as Arc<dyn batchwright::step::Step>,
            Some(plan) => {
                let other = plan.clone();
                let stages =
                    move |scope: &StepScope| Ok(FaultyProcessor::new(make_stages(scope)?, &other));
                let writer =
                    move |scope: &StepScope| Ok(FaultyWriter::new(make_writer(scope)?, &plan));
                let builder = builder.processor_with(stages).writer_with(writer);
                Arc::new(builder.build().keep_skipped(as_json, as_json))
            }
        })
    }

    /// Returns the number of threads of a chunk step, if the engine must not choose it.
    fn threads(&self, step: &Step) -> Option<usize> {
        // A processor of a program may depend on the order of its calls.
        let is_independent = |one: &At<Processor>| {
            let kind = one.get_ref().kind.get_ref().as_str();
            let found = self.settings.kinds.find("processor", kind);
            STAGES.contains(&kind) || found.is_ok_and(ItemKind::is_independent)
        };
        let default = (!step.processors.iter().all(is_independent)).then_some(1);
        step.parallelism.as_ref().map(|one| *one.get_ref()).or(default)
    }

    /// The faults that are injected into step `name`, if any.
    fn faults(&self, name: &str) -> Option<batchwright::testing::fault::FaultPlan> {
        let plan = self.settings.faults.as_ref().map(|plan| plan.for_step(name));
        plan.filter(batchwright::testing::fault::FaultPlan::concerns_items)
    }

    /// Builds the reader of a step and its processors, and checks the fields that the processors use.
    fn reader_and_stages(
        &self,
        step: &Step,
        known: &Known<'_>,
    ) -> Built<(Make<StepReader>, Make<Stages>)> {
        let reader = required(&step.reader, "reader", &step.name)?;
        let stages = step.processors.iter().map(|processor| self.stage(processor, known));
        let stages: Vec<_> = stages.map(|stage| self.collect_problem(stage)).collect();
        let corrections = self.replay.map(|replay| {
            let has_no_types = UNTYPED.contains(&reader.get_ref().kind.get_ref().as_str());
            replay.of_step(step.name.get_ref(), step.partition.is_some(), has_no_types)
        });
        let MakeReader { make: make_reader, fields, is_queue } = match &corrections {
            None => self.reader(reader, known)?,
            Some(corrections) => corrections.make_reader(),
        };
        // A collected problem refuses the job in any case.
        let stages: Arc<[Stage]> = stages.into_iter().flatten().collect();
        let fields =
            fields.as_ref().map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        check_fields(&stages, fields.as_deref()).map_err(|message| {
            let span = step.processors.first().map_or_else(|| reader.span(), |first| first.span());
            Problem { span: Some(span), message }
        })?;
        let Divided { within_reader, rest } = stage::divided(&stages);
        if corrections.as_ref().is_some_and(Corrections::has_unread) && !within_reader.is_empty() {
            let message = "records that could not be read cannot be replayed in a step with `aggregate`, `deduplicate` or `split`";
            return Err(Problem::at(reader, message));
        }
        if is_queue && !within_reader.is_empty() {
            let message = "the records of a queue, or of what has another order when it is read again, cannot be processed by `aggregate`, \
                           `deduplicate` or `split`, which read an input again after a restart; write them to a file or a table first";
            return Err(Problem::at(reader, message));
        }
        let declared: Arc<[String]> = expression::declared(known.schema).into();
        let plan = self.faults(step.name.get_ref());
        // The records of a replay were regrouped before they were skipped.
        let within_reader = if corrections.is_some() { Vec::new() } else { within_reader };
        let checked = if corrections.is_some() { Arc::default() } else { stages };
        let make_reader =
            within_reader.into_iter().fold(make_reader, |make, (before, regrouping)| {
                let declared = Arc::clone(&declared);
                let stages =
                    Box::new(move |scope: &StepScope| Stages::new(&before, scope, &declared));
                regrouped(make, stages, regrouping)
            });
        let make_reader = move |scope: &StepScope| {
            Ok(StepReader::new(make_reader(scope)?, Arc::clone(&checked), plan.as_ref()))
        };
        let make_stages = move |scope: &StepScope| {
            let stages = Stages::new(&rest, scope, &declared)?;
            Ok(match &corrections {
                None => stages,
                Some(corrections) => stages.after(Arc::clone(&corrections.is_processed)),
            })
        };
        Ok((Box::new(make_reader), Box::new(make_stages)))
    }

    fn reader(&self, reader: &At<Reader>, known: &Known<'_>) -> Built<MakeReader> {
        let Reader { kind, keys } = reader.get_ref();
        let found = self.kind("reader", kind, &[])?;
        let cx = self.cx(known);
        let made = found.reader(self.keys("reader", kind, keys, &reader.span()), &cx);
        self.reader_uses_partition.set(cx.uses_partition());
        made
    }

    fn writer(
        &self,
        writer: &At<Writer>,
        known: &Known<'_>,
    ) -> Built<Make<batchwright_items::BoxedWriter>> {
        let Writer { kind, keys } = writer.get_ref();
        let span = writer.span();
        let keys = self.keys("writer", kind, keys, &span);
        let member = |one: &At<Writer>, number: Option<FileNumber>| {
            let Known { schema, partition, file_number } = known;
            let file_number = number.or_else(|| file_number.clone());
            self.writer(one, &Known { schema, partition: *partition, file_number })
        };
        if let Some(made) = several::writer(kind.get_ref(), keys, known.schema, member) {
            return made;
        }
        if keys.text("path").is_some_and(|path| !flow::names_partition(path)) {
            let problem = keys.problem_at("path", flow::SHARED_OUTPUT);
            self.shared_output.borrow_mut().get_or_insert(problem);
        }
        self.kind("writer", kind, &WRITERS)?.writer(keys, &self.cx(known))
    }

    fn stage(&self, processor: &At<Processor>, known: &Known<'_>) -> Built<Stage> {
        let Processor { kind, keys } = processor.get_ref();
        let span = processor.span();
        let keys = self.keys("processor", kind, keys, &span);
        // Each partition reads all rows of a lookup.
        let whole = Known { schema: known.schema, partition: None, file_number: None };
        let reader = |one: &At<Reader>| self.reader(one, &whole);
        if let Some(stage) = stage::stage(kind.get_ref(), keys, known.schema, reader) {
            return stage;
        }
        let found = self.kind("processor", kind, &STAGES)?;
        found.processor(keys, &self.cx(known)).map(|make| Stage::Kind(make.into()))
    }

    /// Returns the registered kind `kind` that has `part`; `ours` are the types of this crate.
    fn kind(&self, part: &str, kind: &Text, ours: &[&'static str]) -> Built<&dyn ItemKind> {
        let kinds = &self.settings.kinds;
        kinds.find(part, kind.get_ref()).map_err(|_| {
            let mut known = [ours, &kinds.names(part)].concat();
            known.sort_unstable();
            let (name, known) = (kind.get_ref(), known.join(", "));
            Problem::at(kind, format!("there is no {part} of type `{name}`; there are: {known}"))
        })
    }
}

/// The types of readers whose texts can stand for numbers.
const UNTYPED: [&str; 4] = ["csv", "fixed_width", "lines", "xml"];

fn bounded(value: Option<&At<usize>>, key: &str, min: usize, max: usize) -> Built<()> {
    match value.filter(|value| !(min..=max).contains(value.get_ref())) {
        None => Ok(()),
        Some(value) => Err(Problem::at(value, format!("`{key}` is between {min} and {max}"))),
    }
}

fn as_json(record: &Record) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

fn schema(definition: &Definition) -> Built<ParameterSchema> {
    let mut declared = Vec::new();
    for (name, spanned) in &definition.parameters {
        let definition::Parameter { kind, required, default, identifying, secret, description } =
            spanned.get_ref();
        let mut declaration =
            ParameterDeclaration::new(name, *kind).description(description.clone());
        declaration.required = *required;
        if *secret {
            declaration = declaration.secret();
        }
        declaration.identifying = identifying.unwrap_or(!secret);
        if let Some(default) = default {
            let text = match default {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let value = ParameterValue::parse(&text, *kind).map_err(|problem| {
                Problem::at(spanned, format!("default of `{name}`: {problem}"))
            })?;
            declaration = declaration.default(value);
        }
        declared.push(declaration);
    }
    Ok(ParameterSchema { declared, open: definition.open_parameters })
}

/// Returns the hash of the definition; comments, the order of keys and the description do not count.
fn fingerprint(text: &str) -> Built<String> {
    let mut table: toml::Table =
        toml::from_str(text).map_err(|error| Problem::of_file(error.message().to_owned()))?;
    table.remove("description");
    let canonical = toml::to_string(&table).map_err(|error| Problem::of_file(error.to_string()))?;
    let digest = Sha256::digest(canonical.as_bytes());
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How the next instance changes one parameter.
#[derive(Debug, Clone)]
enum Change {
    Increment(i64),
    AddDays(i64),
}

fn next_changes(
    next: &BTreeMap<String, At<Next>>,
    schema: &ParameterSchema,
) -> Built<Vec<(ParameterDeclaration, Change)>> {
    use batchwright::parameters::ParameterType::{Date, Integer};
    let mut changes = Vec::new();
    for (name, spanned) in next {
        let Next { increment, add_days } = spanned.get_ref();
        let declared = schema.find(name).cloned();
        let declared = match (declared, schema.open) {
            (Some(declared), _) => declared,
            (None, _) if increment.is_some() => ParameterDeclaration::new(name, Integer),
            (None, _) => {
                return Err(Problem::at(spanned, format!("parameter `{name}` is not declared")));
            }
        };
        let change = match (increment, add_days) {
            (Some(by), None) if declared.kind == Integer => Change::Increment(*by),
            (None, Some(days)) if declared.kind == Date => Change::AddDays(*days),
            (Some(_), None) => {
                return Err(Problem::at(
                    spanned,
                    format!("`increment` needs an integer; `{name}` is a {}", declared.kind),
                ));
            }
            (None, Some(_)) => {
                return Err(Problem::at(
                    spanned,
                    format!("`add_days` needs a date; `{name}` is a {}", declared.kind),
                ));
            }
            _ => {
                return Err(Problem::at(spanned, "write either `increment = N` or `add_days = N`"));
            }
        };
        if schema.find(name).is_none() && !schema.open {
            return Err(Problem::at(spanned, format!("parameter `{name}` is not declared")));
        }
        changes.push((declared, change));
    }
    Ok(changes)
}

fn next_parameters(
    newest: Option<&JobParameters>,
    changes: &[(ParameterDeclaration, Change)],
) -> Result<JobParameters, String> {
    let mut next = newest.cloned().unwrap_or_default();
    for (declared, change) in changes {
        let name = &declared.name;
        let old = next.get(name).map(|one| one.value.clone());
        let value = match (change, old) {
            // The first instance of the job has the default.
            (_, None) if declared.default.is_some() && newest.is_none() => {
                declared.default.clone().expect("the guard checks the default")
            }
            (Change::Increment(by), Some(ParameterValue::Integer(old))) => {
                let sum = old.checked_add(*by);
                sum.ok_or_else(|| format!("parameter `{name}` exceeds 64 bits"))?.into()
            }
            (Change::Increment(by), None) => ParameterValue::Integer(*by),
            (Change::AddDays(days), Some(ParameterValue::Date(old))) => {
                let span = jiff::Span::new().try_days(*days).map_err(|error| error.to_string())?;
                let sum = old.checked_add(span).map_err(|error| error.to_string())?;
                sum.into()
            }
            (Change::AddDays(_), None) => {
                return Err(format!("parameter `{name}` has no first value: pass one"));
            }
            (_, Some(other)) => {
                return Err(format!(
                    "parameter `{name}` of the newest instance is a {}",
                    other.kind()
                ));
            }
        };
        next.insert(name.clone(), Parameter::new(value, declared.identifying));
    }
    Ok(next)
}

fn options(step: &Step) -> Built<StepOptions> {
    Ok(StepOptions {
        start_limit: step.start_limit.as_ref().map(|limit| *limit.get_ref()),
        allow_start_if_complete: step.allow_start_if_complete,
        listeners: match &step.promote[..] {
            [] => Vec::new(),
            keys => vec![Arc::new(Promotion::of(keys.iter().map(|key| key.get_ref().clone())))],
        },
        retry: step.retry_step.as_ref().map(retry_policy).transpose()?,
        ..StepOptions::default()
    })
}

/// Returns the meaning of an exit code: `FAILED` or `FAILED:KIND` fails the step, every other word completes
/// it.
fn exit_meaning(word: &str) -> ExitCodeMeaning {
    match word.strip_prefix("FAILED") {
        Some("") => ExitCodeMeaning::Failed(ErrorKind::new("command.exit")),
        Some(kind) => {
            let kind = kind.trim_start_matches([':', ' ']).to_owned();
            ExitCodeMeaning::Failed(ErrorKind::new(kind))
        }
        None => ExitCodeMeaning::Completed(ExitStatus::new(word)),
    }
}

fn required<'a, T>(value: &'a Option<T>, key: &str, of: &Text) -> Built<&'a T> {
    value.as_ref().ok_or_else(|| Problem::at(of, format!("step `{}` needs `{key}`", of.get_ref())))
}
