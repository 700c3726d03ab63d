//! Statements and rows of the schedule, with all differences between SQLite and PostgreSQL: SQLite writes one
//! row at a time, a server all rows in one JSON document.

use std::borrow::Cow;

use serde_json::{Value, json};

use batchwright::store::schedule::{RuleRow, TriggerKey, TriggerRow, TriggerStatus};

use super::unknown_status;
use crate::database::{Dialect, FromSql, Sql, SqlError, SqlRow, SqlValue};

/// The columns of a trigger, in the order of the table.
pub(super) const COLUMNS: [&str; 15] = [
    "identifier",
    "occurrence",
    "status",
    "slot",
    "due",
    "owner",
    "attempt",
    "version",
    "fired_at",
    "ended_at",
    "stop_requested",
    "plan",
    "rule",
    "reason",
    "output",
];
/// Number of key columns, which come first.
const KEY: usize = 2;
const VERSION: usize = 7;

pub(super) struct Statements {
    pub(super) dialect: Dialect,
    pub(super) trigger: Sql,
    pub(super) due: Sql,
    pub(super) next_due: Sql,
    pub(super) slots: Sql,
    /// As `trigger` and `slots`, without locks: for transactions that only read.
    pub(super) trigger_read: Sql,
    pub(super) slots_read: Sql,
    pub(super) list: Sql,
    pub(super) ended: Sql,
    pub(super) upcoming: Sql,
    pub(super) recurring: Sql,
    pub(super) forget_future: Sql,
    pub(super) reset_late_retries: Sql,
    pub(super) clock: Sql,
    /// Inserts a row that is not stored yet; used on SQLite, which writes rows one by one.
    pub(super) insert: Sql,
    pub(super) save: Sql,
    pub(super) remove: Sql,
    pub(super) forget_slots: Sql,
    pub(super) boundary: Sql,
    pub(super) forget_ended: Sql,
    pub(super) rules: Sql,
    pub(super) rules_version: Sql,
    pub(super) raise_rules_version: Sql,
    pub(super) lock_rules: Sql,
    pub(super) put_rule: Sql,
    pub(super) remove_rule: Sql,
    pub(super) servers: Sql,
    pub(super) insert_server: Sql,
    pub(super) renew_server: Sql,
    pub(super) remove_server: Sql,
    pub(super) take_over: Sql,
    pub(super) owned: Sql,
    pub(super) stop_requests: Sql,
}

impl Statements {
    pub(super) fn new(dialect: Dialect, prefix: &str) -> Self {
        let on_server = dialect != Dialect::Sqlite;
        let columns = COLUMNS.join(", ");
        let sql = |text: &str| {
            let text = text
                .replace("{c}", &columns)
                // Lists do not contain the output of the runners.
                .replace("{brief}", &columns.replace(", output", ", NULL AS output"))
                .replace("{t}", "\"{p}trigger\"");
            Sql::new(dialect, &text.replace("{p}", prefix))
        };
        let pick = |file: &'static str, server: &'static str| if on_server { server } else { file };
        let trigger = pick(
            "SELECT {c} FROM {t} WHERE identifier = ?1 AND occurrence = ?2",
            "SELECT {c} FROM {t} JOIN json_to_recordset((?1::text)::json) AS k(i text, o bigint)
             ON identifier = k.i AND occurrence = k.o ORDER BY identifier, occurrence",
        );
        // Rows are locked in the order of the key, so that two servers do not deadlock.
        let locked = pick("", " FOR UPDATE OF \"{p}trigger\"");
        let slots =
            "SELECT {c} FROM {t} WHERE identifier = ?1 AND occurrence >= 0 ORDER BY occurrence";
        Self {
            dialect,
            trigger: sql(&format!("{trigger}{locked}")),
            trigger_read: sql(trigger),
            slots_read: sql(slots),
            due: sql(pick(
                "SELECT {c} FROM {t} WHERE owner = 0 AND due <= ?1 ORDER BY due LIMIT ?2",
                "SELECT {c} FROM {t} WHERE owner = 0 AND due <= ?1 ORDER BY due LIMIT ?2 FOR UPDATE SKIP LOCKED",
            )),
            next_due: sql("SELECT min(due) AS due FROM {t} WHERE owner = 0 AND due IS NOT NULL"),
            slots: sql(&format!("{slots}{{lock}}")),
            ended: sql(
                "SELECT {brief} FROM {t} WHERE ended_at >= ?1 ORDER BY ended_at DESC LIMIT ?2",
            ),
            upcoming: sql(
                "SELECT {brief} FROM {t} WHERE owner = 0 AND due IS NOT NULL ORDER BY due LIMIT ?1",
            ),
            list: sql(pick(
                "SELECT {brief} FROM {t} WHERE identifier >= ?1 AND (?2 IS NULL OR identifier < ?2) \
                 AND identifier > ?3 AND occurrence = -1 ORDER BY identifier LIMIT ?4",
                "SELECT {brief} FROM {t} WHERE identifier >= ?1 AND (?2::text IS NULL OR identifier < ?2) \
                 AND identifier > ?3 AND occurrence = -1 ORDER BY identifier LIMIT ?4",
            )),
            recurring: sql(
                "SELECT {c} FROM {t} WHERE occurrence = -1 AND plan IS NOT NULL AND owner = 0 \
                 AND status IN ('planned', 'failed') AND identifier > ?1 ORDER BY identifier LIMIT ?2{lock}",
            ),
            forget_future: sql(
                "DELETE FROM {t} WHERE identifier = ?1 AND occurrence > ?2 AND due IS NULL AND ended_at >= occurrence \
                 AND (status = 'skipped' OR occurrence > ?3)",
            ),
            reset_late_retries: sql("UPDATE {t} SET due = ?1, version = version + 1 \
                 WHERE owner = 0 AND plan IS NULL AND due > slot AND due > ?2"),
            clock: sql(pick(
                "SELECT NULL AS now",
                "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint) AS now",
            )),
            insert: sql(&insert()),
            save: sql(&if on_server { save_all() } else { update() }),
            remove: sql("DELETE FROM {t} WHERE identifier = ?1"),
            forget_slots: sql(
                "DELETE FROM {t} WHERE identifier = ?1 AND occurrence >= 0 AND occurrence < ?2 \
                 AND due IS NULL AND ended_at IS NOT NULL",
            ),
            boundary: sql(
                "SELECT ended_at FROM {t} WHERE ended_at IS NOT NULL AND occurrence = -1 \
                 ORDER BY ended_at DESC LIMIT 1 OFFSET ?1",
            ),
            forget_ended: sql(
                "DELETE FROM {t} WHERE (identifier, occurrence) IN (SELECT identifier, occurrence FROM {t} \
                 WHERE ended_at < ?1 AND occurrence = -1 AND status IN ('executed', 'failed', 'dead', 'skipped', 'ended') \
                 ORDER BY ended_at LIMIT ?2)",
            ),
            rules: sql(
                "SELECT identifier, pattern, runner, sequence FROM \"{p}rule\" ORDER BY identifier",
            ),
            rules_version: sql("SELECT rules_version FROM \"{p}schedule\""),
            raise_rules_version: sql(
                "UPDATE \"{p}schedule\" SET rules_version = rules_version + 1",
            ),
            // A write that changes nothing keeps the row locked.
            lock_rules: sql("UPDATE \"{p}schedule\" SET rules_version = rules_version"),
            put_rule: sql("INSERT INTO \"{p}rule\" (identifier, pattern, runner, sequence) \
                 SELECT ?1, ?2, ?3, rules_version FROM \"{p}schedule\" WHERE true \
                 ON CONFLICT (identifier) DO UPDATE SET pattern = excluded.pattern, \
                 runner = excluded.runner, sequence = excluded.sequence"),
            remove_rule: sql("DELETE FROM \"{p}rule\" WHERE identifier = ?1"),
            servers: sql("SELECT id, identity, lease_until FROM \"{p}server\" ORDER BY id"),
            insert_server: sql(
                "INSERT INTO \"{p}server\" (identity, lease_until) VALUES (?1, ?2){id}",
            ),
            renew_server: sql("UPDATE \"{p}server\" SET lease_until = ?2 WHERE id = ?1"),
            remove_server: sql("DELETE FROM \"{p}server\" WHERE id = ?1 AND lease_until <= ?2"),
            owned: sql("SELECT {c} FROM {t} WHERE owner = ?1 AND due IS NOT NULL"),
            stop_requests: sql(
                "SELECT {c} FROM {t} WHERE owner = ?1 AND due IS NOT NULL AND stop_requested = 1",
            ),
            take_over: sql("UPDATE {t} SET owner = 0, status = 'planned', version = version + 1 \
                 WHERE owner = ?1 AND due IS NOT NULL"),
        }
    }

    /// Returns `text` as identifiers and patterns are stored in this database.
    pub(super) fn escaped<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.dialect {
            Dialect::Sqlite => Cow::Borrowed(text),
            Dialect::Postgres | Dialect::MySql => escape(text),
        }
    }

    /// Returns the function that reads a trigger of this database.
    pub(super) fn reading(&self) -> fn(&SqlRow<'_>) -> Result<TriggerRow, SqlError> {
        match self.dialect {
            Dialect::Sqlite => trigger,
            Dialect::Postgres | Dialect::MySql => escaped_trigger,
        }
    }
}

/// Returns the statement that inserts a row.
fn insert() -> String {
    let places: Vec<_> = (1..=COLUMNS.len()).map(|index| format!("?{index}")).collect();
    format!("INSERT INTO {{t}} ({{c}}) VALUES ({})", places.join(", "))
}

/// Returns the statement that replaces a row of the previous version.
fn update() -> String {
    let set: Vec<_> =
        (KEY..COLUMNS.len()).map(|index| format!("{} = ?{}", COLUMNS[index], index + 1)).collect();
    format!(
        "UPDATE {{t}} SET {} WHERE identifier = ?1 AND occurrence = ?2 AND version = ?{} - 1",
        set.join(", "),
        VERSION + 1
    )
}

/// Returns the statement that inserts or replaces all rows of one JSON document.
fn save_all() -> String {
    let replaced: Vec<_> =
        COLUMNS[KEY..].iter().map(|column| format!("{column} = excluded.{column}")).collect();
    let typed: Vec<_> = COLUMNS
        .iter()
        .map(|column| match *column {
            "identifier" | "status" | "plan" | "rule" | "reason" | "output" => {
                format!("{column} text")
            }
            _ => format!("{column} bigint"),
        })
        .collect();
    format!(
        "INSERT INTO {{t}} ({{c}}) SELECT {{c}} FROM json_to_recordset((?1::text)::json) AS new({}) \
         ON CONFLICT (identifier, occurrence) DO UPDATE SET {} WHERE {{t}}.version = excluded.version - 1",
        typed.join(", "),
        replaced.join(", ")
    )
}

/// Returns the values of `row` for [`Statements::save`], with its version raised.
pub(super) fn values(row: &TriggerRow) -> [SqlValue<'_>; COLUMNS.len()] {
    [
        row.key.identifier.as_str().into(),
        row.key.occurrence.into(),
        row.status.name().into(),
        row.slot.into(),
        row.due.into(),
        row.owner.into(),
        i64::from(row.attempt).into(),
        (row.version + 1).into(),
        row.fired_at.into(),
        row.ended_at.into(),
        i64::from(row.stop_requested).into(),
        row.plan.as_deref().into(),
        row.rule.as_deref().into(),
        row.reason.as_deref().into(),
        row.output.as_deref().into(),
    ]
}

/// Returns the values of all `rows` for [`Statements::save`], as one JSON document.
pub(super) fn rows_as_json(rows: &[&TriggerRow]) -> String {
    let objects = rows.iter().map(|row| {
        let fields = COLUMNS.iter().zip(values(row)).map(|(column, value)| {
            let value = match value {
                SqlValue::Integer(number) => json!(number),
                SqlValue::Text(text) => json!(escape(&text)),
                _ => Value::Null,
            };
            ((*column).to_owned(), value)
        });
        Value::Object(fields.collect())
    });
    Value::Array(objects.collect()).to_string()
}

pub(super) fn keys_as_json(keys: &[TriggerKey]) -> String {
    let objects = keys.iter().map(|key| json!({"i": escape(&key.identifier), "o": key.occurrence}));
    Value::Array(objects.collect()).to_string()
}

pub(super) fn trigger(row: &SqlRow<'_>) -> Result<TriggerRow, SqlError> {
    // Columns are read by number for speed: every `SET` reads this row.
    fn at<T: FromSql>(row: &SqlRow<'_>, index: usize) -> Result<T, SqlError> {
        T::from_sql(row.at(index)?).map_err(|problem| SqlError::corrupt(COLUMNS[index], problem))
    }
    let status = row.at(2)?;
    let SqlValue::Text(name) = &status else { return Err(unknown_status(status.kind())) };
    Ok(TriggerRow {
        key: TriggerKey { identifier: at(row, 0)?, occurrence: at(row, 1)? },
        status: TriggerStatus::from_name(name).ok_or_else(|| unknown_status(name))?,
        slot: at(row, 3)?,
        due: at(row, 4)?,
        owner: at(row, 5)?,
        attempt: u32::try_from(at::<i64>(row, 6)?).unwrap_or(u32::MAX),
        version: at(row, VERSION)?,
        fired_at: at(row, 8)?,
        ended_at: at(row, 9)?,
        stop_requested: at(row, 10)?,
        plan: at(row, 11)?,
        rule: at(row, 12)?,
        reason: at(row, 13)?,
        output: at(row, 14)?,
    })
}

pub(super) fn escaped_trigger(row: &SqlRow<'_>) -> Result<TriggerRow, SqlError> {
    let mut found = trigger(row)?;
    found.key.identifier = unescape(&found.key.identifier);
    for text in [&mut found.plan, &mut found.rule, &mut found.reason, &mut found.output] {
        *text = text.take().map(|text| unescape(&text));
    }
    Ok(found)
}

pub(super) fn rule(row: &SqlRow<'_>) -> Result<RuleRow, SqlError> {
    Ok(RuleRow {
        identifier: row.read("identifier")?,
        pattern: row.read("pattern")?,
        runner: row.read("runner")?,
        sequence: row.read("sequence")?,
    })
}

pub(super) fn escaped_rule(row: &SqlRow<'_>) -> Result<RuleRow, SqlError> {
    let mut found = rule(row)?;
    found.identifier = unescape(&found.identifier);
    found.pattern = unescape(&found.pattern);
    Ok(found)
}

/// Escapes NUL as `\0` and a backslash as `\\`, because text in PostgreSQL cannot contain NUL. A prefix of a
/// text stays a prefix of it.
fn escape(text: &str) -> Cow<'_, str> {
    match text.contains(['\\', '\0']) {
        true => Cow::Owned(text.replace('\\', r"\\").replace('\0', r"\0")),
        false => Cow::Borrowed(text),
    }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.next() == Some('0') => plain.push('\0'),
            // An escaped backslash: the condition above consumed its second character.
            other => plain.push(other),
        }
    }
    plain
}

/// Returns the smallest text after all texts that begin with `prefix`; `None` if there is none.
pub(super) fn end_of_prefix(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // The surrogate code points are no characters and are skipped.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_as_it_was() {
        for text in ["", "a", r"\", r"\0", "\0", "a\0\\b\\0", r"\\0"] {
            assert_eq!(unescape(&escape(text)), text);
            assert!(!escape(text).contains('\0'));
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_everything_that_begins_so() {
        assert_eq!(end_of_prefix("ab").as_deref(), Some("ac"));
        assert_eq!(end_of_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(end_of_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(end_of_prefix(""), None);
    }
}
