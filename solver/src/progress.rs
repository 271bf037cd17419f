//! Who is wanted, and who is told what. A vertex that nobody will look at any more, because everything that uses it
//! was found, counts as cached; this is known as soon as the last of its users is settled.

use crate::graph::VertexId;
use crate::plan::Plan;

#[derive(Debug)]
pub(crate) struct Wanted {
    /// Uses (edges) that may still ask for a vertex, by index.
    undecided: Vec<u32>,
    wanted: Vec<bool>,
}

impl Wanted {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut undecided = vec![0; plan.size()];
        let mut wanted = vec![false; plan.size()];
        for &vertex in &plan.needed {
            let planned = plan.of(vertex);
            for input in &planned.inputs {
                undecided[input.index()] += 1;
            }
            // Handles are made before anything else and told of there.
            wanted[vertex.index()] = planned.immediate;
        }
        Self { undecided, wanted }
    }

    /// Marks a vertex as wanted; true for the first who wants it.
    pub(crate) fn want(&mut self, vertex: VertexId) -> bool {
        !std::mem::replace(&mut self.wanted[vertex.index()], true)
    }

    /// `vertex` was found without a look at its inputs. Returns what nobody will want any more because of that.
    pub(crate) fn found(&mut self, plan: &Plan, vertex: VertexId) -> Vec<VertexId> {
        let mut skipped = Vec::new();
        let mut settled = vec![vertex];
        while let Some(vertex) = settled.pop() {
            for &input in &plan.of(vertex).inputs {
                let undecided = &mut self.undecided[input.index()];
                *undecided -= 1;
                if *undecided == 0 && self.want(input) {
                    skipped.push(input);
                    settled.push(input);
                }
            }
        }
        skipped
    }
}
