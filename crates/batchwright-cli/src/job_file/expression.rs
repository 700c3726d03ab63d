//! Expressions of job files: compiled once, evaluated for every record, bounded in every way.

use std::sync::Arc;

use batchwright::{
    Decider, Decision, ErrorKind, ItemError, ItemProcessor, JobParameters, ParameterValue,
    StepExecution,
};
use rhai::{AST, Dynamic, Engine, EvalAltResult, ImmutableString, Scope};

use super::record::{Names, Record, Value};

/// Operations that one evaluation may take; a runaway expression ends there.
const OPERATIONS_MAX: u64 = 100_000;
/// Longest text that an expression may make, in bytes.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What evaluates expressions; made once for a job.
#[derive(Clone)]
pub(super) struct Evaluator {
    engine: Arc<Engine>,
}

/// A compiled expression, with its text for messages.
#[derive(Clone)]
pub(super) struct Expression {
    text: Arc<str>,
    ast: Arc<AST>,
}

impl Evaluator {
    pub(super) fn new() -> Self {
        let mut engine = Engine::new();
        engine.disable_symbol("eval").disable_symbol("print").disable_symbol("debug");
        engine.set_max_operations(OPERATIONS_MAX);
        engine.set_max_string_size(TEXT_BYTES_MAX);
        engine.set_max_array_size(100_000).set_max_map_size(100_000);
        engine.set_max_expr_depths(64, 64);
        engine.set_strict_variables(true).set_fail_on_invalid_map_property(true);
        engine.register_type_with_name::<Record>("item");
        engine.register_indexer_get(field);
        engine.register_fn("trim", |text: ImmutableString| text.trim().to_owned());
        engine.register_fn("upper", |text: ImmutableString| text.to_uppercase());
        engine.register_fn("lower", |text: ImmutableString| text.to_lowercase());
        engine.register_fn(
            "replace",
            |text: ImmutableString, from: ImmutableString, to: ImmutableString| {
                text.replace(&*from, &to)
            },
        );
        // Every run of white space becomes one space, none at the ends.
        engine.register_fn("squeeze", |text: ImmutableString| {
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        // The n-th word, from 0; from the end when n is below zero; empty when there is none.
        engine.register_fn("word", |text: ImmutableString, index: i64| {
            let mut words = text.split_whitespace();
            let word = match usize::try_from(index) {
                Ok(index) => words.nth(index),
                Err(_) => words.nth_back(usize::try_from(-(index + 1)).unwrap_or(usize::MAX)),
            };
            word.unwrap_or_default().to_owned()
        });
        // The last word of so many capital letters; empty when there is none.
        engine.register_fn("last_upper", |text: ImmutableString, length: i64| {
            let length = usize::try_from(length).unwrap_or(0);
            let fits = |word: &&str| {
                word.len() == length && word.bytes().all(|one| one.is_ascii_uppercase())
            };
            text.split_whitespace().rev().find(fits).unwrap_or_default().to_owned()
        });
        engine.register_fn(
            "choose",
            |when: bool, yes: Dynamic, no: Dynamic| {
                if when { yes } else { no }
            },
        );
        engine.register_fn("is_digits", |text: ImmutableString| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
        });
        engine.register_fn("is_upper", |text: ImmutableString| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase())
        });
        // Text that looked like a number is one; these take it as text again.
        engine.register_fn("trim", |number: i64| number.to_string());
        engine.register_fn("trim", |number: f64| format!("{number:?}"));
        Self { engine: Arc::new(engine) }
    }

    /// Compiles `text`, which must be one expression.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where in the text.
    pub(super) fn compile(&self, text: &str) -> Result<Expression, String> {
        let mut scope = Scope::new();
        // Variables: a constant would be folded into the expression.
        scope.push("item", ()).push("params", ());
        let ast = self.engine.compile_expression_with_scope(&scope, text);
        let ast = ast.map_err(|error| format!("the expression `{text}`: {error}"))?;
        Ok(Expression { text: text.into(), ast: Arc::new(ast) })
    }

    /// Compiles `text` as a decision: it sees `params`, `steps` and `context`, and makes a code.
    ///
    /// # Errors
    ///
    /// As [`compile`](Self::compile).
    pub(super) fn decision(&self, text: &str) -> Result<ChosenCode, String> {
        let mut scope = Scope::new();
        scope.push("params", ()).push("steps", ()).push("context", ());
        let ast = self.engine.compile_expression_with_scope(&scope, text);
        let ast = ast.map_err(|error| format!("the expression `{text}`: {error}"))?;
        let expression = Expression { text: text.into(), ast: Arc::new(ast) };
        Ok(ChosenCode { evaluator: self.clone(), expression })
    }

    fn evaluate(
        &self,
        expression: &Expression,
        scope: &mut Scope<'_>,
    ) -> Result<Dynamic, ItemError> {
        self.engine
            .eval_ast_with_scope(scope, &expression.ast)
            .map_err(|error| ItemError::data(format!("evaluate `{}`: {error}", expression.text)))
    }
}

/// A decision of a job file.
pub(super) struct ChosenCode {
    evaluator: Evaluator,
    expression: Expression,
}

impl Decider for ChosenCode {
    fn decide(&self, decision: &Decision<'_>) -> Result<String, ItemError> {
        let mut scope = Scope::new();
        scope.push_constant_dynamic("params", parameters(decision.scope.parameters(), &[]).into());
        let mut steps = rhai::Map::new();
        for step in decision.steps {
            steps.insert(step.name.as_str().into(), step_map(step).into());
        }
        let context = decision.scope.context().snapshot();
        let mut values = rhai::Map::new();
        for name in context.names() {
            let value: serde_json::Value = context.get(name)?;
            values.insert(name.into(), to_dynamic(&Value::from(value)));
        }
        scope.push_constant("steps", steps).push_constant("context", values);
        let code = self.evaluator.evaluate(&self.expression, &mut scope)?;
        code.into_string().map_err(|found| {
            let text = &self.expression.text;
            ItemError::fatal(format!("evaluate `{text}`: expected a text, found {found}"))
        })
    }
}

/// What a decision sees of a step.
fn step_map(step: &StepExecution) -> rhai::Map {
    let counters = step.counters;
    let numbers = [
        ("read", counters.read),
        ("write", counters.write),
        ("filter", counters.filter),
        ("read_skip", counters.read_skip),
        ("process_skip", counters.process_skip),
        ("write_skip", counters.write_skip),
        ("skips", counters.skips()),
        ("commit", counters.commit),
        ("rollback", counters.rollback),
    ];
    let mut map = rhai::Map::new();
    for (name, number) in numbers {
        map.insert(name.into(), i64::try_from(number).unwrap_or(i64::MAX).into());
    }
    map.insert("status".into(), step.status.name().into());
    map.insert("exit".into(), step.exit.code.clone().into());
    map
}

/// `item.NAME` and `item["NAME"]`.
fn field(record: &mut Record, name: ImmutableString) -> Result<Dynamic, Box<EvalAltResult>> {
    match record.get(&name) {
        Some(value) => Ok(to_dynamic(value)),
        None => {
            let known: Vec<_> = record.names().iter().map(|name| format!("`{name}`")).collect();
            Err(format!("the item has no `{name}`; it has {}", known.join(", ")).into())
        }
    }
}

fn to_dynamic(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Boolean(value) => (*value).into(),
        Value::Integer(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Text(text) => text.to_string().into(),
        Value::Field(text) => number(text).unwrap_or_else(|| text.to_string().into()),
        Value::Json(json) => json.to_string().into(),
    }
}

/// The number that `text` is written as, if it is written the way a number is: `007` and `1e5` are text.
fn number(text: &str) -> Option<Dynamic> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let whole = digits.split('.').next().unwrap_or_default();
    if !plain || whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    match text.contains('.') {
        true => text.parse::<f64>().ok().map(Into::into),
        false => text.parse::<i64>().ok().map(Into::into),
    }
}

fn from_dynamic(value: Dynamic) -> Result<Value, String> {
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(value) = value.as_bool() {
        return Ok(Value::Boolean(value));
    }
    if let Ok(value) = value.as_int() {
        return Ok(Value::Integer(value));
    }
    if let Ok(value) = value.as_float() {
        return Ok(Value::Float(value));
    }
    let kind = value.type_name();
    match value.into_immutable_string() {
        Ok(text) => Ok(Value::text(&text)),
        Err(_) => Err(format!("a {kind} is no value of a field")),
    }
}

/// What a stage does with a record.
#[derive(Clone)]
pub(super) enum Stage {
    /// Keeps the records for which it is true.
    Filter(Expression),
    /// Fails the records for which it is true: an error of kind `data.rejected`.
    Reject { when: Expression, message: Arc<str> },
    /// Sets, drops and orders fields.
    Map { set: Vec<(Arc<str>, Expression)>, keep: Option<Names>, drop: Vec<Arc<str>> },
}

/// The processors of a step, as one.
#[derive(Clone)]
pub(super) struct Stages {
    pub(super) evaluator: Evaluator,
    pub(super) stages: Vec<Stage>,
    pub(super) parameters: rhai::Map,
}

/// The parameters as expressions see them: `params.NAME`; one that is declared and was not given is null.
pub(super) fn parameters(parameters: &JobParameters, declared: &[String]) -> rhai::Map {
    let value = |value: &ParameterValue| match value {
        ParameterValue::Integer(value) => Dynamic::from(*value),
        ParameterValue::Float(value) => Dynamic::from(*value),
        ParameterValue::Boolean(value) => Dynamic::from(*value),
        other => Dynamic::from(other.to_string()),
    };
    let missing = declared.iter().map(|name| (name.as_str().into(), Dynamic::UNIT));
    missing.chain(parameters.iter().map(|(name, one)| (name.into(), value(&one.value)))).collect()
}

impl ItemProcessor<Record> for Stages {
    type Output = Record;

    fn process(&self, item: &Record) -> Result<Option<Record>, ItemError> {
        let mut record = item.clone();
        let mut scope = self.scope(&record);
        for stage in &self.stages {
            match stage {
                Stage::Filter(when) => {
                    if !self.is_true(when, &mut scope)? {
                        return Ok(None);
                    }
                }
                Stage::Reject { when, message } => {
                    if self.is_true(when, &mut scope)? {
                        let kind = ErrorKind::new("data.rejected");
                        return Err(ItemError::new(kind, format!("accept the item: {message}")));
                    }
                }
                Stage::Map { set, keep, drop } => {
                    record = self.map(&record, &mut scope, set, keep.as_ref(), drop)?;
                    scope.set_value("item", record.clone());
                }
            }
        }
        Ok(Some(record))
    }
}

impl Stages {
    fn scope(&self, record: &Record) -> Scope<'static> {
        let mut scope = Scope::new();
        scope.push("item", record.clone());
        scope.push_constant("params", self.parameters.clone());
        scope
    }

    fn is_true(&self, when: &Expression, scope: &mut Scope<'_>) -> Result<bool, ItemError> {
        let value = self.evaluator.evaluate(when, scope)?;
        value.as_bool().map_err(|kind| {
            ItemError::data(format!(
                "evaluate `{}`: it gives a {kind}, expected true or false",
                when.text
            ))
        })
    }

    /// All expressions see the record as it was; then `drop` or `keep` chooses what stays.
    fn map(
        &self,
        record: &Record,
        scope: &mut Scope<'_>,
        set: &[(Arc<str>, Expression)],
        keep: Option<&Names>,
        drop: &[Arc<str>],
    ) -> Result<Record, ItemError> {
        let mut names: Vec<Arc<str>> = record.names().to_vec();
        let mut values: Vec<Value> = record.values().to_vec();
        for (name, expression) in set {
            let value = self.evaluator.evaluate(expression, scope)?;
            let value = from_dynamic(value).map_err(|problem| {
                ItemError::data(format!("evaluate `{}`: {problem}", expression.text))
            })?;
            match names.iter().position(|known| known == name) {
                Some(index) => values[index] = value,
                None => {
                    names.push(Arc::clone(name));
                    values.push(value);
                }
            }
        }
        if let Some(keep) = keep {
            let find = |wanted: &Arc<str>| {
                names.iter().position(|name| name == wanted).ok_or_else(|| {
                    ItemError::data(format!("keep field `{wanted}`: the item has none"))
                })
            };
            let chosen: Result<Vec<_>, _> =
                keep.iter().map(|name| find(name).map(|index| values[index].clone())).collect();
            return Ok(record.with(Arc::clone(keep), chosen?));
        }
        if drop.is_empty() {
            return Ok(record.with(names.into(), values));
        }
        let kept = names.into_iter().zip(values).filter(|(name, _)| !drop.contains(name));
        let (names, values): (Vec<_>, Vec<_>) = kept.unzip();
        Ok(record.with(names.into(), values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pairs: &[(&str, Value)]) -> Record {
        let names: Vec<Arc<str>> = pairs.iter().map(|(name, _)| Arc::from(*name)).collect();
        Record::new(names.into(), pairs.iter().map(|(_, value)| value.clone()).collect())
    }

    fn evaluate(text: &str) -> String {
        let evaluator = Evaluator::new();
        let expression = evaluator.compile(text).unwrap();
        let stages = Stages { evaluator, stages: Vec::new(), parameters: rhai::Map::new() };
        let item = record(&[
            ("amount", Value::Field("12.5".into())),
            ("quantity", Value::Field("2".into())),
            ("customer", Value::Field("  Ada ".into())),
            ("zip", Value::Field("01234".into())),
        ]);
        let set = [(Arc::from("out"), expression)];
        match stages.map(&item, &mut stages.scope(&item), &set, None, &[]) {
            Ok(mapped) => mapped.get("out").unwrap().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn fields_that_read_as_numbers_are_numbers_and_the_others_are_text() {
        assert_eq!(evaluate("item.amount * item.quantity"), "25.0");
        assert_eq!(evaluate("item.customer.trim()"), "Ada");
        assert_eq!(evaluate("item.zip.trim()"), "01234");
        assert_eq!(evaluate(r#"item["amount"] > 12"#), "true");
    }

    #[test]
    fn a_field_that_does_not_exist_is_an_error_that_says_which_do() {
        let told = evaluate("item.amuont > 0");
        assert!(told.contains("no `amuont`") && told.contains("`amount`"), "{told}");
    }

    #[test]
    fn what_is_no_expression_is_refused_when_it_is_compiled() {
        for text in ["item.amount >", "let x = 1; x", "while true {}", "eval(\"1\")", "itm.a"] {
            assert!(Evaluator::new().compile(text).is_err(), "{text}");
        }
    }
}
