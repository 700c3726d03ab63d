//! Builds a job from its definition.

mod csv;
mod flow;
mod keys;
mod partition;
mod progressive;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use batchwright::testing::{FaultyProcessor, FaultyReader, FaultyWriter};
use batchwright::{
    Backoff, ChunkStepBuilder, Classifier, CommandStep, Completion, ErrorKind, ExitCodeMeaning,
    ExitStatus, FileWriter, ItemError, Job, JobFlow, JobParameters, JsonLinesReader,
    JsonLinesWriter, LineReader, ListReader, Parameter, ParameterDeclaration, ParameterSchema,
    ParameterValue, Phase, Promotion, RetryPolicy, Sequence, SkipLimitScope, SkipPolicy,
    StepOptions, StepScope, TaskletStep,
};
use batchwright_store::{Database, SqlMode, SqlTasklet, StoreOptions};
use sha2::{Digest, Sha256};
use toml::Spanned;

use crate::definition::{
    self, Chunk, ChunkBounds, Definition, Next, Number, Processor, Reader, Retry, Skip, Step,
    Texts, Writer,
};
use crate::expression::{self, Expression, Stage, Stages};
use crate::items::{AnyReader, AnyWriter, Opened, RecordCsv, RecordLines};
use crate::record::{Names, Record, Value};
use crate::sql::{self, RecordSqlWriter};
use crate::template::{Known, Template};
use crate::{BuildContext, Problem, Used};
use batchwright::parse_duration;
pub(super) use csv::Input as CsvInput;
pub(super) use keys::of_unknown;
use keys::{keys_of_reader, keys_of_writer};

/// Builds the jobs of one file.
pub(super) struct Builder<'a> {
    /// The folder that paths in the file are relative to.
    pub(super) folder: PathBuf,
    pub(super) source: PathBuf,
    /// The files of the parent jobs.
    pub(super) around: &'a [PathBuf],
    pub(super) context: &'a BuildContext,
    /// The problems found so far.
    pub(super) problems: RefCell<Vec<Problem>>,
    /// The job files that this one uses.
    pub(super) used: RefCell<Used>,
}

type Built<T> = Result<T, Problem>;
type Text = Spanned<String>;
/// A function that makes a part of a step for one step execution.
type Make<T> = Box<dyn Fn(&StepScope) -> Result<T, ItemError> + Send + Sync>;

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
    fn noted<T>(&self, built: Built<T>) -> Option<T> {
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

    fn whole(&self, definition: Definition, text: &str) -> Built<Job> {
        let schema = schema(&definition)?;
        let mut job = Job::builder(definition.name.get_ref().clone())
            .description(definition.description.clone())
            .closed_parameters()
            .fingerprint(fingerprint(text)?)
            .source(self.source.to_string_lossy());
        for declaration in &schema.declared {
            job = job.parameter(declaration.clone());
        }
        if schema.open {
            job = job.open_parameters();
        }
        if !definition.restartable {
            job = job.not_restartable();
        }
        if !definition.next.is_empty() {
            let changes = next_changes(&definition.next, &schema)?;
            job = job.next(move |newest| next_parameters(newest, &changes));
        }
        let mut names = BTreeSet::new();
        flow::collect_names(&definition.steps, &mut names);
        let flow = JobFlow::builder("");
        let flow = self.flow(flow, definition.steps, &schema, &names)?;
        if let Some(last) = self.problems.borrow_mut().pop() {
            return Err(last);
        }
        let job = job.whole_flow(flow);
        job.build().map_err(|refusal| Problem::at(&definition.name, refusal.to_string()))
    }

    fn template(&self, text: &Text, known: &Known<'_>) -> Built<Template> {
        Template::parse(text.get_ref(), known).map_err(|problem| Problem::at(text, problem))
    }

    fn path(&self, text: &Text, known: &Known<'_>) -> Built<Make<PathBuf>> {
        let (template, folder) = (self.template(text, known)?, self.folder.clone());
        Ok(Box::new(move |scope| Ok(folder.join(template.render(scope)?))))
    }

    /// The path of an output file; a rehearsal refuses a path outside the job's folder.
    fn output_path(&self, text: &Text, known: &Known<'_>) -> Built<Make<PathBuf>> {
        let path = self.path(text, known)?;
        if !self.context.inside_only {
            return Ok(path);
        }
        let here = if self.folder.as_os_str().is_empty() { Path::new(".") } else { &self.folder };
        let folder = std::path::absolute(here).unwrap_or_default();
        Ok(Box::new(move |scope| {
            let path = path(scope)?;
            let is_inside = !path.components().any(|one| one.as_os_str() == "..")
                && (path.is_relative() || path.starts_with(&folder));
            match is_inside {
                true => Ok(path),
                false => Err(outside(&path.display())),
            }
        }))
    }

    fn command(&self, step: &Step, known: &Known<'_>) -> Built<CommandStep> {
        let argv = wanted(&step.argv, "argv", &step.name)?;
        let templates: Vec<_> = argv
            .get_ref()
            .iter()
            .map(|argument| self.template(argument, known))
            .collect::<Built<_>>()?;
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
            CommandStep::with(step.name.get_ref().clone(), make_argv).options(options(step));
        command = match &step.dir {
            Some(dir) => command.dir_with(self.path(dir, known)?),
            None if self.folder.as_os_str().is_empty() => command.dir("."),
            None => command.dir(&self.folder),
        };
        for (name, value) in step.env.iter().flatten() {
            let value = self.template(value, known)?;
            command = command.env_with(name, move |scope| value.render(scope));
        }
        if let Some(timeout) = &step.timeout {
            command = command.timeout(span(timeout)?);
        }
        if let Some(grace) = &step.grace {
            command = command.grace(span(grace)?);
        }
        for (code, meaning) in step.exit_codes.iter().flatten() {
            let number = code.parse().map_err(|_| {
                Problem::at(meaning, format!("`{code}` is no exit code; expected a number"))
            })?;
            command = command.exit_code(number, exit_meaning(meaning.get_ref()));
        }
        Ok(command)
    }

    fn sql(&self, step: &Step, known: &Known<'_>) -> Built<TaskletStep> {
        let text = self.template(wanted(&step.sql, "sql", &step.name)?, known)?;
        let render = move |scope: &StepScope| text.render(scope);
        let tasklet = match &step.url {
            Some(url) => SqlTasklet::in_database(self.database(url, known)?, render),
            None => {
                self.own_database(&step.name)?;
                SqlTasklet::in_store(render)
            }
        };
        Ok(TaskletStep::new(step.name.get_ref().clone(), tasklet).options(options(step)))
    }

    fn chunk(&self, step: &Step, known: &Known<'_>) -> Built<impl batchwright::Step + use<>> {
        let name = step.name.get_ref().clone();
        let faults =
            self.context.faults.as_ref().map(|plan| plan.for_step(&name)).unwrap_or_default();
        let writer = wanted(&step.writer, "writer", &step.name);
        let ((make_reader, make_stages), make_writer) = self.both(
            self.reader_and_stages(step, known),
            writer.and_then(|writer| self.writer(writer, known)),
        )?;
        bounded(step.parallelism.as_ref(), "parallelism", 1, ChunkStepBuilder::PARALLELISM_MAX)?;
        bounded(step.read_ahead.as_ref(), "read_ahead", 0, ChunkStepBuilder::READ_AHEAD_MAX)?;
        let mut builder = ChunkStepBuilder::new(name)
            .completion(completion(step.chunk.as_ref())?)
            .parallelism(step.parallelism.as_ref().map_or(1, |threads| *threads.get_ref()));
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
                builder = builder.dead_letters_with(self.output_path(path, known)?);
            }
        }
        if let Some(retry) = &step.retry {
            builder = builder.retry(retry_policy(retry)?);
        }
        for listener in options(step).listeners {
            builder = builder.shared_step_listener(listener);
        }
        // The wrappers are used with and without faults, so that a run can continue what a rehearsal began.
        let (one, two, three) = (faults.clone(), faults.clone(), faults);
        Ok(builder
            .reader_with(move |scope| Ok(FaultyReader::new(make_reader(scope)?, &one)))
            .processor_with(move |scope| Ok(FaultyProcessor::new(make_stages(scope)?, &two)))
            .writer_with(move |scope| Ok(FaultyWriter::new(make_writer(scope)?, &three)))
            .build()
            .keep_skipped(as_json, as_json))
    }

    /// Builds the reader of a step and its processors, and checks the fields that the processors use.
    fn reader_and_stages(
        &self,
        step: &Step,
        known: &Known<'_>,
    ) -> Built<(Make<AnyReader>, Make<Stages>)> {
        let reader = wanted(&step.reader, "reader", &step.name)?;
        let stages = step.processors.iter().map(|processor| stage(processor, known.schema));
        let stages: Vec<_> = stages.map(|stage| self.noted(stage)).collect();
        let (make_reader, fields) = self.reader(reader, known)?;
        // Stages with a problem may be left out: the collected problem refuses the job in any case.
        let stages: Arc<[Stage]> = stages.into_iter().flatten().collect();
        let fields =
            fields.as_ref().map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        expression::check_fields(&stages, fields.as_deref()).map_err(|message| {
            let at = step.processors.first().map_or_else(|| reader.span(), Spanned::span);
            Problem { span: Some(at), message }
        })?;
        let checked = Arc::clone(&stages);
        let declared = expression::declared(known.schema);
        Ok((
            Box::new(move |scope| Ok(AnyReader::new(make_reader(scope)?, Arc::clone(&checked)))),
            Box::new(move |scope| {
                let parameters = expression::parameters(scope.parameters(), &declared).into();
                Ok(Stages { stages: Arc::clone(&stages), parameters })
            }),
        ))
    }

    /// Builds the reader; also returns the fields of its items, as far as the job file declares them.
    fn reader(
        &self,
        reader: &Spanned<Reader>,
        known: &Known<'_>,
    ) -> Built<(Make<Opened>, Option<Vec<String>>)> {
        let Reader { kind, path, count, items, query, key, params, .. } = reader.get_ref();
        keys_of_reader(reader.get_ref())?;
        let bytes_max = reader.get_ref().line_bytes_max.as_ref().map(|max| *max.get_ref());
        let line_max = bytes_max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        let may_change = may_change(reader.get_ref().if_changed.as_ref())?;
        let one = |name: &str| Some(vec![name.to_owned()]);
        /// Applies the options of the job file to a reader of lines.
        macro_rules! configured {
            ($lines:ident, $scope:ident, $max:ident, $may_change:ident) => {{
                let mut lines = $lines;
                if let Some(max) = $max {
                    lines = lines.line_bytes_max(max);
                }
                if let Some((start, end)) = partition::byte_range($scope)? {
                    lines = lines.bytes(start, end);
                }
                if $may_change {
                    lines = lines.may_have_changed();
                }
                lines
            }};
        }
        Ok(match kind.get_ref().as_str() {
            "csv" => {
                let path = self.path(wanted_in(path, "path", reader)?, known)?;
                let input = csv::input(reader)?;
                let fields = input.names.clone();
                let make: Make<Opened> = Box::new(move |scope| {
                    let mut csv = input.reader(path(scope)?);
                    if let Some((start, end)) = partition::byte_range(scope)? {
                        csv = csv.bytes(start, end);
                    }
                    if let Some(bytes) = bytes_max {
                        csv = csv.record_bytes_max(bytes);
                    }
                    if may_change {
                        csv = csv.may_have_changed();
                    }
                    Ok(Opened::Csv(Box::new(csv), input.clone()))
                });
                (make, fields)
            }
            "jsonl" => {
                let path = self.path(wanted_in(path, "path", reader)?, known)?;
                let make: Make<Opened> = Box::new(move |scope| {
                    let lines = JsonLinesReader::new(path(scope)?);
                    let lines = configured!(lines, scope, line_max, may_change);
                    Ok(Opened::JsonLines(lines))
                });
                (make, None)
            }
            "lines" => {
                let path = self.path(wanted_in(path, "path", reader)?, known)?;
                let names: Names = Arc::new([Arc::from("line")]);
                let make: Make<Opened> = Box::new(move |scope| {
                    let lines = LineReader::new(path(scope)?);
                    let lines = configured!(lines, scope, line_max, may_change);
                    Ok(Opened::Lines(lines, Arc::clone(&names)))
                });
                (make, one("line"))
            }
            "sequence" => {
                let names: Names = Arc::new([Arc::from("n")]);
                let count = self.count(count.as_ref(), reader, known)?;
                let make: Make<Opened> = Box::new(move |scope| {
                    Ok(Opened::Sequence(Sequence::to(count(scope)?), Arc::clone(&names)))
                });
                (make, one("n"))
            }
            "list" => {
                let items = items.as_ref().ok_or_else(|| missing("items", reader))?;
                let records: Vec<Record> = items
                    .iter()
                    .map(record)
                    .collect::<Result<_, _>>()
                    .map_err(|problem| Problem::at(reader, problem))?;
                let records: Arc<[Record]> = records.into();
                let names = records.iter().flat_map(|record| record.names().iter());
                let fields: BTreeSet<String> = names.map(ToString::to_string).collect();
                let make: Make<Opened> =
                    Box::new(move |_| Ok(Opened::List(ListReader::new(Arc::clone(&records)))));
                (make, Some(fields.into_iter().collect()))
            }
            "sql" => {
                let query = self.template(wanted_in(query, "query", reader)?, known)?;
                let database = match &reader.get_ref().url {
                    Some(url) => self.database(url, known)?,
                    None => constant(self.own_database(kind)?),
                };
                let params: Vec<_> = params
                    .iter()
                    .flatten()
                    .map(|text| self.template(text, known))
                    .collect::<Built<_>>()?;
                let key = key.as_ref().map(Texts::all);
                if key.as_ref().is_some_and(Vec::is_empty) {
                    return Err(Problem::at(reader, "`key` names at least one column"));
                }
                let make: Make<Opened> = Box::new(move |scope| {
                    let mut sql = sql::reader(database(scope)?, query.render(scope)?);
                    if let Some(key) = &key {
                        sql = sql.keyset(key.clone());
                    }
                    let values: Result<Vec<String>, _> =
                        params.iter().map(|text| text.render(scope)).collect();
                    Ok(Opened::Sql(sql.params(values?)))
                });
                (make, None)
            }
            _ => unreachable!("checked by `keys_of_reader`"),
        })
    }

    fn count(
        &self,
        count: Option<&Spanned<Number>>,
        reader: &Spanned<Reader>,
        known: &Known<'_>,
    ) -> Built<Make<u64>> {
        let count = count.ok_or_else(|| missing("count", reader))?;
        match count.get_ref() {
            Number::Literal(number) => {
                let number = *number;
                Ok(Box::new(move |_| Ok(number)))
            }
            Number::Text(text) => {
                let template =
                    Template::parse(text, known).map_err(|problem| Problem::at(count, problem))?;
                let text = text.clone();
                Ok(Box::new(move |scope| {
                    let rendered = template.render(scope)?;
                    rendered.parse().map_err(|_| {
                        ItemError::fatal(format!("use `{text}` as a count: it is no number"))
                    })
                }))
            }
        }
    }

    fn writer(&self, writer: &Spanned<Writer>, known: &Known<'_>) -> Built<Make<AnyWriter>> {
        let Writer { kind, path, columns, field, .. } = writer.get_ref();
        keys_of_writer(writer.get_ref())?;
        let columns: Option<Vec<String>> = columns
            .as_ref()
            .map(|columns| columns.iter().map(|column| column.get_ref().clone()).collect());
        match kind.get_ref().as_str() {
            "none" => Ok(Box::new(|_| Ok(AnyWriter::None))),
            "csv" => {
                let path = self.output_path(wanted_in(path, "path", writer)?, known)?;
                let format = csv::output(writer.get_ref(), columns.as_deref(), writer)?;
                let columns = columns.map(|columns| names(&columns));
                Ok(Box::new(move |scope| {
                    let encode = RecordCsv { format: format.clone(), columns: columns.clone() };
                    Ok(AnyWriter::Csv(FileWriter::encoding(path(scope)?, encode)))
                }))
            }
            "jsonl" | "file" => {
                let path = self.output_path(wanted_in(path, "path", writer)?, known)?;
                Ok(Box::new(move |scope| {
                    Ok(AnyWriter::JsonLines(JsonLinesWriter::new(path(scope)?)))
                }))
            }
            "lines" => {
                let path = self.output_path(wanted_in(path, "path", writer)?, known)?;
                let field = wanted_in(field, "field", writer)?.get_ref().clone();
                Ok(Box::new(move |scope| {
                    let encode = RecordLines { field: field.as_str().into() };
                    Ok(AnyWriter::Lines(FileWriter::encoding(path(scope)?, encode)))
                }))
            }
            "sql" => self.sql_writer(writer, columns, known),
            _ => unreachable!("checked by `keys_of_writer`"),
        }
    }

    fn sql_writer(
        &self,
        writer: &Spanned<Writer>,
        columns: Option<Vec<String>>,
        known: &Known<'_>,
    ) -> Built<Make<AnyWriter>> {
        let Writer { kind, url, table, mode, key, statement, .. } = writer.get_ref();
        let (database, own) = match url {
            Some(url) => (self.database(url, known)?, false),
            None => (constant(self.own_database(kind)?), true),
        };
        let key: Vec<String> = key.iter().flatten().map(|name| name.get_ref().clone()).collect();
        let word = mode.as_ref().map_or("insert", |mode| mode.get_ref().as_str());
        let mut rendered = None;
        let mode = match word {
            "insert" => SqlMode::Insert,
            "upsert" => SqlMode::Upsert { key },
            "update" => SqlMode::Update { key },
            "statement" => {
                let text = wanted_in(statement, "statement", writer)?;
                rendered = Some(self.template(text, known)?);
                SqlMode::Statement(String::new())
            }
            other => {
                let message = format!(
                    "there is no mode `{other}`; there are: insert, upsert, update, statement"
                );
                return Err(Problem::at(mode.as_ref().unwrap_or(kind), message));
            }
        };
        if matches!(&mode, SqlMode::Upsert { key } | SqlMode::Update { key } if key.is_empty()) {
            return Err(Problem::at(writer, format!("mode `{word}` needs `key = [\"…\"]`")));
        }
        let table = match (table, &mode) {
            (Some(table), _) => Some(self.template(table, known)?),
            (None, SqlMode::Statement(_)) => None,
            (None, _) => return Err(missing("table", writer)),
        };
        Ok(Box::new(move |scope| {
            let table = table.as_ref().map(|table| table.render(scope)).transpose()?;
            let table = table.unwrap_or_default();
            let mode = match &rendered {
                Some(statement) => SqlMode::Statement(statement.render(scope)?),
                None => mode.clone(),
            };
            let columns = columns.clone();
            let writer = RecordSqlWriter::new(&database(scope)?, own, table, mode, columns)?;
            Ok(AnyWriter::Sql(Box::new(writer)))
        }))
    }

    /// The database of a `url`; the path of a SQLite file is relative to the job file.
    fn database(&self, url: &Text, known: &Known<'_>) -> Built<Make<Database>> {
        let template = self.template(url, known)?;
        if !url.get_ref().contains("${") {
            // A URL without placeholders is checked now.
            StoreOptions::parse(url.get_ref()).map_err(|problem| Problem::at(url, problem))?;
        }
        let (folder, inside_only) = (self.folder.clone(), self.context.inside_only);
        Ok(Box::new(move |scope| {
            let (database, _) =
                StoreOptions::parse(&template.render(scope)?).map_err(ItemError::fatal)?;
            let is_inside =
                matches!(&database, Database::Sqlite(file) if file.path().is_relative());
            if inside_only && !is_inside {
                return Err(outside(&database));
            }
            Ok(database.in_folder(&folder))
        }))
    }

    fn own_database(&self, at: &Text) -> Built<Database> {
        self.context.database.clone().ok_or_else(|| {
            Problem::at(at, "the `memory:` store has no tables; name a database with `url`")
        })
    }
}

fn outside(what: &dyn std::fmt::Display) -> ItemError {
    ItemError::fatal(format!(
        "use `{what}`: it is outside the job's folder; --allow-outside permits it in a rehearsal"
    ))
}

fn bounded(value: Option<&Spanned<usize>>, key: &str, min: usize, max: usize) -> Built<()> {
    match value.filter(|value| !(min..=max).contains(value.get_ref())) {
        None => Ok(()),
        Some(value) => Err(Problem::at(value, format!("`{key}` is between {min} and {max}"))),
    }
}

fn constant(database: Database) -> Make<Database> {
    Box::new(move |_| Ok(database.clone()))
}

fn as_json(record: &Record) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

fn names(columns: &[String]) -> Names {
    columns.iter().map(|name| Arc::from(name.as_str())).collect::<Vec<_>>().into()
}

fn record(table: &toml::Table) -> Result<Record, String> {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (name, value) in table {
        let json = serde_json::to_value(value).map_err(|error| error.to_string())?;
        names.push(Arc::from(name.as_str()));
        values.push(Value::from(json));
    }
    Ok(Record::new(names.into(), values))
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
    next: &BTreeMap<String, Spanned<Next>>,
    schema: &ParameterSchema,
) -> Built<Vec<(ParameterDeclaration, Change)>> {
    use batchwright::ParameterType::{Date, Integer};
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

fn options(step: &Step) -> StepOptions {
    StepOptions {
        start_limit: step.start_limit.as_ref().map(|limit| *limit.get_ref()),
        allow_start_if_complete: step.allow_start_if_complete,
        listeners: match &step.promote[..] {
            [] => Vec::new(),
            keys => vec![Arc::new(Promotion::of(keys.iter().map(|key| key.get_ref().clone())))],
        },
    }
}

fn span(text: &Text) -> Built<Duration> {
    parse_duration(text.get_ref()).map_err(|problem| Problem::at(text, problem))
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

fn completion(chunk: Option<&Spanned<Chunk>>) -> Built<Completion> {
    let Some(spanned) = chunk else { return Ok(Completion::default()) };
    let (items, seconds) = match spanned.get_ref() {
        Chunk::Items(items) => (Some(*items), None),
        Chunk::Bounds(ChunkBounds { items, seconds }) => (*items, *seconds),
    };
    let items = items.unwrap_or(Completion::ITEMS_DEFAULT as u64);
    let items = usize::try_from(items).ok().filter(|items| (1..=10_000_000).contains(items));
    let items =
        items.ok_or_else(|| Problem::at(spanned, "a chunk has between 1 and 10000000 items"))?;
    let completion = Completion::items(items);
    match seconds {
        None => Ok(completion),
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| !time.is_zero())
            .map(|time| completion.within(time))
            .ok_or_else(|| Problem::at(spanned, "the seconds of a chunk must be above zero")),
    }
}

fn skip_policy(skip: &Spanned<Skip>) -> Built<SkipPolicy> {
    let Skip { limit, on, scope, .. } = skip.get_ref();
    let mut policy = SkipPolicy::limit(*limit);
    let words = on.as_deref().unwrap_or_default();
    let phase = |word: &str| {
        [Phase::Read, Phase::Process, Phase::Write].into_iter().find(|phase| phase.name() == word)
    };
    let phases: Vec<_> = words.iter().filter_map(|word| phase(word.get_ref())).collect();
    let kinds: Vec<_> = words.iter().filter(|word| phase(word.get_ref()).is_none()).collect();
    if !phases.is_empty() {
        policy = policy.in_phases(phases);
    }
    if !kinds.is_empty() {
        policy = policy.on(classifier(&kinds, Classifier::records())?);
    }
    match scope.as_ref().map(|scope| (scope, scope.get_ref().as_str())) {
        None | Some((_, "execution")) => Ok(policy),
        Some((_, "instance")) => Ok(policy.scope(SkipLimitScope::Instance)),
        Some((scope, other)) => Err(Problem::at(
            scope,
            format!("there is no scope `{other}`; there are: execution, instance"),
        )),
    }
}

/// Returns the classifier of the kinds in `words`; `!kind` excludes a kind from `otherwise`.
fn classifier(words: &[&Text], otherwise: Classifier) -> Built<Classifier> {
    let included = words.iter().any(|word| !word.get_ref().starts_with('!'));
    let start = if included { Classifier::none() } else { otherwise };
    words.iter().try_fold(start, |classifier, word| {
        let text = word.get_ref();
        let (excluded, kind) = match text.strip_prefix('!') {
            Some(kind) => (true, kind),
            None => (false, text.as_str()),
        };
        // User code may have further kinds, but all kinds of job files begin with one of these roots.
        let roots = ["data", "io", "sql", "panic", "fatal", "other"];
        if !roots.contains(&kind.split('.').next().unwrap_or_default()) {
            let known = format!("read, process, write, {}", roots.join(", "));
            return Err(Problem::at(
                word,
                format!("there is no phase or kind `{kind}`; there are: {known}"),
            ));
        }
        Ok(match excluded {
            true => classifier.excluding(kind),
            false => classifier.including(kind),
        })
    })
}

fn retry_policy(retry: &Spanned<Retry>) -> Built<RetryPolicy> {
    let Retry { max_attempts, on, backoff, within, or } = retry.get_ref();
    let mut policy = RetryPolicy::attempts(*max_attempts);
    if let Some(words) = on {
        policy = policy.on(classifier(&words.iter().collect::<Vec<_>>(), Classifier::all())?);
    }
    if let Some(within) = within {
        policy = policy.within(span(within)?);
    }
    if let Some(backoff) = backoff {
        policy = policy.backoff(wait_between(backoff)?);
    }
    or.iter().try_fold(policy, |policy, other| Ok(policy.or(retry_policy(other)?)))
}

fn wait_between(backoff: &Spanned<definition::Backoff>) -> Built<Backoff> {
    let definition::Backoff { initial, multiplier, min, max, jitter } = backoff.get_ref();
    let (initial, max) = match (initial, min, max) {
        (Some(initial), None, max) => (span(initial)?, max.as_ref().map(span).transpose()?),
        (None, Some(min), Some(max)) if multiplier.is_none() && !jitter => {
            let (min, max) = (span(min)?, span(max)?);
            if min > max {
                return Err(Problem::at(backoff, "`min` is above `max`"));
            }
            return Ok(Backoff::Uniform { min, max });
        }
        _ => {
            let message =
                "write `initial` (with `multiplier`, `max`, `jitter`), or `min` and `max`";
            return Err(Problem::at(backoff, message));
        }
    };
    let multiplier = multiplier.unwrap_or(1.0);
    if !(1.0..=1_000.0).contains(&multiplier) {
        return Err(Problem::at(backoff, "a multiplier is between 1 and 1000"));
    }
    let endless = if multiplier > 1.0 { Duration::from_secs(3600) } else { initial };
    let max = max.unwrap_or(endless);
    Ok(Backoff::Exponential { initial, multiplier, max, jitter: *jitter })
}

fn stage(processor: &Spanned<Processor>, schema: &ParameterSchema) -> Built<Stage> {
    let Processor { kind, when, message, set, keep, drop } = processor.get_ref();
    let compile = |text: &Text| {
        Expression::compile(text.get_ref(), schema).map_err(|problem| Problem::at(text, problem))
    };
    let condition = || compile(wanted_in(when, "when", processor)?);
    let has_map = !set.is_empty() || keep.is_some() || !drop.is_empty();
    let only = |allowed: &str, wrong: bool| match wrong {
        true => Err(Problem::at(
            processor,
            format!("a processor of type `{}` takes only {allowed}", kind.get_ref()),
        )),
        false => Ok(()),
    };
    match kind.get_ref().as_str() {
        "filter" => {
            only("`when`", has_map || message.is_some())?;
            condition().map(Stage::Filter)
        }
        "reject" => {
            only("`when` and `message`", has_map)?;
            let default = || when.as_ref().map_or("", |when| when.get_ref().as_str());
            let text = message.as_ref().map_or_else(default, |text| text.get_ref().as_str());
            Ok(Stage::Reject { when: condition()?, message: text.into() })
        }
        "map" => {
            only("`set`, `keep` and `drop`", when.is_some() || message.is_some())?;
            if keep.is_some() && !drop.is_empty() {
                return Err(Problem::at(processor, "`keep` and `drop` exclude each other"));
            }
            let set = set
                .iter()
                .map(|(name, text)| Ok((Arc::from(name.as_str()), compile(text)?)))
                .collect::<Built<_>>()?;
            let keep = keep.as_ref().map(|keep| {
                let keep: Vec<_> = keep.iter().map(|name| name.get_ref().clone()).collect();
                names(&keep)
            });
            let drop = drop.iter().map(|name| Arc::from(name.get_ref().as_str())).collect();
            Ok(Stage::Map { set, keep, drop })
        }
        other => Err(Problem::at(
            kind,
            format!("there is no processor of type `{other}`; there are: filter, map, reject"),
        )),
    }
}

/// Whether a restart continues although the input file has changed (`if_changed`).
fn may_change(text: Option<&Text>) -> Built<bool> {
    match text.map(|text| (text, text.get_ref().as_str())) {
        None | Some((_, "refuse")) => Ok(false),
        Some((_, "continue")) => Ok(true),
        Some((text, other)) => Err(Problem::at(
            text,
            format!("there is no policy `{other}`; there are: refuse, continue"),
        )),
    }
}

fn missing<T>(key: &str, of: &Spanned<T>) -> Problem {
    Problem::at(of, format!("key `{key}` is missing"))
}

fn wanted<'a, T>(value: &'a Option<T>, key: &str, of: &Text) -> Built<&'a T> {
    value.as_ref().ok_or_else(|| Problem::at(of, format!("step `{}` needs `{key}`", of.get_ref())))
}

fn wanted_in<'a, T, S>(value: &'a Option<T>, key: &str, of: &Spanned<S>) -> Built<&'a T> {
    value.as_ref().ok_or_else(|| missing(key, of))
}
