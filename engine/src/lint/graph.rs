//! The operations that a target comes to, for people and their tools: `rbuild graph`. Lowered like a check, with
//! images that are made up; so what ONBUILD of a base image adds is not in it.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_solver::VertexId;

use super::assume;
use crate::error::Error;
use crate::op::Op;
use crate::request::BuildRequest;
use crate::{Result, build, inputs};

/// The operations of a build, inputs before those that use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    pub vertices: Vec<Vertex>,
    /// The vertices that become images, one a platform; an image without any layer has none.
    pub results: Vec<usize>,
}

/// One operation. Known by its place in [`Graph::vertices`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    pub kind: VertexKind,
    /// `[build 2/4] RUN make`
    pub name: String,
    /// First and last line in the Dockerfile.
    pub lines: Option<(usize, usize)>,
    pub inputs: Vec<usize>,
}

/// What a vertex does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VertexKind {
    Image,
    Context,
    Http,
    Git,
    Exec,
    File,
    Merge,
}

impl VertexKind {
    /// As graphs and their JSON call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Context => "context",
            Self::Http => "http",
            Self::Git => "git",
            Self::Exec => "exec",
            Self::File => "file",
            Self::Merge => "merge",
        }
    }

    fn of(op: &Op) -> Self {
        match op {
            Op::Image(_) => Self::Image,
            Op::Context(_) => Self::Context,
            Op::Http(_) => Self::Http,
            Op::Git(_) => Self::Git,
            Op::Exec(_) => Self::Exec,
            Op::File(_) => Self::File,
            Op::Merge => Self::Merge,
        }
    }
}

/// Lowers a Dockerfile to its graph. Builds nothing and fetches nothing.
pub fn graph(request: &BuildRequest) -> Result<Graph> {
    let source = Arc::new(inputs::dockerfile(&request.dockerfile, None)?);
    let parsed = rbuild_parser::parse(&source);
    let options = build::options_of_look(request);
    build::require_sound(&source, &parsed, &options)?;
    let lowered = assume::lower(&source, &parsed, &options).map_err(Error::Dockerfile)?;
    let targets = lowered.targets();
    let order = lowered.graph.needed(&targets);
    let places: HashMap<VertexId, usize> = order.iter().copied().zip(0..).collect();
    let place = |vertex: &VertexId| places.get(vertex).copied();
    let steps: HashMap<VertexId, _> = lowered
        .steps
        .iter()
        .map(|step| (step.vertex, step))
        .collect();
    let vertices = order
        .iter()
        .map(|vertex| {
            let op = lowered.graph.operation(*vertex);
            let step = steps.get(vertex);
            Vertex {
                kind: VertexKind::of(op),
                name: step.map_or_else(
                    || VertexKind::of(op).name().to_owned(),
                    |step| step.name.clone(),
                ),
                lines: step.map(|step| (step.start_line, step.end_line)),
                inputs: lowered
                    .graph
                    .inputs(*vertex)
                    .iter()
                    .filter_map(place)
                    .collect(),
            }
        })
        .collect();
    let mut results: Vec<usize> = targets.iter().filter_map(place).collect();
    results.dedup();
    Ok(Graph { vertices, results })
}
