//! `graph`: prints the flow of a job as text for Graphviz, as an SVG image or as JSON.

use std::io::Write as _;

use crate::args::{Format, Global, GraphArgs};
use crate::context::App;
use crate::error::{self, CliError};

/// Prints the flow of a job in the chosen format.
pub(super) fn graph(app: &App, global: &Global, args: &GraphArgs) -> Result<u8, CliError> {
    let job = app.job(&args.job)?;
    let drawn = match global.format {
        Format::Text => job.to_dot(),
        Format::Svg => job.to_svg(),
        Format::Json => {
            let steps: Vec<_> = job.step_names().collect();
            format!("{}\n", serde_json::json!({"job": job.name(), "steps": steps}))
        }
    };
    std::io::stdout().write_all(drawn.as_bytes())?;
    Ok(error::OK)
}
