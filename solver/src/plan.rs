//! What is known of every needed vertex before anything runs: its inputs, its definition key, and whether a result
//! found under that key may be used.

use futures_util::{FutureExt as _, TryFutureExt as _};

use crate::at_once::try_all;
use crate::graph::{Graph, VertexId};
use crate::key::{self, InputKey, Keyed};
use crate::worker::{CachePolicy, Operation, Worker};

/// A needed vertex.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) inputs: Vec<VertexId>,
    pub(crate) definition: Keyed,
    pub(crate) policy: CachePolicy,
    pub(crate) immediate: bool,
    /// False where the vertex, or something it is made from, is to be run afresh: a result found by how it is
    /// made would then jump over that.
    pub(crate) definition_holds: bool,
}

/// The plan of a solve, by vertex; `None` for what is not needed.
#[derive(Debug)]
pub(crate) struct Plan {
    vertices: Vec<Option<Planned>>,
    pub(crate) needed: Vec<VertexId>,
}

impl Plan {
    /// # Panics
    /// If `vertex` is not needed: the solver only follows inputs of what is.
    pub(crate) fn of(&self, vertex: VertexId) -> &Planned {
        self.vertices
            .get(vertex.index())
            .and_then(Option::as_ref)
            .expect("the solver asks only for what is needed")
    }

    pub(crate) fn size(&self) -> usize {
        self.vertices.len()
    }

    /// Makes the plan. `outputs` holds the handles of the immediate vertices, by index. Selections of immediate
    /// inputs are read concurrently; an error says which vertex made the selection.
    pub(crate) async fn make<W: Worker>(
        graph: &Graph<W::Operation>,
        needed: Vec<VertexId>,
        worker: &W,
        outputs: &[Option<W::Output>],
    ) -> Result<Self, (VertexId, W::Error)> {
        let mut selected = Vec::new();
        let mut inputs_of = Vec::with_capacity(needed.len());
        for &vertex in &needed {
            let inputs = graph.inputs(vertex);
            for (place, input) in inputs.iter().enumerate() {
                if let Some(Some(output)) = outputs.get(input.index()) {
                    selected.push((vertex, place, output));
                }
            }
            inputs_of.push(inputs);
        }
        let selections = selected.into_iter().map(|(vertex, place, output)| {
            let operation = graph.operation(vertex);
            let content = worker.input_content(operation, place, output);
            content.map_err(move |error| (vertex, error)).boxed()
        });
        // Same order as above: by vertex, then by place.
        let mut selections = try_all(selections).await?.into_iter();

        let mut vertices: Vec<Option<Planned>> = (0..graph.len()).map(|_| None).collect();
        for (&vertex, inputs) in needed.iter().zip(inputs_of) {
            let operation = graph.operation(vertex);
            let mut keys = Vec::with_capacity(inputs.len());
            let mut definition_holds = operation.cache_policy() != CachePolicy::Refresh;
            for input in &inputs {
                let planned = vertices.get(input.index()).and_then(Option::as_ref);
                let planned = planned.expect("inputs come before their users");
                definition_holds &= planned.definition_holds;
                keys.push(if planned.immediate {
                    let content = selections.next().expect("one for each immediate input");
                    InputKey::Content(content)
                } else {
                    InputKey::Definition(planned.definition.key)
                });
            }
            vertices[vertex.index()] = Some(Planned {
                definition: key::of(operation, &keys),
                policy: operation.cache_policy(),
                immediate: operation.is_immediate(),
                inputs,
                definition_holds,
            });
        }
        Ok(Self { vertices, needed })
    }
}
