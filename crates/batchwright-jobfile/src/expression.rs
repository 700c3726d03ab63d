//! Expressions of job files: compiled and checked once, evaluated for every record, bounded in every way.
//!
//! The syntax is that of Rhai's expressions. Types, operators and functions are Batchwright's own (see
//! `value`): values that do not fit are an error instead of a condition that is silently false.

mod evaluate;
mod functions;
#[cfg(test)]
mod fuzz;
mod syntax;
mod token;
mod value;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use batchwright::job::{Decider, Decision};
use batchwright::parameters::{ParameterSchema, ParameterValue};
use batchwright::{ItemError, JobParameters};
use batchwright_items::Value;

pub(super) use evaluate::Parameters;
pub(super) use evaluate::Scope;
use syntax::{Node, Roots};
pub(super) use value::order;

/// A compiled expression, with its text for messages.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    pub(super) text: Arc<str>,
    node: Arc<Node>,
}

impl Expression {
    /// Compiles `text`, which may use the item and the parameters of `schema`.
    ///
    /// # Errors
    ///
    /// Fails on a syntax error, and on a function or parameter that does not exist.
    pub(super) fn compile(text: &str, schema: &ParameterSchema) -> Result<Self, String> {
        Self::compile_with(text, schema, Roots::Item)
    }

    fn compile_with(text: &str, schema: &ParameterSchema, roots: Roots) -> Result<Self, String> {
        let failed = |problem: String| format!("the expression `{text}`: {problem}");
        let node = syntax::parse(text, roots).map_err(failed)?;
        let mut unknown = None;
        node.visit(&mut |node| {
            if let Node::Parameter(name) | Node::HasParameter(name) = node
                && !schema.open
                && schema.find(name).is_none()
            {
                unknown.get_or_insert(Arc::clone(name));
            }
        });
        match unknown {
            None => Ok(Self { text: text.into(), node: Arc::new(node) }),
            Some(name) => {
                let known: Vec<_> =
                    schema.declared.iter().map(|one| format!("`{}`", one.name)).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(failed(format!("there is no parameter `{name}`; declared: {known}")))
            }
        }
    }

    /// Returns a field that the expression reads and that is not in `known`.
    pub(super) fn unknown_field(&self, known: &BTreeSet<&str>) -> Option<Arc<str>> {
        let mut unknown = None;
        self.node.visit(&mut |node| {
            if let Node::Field(field) = node
                && !known.contains(&**field.name())
            {
                unknown.get_or_insert_with(|| Arc::clone(field.name()));
            }
        });
        unknown
    }

    pub(super) fn evaluate<'v>(&'v self, sight: Scope<'v>) -> Result<Cow<'v, Value>, ItemError> {
        self.node.evaluate(sight).map_err(|problem| self.failed(&problem))
    }

    pub(super) fn is_true(&self, sight: Scope<'_>) -> Result<bool, ItemError> {
        let value = self.evaluate(sight)?;
        value::condition(&value).map_err(|problem| self.failed(&problem))
    }

    pub(super) fn failed(&self, problem: &str) -> ItemError {
        ItemError::data(format!("cannot evaluate `{}`: {problem}", self.text))
    }
}

/// A decision of a job file: an expression over `params`, `steps` and `context` that gives an exit code.
pub(super) struct ChosenCode {
    expression: Expression,
    declared: Vec<String>,
}

impl ChosenCode {
    /// Compiles `text` for a flow with these `steps`.
    ///
    /// # Errors
    ///
    /// Fails as [`Expression::compile`] does, and on a step that does not exist.
    pub(super) fn compile(
        text: &str,
        schema: &ParameterSchema,
        steps: &BTreeSet<String>,
    ) -> Result<Self, String> {
        let expression = Expression::compile_with(text, schema, Roots::Decision)?;
        let mut unknown = None;
        expression.node.visit(&mut |node| {
            if let Node::Step(name, _) | Node::HasStep(name) = node
                && !steps.contains(&**name)
            {
                unknown.get_or_insert(Arc::clone(name));
            }
        });
        match unknown {
            None => Ok(Self { expression, declared: declared(schema) }),
            Some(name) => {
                let known: Vec<_> = steps.iter().map(|name| format!("`{name}`")).collect();
                let known = known.join(", ");
                Err(format!(
                    "the expression `{text}`: there is no step `{name}`; there are {known}"
                ))
            }
        }
    }
}

impl Decider for ChosenCode {
    fn decide(&self, decision: &Decision<'_>) -> Result<String, ItemError> {
        let parameters = parameters(decision.scope.parameters(), &self.declared);
        let context = decision.scope.context().snapshot();
        let sight = Scope {
            item: None,
            parameters: &parameters,
            steps: decision.steps,
            context: Some(&context),
        };
        let code = self.expression.evaluate(sight)?;
        value::textual(&code).map(str::to_owned).ok_or_else(|| {
            let (text, found) = (&self.expression.text, value::described(&code));
            ItemError::fatal(format!("cannot evaluate `{text}`: expected a text, found {found}"))
        })
    }
}

/// Returns the names of the declared parameters.
pub(super) fn declared(schema: &ParameterSchema) -> Vec<String> {
    schema.declared.iter().map(|one| one.name.clone()).collect()
}

/// Returns the parameters as values of expressions; a declared parameter that was not given is null.
pub(super) fn parameters(parameters: &JobParameters, declared: &[String]) -> Parameters {
    let value = |value: &ParameterValue| match value {
        ParameterValue::Integer(value) => Value::Integer(*value),
        ParameterValue::Float(value) => Value::Float(*value),
        ParameterValue::Boolean(value) => Value::Boolean(*value),
        other => Value::text(&other.to_string()),
    };
    let missing = declared.iter().map(|name| (name.as_str().into(), Value::Null));
    missing.chain(parameters.iter().map(|(name, one)| (name.into(), value(&one.value)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::{Map, Stage, check_fields};
    use batchwright::parameters::{ParameterDeclaration, ParameterType};
    use batchwright_items::Record;

    fn record(pairs: &[(&str, Value)]) -> Record {
        let names: Vec<Arc<str>> = pairs.iter().map(|(name, _)| Arc::from(*name)).collect();
        Record::new(names.into(), pairs.iter().map(|(_, value)| value.clone()).collect())
    }

    fn schema() -> ParameterSchema {
        let declared = vec![ParameterDeclaration::new("limit", ParameterType::Integer)];
        ParameterSchema { declared, open: false }
    }

    #[test]
    fn an_expression_that_would_need_a_deep_stack_is_refused() {
        let chains = [
            ["1"; 300].join(" + "),
            format!("\"a\"{}", ".trim()".repeat(300)),
            format!("{} {{ 1 }}", ["if true"; 300].join(" { 1 } else ")),
            "`${".repeat(200),
        ];
        for text in chains {
            assert!(Expression::compile(&text, &schema()).is_err(), "{}", &text[..40]);
        }
        assert!(evaluate(&["1"; 250].join(" + ")).is_ok());
    }

    fn evaluate(text: &str) -> Result<Value, String> {
        let expression = Expression::compile(text, &schema())?;
        let item = record(&[
            ("amount", Value::Field("12.50".into())),
            ("quantity", Value::Field("2".into())),
            ("word", Value::Field("none".into())),
            ("empty", Value::Field("".into())),
            ("customer", Value::Field("  Ada ".into())),
            ("zip", Value::Field("01234".into())),
            ("active", Value::Field("true".into())),
            ("text", Value::text("12")),
            ("null", Value::Null),
            ("float", Value::Float(0.1)),
            ("flag", Value::Boolean(true)),
        ]);
        let parameters = [(Arc::from("limit"), Value::Integer(10))].into();
        let sight = Scope { item: Some(&item), parameters: &parameters, steps: &[], context: None };
        expression.evaluate(sight).map(Cow::into_owned).map_err(|error| error.to_string())
    }

    fn shown(text: &str) -> String {
        evaluate(text).map_or_else(|error| error, |value| value::described(&value))
    }

    #[test]
    fn operators_do_what_the_table_of_types_says() {
        for (text, required) in [
            ("item.amount > 12", "true"),
            ("item.amount * item.quantity", "the number 25.00"),
            ("item.amount == 12.5", "true"),
            ("item.zip == \"01234\"", "true"),
            ("item.zip == 1234", "true"),
            ("item.text == \"12\"", "true"),
            ("item.float == 0.1", "true"),
            ("item.float + 0.2 > 0.3", "true"),
            ("0.1 + 0.2", "the number 0.3"),
            ("item.null == null", "true"),
            ("item.null == ()", "true"),
            ("item.empty == null", "false"),
            ("item.null != 5", "true"),
            ("item.null ?? \"x\"", "the text `x`"),
            ("item.active == true && item.flag", "true"),
            ("item.active && !item.flag", "false"),
            ("item.word in [\"some\", \"none\"]", "true"),
            ("item.quantity in 1..3", "true"),
            ("item.amount in 1..=12", "false"),
            ("\"id-\" + item.quantity", "the text `id-2`"),
            ("params.limit - 1", "the number 9"),
            ("params.contains(\"limit\")", "true"),
            ("item.contains(\"x\")", "false"),
            ("-item.quantity ** 2", "the number 4"),
            ("7 / 2", "the number 3"),
            ("1_000 * 2", "the number 2000"),
            ("item[\"customer\"].trim().len", "the number 3"),
            ("switch item.quantity { 1 => \"one\", 2 => \"two\" }", "the text `two`"),
            ("item.zip", "the field `01234`"),
        ] {
            assert_eq!(shown(text), required, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_silently_false() {
        for (text, required) in [
            ("item.word < 0", "`none` is no number"),
            ("item.empty < 0", "an empty field is no number"),
            ("item.null < 0", "null and the number 0 cannot be compared"),
            ("item.text == 12", "the text `12` and the number 12 cannot be compared"),
            ("item.word == 5", "`none` is no number"),
            ("item.word in [1, 2]", "`none` is no number"),
            ("switch item.word { 1 => 1, _ => 2 }", "`none` is no number"),
            ("item.null + 1", "null is no number"),
            ("item.word + item.zip", "untyped fields are added as numbers"),
            ("item.word == true", "neither `true` nor `false`"),
            ("item.amount && true", "`12.50` is neither `true` nor `false`"),
            ("item.amount < item.word", "only one of them is a number"),
            ("true < false", "true and false cannot be compared"),
            ("9223372036854775807 + 1", "out of range"),
            ("1 / 0", "divisor is zero"),
            ("1.0 / 0", "divisor is zero"),
            ("0.12345678901234567890123456789", "out of range"),
            ("\"a\".split(\",\")[3]", "there is no part 3"),
            ("item.amuont > 0", "the item has no `amuont`; it has `amount`"),
        ] {
            let message = evaluate(text).unwrap_err();
            assert!(message.contains(required), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_no_expression_or_names_nothing_is_refused_when_it_is_compiled() {
        for (text, required) in [
            ("item.amount >", "expected a value"),
            ("let x = 1; x", "there is no `let`"),
            ("while true {}", "there is no `while`"),
            ("eval(\"1\")", "there is no function `eval`"),
            ("sleep(1)", "there is no function `sleep`"),
            (
                "itm.a",
                "there is no `itm`; there are `item` and `params`".split(';').next().unwrap(),
            ),
            ("item.name.trimm()", "there is no function `trimm`; did you mean `trim`?"),
            ("trim()", "`trim` takes 1 arguments"),
            ("params.limt > 1", "there is no parameter `limt`; declared: `limit`"),
            ("`${params.x}`", "there is no parameter `x`"),
            ("\"open", "no closing quote"),
            ("item", "expected `.` and a name after `item`"),
            (&"(".repeat(80), "nested deeper than 64"),
        ] {
            let message = Expression::compile(text, &schema()).unwrap_err();
            assert!(message.contains(required), "{text}: {message}");
        }
    }

    #[test]
    fn fields_are_checked_along_the_processors() {
        let compile = |text: &str| Expression::compile(text, &schema()).unwrap();
        let filter = |text: &str| Stage::Filter(compile(text));
        let map = |set: &[(&str, &str)], keep: Option<&[&str]>, drop: &[&str]| {
            Stage::Map(Map {
                set: set.iter().map(|(name, text)| (Arc::from(*name), compile(text))).collect(),
                keep: keep.map(|names| names.iter().map(|name| Arc::from(*name)).collect()),
                drop: drop.iter().map(|name| Arc::from(*name)).collect(),
            })
        };
        let stages =
            [filter("item.a > 1"), map(&[("b", "item.a")], None, &["a"]), filter("item.b > 1")];
        assert_eq!(check_fields(&stages, Some(&["a"])), Ok(()));
        let message = check_fields(&stages, Some(&["x"])).unwrap_err();
        assert!(message.contains("has no `a`; it has `x`"), "{message}");
        let dropped = [map(&[], None, &["a"]), filter("item.a > 1")];
        assert!(check_fields(&dropped, Some(&["a"])).is_err());
        assert!(check_fields(&[map(&[], None, &["z"])], Some(&["a"])).is_err());
        // After a `keep` the fields are known even if those of the input are not.
        let kept = [map(&[], Some(&["a"]), &[]), filter("item.b > 1")];
        assert!(check_fields(&kept, None).is_err());
    }

    /// Returns the expressions and their values from the tables of the book.
    fn examples() -> Vec<(String, String)> {
        let book = include_str!("../../../docs/book/src/job-files.md");
        let section =
            book.split("### Functions").nth(1).unwrap().split("## Rehearsal").next().unwrap();
        let mut examples = Vec::new();
        for line in section.lines().filter(|line| line.starts_with('|')) {
            let line = line.replace("\\|", "\u{1}");
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let code = |cell: &str| {
                let cell = cell.replace('\u{1}', "|");
                let ticks = cell.bytes().take_while(|byte| *byte == b'`').count();
                cell[ticks..cell.len() - ticks].trim().to_owned()
            };
            match cells[..] {
                [_, _, _, example, _] if example.contains('→') => {
                    for one in example.split("`, `").map(|one| one.trim_matches('`')) {
                        let (text, value) = one.split_once("` → `").unwrap();
                        examples.push((text.to_owned(), value.to_owned()));
                    }
                }
                [_, text, value, _] if text.starts_with('`') => {
                    examples.push((code(text), code(value)));
                }
                _ => {}
            }
        }
        examples
    }

    #[test]
    fn every_example_of_the_book_gives_what_it_says_and_every_function_has_one() {
        let examples = examples();
        for (text, value) in &examples {
            assert_eq!(shown(text), shown(value), "{text}");
        }
        for function in functions::FUNCTIONS {
            let name = format!("{}(", function.name);
            let method = format!(".{}", function.name);
            let has = |text: &String| text.contains(&name) || text.contains(&method);
            assert!(examples.iter().any(|(text, value)| has(text) || has(value)), "{name}");
        }
    }
}
