//! Which steps of a build need no files: those of COPY and ADD at the end of a stage that becomes an image, on which
//! nothing is executed and from which nothing is copied. They are written straight into their layer.

use std::collections::HashSet;

use rbuild_image::layer::LayerOptions;
use rbuild_solver::{Graph, VertexId};

use crate::op::{FileAction, FileOp, Op, Unpack};

/// Vertices that nobody needs but as layers of this form.
#[derive(Debug)]
pub(crate) struct Packs {
    vertices: HashSet<VertexId>,
    options: LayerOptions,
}

impl Packs {
    /// `needed`: what the targets need, inputs before what uses them. `None` where there are none.
    pub(crate) fn new(
        graph: &Graph<Op>,
        needed: &[VertexId],
        options: LayerOptions,
    ) -> Option<Self> {
        let mut refused: HashSet<VertexId> = HashSet::new();
        let mut vertices = HashSet::new();
        // Backwards, so that the users of a vertex are seen before it.
        for &vertex in needed.iter().rev() {
            let operation = graph.operation(vertex);
            let is_packed =
                !refused.contains(&vertex) && matches!(operation, Op::File(_) | Op::Merge);
            if is_packed {
                vertices.insert(vertex);
            }
            for (place, &input) in graph.inputs(vertex).iter().enumerate() {
                if !(is_packed && is_layer_below(operation, place)) {
                    refused.insert(input);
                }
            }
        }
        vertices.retain(|vertex| matches!(graph.operation(*vertex), Op::File(_)));
        (!vertices.is_empty()).then_some(Self { vertices, options })
    }

    /// The form of a vertex's layer, where that is all that is needed of it.
    pub(crate) fn of(&self, vertex: VertexId) -> Option<LayerOptions> {
        self.vertices.contains(&vertex).then_some(self.options)
    }
}

/// Whether an operation uses its input only as what lies below, or is laid on top, and can do without files in it.
fn is_layer_below(operation: &Op, place: usize) -> bool {
    match operation {
        Op::Merge => true,
        Op::File(file) => file.base && place == 0 && !reads(file, place),
        _ => false,
    }
}

fn reads(file: &FileOp, place: usize) -> bool {
    file.actions.iter().any(|action| match action {
        // What an archive brings is laid out among the files.
        FileAction::Copy(copy) => copy.input == place || copy.unpack == Some(Unpack::Archives),
        FileAction::Mkdir { .. } | FileAction::Mkfile { .. } => false,
    })
}
