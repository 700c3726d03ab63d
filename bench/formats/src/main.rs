//! Runs one workload once, by a loop over the library of a format or by this project, and prints nanoseconds and peak memory, for
//! `cargo xtask bench formats`.

#[allow(dead_code, reason = "the other workloads have more")]
#[path = "../../ours/src/work.rs"]
mod work;

mod ours;
mod plain;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [contender, work, count, input, output] = &arguments[..] else {
        eprintln!("usage: formats CONTENDER WORK COUNT INPUT OUTPUT");
        return ExitCode::from(2);
    };
    let done = count.parse().map_err(Into::into).and_then(|count| {
        let task = work::Task { count, input: input.into(), output: output.into() };
        match contender.as_str() {
            "make" => work::make_input(&task),
            "loop" => plain::run(work, &task),
            "ours" => ours::run(work, &task),
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
