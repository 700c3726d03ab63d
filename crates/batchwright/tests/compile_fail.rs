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
const MISTAKES: [(&str, &[&str]); 36] = [
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
    (
        "fn f() { let _ = Job::builder(\"j\").listener(|_: u8| ()); }",
        &["is not a job listener", "implement `JobListener` for a type of your own"],
    ),
    (
        "struct L; fn f() { let _ = ChunkStepBuilder::new(\"s\").step_listener(L); }",
        &["L` is not a step listener"],
    ),
    (
        "struct L; fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).writer(NoWriter::<u64>::new()).build().chunk_listener(L); }",
        &["L` is not a chunk listener of items `u64` and outputs `u64`"],
    ),
    (
        "struct L; impl batchwright::listener::ItemListener<String, String> for L {} fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).writer(NoWriter::<u64>::new()).build().item_listener(L); }",
        &["L` is not an item listener of items `u64` and outputs `u64`"],
    ),
    (
        "fn f() { let _ = batchwright::partition::PartitionStep::new(TaskletStep::call(\"s\", || ()), vec![1]); }",
        &["`Vec<{integer}>` is not a partitioner", "`NumberRanges`"],
    ),
    (
        "fn f() { let _ = Job::builder(\"j\").decision(\"d\", \"YES\"); }",
        &["expected a `Fn(&Decision<'_>)` closure, found `str`"],
    ),
    (
        "fn f() { let _ = TaskletStep::call(\"s\", async || ()); }",
        &[
            "is not the result of a function that is called once",
            "`TaskletStep::asynchronous(name, async |call| ..)`",
        ],
    ),
    (
        "fn f() { let _ = TaskletStep::call(\"s\", || 7); }",
        &["`{integer}` is not the result of a function"],
    ),
    (
        "struct Own; fn p(_: &u64) -> Result<Option<u64>, Own> { Err(Own) } fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).processor(p).writer(NoWriter::<u64>::new()).build(); }",
        &["its result is `Result<Option<Output>, ItemError>`: `?` converts other errors"],
    ),
    (
        "fn f() { let n = std::rc::Rc::new(1); let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).process(move |i| Ok(Some(i + *n))); }",
        &["`Rc<u64>` cannot be sent between threads safely"],
    ),
    (
        "struct R; impl batchwright::item::ItemReader for R { type Item = u64; type Position = u64; fn open(&mut self, _: Option<u64>, _: &batchwright::scope::StepScope) -> Result<(), ItemError> { Ok(()) } fn read(&mut self) -> Result<Option<u64>, ItemError> { Ok(None) } fn position(&self) -> u64 { 0 } } fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(R); }",
        &["R: Clone` is not satisfied", "R` with `#[derive(Clone)]`"],
    ),
    (
        "struct P; struct R; impl batchwright::item::ItemReader for R { type Item = u64; type Position = P; fn open(&mut self, _: Option<P>, _: &batchwright::scope::StepScope) -> Result<(), ItemError> { Ok(()) } fn read(&mut self) -> Result<Option<u64>, ItemError> { Ok(None) } fn position(&self) -> P { P } }",
        &[
            "the trait bound `P: serde::Serialize` is not satisfied",
            "`#[derive(serde::Serialize)]`",
        ],
    ),
    (
        "struct R; impl batchwright::item::ItemReader for R { type Item = u64; type Position = u64; fn read(&mut self) -> Result<Option<u64>, ItemError> { Ok(None) } }",
        &["not all trait items implemented, missing: `open`, `position`"],
    ),
    (
        "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).writer(NoWriter::<u64>::new()).build().chunk_size(10); }",
        &["no method named `chunk_size` found for struct `ChunkStep"],
    ),
    (
        "fn f(j: Job) { let _ = j.step(TaskletStep::call(\"s\", || ())); }",
        &["no method named `step` found for struct `batchwright::Job`"],
    ),
    (
        "fn f(o: &JobOperator) { let _ = o.registry().register(TaskletStep::call(\"s\", || ())); }",
        &["expected `Job`, found `TaskletStep`"],
    ),
    (
        "fn f(o: &JobOperator) { let _ = o.run(\"j\", [(\"day\", 1)]); }",
        &["expected `JobParameters`, found `[(&str, {integer}); 1]`"],
    ),
    (
        "fn f() { let _ = batchwright::policy::SkipPolicy::limit(-1); }",
        &["cannot apply unary operator `-` to type `u64`"],
    ),
    (
        "fn f() { let _ = batchwright::retry::RetryPolicy::attempts(3).on(\"io\"); }",
        &["expected `Classifier`, found `&str`"],
    ),
    ("fn f() { let _ = ItemError::new(\"io\", \"x\"); }", &["expected `ErrorKind`, found `&str`"]),
    (
        "fn f() { let _ = JobParameters::new().with(\"n\", 1_u64); }",
        &["the trait bound `ParameterValue: From<u64>` is not satisfied"],
    ),
    (
        "fn f() { let _ = batchwright::step::CommandStep::new(\"s\", \"ls -l\"); }",
        &["`&str` is not an iterator"],
    ),
];

/// What is no mistake any more.
const NO_MISTAKES: [&str; 14] = [
    "fn f() { let _ = batchwright::retry::RetryPolicy::attempts(3).backoff(std::time::Duration::from_secs(1)); }",
    "fn f() { let _ = batchwright::policy::Classifier::none().including(batchwright::error::ErrorKind::IO); }",
    "fn g() {} fn f() { let _ = TaskletStep::call(\"s\", g); }",
    "fn f(o: &JobOperator, name: String) { let _ = o.run(&name, JobParameters::new()); }",
    "fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).process(|n| Ok(Some(n + 1))).process(|n| Ok((*n > 1).then(|| n.to_string()))).writer(NoWriter::new()).build(); }",
    "fn p(n: &u64) -> Result<Option<u64>, ItemError> { Ok(Some(*n)) } fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).processor(p).writer(NoWriter::new()).build(); }",
    "fn f() { let _ = JobParameters::new().with(\"a\", 1).with(\"b\", true).with(\"c\", \"x\").with(\"d\", String::new()).with(\"e\", 1.5).with(\"g\", 7_u32); }",
    "fn f() -> impl batchwright::step::Step { ChunkStepBuilder::new(\"s\").reader_with(|_| Ok(Sequence::to(1))).writer(NoWriter::new()).build() }",
    "struct L; impl batchwright::listener::JobListener for L {} fn f() { let _ = Job::builder(\"j\").listener(L); }",
    "struct L; impl batchwright::listener::ChunkListener<u64, u64> for L {} fn f() { let _ = ChunkStepBuilder::new(\"s\").reader(Sequence::to(1)).writer(NoWriter::new()).chunk_listener(L).build(); }",
    "fn f() { let _ = TaskletStep::new(\"s\", |call| { call.contribute(1, 1); Err(\"not today\")? }); }",
    "fn f() { let _ = batchwright::partition::PartitionStep::new(TaskletStep::call(\"s\", || ()), |_: &batchwright::scope::StepScope| Ok(vec![batchwright::scope::Partition::new(\"one\")])); }",
    "fn f() { let _ = batchwright::step::CommandStep::new(\"s\", [\"ls\", \"-l\"]).timeout(std::time::Duration::from_secs(1)); }",
    "fn f(o: &JobOperator) -> Result<(), Box<dyn std::error::Error>> { let h = o.start(\"j\", JobParameters::new())?; let e = o.restart(h.wait()?.id)?; drop(e.wait()?); Ok(()) }",
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

#[test]
fn what_is_no_mistake_compiles() {
    let names = "use batchwright::item::NoWriter; use batchwright::*;";
    let modules = NO_MISTAKES.iter().enumerate().map(|(number, body)| {
        format!("mod no_mistake_{number} {{ #[allow(unused_imports)] {names} #[allow(dead_code)] {body} }}\n")
    });
    let all = compile("no-mistakes", &format!("}} {} fn unused() {{", modules.collect::<String>()));
    all.unwrap_or_else(|message| panic!("{message}"));
}

/// What is no mistake any more either.
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
