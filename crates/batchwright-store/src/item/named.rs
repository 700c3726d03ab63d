//! Named parameters (`:field`) of statements that users write.

use crate::database::{Database, Dialect};

/// A statement with parameters `:name`, translated for one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedStatement {
    /// The statement with the database's own parameters.
    pub text: String,
    /// The name of each parameter, in the order in which they are bound.
    pub names: Vec<String>,
}

impl NamedStatement {
    /// Finds the parameters of `text`: names after a colon, outside quotes and comments. `::` is a cast.
    pub fn parse(text: &str, database: &Database) -> Self {
        parse(text, database.dialect())
    }
}

fn parse(text: &str, dialect: Dialect) -> NamedStatement {
    let (mut translated, mut names) = (String::with_capacity(text.len()), Vec::<String>::new());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\'' | '"' | '`' => quoted(rest, first),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            ':' if rest.starts_with("::") => 2,
            ':' => {
                let name: String =
                    rest[1..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if name.is_empty() {
                    1
                } else {
                    rest = &rest[1 + name.len()..];
                    let known = names.iter().position(|one| *one == name);
                    let index = match known {
                        // MySQL's placeholders have no numbers, so each occurrence is a parameter of its own.
                        Some(index) if dialect != Dialect::MySql => index,
                        _ => {
                            names.push(name);
                            names.len() - 1
                        }
                    };
                    translated.push_str(&dialect.parameter(index + 1));
                    continue;
                }
            }
            other => other.len_utf8(),
        };
        translated.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    NamedStatement { text: translated, names }
}

/// Returns the length of the quoted text at the beginning of `rest`; a doubled quote counts as two quoted
/// texts.
fn quoted(rest: &str, quote: char) -> usize {
    rest[1..].find(quote).map_or(rest.len(), |at| at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_outside_quotes_comments_and_casts() {
        let text = "UPDATE t SET a = :a, b = ':no' /* :no */ WHERE d = :d::date AND a <> :a -- :no";
        let postgres = parse(text, Dialect::Postgres);
        assert_eq!(
            postgres.text,
            "UPDATE t SET a = $1, b = ':no' /* :no */ WHERE d = $2::date AND a <> $1 -- :no"
        );
        assert_eq!(postgres.names, ["a", "d"]);
        assert_eq!(parse("a = :a OR b = :a", Dialect::MySql).text, "a = ? OR b = ?");
        assert_eq!(parse("a = :a OR b = :a", Dialect::MySql).names, ["a", "a"]);
    }
}
