//! What a build is going to do, step by step, as it is told before the first begins.

use std::collections::HashMap;

use rbuild_solver::VertexId;

use crate::event::{Step, StepId};
use crate::explain;
use crate::lower::Lowered;
use crate::output;
use crate::request::Output;
use crate::shared_cache::export::Exports;
use crate::worker::VertexInfo;

/// The steps of a build, by number and by vertex.
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) vertices: HashMap<VertexId, VertexInfo>,
    /// One for each output, in their order.
    pub(super) exports: Vec<StepId>,
    /// One for each cache that is given to.
    pub(super) caches: Vec<StepId>,
}

impl Plan {
    pub(super) fn new(lowered: &Lowered, outputs: &[Output], caches: Option<&Exports>) -> Self {
        let mut steps = Vec::new();
        let mut vertices = HashMap::new();
        let mut id = 0;
        let mut next = || {
            let this = StepId(id);
            id += 1;
            this
        };
        for info in &lowered.steps {
            let step = next();
            steps.push(Step {
                id: step,
                name: info.name.clone(),
                line: Some(info.start_line),
            });
            let info = VertexInfo {
                step,
                record_step: info.record_step.clone(),
                provenance: explain::report::besides(&lowered.graph, info),
            };
            vertices.insert(lowered.steps[steps.len() - 1].vertex, info);
        }
        let mut exports = Vec::new();
        for output in outputs {
            let step = next();
            steps.push(Step {
                id: step,
                name: output::describe(output).to_owned(),
                line: None,
            });
            exports.push(step);
        }
        let mut given = Vec::new();
        for export in caches.into_iter().flat_map(Exports::each) {
            let step = next();
            steps.push(Step {
                id: step,
                name: export.describe(),
                line: None,
            });
            given.push(step);
        }
        Self {
            steps,
            vertices,
            exports,
            caches: given,
        }
    }
}
