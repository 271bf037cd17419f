//! One operation in BuildKit's words: sources, commands (`exec`) and operations on files.

mod exec;
mod files;
mod sources;

use std::collections::{BTreeMap, HashMap};

use super::wire::{
    Kind, MergeInput, MergeOp, Op, OpMetadata, Platform, SourceOp, WorkerConstraints,
};
use super::{Made, input};
use crate::lower::StepInfo;
use crate::op;
use exec::command;
use files::files;
use sources::{image_source, local, repository};

/// Where a place among inputs is nothing, and where an output is lost.
const NONE: i64 = -1;

/// Adds an operation, with what BuildKit needs besides. Returns its digest.
pub(super) fn operation(
    operation: &op::Op,
    inputs: Vec<String>,
    ignored: &HashMap<String, Vec<String>>,
    step: Option<&StepInfo>,
    made: &mut Made,
) -> String {
    let mut metadata = OpMetadata::default();
    if let Some(step) = step {
        let name = ("llb.customname".to_owned(), step.name.clone());
        metadata.description.extend([name]);
    }
    let mut inputs = inputs;
    let mut platform = None;
    let kind = match operation {
        op::Op::Image(image) => {
            platform = Some(&image.platform);
            Kind::Source(image_source(image))
        }
        op::Op::Context(context) => Kind::Source(local(&context.name, ignored)),
        op::Op::Http(http) => {
            let mut attrs = BTreeMap::from([("http.filename".to_owned(), http.filename.clone())]);
            if let Some(checksum) = &http.checksum {
                attrs.insert("http.checksum".to_owned(), checksum.to_string());
            }
            let identifier = http.url.clone();
            Kind::Source(SourceOp { identifier, attrs })
        }
        op::Op::Git(git) => Kind::Source(repository(git)),
        op::Op::Exec(exec) => {
            metadata.ignore_cache = exec.refresh;
            platform = Some(&exec.platform);
            Kind::Exec(Box::new(command(exec, &mut inputs, made)))
        }
        op::Op::File(file) => {
            metadata.ignore_cache = file.refresh;
            Kind::File(files(file, inputs.len()))
        }
        op::Op::Merge => {
            let all = (0..).take(inputs.len()).map(|input| MergeInput { input });
            let inputs = all.collect();
            Kind::Merge(MergeOp { inputs })
        }
    };
    let op = Op {
        inputs: inputs.iter().map(|digest| input(digest)).collect(),
        op: Some(kind),
        platform: platform.map(|platform| Platform {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
        }),
        constraints: Some(WorkerConstraints::default()),
    };
    made.add(&op, metadata, step)
}

fn place(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

fn bits(mode: u32) -> i32 {
    i32::try_from(mode).unwrap_or(0o7777)
}
