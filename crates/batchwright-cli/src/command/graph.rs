//! `graph`: the flow of a job as text for Graphviz, or as a picture.

use std::fmt::Write as _;
use std::io::Write as _;

use batchwright::Job;

use crate::args::{Format, Global, GraphArgs};
use crate::context::App;
use crate::error::{self, CliError};

/// Draws the flow of a job.
pub(super) fn graph(app: &App<'_>, global: &Global, args: &GraphArgs) -> Result<u8, CliError> {
    let job = app.job(&args.job)?;
    let drawn = match global.format {
        Format::Text => dot(&job),
        Format::Svg => svg(&job),
        Format::Json => {
            let steps: Vec<_> = job.step_names().collect();
            format!("{}\n", serde_json::json!({"job": job.name(), "steps": steps}))
        }
    };
    std::io::stdout().write_all(drawn.as_bytes())?;
    Ok(error::OK)
}

fn dot(job: &Job) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text =
        format!("digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n", quoted(job.name()));
    let steps: Vec<_> = job.step_names().map(quoted).collect();
    for step in &steps {
        let _ = writeln!(text, "  {step};");
    }
    for pair in steps.windows(2) {
        let _ = writeln!(text, "  {} -> {} [label=\"COMPLETED\"];", pair[0], pair[1]);
    }
    text.push_str("}\n");
    text
}

const BOX_HEIGHT: usize = 40;
const GAP: usize = 40;
/// Wide enough for a character of the font below.
const CHARACTER_WIDTH: usize = 9;

fn svg(job: &Job) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let steps: Vec<_> = job.step_names().collect();
    let longest = steps.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let box_width = longest * CHARACTER_WIDTH + 32;
    let width = steps.len() * box_width + steps.len().saturating_sub(1) * GAP + 20;
    let height = BOX_HEIGHT + 20;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"monospace\" font-size=\"14\">\n<title>{}</title>\n\
         <defs><marker id=\"tip\" markerWidth=\"8\" markerHeight=\"8\" refX=\"7\" refY=\"4\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\"/></marker></defs>\n",
        escaped(job.name())
    );
    for (index, name) in steps.iter().enumerate() {
        let x = 10 + index * (box_width + GAP);
        let (middle, y) = (x + box_width / 2, 10 + BOX_HEIGHT / 2);
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"10\" width=\"{box_width}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"white\" \
             stroke=\"black\"/><text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y + 5,
            escaped(name)
        );
        if index + 1 < steps.len() {
            let (from, to) = (x + box_width, x + box_width + GAP);
            let _ = writeln!(
                text,
                "<line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" stroke=\"black\" \
                 marker-end=\"url(#tip)\"/>"
            );
        }
    }
    text.push_str("</svg>\n");
    text
}
