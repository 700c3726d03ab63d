//! Classifies the errors of all databases, so that the same fault has the same kind everywhere.

/// The class of a database error, by its consequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SqlErrorClass {
    /// The database cannot be reached, does not answer, or takes no writes; the connection is dropped.
    Unavailable,
    /// A constraint or a trigger refused the row.
    Constraint,
    /// A value does not fit its column.
    Data,
    /// A conflict with another transaction (deadlock or serialisation failure); this transaction was rolled
    /// back.
    Contention,
    /// A lock was not granted in time.
    Locked,
    /// The statement was cancelled.
    Canceled,
    /// Stored data cannot be parsed.
    Corrupt,
    /// The file is no database.
    NotADatabase,
    /// Anything else: wrong SQL, no permission.
    Other,
}

use SqlErrorClass::{
    Canceled, Constraint, Contention, Corrupt, Data, Locked, NotADatabase, Other, Unavailable,
};

#[cfg(feature = "server")]
/// SQLSTATE codes of PostgreSQL, the longest prefix first.
const POSTGRES: [(&str, SqlErrorClass); 20] = [
    // A serialisation failure; a deadlock.
    ("40001", Contention),
    ("40P01", Contention),
    // A constraint that failed at commit.
    ("40002", Constraint),
    ("55P03", Locked),
    ("57014", Canceled),
    // The server became a standby, which takes no writes, or it ended the session.
    ("25006", Unavailable),
    ("25P03", Unavailable),
    ("25P04", Unavailable),
    // RAISE EXCEPTION and ASSERT of a function: a trigger that refuses the row.
    ("P0001", Constraint),
    ("P0004", Constraint),
    ("44000", Constraint),
    ("XX001", Corrupt),
    ("XX002", Corrupt),
    ("21000", Data),
    ("54000", Data),
    ("22", Data),
    ("23", Constraint),
    ("08", Unavailable),
    ("53", Unavailable),
    ("57P", Unavailable),
];

#[cfg(feature = "server")]
/// Returns the class of a SQLSTATE of PostgreSQL.
pub(super) fn of_state(code: &str) -> SqlErrorClass {
    if code.starts_with("58") {
        return Unavailable;
    }
    let known = POSTGRES.iter().find(|(prefix, _)| code.starts_with(prefix));
    known.map_or(Other, |(_, class)| *class)
}

#[cfg(feature = "mysql")]
/// Returns the class of an error number of MySQL or MariaDB; `message` distinguishes the uses of an ambiguous
/// number.
pub(super) fn of_mysql(number: u16, message: &str) -> SqlErrorClass {
    match number {
        1213 => Contention,
        1205 => Locked,
        1317 | 3024 | 1969 => Canceled,
        // Shutdown, a killed connection, too many connections.
        1053 | 1927 | 1040 | 1203 => Unavailable,
        // The server became read-only; 1290 is used for other options too.
        1792 | 1836 => Unavailable,
        1290 if message.contains("read-only") || message.contains("read_only") => Unavailable,
        // Unique keys, foreign keys, null, CHECK constraints.
        1022 | 1062 | 1169 | 1586 | 1216 | 1217 | 1451 | 1452 | 1048 | 1364 | 3819 | 4025 => {
            Constraint
        }
        // No partition for the row; a view's CHECK OPTION; SIGNAL of a trigger.
        1526 | 1748 | 1863 | 1369 | 1557 | 1761 | 1762 | 1644 => Constraint,
        // Out of range, too long, wrong value, malformed JSON, larger than a packet.
        1264 | 1406 | 1366 | 1292 | 1265 | 3140 | 1690 | 1365 | 1411 | 3141 | 1153 | 1301 => Data,
        _ => Other,
    }
}

#[cfg(feature = "sqlite")]
/// Returns the class of a result code of SQLite.
pub(super) fn of_sqlite(code: rusqlite::ErrorCode) -> SqlErrorClass {
    use rusqlite::ErrorCode as Code;
    match code {
        Code::DatabaseCorrupt => Corrupt,
        Code::NotADatabase => NotADatabase,
        Code::ConstraintViolation => Constraint,
        Code::TypeMismatch | Code::TooBig | Code::ParameterOutOfRange => Data,
        Code::OperationInterrupted => Canceled,
        Code::DatabaseBusy | Code::DatabaseLocked => Locked,
        Code::DiskFull | Code::SystemIoFailure | Code::ReadOnly | Code::CannotOpen => Unavailable,
        _ => Other,
    }
}

#[cfg(all(test, feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod tests {
    use super::*;
    use rusqlite::ErrorCode as Code;

    #[test]
    fn the_same_fault_has_the_same_class_in_every_database() {
        for (class, sqlite, postgres, mysql) in [
            (Constraint, Some(Code::ConstraintViolation), "23505", 1062),
            (Constraint, Some(Code::ConstraintViolation), "23503", 1452),
            (Constraint, None, "23514", 4025),
            // A trigger that refuses the row.
            (Constraint, Some(Code::ConstraintViolation), "P0001", 1644),
            // No partition takes the row.
            (Constraint, None, "23514", 1526),
            (Data, Some(Code::TypeMismatch), "22003", 1264),
            (Data, Some(Code::TooBig), "54000", 1153),
            (Data, None, "22012", 1365),
            (Contention, None, "40P01", 1213),
            (Locked, Some(Code::DatabaseBusy), "55P03", 1205),
            (Canceled, Some(Code::OperationInterrupted), "57014", 1317),
            (Unavailable, Some(Code::CannotOpen), "57P01", 1053),
            (Unavailable, Some(Code::ReadOnly), "25006", 1836),
            (Corrupt, Some(Code::DatabaseCorrupt), "XX001", 0),
            (Other, None, "42601", 1064),
        ] {
            assert!(sqlite.is_none_or(|code| of_sqlite(code) == class), "{sqlite:?}");
            assert_eq!(of_state(postgres), class, "{postgres}");
            assert!(mysql == 0 || of_mysql(mysql, "") == class, "{mysql}");
        }
        assert_eq!(of_mysql(1290, "running with the --read-only option"), Unavailable);
        assert_eq!(of_mysql(1290, "running with the --secure-file-priv option"), Other);
    }
}
