//! The build graph on petgraph's stable digraph. An edge goes from an input to the vertex that uses it, and carries
//! the input's place.

use std::collections::HashMap;
use std::hash::BuildHasher as _;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef as _;

use crate::worker::Operation;

/// A vertex of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub u32);

/// Operations and what they use. Acyclic by construction: inputs exist before what uses them, so the order of
/// [`VertexId`]s is an order in which the vertices can be solved.
#[derive(Debug)]
pub struct Graph<O> {
    vertices: StableDiGraph<O, u32>,
    /// Hash of (operation, inputs) → the vertices that have it. Operations are kept once, in `vertices`.
    known: HashMap<u64, Vec<VertexId>>,
    hasher: std::hash::RandomState,
}

impl VertexId {
    fn node(self) -> NodeIndex {
        NodeIndex::new(self.0 as usize)
    }

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl<O: Operation> Default for Graph<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Operation> Graph<O> {
    /// Without vertices.
    pub fn new() -> Self {
        Self {
            vertices: StableDiGraph::new(),
            known: HashMap::new(),
            hasher: std::hash::RandomState::new(),
        }
    }

    /// Adds a vertex; an equal operation on equal inputs that is there already is returned instead.
    ///
    /// # Panics
    /// If an input is not a vertex of this graph, which would make it cyclic or dangling.
    pub fn add(&mut self, operation: O, inputs: &[VertexId]) -> VertexId {
        for input in inputs {
            assert!(
                self.vertices.contains_node(input.node()),
                "{input:?} is not a vertex of this graph"
            );
        }
        let hash = self.hasher.hash_one((&operation, inputs));
        let equal = self.known.get(&hash).into_iter().flatten().copied();
        for vertex in equal {
            if *self.operation(vertex) == operation && self.inputs(vertex) == inputs {
                return vertex;
            }
        }
        let node = self.vertices.add_node(operation);
        for (place, input) in (0..).zip(inputs) {
            self.vertices.add_edge(input.node(), node, place);
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the graph's indices are 32 bits wide"
        )]
        let vertex = VertexId(node.index() as u32);
        self.known.entry(hash).or_default().push(vertex);
        vertex
    }

    /// # Panics
    /// If `vertex` is not of this graph.
    pub fn operation(&self, vertex: VertexId) -> &O {
        &self.vertices[vertex.node()]
    }

    /// In the order given to [`Graph::add`].
    pub fn inputs(&self, vertex: VertexId) -> Vec<VertexId> {
        let mut inputs: Vec<(u32, VertexId)> = self
            .vertices
            .edges_directed(vertex.node(), Direction::Incoming)
            .map(|edge| {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the graph's indices are 32 bits wide"
                )]
                let source = VertexId(edge.source().index() as u32);
                (*edge.weight(), source)
            })
            .collect();
        inputs.sort_unstable();
        inputs.into_iter().map(|(_, vertex)| vertex).collect()
    }

    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.vertices.node_count()
    }

    /// Whether there is no vertex.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that `targets` need, themselves included, inputs before their users.
    pub fn needed(&self, targets: &[VertexId]) -> Vec<VertexId> {
        let mut reached = vec![false; self.len()];
        let mut waiting = targets.to_vec();
        while let Some(vertex) = waiting.pop() {
            if !std::mem::replace(&mut reached[vertex.index()], true) {
                waiting.extend(self.inputs(vertex));
            }
        }
        // Vertices are numbered after their inputs, so counting up is a topological order.
        (0..)
            .zip(reached)
            .filter(|(_, reached)| *reached)
            .map(|(index, _)| VertexId(index))
            .collect()
    }
}
