//! Directories that are handed over: the build context, and named ones, which shadow stages and images.

use rbuild_image::Reference;
use rbuild_parser::ast::Instruction;
use rbuild_solver::VertexId;

use super::Lowering;
use crate::lower::ContextKind;
use crate::op::{ContextSource, Op};

impl Lowering<'_> {
    /// A directory that is handed over: the build context (empty name) or a named one.
    pub(crate) fn context(&mut self, name: &str, at: &Instruction) -> VertexId {
        let vertex = self.graph.add(
            Op::Context(ContextSource {
                name: name.to_owned(),
            }),
            &[],
        );
        let shown = if name.is_empty() {
            "[internal] load build context".to_owned()
        } else {
            format!("[context {name}] load from client")
        };
        self.name_step(vertex, (0, 0), shown, format!("context/{name}"), at);
        vertex
    }

    /// The named context that shadows `name`, be it a stage's or an image's.
    pub(crate) fn named_context(&self, name: &str) -> Option<(String, ContextKind)> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        self.contexts.get(&context_key(name)).cloned()
    }
}

/// The normal form of a context's name: `docker.io/library/busybox:latest` is `busybox`. What is no image name is
/// compared in lower case, as names of stages are.
pub(super) fn context_key(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.parse::<Reference>() {
        Ok(reference) => {
            let familiar = reference.familiar();
            match familiar.strip_suffix(":latest") {
                Some(short) => short.to_owned(),
                None => familiar,
            }
        }
        Err(_) => name,
    }
}
