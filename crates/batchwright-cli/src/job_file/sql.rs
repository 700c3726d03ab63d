//! Records into and out of SQL tables, by the names of their fields.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use batchwright::{
    ChunkTransaction, Ending, ErrorKind, ItemError, ItemWriter, PreparedCommit, StepScope,
};
use batchwright_store::rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use batchwright_store::rusqlite::{self, Row};
use batchwright_store::{RowBinder, SqlMode, SqlReader, SqlWriter, SqliteDatabase};

use super::record::{Names, Record, Value};

/// The rows of `query` as records with the names of its columns.
pub(super) fn reader(database: SqliteDatabase, query: String) -> SqlReader<Record> {
    let names: OnceLock<Names> = OnceLock::new();
    SqlReader::new(database, query, move |row| {
        let names = names
            .get_or_init(|| row.as_ref().column_names().map(Arc::from).collect::<Vec<_>>().into());
        let values: Result<Vec<_>, _> = (0..names.len()).map(|index| value(row, index)).collect();
        Ok(Record::new(Arc::clone(names), values?))
    })
}

fn value(row: &Row<'_>, index: usize) -> Result<Value, ItemError> {
    Ok(match row.get_ref(index)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Float(value),
        ValueRef::Text(bytes) => Value::text(std::str::from_utf8(bytes)?),
        ValueRef::Blob(_) => {
            let name = row.as_ref().column_name(index)?.to_owned();
            return Err(ItemError::data(format!("read column `{name}`: it holds a blob")));
        }
    })
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(SqlValue::Null),
            Self::Boolean(value) => ToSqlOutput::Owned(SqlValue::Integer(i64::from(*value))),
            Self::Integer(value) => ToSqlOutput::Owned(SqlValue::Integer(*value)),
            Self::Float(value) => ToSqlOutput::Owned(SqlValue::Real(*value)),
            Self::Text(text) | Self::Field(text) => {
                ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes()))
            }
            Self::Json(json) => ToSqlOutput::Owned(SqlValue::Text(json.to_string())),
        })
    }
}

/// Writes the fields of records to the columns of their names.
#[derive(Clone)]
pub(super) struct RecordSqlWriter {
    inner: SqlWriter<Record>,
    table: String,
    mode: SqlMode,
    /// Columns of the table; what else a record has is an error.
    known: Vec<String>,
    /// The columns that are written; those of the first record until they are known.
    columns: Arc<Mutex<Option<Names>>>,
    /// Whether the first record chose the columns: then the others may have no more.
    chosen_by_record: bool,
}

impl RecordSqlWriter {
    /// Into `table` of `database`, which is the store's own when `own`.
    pub(super) fn new(
        database: &SqliteDatabase,
        own: bool,
        table: String,
        mode: SqlMode,
        columns: Option<Vec<String>>,
    ) -> Result<Self, ItemError> {
        let connection = database.connect()?;
        let (known, columns) = match &mode {
            SqlMode::Statement(sql) => {
                let bound = statement_columns(&connection, sql)?;
                (bound.clone(), Some(bound))
            }
            _ => (table_columns(&connection, &table)?, columns),
        };
        if let Some(unknown) = columns.iter().flatten().find(|name| !known.contains(name)) {
            return Err(no_column(unknown, &table, &known));
        }
        let chosen: Arc<Mutex<Option<Names>>> = Arc::default();
        let bound = Arc::clone(&chosen);
        let bind = move |record: &Record, row: &mut RowBinder<'_, '_>| {
            let columns = bound.lock().unwrap_or_else(PoisonError::into_inner);
            let columns = columns.as_deref().unwrap_or_default();
            columns.iter().try_for_each(|name| match record.get(name) {
                Some(value) => row.bind(value),
                None => Err(rusqlite::Error::InvalidColumnName(name.to_string())),
            })
        };
        let none: [String; 0] = [];
        let inner = match own {
            true => SqlWriter::in_store(&table, none, bind),
            false => SqlWriter::in_database(database.clone(), &table, none, bind),
        };
        let mut writer =
            Self { inner, table, mode, known, columns: chosen, chosen_by_record: false };
        if let Some(columns) = columns {
            writer.choose(&columns)?;
        }
        Ok(writer)
    }

    fn choose(&mut self, columns: &[String]) -> Result<(), ItemError> {
        self.inner.set_mode(&self.table, columns, &self.mode)?;
        let names: Vec<Arc<str>> = columns.iter().map(|name| Arc::from(name.as_str())).collect();
        *self.columns.lock().unwrap_or_else(PoisonError::into_inner) = Some(names.into());
        Ok(())
    }

    /// The columns are those of the first record, all of which the table must have.
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

    /// A field that only a later record has would be lost without a word.
    fn refuse_more_fields(&self, items: &[Record]) -> Result<(), ItemError> {
        let columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        let columns = columns.as_deref().unwrap_or_default();
        let more = |name: &&Arc<str>| !columns.contains(name);
        match items.iter().find_map(|item| item.names().iter().find(more)) {
            Some(name) => Err(ItemError::data(format!(
                "write field `{name}`: the first record has none, so that it is not among the columns; \
                 name the `columns` to write"
            ))),
            None => Ok(()),
        }
    }
}

fn no_column(name: &str, table: &str, known: &[String]) -> ItemError {
    ItemError::fatal(format!(
        "write field `{name}`: table `{table}` has no such column; it has {}. Drop the field in a `map`, or \
         name the `columns` to write",
        known.join(", ")
    ))
}

fn table_columns(connection: &rusqlite::Connection, table: &str) -> Result<Vec<String>, ItemError> {
    let mut rows = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let columns: Vec<String> =
        rows.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    if columns.is_empty() {
        return Err(ItemError::new(
            ErrorKind::new("sql.no_table"),
            format!(
                "write to table `{table}`: there is none of that name; a `sql` step can make it"
            ),
        ));
    }
    Ok(columns)
}

/// The names of `:name` parameters, in their order.
fn statement_columns(
    connection: &rusqlite::Connection,
    sql: &str,
) -> Result<Vec<String>, ItemError> {
    let statement = connection.prepare(sql)?;
    (1..=statement.parameter_count())
        .map(|index| {
            let name = statement.parameter_name(index).map(|name| name[1..].to_owned());
            name.ok_or_else(|| {
                ItemError::fatal("bind the statement: write its parameters as `:field`")
            })
        })
        .collect()
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
