//! The layout of the picture of a flow: pure arithmetic, in pixels.
//!
//! Nodes and ends are arranged in columns: each one column after the last of its predecessors (the
//! longest-path layering of Sugiyama's method; the order within a column is that of the definition). An edge
//! to the next column is a line; every other edge has a track of its own, above the columns for forward edges
//! and below them for backward edges.

use super::{EndKind, Way, ways};
use crate::job::flow::{JobFlow, Node, NodeKind};
use crate::step::StepKind;

/// Upper bound of the width of a label's character.
const CHARACTER: f64 = 7.6;
const BOX_HEIGHT: f64 = 40.0;
const END_HEIGHT: f64 = 28.0;
const ROW_GAP: f64 = 26.0;
const COLUMN_GAP_MIN: f64 = 44.0;
const LANE: f64 = 24.0;
const PADDING: f64 = 16.0;
/// Height of the title of a container.
const TITLE: f64 = 24.0;

#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A flow with its positions, relative to its own corner.
pub(super) struct Layout<'f> {
    pub(super) size: Size,
    pub(super) places: Vec<Place<'f>>,
    pub(super) edges: Vec<Edge>,
}

/// A node or an end, with its position.
pub(super) struct Place<'f> {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) size: Size,
    pub(super) label: String,
    pub(super) shape: Shape<'f>,
}

pub(super) enum Shape<'f> {
    Step(StepKind),
    Decision,
    /// Nested flows, with their offsets from the corner of the place.
    Container(Vec<(f64, f64, &'f str, Layout<'f>)>),
    End(EndKind),
}

/// An edge between two places.
pub(super) struct Edge {
    pub(super) label: String,
    /// Corners of the line; the label is centred on its longest level part.
    pub(super) points: Vec<(f64, f64)>,
}

impl Place<'_> {
    fn left(&self) -> (f64, f64) {
        (self.x, self.y + self.size.height / 2.0)
    }

    fn right(&self) -> (f64, f64) {
        (self.x + self.size.width, self.y + self.size.height / 2.0)
    }
}

fn text_width(text: &str) -> f64 {
    f64::from(u32::try_from(text.chars().count()).unwrap_or(u32::MAX)) * CHARACTER
}

pub(super) fn layout(flow: &JobFlow) -> Layout<'_> {
    let mut places: Vec<_> = flow.nodes.iter().map(place).collect();
    // Links between places. Ends become places after the nodes; equal ends share one place.
    let mut links: Vec<(usize, usize, String)> = Vec::new();
    for index in 0..flow.nodes.len() {
        for (pattern, way) in ways(flow, index) {
            let to = match way {
                Way::To(to) => to,
                Way::Ends(label, kind) => end(&mut places, &label, kind),
            };
            match links.iter_mut().find(|(a, b, _)| (*a, *b) == (index, to)) {
                Some((_, _, label)) => *label = format!("{label}, {pattern}"),
                None => links.push((index, to, pattern)),
            }
        }
    }
    let columns = columns(&links, flow.nodes.len(), places.len());
    let column_ends = place_all(&mut places, &columns, &links);
    let lanes_above = route_count(&links, &columns, false);
    let lanes_below = route_count(&links, &columns, true);
    let lift = lane_room(lanes_above);
    for place in &mut places {
        place.x += PADDING;
        place.y += PADDING + lift;
    }
    let bottom = places.iter().map(|one| one.y + one.size.height).fold(0.0, f64::max);
    let right = places.iter().map(|one| one.x + one.size.width).fold(0.0, f64::max);
    let edges = edges(&places, &links, &columns, &column_ends, lift, bottom);
    let size = Size { width: right + PADDING, height: bottom + lane_room(lanes_below) + PADDING };
    Layout { size, places, edges }
}

fn lane_room(lanes: usize) -> f64 {
    f64::from(u32::try_from(lanes).unwrap_or(u32::MAX)) * LANE
}

fn place(node: &Node) -> Place<'_> {
    let wide = |extra: f64| Size { width: text_width(&node.name) + extra, height: BOX_HEIGHT };
    let (size, shape) = match &node.kind {
        NodeKind::Step(step) => (wide(32.0), Shape::Step(step.kind())),
        NodeKind::Decision(_) => {
            (Size { height: BOX_HEIGHT + 16.0, ..wide(64.0) }, Shape::Decision)
        }
        NodeKind::Flow(flow) => container(&node.name, std::slice::from_ref(flow), false),
        NodeKind::Split(branches) => container(&node.name, branches, true),
    };
    Place { x: 0.0, y: 0.0, size, label: node.name.clone(), shape }
}

/// Stacks flows in a box; those of a split have their names.
fn container<'f>(name: &str, flows: &'f [JobFlow], named: bool) -> (Size, Shape<'f>) {
    let (mut inner, mut y, mut width) = (Vec::new(), TITLE, text_width(name) + 2.0 * PADDING);
    for flow in flows {
        if named {
            y += TITLE - 8.0;
            width = width.max(text_width(&flow.name) + 2.0 * PADDING);
        }
        let laid = layout(flow);
        let size = laid.size;
        inner.push((0.0, y, if named { flow.name.as_str() } else { "" }, laid));
        y += size.height;
        width = width.max(size.width);
    }
    (Size { width, height: y }, Shape::Container(inner))
}

fn end(places: &mut Vec<Place<'_>>, label: &str, kind: EndKind) -> usize {
    let same = |place: &Place<'_>| {
        place.label == label && matches!(place.shape, Shape::End(known) if known == kind)
    };
    places.iter().position(same).unwrap_or_else(|| {
        let size = Size { width: text_width(label) + 28.0, height: END_HEIGHT };
        let (label, shape) = (label.to_owned(), Shape::End(kind));
        places.push(Place { x: 0.0, y: 0.0, size, label, shape });
        places.len() - 1
    })
}

/// Returns the column of each place.
fn columns(links: &[(usize, usize, String)], nodes: usize, places: usize) -> Vec<usize> {
    let mut columns = vec![0; places];
    for index in 0..nodes {
        // Without a forward link to it, a node is placed after its predecessor in the definition.
        if index > 0 && !links.iter().any(|(from, to, _)| *to == index && *from < index) {
            columns[index] = columns[index - 1] + 1;
        }
        for (_, to, _) in links.iter().filter(|(from, to, _)| *from == index && *to > index) {
            columns[*to] = columns[*to].max(columns[index] + 1);
        }
    }
    columns
}

/// Places every place in its column. A column is as wide as its widest place, and the gap before the next
/// column fits the labels in it.
///
/// Returns the right edge of each column.
fn place_all(
    places: &mut [Place<'_>],
    columns: &[usize],
    links: &[(usize, usize, String)],
) -> Vec<f64> {
    let count = columns.iter().max().map_or(0, |last| last + 1);
    let members = |column: usize| (0..columns.len()).filter(move |index| columns[*index] == column);
    let heights: Vec<f64> = (0..count)
        .map(|column| {
            let sum: f64 = members(column).map(|one| places[one].size.height + ROW_GAP).sum();
            sum - ROW_GAP
        })
        .collect();
    let tallest = heights.iter().copied().fold(0.0, f64::max);
    let (mut x, mut ends) = (0.0, Vec::new());
    for (column, height) in heights.iter().enumerate() {
        let width = members(column).map(|one| places[one].size.width).fold(0.0, f64::max);
        let mut y = (tallest - height) / 2.0;
        for one in members(column).collect::<Vec<_>>() {
            places[one].x = x;
            places[one].y = y;
            y += places[one].size.height + ROW_GAP;
        }
        let label = links
            .iter()
            .filter(|(from, to, _)| columns[*from] == column && columns[*to] == column + 1)
            .map(|(_, _, label)| text_width(label))
            .fold(0.0, f64::max);
        ends.push(x + width);
        x += width + COLUMN_GAP_MIN.max(label + 36.0);
    }
    ends
}

/// Whether the edge leads to the next column.
fn is_short(columns: &[usize], from: usize, to: usize) -> bool {
    columns[to] == columns[from] + 1
}

fn route_count(links: &[(usize, usize, String)], columns: &[usize], backwards: bool) -> usize {
    let counted = |(from, to, _): &&(usize, usize, String)| {
        !is_short(columns, *from, *to) && (columns[*to] <= columns[*from]) == backwards
    };
    links.iter().filter(counted).count()
}

fn edges(
    places: &[Place<'_>],
    links: &[(usize, usize, String)],
    columns: &[usize],
    column_ends: &[f64],
    lift: f64,
    bottom: f64,
) -> Vec<Edge> {
    let (mut above, mut below) = (PADDING + lift, bottom);
    let mut edges = Vec::new();
    for (from, to, label) in links {
        let (source, target) = (&places[*from], &places[*to]);
        let (start, goal) = (source.right(), target.left());
        // First level to the end of the column, so that the line crosses no other place.
        let column_end = column_ends[columns[*from]] + PADDING;
        let (a, b) = (column_end + 10.0, goal.0 - 14.0);
        let points = if is_short(columns, *from, *to) {
            vec![start, (column_end, start.1), goal]
        } else {
            let lane = if columns[*to] > columns[*from] {
                above -= LANE;
                above + LANE / 2.0
            } else {
                below += LANE;
                below - LANE / 4.0
            };
            vec![start, (a, start.1), (a, lane), (b, lane), (b, goal.1), goal]
        };
        edges.push(Edge { label: label.clone(), points });
    }
    edges
}
