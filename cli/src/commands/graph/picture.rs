//! Graphs as pictures that need no other program: a column for each distance from the sources.

use super::Node;
use super::text::escaped;

const WIDTH: usize = 460;
const HEIGHT: usize = 44;
const GAP_ACROSS: usize = 60;
const GAP_DOWN: usize = 16;
const MARGIN: usize = 10;

pub(super) fn html(nodes: &[Node<'_>]) -> String {
    format!(
        "<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>Build graph</title>\n\
         <style>body {{ margin: 0; overflow: auto }}</style>\n{}",
        svg(nodes)
    )
}

pub(super) fn svg(nodes: &[Node<'_>]) -> String {
    let places = places(nodes);
    let columns = places.iter().map(|place| place.0 + 1).max().unwrap_or(0);
    let rows = places.iter().map(|place| place.1 + 1).max().unwrap_or(0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" \
         font-family=\"monospace\" font-size=\"11\">\n",
        2 * MARGIN + columns * (WIDTH + GAP_ACROSS),
        2 * MARGIN + rows * (HEIGHT + GAP_DOWN)
    );
    let left = |place: (usize, usize)| MARGIN + place.0 * (WIDTH + GAP_ACROSS);
    let top = |place: (usize, usize)| MARGIN + place.1 * (HEIGHT + GAP_DOWN);
    for (node, &place) in nodes.iter().zip(&places) {
        for &from in node
            .vertex
            .inputs
            .iter()
            .filter_map(|input| places.get(*input))
        {
            let (x, y) = (left(from) + WIDTH, top(from) + HEIGHT / 2);
            let (to_x, to_y) = (left(place), top(place) + HEIGHT / 2);
            let middle = usize::midpoint(x, to_x);
            out.push_str(&format!(
                "<path d=\"M{x} {y} C{middle} {y} {middle} {to_y} {to_x} {to_y}\" fill=\"none\" stroke=\"#888\"/>\n"
            ));
        }
    }
    for (node, &place) in nodes.iter().zip(&places) {
        let (x, y) = (left(place), top(place));
        let (name, state) = node.lines();
        out.push_str(&format!(
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\" \
             fill=\"{}\" stroke=\"#555\"/><text x=\"{}\" y=\"{}\">{}</text><text x=\"{}\" y=\"{}\" \
             fill=\"#555\">{}</text></g>\n",
            escaped(&crate::stdio::escape_line(&node.vertex.name)),
            node.colour(),
            x + 8,
            y + 18,
            escaped(&name),
            x + 8,
            y + 34,
            escaped(&state)
        ));
    }
    out.push_str("</svg>\n");
    out
}

/// Column and row of each vertex; inputs stand in columns before it.
fn places(nodes: &[Node<'_>]) -> Vec<(usize, usize)> {
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(nodes.len());
    let mut used: Vec<usize> = Vec::new();
    for node in nodes {
        let inputs = node
            .vertex
            .inputs
            .iter()
            .filter_map(|input| places.get(*input));
        let column = inputs.map(|place| place.0 + 1).max().unwrap_or(0);
        if used.len() <= column {
            used.resize(column + 1, 0);
        }
        let Some(row) = used.get_mut(column) else {
            continue;
        };
        places.push((column, *row));
        *row += 1;
    }
    places
}
