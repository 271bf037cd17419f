//! Graphs as text: Graphviz, Mermaid, JSON.

use rbuild_engine::lint::Graph;
use serde_json::json;

use super::Node;

pub(super) fn dot(nodes: &[Node<'_>]) -> String {
    let mut out = String::from(
        "digraph build {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fontname=\"monospace\"];\n",
    );
    for (number, node) in nodes.iter().enumerate() {
        let (name, state) = node.lines();
        let separator = if state.is_empty() { "" } else { "\\n" };
        out.push_str(&format!(
            "  v{number} [label=\"{}{separator}{}\", fillcolor=\"{}\"];\n",
            dot_text(&name),
            dot_text(&state),
            node.colour()
        ));
    }
    for (number, node) in nodes.iter().enumerate() {
        for input in &node.vertex.inputs {
            out.push_str(&format!("  v{input} -> v{number};\n"));
        }
    }
    out.push_str("}\n");
    out
}

pub(super) fn mermaid(nodes: &[Node<'_>]) -> String {
    let mut out = String::from("flowchart LR\n");
    for (number, node) in nodes.iter().enumerate() {
        let (name, state) = node.lines();
        let separator = if state.is_empty() { "" } else { "<br>" };
        out.push_str(&format!(
            "  v{number}[\"{}{separator}{}\"]\n",
            escaped(&name),
            escaped(&state)
        ));
    }
    for (number, node) in nodes.iter().enumerate() {
        for input in &node.vertex.inputs {
            out.push_str(&format!("  v{input} --> v{number}\n"));
        }
    }
    for (number, node) in nodes.iter().enumerate() {
        if node.last.is_some() {
            out.push_str(&format!("  style v{number} fill:{}\n", node.colour()));
        }
    }
    out
}

pub(super) fn json(graph: &Graph, nodes: &[Node<'_>]) -> String {
    let vertices: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(number, node)| {
            json!({
                "id": number,
                "kind": node.vertex.kind.name(),
                "name": node.vertex.name,
                "line": node.vertex.lines.map(|(first, _)| first),
                "end_line": node.vertex.lines.map(|(_, last)| last),
                "inputs": node.vertex.inputs,
                "state": node.state(),
                "duration_ms": node.last.and_then(|step| step.duration_ms),
            })
        })
        .collect();
    format!(
        "{:#}\n",
        json!({ "vertices": vertices, "results": graph.results })
    )
}

fn dot_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// For XML and what reads like it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
