//! What a store gives back, under random changes: the checkpoint of a chunk step, parameters, and the kinds of errors
//! that policies name.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use batchwright::error::ErrorKind;
use batchwright::execution::{JobExecution, StepExecution};
use batchwright::parameters::{ParameterSchema, ParameterType, ParameterValue};
use batchwright::policy::{Classifier, SkipPolicy};
use batchwright::store::JobRepository;
use batchwright::testing::CommitPoint;
use batchwright::testing::TestBench;
use batchwright::text::reject_duplicate_keys;
use batchwright::{BatchStatus, ChunkStepBuilder, Job, JobParameters, MemoryRepository};
use batchwright_items::format::json_lines::{JsonLinesReader, JsonLinesWriter};
use batchwright_testkit::fuzz::{Rng, run};
use serde_json::Value;

/// Pieces of stored JSON.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "null",
    "true",
    "-1",
    "1.5",
    "1e3",
    "1e999",
    "\"a\"",
    "\"\\u0000\"",
    " ",
    "\n",
    "\"sequence\":",
    "\"records\":",
    "\"resolved\":",
    "\"skips\":",
    "\"reader\":",
    "\"writer\":",
    "\"dead_letters\":",
    "\"byte\":",
    "\"line\":",
    "\"length\":",
    "\"input\":",
    "18446744073709551615",
    "9223372036854775807",
    "\"resolved\":1,",
    "\"skips\":3,",
    "\"sequence\":18446744073709551615,",
    "\"records\":18446744073709551615,",
    "\"resolved\":18446744073709551615,",
    "\"skips\":18446744073709551615,",
    "\"line\":18446744073709551615,",
    "\"byte\":18446744073709551615,",
];

/// The input: numbers, and lines that are skipped.
const INPUT: &str = "1\n2\nbad\n3\n4\n5\n\"bad\"\n6\n7\n8\nbad";
const OUTPUT: &str = "1\n2\n3\n4\n5\n6\n7\n8\n";

fn job(folder: &Path) -> Job {
    let copy = ChunkStepBuilder::new("copy")
        .reader(JsonLinesReader::<u64>::new(folder.join("in.jsonl")))
        .writer(JsonLinesWriter::new(folder.join("out.jsonl")))
        .chunk_size(2)
        .skip(SkipPolicy::limit(5))
        .dead_letters(folder.join("rejected.jsonl"))
        .build();
    Job::builder("copy").step(copy).build().unwrap()
}

/// Returns the step of the last execution, after `change` of its checkpoint.
fn change(
    repository: &MemoryRepository,
    last: &JobExecution,
    change: impl FnOnce(&str) -> String,
) -> StepExecution {
    let mut tx = repository.begin().unwrap();
    let mut step = tx.steps_of(last.id).unwrap().pop().unwrap();
    step.checkpoint = Some(change(&step.checkpoint.unwrap()));
    tx.update_step(&step).unwrap();
    tx.commit().unwrap();
    step
}

/// Changes the checkpoint `text`. The flag is true if the change has no meaning.
fn changed(rng: &mut Rng, text: &str) -> (String, bool) {
    let mut value: Value = serde_json::from_str(text).unwrap();
    match rng.below(6) {
        0 => {
            // Keys in another order, blanks, and a key of a later version.
            let mut fields: Vec<String> = value
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| format!(" \"{name}\" :\n{value} "))
                .collect();
            fields.push("\"later\":[1]".to_owned());
            let first = rng.below(fields.len());
            fields.rotate_left(first);
            (format!("{{{}}}", fields.join(",")), true)
        }
        1 => {
            let names = ["sequence", "records", "resolved", "skips"];
            value[rng.of(&names)] = rng.number().into();
            (value.to_string(), false)
        }
        2 => {
            let (part, name) = rng.of(&[
                ("reader", "byte"),
                ("reader", "line"),
                ("writer", "length"),
                ("dead_letters", "length"),
            ]);
            value[part][name] = rng.number().into();
            (value.to_string(), false)
        }
        _ => (rng.mutated_text(text, PIECES), false),
    }
}

#[test]
fn a_changed_checkpoint_is_refused_or_continued_from_and_never_a_panic() {
    run("checkpoints", 50, |rng| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("in.jsonl"), INPUT).unwrap();
        let repository = Arc::new(MemoryRepository::new());
        let mut bench =
            TestBench::on(Arc::<MemoryRepository>::clone(&repository), job(folder.path()));
        let commit = 1 + rng.below(4) as u64;
        bench.crash_at(CommitPoint::After, commit);
        let crashed = bench.run();
        assert_eq!(crashed.status, BatchStatus::Failed);
        let (mut original, mut same) = (String::new(), false);
        let step = change(&repository, &crashed, |text| {
            text.clone_into(&mut original);
            let (text, is_same) = changed(rng, text);
            same = is_same || text == original;
            text
        });
        let text = step.checkpoint.unwrap();
        let output = || fs::read_to_string(folder.path().join("out.jsonl")).unwrap_or_default();
        let ended = bench.restart();
        let failure =
            ended.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        assert!(!failure.contains("panicked"), "{text}: {failure}");
        match ended.status {
            BatchStatus::Completed => assert!(!same || output() == OUTPUT, "{text}: {}", output()),
            BatchStatus::Failed => assert!(!same && !failure.is_empty(), "{text}: {failure}"),
            other => panic!("{text}: {other:?}"),
        }
        // A text that is no JSON changes nothing: with the former checkpoint, the step continues.
        if serde_json::from_str::<Value>(&text).is_err() {
            assert_eq!(ended.status, BatchStatus::Failed, "{text}");
            change(&repository, &ended, |_| original);
            assert_eq!(bench.restart().status, BatchStatus::Completed, "{text}");
            assert_eq!(output(), OUTPUT, "{text}");
        }
    });
}

const PARAMETERS: &str = r#"{"s":{"value":"a,b=c","type":"string","identifying":true},"n":{"value":-7,"type":"integer"},
"f":{"value":0.1,"type":"float","identifying":false},"d":"2026-11-28","t":{"value":"2026-11-28T06:30:00+01:00",
"type":"timestamp"},"b":true,"password":{"value":"hush","secret":true},"plain":1.5,"large":9223372036854775807}"#;

const PARAMETER_PIECES: &[&str] = &[
    "{",
    "}",
    "\"value\":",
    "\"type\":",
    "\"identifying\":",
    "\"secret\":",
    "\"integer\"",
    "\"float\"",
    "\"date\"",
    "\"timestamp\"",
    "\"boolean\"",
    "\"string\"",
    "true",
    "null",
    "-0",
    "1e308",
    "1e309",
    "-1e-400",
    "18446744073709551615",
    "9223372036854775808",
    "\"9999-12-31T23:59:59Z\"",
    "\"-009999-01-02T01:59:59Z\"",
    "\"2026-02-30\"",
    "\"NaN\"",
    "\"inf\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "[1]",
    ",",
    ":",
    "\"",
];

#[test]
fn parameters_that_are_accepted_are_stored_and_read_as_the_same() {
    run("parameters", 10_000, |rng| {
        let text = rng.mutated_text(PARAMETERS, PARAMETER_PIECES);
        if let Ok(given) = serde_json::from_str::<JobParameters>(&text) {
            let stored = serde_json::to_string(&given).unwrap();
            let back: JobParameters = serde_json::from_str(&stored).unwrap();
            assert_eq!(back, given, "{text} {stored}");
            assert_eq!(back.key(), given.key(), "{text} {stored}");
            for (name, one) in given.iter() {
                let shown = one.shown_as(name).value.to_string();
                assert!(!one.secret || shown == "***", "{text}: {shown}");
                let parsed = ParameterValue::parse(&one.value.to_string(), one.value.kind());
                assert_eq!(parsed.as_ref(), Ok(&one.value), "{text}");
            }
            let _ = ParameterSchema::default().complete(given);
        }
        let kind = rng.of(&ParameterType::ALL);
        let text = rng.text(
            &[
                "2026-11-28",
                "T06:30:00",
                "Z",
                "+01:00",
                "-",
                "1",
                "e9",
                ".5",
                "true",
                "0x",
                "_",
                " ",
            ],
            4,
        );
        if let Ok(value) = ParameterValue::parse(&text, kind) {
            assert_eq!(value.kind(), kind);
            assert_eq!(ParameterValue::parse(&value.to_string(), kind), Ok(value), "{text:?}");
        }
    });
}

/// Returns whether an object of `json` has a key twice. The text has no blanks and no escapes.
fn nested_json(rng: &mut Rng, depth: usize, doubled: &mut bool) -> String {
    match rng.below(if depth == 0 { 2 } else { 4 }) {
        0 => rng.of(&["1", "-0.5e9", "null", "true"]).to_owned(),
        1 => rng.of(&["\"\"", "\"a\"", "\"{\\\"a\\\":1,\\\"a\\\":2}\"", "\"\\\\\""]).to_owned(),
        2 => {
            let items: Vec<String> =
                (0..rng.below(3)).map(|_| nested_json(rng, depth - 1, doubled)).collect();
            format!("[{}]", items.join(" ,"))
        }
        _ => {
            let mut names = Vec::new();
            let mut fields = Vec::new();
            for _ in 0..rng.below(4) {
                // The same name in two forms.
                let (name, form) =
                    rng.of(&[("a", "\"a\""), ("a", "\"\\u0061\""), ("b", "\"b\""), ("", "\"\"")]);
                *doubled |= names.contains(&name);
                names.push(name);
                fields.push(format!("{form}: {}", nested_json(rng, depth - 1, doubled)));
            }
            format!("{{{}}}", fields.join(","))
        }
    }
}

#[test]
fn a_key_that_occurs_twice_is_found_wherever_it_is() {
    run("duplicate keys", 20_000, |rng| {
        let mut doubled = false;
        let json = nested_json(rng, 4, &mut doubled);
        assert_eq!(reject_duplicate_keys(json.as_bytes()).is_err(), doubled, "{json}");
        let changed = rng.mutated_text(&json, PIECES);
        if reject_duplicate_keys(changed.as_bytes()).is_ok()
            && let Ok(value) = serde_json::from_str::<Value>(&changed)
        {
            let written = value.to_string();
            assert!(reject_duplicate_keys(written.as_bytes()).is_ok(), "{changed} {written}");
        }
    });
}

#[test]
fn the_longest_pattern_decides_about_a_kind() {
    const PARTS: &[&str] = &["data", "parse", "io", "fatal", "panic", "d", "", "ä", "data.parse"];
    run("kinds of errors", 20_000, |rng| {
        let dotted = |rng: &mut Rng| {
            let parts: Vec<&str> = (0..1 + rng.below(3)).map(|_| rng.of(PARTS)).collect();
            parts.join(".")
        };
        let kind = dotted(rng);
        let mut rules = Vec::new();
        let mut classifier = Classifier::none();
        for _ in 0..rng.below(5) {
            let (pattern, included) = (dotted(rng), rng.one_in(2));
            classifier = match included {
                true => classifier.including(pattern.clone()),
                false => classifier.excluding(pattern.clone()),
            };
            // An inclusion replaces what the pattern meant before.
            rules.retain(|(known, _)| !included || *known != pattern);
            rules.push((pattern, included));
        }
        let segments = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let fits = |pattern: &String| segments(&kind).starts_with(&segments(pattern));
        let longest =
            rules.iter().filter(|(pattern, _)| fits(pattern)).map(|(one, _)| one.len()).max();
        let deciding: Vec<bool> = rules
            .iter()
            .filter(|(pattern, _)| fits(pattern) && Some(pattern.len()) == longest)
            .map(|(_, included)| *included)
            .collect();
        let expected = !deciding.is_empty() && deciding.iter().all(|included| *included);
        assert_eq!(classifier.matches(&ErrorKind::new(kind.clone())), expected, "{kind} {rules:?}");
    });
}
