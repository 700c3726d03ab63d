//! The page of the book that lists the kinds is what the kinds say of themselves. `BLESS=1` writes it anew.
//! With all features, because each may add a kind.
#![cfg(all(
    feature = "archive",
    feature = "excel",
    feature = "arrow",
    feature = "avro",
    feature = "parquet",
    feature = "validate",
    feature = "xml"
))]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use batchwright_jobfile::JobFolder;
use serde_json::Value;

const HEAD: &str = "\
# Types of readers, writers, processors and steps

Each type of a reader, writer, processor or step in a job file, with its keys. The page is generated from the program: `batchwright
schema` prints the same as a JSON Schema, which editors use for completion. [Job files](job-files.md) explains the keys that
all steps have, paths, placeholders and expressions. A program can [register types of its own](job-files.md#types-of-your-own).
";

const RESTARTS: &str = "
## After a restart

What a restart of a step does with each type. *Exact* means that the outputs are those of an uninterrupted run, wherever the process was killed. Files of [other
places](places.md) and compressed files keep the promise. A `lookup` reads its rows again; `aggregate`, `deduplicate`
and `split` read those records again that they need. Other processors keep no state.
How many records a second the types read and write is among the [benchmarks](../../benchmarks.md#kinds).

| type | | after a restart |
|---|---|---|
";

fn page() -> String {
    let folder = JobFolder::default();
    let mut page = HEAD.to_owned();
    page.push_str(RESTARTS);
    for kind in folder.known_kinds().kinds() {
        let (name, schema) = (kind.name(), kind.schema());
        for part in ["reader", "writer", "step"] {
            let sentence = schema.restart_of(part);
            assert_eq!(
                schema.has(part),
                sentence.is_some(),
                "{name}: what a {part} does after a restart"
            );
            if let Some(sentence) = sentence {
                let _ = writeln!(page, "| [`{name}`](#{name}) | {part} | {sentence} |");
            }
        }
    }
    for kind in folder.known_kinds().kinds() {
        let _ = write!(page, "\n## `{}`\n", kind.name());
        let schema = kind.schema();
        let example = schema.shown_example().unwrap_or_default();
        for (part, keys) in [
            ("reader", example.reader),
            ("writer", example.writer),
            ("processor", ""),
            ("step", ""),
        ] {
            let Some(part_schema) = schema.of(part) else { continue };
            let part_schema = part_schema.as_value();
            let _ = write!(page, "\n### {} `{}`\n\n", capital(part), kind.name());
            let _ = writeln!(page, "{}", text(part_schema));
            table(part_schema, &mut page);
            if !keys.is_empty() {
                let _ = write!(
                    page,
                    "\n```toml\n[steps.{part}]\ntype = \"{}\"\n{keys}\n```\n",
                    kind.name()
                );
            }
        }
    }
    page
}

fn table(schema: &Value, page: &mut String) {
    let Some(properties) = schema["properties"].as_object().filter(|all| !all.is_empty()) else {
        return;
    };
    let required = |key: &str| {
        schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == key))
    };
    page.push_str("\n| key | required | meaning |\n|---|---|---|\n");
    let (first, rest): (Vec<_>, Vec<_>) = properties.iter().partition(|(key, _)| required(key));
    for (key, property) in first.into_iter().chain(rest) {
        let needed = if required(key) { "yes" } else { "" };
        let _ = writeln!(page, "| `{key}` | {needed} | {} |", text(property).replace('|', "\\|"));
    }
}

fn text(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
        .unwrap_or_default()
}

#[test]
fn the_book_lists_every_kind_with_its_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/book/src/kinds.md");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == page(), "docs/book/src/kinds.md is out of date: run the test with BLESS=1");
}

#[test]
fn every_key_has_a_meaning() {
    for kind in JobFolder::default().known_kinds().kinds() {
        for part in ["reader", "writer", "step"] {
            let schema = kind.schema();
            let Some(schema) = schema.of(part) else { continue };
            assert!(!text(schema.as_value()).is_empty(), "{} has no description", kind.name());
            for (key, property) in schema.as_value()["properties"].as_object().into_iter().flatten()
            {
                assert!(
                    !text(property).is_empty(),
                    "key `{key}` of {} has no meaning",
                    kind.name()
                );
            }
        }
    }
}
