//! The documentation says what is: its job files are valid, its calls exist, its codes have pages.

mod common;

use std::path::{Path, PathBuf};

use common::Place;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|one| one == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_job_file_of_the_book_and_of_the_examples_is_valid() {
    let place = Place::new();
    let mut jobs = files(&root().join("docs/book/src/jobs"), "toml");
    jobs.extend(files(&root().join("examples"), "toml"));
    assert!(jobs.len() >= 3, "{jobs:?}");
    for job in jobs {
        place.run(&["validate", job.to_str().unwrap()]).expect(0);
    }
}

#[test]
fn the_real_example_runs_to_its_end_with_the_numbers_of_the_readme() {
    let place = Place::new();
    for name in ["import.toml", "oui.csv"] {
        std::fs::copy(root().join("examples/oui").join(name), place.path(name)).unwrap();
    }
    let done = place.run(&["run", "import.toml", "--format", "json"]).expect(0);
    assert!(done.err.contains("countries.csv"), "it says where the result is: {}", done.err);
    let load = done.json()["steps"][1].clone();
    assert_eq!(load["read"], 32_530);
    assert_eq!(load["write"], 32_343);
    assert_eq!(load["filter"], 86);
    assert_eq!((&load["process_skip"], &load["write_skip"]), (&99.into(), &2.into()));
    assert_eq!(place.read("out/rejected.jsonl").lines().count(), 101);
    assert!(place.read("out/countries.csv").contains("\nUS,11082,5784\n"));
}

#[test]
fn every_row_of_coming_from_is_used_in_a_program_that_is_compiled_and_run() {
    let book = std::fs::read_to_string(root().join("docs/book/src/coming-from.md")).unwrap();
    let programs = [
        "batchwright-store/examples/10_coming_from.rs",
        "batchwright-cli/tests/verbs.rs",
        "batchwright-cli/tests/kcp_client.rs",
        "batchwright-server/examples/12_csv_import.rs",
        "batchwright-server/examples/12_csv_import.html",
        "batchwright-server/tests/progressive.rs",
        "batchwright-server/tests/launch_queue.rs",
        "batchwright/tests/adapters.rs",
        "batchwright/tests/bench.rs",
        "batchwright/tests/parts.rs",
        "batchwright/tests/policies.rs",
        "batchwright/tests/progressive.rs",
    ];
    let read = |file: &str| std::fs::read_to_string(root().join("crates").join(file)).unwrap();
    let mut programs = programs.map(read).concat();
    for recipe in files(&root().join("docs/book/src/recipes"), "toml") {
        programs.push_str(&std::fs::read_to_string(recipe).unwrap());
    }
    let mut rows = 0;
    for line in book.lines().filter(|line| line.starts_with("| `") || line.starts_with("| ")) {
        let Some(ours) = line.split('|').nth(2).filter(|_| !line.contains("| here |")) else {
            continue;
        };
        rows += 1;
        let calls: Vec<_> = ours.split('`').skip(1).step_by(2).collect();
        assert!(!calls.is_empty(), "a row names no call of ours: {line}");
        for call in calls {
            assert!(programs.contains(call), "`{call}` is used nowhere: {line}");
        }
    }
    assert!(rows > 100, "only {rows} rows were found");
}

#[test]
fn every_code_has_its_page_and_every_page_its_row() {
    let folder = root().join("docs/errors");
    let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
    for page in files(&folder, "md") {
        let code = page.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(
            code == "README" || index.contains(&format!("({code}.md)")),
            "{code} is not in the index"
        );
    }
    let sources =
        ["batchwright/src/error.rs", "batchwright/src/refusal.rs", "batchwright-cli/src/error.rs"];
    for source in sources {
        let text = std::fs::read_to_string(root().join("crates").join(source)).unwrap();
        for line in text.lines().filter(|line| line.contains("=> \"") || line.contains("} => \"")) {
            let Some(code) = line.split('"').nth(1) else { continue };
            if code.contains('_') && !code.contains(' ') {
                assert!(
                    folder.join(format!("{code}.md")).exists(),
                    "{code} ({source}) has no page"
                );
            }
        }
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut documents = files(&root().join("docs"), "md");
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        documents.push(root().join(name));
    }
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split(')').next().unwrap().split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{}: `{target}` does not exist", document.display());
        }
    }
}

/// `BLESS=1` puts the files into the text.
#[test]
fn a_listing_that_names_a_file_is_that_file() {
    let mut listings = 0;
    for document in files(&root().join("docs/book/src"), "md") {
        let text = std::fs::read_to_string(&document).unwrap();
        let mut right = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            right += &format!("{line}\n");
            let Some((_, name)) = line.split_once(" file=").filter(|_| line.starts_with("```"))
            else {
                continue;
            };
            listings += 1;
            let path = document.parent().unwrap().join(name);
            right += &format!("{}\n```\n", std::fs::read_to_string(path).unwrap().trim_end());
            let _ = lines.by_ref().find(|line| *line == "```");
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&document, &right).unwrap();
        }
        let message = format!("{}: a listing is not its file", document.display());
        assert!(text == right || std::env::var_os("BLESS").is_some(), "{message}");
    }
    assert!(listings > 20, "{listings}");
}

#[test]
fn every_code_of_the_rest_api_has_its_page() {
    let folder = root().join("docs/errors");
    let mut sources = files(&root().join("crates/batchwright-server/src/api"), "rs");
    sources.push(root().join("crates/batchwright/src/progressive/slice.rs"));
    let mut codes = 0;
    for source in sources {
        let text = std::fs::read_to_string(&source).unwrap();
        // A code is alone on a line, or follows a status or an arrow.
        for quoted in text.split('"').skip(1).step_by(2) {
            let is_code = quoted.contains('_')
                && quoted.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
            let is_told = [", \"", "=> \"", "            \""]
                .iter()
                .any(|before| text.contains(&format!("{before}{quoted}\",")));
            if is_code && is_told && !["units_done", "next_cursor", "due_before"].contains(&quoted)
            {
                codes += 1;
                assert!(
                    folder.join(format!("{quoted}.md")).exists(),
                    "{quoted} ({}) has no page",
                    source.display()
                );
            }
        }
    }
    assert!(codes > 15, "only {codes} codes were found");
}

/// Programs that do what a published example of another batch framework does, and the lines of that one.
const NO_LONGER_THAN: [(&str, usize); 7] = [
    ("batchwright/examples/19_quick_start.rs", 9),
    ("batchwright/examples/20_two_steps.rs", 41),
    // The program of 41 lines, with a stop and a restart.
    ("batchwright/examples/21_start_stop_restart.rs", 44),
    // The program of 9 lines, with a step of 7 lines instead of 3.
    ("batchwright/examples/22_fault_tolerance.rs", 13),
    // The program of 9 lines, with a listener of 10.
    ("batchwright/examples/23_job_listener.rs", 19),
    ("batchwright-cli/examples/24_scheduler_client.rs", 15),
    // A task of 50 lines, its unit and its iterator, without the client.
    ("batchwright-server/examples/25_progressive_client.rs", 99),
];

/// Lines without imports, comments, blank lines, and the frame that `main` is in Rust.
fn lines_of(program: &str) -> usize {
    let mut is_import = false;
    let counts = |line: &str| {
        is_import |= line.starts_with("use ");
        let counts = !is_import && !line.is_empty() && !line.starts_with("//");
        is_import &= !line.ends_with(';');
        counts && !line.starts_with("fn main()") && line != "Ok(())" && line != "}"
    };
    program
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(counts)
        .filter(|it| *it)
        .count()
}

#[test]
fn programs_are_no_longer_than_those_of_others() {
    for (file, others) in NO_LONGER_THAN {
        let program = std::fs::read_to_string(root().join("crates").join(file)).unwrap();
        let ours = lines_of(&program);
        assert!((5..=others).contains(&ours), "{file} has {ours} lines, at most {others}");
    }
}
