//! The build graph on petgraph's stable digraph. An edge goes from an input to the vertex that uses it, and carries
//! the input's place.

use crate::worker::Operation;

/// A vertex of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub u32);

/// Operations and what they use. Acyclic by construction: inputs exist before what uses them.
#[derive(Debug)]
pub struct Graph<O> {
    operations: std::marker::PhantomData<O>,
}

impl<O: Operation> Default for Graph<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Operation> Graph<O> {
    pub fn new() -> Self {
        todo!()
    }

    /// Adds a vertex; an equal operation on equal inputs that is there already is returned instead.
    pub fn add(&mut self, _operation: O, _inputs: &[VertexId]) -> VertexId {
        todo!()
    }

    pub fn operation(&self, _vertex: VertexId) -> &O {
        todo!()
    }

    /// In the order given to [`Graph::add`].
    pub fn inputs(&self, _vertex: VertexId) -> Vec<VertexId> {
        todo!()
    }

    pub fn len(&self) -> usize {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that `targets` need, themselves included, inputs before their users.
    pub fn needed(&self, _targets: &[VertexId]) -> Vec<VertexId> {
        todo!()
    }
}
