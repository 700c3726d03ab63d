//! A missing part of a step is a compile error whose text names the method to call.

use std::path::Path;
use std::process::Command;

/// Compiles `body` as a program that uses the library; returns the compiler's output.
fn compile(name: &str, body: &str) -> Result<(), String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(dir.join("src")).unwrap();
    let toml = format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
         batchwright = {{ path = {manifest:?}, default-features = false }}\n"
    );
    std::fs::write(dir.join("Cargo.toml"), toml).unwrap();
    // The lock file of the workspace, so that nothing is resolved or fetched anew.
    std::fs::copy(manifest.join("../../Cargo.lock"), dir.join("Cargo.lock")).unwrap();
    std::fs::write(dir.join("src/main.rs"), format!("fn main() {{ {body} }}")).unwrap();
    let done = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--quiet", "--target-dir"])
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile-fail"))
        .current_dir(&dir)
        .output()
        .unwrap();
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(done.stderr).unwrap()),
    }
}

#[test]
fn a_step_without_a_part_does_not_compile_and_the_compiler_says_what_to_call() {
    let whole = "let _ = batchwright::ChunkStepBuilder::new(\"s\")\
                 .reader(batchwright::Sequence::to(1))\
                 .writer(batchwright::item::NoWriter::new()).build();";
    compile("whole", whole).expect("with all its parts it compiles");

    let without_reader = whole.replace(".reader(batchwright::Sequence::to(1))", "");
    let message = compile("without-reader", &without_reader).unwrap_err();
    assert!(message.contains("Missing` is not an item reader"), "{message}");
    assert!(message.contains("call `.reader(..)` before `.build()`"), "{message}");

    let without_writer = whole.replace(".writer(batchwright::item::NoWriter::new())", "");
    let message = compile("without-writer", &without_writer).unwrap_err();
    assert!(message.contains("Missing` is not an item writer for `u64`"), "{message}");
    assert!(message.contains("call `.writer(..)` before `.build()`"), "{message}");

    let wrong_processor = whole.replace(".writer", ".processor(7).writer");
    let message = compile("wrong-processor", &wrong_processor).unwrap_err();
    assert!(message.contains("is not an item processor for `u64`"), "{message}");
}

#[test]
fn a_start_whose_handle_is_forgotten_gets_a_warning_that_names_wait() {
    let body = |end: &str| {
        format!(
            "#[deny(unused_must_use)] fn forget(operator: &batchwright::JobOperator) {{ \
             operator.start(\"job\", batchwright::JobParameters::new()).unwrap(){end}; }} let _ = forget;"
        )
    };
    compile("kept-handle", &body(".wait().unwrap()")).expect("a handle that is waited for");
    let message = compile("forgotten-handle", &body("")).unwrap_err();
    assert!(message.contains("unused `JobHandle` that must be used"), "{message}");
    assert!(message.contains("call `wait`"), "{message}");
}

#[test]
fn a_function_of_a_tasklet_or_a_processor_needs_no_types() {
    let tasklet = "let _ = batchwright::TaskletStep::new(\"s\", |call| { \
                   let _ = call.scope().step(); Ok(batchwright::step::Flow::Finished) });";
    compile("tasklet-closure", tasklet).expect("the argument of a tasklet is inferred");
    let processor = "let _ = batchwright::ChunkStepBuilder::new(\"s\")\
                     .reader(batchwright::Sequence::to(1)).process(|n| Ok(Some(n + 1)))\
                     .process(|n| Ok(Some(n.to_string())))\
                     .writer(batchwright::item::NoWriter::<String>::new()).build();";
    compile("processor-closure", processor).expect("the arguments of processors are inferred");
}

/// Mistakes of new users, and what the compiler says about each.
const MISTAKES: [(&str, &[&str]); 14] = [
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(vec![1, 2]); }",
        &["`Vec<{integer}>` is not an item reader", "`ListReader::new(list)`"],
    ),
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(1..9); }",
        &["`std::ops::Range<{integer}>` is not an item reader", "`IteratorReader::new(|read| ..)`"],
    ),
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(|| Some(1)); }",
        &["is not an item reader", "`FunctionReader::new(|position| ..)`"],
    ),
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).writer(NoWriter::<String>::new()).build(); }",
        &["`NoWriter<std::string::String>` is not an item writer for `u64`"],
    ),
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).writer(|_: &[u64]| ()).build(); }",
        &["is not an item writer for `u64`", "`DeliveryWriter::call(|items, key| ..)`"],
    ),
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).process(|n| Ok(Some(vec![*n]))).writer(NoWriter::<u64>::new()).build(); }",
        &["is not an item writer for `Vec<u64>`", "`FlatWriter::new(writer)`"],
    ),
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).process(|n| n + 1); }",
        &["expected `Result<Option<_>, ItemError>`, found `u64`"],
    ),
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).processor(async |n: &u64| Ok(Some(*n))).writer(NoWriter::<u64>::new()).build(); }",
        &["`.process_async(calls_at_once, async |item: &u64| ..)`"],
    ),
    (
        "fn f() { let _ = Job::builder(\"j\").step(ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).writer(NoWriter::<u64>::new())); }",
        &["is not a step", "call `.build()` at the end of a `ChunkStepBuilder`"],
    ),
    (
        "fn g() {} fn f() { let _ = Job::builder(\"j\").step(g); }",
        &["is not a step", "`TaskletStep::call(name, function)`"],
    ),
    (
        "struct Mine; fn f() { let _ = TaskletStep::of(\"s\", Mine); }",
        &["`Mine` is not a tasklet", "implement `Tasklet`"],
    ),
    (
        "fn f() { let _ = TaskletStep::new(\"s\", |call| { let _ = call; }); }",
        &["expected `Result<Flow, ItemError>`, found `()`"],
    ),
    (
        "fn f(o: &JobOperator) { let _ = o.run(\"j\"); }",
        &["argument #2 of type `batchwright::JobParameters` is missing"],
    ),
    (
        "fn f() { let _ = JobParameters::new().with(\"list\", vec![1]); }",
        &["the trait bound `ParameterValue: From<Vec<{integer}>>` is not satisfied"],
    ),
];

#[test]
fn the_compiler_names_the_mend_of_a_mistake() {
    let names = "use batchwright::item::NoWriter; use batchwright::*;";
    let modules = MISTAKES.iter().enumerate().map(|(number, (mistake, _))| {
        format!("mod mistake_{number} {{ #[allow(unused_imports)] {names} #[allow(dead_code)] {mistake} }}\n")
    });
    let all = compile("mistakes", &format!("}} {} fn unused() {{", modules.collect::<String>()));
    let message = all.unwrap_err();
    let lacking: Vec<&str> = MISTAKES
        .iter()
        .flat_map(|(_, words)| words.iter().copied())
        .filter(|word| !message.contains(word))
        .collect();
    assert!(lacking.is_empty(), "{message}\nlacks: {lacking:#?}");
}

/// What is no mistake any more.
#[test]
fn errors_of_every_kind_are_converted_by_a_question_mark() {
    let body = "fn all(n: &u64) -> Result<Option<u64>, batchwright::ItemError> { \
                let _ = std::fs::read(\"x\")?; let _: u8 = \"1\".parse()?; \
                Err::<(), _>(\"a text\")?; Err::<(), _>(String::new())?; \
                Err::<(), Box<dyn std::error::Error + Send + Sync>>(\"boxed\".into())?; \
                Ok(Some(*n)) } \
                let step = batchwright::ChunkStepBuilder::new(\"s\").reader(batchwright::Sequence::to(1)) \
                .process(all).writer(batchwright::item::NoWriter::new()).build(); let _ = step;";
    compile("question-mark", body).expect("every error becomes an item error");
}
