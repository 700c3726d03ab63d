//! Job files under random texts: each is a job or an error with its place, and an accepted file means the same when it
//! is written again from its values.

use std::fs;
use std::path::Path;

use batchwright::Job;
use batchwright_jobfile::JobFolder;
use batchwright_store::Database;
use batchwright_testkit::fuzz::{Rng, run};

/// Pieces of TOML that are not in the job files below.
const PIECES: &[&str] = &[
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "#",
    "\\u0000",
    "\"\\u0000keys\"",
    "1e999",
    "-1",
    "9223372036854775808",
    "1979-05-27T07:32:00Z",
    "true",
    "${",
    "}",
    "${params.",
    "${partition.key}",
    "partition = { by = \"bytes\", count = 4 }",
    "null",
    "\u{feff}",
    "\r",
];

/// Beginnings and ends of what can be nested.
const NESTED: [(&str, &str); 5] = [
    ("x = [", "]"),
    ("[", "]"),
    ("{ a = ", " }"),
    ("a.", " = 1"),
    ("steps = [{ name = \"s\", type = \"split\", branches = [{ name = \"b\", ", " }] }]"),
];

/// Returns the job files of the book and of the examples, and copies them to `folder`, because some use others.
fn valid(folder: &Path) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let book = fs::read_dir(root.join("docs/book/src/jobs")).unwrap();
    let mut paths: Vec<_> = book.map(|entry| entry.unwrap().path()).collect();
    paths.push(root.join("examples/oui/import.toml"));
    paths.sort();
    assert!(paths.len() > 8, "{paths:?}");
    for path in &paths {
        fs::copy(path, folder.join(path.file_name().unwrap())).unwrap();
    }
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Loads `text` as a file of `folder`.
fn load(folder: &Path, text: &str) -> Result<std::sync::Arc<Job>, String> {
    let path = folder.join("job.toml");
    fs::write(&path, text).unwrap();
    // A new source each time: a file that is written twice within a tick of the clock looks unchanged.
    let store = Database::parse("sqlite:store.db").unwrap().in_folder(folder);
    JobFolder::new(folder).database(store).load(&path).map_err(|error| error.to_string())
}

fn input(rng: &mut Rng, valid: &[String], pieces: &[&str]) -> String {
    let file = &valid[rng.below(valid.len())];
    let lines: Vec<&str> = file.split_inclusive('\n').collect();
    let mut text = match rng.below(3) {
        0 => rng.mutated_text(file, pieces),
        1 => {
            let words: Vec<&str> = file.split_inclusive([' ', '\n', '.', '"']).collect();
            rng.mutated(&words, |rng| vec![rng.of(pieces)]).concat()
        }
        _ => rng.mutated(&lines, |rng| vec![rng.of(pieces), "\n"]).concat(),
    };
    if rng.one_in(12) {
        let times = rng.of(&[2, 20, 79, 81, 200, 20_000]);
        let (begin, end) = rng.of(&NESTED);
        text.push_str(&format!("\n{}x = 1{}\n", begin.repeat(times), end.repeat(times)));
    }
    text
}

/// Checks that each place in `error` is a place of `text`.
fn check_places(error: &str, text: &str) {
    assert!(!error.contains("panicked"), "{text:?}: {error}");
    for (at, _) in error.match_indices(", line ") {
        let digits = error[at + 7..].split(|one: char| !one.is_ascii_digit()).next();
        let Some(line) = digits.and_then(|digits| digits.parse::<usize>().ok()) else { continue };
        assert!(line <= text.matches('\n').count() + 1, "{text:?}: {error}");
    }
}

#[test]
fn a_job_file_is_a_job_or_an_error_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let valid = valid(folder.path());
    let words =
        valid.iter().flat_map(|text| text.split([' ', '\n'])).filter(|word| !word.is_empty());
    let lines = valid.iter().flat_map(|text| text.lines());
    let pieces: Vec<&str> = words.chain(lines).chain(PIECES.iter().copied()).collect();
    for text in &valid {
        load(folder.path(), text).unwrap();
    }
    run("job files", 300, |rng| {
        let text = input(rng, &valid, &pieces);
        let job = match load(folder.path(), &text) {
            Ok(job) => job,
            Err(error) => return check_places(&error, &text),
        };
        let values: toml::Table = toml::from_str(&text).unwrap();
        let written = toml::to_string(&values).unwrap();
        let again = load(folder.path(), &written).unwrap_or_else(|error| {
            panic!("{text:?} is accepted, and {written:?} is not: {error}");
        });
        assert_eq!(again.fingerprint(), job.fingerprint(), "{text:?}");
        assert_eq!(again.to_dot(), job.to_dot(), "{text:?}");
        assert_eq!(again.parameters(), job.parameters(), "{text:?}");
        assert_eq!(again.description(), job.description(), "{text:?}");
        assert_eq!(again.is_restartable(), job.is_restartable(), "{text:?}");
    });
}
