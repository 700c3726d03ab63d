//! The public names of the library, as its documentation shows them: a list in the repository, so that a change shows, and
//! a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The list.
const LIST: &str = "docs/public-names.md";
/// Maximum number of names outside `store` and `testing`, which are for authors of stores and tests.
const NAMES_MAX: usize = 176;

/// Compares the list with the documentation in `target/doc`; with `BLESS` set, writes it.
fn check() -> Result<(), String> {
    let page = "target/doc/batchwright/all.html";
    let page = std::fs::read_to_string(page).map_err(|error| format!("{page}: {error}"))?;
    let mut modules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in page.split("<li><a href=\"").skip(1) {
        // A link to another part of the page.
        if entry.starts_with('#') {
            continue;
        }
        let Some(path) = entry.split_once('>').and_then(|(_, rest)| rest.split('<').next()) else {
            continue;
        };
        let (module, name) = path.rsplit_once("::").unwrap_or(("", path));
        modules.entry(module).or_default().push(name);
    }
    let is_for_authors =
        |module: &str| module.starts_with("store") || module.starts_with("testing");
    let counted: usize = modules
        .iter()
        .filter(|(module, _)| !is_for_authors(module))
        .map(|(_, names)| names.len())
        .sum();
    let shown = examples()?;
    let is_shown = |name: &&str| shown.contains(*name);
    let hidden: Vec<&str> = modules
        .iter()
        .filter(|(module, _)| !is_for_authors(module))
        .flat_map(|(_, names)| names.iter().copied().filter(|name| !is_shown(name)))
        .collect();
    if !hidden.is_empty() {
        return Err(format!("no example shows {}", hidden.join(", ")));
    }
    let mut text = format!(
        "# Public names\n\nThe names of the crate `batchwright`, checked by CI: {counted} outside `store` and `testing`, at most {NAMES_MAX}.\n\n| module | names |\n|---|---|\n"
    );
    for (module, mut names) in modules {
        names.sort_unstable();
        let module = if module.is_empty() { "the root" } else { module };
        let _ = writeln!(text, "| {module} | {} |", names.join(", "));
    }
    if counted > NAMES_MAX {
        return Err(format!("the library has {counted} public names, at most {NAMES_MAX}"));
    }
    if std::env::var_os("BLESS").is_some() {
        return std::fs::write(LIST, text).map_err(|error| format!("{LIST}: {error}"));
    }
    let listed = std::fs::read_to_string(LIST).map_err(|error| format!("{LIST}: {error}"))?;
    match listed == text {
        true => Ok(()),
        false => Err(format!(
            "{LIST} differs from the documentation; `BLESS=1 cargo xtask surface` writes it"
        )),
    }
}

/// Returns the words of all examples: programs, and listings in the documentation of the library.
fn examples() -> Result<BTreeSet<String>, String> {
    let mut text = String::new();
    for file in crate::tidy::files("crates", "rs")? {
        let source = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        if file.components().any(|part| part.as_os_str() == "examples") {
            text.push_str(&source);
            continue;
        }
        let mut is_listing = false;
        for line in source.lines().map(str::trim_start) {
            let comment = line.strip_prefix("//!").or_else(|| line.strip_prefix("///"));
            match comment.map(str::trim_start) {
                None => is_listing = false,
                Some(comment) if comment.starts_with("```") => is_listing = !is_listing,
                Some(comment) if is_listing => {
                    text.push_str(comment);
                    text.push('\n');
                }
                Some(_) => {}
            }
        }
    }
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned);
    Ok(words.collect())
}

/// Documents the library alone, because the features that other crates enable would change it, and compares.
pub(crate) fn run() -> Result<(), String> {
    document(&["--package", "batchwright"])?;
    check()
}

/// Runs `cargo doc` with what only tests use, so that its documents are checked too. What was documented before is removed,
/// because a module that no longer exists would stay in the list.
pub(crate) fn document(more: &[&str]) -> Result<(), String> {
    let _ = std::fs::remove_dir_all("target/doc/batchwright");
    let arguments = [&["doc", "--no-deps", "--features", "batchwright/testing"], more].concat();
    crate::cargo(&arguments, &[("RUSTDOCFLAGS", "-D warnings")])
}
