//! A program whose own reader and tasklet are named in a job file.
//!
//! `cargo run -p batchwright-cli --example 15_own_kinds -- --store memory: run crates/batchwright-cli/examples/15_own_kinds.toml`

use std::process::ExitCode;
use std::sync::Arc;

use batchwright::step::{Flow, Tasklet, TaskletCall};
use batchwright::{JobRegistry, Sequence};
use batchwright_cli::Program;
use batchwright_items::{
    BuildContext, ItemKind, Keys, KindSchema, MakeReader, Names, Problem, Reads, Record, Value,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// Squares: the reader `squares`.
struct Squares;

/// Reads the squares of the numbers from 1 to `count`: records with the fields `n` and `square`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SquaresKeys {
    /// The last number.
    #[schemars(range(min = 1))]
    count: u32,
}

impl ItemKind for Squares {
    fn name(&self) -> &'static str {
        "squares"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().reader::<SquaresKeys>()
    }

    fn reader(&self, keys: Keys<'_>, _: &BuildContext<'_>) -> Result<MakeReader, Problem> {
        let SquaresKeys { count } = keys.parse()?;
        let names: Names = Arc::new(["n".into(), "square".into()]);
        let made = MakeReader::new(move |_| {
            let names = Arc::clone(&names);
            Ok(Reads::mapped(Sequence::to(count.into()), move |n| {
                let n = i64::try_from(n).unwrap_or(i64::MAX);
                Record::new(Arc::clone(&names), vec![n.into(), Value::Integer(n * n)])
            }))
        });
        Ok(made.fields(vec!["n".to_owned(), "square".to_owned()]))
    }
}

/// The step `announce`, which prints a line.
struct Announce;

/// Prints a line.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AnnounceKeys {
    /// The line; `${…}` is filled in.
    text: batchwright_items::Text,
}

impl ItemKind for Announce {
    fn name(&self) -> &'static str {
        "announce"
    }

    fn schema(&self) -> KindSchema {
        KindSchema::default().tasklet::<AnnounceKeys>()
    }

    fn tasklet(&self, keys: Keys<'_>, cx: &BuildContext<'_>) -> Result<Box<dyn Tasklet>, Problem> {
        let AnnounceKeys { text } = keys.parse()?;
        let text = cx.template(&text)?;
        Ok(Box::new(move |call: &mut TaskletCall<'_, '_>| {
            println!("{}", text.render(call.scope())?);
            Ok(Flow::Finished)
        }))
    }
}

fn main() -> ExitCode {
    batchwright_cli::main(Program::new(JobRegistry::new()).kind(Squares).kind(Announce))
}
