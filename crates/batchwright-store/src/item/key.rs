//! Keys by which a reader of rows continues after the last row.

use batchwright::ItemError;
use serde::{Deserialize, Serialize};

use crate::database::{Dialect, Sql, SqlError, SqlErrorClass, SqlRow, SqlSession, SqlValue};

/// The columns of a query's result that together are unique, not null, and give the order of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyColumns(Vec<String>);

impl From<&str> for KeyColumns {
    fn from(column: &str) -> Self {
        Self(vec![column.to_owned()])
    }
}

impl From<String> for KeyColumns {
    fn from(column: String) -> Self {
        Self(vec![column])
    }
}

impl From<Vec<String>> for KeyColumns {
    /// A key of several columns, the most significant first.
    fn from(columns: Vec<String>) -> Self {
        Self(columns)
    }
}

impl<const N: usize> From<[&str; N]> for KeyColumns {
    /// A key of several columns, the most significant first.
    fn from(columns: [&str; N]) -> Self {
        Self(columns.map(str::to_owned).to_vec())
    }
}

impl std::fmt::Display for KeyColumns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key `{}`", self.0.join("`, `"))
    }
}

/// The key of one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Key {
    One(KeyValue),
    Several(Vec<KeyValue>),
}

/// The value of one column of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum KeyValue {
    Integer(i64),
    Real(f64),
    Text(String),
}

impl From<&KeyValue> for SqlValue<'static> {
    fn from(value: &KeyValue) -> Self {
        match value {
            KeyValue::Integer(value) => Self::Integer(*value),
            KeyValue::Real(value) => Self::Float(*value),
            KeyValue::Text(value) => value.clone().into(),
        }
    }
}

impl std::fmt::Display for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Real(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "`{}`", value.escape_debug()),
        }
    }
}

impl Key {
    fn values(&self) -> &[KeyValue] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Several(values) => values,
        }
    }

    /// Returns what is wrong with this key after `last`, as far as this is known without the collation of
    /// text.
    fn fault_behind(&self, last: &Self) -> Option<&'static str> {
        let pairs = last.values().iter().zip(self.values());
        match pairs.into_iter().find(|(last, now)| last != now) {
            None => Some("occurs in two rows"),
            Some((KeyValue::Integer(last), KeyValue::Integer(now))) if now < last => {
                Some("is out of order")
            }
            Some((KeyValue::Real(last), KeyValue::Real(now))) if now < last => {
                Some("is out of order")
            }
            Some(_) => None,
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values: Vec<_> = self.values().iter().map(ToString::to_string).collect();
        f.write_str(&values.join(", "))
    }
}

/// The end of a query that makes it continue after a key, with the parameters of the whole query.
pub(super) struct Continuation {
    pub(super) rest: String,
    pub(super) params: Vec<SqlValue<'static>>,
}

impl KeyColumns {
    /// Refuses other columns than those of the checkpoint, whose values belong to those columns.
    pub(super) fn check_same(&self, then: &Self) -> Result<(), ItemError> {
        match self == then {
            true => Ok(()),
            false => Err(ItemError::fatal(format!(
                "cannot continue after the last row: it was read by {then}, and the {self} is another; start a new instance"
            ))),
        }
    }

    pub(super) fn of(&self, row: &SqlRow<'_>) -> Result<Key, SqlError> {
        Ok(match &self.0[..] {
            [column] => Key::One(self.value(row, column)?),
            columns => Key::Several(
                columns.iter().map(|column| self.value(row, column)).collect::<Result<_, _>>()?,
            ),
        })
    }

    fn value(&self, row: &SqlRow<'_>, column: &str) -> Result<KeyValue, SqlError> {
        match row.read::<SqlValue<'static>>(column)? {
            SqlValue::Integer(value) => Ok(KeyValue::Integer(value)),
            SqlValue::Float(value) if value.is_finite() => Ok(KeyValue::Real(value)),
            SqlValue::Text(text) => Ok(KeyValue::Text(text.into_owned())),
            other => {
                let found = other.kind();
                Err(self.refused(&format!("expected a finite number or text, found {found}")))
            }
        }
    }

    /// Refuses a repeated or smaller key before its row is read. A restart begins after the last key: another
    /// row with that key would be lost, and a row with a smaller key would be read twice.
    pub(super) fn check(&self, last: Option<&Key>, now: &Key) -> Result<(), SqlError> {
        match last.and_then(|last| now.fault_behind(last)) {
            None => Ok(()),
            Some(fault) => Err(self.refused(&format!(
                "{now} {fault}, so a restart could lose rows or repeat them; name columns that are unique and \
                 sort as they compare, or leave the key out and write ORDER BY into the query"
            ))),
        }
    }

    fn refused(&self, problem: &str) -> SqlError {
        SqlError::new(SqlErrorClass::Data, format!("{self}: {problem}"))
    }

    /// Returns the end of `query`, whose own parameters are `params`, to continue after `last` or from the
    /// beginning. A column that cannot be a key is refused before anything is read.
    pub(super) fn continue_after(
        &self,
        last: Option<&Key>,
        session: &mut SqlSession,
        dialect: Dialect,
        query: &str,
        mut params: Vec<SqlValue<'static>>,
    ) -> Result<Continuation, SqlError> {
        if self.0.is_empty() {
            return Err(SqlError::new(SqlErrorClass::Other, "a key needs at least one column"));
        }
        let names: Vec<_> = self.0.iter().map(|one| format!("q.{}", dialect.quoted(one))).collect();
        let compared: Vec<_> = self
            .0
            .iter()
            .enumerate()
            .map(|(at, column)| session.key_parameter(query, column, params.len() + 1 + at))
            .collect::<Result<_, _>>()?;
        let order = names.join(", ");
        let Some(last) = last else {
            return Ok(Continuation { rest: format!("ORDER BY {order}"), params });
        };
        params.extend(last.values().iter().map(SqlValue::from));
        self.check_unique(last, session, query, &names, &compared, &params)?;
        let first = &names[0];
        let condition = match &compared[..] {
            [parameter] => format!("{first} > {parameter}"),
            // The extra comparison of the first column lets databases use an index that cannot for row
            // values.
            several => {
                let bound = session.key_parameter(query, &self.0[0], params.len() + 1)?;
                params.push((&last.values()[0]).into());
                format!("({order}) > ({}) AND {first} >= {bound}", several.join(", "))
            }
        };
        Ok(Continuation { rest: format!("WHERE {condition} ORDER BY {order}"), params })
    }

    /// Checks in the database that only one row has the key `last`: the collation may treat different texts
    /// as equal, and one of the rows would be skipped.
    fn check_unique(
        &self,
        last: &Key,
        session: &mut SqlSession,
        query: &str,
        names: &[String],
        compared: &[String],
        params: &[SqlValue<'static>],
    ) -> Result<(), SqlError> {
        let same: Vec<_> =
            names.iter().zip(compared).map(|(name, value)| format!("{name} = {value}")).collect();
        let same = same.join(" AND ");
        let text = format!("SELECT 1 AS one FROM ({query}\n) AS q WHERE {same} LIMIT 2");
        let rows = session.many(&Sql::native(&text), params, |_| Ok(()))?;
        match rows.len() {
            0 | 1 => Ok(()),
            _ => Err(self.refused(&format!(
                "two rows have the key {last}, the last that was read, as the database compares it, so rows after it \
                 could be lost; name columns that are unique under their collation"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_by_other_columns_is_refused() {
        let then = KeyColumns::from(["a", "b"]);
        assert!(then.check_same(&KeyColumns::from(["a", "b"])).is_ok());
        let refused = KeyColumns::from(["b", "a"]).check_same(&then).unwrap_err().to_string();
        assert!(
            refused.contains("read by key `a`, `b`, and the key `b`, `a` is another"),
            "{refused}"
        );
    }

    #[test]
    fn a_key_of_several_columns_is_compared_from_the_left() {
        let key = |a: i64, b: &str| {
            Key::Several(vec![KeyValue::Integer(a), KeyValue::Text(b.to_owned())])
        };
        assert_eq!(key(1, "x").fault_behind(&key(1, "x")), Some("occurs in two rows"));
        assert_eq!(key(1, "z").fault_behind(&key(2, "a")), Some("is out of order"));
        assert_eq!(key(2, "a").fault_behind(&key(1, "z")), None);
    }

    #[test]
    fn the_key_of_one_column_is_stored_as_its_value() {
        let stored = serde_json::to_string(&Key::One(KeyValue::Integer(7))).unwrap();
        assert_eq!(stored, "7");
        assert_eq!(serde_json::from_str::<Key>("7").unwrap(), Key::One(KeyValue::Integer(7)));
        let several = Key::Several(vec![KeyValue::Integer(7), KeyValue::Real(0.5)]);
        let stored = serde_json::to_string(&several).unwrap();
        assert_eq!(serde_json::from_str::<Key>(&stored).unwrap(), several);
    }
}
