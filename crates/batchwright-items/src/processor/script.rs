//! The processor `script`: a program in [Rhai](https://rhai.rs) for what expressions cannot say.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::clock::StopToken;
use batchwright::error::ErrorKind;
use batchwright::item::ItemProcessor;
use batchwright::scope::StepScope;
use rhai::packages::{
    BasicArrayPackage, BasicBlobPackage, BasicMapPackage, BasicMathPackage, BitFieldPackage,
    CorePackage, LogicPackage, MoreStringPackage, Package as _,
};
use rhai::{AST, Dynamic, Engine, EvalAltResult, Map, Scope};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::key::{At, Keys, Problem, Text};
use crate::kind::{BoxedProcessor, BuildContext, ItemKind, KindSchema, Make};
use crate::record::{Names, Record};
use crate::value::Value;

/// Maximum number of operations of a call without `operations_max`.
const OPERATIONS_MAX: u64 = 1_000_000;
/// Maximum sizes of values in a script: bytes of a text, elements of a list, entries of a map.
const TEXT_BYTES_MAX: usize = 16 * 1024 * 1024;
const ELEMENTS_MAX: usize = 1_000_000;
/// Maximum depths of calls and of expressions.
const CALLS_MAX: usize = 64;
const DEPTH_MAX: usize = 128;
/// Maximum number of lists and objects that a value is within.
const VALUE_DEPTH_MAX: usize = 100;
/// Number of operations between two looks for a stop request.
const OPERATIONS_PER_LOOK: u64 = 4096;

/// The kind `script`.
pub(crate) struct ScriptKind;

/// Calls a program in Rhai with each item. Its result is the new item; `()` leaves the item out, and `throw` makes it a bad record.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScriptKeys {
    /// The program. The item is the variable `item`, an object map.
    code: Option<At<String>>,
    /// Path of a file with the program, relative to the job file. It is read when the step begins.
    file: Option<Text>,
    /// Maximum number of operations for an item, such as 100 for a short program. Default: 1,000,000.
    operations_max: Option<std::num::NonZeroU64>,
}

impl ItemKind for ScriptKind {
    fn name(&self) -> &'static str {
        "script"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().processor::<ScriptKeys>()
    }

    fn processor(
        &self,
        keys: Keys<'_>,
        cx: &BuildContext<'_>,
    ) -> Result<Make<BoxedProcessor>, Problem> {
        let ScriptKeys { code, file, operations_max } = keys.parse()?;
        let operations_max = operations_max.map_or(OPERATIONS_MAX, Into::into);
        match (code, file) {
            (Some(code), None) => {
                let program = engine(operations_max).compile(code.get_ref()).map(Arc::new);
                let program = program.map_err(|error| {
                    Problem::at(&code, format!("the program cannot be compiled: {error}"))
                })?;
                Ok(Box::new(move |scope| {
                    let program = Arc::clone(&program);
                    Ok(Box::new(Script::new(operations_max, program, scope)) as BoxedProcessor)
                }))
            }
            (None, Some(path)) => {
                let path = cx.path(&path)?;
                Ok(Box::new(move |scope| {
                    let program = Arc::new(read(&engine(operations_max), &path(scope)?)?);
                    Ok(Box::new(Script::new(operations_max, program, scope)) as BoxedProcessor)
                }))
            }
            _ => Err(keys.problem("a `script` has either `code` or `file`")),
        }
    }

    fn is_independent(&self) -> bool {
        true
    }
}

/// Compiles the program in the file at `path`.
fn read(engine: &Engine, path: &Path) -> Result<AST, ItemError> {
    let failed = |what: String| {
        ItemError::fatal(format!("cannot use the program `{}`: {what}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    engine.compile(text).map_err(|error| failed(error.to_string()))
}

/// Returns an engine whose programs reach nothing but their item, and end.
fn engine(operations_max: u64) -> Engine {
    let mut engine = Engine::new_raw();
    // All but that of time: the same item has the same result, at any time.
    CorePackage::new().register_into_engine(&mut engine);
    BitFieldPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BasicMathPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicBlobPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);
    MoreStringPackage::new().register_into_engine(&mut engine);
    for symbol in ["eval", "import", "export"] {
        engine.disable_symbol(symbol);
    }
    engine.register_fn("sleep", |_: i64| -> Result<(), Box<EvalAltResult>> {
        Err("no program sleeps".into())
    });
    engine.register_fn("sleep", |_: f64| -> Result<(), Box<EvalAltResult>> {
        Err("no program sleeps".into())
    });
    mix_numbers(&mut engine);
    engine.set_max_operations(operations_max);
    engine.set_max_string_size(TEXT_BYTES_MAX);
    engine.set_max_array_size(ELEMENTS_MAX);
    engine.set_max_map_size(ELEMENTS_MAX);
    engine.set_max_call_levels(CALLS_MAX);
    engine.set_max_expr_depths(DEPTH_MAX, DEPTH_MAX);
    engine
}

/// Adds operators of exact numbers and binary fractions, such as the literal `0.19`: that is then the number as it is written.
fn mix_numbers(engine: &mut Engine) {
    macro_rules! mix {
        ($($operator:literal => $result:ty: $apply:expr;)*) => {$(
            let apply: fn(Decimal, Decimal) -> Option<$result> = $apply;
            engine.register_fn($operator, move |one: Decimal, other: f64| mixed(Some(one), exact(other), apply));
            engine.register_fn($operator, move |one: f64, other: Decimal| mixed(exact(one), Some(other), apply));
        )*};
    }
    mix! {
        "+" => Decimal: Decimal::checked_add;
        "-" => Decimal: Decimal::checked_sub;
        "*" => Decimal: Decimal::checked_mul;
        "/" => Decimal: Decimal::checked_div;
        "%" => Decimal: Decimal::checked_rem;
        "==" => bool: |one, other| Some(one == other);
        "!=" => bool: |one, other| Some(one != other);
        "<" => bool: |one, other| Some(one < other);
        "<=" => bool: |one, other| Some(one <= other);
        ">" => bool: |one, other| Some(one > other);
        ">=" => bool: |one, other| Some(one >= other);
    }
}

/// Returns the exact number that a binary fraction is written as.
fn exact(number: f64) -> Option<Decimal> {
    Decimal::from_str_exact(&number.to_string()).ok()
}

fn mixed<T>(
    one: Option<Decimal>,
    other: Option<Decimal>,
    apply: fn(Decimal, Decimal) -> Option<T>,
) -> Result<T, Box<EvalAltResult>> {
    let result = one.zip(other).and_then(|(one, other)| apply(one, other));
    result.ok_or_else(|| "the result of exact numbers and binary fractions has no value".into())
}

struct Script {
    engine: Engine,
    program: Arc<AST>,
    stop: StopToken,
}

impl Script {
    fn new(operations_max: u64, program: Arc<AST>, scope: &StepScope) -> Self {
        let (mut engine, stop) = (engine(operations_max), scope.stop().clone());
        let looked = stop.clone();
        engine.on_progress(move |operations| {
            let looks = operations % OPERATIONS_PER_LOOK == 0;
            (looks && looked.is_requested()).then_some(Dynamic::UNIT)
        });
        Self { engine, program, stop }
    }
}

impl ItemProcessor<Record> for Script {
    type Output = Record;

    fn process(&self, item: &Record) -> Result<Option<Record>, ItemError> {
        let fields = item.names().iter().zip(item.values());
        let fields = fields.map(|(name, value)| Ok(((&**name).into(), dynamic(value, 0)?)));
        let map: Map = fields.collect::<Result<_, ItemError>>()?;
        let mut scope = Scope::new();
        scope.push("item", map);
        let result = self.engine.eval_ast_with_scope::<Dynamic>(&mut scope, &self.program);
        let result = result.map_err(|error| match self.stop.is_requested() {
            true => ItemError::stopped("a stop was requested while a program ran"),
            false => failed(&error),
        })?;
        if result.is_unit() {
            return Ok(None);
        }
        let kind = result.type_name();
        let fields = result.try_cast::<Map>().ok_or_else(|| {
            let what =
                format!("the program returns {kind} and no item: its last line is `item`, or `()`");
            ItemError::fatal(what)
        })?;
        record(item, fields).map(Some)
    }
}

/// The error of a program: `throw` and values that do not fit make a bad record.
fn failed(error: &EvalAltResult) -> ItemError {
    let what = match error.unwrap_inner() {
        EvalAltResult::ErrorRuntime(thrown, _) => thrown.to_string(),
        other => format!("the program fails: {other}"),
    };
    ItemError::new(ErrorKind::new("data.script"), what)
}

/// Returns the record of `fields`: those of `before` in their order, then the others in the order of their names. A field that
/// the program did not change keeps its value as it is.
fn record(before: &Record, mut fields: Map) -> Result<Record, ItemError> {
    let mut names = Vec::with_capacity(fields.len());
    let mut values = Vec::with_capacity(fields.len());
    for (name, old) in before.names().iter().zip(before.values()) {
        if let Some(found) = fields.remove(&**name) {
            names.push(Arc::clone(name));
            values.push(match is_same(old, &found)? {
                true => old.clone(),
                false => top_value(name, found)?,
            });
        }
    }
    for (name, found) in fields {
        values.push(top_value(&name, found)?);
        names.push(name.as_str().into());
    }
    let same = names.len() == before.names().len()
        && names.iter().zip(before.names().iter()).all(|(one, other)| Arc::ptr_eq(one, other));
    let names: Names = if same { Arc::clone(before.names()) } else { names.into() };
    Ok(before.with(names, values.into()))
}

/// Whether `made` is what a program gets for `value`.
fn is_same(value: &Value, made: &Dynamic) -> Result<bool, ItemError> {
    let is_text = |text: &str| made.as_immutable_string_ref().is_ok_and(|made| *made == *text);
    Ok(match value {
        Value::Null => made.is_unit(),
        Value::Boolean(value) => made.as_bool() == Ok(*value),
        Value::Integer(number) => made.as_int() == Ok(*number),
        Value::Decimal(number) => made.as_decimal() == Ok(*number),
        Value::Float(number) => {
            made.as_float().is_ok_and(|made| made.to_bits() == number.to_bits())
        }
        Value::Text(text) | Value::Field(text) => is_text(text),
        Value::Date(_) | Value::Time(_) | Value::Timestamp(_) => is_text(&value.to_string()),
        Value::Bytes(bytes) => {
            made.read_lock::<rhai::Blob>().is_some_and(|made| made.as_slice() == &**bytes)
        }
        Value::Number(_) | Value::Json(_) | Value::List(_) | Value::Map(_) => {
            is_equal(&dynamic(value, 0)?, made)
        }
    })
}

/// Whether two values of programs are equal, of the same types.
fn is_equal(one: &Dynamic, other: &Dynamic) -> bool {
    if let (Some(one), Some(other)) = (one.read_lock::<Map>(), other.read_lock::<Map>()) {
        let mut pairs = one.iter().zip(other.iter());
        return one.len() == other.len()
            && pairs.all(|((name, one), (also, other))| name == also && is_equal(one, other));
    }
    if let (Some(one), Some(other)) =
        (one.read_lock::<rhai::Array>(), other.read_lock::<rhai::Array>())
    {
        let mut pairs = one.iter().zip(other.iter());
        return one.len() == other.len() && pairs.all(|(one, other)| is_equal(one, other));
    }
    if let (Some(one), Some(other)) =
        (one.read_lock::<rhai::Blob>(), other.read_lock::<rhai::Blob>())
    {
        return *one == *other;
    }
    one.is_unit() && other.is_unit()
        || one.as_bool().is_ok_and(|one| other.as_bool() == Ok(one))
        || one.as_int().is_ok_and(|one| other.as_int() == Ok(one))
        || one.as_decimal().is_ok_and(|one| other.as_decimal() == Ok(one))
        || one.as_float().is_ok_and(|one| other.as_float() == Ok(one))
        || one
            .as_immutable_string_ref()
            .is_ok_and(|one| other.as_immutable_string_ref().is_ok_and(|other| *one == *other))
}

/// Returns the error of a value within more lists and objects than a program can hold.
fn too_deep() -> ItemError {
    ItemError::data(format!("a value is within more than {VALUE_DEPTH_MAX} lists and objects"))
}

/// Returns `value`, which is within `depth` others, for a program. Numbers of JSON are integers, or exact.
fn dynamic(value: &Value, depth: usize) -> Result<Dynamic, ItemError> {
    if depth > VALUE_DEPTH_MAX {
        return Err(too_deep());
    }
    Ok(match value {
        Value::Null => Dynamic::UNIT,
        Value::Boolean(value) => (*value).into(),
        Value::Integer(number) => (*number).into(),
        Value::Decimal(number) => Dynamic::from_decimal(*number),
        Value::Float(number) => (*number).into(),
        Value::Text(text) | Value::Field(text) => (&**text).into(),
        Value::Number(json) => number(json.get())?,
        Value::Json(json) => of_json(json, depth)?,
        Value::List(values) => {
            let values = values.iter().map(|value| dynamic(value, depth + 1));
            Dynamic::from_array(values.collect::<Result<_, _>>()?)
        }
        Value::Map(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| Ok(((&**name).into(), dynamic(value, depth + 1)?)));
            Dynamic::from_map(fields.collect::<Result<_, ItemError>>()?)
        }
        Value::Bytes(bytes) => Dynamic::from_blob(bytes.to_vec()),
        Value::Date(_) | Value::Time(_) | Value::Timestamp(_) => value.to_string().into(),
    })
}

fn number(text: &str) -> Result<Dynamic, ItemError> {
    if let Ok(number) = text.parse::<i64>() {
        return Ok(number.into());
    }
    let exact = Decimal::from_str_exact(text).or_else(|_| Decimal::from_scientific(text));
    // A number such as 1e300 is a binary fraction, which must be written with the same digits.
    let digits = |text: &str| {
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        mantissa.bytes().filter(|byte| (b'1'..=b'9').contains(byte)).collect::<Vec<_>>()
    };
    if let Ok(number) = exact
        && digits(&number.to_string()) == digits(text)
    {
        return Ok(Dynamic::from_decimal(number));
    }
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    let is_exact = |number: &f64| digits(&format!("{number:e}")) == digits(text);
    number.filter(is_exact).map(Into::into).ok_or_else(|| {
        ItemError::data(format!("a program cannot hold the number {text}: it has too many digits"))
    })
}

/// Returns a list or an object of JSON, whose numbers keep their digits.
fn of_json(json: &RawValue, depth: usize) -> Result<Dynamic, ItemError> {
    let inner = |raw: &RawValue| dynamic(&Value::from_raw(raw)?, depth + 1);
    if json.get().starts_with('[') {
        let elements: Vec<&RawValue> = serde_json::from_str(json.get())?;
        let elements = elements.into_iter().map(inner).collect::<Result<_, ItemError>>()?;
        return Ok(Dynamic::from_array(elements));
    }
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(json.get())?;
    let fields = fields.into_iter().map(|(name, raw)| Ok(((&*name).into(), inner(raw)?)));
    Ok(Dynamic::from_map(fields.collect::<Result<_, ItemError>>()?))
}

/// Returns the value of the field `name` that a program made; lists and objects are JSON, which tables and text files have as such.
fn top_value(name: &str, made: Dynamic) -> Result<Value, ItemError> {
    let value = value(name, made, 0)?;
    Ok(match &value {
        Value::List(_) | Value::Map(_) => {
            Value::Json(serde_json::value::to_raw_value(&value)?.into())
        }
        _ => value,
    })
}

/// Returns a value of the field `name` that a program made, which is within `depth` others.
fn value(name: &str, made: Dynamic, depth: usize) -> Result<Value, ItemError> {
    if depth > VALUE_DEPTH_MAX {
        return Err(too_deep());
    }
    let kind = made.type_name();
    let no_value = || {
        ItemError::fatal(format!(
            "the program makes `{name}` a value of the type {kind}, which no field holds"
        ))
    };
    if made.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(value) = made.as_bool() {
        return Ok(Value::Boolean(value));
    }
    if let Ok(number) = made.as_int() {
        return Ok(Value::Integer(number));
    }
    if let Ok(number) = made.as_decimal() {
        return Ok(Value::Decimal(number));
    }
    if let Ok(number) = made.as_float() {
        return Ok(Value::Float(number));
    }
    if let Ok(text) = made.as_immutable_string_ref() {
        return Ok(Value::text(&text));
    }
    if let Ok(character) = made.as_char() {
        return Ok(Value::text(character.encode_utf8(&mut [0; 4])));
    }
    if made.is_array() {
        let values = made.into_array().map_err(|_| no_value())?;
        let values = values.into_iter().map(|element| value(name, element, depth + 1));
        return Ok(Value::List(values.collect::<Result<_, _>>()?));
    }
    if made.is_blob() {
        return Ok(Value::Bytes(made.into_blob().map_err(|_| no_value())?.into()));
    }
    let fields = made.try_cast::<Map>().ok_or_else(no_value)?;
    let fields = fields
        .into_iter()
        .map(|(inner, found)| Ok((Arc::from(inner.as_str()), value(name, found, depth + 1)?)));
    Ok(Value::Map(fields.collect::<Result<_, ItemError>>()?))
}
