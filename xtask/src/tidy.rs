//! What every source file and document must conform to, measured on the text of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Maximum number of lines of a source file.
const FILE_LINES_MAX: usize = 800;
/// Maximum number of lines of a function.
const FUNCTION_LINES_MAX: usize = 70;
/// Maximum number of columns of a line of code or comment.
const COLUMNS_MAX: usize = 132;

/// Words that name nothing: write the type, the function or the standard noun.
const WORDS: [&str; 15] = [
    "told",
    "said",
    "hear",
    "hears",
    "gone",
    "behind",
    "whoever",
    "somebody",
    "nobody",
    "trouble",
    "bury",
    "falls",
    "stands",
    "let go",
    "carried forward",
];

/// Places where one of these words is meant, each with its reason.
const WORDS_MEANT: [(&str, &str); 4] = [
    ("StatusCode::GONE", "the name of a status of HTTP"),
    ("#behind-pgbouncer", "an anchor that other pages link to"),
    ("### Behind PgBouncer", "the heading of that anchor"),
    ("## Behind ordinary requests", "a heading that other pages may link to"),
];

/// Functions that are lists, not logic, each with its reason.
const LISTS: [(&str, &str); 6] = [
    ("batchwright-jobfile/src/expression/evaluate.rs:evaluate", "a line for each kind of node"),
    ("batchwright-server/src/config.rs:checked", "the settings in their order"),
    ("batchwright-server/src/scheduler/group.rs:request", "an arm for each request"),
    ("batchwright-server/src/scheduler/plan.rs:read", "an arm for each word of a plan"),
    ("batchwright-server/src/scheduler/rule.rs:parse", "an arm for each runner"),
    ("batchwright-store/src/schedule/rows.rs:new", "all statements of the schedule"),
];

/// Crates whose modules must not import each other in a circle: then they have an order, in which each imports only
/// modules before it, and no import goes upward.
const CRATES: [&str; 8] = [
    "batchwright",
    "batchwright-cli",
    "batchwright-items",
    "batchwright-jobfile",
    "batchwright-macros",
    "batchwright-server",
    "batchwright-store",
    "batchwright-testkit",
];

/// Checks the whole repository.
pub(crate) fn check() -> Result<(), String> {
    eprintln!("\n== tidy");
    let sources = files("crates", "rs")?;
    let mut problems = Vec::new();
    for path in &sources {
        let text = read(path)?;
        let is_test = path
            .components()
            .any(|part| ["tests", "examples"].iter().any(|one| part.as_os_str() == *one));
        if !is_test {
            lines(path, &text, &mut problems);
            functions(path, &text, &mut problems);
        }
        words(path, &text, &mut problems);
        if !is_test && !text.starts_with("//!") && !path.ends_with("build.rs") {
            problems.push(format!(
                "{}: the file has no `//!` line that says what it is",
                path.display()
            ));
        }
    }
    let mut documents = files("docs/book/src", "md")?;
    documents.extend(files("docs/errors", "md")?);
    documents.extend(
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(PathBuf::from),
    );
    for path in &documents {
        words(path, &read(path)?, &mut problems);
    }
    tests_of_documents(&sources, &mut problems)?;
    paths_of_documents(&mut problems)?;
    features(&mut problems)?;
    circles(&sources, &mut problems)?;
    match problems.len() {
        0 => Ok(()),
        count => Err(format!("{count} problems:\n{}", problems.join("\n"))),
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
}

/// Files below `folder` with that ending, sorted.
pub(crate) fn files(folder: &str, ending: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|one| one == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn lines(path: &Path, text: &str, problems: &mut Vec<String>) {
    let count = text.lines().count();
    if count > FILE_LINES_MAX {
        problems.push(format!("{}: {count} lines, at most {FILE_LINES_MAX}", path.display()));
    }
    for (index, line) in text.lines().enumerate() {
        // A string may be longer than a line can be.
        let is_table = line.trim_start().starts_with("//! |");
        if line.chars().count() > COLUMNS_MAX && !line.contains('"') && !is_table {
            problems.push(format!(
                "{}:{}: more than {COLUMNS_MAX} columns",
                path.display(),
                index + 1
            ));
        }
    }
}

/// Functions end, as rustfmt writes them, with a brace at the indentation of their first line.
fn functions(path: &Path, text: &str, problems: &mut Vec<String>) {
    let all: Vec<&str> = text.lines().collect();
    for (index, line) in all.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = function_name(code) else { continue };
        let signature_end = all[index..].iter().find(|line| line.ends_with(['{', ';', '}']));
        if signature_end.is_some_and(|line| line.ends_with(';')) {
            continue;
        }
        let indent = line.len() - code.len();
        let end = format!("{}}}", " ".repeat(indent));
        let Some(length) = all[index..].iter().position(|line| **line == *end) else { continue };
        let inside = path.strip_prefix("crates").unwrap_or(path).display();
        let place = format!("{inside}:{name}");
        let is_list = LISTS.iter().any(|(list, _)| *list == place);
        if length + 1 > FUNCTION_LINES_MAX && !is_list && !is_in_tests(&all[..index]) {
            problems.push(format!(
                "{}:{}: function `{name}` has {} lines, at most {FUNCTION_LINES_MAX}",
                path.display(),
                index + 1,
                length + 1
            ));
        }
    }
}

fn function_name(code: &str) -> Option<&str> {
    let starts = ["fn ", "pub fn ", "async fn ", "pub async fn ", "const fn ", "pub const fn "];
    let visible = code.strip_prefix("pub(crate) ").or_else(|| code.strip_prefix("pub(super) "));
    let code = visible.unwrap_or(code);
    let rest = starts.iter().find_map(|start| code.strip_prefix(start))?;
    rest.split(['(', '<']).next()
}

fn is_in_tests(before: &[&str]) -> bool {
    before.contains(&"mod tests {")
}

fn words(path: &Path, text: &str, problems: &mut Vec<String>) {
    for (index, line) in text.lines().enumerate() {
        let mut line = line.to_owned();
        for (meant, _) in WORDS_MEANT {
            line = line.replace(meant, "");
        }
        let lower = line.to_lowercase();
        for word in WORDS {
            if contains_word(&lower, word) {
                problems.push(format!("{}:{}: the word `{word}`", path.display(), index + 1));
            }
        }
    }
}

/// Whether `line` contains `word` as a word of its own; names with underscores are one word.
fn contains_word(line: &str, word: &str) -> bool {
    let is_part =
        |letter: Option<char>| letter.is_some_and(|one| one.is_alphanumeric() || one == '_');
    line.match_indices(word).any(|(at, _)| {
        !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next())
    })
}

/// Tests that documents name, as `crate/file::test`, exist.
fn tests_of_documents(sources: &[PathBuf], problems: &mut Vec<String>) -> Result<(), String> {
    let mut tests = BTreeSet::new();
    for path in sources {
        for line in read(path)?.lines() {
            let code = line.trim_start();
            if let Some(name) = function_name(code) {
                tests.insert(name.to_owned());
            } else if let Some((name, _)) = code.split_once(": \"") {
                // A row of the table of faults.
                tests.insert(name.to_owned());
            }
        }
    }
    for document in ["docs/conformance.md", "docs/benchmarks.md"] {
        let text = read(Path::new(document))?;
        for (index, line) in text.lines().enumerate() {
            for named in line.split('`').skip(1).step_by(2).filter(|one| one.contains("::")) {
                let name = named.rsplit("::").next().unwrap_or_default();
                let is_test = name.contains('_')
                    && name
                        .bytes()
                        .all(|one| one == b'_' || one.is_ascii_lowercase() || one.is_ascii_digit());
                if is_test && !tests.contains(name) {
                    problems.push(format!("{document}:{}: there is no test `{name}`", index + 1));
                }
            }
        }
    }
    Ok(())
}

/// Modules that the code maps of ARCHITECTURE.md name exist: the first column of a table below "(`crates/NAME/src`)".
fn paths_of_documents(problems: &mut Vec<String>) -> Result<(), String> {
    let mut root = None;
    for (index, line) in read(Path::new("ARCHITECTURE.md"))?.lines().enumerate() {
        if line.starts_with("## ") {
            let named = line.split('`').nth(1).filter(|named| named.ends_with("/src"));
            root = named.map(PathBuf::from);
        }
        let (Some(root), Some(row)) = (&root, line.strip_prefix("| `")) else { continue };
        let first = row.split(" |").next().unwrap_or_default();
        for module in format!("`{first}").split('`').skip(1).step_by(2) {
            let file = root.join(format!("{module}.rs"));
            if !file.is_file() && !root.join(module).is_dir() {
                problems
                    .push(format!("ARCHITECTURE.md:{}: there is no module `{module}`", index + 1));
            }
        }
    }
    Ok(())
}

/// The command does not contain what only tests need.
fn features(problems: &mut Vec<String>) -> Result<(), String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--package", "batchwright-cli", "--edges", "features,no-dev"])
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    let tree = String::from_utf8_lossy(&tree.stdout);
    if tree.is_empty() || tree.contains("feature \"testing\"") {
        problems.push("the command contains the feature `testing`".to_owned());
    }
    Ok(())
}

/// Refuses circles of imports between the top modules of each crate.
fn circles(sources: &[PathBuf], problems: &mut Vec<String>) -> Result<(), String> {
    for name in CRATES {
        let root = PathBuf::from("crates").join(name).join("src");
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for path in sources.iter().filter(|path| path.starts_with(&root)) {
            let inside = path.strip_prefix(&root).map_err(|error| error.to_string())?;
            let first = inside.iter().next().unwrap_or_default().to_string_lossy().into_owned();
            let module = first.trim_end_matches(".rs").to_owned();
            if module == "lib" || module == "bin" {
                continue;
            }
            let text = read(path)?;
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let used = code.match_indices("crate::").filter_map(|(at, _)| {
                let rest = &code[at + "crate::".len()..];
                rest.split(|one: char| !one.is_alphanumeric() && one != '_').next()
            });
            let used = used.filter(|used| *used != module).map(str::to_owned);
            imports.entry(module.clone()).or_default().extend(used);
        }
        for circle in components(&imports) {
            let modules: Vec<_> = circle.into_iter().collect();
            problems.push(format!("{name}: modules import each other: {}", modules.join(", ")));
        }
    }
    Ok(())
}

/// Sets of modules that reach each other, of more than one module.
fn components(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reached = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(module) = next.pop() {
            for used in imports.get(&module).into_iter().flatten() {
                if imports.contains_key(used) && seen.insert(used.clone()) {
                    next.push(used.clone());
                }
            }
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<String>> =
        imports.keys().map(|module| (module, reached(module))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (module, reach) in &all {
        let circle: BTreeSet<String> =
            reach.iter().filter(|other| all[other].contains(*module)).cloned().collect();
        if circle.len() > 1 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_alone_and_not_within_a_name() {
        assert!(contains_word("what it told", "told") && contains_word("(gone)", "gone"));
        assert!(!contains_word("untold", "told") && !contains_word("is_gone", "gone"));
    }

    #[test]
    fn modules_that_reach_each_other_are_a_circle() {
        let imports = [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["a"]), ("d", vec!["a"])];
        let imports = imports
            .into_iter()
            .map(|(from, to)| (from.to_owned(), to.into_iter().map(str::to_owned).collect()))
            .collect();
        let found = components(&imports);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
