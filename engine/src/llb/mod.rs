//! A lowered build as BuildKit's graph (LLB), for those who would look at it with BuildKit's tools or have a BuildKit
//! daemon solve it: `buildctl debug dump-llb`, `buildctl build`. [`wire`] has the protocol's messages, `encode` says
//! each operation in them; here the whole is put together.

mod encode;
#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prost::Message;
use rbuild_cache::Digest;
use rbuild_solver::VertexId;

use crate::lower::{Lowered, StepInfo};
use crate::request::{ContextLocation, NamedContext};
use crate::{BuildRequest, Engine, Result, build, inputs};
use wire::{Definition, Input, Location, Locations, Op, OpMetadata, Position, Range, Source};

impl Engine {
    /// The graph of a build for one platform, encoded. Base images are resolved as for a build, nothing is run.
    pub async fn llb(&self, request: &BuildRequest) -> Result<Vec<u8>> {
        let main = self.main_context(request).await?;
        let source = Arc::new(main.dockerfile);
        let parsed = rbuild_parser::parse(&source);
        let options = build::options(request);
        build::require_sound(&source, &parsed, &options)?;
        let lowering = self.lower(request, &source, &parsed, &options, HashMap::new());
        let (lowered, _) = lowering.await?;
        let mut ignored = HashMap::new();
        let directory = match (&request.context, &main.local) {
            (_, Some(local)) => Some(local.directory.as_path()),
            (ContextLocation::Directory(path), None) => Some(path.as_path()),
            (_, None) => None,
        };
        if let Some(directory) = directory {
            let ignore = inputs::ignore(directory, Some(&request.dockerfile))?;
            ignored.insert(String::new(), ignore);
        }
        for (name, context) in &request.contexts {
            if let NamedContext::Directory(path) = context {
                ignored.insert(name.clone(), inputs::ignore(path, None)?);
            }
        }
        let ignored = ignored.into_iter().filter_map(|(name, ignore)| {
            let patterns = ignore?.patterns;
            Some((name, patterns.all().collect()))
        });
        Ok(definition(&lowered, &ignored.collect()).encode_to_vec())
    }
}

/// Puts together the graph of the first platform's image. `ignored`: the patterns of the ignore file of each context
/// directory, by name.
pub(crate) fn definition(lowered: &Lowered, ignored: &HashMap<String, Vec<String>>) -> Definition {
    let Some(target) = lowered.images.first().and_then(|image| image.vertex) else {
        // What BuildKit makes of an empty root.
        return Definition::default();
    };
    let steps: HashMap<VertexId, &StepInfo> = lowered
        .steps
        .iter()
        .map(|step| (step.vertex, step))
        .collect();
    let mut made = Made::default();
    let mut digests: HashMap<VertexId, String> = HashMap::new();
    for vertex in lowered.graph.needed(&[target]) {
        let inputs = lowered.graph.inputs(vertex);
        let inputs = inputs.iter().filter_map(|input| digests.get(input));
        let step = steps.get(&vertex).copied();
        let inputs = inputs.cloned().collect();
        let operation = lowered.graph.operation(vertex);
        let digest = encode::operation(operation, inputs, ignored, step, &mut made);
        digests.insert(vertex, digest);
    }
    let result = Op {
        inputs: digests
            .get(&target)
            .map(|it| input(it))
            .into_iter()
            .collect(),
        ..Op::default()
    };
    made.add(&result, OpMetadata::default(), None);
    let infos = made.source.map(|source| wire::SourceInfo {
        filename: source.name().to_owned(),
        data: source.text().as_bytes().to_vec(),
        language: "Dockerfile".to_owned(),
    });
    Definition {
        def: made.def,
        metadata: made.metadata,
        source: Some(Source {
            locations: made.locations,
            infos: infos.into_iter().collect(),
        }),
    }
}

/// What a definition is made of, as it grows.
#[derive(Default)]
struct Made {
    def: Vec<Vec<u8>>,
    metadata: BTreeMap<String, OpMetadata>,
    locations: BTreeMap<String, Locations>,
    source: Option<Arc<rbuild_parser::Source>>,
}

impl Made {
    /// Adds an operation, once; returns its digest.
    fn add(&mut self, op: &Op, metadata: OpMetadata, step: Option<&StepInfo>) -> String {
        let bytes = op.encode_to_vec();
        let digest = Digest::of(&bytes).to_string();
        if self.metadata.contains_key(&digest) {
            return digest;
        }
        self.def.push(bytes);
        self.metadata.insert(digest.clone(), metadata);
        if let Some(step) = step {
            self.source.get_or_insert_with(|| Arc::clone(&step.source));
            let at = |line: usize| Position {
                line: i32::try_from(line).unwrap_or(i32::MAX),
                character: 0,
            };
            let range = Range {
                start: Some(at(step.start_line)),
                end: Some(at(step.end_line)),
            };
            let location = Location {
                source_index: 0,
                ranges: vec![range],
            };
            let locations = vec![location];
            self.locations
                .insert(digest.clone(), Locations { locations });
        }
        digest
    }
}

/// The first output of an operation.
fn input(digest: &str) -> Input {
    Input {
        digest: digest.to_owned(),
        index: 0,
    }
}
