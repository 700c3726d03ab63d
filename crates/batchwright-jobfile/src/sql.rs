//! The kind `sql`: reads records from queries, writes them to tables by the names of their fields, and runs statements.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;
use batchwright::step::Tasklet;
use batchwright_items::{
    At, BoxedWriter, BuildContext, Example, ItemKind, Keys, KindSchema, Make, MakeReader, Names,
    Problem, Reads, Record, Template, Text, Texts, Value, first_duplicate,
};
use batchwright_store::{
    Database, NamedStatement, RowBinder, SqlMode, SqlReader, SqlRow, SqlTasklet, SqlValue,
    SqlWriter, StoreOptions,
};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Deserialize;

/// The problem of a part without `url` when the store is not a database.
pub(super) const NO_TABLES: &str = "the `memory:` store has no tables; name a database with `url`";

/// The kind `sql`: the type of readers, writers and steps that use a database.
pub(super) struct SqlKind {
    /// The database of the store, if it is one.
    pub(super) own: Option<Database>,
}

/// Reads the rows of a query: records with the names of its columns.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderKeys {
    /// The database. Default: that of the store.
    url: Option<Text>,
    /// The query.
    query: Text,
    /// Values of the query's parameters, in their order.
    #[serde(default)]
    params: Vec<Text>,
    /// The unique columns that the rows are ordered by, so that a restart continues after the last row.
    key: Option<At<Texts>>,
}

/// Writes the fields of each record to the columns of their names.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriterKeys {
    /// The database. Default: that of the store.
    url: Option<Text>,
    /// The table.
    table: Option<Text>,
    /// What is done with each record. Default: `insert`.
    mode: Option<At<Mode>>,
    /// The columns that identify a row, for `upsert` and `update`.
    #[serde(default)]
    key: Vec<String>,
    /// The columns that are written. Default: the fields of the first record.
    columns: Option<Vec<String>>,
    /// The statement of mode `statement`, with `:field` for the value of a field.
    statement: Option<Text>,
}

/// What a writer does with each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Mode {
    Insert,
    Upsert,
    Update,
    Statement,
}

/// Runs statements in one transaction.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StepKeys {
    /// The statements.
    sql: Text,
    /// The database. Default: that of the store.
    url: Option<Text>,
}

impl SqlKind {
    fn own(&self, keys: Keys<'_>) -> Result<Database, Problem> {
        self.own.clone().ok_or_else(|| keys.problem(NO_TABLES))
    }

    /// Returns the database of `url`, or the store's own.
    fn database(
        &self,
        url: Option<&Text>,
        keys: Keys<'_>,
        cx: &BuildContext<'_>,
    ) -> Result<Make<Database>, Problem> {
        match url {
            Some(url) => database(url, cx),
            None => {
                let own = self.own(keys)?;
                Ok(Box::new(move |_| Ok(own.clone())))
            }
        }
    }
}

/// Returns the database of `url`; the path of a SQLite file is relative to the job file.
pub(super) fn database(url: &Text, cx: &BuildContext<'_>) -> Result<Make<Database>, Problem> {
    let template = cx.template(url)?;
    if !url.get_ref().contains("${") {
        // A complete URL is checked when the job is built.
        StoreOptions::parse(url.get_ref()).map_err(|problem| Problem::at(url, problem))?;
    }
    let (folder, inside_only) = (cx.folder.to_owned(), cx.inside_only);
    Ok(Box::new(move |scope| {
        let (database, _) =
            StoreOptions::parse(&template.render(scope)?).map_err(ItemError::fatal)?;
        let is_inside = matches!(&database, Database::Sqlite(file) if file.path().is_relative());
        if inside_only && !is_inside {
            return Err(BuildContext::outside(&database));
        }
        Ok(database.in_folder(&folder))
    }))
}

impl ItemKind for SqlKind {
    fn name(&self) -> &'static str {
        "sql"
    }

    fn schema(&self) -> KindSchema {
        let schema = KindSchema::default()
            .reader::<ReaderKeys>()
            .reader_restarts(
                "Exact with `key`: after the last key. Otherwise as many rows are passed over as were committed, so the query must return the same rows in the same order.",
            )
            .writer::<WriterKeys>()
            .writer_restarts(
                "Exact: rows and checkpoint are committed together; another database gets a copy of the checkpoint, and a restart completes a commit that the store does not have.",
            );
        let schema = schema.tasklet::<StepKeys>().step_restarts(
            "Exact in the store's own database: the statements are committed with the step. In another database a crash just after their commit runs them again.",
        );
        schema.example(Example {
            reader: "query = \"SELECT id, name FROM person\"\nkey = \"id\"",
            writer: "table = \"copy\"",
            sql: "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT); CREATE TABLE copy (id INTEGER, name TEXT); \
                  INSERT INTO person VALUES (1, 'Ada'), (2, 'Grace'), (3, 'Edsger')",
            ..Example::default()
        })
    }

    fn reader(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let ReaderKeys { url, query, params, key } = keys.parse()?;
        let (database, query) = (self.database(url.as_ref(), keys, cx)?, cx.template(&query)?);
        let params: Vec<Template> =
            params.iter().map(|text| cx.template(text)).collect::<Result<_, _>>()?;
        if let Some(key) = key.as_ref().filter(|key| key.get_ref().all().is_empty()) {
            return Err(Problem::at(key, "`key` names at least one column"));
        }
        let key = key.map(|key| key.get_ref().all());
        Ok(MakeReader::new(move |scope| {
            let mut sql = rows(database(scope)?, query.render(scope)?);
            if let Some(key) = &key {
                sql = sql.keyset(key.clone());
            }
            let values: Result<Vec<String>, _> =
                params.iter().map(|text| text.render(scope)).collect();
            Ok(Reads::with_fields(sql.params(values?), fields))
        }))
    }

    fn writer(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Make<BoxedWriter>, Problem> {
        let WriterKeys { url, table, mode, key, columns, statement } = keys.parse()?;
        let (database, own) = (self.database(url.as_ref(), keys, cx)?, url.is_none());
        let word = mode.as_ref().map_or(Mode::Insert, |mode| *mode.get_ref());
        if matches!(word, Mode::Upsert | Mode::Update) && key.is_empty() {
            let word = if word == Mode::Upsert { "upsert" } else { "update" };
            return Err(keys.problem(format!("mode `{word}` needs `key = [\"…\"]`")));
        }
        let statement = match (word, &statement) {
            (Mode::Statement, Some(text)) => Some(cx.template(text)?),
            (Mode::Statement, None) => return Err(keys.problem("key `statement` is missing")),
            _ => None,
        };
        let table = match &table {
            Some(table) => Some(cx.template(table)?),
            None if word == Mode::Statement => None,
            None => return Err(keys.problem("key `table` is missing")),
        };
        Ok(Box::new(move |scope| {
            let table = table.as_ref().map(|table| table.render(scope)).transpose()?;
            let (table, key) = (table.unwrap_or_default(), key.clone());
            let mode = match (word, &statement) {
                (Mode::Upsert, _) => SqlMode::Upsert { key },
                (Mode::Update, _) => SqlMode::Update { key },
                (Mode::Statement, Some(statement)) => SqlMode::Statement(statement.render(scope)?),
                _ => SqlMode::Insert,
            };
            let columns = columns.clone();
            let writer = RecordSqlWriter::new(&database(scope)?, own, table, mode, columns)?;
            Ok(BoxedWriter::new(writer))
        }))
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let StepKeys { sql, url } = keys.parse()?;
        let text = cx.template(&sql)?;
        let render = move |scope: &StepScope| text.render(scope);
        Ok(Box::new(match &url {
            Some(url) => SqlTasklet::in_database(database(url, cx)?, render),
            None => {
                self.own(keys)?;
                SqlTasklet::in_store(render)
            }
        }))
    }
}

/// Returns the columns of the open query; fails if two of them have the same name.
fn fields(sql: &SqlReader<Record>) -> Result<Option<Vec<String>>, ItemError> {
    let columns = sql.columns().unwrap_or_default();
    match first_duplicate(columns) {
        Some(name) => Err(ItemError::fatal(format!(
            "cannot read the query: two of its columns are called `{name}`; give one another name with AS"
        ))),
        None => Ok(Some(columns.to_vec())),
    }
}

/// Returns a reader of the rows of `query` as records with the names of its columns.
fn rows(database: Database, query: String) -> SqlReader<Record> {
    let names: OnceLock<Names> = OnceLock::new();
    SqlReader::new(database, query, move |row| {
        let names =
            names.get_or_init(|| row.names().into_iter().map(Arc::from).collect::<Vec<_>>().into());
        let values: Result<Vec<_>, _> = (0..names.len()).map(|index| value(row, index)).collect();
        Ok(Record::new(Arc::clone(names), values?))
    })
}

fn value(row: &SqlRow<'_>, index: usize) -> Result<Value, ItemError> {
    Ok(match row.value(index)? {
        SqlValue::Null => Value::Null,
        SqlValue::Boolean(value) => Value::Boolean(value),
        SqlValue::Integer(value) => Value::Integer(value),
        SqlValue::Float(value) => Value::Float(value),
        SqlValue::Unsigned(value) => Value::text(&value.to_string()),
        SqlValue::Timestamp(at) => Value::text(&at.to_string()),
        SqlValue::Text(text) => Value::text(&text),
        SqlValue::Bytes(bytes) => Value::Bytes(bytes.into()),
    })
}

/// Returns `value` as a parameter of a statement.
///
/// SQLite has no exact decimals: a number that it can store exactly is bound as a number. Every other number,
/// and every decimal for a server, is bound as its text, so that no digit is lost.
fn bound<'a>(value: &'a Value, dialect: &Kind) -> SqlValue<'a> {
    let number = |text: String| match (dialect, text.parse::<i64>(), text.parse::<f64>()) {
        (_, Ok(number), _) => SqlValue::Integer(number),
        (Kind::Sqlite(_), _, Ok(number)) if keeps(number, &text) => SqlValue::Float(number),
        _ => text.into(),
    };
    match value {
        Value::Null => SqlValue::Null,
        Value::Boolean(value) => SqlValue::Boolean(*value),
        Value::Integer(value) => SqlValue::Integer(*value),
        Value::Decimal(value) => number(value.to_string()),
        Value::Float(value) => SqlValue::Float(*value),
        Value::Text(text) | Value::Field(text) => (&**text).into(),
        Value::Number(json) => number(json.get().to_owned()),
        Value::Json(json) => json.get().into(),
        Value::Bytes(bytes) => SqlValue::Bytes((&**bytes).into()),
        other => other.to_string().into(),
    }
}

/// Returns whether `number` equals the number in `text` exactly, apart from zeros at the end of its fraction.
fn keeps(number: f64, text: &str) -> bool {
    let exact = |text: &str| text.parse::<Decimal>().map(|number| number.normalize()).ok();
    match (exact(&format!("{number:?}")), exact(text)) {
        (Some(one), Some(two)) => one == two,
        // A number with an exponent was a float before.
        _ => text.contains(['e', 'E']),
    }
}

/// The kind of a table's database: SQLite, with the numeric columns of the table, or a server.
#[derive(Debug, Clone)]
enum Kind {
    Sqlite(Arc<BTreeMap<String, bool>>),
    Server,
}

impl Kind {
    /// Refuses a text that is not a number in a numeric column, as every server does; SQLite would store it
    /// silently.
    fn check(&self, name: &str, value: &SqlValue<'_>) -> Result<(), ItemError> {
        let Self::Sqlite(numeric) = self else { return Ok(()) };
        let (Some(whole), SqlValue::Text(text)) = (numeric.get(name), value) else { return Ok(()) };
        let fits = match whole {
            true => text.trim().parse::<i64>().is_ok(),
            false => text.trim().parse::<f64>().is_ok(),
        };
        match fits {
            true => Ok(()),
            false => {
                let required = if *whole { "an integer" } else { "a number" };
                let hint = if text.is_empty() {
                    "; `null = \"\"` on the reader makes empty fields null"
                } else {
                    ""
                };
                Err(ItemError::data(format!(
                    "cannot write column `{name}`: `{text}` is not {required}, which its type requires{hint}"
                )))
            }
        }
    }
}

/// Writes the fields of records to the columns of their names.
#[derive(Clone)]
struct RecordSqlWriter {
    inner: SqlWriter<Record>,
    table: String,
    /// All columns of the table; other fields of a record are an error.
    known: Vec<String>,
    /// The columns that are written; `None` until the first record chooses them.
    columns: Arc<Mutex<Option<Names>>>,
    /// Whether the first record chose the columns, so that later records may not have further fields.
    chosen_by_record: bool,
}

impl RecordSqlWriter {
    /// Creates a writer to `table` of `database`, which is the store's own database if `own` is true.
    fn new(
        database: &Database,
        own: bool,
        table: String,
        mode: SqlMode,
        columns: Option<Vec<String>>,
    ) -> Result<Self, ItemError> {
        let (mode, known, columns) = match mode {
            SqlMode::Statement(sql) => {
                let NamedStatement { text, names } = NamedStatement::parse(&sql, database);
                if names.is_empty() {
                    let message = "cannot bind the statement: write its parameters as `:field`";
                    return Err(ItemError::fatal(message));
                }
                (SqlMode::Statement(text), names.clone(), Some(names))
            }
            mode => (mode, table_columns(database, &table)?, columns),
        };
        if let Some(unknown) = columns.iter().flatten().find(|name| !known.contains(name)) {
            return Err(no_column(unknown, &table, &known));
        }
        let kind = match database {
            Database::Sqlite(_) => Kind::Sqlite(Arc::new(numeric_columns(database, &table)?)),
            _ => Kind::Server,
        };
        let chosen: Arc<Mutex<Option<Names>>> = Arc::default();
        let bound_columns = Arc::clone(&chosen);
        let bind = move |record: &Record, row: &mut RowBinder<'_, '_>| {
            let columns = bound_columns.lock().unwrap_or_else(PoisonError::into_inner);
            let columns = columns.as_deref().unwrap_or_default();
            columns.iter().try_for_each(|name| {
                let value = bound(record.required("write column", name)?, &kind);
                kind.check(name, &value)?;
                row.bind(value)
            })
        };
        // Until the first record chooses the columns, the mode is checked with all columns of the table.
        let inner = match own {
            true => SqlWriter::in_store(&table, known.clone(), bind),
            false => SqlWriter::in_database(database.clone(), &table, known.clone(), bind),
        };
        let inner = inner.mode(mode)?;
        let mut writer = Self { inner, table, known, columns: chosen, chosen_by_record: false };
        if let Some(columns) = columns {
            writer.choose(&columns)?;
        }
        Ok(writer)
    }

    fn choose(&mut self, columns: &[String]) -> Result<(), ItemError> {
        self.inner.set_columns(columns)?;
        let names: Vec<Arc<str>> = columns.iter().map(|name| Arc::from(name.as_str())).collect();
        *self.columns.lock().unwrap_or_else(PoisonError::into_inner) = Some(names.into());
        Ok(())
    }

    /// Chooses the fields of the first record as columns; the table must have all of them.
    fn choose_by(&mut self, first: &Record) -> Result<(), ItemError> {
        if self.columns.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let columns: Vec<String> = first.names().iter().map(ToString::to_string).collect();
        match columns.iter().find(|name| !self.known.contains(name)) {
            Some(unknown) => Err(no_column(unknown, &self.table, &self.known)),
            None => {
                self.chosen_by_record = true;
                self.choose(&columns)
            }
        }
    }

    /// Refuses a field that the first record does not have, because it would be lost silently.
    fn refuse_more_fields(&self, items: &[Record]) -> Result<(), ItemError> {
        let columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        let columns = columns.as_deref().unwrap_or_default();
        let more = |name: &&Arc<str>| !columns.contains(name);
        match items.iter().find_map(|item| item.names().iter().find(more)) {
            Some(name) => Err(ItemError::data(format!(
                "cannot write field `{name}`: it is no column, because the first record does not have it; \
                 name the `columns` to write"
            ))),
            None => Ok(()),
        }
    }
}

fn no_column(name: &str, table: &str, known: &[String]) -> ItemError {
    ItemError::fatal(format!(
        "cannot write field `{name}`: table `{table}` has no such column; it has {}. Drop the field in a `map`, or \
         name the `columns` to write",
        known.join(", ")
    ))
}

/// Returns the numeric columns of a SQLite table, and whether they hold integers. Other columns, such as
/// dates and booleans, accept any text.
fn numeric_columns(database: &Database, table: &str) -> Result<BTreeMap<String, bool>, ItemError> {
    let quoted = table.replace('\'', "''");
    let rows = database.query(&format!("SELECT name, type FROM pragma_table_info('{quoted}')"));
    let failed =
        |error| ItemError::wrap(ErrorKind::new("sql"), "cannot read the table's columns", error);
    let mut numeric = BTreeMap::new();
    for row in rows.map_err(failed)? {
        let [SqlValue::Text(name), SqlValue::Text(kind)] = &row[..] else { continue };
        // SQLite derives the affinity of a column in the same way:
        // https://sqlite.org/datatype3.html#determination_of_column_affinity
        let kind = kind.to_ascii_uppercase();
        if kind.contains("INT") {
            numeric.insert(name.to_string(), true);
        } else if ["REAL", "FLOA", "DOUB"].iter().any(|one| kind.contains(one))
            && !["CHAR", "CLOB", "TEXT", "BLOB"].iter().any(|one| kind.contains(one))
        {
            numeric.insert(name.to_string(), false);
        }
    }
    Ok(numeric)
}

fn table_columns(database: &Database, table: &str) -> Result<Vec<String>, ItemError> {
    let columns = database.columns_of(table)?;
    if columns.is_empty() {
        return Err(ItemError::new(
            ErrorKind::new("sql.no_table"),
            format!(
                "cannot write to table `{table}`: it does not exist; a `sql` step can create it"
            ),
        ));
    }
    Ok(columns)
}

impl ItemWriter<Record> for RecordSqlWriter {
    type Position = ();

    fn open(
        &mut self,
        position: Option<()>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.inner.open(position, scope)
    }

    fn write(
        &mut self,
        items: &[Record],
        chunk: &mut ChunkTransaction<'_>,
    ) -> Result<(), ItemError> {
        if let Some(first) = items.first() {
            self.choose_by(first)?;
        }
        if self.chosen_by_record {
            self.refuse_more_fields(items)?;
        }
        self.inner.write(items, chunk)
    }

    fn position(&mut self) -> Result<(), ItemError> {
        self.inner.position()
    }

    fn chunk_items(&self) -> usize {
        self.inner.chunk_items()
    }

    fn prepares(&self) -> bool {
        self.inner.prepares()
    }

    fn prepare(&mut self, commit: &PreparedCommit) -> Result<(), ItemError> {
        self.inner.prepare(commit)
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.inner.rolled_back()
    }

    fn close(&mut self, ending: Ending) -> Result<(), ItemError> {
        self.inner.close(ending)
    }
}
