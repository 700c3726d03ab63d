//! Writes the layout of a flow as SVG.

use std::fmt::Write as _;

use super::EndKind;
use super::layout::{Edge, Layout, Place, Shape, Size, layout};
use crate::job::Job;
use crate::step::StepKind;

const STYLE: &str = "text{font:13px ui-monospace,monospace;fill:#1c2733;text-anchor:middle}\
    .on{font-size:11px;fill:#52606d}.title{font-size:12px;fill:#52606d;text-anchor:start}\
    .step{fill:#fff;stroke:#2f6fb0;stroke-width:1.5}.decision{fill:#fff7e0;stroke:#b7791f;stroke-width:1.5}\
    .box{fill:#f3f6f9;stroke:#9aa5b1;stroke-dasharray:4 3}.end{fill:#e3f4e6;stroke:#2f855a}\
    .fail{fill:#fde8e8;stroke:#c53030}.stop{fill:#fff;stroke:#718096;stroke-dasharray:3 2}\
    .way{fill:none;stroke:#52606d;stroke-width:1.3;marker-end:url(#tip)}.halo{fill:#fff;opacity:.85}";

/// Height of the header with the job's name.
const HEADER: f64 = 28.0;

pub(in crate::job) fn svg(job: &Job) -> String {
    let flow = layout(&job.flow);
    let Size { width, height } = flow.size;
    let (width, height) = (width.max(200.0), height + HEADER);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\">\n<title>{0}</title>\n<style>{STYLE}</style>\n\
         <defs><marker id=\"tip\" markerWidth=\"9\" markerHeight=\"8\" refX=\"8\" refY=\"4\" orient=\"auto\">\
         <path d=\"M0 0L9 4L0 8z\" fill=\"#52606d\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text class=\"title\" x=\"16\" y=\"20\">{0}</text>\n",
        escaped(job.name())
    );
    draw(&flow, 0.0, HEADER, &mut text);
    text.push_str("</svg>\n");
    text
}

/// Draws `flow` with its corner at `x`, `y`: containers, lines, nodes, labels, so that no line covers a node.
fn draw(flow: &Layout<'_>, x: f64, y: f64, text: &mut String) {
    for place in flow.places.iter().filter(|one| matches!(one.shape, Shape::Container(_))) {
        draw_place(place, x, y, text);
    }
    flow.edges.iter().for_each(|edge| draw_edge(edge, x, y, text));
    for place in flow.places.iter().filter(|one| !matches!(one.shape, Shape::Container(_))) {
        draw_place(place, x, y, text);
    }
    flow.edges.iter().for_each(|edge| draw_label(edge, x, y, text));
}

fn draw_place(place: &Place<'_>, x: f64, y: f64, text: &mut String) {
    let (x, y, Size { width, height }) = (x + place.x, y + place.y, place.size);
    let rect = |class: &str, x: f64, y: f64, radius: f64| {
        format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             rx=\"{radius:.1}\"/>\n"
        )
    };
    match &place.shape {
        Shape::Step(kind) => {
            if *kind == StepKind::Partitions {
                text.push_str(&rect("step", x + 5.0, y + 5.0, 6.0));
            }
            text.push_str(&rect("step", x, y, 6.0));
            if *kind == StepKind::Job {
                let _ = writeln!(
                    text,
                    "<path class=\"step\" d=\"M{:.1} {y:.1}v{height:.1}M{:.1} {y:.1}v{height:.1}\"/>",
                    x + 6.0,
                    x + width - 6.0
                );
            }
        }
        Shape::Decision => {
            let (middle, level) = (x + width / 2.0, y + height / 2.0);
            let _ = writeln!(
                text,
                "<path class=\"decision\" d=\"M{x:.1} {level:.1}L{middle:.1} {y:.1}L{:.1} {level:.1}L{middle:.1} \
                 {:.1}z\"/>",
                x + width,
                y + height
            );
        }
        Shape::End(kind) => {
            let class = match kind {
                EndKind::Completed => "end",
                EndKind::Failed => "fail",
                EndKind::Stopped => "stop",
            };
            text.push_str(&rect(class, x, y, height / 2.0));
        }
        Shape::Container(flows) => {
            text.push_str(&rect("box", x, y, 8.0));
            title(&place.label, x, y + 17.0, text);
            for (inner_x, inner_y, name, flow) in flows {
                title(name, x + inner_x, y + inner_y - 1.0, text);
                draw(flow, x + inner_x, y + inner_y, text);
            }
            return;
        }
    }
    let (middle, level) = (x + width / 2.0, y + height / 2.0 + 4.5);
    let _ =
        writeln!(text, "<text x=\"{middle:.1}\" y=\"{level:.1}\">{}</text>", escaped(&place.label));
}

fn title(name: &str, x: f64, y: f64, text: &mut String) {
    if !name.is_empty() {
        let x = x + 12.0;
        let _ = writeln!(
            text,
            "<text class=\"title\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
            escaped(name)
        );
    }
}

fn draw_edge(edge: &Edge, x: f64, y: f64, text: &mut String) {
    let points: Vec<_> =
        edge.points.iter().map(|(a, b)| format!("{:.1} {:.1}", a + x, b + y)).collect();
    let _ = writeln!(text, "<path class=\"way\" d=\"M{}\"/>", points.join("L"));
}

/// Draws the label at the middle of the longest part of the line.
fn draw_label(edge: &Edge, x: f64, y: f64, text: &mut String) {
    let length = |pair: &[(f64, f64)]| (pair[1].0 - pair[0].0).abs();
    let longest = edge.points.windows(2).max_by(|a, b| length(a).total_cmp(&length(b)));
    let Some([(a, b), (c, d)]) = longest else { return };
    let (middle, level) = ((a + c) / 2.0 + x, (b + d) / 2.0 + y - 4.0);
    let width = edge.label.chars().fold(4.0, |width, _| width + 6.7);
    let _ = writeln!(
        text,
        "<rect class=\"halo\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"12\"/>\
         <text class=\"on\" x=\"{middle:.1}\" y=\"{level:.1}\">{}</text>",
        middle - width / 2.0,
        level - 10.0,
        escaped(&edge.label)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
