//! Expressions under random texts: each is compiled and evaluated or refused, within its bounds, and means the same
//! with more blanks and with brackets around it.

use std::sync::Arc;

use batchwright_items::{Record, Value};
use batchwright_testkit::fuzz::{Rng, run};

use super::evaluate::Scope;
use super::functions::FUNCTIONS;
use super::syntax::{Roots, parse};
use super::token::tokens;
use super::value::TEXT_BYTES_MAX;

const PIECES: &[&str] = &[
    "item",
    "params",
    "steps",
    "context",
    ".",
    "amount",
    "word",
    "list",
    "date",
    "raw",
    "null",
    "limit",
    "load",
    "status",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    "+",
    "-",
    "*",
    "/",
    "%",
    "**",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "&&",
    "||",
    "??",
    "..",
    "..=",
    "=>",
    "|",
    "_",
    "!",
    "in",
    "!in",
    "if",
    "else",
    "switch",
    "true",
    "false",
    "0",
    "1",
    "9223372036854775807",
    "1.5",
    "1e9",
    "1e-400",
    "0.1",
    "1_000",
    "\"a\"",
    "'b'",
    "\"",
    "'",
    "`",
    "`${",
    "}`",
    "\\n",
    "\\u00e4",
    "\\x",
    "// c\n",
    "/*",
    "*/",
    " ",
    "\n",
    "ä",
    "contains",
    "item.amount",
    "item[\"word\"]",
    "params.limit",
    "[1, 2]",
    "(1 + 2)",
    ".split(\",\")",
    ".replace(\"a\", \"aaaa\")",
];

const VALID: [&str; 12] = [
    r#"item.amount * item.quantity > params.limit && !(item.word in ["a", "b"])"#,
    r#"if item.amount > 10 { "large" } else if item.null == null { `n${1 + 1}` } else { 'c' }"#,
    r#"switch item.word { "a" | "b" => 1, 1..=5 if item.flag => 2, _ => -3 }"#,
    r#"item.word.trim().upper().sub_string(1, 2).contains("N") ?? false"#,
    r#"`${item.word}: ${item.amount.round(2)} ${`inner ${item.float}`}`"#,
    r#"item.list.split(",")[0].to_int() ** 2 % 7 - -item.amount"#,
    r#""word" in item && item.word[1..3] != "" || item.contains("x")"#,
    r#"max(item.amount, item.float) / 3 <= round(1_000.5e2, 1)"#,
    r#"item.word !in item.list && params.limit in 0..100"#,
    r#"if steps.load.skips > 0 { "SKIPS" } else { context.day }"#,
    r#"steps["load"].status == "COMPLETED" && "day" in context"#,
    r#"item.raw.replace("a", "bb").word(1).is_digits() // the end"#,
];

/// Beginnings and ends of what can be nested.
const NESTED: [(&str, &str); 8] = [
    ("(", ")"),
    ("[", "]"),
    ("!", ""),
    ("-", ""),
    ("if true { ", " }"),
    ("switch 1 { 1 => ", " }"),
    ("`${", "}`"),
    ("max(1, ", ")"),
];

fn text(rng: &mut Rng) -> String {
    let pieces: Vec<&str> =
        PIECES.iter().copied().chain(FUNCTIONS.iter().map(|one| one.name)).collect();
    let mut text = match rng.below(4) {
        0 => rng.text(&pieces, 20),
        1 => {
            let words: Vec<&str> = rng.of(&VALID).split_inclusive([' ', '.', '(']).collect();
            rng.mutated(&words, |rng| vec![rng.of(&pieces)]).concat()
        }
        _ => {
            let valid = rng.of(&VALID);
            rng.mutated_text(valid, &pieces)
        }
    };
    if rng.one_in(10) {
        let times = rng.of(&[2, 15, 17, 60, 70, 300, 20_000]);
        let (begin, end) = rng.of(&NESTED);
        text = format!("{}{text}{}", begin.repeat(times), end.repeat(times));
    }
    if rng.one_in(20) {
        let joint = rng.of(&[" + ", " && ", ".trim()", "[0]", ", ", " ** "]);
        text = vec![text; rng.of(&[2, 64, 255, 300])].join(joint);
    }
    text
}

/// Returns `text` with blanks and comments before each token; `None` if it has no tokens.
fn spaced(text: &str, rng: &mut Rng) -> Option<String> {
    let starts: Vec<usize> = tokens(text, 0).ok()?.iter().map(|token| token.at).collect();
    let mut spaced = String::new();
    for (index, letter) in text.chars().chain([' ']).enumerate() {
        if starts.contains(&index) {
            spaced.push_str(rng.of(&["", " ", "\n\t", " /* ` */ ", " // \" \n"]));
        }
        spaced.push(letter);
    }
    Some(spaced)
}

fn record() -> Record {
    let raw =
        |json: &str| serde_json::value::RawValue::from_string(json.to_owned()).unwrap().into();
    let fields: [(&str, Value); 12] = [
        ("amount", Value::Field("12.50".into())),
        ("quantity", Value::Field("2".into())),
        ("word", Value::Field("nöne".into())),
        ("list", Value::text("1,2,,x")),
        ("date", Value::Date(jiff::civil::date(2026, 11, 28))),
        ("raw", Value::Json(raw(r#"{"a":[1,null]}"#))),
        ("null", Value::Null),
        ("float", Value::Float(-1e300)),
        ("flag", Value::Boolean(true)),
        ("large", Value::Number(raw("1e400"))),
        ("decimal", Value::Decimal(rust_decimal::Decimal::MAX)),
        ("least", Value::Integer(i64::MIN)),
    ];
    let (names, values): (Vec<Arc<str>>, Vec<Value>) =
        fields.into_iter().map(|(name, value)| (Arc::from(name), value)).unzip();
    Record::new(names.into(), values)
}

#[test]
fn an_expression_has_one_meaning_and_keeps_its_bounds() {
    let (item, parameters) = (record(), [(Arc::from("limit"), Value::Integer(10))].into());
    let scope = Scope { item: Some(&item), parameters: &parameters, steps: &[], context: None };
    run("expressions", 800, |rng| {
        let text = text(rng);
        let roots = rng.of(&[Roots::Item, Roots::Item, Roots::Decision]);
        let parsed = parse(&text, roots);
        let shown = |text: &str| parse(text, roots).map(|node| format!("{node:?}"));
        let tree = parsed.as_ref().map(|node| format!("{node:?}")).map_err(String::clone);
        if text.len() < 2_000
            && let Some(spaced) = spaced(&text, rng)
        {
            assert_eq!(shown(&spaced).ok(), tree.clone().ok(), "{text:?} and {spaced:?}");
        }
        let Ok(node) = parsed else { return };
        match shown(&format!("({text}\n)")) {
            Err(problem) => assert!(problem.contains("nested deeper"), "{text:?}: {problem}"),
            bracketed => assert_eq!(bracketed, tree, "{text:?}"),
        }
        let value = node.evaluate(scope);
        assert_eq!(format!("{value:?}"), format!("{:?}", node.evaluate(scope)), "{text:?}");
        if let Ok(Value::Text(long)) = value.as_deref() {
            assert!(long.len() <= TEXT_BYTES_MAX, "{text:?}: {} bytes", long.len());
        }
        let mut nodes = 0_usize;
        node.visit(&mut |_| nodes += 1);
        assert!(nodes <= 1 + text.len(), "{text:?}: {nodes} nodes");
    });
}
