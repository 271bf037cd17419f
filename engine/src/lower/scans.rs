//! What `--sbom` lists besides the result: earlier stages and the build context, where BuildKit's settings in ARG
//! ask for it (`BUILDKIT_SBOM_SCAN_STAGE`, `BUILDKIT_SBOM_SCAN_CONTEXT`).

use rbuild_solver::VertexId;

use super::base::copy_of_directory;
use super::lowering::{Lowering, Slot};
use super::state::State;
use crate::request::is_true;

const CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// A root that is listed on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Of the stage, or `context`.
    pub name: String,
    /// `None`: an empty root.
    pub vertex: Option<VertexId>,
}

/// Whether an ARG is a setting of the builder rather than a variable.
pub(super) fn is_setting(name: &str) -> bool {
    [CONTEXT, STAGE].contains(&name)
}

impl Lowering<'_> {
    /// Of the stages that `target` needs; it is listed itself in any case.
    pub(super) fn scans(&mut self, target: usize) -> Vec<Scan> {
        if !self.options.sbom {
            return Vec::new();
        }
        let mut scans = Vec::new();
        let mut wants_context = false;
        for (index, slot) in self.slots.iter().enumerate() {
            let Slot::Done(state) = slot else { continue };
            let name = self.file.stages[index].name();
            let name = name.map_or_else(|| format!("stage-{index}"), str::to_owned);
            wants_context |= self.asks(state, CONTEXT, &name);
            if index != target && self.asks(state, STAGE, &name) {
                let vertex = state.vertex;
                scans.push(Scan { name, vertex });
            }
        }
        if wants_context {
            let at = self.file.stages[target].instruction;
            let context = self.context("", at);
            let vertex = self.graph.add(copy_of_directory(), &[context]);
            let shown = "[internal] build context to be listed".to_owned();
            self.name_step(vertex, (0, 0), shown, "scan/context".to_owned(), at);
            scans.push(Scan {
                name: "context".to_owned(),
                vertex: Some(vertex),
            });
        }
        scans
    }

    /// A setting is a truth value, or names the stages that it is for. That of a stage comes before the file's.
    fn asks(&self, state: &State, setting: &str, stage: &str) -> bool {
        let own = state.args.iter().rfind(|arg| arg.name == setting);
        let value = match own {
            Some(arg) => arg.value.as_deref(),
            None => self.target.globals.value(setting),
        };
        let value = value.unwrap_or_default();
        let mut names = value.split(',');
        is_true(value) || names.any(|name| name.eq_ignore_ascii_case(stage))
    }
}
