//! The JSON Schema of job files accepts what the program accepts.

use std::fs;
use std::path::{Path, PathBuf};

use batchwright_jobfile::JobFolder;
use serde_json::{Value, json};

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&JobFolder::default().json_schema()).unwrap()
}

fn job_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            job_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "toml") {
            found.push(path);
        }
    }
}

fn as_json(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(text).ok()?;
    serde_json::to_value(table).ok()
}

#[test]
fn every_job_file_of_the_repository_is_valid_by_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for folder in ["docs", "examples", "crates"] {
        job_files(&root.join(folder), &mut files);
    }
    let validator = validator();
    let mut checked = 0;
    for path in files {
        let Some(job) = as_json(&fs::read_to_string(&path).unwrap()) else { continue };
        // Jobs with kinds of a program's own are valid by the schema of that program.
        if job.get("steps").is_none() || path.ends_with("15_own_kinds.toml") {
            continue;
        }
        let errors: Vec<String> =
            validator.iter_errors(&job).map(|error| error.to_string()).collect();
        // Faults show what is wrong with files: the program is what judges them.
        let is_wrong = JobFolder::default().load(&path).is_err();
        assert!(errors.is_empty() || is_wrong, "{}: {errors:?}", path.display());
        checked += 1;
    }
    assert!(checked > 20, "only {checked} job files were found");
}

#[test]
fn the_schema_knows_the_keys_of_each_type() {
    let validator = validator();
    let job = |step: Value| json!({"name": "job", "steps": [step]});
    let reader = json!({"type": "sequence", "count": 3});
    let writer = json!({"type": "none"});
    assert!(validator.is_valid(&job(json!({"name": "s", "reader": reader, "writer": writer}))));
    for wrong in [
        json!({"name": "s", "type": "command", "argv": ["true"], "reader": reader}),
        json!({"name": "s", "reader": {"type": "sequence", "path": "x"}, "writer": writer}),
        json!({"name": "s", "reader": {"type": "no-such-kind"}, "writer": writer}),
        json!({"name": "s", "reader": reader, "writer": writer, "processors": [{"type": "filter"}]}),
        json!({"reader": reader, "writer": writer}),
    ] {
        assert!(!validator.is_valid(&job(wrong.clone())), "{wrong}");
    }
}
