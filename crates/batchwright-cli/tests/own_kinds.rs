//! A program whose own kinds job files name: the example `15_own_kinds`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn example(arguments: &[&str]) -> Output {
    // Cargo builds the examples with the tests, beside the binary.
    let binary = Path::new(env!("CARGO_BIN_EXE_batchwright"));
    let program = binary.parent().unwrap().join("examples/15_own_kinds");
    Command::new(program).args(arguments).output().unwrap()
}

fn job_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/15_own_kinds.toml")
}

#[test]
fn a_job_file_names_the_reader_and_the_tasklet_of_its_program() {
    let path = job_file();
    let ran = example(&["--store", "memory:", "run", path.to_str().unwrap()]);
    let (out, err) =
        (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    assert_eq!(ran.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("job own-kinds writes squares"), "{out}");
    assert!(out.contains("10 read") && out.contains("5 written"), "{out}");
}

#[test]
fn the_schema_of_the_program_includes_its_kinds() {
    let schema: serde_json::Value = serde_json::from_slice(&example(&["schema"]).stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let text = std::fs::read_to_string(job_file()).unwrap();
    let job: toml::Table = toml::from_str(&text).unwrap();
    let job = serde_json::to_value(job).unwrap();
    let errors: Vec<String> = validator.iter_errors(&job).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    // Without the kinds of the program the same file is wrong.
    let ours = Command::new(env!("CARGO_BIN_EXE_batchwright")).arg("schema").output().unwrap();
    let ours: serde_json::Value = serde_json::from_slice(&ours.stdout).unwrap();
    assert!(!jsonschema::validator_for(&ours).unwrap().is_valid(&job));
}
