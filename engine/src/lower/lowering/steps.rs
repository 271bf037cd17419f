//! The steps of a lowering: what a vertex is called, and how the stage stands after it.

use std::sync::Arc;

use rbuild_parser::ast::Instruction;
use rbuild_solver::VertexId;

use super::Lowering;
use crate::lower::state::State;
use crate::lower::{StepInfo, Surroundings, config};

impl Lowering<'_> {
    /// Names a vertex, unless an equal one is named already.
    pub(crate) fn name_step(
        &mut self,
        vertex: VertexId,
        place: (usize, usize),
        name: String,
        record_step: String,
        at: &Instruction,
    ) {
        if !self.named.insert(vertex) {
            return;
        }
        self.steps.push((
            place,
            StepInfo {
                vertex,
                name,
                record_step,
                source: Arc::clone(self.file.source),
                span: at.span,
                start_line: at.start_line,
                end_line: at.end_line,
                surroundings: None,
            },
        ));
    }

    /// Notes how a stage stands after the steps that were named since there were `known` of them. Those of other
    /// stages, lowered meanwhile, are noted already.
    pub(crate) fn note_surroundings(&mut self, known: usize, state: &State) {
        let options = self.options;
        let mut surroundings = None;
        for (_, step) in self.steps.iter_mut().skip(known) {
            if step.surroundings.is_some() {
                continue;
            }
            let noted = surroundings.get_or_insert_with(|| {
                let mut shell = config::shell_argv(state, String::new());
                shell.pop();
                Arc::new(Surroundings {
                    env: state.scope.environment(),
                    cwd: state.cwd(),
                    user: state.config.config.user.clone(),
                    shell,
                    platform: state.platform.clone(),
                    hosts: options.hosts.clone(),
                    limits: options.limits.clone(),
                    network: options.network.into(),
                })
            });
            step.surroundings = Some(Arc::clone(noted));
        }
    }

    pub(crate) fn named_steps(&self) -> usize {
        self.steps.len()
    }
}
