//! Runs one workload once with one contender and prints nanoseconds and peak memory, for `cargo xtask bench`.

mod engine;
mod plain;
mod predict;
mod servers;
mod store;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [contender, work, count, input, output] = &arguments[..] else {
        eprintln!("usage: ours CONTENDER WORK COUNT INPUT OUTPUT");
        return ExitCode::from(2);
    };
    let done = count.parse().map_err(Into::into).and_then(|count| {
        let task = work::Task { count, input: input.into(), output: output.into() };
        match contender.as_str() {
            "make" => work::make_input(&task),
            "loop" => plain::run(work, &task),
            "ours" => engine::run(work, &task),
            "loop-server" => servers::run(work, &task),
            "store" => store::run(work, &task),
            "predict" => predict::run(&task),
            other => Err(format!("no contender `{other}`").into()),
        }
    });
    match done {
        Ok(elapsed) => {
            println!("{} {}", elapsed.as_nanos(), work::peak_memory_kib());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(3)
        }
    }
}
